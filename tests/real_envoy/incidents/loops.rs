//! A replica that dies and starts again.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::line::{Line, ensure_told, told, wait_for, wait_for_stat};
use super::{load, policy, setup};
use crate::alone::Test;
use crate::ejection::replica::Mode;
use crate::ejection::site::{Setup, Site};
use crate::level::Level;
use crate::support::client::Request;
use crate::support::wait;

pub const PACED: &[Test] = &[
    ("incidents::crash_loop", || crash_loop(setup(Level::Guard, 4, "2s"))),
    ("incidents::crash_loop_without_guard", || crash_loop(setup(Level::Watch, 2, "2s"))),
    ("incidents::crash_loop_unsteered", || {
        crash_loop(Setup { obeys: false, policy: unsteered(), ..setup(Level::Watch, 2, "2s") })
    }),
    ("incidents::crash_loop_seen_by_decide_alone", || {
        let policy = policy("2s", &json!({"retry": null, "steering": null}));
        crash_loop(Setup { obeys: false, policy, ..setup(Level::Decide, 2, "2s") })
    }),
    ("incidents::decide_alone_is_right_or_silent", right_or_silent),
];

pub const TIMED: &[Test] = &[("incidents::restart", restart)];

fn unsteered() -> serde_json::Value {
    policy("2s", &json!({"steering": null}))
}

/// One life of a replica, as it really was: from the first request that it broke off until it listened again, by its own clock.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    pub died: Instant,
    pub back: Instant,
}

/// Once it takes its share of the requests, it resets what it has and gets, refuses, and listens again.
pub fn die(site: &Site, replica: usize, down: Duration) -> Result<Life> {
    let before = site.replicas[replica].count();
    let served = || match site.replicas[replica].count() - before {
        20.. => Ok(()),
        few => Err(format!("{few} requests: {}", site.story())),
    };
    wait::until(wait::LIMIT, served).map_err(anyhow::Error::msg)?;
    site.replicas[replica].set(Mode::Reset);
    let broke = || site.replicas[replica].broke().ok_or_else(|| format!("no request to break off: {}", site.story()));
    let died = wait::until(wait::LIMIT, broke).map_err(anyhow::Error::msg)?;
    std::thread::sleep(Duration::from_millis(150));
    site.replicas[replica].stop();
    site.replicas[replica].set(Mode::Answer(200));
    std::thread::sleep(down.saturating_sub(died.elapsed()));
    site.replicas[replica].start()?;
    Ok(Life { died, back: Instant::now() })
}

/// The figures are within 10 percent of the truth.
pub fn ensure_true(line: &Line, lives: &[Life]) -> Result<()> {
    let periods: Vec<f64> = lives.windows(2).map(|pair| (pair[1].died - pair[0].died).as_secs_f64()).collect();
    let downs: Vec<f64> = lives.iter().map(|life| (life.back - life.died).as_secs_f64()).collect();
    for (name, truth) in [("period", periods), ("down", downs)] {
        let mean = truth.iter().sum::<f64>() / truth.len() as f64;
        let told = line.seconds(name)?;
        ensure!((told - mean).abs() <= mean / 10.0, "{name} is told as {told} s, and was {truth:?}: {line:?}");
        let bounds = (line.seconds(&format!("{name}_min"))?, line.seconds(&format!("{name}_max"))?);
        let (min, max) = truth.iter().fold((f64::MAX, 0.0_f64), |(min, max), time| (min.min(*time), max.max(*time)));
        let near = |told: f64, truth: f64| (told - truth).abs() <= truth / 10.0;
        ensure!(near(bounds.0, min) && near(bounds.1, max), "{name} {bounds:?} s, and was {truth:?}: {line:?}");
    }
    Ok(())
}

fn crash_loop(setup: Setup) -> Result<()> {
    let site = setup.start()?;
    site.warm_up()?;
    let load = load(&site);
    let mut lives = Vec::new();
    // It is told once it is known well enough how long it is down: after three crashes, or some more.
    while lives.len() < 3 || lives.len() < 5 && !told(&site)?.iter().any(|line| line.pattern == "crash_loop") {
        lives.push(die(&site, 1, Duration::from_secs(3))?);
        std::thread::sleep(Duration::from_secs(4));
    }
    let open = wait_for(&site, "open", "crash_loop")?;
    ensure!(open.host == site.replicas[1].address.to_string() && open.advises("memory limit"), "{open:?}");
    let crashes = lives.len() as u64;
    ensure!(open.count("crashes")? == crashes && open.count("restarts")? == crashes, "{open:?}");
    ensure!(open.count("reset")? >= 3 && open.count("refused")? >= 3, "{open:?}");
    ensure_true(&open, &lives)?;
    let host = site.replicas[1].address.to_string();
    let gauge = format!("wasmcustom.weir_host_incident.pattern.crash_loop.host.{host}.cluster.orders");
    wait_for_stat(&site, &gauge, 1)?;
    let text = site.envoy.admin.prometheus()?;
    let labels = [r#"weir_pattern="crash_loop""#, r#"weir_cluster="orders""#, &format!(r#"weir_host="{host}""#)];
    let labelled = |line: &str, labels: &[&str]| labels.iter().all(|label| line.contains(label));
    for (metric, labels) in [("weir_host_incident{", &labels[..]), ("weir_incidents_open{", &labels[..2])] {
        ensure!(
            text.lines().any(|line| line.starts_with(metric) && labelled(line, labels) && line.ends_with(" 1")),
            "no {metric} {labels:?} in\n{text}"
        );
    }
    // It stays up: three periods later, the loop is over.
    let over = wait_for(&site, "over", "crash_loop")?;
    ensure!(over.seconds("lasted")? > 10.0, "{over:?}");
    wait_for_stat(&site, &gauge, 0)?;
    load.stop();
    ensure_told(&site, &["over restart", "over restart", "open crash_loop", "over crash_loop"])
}

fn restart() -> Result<()> {
    let site = setup(Level::Guard, 2, "1s").start()?;
    site.warm_up()?;
    let load = load(&site);
    let life = die(&site, 0, Duration::from_secs(2))?;
    let line = wait_for(&site, "over", "restart")?;
    load.stop();
    ensure!(line.host == site.replicas[0].address.to_string() && line.count("restarts")? == 1, "{line:?}");
    let truth = (life.back - life.died).as_secs_f64();
    ensure!((line.seconds("down_min")?..=line.seconds("down_max")? + 0.1).contains(&truth), "{truth} s: {line:?}");
    ensure_told(&site, &["over restart"])
}

/// Retries hide most of it from `decide`: what it tells is true, or it tells nothing.
fn right_or_silent() -> Result<()> {
    let site = setup(Level::Decide, 2, "1s").start()?;
    let load = load(&site);
    let mut lives = Vec::new();
    for _ in 0..4 {
        lives.push(die(&site, 1, Duration::from_millis(1_500))?);
        std::thread::sleep(Duration::from_secs(1));
    }
    std::thread::sleep(Duration::from_secs(1));
    load.stop();
    let address = site.replicas[1].address.to_string();
    for line in told(&site)? {
        ensure!(line.host == address && ["restart", "crash_loop"].contains(&line.pattern.as_str()), "{line:?}");
        if line.pattern == "crash_loop" {
            ensure_true(&line, &lives)?;
        }
    }
    ensure!(site.send(&Request::get("/after"), 20)?.iter().all(|status| *status == 200));
    Ok(())
}
