//! What holds whatever happens: thousands of short incidents, each made from its seed.
//!
//! `WEIR_SEED=7 cargo test --test simulation -- invariants` runs one of them again, and tells what came of it.
//!
//! That these checks can fail was tried, by breaking `src` on purpose (2026-11-22):
//!
//! | broken | what failed |
//! |---|---|
//! | each retry is granted; the shared record is ignored; one retry more than the share | over budget |
//! | `most_out` allows all; an ejection does not look at `most` | all hosts are out |
//! | ejections do not get longer; a failed probe counts as an answered one; any failure ejects | went out so many times |
//! | an early probe that fails is a strike; probes come three seconds late; nobody takes over from a worker that is gone | back too late |
//! | another host than the one that failed is ejected | had not failed |
//! | what began before a host was back counts against it | ejections for old news |
//!
//! The circuit's, in `circuit.rs`: statuses count as broken, five requests are enough, 60 percent are enough; no probe closes it;
//! what was shed is counted twice, or three at most; probes come four times as often. Each was caught there. That the next probe is
//! four `open_time`s away is not, and need not be: who reads such a record puts it right.
//! In `streams.rs` and `pushback.rs`: the end of a stream counts as truncated; streams do not speak while they run; a busy host's
//! pushback is the cluster's, or never is. Each was caught there.
//! Nothing here sees that a host is back after one probe instead of two, or that evidence counts for 20 s instead of one.

use std::time::Duration;

use weir::base::random::Random;
use weir::signal::Signal;

use super::replica::{Replica, State};
use super::report::Report;
use super::world::{Setup, World};
use super::{seconds, setup};

const SEEDS: u64 = 2_000;
/// A host that is fine again is back within this time and what one more ejection takes, see [`longest`]: where none came back
/// before, and probes fail that nobody pays for, it waits for two seconds.
const BACK: Duration = Duration::from_millis(2_500);
/// A host goes out at most so often for each time that it fails, in each proxy, while at least half of the hosts are fine.
const MOST_EJECTIONS: usize = 4;

/// And if they are not: where all that are in fail, all come back, and what still fails goes out again.
const MOST_EJECTIONS_ALONE: usize = 12;
/// A host goes out for what failed so long ago at most, after it was told.
const HEARD: Duration = Duration::from_millis(1_100);
/// What the engine allows for clocks that differ.
const CLOCK_ERROR: Duration = Duration::from_millis(2);
/// Until another worker takes over from one that is gone: a second of silence, and a turn of the other.
const TAKEN_OVER: Duration = Duration::from_millis(1_500);

/// All times at which a host fails, also the last one that does not end.
fn outages_of(replica: &Replica, setup: &Setup) -> Vec<(Duration, Duration)> {
    let mut outages = replica.outages(setup.lasts * 10);
    if let Some((from, state)) = replica.0.last()
        && *state != State::Fine
    {
        outages.push((*from, setup.lasts));
    }
    outages
}

/// Says how to run it again, if the test fails meanwhile.
pub struct Rerun(pub u64, pub &'static str);

/// All of them, or that of `WEIR_SEED`.
pub fn seeds(all: u64) -> std::ops::Range<u64> {
    let only = std::env::var("WEIR_SEED").ok().map(|seed| seed.parse::<u64>().expect("WEIR_SEED is a number"));
    only.map_or(0..all, |seed| seed..seed + 1)
}

impl Drop for Rerun {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("run it again: WEIR_SEED={} cargo test --test simulation -- {}", self.0, self.1);
        }
    }
}

/// Some hosts, some of which fail: crash loops, hosts that hang or mostly fail for a while, and now and then all at once.
fn anything(seed: u64) -> Setup {
    let mut random = Random::new(seed ^ 0xa11);
    let lasts = seconds(8 + random.below(5));
    let hosts = match random.below(4) {
        0 => 2 + random.below(3),
        1 => 5 + random.below(46),
        _ => 2 + random.below(9),
    };
    let failing = random.below(hosts + 1);
    let total = random.below(8) == 0;
    let (from, to) = (1_000 + random.below(2_000), 3_500 + random.below(1_500));
    let replica = |host: u64| {
        if total {
            return Replica::between(Duration::from_millis(from), Duration::from_millis(to), State::Refuses);
        }
        if host >= failing {
            return Replica::always(State::Fine);
        }
        let from = 500 + random.below(3_000);
        let to = from + 300 + random.below(2_500);
        let (from, to) = (Duration::from_millis(from), Duration::from_millis(to));
        match random.below(5) {
            0 => Replica::between(from, to, State::Hangs),
            1 => Replica::between(from, to, State::Refuses),
            2 => Replica::between(from, to, State::Resets),
            3 => Replica::between(from, to, State::Mixed(Signal::Reset, 40 + random.below(60))),
            _ => Replica::crash_loop(&mut random, lasts),
        }
    };
    let replicas = (0..hosts).map(replica).collect();
    let mut setup = Setup { replicas, lasts, ..setup(seed, 0, Vec::new()) };
    setup.workers = 1 + random.below(8) as usize;
    setup.proxies = (1 + random.below(4) as usize).min(setup.workers);
    setup.rate = (20 + random.below(130)) * setup.proxies as u64;
    setup.gets = [70, 70, 100, 30][random.below(4) as usize];
    setup.avoids_previous = random.below(4) > 0;
    let leaves = Duration::from_millis(1_000 + random.below(5_000));
    setup.leaves = (setup.workers > setup.proxies && random.below(3) == 0).then_some(leaves);
    setup
}

/// How long a host may be out at `to` that failed since `from`: what its ejections took doubles, with a quarter of jitter;
/// earlier ones may count. And each host needs its probes, for which there may be few requests that can be repeated.
fn longest(setup: &Setup, failed: Duration) -> Duration {
    let out = (failed * 5 / 2 + setup.policy.base_ejection_time).min(setup.policy.max_ejection_time * 5 / 4);
    let probes = setup.replicas.len() as u64 * u64::from(setup.policy.probe_successes);
    let repeatable = (setup.rate * setup.gets / 100 / setup.proxies as u64).max(1);
    let taken_over = setup.leaves.map_or(Duration::ZERO, |_| TAKEN_OVER);
    out + BACK + taken_over + Duration::from_millis(2_000 * probes / repeatable)
}

/// What the budget promises, by a count over all single times: with each retry, those of the last ten seconds are a fifth
/// of the requests, or those of the last second are ten.
fn never_over_budget(report: &Report) {
    let within = |times: &[Duration], at: Duration, interval: Duration| {
        times.partition_point(|time| *time <= at) - times.partition_point(|time| *time + interval <= at)
    };
    for (requests, retries) in &report.spent {
        for (number, at) in retries.iter().enumerate() {
            let retries = &retries[..=number];
            let share = within(retries, *at, seconds(10)) * 5 <= within(requests, *at, seconds(10));
            assert!(share || within(retries, *at, seconds(1)) <= 10, "over budget at {at:?}");
        }
    }
}

/// Whoever goes out, an attempt on it had just failed in that proxy. How often it had begun before the host was last back:
/// that says nothing of the host. It counts only where a worker had no requests while the host was out, and so did not know.
fn for_old_news(report: &Report, replicas: &[Replica]) -> u64 {
    let mut old = 0;
    let all = report.absences.iter().zip(&report.failures);
    let each = all.flat_map(|(absences, failures)| absences.iter().zip(failures).zip(replicas));
    for ((absences, failures), replica) in each {
        let mut back = Duration::ZERO;
        for (out, until) in absences {
            let just = |(_, ended): &&(Duration, Duration)| *ended <= *out && *ended + HEARD >= *out;
            // One that hangs fails no attempt; requests that wait there for too long speak against it.
            let hung = |tenth| replica.state(out.saturating_sub(HEARD * tenth / 10)) == State::Hangs;
            if (0..=10).any(hung) {
                back = until.unwrap_or(back);
                continue;
            }
            assert!(
                failures.iter().any(|failure| just(&failure)),
                "{replica:?} went out at {out:?}, and nothing had failed"
            );
            old += u64::from(!failures.iter().filter(just).any(|(began, _)| *began + CLOCK_ERROR >= back));
            back = until.unwrap_or(back);
        }
    }
    old
}

/// Runs it and looks at what came of it. How long the last was late, and how often the most frequent went out in one outage.
fn examine(setup: Setup) -> (Duration, usize, Report) {
    let report = World::run(setup.clone());
    never_over_budget(&report);
    let (mut latest, mut most) = (Duration::ZERO, 0);
    for (host, replica) in setup.replicas.iter().enumerate() {
        let outages = replica.outages(setup.lasts);
        let heard = setup.timeout + HEARD;
        for (out, _) in report.absences.iter().flat_map(|hosts| &hosts[host]) {
            let failed = outages_of(replica, &setup).iter().any(|(from, to)| out >= from && *out <= *to + heard);
            assert!(failed, "{host} went out at {out:?}, and had not failed");
        }
        for absences in report.absences.iter().map(|hosts| &hosts[host]) {
            for (number, (from, to)) in outages.iter().enumerate() {
                let next = outages.get(number + 1).map_or(setup.lasts, |(from, _)| *from);
                let failed: Duration = outages[..=number].iter().map(|(from, to)| *to - *from).sum();
                let bound = longest(&setup, failed);
                let times = absences.iter().filter(|(out, _)| out >= from && *out < next).count();
                let alone = (0..=10).any(|tenth| {
                    let at = *from + (*to - *from) * tenth / 10;
                    let fine = |other: &&Replica| other.state(at) == State::Fine;
                    setup.replicas.iter().filter(fine).count() < setup.replicas.len().div_ceil(2)
                });
                let bound_of_times = if alone { MOST_EJECTIONS_ALONE } else { MOST_EJECTIONS };
                if !alone {
                    most = most.max(times);
                }
                assert!(times <= bound_of_times, "{host} went out {times} times from {from:?} to {next:?}");
                for (out, back) in
                    absences.iter().filter(|(out, back)| *out < *to && back.is_none_or(|back| back > *to))
                {
                    let back = back.unwrap_or(setup.lasts).min(next);
                    latest = latest.max(back - *to);
                    assert!(
                        back - *to <= bound,
                        "{host}, out since {out:?}, was fine from {to:?} and back at {back:?}"
                    );
                }
            }
        }
    }
    (latest, most, report)
}

#[test]
fn invariants() {
    let seeds = seeds(SEEDS);
    let only = seeds.clone().count() == 1;
    let (mut latest, mut most, mut ejections, mut old) = (Duration::ZERO, 0, 0, 0);
    for seed in seeds {
        let _rerun = Rerun(seed, "invariants");
        let setup = anything(seed);
        if only {
            println!("{setup:#?}");
        }
        let replicas = setup.replicas.clone();
        let (late, times, report) = examine(setup);
        if only {
            println!("{}", report.line());
        }
        (latest, most, ejections) = (latest.max(late), most.max(times), ejections + report.ejections);
        old += for_old_news(&report, &replicas);
    }
    println!("{old} of {ejections} ejections for old news");
    assert!(old * 1_000 <= ejections, "{old} of {ejections} ejections for old news");
    println!("{ejections} ejections, at most {most} in an outage; the latest host was back after {latest:?}");
    assert!(only || ejections > SEEDS, "nothing happened");
}
