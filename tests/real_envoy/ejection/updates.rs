//! What is updated while a host is out: the policy, the module, the hosts.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;

use super::load::failed;
use super::replica::Replica;
use super::site::{Setup, Site};
use crate::alone::Test;
use crate::level::Level;
use crate::support::client::Request;
use crate::support::delay::Watch;
use crate::support::wait;

pub const TESTS: &[Test] = &[
    ("ejection::configuration_update", configuration_update),
    ("ejection::module_update", module_update),
    ("ejection::module_update_spread", module_update_spread),
];

pub const TIMED: &[Test] =
    &[("ejection::removed_hosts_leave", removed_hosts_leave), ("ejection::new_hosts_enter", new_hosts_enter)];

/// Times long enough that nothing comes back while a test looks.
fn slow() -> serde_json::Value {
    json!({"role": "decide", "outlierDetection": {"baseEjectionTime": "5m", "maxEjectionTime": "5m"}})
}

fn with_one_out(policy: serde_json::Value) -> anyhow::Result<Site> {
    let site = Setup { policy, ..Setup::new(Level::Guard) }.start()?;
    site.warm_up()?;
    site.stop(0)?;
    ensure!(failed(&site.get("/out", 60)?).is_empty(), "{}", site.story());
    site.wait_for("hosts_out", 1)?;
    Ok(site)
}

fn configuration_update() -> anyhow::Result<()> {
    let mut site = with_one_out(slow())?;
    let mut policy = slow();
    policy["retry"] = json!({"maxRetries": 1});
    site.update_policy(policy)?;
    let began = Instant::now();
    let statuses = site.get("/updated", 100)?;
    ensure!(failed(&statuses).is_empty(), "{:?}", failed(&statuses));
    let attempts = site.attempts("/updated", 100)?;
    // A policy that is forgotten would meet it 25 times (see `module_update`).
    let met = site.on(0, &attempts);
    ensure!(met <= 2 + 100 / 8 + Site::explored(began), "{met} of 100 met the host that was out; {}", site.story());
    ensure!(site.metric("hosts_out") == 1 && site.metric("ejections_total.reason.refused") == 1, "{}", site.story());
    // Lists are one shorter, where the new policy is in force.
    let lists = attempts.iter().filter(|attempt| attempt.steered()).map(|attempt| attempt.list.split(',').count());
    ensure!(lists.clone().max() == Some(2), "{:?}", lists.collect::<Vec<_>>());
    Ok(())
}

/// All VMs are new, and know who is out, and which other hosts there are.
fn module_update() -> anyhow::Result<()> {
    let site = with_one_out(slow())?;
    site.update_module()?;
    let began = Instant::now();
    let statuses = site.get("/reloaded", 100)?;
    ensure!(failed(&statuses).is_empty(), "{:?}", failed(&statuses));
    let attempts = site.attempts("/reloaded", 100)?;
    // One or two are left to Envoy's balancer, and up to one in eight once the host has refused for two seconds. A new VM that
    // did not know which one is out would meet it 25 times.
    let met = site.on(0, &attempts);
    ensure!(met <= 2 + 100 / 8 + Site::explored(began), "{met} of 100 met the host that was out; {}", site.story());
    site.wait_for("hosts_out", 1)?;
    let ejected = site.metric("ejections_total.reason.refused");
    ensure!(ejected == 1, "it was ejected {ejected} times; {}", site.story());
    Ok(())
}

/// New VMs share the requests among the hosts that are in.
fn module_update_spread() -> anyhow::Result<()> {
    let site = with_one_out(slow())?;
    site.update_module()?;
    site.get("/reloaded", 300)?;
    let attempts = site.attempts("/reloaded", 300)?;
    let shares: Vec<usize> = (0..4).map(|replica| site.on(replica, &attempts)).collect();
    ensure!(shares[1..].iter().all(|share| *share >= 45), "{shares:?} of {}; {}", attempts.len(), site.story());
    Ok(())
}

/// While a host is out, another is removed: it is listed no longer.
fn removed_hosts_leave() -> anyhow::Result<()> {
    let site = with_one_out(slow())?;
    let left = site.replicas[1].address;
    site.update_hosts(
        &site.replicas.iter().map(|replica| replica.address).filter(|host| *host != left).collect::<Vec<_>>(),
    )?;
    let mut connection = site.connect()?;
    let mut round = 0;
    let watch = Watch::start();
    let gone = wait::until(wait::LIMIT, || {
        round += 1;
        let path = format!("/removed-{round}");
        for _ in 0..40 {
            connection.exchange(&Request::get(&path)).map_err(|error| error.to_string())?;
        }
        let attempts = site.attempts(&path, 40).map_err(|error| error.to_string())?;
        let listed = attempts.iter().filter(|attempt| attempt.list.contains(&left.to_string())).count();
        if listed == 0 { Ok(()) } else { Err(format!("{listed} of 40 lists name a host that is gone")) }
    });
    gone.map_err(anyhow::Error::msg)?;
    let took = watch.read();
    ensure!(took.is_within(Duration::from_secs(20)), "a host that was removed was listed for {took}");
    Ok(())
}

/// While a host is out, one is added: it gets requests.
fn new_hosts_enter() -> anyhow::Result<()> {
    let site = with_one_out(slow())?;
    let new = Replica::new()?;
    let mut hosts: Vec<_> = site.replicas.iter().map(|replica| replica.address).collect();
    hosts.push(new.address);
    site.update_hosts(&hosts)?;
    let mut connection = site.connect()?;
    let watch = Watch::start();
    let entered = wait::until(wait::LIMIT, || {
        let before = new.count();
        for _ in 0..40 {
            connection.exchange(&Request::get("/added")).map_err(|error| error.to_string())?;
        }
        let share = new.count() - before;
        if share >= 4 { Ok(()) } else { Err(format!("{share} of 40 requests reach the new host")) }
    });
    entered.map_err(anyhow::Error::msg)?;
    let took = watch.read();
    ensure!(took.is_within(Duration::from_secs(12)), "a host that was added got its share after {took}");
    Ok(())
}
