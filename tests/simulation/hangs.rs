//! A replica that hangs, and what takes long by nature: the one is found, and the other left alone.

use std::time::Duration;

use weir::signal::Signal;

use super::replica::{Replica, State};
use super::report::{Each, Report};
use super::world::{SLOW, Setup, World};
use super::{seconds, setup};

/// When the replica begins to hang, and how long it is watched. Nobody's patience ends before.
const HANGS: Duration = Duration::from_secs(5);
const LASTS: Duration = Duration::from_secs(14);

/// One of four replicas hangs.
fn one_hangs(seed: u64, rate: u64) -> Report {
    let mut replicas = vec![Replica::always(State::Fine); 4];
    replicas[seed as usize % 4] = Replica::between(HANGS, 2 * LASTS, State::Hangs);
    World::run(Setup { rate, timeout: LASTS, ..setup(seed, LASTS.as_secs(), replicas) })
}

/// How many requests of a kind arrived within a time after the replica began to hang, and how many of these were not answered within a
/// second.
fn lost(report: &Report, get: bool, from: u64, to: u64) -> (usize, usize) {
    let (from, to) = (HANGS + Duration::from_millis(from), HANGS + Duration::from_millis(to));
    let of = |each: &&Each| each.get == get && (from..to).contains(&each.arrived);
    let all = report.each.iter().filter(of);
    (all.clone().count(), all.filter(|each| !each.is_answered(seconds(1))).count())
}

#[test]
fn a_replica_that_hangs_is_found() {
    for rate in [100, 400] {
        let (mut gets, mut first, mut later) = ((0, 0), (0, 0), (0, 0));
        for seed in 0..40 {
            let report = one_hangs(seed, rate);
            let add = |sum: &mut (usize, usize), (all, lost)| *sum = (sum.0 + all, sum.1 + lost);
            add(&mut gets, lost(&report, true, 300, 7_500));
            add(&mut first, lost(&report, false, 0, 1_000));
            add(&mut later, lost(&report, false, 1_000, 7_500));
            let calm: Vec<_> = report.each.iter().filter(|each| each.arrived < HANGS - seconds(1)).collect();
            assert!(calm.iter().all(|each| each.started == 1), "in calm weather all are sent once");
        }
        println!("{rate}/s: GETs {gets:?}, POSTs {first:?}, then {later:?}");
        assert!(gets.1 * 1_000 <= gets.0, "{rate}/s: GETs wait for it: {gets:?}");
        // At 100 requests a second, it takes 40 ms until it has one, and 40 until that is overdue.
        assert!(first.1 * 25 <= first.0, "{rate}/s: POSTs are lost before it is found: {first:?}");
        assert_eq!(later.1, 0, "{rate}/s: POSTs are lost thereafter: {later:?}");
    }
}

/// What takes long by nature is hardly ever started twice, none fails for it, and no replica is avoided for it, once it is known: the
/// very first one may be taken for a hang.
#[test]
fn what_takes_long_by_nature_is_left_alone() {
    const LASTS: u64 = 40;
    const KNOWN: Duration = Duration::from_secs(10);
    for slow in [1, 5, 20] {
        for out in [false, true] {
            let (mut all, mut twice, mut wrong) = (0, 0, 0);
            for seed in 0..12 {
                let mut replicas = vec![Replica::always(State::Fine); 4];
                if out {
                    replicas[0] = Replica::between(seconds(4), seconds(2 * LASTS), State::Refuses);
                }
                let setup = setup(seed, LASTS, replicas);
                let report = World::run(Setup { rate: 60, slow, timeout: seconds(LASTS), ..setup });
                let known = KNOWN..seconds(LASTS) - 2 * SLOW;
                let of: Vec<_> = report.each.iter().filter(|each| each.slow && known.contains(&each.arrived)).collect();
                all += of.len();
                twice += of.iter().filter(|each| each.started > 1).count();
                let failed = of.iter().filter(|each| each.over.is_some_and(|(_, answered)| !answered)).count();
                assert_eq!(failed, 0, "{slow} percent, one out {out}");
                wrong += report.ejected_at.iter().skip(usize::from(out)).flatten().filter(|at| **at > KNOWN).count();
            }
            let told =
                format!("{slow} percent, one out {out}: {twice} of {all} started twice, {wrong} replicas ejected");
            println!("{told}");
            // Two that take long may be at one replica that happens to answer no other for a while: chance does that now and then.
            assert!(twice * 20 <= all && wrong <= 3, "{told}");
        }
    }
}

/// A replica that hangs is found among requests that take long, or never end, wherever they are sent.
#[test]
fn a_replica_that_hangs_is_found_among_slow_requests() {
    for (rate, slow, fails) in [(100, 5, 0), (100, 0, 12), (100, 0, 33), (400, 0, 33)] {
        let (mut gets, mut posts) = ((0, 0), (0, 0));
        for seed in 0..12 {
            let mut replicas = vec![Replica::always(State::Fine); 4];
            replicas[seed as usize % 4] = Replica::between(HANGS, 2 * LASTS, State::Hangs);
            let timeout = if fails > 0 { Duration::from_millis(800) } else { LASTS };
            let fails = (fails > 0).then_some((Signal::Timeout, fails));
            let setup = Setup { rate, timeout, slow, fails, ..setup(seed, LASTS.as_secs(), replicas) };
            let mut report = World::run(setup);
            report.each.retain(|each| !each.slow && !each.fails);
            let add = |sum: &mut (usize, usize), (all, lost)| *sum = (sum.0 + all, sum.1 + lost);
            add(&mut gets, lost(&report, true, 1_000, 7_500));
            add(&mut posts, lost(&report, false, 1_000, 7_500));
        }
        let told = format!("{rate}/s, {slow} percent slow, {fails} percent time out: GETs {gets:?}, POSTs {posts:?}");
        println!("{told}");
        // It would be a quarter.
        assert!(gets.1 * 50 <= gets.0 && posts.1 * 33 <= posts.0, "{told}");
    }
}
