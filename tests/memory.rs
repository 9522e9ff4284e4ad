//! How much memory a worker takes for its clusters and their hosts, natively and, with the module's pointers of four bytes, in
//! Node. The allocator counts what the module's, dlmalloc, would take; `cargo test --test memory -- --nocapture` prints the table.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use weir::base::percent::Percent;
use weir::base::time::Time;
use weir::engine::Engine;
use weir::outlier::hosts::MOST_HOSTS;
use weir::outlier::shared::WorkerId;
use weir::outlier::{EndedAttempt, Outliers};
use weir::retry::reservations::Account;
use weir::signal::Signal;

// The crate links only with a host beside it.
mod fake_host;

const START: Time = Time::from_nanos(1_800_000_000_000_000_000);
const MIB: usize = 1 << 20;

/// What dlmalloc takes for so many bytes: a word in front, in steps of two words, four words at least.
fn block_size(layout: Layout) -> usize {
    const WORD: usize = size_of::<usize>();
    (layout.size() + WORD).next_multiple_of(2 * WORD).max(4 * WORD)
}

/// Counts the bytes that a thread has, and the most that it had.
struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // While a thread ends, nothing counts any more.
    _ = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        _ = MOST.try_with(|most| most.set(most.get().max(now.get())));
    });
}

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(block_size(layout) as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(block_size(layout) as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What something left allocated, and the most that it had on the way.
fn allocated<T>(make: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = NOW.get();
    MOST.set(before);
    let made = make();
    (made, (NOW.get() - before) as usize, (MOST.get() - before) as usize)
}

fn show(what: &str, bytes: usize, most: usize) {
    let line = format!("{what:<60} {:>8.1} KiB, at most {:>8.1} KiB", bytes as f64 / 1024.0, most as f64 / 1024.0);
    #[cfg(target_arch = "wasm32")]
    wasm_bindgen_test::console_log!("{line}");
    #[cfg(not(target_arch = "wasm32"))]
    println!("{line}");
}

/// The longest IPv4 addresses.
fn address(host: usize) -> String {
    format!("100.100.{}.{}:30000", 100 + host / 100, 100 + host % 100)
}

fn ended(outliers: &mut Outliers, host: usize, signal: Signal, now: Time) {
    let host = address(host);
    let attempt = EndedAttempt { host: Some(&host), signal, began: now, weight: 1, picked: true };
    outliers.attempt_ended(&attempt, now);
}

/// A worker that used so many clusters, each with so many hosts, a part of which then fails (in percent). It reads and writes
/// its records as the filter does.
fn worker(clusters: usize, hosts: usize, failing: usize) -> Engine {
    let policy = weir::config::parse(br#"{ "role": "decide", "mode": "enforce" }"#).unwrap().policy.unwrap();
    let mut engine = Engine::new(policy);
    for number in 0..clusters {
        let id = engine.cluster_id(&format!("outbound|8080||service-{number}.namespace.svc.cluster.local"));
        let policy = engine.outlier_policy(id).unwrap();
        let cluster = engine.cluster_mut(id).unwrap();
        let mut now = START;
        let mut record = None;
        for request in 0..100 {
            now = START.saturating_add(Duration::from_millis(100 * request));
            let account: &mut Account = cluster.account.as_mut().unwrap();
            account.arrive(now);
            record = Some(account.publish(record.as_deref(), now));
            account.published();
        }
        let outliers = cluster.outliers.get_or_insert_with(|| Outliers::new(policy, WorkerId(1)));
        (0..hosts).for_each(|host| ended(outliers, host, Signal::Answered, now));
        let mut record = None;
        for host in 0..hosts.min(MOST_HOSTS) * failing / 100 {
            outliers.requested(now);
            ended(outliers, hosts - 1 - host, Signal::Refused, now);
            record = outliers.exchange(record.as_deref(), now).or(record);
            outliers.published();
            outliers.take_events();
            outliers.route(now, true, 2, Percent::default());
        }
    }
    engine.changed_host_counts();
    engine
}

#[test]
fn a_thousand_hosts_take_less_than_a_mebibyte() {
    for hosts in [1, 100, 1_000, 10_000] {
        for failing in [0, 50] {
            let (mut engine, bytes, most) = allocated(|| worker(1, hosts, failing));
            show(&format!("1 cluster, {hosts} hosts, {failing} percent of them out"), bytes, most);
            let id = engine.cluster_id("outbound|8080||service-0.namespace.svc.cluster.local");
            let outliers = engine.cluster(id).unwrap().outliers.as_ref().unwrap();
            assert_eq!(outliers.remembered(), hosts.min(MOST_HOSTS));
            assert_eq!(outliers.ejected(), hosts.min(MOST_HOSTS) * failing / 100);
            assert!(most <= MIB, "{hosts} hosts, {failing} percent out: {most} bytes");
        }
    }
}

#[test]
fn a_thousand_clusters_with_ten_hosts_each_take_less_than_eight_mebibytes() {
    for clusters in [1, 100, 1_000] {
        for hosts in [0, 10] {
            let (_engine, bytes, most) = allocated(|| worker(clusters, hosts, 0));
            show(&format!("{clusters} clusters, {hosts} hosts each"), bytes, most);
            assert!(most <= 8 * MIB, "{clusters} clusters of {hosts} hosts: {most} bytes");
        }
    }
}
