//! Many requests at once on one worker: what ends one says nothing about another.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use h2::Reason;
use serde_json::{Value, json};

use super::Test;
use crate::check::Tally;
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::{Connection, Request};
use crate::support::envoy::{Envoy, Launch};
use crate::support::upstream::{Reply, Step, Upstream, answer, http1, http2};
use crate::support::{ports, wait};

pub const TESTS: &[Test] = &[
    ("crowd::refused_streams", refused_streams),
    ("crowd::decide+watch::timeouts_and_cancels", || timeouts_and_cancels(Attach::WATCH)),
    ("crowd::decide+watch+guard::timeouts_and_cancels", || timeouts_and_cancels(Attach::GUARD)),
];

/// How many requests of each kind fail.
const FAILING: usize = 50;

/// An Envoy of one worker, where `/crowd` is always answered and `/failing` does what the test is about.
struct Site {
    envoy: Envoy,
    address: SocketAddr,
    _crowd: Upstream,
}

impl Site {
    fn start(attach: Attach, cluster: &Value, timeout: &str, failing: &Upstream) -> anyhow::Result<Self> {
        // With a body, so that response headers pass before the attempt is over.
        let crowd = http1(|_| answer(200, &[], "body"));
        let address = ports::free();
        // All retries are paid for, and all hosts stay in.
        let policy = json!({"outlierDetection": null, "retry": {
            "budget": {"percent": 100, "interval": "10s"}, "minRetryRate": {"count": 1_000_000, "interval": "1s"},
        }});
        let mut route = bootstrap::route("/failing", "failing");
        route["route"]["timeout"] = json!(timeout);
        let listener = bootstrap::listener(Listener {
            name: "crowd",
            port: address.port(),
            attach,
            policy: &policy,
            routes: vec![route, bootstrap::route("/crowd", "crowd")],
            logs: None,
            manager: Value::Null,
        });
        let mut failing = bootstrap::cluster("failing", &[failing.address]);
        bootstrap::merge(&mut failing, cluster);
        let clusters = [failing, bootstrap::cluster("crowd", &[crowd.address])];
        let envoy = Launch::json(bootstrap::bootstrap(&[listener], &clusters)).start()?;
        Ok(Self { envoy, address, _crowd: crowd })
    }

    /// Does `work` while others come and go.
    fn amid<T>(&self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| -> anyhow::Result<()> {
                    let mut connection = Connection::open(self.address)?;
                    while !over.load(Ordering::Relaxed) {
                        connection.exchange(&Request::get("/crowd"))?;
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    Ok(())
                });
            }
            let result = work();
            over.store(true, Ordering::Relaxed);
            result
        })
    }

    /// Waits until the failing cluster has exactly these attempts, each with how often, and no veto.
    fn wait_for(&self, expected: &[(&str, usize)]) -> anyhow::Result<()> {
        let whole: usize = expected.iter().map(|(_, count)| count).sum();
        let counted = wait::until(wait::LIMIT, || {
            let tally = Tally::read(self.envoy.admin, "failing")?;
            let count = |signal: &str| tally.attempts.iter().filter(|counted| *counted == signal).count();
            let fits = expected.iter().all(|(signal, expected)| count(signal) == *expected);
            if fits && tally.attempts.len() == whole && tally.vetoes.is_empty() {
                return Ok(());
            }
            let mut signals = tally.attempts.clone();
            signals.dedup();
            let counts: Vec<_> = signals.iter().map(|signal| (signal, count(signal))).collect();
            Err(format!("expected {expected:?}, counted {counts:?}, {} vetoes", tally.vetoes.len()))
        });
        counted.map_err(anyhow::Error::msg)
    }
}

/// POSTs whose streams are refused, and so retried, while other requests of the same worker begin and end.
fn refused_streams() -> anyhow::Result<()> {
    let failing = http2(|request| match request.header("x-envoy-attempt-count") {
        Some("1") => Reply::reset(Reason::REFUSED_STREAM),
        _ => Reply::status(200),
    });
    let site = Site::start(Attach::GUARD, &bootstrap::http2(), "0s", &failing)?;
    let answers = site.amid(|| {
        let mut connection = Connection::open(site.address)?;
        let post = Request::post("/failing");
        (0..FAILING).map(|_| connection.exchange(&post)).collect::<anyhow::Result<Vec<_>>>()
    })?;
    let failed: Vec<_> = answers.iter().filter(|answer| answer.status != 200).collect();
    if let Some(first) = failed.first() {
        anyhow::bail!("{} of {FAILING} POSTs were not retried; one of them: {}", failed.len(), first.text());
    }
    site.wait_for(&[("reset", FAILING), ("answered", FAILING)])
}

/// Attempts that leave neither flag nor status: only the end of their own request tells whose patience it was.
fn timeouts_and_cancels(attach: Attach) -> anyhow::Result<()> {
    let failing = http1(|_| vec![Step::Hang]);
    let site = Site::start(attach, &Value::Null, "10s", &failing)?;
    site.amid(|| {
        let mut patient = Vec::new();
        for count in 0..FAILING {
            for stays in [true, false] {
                let mut connection = Connection::open(site.address)?;
                connection.send(&Request::post("/failing"))?;
                if stays {
                    patient.push(connection);
                } else {
                    // It goes away once its request has arrived.
                    failing.wait_for(2 * (count + 1)).map_err(anyhow::Error::msg)?;
                }
            }
        }
        for mut connection in patient {
            let response = connection.read_head()?;
            ensure!(response.status == 504, "{response:?}");
        }
        Ok(())
    })?;
    site.wait_for(&[("timeout", FAILING), ("cancelled", FAILING)])
}
