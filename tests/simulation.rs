//! Outlier detection in a simulated incident: seeded, in virtual time, the code under test unchanged.

use std::time::Duration;

use weir::base::percent::Percent;
use weir::base::random::Random;
use weir::outlier::detector::OutlierPolicy;
use weir::signal::Signal;

// The crate links only with a host beside it.
#[path = "simulation/circuit.rs"]
mod circuit;
mod fake_host;
#[allow(dead_code, reason = "the benchmark uses more of it")]
#[path = "simulation/fleet/mod.rs"]
mod fleet;
#[path = "simulation/fleets.rs"]
mod fleets;
#[path = "simulation/hangs.rs"]
mod hangs;
#[path = "simulation/invariants.rs"]
mod invariants;
#[path = "simulation/left_out.rs"]
mod left_out;
#[path = "simulation/outages.rs"]
mod outages;
#[path = "simulation/pushback.rs"]
mod pushback;
#[path = "simulation/replica.rs"]
mod replica;
#[path = "simulation/report.rs"]
mod report;
#[allow(dead_code, reason = "weir replay uses more of it")]
#[path = "../src/bin/weir/replay/retry_on.rs"]
mod retry_on;
#[path = "support/router.rs"]
mod router;
#[allow(dead_code, reason = "the comparisons use more of it")]
#[path = "crash_loops/schedule.rs"]
mod schedule;
#[path = "support/sim_host.rs"]
mod sim_host;
#[path = "simulation/spread.rs"]
mod spread;
#[path = "simulation/streams.rs"]
mod streams;
#[path = "simulation/targets.rs"]
mod targets;
#[path = "simulation/world.rs"]
mod world;

use replica::{Replica, State};
use report::Report;
use world::{Setup, World};

fn setup(seed: u64, lasts: u64, replicas: Vec<Replica>) -> Setup {
    Setup {
        seed,
        replicas,
        workers: 2,
        proxies: 1,
        rate: 250,
        evenly: false,
        gets: 70,
        slow: 0,
        fails: None,
        streams: None,
        drained: None,
        lasts: Duration::from_secs(lasts),
        policy: OutlierPolicy::default(),
        explore: Percent::from_basis_points(500).unwrap(),
        protected: true,
        avoids_previous: true,
        timeout: Duration::from_millis(500),
        breaker: None,
        leaves: None,
    }
}

fn incident(seed: u64, lasts: u64, replicas: usize) -> Setup {
    let mut random = Random::new(seed ^ 0x5eed);
    let schedules = (0..replicas).map(|_| Replica::crash_loop(&mut random, Duration::from_secs(lasts))).collect();
    setup(seed, lasts, schedules)
}

fn sum(setups: impl Iterator<Item = Setup>) -> Report {
    let mut sum = Report::default();
    setups.for_each(|setup| sum.add(World::run(setup)));
    sum
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn the_incident() {
    let report = sum((0..10).map(|seed| incident(seed, 60, 4)));
    println!("{}", report.line());
    let (attempts, back) = report.quantiles(0.5);
    assert!(report.get_success() >= 0.999);
    assert!(report.post_success() >= 0.995);
    assert!(report.attempts_per_request() <= 1.03);
    assert!(attempts <= 8);
    assert!(back <= Duration::from_millis(1_500));
    assert_eq!(report.wrong, 0, "a host that was fine was ejected");
}

/// What the defaults are measured against.
#[test]
fn the_incident_under_other_policies() {
    let run = |name: &str, change: &dyn Fn(&mut Setup)| {
        let report = sum((0..4).map(|seed| {
            let mut setup = incident(seed, 60, 4);
            change(&mut setup);
            setup
        }));
        println!("{name}: {}", report.line());
        report
    };
    run("defaults", &|_| {});
    let none = run("retries only", &|setup| setup.protected = false);
    // Most hosts answer: so what was refused is retried for nothing.
    assert!(none.get_success() < 0.98 && none.post_success() < 0.95);
    // Where two are out, a third that is down keeps its share, and takes more retries than the budget has.
    let bound = Percent::from_basis_points(5_000).unwrap();
    let half = run("at most half out", &|setup| setup.policy.max_ejection_percent = bound);
    assert!(half.get_success() > 0.996 && half.attempts_per_request() < 1.08);
    let three = run("three resets", &|setup| setup.policy.reset.count = 3);
    assert!(three.get_success() > 0.999);
    let posts = run("POST only", &|setup| setup.gets = 0);
    assert!(posts.post_success() > 0.99 && posts.quantiles(0.5).1 < seconds(3));
    run("without previous_hosts", &|setup| setup.avoids_previous = false);
}

/// However many workers share the requests, a replica that is down costs as much: they share evidence, and explore together.
#[test]
fn the_incident_with_other_workers() {
    for (workers, rate) in [(1, 250), (4, 250), (8, 250), (8, 1_000)] {
        let report = sum((0..4).map(|seed| Setup { workers, rate, ..incident(seed, 60, 4) }));
        println!("{workers} workers, {rate}/s: {}", report.line());
        assert!(report.get_success() >= 0.9995 && report.post_success() >= 0.997);
        assert!(report.attempts_per_request() <= 1.015);
        assert!(report.quantiles(0.5).0 <= 7);
    }
}

#[test]
fn other_sizes() {
    for (replicas, rate) in [(2, 100), (3, 50), (4, 50), (10, 500), (50, 250), (50, 1_000)] {
        let report = sum((0..4).map(|seed| Setup { rate, ..incident(seed, 30, replicas) }));
        println!("{replicas} replicas, {rate}/s: {}", report.line());
        assert!(report.get_success() >= 0.995);
        assert!(report.attempts_per_request() <= 1.06);
        assert_eq!(report.wrong, 0);
    }
}

/// All fail, then all are fine: nobody stays out for what the others did as well.
#[test]
fn a_total_outage() {
    for (replicas, state) in [(2, State::Refuses), (4, State::Refuses), (4, State::Resets), (20, State::Refuses)] {
        for seed in 0..4 {
            let all = vec![Replica::between(seconds(5), seconds(12), state); replicas];
            let report = World::run(setup(seed, 14, all));
            let late = report.back.iter().max().copied().unwrap_or_default();
            // Once an outage has used the budget up, no request would be repeated whatever happens, so the hosts that failed last
            // are tried by the few that explore: the last of many waits for longer.
            let most = Duration::from_millis(if replicas > 4 { 2_000 } else { 1_000 });
            assert!(late < most, "{replicas} {state:?} {seed}: {}", report.line());
            assert_eq!(report.out_at_end, 0);
        }
    }
}

/// What each host shows makes none an outlier, once there was enough to see that. (In two runs of 20 s.)
#[test]
fn failures_everywhere() {
    let (refused, error, reset) = (Signal::Refused, Signal::Error, Signal::Reset);
    for (signal, percent, most) in
        [(error, 30, 10), (error, 100, 0), (reset, 1, 25), (reset, 20, 30), (refused, 20, 30)]
    {
        for replicas in [2, 4, 50] {
            let report = sum((0..2).map(|seed| {
                let all = vec![Replica::always(State::Mixed(signal, percent)); replicas];
                Setup { rate: 500, ..setup(seed, 20, all) }
            }));
            println!("{signal:?} {percent} {replicas}: {}", report.line());
            assert!(report.ejections <= most * replicas as u64, "{signal:?} {percent} {replicas}");
        }
    }
}

/// One host of some fails six of ten times, or hangs: it is out within a handful, and back when it is fine.
#[test]
fn one_bad_host() {
    let mixed = |signal| State::Mixed(signal, 60);
    let states = [mixed(Signal::Reset), mixed(Signal::Error), mixed(Signal::Timeout), State::Hangs, State::Refuses];
    for replicas in [2, 4, 50, 500] {
        for state in states {
            let seeds = match replicas {
                0..5 => 12,
                5..=100 => 3,
                _ => 1,
            };
            let report = sum((0..seeds).map(|seed| {
                let mut all = vec![Replica::always(State::Fine); replicas];
                all[0] = Replica::between(seconds(4), seconds(9), state);
                Setup { rate: 50 * replicas.min(20) as u64, ..setup(seed, 12, all) }
            }));
            println!("{replicas} {state:?}: {}", report.line());
            assert_eq!(report.wrong, 0);
            let ((usual, _), (most, _)) = (report.quantiles(0.5), report.quantiles(0.99));
            assert!(usual <= 45 && most <= 95, "{usual} attempts on it, {most} at most");
        }
    }
}
