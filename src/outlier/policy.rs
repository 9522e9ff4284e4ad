//! When a host is an outlier, and what happens to it then: the settings.

use std::time::Duration;

use crate::base::percent::Percent;
use crate::outlier::history::Failure;

/// When a host is an outlier, and what happens to it then.
///
/// Two defaults come from the incident in `tests/simulation.rs`: four replicas that crash-loop, a quarter of the time each. With
/// at most 50 percent out, a third host that is down keeps its share of the traffic: 1.033 attempts per request, 20 of them on
/// each replica that goes down, and 99.91 percent of GETs answered, since its retries are more than the budget has; without that
/// bound 1.006, 3.3 and 99.997 (seeds 0 to 19). And two resets instead of three save 0.8 attempts of 4.1 on each replica that
/// goes down, while of stray resets, one in a thousand attempts, one in fifty has a second one within twenty attempts, and costs a
/// quarter of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierPolicy {
    /// How long failures count. Default: 10 s.
    pub interval: Duration,
    /// The detector for `refused` and `unreachable`. Default: 1, 0 percent.
    pub refused: Detector,
    /// The detector for `reset` and `truncated`. Default: 2, 10 percent.
    pub reset: Detector,
    /// The detector for `timeout`. Default: 5, 30 percent.
    pub timeout: Detector,
    /// The detector for `error`. Default: 5, 50 percent.
    pub error: Detector,
    /// How long a host is out the first time; each further time takes twice as long. Default: 250 ms.
    pub base_ejection_time: Duration,
    /// The longest time out, to which up to a quarter more of jitter is added. Default: 30 s.
    pub max_ejection_time: Duration,
    /// At most this share of the known hosts is ejected: rounded down, but one host may always be (unless the share is 0), and
    /// the last one never is. Default: 100.
    pub max_ejection_percent: Percent,
    /// The number of answered probes in a row that bring a host back. Default: 2.
    pub probe_successes: u32,
}

/// When one kind of failure makes a host an outlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detector {
    /// The least number of failures, of the last [`LENGTH`](crate::outlier::history::LENGTH) attempts; 0 is taken as 1.
    pub count: u32,
    /// By how many percentage points the share of failures is above that of the other hosts, at least.
    pub percent: Percent,
}

impl Detector {
    /// A detector that is off: no host fails so often among the attempts that are remembered.
    pub const OFF: Self = Self { count: u32::MAX, percent: Percent::MAX };

    const fn new(count: u32, basis_points: u32) -> Self {
        Self { count, percent: Percent::saturating(basis_points) }
    }
}

impl Default for OutlierPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl OutlierPolicy {
    /// The policy where nothing is configured.
    pub const DEFAULT: Self = Self {
        interval: Duration::from_secs(10),
        refused: Detector::new(1, 0),
        reset: Detector::new(2, 1_000),
        timeout: Detector::new(5, 3_000),
        error: Detector::new(5, 5_000),
        base_ejection_time: Duration::from_millis(250),
        max_ejection_time: Duration::from_secs(30),
        max_ejection_percent: Percent::MAX,
        probe_successes: 2,
    };

    pub(super) const fn detector(&self, failure: Failure) -> Detector {
        match failure {
            Failure::Refused => self.refused,
            Failure::Reset => self.reset,
            Failure::Timeout => self.timeout,
            Failure::Error => self.error,
        }
    }

    /// How many of `known` hosts may be ejected.
    #[must_use]
    pub fn max_ejected(&self, known: usize) -> usize {
        if self.max_ejection_percent == Percent::default() {
            return 0;
        }
        let share = usize::try_from(self.max_ejection_percent.of(known as u64)).unwrap_or(usize::MAX);
        share.max(1).min(known.saturating_sub(1))
    }
}
