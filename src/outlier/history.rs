//! What a host's attempts came to: each of the last 64, and how many failed within the interval.

use std::time::Duration;

use crate::base::time::Time;
use crate::base::window::Window;
use crate::signal::Signal;

/// What counts against a host, as detectors tell it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The host took no request.
    Refused,
    /// It broke off.
    Reset,
    /// It gave no answer in time.
    Timeout,
    /// It answered with a failure.
    Error,
}

impl Failure {
    /// All of them, in the order of their numbers.
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
    /// It answered. A pushback is an answer, too: the host is there, and has its reasons.
    Answered,
    /// It failed.
    Failed(Failure),
    /// Nothing.
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
            Signal::Cancelled | Signal::Local => Self::Nothing,
        }
    }
}

/// What a host's attempts came to: each of the last 64, and how many failed within the interval. About 170 bytes.
#[derive(Clone, Debug)]
pub struct Record {
    /// A bit for each of the last attempts, the latest the lowest: whether it failed so.
    failed: [u64; Failure::ALL.len()],
    /// How many attempts the bits stand for.
    attempts: u32,
    counts: Window<[u16; Failure::ALL.len()]>,
}

/// So many attempts are remembered.
pub const LENGTH: u32 = u64::BITS;
/// So many failures in a row (or all there are, if fewer) make a host part of a common failure.
const TROUBLE: u32 = 2;

impl Record {
    /// Of a host without attempts.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { failed: [0; Failure::ALL.len()], attempts: 0, counts: Window::new(interval) }
    }

    /// Attempts were answered.
    pub fn answered(&mut self, attempts: u32) {
        self.shift(attempts);
    }

    /// An attempt failed.
    pub fn failed(&mut self, failure: Failure, now: Time) {
        self.shift(1);
        if let Some(bits) = self.failed.get_mut(failure as usize) {
            *bits |= 1;
        }
        if let Some(count) = self.counts.current(now).get_mut(failure as usize) {
            *count = count.saturating_add(1);
        }
    }

    fn shift(&mut self, attempts: u32) {
        self.failed.iter_mut().for_each(|bits| *bits = bits.checked_shl(attempts).unwrap_or(0));
        self.attempts = self.attempts.saturating_add(attempts).min(u64::BITS);
    }

    /// Whether the latest attempt did not fail, or there was none.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.any() & 1 == 0
    }

    /// Whether the latest attempt was not answered at all.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        (self.any() & !self.bits(Failure::Error)) & 1 != 0
    }

    /// Whether the last two attempts failed, or the only one.
    #[must_use]
    pub fn is_in_trouble(&self) -> bool {
        self.attempts > 0 && self.any().trailing_ones() >= TROUBLE.min(self.attempts)
    }

    /// How many attempts are remembered.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// How many of the last attempts failed so, one after the other.
    #[must_use]
    pub fn failed_in_a_row(&self, failure: Failure) -> u32 {
        self.bits(failure).trailing_ones()
    }

    /// How many of the last attempts were answered, one after the other.
    #[must_use]
    pub fn answered_in_a_row(&self) -> u32 {
        self.any().trailing_zeros().min(self.attempts)
    }

    /// Whether as many attempts as are remembered were all answered, so that one more changes nothing.
    #[must_use]
    pub fn is_spotless(&self) -> bool {
        self.attempts >= LENGTH && self.any() == 0
    }

    /// Whether any of the last attempts failed so.
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

    /// Of the last `length` attempts, how many failed so; and of how many that is, if there were fewer.
    #[must_use]
    pub fn last(&self, failure: Failure, length: u32) -> (u64, u64) {
        let mask = u64::MAX.checked_shr(u64::BITS - length.clamp(1, u64::BITS)).unwrap_or(u64::MAX);
        (u64::from((self.bits(failure) & mask).count_ones()), u64::from(self.attempts.min(length)))
    }

    /// How many attempts failed so within the interval.
    #[must_use]
    pub fn within_interval(&self, failure: Failure, now: Time) -> u64 {
        self.counts.around(now).filter_map(|counts| counts.get(failure as usize)).map(|&count| u64::from(count)).sum()
    }
}
