//! One worker's side of a cluster's retry budget.
//!
//! The budget itself is a record that all workers share (see [`crate::retry::budget`]). A worker keeps what it has not yet written
//! there, and what the record said last. Each method that takes the record returns what to put in its place; the caller
//! swaps it in, or, if another worker was faster, reads again and asks again.
//!
//! **Permissions.** Where nobody charges each retry when it happens, a request is given its retries when it arrives, and
//! gives back at its end what it did not use. Until then they are reserved: not even a crowd that fails at once has more
//! retries than the budget had left. Workers do not know what others reserved. So each gives out only what its own requests
//! brought in, and of the floor a part as large as its part of the requests; rounded up, else a floor of few retries would
//! be of use to no worker of many. That is at most one retry more for each other worker.
//!
//! **What nobody processed.** A retry in place of an attempt that no host took adds no load while others answer: each request is
//! processed once at most, whichever host is asked first. So it is [free](Account::unprocessed_is_free), and requests that may be
//! repeated after such a failure alone need no permission. Else the budget would decide how many requests survive that half of the
//! hosts are down.

use std::time::Duration;

use crate::base::time::Time;
use crate::retry::budget::{Budget, BudgetPolicy, Charge, RetryRequest};
use crate::retry::outage::{News, TOGETHER};
use crate::signal::Signal;

/// How often what is left is reported while nothing arrives.
const AGAIN: Duration = Duration::from_secs(1);

/// After so many attempts in a row that were not processed, no host seems to answer. Where half of the hosts are down, and each is
/// as likely as another to be tried, that is one in 256; but see [`Account::most_refused`] on requests that come all at once.
const MOST_REFUSED: u32 = 8;
/// Requests that come all at once are answered, or refused, within this time.
const BURST: Duration = Duration::from_millis(500);
/// No more than so many of them count.
const MOST_AT_ONCE: u32 = 128;
/// After so many retries of all workers that failed, no host seems to answer.
const RETRIES_FAILED_IN_OUTAGE: u32 = 8;

/// What this worker knows of a budget.
#[derive(Clone, Debug)]
pub struct Account {
    policy: BudgetPolicy,
    /// The requests of the last tenth of a second, and when the first of them arrived: not even in the news yet.
    latest: (Time, u32),
    /// What is not in the record yet.
    news: News,
    /// The record as last seen, with what came here since.
    view: Budget,
    /// The part of the budget that this worker's requests bring in and use.
    own: Budget,
    /// Retries that requests under way may make, and did not yet.
    reserved: u32,
    /// What was left here at least, from when until when: no request within that time needs to ask again while it suffices.
    spare: (Time, Time, u64),
    /// When an attempt was last answered here, and how many were not processed since.
    answered: Option<Time>,
    refused: u32,
    /// When the first of these was not.
    refused_since: Time,
    /// When an attempt was last known not to have been processed.
    unprocessed: Time,
    /// How many attempts in a row were not processed before one was answered, at most, and when.
    longest: (u32, Time),
    /// Retries that were free since an attempt was last answered.
    unpaid: u32,
    /// What was left when that was last [asked](Self::left), and when that was.
    left: Option<(u64, Time)>,
}

impl Account {
    /// One that knows only its policy.
    #[must_use]
    pub fn new(policy: BudgetPolicy) -> Self {
        Self {
            policy,
            latest: (Time::default(), 0),
            news: News::default(),
            view: Budget::new(policy),
            own: Budget::new(policy),
            reserved: 0,
            spare: (Time::default(), Time::default(), 0),
            answered: None,
            refused: 0,
            refused_since: Time::default(),
            unprocessed: Time::default(),
            longest: (0, Time::default()),
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
        let (first, count) = &mut self.latest;
        if *count == 0 || now < *first || now.is_later(TOGETHER, *first) {
            self.gather(now);
            self.latest = (now, 1);
        } else {
            *count = count.saturating_add(1);
        }
    }

    fn gather(&mut self, now: Time) {
        let (first, count) = std::mem::take(&mut self.latest);
        if count > 0 {
            self.news.deposit_at(first, count);
            self.view.deposit_at(first, count, now);
            self.own.deposit_at(first, count, now);
        }
    }

    /// Whether a retry does not help, as far as this worker knows.
    #[must_use]
    pub fn retries_fail(&mut self, now: Time) -> bool {
        self.view.outage(now).retries_fail()
    }

    /// Gives a request that arrives now permission for up to `wanted` retries, and says for how many. They are reserved until
    /// they are [given back](Self::release).
    #[must_use]
    pub fn reserve(&mut self, wanted: u32, now: Time) -> u32 {
        let (from, until, spare) = self.spare;
        let suffices = from <= now && now < until && spare >= u64::from(self.reserved) + u64::from(wanted);
        let reserved = if suffices {
            wanted
        } else {
            self.gather(now);
            let spare = self.own.balance_within(&mut self.view, now);
            self.spare = (now, self.own.lasts_until(now), spare);
            u32::try_from(spare.saturating_sub(u64::from(self.reserved))).unwrap_or(u32::MAX).min(wanted)
        };
        self.reserved = self.reserved.saturating_add(reserved);
        reserved
    }

    /// Whether retries are reserved for requests under way.
    #[must_use]
    pub const fn has_reservations(&self) -> bool {
        self.reserved > 0
    }

    /// Something happened after which less may be left.
    fn ask_again(&mut self) {
        self.spare = (Time::default(), Time::default(), 0);
    }

    /// A request gives back what it [reserved](Self::reserve), used or not.
    pub fn release(&mut self, reserved: u32) {
        self.reserved = self.reserved.saturating_sub(reserved);
    }

    /// An attempt ended so.
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
                // So it was an outage, in which retries are to be paid; those before, too.
                if self.refused > self.most_refused(now) && self.unpaid > 0 {
                    let unpaid = std::mem::take(&mut self.unpaid);
                    self.retried(unpaid, now);
                }
            }
            _ => {}
        }
    }

    /// An attempt was answered after others that were not processed. If that took long, it was an outage of all hosts, which teaches
    /// nothing.
    fn some_were_refused(&mut self, now: Time) {
        let (longest, seen) = self.longest;
        let longest = if self.is_recent(seen, now) { longest } else { 0 };
        if self.refused.saturating_mul(2) > longest && now.is_within(BURST, self.refused_since) {
            self.longest = (longest.max(self.refused), now);
        }
    }

    /// After how many attempts in a row that were not processed no host seems to answer. Of requests that come all at once, those
    /// that meet a host that is down are refused before any other host has had the time to answer. A burst like that is no outage if
    /// the one before was none: twice as many may be refused, and some more.
    fn most_refused(&self, now: Time) -> u32 {
        let (longest, seen) = self.longest;
        MOST_REFUSED + if self.is_recent(seen, now) { longest.min(MOST_AT_ONCE) * 2 } else { 0 }
    }

    /// Whether that was within the interval.
    fn is_recent(&self, moment: Time, now: Time) -> bool {
        now.is_soon_after(self.policy.interval, moment)
    }

    /// A request that ended was retried in place of attempts that were not processed.
    pub fn was_unprocessed(&mut self, now: Time) {
        self.unprocessed = now;
    }

    /// Whether some attempt was not processed within the interval, as far as is known.
    #[must_use]
    pub fn is_refused(&self, now: Time) -> bool {
        self.is_recent(self.unprocessed, now)
    }

    /// Whether a retry in place of an attempt that was not processed is free: other hosts answer, and for each of them the retry
    /// is the first that it hears of the request. In an outage of all hosts it is not: then it is one more attempt that fails.
    #[must_use]
    pub fn unprocessed_is_free(&mut self, now: Time) -> bool {
        let most = self.most_refused(now);
        // In a burst, retries are refused before others are answered, too.
        self.answered.is_some_and(|answered| self.is_recent(answered, now))
            && self.refused <= most
            && (most > MOST_REFUSED * 3 || self.view.outage(now).failed_retries() < RETRIES_FAILED_IN_OUTAGE)
    }

    /// Asks for a retry in place of an attempt that was not processed. Whether it is [free](Self::unprocessed_is_free); if not, it
    /// is to be [charged](Self::charge). `again`: that attempt was a retry itself.
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

    /// Retries happened on a permission.
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
        self.latest.1 > 0 || !self.news.is_empty()
    }

    /// Whether the record is to be read: there is something to write, or what is left was last told a second ago and is not
    /// yet what it comes to when nothing arrives for long.
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        let settled = u64::from(self.policy.min_retry_rate.count);
        let changes =
            |(left, reported): (u64, Time)| left != settled && (now < reported || now.is_later(AGAIN, reported));
        self.pending() || self.left.is_some_and(changes)
    }

    /// How many retries the budget would grant now, as of the record that was last read.
    pub fn left(&mut self, now: Time) -> u64 {
        let left = self.view.balance(now);
        self.left = Some((left, now));
        left
    }

    /// The record with all that is pending.
    #[must_use]
    pub fn publish(&mut self, record: Option<&[u8]>, now: Time) -> Vec<u8> {
        self.gather(now);
        let mut budget = self.read(record, now);
        budget.merge(&self.news, now);
        self.keep(budget)
    }

    /// Asks for one retry. The record to write, unless it would say nothing new.
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
