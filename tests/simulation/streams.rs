//! Streams: WebSockets and events, which are answered at once and end at any time. That they end does no harm, and a host that goes
//! is found out though nothing else is sent.

use std::time::Duration;

use weir::base::random::Random;
use weir::circuit::BreakerPolicy;

use super::invariants::{Rerun, seeds};
use super::replica::{Replica, State};
use super::report::Report;
use super::router::{Close, Head};
use super::world::{Ends, Setup, Streams, World};
use super::{seconds, setup};

const SEEDS: u64 = 200;

fn head(random: &mut Random) -> Head {
    [Head::Upgrade, Head::Events][random.below(2) as usize]
}

/// Streams that healthy hosts, clients or Envoy end, alone or among other requests.
fn streams_end(seed: u64) -> Setup {
    let mut random = Random::new(seed ^ 0x57e);
    let hosts = 1 + random.below(5) as usize;
    let ends = match random.below(5) {
        0 => Ends::Each(Close::Idle),
        1 => Ends::Each(Close::Client),
        2 => Ends::Together(Duration::from_millis(500 + random.below(1_500))),
        _ => Ends::Each(Close::Host),
    };
    let longest = 100 + random.below(2_000);
    let percent = [100, 90, 50, 10][random.below(4) as usize];
    let streams = Streams { percent, head: head(&mut random), lasts: (50, longest), ends };
    let mut setup = setup(seed, 8, vec![Replica::always(State::Fine); hosts]);
    setup.streams = Some(streams);
    setup.workers = 1 + random.below(4) as usize;
    setup.rate = [5, 25, 60, 200][random.below(4) as usize];
    setup.breaker = Some(BreakerPolicy::default());
    setup
}

fn shed(report: &Report) -> usize {
    report.circuits.iter().map(|circuits| circuits.shed.len() + circuits.events.len()).sum()
}

/// However streams end, nothing is shed, no host is out, and each request is sent once and answered.
#[test]
fn streams_that_end() {
    let mut all = 0;
    for seed in seeds(SEEDS) {
        let _rerun = Rerun(seed, "streams_that_end");
        let setup = streams_end(seed);
        let report = World::run(setup.clone());
        assert_eq!((shed(&report), report.ejections), (0, 0), "{setup:#?}");
        for each in &report.each {
            assert!(each.started == 1 && each.over.is_none_or(|(_, answered)| answered), "{each:?}: {setup:#?}");
        }
        all += report.each.len();
    }
    assert!(all > 100 * seeds(SEEDS).count(), "nothing happened");
}

/// One of some hosts goes, when there are streams alone, and their clients connect anew all at once.
fn one_goes(seed: u64) -> Setup {
    let mut random = Random::new(seed ^ 0x60e5);
    let hosts = 3 + random.below(6) as usize;
    let mut replicas = vec![Replica::always(State::Fine); hosts];
    let from = Duration::from_millis(4_000 + random.below(1_000));
    let to = from + Duration::from_millis(2_000 + random.below(3_000));
    replicas[random.below(hosts as u64) as usize] = Replica::between(from, to, State::Refuses);
    // Some see none of their streams end.
    let lasts = [(2_000, 5_000), (2_000, 20_000), (60_000, 90_000)][random.below(3) as usize];
    let streams = Streams { percent: 100, head: head(&mut random), lasts, ends: Ends::Each(Close::Host) };
    let mut setup = setup(seed, 12, replicas);
    setup.streams = Some(streams);
    setup.workers = 1 + random.below(4) as usize;
    setup.rate = [10, 20, 60][random.below(3) as usize];
    setup.breaker = Some(BreakerPolicy::default());
    setup.protected = random.below(3) > 0;
    setup
}

/// In a service of nothing but streams, a host that goes is out within a handful of attempts, where hosts are judged at all; its clients
/// are answered by the others, and nothing is shed.
#[test]
fn nothing_but_streams_and_a_host_goes() {
    let (mut refused, mut runs) = (0, 0);
    for seed in seeds(SEEDS) {
        let _rerun = Rerun(seed, "nothing_but_streams");
        let setup = one_goes(seed);
        let report = World::run(setup.clone());
        let told = || format!("{}: {setup:#?}", report.line());
        assert_eq!((shed(&report), report.wrong), (0, 0), "{}", told());
        let over = |each: &&super::report::Each| each.arrived + seconds(1) < setup.lasts;
        let lost = report.each.iter().filter(over).filter(|each| !each.is_answered(seconds(1))).count();
        assert_eq!(lost, 0, "{}", told());
        if !setup.protected {
            continue;
        }
        let attempts = report.per_outage.iter().sum::<u64>();
        assert!(report.ejections > 0, "{}", told());
        (refused, runs) = (refused + attempts, runs + 1);
    }
    println!("{refused} attempts on hosts that were gone, in {runs} runs");
    assert!(refused <= 20 * runs, "{refused} attempts in {runs} runs");
}
