//! What came of it, in tenths of seconds.

use std::time::Duration;

use super::hosts::capacity;
use super::{END, HANG, INCIDENT, REFUSAL, Setup};

const TENTHS: usize = END.as_millis() as usize / 100;
/// The service is back when, for so many tenths of a second,
const STEADY: usize = 30;
/// at least so many percent of what arrives is answered.
const BACK_PERCENT: u64 = 99;
/// What arrives later may not be over at the end.
const OVER: usize = TENTHS - 20;

/// What happened in a tenth of a second. GETs and POSTs are counted when they arrive; so are those that were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenth {
    pub gets: (u64, u64),
    pub posts: (u64, u64),
    pub attempts: u64,
    /// On hosts that were down.
    pub dead: u64,
    /// POSTs that were sent again and may have been processed.
    pub repeated: u64,
    /// Requests that were answered without an attempt.
    pub shed: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub tenths: Vec<Tenth>,
    capacity: f64,
}

/// Some tenths of seconds, added up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(Tenth);

impl Outcome {
    pub fn new(setup: &Setup) -> Self {
        Self { tenths: vec![Tenth::default(); TENTHS], capacity: capacity(setup) }
    }

    fn at(&mut self, at: Duration) -> &mut Tenth {
        &mut self.tenths[at.as_millis() as usize / 100]
    }

    pub fn arrived(&mut self, get: bool, at: Duration) {
        let tenth = self.at(at);
        if get { tenth.gets.0 += 1 } else { tenth.posts.0 += 1 }
    }

    pub fn answered(&mut self, get: bool, arrived: Duration) {
        let tenth = self.at(arrived);
        if get { tenth.gets.1 += 1 } else { tenth.posts.1 += 1 }
    }

    pub fn attempt(&mut self, dead: bool, at: Duration) {
        let tenth = self.at(at);
        tenth.attempts += 1;
        tenth.dead += u64::from(dead);
    }

    pub fn repeated(&mut self, at: Duration) {
        self.at(at).repeated += 1;
    }

    pub fn shed(&mut self, at: Duration) {
        self.at(at).shed += 1;
    }

    fn sum(&self, from: usize, to: usize) -> Sum {
        Sum(self.tenths[from..to].iter().fold(Tenth::default(), |sum, tenth| {
            let pair = |sum: (u64, u64), more: (u64, u64)| (sum.0 + more.0, sum.1 + more.1);
            Tenth {
                gets: pair(sum.gets, tenth.gets),
                posts: pair(sum.posts, tenth.posts),
                attempts: sum.attempts + tenth.attempts,
                dead: sum.dead + tenth.dead,
                repeated: sum.repeated + tenth.repeated,
                shed: sum.shed + tenth.shed,
            }
        }))
    }

    pub fn during(&self, (from, to): (Duration, Duration)) -> Sum {
        self.sum(tenth(from), tenth(to))
    }

    pub fn all(&self) -> Sum {
        self.sum(0, TENTHS)
    }

    pub fn incident(&self) -> Sum {
        self.during(INCIDENT)
    }

    /// Attempts per request in the worst second of that time.
    pub fn worst_second(&self, (from, to): (Duration, Duration)) -> f64 {
        let seconds = (tenth(from)..=tenth(to) - 10).map(|from| self.sum(from, from + 10).attempts_per_request());
        seconds.fold(0.0, f64::max)
    }

    /// Attempts in the worst second after an outage that ended then, in percent of what the hosts can do.
    pub fn worst_load_after(&self, end: Duration) -> f64 {
        let worst = (tenth(end)..OVER - 10).map(|from| self.sum(from, from + 10).0.attempts).max();
        100.0 * worst.unwrap_or_default() as f64 / self.capacity
    }

    /// How long after the outage of all hosts goodput was back; `None`: not until the next thing happened.
    pub fn back_after(&self, outage: (Duration, Duration)) -> Option<Duration> {
        let end = tenth(outage.1);
        let until = if outage == REFUSAL { tenth(HANG.0) } else { OVER };
        let steady = |from: &usize| {
            let sum = self.sum(*from, *from + STEADY).0;
            (sum.gets.1 + sum.posts.1) * 100 >= (sum.gets.0 + sum.posts.0) * BACK_PERCENT
        };
        (end..=until - STEADY).find(steady).map(|from| Duration::from_millis(100 * (from - end) as u64))
    }
}

fn tenth(at: Duration) -> usize {
    at.as_millis() as usize / 100
}

impl Sum {
    pub fn requests(&self) -> u64 {
        self.0.gets.0 + self.0.posts.0
    }

    pub fn attempts_per_request(&self) -> f64 {
        self.0.attempts as f64 / self.requests().max(1) as f64
    }

    /// Percent of the GETs, and of the POSTs, that were not answered.
    pub fn failed(&self) -> (f64, f64) {
        let share = |(all, answered): (u64, u64)| 100.0 * (all - answered) as f64 / all.max(1) as f64;
        (share(self.0.gets), share(self.0.posts))
    }

    /// Attempts on hosts that were down, in percent of the requests.
    pub fn dead(&self) -> f64 {
        100.0 * self.0.dead as f64 / self.requests().max(1) as f64
    }

    pub fn repeated(&self) -> u64 {
        self.0.repeated
    }
}
