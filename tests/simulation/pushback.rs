//! Hosts that push back: one that is busy while others answer is left alone, and where most are, nothing is retried.

use std::time::Duration;

use weir::base::random::Random;
use weir::circuit::BreakerPolicy;
use weir::signal::Signal;

use super::invariants::{Rerun, seeds};
use super::replica::{Replica, State};
use super::report::Report;
use super::world::{Setup, World};
use super::{seconds, setup};

const SEEDS: u64 = 200;
const FROM: Duration = Duration::from_secs(3);
const LASTS: u64 = 10;

/// So many of some hosts are busy, from [`FROM`] on.
fn busy(seed: u64, most: bool) -> (Setup, usize) {
    let mut random = Random::new(seed ^ 0xb5);
    let hosts = 3 + random.below(6) as usize;
    let busy = if most { hosts.div_ceil(2) + 1 + random.below(2) as usize } else { 1 }.min(hosts);
    let percent = if most { 100 } else { 60 + random.below(41) };
    let replica = |host| match host < busy {
        true => Replica::between(FROM, seconds(2 * LASTS), State::Mixed(Signal::Pushback, percent)),
        false => Replica::always(State::Fine),
    };
    let mut setup = setup(seed, LASTS, (0..hosts).map(replica).collect());
    setup.workers = 1 + random.below(4) as usize;
    setup.rate = [40, 100, 400][random.below(3) as usize];
    setup.evenly = true;
    setup.breaker = Some(BreakerPolicy::default());
    (setup, busy)
}

/// GETs and POSTs that arrived since then, and how many of them failed.
fn failed(report: &Report, from: Duration) -> [(u64, u64); 2] {
    let mut sum = [(0, 0); 2];
    for each in report.each.iter().filter(|each| each.arrived >= from) {
        let (all, failed) = &mut sum[usize::from(!each.get)];
        *all += 1;
        *failed += u64::from(each.over.is_some_and(|(_, answered)| !answered));
    }
    sum
}

/// What may be repeated goes elsewhere, and the busy host is asked about once a second by each worker.
#[test]
fn one_busy_host() {
    let (mut gets, mut posts) = ((0, 0), (0, 0));
    for seed in seeds(SEEDS) {
        let _rerun = Rerun(seed, "one_busy_host");
        let (setup, _) = busy(seed, false);
        let report = World::run(setup.clone());
        let [of_gets, of_posts] = failed(&report, FROM);
        let told = format!("GET {of_gets:?} POST {of_posts:?} {}: {setup:#?}", report.line());
        assert_eq!(report.ejections, 0, "{told}");
        assert!(report.circuits.iter().all(|circuits| circuits.events.is_empty()), "{told}");
        gets = (gets.0 + of_gets.0, gets.1 + of_gets.1);
        posts = (posts.0 + of_posts.0, posts.1 + of_posts.1);
    }
    println!("GETs {gets:?}, POSTs {posts:?}");
    assert!(gets.1 * 1_000 <= gets.0, "GETs fail: {gets:?}");
    // A fifth of them would, where it got its share.
    assert!(posts.1 * 25 <= posts.0, "POSTs fail: {posts:?}");
}

/// Where most hosts push back, they are right: nothing is retried, once that is known.
#[test]
fn most_hosts_are_busy() {
    let (mut requests, mut attempts) = (0, 0);
    for seed in seeds(SEEDS) {
        let _rerun = Rerun(seed, "most_hosts_are_busy");
        let (setup, _) = busy(seed, true);
        let report = World::run(setup.clone());
        assert_eq!(report.ejections, 0, "{}: {setup:#?}", report.line());
        assert!(report.circuits.iter().all(|circuits| circuits.events.is_empty()), "{setup:#?}");
        let known = FROM + seconds(1);
        requests += report.each.iter().filter(|each| each.arrived >= known).count();
        attempts += report.sent.iter().flatten().filter(|at| **at >= known).count();
    }
    println!("{attempts} attempts of {requests} requests");
    assert!(attempts * 100 <= requests * 101, "{attempts} attempts of {requests} requests");
}
