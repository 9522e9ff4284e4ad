//! Outlier detectors, and the settings: whether a host does worse than the other hosts of its cluster, beyond chance.
//!
//! Each kind of failure has a detector. When an attempt fails, it looks back over the host's last 1, 2, 4, ... 64 attempts,
//! and fires if over one of these lengths
//!
//! - the host shows the failure at least `count` times, all of them within `interval`,
//! - the share of these failures is at least `percent` percentage points above the share that the other healthy hosts show over as
//!   many of their own last attempts (strictly above where `percent` is 0),
//! - the number of failures is more than four standard deviations above `e`, the number that the host would show if it failed as
//!   often as the others: hardly more than `e + 4 sqrt(e)`, and
//! - a host that fails as often as the others shows that many less than once in 512 times. (Where `e` is small, four
//!   deviations are not as rare as that: where one attempt in ten is reset wherever it is sent, two in a row are one in a
//!   hundred. Refusals need not pass this test, since they are always the host's own.)
//!
//! Where the others show no failure, `e` is 0, and the first failures decide.
//!
//! The lengths are attempts and not seconds, because a share over seconds is slow where it matters: a host that took 600 requests in
//! the last ten seconds and now resets each would need 60 resets to show 10 percent. Over its last 30 attempts it needs two or three.
//! The others are looked at over as many attempts, because what starts to fail everywhere shows everywhere after as many; and over
//! their last 64 as well, because a few attempts may all have been lucky ones.
//!
//! The sum over the others hides one case: three of four hosts are dead after a total outage, and each of them is hardly worse than the
//! rest. So a host also is an outlier if its last eight attempts all failed and another's last eight were all answered.
//!
//! If at least one other host is not failing (its last two attempts did not both fail), failing hosts are left out of the
//! comparison. Otherwise two replicas that crash together would make each other look normal.
//!
//! **What fails everywhere makes no outlier.** Two rules look at hosts that succeed, not at shares. No detector fires unless the
//! last attempt on some other host was answered. And when hosts are ejected and then all healthy ones fail as well
//! (panic mode), the ejected hosts are probed at once, all of them: one may be back. If these fail, too, the failure is
//! cluster-wide, and all hosts come back. So what fails everywhere may eject the first host that shows it, but only for some
//! milliseconds.

use std::time::Duration;

pub use super::host::{Failure, Outcome};
use crate::base::percent::Percent;
use crate::base::time::Time;
use crate::outlier::host::{AttemptHistory, LENGTH};

/// The lengths to look back over.
pub(super) const LENGTHS: [u32; 7] = [1, 2, 4, 8, 16, 32, LENGTH];
/// A run of this many attempts that ended alike leaves no doubt.
pub(super) const RUN: u32 = 8;
/// The number of this length among [`LENGTHS`].
const RUN_LENGTH: usize = 3;
const _: () = assert!(LENGTHS[RUN_LENGTH] == RUN);

/// When a host is an outlier, and what happens to it then.
///
/// Two defaults come from the incident in `tests/simulation.rs`: four replicas that crash-loop, a quarter of the time each. With
/// at most 50 percent out, a third host that is down keeps its share of the traffic: 1.033 attempts per request, 20 of them on
/// each replica that goes down, and 99.91 percent of GETs answered, since its retries are more than the budget has; without that
/// bound 1.006, 3.3 and 99.997 (seeds 0 to 19). And two resets instead of three save 0.8 attempts of 4.1 on each replica that
/// goes down, while of stray resets, one in a thousand attempts, one in fifty has a second one within twenty attempts, and costs a
/// quarter of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierPolicy {
    /// How long failures count. Default: 10 s.
    pub interval: Duration,
    /// The detector for `refused` and `unreachable`. Default: 1, 0 percent.
    pub refused: Detector,
    /// The detector for `reset` and `truncated`. Default: 2, 10 percent.
    pub reset: Detector,
    /// The detector for `timeout`. Default: 5, 30 percent.
    pub timeout: Detector,
    /// The detector for `error`. Default: 5, 50 percent.
    pub error: Detector,
    /// How long a host is out the first time; each further time takes twice as long. Default: 250 ms.
    pub base_ejection_time: Duration,
    /// The longest time out, to which up to a quarter more of jitter is added. Default: 30 s.
    pub max_ejection_time: Duration,
    /// At most this share of the known hosts is ejected: rounded down, but one host may always be (unless the share is 0), and
    /// the last one never is. Default: 100.
    pub max_ejection_percent: Percent,
    /// The number of attempts that an ejected host must answer in a row to come back; in panic mode, one is enough. Default: 2.
    pub probe_successes: u32,
}

/// When one kind of failure makes a host an outlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detector {
    /// The least number of failures, of the last [`LENGTH`](LENGTH) attempts; 0 is taken as 1.
    pub count: u32,
    /// By how many percentage points the share of failures is above that of the other hosts, at least.
    pub percent: Percent,
}

impl Detector {
    /// A detector that is off: no host has `u32::MAX` failures among the attempts that are remembered.
    pub const OFF: Self = Self { count: u32::MAX, percent: Percent::MAX };

    const fn new(count: u32, basis_points: u32) -> Self {
        Self { count, percent: Percent::saturating(basis_points) }
    }
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl OutlierPolicy {
    /// The policy where nothing is configured.
    pub const DEFAULT: Self = Self {
        interval: Duration::from_secs(10),
        refused: Detector::new(1, 0),
        reset: Detector::new(2, 1_000),
        timeout: Detector::new(5, 3_000),
        error: Detector::new(5, 5_000),
        base_ejection_time: Duration::from_millis(250),
        max_ejection_time: Duration::from_secs(30),
        max_ejection_percent: Percent::MAX,
        probe_successes: 2,
    };

    pub(super) const fn detector(&self, failure: Failure) -> Detector {
        match failure {
            Failure::Refused => self.refused,
            Failure::Reset => self.reset,
            Failure::Timeout => self.timeout,
            Failure::Error => self.error,
        }
    }

    /// How many of `known` hosts may be ejected.
    #[must_use]
    pub fn max_ejected(&self, known: usize) -> usize {
        if self.max_ejection_percent == Percent::default() {
            return 0;
        }
        let share = usize::try_from(self.max_ejection_percent.of(known as u64)).unwrap_or(usize::MAX);
        share.max(1).min(known.saturating_sub(1))
    }
}

/// Whether a host whose latest attempt failed is an outlier among its healthy `peers`.
#[must_use]
pub fn is_outlier(policy: &OutlierPolicy, host: &AttemptHistory, failure: Failure, peers: &Peers, now: Time) -> bool {
    // Where some host is not failing and well known, failing hosts are left out of the comparison.
    let healthy_only = peers.well_known > 0;
    let Detector { count, percent } = policy.detector(failure);
    let recent = host.within_interval(failure, now);
    let count = u64::from(count.max(1));
    if recent < count || peers.succeeded == 0 {
        return false;
    }
    if host.failed_in_a_row(failure) >= RUN && peers.runs > 0 {
        return true;
    }
    let longest = LENGTHS.len() - 1;
    LENGTHS.iter().enumerate().any(|(number, &length)| {
        let (failed, attempts) = host.last(failure, length);
        let failed = failed.min(recent);
        failed >= count
            && [number, longest].iter().all(|&number| {
                let share = peers.share(failure, number, healthy_only);
                is_above((failed, attempts), share, percent)
                    && is_beyond_chance((failed, attempts), share)
                    && (failure == Failure::Refused || is_rare((failed, attempts), share))
            })
    })
}

/// Whether at least half of the last eight attempts on each of these hosts, taken together, failed in this way.
#[must_use]
pub fn is_widespread(peers: &Peers, failure: Failure) -> bool {
    let (failed, attempts) = peers.share(failure, RUN_LENGTH, false);
    failed > 0 && 2 * failed >= attempts
}

/// Whether the others, taken together, show at least a third of the timeouts that this host shows among as many attempts.
#[must_use]
pub fn is_spread(peers: &Peers, host: &AttemptHistory) -> bool {
    let (failed, attempts) = host.last(Failure::Timeout, LENGTH);
    let others = peers.share(Failure::Timeout, LENGTHS.len() - 1, false);
    3 * others.0 * attempts >= failed * others.1
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

/// Whether that many failures are rare on a host that fails as often as the others. The chance of it is at most the
/// number of ways to choose them, times the others' share to the power of their number.
fn is_rare((failed, attempts): (u64, u64), others: (u64, u64)) -> bool {
    let share = others.0 as f32 / others.1.max(1) as f32;
    let chance = (0..failed).fold(1.0, |chance, one| chance * share * (attempts - one) as f32 / (one + 1) as f32);
    chance < 1.0 / 512.0
}

/// The number of lengths to look back over.
const COUNT: usize = LENGTHS.len();

/// Sums over the histories of some hosts.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// The sums over hosts that are not failing.
    healthy: Sums,
    /// The sums over hosts that are.
    failing: Sums,
    /// The number of hosts that are not failing, and of which a run of attempts is known.
    well_known: u32,
    /// The number of hosts whose latest attempt was answered.
    succeeded: u32,
    /// The number of hosts whose latest attempts were all answered, a run of them.
    runs: u32,
}

/// The sums, for each length to look back over.
#[derive(Clone, Debug, Default)]
struct Sums {
    /// How many of the last attempts failed, by kind of failure.
    failed: [[u32; COUNT]; Failure::ALL.len()],
    /// How many attempts are missing, of hosts that had fewer than the length.
    missing: [u32; COUNT],
    hosts: u32,
}

impl Sums {
    const NONE: Self = Self { failed: [[0; COUNT]; Failure::ALL.len()], missing: [0; COUNT], hosts: 0 };
}

impl Peers {
    /// The sums over no hosts.
    #[must_use]
    pub const fn new() -> Self {
        Self { healthy: Sums::NONE, failing: Sums::NONE, well_known: 0, succeeded: 0, runs: 0 }
    }

    /// Adds a host.
    pub fn add(&mut self, history: &AttemptHistory) {
        self.count(history, 1);
    }

    /// Takes a host out that was added with the same history.
    pub fn remove(&mut self, history: &AttemptHistory) {
        self.count(history, u32::MAX);
    }

    /// Adds a host, or takes it out: `one` is 1, or -1 as numbers wrap around.
    fn count(&mut self, history: &AttemptHistory, one: u32) {
        let count = |counter: &mut u32, number: u32| *counter = counter.wrapping_add(number.wrapping_mul(one));
        let failing = history.is_failing();
        count(&mut self.well_known, u32::from(!failing && history.attempts() >= RUN));
        count(&mut self.succeeded, u32::from(history.answered_in_a_row() > 0));
        count(&mut self.runs, u32::from(history.answered_in_a_row() >= RUN));
        let sums = if failing { &mut self.failing } else { &mut self.healthy };
        count(&mut sums.hosts, 1);
        if history.attempts() < LENGTH {
            for (sum, length) in sums.missing.iter_mut().zip(LENGTHS) {
                count(sum, length.saturating_sub(history.attempts()));
            }
        }
        for (sums, failure) in sums.failed.iter_mut().zip(Failure::ALL) {
            if history.has(failure) {
                for (sum, length) in sums.iter_mut().zip(LENGTHS) {
                    count(sum, history.last(failure, length).0 as u32);
                }
            }
        }
    }

    /// The number of hosts.
    #[must_use]
    pub const fn hosts(&self) -> u32 {
        self.healthy.hosts.wrapping_add(self.failing.hosts)
    }

    /// How many of the hosts' last attempts failed in this way, and how many of these there were: `length` is the number of the
    /// length to look back over. With `healthy_only`, failing hosts are left out.
    fn share(&self, failure: Failure, length: usize, healthy_only: bool) -> (u64, u64) {
        let of = |sums: &Sums| {
            let failed = sums.failed.get(failure as usize).and_then(|failed| failed.get(length)).copied();
            let missing = sums.missing.get(length).copied().unwrap_or_default();
            let length = LENGTHS.get(length).copied().unwrap_or_default();
            let attempts = sums.hosts.wrapping_mul(length).wrapping_sub(missing);
            (u64::from(failed.unwrap_or_default()), u64::from(attempts))
        };
        let (failed, attempts) = of(&self.healthy);
        let failing = if healthy_only { (0, 0) } else { of(&self.failing) };
        (failed + failing.0, attempts + failing.1)
    }
}
