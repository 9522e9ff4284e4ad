//! How long hosts are typically down, and how likely it is that one is back.

use std::time::Duration;

use super::ejection::Ejected;
use crate::base::time::{Time, nanos};

/// What is taken as the typical downtime until a host came back.
const DEFAULT: Duration = Duration::from_secs(2);
/// A probability of one, in millionths.
pub(super) const CERTAIN: u64 = 1_000_000;

/// The typical downtime of a cluster's hosts, in nanoseconds: a moving average over those that this worker brought back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Downtime {
    typical: Option<u64>,
}

impl Downtime {
    pub(super) const fn new() -> Self {
        Self { typical: None }
    }

    /// A host came back: at some time since it last failed.
    pub(super) fn came_back(&mut self, since: Time, failed: Time, now: Time) {
        let back = (failed.as_nanos() / 4).saturating_add(now.as_nanos() / 4 * 3);
        let down = back.saturating_sub(since.as_nanos());
        let typical = self.typical.map_or(down, |typical| typical - typical / 4 + down / 4);
        self.typical = Some(typical).filter(|typical| *typical > 0);
    }

    /// Half of the typical downtime, in nanoseconds; `None` until a host came back.
    pub(super) fn half(self) -> Option<u64> {
        self.typical.map(|typical| typical / 2)
    }

    /// A rank of an ejected host: lower the likelier it is back, from 0 to [`CERTAIN`].
    pub(super) fn rank(self, ejected: &Ejected, now: Time) -> u64 {
        let ejection = &ejected.ejection;
        let down_for = |at: Time| at.as_nanos().saturating_sub(ejection.since.as_nanos());
        CERTAIN - self.chance_to_be_back(down_for(ejection.failed), down_for(now)).min(CERTAIN)
    }

    /// How likely it is, in millionths, that a host is back that was still down after `tried` when it was last tried, and that
    /// would be down for `down` now, in nanoseconds.
    ///
    /// Most hosts are back after half to one and a half times the typical downtime, each time in between as likely as another.
    /// Of a host that was down for longer, it is known only that it takes long: it may well take as long again.
    fn chance_to_be_back(self, tried: u64, down: u64) -> u64 {
        let micros = |nanos: u64| nanos / 1_000;
        let typical = self.typical.unwrap_or(nanos(DEFAULT));
        let (first, last) = (micros(typical / 2), micros(typical.saturating_add(typical / 2)));
        let (tried, down) = (micros(tried), micros(down));
        let (part, whole) = if tried < last {
            (down.min(last).saturating_sub(tried.max(first)), last - tried.max(first))
        } else {
            (down.saturating_sub(tried), down)
        };
        part.saturating_mul(CERTAIN) / whole.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn the_chance_that_a_host_is_back() {
        // Hosts are typically back after two seconds: after one to three.
        let downtime = Downtime::new();
        for (tried, down, millionths) in [
            (0, 0, 0),
            (0, SECOND, 0),
            (0, 2 * SECOND, 500_000),
            (0, 3 * SECOND, CERTAIN),
            (2 * SECOND, 2 * SECOND, 0),
            (2 * SECOND, 5 * SECOND / 2, 500_000),
            // It took longer than any: half a chance after as long again.
            (4 * SECOND, 8 * SECOND, 500_000),
            (4 * SECOND, 4 * SECOND, 0),
            (0, u64::MAX, CERTAIN),
        ] {
            assert_eq!(downtime.chance_to_be_back(tried, down), millionths, "{tried} {down}");
        }
    }

    #[test]
    fn the_typical_downtime_follows_what_is_seen() {
        let mut downtime = Downtime::new();
        assert_eq!(downtime.half(), None);
        let start = 1_800_000_000 * SECOND;
        let at = |seconds: u64| Time::from_nanos(start + seconds * SECOND);
        downtime.came_back(at(0), at(4), at(8));
        assert_eq!(downtime.half(), Some(7 * SECOND / 2), "three quarters between the last failure and the answer");
        downtime.came_back(at(0), at(3), at(3));
        assert_eq!(downtime.half(), Some(3 * SECOND), "a quarter of it is new");
    }
}
