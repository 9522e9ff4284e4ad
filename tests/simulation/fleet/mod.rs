//! A fleet: many proxies in front of many hosts of finite capacity, in virtual time, through an incident and two outages.
//!
//! ```text
//!   0 s   calm
//!   5 s   the incident: a fifth of the hosts crash-loop (they reset for 0.3 to 0.8 s, refuse for 1 to 3 s, work for 5 to 9 s)
//!  20 s   all is well
//!  25 s   an outage: all hosts refuse connections
//!  35 s   all is well
//!  45 s   another: all hosts hang. They take requests into their queues and answer none
//!  55 s   all is well, but for what is in the queues
//!  80 s   the end
//! ```
//!
//! The load is the same through all of it, however many proxies and hosts share it: 70 percent GET, 30 percent POST. A host
//! works on one request after the other, and on those, too, that nobody waits for any more. Load is 70 percent of what the
//! hosts can do (less where a request would take a host longer than 70 ms then). What comes while two seconds' worth of work are queued gets 503 at once. An attempt times out after a second.
//!
//! Each proxy has two workers and knows nothing of other proxies. It holds a record of each host that it met, as Envoy and
//! Weir do (Weir of 1,000 at most). So what 10,000 proxies hold about 10,000 hosts is bounded by the requests that they sent,
//! and no proxy is left out.
//!
//! **What is simplified.** Balancers pick at random, also Istio's (least request) and Linkerd's (moving averages of latency).
//! Envoy's thresholds are lifted, as Istio lifts them, but for retries. A network hop takes half a millisecond and loses
//! nothing. Work of the proxies themselves takes no time.

mod hosts;
mod native;
mod outcome;
mod weir;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use ::weir::base::random::Random;
use ::weir::base::time::Time;
use ::weir::engine::host::StreamId;
use ::weir::signal::Signal;

use super::router::Envoy;
use hosts::Hosts;
pub use native::Policy;
#[allow(unused_imports, reason = "for the benchmark's picture")]
pub use outcome::{Outcome, Tenth};

/// Where the clock starts.
const START: Time = Time::from_nanos(1_800_000_000_000_000_000);
pub const WORKERS: usize = 2;
/// Each worker has its turn ten times a second: a tenth of them every hundredth.
const TURN: Duration = Duration::from_millis(10);
const TURNS: usize = 10;
const GETS: u64 = 70;

pub const INCIDENT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(20));
pub const REFUSAL: (Duration, Duration) = (Duration::from_secs(25), Duration::from_secs(35));
pub const HANG: (Duration, Duration) = (Duration::from_secs(45), Duration::from_secs(55));
pub const END: Duration = Duration::from_secs(80);

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub proxies: usize,
    pub hosts: usize,
    /// Requests per second, at all proxies together.
    pub rate: u64,
    pub policy: Policy,
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Request {
    proxy: usize,
    get: bool,
    arrived: Duration,
    began: Duration,
    /// Attempts so far, the one under way among them, and where they went.
    attempts: u32,
    host: usize,
    tried: Vec<usize>,
    /// Whether a POST was sent again that may have been processed.
    repeated: bool,
}

impl Request {
    fn new(proxy: usize, get: bool, arrived: Duration) -> Self {
        Self { proxy, get, arrived, began: arrived, attempts: 0, host: 0, tried: Vec::new(), repeated: false }
    }

    fn any_other(&self, hosts: usize, random: &mut Random) -> usize {
        any_other(&self.tried, hosts, random)
    }

    fn back_off(&self, random: &mut Random) -> Duration {
        back_off(self.attempts, random)
    }
}

/// Any host, but hardly one that was tried already: Istio's `previous_hosts`, with five tries to find another.
fn any_other(tried: &[usize], hosts: usize, random: &mut Random) -> usize {
    let mut host = random.below(hosts as u64) as usize;
    for _ in 0..5 {
        if tried.contains(&host) {
            host = random.below(hosts as u64) as usize;
        }
    }
    host
}

/// What Envoy waits for before the next attempt: up to 25 ms, then up to 75.
fn back_off(attempts: u32, random: &mut Random) -> Duration {
    Duration::from_micros(random.below(25_000 * ((1 << attempts.min(4)) - 1)))
}

/// What one proxy does that has no Weir.
pub trait Proxy {
    /// A request arrives.
    fn arrives(&mut self, request: &mut Request, at: Duration);
    /// Where its next attempt goes; `None` where there is no host left.
    fn picks(&mut self, request: &Request, at: Duration, random: &mut Random) -> Option<usize>;
    /// An attempt ended: after which time there is another one, if there is.
    fn ended(&mut self, request: &mut Request, signal: Signal, at: Duration, random: &mut Random) -> Option<Duration>;
    /// Ten times a second, for each worker.
    fn tick(&mut self, at: Duration);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Arrives,
    Starts(u32),
    Ends(u32, u8),
    /// Of workers with Weir.
    Retries(usize, StreamId),
    Waited(usize, StreamId),
    AttemptEnds(usize, StreamId, u8),
    Ticks(usize),
}

struct World<'a> {
    setup: &'a Setup,
    random: Random,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, What)>>,
    queued: u64,
    hosts: Hosts,
    proxies: Vec<Box<dyn Proxy>>,
    requests: Vec<Request>,
    /// Those of proxies with Weir.
    workers: Vec<Envoy>,
    under_way: HashMap<(usize, StreamId), weir::Request>,
    /// Places in `requests` that are free.
    free: Vec<u32>,
    outcome: Outcome,
}

/// Runs it. `settle` is called with the workers that have Weir when all is over, so that what they hold can be measured.
pub fn run(setup: &Setup, settle: &mut dyn FnMut(Vec<Envoy>)) -> Outcome {
    let weir = setup.policy.configuration();
    let mut world = World {
        random: Random::new(setup.seed),
        now: Duration::ZERO,
        queue: BinaryHeap::new(),
        queued: 0,
        hosts: Hosts::new(setup),
        proxies: (0..setup.proxies).filter_map(|_| setup.policy.proxy(setup)).collect(),
        requests: Vec::new(),
        workers: weir.map(|configuration| weir::workers(setup, configuration)).unwrap_or_default(),
        under_way: HashMap::new(),
        free: Vec::new(),
        outcome: Outcome::new(setup),
        setup,
    };
    world.queue(Duration::ZERO, What::Arrives);
    if setup.policy.ticks() {
        world.queue(Duration::ZERO, What::Ticks(0));
    }
    while let Some(Reverse((time, _, what))) = world.queue.pop() {
        if time >= END {
            break;
        }
        world.now = time;
        match what {
            What::Arrives => world.arrives(),
            What::Starts(number) => world.starts(number),
            What::Ends(number, signal) => world.ends(number, Signal::ALL[usize::from(signal)]),
            What::Retries(worker, request) => world.retries(worker, request),
            What::Waited(worker, attempt) => world.waited(worker, attempt),
            What::AttemptEnds(worker, attempt, signal) => {
                world.attempt_ends(worker, attempt, Signal::ALL[usize::from(signal)]);
            }
            What::Ticks(turn) => world.ticks(turn),
        }
    }
    world.workers.iter_mut().for_each(Envoy::settle);
    settle(world.workers);
    world.outcome
}

impl World<'_> {
    fn queue(&mut self, after: Duration, what: What) {
        self.queued += 1;
        self.queue.push(Reverse((self.now + after, self.queued, what)));
    }

    fn arrives(&mut self) {
        let gap = Duration::from_nanos(self.random.below(2_000_000_000 / self.setup.rate));
        self.queue(gap, What::Arrives);
        let proxy = self.random.below(self.setup.proxies as u64) as usize;
        let worker = self.random.below(WORKERS as u64) as usize;
        let get = self.random.below(100) < GETS;
        self.outcome.arrived(get, self.now);
        if !self.workers.is_empty() {
            if !self.arrives_at(proxy * WORKERS + worker, get) {
                self.outcome.shed(self.now);
            }
            return;
        }
        let mut request = Request::new(proxy, get, self.now);
        self.proxies[proxy].arrives(&mut request, self.now);
        let number = match self.free.pop() {
            Some(number) => {
                self.requests[number as usize] = request;
                number
            }
            None => {
                self.requests.push(request);
                self.requests.len() as u32 - 1
            }
        };
        self.starts(number);
    }

    fn starts(&mut self, number: u32) {
        let request = &mut self.requests[number as usize];
        let Some(host) = self.proxies[request.proxy].picks(request, self.now, &mut self.random) else {
            self.over(number, false);
            return;
        };
        (request.host, request.began) = (host, self.now);
        request.tried.push(host);
        request.attempts += 1;
        let (takes, signal) = self.hosts.attempt(host, self.now, &mut self.random);
        self.outcome.attempt(self.hosts.is_down(host, self.now), self.now);
        self.queue(takes, What::Ends(number, signal.index() as u8));
    }

    fn ends(&mut self, number: u32, signal: Signal) {
        let request = &mut self.requests[number as usize];
        let again = self.proxies[request.proxy].ended(request, signal, self.now, &mut self.random);
        if let Some(back_off) = again {
            let unsafe_to_repeat = matches!(signal, Signal::Reset | Signal::Timeout | Signal::Error);
            if !request.get && unsafe_to_repeat && !std::mem::replace(&mut request.repeated, true) {
                self.outcome.repeated(self.now);
            }
            self.queue(back_off, What::Starts(number));
            return;
        }
        self.over(number, signal == Signal::Answered);
    }

    fn over(&mut self, number: u32, answered: bool) {
        let request = &mut self.requests[number as usize];
        if answered {
            self.outcome.answered(request.get, request.arrived);
        }
        self.free.push(number);
    }

    fn ticks(&mut self, turn: usize) {
        for worker in (turn..self.setup.proxies * WORKERS).step_by(TURNS) {
            if self.workers.is_empty() {
                self.proxies[worker / WORKERS].tick(self.now);
            } else {
                self.worker_ticks(worker);
            }
        }
        self.queue(TURN, What::Ticks((turn + 1) % TURNS));
    }
}
