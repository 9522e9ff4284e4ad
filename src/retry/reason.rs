//! Why a failure was not retried: each that leaves has one reason, in the access log and as a metric.

use super::{Plan, Request};
use crate::config::RetryPolicy;
use crate::signal::{Flags, RequestEnd, Signal};

/// Why a failure was not retried, or not once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Retries are off for this cluster: `retry` is, or `maxRetries` is 0.
    Off,
    /// It arrived as a retry of another hop, which may try again (`alreadyRetried`).
    AlreadyRetried,
    /// It may have been processed, and its method may not be repeated.
    Method,
    /// The status is none of those that are retried.
    Status,
    /// The upstream said "not now".
    Pushback,
    /// Part of an answer had gone to the client.
    Begun,
    /// Its time was up: the route's timeout, or another that ends the request.
    NoTime,
    /// There was no host to send it to.
    NoHost,
    /// The retry budget was used up.
    Budget,
    /// Envoy's own limit on retries at a time, or on requests and connections: `circuit_breakers` of the cluster.
    Limit,
    /// It was retried as often as it may be.
    UsedUp,
    /// Envoy had not kept its body: it was longer than `request_body_buffer_limit`.
    Body,
}

impl Reason {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 12] = [
        Self::Off,
        Self::AlreadyRetried,
        Self::Method,
        Self::Status,
        Self::Pushback,
        Self::Begun,
        Self::NoTime,
        Self::NoHost,
        Self::Budget,
        Self::Limit,
        Self::UsedUp,
        Self::Body,
    ];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::AlreadyRetried => "already_retried",
            Self::Method => "method",
            Self::Status => "status",
            Self::Pushback => "pushback",
            Self::Begun => "answer_begun",
            Self::NoTime => "no_time_left",
            Self::NoHost => "no_host",
            Self::Budget => "budget",
            Self::Limit => "limit",
            Self::UsedUp => "retries_used_up",
            Self::Body => "body_not_kept",
        }
    }

    /// The verdict in access logs.
    #[must_use]
    pub const fn verdict(self) -> &'static str {
        match self {
            Self::Budget => "retry_budget_exhausted",
            reason => reason.name(),
        }
    }

    /// Why what failed so was not retried. `None` if it was no failure, or only shadow mode kept it from being retried.
    #[must_use]
    pub fn of(policy: Option<&RetryPolicy>, failed: &Failed<'_>) -> Option<Self> {
        let Failed { end, plan, already_retried, retries, denied, .. } = *failed;
        let Some(signal) = end.last_attempt() else {
            return end.flags.any(Flags::NO_HEALTHY_UPSTREAM).then_some(Self::NoHost);
        };
        if !signal.is_failure() && !matches!(signal, Signal::Local | Signal::Pushback) {
            return None;
        }
        let Some((policy, plan)) = policy.zip(plan).filter(|(policy, _)| policy.max_retries > 0) else {
            return Some(Self::Off);
        };
        Some(match signal {
            _ if retries >= policy.max_retries => Self::UsedUp,
            Signal::Local => Self::Limit,
            Signal::Pushback => Self::Pushback,
            Signal::Truncated => Self::Begun,
            Signal::Timeout if !end.attempt_timeout() => Self::NoTime,
            signal if !plan.permits(policy, signal, &end.answer) => {
                let as_first = |request: &Request| Plan::of(policy, request).permits(policy, signal, &end.answer);
                let repeatable = Request { repeatable: true, grpc: false, attempt: 1 };
                if already_retried {
                    Self::AlreadyRetried
                } else if failed.grpc && matches!(signal, Signal::Error) {
                    Self::Status
                } else if as_first(&repeatable) {
                    Self::Method
                } else {
                    Self::Status
                }
            }
            _ if end.flags.any(Flags::OVERFLOW) => Self::Limit,
            _ if denied => Self::Budget,
            // It would have been.
            _ if failed.shadow => return None,
            _ if end.flags.any(Flags::RETRIES_USED_UP) => Self::UsedUp,
            // What is left is that Envoy could not: it says so in no flag.
            _ if failed.grpc && matches!(signal, Signal::Error) => Self::Begun,
            _ => Self::Body,
        })
    }
}

/// A request that failed.
#[derive(Clone, Copy, Debug)]
pub struct Failed<'a> {
    /// How it ended.
    pub end: &'a RequestEnd<'a>,
    /// The plan of the policy, had the budget paid for all retries; `None` where Weir has no say.
    pub plan: Option<Plan>,
    /// Whether it arrived as a retry of another hop.
    pub already_retried: bool,
    /// Whether its content is gRPC.
    pub grpc: bool,
    /// How often it was retried.
    pub retries: u32,
    /// Whether the budget denied one.
    pub denied: bool,
    /// Whether Envoy was asked for no retry, since the mode is shadow.
    pub shadow: bool,
}
