//! A policy in words.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;
use weir::base::percent::Percent;
use weir::circuit::BreakerPolicy;
use weir::config::{AlreadyRetried, ClusterPolicy, Mode, Pattern, PerTryTimeout, Policy, RetryPolicy, Via};
use weir::outlier::detector::{Detector, OutlierPolicy};
use weir::outlier::host::LENGTH;
use weir::retry::budget::BudgetPolicy;
use weir::retry::{Plan, Request};
use weir::signal::{Answer, Signal};

use super::Roles;
use super::words::{count, either, paragraph, percent, table, time};

/// All of it: what holds everywhere, and where that is overridden.
pub fn policy(out: &mut String, policy: &Policy, roles: Roles, rates: &[u32]) {
    if policy.mode == Mode::Shadow {
        heading(out, "Mode");
        paragraph(
            out,
            0,
            "Shadow: decisions are made and counted, and change nothing. What follows is what they would be.",
        );
    }
    if let Some((everywhere, overrides)) = policy.clusters().split_last() {
        cluster(
            out,
            everywhere,
            if overrides.is_empty() { "" } else { ", where no override matches" },
            roles,
            rates,
            None,
        );
        for (pattern, other) in policy.patterns().iter().zip(overrides) {
            if pattern.route.is_some() && other != everywhere {
                heading(out, &format!("Retries, {}", described(pattern)));
                route(out, other, roles);
            } else {
                cluster(out, other, &format!(", {}", described(pattern)), roles, rates, Some(everywhere));
            }
        }
    }
    heading(out, "Steering");
    match &policy.steering {
        Some(steering) => paragraph(
            out,
            0,
            &format!(
                "While a host is out, requests carry {} in {}; {} of them at most are left to Envoy's balancer. {} reads this \
                 header.",
                if steering.via == Via::OverrideHost { "a list of other hosts" } else { "another host" },
                steering.header,
                percent(steering.explore_percent),
                match steering.via {
                    Via::OverrideHost => "The cluster needs the load balancing policy override_host that",
                    Via::StatefulSession => "Its routes need the filter stateful_session, with the state envelope that",
                }
            ),
        ),
        None => paragraph(out, 0, "Off: hosts are judged, and nobody is led around them."),
    }
}

/// The patterns of the overrides, in their order.
pub fn patterns(raw: &Value) -> Vec<String> {
    let entries = raw.get("clusters").and_then(Value::as_array);
    entries
        .into_iter()
        .flatten()
        .map(|entry| entry.get("match").and_then(Value::as_str).unwrap_or_default().to_owned())
        .collect()
}

/// What an override is for.
pub fn described(pattern: &Pattern) -> String {
    let route =
        pattern.route.as_ref().map_or_else(String::new, |route| format!(", routes that match {:?}", route.as_str()));
    format!("clusters that match {:?}{route}", pattern.cluster.as_str())
}

/// The retries of an override by route: the rest, and the budget, is the cluster's.
fn route(out: &mut String, policy: &ClusterPolicy, roles: Roles) {
    match &policy.retry {
        Some(policy) => retries(out, policy, roles),
        None => paragraph(out, 0, NO_RETRIES),
    }
}

const NO_RETRIES: &str = "Off: Weir has no say in them. The route's own retry policy rules, without a budget.";

fn heading(out: &mut String, text: &str) {
    let _ = writeln!(out, "\n{text}");
}

/// The sections of one cluster's policy; of an override, those that differ from what it overrides.
fn cluster(
    out: &mut String,
    policy: &ClusterPolicy,
    where_: &str,
    roles: Roles,
    rates: &[u32],
    base: Option<&ClusterPolicy>,
) {
    if base == Some(policy) {
        heading(out, &format!("Override{where_}"));
        paragraph(out, 0, "The same as everywhere.");
        return;
    }
    if base.is_none_or(|base| base.retry != policy.retry) {
        heading(out, &format!("Retries{where_}"));
        match &policy.retry {
            Some(policy) => {
                retries(out, policy, roles);
                budget(out, policy, rates);
            }
            None => paragraph(out, 0, NO_RETRIES),
        }
    }
    if base.is_none_or(|base| base.outlier_detection != policy.outlier_detection) {
        heading(out, &format!("Outlier detection{where_}"));
        match &policy.outlier_detection {
            Some(policy) => outliers(out, policy),
            None => paragraph(out, 0, "Off: no host is left out."),
        }
    }
    if base.is_none_or(|base| base.circuit_breaker != policy.circuit_breaker) {
        heading(out, &format!("Circuit breaker{where_}"));
        match &policy.circuit_breaker {
            Some(policy) => breaker(out, policy),
            None => paragraph(out, 0, "Off: requests are sent however much fails."),
        }
    }
}

fn retries(out: &mut String, policy: &RetryPolicy, roles: Roles) {
    if policy.max_retries == 0 {
        paragraph(out, 0, "maxRetries is 0: nothing is retried, not by the route's own policy either.");
        return;
    }
    let often = if policy.max_retries == 1 { "once".to_owned() } else { format!("up to {} times", policy.max_retries) };
    paragraph(out, 0, &format!("A request is retried {often}, after:"));
    retry_table(out, policy);
    if !roles.guard && policy.status_codes.contains(&503) {
        paragraph(out, 0, "Without guard, a 503 with retry-after is no pushback: it is retried as any other 503.");
    }
    if !policy.not_processed_headers.is_empty() {
        let headers = either(&policy.not_processed_headers);
        paragraph(
            out,
            0,
            &format!("An error with {headers} was not processed: any request goes elsewhere, within the budget."),
        );
    }
    let keys = &policy.idempotency_key_headers;
    let key = if keys.is_empty() { String::new() } else { format!(", or with {}", either(keys)) };
    paragraph(out, 2, &format!("* {}{key}", either(&policy.idempotent_methods)));
    match policy.per_try_timeout {
        None => paragraph(
            out,
            2,
            "** No timeout for attempts is set, so only one of the route's own (per_try_timeout) is retried: the route's \
             timeout ends the request.",
        ),
        Some(PerTryTimeout::Fixed(timeout)) => {
            paragraph(
                out,
                2,
                &format!("** An attempt of a request that may be repeated takes at most {}.", time(timeout)),
            );
        }
        Some(PerTryTimeout::Adaptive(adaptive)) => paragraph(
            out,
            2,
            &format!(
                "** An attempt of a request that may be repeated takes at most {} times what {} of the attempts take, and \
                 {} to {}.",
                super::words::decimal(f64::from(adaptive.factor_percent) / 100.0),
                percent(adaptive.quantile),
                time(adaptive.min),
                time(adaptive.max)
            ),
        ),
    }
}

/// Asks the engine, row by row.
fn retry_table(out: &mut String, policy: &RetryPolicy) {
    let request = |repeatable, grpc, attempt| Request { repeatable, grpc, attempt };
    let rows = [
        ("may be repeated *", request(true, false, 1)),
        ("any other", request(false, false, 1)),
        ("gRPC", request(false, true, 1)),
        ("gRPC with a key", request(true, true, 1)),
        ("arrives as a retry", request(true, false, 2)),
    ];
    let statuses: Vec<String> = policy.status_codes.iter().map(u16::to_string).collect();
    let codes: Vec<String> = policy.grpc_status_codes.iter().map(|code| code.name().to_owned()).collect();
    let by_answer = |plan: Plan| {
        let status = |status| Answer { status: Some(status), ..Answer::default() };
        let grpc = |code| Answer { status: Some(200), grpc_status: Some(code), ..Answer::default() };
        let by_status = policy.status_codes.iter().any(|code| plan.permits(policy, Signal::Error, &status(*code)));
        let by_code =
            policy.grpc_status_codes.iter().any(|code| plan.permits(policy, Signal::Error, &grpc(code.status())));
        match (by_status, by_code) {
            (true, _) => statuses.join(" "),
            (_, true) => codes.join(" "),
            _ => "no".to_owned(),
        }
    };
    let head = ["request", "refused", "unreachable", "reset", "timeout **", "status", "pushback", "truncated"];
    let mut cells = vec![head.map(str::to_owned).to_vec()];
    for (name, request) in rows {
        let plan = Plan::of(policy, &request);
        let by = |signal| if plan.permits(policy, signal, &Answer::default()) { "retry" } else { "no" }.to_owned();
        cells.push(vec![
            name.to_owned(),
            by(Signal::Refused),
            by(Signal::Unreachable),
            by(Signal::Reset),
            by(Signal::Timeout),
            by_answer(plan),
            by(Signal::Pushback),
            by(Signal::Truncated),
        ]);
    }
    table(out, &cells);
    if policy.already_retried == AlreadyRetried::Any {
        paragraph(out, 0, "alreadyRetried is \"any\": somebody else's retry is retried as any request.");
    }
}

fn budget(out: &mut String, policy: &RetryPolicy, rates: &[u32]) {
    let Some(budget) = policy.budget else {
        paragraph(out, 0, "There is no budget: any share of the requests may be retries.");
        return;
    };
    let floor = budget.min_retry_rate;
    paragraph(
        out,
        0,
        &format!(
            "Budget, for each cluster and Envoy: over {}, retries are at most {} of the requests, or {} in {} where that is \
             more.",
            time(budget.interval),
            percent(budget.percent),
            floor.count,
            time(floor.interval)
        ),
    );
    let mut cells =
        vec![vec!["requests/s".to_owned(), "retries/s at most".to_owned(), "saved up for a burst".to_owned()]];
    for rate in rates {
        let burst = budget.percent.of(u64::from(*rate).saturating_mul(budget.interval.as_secs().max(1)));
        let per_second = retries_per_second(&budget, *rate).min(f64::from(*rate) * f64::from(policy.max_retries));
        cells.push(vec![
            rate.to_string(),
            super::words::decimal(per_second),
            burst.max(floor.count.into()).to_string(),
        ]);
    }
    table(out, &cells);
}

/// The most retries a second that a budget grants in the long run.
pub fn retries_per_second(budget: &BudgetPolicy, rate: u32) -> f64 {
    let share = f64::from(rate) * f64::from(budget.percent.basis_points()) / 10_000.0;
    share.max(f64::from(budget.min_retry_rate.count) / budget.min_retry_rate.interval.as_secs_f64())
}

fn outliers(out: &mut String, policy: &OutlierPolicy) {
    paragraph(
        out,
        0,
        &format!(
            "A host is out after so many failures among its last {LENGTH} attempts, in {}:",
            time(policy.interval)
        ),
    );
    let detector = |name: &str, detector: Detector| {
        let when = if detector.count > LENGTH {
            "off".to_owned()
        } else if detector.percent == Percent::default() {
            format!("{}, if it fails more than the other hosts", detector.count)
        } else {
            format!("{}, if it fails {} points more than the other hosts", detector.count, percent(detector.percent))
        };
        vec![name.to_owned(), when.replace(" % points", " percentage points")]
    };
    table(
        out,
        &[
            detector("refused, unreachable", policy.refused),
            detector("reset, truncated", policy.reset),
            detector("timeout", policy.timeout),
            detector("error", policy.error),
        ],
    );
    let hosts = if policy.max_ejection_percent == Percent::MAX {
        "all but one of the hosts may be out".to_owned()
    } else if policy.max_ejection_percent == Percent::default() {
        "no host is ever out (maxEjectionPercent 0): it is only told which would be".to_owned()
    } else {
        format!("at most {} of the hosts are out, one in any case", percent(policy.max_ejection_percent))
    };
    paragraph(
        out,
        0,
        &format!(
            "It is out for {}, doubled each time up to {}, and back after {} in a row; {hosts}.",
            time(policy.base_ejection_time),
            time(policy.max_ejection_time),
            count(policy.probe_successes.into(), "answered probe")
        ),
    );
}

fn breaker(out: &mut String, policy: &BreakerPolicy) {
    let rate = f64::from(policy.min_requests) / policy.interval.as_secs_f64();
    paragraph(
        out,
        0,
        &format!(
            "Opens when {} of the latest {} attempts or more were refused, reset, cut off or timed out, within {}, and no \
             host answers. So it never opens below {} attempts a second. While it is open, requests go on one at a time to find \
             out, at most {} after the one before and sooner if that fails at once; all others get 503.",
            percent(policy.percent),
            policy.min_requests,
            time(policy.interval),
            super::words::decimal(rate),
            time(policy.open_time.max(Duration::from_millis(1)))
        ),
    );
}
