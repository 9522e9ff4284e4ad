//! The host functions that are called past the SDK, each for its reason.
#![allow(unsafe_code, reason = "raw pointers in, owned bytes out; nothing else in this crate is unsafe")]

use std::ptr::null_mut;

use proxy_wasm::types::Bytes;

use super::LocalReply;

const OK: u32 = 0;

// Named, since newer compilers no longer take an undefined symbol for an import. The status is a number here, not the SDK's
// `Status`: one that the SDK does not know is then no undefined behaviour.
#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, size: usize) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
}

/// The host's wall clock, in nanoseconds since the Unix epoch; it can step back. `None` if the host has none. The SDK makes a time of
/// day of it, to be divided into seconds and put together again, and panics where there is none.
#[must_use]
pub fn wall_clock() -> Option<u64> {
    let mut nanos = 0;
    // SAFETY: the host writes eight bytes.
    let status = unsafe { proxy_get_current_time_nanoseconds(&mut nanos) };
    (status == OK && nanos > 0).then_some(nanos)
}

/// All headers at once, in the host's encoding. The SDK's `get_map_bytes` copies each name and value, 25 of which a request
/// has, and panics on a name that is not UTF-8 and on an encoding that is cut short.
pub(super) fn header_pairs(map: u32) -> Option<Bytes> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: the host writes an address and a size.
    if unsafe { proxy_get_header_map_pairs(map, &mut data, &mut size) } != OK {
        return None;
    }
    if size == 0 {
        return Some(Bytes::new());
    }
    // SAFETY: the host wrote both.
    unsafe { taken(data, size) }
}

/// A property's path, its segments separated by NUL, as the ABI has it: written once, at compile time.
#[derive(Clone, Copy, Debug)]
pub struct Path(pub &'static str);

/// Reads a property of the current context; `None` where it has none, or is empty. The SDK
/// puts a path together for each read, which takes two allocations, and a request takes a handful of reads.
#[must_use]
pub fn property(Path(path): Path) -> Option<Bytes> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: the host reads the path during the call, and writes an address and a size.
    if unsafe { proxy_get_property(path.as_ptr(), path.len(), &mut data, &mut size) } != OK || size == 0 {
        return None;
    }
    // SAFETY: the host wrote both.
    unsafe { taken(data, size) }
}

/// Sets a property of the current stream; the stream's other filters see it. Whether it worked. Not the SDK's, as for [`property`].
pub fn set_property(Path(path): Path, value: &[u8]) -> bool {
    // SAFETY: the host reads both during the call.
    unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) == OK }
}

/// What the host gave. Safe with what it wrote: `size` bytes, more than none, in memory that it got from the SDK's `malloc`, which is
/// a boxed slice of that size; or null.
unsafe fn taken(data: *mut u8, size: usize) -> Option<Bytes> {
    // SAFETY: as above.
    (!data.is_null()).then(|| unsafe { Vec::from_raw_parts(data, size, size) })
}

/// Ends the current stream with a reply of our own. The SDK's `send_http_response` has neither `response.code_details`, by which
/// Weir and whoever reads an access log tell the reply from an upstream's, nor a status for gRPC.
pub(super) fn send_local_reply(reply: &LocalReply<'_>, headers: &[u8]) -> bool {
    // SAFETY: the host reads all of them during the call.
    let status = unsafe {
        proxy_send_local_response(
            u32::from(reply.status),
            reply.details.as_ptr(),
            reply.details.len(),
            reply.body.as_ptr(),
            reply.body.len(),
            headers.as_ptr(),
            headers.len(),
            reply.grpc_status,
        )
    };
    status == OK
}
