//! What the end of an attempt decides: a host is ejected, stays ejected, or comes back.
//!
//! **Panic mode**, as Envoy calls it: none of the healthy hosts is of use, so the ejected ones are needed. There are two reasons, and
//! both may hold at once. The healthy hosts all *fail*: one of the ejected hosts may be back, so all of these are probed at once; if
//! they failed a moment ago, or no probe was answered for a second, the failure is cluster-wide, and all hosts come back. Or the
//! healthy hosts are all *unresponsive*, which is found out before any attempt fails: then the ejected hosts are probed at once as
//! well.

use std::time::Duration;

use super::exchange::MOST_EVENTS;
use super::probing::ProbeBudget;
use super::{EndedAttempt, Event, FEW, Outliers};
use crate::base::time::{Time, nanos_since};
use crate::outlier::detector::{Failure, Outcome, is_outlier, is_spread, is_widespread};
use crate::outlier::ejection::{HostState, Verdict};
use crate::outlier::host::Host;
use crate::outlier::shared::{Change, Ejection};
use crate::signal::Signal;
use crate::steering::SUSPICION;

/// For this long after a host hung, another one may hang at any time.
pub(super) const ALERT: Duration = Duration::from_secs(60);

/// What is known of an overdue request: whether it counts against its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// Whether hardly any request of the cluster takes that long by nature, and no other one is overdue now.
    pub rare: bool,
    /// Whether this request was reported as overdue before.
    pub seen_before: bool,
    /// Whether as many requests are overdue at the host as chance hardly ever explains.
    pub enough_alike: bool,
}

impl Outliers {
    /// An attempt ended. Returns whether to [exchange](Self::exchange) at once: there is something to write, or another worker
    /// may know more.
    pub fn attempt_ended(&mut self, attempt: &EndedAttempt<'_>, now: Time) -> bool {
        if Outcome::from(attempt.signal) == Outcome::Answered && attempt.weight <= 1 {
            self.steering.responsiveness.answered(attempt.began, now);
        }
        self.shows(attempt, now)
    }

    /// An attempt was answered at that time, and goes on: a stream speaks for its host while it runs. If it breaks off,
    /// that is reported as [`Signal::Closed`]. Returns whether to exchange at once, like
    /// [`attempt_ended`](Self::attempt_ended).
    pub fn stream_runs(&mut self, attempt: &EndedAttempt<'_>, answered: Time, now: Time) -> bool {
        self.steering.responsiveness.answered(attempt.began, answered);
        self.shows(attempt, now)
    }

    /// What an attempt shows of its host: whether it is reached, whether it pushes back, and how recently it answered; and then, by
    /// what it counts, whether it is worse than the others.
    fn shows(&mut self, attempt: &EndedAttempt<'_>, now: Time) -> bool {
        let Some(address) = attempt.host else { return false };
        let outcome = Outcome::from(attempt.signal);
        let known = self.hosts.len();
        let Some(place) = self.hosts.seen(address, now) else { return false };
        // All others may be down, and this one of a lower priority: the other workers do not know yet that it answers.
        let is_first = self.hosts.len() > known
            && outcome == Outcome::Answered
            && self.ejected == 0
            && now.is_within(SUSPICION, self.latest.break_off);
        let Some(host) = self.hosts.at_mut(place) else { return false };
        if !matches!(attempt.signal, Signal::Cancelled | Signal::Local) {
            host.unreachable = attempt.signal == Signal::Unreachable;
        }
        let pushes = host.pushes.checked_shl(attempt.weight.max(1)).unwrap_or(0);
        match attempt.signal {
            Signal::Pushback => (host.pushed, host.pushes, self.latest.pushback) = (now, pushes | 1, now),
            Signal::Answered | Signal::Error => host.pushes = pushes,
            _ => {}
        }
        let pinned = host.pinned > 0;
        host.pinned = host.pinned.saturating_sub(1);
        // An attempt that takes too long for a hedge or a timeout is not an answer.
        if !matches!(outcome, Outcome::Nothing | Outcome::Failed(Failure::Timeout)) {
            (host.oldest_outstanding, host.missed_deadlines, host.answered) = (None, 0, now);
        }
        // Answers to pinned requests do not count: a host that gets more requests would answer more, and so get ever more.
        if outcome == Outcome::Answered && !pinned {
            self.hosts.set_last_answer(place, now);
        }
        let reported = self.count(place, outcome, attempt, now);
        if attempt.picked {
            self.picked_at(place);
        }
        if let Some((failure, answers)) = reported {
            self.sharing.pending.push(Change::ReportFailure(address.into(), failure, answers));
            let others = self.hosts.at(place).is_some_and(|host| host.answered > attempt.began);
            self.failed(place, failure, others, true, now);
        }
        if is_first {
            self.sharing.pending.push(Change::ReportPick(address.into()));
        }
        is_first || self.sharing.pending.iter().any(|change| !matches!(change, Change::ReportPick(_)))
    }

    /// Counts an attempt for a healthy host, or takes it as the verdict on an ejected one. Returns what to report: a failure, and
    /// how many attempts the host answered before.
    fn count(
        &mut self,
        place: usize,
        outcome: Outcome,
        attempt: &EndedAttempt<'_>,
        now: Time,
    ) -> Option<(Failure, u32)> {
        let (interval, me) = (self.policy.interval, self.me);
        let host = self.hosts.at_mut(place)?;
        match (&mut host.state, outcome) {
            (HostState::Healthy(health), Outcome::Answered) if health.concerns(attempt.began) => {
                let answers = attempt.weight.max(1);
                host.answers = host.answers.saturating_add(answers);
                health.answered(now, interval);
                self.hosts.answered(place, answers);
            }
            (HostState::Healthy(health), Outcome::Failed(failure)) if health.concerns(attempt.began) => {
                health.failed(now, interval);
                return Some((failure, host.report(now)));
            }
            (state, outcome) if state.decides(attempt.began, me) => self.verdict(place, outcome, attempt.began, now),
            _ => {}
        }
        None
    }

    /// Whether some healthy host answered its latest attempt, within this time.
    #[must_use]
    pub fn some_host_answers(&self, within: Duration, now: Time) -> bool {
        self.hosts.present(now).any(|host| now.is_within(within, host.seen) && host.history.answered_in_a_row() > 0)
    }

    /// An attempt ended on an ejected host that this worker probes.
    fn verdict(&mut self, place: usize, outcome: Outcome, began: Time, now: Time) {
        let deadline = self.steering.responsiveness.deadline().unwrap_or(u64::MAX);
        let silent = self.hosts.at(place).is_some_and(|host| host.answered < began);
        // What is widespread among the peers, too, is no fault of this host.
        let outcome = match outcome {
            Outcome::Failed(failure) if is_widespread(&self.hosts.peers_of(place, now), failure) => Outcome::Answered,
            // It was cut off after other hosts would have answered, and this one has answered nothing since it began: not in time.
            Outcome::Nothing if silent && nanos_since(began, now) >= deadline => Outcome::Failed(Failure::Timeout),
            outcome => outcome,
        };
        let policy = self.policy;
        let panic = self.in_panic(now) || self.all_unresponsive.holds(now);
        let enough = if panic { 1 } else { policy.probe_successes };
        let unreachable = self.hosts.at(place).is_some_and(|host| host.unreachable);
        let Some(state) = self.hosts.ejected_at(place) else { return };
        let failed = matches!(outcome, Outcome::Failed(_));
        self.probe_budget.refund(if failed { 0 } else { state.probe_cost(began) });
        let verdict = match outcome {
            Outcome::Answered => state.answered(began, enough, now),
            Outcome::Failed(failure) => state.failed(failure, began, &policy, now),
            Outcome::Nothing => state.no_verdict(began),
        };
        let Some(ejection) = state.ejected().map(|ejected| &ejected.ejection) else { return };
        match verdict {
            Verdict::None => {}
            Verdict::Extended => {
                self.sharing.pending.push(Change::Extend(Ejection { unreachable, ..ejection.clone() }));
            }
            Verdict::Unejected => {
                self.downtime.came_back(ejection.since, ejection.failed, now);
                self.sharing.pending.push(Change::Uneject(ejection.address.clone()));
                // Where most of many hosts are ejected, they went for one reason, and others will be back as well.
                if self.ejected > FEW && self.is_mostly_ejected(now) {
                    self.probe_budget.refund(ProbeBudget::cost(true));
                }
            }
        }
    }

    /// When the host of that address last answered this worker. (Not inlined: the module would carry this code twice.)
    #[must_use]
    #[inline(never)]
    pub fn answered_at(&self, address: &str) -> Time {
        let host = self.hosts.find(address).and_then(|place| self.hosts.at(place));
        host.map_or(Time::default(), |host| host.answered)
    }

    /// Whether requests take long at every host, so that the overdue ones do not show which host hangs: then no host
    /// counts as unresponsive.
    pub const fn set_blind(&mut self, blind: bool) {
        self.steering.responsiveness.blind = blind;
    }

    /// An attempt that `began` at that time is overdue: it is not answered, though later ones are. Each call may count
    /// it as a timeout of its host. It counts if [enough](Overdue::enough_alike) are overdue there, and one of these
    /// holds:
    ///
    /// - The host's latest attempt was counted as a timeout.
    /// - This attempt was reported [before](Overdue::seen_before), and the host has answered nothing since it began.
    /// - It is reported for the first time, and overdue requests are [rare](Overdue::rare) in this cluster.
    ///
    /// Returns whether to [exchange](Self::exchange) at once, since there is something to write.
    pub fn overdue(&mut self, address: &str, began: Time, overdue: Overdue, now: Time) -> bool {
        let Some(place) = self.hosts.seen(address, now) else { return false };
        let Some(host) = self.hosts.at_mut(place) else { return false };
        let HostState::Healthy(health) = &mut host.state else { return false };
        self.latest.overdue = now;
        let silent = host.history.failed_in_a_row(Failure::Timeout) > 0;
        let counts = silent || if overdue.seen_before { host.answered < began } else { overdue.rare };
        if !counts || !overdue.enough_alike || !health.concerns(began) {
            return false;
        }
        health.failed(now, self.policy.interval);
        host.oldest_outstanding.get_or_insert(began);
        if silent {
            self.latest.alert_until = now.saturating_add(ALERT);
        }
        if silent || self.sharing.active_workers > 2 {
            let report = Change::ReportFailure(address.into(), Failure::Timeout, host.report(now));
            self.sharing.pending.push(report);
        }
        self.failed(place, Failure::Timeout, false, true, now);
        !self.sharing.pending.is_empty()
    }

    /// An attempt on a healthy host failed: one of this worker's (`mine`), or of another's. `answers`: the host
    /// answered others meanwhile. Then a timeout does not show that the host hangs: the request may be one that times
    /// out wherever it is sent.
    pub(super) fn failed(&mut self, place: usize, failure: Failure, answers: bool, mine: bool, now: Time) {
        let answers = answers && failure == Failure::Timeout;
        self.hosts.failed(place, failure, now);
        if answers {
            self.hosts.failed_before(place);
        }
        self.latest.failure = now;
        if failure != Failure::Error && !answers {
            self.latest.break_off = now;
        }
        if self.healthy_all_fail(now) {
            self.panic_over_failures(now);
            return;
        }
        let peers = self.hosts.peers_of(place, now);
        let Some(host) = self.hosts.at(place) else { return };
        let HostState::Healthy(health) = &host.state else { return };
        let mut policy = self.policy;
        // Where probes fail all the time, hosts go down one after the other, so a reset is hardly a stray one.
        if self.is_probe_budget_exhausted(now) {
            policy.reset.count = policy.reset.count.div_ceil(2);
        }
        if !is_outlier(&policy, &host.history, failure, &peers, now) || (answers && is_spread(&peers, &host.history)) {
            return;
        }
        let most = self.policy.max_ejected(self.hosts.known(now));
        if self.ejected < most {
            let ejection = health.eject(&host.address, failure, self.me, &self.policy, now);
            let ejection = Ejection { unreachable: host.unreachable, ..ejection };
            self.sharing.pending.push(Change::Eject(ejection, most));
        } else if mine && self.sharing.events.len() < MOST_EVENTS {
            // Only the worker whose attempt failed reports it, so that it counts once.
            self.sharing.events.push(Event::Detected(host.address.clone(), failure));
        }
    }
}

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
    pub(super) fn clamp(&mut self, now: Time) {
        if matches!(self, Self::Seen { latest, .. } if *latest > now) {
            *self = Self::Absent;
        }
    }
}

impl Outliers {
    /// Whether all healthy hosts failed a moment ago.
    pub(super) fn in_panic(&self, now: Time) -> bool {
        self.ejected > 0 && self.all_fail.holds(now)
    }

    /// All healthy hosts fail: the ejected ones are probed at once, or all come back.
    pub(super) fn panic_over_failures(&mut self, now: Time) {
        let since = self.all_fail.see(now);
        let tried = self.hosts.each_ejected().all(|(_, _, ejected)| now.is_within(LASTS, ejected.ejection.failed));
        let cluster_wide = tried || now.is_later(CLUSTER_WIDE_AFTER, since);
        self.sharing.pending.push(if cluster_wide { Change::UnejectAll } else { Change::ProbeNow });
    }

    /// Probes the ejected hosts at once, if all healthy ones are unresponsive or fail.
    pub(super) fn panic_if_unresponsive(&mut self, now: Time) {
        let unresponsive = |host: &Host| self.steering.responsiveness.is_unresponsive(host, now);
        let all_unresponsive = self.ejected > 0
            && !self.hosts.any_healthy(&|host| !unresponsive(host) && !host.history.is_failing(), now)
            && self.hosts.present(now).any(unresponsive);
        if all_unresponsive {
            if !self.all_unresponsive.holds(now) {
                self.sharing.pending.push(Change::ProbeNow);
            }
            self.all_unresponsive.see(now);
        }
    }

    /// Whether no host is ejected, and all hosts failed a moment ago: none is worse than the others.
    pub(super) fn all_are_down(&mut self, now: Time) -> bool {
        self.ejected == 0
            && now.is_within(SUSPICION, self.latest.break_off)
            && !self.hosts.is_crowded(now)
            && !self.hosts.any_healthy(&|host| !host.history.is_failing(), now)
    }

    /// Whether some hosts are ejected, and all healthy ones fail: those that were seen within the interval, which must be at
    /// least half of the healthy ones.
    pub(super) fn healthy_all_fail(&mut self, now: Time) -> bool {
        let interval = self.policy.interval;
        let recent = |host: &Host| now.is_within(interval, host.seen);
        if self.ejected == 0 || self.hosts.any_healthy(&|host| recent(host) && !host.history.is_failing(), now) {
            return false;
        }
        let present = self.hosts.present(now);
        let recent = present.clone().filter(|host| recent(host)).count();
        recent > 0 && recent * 2 >= present.count()
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
