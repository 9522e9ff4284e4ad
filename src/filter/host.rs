//! Envoy as the engine's host: properties by their paths, headers, and records in shared data.

use super::ContextId;
use super::abi::{self, Bytes, Map, Path, Swap};
use crate::base::time::Time;
use crate::engine::host::{Change, HeaderMap, Host, Key, Lengths, Property, Record, Stranded, StreamId, Update};

/// What `decide` sets for `guard`: which request an attempt belongs to.
pub(super) const REQUEST: Path = Path("weir_request");
/// What Weir did to a request, for access logs: `%FILTER_STATE(wasm.weir.verdict:PLAIN)%`.
pub(super) const VERDICT: Path = Path("weir.verdict");

/// How often a swap is tried. Each conflict means that another worker's swap succeeded, so with any sane number of workers
/// this is never reached.
const TRIES: u32 = 1_000;
/// For shared data that is written whatever is there.
const ANY_VERSION: u32 = 0;

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
            HeaderMap::Request => Map::Request,
            HeaderMap::Response => Map::Response,
            HeaderMap::ResponseTrailers => Map::ResponseTrailers,
        };
        abi::header(map, name)
    }

    fn each_header(&self, lengths: Lengths, visit: &mut dyn FnMut(&[u8], &[u8])) {
        let Some(headers) = abi::headers(Map::Request) else { return };
        headers.with_names_of(lengths).for_each(|(name, value)| visit(name, value));
    }

    fn update(&self, key: &Key<'_>, change: &mut Change<'_>) -> Update {
        update(&name(key), change)
    }

    fn put(&self, key: &Key<'_>, value: &[u8]) {
        abi::swap_shared(&name(key), value, ANY_VERSION);
    }
}

/// Reads shared data, lets `change` say what to put in its place, and swaps that in; again if another worker was faster.
pub(super) fn update(key: &str, change: &mut Change<'_>) -> Update {
    for _ in 0..TRIES {
        let Some(shared) = abi::shared(key) else { return Update::Unread };
        let Some(changed) = change(shared.value.as_deref()) else { return Update::Done };
        match abi::swap_shared(key, &changed, shared.version) {
            Swap::Done => return Update::Done,
            Swap::Conflict => {}
            Swap::Failed => return Update::Unwritten,
        }
    }
    Update::Unwritten
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
