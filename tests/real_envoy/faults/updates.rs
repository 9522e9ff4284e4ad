//! Another policy, another module, every second, under load, while a host is out: nothing fails, nothing is forgotten.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::alone::Test;
use crate::ejection::load::{Load, failed};
use crate::ejection::site::Setup;
use crate::level::Level;
use crate::support::client::Request;

pub const TIMED: &[Test] = &[("faults::updates_every_second", updates_every_second)];

/// How many updates, each a second after the one before.
const UPDATES: u32 = 8;

fn policy(retries: u32) -> Value {
    json!({
        "role": "decide",
        "retry": {"maxRetries": retries},
        // Nothing meets the host but for a reason.
        "steering": {"explorePercent": 0},
        "outlierDetection": {"baseEjectionTime": "1m", "maxEjectionTime": "1m"},
    })
}

fn updates_every_second() -> Result<()> {
    let mut site = Setup { policy: policy(2), workers: 2, ..Setup::new(Level::Guard) }.start()?;
    site.warm_up()?;
    site.stop(0)?;
    let statuses = site.get("/out", 60)?;
    ensure!(failed(&statuses).is_empty(), "{:?}; {}", failed(&statuses), site.story());
    site.wait_for("hosts_out", 1)?;
    let load = Load::start(&site, 8, Duration::from_millis(4), &Request::get("/load"));
    for update in 0..UPDATES {
        let began = Instant::now();
        match update % 3 {
            0 => site.update_policy(policy(1 + update % 4))?,
            1 => site.update_module()?,
            // Back to the module of before, with another policy.
            _ => site.update_policy(policy(3))?,
        }
        std::thread::sleep(Duration::from_secs(1).saturating_sub(began.elapsed()));
    }
    let statuses = load.stop();
    // Where a listener goes away, its connections are closed: a client then sees no status, and sends it again.
    let closed = statuses.iter().filter(|status| **status == 0).count();
    let met = site.on(0, &site.attempts("/load", statuses.len() - closed)?);
    println!("{UPDATES} updates, {} requests, {met} attempts on the host that is out", statuses.len());
    let refused: Vec<_> = failed(&statuses).into_iter().filter(|status| *status != 0).collect();
    ensure!(refused.is_empty(), "{refused:?} of {}; {}", statuses.len(), site.story());
    ensure!(site.metric("hosts_out") == 1, "{} are out; {}", site.metric("hosts_out"), site.story());
    let (ejected, back) = (site.metric("ejections_total.reason.refused"), site.metric("readmissions_total"));
    ensure!((ejected, back) == (1, 0), "{ejected} ejections, {back} readmissions; {}", site.story());
    ensure!(met * 50 < statuses.len(), "{met} of {} met the host that was out; {}", statuses.len(), site.story());
    Ok(())
}
