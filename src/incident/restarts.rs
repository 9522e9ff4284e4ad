//! The restarts of a host: how many, how far apart, and how long it is down each time.

use super::episode::{Down, Kind};
use super::host::LAG;
use super::{Milliseconds, add, sub};

/// This many crashes make a crash loop.
pub const CRASHES: u64 = 3;
/// This many crashes make a crash loop, even if it is not known well how long the host is down each time.
pub const MANY_CRASHES: u64 = 5;

/// All restarts of a host.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Restarts {
    pub(super) count: u64,
    pub(super) crashes: u64,
    /// The resets in all restarts.
    pub(super) resets: u64,
    /// The refusals in all restarts.
    pub(super) refusals: u64,
    pub(super) first_down: Milliseconds,
    pub(super) last_down: Milliseconds,
    pub(super) period_min: Milliseconds,
    pub(super) period_max: Milliseconds,
    /// The largest of the lower bounds of the time down.
    pub(super) least: Milliseconds,
    /// The smallest of the upper bounds of the time down.
    pub(super) most: Milliseconds,
    /// The middles between the bounds of each restart.
    pub(super) middle_min: Milliseconds,
    pub(super) middle_max: Milliseconds,
    pub(super) middle_sum: Milliseconds,
}

impl Restarts {
    /// Adds an episode that was a restart.
    pub(super) fn add(&mut self, down: &Down, back: Milliseconds) {
        let least = sub(down.failed, down.since);
        let most = sub(back, down.since);
        let middle = add(least, most) / 2;
        if self.count == 0 {
            (self.first_down, self.least, self.most) = (down.since, least, most);
            (self.middle_min, self.middle_max) = (middle, middle);
        } else {
            let period = sub(down.since, self.last_down);
            self.period_min = if self.count == 1 { period } else { self.period_min.min(period) };
            self.period_max = self.period_max.max(period);
        }
        self.last_down = down.since;
        self.least = self.least.max(least);
        self.most = self.most.min(most);
        self.middle_min = self.middle_min.min(middle);
        self.middle_max = self.middle_max.max(middle);
        self.middle_sum = add(self.middle_sum, middle);
        self.count = add(self.count, 1);
        self.crashes = add(self.crashes, u64::from(down.count(Kind::Reset) > 0));
        self.resets = add(self.resets, down.count(Kind::Reset));
        self.refusals = add(self.refusals, down.count(Kind::Refused));
    }

    /// Whether there are enough crashes for a loop, and it is known well enough how long the host is down each time: to a
    /// tenth, or as well as can be; or there were many crashes.
    pub(super) fn are_crash_loop(&self) -> bool {
        let known = self.crashes >= MANY_CRASHES || sub(self.most, self.least) <= LAG.max(self.least / 10);
        self.crashes >= CRASHES && known
    }

    /// The time down, at least and at most: what fits all restarts, or, if they differ, the middles.
    pub(super) fn downtime(&self) -> [Milliseconds; 3] {
        if self.least <= self.most {
            [add(self.least, self.most) / 2, self.least, self.most]
        } else {
            let middle = self.middle_sum.checked_div(self.count).unwrap_or_default();
            [middle, self.middle_min, self.middle_max]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A crash at that time: a reset, then refusals for as long, and an answer after that.
    fn crash(restarts: &mut Restarts, since: u64, refused_for: u64, back_after: u64) {
        let counts = [1, 2, 0, 0, 0, 0];
        restarts.add(&Down { since, failed: since + refused_for, counts, ..Down::default() }, since + back_after);
    }

    #[test]
    fn one_time_down_that_fits_all_restarts_lies_within_all_bounds() {
        let mut restarts = Restarts::default();
        crash(&mut restarts, 10_000, 1_000, 3_000);
        assert_eq!(restarts.downtime(), [2_000, 1_000, 3_000]);
        crash(&mut restarts, 30_000, 1_800, 4_000);
        crash(&mut restarts, 60_000, 500, 2_000);
        assert_eq!(restarts.downtime(), [1_900, 1_800, 2_000]);
        assert_eq!((restarts.period_min, restarts.period_max), (20_000, 30_000));
        assert_eq!((restarts.count, restarts.crashes, restarts.resets, restarts.refusals), (3, 3, 3, 6));
        // If they differ, the middles are what is known.
        crash(&mut restarts, 90_000, 8_000, 9_000);
        assert_eq!(restarts.downtime(), [(2_000 + 2_900 + 1_250 + 8_500) / 4, 1_250, 8_500]);
    }

    #[test]
    fn three_crashes_are_a_loop_if_the_time_down_is_known_and_five_are_in_any_case() {
        let mut restarts = Restarts::default();
        (0..2).for_each(|n| crash(&mut restarts, n * 10_000, 1_000, 1_100));
        assert!(!restarts.are_crash_loop());
        crash(&mut restarts, 20_000, 1_000, 1_100);
        assert!(restarts.are_crash_loop());
        let mut restarts = Restarts::default();
        (0..4).for_each(|n| crash(&mut restarts, n * 10_000, 1_000, 3_000));
        assert!(!restarts.are_crash_loop(), "between one second and three");
        crash(&mut restarts, 40_000, 1_000, 3_000);
        assert!(restarts.are_crash_loop());
    }
}
