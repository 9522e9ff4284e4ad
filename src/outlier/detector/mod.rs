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
//! And where some other host is fine, its last two attempts not both failed, those that are not are no measure: two replicas
//! that crash in the same moment would else excuse each other.
//!
//! **What fails everywhere makes no outlier.** Two rules look at who is fine, not at shares. No detector fires unless the last
//! attempt on some other host was answered. And when hosts are out and then all that are in fail as well ([`is_common`]), those
//! that are out are probed at once, all of them: one may be back. If they fail, too, the failure is common, and all hosts come
//! back. The first host to show a common failure may be out until then: some milliseconds.

mod peers;
mod policy;

pub use peers::Others;
pub use policy::{Detector, OutlierPolicy};

pub use crate::outlier::history::{Failure, Outcome};

use crate::base::percent::Percent;
use crate::base::time::Time;
use crate::outlier::history::{LENGTH, Record};

/// Lengths to look back over.
const LENGTHS: [u32; 7] = [1, 2, 4, 8, 16, 32, LENGTH];
/// So many in a row leave no doubt.
const RUN: u32 = 8;
/// The number of that length.
const RUN_LENGTH: usize = 3;
const _: () = assert!(LENGTHS[RUN_LENGTH] == RUN);

/// Whether a host whose latest attempt failed is an outlier among the `others` that are in.
#[must_use]
pub fn is_outlier(policy: &OutlierPolicy, host: &Record, failure: Failure, others: &Others, now: Time) -> bool {
    // Hosts that crash at once shall not excuse each other: where there is one that is fine and well known, the ones in trouble
    // are no measure.
    let well = others.are_measured();
    let Detector { count, percent } = policy.detector(failure);
    let recent = host.within_interval(failure, now);
    let count = u64::from(count.max(1));
    if recent < count || !others.some_fine() {
        return false;
    }
    if host.failed_in_a_row(failure) >= RUN && others.some_answer() {
        return true;
    }
    let longest = LENGTHS.len() - 1;
    LENGTHS.iter().enumerate().any(|(number, &length)| {
        let (failed, attempts) = host.last(failure, length);
        let failed = failed.min(recent);
        failed >= count
            && [number, longest].iter().all(|&number| {
                let others = others.share(failure, number, well);
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
pub fn is_usual(hosts: &Others, failure: Failure) -> bool {
    let (failed, attempts) = hosts.share(failure, RUN_LENGTH, false);
    failed > 0 && 2 * failed >= attempts
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
