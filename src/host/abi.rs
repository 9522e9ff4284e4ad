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
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
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

/// All headers at once, in the host's encoding. The SDK's `get_map_bytes` copies each name and value, 25 of which a request
/// has, and panics on a name that is not UTF-8 and on an encoding that is cut short.
pub(super) fn header_pairs(map: u32) -> Option<Bytes> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: the host writes an address and a size.
    if unsafe { proxy_get_header_map_pairs(map, &mut data, &mut size) } != OK {
        return None;
    }
    if data.is_null() || size == 0 {
        return (size == 0).then(Bytes::new);
    }
    // SAFETY: the host wrote `size` bytes there, in memory that it got from the SDK's `malloc`: a boxed slice of that size.
    Some(unsafe { Vec::from_raw_parts(data, size, size) })
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
