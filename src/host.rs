//! The host: every call that Weir makes to Envoy, and nothing else.
//!
//! The proxy-wasm ABI 0.2.1 is declared here by hand instead of taken from its Rust SDK, for three reasons that matter in
//! every request's path: the SDK panics on a status that it does not expect, and a panic takes a worker's VM down; it
//! exports all callbacks, so that Envoy crosses into Wasm for every chunk of a body; and it keeps a boxed object per
//! context behind two look-ups. What is here cannot panic: a call that fails, for whatever reason, is `None` or `false`.
//!
//! A value that the host returns costs a microsecond or so, mostly for calling back into the module to allocate it; an
//! absent one a quarter of that.
#![allow(unsafe_code, reason = "this module is the boundary: raw pointers in, owned bytes out")]

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::{null, null_mut};

use crate::engine::host::Lengths;

/// The statuses that Weir tells apart; all others are failures alike.
const OK: i32 = 0;
const NOT_FOUND: i32 = 1;
const CAS_MISMATCH: i32 = 8;

// Named, since newer compilers no longer take an undefined symbol for an import.
#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, message: *const u8, size: usize) -> i32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> i32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> i32;
    fn proxy_get_buffer_bytes(buffer: u32, start: usize, max: usize, data: *mut *mut u8, size: *mut usize) -> i32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> i32;
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, size: usize) -> i32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> i32;
    fn proxy_get_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> i32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        size: usize,
    ) -> i32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> i32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> i32;
    fn proxy_set_effective_context(context: u32) -> i32;
    fn proxy_continue_stream(stream: u32) -> i32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> i32;
    fn proxy_increment_metric(id: u32, by: i64) -> i32;
    fn proxy_record_metric(id: u32, value: u64) -> i32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
        cas: *mut u32,
    ) -> i32;
    fn proxy_set_shared_data(key: *const u8, key_size: usize, value: *const u8, size: usize, cas: u32) -> i32;
}

/// Gives the host memory to write a value into; [`Bytes`] owns and frees it afterwards. Null when there is none.
pub(crate) fn allocate(size: usize) -> *mut u8 {
    match Layout::array::<u8>(size) {
        // SAFETY: the layout's size is not zero.
        Ok(layout) if size > 0 => unsafe { alloc(layout) },
        _ => null_mut(),
    }
}

/// Bytes that the host wrote into memory from [`allocate`].
#[derive(Debug)]
pub struct Bytes {
    data: *mut u8,
    size: usize,
}

impl Bytes {
    /// Takes what a call returned; `None` if the host claims bytes but gives no address.
    fn from_host(data: *mut u8, size: usize) -> Option<Self> {
        if data.is_null() && size > 0 { None } else { Some(Self { data, size }) }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.size == 0 {
            return &[];
        }
        // SAFETY: `data` is not null (see `from_host`) and the host wrote `size` bytes there, in memory from `allocate`.
        unsafe { std::slice::from_raw_parts(self.data, self.size) }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        if let (false, Ok(layout)) = (self.data.is_null() || self.size == 0, Layout::array::<u8>(self.size)) {
            // SAFETY: from `allocate` with this very size; owned by this value alone.
            unsafe { dealloc(self.data, layout) }
        }
    }
}

/// Runs a call that returns bytes.
fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> i32) -> Option<Bytes> {
    let (mut data, mut size) = (null_mut(), 0);
    if call(&mut data, &mut size) == OK { Bytes::from_host(data, size) } else { None }
}

/// How urgent a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What an operator reads once.
    Info = 2,
    /// What an operator should look at.
    Warn = 3,
    /// What keeps Weir from working.
    Error = 4,
}

/// Writes a line to Envoy's log.
pub fn log(level: Level, message: &str) {
    // SAFETY: the host reads `len` bytes at the pointer during the call.
    unsafe { proxy_log(level as u32, message.as_ptr(), message.len()) };
}

/// The host's wall clock, in nanoseconds since the Unix epoch; it can step back. `None` if the host has none.
#[must_use]
pub fn wall_clock() -> Option<u64> {
    let mut nanos = 0;
    // SAFETY: the host writes one u64.
    (unsafe { proxy_get_current_time_nanoseconds(&mut nanos) } == OK && nanos > 0).then_some(nanos)
}

/// Asks for `proxy_on_tick` on the current root context every `period` milliseconds.
pub fn set_tick_period(period: u32) {
    // SAFETY: no pointers.
    unsafe { proxy_set_tick_period_milliseconds(period) };
}

/// The current root context's plugin configuration; `None` when it is empty.
#[must_use]
pub fn plugin_configuration() -> Option<Bytes> {
    const PLUGIN_CONFIGURATION: u32 = 7;
    // SAFETY: the host writes an address from `allocate` and a size.
    returned(|data, size| unsafe { proxy_get_buffer_bytes(PLUGIN_CONFIGURATION, 0, usize::MAX, data, size) })
}

/// A property's path, its segments separated by NUL, as the ABI has it: written once, at compile time.
#[derive(Clone, Copy, Debug)]
pub struct Path(pub &'static str);

/// Reads a property of the current context.
#[must_use]
pub fn property(path: Path) -> Option<Bytes> {
    // SAFETY: the host reads the path and writes an address from `allocate` and a size.
    returned(|data, size| unsafe { proxy_get_property(path.0.as_ptr(), path.0.len(), data, size) })
}

/// Sets a property of the current stream; the stream's other filters see it. Whether it worked.
pub fn set_property(path: Path, value: &[u8]) -> bool {
    // SAFETY: the host reads both during the call.
    unsafe { proxy_set_property(path.0.as_ptr(), path.0.len(), value.as_ptr(), value.len()) == OK }
}

/// One of a stream's header maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Map {
    /// The request's headers.
    Request = 0,
    /// The response's headers.
    Response = 2,
    /// The response's trailers.
    ResponseTrailers = 3,
}

/// One header's value, the first where there are several.
#[must_use]
pub fn header(map: Map, name: &str) -> Option<Bytes> {
    // SAFETY: the host reads the name and writes an address from `allocate` and a size.
    returned(|data, size| unsafe { proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, size) })
}

/// All headers at once, in the host's encoding; for several headers this is cheaper than one call for each.
#[must_use]
pub fn headers(map: Map) -> Option<HeaderPairs> {
    // SAFETY: the host writes an address from `allocate` and a size.
    returned(|data, size| unsafe { proxy_get_header_map_pairs(map as u32, data, size) }).map(HeaderPairs)
}

/// Sets a header to one value, whatever it was. Whether it worked. Clears Envoy's route cache on requests.
pub fn set_header(map: Map, name: &str, value: &str) -> bool {
    // SAFETY: the host reads name and value during the call.
    unsafe { proxy_replace_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len()) == OK }
}

/// Removes a header. Whether the host did.
pub fn remove_header(map: Map, name: &str) -> bool {
    // SAFETY: the host reads the name during the call.
    unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) == OK }
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
    // SAFETY: the host reads all of them during the call.
    unsafe {
        proxy_send_local_response(
            u32::from(reply.status),
            reply.details.as_ptr(),
            reply.details.len(),
            reply.body.as_ptr(),
            reply.body.len(),
            headers.as_ptr(),
            headers.len(),
            reply.grpc_status,
        ) == OK
    }
}

/// Makes another context the current one, until the callback is over. Whether there is such a context.
pub fn act_for(context: u32) -> bool {
    // SAFETY: no pointers.
    unsafe { proxy_set_effective_context(context) == OK }
}

/// Lets the current stream's request go on, which a callback had stopped.
pub fn resume_request() {
    const REQUEST: u32 = 0;
    // SAFETY: no pointers.
    unsafe { proxy_continue_stream(REQUEST) };
}

/// What kind of metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only goes up.
    Counter = 0,
    /// Goes up and down.
    Gauge = 1,
}

/// A metric of the process, shared by all workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric(pub u32);

/// Defines a metric, or finds the one of that name.
#[must_use]
pub fn define_metric(kind: MetricKind, name: &str) -> Option<Metric> {
    let mut id = 0;
    // SAFETY: the host reads the name and writes one u32.
    (unsafe { proxy_define_metric(kind as u32, name.as_ptr(), name.len(), &mut id) } == OK).then_some(Metric(id))
}

/// Adds to a metric.
pub fn increment(metric: Metric, by: i64) {
    // SAFETY: no pointers.
    unsafe { proxy_increment_metric(metric.0, by) };
}

/// Sets a gauge.
pub fn record(metric: Metric, value: u64) {
    // SAFETY: no pointers.
    unsafe { proxy_record_metric(metric.0, value) };
}

/// What shared data holds under a key, with the number that a compare-and-swap needs.
#[derive(Debug)]
pub struct Shared {
    /// The value; `None` where there is none yet.
    pub value: Option<Bytes>,
    /// Identifies this state of the key.
    pub version: u32,
}

/// The version of a key that does not exist. The host compares versions only where the key exists, and counts them up from
/// one; zero would overwrite whatever is there.
const ABSENT: u32 = u32::MAX;

/// Reads shared data: one store for all VMs with the same `vm_id`, which survives their reloads. `None` if the host refuses.
#[must_use]
pub fn shared(key: &str) -> Option<Shared> {
    let (mut version, mut status) = (0, OK);
    let value = returned(|data, size| {
        // SAFETY: the host reads the key and writes an address from `allocate`, a size and a u32.
        status = unsafe { proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &mut version) };
        status
    });
    match (value, status) {
        (Some(value), _) => Some(Shared { value: Some(value), version }),
        (None, NOT_FOUND) => Some(Shared { value: None, version: ABSENT }),
        (None, _) => None,
    }
}

/// What became of a write to shared data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swap {
    /// It is written.
    Done,
    /// Another worker was faster.
    Conflict,
    /// The host refuses.
    Failed,
}

/// Writes shared data if it still is as [`shared`] saw it, absent included.
pub fn swap_shared(key: &str, value: &[u8], version: u32) -> Swap {
    let data = if value.is_empty() { null() } else { value.as_ptr() };
    // SAFETY: the host reads key and value during the call.
    match unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), data, value.len(), version) } {
        OK => Swap::Done,
        CAS_MISMATCH => Swap::Conflict,
        _ => Swap::Failed,
    }
}
