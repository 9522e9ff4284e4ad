//! Outlier detectors: whether a host does worse than the other hosts of its cluster, beyond chance.
//!
//! Each kind of failure has a detector. When an attempt fails, it looks back over the host's last 1, 2, 4, ... 64 attempts,
//! and fires if over one of these lengths
//!
//! - the host shows the failure at least `count` times, all of them within `interval`,
//! - their share is at least `percent` percentage points above the share that the other hosts that are in show over as many
//!   of their own last attempts (strictly above where `percent` is 0), and
//! - the difference is no chance: with `e` the number that the others' share would mean here, it is more than four standard
//!   deviations of it and of what is known of the others: hardly more than `count > e + 4 sqrt(e)`. Where the others show nothing, `e` is 0 and the first failures decide.
//!
//! Attempts, not seconds, because a share over seconds is slow where it matters: a host that took 600 requests in the last
//! ten seconds and now resets each would need 60 resets to show 10 percent. Over its last 30 attempts it needs two or three. And
//! the others over as many, because what starts to fail everywhere shows everywhere after as many attempts; and also over their
//! last 64, because a few attempts may all have been lucky ones.
//!
//! The aggregate of the others hides a case: three of four hosts dead after a total outage. Each of them is hardly above
//! the rest. So a host also is an outlier if its last eight attempts all failed and another's last eight were all answered.
//!
//! **What fails everywhere makes no outlier.** Two rules look at who is fine, not at shares. No detector fires unless the last
//! attempt on some other host was answered. And when a host is out and then all that are in fail as well, the failure is
//! common, and all hosts come back at once ([`is_common`]). The first host to show a common failure may be out until then:
//! some milliseconds.

use std::time::Duration;

use crate::percent::Percent;
use crate::signal::Signal;
use crate::time::Time;
use crate::window::Window;

/// When a host is an outlier, and what happens to it then.
///
/// Two defaults come from the incident in `tests/simulation.rs`: four replicas that crash-loop, a quarter of the time each. With
/// at most 50 percent out, a third host that is down keeps its share of the traffic: 1.058 attempts per request, 36 of them on
/// a replica while it is down, and 99.80 percent of GETs answered; without that bound 1.012, 8 and 99.95. And two resets
/// instead of three save two attempts on each replica that goes down, while of stray resets, one in a thousand attempts, one
/// in fifty has a second one within twenty attempts, and costs a quarter of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierPolicy {
    /// Failures count for so long. Default: 10 s.
    pub interval: Duration,
    /// For [`Signal::Refused`] and [`Signal::Unreachable`]. Default: 1, 0 percent.
    pub refused: Detector,
    /// For [`Signal::Reset`] and [`Signal::Truncated`]. Default: 2, 10 percent.
    pub reset: Detector,
    /// For [`Signal::Timeout`]. Default: 5, 30 percent.
    pub timeout: Detector,
    /// For [`Signal::Error`]. Default: 5, 50 percent.
    pub error: Detector,
    /// How long a host is out the first time; each further time takes twice as long. Default: 250 ms.
    pub base_ejection_time: Duration,
    /// It takes at most so long (and up to a quarter more of jitter). Default: 30 s.
    pub max_ejection_time: Duration,
    /// At most this share of the known hosts is out: rounded down, but one host may always be out (unless it is 0), and
    /// the last one never is. Default: 100.
    pub max_ejection_percent: Percent,
    /// So many answered probes in a row bring a host back. Default: 2.
    pub probe_successes: u32,
}

/// When one kind of failure makes a host an outlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detector {
    /// At least so many; 0 is taken as 1.
    pub count: u32,
    /// At least so many percentage points more than the other hosts.
    pub percent: Percent,
}

impl Detector {
    const fn new(count: u32, basis_points: u32) -> Self {
        let percent = match Percent::from_basis_points(basis_points) {
            Some(percent) => percent,
            None => Percent::MAX,
        };
        Self { count, percent }
    }
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            refused: Detector::new(1, 0),
            reset: Detector::new(2, 1_000),
            timeout: Detector::new(5, 3_000),
            error: Detector::new(5, 5_000),
            base_ejection_time: Duration::from_millis(250),
            max_ejection_time: Duration::from_secs(30),
            max_ejection_percent: Percent::MAX,
            probe_successes: 2,
        }
    }
}

impl OutlierPolicy {
    const fn detector(&self, failure: Failure) -> Detector {
        match failure {
            Failure::Refused => self.refused,
            Failure::Reset => self.reset,
            Failure::Timeout => self.timeout,
            Failure::Error => self.error,
        }
    }

    /// How many of `known` hosts may be out.
    #[must_use]
    pub fn most_out(&self, known: usize) -> usize {
        if self.max_ejection_percent == Percent::default() {
            return 0;
        }
        let share = usize::try_from(self.max_ejection_percent.of(known as u64)).unwrap_or(usize::MAX);
        share.max(1).min(known.saturating_sub(1))
    }
}

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

/// Lengths to look back over.
const LENGTHS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
/// So many in a row leave no doubt.
const RUN: u32 = 8;
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
    fn is_in_trouble(&self) -> bool {
        self.attempts > 0 && self.any().trailing_ones() >= TROUBLE.min(self.attempts)
    }

    fn any(&self) -> u64 {
        self.failed.iter().fold(0, |any, bits| any | bits)
    }

    fn bits(&self, failure: Failure) -> u64 {
        self.failed.get(failure as usize).copied().unwrap_or_default()
    }

    /// Of the last `length` attempts, how many failed so; and of how many that is, if there were fewer.
    fn last(&self, failure: Failure, length: u32) -> (u64, u64) {
        let mask = u64::MAX.checked_shr(u64::BITS - length.clamp(1, u64::BITS)).unwrap_or(u64::MAX);
        (u64::from((self.bits(failure) & mask).count_ones()), u64::from(self.attempts.min(length)))
    }

    fn within_interval(&self, failure: Failure, now: Time) -> u64 {
        self.counts.around(now).filter_map(|counts| counts.get(failure as usize)).map(|&count| u64::from(count)).sum()
    }
}

/// Whether a host whose latest attempt failed is an outlier among the `others` that are in.
#[must_use]
pub fn is_outlier<'a>(
    policy: &OutlierPolicy,
    host: &Record,
    failure: Failure,
    others: impl Iterator<Item = &'a Record> + Clone,
    now: Time,
) -> bool {
    let Detector { count, percent } = policy.detector(failure);
    let recent = host.within_interval(failure, now);
    let count = u64::from(count.max(1));
    if recent < count || !others.clone().any(Record::is_fine) {
        return false;
    }
    if host.bits(failure).trailing_ones() >= RUN
        && others.clone().any(|other| other.attempts >= RUN && other.any().trailing_zeros() >= RUN)
    {
        return true;
    }
    LENGTHS.iter().any(|&length| {
        let (failed, attempts) = host.last(failure, length);
        let failed = failed.min(recent);
        // A count beyond what the bits hold: then the interval has it, and the share is that of the last 64.
        if failed < count && length < u64::BITS {
            return false;
        }
        [length, u64::BITS].iter().all(|&length| {
            let others = share(others.clone(), failure, length);
            is_above((failed, attempts), others, percent) && is_beyond_chance((failed, attempts), others)
        })
    })
}

/// Whether all hosts that are in and took attempts of late fail: then those that are out are no worse.
#[must_use]
pub fn is_common<'a>(mut hosts: impl Iterator<Item = &'a Record>) -> bool {
    let mut some = false;
    hosts.all(|host| {
        some = true;
        host.is_in_trouble()
    }) && some
}

/// Whether at least half of the latest attempts on these hosts fail so.
#[must_use]
pub fn is_usual<'a>(hosts: impl Iterator<Item = &'a Record>, failure: Failure) -> bool {
    let (failed, attempts) = share(hosts, failure, RUN);
    failed > 0 && 2 * failed >= attempts
}

fn share<'a>(hosts: impl Iterator<Item = &'a Record>, failure: Failure, length: u32) -> (u64, u64) {
    hosts.map(|host| host.last(failure, length)).fold((0, 0), |sum, last| (sum.0 + last.0, sum.1 + last.1))
}

// Numbers here are at most 64 for the host and 64,000 for a thousand others, so no product overflows a u64.

fn is_above((failed, attempts): (u64, u64), others: (u64, u64), by: Percent) -> bool {
    let whole = u64::from(Percent::MAX.basis_points());
    let others = (others.0, others.1.max(1));
    let above = (failed * others.1).saturating_sub(others.0 * attempts);
    above > 0 && above * whole >= u64::from(by.basis_points()) * attempts * others.1
}

/// failed > e + 4 sqrt(e + e'), with e = attempts x the others' share, and e' for how well e is known: e x attempts / the others'.
fn is_beyond_chance((failed, attempts): (u64, u64), others: (u64, u64)) -> bool {
    let others = (others.0, others.1.max(1));
    let expected = others.0 * attempts;
    let above = (failed * others.1).saturating_sub(expected);
    above > 0 && above * above > 16 * expected * (others.1 + attempts)
}
