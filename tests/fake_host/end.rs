//! How a request or an attempt ended, as its access-log phase shows it.

use super::headers::Headers;
use super::state::{Context, Value};
use super::stream::Stream;
use std::time::Duration;

/// Envoy's response flags.
pub mod flag {
    pub const UH: u64 = 1 << 1;
    pub const UT: u64 = 1 << 2;
    pub const LR: u64 = 1 << 3;
    pub const UR: u64 = 1 << 4;
    pub const UF: u64 = 1 << 5;
    pub const UC: u64 = 1 << 6;
    pub const UO: u64 = 1 << 7;
    pub const NR: u64 = 1 << 8;
    pub const DC: u64 = 1 << 14;
    pub const URX: u64 = 1 << 15;
    pub const SI: u64 = 1 << 16;
    pub const UMSDR: u64 = 1 << 19;
    pub const UPE: u64 = 1 << 23;
    pub const NC: u64 = 1 << 24;
    pub const DR: u64 = 1 << 28;
}

/// The end of a request (for [`Stream::log`]) or of an attempt (for [`super::Host::attempt_log`]).
#[derive(Clone, Debug, Default)]
pub struct End {
    properties: Vec<(String, Value)>,
    request_headers: Option<Headers>,
    response_headers: Option<Headers>,
    response_trailers: Option<Headers>,
}

impl End {
    /// No answer, no flags.
    pub fn new() -> Self {
        Self::default().property("response.flags", 0)
    }

    /// The end of an attempt of `stream`: its request headers and cluster, no answer, no flags.
    pub fn of_attempt(stream: &Stream, number: u32) -> Self {
        let mut headers = stream.headers_towards_upstream();
        headers.set("x-envoy-attempt-count", number.to_string());
        let mut end = Self { request_headers: Some(headers), ..Self::new() };
        if let Some(cluster) = stream.property("xds.cluster_name") {
            end = end.property("xds.cluster_name", &cluster[..]);
        }
        end
    }

    /// Response flags, see [`flag`].
    pub fn flags(self, flags: u64) -> Self {
        self.property("response.flags", flags)
    }

    /// The answer's status, and with it response headers.
    pub fn code(mut self, code: u32) -> Self {
        self.response_headers.get_or_insert_default().set(":status", code.to_string());
        self.property("response.code", u64::from(code))
    }

    /// `response.code_details`, which only the end of a request has.
    pub fn details(self, details: &str) -> Self {
        self.property("response.code_details", details)
    }

    /// `upstream.transport_failure_reason`.
    pub fn failure_reason(self, reason: &str) -> Self {
        self.property("upstream.transport_failure_reason", reason)
    }

    /// How long it took.
    pub fn duration(self, duration: Duration) -> Self {
        self.property("request.duration", duration)
    }

    /// The upstream host, as `ip:port`.
    pub fn host(self, address: &str) -> Self {
        self.property("upstream.address", address)
    }

    /// The cluster.
    pub fn cluster(self, name: &str) -> Self {
        self.property("xds.cluster_name", name)
    }

    /// Any property.
    pub fn property(mut self, path: &str, value: impl Into<Value>) -> Self {
        let value = value.into();
        self.properties.retain(|(known, _)| known != path);
        self.properties.push((path.to_owned(), value));
        self
    }

    /// A request header, where this is an attempt's end.
    pub fn request_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.request_headers.get_or_insert_default().set(name, value);
        self
    }

    /// A response header.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.response_headers.get_or_insert_default().add(name, value);
        self
    }

    /// A response trailer.
    pub fn trailer(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.response_trailers.get_or_insert_default().add(name, value);
        self
    }

    /// Makes a context show it.
    pub fn apply(&self, context: &mut Context) {
        for (path, value) in &self.properties {
            context.properties.insert(path.clone(), value.0.clone());
        }
        if self.request_headers.is_some() {
            context.request_headers.clone_from(&self.request_headers);
        }
        if self.response_headers.is_some() {
            context.response_headers.clone_from(&self.response_headers);
        }
        context.response_trailers.clone_from(&self.response_trailers);
    }
}
