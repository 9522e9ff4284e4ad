//! Reads the `retry` section over what is already set: the defaults, or for an override of a cluster the top level.

use std::time::Duration;

use super::reader::{HOUR, Reader, SECOND, percent};
use super::retry::{AlreadyRetried, GrpcCode, PerTryTimeout, RetryPolicy};
use super::{ConfigError, duration};
use crate::latency::AdaptiveTimeout;
use crate::retry::budget::{BudgetPolicy, MinRetryRate};

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
        // 0 is fine with any budget: it switches retries off in an incident, without touching the rest.
        retry.set_whole("maxRetries", 0, 10, &mut policy.max_retries)?;
        if let Some(budget) = retry.field("budget") {
            overlay_budget(&mut policy.budget, budget)?;
        }
        if let Some(rate) = retry.field("minRetryRate") {
            min_retry_rate(&mut self.floor, rate)?;
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
            per_try_timeout(&mut policy.per_try_timeout, timeout)?;
        }
        if let Some(already_retried) = retry.field("alreadyRetried") {
            policy.already_retried = already_retried.word([
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

fn overlay_budget(policy: &mut Option<BudgetPolicy>, budget: Reader<'_>) -> Result<(), ConfigError> {
    let Some(budget) = budget.unless_off() else {
        *policy = None;
        return Ok(());
    };
    budget.only(&["interval", "percent"])?;
    let policy = policy.get_or_insert_default();
    budget.set_percent("percent", 0, &mut policy.percent)?;
    budget.set_duration("interval", SECOND, HOUR, &mut policy.interval)
}

fn min_retry_rate(floor: &mut MinRetryRate, rate: Reader<'_>) -> Result<(), ConfigError> {
    let Some(rate) = rate.unless_off() else {
        floor.count = 0;
        return Ok(());
    };
    rate.only(&["count", "interval"])?;
    // Both or neither: one says nothing without the other, and an inherited other half is not what the author had in mind.
    floor.count = rate.required("count")?.whole(0, 1_000_000)?;
    rate.required("interval")?.duration(SECOND, HOUR, &mut floor.interval)
}

fn per_try_timeout(policy: &mut Option<PerTryTimeout>, timeout: Reader<'_>) -> Result<(), ConfigError> {
    let base = policy.take();
    let Some(timeout) = timeout.unless_off() else { return Ok(()) };
    if !timeout.is_object() {
        let mut fixed = Duration::ZERO;
        timeout.duration(1, HOUR, &mut fixed)?;
        *policy = Some(PerTryTimeout::Fixed(fixed));
        return Ok(());
    }
    timeout.only(&["adaptive"])?;
    let given = timeout.required("adaptive")?;
    given.only(&["factor", "max", "min", "quantile"])?;

    let mut adaptive = match base {
        Some(PerTryTimeout::Adaptive(adaptive)) => adaptive,
        Some(PerTryTimeout::Fixed(_)) | None => AdaptiveTimeout {
            quantile: percent(9_900),
            factor_percent: 300,
            min: Duration::from_millis(50),
            max: Duration::from_secs(10),
        },
    };
    let mut quantile = adaptive.quantile.basis_points();
    given.set_decimal("quantile", 4, (5_000, 9_990), "a number from 0.5 to 0.999", &mut quantile)?;
    adaptive.quantile = percent(quantile);
    given.set_decimal("factor", 2, (100, 10_000), "a number from 1 to 100", &mut adaptive.factor_percent)?;
    given.set_duration("min", 1, HOUR, &mut adaptive.min)?;
    given.set_duration("max", 1, HOUR, &mut adaptive.max)?;
    if adaptive.min > adaptive.max {
        let (min, max) = (duration::text(adaptive.min), duration::text(adaptive.max));
        return Err(given.error(&format!("min ({min}) is longer than max ({max})")));
    }
    *policy = Some(PerTryTimeout::Adaptive(adaptive));
    Ok(())
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
    match item.whole(400, 599)? {
        429 => Err(item.refuse("is a pushback, which is never retried: remove it")),
        status => Ok(status as u16),
    }
}

fn grpc_code(item: &Reader<'_>) -> Result<GrpcCode, ConfigError> {
    if item.text() == Ok("resource-exhausted") {
        return Err(item.refuse("is a pushback, which is never retried: remove it"));
    }
    item.word(GrpcCode::ALL.map(|code| (code.name(), code)))
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
