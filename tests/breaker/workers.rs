//! Several workers that share a record, each reading and writing at moments of its own, against a model that keeps every
//! attempt with its time.

use std::time::Duration;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::circuit::SETTLE;

use super::property::Digits;
use super::*;

const TICK: u64 = 100 * MS;

/// Shared data: a record with its version.
#[derive(Default)]
struct Store {
    record: Option<Vec<u8>>,
    version: u32,
}

impl Store {
    fn swap(&mut self, record: Option<Vec<u8>>, version: u32) -> bool {
        if record.is_none() {
            return true;
        }
        let same = self.version == version;
        if same {
            (self.record, self.version) = (record, version + 1);
        }
        same
    }
}

/// All workers, and what is true.
struct World {
    policy: BreakerPolicy,
    store: Store,
    workers: Vec<Circuit>,
    now: u64,
    /// Attempts that count, since the circuit closed last: when they ended, and whether they broke.
    ended: Vec<(u64, bool)>,
    open: bool,
    opened: u64,
    /// From when on the next probe may go, by the rules.
    next: u64,
    probes: Vec<ProbeId>,
    shed: u64,
}

impl World {
    fn slot(&self) -> u64 {
        self.policy.interval.as_nanos() as u64 / 10
    }

    /// What the latest stretch of whole slots says, from all time stamps: broken ones, all, slots.
    fn judged(&self) -> Option<(u64, u64, u32)> {
        let slot = self.slot();
        let settled = (self.now - SETTLE.as_nanos() as u64) / slot;
        let oldest = (self.now / slot).saturating_sub(10);
        for (length, first) in (oldest..settled).rev().enumerate() {
            let within = |time: u64| (first..settled).contains(&(time / slot));
            let attempts = self.ended.iter().filter(|(time, _)| within(*time)).count() as u64;
            let broke = self.ended.iter().filter(|(time, broke)| within(*time) && *broke).count() as u64;
            if attempts >= u64::from(self.policy.min_requests) {
                let opens = broke * 10_000 >= attempts * u64::from(self.policy.percent.basis_points()) && broke > 0;
                return opens.then_some((broke, attempts, length as u32 + 1));
            }
        }
        None
    }

    /// One worker's wish; now and then another worker writes between its reading and its writing.
    fn wish(&mut self, worker: usize, wish: Command, disturbed: Option<usize>) -> Option<Event> {
        let mut disturbed = disturbed.filter(|other| *other != worker);
        loop {
            let (record, version) = (self.store.record.clone(), self.store.version);
            let record = self.workers[worker].exchange(record.as_deref(), wish, at(self.now));
            if let Some(other) = disturbed.take() {
                let event = self.wish(other, EXCHANGE, None);
                self.check(event);
            }
            if self.store.swap(record, version) {
                return self.workers[worker].done();
            }
        }
    }

    /// Holds an event against what is true.
    fn check(&mut self, event: Option<Event>) {
        match event {
            None => {}
            Some(Event::Opened { broke, attempts, within }) => {
                let slots = (within.as_nanos() as u64 / self.slot()) as u32;
                assert!(!self.open, "opened twice");
                assert_eq!(self.judged(), Some((broke, attempts, slots)), "opened for no reason");
                self.open = true;
                self.opened = self.now;
                // At once, if what broke last at the worker that opened it was not processed.
                self.next = self.now;
                self.ended.clear();
                self.probes.clear();
                self.shed = 0;
            }
            Some(Event::Probing(ticket)) => {
                assert!(self.open && self.now >= self.next, "a probe too soon");
                // Where none was asked for long, as many go as would have gone meanwhile.
                let open_time = self.policy.open_time.as_nanos() as u64;
                let unasked = self.now - self.next >= open_time / 80 * 16;
                self.next = if unasked { self.next + open_time / 80 } else { self.now + open_time };
                self.probes.push(ticket);
            }
            Some(Event::Closed { after, probes, shed, processed }) => {
                let abandoned = self.next + (self.policy.interval.as_nanos() as u64).max(10_000 * MS);
                assert!(self.open && (processed || self.now >= abandoned), "closed for no reason");
                assert_eq!(after, Duration::from_nanos(self.now - self.opened));
                assert_eq!(probes, self.probes.len() as u64);
                assert!(shed <= self.shed, "{shed} of {}", self.shed);
                self.open = false;
            }
        }
    }

    fn tick(&mut self, worker: usize) {
        self.workers[worker].requested(at(self.now));
        let event = self.wish(worker, EXCHANGE, None);
        self.check(event);
        assert_eq!(self.workers[worker].is_open(), self.open);
        // Nobody has more than this one knows by now, or it would have opened.
        if !self.open {
            assert_eq!(self.judged(), None, "should be open");
        }
    }

    /// Lets time pass: each worker's timer fires ten times a second, at moments of its own.
    fn pass(&mut self, by: u64) {
        let until = self.now + by;
        let count = self.workers.len() as u64;
        let phase = |worker: u64| worker * TICK / count;
        loop {
            let due = (0..count).map(|worker| {
                let since = (self.now + TICK - phase(worker)) % TICK;
                (self.now + TICK - since, worker as usize)
            });
            let Some((time, worker)) = due.min().filter(|(time, _)| *time <= until) else { break };
            self.now = time;
            self.tick(worker);
        }
        self.now = until;
    }
}

#[test]
fn several_workers_do_as_one_that_knows_everything() {
    for_all(150, 150, |numbers| {
        let mut digits = Digits(numbers[0]);
        let policy = BreakerPolicy {
            percent: Percent::from_basis_points(digits.pick(&[9_000, 5_000, 10_000, 9_999])).unwrap(),
            min_requests: digits.pick(&[1, 5, 20, 50]),
            interval: Duration::from_secs(digits.pick(&[10, 4, 60])),
            open_time: Duration::from_millis(digits.pick(&[1_000, 100, 2_500])),
        };
        let workers = (0..=digits.below(4)).map(|_| Circuit::new(policy)).collect();
        let mut world = World {
            policy,
            store: Store::default(),
            workers,
            now: START + digits.below(10) * 77 * MS,
            ended: Vec::new(),
            open: false,
            opened: 0,
            next: 0,
            probes: Vec::new(),
            shed: 0,
        };
        let count = world.workers.len() as u64;
        (0..world.workers.len()).for_each(|worker| world.tick(worker));
        for &number in numbers {
            let mut digits = Digits(number);
            world.pass(digits.pick(&[0, MS, 10 * MS, 60 * MS, 300 * MS, world.slot()]));
            let worker = digits.below(count) as usize;
            let other = (digits.below(3) == 0).then(|| digits.below(count) as usize);
            let now = at(world.now);
            let before = world.open && !world.workers[worker].is_open();
            match digits.below(8) {
                // Attempts end; mostly one way.
                0..4 => {
                    let signal = digits.pick(&[
                        Signal::Refused,
                        Signal::Reset,
                        Signal::Timeout,
                        Signal::Truncated,
                        Signal::Answered,
                        Signal::Error,
                        Signal::Local,
                    ]);
                    for _ in 0..digits.below(30) {
                        world.workers[worker].attempt_ended(signal, now, now);
                        let said = !matches!(signal, Signal::Local);
                        let broke = !matches!(signal, Signal::Answered | Signal::Error);
                        // A worker that has not heard of it yet counts on, and forgets that when it hears.
                        if said && !world.open && !world.workers[worker].is_open() {
                            world.ended.push((world.now, broke));
                        }
                    }
                }
                4 | 5 => match world.workers[worker].admit(now, || number % 3 == 0) {
                    Permission::Pass => assert!(!world.open || before),
                    Permission::Shed => {
                        world.workers[worker].shed();
                        world.shed += 1;
                    }
                    Permission::Due => {
                        let event = world.wish(worker, Command::Probe, other);
                        world.check(event);
                    }
                },
                6 => {
                    // A probe says nothing, or failed: the last one's slot is free again, now or soon.
                    if let Some(ticket) = world.probes.last().copied().filter(|_| world.open) {
                        let (signal, parts) = digits.pick(&[
                            (None, 0),
                            (Some(Signal::Cancelled), 0),
                            (Some(Signal::Refused), 80),
                            (Some(Signal::Reset), 20),
                            (Some(Signal::Timeout), 4),
                        ]);
                        world.wish(worker, Command::of_probe(ticket, signal), other);
                        let open_time = world.policy.open_time.as_nanos() as u64;
                        world.next = world.next.min(world.now + open_time.checked_div(parts).unwrap_or(0));
                    }
                }
                _ => {
                    let nth = digits.below(world.probes.len().max(1) as u64) as usize;
                    if let Some(ticket) = world.probes.get(nth).copied() {
                        let event = world.wish(worker, Command::Close(ticket), other);
                        world.check(event);
                    }
                }
            }
            // What a worker counts after another one closed the circuit, and before it hears of that, nobody can know: let
            // all hear of it.
            if !world.open && world.workers.iter().any(Circuit::is_open) {
                (0..world.workers.len()).for_each(|worker| world.tick(worker));
            }
        }
    });
}

/// Two workers with one record, each at its own time.
struct Pair {
    record: Option<Vec<u8>>,
    workers: [Circuit; 2],
}

impl Pair {
    fn new() -> Self {
        let circuit = Circuit::new(BreakerPolicy::default());
        Self { record: None, workers: [circuit.clone(), circuit] }
    }

    fn wish(&mut self, worker: usize, wish: Command, now: u64) -> Option<Event> {
        if let Some(record) = self.workers[worker].exchange(self.record.as_deref(), wish, at(now)) {
            self.record = Some(record);
        }
        self.workers[worker].done()
    }

    fn end(&mut self, worker: usize, signal: Signal, now: u64) {
        (0..60).for_each(|_| self.workers[worker].attempt_ended(signal, at(now), at(now)));
    }
}

/// What one worker saw fail may be half of what happened: the other half is written a tenth of a second later.
#[test]
fn a_worker_waits_for_what_others_saw() {
    for (first, second) in [((1, 0), (0, 99)), ((1, 80), (0, 90)), ((0, 0), (1, 99)), ((0, 98), (1, 99))] {
        let mut pair = Pair::new();
        let over = START + SECOND;
        pair.end(0, Signal::Refused, over - MS);
        pair.end(1, Signal::Answered, over - MS);
        // Each of them writes ten times a second. Before one of them saw trouble, the other has nothing to tell.
        for tick in 0..30 {
            for (worker, phase) in [first, second] {
                assert_eq!(pair.wish(worker, EXCHANGE, over + tick * TICK + phase * MS), None);
            }
        }
    }
}

/// What a worker counted before others opened and closed the circuit is of no use afterwards.
#[test]
fn what_was_counted_before_others_closed_it_is_forgotten() {
    let mut pair = Pair::new();
    pair.wish(1, EXCHANGE, START);
    pair.end(0, Signal::Refused, START);
    pair.wish(0, EXCHANGE, START);
    pair.end(1, Signal::Refused, START + 1_200 * MS);
    let event = pair.wish(0, EXCHANGE, START + 1_250 * MS);
    assert!(matches!(event, Some(Event::Opened { .. })), "{event:?}");
    let Some(Event::Probing(ticket)) = pair.wish(0, Command::Probe, START + 2_250 * MS) else { panic!("no probe") };
    pair.wish(0, Command::Close(ticket), START + 2_260 * MS);
    for tick in 23..50 {
        assert_eq!(pair.wish(1, EXCHANGE, START + tick * TICK), None);
        assert!(!pair.workers[1].is_open());
    }
}
