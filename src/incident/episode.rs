//! An episode: a host goes down, fails, and comes back. And its restarts: how many, how far apart, and how long it is down each time.

use super::host::LAG;
use super::{Milliseconds, add, sub};

/// The failures of attempts that patterns tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The attempt was broken off.
    Reset,
    /// The connection was refused.
    Refused,
    /// No connection was made within the connect timeout.
    ConnectTimeout,
    /// No connection was made for another reason.
    NoConnection,
    /// There was no answer in time.
    Timeout,
    /// The answer was a failure.
    Error,
}

pub(super) const KINDS: usize = 6;
/// The clocks and event loops of workers differ by this at most.
const SKEW: Milliseconds = 20;

/// Whether a host is down.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Episode {
    /// The host did not fail, as far as is known.
    #[default]
    None,
    /// The host failed, and has not answered since.
    Down(Down),
    /// The host answered at that time for the first time since it failed, and has not failed again.
    Back(Down, Milliseconds),
}

/// The failures of an episode.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Down {
    /// The first failure.
    pub(super) since: Milliseconds,
    /// The last failure.
    pub(super) failed: Milliseconds,
    /// The first reset or refusal.
    pub(super) first_break: Milliseconds,
    /// How many failures there were of each kind.
    pub(super) counts: [u64; KINDS],
    pub(super) idle: IdleResets,
    /// How many timeouts there were before the first reset or refusal.
    pub(super) timeouts: u64,
    /// Whether most hosts went down with this one.
    pub(super) is_cluster_wide: bool,
}

/// Resets of connections that had been idle.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct IdleResets {
    pub(super) count: u64,
    /// The shortest time that a connection had been idle.
    pub(super) min: Milliseconds,
    /// The longest time that a connection had been idle.
    pub(super) max: Milliseconds,
}

impl IdleResets {
    fn add(&mut self, idle: Milliseconds) {
        self.min = earliest(self.min, idle);
        self.max = self.max.max(idle);
        self.count = add(self.count, 1);
    }
}

impl Down {
    pub(super) fn count(&self, kind: Kind) -> u64 {
        self.counts.get(kind as usize).copied().unwrap_or_default()
    }

    pub(super) fn failures(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| add(sum, *count))
    }

    fn fail(&mut self, kind: Kind, first: Milliseconds, last: Milliseconds, count: u64) {
        self.since = earliest(self.since, first);
        self.failed = self.failed.max(last);
        if matches!(kind, Kind::Reset | Kind::Refused) {
            self.first_break = earliest(self.first_break, first);
        } else if kind == Kind::Timeout && self.first_break == 0 {
            self.timeouts = add(self.timeouts, count);
        }
        if let Some(known) = self.counts.get_mut(kind as usize) {
            *known = add(*known, count);
        }
    }
}

impl Episode {
    /// The failures of the episode, if there is one.
    pub(super) const fn down(&self) -> Option<&Down> {
        match self {
            Self::None => None,
            Self::Down(down) | Self::Back(down, _) => Some(down),
        }
    }

    /// When the host answered for the first time since it failed; 0 if it has not.
    pub(super) const fn up(&self) -> Milliseconds {
        if let Self::Back(_, up) = self { *up } else { 0 }
    }

    /// Attempts failed in this way, the first and the last at these times.
    pub(super) fn fail(&mut self, kind: Kind, first: Milliseconds, last: Milliseconds, count: u64) {
        let mut down = match *self {
            Self::None => Down::default(),
            // A host that does not refuse connections was up in between, so this is another episode.
            Self::Back(down, up) if last > up && down.count(Kind::Refused) == 0 => Down::default(),
            Self::Back(mut down, up) if last <= up => {
                down.fail(kind, first, last, count);
                *self = Self::Back(down, up);
                return;
            }
            Self::Down(down) | Self::Back(down, _) => down,
        };
        down.fail(kind, first, last, count);
        *self = Self::Down(down);
    }

    /// A connection was reset that had been idle for this long.
    pub(super) fn reset_after_idle(&mut self, idle: Milliseconds) {
        if let Self::Down(down) | Self::Back(down, _) = self {
            down.idle.add(idle);
        }
    }

    /// The host answered attempts that began at these times, the first and the last.
    pub(super) fn answer(&mut self, first: Milliseconds, last: Milliseconds) {
        *self = match *self {
            Self::Down(down) if last >= add(down.failed, SKEW) => Self::Back(down, first.max(add(down.failed, SKEW))),
            Self::Back(down, up) if last >= add(down.failed, SKEW) => {
                Self::Back(down, up.min(first.max(add(down.failed, SKEW))))
            }
            episode => episode,
        };
    }
}

/// The smaller of two, where 0 is none.
fn earliest(known: u64, other: u64) -> u64 {
    if known == 0 { other } else { known.min(other) }
}

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

    #[test]
    fn a_host_is_back_when_it_answers_what_began_later() {
        let mut episode = Episode::None;
        episode.answer(100, 100);
        assert!(matches!(episode, Episode::None));
        episode.fail(Kind::Refused, 1_000, 1_500, 2);
        episode.answer(900, 1_519);
        assert!(matches!(episode, Episode::Down(_)), "the clocks of workers differ");
        episode.answer(900, 1_600);
        assert_eq!(episode.up(), 1_520);
        episode.fail(Kind::Refused, 1_510, 1_520, 1);
        assert_eq!(episode.up(), 1_520, "what failed before it was back is part of the episode");
        episode.fail(Kind::Refused, 1_700, 1_700, 1);
        assert!(matches!(episode, Episode::Down(down) if down.since == 1_000 && down.count(Kind::Refused) == 4));
    }

    #[test]
    fn a_host_that_refuses_nothing_and_fails_again_was_up_in_between() {
        let mut episode = Episode::None;
        episode.fail(Kind::Timeout, 1_000, 1_000, 3);
        episode.reset_after_idle(5_000);
        episode.answer(2_000, 2_000);
        episode.fail(Kind::Reset, 3_000, 3_000, 1);
        let down = episode.down().unwrap();
        assert_eq!((down.since, down.first_break, down.failures()), (3_000, 3_000, 1));
        assert_eq!((down.timeouts, down.idle.count), (0, 0));
    }

    #[test]
    fn timeouts_count_until_the_first_reset_or_refusal() {
        let mut episode = Episode::None;
        episode.fail(Kind::Timeout, 1_000, 1_200, 3);
        episode.fail(Kind::Reset, 1_300, 1_300, 1);
        episode.fail(Kind::Timeout, 1_400, 1_400, 1);
        let down = episode.down().unwrap();
        assert_eq!((down.timeouts, down.first_break, down.count(Kind::Timeout)), (3, 1_300, 4));
    }

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
