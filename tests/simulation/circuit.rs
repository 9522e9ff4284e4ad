//! The circuit breaker in simulated outages: what holds whatever happens.

use std::time::Duration;

use weir::base::random::Random;
use weir::circuit::{BreakerPolicy, Event, SETTLE};
use weir::signal::Signal;

use super::invariants::{Rerun, seeds};
use super::replica::{Replica, State};
use super::report::{Circuits, Report};
use super::world::{Setup, World};
use super::{seconds, setup};

const SEEDS: u64 = 400;
/// What a worker counted is in the record after this, and what it shed.
const TICK: Duration = Duration::from_millis(100);

/// Some hosts that all go down, or nearly all, or now and then; or answer errors; and come back at a time that is returned.
fn anything(seed: u64) -> (Setup, Duration) {
    let mut random = Random::new(seed ^ 0xc1c);
    let hosts = [1, 2, 4, 20][random.below(4) as usize];
    let from = Duration::from_millis(2_000 + random.below(2_000));
    let to = from + Duration::from_millis(500 + random.below(7_000));
    let state = match random.below(6) {
        0 => State::Hangs,
        1 => State::Resets,
        2 => State::Mixed(Signal::Error, 100),
        3 => State::Mixed(Signal::Reset, 50 + random.below(51)),
        _ => State::Refuses,
    };
    let spared = if random.below(4) == 0 { random.below(hosts) } else { 0 };
    let replica = |host| if host < spared { Replica::always(State::Fine) } else { Replica::between(from, to, state) };
    let mut setup = Setup { replicas: (0..hosts).map(replica).collect(), ..setup(seed, 0, Vec::new()) };
    setup.lasts = to + seconds(5);
    setup.workers = 1 + random.below(8) as usize;
    setup.proxies = (1 + random.below(3) as usize).min(setup.workers);
    setup.rate = [1, 20, 100, 400][random.below(4) as usize] * setup.proxies as u64;
    setup.gets = [70, 100, 0][random.below(3) as usize];
    setup.breaker = Some(BreakerPolicy::default());
    (setup, to)
}

/// It opened since enough broke, by a count over all single attempts.
fn opened_for_a_reason(circuits: &Circuits, policy: &BreakerPolicy) -> u64 {
    let mut opened = 0;
    for (at, event) in &circuits.events {
        let Some(Event::Opened { broke, attempts, within }) = event else { continue };
        opened += 1;
        assert!(*attempts >= u64::from(policy.min_requests), "opened by {attempts} attempts");
        assert!(*broke * 100 >= *attempts * 90, "opened by {broke} of {attempts}");
        // The stretch that was judged is over for `SETTLE`, and for a slot at most.
        let slot = policy.interval / 10;
        let latest = at.saturating_sub(SETTLE);
        let earliest = latest.saturating_sub(*within + slot);
        let inside = |(time, _): &&(Duration, bool)| *time >= earliest && *time <= latest;
        let known: Vec<bool> = circuits.ended.iter().filter(inside).map(|(_, broke)| *broke).collect();
        let broken = known.iter().filter(|broke| **broke).count() as u64;
        assert!(
            known.len() as u64 >= *attempts && broken >= *broke,
            "{broke} of {attempts}: {broken} of {}",
            known.len()
        );
    }
    opened
}

/// At most one probe in each eightieth of `open_time`; and what it says that it shed is what was shed, but for what a worker had not written
/// down when it closed.
fn counted(circuits: &Circuits, policy: &BreakerPolicy) {
    let mut since = None;
    let mut probed: Option<Duration> = None;
    let mut probes = 0;
    for (at, event) in &circuits.events {
        match event {
            Some(Event::Opened { .. }) => (since, probed, probes) = (Some(*at), None, 0),
            Some(Event::Probing(_)) | None => {
                assert!(since.is_some(), "it is not open");
                let soon = probed.replace(*at).is_some_and(|last| *at - last < policy.open_time / 80);
                assert!(!soon, "a probe too soon, at {at:?}");
                probes += 1;
            }
            Some(Event::Closed { shed, probes: told, .. }) => {
                let from = since.take().expect("it was open");
                assert_eq!(*told, probes);
                let count =
                    |to: Duration| circuits.shed.iter().filter(|time| **time >= from && **time <= to).count() as u64;
                assert!(*shed <= count(*at), "it shed {}, and says {shed}", count(*at));
                // A worker that read the record a moment before its timer fires writes with the next one.
                assert!(*shed >= count(at.saturating_sub(TICK * 3 / 2)), "it shed {}, and says {shed}", count(*at));
            }
        }
    }
}

/// Nothing is shed but between an opening and what follows it, and a tick.
fn shed_only_while_open(circuits: &Circuits) {
    let mut open = Vec::new();
    for (at, event) in &circuits.events {
        match event {
            Some(Event::Opened { .. }) => open.push((*at, Duration::MAX)),
            Some(Event::Closed { .. }) => open.last_mut().expect("it was open").1 = *at + 2 * TICK,
            _ => {}
        }
    }
    for time in &circuits.shed {
        assert!(open.iter().any(|(from, to)| time >= from && time <= to), "shed at {time:?}, and not open");
    }
}

/// When all are fine, the next probe closes it: that is `open_time` away, and the request that it waits for.
fn closed_in_time(circuits: &Circuits, setup: &Setup, fine: Duration, policy: &BreakerPolicy) {
    // POSTs wait for a tenth of `open_time` to be probes.
    let gap = Duration::from_secs(8) * setup.proxies as u32 / setup.rate as u32;
    let bound = policy.open_time * 11 / 10 + gap + TICK + Duration::from_millis(100);
    let open = circuits.events.iter().rev().find(|(_, event)| event.is_some());
    match open {
        Some((at, Some(Event::Opened { .. }))) => panic!("open since {at:?}, though all are fine from {fine:?}"),
        Some((at, Some(Event::Closed { .. }))) => {
            // What broke before may open it a little later.
            assert!(*at <= fine + 2 * bound + seconds(1) + SETTLE, "closed at {at:?}, all are fine from {fine:?}");
        }
        _ => {}
    }
}

#[test]
fn circuits() {
    let policy = BreakerPolicy::default();
    let (mut opened, mut shed) = (0, 0);
    for seed in seeds(SEEDS) {
        let _rerun = Rerun(seed, "circuits");
        let (setup, fine) = anything(seed);
        let errors = setup
            .replicas
            .iter()
            .flat_map(|replica| &replica.0)
            .all(|(_, state)| matches!(state, State::Fine | State::Mixed(Signal::Error, _)));
        let quiet = setup.rate == setup.proxies as u64;
        let report: Report = World::run(setup.clone());
        for circuits in &report.circuits {
            let times = opened_for_a_reason(circuits, &policy);
            assert!(times == 0 || !errors, "opened by statuses alone");
            assert!(times == 0 || !quiet, "opened by too little traffic");
            counted(circuits, &policy);
            shed_only_while_open(circuits);
            closed_in_time(circuits, &setup, fine, &policy);
            (opened, shed) = (opened + times, shed + circuits.shed.len());
        }
    }
    println!("{opened} openings, {shed} requests shed");
    assert!(seeds(SEEDS).count() == 1 || (opened > SEEDS / 8 && shed > 10_000), "nothing happened: {opened}, {shed}");
}
