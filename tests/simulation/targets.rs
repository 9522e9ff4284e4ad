//! The targets of the incident at other rates, with other numbers of replicas and workers, and with replicas that hang; and
//! where the attempts go that replicas cost which are down.

use super::replica::State;
use super::world::Setup;
use super::{incident, sum};

/// As in the incident, but that they hang where they would refuse.
fn hanging(seed: u64, lasts: u64, replicas: usize) -> Setup {
    let mut setup = incident(seed, lasts, replicas);
    for (_, state) in setup.replicas.iter_mut().flat_map(|replica| &mut replica.0) {
        if *state == State::Refuses {
            *state = State::Hangs;
        }
    }
    setup
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
