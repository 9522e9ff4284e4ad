//! The targets of the incident at other rates, with other numbers of replicas and workers, and with replicas that hang; and
//! where the attempts go that replicas cost which are down.

use std::time::Duration;

use super::replica::{Replica, State};
use super::schedule::{Crash, Timeline};
use super::world::Setup;
use super::{setup, sum};

/// The schedules of `./build.sh compare incident`: at every moment one replica is up, and for half a second before another may crash.
fn crash_loops(seed: u64, lasts: u64, replicas: usize, then: State) -> Setup {
    let timelines = Timeline::crash_loops(seed, replicas, Duration::from_secs(lasts));
    let phases =
        |crash: Crash| [(crash.resets_from, State::Resets), (crash.refuses_from, then), (crash.back_at, State::Fine)];
    let replica = |timeline: Timeline| {
        let crashes = timeline.crashes.into_iter().flat_map(phases);
        Replica(std::iter::once((Duration::ZERO, State::Fine)).chain(crashes).collect())
    };
    setup(seed, lasts, timelines.into_iter().map(replica).collect())
}

fn incident(seed: u64, lasts: u64, replicas: usize) -> Setup {
    crash_loops(seed, lasts, replicas, State::Refuses)
}

/// The same, but that they hang where they would refuse.
fn hanging(seed: u64, lasts: u64, replicas: usize) -> Setup {
    crash_loops(seed, lasts, replicas, State::Hangs)
}

/// `WEIR_SEEDS=20 cargo test --release --test simulation -- targets --nocapture` tries more of them.
fn seeds() -> std::ops::Range<u64> {
    let seeds = std::env::var("WEIR_SEEDS").ok().map(|seeds| seeds.parse::<u64>().expect("WEIR_SEEDS is a number"));
    100..100 + seeds.unwrap_or(3)
}

fn sweep(name: &str, settings: &[(usize, u64, usize)], incident: &dyn Fn(u64, u64, usize) -> Setup, dead: f64) {
    for &(replicas, rate, workers) in settings {
        let report = sum(seeds().map(|seed| Setup { rate, workers, ..incident(seed, 30, replicas) }));
        println!(
            "{name}{replicas} replicas, {rate}/s, {workers} workers: {}\n  {}",
            report.line(),
            report.spent_line()
        );
        assert!(report.attempts_per_request() <= 1.06);
        assert!(report.mean_per_outage() <= dead);
        assert!(report.post_success() >= 0.98);
        assert_eq!(report.wrong, 0);
    }
}

#[test]
fn targets() {
    let settings = [(4, 250, 2), (50, 250, 2), (4, 1_000, 2), (2, 250, 2), (3, 50, 2), (10, 100, 2), (10, 250, 2)];
    sweep("", &settings, &incident, 12.0);
    sweep("", &[(20, 250, 2), (50, 1_000, 2), (4, 1_000, 4), (4, 250, 1)], &incident, 12.0);
    sweep("hanging: ", &[(4, 250, 2), (10, 250, 2), (2, 250, 2), (50, 250, 2)], &hanging, 30.0);
}
