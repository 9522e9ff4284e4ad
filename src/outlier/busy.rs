//! Hosts that push back: one that says "not now" while others answer is busy, and the others are not.
//!
//! It is left alone for a second, which is what most `retry-after` say at least, and what may be repeated goes to another host. Where
//! half or more of the hosts push back, they are right together: then it is the cluster that has enough, and nothing is
//! repeated. What each did with its latest attempts decides, so that a limit that all of them enforce now and then is no host's own.

use std::time::Duration;

use super::Outliers;
use crate::base::time::Time;
use crate::outlier::host::Host;
use crate::signal::Signal;

/// A host that pushed back is left alone for so long.
const LEFT_ALONE: Duration = Duration::from_secs(1);
/// For so long, Envoy is told of what may be repeated that another host may be asked: one that pushes back once will do so again.
const EXPECTED: Duration = Duration::from_secs(60);
/// One that pushed back as often, of its latest sixteen attempts, is busy for longer.
const OFTEN: u32 = 4;

/// Whether the host pushed back a moment ago.
#[must_use]
pub fn is_busy(host: &Host, now: Time) -> bool {
    host.pushed > Time::default() && now.is_soon_after(LEFT_ALONE, host.pushed)
}

impl Host {
    /// An attempt on it ended so, and as many more as `weight` says.
    pub(super) fn takes(&mut self, signal: Signal, weight: u32, now: Time) {
        if !matches!(signal, Signal::Cancelled | Signal::Local) {
            self.unreachable = signal == Signal::Unreachable;
        }
        let before = self.pushes.checked_shl(weight.max(1)).unwrap_or(0);
        match signal {
            Signal::Pushback => (self.pushed, self.pushes) = (now, before | 1),
            Signal::Answered | Signal::Error => self.pushes = before,
            _ => {}
        }
    }
}

impl Outliers {
    /// Whether some host pushed back within the last minute, and so may again.
    #[must_use]
    pub fn expects_pushback(&self, now: Time) -> bool {
        self.was_pushed_back(EXPECTED, now)
    }

    fn was_pushed_back(&self, within: Duration, now: Time) -> bool {
        self.latest.pushback > Time::default() && now.is_soon_after(within, self.latest.pushback)
    }

    /// Whether a host that pushes back is busy, and others are not: fewer than half of those that are in, or one of two.
    #[must_use]
    pub fn others_take(&self, now: Time) -> bool {
        let is = |host: &&Host| is_busy(host, now) || host.pushes.count_ones() >= OFTEN;
        let (present, busy) = (self.hosts.present(now).count(), self.hosts.present(now).filter(is).count());
        present > 1 && (2 * busy < present || busy == 1)
    }

    /// Whether some host is to be left alone.
    pub(super) fn leaves_alone(&self, now: Time) -> bool {
        self.was_pushed_back(LEFT_ALONE, now) && self.others_take(now)
    }
}
