//! What one callback has learned from its host: each fact is asked for at most once, and only if a decision depends on it.

use std::cell::OnceCell;
use std::time::Duration;

use super::host::{HeaderMap, Host, Property};
use crate::base::time::Time;
use crate::config::RetryPolicy;
use crate::signal::{self, proxy_status};
use crate::signal::{Answer, Flags, RequestEnd, Signal};

/// Which maps of headers the host lends in a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Headers pass, or nothing does: there are no trailers yet, and Envoy refuses to be asked for them.
    Headers,
    /// An access-log entry is written: all maps are there.
    Log,
}

/// An answer that is asked for at most once. (`OnceCell::get_or_init` has a panic for a value that asks for itself, which the
/// module would carry; here such a value is absent.)
struct Memo<T>(OnceCell<T>);

impl<T> Memo<T> {
    const fn new() -> Self {
        Self(OnceCell::new())
    }

    fn get(&self, ask: impl FnOnce() -> T) -> Option<&T> {
        if self.0.get().is_none() {
            _ = self.0.set(ask());
        }
        self.0.get()
    }
}

/// The answers of one callback.
pub(super) struct View<'h, H: Host> {
    pub(super) host: &'h H,
    phase: Phase,
    now: Memo<Option<Time>>,
    flags: Memo<Flags>,
    status: Memo<Option<u16>>,
    details: Memo<Option<H::Bytes>>,
    attempts: Memo<Option<u64>>,
    address: Memo<Option<H::Bytes>>,
    assumed_address: OnceCell<&'h str>,
    duration: Memo<Option<u64>>,
    failure_reason: Memo<Option<H::Bytes>>,
    proxy_status: Memo<Option<H::Bytes>>,
    answer: Memo<Answer<'static>>,
}

impl<'h, H: Host> View<'h, H> {
    /// Nothing was asked yet.
    pub(super) const fn new(host: &'h H, phase: Phase) -> Self {
        Self {
            host,
            phase,
            now: Memo::new(),
            flags: Memo::new(),
            status: Memo::new(),
            details: Memo::new(),
            attempts: Memo::new(),
            address: Memo::new(),
            assumed_address: OnceCell::new(),
            duration: Memo::new(),
            failure_reason: Memo::new(),
            proxy_status: Memo::new(),
            answer: Memo::new(),
        }
    }

    /// The host's wall clock.
    pub(super) fn now(&self) -> Option<Time> {
        *self.now.get(|| self.host.now())?
    }

    /// The stream's response flags.
    pub(super) fn flags(&self) -> Flags {
        self.flags.get(|| Flags(self.host.number(Property::Flags).unwrap_or_default())).copied().unwrap_or_default()
    }

    /// The status of the response; `None` where there is no response.
    pub(super) fn status(&self) -> Option<u16> {
        *self.status.get(|| {
            let code = self.host.number(Property::Code)?;
            u16::try_from(code).ok().filter(|code| *code > 0)
        })?
    }

    /// `response.code_details`; empty when absent.
    pub(super) fn details(&self) -> &[u8] {
        self.details.get(|| self.host.property(Property::Details)).and_then(Option::as_deref).unwrap_or_default()
    }

    /// Which attempt this is, or how many attempts the request had.
    pub(super) fn attempts(&self) -> Option<u64> {
        *self.attempts.get(|| self.host.number(Property::AttemptCount))?
    }

    /// How many retries the request had.
    pub(super) fn retries(&self) -> u32 {
        u32::try_from(self.attempts().unwrap_or_default().saturating_sub(1)).unwrap_or_default()
    }

    /// The address of the host that the stream was sent to, if it is text.
    pub(super) fn address(&self) -> Option<&str> {
        if let Some(address) = self.assumed_address.get() {
            return Some(address);
        }
        let address = self.address.get(|| self.host.property(Property::UpstreamAddress))?;
        std::str::from_utf8(address.as_deref()?).ok()
    }

    /// Takes that address for the host's, instead of asking.
    pub(super) fn assume_address(&self, address: &'h str) {
        _ = self.assumed_address.set(address);
    }

    /// Whether the host's address is [assumed](Self::assume_address).
    pub(super) fn is_address_assumed(&self) -> bool {
        self.assumed_address.get().is_some()
    }

    /// How long the stream lasted, in nanoseconds.
    pub(super) fn duration(&self) -> Option<u64> {
        *self.duration.get(|| self.host.number(Property::Duration))?
    }

    /// Why there was no connection; empty when absent.
    pub(super) fn failure_reason(&self) -> &[u8] {
        let reason = self.failure_reason.get(|| self.host.property(Property::FailureReason));
        reason.and_then(Option::as_deref).unwrap_or_default()
    }

    /// How long the upstream took from the first byte of the request until the last byte of its response.
    pub(super) fn latency(&self) -> Option<Duration> {
        self.host.number(Property::BackendLatency).map(Duration::from_nanos)
    }

    /// The response's `proxy-status` (RFC 9209); empty when absent.
    pub(super) fn proxy_status(&self) -> &[u8] {
        let value = self.proxy_status.get(|| self.response_header("proxy-status"));
        value.and_then(Option::as_deref).unwrap_or_default()
    }

    /// The `proxy-status` of a response that is a server error; empty otherwise.
    pub(super) fn cause(&self) -> &[u8] {
        if self.status() >= Some(500) { self.proxy_status() } else { &[] }
    }

    /// Whether the response is the upstream's, not Envoy's own.
    pub(super) fn is_by_upstream(&self) -> bool {
        self.details() == b"via_upstream"
    }

    /// Whether the proxy that made a response says that its upstream takes no more connections.
    pub(super) fn limit_reached(&self) -> bool {
        proxy_status::signal(self.cause()) == Some(Signal::Pushback)
    }

    /// Whether an error says, by a header of the policy's choice, that the upstream did not process the request.
    #[inline(never)]
    pub(super) fn not_processed(&self, policy: &RetryPolicy) -> bool {
        policy.not_processed_headers.iter().any(|name| self.response_header(name).is_some())
    }

    /// A header of the response.
    pub(super) fn response_header(&self, name: &str) -> Option<H::Bytes> {
        self.host.header(HeaderMap::Response, name)
    }

    /// A trailer of the response, once there are any.
    fn response_trailer(&self, name: &str) -> Option<H::Bytes> {
        match self.phase {
            Phase::Headers => None,
            Phase::Log => self.host.header(HeaderMap::ResponseTrailers, name),
        }
    }

    /// What the response says, without the cause that a sidecar may state. Asks for no more than there can be.
    pub(super) fn answer(&self, grpc: bool) -> Answer<'static> {
        let answer = self.answer.get(|| {
            let status = self.status();
            let grpc_status = if grpc && status.is_some() { self.grpc_status() } else { None };
            let may_push_back = grpc_status.is_some() || (status.is_some() && !went_well(status));
            Answer {
                status,
                grpc_status,
                retry_after: status == Some(503) && self.response_header("retry-after").is_some(),
                overloaded: may_push_back && self.pushed_back(),
                proxy_status: &[],
                stream: false,
            }
        });
        answer.copied().unwrap_or_default()
    }

    /// What the response headers of an attempt say, if they are an error. (Envoy's properties do not have the status yet.)
    pub(super) fn error_answer(&self, end_of_stream: bool) -> Option<Answer<'static>> {
        let status = self.response_header(":status").and_then(|status| parse_u32(&status));
        let status = u16::try_from(status?).ok()?;
        _ = self.status.get(|| Some(status));
        // A gRPC status comes in headers only where there is nothing else.
        let grpc = status == 200
            && end_of_stream
            && self.response_header("content-type").is_some_and(|content_type| is_grpc(&content_type));
        let grpc_status =
            if grpc { self.response_header("grpc-status").and_then(|status| parse_u32(&status)) } else { None };
        if status < 400 && grpc_status.unwrap_or(0) == 0 {
            return None;
        }
        Some(Answer {
            status: Some(status),
            grpc_status,
            retry_after: status == 503 && self.response_header("retry-after").is_some(),
            overloaded: self.pushed_back() || self.limit_reached(),
            proxy_status: &[],
            stream: false,
        })
    }

    /// Whether a response that did not end by itself is a stream's.
    pub(super) fn is_stream(&self) -> bool {
        let lasted = self.duration().map_or(Duration::ZERO, Duration::from_nanos);
        let connect = || self.host.header(HeaderMap::Request, ":method").is_some_and(|method| &*method == b"CONNECT");
        signal::is_stream(self.status(), false, &[], lasted)
            || signal::is_stream(
                self.status(),
                connect(),
                self.response_header("content-type").as_deref().unwrap_or_default(),
                lasted,
            )
    }

    /// The end of a request, with that answer.
    pub(super) fn request_end<'a>(&'a self, answer: Answer<'a>) -> RequestEnd<'a> {
        RequestEnd { flags: self.flags(), answer, details: self.details() }
    }

    /// `grpc-status` of a response that is gRPC, from its trailers or, where it has only these, its headers.
    fn grpc_status(&self) -> Option<u32> {
        let status = self.response_trailer("grpc-status").or_else(|| self.response_header("grpc-status"))?;
        let content_type = self.response_header("content-type")?;
        if is_grpc(&content_type) { parse_u32(&status) } else { None }
    }

    /// Whether the response says not to be repeated, other than by its status.
    fn pushed_back(&self) -> bool {
        const GRPC_PUSHBACK: &str = "grpc-retry-pushback-ms";
        self.response_header("x-envoy-overloaded").is_some()
            || is_grpc_pushback(self.response_header(GRPC_PUSHBACK).as_deref())
            || is_grpc_pushback(self.response_trailer(GRPC_PUSHBACK).as_deref())
    }
}

/// Whether a status says that there was nothing wrong; gRPC has statuses of its own.
pub(super) fn went_well(status: Option<u16>) -> bool {
    matches!(status, Some(200..400))
}

/// Whether a gRPC response asks not to be retried: a pushback that is not a number of milliseconds to wait, as in gRPC's A6.
fn is_grpc_pushback(value: Option<&[u8]>) -> bool {
    value.is_some_and(|value| parse_u32(value).is_none())
}

/// Whether a status says that the upstream failed, or will not.
pub(super) const fn is_failure(status: Option<u16>) -> bool {
    matches!(status, Some(429 | 500 | 502 | 503 | 504))
}

pub(super) fn parse_u32(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

pub(super) fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}
