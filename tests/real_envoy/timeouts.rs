//! Per-try timeouts: a fixed one, and one that follows what the cluster's attempts take.
//!
//! Envoy tells the upstream how long it is going to wait (`x-envoy-expected-rq-timeout-ms`), which without a timeout of the
//! route is the per-try timeout, and nothing where there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::alone::Test;
use crate::stage::{Setup, Stage};
use crate::support::bootstrap::Attach;
use crate::support::client::{Request, Response};
use crate::support::upstream::{Seen, Step, Upstream, answer, http1};

pub fn tests() -> Vec<Test> {
    vec![
        ("timeouts::fixed", fixed),
        ("timeouts::adaptive_decide", || adaptive(Attach::DECIDE)),
        ("timeouts::adaptive_watch", || adaptive(Attach::WATCH)),
        ("timeouts::adaptive_guard", || adaptive(Attach::GUARD)),
        ("timeouts::bounds", bounds),
    ]
}

/// Those that are about time.
pub const TIMED: &[Test] = &[
    // Without `watch`, only the last attempt of a request is seen.
    ("timeouts::follows_decide", || follows(Attach::DECIDE, 3)),
    ("timeouts::follows_guard", || follows(Attach::GUARD, 1)),
];

/// An upstream whose answers take as long as the test says, except where the path says otherwise.
struct Paced {
    upstream: Upstream,
    latency: Arc<AtomicU64>,
}

impl Paced {
    fn start(latency: Duration) -> Self {
        let shared = Arc::new(AtomicU64::new(0));
        let latency_now = Arc::clone(&shared);
        let upstream = http1(move |seen| match seen.path.rsplit('/').next() {
            Some("hang") => vec![Step::Hang],
            Some("hang-at-first") if seen.header("x-envoy-attempt-count") == Some("1") => vec![Step::Hang],
            Some("hang-at-first") => answer(200, &[], ""),
            Some("gated") => [vec![Step::Gate], answer(200, &[], "")].concat(),
            _ => {
                let latency = Duration::from_millis(latency_now.load(Ordering::Relaxed));
                [vec![Step::Wait(latency)], answer(200, &[], "")].concat()
            }
        });
        let paced = Self { upstream, latency: shared };
        paced.set(latency);
        paced
    }

    fn set(&self, latency: Duration) {
        self.latency.store(u64::try_from(latency.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The last request that arrived.
    fn last(&self) -> Result<Seen> {
        self.upstream.seen().pop().context("nothing arrived")
    }
}

/// How long Envoy says that it waits for this attempt.
fn announced(seen: &Seen) -> Option<Duration> {
    let text = seen.header("x-envoy-expected-rq-timeout-ms")?;
    text.parse().ok().map(Duration::from_millis)
}

/// Sends requests at the same time. Returns the responses, and how long they took all in all.
fn at_once(stage: &Stage, path: &str, requests: usize) -> Result<(Vec<Response>, Duration)> {
    let mut clients = Vec::new();
    for _ in 0..requests {
        clients.push(stage.connect()?);
    }
    let begin = Instant::now();
    for client in &mut clients {
        client.send(&Request::get(path))?;
    }
    let mut responses = Vec::new();
    for client in &mut clients {
        let mut response = client.read_head()?;
        client.read_body(&mut response)?;
        responses.push(response);
    }
    Ok((responses, begin.elapsed()))
}

/// A GET is cut off, three times in all, while a POST, which nobody may repeat, waits for as long as it takes.
fn fixed() -> Result<()> {
    const TIMEOUT: Duration = Duration::from_millis(150);
    let paced = Paced::start(Duration::ZERO);
    let setup = Setup::new(Attach::GUARD, json!({"retry": {"perTryTimeout": "150ms"}}));
    let stage = setup.cluster("orders", paced.upstream.address).start()?;
    let mut patient = Vec::new();
    for request in [
        Request::post("/orders/gated"),
        Request::grpc("/orders/gated"),
        // Somebody's retry, which is sent once.
        Request::get("/orders/gated").header("x-envoy-attempt-count", "2"),
    ] {
        let mut client = stage.connect()?;
        client.send(&request)?;
        patient.push(client);
        paced.upstream.wait_for(patient.len()).map_err(anyhow::Error::msg)?;
        let timeout = announced(&paced.last()?);
        ensure!(timeout.is_none(), "{} {:?} got a timeout of {timeout:?}", request.method, request.headers);
    }
    let begin = Instant::now();
    let response = stage.get("/orders/hang")?;
    ensure!(response.status == 504, "{response:?}");
    ensure!(begin.elapsed() >= 2 * TIMEOUT, "three attempts took only {:?}", begin.elapsed());
    // Envoy may be done with the last one before it is read.
    paced.upstream.wait_for(patient.len() + 3).map_err(anyhow::Error::msg)?;
    let seen = paced.upstream.seen().split_off(patient.len());
    let timeouts: Vec<_> = seen.iter().map(announced).collect();
    ensure!(timeouts == [Some(TIMEOUT); 3], "timeouts of {timeouts:?}");
    patient.iter().for_each(|_| paced.upstream.open_gate());
    for client in &mut patient {
        let response = client.read_head()?;
        ensure!(response.status == 200, "{response:?}");
    }
    Ok(())
}

fn policy(adaptive: &Value) -> Value {
    json!({"retry": {"budget": null, "perTryTimeout": {"adaptive": adaptive}}})
}

/// The number of attempts that have to be observed.
const ENOUGH: usize = 100;

/// Answers as many requests as it takes, none of which gets a timeout. Returns the timeout that the next ones get, and how
/// long the slowest can have taken.
fn observe(stage: &Stage, cluster: &str, paced: &Paced) -> Result<(Duration, Duration)> {
    let path = format!("/{cluster}/");
    let before = paced.upstream.count();
    let mut slowest = Duration::ZERO;
    for _ in 0..4 {
        slowest = slowest.max(at_once(stage, &path, ENOUGH / 4)?.1);
    }
    let early = paced.upstream.seen().split_off(before).iter().filter_map(announced).count();
    ensure!(early == 0, "{early} of the first {ENOUGH} attempts had a timeout");
    stage.wait_tally(cluster, "all answered", |tally| tally.attempts.len() == ENOUGH)?;
    // The first question after that may still get the answer of a moment ago.
    let timeout = stage.wait_for("a timeout is set", |stage| {
        let (_, took) = at_once(stage, &path, 1).map_err(|error| format!("{error:#}"))?;
        slowest = slowest.max(took);
        let last = paced.last().map_err(|error| error.to_string())?;
        announced(&last).ok_or_else(|| "none".to_owned())
    })?;
    Ok((timeout, slowest))
}

fn adaptive(attach: Attach) -> Result<()> {
    const LATENCY: Duration = Duration::from_millis(20);
    let paced = Paced::start(LATENCY);
    const FACTOR: u32 = 10;
    let mut policy = policy(&json!({"quantile": 0.9, "factor": FACTOR, "min": "10ms", "max": "60s"}));
    policy["retry"]["maxRetries"] = json!(10);
    let stage = Setup::new(attach, policy).cluster("orders", paced.upstream.address).start()?;
    let (timeout, slowest) = observe(&stage, "orders", &paced)?;
    // What is observed is exact to a sixteenth.
    let (least, most) = (FACTOR * LATENCY, FACTOR * (slowest * 17 / 16 + Duration::from_millis(1)));
    ensure!((least..=most).contains(&timeout), "a timeout of {timeout:?}, not {least:?} to {most:?}");

    let before = paced.upstream.count();
    let begin = Instant::now();
    let response = stage.get("/orders/hang-at-first")?;
    ensure!(response.status == 200, "{response:?}");
    let attempts = paced.upstream.seen().split_off(before);
    let timeout = announced(&attempts[0]).context("the attempt that hung has no timeout")?;
    ensure!((least..=most).contains(&timeout), "a timeout of {timeout:?}, not {least:?} to {most:?}");
    // Envoy's timers start when its turn of the event loop does, so a busy worker's end early.
    ensure!(begin.elapsed() >= timeout / 2, "cut off after {:?}, not {timeout:?}", begin.elapsed());
    // On a machine that is busy enough, the second attempt may take too long as well.
    stage.wait_for("all are logged", |stage| {
        let ends: Vec<String> = stage.attempts("/orders/hang").into_iter().map(|entry| entry.end).collect();
        let (last, cut_off) = ends.split_last().ok_or("nothing")?;
        let whole = last == "-/200" && !cut_off.is_empty() && cut_off.iter().all(|end| end == "UT/-");
        if whole && ends.len() == attempts.len() { Ok(()) } else { Err(format!("{ends:?}")) }
    })?;

    // Nobody may repeat these.
    for request in [
        Request::post("/orders/"),
        Request::grpc("/orders/"),
        Request::get("/orders/").header("x-envoy-attempt-count", "2"),
    ] {
        stage.connect()?.exchange(&request)?;
        let timeout = announced(&paced.last()?);
        ensure!(timeout.is_none(), "{} {:?} got a timeout of {timeout:?}", request.method, request.headers);
    }
    Ok(())
}

/// Never less than `min`, never more than `max`; each cluster by what it takes itself.
fn bounds() -> Result<()> {
    let (fast, slow) = (Paced::start(Duration::ZERO), Paced::start(Duration::from_millis(20)));
    let mut policy = policy(&json!({"quantile": 0.5, "factor": 1, "min": "30s", "max": "1m"}));
    let adaptive = json!({"quantile": 0.5, "factor": 100, "min": "1ms", "max": "1200ms"});
    policy["clusters"] = json!([{"match": "slow", "retry": {"perTryTimeout": {"adaptive": adaptive}}}]);
    let stage = Setup::new(Attach::GUARD, policy)
        .cluster("fast", fast.upstream.address)
        .cluster("slow", slow.upstream.address)
        .start()?;
    let (timeout, _) = observe(&stage, "fast", &fast)?;
    ensure!(timeout == Duration::from_secs(30), "a timeout of {timeout:?}, not the least");
    let (timeout, _) = observe(&stage, "slow", &slow)?;
    ensure!(timeout == Duration::from_millis(1200), "a timeout of {timeout:?}, not the most");
    Ok(())
}

/// An upstream that takes three times as long, for good, is not cut off for good. Of `seen_once` attempts that are cut off,
/// one is seen.
fn follows(attach: Attach, seen_once: usize) -> Result<()> {
    const LATENCY: Duration = Duration::from_millis(50);
    const AT_ONCE: usize = 5;
    let paced = Paced::start(LATENCY);
    let adaptive = json!({"quantile": 0.9, "factor": 1.5, "min": "10ms", "max": "20s"});
    let stage = Setup::new(attach, policy(&adaptive)).cluster("orders", paced.upstream.address).start()?;
    let (timeout, _) = observe(&stage, "orders", &paced)?;
    // Three times what it was, and more where a busy machine made it look slow before: a timeout that grows by half has to
    // grow twice.
    let slow = timeout * 2;
    ensure!(slow >= 3 * LATENCY, "a timeout of {timeout:?} is too short for {LATENCY:?}");
    paced.set(slow);
    let cut_off = |stage: &Stage| stage.attempts("/orders/").iter().filter(|entry| entry.end == "UT/-").count();
    let mut calm = 0;
    let mut requests = 0;
    while calm < 20 {
        let before = paced.upstream.count();
        let (responses, _) = at_once(&stage, "/orders/", AT_ONCE)?;
        requests += AT_ONCE;
        let attempts = paced.upstream.count() - before;
        let whole = attempts == AT_ONCE && responses.iter().all(|response| response.status == 200);
        calm = if whole { calm + AT_ONCE } else { 0 };
        ensure!(requests < 1_000, "still cut off after {requests} requests, at {:?}", announced(&paced.last()?));
    }
    let timeout = announced(&paced.last()?).context("no timeout any more")?;
    ensure!(timeout > slow, "a timeout of {timeout:?} lets attempts of {slow:?} through");
    // More than a tenth of what is observed has to be cut off before the timeout grows, which it has to do twice; and the next
    // 300 ms still go by what was known.
    let cut_off = cut_off(&stage);
    let most = seen_once * 100;
    ensure!((1..=most).contains(&cut_off), "{cut_off} attempts were cut off, not 1 to {most}");
    Ok(())
}
