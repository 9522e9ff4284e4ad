//! A million clusters, hosts and paths: what the module keeps is bounded, and nothing of a request outlives it.

use super::Worker;
use super::fake_host::{End, flag::*};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

/// Counts what each thread has allocated and not given back. Module and host of a test share its thread.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

fn add(bytes: usize, sign: isize) {
    // A thread that ends has no counter any more.
    let _ = LIVE.try_with(|live| live.set(live.get() + sign * bytes as isize));
}

// SAFETY: the system's allocator does the work; beside it only a number changes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size(), 1);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(layout.size(), -1);
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What is in use, without what Envoy would keep: metrics and shared data.
fn live(worker: &Worker) -> isize {
    worker.host.clear_shared();
    worker.host.clear_metrics();
    worker.host.take_logs();
    LIVE.with(Cell::get)
}

/// How many of each. `WEIR_HOSTILE=1000000 cargo test --release --test hostile growth` takes two minutes, half of it to compile.
fn many() -> u32 {
    std::env::var("WEIR_HOSTILE").ok().and_then(|many| many.parse().ok()).unwrap_or(100_000)
}

fn address(number: u32) -> String {
    let [_, b, c, d] = number.to_be_bytes();
    format!("10.{b}.{c}.{d}:80")
}

/// Does something for each number, a tenth at a time: the second half leaves no more behind than the first did.
fn flat(what: &str, worker: &Worker, per_tenth: u32, mut each: impl FnMut(u32)) {
    let mut after = Vec::new();
    for tenth in 0..10 {
        for number in tenth * per_tenth..(tenth + 1) * per_tenth {
            each(number);
            if number % 100 == 0 {
                worker.host.advance(Duration::from_millis(10));
                worker.tick();
            }
        }
        after.push(live(worker));
    }
    let (early, late) = (after[1..5].iter().max().unwrap(), after[5..].iter().max().unwrap());
    println!("{what}: {after:?} bytes");
    assert!(*late <= early + early / 10 + (64 << 10), "{what} grows: {after:?}");
}

#[test]
fn a_million_hosts() {
    let worker = Worker::new("{}");
    flat("hosts", &worker, many() / 10, |number| worker.go("hosts", "/", &address(number), number % 3 > 0));
}

#[test]
fn a_million_clusters() {
    let worker = Worker::new(r#"{"retry": {"perTryTimeout": {"adaptive": {"quantile": 0.99}}}}"#);
    flat("clusters", &worker, many() / 10, |number| {
        worker.go(&format!("cluster {number}"), "/", &address(number), number % 3 > 0);
        if number % 1_000 == 0 {
            // What Envoy keeps of them is Envoy's: here it would hide what the module keeps.
            worker.host.clear_metrics();
            worker.host.clear_shared();
        }
    });
}

#[test]
fn a_million_paths() {
    let worker = Worker::new("{}");
    flat("paths", &worker, many() / 10, |number| {
        worker.go("paths", &format!("/{number}?{}", "x".repeat(number as usize % 100)), "10.0.0.1:80", true);
    });
}

/// Whatever is switched off, nothing of a request outlives it.
#[test]
fn a_million_requests_of_which_nothing_is_judged() {
    for off in ["outlierDetection", "steering", "retry", "circuitBreaker", "incidents"] {
        let worker = Worker::new(&format!(r#"{{"{off}": "off"}}"#));
        flat(off, &worker, many() / 20, |_| worker.go("paths", "/", "10.0.0.1:80", true));
    }
}

/// One request that is never answered holds up nothing that came after it.
#[test]
fn a_million_requests_behind_one_that_hangs() {
    for policy in ["{}", r#"{"steering": "off"}"#, r#"{"mode": "shadow"}"#] {
        let worker = Worker::new(policy);
        let hangs = worker.begin("paths", "GET", "/");
        let attempt = worker.host.attempt(worker.guard, &hangs, 1).host("10.0.0.2:80").begin();
        flat(policy, &worker, many() / 20, |_| worker.go("paths", "/", "10.0.0.1:80", true));
        attempt.end();
        hangs.end();
    }
}

/// Clients that cancel everything, at any point: before the attempt, during it, or after its answer began.
#[test]
fn a_client_that_cancels_everything() {
    let worker = Worker::new("{}");
    flat("cancelled", &worker, many() / 50, |number| {
        let request = worker.begin("cancelled", if number % 2 == 0 { "GET" } else { "POST" }, "/");
        let end = End::new().flags(if number % 3 == 0 { DR } else { DC });
        if number % 4 == 0 {
            request.end_with(&end);
            return;
        }
        let attempt = worker.host.attempt(worker.guard, &request, 1).begin();
        let answered = number % 4 == 1;
        if answered {
            assert!(attempt.response(200, []));
            assert!(request.response(200, []));
        }
        // When the client leaves, the request's log entry comes first.
        let log = End::of_attempt(&request, 1).host("10.0.0.1:80");
        let (end, log) = if answered { (end.code(200), log.code(200)) } else { (end, log) };
        request.log(&end.details("downstream_remote_disconnect"));
        request.end();
        attempt.end();
        if number % 8 < 6 {
            worker.host.attempt_log(worker.watch, &log);
        }
    });
}
