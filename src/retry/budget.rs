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
//! **In an outage**, when retries [do not help](crate::retry::outage), the share must also hold over the last second.
//! For a request that arrived after the outage began, with its retry, the retries of the last second are at most
//! `percent` of the requests of the last second, or the floor grants it. So an outage costs at most the share, or the
//! floor where that is more, in each of its seconds. What the interval has saved is for the requests that were under
//! way when it began.
//!
//! **The floor** is for clusters with few requests, and would bound nothing where thousands of proxies have few. So
//! where many retries [fail](crate::retry::outage), it is lowered with each that fails, down to one retry within
//! `interval`. It is as it was once attempts are answered again. With 10,000 proxies that have one request a second, in
//! the simulated fleet, an outage of all hosts costs 1.8 attempts per request instead of 3.0, and hosts that hung
//! recover.
//!
//! **How exact.** Integers throughout: of 1,000 requests, 0.3 percent is 3 retries and 75 percent 750. "The last interval"
//! is half-open, `(now - interval, now]`. It is kept in [ten slots](crate::base::window), and both roundings err towards fewer
//! retries: requests are counted over at most the interval, retries over at least the interval. So no grant is one that a
//! budget with every single time stamp would refuse. And nothing is refused that such a budget would grant if it
//! forgot requests one slot sooner and retries one slot later. A burst within nine tenths of the interval gets its share to
//! the last retry; where every request asks for a retry, all the time, the long-term share is 10/11 of `percent`.
//!
//! **One record for all workers.** A retry is charged on a record that the workers share: `Host::update` reads it, lets
//! [`Budget::charge`] decide, and writes the result back. If another worker wrote first, it reads the record again and
//! decides again. The one driver is `src/engine/sync.rs`. The time is read after the record (see
//! [`crate::base::time`]).
//!
//! Each worker keeps its [`News`] until it next charges a retry, or adds them on its tick ([`Budget::merge`]). A
//! request that is not yet in the record can pay for no retry elsewhere: the error is again towards fewer. After a
//! denial the record is written only if there was news, or if what it says of the [outage](crate::retry::outage)
//! changed.

use std::time::Duration;

use crate::base::bytes::{Format, Reader, Writer};
use crate::base::percent::Percent;
use crate::base::time::Time;
use crate::base::window::{Edge, Window};
use crate::retry::outage::{News, Outage};

/// What retries a cluster can afford. Fields, ranges and defaults are those of GEP-3388.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetPolicy {
    /// Retries are at most this share of requests. Default: 20 percent.
    pub percent: Percent,
    /// The time over which requests and retries are counted, 1 s to 1 h; what is beyond is taken as the nearest of
    /// these. Default: 10 s.
    pub interval: Duration,
    /// What is granted even if the share is less.
    pub min_retry_rate: MinRetryRate,
}

/// A floor under the budget, so that a cluster with few requests can retry at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRetryRate {
    /// Retries per `interval`; 0 is no floor. Default: 10.
    pub count: u32,
    /// The time over which these retries are counted, 1 s to 1 h; what is beyond is taken as the nearest of these.
    /// Default: 1 s.
    pub interval: Duration,
}

impl BudgetPolicy {
    /// The policy where nothing is configured.
    pub const DEFAULT: Self = Self {
        percent: Percent::saturating(2_000),
        interval: Duration::from_secs(10),
        min_retry_rate: MinRetryRate { count: 10, interval: Duration::from_secs(1) },
    };
}

impl Default for BudgetPolicy {
    fn default() -> Self {
        Self::DEFAULT
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

/// A request that asks for a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryRequest {
    /// When the request arrived, by the host's wall clock.
    pub arrived: Time,
    /// Whether the attempt that failed was a retry itself.
    pub again: bool,
}

/// What the budget of one cluster has taken in and given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    policy: BudgetPolicy,
    requests: Window,
    retries: Window,
    /// The retries once more, over the interval of the floor.
    retries_on_floor: Window,
    /// The requests once more, over the last second.
    requests_of_second: Window,
    /// The retries once more, over the last second.
    retries_of_second: Window,
    outage: Outage,
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
            requests_of_second: Window::new(SECOND),
            retries_of_second: Window::new(SECOND),
            outage: Outage::default(),
        }
    }

    /// A request arrives (its first attempt, not a retry).
    pub fn deposit(&mut self, now: Time) {
        self.deposit_at(now, 1, now);
    }

    /// Requests arrived at `moment`, a while ago.
    pub fn deposit_at(&mut self, moment: Time, requests: u32, now: Time) {
        self.requests.add_at(moment, requests, now);
        self.requests_of_second.add_at(moment, requests, now);
    }

    /// Asks for a retry of a request that arrives now. It is counted if it is granted.
    pub fn try_withdraw(&mut self, now: Time) -> bool {
        self.try_withdraw_for(now, now)
    }

    fn try_withdraw_for(&mut self, arrived: Time, now: Time) -> bool {
        let granted = self.balance_for(arrived, now) > 0;
        if granted {
            self.withdraw(now, 1);
        }
        granted
    }

    /// Counts retries that are made whatever the budget says: they had permission before.
    pub fn withdraw(&mut self, now: Time, retries: u32) {
        for window in [&mut self.retries, &mut self.retries_on_floor, &mut self.retries_of_second] {
            window.add(now, retries);
        }
    }

    /// How many retries would be granted now to requests that arrive now, if all were asked for at once. (`&mut`, since
    /// time passes.)
    #[must_use]
    pub fn balance(&mut self, now: Time) -> u64 {
        self.balance_for(now, now)
    }

    /// How many retries would be granted now to requests that `arrived` earlier, if all were asked for at once.
    fn balance_for(&mut self, arrived: Time, now: Time) -> u64 {
        self.balance_over(self.policy.min_retry_rate.count.into(), arrived, now)
    }

    /// What is left of the part of the budget that some of the requests brought in, where `whole` is the budget of all.
    /// Of the floor, they have as large a part as of the requests, rounded up.
    pub fn balance_within(&mut self, whole: &mut Self, now: Time) -> u64 {
        let left = whole.balance(now);
        let all = whole.requests.at_least(now).max(1);
        let floor = u64::from(self.policy.min_retry_rate.count);
        let floor = (floor * self.requests.at_least(now).min(all)).div_ceil(all);
        self.outage = whole.outage;
        self.balance_over(floor, now, now).min(left)
    }

    fn balance_over(&mut self, floor: u64, arrived: Time, now: Time) -> u64 {
        self.outage.advance(now);
        let percent = self.policy.percent;
        let mut left = share(percent, &mut self.requests, &mut self.retries, now);
        if !self.outage.predates(arrived) {
            left = left.min(share(percent, &mut self.requests_of_second, &mut self.retries_of_second, now));
        }
        self.retries_on_floor.advance(now);
        if left >= floor {
            return left;
        }
        let by_floor = floor.saturating_sub(self.retries_on_floor.at_most(now));
        let failed_retries = self.outage.failed_retries();
        if by_floor == 0 || failed_retries < FAILED_RETRIES {
            return left.max(by_floor);
        }
        // `share` above let it advance.
        let lowered = (floor >> (failed_retries - FAILED_RETRIES + 1)).max(1);
        left.max(lowered.saturating_sub(self.retries.at_most(now)).min(by_floor))
    }

    /// The time until which no less is left than now, unless retries are charged or attempts fail. Requests that pay
    /// for retries stay within the interval until a slot of it is over.
    #[must_use]
    pub fn lasts_until(&self, now: Time) -> Time {
        if self.outage.retries_fail() { now } else { self.requests.slot_ends(now) }
    }

    /// What became of the latest attempts.
    pub fn outage(&mut self, now: Time) -> &mut Outage {
        self.outage.advance(now);
        &mut self.outage
    }

    /// Adds the news of a worker.
    pub fn merge(&mut self, news: &News, now: Time) {
        for &(moment, requests) in &news.arrivals {
            self.deposit_at(moment, requests, now);
        }
        if news.retries > 0 {
            self.withdraw(now, news.retries);
        }
        self.outage.merge(&news.outage, now);
    }

    /// Adds the news of the worker that asks, and charges one retry if the budget can pay for it.
    pub fn charge(&mut self, news: &News, retry: RetryRequest, now: Time) -> Charge {
        self.merge(news, now);
        if retry.again {
            self.outage.retry_failed(now)
        } else {
            self.outage.attempt_failed(now)
        }
        if self.try_withdraw_for(retry.arrived, now) { Charge::Granted } else { Charge::Denied }
    }

    /// Bytes of an encoded budget.
    pub const ENCODED_BYTES: usize = FORMAT.len() + 5 * Window::ENCODED_BYTES + Outage::ENCODED_BYTES;

    /// Replaces `record` by the budget in bytes, without its policy: that is the reader's.
    pub fn encode(&self, record: &mut Vec<u8>) {
        let mut record = Writer::new(record, &FORMAT, Self::ENCODED_BYTES);
        let Self { requests, retries, retries_on_floor, requests_of_second, retries_of_second, .. } = self;
        for window in [requests, retries, retries_on_floor, requests_of_second, retries_of_second] {
            window.encode(&mut record);
        }
        self.outage.encode(&mut record);
    }

    /// The budget in `record`, under `policy`. `None` if it is no such record, or one of another version: then a
    /// [new](Self::new) one is in order.
    ///
    /// If the record was written under other intervals, its counts go on, rounded as everywhere towards fewer retries: what
    /// happened within a slot of the record happened at its start if it was requests, and at its end if it was retries.
    #[must_use]
    pub fn decode(policy: BudgetPolicy, record: &[u8], now: Time) -> Option<Self> {
        let mut record = Reader::new(record, &FORMAT)?;
        let mut budget = Self::new(policy);
        for (window, edge) in [
            (&mut budget.requests, Edge::Start),
            (&mut budget.retries, Edge::End),
            (&mut budget.retries_on_floor, Edge::End),
            (&mut budget.requests_of_second, Edge::Start),
            (&mut budget.retries_of_second, Edge::End),
        ] {
            let read = Window::decode(&mut record).filter(|read| INTERVALS.contains(&read.interval()))?;
            *window = read.with_interval(window.interval(), edge, now);
        }
        budget.outage = Outage::decode(&mut record)?;
        record.is_empty().then_some(budget)
    }
}

/// What is left of the share of the requests.
fn share(percent: Percent, requests: &mut Window, retries: &mut Window, now: Time) -> u64 {
    requests.advance(now);
    retries.advance(now);
    percent.of(requests.at_least(now)).saturating_sub(retries.at_most(now))
}

/// What a record starts with: a name, and the version of what follows.
const FORMAT: Format = *b"wrb\x02";

const SECOND: Duration = Duration::from_secs(1);

/// Once this many retries failed, less what was answered, the floor is halved. Each further one halves it again.
const FAILED_RETRIES: u32 = 8;

const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3_600);

/// The intervals of the budget and of the floor, within their range.
fn intervals(policy: &BudgetPolicy) -> (Duration, Duration) {
    let within = |interval: Duration| interval.max(*INTERVALS.start()).min(*INTERVALS.end());
    (within(policy.interval), within(policy.min_retry_rate.interval))
}
