//! How the attempts on a host ended: each of the last 64, and how many failed within the interval.

use std::time::Duration;

use crate::base::time::Time;
use crate::base::window::Window;
use crate::signal::Signal;

/// What counts against a host: each kind has a detector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The host took no connection.
    Refused,
    /// The host broke the attempt off.
    Reset,
    /// The host did not answer in time.
    Timeout,
    /// The host answered with a failure.
    Error,
}

impl Failure {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Refused, Self::Reset, Self::Timeout, Self::Error];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Error => "error",
        }
    }
}

/// What the end of an attempt says about the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The host answered. A pushback is an answer, too: the host is there, and has its reasons.
    Answered,
    /// The host failed in this way.
    Failed(Failure),
    /// The end says nothing: the client left, or Envoy itself ended the attempt.
    Nothing,
}

impl From<Signal> for Outcome {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Refused | Signal::Unreachable => Self::Failed(Failure::Refused),
            Signal::Reset | Signal::Truncated => Self::Failed(Failure::Reset),
            Signal::Timeout => Self::Failed(Failure::Timeout),
            Signal::Error => Self::Failed(Failure::Error),
            Signal::Answered | Signal::Pushback => Self::Answered,
            Signal::Cancelled | Signal::Local | Signal::Closed => Self::Nothing,
        }
    }
}

/// How the attempts on a host ended. About 170 bytes.
#[derive(Clone, Debug)]
pub struct AttemptHistory {
    /// For each kind of failure, a bit for each of the last attempts, the latest the lowest: whether it failed so.
    failed: [u64; Failure::ALL.len()],
    /// How many attempts the bits stand for, at most 64.
    attempts: u32,
    counts: Window<[u16; Failure::ALL.len()]>,
}

/// The number of attempts that are remembered.
pub const LENGTH: u32 = u64::BITS;
/// A host is failing when this many attempts failed one after the other, or all if there were fewer.
const FAILING: u32 = 2;

impl AttemptHistory {
    /// The history of a host without attempts.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { failed: [0; Failure::ALL.len()], attempts: 0, counts: Window::new(interval) }
    }

    /// Adds attempts that were answered.
    pub fn answered(&mut self, attempts: u32) {
        self.shift(attempts);
    }

    /// Adds an attempt that failed.
    pub fn failed(&mut self, failure: Failure, now: Time) {
        self.shift(1);
        if let Some(bits) = self.failed.get_mut(failure as usize) {
            *bits |= 1;
        }
        if let Some(count) = self.counts.current(now).get_mut(failure as usize) {
            *count = count.saturating_add(1);
        }
    }

    /// The attempt that failed last began before the one that ended before it, and counts as if it had ended before.
    pub fn failed_before(&mut self) {
        self.failed.iter_mut().for_each(|bits| *bits = (*bits & !3) | (*bits & 1) << 1 | (*bits >> 1) & 1);
    }

    /// The process that took no connection, or broke off what it had, is gone.
    pub fn restarted(&mut self) {
        let [refused, reset, ..] = &mut self.failed;
        (*refused, *reset) = (0, 0);
    }

    fn shift(&mut self, attempts: u32) {
        self.failed.iter_mut().for_each(|bits| *bits = bits.checked_shl(attempts).unwrap_or(0));
        self.attempts = self.attempts.saturating_add(attempts).min(u64::BITS);
    }

    /// Whether the latest attempt was answered, or there was none.
    #[must_use]
    pub fn last_succeeded(&self) -> bool {
        self.any() & 1 == 0
    }

    /// Whether the latest attempt was not answered at all, not even with an error.
    #[must_use]
    pub fn last_broke(&self) -> bool {
        (self.any() & !self.bits(Failure::Error)) & 1 != 0
    }

    /// Whether the last two attempts failed, or the only one.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.attempts > 0 && self.any().trailing_ones() >= FAILING.min(self.attempts)
    }

    /// The number of attempts that are remembered.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The number of latest attempts that failed in this way, one after the other.
    #[must_use]
    pub fn failed_in_a_row(&self, failure: Failure) -> u32 {
        self.bits(failure).trailing_ones()
    }

    /// The number of latest attempts that were answered, one after the other.
    #[must_use]
    pub fn answered_in_a_row(&self) -> u32 {
        self.any().trailing_zeros().min(self.attempts)
    }

    /// Whether 64 attempts are remembered and all were answered, so that one more changes nothing.
    #[must_use]
    pub fn is_full_of_answers(&self) -> bool {
        self.attempts >= LENGTH && self.any() == 0
    }

    /// Whether any of the remembered attempts failed in this way.
    #[must_use]
    pub fn has(&self, failure: Failure) -> bool {
        self.bits(failure) != 0
    }

    fn any(&self) -> u64 {
        self.failed.iter().fold(0, |any, bits| any | bits)
    }

    fn bits(&self, failure: Failure) -> u64 {
        self.failed.get(failure as usize).copied().unwrap_or_default()
    }

    /// How many of the last `length` attempts failed in this way, and how many of these there were.
    #[must_use]
    pub fn last(&self, failure: Failure, length: u32) -> (u64, u64) {
        let mask = u64::MAX.checked_shr(u64::BITS - length.clamp(1, u64::BITS)).unwrap_or(u64::MAX);
        (u64::from((self.bits(failure) & mask).count_ones()), u64::from(self.attempts.min(length)))
    }

    /// How many attempts failed in this way within the interval.
    #[must_use]
    pub fn within_interval(&self, failure: Failure, now: Time) -> u64 {
        self.counts.around(now).filter_map(|counts| counts.get(failure as usize)).map(|&count| u64::from(count)).sum()
    }
}
