//! Outlier detection in a simulated incident: seeded, in virtual time, the code under test unchanged.

use std::time::Duration;

use weir::detector::OutlierPolicy;
use weir::percent::Percent;
use weir::random::Random;

// The crate links only with a host beside it.
mod fake_host;
#[path = "simulation/replica.rs"]
mod replica;
#[path = "simulation/report.rs"]
mod report;
#[path = "simulation/world.rs"]
mod world;

use replica::Replica;
use report::Report;
use world::{Setup, World};

fn setup(seed: u64, lasts: u64, replicas: Vec<Replica>) -> Setup {
    Setup {
        seed,
        replicas,
        workers: 2,
        rate: 250,
        gets: 70,
        lasts: Duration::from_secs(lasts),
        policy: OutlierPolicy::default(),
        explore: Percent::from_basis_points(500).unwrap(),
        protected: true,
        avoids_previous: false,
        timeout: Duration::from_millis(500),
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

#[test]
fn the_incident() {
    let before = sum((0..20).map(|seed| Setup { protected: false, ..incident(seed, 60, 4) }));
    println!("retries only: {}", before.line());
    let report = sum((0..100).map(|seed| incident(seed, 60, 4)));
    println!("weir:         {}", report.line());
    for (percent, reset, avoids_previous) in [(5_000, 3, true), (10_000, 3, true), (10_000, 2, true), (10_000, 1, true)]
    {
        let mut policy = OutlierPolicy {
            max_ejection_percent: Percent::from_basis_points(percent).unwrap(),
            ..OutlierPolicy::default()
        };
        policy.reset.count = reset;
        let report = sum((0..100).map(|seed| Setup { policy, avoids_previous, ..incident(seed, 60, 4) }));
        println!("max {percent}, reset {reset}, previous {avoids_previous}: {}", report.line());
    }
    assert!(report.get_success() >= 0.999);
    assert!(report.attempts_per_request() <= 1.03);
}
