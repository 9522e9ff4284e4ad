//! An outage that lasts: the budget holds at every moment of it, not on average, and comes back as time passes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::obedient;
use crate::alone::Test;
use crate::stage::Setup;
use crate::support::bootstrap::Attach;
use crate::support::client::Request;
use crate::support::wait;

pub const TESTS: &[Test] = &[
    ("budget::steady", steady),
    ("budget::outage_decide", || outage(Attach::DECIDE)),
    ("budget::outage_guard", || outage(Attach::GUARD)),
];

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
    let retried = |failed: &[Failed]| failed.iter().filter(|failed| failed.retried).count();
    // It comes back, however few requests a busy machine gets done in an interval.
    let comes_back = |share: &[Failed], floor: &[Failed]| retried(share) >= 2 && retried(floor) > FLOOR;
    while begin.elapsed() < INTERVAL * 7 / 2 || !comes_back(&share, &floor) && begin.elapsed() < wait::LIMIT {
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
    }
    let all = [share.len(), floor.len()];
    ensure!(comes_back(&share, &floor), "{} and {} retries of {all:?} requests", retried(&share), retried(&floor));
    Ok(())
}

/// What a calm interval saved is not for those that arrive while nothing answers.
fn outage(attach: Attach) -> Result<()> {
    const CALM: usize = 200;
    const FAILING: usize = 150;
    const WORKERS: usize = 2;
    const MAX_RETRIES: usize = 2;
    let upstream = obedient();
    let policy = json!({"circuitBreaker": null, "retry": {
        "maxRetries": MAX_RETRIES,
        "budget": {"percent": SHARE, "interval": "1m"},
        "minRetryRate": {"count": 0, "interval": "1s"},
    }});
    let setup = Setup::new(attach, policy).workers(WORKERS as u32);
    let stage = setup.cluster("orders", upstream.address).start()?;
    let mut clients = [stage.connect()?, stage.connect()?];
    for request in 0..CALM {
        clients[request % 2].exchange(&Request::get("/orders/ok"))?;
    }
    // The last second, in eleven tenths.
    let calm = Instant::now();
    stage.wait_for("a second is over", |_| {
        if calm.elapsed() > Duration::from_millis(1_200) { Ok(()) } else { Err("it is not".to_owned()) }
    })?;
    for request in 0..FAILING {
        let wish = if request % 4 < 2 { "503" } else { "reset" };
        let response = clients[request % 2].exchange(&Request::get(&format!("/orders/{wish}")))?;
        ensure!(response.status == 503, "{response:?}");
    }
    let retries = super::retries(&upstream);
    // The share of their own; and the first request of each worker, which finds out. The calm ones had saved 40.
    let (least, most) = (1, FAILING * SHARE / 100 + WORKERS * MAX_RETRIES);
    ensure!((least..=most).contains(&retries), "{retries} retries of {FAILING} requests, not {least} to {most}");
    Ok(())
}
