//! A host that hangs: it takes requests and answers none, and nothing is set that would end them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::busy::stage;
use super::rate::{Rate, Sent};
use crate::alone::Test;
use crate::breaker::metric;
use crate::support::bootstrap::Attach;
use crate::support::client::Request;
use crate::support::delay::Watch;
use crate::support::upstream::{Step, answer, http1};

pub const TIMED: &[Test] = &[
    ("harm::hangs::one_of_four", || one_of_four(Attach::GUARD)),
    ("harm::hangs::decide::one_of_four", || one_of_four(Attach::DECIDE)),
];

/// An answer within this time is one.
const IN_TIME: Duration = Duration::from_secs(1);
/// A round in which the machine was away for this long says nothing if it fails.
const AWAY: Duration = Duration::from_millis(500);

fn one_of_four(attach: Attach) -> Result<()> {
    const ROUNDS: u32 = 3;
    let mut told = String::new();
    for _ in 0..ROUNDS {
        let watch = Watch::start();
        match round(attach)? {
            Ok(()) => return Ok(()),
            Err(how) => told.push_str(&how),
        }
        let away = watch.read();
        ensure!(away.delayed >= AWAY, "{told}");
        told.push_str(&format!(", in {away}\n"));
    }
    bail!("{told}")
}

/// 100 requests a second, three of ten of which may not be repeated. GETs do not wait for the host, and POSTs do not meet it, but for
/// the first.
fn round(attach: Attach) -> Result<Result<(), String>> {
    let word = Arc::<AtomicBool>::default();
    let host = |number| {
        let word = Arc::clone(&word);
        http1(move |_| match number == 0 && word.load(Ordering::SeqCst) {
            true => [vec![Step::Wait(Duration::from_secs(4))], answer(200, &[], "")].concat(),
            false => answer(200, &[], ""),
        })
    };
    let hosts: Vec<_> = (0..4).map(host).collect();
    let stage = stage(attach, &hosts)?;
    let (gets, posts) = (Request::get("/orders/1"), Request::post("/orders/1"));
    let (gets, posts) = (Rate::start(stage.address, 70, &gets), Rate::start(stage.address, 30, &posts));
    std::thread::sleep(Duration::from_secs(4));
    let hangs = Instant::now();
    word.store(true, Ordering::SeqCst);
    std::thread::sleep(Duration::from_secs(4));
    let (gets, posts) = (gets.stop(), posts.stop());
    let waited = |sent: &[Sent], from: Duration, until: Duration| {
        let within = |sent: &&Sent| (hangs + from..hangs + until).contains(&sent.at);
        let late = |sent: &&Sent| !sent.answered() || sent.ended - sent.at > IN_TIME;
        sent.iter().filter(within).filter(late).count()
    };
    let (first, long) = (Duration::from_secs(1), Duration::from_secs(4));
    let late = waited(&gets, Duration::from_millis(300), long);
    let (lost, later) = (waited(&posts, Duration::ZERO, first), waited(&posts, first, long));
    let told = format!("{late} GETs waited; of the POSTs of the first second {lost} did, and {later} later ones");
    ensure!(metric(&stage, "ejections_total.reason.timeout") > 0, "{told}");
    // Without Weir all clients soon wait there. One of each is granted to a machine that has other work.
    let well = late <= 1 && lost <= 2 && later <= 1;
    Ok(if well { Ok(()) } else { Err(format!("{told}; {}", stage.envoy().log_end())) })
}
