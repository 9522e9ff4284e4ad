//! The circuit breaker: when it opens, whom it lets through, when it closes, and what it makes of a strange record.
//! `breaker/workers.rs` holds several workers against a model that keeps every time stamp.

mod fake_host;
mod property;
#[path = "breaker/workers.rs"]
mod workers;

use std::time::Duration;

use property::for_all;
use weir::base::percent::Percent;
use weir::base::time::Time;
use weir::circuit::{BreakerPolicy, Circuit, Command, Event, Permission, ProbeId, Record};
use weir::signal::Signal;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
/// Some day in 2026, at the start of a slot.
const START: u64 = 1_770_000_000 * SECOND;

const EXCHANGE: Command = Command::Exchange { answering: false };

fn at(nanos: u64) -> Time {
    Time::from_nanos(nanos)
}

/// One worker, with the record that it would share with others.
struct Worker {
    circuit: Circuit,
    record: Option<Vec<u8>>,
    now: u64,
}

impl Worker {
    fn new(policy: BreakerPolicy) -> Self {
        Self { circuit: Circuit::new(policy), record: None, now: START }
    }

    fn wish(&mut self, wish: Command) -> Option<Event> {
        if let Some(record) = self.circuit.exchange(self.record.as_deref(), wish, at(self.now)) {
            self.record = Some(record);
        }
        self.circuit.done()
    }

    fn end(&mut self, signal: Signal, count: u32) {
        (0..count).for_each(|_| self.circuit.attempt_ended(signal, at(self.now), at(self.now)));
    }

    /// So many attempts end each tenth of a second, and the timer fires. The first event.
    fn run(&mut self, signals: &[Signal], tenths: u32) -> Option<Event> {
        (0..tenths).find_map(|_| {
            signals.iter().for_each(|signal| self.end(*signal, 1));
            self.circuit.requested(at(self.now));
            let event = self.wish(EXCHANGE);
            self.now += 100 * MS;
            event
        })
    }

    fn open(&mut self) {
        self.open_by(Signal::Refused);
    }

    fn open_by(&mut self, signal: Signal) {
        let event = self.run(&[signal; 20], 30);
        assert!(matches!(event, Some(Event::Opened { .. })), "{event:?}");
    }

    fn admit(&self, repeatable: bool) -> Permission {
        self.circuit.admit(at(self.now), || repeatable)
    }

    fn probe(&mut self) -> Option<ProbeId> {
        match self.wish(Command::Probe) {
            Some(Event::Probing(ticket)) => Some(ticket),
            _ => None,
        }
    }
}

fn open() -> Worker {
    let mut worker = Worker::new(BreakerPolicy::default());
    worker.open();
    worker
}

/// A worker says ten times a second what it counted. One whose timer is late by as long again is still heard before anybody
/// judges that slot: else the worker that sees nothing but failures would open the circuit for both. What [`SETTLE`] is for.
///
/// [`SETTLE`]: weir::circuit::SETTLE
#[test]
fn a_worker_whose_timer_is_late_is_heard_before_the_slot_is_judged() {
    let policy = BreakerPolicy::default();
    let (mut failing, mut late) = (Circuit::new(policy), Circuit::new(policy));
    let mut record: Option<Vec<u8>> = None;
    let mut exchange = |circuit: &mut Circuit, now: u64| {
        if let Some(written) = circuit.exchange(record.as_deref(), EXCHANGE, at(now)) {
            record = Some(written);
        }
        circuit.done()
    };
    let end = |circuit: &mut Circuit, signal: Signal, now: u64| {
        (0..60).for_each(|_| circuit.attempt_ended(signal, at(now), at(now)));
    };
    let over = START + SECOND;
    end(&mut failing, Signal::Refused, START + 500 * MS);
    assert_eq!(exchange(&mut failing, START + 900 * MS), None);
    assert_eq!(exchange(&mut late, over - 5 * MS), None);
    end(&mut late, Signal::Answered, over - MS);
    // Due 95 ms after the slot is over, and late by a tenth of a second.
    for after in [0, 100, 190] {
        assert_eq!(exchange(&mut failing, over + after * MS), None, "opened before the other was heard");
    }
    assert_eq!(exchange(&mut late, over + 195 * MS), None);
    for after in [290, 390, 490] {
        assert_eq!(exchange(&mut failing, over + after * MS), None, "opened, though half were answered");
    }
}

#[test]
fn opens_about_a_second_after_everything_began_to_fail() {
    for (signal, offset) in [
        (Signal::Refused, 0),
        (Signal::Unreachable, 1),
        (Signal::Reset, 300),
        (Signal::Truncated, 600),
        (Signal::Timeout, 999),
    ] {
        let mut worker = Worker::new(BreakerPolicy::default());
        worker.now += offset * MS;
        // However much was answered before.
        assert_eq!(worker.run(&[Signal::Answered; 20], 100), None);
        let began = worker.now;
        let event = worker.run(&[signal; 20], 40);
        let Some(Event::Opened { broke, attempts, within }) = event else { panic!("{signal:?}: {event:?}") };
        assert!(attempts >= 50 && broke * 10 >= attempts * 9, "{event:?}");
        assert_eq!(within, Duration::from_secs(1));
        let took = worker.now - began;
        assert!((SECOND..=2_400 * MS).contains(&took), "{signal:?}: after {} ms", took / MS);
        worker.now -= 100 * MS;
        // A connection that is refused costs nothing, so the next one tries at once.
        let free = matches!(signal, Signal::Refused | Signal::Unreachable);
        assert_eq!(worker.admit(true), if free { Permission::Due } else { Permission::Shed });
    }
}

#[test]
fn a_quiet_cluster_opens_within_the_interval() {
    // Seven attempts a second.
    let mut worker = Worker::new(BreakerPolicy::default());
    let began = worker.now;
    let opened = (0..200).find_map(|tenth: u32| {
        worker.now = began + u64::from(tenth) * 100 * MS;
        worker.end(Signal::Timeout, u32::from(tenth % 10 < 7));
        worker.circuit.requested(at(worker.now));
        worker.wish(EXCHANGE)
    });
    let Some(Event::Opened { broke: 56, attempts: 56, within }) = opened else { panic!("{opened:?}") };
    assert_eq!(within, Duration::from_secs(8));
    assert!(worker.now - began < 9 * SECOND, "after {} ms", (worker.now - began) / MS);
}

#[test]
fn too_little_traffic_opens_nothing() {
    // 45 in ten seconds, all of them refused, for a minute.
    let mut worker = Worker::new(BreakerPolicy::default());
    for tenth in 0..600 {
        worker.end(Signal::Refused, u32::from(tenth % 20 < 9));
        assert_eq!(worker.run(&[], 1), None);
    }
}

#[test]
fn nothing_but_what_broke_opens() {
    for signals in [
        [Signal::Error, Signal::Error],
        [Signal::Pushback, Signal::Error],
        [Signal::Cancelled, Signal::Local],
        [Signal::Answered, Signal::Error],
        // Half, and a bit less than 90 percent.
        [Signal::Refused, Signal::Error],
    ] {
        let mut worker = Worker::new(BreakerPolicy::default());
        assert_eq!(worker.run(&signals.repeat(20), 200), None, "{signals:?}");
    }
    let mut worker = Worker::new(BreakerPolicy::default());
    let mut signals = vec![Signal::Refused; 89];
    signals.extend([Signal::Answered; 11]);
    assert_eq!(worker.run(&signals, 200), None, "89 percent");
    signals[89] = Signal::Reset;
    assert!(worker.run(&signals, 40).is_some(), "90 percent");
    // What says nothing neither opens nor hinders.
    let mut worker = Worker::new(BreakerPolicy::default());
    let signals = [Signal::Cancelled, Signal::Local, Signal::Reset].repeat(10);
    assert!(matches!(worker.run(&signals, 30), Some(Event::Opened { broke: 100, attempts: 100, .. })));
}

#[test]
fn a_cluster_in_which_some_host_answers_stays_closed() {
    let mut worker = Worker::new(BreakerPolicy::default());
    for _ in 0..100 {
        worker.end(Signal::Refused, 20);
        assert_eq!(worker.wish(Command::Exchange { answering: true }), None);
        worker.now += 100 * MS;
    }
    worker.end(Signal::Refused, 20);
    assert!(matches!(worker.wish(EXCHANGE), Some(Event::Opened { .. })));
}

#[test]
fn what_ended_before_the_latest_stretch_does_not_count() {
    let mut worker = Worker::new(BreakerPolicy::default());
    // 85 percent for nine seconds, then all is answered: no stretch that opens is the latest one.
    let mut signals = vec![Signal::Reset; 17];
    signals.extend([Signal::Answered; 3]);
    assert_eq!(worker.run(&signals, 90), None);
    assert_eq!(worker.run(&[Signal::Answered; 20], 100), None);
}

/// When probes go, in milliseconds after the circuit opened, if each ends so after `lasts`, where requests come every five.
fn probes(signal: Signal, lasts: u64) -> Vec<u64> {
    let mut worker = open();
    let opened = worker.now - 100 * MS;
    worker.now = opened;
    let (mut probes, mut under_way) = (Vec::new(), None);
    while worker.now < opened + 3 * SECOND {
        worker.circuit.requested(at(worker.now));
        if let Some((ticket, _)) = under_way.take_if(|(_, ends)| *ends <= worker.now) {
            assert_eq!(worker.wish(Command::of_probe(ticket, Some(signal))), None);
        }
        match worker.admit(true) {
            Permission::Shed => worker.circuit.shed(),
            Permission::Due => {
                let ticket = worker.probe().unwrap();
                assert_eq!(worker.admit(true), Permission::Shed, "one is enough");
                probes.push((worker.now - opened) / MS);
                under_way = Some((ticket, worker.now + lasts * MS));
            }
            Permission::Pass => panic!("closed"),
        }
        worker.now += 5 * MS;
    }
    probes
}

#[test]
fn a_probe_that_costs_little_is_soon_followed_by_the_next() {
    // The first one at once; each that was refused after a millisecond, seen after five, is followed by the next after 12.5.
    assert_eq!(probes(Signal::Refused, 1)[..4], [0, 20, 40, 60]);
    assert_eq!(probes(Signal::Unreachable, 1)[..4], [0, 20, 40, 60]);
    assert_eq!(probes(Signal::Reset, 1)[..4], [0, 55, 110, 165]);
    assert_eq!(probes(Signal::Truncated, 1)[..4], [0, 55, 110, 165]);
    // Clients that wait for nothing are few: one in 350 ms if they wait for 100, and one a second if they wait for longer.
    assert_eq!(probes(Signal::Timeout, 100)[..4], [0, 350, 700, 1_050]);
    assert_eq!(probes(Signal::Timeout, 15_000), [0, 1_000, 2_000]);
    assert_eq!(probes(Signal::Unreachable, 5_000), [0, 1_000, 2_000]);
}

#[test]
fn a_request_that_may_not_be_repeated_waits_a_little() {
    let mut worker = Worker::new(BreakerPolicy::default());
    worker.open_by(Signal::Reset);
    worker.now -= 88 * MS;
    assert_eq!((worker.admit(true), worker.admit(false)), (Permission::Shed, Permission::Shed));
    worker.now += MS;
    assert_eq!((worker.admit(true), worker.admit(false)), (Permission::Due, Permission::Shed));
    worker.now += 99 * MS;
    assert_eq!((worker.admit(true), worker.admit(false)), (Permission::Due, Permission::Shed));
    worker.now += MS;
    assert_eq!((worker.admit(true), worker.admit(false)), (Permission::Due, Permission::Due));
    // The upstream may have processed it.
    let probe = worker.probe().unwrap();
    worker.wish(Command::of_probe(probe, Some(Signal::Reset)));
    worker.now += 149 * MS;
    assert_eq!((worker.admit(true), worker.admit(false)), (Permission::Due, Permission::Shed));
    worker.now += MS;
    assert_eq!((worker.admit(true), worker.admit(false)), (Permission::Due, Permission::Due));
    // Nothing is lost with one that was not processed.
    let probe = worker.probe().unwrap();
    worker.wish(Command::of_probe(probe, Some(Signal::Refused)));
    worker.now += 12 * MS;
    assert_eq!((worker.admit(true), worker.admit(false)), (Permission::Shed, Permission::Shed));
    worker.now += MS;
    assert_eq!((worker.admit(true), worker.admit(false)), (Permission::Due, Permission::Due));
    // Nor with the first one, if what opened the circuit was not processed.
    let mut worker = open();
    worker.now -= 100 * MS;
    assert_eq!((worker.admit(true), worker.admit(false)), (Permission::Due, Permission::Due));
}

/// However long `openTime` is: a circuit for which nobody is a probe would close as one that nobody asks for.
#[test]
fn a_request_that_may_not_be_repeated_waits_a_second_at_most() {
    let mut worker = Worker::new(BreakerPolicy { open_time: Duration::from_secs(120), ..BreakerPolicy::default() });
    worker.open_by(Signal::Reset);
    // The first probe is due an eightieth of `openTime` after it opened, a tenth of a second ago.
    worker.now += 1_400 * MS + 999 * MS;
    assert_eq!((worker.admit(true), worker.admit(false)), (Permission::Due, Permission::Shed));
    worker.now += MS;
    assert_eq!(worker.admit(false), Permission::Due);
}

/// What an old probe says is of no use once there is a younger one.
#[test]
fn only_the_latest_probe_says_when_the_next_is_due() {
    let mut worker = open();
    let first = worker.probe().unwrap();
    worker.now += SECOND;
    let second = worker.probe().unwrap();
    worker.wish(Command::of_probe(first, Some(Signal::Refused)));
    worker.now += 100 * MS;
    assert_eq!(worker.admit(true), Permission::Shed);
    worker.wish(Command::of_probe(second, Some(Signal::Refused)));
    worker.now += 25 * MS;
    assert_eq!(worker.admit(true), Permission::Due);
}

#[test]
fn a_processed_probe_closes_and_everything_begins_anew() {
    let mut worker = open();
    let opened = worker.now - 100 * MS;
    (0..7).for_each(|_| worker.circuit.shed());
    worker.now = opened + SECOND;
    let first = worker.probe().unwrap();
    worker.now += SECOND;
    let second = worker.probe().unwrap();
    assert_ne!(first, second);
    worker.now += 5 * MS;
    // The first one answers late: the cluster is back all the same.
    let after = Duration::from_millis(2_005);
    assert_eq!(worker.wish(Command::Close(first)), Some(Event::Closed { after, probes: 2, shed: 7, processed: true }));
    assert_eq!(worker.admit(false), Permission::Pass);
    assert!(!worker.circuit.is_open());
    // The other one has nothing to say any more.
    assert_eq!(worker.wish(Command::Close(second)), None);
    assert_eq!(worker.wish(Command::GiveBack(second)), None);
    // What began before it closed is not held against it, what begins now is.
    let (closed, now) = (at(worker.now), worker.now + MS);
    assert!(worker.circuit.asks_when_begun(at(now)));
    (0..500).for_each(|_| worker.circuit.attempt_ended(Signal::Timeout, at(now - SECOND), at(now)));
    assert_eq!(worker.run(&[], 30), None);
    (0..500).for_each(|_| worker.circuit.attempt_ended(Signal::Timeout, closed, at(worker.now)));
    assert!(matches!(worker.run(&[], 30), Some(Event::Opened { broke: 500, attempts: 500, .. })));
    // A probe of the opening before says nothing about this one.
    assert_eq!(worker.wish(Command::Close(second)), None);
    assert!(worker.circuit.is_open());
    assert!(!worker.circuit.asks_when_begun(at(worker.now + 301 * SECOND)));
}

#[test]
fn a_probe_that_says_nothing_gives_its_slot_back() {
    let mut worker = open();
    worker.now += 50 * MS;
    let first = worker.probe().unwrap();
    worker.now += 10 * MS;
    assert_eq!(worker.admit(true), Permission::Shed);
    assert_eq!(worker.wish(Command::GiveBack(first)), None);
    assert_eq!(worker.admit(true), Permission::Due);
    let second = worker.probe().unwrap();
    // Only its own.
    assert_eq!(worker.wish(Command::GiveBack(first)), None);
    assert_eq!(worker.admit(true), Permission::Shed);
    // One that was lost with its worker is followed by the next.
    worker.now += SECOND;
    assert_eq!(worker.admit(true), Permission::Due);
    assert!(worker.probe().is_some_and(|third| third != second));
}

/// Requests that come all at once, after a while without any, need not be shed until the first of them has found out.
#[test]
fn where_nobody_asked_for_long_as_many_go_as_would_have_gone_meanwhile() {
    let burst = |worker: &mut Worker| {
        let tickets = (0..300).map_while(|_| (worker.admit(true) == Permission::Due).then(|| worker.probe().unwrap()));
        tickets.collect::<Vec<_>>()
    };
    for (signal, unasked, probes) in
        [(Signal::Refused, 199, 1), (Signal::Refused, 2_500, 186), (Signal::Reset, 2_500, 36)]
    {
        let mut worker = Worker::new(BreakerPolicy::default());
        worker.open_by(signal);
        let first = burst(&mut worker);
        worker.wish(Command::of_probe(*first.last().unwrap(), Some(signal)));
        worker.now += unasked * MS + if signal == Signal::Refused { 13 } else { 50 } * MS;
        let tickets = burst(&mut worker);
        assert_eq!(tickets.len(), probes, "{signal:?} {unasked}");
    }
    // Once the latest has failed, it is known that the outage goes on, whatever is left.
    let mut worker = open();
    worker.now += 2_500 * MS;
    let tickets = [worker.probe().unwrap(), worker.probe().unwrap()];
    worker.wish(Command::of_probe(tickets[0], Some(Signal::Refused)));
    assert_eq!(worker.admit(true), Permission::Due);
    worker.wish(Command::of_probe(tickets[1], Some(Signal::Refused)));
    assert_eq!(worker.admit(true), Permission::Shed);
    worker.now += 13 * MS;
    assert_eq!(burst(&mut worker).len(), 1);
}

#[test]
fn what_nobody_asked_for_is_forgotten() {
    let mut worker = open();
    worker.now += 9_800 * MS;
    assert_eq!(worker.wish(EXCHANGE), None);
    worker.now += SECOND;
    let event = worker.wish(EXCHANGE);
    assert!(matches!(event, Some(Event::Closed { processed: false, probes: 0, .. })), "{event:?}");
    assert_eq!(worker.admit(false), Permission::Pass);
}

#[test]
fn a_new_worker_knows_of_an_open_circuit_with_its_first_record() {
    let mut old = Worker::new(BreakerPolicy::default());
    old.open_by(Signal::Reset);
    let mut new = Worker { record: old.record, now: old.now - 90 * MS, ..Worker::new(BreakerPolicy::default()) };
    assert!(new.circuit.requested(at(new.now)), "nothing was read yet");
    assert_eq!(new.wish(EXCHANGE), None);
    assert!(new.circuit.is_open() && !new.circuit.requested(at(new.now)));
    assert_eq!(new.admit(true), Permission::Shed);
    assert!(new.circuit.requested(at(new.now + 200 * MS)), "where no timer read it");
}

#[test]
fn without_a_record_nothing_is_shed() {
    let mut worker = open();
    worker.circuit.failed(at(worker.now));
    assert_eq!(worker.admit(false), Permission::Pass);
    assert!(!worker.circuit.requested(at(worker.now)), "it is not asked for each request");
}

#[test]
fn a_calm_cluster_writes_nothing_and_an_unknown_one_reads_nothing() {
    let mut worker = Worker::new(BreakerPolicy::default());
    assert!(!worker.circuit.is_due(at(worker.now)), "no request ever");
    worker.end(Signal::Refused, 100);
    assert!(!worker.circuit.is_due(at(worker.now)), "attempts without requests: this worker sheds none");
    let mut worker = Worker::new(BreakerPolicy::default());
    worker.run(&[Signal::Answered, Signal::Error], 300);
    assert_eq!(worker.record, None);
    // Timers of three roles, one look at the record.
    assert!(worker.circuit.is_due(at(worker.now)));
    worker.wish(EXCHANGE);
    assert!(!worker.circuit.is_due(at(worker.now + 49 * MS)) && worker.circuit.is_due(at(worker.now + 50 * MS)));
    assert!(!worker.circuit.is_due(at(worker.now + 700 * MS)), "no requests of late");
    // One that broke off is told, and what was answered before with it.
    worker.end(Signal::Reset, 1);
    assert!(worker.circuit.is_due(at(worker.now + 700 * MS)), "there is trouble");
    worker.wish(EXCHANGE);
    assert!(worker.record.is_some());
}

#[test]
fn a_policy_can_change_at_any_time() {
    let mut worker = open();
    assert!(worker.probe().is_some());
    let quick = BreakerPolicy { open_time: Duration::from_millis(100), ..BreakerPolicy::default() };
    worker.circuit.set_policy(quick);
    worker.wish(EXCHANGE);
    assert_eq!(worker.admit(true), Permission::Shed);
    worker.now += 100 * MS;
    assert_eq!(worker.admit(true), Permission::Due, "the next probe is at most the new time away");
    let ticket = worker.probe().unwrap();
    worker.wish(Command::Close(ticket));
    worker.circuit.set_policy(BreakerPolicy { interval: Duration::from_secs(1), min_requests: 10, ..quick });
    let event = worker.run(&[Signal::Reset; 20], 40);
    assert!(matches!(event, Some(Event::Opened { within, .. }) if within == Duration::from_millis(100)), "{event:?}");
}

#[test]
fn a_clock_that_steps_shuts_nobody_out() {
    for step in [3_600 * SECOND, SECOND, 30 * MS] {
        let mut worker = open();
        worker.now -= step;
        worker.wish(EXCHANGE);
        worker.now += SECOND;
        assert_eq!(worker.admit(true), Permission::Due, "back by {} ms", step / MS);
        let ticket = worker.probe().unwrap();
        assert!(matches!(worker.wish(Command::Close(ticket)), Some(Event::Closed { .. })));
        // And it opens again.
        worker.open();
    }
}

#[test]
fn strange_records_are_dropped() {
    let policy = BreakerPolicy::default();
    let sound = open().record.unwrap();
    let now = at(START + 3 * SECOND);
    let decoded = Record::decode(&sound, &policy, now).unwrap();
    assert!(decoded.opened.is_some());
    assert_eq!(decoded.encode().len(), sound.len());
    assert_eq!(Record::decode(&decoded.encode(), &policy, now), Some(decoded));
    let mut other_version = sound.clone();
    other_version[3] += 1;
    for record in [&sound[..sound.len() - 1], &[&sound[..], b"\0"].concat(), &other_version, b"", b"wrc", b"wrb\x02"] {
        assert_eq!(Record::decode(record, &policy, now), None);
        let mut worker = Worker { record: Some(record.to_vec()), ..Worker::new(policy) };
        assert_eq!(worker.wish(EXCHANGE), None);
        assert_eq!(worker.admit(false), Permission::Pass);
        worker.open();
    }
}

/// Whatever a record says: nothing panics, and in the end requests flow.
#[test]
fn no_record_harms() {
    let policy = BreakerPolicy::default();
    let sound = open().record.unwrap();
    for_all(2_000, 24, |numbers| {
        let mut record = sound.clone();
        for number in numbers {
            let place = (number >> 8) as usize % (record.len() - 4) + 4;
            record[place] = *number as u8;
        }
        let mut worker = Worker { record: Some(record), now: START + 3 * SECOND, ..Worker::new(policy) };
        worker.wish(EXCHANGE);
        worker.run(&[Signal::Answered; 3], 3);
        worker.now += SECOND;
        if worker.circuit.is_open() {
            assert_eq!(worker.admit(true), Permission::Due);
            // Or it was abandoned.
            if let Some(ticket) = worker.probe() {
                worker.wish(Command::Close(ticket));
            }
        }
        assert_eq!(worker.admit(true), Permission::Pass);
    });
}
