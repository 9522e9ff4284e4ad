//! What one line of an access log says of a request or an attempt, as the engine's signals see it.

use std::time::Duration;

use weir::signal::{Answer, Attempt, Flags, Open, RequestEnd, Signal, Verdict, is_stream};

use super::retry_on::Broke;

/// What one line says.
#[derive(Clone, Debug)]
pub struct Record {
    /// Whether it is an attempt's line, from the router's `upstream_log`; else a request's.
    pub is_attempt: bool,
    /// When it began and ended, in nanoseconds since the Unix epoch.
    pub start: u64,
    pub end: u64,
    /// The host, where there was one.
    pub host: Option<Box<str>>,
    /// The name of the route; empty where it has none, or the line does not say.
    pub route: Box<str>,
    pub method: Box<str>,
    pub grpc: bool,
    pub key: bool,
    pub flags: Flags,
    pub status: Option<u16>,
    pub grpc_status: Option<u32>,
    pub retry_after: bool,
    pub overloaded: bool,
    pub proxy_status: Box<str>,
    pub details: Box<str>,
    pub failure: Box<str>,
    /// Envoy retried it as often as it may: `URX`.
    pub used_up: bool,
    /// Weir's own verdict, if the log has that.
    pub verdict: Box<str>,
    /// How many attempts the request had; 0 if the line does not say.
    pub attempts: u32,
    /// What the lines of one request have in common; 0 if nothing.
    pub id: u64,
    /// The attempt's connection.
    pub connection: Option<u64>,
}

impl Record {
    /// What was answered.
    pub fn answer(&self) -> Answer<'_> {
        Answer {
            status: self.status,
            grpc_status: self.grpc_status,
            retry_after: self.retry_after,
            overloaded: self.overloaded,
            proxy_status: self.proxy_status.as_bytes(),
            stream: self.flags.any(Flags::CUT) && self.is_stream(),
        }
    }

    /// Whether the log tells that it was a stream: it has no types of responses.
    fn is_stream(&self) -> bool {
        let lasted = Duration::from_nanos(self.end.saturating_sub(self.start));
        self.status.is_some() && is_stream(self.status, &*self.method == "CONNECT", &[], lasted)
    }

    /// A request's end.
    pub fn request_end(&self) -> RequestEnd<'_> {
        RequestEnd { flags: self.flags, answer: self.answer(), details: self.details.as_bytes() }
    }

    /// How the last attempt of a request ended; `None` where there was none.
    pub fn last_attempt(&self) -> Option<Signal> {
        self.request_end().last_attempt()
    }

    /// Whether an answer of the upstream reached the client, in whole or in part.
    pub fn is_from_upstream(&self) -> bool {
        let says = |what| self.details.contains(what);
        let plain = self.details.is_empty() && self.flags.is_empty();
        self.status.is_some_and(|status| {
            let told = status < 500 || plain || says("via_upstream") || says("after_response_started");
            told && !says("before_response_started")
        })
    }

    /// How the last attempt of a request broke, if Envoy could have made another: not once its patience is over.
    pub fn broke(&self) -> Option<Broke> {
        let end = self.request_end();
        match end.last_attempt()? {
            Signal::Refused if self.flags.any(Flags::REMOTE_RESET) => Some(Broke::RefusedStream),
            Signal::Refused | Signal::Unreachable => Some(Broke::Connect),
            Signal::Reset => Some(Broke::Other),
            Signal::Timeout => end.attempt_timeout().then_some(Broke::Other),
            _ => None,
        }
    }

    /// Whether only the end of its request tells how an attempt ended.
    pub fn is_unclear(&self) -> bool {
        let attempt = Attempt { flags: self.flags, answer: self.answer(), failure_reason: self.failure.as_bytes() };
        matches!(attempt.classify(), Verdict::Open(Open::Dropped | Open::StreamReset))
    }

    /// Whether its end explains that of attempts: they ended together with it, and not by an answer.
    pub fn explains(&self) -> bool {
        !self.is_attempt && !self.flags.is_empty()
    }
}
