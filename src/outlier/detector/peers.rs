//! What hosts show together: sums over their records, kept up to date, so that to judge one of a thousand takes no longer than
//! to judge one of four.

use super::{LENGTHS, RUN};
use crate::outlier::history::{Failure, LENGTH, Record};

/// So many lengths to look back over.
const COUNT: usize = LENGTHS.len();

/// Sums over the records of some hosts.
#[derive(Clone, Debug, Default)]
pub struct Others {
    /// Of those that are not in trouble, and of those that are.
    well: Sums,
    ill: Sums,
    /// How many are not in trouble, and are well known.
    measures: u32,
    /// How many are fine.
    fine: u32,
    /// How many answered a run of attempts.
    runs: u32,
}

/// By length: how many of the last attempts failed so, and how many fewer these are than so many of each host.
#[derive(Clone, Debug, Default)]
struct Sums {
    failed: [[u32; COUNT]; Failure::ALL.len()],
    missing: [u32; COUNT],
    hosts: u32,
}

impl Sums {
    const NONE: Self = Self { failed: [[0; COUNT]; Failure::ALL.len()], missing: [0; COUNT], hosts: 0 };
}

impl Others {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self { well: Sums::NONE, ill: Sums::NONE, measures: 0, fine: 0, runs: 0 }
    }

    /// One more host.
    pub fn add(&mut self, record: &Record) {
        self.count(record, 1);
    }

    /// A host that was added, with the same record, is none of them any more.
    pub fn remove(&mut self, record: &Record) {
        self.count(record, u32::MAX);
    }

    /// `one` is 1, or -1 as numbers wrap around.
    fn count(&mut self, record: &Record, one: u32) {
        let count = |counter: &mut u32, number: u32| *counter = counter.wrapping_add(number.wrapping_mul(one));
        let ill = record.is_in_trouble();
        count(&mut self.measures, u32::from(!ill && record.attempts() >= RUN));
        count(&mut self.fine, u32::from(record.is_fine()));
        count(&mut self.runs, u32::from(record.answered_in_a_row() >= RUN));
        let sums = if ill { &mut self.ill } else { &mut self.well };
        count(&mut sums.hosts, 1);
        if record.attempts() < LENGTH {
            for (sum, length) in sums.missing.iter_mut().zip(LENGTHS) {
                count(sum, length.saturating_sub(record.attempts()));
            }
        }
        for (sums, failure) in sums.failed.iter_mut().zip(Failure::ALL) {
            if record.has(failure) {
                for (sum, length) in sums.iter_mut().zip(LENGTHS) {
                    count(sum, record.last(failure, length).0 as u32);
                }
            }
        }
    }

    /// How many hosts these are.
    #[must_use]
    pub const fn hosts(&self) -> u32 {
        self.well.hosts.wrapping_add(self.ill.hosts)
    }

    /// Whether one of them is fine and well known, so that those in trouble are no measure.
    pub(super) const fn are_measured(&self) -> bool {
        self.measures > 0
    }

    /// Whether the latest attempt on one of them did not fail.
    pub(super) const fn some_fine(&self) -> bool {
        self.fine > 0
    }

    /// Whether one of them answered its last attempts, [`RUN`] of them.
    pub(super) const fn some_answer(&self) -> bool {
        self.runs > 0
    }

    /// How many of their last attempts failed so, looking back over the length of that number, and how many these are; only
    /// of those that are `well`, or of all.
    pub(super) fn share(&self, failure: Failure, length: usize, well: bool) -> (u64, u64) {
        let of = |sums: &Sums| {
            let failed = sums.failed.get(failure as usize).and_then(|failed| failed.get(length)).copied();
            let missing = sums.missing.get(length).copied().unwrap_or_default();
            let length = LENGTHS.get(length).copied().unwrap_or_default();
            let attempts = sums.hosts.wrapping_mul(length).wrapping_sub(missing);
            (u64::from(failed.unwrap_or_default()), u64::from(attempts))
        };
        let (failed, attempts) = of(&self.well);
        let ill = if well { (0, 0) } else { of(&self.ill) };
        (failed + ill.0, attempts + ill.1)
    }
}
