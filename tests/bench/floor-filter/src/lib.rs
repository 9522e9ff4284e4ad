//! The least that a filter such as Weir can cost: it exports the callbacks that `decide` needs, sets the two headers which ask
//! Envoy for retries, and does nothing else.
//!
//! Its plugin configuration says which of Weir's other host calls it makes as well, a letter for each: that is how
//! `./build.sh bench steps` finds out what each costs in a real request.
#![no_std]

use core::ptr::null_mut;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_buffer_bytes(buffer: u32, start: usize, max: usize, data: *mut *mut u8, size: *mut usize) -> i32;
    fn proxy_get_property(path: *const u8, path_size: usize, data: *mut *mut u8, size: *mut usize) -> i32;
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
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> i32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> i32;
    fn proxy_increment_metric(id: u32, by: i64) -> i32;
}

/// Which host calls, a bit for each letter from `a`.
static STEPS: AtomicU32 = AtomicU32::new(0);
static METRIC: AtomicU32 = AtomicU32::new(0);

/// What the host returns, always in the same place: it is used up before the next comes.
static mut BUFFER: [u64; 8_192] = [0; 8_192];

fn does(step: u8) -> bool {
    STEPS.load(Relaxed) & 1 << (step - b'a') != 0
}

fn property(path: &str) {
    let (mut data, mut size) = (null_mut(), 0);
    unsafe { proxy_get_property(path.as_ptr(), path.len(), &mut data, &mut size) };
}

fn set(name: &str, value: &str) {
    unsafe { proxy_replace_header_map_value(0, name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
}

fn header(name: &str) {
    let (mut data, mut size) = (null_mut(), 0);
    unsafe { proxy_get_header_map_value(0, name.as_ptr(), name.len(), &mut data, &mut size) };
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
pub extern "C" fn _initialize() {}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    if size <= 65_536 { (&raw mut BUFFER).cast() } else { null_mut() }
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_context_create(_context: u32, _parent: u32) {}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_vm_start(_root: u32, _size: usize) -> u32 {
    1
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_configure(_root: u32, size: usize) -> u32 {
    let (mut data, mut length) = (null_mut::<u8>(), 0);
    let status = unsafe { proxy_get_buffer_bytes(7, 0, size, &mut data, &mut length) };
    if status == 0 && !data.is_null() {
        let letters = unsafe { core::slice::from_raw_parts(data, length) };
        let letters = letters.iter().filter(|letter| letter.is_ascii_lowercase());
        STEPS.store(letters.fold(0, |steps, letter| steps | 1 << (letter - b'a')), Relaxed);
    }
    let (name, mut id) = ("floor_steps", 0);
    if unsafe { proxy_define_metric(0, name.as_ptr(), name.len(), &mut id) } == 0 {
        METRIC.store(id, Relaxed);
    }
    1
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_headers(_context: u32, _count: u32, _end_of_stream: u32) -> u32 {
    if does(b'x') {
        property("xds\0cluster_name");
    }
    if does(b'p') {
        let (mut data, mut size) = (null_mut(), 0);
        unsafe { proxy_get_header_map_pairs(0, &mut data, &mut size) };
    }
    if does(b'v') {
        [":method", "content-type", "idempotency-key", "x-envoy-attempt-count", "x-envoy-internal", "x-weir-hosts"]
            .into_iter()
            .for_each(header);
    }
    if does(b't') {
        let mut time = 0;
        unsafe { proxy_get_current_time_nanoseconds(&mut time) };
    }
    if does(b'm') {
        let id = METRIC.load(Relaxed);
        unsafe {
            proxy_increment_metric(id, 1);
            proxy_increment_metric(id, 1);
        }
    }
    if !does(b'n') {
        set("x-envoy-retry-on", "connect-failure,refused-stream,reset,gateway-error");
        set("x-envoy-max-retries", "2");
    }
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_headers(_context: u32, _count: u32, _end_of_stream: u32) -> u32 {
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_done(_context: u32) -> u32 {
    1
}

#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_log(_context: u32) {
    if does(b'f') {
        property("response\0flags");
    }
    if does(b's') {
        property("response\0code");
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
