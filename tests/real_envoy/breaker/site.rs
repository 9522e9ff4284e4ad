//! An Envoy with one cluster whose upstream does what a test says, and clients that do not give up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::stage::{Setup, Stage};
use crate::support::bootstrap::Attach;
use crate::support::client::{Connection, Request, Response};
use crate::support::delay::{Taken, Watch};
use crate::support::upstream::{Step, Upstream, answer, http1};

/// The cluster's name, and the path of its requests.
pub const CLUSTER: &str = "orders";
pub const PATH: &str = "/orders/1";

/// What the upstream does with each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Answer,
    Reset,
    Hang,
    Fail,
}

/// An upstream that is switched from one to another.
pub struct Switch {
    pub upstream: Upstream,
    mode: Arc<AtomicU8>,
}

impl Switch {
    pub fn new() -> Self {
        let mode = Arc::new(AtomicU8::new(Mode::Answer as u8));
        let shared = Arc::clone(&mode);
        let upstream = http1(move |_| match shared.load(Ordering::SeqCst) {
            mode if mode == Mode::Answer as u8 => answer(200, &[], ""),
            mode if mode == Mode::Reset as u8 => vec![Step::Rst],
            mode if mode == Mode::Hang as u8 => vec![Step::Hang],
            _ => answer(503, &[], ""),
        });
        Self { upstream, mode }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.store(mode as u8, Ordering::SeqCst);
    }
}

/// A breaker that decides within a second: slots of 200 ms.
pub fn quick(open_time: &str) -> Value {
    json!({"minRequests": 20, "interval": "2s", "openTime": open_time})
}

/// Its policy, without retries, so that each request is one attempt.
pub fn policy(open_time: &str) -> Value {
    json!({"retry": {"maxRetries": 0}, "circuitBreaker": quick(open_time)})
}

/// After this attempts time out where the upstream hangs: soon enough for eight clients that are left hanging to make it 20 in an
/// interval, and seldom where all is well.
pub const TIMEOUT: &str = "0.25s";

/// A stage with the upstream behind its one cluster, on so many workers. Nothing times out, however busy the machine is.
pub fn stage(attach: Attach, policy: Value, workers: u32, upstream: &Switch) -> Result<Stage> {
    stage_with(attach, policy, workers, upstream, "0s")
}

/// The same with a timeout for attempts.
pub fn stage_with(attach: Attach, policy: Value, workers: u32, upstream: &Switch, timeout: &str) -> Result<Stage> {
    let route = json!({"route": {"timeout": timeout}});
    let setup = Setup::new(attach, policy).workers(workers);
    setup.cluster_with(CLUSTER, upstream.upstream.address, &Value::Null, &route).start()
}

/// A counter or gauge of Weir's for the cluster; their sum if the name ends with `.`.
pub fn metric(stage: &Stage, name: &str) -> u64 {
    let rest = if name.ends_with('.') { format!("{name}[a-z]+") } else { name.to_owned() };
    let filter = format!("^wasmcustom[.]weir_{rest}[.]cluster[.]{CLUSTER}$");
    stage.envoy().admin.stats(&filter).map(|stats| stats.values().sum()).unwrap_or_default()
}

/// Waits until the circuit is open, or closed. How long that took.
pub fn wait_until(stage: &Stage, open: bool) -> Result<Taken> {
    let watch = Watch::start();
    stage.wait_for("the circuit", |stage| match metric(stage, "circuit_open") + metric(stage, "shadow_circuit_open") {
        found if found == u64::from(open) => Ok(watch.read()),
        found => Err(format!("weir_circuit_open is {found}; {}", story(stage))),
    })
}

/// What Weir has logged of the cluster, and how attempts ended.
pub fn story(stage: &Stage) -> String {
    let log = stage.envoy().log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("weir: cluster")).collect();
    let attempts = stage.envoy().admin.stats("weir_(attempts|requests|shed|would_shed)_total");
    format!("{}\n{:?}", lines.join("\n"), attempts.unwrap_or_default())
}

/// Whether a response is what those get that are shed; an error says what is wrong with it.
pub fn is_shed(response: &Response) -> Result<bool> {
    if response.text() != "weir: not sent: the cluster's circuit is open" {
        return Ok(false);
    }
    ensure!(response.status == 503, "{response:?}");
    ensure!(response.header("x-envoy-ratelimited") == Some("true"), "{response:?}");
    let seconds = response.header("retry-after").and_then(|text| text.parse::<u64>().ok());
    ensure!(seconds.is_some_and(|seconds| seconds >= 1), "{response:?}");
    Ok(true)
}

/// What came of the requests of some clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    pub sent: u64,
    pub shed: u64,
    pub answered: u64,
}

/// Clients that send one request after the other.
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<Outcome>>>,
}

impl Load {
    pub fn start(address: SocketAddr, clients: usize, pause: Duration, request: &Request) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let client = |_| {
            let (stop, request) = (Arc::clone(&stop), request.clone());
            std::thread::spawn(move || {
                let mut connection = Connection::open(address)?;
                let mut outcome = Outcome::default();
                while !stop.load(Ordering::SeqCst) {
                    let response = connection.exchange(&request)?;
                    outcome.sent += 1;
                    outcome.shed += u64::from(is_shed(&response)?);
                    outcome.answered += u64::from(response.status == 200);
                    // Envoy does not wait for the body of a request that is answered.
                    if response.header("connection") == Some("close") {
                        connection = Connection::open(address)?;
                    }
                    std::thread::sleep(pause);
                }
                Ok(outcome)
            })
        };
        Self { clients: (0..clients).map(client).collect(), stop }
    }

    pub fn stop(self) -> Result<Outcome> {
        self.stop.store(true, Ordering::SeqCst);
        let mut sum = Outcome::default();
        for client in self.clients {
            let outcome = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
            sum.sent += outcome.sent;
            sum.shed += outcome.shed;
            sum.answered += outcome.answered;
        }
        Ok(sum)
    }
}

/// Requests until the circuit is open and the first probe failed, so that there is no load afterwards, and no probe for a while.
pub fn open(stage: &Stage, upstream: &Switch, mode: Mode, request: &Request) -> Result<()> {
    upstream.set(mode);
    let load = Load::start(stage.address, 8, Duration::from_millis(5), request);
    let opened = wait_until(stage, true).and_then(|_| {
        stage.wait_for("the first probe", |stage| match metric(stage, "circuit_probes_total") {
            0 => Err(story(stage)),
            _ => Ok(()),
        })
    });
    load.stop()?;
    opened
}
