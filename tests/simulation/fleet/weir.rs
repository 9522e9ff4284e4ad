//! Proxies with Weir: the engine as the module has it, in an Envoy as `tests/support/router.rs` has it.

use std::time::Duration;

use weir::config;
use weir::engine::host::StreamId;
use weir::signal::Signal;

use super::super::router::{Envoy, Next, Sent, workers_begin_after};
use super::super::sim_host::Records;
use super::{START, Setup, WORKERS, What, World};

/// A request under way.
#[derive(Debug)]
pub struct Request {
    get: bool,
    arrived: Duration,
    /// Whether an attempt failed that may have been processed, and whether another followed it.
    unsafe_to_repeat: bool,
    repeated: bool,
}

/// All workers, those of one proxy beside each other.
pub fn workers(setup: &Setup, configuration: &str) -> Vec<Envoy> {
    let config = config::parse(configuration.as_bytes()).expect("the configuration is valid");
    let policy = config.policy.expect("it is for decide");
    let proxy = |proxy: usize| {
        let records = Records::default();
        workers_begin_after(&records, setup.seed.wrapping_mul(1_000_003) + (proxy * WORKERS) as u64);
        let policy = policy.clone();
        (0..WORKERS).map(move |_| Envoy::new(records.clone(), policy.clone(), START))
    };
    (0..setup.proxies).flat_map(proxy).collect()
}

impl World<'_> {
    /// A request arrives at a worker. `false`: it is answered at once, by an error.
    pub(super) fn arrives_at(&mut self, worker: usize, get: bool) -> bool {
        let now = START.saturating_add(self.now);
        let method = if get { "GET" } else { "POST" };
        let id = self.call(worker, |envoy, balance| envoy.arrives(method, now, balance));
        if let Some(id) = id {
            let request = Request { get, arrived: self.now, unsafe_to_repeat: false, repeated: false };
            self.under_way.insert((worker, id), request);
        }
        self.go_on(worker);
        id.is_some()
    }

    pub(super) fn retries(&mut self, worker: usize, request: StreamId) {
        let now = START.saturating_add(self.now);
        self.call(worker, |envoy, balance| envoy.retry(request, now, balance));
        self.go_on(worker);
    }

    pub(super) fn waited(&mut self, worker: usize, attempt: StreamId) {
        let now = START.saturating_add(self.now);
        self.workers[worker].waited(attempt, now);
        self.go_on(worker);
    }

    pub(super) fn attempt_ends(&mut self, worker: usize, attempt: StreamId, signal: Signal) {
        let now = START.saturating_add(self.now);
        let request = self.workers[worker].request_of(attempt);
        if let Some(request) = request.and_then(|id| self.under_way.get_mut(&(worker, id))) {
            request.unsafe_to_repeat |= matches!(signal, Signal::Reset | Signal::Timeout | Signal::Error);
        }
        self.workers[worker].ended(attempt, signal, now);
        self.go_on(worker);
    }

    pub(super) fn worker_ticks(&mut self, worker: usize) {
        let now = START.saturating_add(self.now);
        self.workers[worker].tick(now);
        self.go_on(worker);
    }

    fn call<R>(&mut self, worker: usize, call: impl FnOnce(&mut Envoy, &mut dyn FnMut(&[usize]) -> usize) -> R) -> R {
        let (random, hosts) = (&mut self.random, self.setup.hosts);
        call(&mut self.workers[worker], &mut |tried| super::any_other(tried, hosts, random))
    }

    fn go_on(&mut self, worker: usize) {
        while self.workers[worker].worker.poll_event().is_some() {}
        while let Some(next) = self.workers[worker].next() {
            match next {
                Next::Sent(sent) => self.sent(worker, sent),
                Next::Retry(request, number) => {
                    let back_off = super::back_off(number - 1, &mut self.random);
                    self.queue(back_off, What::Retries(worker, request));
                }
                Next::Wait(attempt, after) => self.queue(after, What::Waited(worker, attempt)),
                Next::Logged(..) => {}
                Next::Over(over) => {
                    let request = self.under_way.remove(&(worker, over.request));
                    if let Some(Request { get, arrived, .. }) = request
                        && over.signal == Signal::Answered
                    {
                        self.outcome.answered(get, arrived);
                    }
                }
            }
        }
    }

    fn sent(&mut self, worker: usize, sent: Sent) {
        if let Some(request) = self.under_way.get_mut(&(worker, sent.request))
            && !request.get
            && request.unsafe_to_repeat
            && !std::mem::replace(&mut request.repeated, true)
        {
            self.outcome.repeated(self.now);
        }
        let (takes, signal) = self.hosts.attempt(sent.host, self.now, &mut self.random);
        self.outcome.attempt(self.hosts.is_down(sent.host, self.now), self.now);
        self.queue(takes, What::AttemptEnds(worker, sent.attempt, signal.index() as u8));
    }
}
