//! What the engine may ask of its caller: Envoy, an access log that is replayed, a simulation, or a test.
//!
//! The engine asks late, and only for what a decision depends on, since each answer costs a real proxy a microsecond or
//! so. Apart from the records that workers share it changes nothing: all else that is to be done, it returns.

use std::ops::Deref;

use crate::base::time::Time;

/// Identifies a request that `decide` sees, or an attempt that `guard` sees, for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// The outside world. Nothing here can fail but by absence: what cannot be known is left alone.
pub trait Host {
    /// Bytes that the host returns.
    type Bytes: Deref<Target = [u8]>;

    /// The host's wall clock as it is; it can step back. All workers on a machine read the same one.
    fn now(&self) -> Option<Time>;

    /// A property of the current stream.
    fn property(&self, property: Property) -> Option<Self::Bytes>;

    /// A property of another stream.
    ///
    /// # Errors
    /// [`Stranded`] if the host cannot come back to the current stream: then nothing may be done in this callback.
    fn property_of(&self, stream: StreamId, property: Property) -> Result<Option<Self::Bytes>, Stranded>;

    /// The first value of a header of the current stream. The engine asks for the maps of the current callback only.
    fn header(&self, map: HeaderMap, name: &str) -> Option<Self::Bytes>;

    /// Visits the name and value of each request header whose name has one of the `lengths`, and of others if that is easier.
    fn each_header(&self, lengths: Lengths, visit: &mut dyn FnMut(&[u8], &[u8]));

    /// Reads a record, lets `change` say what to put in its place, and writes that if no other worker wrote meanwhile.
    /// Otherwise it reads the record again, and calls `change` again.
    fn update(&self, key: &Key<'_>, change: &mut Change<'_>) -> Update;

    /// Writes a record, whatever is there.
    fn put(&self, key: &Key<'_>, value: &[u8]);

    /// A property that is an integer: eight bytes, little-endian.
    fn number(&self, property: Property) -> Option<u64> {
        self.property(property).and_then(|bytes| bytes.first_chunk().copied()).map(u64::from_le_bytes)
    }
}

/// Says what to put in the place of a record, which is `None` if there is none; `None` leaves it as it is.
pub type Change<'c> = dyn FnMut(Option<&[u8]>) -> Option<Vec<u8>> + 'c;

/// The host could not come back to the current stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stranded;

/// What the engine asks about a stream, named after Envoy's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Property {
    /// `xds.cluster_name`: the cluster of the route, if there is such a cluster.
    Cluster,
    /// `xds.route_name`: the name of the route, empty where it has none.
    RouteName,
    /// `upstream.request_attempt_count`: which attempt this is, or how many the request had; an integer.
    AttemptCount,
    /// `response.flags`: an integer.
    Flags,
    /// `response.code`: an integer.
    Code,
    /// `response.code_details`.
    Details,
    /// `upstream.address`: the host's address and port.
    UpstreamAddress,
    /// `destination.address`: where the client's connection goes to, as the listener knows it.
    Destination,
    /// `upstream.local_address`: this end of the connection to the host.
    LocalAddress,
    /// `upstream.transport_failure_reason`.
    FailureReason,
    /// `request.duration`: nanoseconds.
    Duration,
    /// `response.backend_latency`: nanoseconds from the first byte of the request sent until the last byte of the response received.
    BackendLatency,
    /// `xds.listener_direction`: known to Envoy 1.37 or later, for what came through a listener.
    ListenerDirection,
    /// The request's [tag](crate::engine::decision::Edits::tag), eight bytes: the first four are its [`StreamId`], little-endian; the
    /// others say whether it is [quiet](crate::engine::decision::Edits::quiet).
    Request,
}

/// One of a stream's header maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeaderMap {
    /// The request's headers.
    Request,
    /// The response's headers.
    Response,
    /// The response's trailers.
    ResponseTrailers,
}

/// A record that workers share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Record {
    /// The retry budget of a cluster.
    Budget,
    /// The circuit of a cluster.
    Circuit,
    /// Which hosts of a cluster are ejected.
    Ejections,
    /// Which hosts a cluster has, for workers that just started.
    Hosts,
    /// What happened to a cluster's hosts.
    Incidents,
    /// How many workers there were so far; of no cluster.
    Workers,
}

/// Where a record is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key<'a> {
    /// What it holds.
    pub record: Record,
    /// The cluster's name; empty where it is of none.
    pub cluster: &'a str,
    /// Whether the worker is in shadow mode: what is decided there has records of its own.
    pub shadow: bool,
}

/// What became of a [`Host::update`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// The record is as the change wanted it.
    Done,
    /// The record could not be read: the change was not asked, or not for the last time.
    Unread,
    /// What the change wanted could not be written.
    Unwritten,
}

/// A set of lengths of headers' names: most headers are passed over at the cost of a comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths(u64);

impl Lengths {
    /// No length.
    pub const NONE: Self = Self(0);

    /// This set and another length. From 63 on, all lengths are one.
    #[must_use]
    pub const fn and(self, length: usize) -> Self {
        Self(self.0 | 1 << if length < 63 { length } else { 63 })
    }

    /// Whether a length is in the set.
    #[must_use]
    pub const fn has(self, length: usize) -> bool {
        self.0 >> (if length < 63 { length } else { 63 }) & 1 == 1
    }
}
