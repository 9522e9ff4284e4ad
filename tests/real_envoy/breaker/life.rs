//! A total outage from its beginning to its end.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::site::{
    CLUSTER, Load, Mode, PATH, Switch, TIMEOUT, metric, policy, quick, stage, stage_with, story, wait_until,
};
use crate::alone::Test;
use crate::ejection::replica::{Mode as ReplicaMode, Replica};
use crate::stage::Setup;
use crate::support::bootstrap::Attach;
use crate::support::client::Request;

pub const TIMED: &[Test] = &[
    ("breaker::decide::reset", || broken(Attach::DECIDE, Mode::Reset, &Request::get(PATH))),
    ("breaker::watch::reset_posts", || broken(Attach::WATCH, Mode::Reset, &Request::post(PATH))),
    ("breaker::guard::reset", || broken(Attach::GUARD, Mode::Reset, &Request::get(PATH))),
    ("breaker::decide::timeout", || broken(Attach::DECIDE, Mode::Hang, &Request::get(PATH))),
    ("breaker::guard::timeout", || broken(Attach::GUARD, Mode::Hang, &Request::get(PATH))),
    ("breaker::decide::refused", || refused(Attach::DECIDE)),
    ("breaker::guard::refused", || refused(Attach::GUARD)),
    ("breaker::guard::defaults", defaults),
];

/// From probe to probe.
const OPEN_TIME: Duration = Duration::from_millis(400);

/// Everything breaks off or hangs; then all is well.
fn broken(attach: Attach, mode: Mode, request: &Request) -> Result<()> {
    let upstream = Switch::new();
    let timeout = if mode == Mode::Hang { TIMEOUT } else { "0s" };
    let stage = stage_with(attach, policy("400ms"), 1, &upstream, timeout)?;
    let load = Load::start(stage.address, 8, Duration::from_millis(4), request);
    stage.wait_for("requests", |stage| match metric(stage, "requests_total.retry.") {
        sent if sent > 100 => Ok(()),
        sent => Err(format!("{sent} sent")),
    })?;
    ensure!(metric(&stage, "circuit_opened_total") == 0, "{}", story(&stage));
    upstream.set(mode);
    let took = wait_until(&stage, true)?;
    ensure!(took.is_within(Duration::from_secs(5)), "open after {took}");
    stage.envoy().wait_for_log(&["warning", CLUSTER, "circuit open", "attempts within", "one request each 400 ms"])?;
    // While it is open, and what was under way is over, the upstream sees probes only.
    stage.wait_for("all clients are shed", |stage| match metric(stage, "shed_total") {
        shed if shed >= 40 => Ok(()),
        shed => Err(format!("{shed} shed")),
    })?;
    // Counted in this order, a probe that goes meanwhile counts among the probes alone.
    let (probes, before) = (metric(&stage, "circuit_probes_total"), upstream.upstream.count());
    stage.wait_for("probes", |stage| match metric(stage, "circuit_probes_total") {
        found if found >= probes + 3 => Ok(()),
        found => Err(format!("{found} probes, {probes} before")),
    })?;
    let (seen, probes) = (upstream.upstream.count() - before, metric(&stage, "circuit_probes_total") - probes);
    ensure!(seen as u64 <= probes + 1, "{seen} requests with {probes} probes; {}", story(&stage));
    upstream.set(Mode::Answer);
    let took = wait_until(&stage, false)?;
    // One that hangs already ends first; and the gauge is written ten times a second.
    ensure!(took.is_within(OPEN_TIME + Duration::from_millis(1_100)), "closed after {took}; {}", story(&stage));
    // Traffic flows at once, and goes on.
    let shed = metric(&stage, "shed_total");
    let answered = upstream.upstream.count();
    upstream.upstream.wait_for(answered + 300).map_err(anyhow::Error::msg)?;
    ensure!(metric(&stage, "shed_total") == shed, "shed after it closed; {}", story(&stage));
    let outcome = load.stop()?;
    ensure!(outcome.shed == metric(&stage, "shed_total"), "{outcome:?}, {} counted", metric(&stage, "shed_total"));
    ensure!(metric(&stage, "circuit_opened_total") == 1, "{}", story(&stage));
    stage.envoy().wait_for_log(&[
        "info",
        CLUSTER,
        "circuit closed after",
        "one was processed",
        "requests were shed",
    ])?;
    Ok(())
}

/// A host that does not listen, and then does.
fn refused(attach: Attach) -> Result<()> {
    let replica = Replica::new()?;
    let route = serde_json::json!({"route": {"timeout": "0.5s"}});
    let setup = Setup::new(attach, serde_json::json!({"circuitBreaker": quick("400ms")}));
    let stage = setup.cluster_with(CLUSTER, replica.address, &serde_json::Value::Null, &route).start()?;
    let load = Load::start(stage.address, 8, Duration::from_millis(4), &Request::get(PATH));
    replica.stop();
    wait_until(&stage, true)?;
    replica.set(ReplicaMode::Answer(200));
    replica.start()?;
    let took = wait_until(&stage, false)?;
    ensure!(took.is_within(OPEN_TIME + Duration::from_millis(1_000)), "closed after {took}; {}", story(&stage));
    let before = replica.count();
    stage.wait_for("requests", |_| match replica.count() {
        count if count > before + 100 => Ok(()),
        count => Err(format!("{count} arrived, {before} before")),
    })?;
    let outcome = load.stop()?;
    ensure!(outcome.shed == metric(&stage, "shed_total"), "{outcome:?}");
    ensure!(metric(&stage, "attempts_total.signal.refused") > 0, "{}", story(&stage));
    Ok(())
}

/// At the defaults: open about a second after everything broke, closed about a second after it is well.
fn defaults() -> Result<()> {
    let upstream = Switch::new();
    let stage = stage(Attach::GUARD, serde_json::Value::Null, 2, &upstream)?;
    let load = Load::start(stage.address, 8, Duration::from_millis(4), &Request::post(PATH));
    stage.wait_for("requests", |stage| match metric(stage, "requests_total.retry.") {
        sent if sent > 500 => Ok(()),
        sent => Err(format!("{sent} sent")),
    })?;
    upstream.set(Mode::Reset);
    let opened = wait_until(&stage, true)?;
    ensure!(opened.is_within(Duration::from_secs(4)), "open after {opened}");
    upstream.set(Mode::Answer);
    let closed = wait_until(&stage, false)?;
    ensure!(closed.is_within(Duration::from_millis(2_500)), "closed after {closed}; {}", story(&stage));
    load.stop().map(drop)
}
