//! What one worker found out, all of them know.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;

use super::site::{STALL, Setup, Site};
use crate::alone::Test;
use crate::level::Level;
use crate::support::client::{Connection, Request};
use crate::support::delay;
use crate::support::wait;

pub const TESTS: &[Test] = &[
    ("ejection::a_worker_that_stalls", a_worker_that_stalls),
    ("ejection::a_worker_that_starts_late", a_worker_that_starts_late),
];

pub const TIMED: &[Test] = &[
    ("ejection::workers_act_together", || act_together(Duration::ZERO)),
    // Longer than a worker without requests listens; no longer than what it heard counts as fresh.
    ("ejection::idle_workers_act_as_well", || act_together(Duration::from_millis(700))),
];

const WORKERS: u32 = 4;

/// A connection to each worker, each of which knows all hosts.
fn connections(site: &Site) -> anyhow::Result<Vec<Connection>> {
    let mut connections = (0..WORKERS).map(|_| site.connect()).collect::<anyhow::Result<Vec<_>>>()?;
    for _ in 0..64 * site.replicas.len() {
        for connection in &mut connections {
            ensure!(connection.exchange(&Request::get("/warm-up"))?.status == 200);
        }
    }
    Ok(connections)
}

fn act_together(idle: Duration) -> anyhow::Result<()> {
    let site = Setup { workers: WORKERS, ..Setup::new(Level::Guard) }.start()?;
    let mut connections = connections(&site)?;
    let balanced = (0..WORKERS).all(|worker| {
        site.stat(&format!("listener.127.0.0.1_{}.worker_{worker}.downstream_cx_active", site.address.port())) == 1
    });
    ensure!(balanced, "the connections are not one to each worker");
    site.stop(0)?;
    std::thread::sleep(idle);
    let (first, others) = connections.split_first_mut().ok_or_else(|| anyhow::anyhow!("no connection"))?;
    // The first worker meets the dead host.
    let met = (0..16).any(|_| {
        let response = first.exchange(&Request::get("/first"));
        response.is_ok_and(|response| response.header("x-envoy-attempt-count") == Some("2"))
    });
    ensure!(met, "no request of the first worker met the dead host");
    delay::sleep(Duration::from_millis(200));
    for (worker, connection) in others.iter_mut().enumerate() {
        let path = format!("/worker-{worker}");
        for _ in 0..24 {
            let response = connection.exchange(&Request::get(&path))?;
            ensure!(response.status == 200, "{}", response.status);
        }
        let attempts = site.attempts(&path, 24)?;
        let dead = site.replicas[0].address.to_string();
        let met = attempts.iter().filter(|attempt| attempt.host == dead).count();
        let steered = attempts.iter().filter(|attempt| attempt.steered()).count();
        // Exploration, and a probe should this worker have taken the ejection over.
        ensure!(met <= 2 && steered >= 18, "another worker met it {met} times and steered {steered}; {}", site.story());
        ensure!(!attempts[0].host.eq(&dead) || attempts[0].steered(), "another worker did not know; {}", site.story());
    }
    // One found out, the others were told.
    let log = site.envoy.log();
    let found = log.lines().filter(|line| line.contains("strike 0")).count();
    ensure!(found == 1, "{found} workers ejected it: {}", site.story());
    Ok(())
}

/// A worker gets its first request when three of four hosts are out: it sends it to the fourth.
fn a_worker_that_starts_late() -> anyhow::Result<()> {
    let policy = json!({"role": "decide", "outlierDetection": {"baseEjectionTime": "5m", "maxEjectionTime": "5m"}});
    let site = Setup { workers: 2, policy, ..Setup::new(Level::Guard) }.start()?;
    let mut first = site.connect()?;
    for _ in 0..64 * site.replicas.len() {
        ensure!(first.exchange(&Request::get("/warm-up"))?.status == 200);
    }
    for replica in 0..3 {
        site.stop(replica)?;
        (0..30).try_for_each(|_| first.exchange(&Request::get("/out")).map(drop))?;
    }
    site.wait_for("hosts_out", 3)?;
    let mut late = site.connect()?;
    let began = Instant::now();
    (0..60).try_for_each(|_| late.exchange(&Request::get("/late")).map(drop))?;
    let attempts = site.attempts("/late", 60)?;
    let met = (0..3).map(|replica| site.on(replica, &attempts)).sum::<usize>();
    // One is left to Envoy's balancer now and then, and its retries as well.
    ensure!(
        met <= 3 + 3 * Site::explored(began),
        "{met} attempts of 60 requests met hosts that were out; {}",
        site.story()
    );
    Ok(())
}

/// The worker that owns an ejection stands still: another one probes the host and brings it back meanwhile, and the owner,
/// when it goes on, takes no part of that back.
fn a_worker_that_stalls() -> anyhow::Result<()> {
    let site = Setup { workers: 2, stalls: true, ..Setup::new(Level::Guard) }.start()?;
    let (mut owner, mut other) = (site.connect()?, site.connect()?);
    for _ in 0..64 * site.replicas.len() {
        for connection in [&mut owner, &mut other] {
            ensure!(connection.exchange(&Request::get("/warm-up"))?.status == 200);
        }
    }
    let balanced = (0..2).all(|worker| {
        site.stat(&format!("listener.127.0.0.1_{}.worker_{worker}.downstream_cx_active", site.address.port())) == 1
    });
    ensure!(balanced, "the connections are not one to each worker");
    site.stop(0)?;
    let met = (0..64).any(|_| {
        let response = owner.exchange(&Request::get("/met"));
        response.is_ok_and(|response| response.header("x-envoy-attempt-count") == Some("2"))
    });
    ensure!(met, "the owner did not meet the dead host");
    site.wait_for("hosts_out", 1)?;
    let stalled = std::thread::spawn(move || {
        let status = owner.exchange(&Request::get(STALL)).map(|response| response.status);
        (owner, status)
    });
    site.replicas[0].start()?;
    let all_in = wait::until(wait::LIMIT, || {
        let status = other.exchange(&Request::get("/other")).map_err(|error| format!("{error:#}"))?.status;
        match (status, site.metric("hosts_out")) {
            (200, 0) => Ok(()),
            found => Err(format!("status and hosts out: {found:?}; {}", site.story())),
        }
    });
    let standing = !stalled.is_finished();
    site.go_on()?;
    all_in.map_err(anyhow::Error::msg)?;
    ensure!(standing, "the owner did not stand still");
    let (mut owner, status) = stalled.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
    ensure!(status? == 200, "the request that stalled");
    for _ in 0..64 {
        for connection in [&mut owner, &mut other] {
            ensure!(connection.exchange(&Request::get("/after"))?.status == 200);
        }
    }
    ensure!(site.metric("hosts_out") == 0, "the owner undid it: {}", site.story());
    let on = site.on(0, &site.attempts("/after", 128)?);
    ensure!(on >= 16, "the host has {on} of 128 requests; {}", site.story());
    Ok(())
}
