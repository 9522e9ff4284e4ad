//! What is counted against a healthy host: how often it was ejected, which makes the next ejection longer.

use std::time::Duration;

use crate::base::random::hash;
use crate::base::time::{Time, nanos};
use crate::outlier::detector::{Failure, OutlierPolicy};
use crate::outlier::shared::{Ejection, WorkerId};

/// When an attempt began is known from its end and its duration, which are measured by different clocks.
pub(super) const CLOCK_ERROR: Duration = Duration::from_millis(2);
/// The largest exponent that can matter: 2^20 times the shortest ejection is longer than any longest one.
pub(super) const MAX_EJECTION_COUNT: u8 = 20;

/// What is counted against a healthy host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    ejection_count: u8,
    /// The host is healthy since then. Attempts that began earlier say nothing about it.
    since: Time,
    /// When the count of ejections is halved next.
    halved_at: Time,
}

impl Health {
    /// The state of a host that comes back, after this number of ejections.
    pub(super) fn after(ejection_count: u8, now: Time, interval: Duration) -> Self {
        let ejection_count = ejection_count.min(MAX_EJECTION_COUNT);
        Self { ejection_count, since: now, halved_at: halved_next(now, interval) }
    }

    /// Forgets what seems to lie in the future: the host's clock may have stepped back.
    pub(super) fn clamp(&mut self, now: Time, interval: Duration) {
        self.since = self.since.min(now);
        self.halved_at = self.halved_at.min(now.saturating_add(interval));
    }

    /// Whether the end of an attempt that `began` then says something about the host.
    #[must_use]
    pub fn concerns(&self, began: Time) -> bool {
        began.saturating_add(CLOCK_ERROR) >= self.since
    }

    /// An attempt was answered.
    pub fn answered(&mut self, now: Time, interval: Duration) {
        if self.ejection_count > 0 && now >= self.halved_at {
            self.ejection_count /= 2;
            self.halved_at = halved_next(now, interval);
        }
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Time, interval: Duration) {
        self.halved_at = halved_next(now, interval);
    }

    /// The ejection of this host by a worker that will own it.
    #[must_use]
    pub fn eject(
        &self,
        address: &str,
        failure: Failure,
        owner: WorkerId,
        policy: &OutlierPolicy,
        now: Time,
    ) -> Ejection {
        let until = now.saturating_add(ejection_time(policy, self.ejection_count, address, owner));
        Ejection {
            address: address.into(),
            failure,
            unreachable: false,
            ejection_count: self.ejection_count,
            since: now,
            failed: now,
            until,
            due: until,
            owner,
        }
    }
}

/// When the count of ejections is halved next: after a tenth of the interval.
fn halved_next(now: Time, interval: Duration) -> Time {
    now.saturating_add(Duration::from_nanos(nanos(interval) / 10))
}

/// `base_ejection_time` x 2^`count`, at most `max_ejection_time`, and up to a quarter more, so that hosts that were ejected at
/// once do not come back at once, nor does one host at all proxies.
pub(super) fn ejection_time(policy: &OutlierPolicy, count: u8, address: &str, worker: WorkerId) -> Duration {
    let longest = nanos(policy.max_ejection_time);
    let time = nanos(policy.base_ejection_time).saturating_mul(1 << count.min(MAX_EJECTION_COUNT)).min(longest);
    let seed = hash(address.as_bytes(), worker.0 ^ u64::from(count).rotate_left(32));
    let jitter = (time / 4).saturating_mul(seed % 1_024) / 1_024;
    Duration::from_nanos(time.saturating_add(jitter))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_nanos(1_800_000_000_000_000_000);
    const INTERVAL: Duration = Duration::from_secs(10);

    #[test]
    fn each_ejection_is_twice_as_long_and_none_longer_than_the_longest() {
        let policy = OutlierPolicy::default();
        for count in 0..=MAX_EJECTION_COUNT + 1 {
            let time = ejection_time(&policy, count, "10.0.0.1:80", WorkerId(1));
            let base = policy.base_ejection_time.saturating_mul(1 << count.min(20)).min(policy.max_ejection_time);
            assert!(time >= base && time < base + base / 4 + Duration::from_nanos(1), "{count}: {time:?}");
        }
        let others = ["10.0.0.2:80", "10.0.0.3:80"].map(|host| ejection_time(&policy, 0, host, WorkerId(1)));
        assert_ne!(others[0], others[1], "hosts do not come back at once");
    }

    #[test]
    fn the_count_is_halved_by_answers_and_not_by_time_or_failures() {
        let after = |millis: u64| START.saturating_add(Duration::from_millis(millis));
        let mut health = Health::after(u8::MAX, START, INTERVAL);
        assert_eq!(health.ejection_count, MAX_EJECTION_COUNT);
        health.answered(after(999), INTERVAL);
        assert_eq!(health.ejection_count, 20, "a tenth of the interval is not over");
        health.answered(after(60_000), INTERVAL);
        assert_eq!(health.ejection_count, 10, "a minute without answers halves nothing");
        health.failed(after(60_900), INTERVAL);
        health.answered(after(61_800), INTERVAL);
        assert_eq!(health.ejection_count, 10, "it failed less than a tenth of the interval ago");
        (0..9).for_each(|second| health.answered(after(62_000 + second * 1_000), INTERVAL));
        assert_eq!(health.ejection_count, 0);
    }
}
