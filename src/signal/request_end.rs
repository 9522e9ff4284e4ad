//! The end of a request: what it says of its last attempt, and of those that their own log entries leave open.

use super::{Answer, Flags, Signal, connection_failure, contains};

/// The end of a request as its client saw it, from the access-log phase of an HTTP filter.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestEnd<'a> {
    /// The request's flags.
    pub flags: Flags,
    /// What the client got, from wherever.
    pub answer: Answer<'a>,
    /// `response.code_details`; empty when absent.
    pub details: &'a [u8],
}

impl RequestEnd<'_> {
    /// Whether Envoy ran out of patience.
    pub(super) fn late(&self) -> bool {
        self.flags.any(Flags::LATE) || contains(self.details, b"max_duration_timeout")
    }

    /// Whether what the client got, late as it was, came from the upstream: Envoy's own answer is 504, or in gRPC has its status
    /// in the headers, where a stream that goes on has none.
    fn answered_before(&self) -> bool {
        self.answer.status.is_some_and(|status| status != 504) && self.answer.grpc_status.is_none()
    }

    /// Whether what was late had been answered before, and was a stream.
    pub(super) fn was_stream(&self) -> bool {
        self.answer.stream || self.flags.any(Flags::IDLE_TIMEOUT)
    }

    /// Whether the upstream reset the stream before it answered (UR), which ended the request.
    #[must_use]
    pub fn stream_reset(&self) -> bool {
        self.flags.any(Flags::REMOTE_RESET) && contains(self.details, b"upstream_reset_before_response_started")
    }

    /// Whether there was no connection within the connect timeout.
    #[must_use]
    pub fn connect_timeout(&self) -> bool {
        contains(self.details, b"connection_timeout")
    }

    /// Whether it was an attempt's own timeout that passed, after which another attempt may follow.
    #[must_use]
    pub fn attempt_timeout(&self) -> bool {
        contains(self.details, b"per_try_timeout") || contains(self.details, b"per_try_idle_timeout")
    }

    /// How the last attempt ended, where `watch` did not see it; `None` when there was no attempt.
    #[must_use]
    pub fn last_attempt(&self) -> Option<Signal> {
        if self.flags.client_gone() {
            return Some(Signal::Cancelled);
        }
        if contains(self.details, b"upstream_reset_after_response_started") {
            return Some(if self.answer.stream { Signal::Closed } else { Signal::Truncated });
        }
        if contains(self.details, b"upstream_reset_before_response_started") {
            return Some(if contains(self.details, b"overflow") {
                Signal::Local
            } else if contains(self.details, b"connection_failure") || self.connect_timeout() {
                connection_failure(self.details)
            } else if contains(self.details, b"remote_refused_stream_reset") {
                Signal::Refused
            } else {
                Signal::Reset
            });
        }
        if self.late() {
            return Some(if self.answered_before() && self.was_stream() { Signal::Closed } else { Signal::Timeout });
        }
        if self.details.is_empty() || contains(self.details, b"via_upstream") {
            return self.answer.signal();
        }
        // no_healthy_upstream, cluster_not_found, route_not_found, direct_response, another filter's own reply, …
        None
    }
}
