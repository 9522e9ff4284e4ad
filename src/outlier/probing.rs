//! Probes: which ejected host gets one, when, and what probes may cost: tokens that requests deposit.

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

/// The tokens that a probe costs if it fails; half as many where half or more of the hosts are ejected. So failed probes are
/// hardly ever more than one in a hundred and fifty attempts. Without tokens, a probe waits until hosts are typically back.
const COST: u32 = 300;
/// The tokens that a scheduled probe costs, for each ejected host: the more hosts fail, the more there are to learn from.
const SCHEDULED_COST: u32 = 25;
/// The largest balance of each kind of tokens.
const MAX_TOKENS: u32 = 2 * COST;
/// The part of a probe's turn that is counted: a ten-thousandth.
const TURN: u32 = 10_000;
/// The largest number of turns that add up.
const MAX_TURNS: u32 = 4 * TURN;

/// The budget for the probes of one worker.
#[derive(Clone, Debug)]
pub(super) struct ProbeBudget {
    /// One for each request, less the cost of each probe that failed or is not over.
    tokens: u32,
    /// One for each request, less the cost of each scheduled probe.
    scheduled: u32,
    /// The rate limit: how many probes the ejected hosts may get, by their share of the requests, in parts of a turn.
    turns: u32,
}

impl ProbeBudget {
    pub(super) const fn new() -> Self {
        Self { tokens: MAX_TOKENS, scheduled: 0, turns: MAX_TURNS }
    }

    /// A request deposits a token of each kind.
    pub(super) fn deposit(&mut self) {
        self.refund(1);
        self.scheduled = self.scheduled.saturating_add(1).min(MAX_TOKENS);
    }

    /// Gives back what a probe cost that did not fail.
    pub(super) fn refund(&mut self, tokens: u32) {
        self.tokens = self.tokens.saturating_add(tokens).min(MAX_TOKENS);
    }

    pub(super) const fn cost(mostly_ejected: bool) -> u32 {
        if mostly_ejected { COST / 2 } else { COST }
    }

    /// Whether the tokens do not cover a probe.
    pub(super) const fn is_exhausted(&self, mostly_ejected: bool) -> bool {
        self.tokens < Self::cost(mostly_ejected)
    }

    /// Takes the cost of a probe, or what there is of it. Returns what was taken.
    pub(super) fn take(&mut self, mostly_ejected: bool) -> u32 {
        let taken = Self::cost(mostly_ejected).min(self.tokens);
        self.tokens -= taken;
        taken
    }

    fn scheduled_cost(ejected: usize) -> u32 {
        SCHEDULED_COST.saturating_mul(u32::try_from(ejected).unwrap_or(u32::MAX))
    }

    /// Whether the tokens cover a scheduled probe. `ejected` is the number of ejected hosts.
    pub(super) fn covers_scheduled(&self, ejected: usize) -> bool {
        self.scheduled >= Self::scheduled_cost(ejected)
    }

    /// Takes the cost of a scheduled probe.
    pub(super) fn take_scheduled(&mut self, ejected: usize) {
        self.scheduled = self.scheduled.saturating_sub(Self::scheduled_cost(ejected));
    }

    /// Adds the turns of a request: the share of the ejected hosts among all. It is the share of two more, so that the last of
    /// many ejected hosts does not wait for as many requests as there are hosts.
    pub(super) fn add_turns(&mut self, ejected: usize, hosts: usize) {
        let hosts = u32::try_from(hosts.max(1)).unwrap_or(u32::MAX);
        let ejected = u32::try_from(ejected).unwrap_or(u32::MAX).saturating_add(2);
        self.turns = self.turns.saturating_add(TURN.saturating_mul(ejected) / hosts).min(MAX_TURNS);
    }

    /// Whether a probe has its turn.
    pub(super) const fn has_turn(&self) -> bool {
        self.turns >= TURN
    }

    /// Takes the turn of a probe.
    pub(super) fn take_turn(&mut self) {
        self.turns = self.turns.saturating_sub(TURN);
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_covers_two_probes_and_each_request_a_three_hundredth_of_one() {
        let mut budget = ProbeBudget::new();
        assert_eq!((budget.take(false), budget.take(false), budget.take(false)), (COST, COST, 0));
        assert!(budget.is_exhausted(false) && budget.is_exhausted(true));
        (0..COST - 1).for_each(|_| budget.deposit());
        assert!(budget.is_exhausted(false) && !budget.is_exhausted(true));
        assert_eq!(budget.take(false), COST - 1, "what there is");
        budget.refund(u32::MAX);
        assert_eq!(budget.tokens, MAX_TOKENS);
    }

    #[test]
    fn a_scheduled_probe_costs_more_the_more_hosts_are_ejected() {
        let mut budget = ProbeBudget::new();
        assert!(!budget.covers_scheduled(1));
        (0..2 * SCHEDULED_COST).for_each(|_| budget.deposit());
        assert!(budget.covers_scheduled(2) && !budget.covers_scheduled(3) && !budget.covers_scheduled(usize::MAX));
        budget.take_scheduled(2);
        assert!(!budget.covers_scheduled(1));
    }

    #[test]
    fn probes_take_turns_with_the_share_of_the_ejected_hosts() {
        let mut budget = ProbeBudget::new();
        (0..MAX_TURNS / TURN).for_each(|_| budget.take_turn());
        assert!(!budget.has_turn());
        // One of a hundred hosts and two more: about 33 requests for a probe.
        let requests = (1..).find(|_| {
            budget.add_turns(1, 100);
            budget.has_turn()
        });
        assert_eq!(requests, Some(34));
    }
}
