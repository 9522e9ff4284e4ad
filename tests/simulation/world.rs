//! Some proxy workers in front of some replicas, in virtual time: the code under test unchanged, all else as simple as it
//! can be without being wrong about what matters here.
//!
//! - A request goes to a random worker. Its attempts follow the list, then a balancer that picks at random.
//! - Retries as in the safety table: what was refused always, what broke off or hung only for a GET; at most two, after
//!   Envoy's back-off, if the budget pays.
//! - A replica that starts to break connections breaks those that it holds.
//! - Workers exchange when the code asks for it, and ten times a second, each at another moment.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use weir::base::percent::Percent;
use weir::base::random::Random;
use weir::base::time::Time;
use weir::circuit::{self, Admission, BreakerPolicy, Circuit, Ticket, Wish};
use weir::outlier::detector::OutlierPolicy;
use weir::outlier::shared::{Ejections, WorkerId};
use weir::outlier::{EndedAttempt, Event, Outliers, Probe};
use weir::retry::budget::{Asker, BudgetPolicy, Charge};
use weir::retry::reservations::Account;
use weir::signal::Signal;

use super::replica::{Replica, State};
use super::report::{Report, Spent};

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub replicas: Vec<Replica>,
    pub workers: usize,
    /// Requests per second.
    pub rate: u64,
    /// Percent.
    pub gets: u64,
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

/// Where the clock starts.
const START: Time = Time::from_nanos(1_800_000_000_000_000_000);
const TICK: Duration = Duration::from_millis(100);
const RETRIES: u32 = 2;

#[derive(Debug)]
struct Request {
    worker: usize,
    get: bool,
    /// Whether some replica was fine when it came.
    fine: usize,
    list: Vec<usize>,
    tried: Vec<usize>,
    probe: Option<Probe>,
    attempts: u32,
    host: usize,
    began: Time,
    arrived: Time,
    /// It finds out for an open circuit.
    ticket: Option<Ticket>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Arrives,
    Starts(usize),
    Ends(usize, u8),
    Ticks(usize),
}

/// See the module.
pub struct World {
    setup: Setup,
    random: Random,
    now: Time,
    queue: BinaryHeap<Reverse<(Time, u64, What)>>,
    queued: u64,
    workers: Vec<Outliers>,
    /// What the workers of each proxy share, about the hosts and about the budget.
    records: Vec<Option<Vec<u8>>>,
    /// Which hosts there are, by proxy.
    rosters: Vec<Option<Vec<u8>>>,
    budgets: Vec<Option<Vec<u8>>>,
    accounts: Vec<Account>,
    /// Each worker's side of the circuit, if there is one, and what those of a proxy share.
    circuits: Vec<Option<Circuit>>,
    shared_circuits: Vec<Option<Vec<u8>>>,
    requests: Vec<Request>,
    pub report: Report,
}

impl World {
    /// Runs it from start to end.
    pub fn run(setup: Setup) -> Report {
        let worker = |id| Outliers::new(setup.policy, WorkerId(setup.seed.wrapping_mul(1_000) + id as u64 + 1));
        let mut world = Self {
            random: Random::new(setup.seed),
            now: START,
            queue: BinaryHeap::new(),
            queued: 0,
            workers: (0..setup.workers).map(worker).collect(),
            records: vec![None; setup.proxies],
            rosters: vec![None; setup.proxies],
            budgets: vec![None; setup.proxies],
            accounts: vec![Account::new(BudgetPolicy::default()); setup.workers],
            circuits: vec![setup.breaker.map(Circuit::new); setup.workers],
            shared_circuits: vec![None; setup.proxies],
            requests: Vec::new(),
            report: Report::new(setup.replicas.len(), setup.proxies),
            setup,
        };
        world.queue(Duration::ZERO, What::Arrives);
        for worker in 0..world.setup.workers {
            world.queue(Duration::from_millis(37 * worker as u64 % 100), What::Ticks(worker));
        }
        while let Some(Reverse((time, _, what))) = world.queue.pop() {
            if time.since(START) >= world.setup.lasts {
                break;
            }
            world.now = time;
            match what {
                What::Arrives => world.arrives(),
                What::Starts(request) => world.starts(request),
                What::Ends(request, signal) => world.ends(request, Signal::ALL[usize::from(signal)]),
                What::Ticks(worker) if world.is_gone(worker) => {}
                What::Ticks(worker) => {
                    if world.workers[worker].has_requests(time) || world.workers[worker].is_pending() {
                        world.exchange(worker);
                    }
                    world.publish(worker);
                    if world.circuits[worker].as_ref().is_some_and(|circuit| circuit.is_due(time)) {
                        world.exchange_circuit(worker);
                    }
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
        let gap = self.micros(0, gap.max(1));
        self.queue(gap, What::Arrives);
        let mut worker = self.random.below(self.setup.workers as u64) as usize;
        if self.is_gone(worker) {
            // The next one of the same proxy.
            worker = self.setup.proxies;
        }
        let elapsed = self.elapsed();
        let get = self.random.below(100) < self.setup.gets;
        let Some(ticket) = self.pass_circuit(worker, get) else {
            self.report.circuits[worker % self.setup.proxies].shed.push(elapsed);
            return;
        };
        self.accounts[worker].arrive(self.now);
        self.report.spent[worker % self.setup.proxies].0.push(elapsed);
        let (now, elapsed) = (self.now, self.elapsed());
        if self.workers[worker].is_stale(now) && self.setup.protected {
            self.exchange(worker);
        }
        let outliers = &mut self.workers[worker];
        let route = match ticket {
            _ if !self.setup.protected => None,
            Some(_) => outliers.route_circuit_probe(now, RETRIES),
            None => outliers.route(now, get, RETRIES, self.setup.explore),
        };
        let list: Vec<usize> = route.iter().flat_map(|route| route.hosts.split(',')).map(index).collect();
        let mut distinct = list.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), list.len(), "a list names a host twice");
        self.requests.push(Request {
            worker,
            get,
            fine: self.setup.replicas.iter().filter(|replica| replica.state(elapsed) == State::Fine).count(),
            list,
            tried: Vec::new(),
            probe: route.and_then(|route| route.probe),
            attempts: 0,
            host: 0,
            began: now,
            arrived: now,
            ticket,
        });
        self.starts(self.requests.len() - 1);
    }

    fn starts(&mut self, number: usize) {
        let (now, elapsed) = (self.now, self.elapsed());
        let mut any = self.random.below(self.setup.replicas.len() as u64) as usize;
        for _ in 0..5 {
            if self.setup.avoids_previous && self.requests[number].tried.contains(&any) {
                any = self.random.below(self.setup.replicas.len() as u64) as usize;
            }
        }
        let request = &mut self.requests[number];
        let listed = request.list.get(request.attempts as usize).copied();
        request.host = listed.unwrap_or(any);
        request.began = now;
        request.tried.push(request.host);
        request.attempts += 1;
        let (host, served, probe) = (request.host, request.fine > 0, request.probe.is_some() && request.attempts == 1);
        let state = self.setup.replicas[host].state(elapsed);
        self.report.attempt(host, served, probe, state, elapsed);
        if state != State::Fine && served {
            let (worker, address) = (request.worker, address(host));
            let record = self.records[worker % self.setup.proxies].as_deref();
            let shared = record.and_then(|record| Ejections::decode(record, &self.setup.policy, now));
            let by_record = shared.is_some_and(|shared| shared.of(&address).is_some());
            let out = (by_record, self.workers[worker].is_ejected(&address));
            let from = self.setup.replicas[host].down_since(elapsed);
            self.report.dead(host, from, out, probe, listed.is_some());
        }
        let takes = self.micros(2_000, 8_000);
        let (takes, signal) = match state {
            State::Fine => match self.setup.replicas[host].breaks_within(elapsed, takes) {
                Some(after) => {
                    if served {
                        self.report.spend(Spent::Unknowable);
                    }
                    (after, Signal::Reset)
                }
                None => (takes, Signal::Answered),
            },
            State::Resets => (self.micros(500, 4_000), Signal::Reset),
            State::Refuses => (self.micros(100, 600), Signal::Refused),
            State::Hangs => (self.setup.timeout, Signal::Timeout),
            State::Mixed(signal, percent) => {
                (takes, if self.random.below(100) < percent { signal } else { Signal::Answered })
            }
        };
        self.queue(takes, What::Ends(number, signal.index() as u8));
    }

    fn ends(&mut self, number: usize, signal: Signal) {
        let request = &self.requests[number];
        let (worker, host, get, attempts) = (request.worker, request.host, request.get, request.attempts);
        let (fine, probe) = (request.fine, request.probe);
        let address = address(host);
        let ended = EndedAttempt { host: Some(&address), signal, began: request.began, weight: 1, picked: false };
        let began = request.began;
        if self.setup.protected && self.workers[worker].attempt_ended(&ended, self.now) {
            self.exchange(worker);
        }
        if let Some(circuit) = &mut self.circuits[worker] {
            circuit.attempt_ended(signal, began, self.now);
            let broke = !matches!(signal, Signal::Answered | Signal::Error | Signal::Pushback);
            let elapsed = self.elapsed();
            self.report.circuits[worker % self.setup.proxies].ended.push((elapsed, broke));
        }
        let answered = signal == Signal::Answered;
        if !answered {
            let (began, ended) = (began.since(START), self.elapsed());
            self.report.failures[worker % self.setup.proxies][host].push((began, ended));
        }
        if answered && attempts > 1 {
            self.accounts[worker].helped(self.now);
        } else if answered {
            self.accounts[worker].answered(self.now);
        }
        let repeats = match signal {
            Signal::Answered => false,
            Signal::Refused => true,
            _ => get,
        };
        if repeats && attempts <= RETRIES && self.pays(number) {
            let back_off = self.micros(0, 25_000 * ((1 << attempts) - 1));
            self.queue(back_off, What::Starts(number));
            return;
        }
        if let Some(probe) = probe {
            self.workers[worker].probe_over(probe);
        }
        // All that is known of a request without a list is where it ended.
        if self.requests[number].list.is_empty() {
            self.workers[worker].picked(&address, self.now);
        }
        if let Some(ticket) = self.requests[number].ticket {
            self.change_circuit(worker, Wish::of_probe(ticket, Some(signal)));
        }
        let elapsed = self.elapsed();
        self.report.request(get, fine, answered, host, attempts == 1 && probe.is_some(), elapsed);
    }

    /// Whether the budget pays for a retry of this request.
    fn pays(&mut self, number: usize) -> bool {
        let Request { worker, arrived, attempts, .. } = self.requests[number];
        let proxy = worker % self.setup.proxies;
        let asker = Asker { arrived, again: attempts > 1 };
        let (charge, record) = self.accounts[worker].charge(self.budgets[proxy].as_deref(), asker, self.now);
        if let Some(record) = record {
            self.budgets[proxy] = Some(record);
            self.accounts[worker].published();
        }
        if charge == Charge::Granted {
            let elapsed = self.elapsed();
            self.report.spent[proxy].1.push(elapsed);
        }
        charge == Charge::Granted
    }

    fn publish(&mut self, worker: usize) {
        if self.accounts[worker].pending() {
            let proxy = worker % self.setup.proxies;
            self.budgets[proxy] = Some(self.accounts[worker].publish(self.budgets[proxy].as_deref(), self.now));
            self.accounts[worker].published();
        }
    }

    /// `None`: the request is shed. Else it goes on, as a probe of the circuit where there is a ticket.
    fn pass_circuit(&mut self, worker: usize, get: bool) -> Option<Option<Ticket>> {
        let now = self.now;
        let Some(circuit) = &mut self.circuits[worker] else { return Some(None) };
        if circuit.requested(now) {
            self.exchange_circuit(worker);
        }
        let circuit = self.circuits[worker].as_mut()?;
        match circuit.admit(now, || get) {
            Admission::Pass => return Some(None),
            Admission::Shed => {}
            Admission::Due => match self.change_circuit(worker, Wish::Probe) {
                Some(circuit::Event::Probing(ticket)) => return Some(Some(ticket)),
                _ if !self.circuits[worker].as_ref()?.is_open() => return Some(None),
                _ => {}
            },
        }
        self.circuits[worker].as_mut()?.shed();
        None
    }

    fn exchange_circuit(&mut self, worker: usize) {
        let Some(circuit) = &self.circuits[worker] else { return };
        let answering = circuit.is_troubled() && self.workers[worker].some_host_answers(circuit.answering(), self.now);
        self.change_circuit(worker, Wish::Exchange { answering });
    }

    fn change_circuit(&mut self, worker: usize, wish: Wish) -> Option<circuit::Event> {
        let proxy = worker % self.setup.proxies;
        let circuit = self.circuits[worker].as_mut()?;
        if let Some(record) = circuit.exchange(self.shared_circuits[proxy].as_deref(), wish, self.now) {
            self.shared_circuits[proxy] = Some(record);
        }
        let event = circuit.done();
        if let Some(event) = event {
            let elapsed = self.elapsed();
            self.report.circuits[proxy].events.push((elapsed, event));
        }
        event
    }

    fn exchange(&mut self, worker: usize) {
        let outliers = &mut self.workers[worker];
        let proxy = worker % self.setup.proxies;
        if let Some(record) = outliers.exchange(self.records[proxy].as_deref(), self.now) {
            self.records[proxy] = Some(record);
        }
        outliers.published();
        let elapsed = self.now.since(START);
        let events = outliers.take_events();
        if events.iter().any(|event| matches!(event, Event::Ejected(_) | Event::Extended(_))) {
            self.rosters[proxy] = outliers.host_list(self.now).or(self.rosters[proxy].take());
        }
        if outliers.wants_host_list()
            && let Some(roster) = &self.rosters[proxy]
        {
            outliers.learn(roster, self.now);
        }
        for event in events {
            match event {
                Event::Ejected(ejection) => {
                    let host = index(&ejection.address);
                    self.report.ejected(proxy, host, self.setup.replicas[host].was_fine(elapsed), elapsed);
                }
                Event::Unejected(address) => self.report.readmitted(proxy, index(&address), elapsed),
                Event::AllUnejected => self.report.everybody(proxy, elapsed),
                Event::Detected(..) => self.report.detected += 1,
                Event::Extended(_) => self.report.failed_probes += 1,
            }
        }
    }

    /// What must hold at all times.
    fn observe(&mut self) {
        let hosts = self.setup.replicas.len();
        for outliers in &self.workers {
            assert!(outliers.ejected() < hosts, "all hosts are out");
            let most = self.setup.policy.max_ejected(hosts);
            assert!(outliers.ejected() <= most, "{} of {hosts} are out", outliers.ejected());
            self.report.most_out = self.report.most_out.max(outliers.ejected());
        }
        self.report.out_at_end = self.workers.iter().map(Outliers::ejected).max().unwrap_or_default();
    }
}

fn address(host: usize) -> String {
    format!("10.0.{}.{}:8080", host / 256, host % 256)
}

fn index(address: &str) -> usize {
    let mut numbers = address.split([':', '.']).skip(2).map(|number| number.parse::<usize>().unwrap());
    numbers.next().unwrap() * 256 + numbers.next().unwrap()
}
