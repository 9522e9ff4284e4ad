//! A worker as the module drives it, with a host that costs next to nothing: what is counted is the engine's.

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use weir::base::time::Time;
use weir::config;
use weir::engine::decision::RequestDecision;
use weir::engine::event::What;
use weir::engine::host::{Change, HeaderMap, Host, Key, Lengths, Property, Record, Stranded, StreamId, Update};
use weir::engine::worker::{Attachments, Worker};

use super::{Call, INTERVAL, START, address};

const CLUSTER: &str = "outbound|8080||service.namespace.svc.cluster.local";
const CONNECTION_FAILURE: u64 = 1 << 5;

/// What a property comes to.
pub enum Bytes {
    Number([u8; 8]),
    Text(Rc<[u8]>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Number(number) => number,
            Self::Text(text) => text,
        }
    }
}

/// One stream at a time: a GET, or an attempt of one.
struct Site {
    now: Cell<Time>,
    cluster: Rc<[u8]>,
    hosts: Vec<Rc<[u8]>>,
    /// Where it was sent, and whether it was refused there.
    attempt: Cell<(usize, bool)>,
    /// How many attempts the request has.
    attempts: Cell<u64>,
    records: RefCell<Vec<(Record, Vec<u8>)>>,
}

impl Host for Site {
    type Bytes = Bytes;

    fn now(&self) -> Option<Time> {
        Some(self.now.get())
    }

    fn property(&self, property: Property) -> Option<Bytes> {
        let number = |number: u64| Some(Bytes::Number(number.to_le_bytes()));
        let (host, refused) = self.attempt.get();
        match property {
            Property::Cluster => Some(Bytes::Text(Rc::clone(&self.cluster))),
            Property::UpstreamAddress => self.hosts.get(host).cloned().map(Bytes::Text),
            Property::Flags => number(if refused { CONNECTION_FAILURE } else { 0 }),
            Property::Code if refused => None,
            Property::Code => number(200),
            Property::AttemptCount => number(self.attempts.get()),
            Property::Duration | Property::BackendLatency => number(0),
            Property::FailureReason if refused => Some(Bytes::Text(Rc::from(b"Connection refused".as_slice()))),
            _ => None,
        }
    }

    fn property_of(&self, _: StreamId, _: Property) -> Result<Option<Bytes>, Stranded> {
        Ok(None)
    }

    fn header(&self, _: HeaderMap, _: &str) -> Option<Bytes> {
        None
    }

    fn each_header(&self, _: Lengths, visit: &mut dyn FnMut(&[u8], &[u8])) {
        visit(b":method", b"GET");
    }

    fn update(&self, key: &Key<'_>, change: &mut Change<'_>) -> Update {
        let mut records = self.records.borrow_mut();
        let place = records.iter().position(|(record, _)| *record == key.record);
        let changed = change(place.and_then(|place| records.get(place)).map(|(_, bytes)| bytes.as_slice()));
        match (changed, place.and_then(|place| records.get_mut(place))) {
            (Some(changed), Some((_, bytes))) => *bytes = changed,
            (Some(changed), None) => records.push((key.record, changed)),
            (None, _) => {}
        }
        Update::Done
    }

    fn put(&self, key: &Key<'_>, value: &[u8]) {
        self.update(key, &mut |_| Some(value.to_vec()));
    }
}

/// A worker of `decide` and `watch`, and its host.
struct Running {
    worker: Worker,
    site: Site,
    streams: u32,
    ejected: usize,
}

impl Running {
    /// With hosts of which it had 64 requests each, the first `out` of which are out.
    fn new(hosts: usize, out: usize) -> Self {
        let site = Site {
            now: Cell::new(START),
            cluster: CLUSTER.as_bytes().into(),
            hosts: (0..hosts).map(|host| address(host).into_bytes().into()).collect(),
            attempt: Cell::new((0, false)),
            attempts: Cell::new(1),
            records: RefCell::default(),
        };
        let mut worker = Worker::default();
        worker.attach(Attachments { decide: true, watch: true, only_failures: false, guard: false });
        let configuration = config::parse(br#"{ "role": "decide", "mode": "enforce" }"#).expect("it is valid");
        worker.configure(configuration.policy.expect("it is for decide"), &site);
        let mut running = Self { worker, site, streams: 0, ejected: 0 };
        (0..64 * hosts).for_each(|turn| running.request(turn % hosts));
        for host in 0..out {
            let (stream, list) = running.arrives();
            running.attempt(host, true);
            let next = list.as_deref().and_then(|list| Self::host(list.split(',').next()?));
            running.attempt(next.unwrap_or(hosts - 1), false);
            running.over(stream);
        }
        running.tick();
        assert_eq!(running.ejected, out);
        running
    }

    /// A request arrives: its number, and the hosts that it should go to.
    fn arrives(&mut self) -> (StreamId, Option<String>) {
        self.streams = self.streams.wrapping_add(1);
        let stream = StreamId(self.streams);
        match black_box(self.worker.on_request_headers(stream, &self.site)) {
            RequestDecision::Forward(edits) => (stream, edits.hosts.map(|(_, hosts)| hosts)),
            RequestDecision::Reply(_) => (stream, None),
        }
    }

    fn attempt(&mut self, host: usize, refused: bool) {
        self.site.attempt.set((host, refused));
        self.worker.on_attempt_log(&self.site);
    }

    /// A request is answered, and over.
    fn over(&mut self, stream: StreamId) {
        self.site.attempt.set((self.site.attempt.get().0, false));
        self.worker.on_response_headers(stream, &self.site, true);
        self.worker.on_request_end(stream, &self.site);
        self.worker.on_request_done(stream);
        self.poll();
    }

    /// A request that is answered: by that host, or where it is steered. What is out stays out: its probes fail.
    fn request(&mut self, picked: usize) {
        let (stream, list) = self.arrives();
        // As if what is not steered had met a host that is out: Envoy's balancer leaves none out.
        self.site.attempts.set(if list.is_none() && self.ejected > 0 { 2 } else { 1 });
        let list = list.unwrap_or_default();
        let mut hosts = list.split(',').filter_map(Self::host);
        let mut host = hosts.next().unwrap_or(picked);
        if self.probed() {
            self.attempt(host, true);
            host = hosts.next().unwrap_or(picked);
        }
        self.attempt(host, false);
        self.over(stream);
    }

    fn host(address: &str) -> Option<usize> {
        let mut numbers = address.split([':', '.']).skip(2).map_while(|number| number.parse::<usize>().ok());
        Some(numbers.next()? * 250 + numbers.next()?)
    }

    /// Whether the latest request is a probe.
    fn probed(&mut self) -> bool {
        let mut probed = false;
        while let Some(event) = self.worker.poll_event() {
            probed |= event.what == What::HostProbed;
        }
        probed
    }

    fn poll(&mut self) {
        while let Some(event) = self.worker.poll_event() {
            if let What::Hosts { ejected, .. } = event.what {
                self.ejected = ejected;
            }
        }
    }

    fn tick(&mut self) {
        self.worker.on_tick(&self.site);
        self.poll();
    }

    fn pass(&self, time: Duration) {
        self.site.now.set(self.site.now.get().saturating_add(time));
    }
}

/// A GET that is answered, with `decide` and `watch`; 1,000 of them in a second.
pub fn request(hosts: usize, out: usize) -> Call {
    let mut running = Running::new(hosts, out);
    if out == 0 {
        running.pass(2 * INTERVAL);
    }
    let mut turn = 0;
    Box::new(move |_| {
        turn += 1;
        running.pass(Duration::from_millis(1));
        running.request(out + turn % (hosts - out));
    })
}

/// What the timer does, ten times a second, and a fortieth of a request.
pub fn timer(hosts: usize, out: usize) -> Call {
    let mut running = Running::new(hosts, out);
    let mut turn = 0;
    Box::new(move |_| {
        turn += 1;
        // Slower than in earnest: after a minute, those that nobody probes are given up.
        running.pass(Duration::from_millis(10));
        if turn % 40 == 0 {
            running.request(out);
        }
        running.tick();
    })
}
