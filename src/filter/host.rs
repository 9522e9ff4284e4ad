//! Envoy as the engine's host: properties by their paths, headers, and records in shared data. And what the engine decided, carried
//! out in Envoy.

use super::ContextId;
use super::abi::{self, Bytes, LocalReply, MapType, Path};
use crate::base::time::{Time, millis};
use crate::engine::decision::{
    AttemptDecision, Edits, RATE_LIMITED, Reply, ResponseDecision, Then, UNAVAILABLE, Verdict,
};
use crate::engine::host::{Change, HeaderMap, Host, Key, Lengths, Property, Record, Stranded, StreamId, Update};
use crate::retry;

/// What `decide` sets for `guard`: which request an attempt belongs to.
const REQUEST: Path = Path("weir_request");
/// What Weir did to a request, for access logs: `%FILTER_STATE(wasm.weir.verdict:PLAIN)%`.
const VERDICT: Path = Path("weir.verdict");

/// Ends the tag of a request of whose first attempt `guard` need not hear: what a matcher in Envoy's configuration asks for.
const QUIET: u64 = u64::from_le_bytes(*b"\0\0\0\0calm");

/// Envoy, while it calls for a context.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envoy {
    context: ContextId,
}

impl Envoy {
    pub(super) const fn of(context: ContextId) -> Self {
        Self { context }
    }
}

impl Host for Envoy {
    type Bytes = Bytes;

    fn now(&self) -> Option<Time> {
        abi::wall_clock().map(Time::from_nanos)
    }

    fn property(&self, property: Property) -> Option<Bytes> {
        abi::property(path(property))
    }

    fn property_of(&self, stream: StreamId, property: Property) -> Result<Option<Bytes>, Stranded> {
        let value = if abi::act_for(stream.0) { self.property(property) } else { None };
        if abi::act_for(self.context) { Ok(value) } else { Err(Stranded) }
    }

    fn header(&self, map: HeaderMap, name: &str) -> Option<Bytes> {
        let map = match map {
            HeaderMap::Request => MapType::HttpRequestHeaders,
            HeaderMap::Response => MapType::HttpResponseHeaders,
            HeaderMap::ResponseTrailers => MapType::HttpResponseTrailers,
        };
        abi::header(map, name)
    }

    fn each_header(&self, lengths: Lengths, visit: &mut dyn FnMut(&[u8], &[u8])) {
        let Some(headers) = abi::headers(MapType::HttpRequestHeaders) else { return };
        headers.with_names_of(lengths).for_each(|(name, value)| visit(name, value));
    }

    fn update(&self, key: &Key<'_>, change: &mut Change<'_>) -> Update {
        abi::update(&name(key), change)
    }

    fn put(&self, key: &Key<'_>, value: &[u8]) {
        abi::put(&name(key), value);
    }
}

const fn path(property: Property) -> Path {
    Path(match property {
        // The cluster of the route, if there is such a cluster. (Envoy finds nothing under `cluster_name` before a host is
        // chosen.)
        Property::Cluster => "xds\0cluster_name",
        Property::RouteName => "xds\0route_name",
        Property::AttemptCount => "upstream\0request_attempt_count",
        Property::Flags => "response\0flags",
        Property::Code => "response\0code",
        Property::Details => "response\0code_details",
        Property::UpstreamAddress => "upstream\0address",
        Property::Destination => "destination\0address",
        Property::LocalAddress => "upstream\0local_address",
        Property::FailureReason => "upstream\0transport_failure_reason",
        Property::Duration => "request\0duration",
        Property::BackendLatency => "response\0backend_latency",
        Property::ListenerDirection => "xds\0listener_direction",
        Property::Request => return REQUEST,
    })
}

/// Under which key shared data has a record. The number in that of budgets is their format's: while a VM with another version
/// of the module drains, each has records of its own, instead of taking the other's for none.
fn name(key: &Key<'_>) -> String {
    let prefix = match (key.record, key.shadow) {
        (Record::Budget, _) => "weir/budget/2/",
        (Record::Circuit, false) => "weir/circuit/",
        (Record::Circuit, true) => "weir/shadow-circuit/",
        (Record::Ejections, false) => "weir/ejections/",
        (Record::Ejections, true) => "weir/shadow-ejections/",
        (Record::Hosts, false) => "weir/hosts/",
        (Record::Hosts, true) => "weir/shadow-hosts/",
        (Record::Incidents, _) => "weir/incidents/",
        (Record::Workers, _) => "weir/workers",
    };
    [prefix, key.cluster].concat()
}

/// Changes the headers of a request.
pub(super) fn edit_request(stream: StreamId, edits: &Edits<'_>) {
    let set = |name: &str, value: &str| _ = abi::set_header(MapType::HttpRequestHeaders, name, value);
    if let Some(name) = edits.remove_hosts {
        abi::remove_header(MapType::HttpRequestHeaders, name);
    }
    for name in &edits.remove_control {
        abi::remove_header(MapType::HttpRequestHeaders, name);
    }
    for (name, value) in edits.retry {
        set(name, value);
    }
    if let Some(timeout) = edits.per_try_timeout {
        set(retry::PER_TRY_TIMEOUT, &millis(timeout).max(1).to_string());
    }
    if let Some(retries) = edits.max_retries {
        set(retry::MAX_RETRIES, &retries.to_string());
    }
    if let Some((name, hosts)) = &edits.hosts {
        set(name, hosts);
    }
    if let Some(after) = edits.hedge {
        set(retry::PER_TRY_TIMEOUT, &millis(after).to_string());
        set(retry::HEDGE, "true");
    }
    if edits.tag {
        let tag = u64::from(stream.0) | if edits.quiet { QUIET } else { 0 };
        abi::set_property(REQUEST, &tag.to_le_bytes());
    }
}

/// Sends an attempt, or does not. Whether its headers stop here.
pub(super) fn send_attempt(decision: &AttemptDecision<'_>) -> bool {
    if let Some(name) = decision.remove_hosts {
        abi::remove_header(MapType::HttpRequestHeaders, name);
    }
    match decision.then {
        Then::Send => false,
        Then::Pause => true,
        Then::Reply(reply) => self::reply(&reply),
    }
}

/// Changes the headers of a response.
pub(super) fn edit_response(decision: &ResponseDecision) {
    if let Some(name) = decision.remove {
        abi::remove_header(MapType::HttpResponseHeaders, name);
    }
    if let Some(name) = decision.mark {
        abi::set_header(MapType::HttpResponseHeaders, name, "true");
    }
    if let Some((name, value)) = decision.later.map(|later| later.header()) {
        abi::set_header(MapType::HttpResponseHeaders, name, &value);
    }
    if let Some(verdict) = decision.verdict {
        abi::set_property(VERDICT, verdict.name().as_bytes());
    }
}

/// Says something about the current stream in access logs.
pub(super) fn log_verdict(verdict: Verdict) {
    abi::set_property(VERDICT, verdict.name().as_bytes());
}

/// Answers the current stream in place of the upstream. Whether Envoy does.
pub(super) fn reply(reply: &Reply) -> bool {
    let later = reply.later.map(|later| later.header());
    let mut headers = Vec::new();
    if let Some((name, value)) = &later {
        headers.extend([(RATE_LIMITED, "true"), (*name, &**value)]);
    }
    let verdict = reply.verdict.name();
    let sent = abi::send_local_reply(&LocalReply {
        status: 503,
        details: &["weir_", verdict].concat(),
        body: reply.body(),
        headers: &headers,
        grpc_status: UNAVAILABLE as i32,
    });
    if sent {
        abi::set_property(VERDICT, verdict.as_bytes());
    }
    sent
}
