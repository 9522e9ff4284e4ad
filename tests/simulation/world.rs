//! Some proxies, of some workers each, in front of some replicas, in virtual time: the engine as the module has it, and all else as
//! simple as it can be without being wrong about what matters here.
//!
//! - A request goes to a random worker. Its attempts follow the list, then a balancer that picks at random.
//! - It is retried and hedged as Envoy does by the headers that the engine sets: see `tests/support/router.rs`.
//! - A replica that starts to break connections breaks those that it holds.
//! - A client whose stream is broken off by its host, as that goes down, connects anew.
//! - Each worker's timer fires ten times a second, each at another moment.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use weir::base::percent::Percent;
use weir::base::random::Random;
use weir::base::time::Time;
use weir::circuit::BreakerPolicy;
use weir::config;
use weir::engine::event::What as Happened;
use weir::engine::host::{Record, StreamId};
use weir::outlier;
use weir::outlier::detector::OutlierPolicy;
use weir::outlier::shared::Ejections;
use weir::signal::Signal;

use super::replica::{Replica, State};
use super::report::{Each, Report, Spent};
use super::router::{CLUSTER, Close, Envoy, Head, Next, Over, Sent, address, index, workers_begin_after};
use super::sim_host::Records;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub replicas: Vec<Replica>,
    pub workers: usize,
    /// Requests per second.
    pub rate: u64,
    /// Whether they come at even intervals, and not by chance.
    pub evenly: bool,
    /// Percent.
    pub gets: u64,
    /// So many percent take [`SLOW`], whatever replica they meet.
    pub slow: u64,
    /// So many percent end so, whatever replica they meet: it is their path that fails. A timeout is the route's.
    pub fails: Option<(Signal, u64)>,
    /// Which requests are streams.
    pub streams: Option<Streams>,
    /// From then on, Envoy's balancer leaves this replica out, which answers all the same.
    pub drained: Option<(Duration, usize)>,
    pub lasts: Duration,
    pub policy: OutlierPolicy,
    pub explore: Percent,
    /// How many proxies the workers belong to, one to the next; those of different ones know nothing of each other.
    pub proxies: usize,
    /// `false` leaves all to Envoy's balancer.
    pub protected: bool,
    /// Whether the balancer avoids hosts that the request already tried (Envoy's `previous_hosts`).
    pub avoids_previous: bool,
    /// The per-try timeout: what hangs for so long fails.
    pub timeout: Duration,
    /// With outlier detection alone where there is none.
    pub breaker: Option<BreakerPolicy>,
    /// The first worker is gone from then on; others get its requests.
    pub leaves: Option<Duration>,
}

/// Requests that are streams.
#[derive(Clone, Copy, Debug)]
pub struct Streams {
    /// How many are, in percent.
    pub percent: u64,
    pub head: Head,
    /// How long they last once they are answered, in milliseconds: from, to.
    pub lasts: (u64, u64),
    pub ends: Ends,
}

/// How streams end, where their host does not go down.
#[derive(Clone, Copy, Debug)]
pub enum Ends {
    /// Each for itself.
    Each(Close),
    /// Their hosts end all that they have, so often.
    Together(Duration),
}

/// Where the clock starts.
const START: Time = Time::from_nanos(1_800_000_000_000_000_000);
const TICK: Duration = Duration::from_millis(100);
/// What takes long by nature takes this.
pub const SLOW: Duration = Duration::from_millis(1_500);

impl Setup {
    /// The same as the module's configuration.
    fn policy(&self) -> config::Policy {
        let OutlierPolicy { reset, max_ejection_percent, .. } = self.policy;
        let mut same = OutlierPolicy { max_ejection_percent, ..OutlierPolicy::default() };
        same.reset.count = reset.count;
        assert_eq!(same, self.policy, "nothing else is written down here");
        let outliers = format!(
            r#"{{"reset": {{"count": {}}}, "maxEjectionPercent": {}}}"#,
            reset.count,
            max_ejection_percent.basis_points() / 100
        );
        let steering = format!(r#"{{"explorePercent": {}}}"#, self.explore.basis_points() / 100);
        let (outliers, steering) =
            if self.protected { (outliers, steering) } else { ("null".to_owned(), "null".to_owned()) };
        assert!(self.breaker.is_none_or(|breaker| breaker == BreakerPolicy::default()));
        let breaker = if self.breaker.is_some() { "{}" } else { "null" };
        let text =
            format!(r#"{{"outlierDetection": {outliers}, "steering": {steering}, "circuitBreaker": {breaker}}}"#);
        let configuration = config::parse(text.as_bytes()).expect("it is valid");
        configuration.policy.expect("it is for decide")
    }
}

/// A request under way.
#[derive(Debug)]
struct Request {
    get: bool,
    /// How many replicas were fine when it came.
    fine: usize,
    /// Whether its first attempt is a probe of a host that is out.
    probe: bool,
    stream: bool,
    /// Its place in what is told of each.
    place: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Arrives,
    /// A client whose stream was broken off.
    Reconnects,
    /// Response headers of a stream, from that host.
    Begins(usize, StreamId, usize),
    Closes(usize, StreamId, Close),
    Retries(usize, StreamId),
    Waited(usize, StreamId),
    Ends(usize, StreamId, u8),
    Ticks(usize),
}

/// See the module.
pub struct World {
    setup: Setup,
    random: Random,
    now: Time,
    queue: BinaryHeap<Reverse<(Time, u64, What)>>,
    queued: u64,
    workers: Vec<Envoy>,
    /// What the workers of each proxy share.
    records: Vec<Records>,
    /// Which hosts are out, by the record that each proxy had last.
    out: Vec<(Option<Rc<[u8]>>, usize)>,
    requests: HashMap<(usize, StreamId), Request>,
    pub report: Report,
}

impl World {
    /// Runs it from start to end.
    pub fn run(setup: Setup) -> Report {
        let records: Vec<_> = (0..setup.proxies).map(|_| Records::default()).collect();
        for (proxy, records) in (0..).zip(&records) {
            workers_begin_after(records, setup.seed.wrapping_mul(1_000) + 100 * proxy);
        }
        let worker = |worker: usize| Envoy::new(records[worker % setup.proxies].clone(), setup.policy(), START);
        let mut world = Self {
            random: Random::new(setup.seed),
            now: START,
            queue: BinaryHeap::new(),
            queued: 0,
            workers: (0..setup.workers).map(worker).collect(),
            out: vec![(None, 0); setup.proxies],
            records,
            requests: HashMap::new(),
            report: Report::new(setup.replicas.len(), setup.proxies),
            setup,
        };
        world.queue(Duration::ZERO, What::Arrives);
        for worker in 0..world.setup.workers {
            world.queue(Duration::from_millis(37 * worker as u64 % 100), What::Ticks(worker));
        }
        if let Some((Signal::Timeout, _)) = world.setup.fails {
            let timeout = world.setup.timeout;
            world.workers.iter_mut().for_each(|envoy| envoy.route_timeout = timeout);
        }
        while let Some(Reverse((time, _, what))) = world.queue.pop() {
            if time.since(START) >= world.setup.lasts {
                break;
            }
            world.now = time;
            match what {
                What::Arrives => world.arrives(),
                What::Reconnects => world.request(true),
                What::Begins(worker, attempt, host) => world.begins(worker, attempt, host),
                What::Closes(worker, attempt, by) => {
                    world.drive(worker, |envoy, _| envoy.stream_ends(attempt, by, time));
                }
                What::Retries(worker, request) => {
                    world.drive(worker, |envoy, balance| envoy.retry(request, time, balance));
                }
                What::Waited(worker, attempt) => world.drive(worker, |envoy, _| envoy.waited(attempt, time)),
                What::Ends(worker, attempt, signal) => {
                    world.drive(worker, |envoy, _| envoy.ended(attempt, Signal::ALL[usize::from(signal)], time));
                }
                What::Ticks(worker) if world.is_gone(worker) => {}
                What::Ticks(worker) => {
                    world.drive(worker, |envoy, _| envoy.tick(time));
                    world.queue(TICK, What::Ticks(worker));
                }
            }
            world.observe();
        }
        let elapsed = world.setup.lasts;
        world.report.outages(&world.setup.replicas, elapsed);
        world.report
    }

    fn queue(&mut self, after: Duration, what: What) {
        self.queued += 1;
        self.queue.push(Reverse((self.now.saturating_add(after), self.queued, what)));
    }

    fn elapsed(&self) -> Duration {
        self.now.since(START)
    }

    fn is_gone(&self, worker: usize) -> bool {
        worker == 0 && self.setup.leaves.is_some_and(|leaves| self.elapsed() >= leaves)
    }

    fn micros(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(from + self.random.below(to - from))
    }

    fn arrives(&mut self) {
        let gap = 2_000_000 / self.setup.rate.max(1);
        let gap = if self.setup.evenly { Duration::from_micros(gap / 2) } else { self.micros(0, gap.max(1)) };
        self.queue(gap, What::Arrives);
        let stream = self.setup.streams.is_some_and(|streams| self.random.below(100) < streams.percent);
        self.request(stream);
    }

    fn request(&mut self, stream: bool) {
        let mut worker = self.random.below(self.setup.workers as u64) as usize;
        if self.is_gone(worker) {
            // The next one of the same proxy.
            worker = self.setup.proxies;
        }
        let (now, elapsed, proxy) = (self.now, self.elapsed(), worker % self.setup.proxies);
        let get = stream || self.random.below(100) < self.setup.gets;
        let method = if get { "GET" } else { "POST" };
        let id = self.call(worker, |envoy, balance| envoy.arrives(method, now, balance));
        let probe = self.happened(worker);
        let Some(id) = id else {
            self.report.circuits[proxy].shed.push(elapsed);
            return;
        };
        self.report.spent[proxy].0.push(elapsed);
        let mut distinct = self.workers[worker].listed(id).to_vec();
        let all = distinct.len();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), all, "a list names a host twice");
        let fine = self.setup.replicas.iter().filter(|replica| replica.state(elapsed) == State::Fine).count();
        let place = self.report.each.len();
        let slow = self.setup.slow > 0 && self.random.below(100) < self.setup.slow;
        let fails = self.setup.fails.is_some_and(|(_, percent)| self.random.below(100) < percent);
        self.report.each.push(Each { get, slow, fails, arrived: elapsed, started: 0, over: None });
        self.requests.insert((worker, id), Request { get, fine, probe, stream, place });
        self.go_on(worker);
    }

    /// Calls a worker, and does what follows.
    fn drive(&mut self, worker: usize, call: impl FnOnce(&mut Envoy, &mut dyn FnMut(&[usize]) -> usize)) {
        let written = self.workers[worker].host.budgets_written();
        self.call(worker, call);
        // What is not charged is free while others answer: the budget promises nothing of that.
        let charged = self.workers[worker].host.budgets_written() > written;
        let before = self.report.spent[worker % self.setup.proxies].1.len();
        self.happened(worker);
        if !charged {
            self.report.spent[worker % self.setup.proxies].1.truncate(before);
        }
        self.go_on(worker);
    }

    fn call<R>(&mut self, worker: usize, call: impl FnOnce(&mut Envoy, &mut dyn FnMut(&[usize]) -> usize) -> R) -> R {
        let elapsed = self.elapsed();
        let (random, avoids) = (&mut self.random, self.setup.avoids_previous);
        let drained = self.setup.drained.filter(|(from, _)| elapsed >= *from).map(|(_, host)| host);
        let hosts: Vec<_> = (0..self.setup.replicas.len()).filter(|host| Some(*host) != drained).collect();
        call(&mut self.workers[worker], &mut |tried| {
            let mut any = hosts[random.below(hosts.len() as u64) as usize];
            for _ in 0..5 {
                if avoids && tried.contains(&any) {
                    any = hosts[random.below(hosts.len() as u64) as usize];
                }
            }
            any
        })
    }

    fn go_on(&mut self, worker: usize) {
        while let Some(next) = self.workers[worker].next() {
            match next {
                Next::Sent(sent) => self.sent(worker, sent),
                Next::Retry(request, attempts) => {
                    let back_off = self.micros(0, 25_000 * ((1 << (attempts - 1).min(4)) - 1));
                    self.queue(back_off, What::Retries(worker, request));
                }
                Next::Wait(attempt, after) => self.queue(after, What::Waited(worker, attempt)),
                Next::Logged(host, began, failed) => {
                    if failed {
                        let (began, ended) = (began.since(START), self.elapsed());
                        self.report.failures[worker % self.setup.proxies][host].push((began, ended));
                    }
                }
                Next::Over(over) => self.over(worker, over),
            }
        }
    }

    fn sent(&mut self, worker: usize, sent: Sent) {
        let (now, elapsed, host) = (self.now, self.elapsed(), sent.host);
        let Some(request) = self.requests.get(&(worker, sent.request)) else { return };
        let (served, probe, place) = (request.fine > 0, request.probe && sent.number == 1, request.place);
        let stream = request.stream;
        let state = self.setup.replicas[host].state(elapsed);
        self.report.attempt(host, served, probe, state, elapsed);
        if state != State::Fine && served {
            let out = |record: Option<Rc<[u8]>>| {
                let shared = record.and_then(|record| Ejections::decode(&record, &self.setup.policy, now));
                shared.is_some_and(|shared| shared.of(&address(host)).is_some())
            };
            let by_record = out(self.records[worker % self.setup.proxies].borrow().get(&ejections()).cloned());
            let out = (by_record, out(self.workers[worker].host.known_ejections()));
            let from = self.setup.replicas[host].down_since(elapsed);
            self.report.dead(host, from, out, probe, sent.listed);
        }
        let takes = self.micros(2_000, 8_000);
        self.report.sent[host].push(elapsed);
        let each = &mut self.report.each[place];
        each.started += u32::from(state == State::Fine);
        let takes = if each.slow { SLOW } else { takes };
        let fails = self.setup.fails.filter(|_| each.fails && state == State::Fine).map(|(signal, _)| signal);
        if fails == Some(Signal::Timeout) {
            return self.queue(self.setup.timeout, What::Waited(worker, sent.attempt));
        }
        let (takes, signal) = match state {
            State::Fine => match self.setup.replicas[host].breaks_within(elapsed, takes) {
                Some(after) => {
                    if served {
                        self.report.spend(Spent::Unknowable);
                    }
                    (after, Signal::Reset)
                }
                None if stream => return self.queue(takes, What::Begins(worker, sent.attempt, host)),
                None => (takes, fails.unwrap_or(Signal::Answered)),
            },
            State::Resets => (self.micros(500, 4_000), Signal::Reset),
            State::Refuses => (self.micros(100, 600), Signal::Refused),
            State::Hangs => (self.setup.timeout, Signal::Timeout),
            State::Mixed(signal, percent) if self.random.below(100) < percent => match signal {
                Signal::Timeout => (self.setup.timeout, signal),
                signal => (takes, signal),
            },
            State::Mixed(..) => (takes, Signal::Answered),
        };
        self.queue(takes, What::Ends(worker, sent.attempt, signal.index() as u8));
    }

    /// A stream is answered, and goes on.
    fn begins(&mut self, worker: usize, attempt: StreamId, host: usize) {
        let (Some(streams), now, elapsed) = (self.setup.streams, self.now, self.elapsed()) else { return };
        let Some(id) = self.workers[worker].request_of(attempt) else { return };
        self.drive(worker, |envoy, _| envoy.stream_begins(attempt, streams.head, now));
        let Some(request) = self.requests.get(&(worker, id)) else { return };
        self.report.each[request.place].over.get_or_insert((elapsed, true));
        let (from, to) = streams.lasts;
        let (mut lasts, mut by) = (self.micros(from * 1_000, to * 1_000), Close::Host);
        match streams.ends {
            Ends::Each(close) => by = close,
            Ends::Together(every) => {
                // Each host at a time of its own.
                let since = (elapsed + every * host as u32 / 7).as_nanos() % every.as_nanos();
                lasts = every - Duration::from_nanos(since as u64);
            }
        }
        if let Some(breaks) = self.setup.replicas[host].breaks_within(elapsed, lasts) {
            (lasts, by) = (breaks, Close::Host);
            let after = self.micros(0, 200_000);
            self.queue(breaks + after, What::Reconnects);
        }
        self.queue(lasts, What::Closes(worker, attempt, by));
    }

    fn over(&mut self, worker: usize, over: Over) {
        let Some(Request { get, fine, probe, place, .. }) = self.requests.remove(&(worker, over.request)) else {
            return;
        };
        let (answered, elapsed) = (matches!(over.signal, Signal::Answered | Signal::Closed), self.elapsed());
        // A stream was answered when it began.
        self.report.each[place].over.get_or_insert((elapsed, answered));
        self.report.request(get, fine, answered, over.host, over.attempts == 1 && probe, elapsed);
    }

    /// Counts what a worker says that happened. Whether a request is a probe of a host.
    fn happened(&mut self, worker: usize) -> bool {
        let (proxy, elapsed) = (worker % self.setup.proxies, self.elapsed());
        let mut probe = false;
        while let Some(event) = self.workers[worker].worker.poll_event() {
            let (circuits, spent) = (&mut self.report.circuits[proxy], &mut self.report.spent[proxy]);
            match event.what {
                Happened::HostProbed => probe = true,
                Happened::CircuitProbed => circuits.events.push((elapsed, None)),
                Happened::Circuit(event, _) => circuits.events.push((elapsed, Some(event))),
                Happened::RetriesGranted(_) => spent.1.push(elapsed),
                Happened::AttemptEnded(Signal::Cancelled | Signal::Local) => {}
                Happened::AttemptEnded(signal) => {
                    let broke = !matches!(signal, Signal::Answered | Signal::Error | Signal::Pushback);
                    circuits.ended.push((elapsed, broke));
                }
                Happened::Host(event) => self.host(proxy, &event.event, elapsed),
                _ => {}
            }
        }
        probe
    }

    fn host(&mut self, proxy: usize, event: &outlier::Event, at: Duration) {
        match event {
            outlier::Event::Ejected(ejection) => {
                let host = index(&ejection.address);
                self.report.ejected(proxy, host, self.setup.replicas[host].was_fine(at), at);
            }
            outlier::Event::Unejected(address) => self.report.readmitted(proxy, index(address), at),
            outlier::Event::AllUnejected => self.report.everybody(proxy, at),
            outlier::Event::Detected(..) => self.report.detected += 1,
            outlier::Event::Extended(_) => self.report.failed_probes += 1,
        }
    }

    /// What must hold at all times.
    fn observe(&mut self) {
        let hosts = self.setup.replicas.len();
        for (records, (last, out)) in self.records.iter().zip(&mut self.out) {
            let record = records.borrow().get(&ejections()).cloned();
            if last.as_ref().map(Rc::as_ptr) == record.as_ref().map(Rc::as_ptr) {
                continue;
            }
            let shared = record.as_ref().and_then(|record| Ejections::decode(record, &self.setup.policy, self.now));
            *out = shared.map_or(0, |shared| shared.ejected.len());
            *last = record;
            assert!(*out < hosts, "all hosts are out");
            let most = self.setup.policy.max_ejected(hosts);
            assert!(*out <= most, "{out} of {hosts} are out");
            self.report.most_out = self.report.most_out.max(*out);
        }
        self.report.out_at_end = self.out.iter().map(|(_, out)| *out).max().unwrap_or_default();
    }
}

/// Where the record of the hosts that are out is kept.
fn ejections() -> (Record, String, bool) {
    (Record::Ejections, CLUSTER.to_owned(), false)
}
