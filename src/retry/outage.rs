//! Whether retries help: what the savings of a budget may be spent on. And [`News`]: what a worker has counted of that,
//! and of its requests, and has not written into the record yet.
//!
//! A budget over ten seconds saves in calm times what it may spend at once later. That is right for requests that were
//! under way when their hosts failed, all at once. It is wrong for those that arrive while no host answers: each would
//! be sent three times until the savings are gone, and its retries help nobody. So an [`Outage`] tells the two apart:
//!
//! ```text
//!         an attempt fails                 a retry fails
//!   calm -----------------> outage begins -----------------> retries fail: what arrived after the outage began
//!     ^                         |                                 |        pays from the last second alone
//!     +-------------------------+---------------------------------+
//!          a retry is answered, or nothing fails for a second
//! ```
//!
//! Where some of the hosts still answer, retries are answered, so this never lasts for long.
//!
//! **Failed retries.** A floor of some retries a second bounds nothing where a proxy has hardly more requests than
//! that, and there are thousands of such proxies. So retries that fail are counted, less what is answered. Where they
//! are many, the [budget](crate::retry::budget) lowers its floor.

use std::time::Duration;

use crate::base::bytes::{Reader, Writer};
use crate::base::time::{Time, nanos, nanos_since};

/// An outage is over after this time without any failure.
const QUIET: Duration = Duration::from_secs(1);

/// Retries that failed are forgotten after this time without any failure.
const REMEMBERED: Duration = Duration::from_secs(10);
/// An answered retry makes up for four that failed.
const MAKES_UP: i8 = 4;
/// No more failed retries than this are counted.
const MOST_FAILED_RETRIES: i8 = 16;

/// What became of the latest attempts at a cluster. There is one in the record that workers share, and one in each
/// worker's news.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outage {
    /// When the outage began: with its first failure. `None` while there is none.
    since: Option<Time>,
    /// When an attempt last failed.
    last: Time,
    /// Whether a retry failed since the outage began. (An answered one ends it.)
    retries_failing: bool,
    /// The number of retries that failed, less what was answered. In the news, it is a change, which may be negative.
    failed_retries: i8,
    /// When a retry was last answered. It is for the news alone, and not part of the record.
    helped: Option<Time>,
}

impl Outage {
    /// An attempt failed that might be retried.
    pub fn attempt_failed(&mut self, now: Time) {
        self.advance(now);
        self.since.get_or_insert(now);
        self.last = now;
    }

    /// An attempt failed that was a retry.
    pub fn retry_failed(&mut self, now: Time) {
        self.attempt_failed(now);
        self.retries_failing = true;
        self.failed_retries = self.failed_retries.saturating_add(1).min(MOST_FAILED_RETRIES);
    }

    /// A retry was answered.
    pub fn retry_answered(&mut self, now: Time) {
        let failed_retries = self.failed_retries.saturating_sub(MAKES_UP);
        *self = Self { last: self.last, failed_retries, helped: Some(now), ..Self::default() };
    }

    /// An attempt that was no retry was answered. It matters only while [`failed_retries`](Self::failed_retries) is
    /// above 0.
    pub fn attempt_answered(&mut self) {
        self.failed_retries = self.failed_retries.saturating_sub(1);
    }

    /// The number of retries that failed, less what was answered; at most 16.
    #[must_use]
    pub fn failed_retries(&self) -> u32 {
        u32::try_from(self.failed_retries).unwrap_or_default()
    }

    /// Forgets what is too old by now, and brings times that are yet to come back to now: the clock may have stepped
    /// back.
    pub fn advance(&mut self, now: Time) {
        if nanos_since(self.last, now) > nanos(QUIET) {
            (self.since, self.retries_failing) = (None, false);
        }
        if nanos_since(self.last, now) > nanos(REMEMBERED) || nanos_since(now, self.last) > nanos(QUIET) {
            self.failed_retries = self.failed_retries.min(0);
        }
        self.since = self.since.map(|since| since.min(now));
        self.last = self.last.min(now);
    }

    /// Whether retries do not help, as far as is known.
    #[must_use]
    pub const fn retries_fail(&self) -> bool {
        self.retries_failing
    }

    /// Whether there is anything to write into the record.
    #[must_use]
    pub const fn is_news(&self) -> bool {
        self.since.is_some() || self.helped.is_some() || self.failed_retries != 0
    }

    /// Whether it says more than `before` did. That an outage goes on need be written only ten times a second.
    #[must_use]
    pub fn differs(&self, before: &Self) -> bool {
        (self.since, self.retries_failing, self.failed_retries)
            != (before.since, before.retries_failing, before.failed_retries)
            || self.last.is_later(TOGETHER, before.last)
    }

    /// Whether a request that `arrived` at that time may spend what the interval has saved: retries help, or it arrived
    /// before the outage began.
    #[must_use]
    pub fn predates(&self, arrived: Time) -> bool {
        !self.retries_failing || self.since.is_none_or(|since| arrived < since)
    }

    /// Adds the news of a worker.
    pub fn merge(&mut self, news: &Self, now: Time) {
        self.advance(now);
        // A retry that was answered before this outage began says nothing of it.
        if news.helped.is_some_and(|helped| self.since.is_none_or(|since| since <= helped)) {
            *self = Self { last: self.last, failed_retries: self.failed_retries, ..Self::default() };
        }
        self.failed_retries = self.failed_retries.saturating_add(news.failed_retries).clamp(0, MOST_FAILED_RETRIES);
        if let Some(since) = news.since {
            self.since = Some(self.since.map_or(since, |known| known.min(since)));
            self.last = self.last.max(news.last);
            self.retries_failing |= news.retries_failing;
        }
        self.advance(now);
    }

    /// The number of bytes when encoded.
    pub const ENCODED_BYTES: usize = 8 + 8 + 1;

    /// Writes when the outage began (0: there is none) and when an attempt last failed. A byte follows: the number of
    /// failed retries, times two, with 1 added if retries fail.
    pub fn encode(&self, record: &mut Writer<'_>) {
        record.times([self.since.unwrap_or_default(), self.last]);
        record.u8(self.failed_retries.clamp(0, MOST_FAILED_RETRIES) as u8 * 2 + u8::from(self.retries_failing));
    }

    /// Reads what [`encode`](Self::encode) wrote; `None` if there are too few bytes.
    pub fn decode(record: &mut Reader<'_>) -> Option<Self> {
        let (since, last, packed) = (record.time()?, record.time()?, record.u8()?);
        let since = Some(since).filter(|since| *since > Time::default());
        let failed_retries = i8::try_from(packed / 2).unwrap_or(MOST_FAILED_RETRIES).min(MOST_FAILED_RETRIES);
        Some(Self { since, last, retries_failing: packed % 2 != 0 && since.is_some(), failed_retries, helped: None })
    }
}

/// What a worker has not written into the record yet.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// The requests that arrived: the time of one, and the number of requests within a tenth of a second from then.
    pub(super) arrivals: Vec<(Time, u32)>,
    /// The number of retries that were made with permission.
    pub retries: u32,
    /// What became of attempts.
    pub outage: Outage,
}

/// Workers may count what happens within this time as one moment: it is a tenth of the shortest interval.
pub(crate) const TOGETHER: Duration = Duration::from_millis(100);

impl News {
    /// A request arrives. `now` is the host's own time, as in the record.
    pub fn deposit(&mut self, now: Time) {
        self.deposit_at(now, 1);
    }

    /// Requests arrived at `moment`, or up to a tenth of a second later.
    pub fn deposit_at(&mut self, moment: Time, requests: u32) {
        // Where the list is full, nothing could be written for ten seconds. Then it does not matter if a request counts
        // as a little older.
        let full = self.arrivals.len() >= MOST_ARRIVALS;
        match self.arrivals.last_mut() {
            Some((first, count)) if full || (*first <= moment && !moment.is_later(TOGETHER, *first)) => {
                *count = count.saturating_add(requests);
            }
            _ => self.arrivals.push((moment, requests)),
        }
    }

    /// Whether there is nothing to publish.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.arrivals.is_empty() && self.retries == 0 && !self.outage.is_news()
    }

    /// The news are in the record now, and forgotten here.
    pub fn clear(&mut self) {
        self.arrivals.clear();
        self.retries = 0;
        self.outage = Outage::default();
    }
}

/// At most this many moments of arrivals are kept: ten seconds' worth.
const MOST_ARRIVALS: usize = 100;
