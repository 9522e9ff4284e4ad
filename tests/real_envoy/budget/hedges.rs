//! A second attempt beside the first, by the route's own hedge policy: what Weir does not let through must not cost the client
//! the answer that the first may still get.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{attempt, obedient, retries, share};
use crate::alone::Test;
use crate::stage::{Logged, Setup, Stage, times};
use crate::support::bootstrap::Attach;
use crate::support::client::{Request, Response};
use crate::support::upstream::Upstream;

pub const TESTS: &[Test] = &[
    ("budget::hedge_unpaid", unpaid),
    ("budget::hedge_unpaid_in_vain", unpaid_in_vain),
    ("budget::hedge_paid_later", paid_later),
    ("budget::hedge_unsafe", unsafe_hedge),
];

/// An Envoy whose route hedges.
fn hedged(retry: &Value) -> Result<(Stage, Upstream)> {
    let upstream = obedient();
    let hedge = json!({"route": {
        "retry_policy": {"retry_on": "5xx", "per_try_timeout": "1.5s"},
        "hedge_policy": {"hedge_on_per_try_timeout": true},
    }});
    let setup = Setup::new(Attach::GUARD, json!({"retry": retry}));
    Ok((setup.cluster_with("hedged", upstream.address, &Value::Null, &hedge).start()?, upstream))
}

/// One Envoy, and a cluster whose budget is one retry, which is spent.
struct Spent {
    stage: Stage,
    upstream: Upstream,
}

impl Spent {
    fn start(retries: u32) -> Result<Self> {
        let mut retry = share(0.0, 1);
        retry["maxRetries"] = json!(retries);
        let (stage, upstream) = hedged(&retry)?;
        stage.get("/hedged/once-reset")?;
        stage.wait_tally("hedged", "a granted retry", |tally| tally.retries == ["granted"])?;
        ensure!(upstream.count() == 2, "the upstream saw {}", upstream.count());
        Ok(Self { stage, upstream })
    }

    /// Sends a request whose first attempt stalls until Weir said no to the others.
    fn send(&self, request: &Request, stopped: impl Fn(&crate::check::Tally) -> bool) -> Result<(Response, Logged)> {
        let mut client = self.stage.connect()?;
        client.send(request)?;
        self.stage.wait_tally("hedged", "hedges that are not sent", stopped)?;
        self.upstream.open_gate();
        let mut response = client.read_head()?;
        client.read_body(&mut response)?;
        let logged = self.stage.requests(&request.path, 1)?.pop().context("an entry")?;
        let seen = self.upstream.seen();
        ensure!(seen.len() == 3 && attempt(&seen[2]) == 1, "the upstream saw more than the first attempt: {seen:?}");
        Ok((response, logged))
    }
}

fn answered(spent: &Spent, request: &Request, hedges: usize) -> Result<()> {
    let denied = |tally: &crate::check::Tally| times(&tally.retries, "denied") == hedges;
    let (response, logged) = spent.send(request, denied)?;
    ensure!(response.status == 200, "{response:?}");
    ensure!(response.header("x-envoy-ratelimited").is_none(), "{response:?}");
    ensure!((logged.code, logged.verdict.as_str()) == (200, "-"), "{logged:?}");
    // The first request was reset, tried again, answered.
    spent.stage.wait_tally("hedged", "what was not sent as local", |tally| {
        (times(&tally.attempts, "local"), times(&tally.attempts, "answered")) == (hedges, 2)
    })?;
    Ok(())
}

fn unpaid() -> Result<()> {
    answered(&Spent::start(1)?, &Request::get("/hedged/gated-ok"), 1)?;
    // A body does not slip through.
    answered(&Spent::start(1)?, &Request::new("PUT", "/hedged/gated-ok").body(vec![b'x'; 100_000]), 1)?;
    // What is held back times out, too, and is hedged in turn.
    answered(&Spent::start(2)?, &Request::get("/hedged/gated-ok"), 2)
}

/// The first attempt fails after all: then the client hears why there was no other.
fn unpaid_in_vain() -> Result<()> {
    let spent = Spent::start(2)?;
    let denied = |tally: &crate::check::Tally| times(&tally.retries, "denied") == 2;
    let (response, logged) = spent.send(&Request::get("/hedged/gated-reset"), denied)?;
    ensure!(response.status == 503 && response.text().contains("retry budget"), "{response:?}");
    ensure!(response.header("x-envoy-ratelimited").is_some(), "{response:?}");
    ensure!((logged.code, logged.verdict.as_str()) == (503, "retry_budget_exhausted"), "{logged:?}");
    // An answer that would have been retried is what the client gets.
    let spent = Spent::start(1)?;
    let denied = |tally: &crate::check::Tally| times(&tally.retries, "denied") == 1;
    let (response, _) = spent.send(&Request::get("/hedged/gated-503"), denied)?;
    ensure!(response.status == 503 && response.text() == "sorry", "not the upstream's: {response:?}");
    Ok(())
}

/// By the time the first attempt fails, there is something to pay for another.
fn paid_later() -> Result<()> {
    let mut retry = share(50.0, 0);
    retry["maxRetries"] = json!(2);
    let (stage, upstream) = hedged(&retry)?;
    stage.get("/hedged/ok")?;
    stage.get("/hedged/once-reset")?;
    let request = Request::get("/hedged/gated-once-reset");
    let mut client = stage.connect()?;
    client.send(&request)?;
    stage.wait_tally("hedged", "hedges that are not sent", |tally| times(&tally.retries, "denied") == 2)?;
    stage.get("/hedged/ok")?;
    upstream.open_gate();
    let response = client.read_head()?;
    ensure!(response.status == 200, "{response:?}");
    let logged = stage.requests(&request.path, 1)?.pop().context("an entry")?;
    ensure!(logged.verdict == "-", "{logged:?}");
    stage.wait_tally("hedged", "one more granted", |tally| times(&tally.retries, "granted") == 2)?;
    ensure!(retries(&upstream) == 2, "{} retries", retries(&upstream));
    Ok(())
}

/// To send a POST to a second host while the first may be processing it is no better than to do so after a timeout.
fn unsafe_hedge() -> Result<()> {
    let spent = Spent::start(1)?;
    let stopped = |tally: &crate::check::Tally| tally.vetoes == ["unsafe"];
    let (response, logged) = spent.send(&Request::post("/hedged/gated-ok"), stopped)?;
    ensure!((response.status, logged.verdict.as_str()) == (200, "-"), "{response:?} {logged:?}");
    let spent = Spent::start(1)?;
    let (response, logged) = spent.send(&Request::post("/hedged/gated-reset"), stopped)?;
    ensure!(response.status == 503 && response.text().contains("not safe"), "{response:?}");
    ensure!(logged.verdict == "unsafe_retry", "{logged:?}");
    Ok(())
}
