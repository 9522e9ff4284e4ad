//! How much memory a worker takes for its clusters and their hosts, natively and, with the module's pointers of four bytes, in
//! Node. The allocator counts what the module's, dlmalloc, would take; `cargo test --test memory -- --nocapture` prints the table.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::Duration;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use weir::base::time::Time;
use weir::engine::event::What;
use weir::engine::host::{Change, HeaderMap, Host, Key, Lengths, Property, Record, Stranded, StreamId, Update};
use weir::engine::worker::{Attachments, Worker};
use weir::outlier::hosts::MOST_HOSTS;

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
    /// Whether it is the proxy that allocates, and not the worker.
    static OUTSIDE: Cell<bool> = const { Cell::new(false) };
}

fn count(bytes: isize) {
    if OUTSIDE.try_with(Cell::get).unwrap_or(true) {
        return;
    }
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

/// The proxy that a worker runs in. What it keeps does not count as the worker's.
struct Proxy {
    now: Cell<Time>,
    cluster: Cell<usize>,
    /// Where the current attempt was sent, if anywhere, and whether it was refused there.
    attempt: Cell<(Option<usize>, bool)>,
    records: RefCell<HashMap<(Record, String), Vec<u8>>>,
}

fn outside<T>(what: impl FnOnce() -> T) -> T {
    OUTSIDE.set(true);
    let result = what();
    OUTSIDE.set(false);
    result
}

impl Host for Proxy {
    type Bytes = Vec<u8>;

    fn now(&self) -> Option<Time> {
        Some(self.now.get())
    }

    fn property(&self, property: Property) -> Option<Vec<u8>> {
        let number = |number: u64| Some(number.to_le_bytes().to_vec());
        let (host, refused) = self.attempt.get();
        match property {
            Property::Cluster => {
                Some(format!("outbound|8080||service-{}.namespace.svc.cluster.local", self.cluster.get()).into_bytes())
            }
            Property::UpstreamAddress => host.map(|host| address(host).into_bytes()),
            // UF: no connection to the upstream.
            Property::Flags => number(if refused { 1 << 5 } else { 0 }),
            Property::FailureReason if refused => Some(b"Connection refused".to_vec()),
            Property::Code if !refused => number(200),
            Property::AttemptCount => number(1),
            Property::Duration | Property::BackendLatency => number(0),
            _ => None,
        }
    }

    fn property_of(&self, _: StreamId, _: Property) -> Result<Option<Vec<u8>>, Stranded> {
        Ok(None)
    }

    fn header(&self, _: HeaderMap, _: &str) -> Option<Vec<u8>> {
        None
    }

    fn each_header(&self, _: Lengths, visit: &mut dyn FnMut(&[u8], &[u8])) {
        visit(b":method", b"GET");
    }

    fn update(&self, key: &Key<'_>, change: &mut Change<'_>) -> Update {
        let place = outside(|| (key.record, key.cluster.to_owned()));
        let changed = change(self.records.borrow().get(&place).map(Vec::as_slice));
        outside(|| match &changed {
            Some(changed) => _ = self.records.borrow_mut().insert(place, changed.clone()),
            None => drop(place),
        });
        Update::Done
    }

    fn put(&self, key: &Key<'_>, value: &[u8]) {
        self.update(key, &mut |_| Some(value.to_vec()));
    }
}

/// A worker of `decide` and `watch`, and what it said of its hosts last: how many are ejected, and how many remembered.
struct Running {
    worker: Worker,
    streams: u32,
    hosts: (usize, usize),
}

impl Running {
    fn attempt(&mut self, proxy: &Proxy, host: Option<usize>, refused: bool) {
        proxy.attempt.set((host, refused));
        self.worker.on_attempt_log(proxy);
        self.poll();
    }

    /// A request that is answered by its only attempt.
    fn request(&mut self, proxy: &Proxy, host: Option<usize>) {
        self.streams += 1;
        let stream = StreamId(self.streams);
        self.worker.on_request_headers(stream, proxy);
        self.attempt(proxy, host, false);
        self.worker.on_response_headers(stream, proxy, true);
        self.worker.on_request_end(stream, proxy);
        self.worker.on_request_done(stream);
        self.poll();
    }

    fn tick(&mut self, proxy: &Proxy) {
        self.worker.on_tick(proxy);
        self.poll();
    }

    fn poll(&mut self) {
        while let Some(event) = self.worker.poll_event() {
            if let What::Hosts { ejected, remembered, .. } = event.what {
                self.hosts = (ejected, remembered);
            }
        }
    }
}

/// A worker that used so many clusters, each with so many hosts, a part of which then fails (in percent).
fn worker(proxy: &Proxy, clusters: usize, hosts: usize, failing: usize) -> Running {
    let mut running = Running { worker: Worker::default(), streams: 0, hosts: (0, 0) };
    running.worker.attach(Attachments { decide: true, watch: true, ..Attachments::default() });
    let policy = weir::config::parse(br#"{ "role": "decide", "mode": "enforce" }"#).unwrap().policy.unwrap();
    running.worker.configure(policy, proxy);
    for request in 0..100 {
        proxy.now.set(START.saturating_add(Duration::from_millis(100 * request)));
        for cluster in 0..clusters {
            proxy.cluster.set(cluster);
            running.request(proxy, None);
        }
        running.tick(proxy);
    }
    for cluster in 0..clusters {
        proxy.cluster.set(cluster);
        // While all is calm, a sample of the answers is read.
        (0..hosts).for_each(|host| (0..150).for_each(|_| running.attempt(proxy, Some(host), false)));
        for host in 0..hosts.min(MOST_HOSTS) * failing / 100 {
            running.attempt(proxy, Some(hosts - 1 - host), true);
            running.request(proxy, Some(0));
        }
    }
    running.tick(proxy);
    running
}

fn proxy() -> Proxy {
    Proxy {
        now: Cell::new(START),
        cluster: Cell::new(0),
        attempt: Cell::new((None, false)),
        records: RefCell::default(),
    }
}

#[test]
fn a_thousand_hosts_take_less_than_a_mebibyte() {
    for hosts in [1, 100, 1_000, 10_000] {
        for failing in [0, 50] {
            let proxy = proxy();
            let (running, bytes, most) = allocated(|| worker(&proxy, 1, hosts, failing));
            show(&format!("1 cluster, {hosts} hosts, {failing} percent of them out"), bytes, most);
            let remembered = hosts.min(MOST_HOSTS);
            assert_eq!(running.hosts, (remembered * failing / 100, remembered));
            assert!(most <= MIB, "{hosts} hosts, {failing} percent out: {most} bytes");
        }
    }
}

#[test]
fn a_thousand_clusters_with_ten_hosts_each_take_less_than_eight_mebibytes() {
    for clusters in [1, 100, 1_000] {
        for hosts in [0, 10] {
            let proxy = proxy();
            let (_running, bytes, most) = allocated(|| worker(&proxy, clusters, hosts, 0));
            show(&format!("{clusters} clusters, {hosts} hosts each"), bytes, most);
            assert!(most <= 8 * MIB, "{clusters} clusters of {hosts} hosts: {most} bytes");
        }
    }
}
