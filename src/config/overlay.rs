//! Reads the `retry` section over what is already set: the defaults, or for an override of a cluster the top level.

use std::time::Duration;

use super::reader::Reader;
use super::retry::{AlreadyRetried, GrpcCode, PerTryTimeout, RetryPolicy};
use super::{ConfigError, duration};
use crate::base::percent::Percent;
use crate::latency::AdaptiveTimeout;
use crate::retry::budget::{BudgetPolicy, MinRetryRate};

const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);

/// Most items in a list of codes, and of names.
const MAX_CODES: usize = 200;
const MAX_NAMES: usize = 32;
/// Most bytes in the name of a method or header. Lists and names are bounded since every override of a cluster has a copy.
const MAX_NAME_BYTES: usize = 128;

/// A [`RetryPolicy`] to which overrides can still be applied.
///
/// `minRetryRate` stands beside `budget` in JSON, and outlives a budget that is off, for an override that switches it on again.
#[derive(Clone, Default)]
pub(super) struct RetrySettings {
    policy: RetryPolicy,
    floor: MinRetryRate,
}

impl RetrySettings {
    /// Replaces what `retry` (not off) says otherwise.
    pub(super) fn overlay(&mut self, retry: &Reader<'_>) -> Result<(), ConfigError> {
        retry.only(&[
            "alreadyRetried",
            "budget",
            "grpcStatusCodes",
            "idempotencyKeyHeaders",
            "idempotentMethods",
            "maxRetries",
            "minRetryRate",
            "perTryTimeout",
            "statusCodes",
        ])?;
        let policy = &mut self.policy;
        if let Some(max_retries) = retry.field("maxRetries") {
            // 0 is fine with any budget: it switches retries off in an incident, without touching the rest.
            policy.max_retries = max_retries.whole(0..=10)?;
        }
        if let Some(budget) = retry.field("budget") {
            policy.budget = overlay_budget(policy.budget, budget)?;
        }
        if let Some(rate) = retry.field("minRetryRate") {
            self.floor = min_retry_rate(self.floor, rate)?;
        }
        if let Some(methods) = retry.field("idempotentMethods") {
            policy.idempotent_methods = names(&methods, method)?;
        }
        if let Some(headers) = retry.field("idempotencyKeyHeaders") {
            policy.idempotency_key_headers = names(&headers, header_name)?;
        }
        if let Some(statuses) = retry.field("statusCodes") {
            policy.status_codes = codes(&statuses, status_code)?;
        }
        if let Some(statuses) = retry.field("grpcStatusCodes") {
            policy.grpc_status_codes = codes(&statuses, grpc_code)?;
        }
        if let Some(timeout) = retry.field("perTryTimeout") {
            policy.per_try_timeout = per_try_timeout(policy.per_try_timeout, timeout)?;
        }
        if let Some(already_retried) = retry.field("alreadyRetried") {
            policy.already_retried = already_retried.word(&[
                ("unprocessed", AlreadyRetried::Unprocessed),
                ("any", AlreadyRetried::Any),
                ("none", AlreadyRetried::None),
            ])?;
        }
        self.check_floor(retry)
    }

    /// A floor that an interval of the budget cannot reach is none, see [`MinRetryRate::interval`]. Checked on the result,
    /// since either side may be inherited.
    fn check_floor(&self, retry: &Reader<'_>) -> Result<(), ConfigError> {
        let Some(budget) = &self.policy.budget else { return Ok(()) };
        if self.floor.count == 0 || self.floor.interval <= budget.interval {
            return Ok(());
        }
        let (floor, window) = (duration::text(self.floor.interval), duration::text(budget.interval));
        Err(retry.error(&format!(
            "minRetryRate.interval ({floor}) is longer than budget.interval ({window}): not every interval can reach the floor"
        )))
    }

    pub(super) fn finish(self) -> RetryPolicy {
        let budget = self.policy.budget.map(|budget| BudgetPolicy { min_retry_rate: self.floor, ..budget });
        RetryPolicy { budget, ..self.policy }
    }
}

fn overlay_budget(base: Option<BudgetPolicy>, budget: Reader<'_>) -> Result<Option<BudgetPolicy>, ConfigError> {
    let Some(budget) = budget.unless_off() else { return Ok(None) };
    budget.only(&["interval", "percent"])?;
    let mut result = base.unwrap_or_default();
    if let Some(share) = budget.field("percent") {
        result.percent = percentage(&share)?;
    }
    if let Some(interval) = budget.field("interval") {
        result.interval = interval.duration(SECOND..=HOUR)?;
    }
    Ok(Some(result))
}

fn min_retry_rate(base: MinRetryRate, rate: Reader<'_>) -> Result<MinRetryRate, ConfigError> {
    let Some(rate) = rate.unless_off() else { return Ok(MinRetryRate { count: 0, ..base }) };
    rate.only(&["count", "interval"])?;
    // Both or neither: one says nothing without the other, and an inherited other half is not what the author had in mind.
    let count = rate.required("count")?.whole(0..=1_000_000)?;
    let interval = rate.required("interval")?.duration(SECOND..=HOUR)?;
    Ok(MinRetryRate { count, interval })
}

fn per_try_timeout(base: Option<PerTryTimeout>, timeout: Reader<'_>) -> Result<Option<PerTryTimeout>, ConfigError> {
    let Some(timeout) = timeout.unless_off() else { return Ok(None) };
    if !timeout.is_object() {
        return Ok(Some(PerTryTimeout::Fixed(timeout.duration(MILLISECOND..=HOUR)?)));
    }
    timeout.only(&["adaptive"])?;
    let adaptive = timeout.required("adaptive")?;
    adaptive.only(&["factor", "max", "min", "quantile"])?;

    let defaults = (percent(9_900), 300, Duration::from_millis(50), Duration::from_secs(10));
    let (mut quantile, mut factor_percent, mut min, mut max) = match base {
        Some(PerTryTimeout::Adaptive(AdaptiveTimeout { quantile, factor_percent, min, max })) => {
            (quantile, factor_percent, min, max)
        }
        Some(PerTryTimeout::Fixed(_)) | None => defaults,
    };
    if let Some(given) = adaptive.field("quantile") {
        quantile = percent(given.decimal(4, 5_000..=9_990, "a number from 0.5 to 0.999")?);
    }
    if let Some(given) = adaptive.field("factor") {
        factor_percent = given.decimal(2, 100..=10_000, "a number from 1 to 100")?;
    }
    if let Some(given) = adaptive.field("min") {
        min = given.duration(MILLISECOND..=HOUR)?;
    }
    if let Some(given) = adaptive.field("max") {
        max = given.duration(MILLISECOND..=HOUR)?;
    }
    if min > max {
        let (min, max) = (duration::text(min), duration::text(max));
        return Err(adaptive.error(&format!("min ({min}) is longer than max ({max})")));
    }
    Ok(Some(PerTryTimeout::Adaptive(AdaptiveTimeout { quantile, factor_percent, min, max })))
}

/// A percentage with at most two decimals.
pub(super) fn percentage(share: &Reader<'_>) -> Result<Percent, ConfigError> {
    Ok(percent(share.decimal(2, 0..=10_000, "a number from 0 to 100")?))
}

/// From basis points that were checked to be at most 10,000.
pub(super) fn percent(basis_points: u32) -> Percent {
    Percent::from_basis_points(basis_points).unwrap_or(Percent::MAX)
}

/// The items of `list` in their order, each once.
fn names(list: &Reader<'_>, read: fn(&Reader<'_>) -> Result<String, ConfigError>) -> Result<Vec<String>, ConfigError> {
    let mut names = Vec::new();
    for item in list.items(MAX_NAMES)? {
        let name = read(&item)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The items of `list` in ascending order, each once.
fn codes<T: Ord>(list: &Reader<'_>, read: fn(&Reader<'_>) -> Result<T, ConfigError>) -> Result<Vec<T>, ConfigError> {
    let mut codes = Vec::new();
    for item in list.items(MAX_CODES)? {
        let code = read(&item)?;
        // Not `sort`, which costs the module 3 kB for a handful of numbers.
        if let Err(place) = codes.binary_search(&code) {
            codes.insert(place, code);
        }
    }
    Ok(codes)
}

fn status_code(item: &Reader<'_>) -> Result<u16, ConfigError> {
    match item.whole(400..=599)? {
        429 => Err(item.refuse("is a pushback, which is never retried: remove it")),
        status => Ok(status as u16),
    }
}

fn grpc_code(item: &Reader<'_>) -> Result<GrpcCode, ConfigError> {
    if item.text() == Ok("resource-exhausted") {
        return Err(item.refuse("is a pushback, which is never retried: remove it"));
    }
    item.word(&GrpcCode::ALL.map(|code| (code.name(), code)))
}

pub(super) fn header_name(item: &Reader<'_>) -> Result<String, ConfigError> {
    if item.text()?.starts_with(':') {
        return Err(item.expecting("is a pseudo-header", "the name of a header field"));
    }
    let mut name = token(item, "is not the name of a header field")?;
    // As in HTTP/2, and as Envoy has them.
    name.make_ascii_lowercase();
    Ok(name)
}

fn method(item: &Reader<'_>) -> Result<String, ConfigError> {
    token(item, "is not a method")
}

/// A token as in RFC 9110, section 5.6.2: what methods and names of header fields are made of.
fn token(item: &Reader<'_>, problem: &str) -> Result<String, ConfigError> {
    let text = item.text()?;
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if (1..=MAX_NAME_BYTES).contains(&text.len()) && text.bytes().all(valid) {
        return Ok(text.to_owned());
    }
    Err(item.expecting(problem, "1 to 128 letters, digits or !#$%&'*+-.^_`|~"))
}
