//! When a circuit opens, and for how long.

use std::time::Duration;

use crate::base::percent::Percent;

/// When a cluster's circuit opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Opens if at least this share of the attempts broke, 1 to 100. Default: 90.
    pub percent: Percent,
    /// Of at least so many, 1 to 1,000,000. Default: 50.
    pub min_requests: u32,
    /// Within at most this time, 1 s to 1 h. Default: 10 s.
    pub interval: Duration,
    /// How long a probe that does not end holds up the next, 100 ms to 1 h; after one that fails, the next goes after a part of
    /// it. Default: 1 s.
    pub open_time: Duration,
}

impl BreakerPolicy {
    /// The policy where nothing is configured.
    pub const DEFAULT: Self = Self {
        percent: Percent::saturating(9_000),
        min_requests: 50,
        interval: Duration::from_secs(10),
        open_time: Duration::from_secs(1),
    };
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}
