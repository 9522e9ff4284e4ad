//! Some workers that see a cluster's attempts in turn, and the record that they share.

use std::time::Duration;

use weir::base::time::Time;
use weir::incident::{AttemptDetail, Event, Incidents, Pattern};
use weir::signal::Signal;

const START: u64 = 1_800_000_000_000;
pub const INTERVAL: u64 = 10_000;
const TICK: u64 = 100;

pub struct Site {
    workers: Vec<Incidents>,
    next: usize,
    pub record: Option<Vec<u8>>,
    /// All that was told, by whichever worker.
    pub events: Vec<Event>,
    now: u64,
    known: usize,
}

impl Site {
    pub fn new(known: usize) -> Self {
        Self::with_workers(known, 3)
    }

    pub fn with_workers(known: usize, workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| Incidents::default()).collect(),
            next: 0,
            record: None,
            events: Vec::new(),
            now: START,
            known,
        }
    }

    pub fn now(&self) -> u64 {
        self.now - START
    }

    /// The host's clock steps.
    pub fn step_back(&mut self, by: u64) {
        self.now -= by;
    }

    /// An attempt ends that began just now.
    pub fn ended(&mut self, host: &str, signal: Signal, detail: AttemptDetail) {
        self.ended_since(host, signal, detail, 0);
    }

    /// An attempt ends that began so long ago, on the worker whose turn it is.
    pub fn ended_since(&mut self, host: &str, signal: Signal, detail: AttemptDetail, ago: u64) {
        let (now, began) = (time(self.now), time(self.now - ago));
        let worker = self.next % self.workers.len();
        self.workers[worker].ended(host, signal, detail, began, now);
        self.next += 1;
    }

    /// A request was retried, and nobody saw why.
    pub fn retried_unseen(&mut self) {
        let now = time(self.now);
        self.workers.iter_mut().for_each(|worker| worker.retried_unseen(now));
    }

    /// When some worker would look at the host, if any would.
    pub fn look_at(&self, host: &str) -> Option<u64> {
        let mut looks = None;
        for worker in &self.workers {
            worker.each_scheduled_probe(time(self.now), &mut |address, at| {
                if address == host {
                    looks = Some(at.as_nanos() / 1_000_000 - START);
                }
            });
        }
        looks
    }

    /// The host answers, ten times a second.
    pub fn serve(&mut self, host: &str, lasts: u64) {
        for _ in 0..lasts / TICK {
            self.pass(TICK);
            self.ended(host, Signal::Answered, AttemptDetail::None);
        }
    }

    /// Time passes; the workers' ticks fall where they do, each at its own moment.
    pub fn pass(&mut self, lasts: u64) {
        for _ in 0..lasts {
            self.now += 1;
            for worker in 0..self.workers.len() {
                if self.now % TICK == worker as u64 * 37 % TICK {
                    self.tick(worker);
                }
            }
        }
    }

    fn tick(&mut self, worker: usize) {
        let (now, incidents) = (time(self.now), &mut self.workers[worker]);
        if !incidents.is_due(now) {
            return;
        }
        let written = incidents.exchange(self.record.as_deref(), INTERVAL, self.known, now);
        if let Some(written) = written {
            self.record = (!written.is_empty()).then_some(written);
        }
        self.events.extend(incidents.published());
    }

    pub fn told(&self, pattern: Pattern) -> Vec<Event> {
        self.events.iter().filter(|event| event.pattern == pattern).cloned().collect()
    }

    /// How many incidents of a pattern are open, as was told last.
    pub fn open(&mut self, pattern: Pattern) -> u64 {
        self.pass(1_100);
        self.told(pattern).last().map_or(0, |event| event.open)
    }
}

pub fn number(event: &Event, key: &str) -> u64 {
    let found = event.evidence().find(|((known, _), _)| *known == key);
    found.unwrap_or_else(|| panic!("no {key} in {event:?}")).1
}

pub fn time(milliseconds: u64) -> Time {
    Time::default().saturating_add(Duration::from_millis(milliseconds))
}
