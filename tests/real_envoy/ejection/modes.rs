//! Where ejections are advisory, where they are only counted, and hosts that hang.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use super::load::failed;
use super::replica::Mode;
use super::site::{CLUSTER, Setup};
use crate::alone::Test;
use crate::level::Level;
use crate::support::client::Request;
use crate::support::delay::Watch;

pub const TESTS: &[Test] = &[("ejection::advisory", advisory)];

pub const TIMED: &[Test] = &[
    ("ejection::shadow", shadow),
    ("ejection::hanging_host", hanging_host),
    ("ejection::resetting_host", resetting_host),
    ("ejection::failing_host", failing_host),
];

/// Without `override_host`, nothing obeys: a warning says so, once, and a metric.
fn advisory() -> anyhow::Result<()> {
    let policy = json!({"role": "decide", "outlierDetection": {"baseEjectionTime": "5m", "maxEjectionTime": "5m"}});
    let site = Setup { obeys: false, policy, ..Setup::new(Level::Guard) }.start()?;
    site.warm_up()?;
    site.stop(0)?;
    let statuses = site.get("/out", 200)?;
    // Retries mend what they can pay for.
    let failed = failed(&statuses).len();
    ensure!(failed <= 30, "{failed} of 200 failed; {}", site.story());
    site.wait_for("hosts_out", 1)?;
    let attempts = site.attempts("/out", 200)?;
    ensure!(site.on(0, &attempts) >= 40, "{} of {} obeyed nobody", site.on(0, &attempts), attempts.len());
    site.wait_for("steering_disobeyed_total", 1)?;
    site.envoy.wait_for_log(&["warning", CLUSTER, "do not go where they are steered", "override_host", "advisory"])?;
    let warnings = site.envoy.log().lines().filter(|line| line.contains("advisory")).count();
    ensure!(warnings == 1, "{warnings} warnings; {}", site.story());
    Ok(())
}

/// In shadow mode everything is judged and nothing is steered.
fn shadow() -> anyhow::Result<()> {
    let policy = json!({"role": "decide", "mode": "shadow"});
    let route = json!({"route": {"retry_policy": {"retry_on": "connect-failure", "num_retries": 2}}});
    let site = Setup { policy, route, ..Setup::new(Level::Guard) }.start()?;
    site.warm_up()?;
    site.stop(0)?;
    let statuses = site.get("/out", 100)?;
    ensure!(failed(&statuses).is_empty(), "{:?}; {}", failed(&statuses), site.story());
    let attempts = site.attempts("/out", 100)?;
    let steered: Vec<_> = attempts.iter().filter(|attempt| attempt.steered()).collect();
    ensure!(steered.is_empty(), "{steered:#?}");
    ensure!(site.on(0, &attempts) >= 25, "{} of {}", site.on(0, &attempts), attempts.len());
    site.wait_for("shadow_hosts_out", 1)?;
    ensure!(site.metric("shadow_ejections_total.reason.refused") >= 1, "{}", site.story());
    ensure!(site.metric("ejections_total.reason.") + site.metric("hosts_out") == 0, "{}", site.story());
    ensure!(site.metric("shadow_retries_succeeded_total") >= 1, "{}", site.story());
    ensure!(site.metric("steering_disobeyed_total") == 0, "{}", site.story());
    site.replicas[0].start()?;
    site.until_all_are_in(&Request::get("/back"), Duration::from_secs(5))?;
    Ok(())
}

/// A host that takes requests and never answers: each costs the route's timeout, so few may meet it.
fn hanging_host() -> anyhow::Result<()> {
    let route = json!({"route": {"timeout": "0.25s"}});
    let site = Setup { route, ..Setup::new(Level::Guard) }.start()?;
    // A machine that stands still for as long as the timeout makes any request fail.
    site.get("/warm-up", 64 * 4)?;
    let (before, watch) = (site.replicas[0].count(), Watch::start());
    site.replicas[0].set(Mode::Hang);
    let statuses = site.get("/hanging", 200)?;
    let delayed = watch.read().delayed;
    site.wait_for("hosts_out", 1)?;
    ensure!(site.metric("ejections_total.reason.timeout") >= 1, "{}", site.story());
    // Five tell. Then probes: what they cost is a request each, since the timeout is the whole request's.
    let (failed, met) = (failed(&statuses), site.replicas[0].count() - before);
    let most = 5 + site.metric("probes_total") as usize + 3;
    ensure!(failed.iter().all(|status| *status == 504), "{failed:?}");
    ensure!(met <= most, "{met} of 200 met it, and not {most} at most; {}", site.story());
    let stood_still = delayed >= Duration::from_millis(250);
    ensure!(failed.len() <= most || stood_still, "{} of 200 failed, {most} may; {}", failed.len(), site.story());
    site.replicas[0].set(Mode::Answer(200));
    site.until_all_are_in(&Request::get("/back"), Duration::from_secs(10))?;
    Ok(())
}

/// A host that breaks off: three tell, and retries mend them.
fn resetting_host() -> anyhow::Result<()> {
    let site = Setup::new(Level::Guard).start()?;
    site.warm_up()?;
    site.replicas[0].set(Mode::Reset);
    let statuses = site.get("/resetting", 150)?;
    ensure!(failed(&statuses).is_empty(), "{:?}; {}", failed(&statuses), site.story());
    site.wait_for("hosts_out", 1)?;
    let attempts = site.attempts("/resetting", 150)?;
    let (met, probes) = (site.on(0, &attempts), site.metric("probes_total") as usize);
    ensure!(met <= 3 + probes + 3, "{met} attempts met it, {probes} probes; {}", site.story());
    site.replicas[0].set(Mode::Answer(200));
    let (_, failed) = site.until_all_are_in(&Request::get("/back"), Duration::from_secs(8))?;
    ensure!(failed.is_empty(), "{failed:?}");
    Ok(())
}

/// A host that answers everything with 500, which is not retried.
fn failing_host() -> anyhow::Result<()> {
    let site = Setup::new(Level::Guard).start()?;
    site.warm_up()?;
    site.replicas[0].set(Mode::Answer(500));
    let statuses = site.get("/failing", 200)?;
    site.wait_for("hosts_out", 1)?;
    ensure!(site.metric("ejections_total.reason.error") >= 1, "{}", site.story());
    let (failed, probes) = (failed(&statuses).len(), site.metric("probes_total") as usize);
    ensure!(failed <= 5 + probes + 3, "{failed} of 200 failed, {probes} probes; {}", site.story());
    site.replicas[0].set(Mode::Answer(200));
    site.until_all_are_in(&Request::get("/back"), Duration::from_secs(8))?;
    Ok(())
}
