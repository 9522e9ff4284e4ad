//! What the `retry` section says: which requests may be retried, how often, and at what cost.
//!
//! [`super::table`] has names, ranges and defaults.

use std::time::Duration;

use super::settings::Settings;
use crate::retry::budget::BudgetPolicy;
use crate::retry::latency::AdaptiveTimeout;

/// When a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most retries of one request, 0 to 10; 0 retries nothing. Default: 2.
    pub max_retries: u32,
    /// The share of a cluster's requests that may be retries; `None` bounds nothing (`"budget": "off"`).
    pub budget: Option<BudgetPolicy>,
    /// Methods that may be retried although they may have been processed, as in the request (they are case-sensitive).
    /// Default: those that RFC 9110, section 9.2.2, calls idempotent.
    pub idempotent_methods: Vec<String>,
    /// Headers, in lower case, whose presence makes any method idempotent: the upstream recognises a repetition. Default:
    /// `idempotency-key` (draft-ietf-httpapi-idempotency-key-header).
    pub idempotency_key_headers: Vec<String>,
    /// Response headers, in lower case, by whose presence an error says that the upstream did not process the request. Default: none.
    pub not_processed_headers: Vec<String>,
    /// Response statuses that are retried where the method allows it: 400 to 599 without 429, ascending, each once.
    /// Default: 502, 503, 504.
    pub status_codes: Vec<u16>,
    /// gRPC statuses that are retried, each once, in the order of [`GrpcCode`]. Default: none.
    pub grpc_status_codes: Vec<GrpcCode>,
    /// How long one attempt may take; `None` leaves it to the route. Default: `None`.
    pub per_try_timeout: Option<PerTryTimeout>,
    /// What is still retried of a request that arrives as a retry of another hop. Default:
    /// [`AlreadyRetried::Unprocessed`].
    pub already_retried: AlreadyRetried,
}

impl RetryPolicy {
    /// Whether a request of that method may be repeated.
    #[must_use]
    pub fn is_idempotent(&self, method: &[u8]) -> bool {
        self.idempotent_methods.iter().any(|idempotent| idempotent.as_bytes() == method)
    }
}

/// The gRPC statuses that may be retried. They are those that Envoy's `x-envoy-retry-grpc-on` knows, except
/// `resource-exhausted`: a pushback is never retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GrpcCode {
    /// CANCELLED, 1.
    Cancelled,
    /// DEADLINE_EXCEEDED, 4.
    DeadlineExceeded,
    /// INTERNAL, 13.
    Internal,
    /// UNAVAILABLE, 14.
    Unavailable,
}

impl GrpcCode {
    pub(super) const ALL: [Self; 4] = [Self::Cancelled, Self::DeadlineExceeded, Self::Internal, Self::Unavailable];

    /// The status itself, as in `grpc-status`.
    #[must_use]
    pub const fn status(self) -> u32 {
        match self {
            Self::Cancelled => 1,
            Self::DeadlineExceeded => 4,
            Self::Internal => 13,
            Self::Unavailable => 14,
        }
    }

    /// The name, in the configuration and in `x-envoy-retry-grpc-on`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::DeadlineExceeded => "deadline-exceeded",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A limit on how long one attempt may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PerTryTimeout {
    /// Always the same: 1 ms to 1 h.
    Fixed(Duration),
    /// A multiple of what the cluster's attempts take.
    Adaptive(AdaptiveTimeout),
}

/// What is retried here of a request that arrives as a retry (`x-envoy-attempt-count` of 2 or more): with every hop
/// retrying, attempts multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlreadyRetried {
    /// Only what the upstream did not process is retried.
    Unprocessed,
    /// It is retried like any other request.
    Any,
    /// It is never retried.
    None,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Settings::default().retry()
    }
}
