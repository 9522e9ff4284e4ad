//! What the end of an upstream attempt says: classify first, count after.
//!
//! Envoy shows the end of one attempt in two places. The router's `upstream_log` (role `watch`) has each attempt's own
//! flags and status, but neither details nor the reason why Envoy itself dropped an attempt. The request's own end
//! (role `decide`) has both, for the last attempt only. [`Attempt::classify`] reads the first. Where that leaves a
//! question, [`Open::resolve`] answers it from the second. [`RequestEnd::last_attempt`] uses the second alone.

pub mod proxy_status;
mod request_end;

use std::time::Duration;

pub use request_end::RequestEnd;

/// How an upstream attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// The host did not take the request: connection refused, or an HTTP/2 stream refused. Not processed.
    Refused,
    /// No connection for any other reason: connect timeout, TLS, no route to the host. Not processed.
    Unreachable,
    /// The connection or stream broke before response headers. Perhaps processed.
    Reset,
    /// An ordinary response broke off after its headers. Processed.
    Truncated,
    /// No (complete) answer in time. Perhaps processed.
    Timeout,
    /// The upstream answered with a failure of its own.
    Error,
    /// The upstream said, on purpose, not now. Not processed, and not to be retried.
    Pushback,
    /// Any other answer.
    Answered,
    /// The client, or Envoy on its behalf, no longer wanted it. Says nothing about the host.
    Cancelled,
    /// It ended inside this Envoy: no host, no connection allowed, our own reply. Says nothing about the host.
    Local,
    /// A [stream](Answer::stream) that was answered ended otherwise than by its own end: closed by either side, idle, or cut. That
    /// it was answered counts when its headers arrive; what comes of it later says nothing about the host.
    Closed,
}

impl Signal {
    /// All of them, in the order of [`Signal::index`].
    pub const ALL: [Self; 11] = [
        Self::Refused,
        Self::Unreachable,
        Self::Reset,
        Self::Truncated,
        Self::Timeout,
        Self::Error,
        Self::Pushback,
        Self::Answered,
        Self::Cancelled,
        Self::Local,
        Self::Closed,
    ];

    /// Position in [`Signal::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether the host, or the way to it, failed.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        !matches!(self, Self::Pushback | Self::Answered | Self::Cancelled | Self::Local | Self::Closed)
    }

    /// The name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Reset => "reset",
            Self::Truncated => "truncated",
            Self::Timeout => "timeout",
            Self::Error => "error",
            Self::Pushback => "pushback",
            Self::Answered => "answered",
            Self::Cancelled => "cancelled",
            Self::Local => "local",
            Self::Closed => "closed",
        }
    }
}

/// What a response says about the request's fate, from its headers and trailers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answer<'a> {
    /// HTTP status; `None` when there were no response headers.
    pub status: Option<u16>,
    /// `grpc-status`, where the content is gRPC.
    pub grpc_status: Option<u32>,
    /// Whether it bears `retry-after`.
    pub retry_after: bool,
    /// Whether it bears `x-envoy-overloaded`, or a gRPC retry pushback of "do not retry".
    pub overloaded: bool,
    /// `proxy-status` (RFC 9209); empty when absent.
    pub proxy_status: &'a [u8],
    /// Whether it is one that may end at any time: see [`is_stream`].
    pub stream: bool,
}

/// An answered attempt that went on for this long before it broke off is a stream: long polls, logs that are followed,
/// tokens of a language model, calls of gRPC that stream. An ordinary response that breaks off does so soon after it
/// began.
pub const STREAMS_FROM: Duration = Duration::from_secs(1);

/// Whether an answer that did not end by itself is a stream: an upgraded connection (101) or a tunnel (`connect`), events
/// (`text/event-stream`), or whatever `lasted` for long.
#[must_use]
pub fn is_stream(status: Option<u16>, connect: bool, content_type: &[u8], lasted: Duration) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let events = content_type.get(..EVENTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENTS));
    status == Some(101) || connect || events || lasted >= STREAMS_FROM
}

impl Answer<'_> {
    /// Whether it is an error of HTTP or gRPC, whoever caused it.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.status >= Some(400) || self.grpc_status.unwrap_or_default() != 0
    }

    /// What the answer means; `None` when there was none.
    #[must_use]
    pub fn signal(&self) -> Option<Signal> {
        let status = self.status?;
        if self.overloaded || status == 429 || (status == 503 && self.retry_after) {
            return Some(Signal::Pushback);
        }
        if let 500 | 502 | 503 | 504 = status {
            return Some(proxy_status::signal(self.proxy_status).unwrap_or(Signal::Error));
        }
        Some(match self.grpc_status {
            // RESOURCE_EXHAUSTED
            Some(8) => Signal::Pushback,
            // UNKNOWN, INTERNAL, UNAVAILABLE, DATA_LOSS
            Some(2 | 13 | 14 | 15) => proxy_status::signal(self.proxy_status).unwrap_or(Signal::Error),
            _ => Signal::Answered,
        })
    }
}

/// The end of one attempt as the router's `upstream_log` has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attempt<'a> {
    /// The attempt's own flags.
    pub flags: Flags,
    /// What the upstream answered.
    pub answer: Answer<'a>,
    /// `upstream.transport_failure_reason`; empty when absent.
    pub failure_reason: &'a [u8],
}

/// What [`Attempt::classify`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The signal is certain: nothing else can change it.
    Certain(Signal),
    /// The signal depends on how the request ended.
    Open(Open),
}

impl Verdict {
    /// Whether it is an answer, as far as is known.
    #[must_use]
    pub const fn is_answered(self) -> bool {
        matches!(self, Self::Certain(Signal::Answered) | Self::Open(Open::Answered(Signal::Answered)))
    }
}

/// An attempt whose own log entry leaves a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// No flag and no answer: Envoy dropped the attempt. The route's timeout, the client, or a hedge that won?
    Dropped,
    /// No flag and an answer with this signal, as far as headers show. Its body may have been cut short by the route's
    /// timeout, which leaves no mark on the attempt.
    Answered(Signal),
    /// The upstream reset the stream (UR). A refused stream was not processed; any other may have been.
    StreamReset,
}

impl Attempt<'_> {
    /// What the attempt's own log entry says.
    #[must_use]
    pub fn classify(&self) -> Verdict {
        let flags = self.flags;
        let answered = self.answer.signal();
        if flags.is_empty() {
            return Verdict::Open(answered.map_or(Open::Dropped, Open::Answered));
        }
        Verdict::Certain(if flags.client_gone() {
            Signal::Cancelled
        } else if flags.any(Flags::NOT_SENT) {
            Signal::Local
        } else if flags.any(Flags::CONNECTION_FAILURE) {
            connection_failure(self.failure_reason)
        } else if flags.any(Flags::BROKEN) {
            match answered {
                Some(_) if self.answer.stream => Signal::Closed,
                Some(_) => Signal::Truncated,
                None if flags.any(Flags::REMOTE_RESET) => return Verdict::Open(Open::StreamReset),
                None => Signal::Reset,
            }
        } else if flags.any(Flags::LATE) {
            match answered {
                // Only a hedged attempt has a timeout and an answer: it missed its per-try timeout and answered later.
                Some(signal) if flags.any(Flags::TIMEOUT) => signal,
                // It was answered, and then there was nothing to say; or it was cut.
                Some(_) if self.answer.stream || flags.any(Flags::IDLE_TIMEOUT) => Signal::Closed,
                _ => Signal::Timeout,
            }
        } else {
            answered.unwrap_or(Signal::Local)
        })
    }
}

/// Why there was no connection. The reason is Envoy's `transport_failure_reason`, or its response code details.
fn connection_failure(reason: &[u8]) -> Signal {
    if contains(reason, b"onnection refused") || contains(reason, b"onnection_refused") {
        Signal::Refused
    } else if contains(reason, b"failed to bind")
        || contains(reason, b"failed_to_bind")
        || contains(reason, b"local_connection_failure")
    {
        Signal::Local
    } else {
        Signal::Unreachable
    }
}

impl Open {
    /// The signal if the end of the request is not seen, or says nothing. `expired`: the attempt lasted as long as
    /// Envoy had announced to the upstream that it would wait.
    #[must_use]
    pub const fn provisional(self, expired: bool) -> Signal {
        match self {
            Self::Dropped if expired => Signal::Timeout,
            Self::Dropped => Signal::Cancelled,
            Self::Answered(signal) => signal,
            Self::StreamReset => Signal::Reset,
        }
    }

    /// The signal, now that the request's end is known.
    #[must_use]
    pub fn resolve(self, end: &RequestEnd<'_>) -> Signal {
        match self {
            Self::Answered(_) if end.late() && end.was_stream() => Signal::Closed,
            Self::Dropped | Self::Answered(_) if end.late() => Signal::Timeout,
            Self::Dropped => Signal::Cancelled,
            Self::Answered(signal) => signal,
            Self::StreamReset if contains(end.details, b"remote_refused_stream_reset") => Signal::Refused,
            Self::StreamReset => Signal::Reset,
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Envoy's response flags as the attribute `response.flags` has them: one bit each, in the order of Envoy's `CoreResponseFlag`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u64);

impl Flags {
    /// No healthy upstream (UH).
    pub const NO_HEALTHY_UPSTREAM: Self = Self(1 << 1);
    /// Request timeout (UT).
    pub const TIMEOUT: Self = Self(1 << 2);
    /// Local reset (LR).
    pub const LOCAL_RESET: Self = Self(1 << 3);
    /// Remote reset of the stream (UR).
    pub const REMOTE_RESET: Self = Self(1 << 4);
    /// Connection failure (UF).
    pub const CONNECTION_FAILURE: Self = Self(1 << 5);
    /// Connection termination (UC).
    pub const CONNECTION_TERMINATION: Self = Self(1 << 6);
    /// Overflow of a circuit breaker (UO).
    pub const OVERFLOW: Self = Self(1 << 7);
    /// Downstream connection termination (DC).
    pub const DOWNSTREAM_TERMINATION: Self = Self(1 << 14);
    /// Retried as often as it may be (URX).
    pub const RETRIES_USED_UP: Self = Self(1 << 15);
    /// Idle timeout (SI).
    pub const IDLE_TIMEOUT: Self = Self(1 << 16);
    /// Downstream protocol error (DPE).
    pub const DOWNSTREAM_PROTOCOL_ERROR: Self = Self(1 << 18);
    /// The upstream's maximal stream duration reached (UMSDR).
    pub const MAX_DURATION: Self = Self(1 << 19);
    /// Upstream protocol error (UPE).
    pub const UPSTREAM_PROTOCOL_ERROR: Self = Self(1 << 23);
    /// Downstream remote reset (DR).
    pub const DOWNSTREAM_RESET: Self = Self(1 << 28);

    /// The connection or the stream broke.
    pub const BROKEN: Self = Self(
        Self::LOCAL_RESET.0 | Self::REMOTE_RESET.0 | Self::CONNECTION_TERMINATION.0 | Self::UPSTREAM_PROTOCOL_ERROR.0,
    );
    /// It did not end by itself.
    pub const CUT: Self = Self(Self::BROKEN.0 | Self::LATE.0);
    const LATE: Self = Self(Self::TIMEOUT.0 | Self::IDLE_TIMEOUT.0 | Self::MAX_DURATION.0);
    const CLIENT_GONE: Self =
        Self(Self::DOWNSTREAM_TERMINATION.0 | Self::DOWNSTREAM_RESET.0 | Self::DOWNSTREAM_PROTOCOL_ERROR.0);
    const NOT_SENT: Self = Self(Self::OVERFLOW.0 | Self::NO_HEALTHY_UPSTREAM.0);

    /// Whether any of `flags` is set.
    #[must_use]
    pub const fn any(self, flags: Self) -> bool {
        self.0 & flags.0 != 0
    }

    /// Whether none is set at all.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the client went away first.
    #[must_use]
    pub const fn client_gone(self) -> bool {
        self.any(Self::CLIENT_GONE)
    }
}
