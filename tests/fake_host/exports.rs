//! The module's exported functions, and the callbacks that a host makes of them: each knows whose it is, and which phase
//! it is in, since what the module may read depends on both.

use super::state::{Current, Phase, with};

unsafe extern "C" {
    safe fn _initialize();
    // As WebAssembly the SDK calls it what C does.
    #[cfg_attr(target_arch = "wasm32", link_name = "malloc")]
    pub safe fn proxy_on_memory_allocate(size: usize) -> *mut u8;
    safe fn proxy_on_context_create(context: u32, parent: u32);
    safe fn proxy_on_configure(root: u32, size: usize) -> bool;
    safe fn proxy_on_tick(root: u32);
    safe fn proxy_on_request_headers(context: u32, count: usize, end_of_stream: bool) -> u32;
    safe fn proxy_on_response_headers(context: u32, count: usize, end_of_stream: bool) -> u32;
    safe fn proxy_on_log(context: u32);
    safe fn proxy_on_delete(context: u32);
}

/// Starts the VM, anew where the thread had one.
pub fn initialize() {
    _initialize();
}

/// `Continue` in the ABI.
pub const CONTINUE: u32 = 0;
/// `StopIteration` in the ABI.
pub const PAUSE: u32 = 1;

fn in_phase<R>(context: u32, phase: Phase, callback: impl FnOnce() -> R) -> R {
    let outer = with(|state| state.current.replace(Current { context, phase }));
    let result = callback();
    with(|state| state.current = outer);
    result
}

pub fn context_create(context: u32, parent: u32) {
    in_phase(context, Phase::Create, || proxy_on_context_create(context, parent));
}

pub fn configure(root: u32, size: usize) -> bool {
    in_phase(root, Phase::Configure, || proxy_on_configure(root, size))
}

pub fn tick(root: u32) {
    in_phase(root, Phase::Tick, || proxy_on_tick(root));
}

pub fn request_headers(context: u32, count: u32, end_of_stream: bool) -> u32 {
    in_phase(context, Phase::RequestHeaders, || proxy_on_request_headers(context, count as usize, end_of_stream))
}

pub fn response_headers(context: u32, count: u32, end_of_stream: bool) -> u32 {
    in_phase(context, Phase::ResponseHeaders, || proxy_on_response_headers(context, count as usize, end_of_stream))
}

pub fn log(context: u32) {
    in_phase(context, Phase::Log, || proxy_on_log(context));
}

/// The module does not export `proxy_on_done`, which Envoy would call directly before.
pub fn delete(context: u32) {
    in_phase(context, Phase::Delete, || proxy_on_delete(context));
}

/// The callbacks by number of context, for tests that make them in an order of their own.
pub mod raw {
    pub use super::{CONTINUE, PAUSE, configure, context_create, delete, log, request_headers, response_headers, tick};
}
