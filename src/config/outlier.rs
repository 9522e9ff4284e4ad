//! Reads the `outlierDetection` section over what is already set: when a host is out, and how it comes back.
//!
//! [`crate::outlier::detector`] says what each setting means.

use std::time::Duration;

use super::overlay::{HOUR, SECOND, percentage};
use super::reader::Reader;
use super::{ConfigError, duration};
use crate::base::percent::Percent;
use crate::outlier::detector::{Detector, OutlierPolicy};
use crate::outlier::history::LENGTH;

/// A detector that is off: no host fails so often among the attempts that are remembered.
const OFF: Detector = Detector { count: u32::MAX, percent: Percent::MAX };

/// Shortest ejection: less than a round trip or two would be none.
const MIN_EJECTION_TIME: Duration = Duration::from_millis(10);
const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Replaces what `section` (not off) says otherwise.
pub(super) fn overlay(policy: &mut OutlierPolicy, section: &Reader<'_>) -> Result<(), ConfigError> {
    section.only(&[
        "baseEjectionTime",
        "error",
        "interval",
        "maxEjectionPercent",
        "maxEjectionTime",
        "probeSuccesses",
        "refused",
        "reset",
        "timeout",
    ])?;
    if let Some(interval) = section.field("interval") {
        policy.interval = interval.duration(SECOND..=HOUR)?;
    }
    let defaults = OutlierPolicy::default();
    let detectors = [
        ("refused", &mut policy.refused, defaults.refused),
        ("reset", &mut policy.reset, defaults.reset),
        ("timeout", &mut policy.timeout, defaults.timeout),
        ("error", &mut policy.error, defaults.error),
    ];
    for (name, detector, default) in detectors {
        if let Some(given) = section.field(name) {
            *detector = overlay_detector(if *detector == OFF { default } else { *detector }, given)?;
        }
    }
    if let Some(time) = section.field("baseEjectionTime") {
        policy.base_ejection_time = time.duration(MIN_EJECTION_TIME..=HOUR)?;
    }
    if let Some(time) = section.field("maxEjectionTime") {
        policy.max_ejection_time = time.duration(MIN_EJECTION_TIME..=DAY)?;
    }
    if let Some(share) = section.field("maxEjectionPercent") {
        // 0 ejects nothing, and still tells what it would have ejected.
        policy.max_ejection_percent = percentage(&share)?;
    }
    if let Some(successes) = section.field("probeSuccesses") {
        policy.probe_successes = successes.whole(1..=100)?;
    }
    check_times(policy, section)
}

fn overlay_detector(base: Detector, detector: Reader<'_>) -> Result<Detector, ConfigError> {
    let Some(detector) = detector.unless_off() else { return Ok(OFF) };
    detector.only(&["count", "percent"])?;
    let mut result = base;
    if let Some(count) = detector.field("count") {
        result.count = count.whole(1..=LENGTH)?;
    }
    if let Some(share) = detector.field("percent") {
        result.percent = percentage(&share)?;
    }
    Ok(result)
}

/// Checked on the result, since either side may be inherited.
fn check_times(policy: &OutlierPolicy, section: &Reader<'_>) -> Result<(), ConfigError> {
    if policy.base_ejection_time <= policy.max_ejection_time {
        return Ok(());
    }
    let (base, max) = (duration::text(policy.base_ejection_time), duration::text(policy.max_ejection_time));
    Err(section.error(&format!("baseEjectionTime ({base}) is longer than maxEjectionTime ({max})")))
}
