//! Which requests may be retried, after which failures: the safety table, and the request headers that state it for
//! Envoy.
//!
//! | | Refused, Unreachable | Reset, Timeout | status in `statusCodes` | Pushback, Truncated |
//! |---|---|---|---|---|
//! | idempotent method (RFC 9110), or an idempotency key | retry | retry | retry | no |
//! | any other | retry | no | no | no |
//!
//! One exception: after a Pushback, `guard` may let Envoy ask another host (`engine/attempt_response.rs`).
//!
//! Envoy does the retrying, on its own buffers and back-off: a [`Plan`] becomes request headers that Envoy's router obeys.
//! Headers are the one way that every attach point has; the router adds a route's own policy to them, and
//! `x-envoy-max-retries` is the only header that overrides it.

pub mod budget;
pub mod latency;
pub mod outage;
pub mod reason;
pub mod reservations;

use crate::base::text::list;
use crate::base::time::millis;
use crate::config::{AlreadyRetried, PerTryTimeout, RetryPolicy};
use crate::signal::{Answer, Signal};

/// What retries depend on in a request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Whether it may be repeated after it was perhaps processed: its method [is idempotent](RetryPolicy::is_idempotent), or it
    /// bears one of the policy's `idempotencyKeyHeaders`.
    pub repeatable: bool,
    /// Whether its content is gRPC.
    pub grpc: bool,
    /// `x-envoy-attempt-count`: 2 or more when it arrives as a retry of another hop; 1 when absent.
    pub attempt: u32,
}

/// The classes of requests in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// An idempotent method, or an idempotency key.
    Idempotent,
    /// May not be repeated once it was perhaps processed.
    Unsafe,
    /// gRPC, which says nothing about idempotency.
    Grpc,
    /// The retry section is off for this cluster.
    Off,
}

impl Class {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Idempotent, Self::Unsafe, Self::Grpc, Self::Off];

    /// The class of a request.
    #[must_use]
    pub const fn of(request: &Request) -> Self {
        match (request.grpc, request.repeatable) {
            (true, _) => Self::Grpc,
            (false, true) => Self::Idempotent,
            (false, false) => Self::Unsafe,
        }
    }

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idempotent => "idempotent",
            Self::Unsafe => "unsafe",
            Self::Grpc => "grpc",
            Self::Off => "off",
        }
    }
}

/// What may be retried in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing, whatever the route's own policy says.
    Nothing,
    /// Only what was not processed.
    Unprocessed,
    /// All that the policy allows.
    Repeatable,
    /// gRPC: what was not processed, and the statuses that the configuration opted in to.
    Grpc,
    /// gRPC with an idempotency key: resets and timeouts as well.
    GrpcRepeatable,
}

impl Plan {
    /// The plan for a request.
    #[must_use]
    pub fn of(policy: &RetryPolicy, request: &Request) -> Self {
        let first = request.attempt < 2;
        if policy.max_retries == 0 || (!first && policy.already_retried == AlreadyRetried::None) {
            return Self::Nothing;
        }
        if !first && policy.already_retried == AlreadyRetried::Unprocessed {
            return Self::Unprocessed;
        }
        match (request.grpc, request.repeatable) {
            (false, false) => Self::Unprocessed,
            (false, true) => Self::Repeatable,
            (true, false) => Self::Grpc,
            (true, true) => Self::GrpcRepeatable,
        }
    }

    /// Whether a request under this plan may be repeated after it was perhaps processed.
    #[must_use]
    pub const fn repeats(self) -> bool {
        matches!(self, Self::Repeatable | Self::GrpcRepeatable)
    }

    /// Whether the safety table lets an attempt that ended so be followed by another.
    #[must_use]
    pub fn permits(self, policy: &RetryPolicy, signal: Signal, answer: &Answer<'_>) -> bool {
        if self == Self::Nothing {
            return false;
        }
        match signal {
            Signal::Refused | Signal::Unreachable => true,
            Signal::Reset | Signal::Timeout => self.repeats(),
            Signal::Error | Signal::Answered => match self {
                Self::Repeatable => answer.status.is_some_and(|status| policy.status_codes.contains(&status)),
                Self::Grpc | Self::GrpcRepeatable => answer
                    .grpc_status
                    .is_some_and(|status| policy.grpc_status_codes.iter().any(|code| code.status() == status)),
                _ => false,
            },
            Signal::Pushback | Signal::Truncated | Signal::Closed => false,
            // Nothing that a retry policy could act upon: Envoy decides.
            Signal::Cancelled | Signal::Local => true,
        }
    }
}

/// A policy's plans as request headers for Envoy's router, made once per policy, without and with a `guard`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryHeaders {
    alone: Headers,
    guarded: Headers,
    /// The headers with a `guard`, where some host pushed back within the last minute.
    busy: Headers,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Headers {
    nothing: Vec<Header>,
    unprocessed: Vec<Header>,
    repeatable: Vec<Header>,
    grpc: Vec<Header>,
    grpc_repeatable: Vec<Header>,
}

/// A header's name and value.
pub type Header = (&'static str, String);

/// Headers by which a client can ask Envoy for retries of its own. From clients that Envoy trusts (internal ones) it obeys
/// them, so they must not outlive the decision. The ones that a [`Plan`] always writes are not among them.
pub const CONTROL_HEADERS: [&str; 4] = [RETRIABLE_STATUS_CODES, RETRY_GRPC_ON, RETRIABLE_HEADER_NAMES, HEDGE];

const RETRY_ON: &str = "x-envoy-retry-on";
/// The largest number of retries; this header overrides a route's own number.
pub const MAX_RETRIES: &str = "x-envoy-max-retries";
const RETRIABLE_STATUS_CODES: &str = "x-envoy-retriable-status-codes";
/// The gRPC statuses for which Envoy retries.
pub const RETRY_GRPC_ON: &str = "x-envoy-retry-grpc-on";
/// Names a response header: Envoy retries a response that has it, whatever the status and the header's value.
pub const RETRIABLE_HEADER_NAMES: &str = "x-envoy-retriable-header-names";
/// The response header that [`RETRIABLE_HEADER_NAMES`] names. `guard` sets it on a response that Envoy is to retry
/// though its status does not say so. The request was not sent on or not processed, or other hosts may take what this
/// one pushed back. `guard` removes it where an upstream sent it.
pub const NOT_SENT: &str = "x-weir-not-sent";
/// How long Envoy lets one attempt take, in milliseconds.
pub const PER_TRY_TIMEOUT: &str = "x-envoy-upstream-rq-per-try-timeout-ms";
/// Whether an attempt goes on after its timeout, beside the next one.
pub const HEDGE: &str = "x-envoy-hedge-on-per-try-timeout";

/// Failures after which the upstream cannot have seen the request. Envoy has one more condition for that, `reset-before-request`,
/// which adds hardly a case and rests on its bookkeeping of what was sent.
const UNPROCESSED: &str = "connect-failure,refused-stream";
/// The statuses for which Envoy has a condition of its own, which saves a header.
const GATEWAY_ERRORS: [u16; 3] = [502, 503, 504];

impl RetryHeaders {
    /// The headers for each plan under a policy.
    #[must_use]
    pub fn new(policy: &RetryPolicy) -> Self {
        Self {
            alone: Headers::new(policy, false, false),
            guarded: Headers::new(policy, true, false),
            busy: Headers::new(policy, true, true),
        }
    }

    /// The headers that state a plan for Envoy's router. `guarded`: there is a `guard`, which alone may mark an answer
    /// as not sent. `busy`: some host pushed back within the last minute, so that `guard` may mark any answer for a
    /// retry at another host.
    #[must_use]
    pub fn of(&self, plan: Plan, guarded: bool, busy: bool) -> &[Header] {
        let headers = match (guarded, busy) {
            (false, _) => &self.alone,
            (true, false) => &self.guarded,
            (true, true) => &self.busy,
        };
        match plan {
            Plan::Nothing => &headers.nothing,
            Plan::Unprocessed => &headers.unprocessed,
            Plan::Repeatable => &headers.repeatable,
            Plan::Grpc => &headers.grpc,
            Plan::GrpcRepeatable => &headers.grpc_repeatable,
        }
    }
}

impl Headers {
    /// `busy`: some host pushes back.
    fn new(policy: &RetryPolicy, guarded: bool, busy: bool) -> Self {
        let (condition, status_codes) = match policy.status_codes.as_slice() {
            [] => ("", None),
            codes if codes == GATEWAY_ERRORS => (",gateway-error", None),
            codes => (",retriable-status-codes", Some(list(&codes.iter().map(u16::to_string).collect::<Vec<_>>()))),
        };
        let status_codes = (RETRIABLE_STATUS_CODES, status_codes);
        let codes = &policy.grpc_status_codes;
        let names = (!codes.is_empty()).then(|| list(&codes.iter().map(|code| code.name()).collect::<Vec<_>>()));
        let grpc_on = (RETRY_GRPC_ON, names);
        let timeout = match policy.per_try_timeout {
            Some(PerTryTimeout::Fixed(timeout)) => Some(millis(timeout).to_string()),
            _ => None,
        };
        let per_try = (PER_TRY_TIMEOUT, timeout);
        let max_retries = (MAX_RETRIES, Some(policy.max_retries.to_string()));
        let with = |conditions: &[&str], by_status: bool, more: &[&(&'static str, Option<String>)]| {
            let stated = &policy.not_processed_headers;
            let names = match !stated.is_empty() || (guarded && (busy || !by_status)) {
                false => None,
                true if guarded => Some(NOT_SENT.to_owned()),
                true => Some(list(stated)),
            };
            let mut retry_on = conditions.concat();
            if names.is_some() {
                retry_on.push_str(",retriable-headers");
            }
            let mut headers = vec![(RETRY_ON, retry_on)];
            for (name, value) in [&max_retries].iter().chain(more).chain(&[&(RETRIABLE_HEADER_NAMES, names)]) {
                headers.extend(value.clone().map(|value| (*name, value)));
            }
            headers
        };
        let by_503 = policy.status_codes.contains(&503);
        Self {
            nothing: vec![(MAX_RETRIES, "0".to_owned())],
            unprocessed: with(&[UNPROCESSED], false, &[]),
            repeatable: with(&[UNPROCESSED, ",reset", condition], by_503, &[&status_codes, &per_try]),
            grpc: with(&[UNPROCESSED], false, &[&grpc_on]),
            grpc_repeatable: with(&[UNPROCESSED, ",reset"], false, &[&grpc_on, &per_try]),
        }
    }
}
