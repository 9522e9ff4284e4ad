//! The retry budget of a cluster, as in the Gateway API's GEP-3388.
//!
//! Over a sliding interval, retries are at most a share of requests, and never less than a floor. A retry is granted if
//!
//! - with it, the retries of the last `interval` are at most `percent` of the requests of the last `interval`, or
//! - the last `min_retry_rate.interval` saw fewer than `min_retry_rate.count` retries.
//!
//! The floor does not come on top: a retry granted by either rule counts in both. So within the two intervals, retries are
//! at most the larger of share and floor. Requests count when they arrive (a burst of failures does not shrink what
//! retries are a share of), retries when they are granted (those that wait in back-off count already).
//!
//! **How exact.** Integers throughout: of 1,000 requests, 0.3 percent is 3 retries and 75 percent 750. "The last interval"
//! is half-open, `(now - interval, now]`. It is kept in [ten slots](crate::window), and both roundings err towards fewer
//! retries: requests are counted over at most the interval, retries over at least the interval. So no grant is one that a
//! budget with every single time stamp would refuse. And nothing is refused that such a budget would grant if it
//! forgot requests one slot sooner and retries one slot later. A burst within nine tenths of the interval gets its share to
//! the last retry; where every request asks for a retry, all the time, the long-term share is 10/11 of `percent`.
//!
//! **One record for all workers.** A retry is charged on a record that the workers share, by compare-and-swap:
//!
//! ```text
//!     loop {
//!         record, version = get_shared_data(cluster)
//!         now = the host's time                         // after reading the record, see crate::time
//!         budget = Budget::decode(policy, record, now), else Budget::new(policy)
//!         charge = budget.charge(&arrivals, now)
//!         if set_shared_data(cluster, budget.encode(), version) is ok {
//!             arrivals.clear()
//!             return charge
//!         }
//!     }
//! ```
//!
//! Each worker keeps its [`Arrivals`] until it next charges, or publishes them on its tick (the same with
//! [`Budget::merge`]). A request that is not yet published can pay for no retry elsewhere: the error is again towards fewer.
//! After a denial without arrivals the record says nothing new, and need not be written.

use std::time::Duration;

use crate::percent::Percent;
use crate::time::Time;
use crate::window::{Edge, Window};

/// What retries a cluster can afford. Fields, ranges and defaults are those of GEP-3388.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetPolicy {
    /// Retries are at most this share of requests. Default: 20 percent.
    pub percent: Percent,
    /// Over this time, 1 s to 1 h; what is beyond is taken as the nearest of these. Default: 10 s.
    pub interval: Duration,
    /// What is granted even if the share is less.
    pub min_retry_rate: MinRetryRate,
}

/// A floor under the budget, so that a cluster with few requests can retry at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRetryRate {
    /// Retries per `interval`; 0 is no floor. Default: 10.
    pub count: u32,
    /// 1 s to 1 h; what is beyond is taken as the nearest of these. Default: 1 s.
    pub interval: Duration,
}

impl Default for BudgetPolicy {
    fn default() -> Self {
        const PERCENT: Option<Percent> = Percent::from_basis_points(2_000);
        Self {
            percent: PERCENT.unwrap_or_default(),
            interval: Duration::from_secs(10),
            min_retry_rate: MinRetryRate::default(),
        }
    }
}

impl Default for MinRetryRate {
    fn default() -> Self {
        Self { count: 10, interval: Duration::from_secs(1) }
    }
}

/// Whether a retry may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// It is paid for.
    Granted,
    /// It would exceed the budget.
    Denied,
}

/// What the budget of one cluster has taken in and given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    policy: BudgetPolicy,
    requests: Window,
    retries: Window,
    /// The retries once more, over the interval of the floor.
    retries_on_floor: Window,
}

impl Budget {
    /// One that has seen no requests yet.
    #[must_use]
    pub fn new(policy: BudgetPolicy) -> Self {
        let (interval, floor_interval) = intervals(&policy);
        Self {
            policy,
            requests: Window::new(interval),
            retries: Window::new(interval),
            retries_on_floor: Window::new(floor_interval),
        }
    }

    /// A request arrives (its first attempt, not a retry).
    pub fn deposit(&mut self, now: Time) {
        self.requests.add(now, 1);
    }

    /// Asks for a retry. It is counted if it is granted.
    pub fn try_withdraw(&mut self, now: Time) -> bool {
        let granted = self.balance(now) > 0;
        if granted {
            self.withdraw(now, 1);
        }
        granted
    }

    /// Counts retries that happen whatever the budget says: permission was given before.
    pub fn withdraw(&mut self, now: Time, retries: u32) {
        self.retries.add(now, retries);
        self.retries_on_floor.add(now, retries);
    }

    /// How many retries would be granted now, if all were asked for at once. (`&mut`, since time passes.)
    #[must_use]
    pub fn balance(&mut self, now: Time) -> u64 {
        self.requests.advance(now);
        self.retries.advance(now);
        self.retries_on_floor.advance(now);
        let share = self.policy.percent.of(self.requests.at_least(now));
        let of_share = share.saturating_sub(self.retries.at_most(now));
        let floor = u64::from(self.policy.min_retry_rate.count);
        let of_floor = floor.saturating_sub(self.retries_on_floor.at_most(now));
        of_share.max(of_floor)
    }

    /// Adds what arrived at a worker.
    pub fn merge(&mut self, arrivals: &Arrivals, now: Time) {
        self.requests.merge(&arrivals.requests, Edge::Start, now);
    }

    /// Adds what arrived at the worker that asks, and charges one retry if the budget can pay it.
    pub fn charge(&mut self, arrivals: &Arrivals, now: Time) -> Charge {
        self.merge(arrivals, now);
        if self.try_withdraw(now) { Charge::Granted } else { Charge::Denied }
    }

    /// Bytes of an encoded budget.
    pub const ENCODED_BYTES: usize = FORMAT.len() + 3 * Window::ENCODED_BYTES;

    /// Replaces `record` by the budget in bytes, without its policy: that is the reader's.
    pub fn encode(&self, record: &mut Vec<u8>) {
        record.clear();
        record.reserve(Self::ENCODED_BYTES);
        record.extend_from_slice(&FORMAT);
        self.requests.encode(record);
        self.retries.encode(record);
        self.retries_on_floor.encode(record);
    }

    /// The budget in `record`, under `policy`. `None` if it is no such record, or one of another version: then a
    /// [new](Self::new) one is in order.
    ///
    /// If the record was written under other intervals, its counts go on, rounded as everywhere towards fewer retries: what
    /// happened within a slot of the record happened at its start if it was requests, and at its end if it was retries.
    #[must_use]
    pub fn decode(policy: BudgetPolicy, record: &[u8], now: Time) -> Option<Self> {
        let (format, mut rest) = record.split_first_chunk()?;
        if *format != FORMAT {
            return None;
        }
        let mut window = || Window::decode(&mut rest).filter(|window| INTERVALS.contains(&window.interval()));
        let (requests, retries, retries_on_floor) = (window()?, window()?, window()?);
        if !rest.is_empty() {
            return None;
        }
        let (interval, floor_interval) = intervals(&policy);
        Some(Self {
            policy,
            requests: requests.with_interval(interval, Edge::Start, now),
            retries: retries.with_interval(interval, Edge::End, now),
            retries_on_floor: retries_on_floor.with_interval(floor_interval, Edge::End, now),
        })
    }
}

/// The requests that arrived at a worker since it last published them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrivals {
    requests: Window,
}

impl Arrivals {
    /// None yet. A policy with another `interval` needs no other `Arrivals`, though it makes them more exact.
    #[must_use]
    pub fn new(policy: &BudgetPolicy) -> Self {
        Self { requests: Window::new(intervals(policy).0) }
    }

    /// A request arrives. The time is the host's own, as in the record.
    pub fn deposit(&mut self, now: Time) {
        self.requests.add(now, 1);
    }

    /// Whether there is nothing to publish.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// They are published.
    pub fn clear(&mut self) {
        self.requests = Window::new(self.requests.interval());
    }
}

/// What a record starts with: a name, and the version of what follows.
const FORMAT: [u8; 4] = *b"wrb\x01";

const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);

/// The intervals of the budget and of the floor, within their range.
fn intervals(policy: &BudgetPolicy) -> (Duration, Duration) {
    let within = |interval: Duration| interval.max(*INTERVALS.start()).min(*INTERVALS.end());
    (within(policy.interval), within(policy.min_retry_rate.interval))
}
