//! One worker's side of a cluster's retry budget.
//!
//! The budget itself is a record that all workers share (see [`crate::budget`]). A worker keeps what it has not yet written
//! there, and what the record said last. Each method that takes the record returns what to put in its place; the caller
//! swaps it in, or, if another worker was faster, reads again and asks again.

use crate::budget::{Arrivals, Budget, BudgetPolicy, Charge};
use crate::time::Time;

/// What this worker knows of a budget.
#[derive(Clone, Debug)]
pub struct Account {
    policy: BudgetPolicy,
    arrivals: Arrivals,
    /// Retries that happened on a permission, and are not in the record yet.
    retries: u32,
    /// The record as last seen, with what came here since.
    view: Budget,
}

impl Account {
    /// One that knows only its policy.
    #[must_use]
    pub fn new(policy: BudgetPolicy) -> Self {
        Self { policy, arrivals: Arrivals::new(&policy), retries: 0, view: Budget::new(policy) }
    }

    /// Puts another policy in force. What was counted stays.
    pub fn set_policy(&mut self, policy: BudgetPolicy, now: Time) {
        let mut record = Vec::new();
        self.view.encode(&mut record);
        self.view = Budget::decode(policy, &record, now).unwrap_or_else(|| Budget::new(policy));
        self.policy = policy;
    }

    /// A request arrives.
    pub fn arrive(&mut self, now: Time) {
        self.arrivals.deposit(now);
        self.view.deposit(now);
    }

    /// Whether the budget has anything left, as far as this worker knows: what a permission rests on where nobody charges
    /// each retry.
    #[must_use]
    pub fn affords(&mut self, now: Time) -> bool {
        self.view.balance(now) > 0
    }

    /// Retries happened on a permission.
    pub fn retried(&mut self, retries: u32, now: Time) {
        self.retries = self.retries.saturating_add(retries);
        self.view.withdraw(now, retries);
    }

    /// Whether there is something to write into the record.
    #[must_use]
    pub fn pending(&self) -> bool {
        self.retries > 0 || !self.arrivals.is_empty()
    }

    /// The record with all that is pending.
    #[must_use]
    pub fn publish(&mut self, record: Option<&[u8]>, now: Time) -> Vec<u8> {
        let mut budget = self.read(record, now);
        budget.merge(&self.arrivals, now);
        self.keep(budget)
    }

    /// Asks for one retry. The record to write, unless it would say nothing new.
    #[must_use]
    pub fn charge(&mut self, record: Option<&[u8]>, now: Time) -> (Charge, Option<Vec<u8>>) {
        let news = self.pending();
        let mut budget = self.read(record, now);
        let charge = budget.charge(&self.arrivals, now);
        let record = self.keep(budget);
        (charge, (news || charge == Charge::Granted).then_some(record))
    }

    /// What the last [`Account::publish`] or [`Account::charge`] returned is in the record now.
    pub fn published(&mut self) {
        self.arrivals.clear();
        self.retries = 0;
    }

    fn read(&self, record: Option<&[u8]>, now: Time) -> Budget {
        let mut budget = record
            .and_then(|record| Budget::decode(self.policy, record, now))
            .unwrap_or_else(|| Budget::new(self.policy));
        budget.withdraw(now, self.retries);
        budget
    }

    fn keep(&mut self, budget: Budget) -> Vec<u8> {
        let mut record = Vec::new();
        budget.encode(&mut record);
        self.view = budget;
        record
    }
}
