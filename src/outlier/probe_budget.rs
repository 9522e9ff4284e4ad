//! What probes may cost: tokens that requests deposit.

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
