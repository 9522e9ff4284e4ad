//! Reads the `outlierDetection` section over what is already set: when a host is out, and how it comes back.
//!
//! [`crate::outlier::detector`] says what each setting means.

use super::reader::{HOUR, Reader, SECOND};
use super::{ConfigError, duration};
use crate::base::percent::Percent;
use crate::outlier::detector::{Detector, OutlierPolicy};
use crate::outlier::history::LENGTH;

/// A detector that is off: no host fails so often among the attempts that are remembered.
const OFF: Detector = Detector { count: u32::MAX, percent: Percent::MAX };

/// Shortest ejection, in milliseconds: less than a round trip or two would be none.
const MIN_EJECTION_TIME: u32 = 10;
const DAY: u32 = 24 * HOUR;

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
    section.set_duration("interval", SECOND, HOUR, &mut policy.interval)?;
    let defaults = OutlierPolicy::default();
    let detectors = [
        ("refused", &mut policy.refused, defaults.refused),
        ("reset", &mut policy.reset, defaults.reset),
        ("timeout", &mut policy.timeout, defaults.timeout),
        ("error", &mut policy.error, defaults.error),
    ];
    for (name, detector, default) in detectors {
        if let Some(given) = section.field(name) {
            overlay_detector(detector, default, given)?;
        }
    }
    section.set_duration("baseEjectionTime", MIN_EJECTION_TIME, HOUR, &mut policy.base_ejection_time)?;
    section.set_duration("maxEjectionTime", MIN_EJECTION_TIME, DAY, &mut policy.max_ejection_time)?;
    // 0 ejects nothing, and still tells what it would have ejected.
    section.set_percent("maxEjectionPercent", 0, &mut policy.max_ejection_percent)?;
    section.set_whole("probeSuccesses", 1, 100, &mut policy.probe_successes)?;
    check_times(policy, section)
}

#[inline(never)]
fn overlay_detector(detector: &mut Detector, default: Detector, given: Reader<'_>) -> Result<(), ConfigError> {
    let Some(given) = given.unless_off() else {
        *detector = OFF;
        return Ok(());
    };
    given.only(&["count", "percent"])?;
    if *detector == OFF {
        *detector = default;
    }
    given.set_whole("count", 1, LENGTH, &mut detector.count)?;
    given.set_percent("percent", 0, &mut detector.percent)
}

/// Checked on the result, since either side may be inherited.
fn check_times(policy: &OutlierPolicy, section: &Reader<'_>) -> Result<(), ConfigError> {
    if policy.base_ejection_time <= policy.max_ejection_time {
        return Ok(());
    }
    let (base, max) = (duration::text(policy.base_ejection_time), duration::text(policy.max_ejection_time));
    Err(section.error(&format!("baseEjectionTime ({base}) is longer than maxEjectionTime ({max})")))
}
