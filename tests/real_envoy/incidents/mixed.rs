//! Several at once: each is told of the host that it concerns, once over four workers, and nothing of the others.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::line::{told, wait_for};
use super::loops::{die, ensure_true};
use super::{load, setup};
use crate::alone::Test;
use crate::ejection::site::Setup;
use crate::level::Level;
use crate::support::upstream::full_backlog;

pub const PACED: &[Test] = &[("incidents::several_at_once", several_at_once)];

fn several_at_once() -> Result<()> {
    let site = Setup { hosts: 6, connect_timeout: "1s", ..setup(Level::Guard, 4, "2s") }.start()?;
    let lost = full_backlog();
    site.replicas[4].stop();
    let mut hosts: Vec<_> = site.replicas.iter().map(|replica| replica.address).collect();
    hosts.push(lost.address);
    site.update_hosts(&hosts)?;
    let load = load(&site);
    // Those that stay down are probed ever more rarely; each such probe is one that another host has to wait for.
    std::thread::sleep(Duration::from_secs(5));
    let mut lives = Vec::new();
    // So many that the bounds of the time down come near, though the others that fail leave fewer probes to it. Each lasts longer
    // than the first probe waits where those of others were in vain and few requests have paid for them since: only a crash that is
    // seen to refuse is known to be one.
    for round in 0..5 {
        lives.push(die(&site, 0, Duration::from_secs(3))?);
        if round == 1 {
            die(&site, 2, Duration::from_secs(4))?;
        } else {
            std::thread::sleep(Duration::from_secs(1));
        }
        std::thread::sleep(Duration::from_secs(4));
    }
    for (state, pattern) in
        [("open", "crash_loop"), ("open", "not_listening"), ("open", "unreachable"), ("over", "crash_loop")]
    {
        wait_for(&site, state, pattern)?;
    }
    load.stop();
    let lines = told(&site)?;
    let of = |host: String| {
        let lines = lines.iter().filter(|line| line.host == host);
        lines.map(|line| format!("{} {}", line.state, line.pattern)).collect::<Vec<_>>()
    };
    let replica = |number: usize| of(site.replicas[number].address.to_string());
    let crash_loop = ["over restart", "over restart", "open crash_loop", "over crash_loop"];
    ensure!(replica(0) == crash_loop, "{:?}: {lines:#?}", replica(0));
    ensure!(replica(2) == ["over restart"], "{:?}: {lines:#?}", replica(2));
    ensure!(replica(4) == ["open not_listening"], "{:?}: {lines:#?}", replica(4));
    ensure!(of(lost.address.to_string()) == ["open unreachable"], "{lines:#?}");
    ensure!(lines.len() == 7, "{lines:#?}");
    let over = lines.iter().find(|line| line.state == "over" && line.pattern == "crash_loop");
    let over = over.context("the loop is not over")?;
    ensure!(over.count("crashes")? == 5, "{over:?}; {}", site.story());
    ensure_true(over, &lives)
}
