//! Reads the `circuitBreaker` section over what is already set: when a cluster's requests are shed.
//!
//! [`crate::circuit`] says what each setting means.

use std::time::Duration;

use super::ConfigError;
use super::overlay::{HOUR, SECOND, percent};
use super::reader::Reader;
use crate::circuit::BreakerPolicy;

/// Workers hear of each other ten times a second.
const MIN_OPEN_TIME: Duration = Duration::from_millis(100);

/// Replaces what `section` (not off) says otherwise.
pub(super) fn overlay(policy: &mut BreakerPolicy, section: &Reader<'_>) -> Result<(), ConfigError> {
    section.only(&["interval", "minRequests", "openTime", "percent"])?;
    if let Some(share) = section.field("percent") {
        policy.percent = percent(share.decimal(2, 100..=10_000, "a number from 1 to 100")?);
    }
    if let Some(requests) = section.field("minRequests") {
        policy.min_requests = requests.whole(1..=1_000_000)?;
    }
    if let Some(interval) = section.field("interval") {
        policy.interval = interval.duration(SECOND..=HOUR)?;
    }
    if let Some(time) = section.field("openTime") {
        policy.open_time = time.duration(MIN_OPEN_TIME..=HOUR)?;
    }
    Ok(())
}
