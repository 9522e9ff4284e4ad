//! What Envoy calls: the proxy-wasm ABI 0.2.1, of which only what Weir uses is exported.
//!
//! Envoy looks for each export once and never crosses into Wasm for one that is missing. Body and trailer callbacks are left
//! out on purpose: a streamed body costs nothing.
#![allow(unsafe_code, reason = "an exported symbol is unsafe to declare; the bodies are safe")]

use super::{ContextId, Stream, with_vm};
use crate::config::Role;
use crate::host;

/// Go on with the request or response.
const CONTINUE: u32 = 0;
/// Do not: it is answered.
const STOP: u32 = 1;

/// Tells which ABI this is; never called.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_abi_version_0_2_1() {}

/// Called once before all else.
#[unsafe(no_mangle)]
pub extern "C" fn _initialize() {}

/// Memory for a value that the host returns.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    host::allocate(size)
}

/// A plugin's root (`parent` 0), a request, an attempt or a log entry begins.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_context_create(context: ContextId, parent: ContextId) {
    with_vm(|vm| vm.create_context(context, parent));
}

/// The VM starts.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_vm_start(_root: ContextId, _size: usize) -> u32 {
    1
}

/// A plugin's configuration is there; 0 refuses it.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_configure(root: ContextId, _size: usize) -> u32 {
    with_vm(|vm| u32::from(vm.configure(root)))
}

/// The timer of a root.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_tick(root: ContextId) {
    with_vm(|vm| vm.tick(root));
}

/// Request headers: of a request for `decide`, of an attempt for `guard`.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_headers(context: ContextId, _count: u32, _end_of_stream: u32) -> u32 {
    with_vm(|vm| {
        vm.last_attempt = None;
        match vm.streams.get(context) {
            Some(Stream::Decide(_)) => {
                if vm.request_arrives(context) {
                    CONTINUE
                } else {
                    STOP
                }
            }
            Some(Stream::Guard(_)) => vm.attempt_begins(context),
            _ => CONTINUE,
        }
    })
}

/// Response headers: of a request for `decide`, of an attempt for `guard`.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_headers(context: ContextId, _count: u32, end_of_stream: u32) -> u32 {
    with_vm(|vm| {
        vm.last_attempt = None;
        match vm.streams.get(context) {
            Some(Stream::Decide(_)) => vm.response_starts(context),
            Some(Stream::Guard(_)) => vm.attempt_answered(context, end_of_stream != 0),
            _ => {}
        }
        CONTINUE
    })
}

/// A context is over; 1 lets Envoy delete it. Envoy would say so, too (`proxy_on_delete`), directly after this.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_done(context: ContextId) -> u32 {
    with_vm(|vm| {
        if let Some(Stream::Guard(_)) = vm.streams.get(context) {
            vm.attempt_over(context);
        }
        vm.delete_context(context);
    });
    1
}

/// A request ended (`decide`), or an attempt did (`watch`).
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_log(context: ContextId) {
    with_vm(|vm| match vm.streams.get(context) {
        Some(Stream::Decide(_)) => vm.request_ends(context),
        Some(Stream::Guard(_)) => {}
        Some(Stream::Watch) => vm.attempt_logged(),
        None if vm.role_of(context) == Some(Role::Watch) => vm.attempt_logged(),
        None => {}
    });
}
