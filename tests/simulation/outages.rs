//! Outages of all hosts: how soon clients are answered once the first host is back, and what finding that out costs.

use std::time::Duration;

use weir::base::random::Random;
use weir::circuit::BreakerPolicy;

use super::invariants::{Rerun, seeds};
use super::replica::{Replica, State};
use super::setup;
use super::world::{Setup, World};

/// From the first host that is back to the first answer, as a client sees it: half of the outages end so soon, and all of them.
const MEDIAN: Duration = Duration::from_millis(100);
const WORST: Duration = Duration::from_millis(250);

/// What came of some outages.
#[derive(Debug, Default)]
struct Outages {
    found: Vec<Duration>,
    /// While no host was there.
    requests: u64,
    attempts: u64,
}

impl Outages {
    /// All hosts are away for so many milliseconds, and back in any order, the others half a second later than the first.
    fn run(&mut self, seed: u64, hosts: usize, rate: u64, gets: u64, lasts: u64) {
        let mut random = Random::new(seed ^ 0x0fa1);
        let from = 3_000 + random.below(500);
        let back = Duration::from_millis(from + lasts + random.below(300));
        let (from, later) = (Duration::from_millis(from), back + Duration::from_millis(500));
        let first = random.below(hosts as u64) as usize;
        let replica = |host| Replica::between(from, if host == first { back } else { later }, State::Refuses);
        let setup = setup(seed, 0, (0..hosts).map(replica).collect());
        let (lasts, breaker) = (later + Duration::from_secs(1), Some(BreakerPolicy::default()));
        let report = World::run(Setup { rate, evenly: true, gets, lasts, breaker, ..setup });
        let over = report.each.iter().filter_map(|each| each.over);
        let answered = over.filter(|(at, answered)| *answered && *at >= back).map(|(at, _)| at).min();
        self.found.push(answered.expect("somebody is answered") - back);
        let shed: usize = report.circuits.iter().map(|circuits| circuits.shed.len()).sum();
        self.requests += report.all.0 - report.requests + shed as u64;
        self.attempts += report.all.1 - report.attempts;
    }
}

/// A host that is back is met after a round of the others at most, whatever its number is, though hardly any request may be retried.
#[test]
fn an_outage_ends_with_the_first_host_that_is_back() {
    for (hosts, rate, gets) in [(2, 20, 100), (3, 20, 70), (4, 20, 100), (4, 20, 0), (4, 50, 70), (4, 100, 0)] {
        let mut all = Outages::default();
        for (lasts, runs) in [(1_000, 20), (2_000, 20), (5_000, 20), (30_000, 5)] {
            for seed in seeds(runs) {
                let _rerun = Rerun(seed, "outages");
                all.run(seed, hosts, rate, gets, lasts);
            }
        }
        all.found.sort_unstable();
        let (median, worst) = (all.found[all.found.len() / 2], all.found[all.found.len() - 1]);
        let attempts = all.attempts as f64 / all.requests as f64;
        let told = format!(
            "{hosts} hosts, {rate}/s, {gets} percent GET: median {median:.0?}, worst {worst:.0?}, {attempts:.2}"
        );
        println!("{told}");
        // Where a round of all hosts takes as long as that, half of it or all of it, and what is left to the balancer.
        let round = Duration::from_secs(1) * hosts as u32 / rate as u32;
        assert!(median <= MEDIAN.max(round * 7 / 10) && worst <= WORST.max(round * 7 / 5), "{told}");
        // A fifth, and what calmer times left for the requests that the outage finds on their way.
        assert!(attempts <= 1.25, "{told}");
    }
}
