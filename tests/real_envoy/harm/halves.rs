//! Some of the hosts are down, and nothing leads around them: Weir is attached, and cannot steer here. Retries carry it, as they
//! would without Weir.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::rate::{Rate, Sent};
use crate::alone::Test;
use crate::ejection::site::Setup;
use crate::level::Level;
use crate::support::client::Request;
use crate::support::wait;

pub const TESTS: &[Test] = &[
    ("harm::halves::decide::bursts", || bursts(Level::Decide)),
    ("harm::halves::watch::bursts", || bursts(Level::Watch)),
    ("harm::halves::guard::bursts", || bursts(Level::Guard)),
    ("harm::halves::decide::gets", || half_is_down(Level::Decide, &Request::get("/"), 4)),
    ("harm::halves::decide::posts", || half_is_down(Level::Decide, &Request::post("/"), 4)),
    ("harm::halves::watch::gets", || half_is_down(Level::Watch, &Request::get("/"), 4)),
    ("harm::halves::guard::gets", || half_is_down(Level::Guard, &Request::get("/"), 4)),
    ("harm::halves::guard::posts", || half_is_down(Level::Guard, &Request::post("/"), 2)),
];

/// 60 requests a second, by a few clients.
fn half_is_down(level: Level, request: &Request, hosts: usize) -> Result<()> {
    half_of(level, hosts, |address| Rate::start(address, 60, request))
}

/// Two dozen at once, twice a second.
fn bursts(level: Level) -> Result<()> {
    half_of(level, 4, |address| Rate::bursts(address, 24, Duration::from_millis(500), &Request::get("/")))
}

/// Every other host refuses connections, for 8 s and for 400 requests. Of so many at once, one may meet those hosts three times.
fn half_of(level: Level, hosts: usize, send: impl FnOnce(SocketAddr) -> Rate) -> Result<()> {
    let mut setup = Setup::new(level);
    setup.hosts = hosts;
    setup.workers = 2;
    setup.obeys = false;
    setup.policy = json!({"role": "decide", "steering": "off", "outlierDetection": "off"});
    setup.route = json!({"route": {"retry_policy": super::previous_hosts()}});
    let site = setup.start()?;
    let rate = send(site.address);
    std::thread::sleep(Duration::from_millis(2_250));
    let stopping = Instant::now();
    for host in (0..hosts).step_by(2) {
        site.stop(host)?;
    }
    let stopped = Instant::now();
    std::thread::sleep(Duration::from_secs(8));
    wait::until(wait::LIMIT, || if rate.sent() > 400 { Ok(()) } else { Err(format!("{} requests", rate.sent())) })
        .map_err(anyhow::Error::msg)?;
    let sent = rate.stop();
    // What was under way when the hosts closed their connections may fail.
    let spared = |sent: &Sent| sent.at < stopped && sent.ended > stopping;
    let failed = sent.iter().filter(|sent| !sent.answered() && !spared(sent)).count();
    ensure!(failed <= hosts / 2, "{failed} of {} failed; {}", sent.len(), site.story());
    Ok(())
}
