//! What Envoy calls: the proxy-wasm ABI 0.2.1, of which only what Weir uses is exported.
//!
//! Envoy looks for each export once and never crosses into Wasm for one that is missing. Body and trailer callbacks are left
//! out on purpose: a streamed body costs nothing.
#![allow(unsafe_code, reason = "an exported symbol is unsafe to declare; the bodies are safe")]

use super::apply::Action;
use super::{ContextId, with_vm};
use crate::host;

impl Action {
    /// Envoy's number for it: `FilterHeadersStatus`, as proxy-wasm has it.
    const fn number(self) -> u32 {
        match self {
            Self::Continue => 0,
            Self::Stop => 1,
            Self::Hold => 4,
        }
    }
}

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
    with_vm(|vm| vm.request_headers(context)).number()
}

/// Response headers: of a request for `decide`, of an attempt for `guard`.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_headers(context: ContextId, _count: u32, end_of_stream: u32) -> u32 {
    with_vm(|vm| vm.response_headers(context, end_of_stream != 0));
    Action::Continue.number()
}

/// A context is over; 1 lets Envoy delete it. Envoy would say so, too (`proxy_on_delete`), directly after this.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_done(context: ContextId) -> u32 {
    with_vm(|vm| vm.context_done(context));
    1
}

/// A request ended (`decide`), or an attempt did (`watch`).
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_log(context: ContextId) {
    with_vm(|vm| vm.log(context));
}
