//! Envoy's side of the proxy-wasm ABI 0.2.1, in memory: every binary that links the `weir` crate outside Envoy needs it.
//!
//! A test says what Envoy would do ([`Host::start`], [`Host::request`], [`Stream::response`], [`Stream::end_with`],
//! [`Host::attempt_log`]) and reads what the module did: headers, replies, metrics, log lines, shared data. What a real
//! Envoy refuses, this one refuses with the same status: a header read outside of its phase, a property that is not there
//! (yet). What would crash a real Envoy fails the test. [`Host::fault`] makes any call misbehave.
//!
//! All state belongs to the thread, as a VM belongs to a worker: natively each test has a fresh host and a fresh module.
//! In Node all tests share one thread, so nothing here relies on a fresh module: a new [`Host`] keeps counting context
//! ids and keeps the metrics (the module knows their numbers), so tests compare metrics by difference or use a cluster
//! name of their own. When a `Host` goes away it ends what is still open.
//!
//! - `imports`: the functions that the module calls
//! - `exports`: the functions that the module offers
//! - `state`: what the host knows
//! - `headers`: header maps, and their encoding
//! - `faults`: what goes wrong
//! - `stream`, `end`: requests and attempts, from their first callback to their last
#![allow(dead_code, unused_imports, reason = "each test binary uses another part of it")]

mod end;
mod exports;
mod faults;
mod headers;
mod imports;
mod state;
mod stream;

pub use end::{End, flag};
pub use exports::raw;
pub use faults::{Call, Fault, HostCall, Random, status};
pub use headers::{Headers, decode_pairs, encode_pairs, malformed_pairs};
pub use state::{Edit, LocalReply, LogLine, Map, Phase, Value};
pub use stream::{Attempt, Request, Stream};

use state::{Context, with};
use std::collections::BTreeMap;
use std::time::Duration;

// The module's exported functions come from here.
use weir as _;

/// Writes shared data as another worker would; for rules that decide on faults (see [`Host::fault`]), which have no host.
pub fn write_shared(key: &str, value: &[u8]) {
    with(|state| state.set_shared(key.as_bytes(), value));
}

/// One Envoy worker with one VM, driven by a test.
pub struct Host(());

/// A root context: the module attached at one place, with its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root(pub u32);

impl Host {
    /// A host on this thread. The clock stands, at some day in 2026; nothing is attached yet.
    pub fn new() -> Self {
        // In Node, a test that failed has left its contexts open.
        Self::close_all();
        with(|state| state.begin(exports::proxy_on_memory_allocate));
        exports::initialize();
        Self(())
    }

    fn close_all() {
        with(|state| state.faults.rule = None);
        // Streams have higher ids than their roots, and go first.
        let open: Vec<u32> = with(|state| state.contexts.keys().rev().copied().collect());
        for id in open {
            exports::delete(id);
            with(|state| state.contexts.remove(&id));
        }
    }

    /// Attaches the module with a configuration. A plugin whose configuration changes is a new root in the same VM: to update one,
    /// start another, and [`Host::stop`] the old one once it is drained.
    pub fn start(&self, configuration: &str) -> Root {
        let id = with(|state| {
            let id = state.next_id();
            state.contexts.insert(id, Context::root(id, configuration.as_bytes()));
            id
        });
        exports::context_create(id, 0);
        assert!(self.configure(Root(id)), "refused, and Envoy then refuses the listener: {configuration}");
        Root(id)
    }

    /// Configures a root again, as Envoy does when two listeners have the same plugin. Whether the module accepts.
    pub fn configure(&self, root: Root) -> bool {
        let size = with(|state| state.context(root.0).configuration.len());
        exports::configure(root.0, size)
    }

    /// Ends a root context.
    pub fn stop(&self, root: Root) {
        exports::delete(root.0);
        with(|state| state.contexts.remove(&root.0));
    }

    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        with(|state| state.now = state.now.saturating_add(by.as_nanos() as u64));
    }

    /// Sets the clock, in nanoseconds since the Unix epoch; it may step back.
    pub fn set_time(&self, nanos: u64) {
        with(|state| state.now = nanos);
    }

    /// The clock, in nanoseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        with(|state| state.now)
    }

    /// Lets a root's timer fire.
    pub fn tick(&self, root: Root) {
        exports::tick(root.0);
    }

    /// The timer that a root asked for, in milliseconds; `None` if it never asked.
    pub fn tick_period(&self, root: Root) -> Option<u32> {
        with(|state| state.tick_periods.get(&root.0).copied())
    }

    /// What the module has logged since the last call.
    pub fn take_logs(&self) -> Vec<LogLine> {
        with(|state| std::mem::take(&mut state.logs))
    }

    /// A metric's value; zero if there is none of that name.
    pub fn metric(&self, name: &str) -> u64 {
        with(|state| state.metrics.get(name).map_or(0, |metric| metric.value))
    }

    /// All metrics.
    pub fn metrics(&self) -> BTreeMap<String, u64> {
        with(|state| state.metrics.iter().map(|(name, metric)| (name.clone(), metric.value)).collect())
    }

    /// Forgets what was counted, not the metrics' numbers, which the module knows.
    pub fn clear_metrics(&self) {
        with(|state| {
            state.metrics.clear();
            state.metric_ids.clear();
        });
    }

    /// What shared data holds under a key, and the number for compare-and-swap.
    pub fn shared(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        with(|state| state.shared.get(key.as_bytes()).map(|shared| (shared.value.clone(), shared.cas)))
    }

    /// The keys in shared data.
    pub fn shared_keys(&self) -> Vec<String> {
        with(|state| state.shared.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect())
    }

    /// Writes shared data as another worker would.
    pub fn set_shared(&self, key: &str, value: &[u8]) {
        write_shared(key, value);
    }

    /// Forgets shared data, as Envoy does when the last VM of a `vm_id` goes.
    pub fn clear_shared(&self) {
        with(|state| state.shared.clear());
    }

    /// How often the module has called the host, by call.
    pub fn calls(&self) -> BTreeMap<HostCall, u64> {
        with(|state| state.calls.clone())
    }

    /// Asks `rule` at every call of the module whether, and how, it goes wrong; replaces the rule before.
    pub fn fault(&self, rule: impl FnMut(&Call) -> Option<Fault> + 'static) {
        with(|state| state.faults.rule = Some(Box::new(rule)));
    }

    /// No more faults.
    pub fn no_faults(&self) {
        with(|state| state.faults.rule = None);
    }

    /// How many faults there were.
    pub fn faults(&self) -> u64 {
        with(|state| state.faults.count)
    }

    /// Gives a context of any number something to show, for tests that make callbacks by [`raw`].
    pub fn dress(&self, id: u32, root: u32, configuration: &str, end: &End) {
        let mut context = Context::root(root, configuration.as_bytes());
        context.request = id;
        end.apply(&mut context);
        with(|state| state.contexts.insert(id, context));
    }

    /// Ends such a context.
    pub fn delete(&self, id: u32) {
        exports::delete(id);
        with(|state| state.contexts.remove(&id));
    }

    /// How many replies of its own the module has sent in a context, for the same.
    pub fn local_replies(&self, context: u32) -> usize {
        with(|state| state.context(context).replies.len())
    }

    /// A request that reaches the module as an HTTP filter before the router (role `decide`).
    pub fn request(&self, root: Root) -> Request {
        Request::new(root)
    }

    /// An attempt of `of` that reaches the module as an upstream HTTP filter (role `guard`): the first is number 1.
    pub fn attempt(&self, root: Root, of: &Stream, number: u32) -> Attempt {
        Attempt::new(root, of, number)
    }

    /// The end of an attempt, told to the module as an access logger (role `watch`) the way Envoy 1.36 to 1.40 do it:
    /// `proxy_on_log` on the root context itself, no context of its own.
    pub fn attempt_log(&self, root: Root, end: &End) {
        with(|state| end.apply(state.context(root.0)));
        exports::log(root.0);
        with(|state| state.context(root.0).forget_stream());
    }

    /// The same with a context of its own, which the ABI allows as well.
    pub fn attempt_log_apart(&self, root: Root, end: &End) {
        let id = with(|state| {
            let id = state.next_id();
            let mut context = Context::stream(root.0, id);
            context.upstream = true;
            end.apply(&mut context);
            state.contexts.insert(id, context);
            id
        });
        exports::context_create(id, root.0);
        exports::log(id);
        exports::delete(id);
        with(|state| state.contexts.remove(&id));
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        Self::close_all();
        let violations = with(|state| std::mem::take(&mut state.violations));
        assert!(violations.is_empty(), "a real Envoy would have suffered: {violations:#?}");
    }
}
