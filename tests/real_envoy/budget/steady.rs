//! An outage that lasts: the budget holds at every moment of it, not on average, and comes back as time passes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::obedient;
use crate::alone::Test;
use crate::stage::Setup;
use crate::support::bootstrap::Attach;
use crate::support::client::Request;

pub const TESTS: &[Test] = &[("budget::steady", steady)];

const INTERVAL: Duration = Duration::from_secs(1);
const SHARE: usize = 20;
const FLOOR: usize = 7;

/// A request that failed: when it was sent, when its answer was there, and whether it was retried in between.
struct Failed {
    sent: Instant,
    answered: Instant,
    retried: bool,
}

/// Requests fail for several intervals, two at a time, one at each worker.
fn steady() -> Result<()> {
    let upstream = obedient();
    let retry = |percent: usize, floor: usize| {
        json!({
            "maxRetries": 1,
            "budget": {"percent": percent, "interval": "1s"},
            "minRetryRate": {"count": floor, "interval": "1s"},
        })
    };
    let policy = json!({"clusters": [
        {"match": "share", "retry": retry(SHARE, 0)},
        {"match": "floor", "retry": retry(0, FLOOR)},
    ]});
    let setup = Setup::new(Attach::GUARD, policy).workers(2);
    let stage = setup.cluster("share", upstream.address).cluster("floor", upstream.address).start()?;
    let mut clients = [stage.connect()?, stage.connect()?];
    let (mut share, mut floor) = (Vec::new(), Vec::new());
    let begin = Instant::now();
    while begin.elapsed() < INTERVAL * 7 / 2 {
        for (cluster, failed) in [("share", &mut share), ("floor", &mut floor)] {
            let wish = if failed.len() % 4 < 2 { "once-503" } else { "once-reset" };
            let sent = Instant::now();
            for client in &mut clients {
                client.send(&Request::get(&format!("/{cluster}/{wish}")))?;
            }
            for client in &mut clients {
                let mut response = client.read_head()?;
                client.read_body(&mut response)?;
                let retried = response.header("x-envoy-ratelimited").is_none();
                failed.push(Failed { sent, answered: Instant::now(), retried });
            }
        }
    }
    for (name, failed) in [("share", &share), ("floor", &floor)] {
        for last in failed.iter().filter(|failed| failed.retried) {
            // Retries that were within one interval for sure, and requests that may have been.
            let retries = failed.iter().filter(|first| {
                first.retried && first.answered <= last.answered && first.sent + INTERVAL > last.answered
            });
            let requests =
                failed.iter().filter(|first| first.sent <= last.answered && first.answered + INTERVAL > last.sent);
            let most = if name == "share" { requests.count() * SHARE / 100 } else { FLOOR };
            let retries = retries.count();
            ensure!(retries <= most, "{name}: {retries} retries within {INTERVAL:?}, not {most}");
        }
        // It comes back. How often, depends on how many requests a busy machine gets done.
        let retried = failed.iter().filter(|failed| failed.retried).count();
        let least = if name == "share" { 2 } else { FLOOR + 1 };
        ensure!(retried >= least, "{name}: {retried} retries of {} requests, not even {least}", failed.len());
    }
    Ok(())
}
