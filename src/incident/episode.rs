//! An episode: a host goes down, fails, and comes back.

use super::{Milliseconds, add};

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
}
