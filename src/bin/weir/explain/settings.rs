//! Which setting decides, of the policy or of Envoy.

use weir::config::{ClusterPolicy, PerTryTimeout, Policy, RetryPolicy};
use weir::retry::Plan;
use weir::retry::reason::Reason;
use weir::signal::Signal;

use crate::check::words::{either, percent, time};

/// Why it was not retried, and what decides that.
pub(super) fn of_reason(reason: Reason, own: &ClusterPolicy) -> (String, Vec<String>) {
    let retry = own.retry.as_ref();
    let of = |setting: fn(&RetryPolicy) -> String| retry.map_or("retry: off".to_owned(), setting);
    let (why, settings) = match reason {
        Reason::Off => ("retries are off for this cluster", vec![of(max_retries)]),
        Reason::AlreadyRetried => {
            ("it arrived as somebody else's retry, who may try again", vec!["retry.alreadyRetried".to_owned()])
        }
        Reason::Method => ("it may have been processed, and its method may not be repeated", vec![method(own)]),
        Reason::Status => ("its status is none of those that are retried", vec![of(statuses)]),
        Reason::Pushback => ("the upstream said not to retry; no setting overrules that", Vec::new()),
        Reason::Begun => ("part of the answer had gone to the client; no setting can take that back", Vec::new()),
        Reason::NoTime => (
            "its time was up: the route's timeout, or another that ends the request",
            vec![of(per_try), "Envoy: timeout of the route".to_owned()],
        ),
        Reason::NoHost => (
            "the cluster had no host to send it to",
            vec!["Envoy: the cluster's endpoints and their health".to_owned()],
        ),
        Reason::Budget => ("it would have been retried, but the budget was empty", vec![of(budget)]),
        Reason::Limit => (
            "Envoy's own limit: so many requests, connections or retries at a time",
            vec![
                "Envoy: circuit_breakers of the cluster (max_retries, max_connections, max_pending_requests)"
                    .to_owned(),
            ],
        ),
        Reason::UsedUp => ("it was retried as often as it may be", vec![of(max_retries)]),
        Reason::Body => (
            "Envoy had not kept its body, which was too long",
            vec!["Envoy: request_body_buffer_limit of the route, or the listener's buffer limit".to_owned()],
        ),
    };
    (why.to_owned(), settings)
}

/// What makes a retry after this signal permitted.
pub(super) fn decides(signal: Signal, plan: Plan, own: &ClusterPolicy) -> String {
    match signal {
        Signal::Refused | Signal::Unreachable => "none else: what was not processed may always be repeated".to_owned(),
        Signal::Error | Signal::Answered => own.retry.as_ref().map_or_else(String::new, statuses),
        _ if plan.repeats() => method(own),
        _ => String::new(),
    }
}

pub(super) fn max_retries(retry: &RetryPolicy) -> String {
    format!("retry.maxRetries: {}", retry.max_retries)
}

pub(super) fn statuses(retry: &RetryPolicy) -> String {
    let codes: Vec<String> = retry.status_codes.iter().map(u16::to_string).collect();
    let grpc = if retry.grpc_status_codes.is_empty() { "; grpcStatusCodes: none" } else { "; grpcStatusCodes" };
    format!("retry.statusCodes: {}{grpc}", if codes.is_empty() { "none".to_owned() } else { codes.join(" ") })
}

pub(super) fn per_try(retry: &RetryPolicy) -> String {
    match retry.per_try_timeout {
        None => "retry.perTryTimeout: off, so that one attempt may take all of the request's time".to_owned(),
        Some(PerTryTimeout::Fixed(timeout)) => format!("retry.perTryTimeout: {}", time(timeout)),
        Some(PerTryTimeout::Adaptive(_)) => "retry.perTryTimeout: adaptive".to_owned(),
    }
}

pub(super) fn budget(retry: &RetryPolicy) -> String {
    match &retry.budget {
        None => "retry.budget: off".to_owned(),
        Some(budget) => format!(
            "retry.budget: {} of the requests of {}; minRetryRate: {} in {}",
            percent(budget.percent),
            time(budget.interval),
            budget.min_retry_rate.count,
            time(budget.min_retry_rate.interval)
        ),
    }
}

pub(super) fn method(own: &ClusterPolicy) -> String {
    own.retry.as_ref().map_or("retry: off".to_owned(), |retry| {
        format!(
            "retry.idempotentMethods: {}; idempotencyKeyHeaders: {}",
            either(&retry.idempotent_methods),
            either(&retry.idempotency_key_headers)
        )
    })
}

pub(super) fn circuit(own: &ClusterPolicy) -> String {
    own.circuit_breaker.as_ref().map_or("circuitBreaker: off".to_owned(), |breaker| {
        format!(
            "circuitBreaker: {} of {} attempts in {}",
            percent(breaker.percent),
            breaker.min_requests,
            time(breaker.interval)
        )
    })
}

/// Which part of the policy a setting is from: `position` says how the request is retried, and what is not for single routes is the
/// cluster's.
pub(super) fn place(policy: &Policy, cluster: &str, position: usize) -> impl Fn(&str) -> String {
    let (of_cluster, entries) = (policy.index_for(cluster), policy.patterns().len());
    move |setting| {
        let by_cluster = setting.starts_with("circuitBreaker") || setting.starts_with("retry.budget");
        let position = if by_cluster { of_cluster } else { position };
        if position < entries { format!(" (by clusters[{position}])") } else { String::new() }
    }
}
