//! Outlier detectors: whether a host does worse than the other hosts of its cluster, beyond chance.
//!
//! Each kind of failure has a detector. When an attempt fails, it looks back over the host's last 1, 2, 4, ... 64 attempts,
//! and fires if over one of these lengths
//!
//! - the host shows the failure at least `count` times, all of them within `interval`,
//! - their share is at least `percent` percentage points above the share that the other healthy hosts show over as many
//!   of their own last attempts (strictly above where `percent` is 0), and
//! - the difference is no chance: with `e` the number that the others' share would mean here, it is more than four standard
//!   deviations of it and of what is known of the others: hardly more than `count > e + 4 sqrt(e)`; and a host that fails as the
//!   others do shows as many failures less often than once in 512 times. (Where `e` is small, four deviations are not as rare as
//!   that: where one attempt in ten is reset wherever it is sent, two in a row are one in a hundred. Only refusals are always the
//!   host's own.) Where the others show nothing, `e` is 0 and the first failures decide.
//!
//! Attempts, not seconds, because a share over seconds is slow where it matters: a host that took 600 requests in the last
//! ten seconds and now resets each would need 60 resets to show 10 percent. Over its last 30 attempts it needs two or three. And
//! the others over as many, because what starts to fail everywhere shows everywhere after as many attempts; and also over their
//! last 64, because a few attempts may all have been lucky ones.
//!
//! The aggregate of the others hides a case: three of four hosts dead after a total outage. Each of them is hardly above
//! the rest. So a host also is an outlier if its last eight attempts all failed and another's last eight were all answered.
//!
//! If at least one other host is not failing (its last two attempts did not both fail), failing hosts are left out of the
//! comparison. Otherwise two replicas that crash together would make each other look normal.
//!
//! **What fails everywhere makes no outlier.** Two rules look at hosts that succeed, not at shares. No detector fires unless the
//! last attempt on some other host was answered. And when hosts are ejected and then all healthy ones fail as well
//! ([`all_failing`]), the ejected hosts are probed at once, all of them: one may be back. If these fail, too, the failure is
//! cluster-wide, and all hosts come back. The first host that shows it may be ejected until then: some milliseconds.

pub use super::history::{Failure, Outcome};
pub use super::hosts::Peers;
pub use super::policy::{Detector, OutlierPolicy};

use crate::base::percent::Percent;
use crate::base::time::Time;
use crate::outlier::history::{AttemptHistory, LENGTH};

/// The lengths to look back over.
pub(super) const LENGTHS: [u32; 7] = [1, 2, 4, 8, 16, 32, LENGTH];
/// A run of this many attempts that ended alike leaves no doubt.
pub(super) const RUN: u32 = 8;
/// The number of this length among [`LENGTHS`].
const RUN_LENGTH: usize = 3;
const _: () = assert!(LENGTHS[RUN_LENGTH] == RUN);

/// Whether a host whose latest attempt failed is an outlier among its healthy `peers`.
#[must_use]
pub fn is_outlier(policy: &OutlierPolicy, host: &AttemptHistory, failure: Failure, peers: &Peers, now: Time) -> bool {
    let healthy_only = peers.some_well_known();
    let Detector { count, percent } = policy.detector(failure);
    let recent = host.within_interval(failure, now);
    let count = u64::from(count.max(1));
    if recent < count || !peers.some_succeeded() {
        return false;
    }
    if host.failed_in_a_row(failure) >= RUN && peers.some_run() {
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

/// Whether there are hosts, and all of them are failing: then the ejected ones are no worse.
#[must_use]
pub fn all_failing<'a>(mut hosts: impl Iterator<Item = &'a AttemptHistory>) -> bool {
    let mut some = false;
    hosts.all(|host| {
        some = true;
        host.is_failing()
    }) && some
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

/// Whether so many failures are rare on a host that fails as the others do: what bounds the chance of it is the number of ways to
/// choose them times the others' share to the power of their number.
fn is_rare((failed, attempts): (u64, u64), others: (u64, u64)) -> bool {
    let share = others.0 as f32 / others.1.max(1) as f32;
    let chance = (0..failed).fold(1.0, |chance, one| chance * share * (attempts - one) as f32 / (one + 1) as f32);
    chance < 1.0 / 512.0
}
