//! What a worker has to tell of a budget, until it is in the record.

use std::time::Duration;

use crate::base::time::Time;
use crate::retry::outage::Trouble;

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
