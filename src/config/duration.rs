//! Durations as Kubernetes' Gateway API writes them: [GEP-2257](https://gateway-api.sigs.k8s.io/geps/gep-2257/).
//!
//! `^([0-9]{1,5}(h|m|s|ms)){1,4}$`: one to four numbers of up to five digits, each with its unit; no signs, fractions or
//! spaces. The parts add up, in whatever order.

use std::time::Duration;

use crate::base::time::millis;

/// Largest unit first, in milliseconds: the order in which [`text`] writes them.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
const MAX_PARTS: u32 = 4;
const MAX_DIGITS: usize = 5;

/// The duration that `text` says, in whole milliseconds; `None` if it is none.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    millis_of(text).map(Duration::from_millis)
}

/// As [`parse`], in milliseconds.
pub(super) fn millis_of(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut parts = 0;
    let mut total = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at_checked(rest.bytes().take_while(u8::is_ascii_digit).count())?;
        let (unit, after) = after.split_at_checked(after.bytes().take_while(u8::is_ascii_lowercase).count())?;
        parts += 1;
        if number.len() > MAX_DIGITS || parts > MAX_PARTS {
            return None;
        }
        let (_, millis) = UNITS.into_iter().find(|(name, _)| *name == unit)?;
        // At most 4 * 99,999 hours: far from overflow.
        total += number.parse::<u64>().ok()? * millis;
        rest = after;
    }
    (parts > 0).then_some(total)
}

/// `duration` in its shortest form: each unit at most once, the largest first, "0s" for nothing.
///
/// What is less than a millisecond is dropped. [`parse`] reads it back, up to 99,999 hours.
#[must_use]
pub fn text(duration: Duration) -> String {
    text_of_millis(millis(duration))
}

/// As [`text`], of milliseconds.
pub(super) fn text_of_millis(mut rest: u64) -> String {
    if rest == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, millis) in UNITS {
        if let Some(count @ 1..) = rest.checked_div(millis) {
            text.push_str(&count.to_string());
            text.push_str(unit);
            rest -= count * millis;
        }
    }
    text
}
