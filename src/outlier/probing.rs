//! Probes: which ejected host gets one, when, what probes may cost (tokens that requests deposit), and how likely it is that a host
//! is back.

use std::time::Duration;

use super::detector::{Failure, OutlierPolicy};
use super::ejection::{Ejected, HostState, Probes};
use super::shared::WorkerId;
use super::{Outliers, Probe};
use crate::base::time::{Time, nanos, nanos_since};

/// What is taken as the typical downtime until a host came back.
const DEFAULT: Duration = Duration::from_secs(2);
/// A probability of one, in millionths.
pub(super) const CERTAIN: u64 = 1_000_000;
/// When the budget is exhausted, a host is probed all the same once it is due for this long.
const WAIT_UNPAID: Duration = Duration::from_secs(3);
/// This is the wait instead, until a host came back and the typical downtime is known.
const WAIT_UNKNOWN: Duration = Duration::from_secs(2);
/// A host is not probed before half the typical downtime, or before this if that is shorter: it may have been ejected for
/// something else.
const TOO_EARLY: Duration = Duration::from_secs(2);
/// Requests that may be repeated whatever happens come by if one did within this time: they probe for those that may not.
const REPEATABLE_COME: Duration = Duration::from_secs(5);

/// After this long without a report of a probe's end, a request that may be repeated whatever happens may probe the
/// host as well. A probe that was hedged, and waits at two hosts that hang, may wait until the timeout of its route.
const UNANSWERED: Duration = Duration::from_secs(2);
/// For this long after a host is due, only requests that may be repeated whatever happens are used as probes: a failed probe
/// then costs no client anything.
const REPEATABLE_ONLY: Duration = Duration::from_secs(1);
/// The time that replaces [`REPEATABLE_ONLY`] where the host broke off what it had taken.
const REPEATABLE_ONLY_AFTER_BREAK: Duration = Duration::from_secs(2);
/// Where half or more of the hosts are ejected, one that failed is probed again after this many times the shortest ejection.
const EARLY_PROBE: u64 = 4;

/// The tokens that a probe costs if it fails; half as many where half or more of the hosts are ejected. So failed probes are
/// hardly ever more than one in a hundred and fifty attempts. Without tokens, a probe waits until hosts are typically back.
const COST: u32 = 300;
/// The tokens that a scheduled probe costs, for each ejected host: the more hosts fail, the more there are to learn from.
const SCHEDULED_COST: u32 = 25;
/// The largest balance of each kind of tokens.
const MAX_TOKENS: u32 = 2 * COST;
/// The turn of one probe, in the parts in which turns are counted: ten-thousandths.
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
    /// many ejected hosts does not wait for as many requests as there are hosts. Whether a probe has its turn.
    pub(super) fn add_turns(&mut self, ejected: usize, hosts: usize) -> bool {
        let hosts = u32::try_from(hosts.max(1)).unwrap_or(u32::MAX);
        let ejected = u32::try_from(ejected).unwrap_or(u32::MAX).saturating_add(2);
        self.turns = self.turns.saturating_add(TURN.saturating_mul(ejected) / hosts).min(MAX_TURNS);
        self.turns >= TURN
    }

    /// Takes the turn of a probe.
    pub(super) fn take_turn(&mut self) {
        self.turns = self.turns.saturating_sub(TURN);
    }
}

/// What a request is good for as a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The worker that would send it.
    pub worker: WorkerId,
    /// Whether the request may be retried whatever happens to its first attempt.
    pub repeatable: bool,
    /// Whether requests come by that may be.
    pub others: bool,
    /// Whether half or more of the hosts are ejected.
    pub mostly_ejected: bool,
}

impl HostState {
    /// Whether an ejected host should get this request as a probe.
    ///
    /// A request that is not repeatable has to wait: a second after the host is due, so that it is used only where no
    /// repeatable ones come by, and less if the host just answered a probe. A host that does not run refuses it, and what is
    /// refused may always be retried; one that takes it and breaks off costs that request. Where it broke off before, the
    /// wait is twice as long; and where it hung, the request waits until another one was answered, if such come by.
    #[must_use]
    pub fn wants_probe(&self, request: Candidate, scheduled: bool, policy: &OutlierPolicy, now: Time) -> bool {
        let Some(ejected) = self.ejected() else { return false };
        let Probes { answered, in_flight } = self.probes();
        let wait = match ejected.ejection.failure {
            _ if request.repeatable => Duration::ZERO,
            _ if answered > 0 => policy.base_ejection_time.min(REPEATABLE_ONLY),
            Failure::Refused => REPEATABLE_ONLY,
            Failure::Timeout if request.others => return false,
            _ => REPEATABLE_ONLY_AFTER_BREAK,
        };
        let due = ejected.due(policy, request.mostly_ejected).max(ejected.last_answer).saturating_add(wait);
        ejected.ejection.owner == request.worker
            && (now >= due || request.repeatable && scheduled)
            && !in_flight.is_some_and(|probe| {
                probe.is_under_way(now) && !(request.repeatable && now.is_later(UNANSWERED, probe.started))
            })
    }
}

impl Ejected {
    /// Whether the time of a scheduled probe has come.
    #[must_use]
    pub fn has_scheduled_probe(&self, now: Time) -> bool {
        self.scheduled.is_some_and(|at| now >= at)
    }

    /// When the host may be probed. Where half or more of the hosts are ejected, none waits for longer than a second (at the
    /// defaults): there, a missing host costs more than a failed probe.
    #[must_use]
    pub fn due(&self, policy: &OutlierPolicy, mostly_ejected: bool) -> Time {
        let pause = Duration::from_nanos(nanos(policy.base_ejection_time).saturating_mul(EARLY_PROBE));
        let early = self.ejection.failed.saturating_add(pause);
        if mostly_ejected { self.ejection.due.min(early) } else { self.ejection.due }
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
    ///
    /// Of the hosts that want a probe from this worker, it is the one that is due for longest.
    pub(super) fn next_to_probe(&mut self, repeatable: bool, now: Time) -> Option<usize> {
        let mostly_ejected = self.is_mostly_ejected(now);
        if !self.probe_budget.add_turns(self.ejected, self.hosts.len()) && !mostly_ejected {
            return None;
        }
        let others = now.is_soon_after(REPEATABLE_COME, self.latest.repeatable);
        let request = Candidate { worker: self.me, repeatable, others, mostly_ejected };
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
        let (_, place) = due.min()?;
        self.probe_budget.take_turn();
        Some(place)
    }

    /// How many nanoseconds a host has to be due before it is probed; `None` if it is too early to probe it at all.
    fn wait_for_probe(&self, ejected: &Ejected, scheduled: bool, exhausted: bool, now: Time) -> Option<u64> {
        let panic = self.all_unresponsive.holds(now);
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
mod tests;
