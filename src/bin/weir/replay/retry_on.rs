//! What Envoy's router retries, by the request headers that the engine has it set: Envoy's rules, and none of Weir's.
//!
//! <https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/router_filter#x-envoy-retry-on>

use weir::engine::decision::{Edits, RATE_LIMITED};
use weir::retry;

/// What is retried in one request.
#[derive(Clone, Debug, Default)]
pub struct RetryOn {
    connect_failure: bool,
    refused_stream: bool,
    reset: bool,
    gateway_error: bool,
    retriable_statuses: bool,
    statuses: Vec<u16>,
    grpc: Vec<String>,
    /// A response header that makes any response one to retry.
    header: Option<String>,
    /// How often at most.
    pub most: u32,
    /// Whether it would be more if the budget had more.
    pub denied: bool,
}

/// How an attempt ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broke {
    /// There was no connection.
    Connect,
    /// The stream was refused.
    RefusedStream,
    /// It broke off, or its own timeout passed.
    Other,
}

impl RetryOn {
    /// What the changed headers of a request say, where no route says more.
    pub fn of(edits: &Edits<'_>) -> Self {
        let mut all = Self { denied: edits.denied, ..Self::default() };
        for (name, value) in edits.retry {
            let mut parts = value.split(',');
            match *name {
                "x-envoy-retry-on" => {
                    // Envoy's own number, where there is no other.
                    all.most = 1.max(all.most);
                    parts.for_each(|condition| match condition {
                        "connect-failure" => all.connect_failure = true,
                        "refused-stream" => all.refused_stream = true,
                        "reset" => all.reset = true,
                        "gateway-error" => all.gateway_error = true,
                        "retriable-status-codes" => all.retriable_statuses = true,
                        // These have headers of their own.
                        _ => {}
                    });
                }
                retry::MAX_RETRIES => all.most = value.parse().unwrap_or_default(),
                "x-envoy-retriable-status-codes" => {
                    all.statuses.extend(parts.filter_map(|status| status.parse::<u16>().ok()))
                }
                "x-envoy-retry-grpc-on" => all.grpc.extend(parts.map(str::to_owned)),
                retry::RETRIABLE_HEADER_NAMES => all.header = parts.next().map(str::to_owned),
                _ => {}
            }
        }
        all.most = edits.max_retries.unwrap_or(all.most);
        all
    }

    /// Whether an attempt is retried that ended so.
    pub fn after_break(&self, broke: Broke) -> bool {
        self.reset
            || self.gateway_error
            || match broke {
                Broke::Connect => self.connect_failure,
                Broke::RefusedStream => self.refused_stream,
                Broke::Other => false,
            }
    }

    /// Whether a response is retried: its status, its `grpc-status` if that is in its headers, and the header that `guard` set.
    pub fn after_response(&self, status: u16, grpc_status: Option<u32>, mark: Option<&str>) -> bool {
        if mark == Some(RATE_LIMITED) {
            return false;
        }
        let grpc = grpc_status.and_then(|status| match status {
            1 => Some("cancelled"),
            4 => Some("deadline-exceeded"),
            8 => Some("resource-exhausted"),
            13 => Some("internal"),
            14 => Some("unavailable"),
            _ => None,
        });
        (mark.is_some() && mark == self.header.as_deref())
            || (self.gateway_error && (502..=504).contains(&status))
            || (self.retriable_statuses && self.statuses.contains(&status))
            || grpc.is_some_and(|name| self.grpc.iter().any(|known| known == name))
    }
}
