//! Reads the `circuitBreaker` section over what is already set: when a cluster's requests are shed.
//!
//! [`crate::circuit`] says what each setting means.

use super::ConfigError;
use super::reader::{HOUR, Reader, SECOND};
use crate::circuit::BreakerPolicy;

/// In milliseconds. Workers hear of each other ten times a second.
const MIN_OPEN_TIME: u32 = 100;

/// Replaces what `section` (not off) says otherwise.
pub(super) fn overlay(policy: &mut BreakerPolicy, section: &Reader<'_>) -> Result<(), ConfigError> {
    section.only(&["interval", "minRequests", "openTime", "percent"])?;
    section.set_percent("percent", 1, &mut policy.percent)?;
    section.set_whole("minRequests", 1, 1_000_000, &mut policy.min_requests)?;
    section.set_duration("interval", SECOND, HOUR, &mut policy.interval)?;
    section.set_duration("openTime", MIN_OPEN_TIME, HOUR, &mut policy.open_time)
}
