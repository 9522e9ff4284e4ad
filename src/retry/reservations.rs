//! One worker's side of a cluster's retry budget.
//!
//! The budget itself is a record that all workers share (see [`crate::retry::budget`]). A worker keeps what it has not
//! yet written there, and what the record said last. Each method that takes the record returns what to put in its
//! place. The caller writes that. If another worker wrote first, it reads the record and calls the method again.
//!
//! **Permissions.** Where nobody charges each retry when it happens, a request is given its retries when it arrives,
//! and gives back at its end what it did not use. Until then they are reserved: requests that all fail at once have no
//! more retries than the budget had left. Workers do not know what others reserved. So each gives out only what its own
//! requests brought in, and of the floor a part as large as its part of the requests. That part is rounded up:
//! otherwise, a floor of few retries would be of use to no worker of many. At most, this allows one retry more for each
//! other worker.
//!
//! **What nobody processed.** A retry in place of an attempt that no host processed adds no load while others answer:
//! each request is processed once at most, whichever host gets it first. So it is [free](Account::unprocessed_is_free),
//! and requests that may be retried after such a failure alone need no permission. Otherwise, when half of the hosts
//! are down, the budget would decide how many requests succeed.

use std::time::Duration;

use crate::base::time::Time;
use crate::retry::budget::{Budget, BudgetPolicy, Charge, RetryRequest};
use crate::retry::outage::{News, TOGETHER};
use crate::signal::Signal;

/// While nothing arrives, what is left of the budget is reported again after this time.
const AGAIN: Duration = Duration::from_secs(1);

/// No host seems to answer after more than this many attempts in a row that were not processed. Where half of the hosts
/// are down, and each is equally likely to be tried, chance alone explains eight of them once in 256 times. For
/// requests that come all at once, see [`Account::most_refused`].
const MOST_REFUSED: u32 = 8;
/// Requests that come all at once are answered, or refused, within this time.
const BURST: Duration = Duration::from_millis(500);
/// At most this many unprocessed attempts of an earlier burst count when a later one is judged.
const MOST_AT_ONCE: u32 = 128;
/// No host seems to answer once this many retries of all workers failed, less those that were answered.
const RETRIES_FAILED_IN_OUTAGE: u32 = 8;

/// Requests that arrived within a tenth of a second ([`TOGETHER`]).
#[derive(Clone, Copy, Debug, Default)]
struct Arrivals {
    /// When the first of them arrived.
    first: Time,
    /// The number of requests.
    count: u32,
}

/// A lower bound of what the budget has left. Requests that arrive while it holds reserve retries without a new
/// calculation.
#[derive(Clone, Copy, Debug)]
struct Spare {
    /// The time from which the bound holds.
    from: Time,
    /// The time from which it no longer holds.
    until: Time,
    /// The number of retries that are left at least, those that are reserved among them.
    retries: u64,
}

impl Spare {
    /// No bound: the next request calculates one. (A constant, since a call of `default` costs the module 40 bytes.)
    const NONE: Self = Self { from: Time::from_nanos(0), until: Time::from_nanos(0), retries: 0 };
}

/// Attempts in a row that were not processed, in bursts that ended with an answer within [`BURST`].
#[derive(Clone, Copy, Debug, Default)]
struct RefusedBurst {
    /// The largest number of such attempts in one burst.
    most: u32,
    /// When a burst of more than half as many last ended.
    seen: Time,
}

/// What was last reported as left of the budget.
#[derive(Clone, Copy, Debug)]
struct Left {
    /// The number of retries.
    retries: u64,
    /// When this was reported.
    reported: Time,
}

/// What this worker knows of a budget.
#[derive(Clone, Debug)]
pub struct Account {
    policy: BudgetPolicy,
    /// The latest requests, which are not in `news` yet.
    latest: Arrivals,
    /// What is not in the record yet.
    news: News,
    /// The record as it was last read, with what this worker counted since.
    view: Budget,
    /// The part of the budget that this worker's requests bring in and use.
    own: Budget,
    /// Retries that requests under way have permission for, and may not have made yet.
    reserved: u32,
    /// What is left at least, as of the latest calculation.
    spare: Spare,
    /// When an attempt was last answered here; `None` before the first answer.
    answered: Option<Time>,
    /// The number of attempts since then that were not processed.
    refused: u32,
    /// When the first of these ended.
    refused_since: Time,
    /// When an attempt was last known not to have been processed.
    unprocessed: Time,
    /// The longest recent burst of attempts that were not processed.
    longest: RefusedBurst,
    /// Retries that were free since an attempt was last answered.
    unpaid: u32,
    /// What was last reported, by [`left`](Self::left); `None` before the first time.
    left: Option<Left>,
}

impl Account {
    /// An account that knows only its policy.
    #[must_use]
    pub fn new(policy: BudgetPolicy) -> Self {
        Self {
            policy,
            latest: Arrivals::default(),
            news: News::default(),
            view: Budget::new(policy),
            own: Budget::new(policy),
            reserved: 0,
            spare: Spare::NONE,
            answered: None,
            refused: 0,
            refused_since: Time::default(),
            unprocessed: Time::default(),
            longest: RefusedBurst::default(),
            unpaid: 0,
            left: None,
        }
    }

    /// Puts another policy in force. What was counted stays.
    pub fn set_policy(&mut self, policy: BudgetPolicy, now: Time) {
        self.gather(now);
        self.ask_again();
        let mut record = Vec::new();
        for budget in [&mut self.view, &mut self.own] {
            budget.encode(&mut record);
            *budget = Budget::decode(policy, &record, now).unwrap_or_else(|| Budget::new(policy));
        }
        self.policy = policy;
    }

    /// A request arrives.
    pub fn arrive(&mut self, now: Time) {
        let Arrivals { first, count } = &mut self.latest;
        if *count == 0 || now < *first || now.is_later(TOGETHER, *first) {
            self.gather(now);
            self.latest = Arrivals { first: now, count: 1 };
        } else {
            *count = count.saturating_add(1);
        }
    }

    fn gather(&mut self, now: Time) {
        let Arrivals { first, count } = std::mem::take(&mut self.latest);
        if count > 0 {
            self.news.deposit_at(first, count);
            self.view.deposit_at(first, count, now);
            self.own.deposit_at(first, count, now);
        }
    }

    /// Whether retries do not help, as far as this worker knows.
    #[must_use]
    pub fn retries_fail(&mut self, now: Time) -> bool {
        self.view.outage(now).retries_fail()
    }

    /// Gives a request that arrives now permission for up to `wanted` retries, and returns for how many. They are
    /// reserved until they are [given back](Self::release).
    #[must_use]
    pub fn reserve(&mut self, wanted: u32, now: Time) -> u32 {
        let Spare { from, until, retries } = self.spare;
        let suffices = from <= now && now < until && retries >= u64::from(self.reserved) + u64::from(wanted);
        let reserved = if suffices {
            wanted
        } else {
            self.gather(now);
            let retries = self.own.balance_within(&mut self.view, now);
            self.spare = Spare { from: now, until: self.own.lasts_until(now), retries };
            u32::try_from(retries.saturating_sub(u64::from(self.reserved))).unwrap_or(u32::MAX).min(wanted)
        };
        self.reserved = self.reserved.saturating_add(reserved);
        reserved
    }

    /// Whether retries are reserved for requests under way.
    #[must_use]
    pub const fn has_reservations(&self) -> bool {
        self.reserved > 0
    }

    /// Something happened after which less may be left: the next request calculates it again.
    fn ask_again(&mut self) {
        self.spare = Spare::NONE;
    }

    /// A request gives back what it [reserved](Self::reserve), used or not.
    pub fn release(&mut self, reserved: u32) {
        self.reserved = self.reserved.saturating_sub(reserved);
    }

    /// An attempt ended with this `signal`.
    pub fn attempt_ended(&mut self, signal: Signal, now: Time) {
        match signal {
            Signal::Answered | Signal::Error | Signal::Pushback => {
                if self.refused > 0 {
                    self.some_were_refused(now);
                }
                (self.answered, self.refused, self.unpaid) = (Some(now), 0, 0)
            }
            Signal::Refused | Signal::Unreachable => {
                if self.refused == 0 {
                    self.refused_since = now;
                }
                self.refused = self.refused.saturating_add(1);
                self.unprocessed = now;
                // No host seems to answer, so retries are to be paid for: those that were free before, too.
                if self.refused > self.most_refused(now) && self.unpaid > 0 {
                    let unpaid = std::mem::take(&mut self.unpaid);
                    self.retried(unpaid, now);
                }
            }
            _ => {}
        }
    }

    /// An attempt was answered after others that were not processed. If the first of these ended longer ago than
    /// [`BURST`], it was an outage of all hosts, which says nothing about bursts.
    fn some_were_refused(&mut self, now: Time) {
        let RefusedBurst { most, seen } = self.longest;
        let most = if self.is_recent(seen, now) { most } else { 0 };
        if self.refused.saturating_mul(2) > most && now.is_within(BURST, self.refused_since) {
            self.longest = RefusedBurst { most: most.max(self.refused), seen: now };
        }
    }

    /// The number of attempts in a row that were not processed after which no host seems to answer. Of requests that
    /// come all at once, those that meet a host that is down are refused before any other host had the time to answer.
    /// Such a burst is no outage if the one before was none: twice as many attempts may be refused, and
    /// [`MOST_REFUSED`] more.
    fn most_refused(&self, now: Time) -> u32 {
        let RefusedBurst { most, seen } = self.longest;
        MOST_REFUSED + if self.is_recent(seen, now) { most.min(MOST_AT_ONCE) * 2 } else { 0 }
    }

    /// Whether a `moment` is within the interval of the budget.
    fn is_recent(&self, moment: Time, now: Time) -> bool {
        now.is_soon_after(self.policy.interval, moment)
    }

    /// A request that ended was retried in place of attempts that were not processed.
    pub fn was_unprocessed(&mut self, now: Time) {
        self.unprocessed = now;
    }

    /// Whether, within the interval, some attempt was not processed, as far as this worker knows.
    #[must_use]
    pub fn is_refused(&self, now: Time) -> bool {
        self.is_recent(self.unprocessed, now)
    }

    /// Whether a retry in place of an attempt that was not processed is free. It is while hosts answer: the host that
    /// gets the retry has not processed the request before. In an outage of all hosts it is not free, since it is one
    /// more attempt that fails.
    #[must_use]
    pub fn unprocessed_is_free(&mut self, now: Time) -> bool {
        let most = self.most_refused(now);
        // In a burst, retries are refused as well before other hosts answer, so they show no outage.
        self.answered.is_some_and(|answered| self.is_recent(answered, now))
            && self.refused <= most
            && (most > MOST_REFUSED * 3 || self.view.outage(now).failed_retries() < RETRIES_FAILED_IN_OUTAGE)
    }

    /// Asks for a retry in place of an attempt that was not processed. Returns whether it is
    /// [free](Self::unprocessed_is_free); if not, it is to be [charged](Self::charge). `again`: that attempt was a
    /// retry itself.
    #[must_use]
    pub fn try_unprocessed(&mut self, again: bool, now: Time) -> bool {
        let free = self.unprocessed_is_free(now);
        if free {
            self.unpaid = self.unpaid.saturating_add(1);
            self.failed(again, now);
        }
        free
    }

    /// Whether the budget has anything left, as far as this worker knows.
    #[must_use]
    pub fn affords(&mut self, now: Time) -> bool {
        self.gather(now);
        self.view.balance(now) > 0
    }

    /// Retries were made that had permission.
    pub fn retried(&mut self, retries: u32, now: Time) {
        self.ask_again();
        self.news.retries = self.news.retries.saturating_add(retries);
        self.view.withdraw(now, retries);
        self.own.withdraw(now, retries);
    }

    /// An attempt failed that might be retried. `again`: it was a retry itself.
    pub fn failed(&mut self, again: bool, now: Time) {
        self.ask_again();
        for outage in [&mut self.news.outage, self.view.outage(now)] {
            if again { outage.retry_failed(now) } else { outage.attempt_failed(now) }
        }
    }

    /// A retry was answered.
    pub fn helped(&mut self, now: Time) {
        self.news.outage.retry_answered(now);
        self.view.outage(now).retry_answered(now);
    }

    /// An attempt was answered that was no retry.
    pub fn answered(&mut self, now: Time) {
        if self.view.outage(now).failed_retries() > 0 {
            self.view.outage(now).attempt_answered();
            self.news.outage.attempt_answered();
        }
    }

    /// Whether there is something to write into the record.
    #[must_use]
    pub fn pending(&self) -> bool {
        self.latest.count > 0 || !self.news.is_empty()
    }

    /// Whether the record is to be read. It is if there is something to write. It is also if what is left was last
    /// [reported](Self::left) a second ago, and differs from the floor, which is what is left when nothing arrives for
    /// long.
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        let settled = u64::from(self.policy.min_retry_rate.count);
        let changes =
            |left: Left| left.retries != settled && (now < left.reported || now.is_later(AGAIN, left.reported));
        self.pending() || self.left.is_some_and(changes)
    }

    /// The number of retries that the budget would grant now, by the record as it was last read. The caller reports it.
    pub fn left(&mut self, now: Time) -> u64 {
        let retries = self.view.balance(now);
        self.left = Some(Left { retries, reported: now });
        retries
    }

    /// The record with all that is pending.
    #[must_use]
    pub fn publish(&mut self, record: Option<&[u8]>, now: Time) -> Vec<u8> {
        self.gather(now);
        let mut budget = self.read(record, now);
        budget.merge(&self.news, now);
        self.keep(budget)
    }

    /// Asks for one retry. Returns the answer, and the record to write; `None` if that would say nothing new.
    #[must_use]
    pub fn charge(&mut self, record: Option<&[u8]>, retry: RetryRequest, now: Time) -> (Charge, Option<Vec<u8>>) {
        let news = self.pending();
        self.gather(now);
        let mut budget = self.read(record, now);
        let known = *budget.outage(now);
        let charge = budget.charge(&self.news, retry, now);
        let news = news || charge == Charge::Granted || budget.outage(now).differs(&known);
        let record = self.keep(budget);
        (charge, news.then_some(record))
    }

    /// What the last [`Account::publish`] or [`Account::charge`] returned is in the record now.
    pub fn published(&mut self) {
        self.news.clear();
    }

    fn read(&self, record: Option<&[u8]>, now: Time) -> Budget {
        record.and_then(|record| Budget::decode(self.policy, record, now)).unwrap_or_else(|| Budget::new(self.policy))
    }

    fn keep(&mut self, budget: Budget) -> Vec<u8> {
        self.ask_again();
        let mut record = Vec::new();
        budget.encode(&mut record);
        self.view = budget;
        record
    }
}
