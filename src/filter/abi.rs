//! The host: every call that Weir makes to Envoy, and nothing else.
//!
//! The calls are the `proxy-wasm` SDK's, five of them excepted ([`externs`]). The SDK panics on each status that it does not expect,
//! and a panic takes a worker's VM down. So nothing is called here in a way in which Envoy answers with such a status: a header
//! is asked for only while its map is lent ([`lend`]). What a call returns besides is `None` or `false`, and the request goes on
//! as if Weir were not there.
//!
//! A value that the host returns costs a microsecond or so, mostly for calling back into the module to allocate it; an
//! absent one a quarter of that.

mod externs;

use std::cell::Cell;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, LogLevel, Status};

use crate::engine::host::{Change, Lengths, Update};

pub use externs::{Path, property, set_property, wall_clock};
pub use log::Level;
pub use proxy_wasm::types::{Bytes, MapType, MetricType};

/// Envoy's log, for the macros of `log`. The SDK's comes with a hook that writes each panic there: 4 kB of the module, for what
/// does not happen (`tests/module/traps.rs`).
struct EnvoyLog;

impl log::Log for EnvoyLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let level = match record.level() {
            Level::Error => LogLevel::Error,
            Level::Warn => LogLevel::Warn,
            Level::Info => LogLevel::Info,
            Level::Debug => LogLevel::Debug,
            Level::Trace => LogLevel::Trace,
        };
        _ = hostcalls::log(level, &record.args().to_string());
    }

    fn flush(&self) {}
}

/// Leads the macros of `log` to Envoy's.
pub fn start_log() {
    // Natively each thread starts a VM, and all have one log.
    _ = log::set_logger(&EnvoyLog);
    log::set_max_level(log::LevelFilter::Info);
}

/// Writes a line to Envoy's log.
pub fn log(level: Level, message: &str) {
    log::log!(level, "{message}");
}

/// Asks for the timer of the current root context every `period` milliseconds.
pub fn set_tick_period(period: u32) {
    _ = hostcalls::set_tick_period(Duration::from_millis(u64::from(period)));
}

/// The current root context's plugin configuration; `None` when it is empty.
#[must_use]
pub fn plugin_configuration() -> Option<Bytes> {
    hostcalls::get_buffer(BufferType::PluginConfiguration, 0, usize::MAX).ok().flatten()
}

/// Which header maps Envoy lends to a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lent {
    /// None: no headers pass.
    Nothing,
    /// The request's headers.
    Request,
    /// The response's headers.
    Response,
    /// All, for reading only: the stream is over.
    All,
}

thread_local! {
    static LENT: Cell<Lent> = const { Cell::new(Lent::Nothing) };
}

/// Says which maps the callback that begins may use. Of others Envoy says `BadArgument`, on which the SDK panics.
pub fn lend(maps: Lent) {
    LENT.set(maps);
}

fn readable(map: MapType) -> bool {
    writable(map) || LENT.get() == Lent::All
}

fn writable(map: MapType) -> bool {
    matches!(
        (map, LENT.get()),
        (MapType::HttpRequestHeaders, Lent::Request) | (MapType::HttpResponseHeaders, Lent::Response)
    )
}

/// One header's value, the first where there are several. `None` as well where the map is not lent.
#[must_use]
pub fn header(map: MapType, name: &str) -> Option<Bytes> {
    if readable(map) { hostcalls::get_map_value_bytes(map, name).ok().flatten() } else { None }
}

/// All headers at once, in the host's encoding; for several headers this is cheaper than one call for each.
#[must_use]
pub fn headers(map: MapType) -> Option<HeaderPairs> {
    externs::header_pairs(map as u32).map(HeaderPairs)
}

/// Sets a header to one value, whatever it was. Whether it worked. Clears Envoy's route cache on requests.
pub fn set_header(map: MapType, name: &str, value: &str) -> bool {
    writable(map) && hostcalls::set_map_value(map, name, Some(value)).is_ok()
}

/// Removes a header. Whether the host did.
pub fn remove_header(map: MapType, name: &str) -> bool {
    writable(map) && hostcalls::remove_map_value(map, name).is_ok()
}

/// Headers in the ABI's encoding: a count, the lengths of each name and value, then each of them with a NUL behind it.
#[derive(Debug)]
pub struct HeaderPairs(Bytes);

impl HeaderPairs {
    /// Names and values of the headers whose names have certain lengths, in the host's order; ends early where the encoding is
    /// cut short. Most headers are passed over at the cost of a comparison.
    pub fn with_names_of(&self, lengths: Lengths) -> impl Iterator<Item = (&[u8], &[u8])> {
        let bytes: &[u8] = &self.0;
        let (count, sizes) = read_u32(bytes).unwrap_or((0, &[]));
        let (sizes, data) =
            (count as usize).checked_mul(8).and_then(|size| sizes.split_at_checked(size)).unwrap_or_default();
        let mut at = 0_usize;
        sizes
            .chunks_exact(8)
            .map_while(move |sizes| {
                let (name, value) = read_u32(sizes)?;
                let (value, _) = read_u32(value)?;
                let start = at;
                let middle = start.checked_add(name as usize)?;
                let end = middle.checked_add(1)?.checked_add(value as usize)?;
                at = end.checked_add(1)?;
                if !lengths.has(name as usize) {
                    return Some(None);
                }
                // Each has a NUL behind it.
                data.get(end)?;
                Some(Some((data.get(start..middle)?, data.get(middle + 1..end)?)))
            })
            .flatten()
    }
}

fn read_u32(bytes: &[u8]) -> Option<(u32, &[u8])> {
    bytes.split_first_chunk().map(|(chunk, rest)| (u32::from_le_bytes(*chunk), rest))
}

/// A reply of our own, instead of what the upstream would say.
#[derive(Clone, Copy, Debug)]
pub struct LocalReply<'a> {
    /// HTTP status.
    pub status: u16,
    /// `response.code_details`.
    pub details: &'a str,
    /// Body, and the message where the request is gRPC.
    pub body: &'a str,
    /// Further headers.
    pub headers: &'a [(&'a str, &'a str)],
    /// The status where the request is gRPC.
    pub grpc_status: i32,
}

/// Ends the current stream with a reply of our own. Whether it worked.
pub fn send_local_reply(reply: &LocalReply<'_>) -> bool {
    let mut headers = Vec::new();
    headers.extend_from_slice(&(reply.headers.len() as u32).to_le_bytes());
    for (name, value) in reply.headers {
        headers.extend_from_slice(&(name.len() as u32).to_le_bytes());
        headers.extend_from_slice(&(value.len() as u32).to_le_bytes());
    }
    for text in reply.headers.iter().flat_map(|(name, value)| [name, value]) {
        headers.extend_from_slice(text.as_bytes());
        headers.push(0);
    }
    externs::send_local_reply(reply, &headers)
}

/// Makes another context the current one, until the callback is over. Whether there is such a context.
pub fn act_for(context: u32) -> bool {
    hostcalls::set_effective_context(context).is_ok()
}

/// Lets the current stream's request go on, which a callback had stopped.
pub fn resume_request() {
    _ = hostcalls::resume_http_request();
}

/// A metric of the process, shared by all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric(pub u32);

/// Defines a metric, or finds the one of that name.
#[must_use]
pub fn define_metric(kind: MetricType, name: &str) -> Option<Metric> {
    hostcalls::define_metric(kind, name).ok().map(Metric)
}

/// Adds to a metric.
pub fn increment(metric: Metric, by: i64) {
    _ = hostcalls::increment_metric(metric.0, by);
}

/// Sets a gauge.
pub fn record(metric: Metric, value: u64) {
    _ = hostcalls::record_metric(metric.0, value);
}

/// How often a swap is tried. Each conflict means that another worker's swap succeeded, so with any sane number of workers
/// this is never reached.
const TRIES: u32 = 1_000;
/// The version of a key that does not exist. The host compares versions only where the key exists, and counts them up from
/// one.
const ABSENT: u32 = u32::MAX;
/// With this one, shared data is written whatever is there.
const ANY_VERSION: u32 = 0;

/// Reads shared data, lets `change` say what to put in its place, and swaps that in; again if another worker was faster. There is one
/// store for all VMs with the same `vm_id`, which survives their reloads.
pub fn update(key: &str, change: &mut Change<'_>) -> Update {
    for _ in 0..TRIES {
        let Ok((value, version)) = hostcalls::get_shared_data(key) else { return Update::Unread };
        let Some(changed) = change(value.as_deref()) else { return Update::Done };
        let changed = (!changed.is_empty()).then_some(&*changed);
        match hostcalls::set_shared_data(key, changed, Some(version.unwrap_or(ABSENT))) {
            Ok(()) => return Update::Done,
            Err(Status::CasMismatch) => {}
            Err(_) => return Update::Unwritten,
        }
    }
    Update::Unwritten
}

/// Writes shared data, whatever is there.
pub fn put(key: &str, value: &[u8]) {
    _ = hostcalls::set_shared_data(key, Some(value), Some(ANY_VERSION));
}
