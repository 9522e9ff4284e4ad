//! What `./build.sh compare incident` makes of requests and attempts, on some that were made up.

// What the comparison consists of; a part of it is used here.
#![allow(dead_code, unused_imports)]

#[path = "crash_loops/mod.rs"]
mod crash_loops;
#[path = "support/mod.rs"]
mod support;

#[path = "compare/attempts.rs"]
mod attempts;
#[path = "compare/finding.rs"]
mod finding;
#[path = "compare/incident/mod.rs"]
mod incident;
#[path = "compare/policy.rs"]
mod policy;
#[path = "compare/proxy.rs"]
mod proxy;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use attempts::{Attempt, End};
use crash_loops::load::{Failure, Outcome};
use crash_loops::schedule::{Crash, Timeline};
use incident::Trial;
use incident::measure::{Measured, quantile};
use incident::targets;
use policy::Policy;

const CALM: Duration = Duration::from_secs(5);
const LENGTH: Duration = Duration::from_secs(25);
const BEGAN: Duration = Duration::from_secs(1_000);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn replica(number: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8081 + number))
}

/// The second of two replicas is down from 10 s to 12 s.
fn timelines() -> Vec<Timeline> {
    let crash = Crash { resets_from: millis(10_000), refuses_from: millis(10_500), back_at: millis(12_000) };
    vec![Timeline::default(), Timeline { crashes: vec![crash] }]
}

fn attempt(at: u64, number: u32, end: End, answered: bool, host: u16) -> Attempt {
    Attempt {
        began: BEGAN + millis(at),
        lasted: millis(4),
        number,
        end,
        answered,
        host: Some(replica(host)),
        request: None,
    }
}

/// A request each 10 ms, in turns to both replicas as far as they are up; every tenth is a POST.
fn trial(back_after: u64) -> Trial {
    let mut attempts = Vec::new();
    let outcome = |id: u64| {
        let due = id * 10;
        let latency = if due < 5_000 { millis(8) } else { millis(12) };
        let method = if id.is_multiple_of(10) { Method::POST } else { Method::GET };
        Outcome { id, method, due: millis(due), result: Ok(()), latency }
    };
    let outcomes: Vec<Outcome> = (0..2_500).map(outcome).collect();
    for outcome in &outcomes {
        let due = outcome.due.as_millis() as u64;
        let up = !(10_000..12_000 + back_after).contains(&due);
        attempts.push(attempt(due, 1, End::Sent, true, u16::from(up) * (outcome.id % 2) as u16));
    }
    Trial {
        policy: Policy::Weir,
        outcomes,
        ledger: Arc::default(),
        replicas: vec![replica(0), replica(1)],
        attempts,
        log: String::new(),
        began: BEGAN,
    }
}

fn measure(trial: &Trial) -> Measured {
    Measured::new(trial, &timelines(), CALM, LENGTH)
}

/// What is to compare with: all is well in it.
fn measured_well() -> Measured {
    measure(&trial(0))
}

#[test]
fn nothing_is_missed_where_all_is_well() {
    let measured = measure(&trial(400));
    assert_eq!((measured.get.part, measured.get.whole, measured.post.whole), (1_800, 1_800, 200));
    assert_eq!((measured.attempts.part, measured.attempts.whole), (2_000, 2_000));
    assert_eq!((measured.dead.part, measured.dead.whole), (0, 1));
    assert_eq!(measured.back, [millis(410)]);
    assert_eq!(measured.half_share, [millis(410)]);
    assert_eq!((measured.p50, measured.p99, measured.calm_p99), (millis(12), millis(12), millis(8)));
    assert_eq!(targets::missed(&measured, &measured_well()), Vec::<String>::new());
}

#[test]
fn failures_count_and_what_was_stopped_does_not() {
    let mut trial = trial(400);
    // In the calm: not of the incident.
    trial.outcomes[100].result = Err(Failure::Reset);
    // Two GETs of 1,800 are 0.11 percent.
    trial.outcomes[1_001].result = Err(Failure::Refused);
    trial.outcomes[1_003].result = Err(Failure::NoAnswer);
    for number in 0..9 {
        trial.attempts.push(attempt(10_000 + number, 1, End::Unconnected, false, 1));
    }
    trial.attempts.push(attempt(10_100, 2, End::Vetoed, false, 1));
    let measured = measure(&trial);
    assert_eq!(measured.under_way, 0);
    assert_eq!(measured.get.part, 1_798);
    assert_eq!(measured.attempts.part, 2_009);
    assert_eq!(measured.dead.part, 9);
    // One began with each millisecond, and took four.
    assert_eq!(measured.unknowable.0, 5);
    assert_eq!(measured.least_per_crash(), 5.0);
    let missed = targets::missed(&measured, &measured_well());
    assert_eq!(missed.len(), 2, "{missed:?}");
    assert!(missed[0].contains("GETs") && missed[1].contains("9.0 attempts were lost"), "{missed:?}");
}

#[test]
fn what_was_under_way_is_told_apart() {
    let mut trial = trial(400);
    trial.attempts.extend([9_997, 9_999, 10_000].map(|at| attempt(at, 1, End::Sent, false, 1)));
    let measured = measure(&trial);
    assert_eq!((measured.dead.part, measured.under_way, measured.under_way_per_crash()), (3, 2, 2.0));
}

#[test]
fn a_replica_that_gets_no_traffic_is_noticed() {
    let measured = measure(&trial(1_600));
    assert_eq!(measured.back, [millis(1_610)]);
    assert!(targets::missed(&measured, &measured_well())[0].contains("got traffic after"));
    // A single request is no share.
    let mut trial = trial(3_000);
    trial.attempts.push(attempt(12_100, 1, End::Sent, true, 1));
    let measured = measure(&trial);
    assert_eq!((measured.back[0], measured.half_share[0]), (millis(100), millis(3_010)));
}

#[test]
fn slow_answers_are_held_against_the_calm() {
    let mut trial = trial(0);
    for outcome in trial.outcomes.iter_mut().filter(|outcome| outcome.due >= CALM).take(30) {
        outcome.latency = millis(25);
    }
    let measured = measure(&trial);
    assert_eq!(measured.p99, millis(25));
    assert!(targets::missed(&measured, &measured_well())[0].contains("p99"));
    // Unless everybody was slow just then.
    assert_eq!(targets::missed(&measured, &measured), Vec::<String>::new());
}

#[test]
fn quantiles_are_values_that_were_there() {
    assert_eq!(quantile(&[], 50), Duration::ZERO);
    let sorted: Vec<Duration> = (1..=100).map(millis).collect();
    assert_eq!([0, 50, 99, 100].map(|percent| quantile(&sorted, percent)), [1, 50, 99, 100].map(millis));
}
