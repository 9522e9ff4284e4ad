//! A log line as the engine's host: what Envoy would have told of it, in the time of the log.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use weir::base::time::Time;
use weir::config::Policy;
use weir::engine::host::{self, Change, HeaderMap, Host, Key, Lengths, Property, Stranded, StreamId, Update};

use super::record::Record;

/// What a callback sees.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// The line; a timer has none.
    pub line: Option<Rc<Record>>,
    /// The line's cluster.
    pub cluster: Rc<str>,
    /// The request that an attempt belongs to, where that is known.
    pub request: Option<StreamId>,
    /// Which attempt it is, or how many attempts the request had.
    pub attempts: u32,
    /// Whether an answer is to be imagined in the place of what happened.
    pub answered: bool,
}

/// Shared records, by what they hold and their cluster.
type Records = HashMap<(host::Record, Box<str>), Vec<u8>>;

/// The world of a log.
pub struct LogHost {
    now: Cell<u64>,
    shown: RefCell<Shown>,
    /// One worker's, which nobody else writes.
    records: RefCell<Records>,
    /// All headers that hold idempotency keys: a line only says that there is one.
    keys: Vec<String>,
}

impl LogHost {
    /// A world in which nothing happened yet.
    pub fn new(policy: &Policy) -> Self {
        let retries = policy.clusters().iter().filter_map(|cluster| cluster.retry.as_ref());
        let mut keys: Vec<String> = retries.flat_map(|retry| retry.idempotency_key_headers.clone()).collect();
        keys.sort();
        keys.dedup();
        Self { now: Cell::new(0), shown: RefCell::default(), records: RefCell::default(), keys }
    }

    /// Sets the clock, in nanoseconds since the Unix epoch.
    pub fn set_time(&self, nanos: u64) {
        self.now.set(nanos);
    }

    /// What the next callbacks see.
    pub fn show(&self, shown: Shown) {
        self.shown.replace(shown);
    }

    /// The next callback sees an answer in the place of what happened.
    pub fn imagine_answer(&self, answered: bool) {
        self.shown.borrow_mut().answered = answered;
    }

    fn status(&self) -> Option<u16> {
        let shown = self.shown.borrow();
        if shown.answered { Some(200) } else { shown.line.as_ref()?.status }
    }
}

fn number(value: u64) -> Vec<u8> {
    value.to_le_bytes().to_vec()
}

fn present(text: &str) -> Option<Vec<u8>> {
    (!text.is_empty()).then(|| text.as_bytes().to_vec())
}

impl Host for LogHost {
    type Bytes = Vec<u8>;

    fn now(&self) -> Option<Time> {
        Some(Time::from_nanos(self.now.get()))
    }

    fn property(&self, property: Property) -> Option<Vec<u8>> {
        let shown = self.shown.borrow();
        let line = shown.line.as_ref();
        match property {
            Property::Cluster => present(&shown.cluster),
            Property::RouteName => present(&line?.route),
            Property::Request => shown.request.map(|request| request.0.to_le_bytes().to_vec()),
            Property::AttemptCount => Some(number(shown.attempts.into())),
            Property::Code => self.status().map(|status| number(status.into())),
            Property::Flags if shown.answered => Some(number(0)),
            Property::Flags => Some(number(line?.flags.0)),
            Property::Details if shown.answered => present("via_upstream"),
            Property::Details => present(&line?.details),
            Property::UpstreamAddress => present(line?.host.as_deref()?),
            Property::LocalAddress => line?.connection.map(number),
            Property::FailureReason => present(&line?.failure),
            // What the engine takes for the beginning is this long ago.
            Property::Duration => Some(number(self.now.get().saturating_sub(line?.start))),
            // No line has it.
            Property::BackendLatency | Property::ListenerDirection | Property::Destination => None,
        }
    }

    fn property_of(&self, _: StreamId, _: Property) -> Result<Option<Vec<u8>>, Stranded> {
        Ok(None)
    }

    fn header(&self, map: HeaderMap, name: &str) -> Option<Vec<u8>> {
        let shown = self.shown.borrow();
        let line = shown.line.as_ref()?;
        let text = |there: bool, value: &str| there.then(|| value.as_bytes().to_vec());
        match (map, name) {
            (HeaderMap::Request, ":method") => present(&line.method),
            (HeaderMap::Request, "x-request-id") => (line.id > 0).then(|| number(line.id)),
            (HeaderMap::Response, ":status") => self.status().map(|status| status.to_string().into_bytes()),
            (HeaderMap::Response, "content-type") => text(line.grpc, "application/grpc"),
            (HeaderMap::Response, _) if shown.answered => None,
            (HeaderMap::Response, "grpc-status") => line.grpc_status.map(|status| status.to_string().into_bytes()),
            (HeaderMap::Response, "retry-after") => text(line.retry_after, "1"),
            (HeaderMap::Response, "x-envoy-overloaded") => text(line.overloaded, "true"),
            (HeaderMap::Response, "proxy-status") => present(&line.proxy_status),
            _ => None,
        }
    }

    fn each_header(&self, lengths: Lengths, visit: &mut dyn FnMut(&[u8], &[u8])) {
        let shown = self.shown.borrow();
        let Some(line) = &shown.line else { return };
        visit(b":method", line.method.as_bytes());
        if line.grpc {
            visit(b"content-type", b"application/grpc");
        }
        if line.key {
            self.keys.iter().filter(|key| lengths.has(key.len())).for_each(|key| visit(key.as_bytes(), b"1"));
        }
    }

    fn update(&self, key: &Key<'_>, change: &mut Change<'_>) -> Update {
        let (mut records, key) = (self.records.borrow_mut(), (key.record, key.cluster.into()));
        if let Some(changed) = change(records.get(&key).map(Vec::as_slice)) {
            records.insert(key, changed);
        }
        Update::Done
    }

    fn put(&self, key: &Key<'_>, value: &[u8]) {
        self.records.borrow_mut().insert((key.record, key.cluster.into()), value.to_vec());
    }
}
