//! What the host knows: contexts, headers, properties, metrics, shared data, the clock.

use super::faults::{Faults, HostCall};
use super::headers::Headers;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// Runs with the thread's state. Never calls into the module meanwhile: it calls back.
pub fn with<R>(run: impl FnOnce(&mut State) -> R) -> R {
    STATE.with_borrow_mut(run)
}

/// The module's function that gives out memory.
pub type Allocate = extern "C" fn(usize) -> *mut u8;

#[derive(Default)]
pub struct State {
    pub now: u64,
    pub contexts: BTreeMap<u32, Context>,
    pub current: Option<Current>,
    pub logs: Vec<LogLine>,
    pub tick_periods: BTreeMap<u32, u32>,
    pub metrics: BTreeMap<String, Metric>,
    pub metric_ids: BTreeMap<u32, String>,
    pub shared: BTreeMap<Vec<u8>, Shared>,
    /// What `set_property` wrote, by request: the request's filters and attempts share it, its access logs do not all.
    pub filter_state: BTreeMap<(u32, String), Vec<u8>>,
    pub calls: BTreeMap<HostCall, u64>,
    pub faults: Faults,
    pub violations: Vec<String>,
    /// Set by the first [`super::Host`]: what never drives the module needs none of its exports to link.
    pub allocate: Option<Allocate>,
    hosts: u64,
    last_id: u32,
    last_cas: u32,
}

/// The callback that the module is in.
#[derive(Clone, Copy, Debug)]
pub struct Current {
    pub context: u32,
    pub phase: Phase,
}

/// Which callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    Create,
    Configure,
    Tick,
    RequestHeaders,
    ResponseHeaders,
    Log,
    Delete,
}

/// A header map, by its number in the ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    Request,
    Response,
    ResponseTrailers,
    Other(u32),
}

impl From<u32> for Map {
    fn from(number: u32) -> Self {
        match number {
            0 => Self::Request,
            2 => Self::Response,
            3 => Self::ResponseTrailers,
            other => Self::Other(other),
        }
    }
}

/// A line that the module logged. Level 2 is info, 3 warn, 4 error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub level: u32,
    pub text: String,
}

#[derive(Clone, Debug, Default)]
pub struct Metric {
    pub kind: u32,
    pub value: u64,
}

#[derive(Clone, Debug)]
pub struct Shared {
    pub value: Vec<u8>,
    pub cas: u32,
}

/// A header that the module changed: `None` for removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    pub map: Map,
    pub name: String,
    pub value: Option<String>,
}

/// A reply that the module sent by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalReply {
    pub status: u32,
    pub details: String,
    pub body: String,
    pub headers: Headers,
    pub grpc_status: i32,
}

/// A property's value as Envoy encodes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value(pub Vec<u8>);

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self(value.to_le_bytes().to_vec())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self(vec![u8::from(value)])
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self(value.into())
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self(value.into())
    }
}

impl From<Duration> for Value {
    fn from(value: Duration) -> Self {
        Self((value.as_nanos() as i64).to_le_bytes().to_vec())
    }
}

#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Its root; itself for a root.
    pub root: u32,
    /// Whose filter state it shares.
    pub request: u32,
    pub configuration: Vec<u8>,
    pub properties: BTreeMap<String, Vec<u8>>,
    pub request_headers: Option<Headers>,
    pub response_headers: Option<Headers>,
    pub response_trailers: Option<Headers>,
    /// Attached behind the router: an upstream HTTP filter, or an attempt's access log.
    pub upstream: bool,
    /// The request headers stay readable if the module has stopped the iteration.
    pub request_paused: bool,
    pub edits: Vec<Edit>,
    pub replies: Vec<LocalReply>,
}

impl Context {
    pub fn root(id: u32, configuration: &[u8]) -> Self {
        Self { root: id, request: id, configuration: configuration.to_vec(), upstream: true, ..Self::default() }
    }

    pub fn stream(root: u32, request: u32) -> Self {
        Self { root, request, ..Self::default() }
    }

    /// Ends the log phase that a root context lent itself to.
    pub fn forget_stream(&mut self) {
        *self = Self::root(self.root, &std::mem::take(&mut self.configuration));
    }

    fn map(&mut self, map: Map) -> &mut Option<Headers> {
        match map {
            Map::Request => &mut self.request_headers,
            Map::Response => &mut self.response_headers,
            Map::ResponseTrailers | Map::Other(_) => &mut self.response_trailers,
        }
    }

    /// Mirrored requests are the ones for which Envoy crashes on some properties.
    pub fn is_mirrored(&self) -> bool {
        let authority = self.request_headers.as_ref().and_then(|headers| headers.text(":authority"));
        self.upstream && authority.is_some_and(|authority| authority.ends_with("-shadow"))
    }
}

impl State {
    /// Prepares for a new host.
    pub fn begin(&mut self, allocate: Allocate) {
        // A day in 2026; each host an hour later, when what an earlier one left in the module is long past.
        self.hosts += 1;
        self.now = 1_790_000_000_000_000_000 + self.hosts * 3_600_000_000_000;
        self.allocate = Some(allocate);
        self.faults = Faults::default();
        self.logs.clear();
        self.calls.clear();
        self.violations.clear();
        self.contexts.clear();
        self.filter_state.clear();
        self.current = None;
    }

    pub fn next_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    pub fn context(&mut self, id: u32) -> &mut Context {
        self.contexts.entry(id).or_default()
    }

    /// A stream's context goes, and with a request what `set_property` wrote there.
    pub fn forget(&mut self, id: u32) {
        self.contexts.remove(&id);
        let written: Vec<_> = self
            .filter_state
            .range((id, String::new())..)
            .map(|(key, _)| key.clone())
            .take_while(|key| key.0 == id)
            .collect();
        written.iter().for_each(|key| drop(self.filter_state.remove(key)));
    }

    pub fn set_shared(&mut self, key: &[u8], value: &[u8]) {
        self.last_cas += 1;
        self.shared.insert(key.to_vec(), Shared { value: value.to_vec(), cas: self.last_cas });
    }

    /// The header map that the current callback may read (or write): Envoy lends a map for its own callback only, all of
    /// them for reading in the log phase, and the request's for longer if the module has stopped the iteration.
    pub fn headers(&mut self, map: Map, write: bool) -> Option<&mut Headers> {
        let Current { context, phase } = self.current?;
        let context = self.contexts.get_mut(&context)?;
        let lent = match (map, phase) {
            (Map::Other(_), _) => false,
            (Map::Request, Phase::RequestHeaders) | (Map::Response, Phase::ResponseHeaders) => true,
            (Map::Request, Phase::ResponseHeaders) => context.request_paused,
            (_, Phase::Log) => !write,
            _ => false,
        };
        if lent { context.map(map).as_mut() } else { None }
    }

    /// A property of the current context.
    pub fn property(&mut self, path: &str) -> Option<Vec<u8>> {
        let current = self.current?;
        let context = self.contexts.get(&current.context)?;
        if context.is_mirrored() && ["source.address", "source.port", "destination.address"].contains(&path) {
            self.violations.push(format!("{path} of a mirrored request: Envoy crashes"));
        }
        let kept = self.filter_state.get(&(context.request, path.to_owned()));
        kept.or_else(|| context.properties.get(path)).cloned()
    }
}
