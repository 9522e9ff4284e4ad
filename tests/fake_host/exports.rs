//! The module's exported functions, and the callbacks that a host makes of them: each knows whose it is, and which phase
//! it is in, since what the module may read depends on both.

use super::state::{Current, Phase, with};

unsafe extern "C" {
    pub safe fn proxy_on_memory_allocate(size: usize) -> *mut u8;
    safe fn proxy_on_context_create(context: u32, parent: u32);
    safe fn proxy_on_vm_start(root: u32, size: usize) -> u32;
    safe fn proxy_on_configure(root: u32, size: usize) -> u32;
    safe fn proxy_on_tick(root: u32);
    safe fn proxy_on_request_headers(context: u32, count: u32, end_of_stream: u32) -> u32;
    safe fn proxy_on_response_headers(context: u32, count: u32, end_of_stream: u32) -> u32;
    safe fn proxy_on_done(context: u32) -> u32;
    safe fn proxy_on_log(context: u32);
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

pub fn vm_start(root: u32, size: usize) -> bool {
    in_phase(root, Phase::VmStart, || proxy_on_vm_start(root, size) != 0)
}

pub fn configure(root: u32, size: usize) -> bool {
    in_phase(root, Phase::Configure, || proxy_on_configure(root, size) != 0)
}

pub fn tick(root: u32) {
    in_phase(root, Phase::Tick, || proxy_on_tick(root));
}

pub fn request_headers(context: u32, count: u32, end_of_stream: bool) -> u32 {
    in_phase(context, Phase::RequestHeaders, || proxy_on_request_headers(context, count, u32::from(end_of_stream)))
}

pub fn response_headers(context: u32, count: u32, end_of_stream: bool) -> u32 {
    in_phase(context, Phase::ResponseHeaders, || proxy_on_response_headers(context, count, u32::from(end_of_stream)))
}

pub fn done(context: u32) -> bool {
    in_phase(context, Phase::Done, || proxy_on_done(context) != 0)
}

pub fn log(context: u32) {
    in_phase(context, Phase::Log, || proxy_on_log(context));
}

/// The module does not export `proxy_on_delete`: a context is over when it is done.
pub fn delete(_context: u32) {}

/// The callbacks by number of context, in any order, for tests that do what no Envoy does.
pub mod raw {
    pub use super::{
        CONTINUE, PAUSE, configure, context_create, delete, done, log, request_headers, response_headers, tick,
        vm_start,
    };
}
