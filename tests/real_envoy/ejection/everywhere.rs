//! What fails everywhere makes no outlier, and the last host is never out.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use super::life::unretried;
use super::load::failed;
use super::replica::Mode;
use super::site::{Setup, Site};
use crate::alone::Test;
use crate::level::Level;
use crate::support::client::Request;
use crate::support::delay::Watch;
use crate::support::wait;

pub const TESTS: &[Test] = &[("ejection::all_but_one", all_but_one), ("ejection::half_at_most", half_at_most)];

pub const TIMED: &[Test] = &[
    ("ejection::everywhere_503", || {
        everywhere(Setup::new(Level::Guard), |site| {
            site.replicas.iter().for_each(|replica| replica.set(Mode::Answer(503)));
        })
    }),
    ("ejection::everywhere_reset", || {
        everywhere(Setup::new(Level::Watch), |site| {
            site.replicas.iter().for_each(|replica| replica.set(Mode::Reset));
        })
    }),
    ("ejection::everywhere_refused", || {
        everywhere(Setup::new(Level::Guard), |site| {
            site.replicas.iter().for_each(super::replica::Replica::stop);
        })
    }),
    ("ejection::everywhere_refused_of_two", || {
        everywhere(Setup { hosts: 2, ..Setup::new(Level::Watch) }, |site| {
            site.replicas.iter().for_each(super::replica::Replica::stop);
        })
    }),
    ("ejection::everywhere_503_decide_alone", || {
        everywhere(Setup { policy: unretried(), ..Setup::new(Level::Decide) }, |site| {
            site.replicas.iter().for_each(|replica| replica.set(Mode::Answer(503)));
        })
    }),
    ("ejection::last_host_stays", last_host_stays),
];

/// Nobody stays out while all fail, and when they are back, all have their share.
fn everywhere(mut setup: Setup, fail: fn(&Site)) -> anyhow::Result<()> {
    let hosts = setup.hosts;
    // An open circuit would leave nothing to judge.
    setup.policy["circuitBreaker"] = json!(null);
    let site = setup.start()?;
    site.warm_up()?;
    fail(&site);
    for _ in 0..3 {
        site.get("/failing", 100)?;
        std::thread::sleep(Duration::from_millis(120));
    }
    site.wait_for("hosts_out", 0)?;
    let log = site.envoy.log();
    let ejected = log.lines().filter(|line| line.contains("ejected for")).count();
    ensure!(ejected <= 2 * hosts, "{ejected} ejections; {}", site.story());
    // All of them are still asked.
    site.get("/failing-still", 25 * hosts)?;
    let attempts = site.attempts("/failing-still", 25 * hosts)?;
    for replica in 0..hosts {
        let share = site.on(replica, &attempts);
        ensure!(
            share * hosts * 2 >= attempts.len(),
            "replica {replica}: {share} of {}; {}",
            attempts.len(),
            site.story()
        );
    }
    for replica in &site.replicas {
        replica.set(Mode::Answer(200));
        replica.start()?;
    }
    site.until_all_are_in(&Request::get("/back"), Duration::from_secs(5))?;
    let statuses = site.get("/calm", 25 * hosts)?;
    ensure!(failed(&statuses).is_empty(), "{:?} after all were back; {}", failed(&statuses), site.story());
    Ok(())
}

/// Of two hosts one is out; then the other goes as well. Requests fail until one is back, and that one is found.
fn last_host_stays() -> anyhow::Result<()> {
    let site = Setup { hosts: 2, ..Setup::new(Level::Guard) }.start()?;
    site.warm_up()?;
    site.stop(0)?;
    ensure!(failed(&site.get("/one-out", 60)?).is_empty(), "one of two hosts is up: {}", site.story());
    site.wait_for("hosts_out", 1)?;
    site.stop(1)?;
    site.get("/both-down", 60)?;
    ensure!(site.metric("hosts_out") <= 1, "{}", site.story());
    site.replicas[1].start()?;
    let mut connection = site.connect()?;
    // The one that is up is found within a second, the one that is not does not matter.
    let watch = Watch::start();
    let found = wait::until(wait::LIMIT, || {
        let mut statuses = Vec::new();
        for _ in 0..20 {
            statuses.push(connection.exchange(&Request::get("/found")).map_err(|error| error.to_string())?.status);
        }
        if failed(&statuses).is_empty() { Ok(()) } else { Err(format!("{statuses:?}; {}", site.story())) }
    });
    found.map_err(anyhow::Error::msg)?;
    let took = watch.read();
    ensure!(took.is_within(Duration::from_secs(3)), "found after {took}; {}", site.story());
    site.replicas[0].start()?;
    site.until_all_are_in(&Request::get("/back"), Duration::from_secs(8))?;
    Ok(())
}

/// Three of four go: all of them are out, and the last one carries all.
fn all_but_one() -> anyhow::Result<()> {
    let site = Setup::new(Level::Guard).start()?;
    site.warm_up()?;
    for replica in 0..3 {
        site.stop(replica)?;
    }
    let statuses = site.get("/mostly-down", 80)?;
    site.wait_for("hosts_out", 3)?;
    let failed = failed(&statuses).len();
    ensure!(failed <= 3, "{failed} of {} failed though one host was up; {}", statuses.len(), site.story());
    Ok(())
}

/// Where half of the hosts may be out, the third outlier of four stays in, and is counted.
fn half_at_most() -> anyhow::Result<()> {
    let policy = json!({"role": "decide", "outlierDetection": {"maxEjectionPercent": 50}});
    let site = Setup { policy, ..Setup::new(Level::Guard) }.start()?;
    site.warm_up()?;
    for replica in 0..3 {
        site.stop(replica)?;
    }
    let statuses = site.get("/mostly-down", 80)?;
    site.wait_for("hosts_out", 2)?;
    ensure!(site.metric("ejections_withheld_total.reason.refused") >= 1, "{}", site.story());
    site.envoy.wait_for_log(&["is an outlier (refused), but 2 of 4 are out already"])?;
    ensure!(statuses.iter().filter(|status| **status == 200).count() >= 30, "{statuses:?}; {}", site.story());
    Ok(())
}
