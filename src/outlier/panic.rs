//! Panic mode, as Envoy calls it: none of the healthy hosts is of use, so the ejected ones are needed.
//!
//! There are two reasons, and both may hold at once. The healthy hosts all *fail*: one of the ejected hosts may be back, so all of
//! these are probed at once; if they failed a moment ago, or no probe was answered for a second, the failure is cluster-wide,
//! and all hosts come back. Or the healthy hosts are all *unresponsive*, which is found out before any attempt fails: then the
//! ejected hosts are probed at once as well.

use std::time::Duration;

use super::Outliers;
use crate::base::time::Time;
use crate::outlier::detector::all_failing;
use crate::outlier::host::Host;
use crate::outlier::shared::Change;
use crate::steering::SUSPICION;

/// A condition holds for this long after it was last seen. A host that failed within this time need not be tried again.
pub(super) const LASTS: Duration = Duration::from_millis(250);
/// How long an answer of the ejected hosts is waited for, when the healthy ones fail.
const CLUSTER_WIDE_AFTER: Duration = Duration::from_secs(1);

/// Something that lasts as long as it is seen again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It was not seen.
    Absent,
    /// It was seen from `since` until `latest`.
    Seen { since: Time, latest: Time },
}

impl Condition {
    pub(super) fn holds(self, now: Time) -> bool {
        matches!(self, Self::Seen { latest, .. } if now.is_soon_after(LASTS, latest))
    }

    /// It is seen now. Returns since when it lasts.
    fn see(&mut self, now: Time) -> Time {
        let since = match *self {
            Self::Seen { since, .. } if self.holds(now) => since,
            _ => now,
        };
        *self = Self::Seen { since, latest: now };
        since
    }

    /// The host's clock may have stepped back: what was seen in the future was not seen.
    fn clamp(&mut self, now: Time) {
        if matches!(self, Self::Seen { latest, .. } if *latest > now) {
            *self = Self::Absent;
        }
    }
}

/// The two reasons for panic mode.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panic {
    pub(super) all_fail: Condition,
    pub(super) all_unresponsive: Condition,
}

impl Panic {
    pub(super) const fn new() -> Self {
        Self { all_fail: Condition::Absent, all_unresponsive: Condition::Absent }
    }

    pub(super) fn clamp(&mut self, now: Time) {
        self.all_fail.clamp(now);
        self.all_unresponsive.clamp(now);
    }
}

impl Outliers {
    /// Whether all healthy hosts failed a moment ago.
    pub(super) fn in_panic(&self, now: Time) -> bool {
        self.ejected > 0 && self.panic.all_fail.holds(now)
    }

    /// All healthy hosts fail: the ejected ones are probed at once, or all come back.
    pub(super) fn panic_over_failures(&mut self, now: Time) {
        let since = self.panic.all_fail.see(now);
        let tried = self.hosts.each_ejected().all(|(_, _, ejected)| now.is_within(LASTS, ejected.ejection.failed));
        let cluster_wide = tried || now.is_later(CLUSTER_WIDE_AFTER, since);
        self.sharing.pending.push(if cluster_wide { Change::UnejectAll } else { Change::ProbeNow });
    }

    /// Probes the ejected hosts at once, if all healthy ones are unresponsive or fail.
    pub(super) fn panic_if_unresponsive(&mut self, now: Time) {
        if self.healthy_all_unresponsive(now) {
            if !self.panic.all_unresponsive.holds(now) {
                self.sharing.pending.push(Change::ProbeNow);
            }
            self.panic.all_unresponsive.see(now);
        }
    }

    fn healthy_all_unresponsive(&mut self, now: Time) -> bool {
        let unresponsive = |host: &Host| self.steering.responsiveness.is_unresponsive(host, now);
        self.ejected > 0
            && !self.hosts.any_healthy(&|host| !unresponsive(host) && !host.history.is_failing(), now)
            && self.hosts.present(now).any(unresponsive)
    }

    /// Whether no host is ejected, and all hosts failed a moment ago: none is worse than the others.
    pub(super) fn all_are_down(&mut self, now: Time) -> bool {
        self.ejected == 0
            && now.is_within(SUSPICION, self.latest.break_off)
            && !self.hosts.is_crowded(now)
            && !self.hosts.any_healthy(&|host| !host.history.is_failing(), now)
    }

    /// Whether some hosts are ejected, and all healthy ones fail: those that took attempts within the interval, which must be at
    /// least half of the healthy ones.
    pub(super) fn healthy_all_fail(&mut self, now: Time) -> bool {
        let interval = self.policy.interval;
        let recent = |host: &Host| now.is_within(interval, host.seen);
        if self.ejected == 0 || self.hosts.any_healthy(&|host| recent(host) && !host.history.is_failing(), now) {
            return false;
        }
        let present = self.hosts.present(now);
        let recent = present.clone().filter(|host| recent(host));
        recent.clone().count() * 2 >= present.count() && all_failing(recent.map(|host| &host.history))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_lasts_while_it_is_seen_again() {
        let at =
            |millis: u64| Time::from_nanos(1_800_000_000_000_000_000).saturating_add(Duration::from_millis(millis));
        let mut condition = Condition::Absent;
        assert!(!condition.holds(at(0)));
        assert_eq!(condition.see(at(100)), at(100));
        assert_eq!(condition.see(at(349)), at(100));
        assert!(condition.holds(at(349)) && condition.holds(at(598)) && !condition.holds(at(599)));
        assert_eq!(condition.see(at(599)), at(599), "it began anew");
        assert!(!condition.holds(at(598)), "it was not seen then");
        condition.clamp(at(600));
        assert!(condition.holds(at(600)));
        condition.clamp(at(300));
        assert_eq!(condition, Condition::Absent);
    }
}
