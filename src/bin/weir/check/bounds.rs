//! How many attempts one request can come to, at worst.
//!
//! `c` is how often the client retries, `r` how often the route's own retry policy does, `m` is `maxRetries`.
//!
//! - **Without Weir** each of the client's `1 + c` tries becomes `1 + r` attempts.
//! - **With Weir** Envoy is told in `x-envoy-max-retries`, which beats the route's number, with each of the roles: `1 + m`
//!   attempts, whatever the route's policy adds to the conditions. Where the retry section is off, or in shadow mode, Envoy
//!   is told nothing: `1 + r`.
//! - **A client that is an Envoy** (or whoever heeds `x-envoy-ratelimited`) does not repeat a failure that was retried here,
//!   or that the budget denied. What is not retried here it may repeat. So of one and the same failure, it is the larger of
//!   `1 + m` and `1 + c`, not the product.
//! - **In an outage** of everything, retries are paid by the budget, whoever asked for them: `1 + percent`, or the floor
//!   divided by the rate where that is more, and never more than `1 + m`. Without `guard` they are given out when requests
//!   arrive, and each worker rounds its part up.

use std::fmt::Write as _;

use weir::circuit::BreakerPolicy;
use weir::config::{ClusterPolicy, Mode, Policy, RetryPolicy};

use super::Roles;
use super::explain::{described, retries_per_second};
use super::words::{count, decimal, paragraph, percent, table, time};

/// What is around Weir.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    /// How often the client retries.
    pub client: u32,
    /// How often the route's own policy does.
    pub route: u32,
    /// All clusters have a retry policy of their own, in place of the route's.
    pub replaced: bool,
    /// Where Weir is attached.
    pub roles: Roles,
}

/// Attempts that one request of the client can become.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bound {
    /// A single request that fails each time.
    single: u64,
    /// The same where the client heeds `x-envoy-ratelimited`, and the failure is the same each time.
    heeding: u64,
}

/// Tells the bounds for all policies.
pub fn tell(out: &mut String, policy: &Policy, around: &Around, rates: &[u32]) {
    let _ = writeln!(out, "\nWorst case: attempts for one request of a client");
    let (client, route) = (u64::from(around.client), u64::from(around.route));
    paragraph(
        out,
        0,
        &format!(
            "The client retries {}, the route's own policy {}; Weir is attached as {}.",
            times(client),
            times(route),
            if around.roles.text().is_empty() { "nothing".to_owned() } else { around.roles.text() }
        ),
    );
    let Some((everywhere, overrides)) = policy.clusters().split_last() else { return };
    one(out, everywhere, policy.mode, around, rates);
    for (pattern, other) in policy.patterns().iter().zip(overrides) {
        if other.retry != everywhere.retry || other.circuit_breaker != everywhere.circuit_breaker {
            paragraph(out, 0, &format!("For {}:", described(pattern)));
            one(out, other, policy.mode, around, rates);
        }
    }
}

fn times(number: u64) -> String {
    match number {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        number => format!("{number} times"),
    }
}

fn one(out: &mut String, cluster: &ClusterPolicy, mode: Mode, around: &Around, rates: &[u32]) {
    let (client, route) = (u64::from(around.client), u64::from(around.route));
    let without = (1 + client) * (1 + route);
    let retry = cluster.retry.as_ref().filter(|_| mode == Mode::Enforce && around.roles.decide);
    let bound = retry.map(|retry| bound(retry, client));
    let mut cells = vec![vec![String::new(), "without Weir".to_owned(), "with Weir".to_owned()]];
    let mut row = |name: &str, without: u64, with: String| cells.push(vec![name.to_owned(), without.to_string(), with]);
    row("one request fails each time", without, bound.map_or(without, |bound| bound.single).to_string());
    if let Some(bound) = bound
        && client > 0
    {
        row("the same, the client being an Envoy *", without, bound.heeding.to_string());
    }
    for rate in rates {
        let name = format!("all fail, {} requests/s", u64::from(*rate) * (1 + client));
        let name = if client > 0 { format!("{name} with the client's retries") } else { name };
        row(&name, without, outage(retry, *rate, around).map_or(without.to_string(), decimal));
    }
    table(out, &cells);
    let Some(retry) = retry else {
        let why = match (&cluster.retry, mode, around.roles.decide) {
            (None, _, _) => "The retry section is off, so the route's own policy rules.",
            (_, Mode::Shadow, _) => "In shadow mode Weir changes nothing.",
            _ => "Without decide, Weir changes nothing.",
        };
        paragraph(out, 0, why);
        return;
    };
    if client > 0 {
        paragraph(
            out,
            2,
            "* One and the same failure each time. What was retried here, or denied by the budget, carries x-envoy-ratelimited, \
             and no Envoy retries that; what was not retried here, it may.",
        );
    }
    tell_outage(out, retry, around);
    if let Some(breaker) = &cluster.circuit_breaker {
        tell_breaker(out, breaker, retry);
    }
    tell_route(out, retry, around);
}

fn bound(retry: &RetryPolicy, client: u64) -> Bound {
    let here = 1 + u64::from(retry.max_retries);
    Bound { single: here * (1 + client), heeding: here.max(1 + client) }
}

/// Attempts for each request of a client while everything fails.
fn outage(retry: Option<&RetryPolicy>, rate: u32, around: &Around) -> Option<f64> {
    let retry = retry?;
    let most = f64::from(retry.max_retries);
    let tries = 1.0 + f64::from(around.client);
    // The client's retries are requests here.
    let arriving = rate.saturating_mul(around.client.saturating_add(1));
    let retries = match &retry.budget {
        Some(budget) => most.min(retries_per_second(budget, arriving) / f64::from(arriving)),
        None => most,
    };
    Some(tries * (1.0 + retries))
}

fn tell_outage(out: &mut String, retry: &RetryPolicy, around: &Around) {
    let Some(budget) = retry.budget else {
        paragraph(out, 0, "Without a budget, an outage multiplies each request by 1 + maxRetries.");
        return;
    };
    paragraph(
        out,
        0,
        &format!(
            "In an outage, each second has at most {} of its requests as retries, or {} in {} where that is more, for each \
             Envoy; requests under way when it began may spend besides what the last {} saved.{}",
            percent(budget.percent),
            budget.min_retry_rate.count,
            time(budget.min_retry_rate.interval),
            time(budget.interval),
            if around.roles.guard {
                ""
            } else {
                " Without guard, retries are given out when requests arrive, and each worker rounds its part of the floor \
                 up: one retry more for each further worker."
            }
        ),
    );
}

fn tell_breaker(out: &mut String, breaker: &BreakerPolicy, retry: &RetryPolicy) {
    paragraph(
        out,
        0,
        &format!(
            "Where hosts refuse, reset or hang, and not where they answer with errors, the circuit breaker ends that after one \
             to two seconds at {} attempts a second or more: then one request at a time goes on, of at most {}, \
             {} after the one before or sooner if that fails at once.",
            decimal((10.0 * f64::from(breaker.min_requests) / breaker.interval.as_secs_f64()).ceil()),
            count(1 + u64::from(retry.max_retries), "attempt"),
            time(breaker.open_time)
        ),
    );
}

/// What the route's policy adds: conditions, not attempts.
fn tell_route(out: &mut String, retry: &RetryPolicy, around: &Around) {
    if around.route == 0 {
        return;
    }
    if around.replaced {
        paragraph(
            out,
            0,
            "The route's own policy has no effect with Weir: the cluster has a retry policy of its own, which takes its place \
             (Envoy 1.37 and newer).",
        );
        return;
    }
    let number = if retry.max_retries == 0 {
        "maxRetries 0 switches the route's own policy off.".to_owned()
    } else {
        format!(
            "The route's own policy adds its conditions to Weir's (Envoy joins them by OR), not its number: there are at most \
             {} retries.",
            retry.max_retries
        )
    };
    let what = if retry.max_retries == 0 {
        ""
    } else if around.roles.guard && around.roles.watch {
        " guard stops what contradicts the safety table, except on HTTP/2 streams that the upstream reset."
    } else if around.roles.guard {
        " Without watch, guard cannot tell a reset from a refusal: a POST that was reset is sent again if the route says so."
    } else {
        " Without guard, a POST that was perhaps processed is sent again if the route says so: take retry_on out of it."
    };
    paragraph(out, 0, &[number.as_str(), what].concat());
}
