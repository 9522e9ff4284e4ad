//! A proxy with Weir: its engine unchanged, and around it what `src/filter` does in Envoy, without Envoy.

use std::time::Duration;

use weir::base::random::{Random, hash};
use weir::base::time::Time;
use weir::circuit::{Admission, Event, Wish};
use weir::config;
use weir::engine::Engine;
use weir::engine::cluster::Cluster;
use weir::engine::correlate::ClusterId;
use weir::outlier::shared::WorkerId;
use weir::outlier::{EndedAttempt, Outliers};
use weir::retry;
use weir::retry::budget::{Asker, Charge};
use weir::signal::{Answer, Signal};

use super::{Proxy, Request, START, Setup, WORKERS};

const NAME: &str = "fleet";
/// Of a calm cluster's answered attempts, and of its requests, one in so many is looked at.
const SAMPLE: u64 = 8;

pub struct Weir {
    hosts: usize,
    workers: Vec<Worker>,
    /// Envoy's shared data.
    ejections: Option<Vec<u8>>,
    budget: Option<Vec<u8>>,
    circuit: Option<Vec<u8>>,
}

struct Worker {
    engine: Engine,
    id: ClusterId,
    number: WorkerId,
    /// Answered attempts, and requests, of which a sample is looked at.
    attempts: u32,
    requests: u32,
}

impl Worker {
    fn cluster(&mut self) -> &mut Cluster {
        self.engine.cluster_mut(self.id).expect("one cluster is never forgotten")
    }

    fn outliers(&mut self) -> &mut Outliers {
        if self.cluster().outliers.is_none() {
            let policy = self.engine.outlier_policy(self.id).expect("outlier detection is on");
            self.cluster().outliers = Some(Outliers::new(policy, self.number));
        }
        self.cluster().outliers.as_mut().expect("it was just made")
    }
}

fn time(at: Duration) -> Time {
    START.saturating_add(at)
}

pub fn address(host: usize) -> String {
    format!("10.0.{}.{}:80", host / 256, host % 256)
}

fn index(address: &str) -> usize {
    let mut numbers = address.split([':', '.']).skip(2).map(|number| number.parse::<usize>().expect("a number"));
    let mut number = || numbers.next().expect("an address");
    number() * 256 + number()
}

fn is_sampled(n: u32) -> bool {
    hash(&n.to_le_bytes(), 0).is_multiple_of(SAMPLE)
}

impl Weir {
    pub fn new(setup: &Setup, proxy: usize, configuration: &str) -> Self {
        let worker = |worker: usize| {
            let config = config::parse(configuration.as_bytes()).expect("the configuration is valid");
            let mut engine = Engine::new(config.policy.expect("it is for decide"));
            let number = WorkerId(setup.seed.wrapping_mul(1_000_003) + (proxy * WORKERS + worker) as u64 + 1);
            Worker { id: engine.cluster_id(NAME), engine, number, attempts: 0, requests: 0 }
        };
        Self {
            hosts: setup.hosts,
            workers: (0..WORKERS).map(worker).collect(),
            ejections: None,
            budget: None,
            circuit: None,
        }
    }

    fn exchange(&mut self, worker: usize, at: Duration) {
        let outliers = self.workers[worker].outliers();
        if let Some(record) = outliers.exchange(self.ejections.as_deref(), time(at)) {
            self.ejections = Some(record);
        }
        outliers.published();
        outliers.take_events();
    }

    fn change_circuit(&mut self, worker: usize, wish: Wish, at: Duration) -> Option<Event> {
        let circuit = self.workers[worker].cluster().circuit.as_mut().expect("there is a breaker");
        if let Some(record) = circuit.exchange(self.circuit.as_deref(), wish, time(at)) {
            self.circuit = Some(record);
        }
        circuit.done()
    }

    fn exchange_circuit(&mut self, worker: usize, at: Duration) {
        let cluster = self.workers[worker].cluster();
        let answering = match (&cluster.circuit, &cluster.outliers) {
            (Some(circuit), Some(outliers)) => {
                circuit.is_troubled() && outliers.some_host_answers(circuit.answering(), time(at))
            }
            _ => false,
        };
        self.change_circuit(worker, Wish::Exchange { answering }, at);
    }

    /// Whether it goes on.
    fn pass_circuit(&mut self, request: &mut Request, at: Duration) -> bool {
        let worker = request.worker;
        let circuit = self.workers[worker].cluster().circuit.as_mut().expect("there is a breaker");
        if circuit.requested(time(at)) {
            self.exchange_circuit(worker, at);
        }
        let circuit = self.workers[worker].cluster().circuit.as_mut().expect("there is a breaker");
        match circuit.admit(time(at), || request.get) {
            Admission::Pass => return true,
            Admission::Shed => {}
            Admission::Due => {
                if let Some(Event::Probing(ticket)) = self.change_circuit(worker, Wish::Probe, at) {
                    request.ticket = Some(ticket);
                    return true;
                }
                if !self.workers[worker].cluster().is_open() {
                    return true;
                }
            }
        }
        self.workers[worker].cluster().circuit.as_mut().expect("there is a breaker").shed();
        false
    }

    fn steer(&mut self, request: &mut Request, at: Duration) {
        let (now, worker) = (time(at), request.worker);
        self.workers[worker].outliers().requested(now);
        if self.workers[worker].outliers().is_stale(now) {
            self.exchange(worker, at);
        }
        let worker = &mut self.workers[worker];
        let explore = worker.engine.steering().expect("steering is on").explore_percent;
        let retries = worker.engine.retry_policy(worker.id).expect("retries are on").max_retries;
        let cluster = worker.cluster();
        let outliers = cluster.outliers.as_mut().expect("they were just asked");
        let repeatable = request.plan.is_some_and(retry::Plan::repeats)
            && (outliers.is_calm(now) || cluster.account.as_mut().is_none_or(|account| account.affords(now)));
        let route = if request.ticket.is_some() {
            outliers.route_circuit_probe(now, retries)
        } else {
            outliers.route(now, repeatable, retries, explore)
        };
        if let Some(route) = route {
            request.list.extend(route.hosts.split(',').map(index));
            request.probe = route.probe;
        }
    }

    /// What `guard` does where the safety table allows another attempt.
    fn charge(&mut self, request: &mut Request, signal: Signal, at: Duration) -> bool {
        let account = self.workers[request.worker].cluster().account.as_mut().expect("there is a budget");
        let asker = Asker { arrived: time(request.arrived), again: request.charged > 0 };
        let unprocessed = matches!(signal, Signal::Refused | Signal::Unreachable);
        let (charge, record) = if unprocessed && account.try_unprocessed(asker.again, time(at)) {
            (Charge::Granted, None)
        } else {
            account.charge(self.budget.as_deref(), asker, time(at))
        };
        if let Some(record) = record {
            self.budget = Some(record);
            account.published();
        }
        if charge == Charge::Granted {
            request.charged += 1;
            if request.held >= Some(request.charged) {
                account.release(1);
            }
        }
        charge == Charge::Granted
    }
}

impl Proxy for Weir {
    fn arrives(&mut self, request: &mut Request, at: Duration) -> bool {
        if !self.pass_circuit(request, at) {
            return false;
        }
        let worker = &mut self.workers[request.worker];
        let method: &[u8] = if request.get { b"GET" } else { b"POST" };
        let asked = retry::Request { method, grpc: false, idempotency_key: false, attempt: 1 };
        let admission = worker.engine.admit(worker.id, &asked, true, time(at), time(at));
        (request.plan, request.held) = (admission.plan, admission.held);
        self.steer(request, at);
        true
    }

    fn picks(&mut self, request: &Request, _: Duration, random: &mut Random) -> Option<usize> {
        let listed = request.list.get(request.attempts as usize).copied();
        Some(listed.unwrap_or_else(|| request.any_other(self.hosts, random)))
    }

    fn ended(&mut self, request: &mut Request, signal: Signal, at: Duration, random: &mut Random) -> Option<Duration> {
        let now = time(at);
        let worker = &mut self.workers[request.worker];
        let answered = signal == Signal::Answered;
        let calm = worker.outliers().is_calm(now);
        let mut told = !calm || !answered;
        if !told {
            worker.attempts = worker.attempts.wrapping_add(1);
            told = is_sampled(worker.attempts);
        }
        let began = time(request.began);
        worker.cluster().circuit.as_mut().expect("there is a breaker").attempt_ended(signal, began, now);
        if told {
            let address = address(request.host);
            let weight = if answered && calm { SAMPLE as u32 } else { 1 };
            let ended = EndedAttempt { host: Some(&address), signal, began, weight, picked: false };
            if worker.outliers().attempt_ended(&ended, now) {
                self.exchange(request.worker, at);
            }
        }
        let worker = &mut self.workers[request.worker];
        let policy = worker.engine.retry_policy(worker.id).expect("retries are on");
        let answer = match signal {
            Signal::Answered => Answer { status: Some(200), ..Answer::default() },
            Signal::Error => Answer { status: Some(503), ..Answer::default() },
            _ => Answer::default(),
        };
        let permitted = request.plan.is_some_and(|plan| plan.permits(policy, signal, &answer));
        let most = request.held.unwrap_or(policy.max_retries);
        if permitted && request.attempts <= most && self.charge(request, signal, at) {
            return Some(request.back_off(random));
        }
        let account = self.workers[request.worker].cluster().account.as_mut().expect("there is a budget");
        let retried = request.attempts > 1;
        if signal.is_failure() && (permitted || retried) {
            account.failed(retried, now);
        } else if answered && retried {
            account.helped(now);
        } else if answered {
            account.answered(now);
        }
        if let Some(ticket) = request.ticket.take() {
            self.change_circuit(request.worker, Wish::of_probe(ticket, Some(signal)), at);
        }
        None
    }

    fn over(&mut self, request: &mut Request, _: bool, at: Duration) {
        let worker = &mut self.workers[request.worker];
        let cluster = worker.cluster();
        if let (Some(held), Some(account)) = (request.held, &mut cluster.account) {
            account.release(held.saturating_sub(request.charged));
        }
        let outliers = cluster.outliers.as_mut().expect("a request arrived");
        if let Some(probe) = request.probe.take() {
            outliers.probe_over(probe);
        }
        if !request.list.is_empty() {
            return;
        }
        if outliers.is_calm(time(at)) && outliers.knows_shares() {
            worker.requests = worker.requests.wrapping_add(1);
            if !is_sampled(worker.requests) {
                return;
            }
        }
        let outliers = worker.outliers();
        outliers.picked(&address(request.host), time(at));
    }

    fn tick(&mut self, worker: usize, at: Duration) {
        let now = time(at);
        let state = &mut self.workers[worker];
        for _ in state.engine.clusters_to_exchange(now) {
            self.exchange(worker, at);
        }
        let state = &mut self.workers[worker];
        if !state.engine.due_accounts(now).is_empty() {
            let account = state.cluster().account.as_mut().expect("there is a budget");
            let record = account.publish(self.budget.as_deref(), now);
            account.published();
            self.budget = Some(record);
        }
        if !self.workers[worker].engine.due_circuits(now).is_empty() {
            self.exchange_circuit(worker, at);
            let cluster = self.workers[worker].cluster();
            cluster.reported_open = cluster.is_open();
        }
        self.workers[worker].engine.changed_host_counts();
    }
}
