//! Hosts that do not listen, cannot be reached, or hang before they die; and all of them at once.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::line::{ensure_told, wait_for};
use super::{load, policy, setup};
use crate::alone::Test;
use crate::ejection::replica::Mode;
use crate::ejection::site::Setup;
use crate::level::Level;
use crate::support::upstream::full_backlog;

pub const TESTS: &[Test] = &[("incidents::off", off)];

pub const TIMED: &[Test] = &[
    ("incidents::not_listening", not_listening),
    ("incidents::unreachable", unreachable),
    ("incidents::slow_death", slow_death),
    ("incidents::everyone", everyone),
];

fn not_listening() -> Result<()> {
    let site = setup(Level::Guard, 2, "1s").start()?;
    site.replicas[2].stop();
    let load = load(&site);
    let line = wait_for(&site, "open", "not_listening")?;
    ensure!(line.host == site.replicas[2].address.to_string() && line.advises("wrong port"), "{line:?}");
    ensure!(line.count("refused")? >= 5 && line.seconds("down")? >= 3.0, "{line:?}");
    ensure!(line.count("reset")? + line.count("timeout")? + line.count("connect_timeout")? == 0, "{line:?}");
    site.replicas[2].start()?;
    let over = wait_for(&site, "over", "not_listening")?;
    load.stop();
    ensure!(over.seconds("down")? >= line.seconds("down")?, "{over:?}");
    ensure_told(&site, &["open not_listening", "over not_listening"])
}

fn unreachable() -> Result<()> {
    let site = Setup { connect_timeout: "1s", ..setup(Level::Guard, 1, "1s") }.start()?;
    let lost = full_backlog();
    let mut hosts: Vec<_> = site.replicas.iter().map(|replica| replica.address).collect();
    hosts.push(lost.address);
    site.update_hosts(&hosts)?;
    let load = load(&site);
    let line = wait_for(&site, "open", "unreachable")?;
    load.stop();
    ensure!(line.host == lost.address.to_string() && line.advises("firewall"), "{line:?}");
    ensure!(line.count("connect_timeout")? >= 3 && line.count("refused")? == 0, "{line:?}");
    ensure_told(&site, &["open unreachable"])
}

fn slow_death() -> Result<()> {
    let policy = policy("1s", &json!({"retry": {"perTryTimeout": "200ms"}}));
    let site = Setup { policy, ..setup(Level::Guard, 2, "1s") }.start()?;
    site.warm_up()?;
    let load = load(&site);
    site.replicas[3].set(Mode::Hang);
    site.wait_for_at_least("ejections_total.reason.timeout", 2)?;
    site.replicas[3].stop();
    let line = wait_for(&site, "open", "slow_death")?;
    ensure!(line.host == site.replicas[3].address.to_string() && line.advises("load"), "{line:?}");
    ensure!(line.count("timeout")? >= 3 && line.count("refused")? + line.count("reset")? >= 1, "{line:?}");
    site.replicas[3].set(Mode::Answer(200));
    site.replicas[3].start()?;
    wait_for(&site, "over", "slow_death")?;
    load.stop();
    ensure_told(&site, &["open slow_death", "over slow_death"])
}

/// What they share may be at fault, so nothing is said of any one of them.
fn everyone() -> Result<()> {
    let site = setup(Level::Guard, 2, "2s").start()?;
    site.warm_up()?;
    let load = load(&site);
    site.replicas.iter().for_each(|replica| replica.stop());
    let line = wait_for(&site, "open", "everyone")?;
    ensure!(line.host == "*" && line.count("hosts")? >= 3 && line.count("known")? == 4, "{line:?}");
    ensure!(line.seconds("within")? <= 0.2 && line.advises("share"), "{line:?}");
    std::thread::sleep(Duration::from_secs(7));
    for replica in &site.replicas {
        replica.start()?;
    }
    let over = wait_for(&site, "over", "everyone")?;
    std::thread::sleep(Duration::from_millis(500));
    load.stop();
    ensure!((6.0..12.0).contains(&over.seconds("lasted")?), "{over:?}");
    ensure_told(&site, &["open everyone", "over everyone"])
}

fn off() -> Result<()> {
    let site = Setup { policy: json!({"role": "decide", "incidents": null}), ..Setup::new(Level::Guard) }.start()?;
    site.warm_up()?;
    let load = load(&site);
    for _ in 0..2 {
        super::loops::die(&site, 0, Duration::from_millis(600))?;
        std::thread::sleep(Duration::from_millis(1_000));
    }
    load.stop();
    ensure!(site.metric("ejections_total.reason.") > 0, "{}", site.story());
    ensure_told(&site, &[])
}
