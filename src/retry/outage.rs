//! Whether retries help: what the savings of a budget may be spent on. And [`News`]: what a worker has to tell of that, and of its
//! requests, until it is in the record.
//!
//! A budget over ten seconds saves in calm times what it may spend at once later. That is right for requests that were
//! under way when their hosts failed, all at once. It is wrong for those that arrive while nothing answers: each would be
//! sent three times until the savings are gone, and a retry of it helps nobody. So a [`Trouble`] tells the two apart:
//!
//! ```text
//!           an attempt fails               a retry fails
//!   calm -------------------> in trouble ------------------> futile: what arrived after the trouble began
//!     ^                           |                             |    pays from the last second alone
//!     +---------------------------+-----------------------------+
//!            a retry is answered, or nothing fails for a second
//! ```
//!
//! Where some of the hosts still answer, retries are answered, and it is never futile for long.
//!
//! **In vain.** A floor of some retries a second bounds nothing where a proxy has hardly more requests than that, and there are
//! thousands of such proxies. So retries that fail are counted, less what is answered; where they are many, the
//! [budget](crate::retry::budget) lowers its floor.

use std::time::Duration;

use crate::base::bytes::{Reader, Writer};
use crate::base::time::{Time, nanos, nanos_since};

/// After so long without failures, all is well.
const QUIET: Duration = Duration::from_secs(1);

/// Retries that failed are remembered for so long without any failure.
const REMEMBERED: Duration = Duration::from_secs(10);
/// An answered retry makes up for so many that failed.
const MAKES_UP: i8 = 4;
/// No more than this many are held against it.
const MOST_VAIN: i8 = 16;

/// What became of the latest attempts at a cluster: in the record that workers share, or what one of them has to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// When an attempt first failed, since retries were last of use.
    since: Option<Time>,
    /// When one last did.
    last: Time,
    /// Whether a retry failed since, and none was answered.
    futile: bool,
    /// How many retries failed, less what was answered; in what a worker has to tell, how much that changed.
    vain: i8,
    /// When a retry was last answered; only in what a worker has to tell.
    helped: Option<Time>,
}

impl Trouble {
    /// An attempt failed that might be retried.
    pub fn attempt_failed(&mut self, now: Time) {
        self.advance(now);
        self.since.get_or_insert(now);
        self.last = now;
    }

    /// An attempt failed that was a retry.
    pub fn retry_failed(&mut self, now: Time) {
        self.attempt_failed(now);
        self.futile = true;
        self.vain = self.vain.saturating_add(1).min(MOST_VAIN);
    }

    /// A retry was answered.
    pub fn retry_answered(&mut self, now: Time) {
        let vain = self.vain.saturating_sub(MAKES_UP);
        *self = Self { last: self.last, vain, helped: Some(now), ..Self::default() };
    }

    /// An attempt was answered that was no retry. (Of interest only while retries are [in vain](Self::vain).)
    pub fn attempt_answered(&mut self) {
        self.vain = self.vain.saturating_sub(1);
    }

    /// How many retries failed, less what was answered; at most 16.
    #[must_use]
    pub fn vain(&self) -> u32 {
        u32::try_from(self.vain).unwrap_or_default()
    }

    /// Lets time pass, or step back.
    pub fn advance(&mut self, now: Time) {
        if nanos_since(self.last, now) > nanos(QUIET) {
            (self.since, self.futile) = (None, false);
        }
        if nanos_since(self.last, now) > nanos(REMEMBERED) || nanos_since(now, self.last) > nanos(QUIET) {
            self.vain = self.vain.min(0);
        }
        self.since = self.since.map(|since| since.min(now));
        self.last = self.last.min(now);
    }

    /// Whether retries do not help, as far as is known.
    #[must_use]
    pub const fn is_futile(&self) -> bool {
        self.futile
    }

    /// Whether there is anything to tell.
    #[must_use]
    pub const fn is_news(&self) -> bool {
        self.since.is_some() || self.helped.is_some() || self.vain != 0
    }

    /// Whether it says more than it did: that it lasts, ten times a second is enough.
    #[must_use]
    pub fn differs(&self, before: &Self) -> bool {
        (self.since, self.futile, self.vain) != (before.since, before.futile, before.vain)
            || self.last.is_later(TOGETHER, before.last)
    }

    /// Whether a request that arrived then may spend savings.
    #[must_use]
    pub fn spares(&self, arrived: Time) -> bool {
        !self.futile || self.since.is_none_or(|since| arrived < since)
    }

    /// Adds what a worker has to tell.
    pub fn merge(&mut self, news: &Self, now: Time) {
        self.advance(now);
        // A retry that was answered before this trouble began says nothing of it.
        if news.helped.is_some_and(|helped| self.since.is_none_or(|since| since <= helped)) {
            *self = Self { last: self.last, vain: self.vain, ..Self::default() };
        }
        self.vain = self.vain.saturating_add(news.vain).clamp(0, MOST_VAIN);
        if let Some(since) = news.since {
            self.since = Some(self.since.map_or(since, |known| known.min(since)));
            self.last = self.last.max(news.last);
            self.futile |= news.futile;
        }
        self.advance(now);
    }

    /// Bytes when encoded.
    pub const ENCODED_BYTES: usize = 8 + 8 + 1;

    /// Writes it: since when and when last (since 0: no trouble); and how many retries were in vain, times two, with
    /// whether it is futile in the lowest bit (u8).
    pub fn encode(&self, record: &mut Writer<'_>) {
        record.times([self.since.unwrap_or_default(), self.last]);
        record.u8(self.vain.clamp(0, MOST_VAIN) as u8 * 2 + u8::from(self.futile));
    }

    /// Reads it; `None` if there are too few bytes.
    pub fn decode(record: &mut Reader<'_>) -> Option<Self> {
        let (since, last, futile) = (record.time()?, record.time()?, record.u8()?);
        let since = Some(since).filter(|since| *since > Time::default());
        let vain = i8::try_from(futile / 2).unwrap_or(MOST_VAIN).min(MOST_VAIN);
        Some(Self { since, last, futile: futile % 2 != 0 && since.is_some(), vain, helped: None })
    }
}

/// What a worker has not written into the record yet.
#[derive(Clone, Debug, Default)]
pub struct News {
    /// The requests that arrived, each with those of the next tenth of a second.
    pub(super) arrivals: Vec<(Time, u32)>,
    /// Retries that happened on a permission.
    pub retries: u32,
    /// What became of attempts.
    pub trouble: Trouble,
}

/// For so long, a tenth of the shortest interval, workers may take what happens as one.
pub(crate) const TOGETHER: Duration = Duration::from_millis(100);

impl News {
    /// A request arrives. The time is the host's own, as in the record.
    pub fn deposit(&mut self, now: Time) {
        self.deposit_at(now, 1);
    }

    /// Requests arrived at `moment`, or up to a tenth of a second later.
    pub fn deposit_at(&mut self, moment: Time, requests: u32) {
        // What could not be written down for so long may as well be older.
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
        self.arrivals.is_empty() && self.retries == 0 && !self.trouble.is_news()
    }

    /// They are published.
    pub fn clear(&mut self) {
        self.arrivals.clear();
        self.retries = 0;
        self.trouble = Trouble::default();
    }
}

/// At most so many times of arrivals are kept apart: ten seconds' worth.
const MOST_ARRIVALS: usize = 100;
