//! Probes: which ejected host gets one, and when.

use std::time::Duration;

use super::{Outliers, Probe};
use crate::base::time::{Time, nanos, nanos_since};
use crate::outlier::ejection::{Candidate, Ejected};

/// When the budget is exhausted, a host is probed all the same once it is due for this long.
const WAIT_UNPAID: Duration = Duration::from_secs(3);
/// This is the wait instead, until a host came back and the typical downtime is known.
const WAIT_UNKNOWN: Duration = Duration::from_secs(2);
/// A host is not probed before half the typical downtime, or before this if that is shorter: it may have been ejected for
/// something else.
const TOO_EARLY: Duration = Duration::from_secs(2);

impl Outliers {
    /// Makes a request a probe of the host at that place, if the host is ejected. The cost is taken now and refunded later:
    /// while a probe that hangs is not over, others would otherwise be sent as if there were tokens left.
    pub(super) fn start_probe(&mut self, place: usize, now: Time) -> Option<Probe> {
        let (mostly_ejected, ejected) = (self.is_mostly_ejected(now), self.ejected);
        let state = self.hosts.ejected_at(place)?;
        let scheduled = state.ejected().is_some_and(|ejected| ejected.has_scheduled_probe(now));
        let cost = if scheduled && self.probe_budget.covers_scheduled(ejected) {
            self.probe_budget.take_scheduled(ejected);
            0
        } else {
            self.probe_budget.take(mostly_ejected)
        };
        self.probes += 1;
        state.start_probe(self.probes, cost, now);
        Some(Probe(self.probes))
    }

    /// Whether probes failed recently that the requests since then have not paid for.
    pub(super) fn is_probe_budget_exhausted(&self, now: Time) -> bool {
        self.probe_budget.is_exhausted(self.is_mostly_ejected(now))
    }

    /// Picks the ejected host to probe next. Thousands of small proxies that probe without coordination would overload a host
    /// that is coming back, so ejected hosts get no more probes than they would get requests if healthy; two extra, so that
    /// the last of many is not starved; no limit once half of the hosts are ejected.
    pub(super) fn next_to_probe(&mut self, repeatable: bool, now: Time) -> Option<usize> {
        self.probe_budget.add_turns(self.ejected, self.hosts.len());
        if !self.probe_budget.has_turn() && !self.is_mostly_ejected(now) {
            return None;
        }
        let due = self.longest_due(repeatable, now)?;
        self.probe_budget.take_turn();
        Some(due)
    }

    /// Of the hosts that want a probe from this worker, the one that is due for longest.
    fn longest_due(&self, repeatable: bool, now: Time) -> Option<usize> {
        let mostly_ejected = self.is_mostly_ejected(now);
        let request = Candidate { worker: self.me, repeatable, mostly_ejected };
        let covers_scheduled = self.probe_budget.covers_scheduled(self.ejected);
        let exhausted = self.probe_budget.is_exhausted(mostly_ejected);
        let due = self.hosts.each_ejected().filter_map(|(place, host, ejected)| {
            let scheduled = covers_scheduled && ejected.has_scheduled_probe(now);
            if !host.state.wants_probe(request, scheduled, &self.policy, now) {
                return None;
            }
            let due = ejected.due(&self.policy, mostly_ejected);
            let waits_for = self.wait_for_probe(ejected, scheduled, exhausted, now)?;
            (nanos_since(due, now) >= waits_for).then_some((due, place))
        });
        due.min().map(|(_, place)| place)
    }

    /// How many nanoseconds a host has to be due before it is probed; `None` if it is too early to probe it at all.
    fn wait_for_probe(&self, ejected: &Ejected, scheduled: bool, exhausted: bool, now: Time) -> Option<u64> {
        let panic = self.panic.all_unresponsive.holds(now);
        let half = self.downtime.half().unwrap_or_default();
        let down = nanos_since(ejected.ejection.since, now);
        if !panic && !scheduled && down < half.min(nanos(TOO_EARLY)) {
            return None;
        }
        if panic || scheduled || !exhausted {
            return Some(0);
        }
        // After one and a half times the typical downtime, most hosts are back.
        let likely_back = down / 3 >= half && nanos_since(ejected.ejection.failed, now) >= half;
        Some(match half {
            0 => nanos(WAIT_UNKNOWN),
            _ if likely_back => 0,
            _ => nanos(WAIT_UNPAID),
        })
    }

    /// Schedules one probe of a host, should it be ejected then, though it may not be due: to see whether something listens.
    pub fn schedule_probe(&mut self, address: &str, at: Time, now: Time) {
        if let Some(state) = self.hosts.find(address).and_then(|place| self.hosts.ejected_at(place)) {
            state.schedule_probe(at, now);
        }
    }

    /// A request that carried a probe is over.
    pub fn probe_over(&mut self, probe: Probe) {
        let mut cost = 0;
        self.hosts.each_ejected_mut(&mut |state| cost += state.end_probe(probe.0));
        self.probe_budget.refund(cost);
    }
}
