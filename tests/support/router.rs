//! Envoy around the engine, as far as a simulation needs it: one worker with all three roles, whose router retries and hedges by
//! the headers that the engine has it set. There is no rule of the product in it.
//!
//! ```text
//!   driver                              here                                      engine
//!   arrives ──────────────────────────► a request, and its first attempt ───────► decide, guard
//!                                       Next::Sent ◄── an attempt is on its way
//!   ended, with what the host did ────► a response, a retry, or nothing yet ────► guard, watch, decide
//!                                       Next::Retry ◄── after the back-off: retry
//!                                       Next::Wait  ◄── after this time, if it still runs: waited
//!                                       Next::Over  ◄── the client has its answer
//! ```
//!
//! What happens by itself happens in Envoy's order: an attempt's end, its log entry, then the response and the end of its request;
//! attempts that lose are reset before the response passes. Bodies take no time, but [streams](Envoy::stream_begins) go on until they are
//! [closed](Envoy::stream_ends).
#![allow(dead_code, reason = "each test binary uses another part of it")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use weir::base::time::Time;
use weir::config::Policy;
use weir::engine::decision::{Edits, RequestDecision, Then};
use weir::engine::host::{HeaderMap, Property, Record, StreamId};
use weir::engine::worker::{Attachments, Worker};
use weir::signal::{Flags, Signal};

use super::retry_on::{Broke, RetryOn};
use super::sim_host::{Facts, Records, SimHost};

/// The one cluster of a simulation.
pub const CLUSTER: &str = "simulated";
/// Envoy's default for how long a route waits. Where an attempt has no timeout of its own, this one ends it.
pub const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);

/// The address of a host.
pub fn address(host: usize) -> String {
    format!("10.0.{}.{}:8080", host / 256, host % 256)
}

/// The host of an address.
pub fn index(address: &str) -> usize {
    let mut numbers = address.split([':', '.']).skip(2).map(|number| number.parse::<usize>().expect("a number"));
    let mut number = || numbers.next().expect("an address");
    number() * 256 + number()
}

/// Lets the ids of a proxy's workers begin after this number, so that they are others in each run.
pub fn workers_begin_after(records: &Records, number: u64) {
    let record = [b"wrw\x01".as_slice(), &number.to_le_bytes()].concat();
    records.borrow_mut().insert((Record::Workers, String::new(), false), record.into());
}

/// What the driver is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// An attempt was sent: say how it [ended](Envoy::ended).
    Sent(Sent),
    /// The request is retried, after the back-off before its attempt of this number.
    Retry(StreamId, u32),
    /// After this time, [say so](Envoy::waited) of an attempt.
    Wait(StreamId, Duration),
    /// An attempt on that host, which began then, is over and logged; whether the host failed.
    Logged(usize, Time, bool),
    /// The client has its answer.
    Over(Over),
}

/// A request that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    pub request: StreamId,
    /// How its last attempt ended; `Local` where there is a reply in its place.
    pub signal: Signal,
    /// Where that was.
    pub host: usize,
    /// How many there were.
    pub attempts: u32,
}

/// An attempt that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub request: StreamId,
    pub attempt: StreamId,
    pub host: usize,
    /// Which of its request, from 1.
    pub number: u32,
    /// Whether the host was listed for it.
    pub listed: bool,
}

/// What begins a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// The connection is upgraded to WebSocket.
    Upgrade,
    /// Server-sent events.
    Events,
}

/// Who ends a stream that was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Close {
    /// Its host closes the connection.
    Host,
    /// Its client leaves.
    Client,
    /// The route's idle timeout.
    Idle,
}

/// Chooses a host for a request that was at these.
pub type Balance<'b> = dyn FnMut(&[usize]) -> usize + 'b;

struct Attempt {
    request: StreamId,
    host: usize,
    number: u32,
    began: Time,
    /// Whether its own timeout passed, and it goes on.
    late: bool,
    /// Whether another follows it.
    retried: bool,
    /// What it was answered with, and when, if it is a stream.
    stream: Option<(Head, Time)>,
}

struct Request {
    facts: Facts,
    arrived: Time,
    retry_on: RetryOn,
    retries_left: u32,
    /// After what time an attempt is sent once more.
    hedge: Option<Duration>,
    hosts: Vec<usize>,
    tried: Vec<usize>,
    running: Vec<StreamId>,
    /// Retries that wait for their back-off.
    pending: u32,
}

/// A worker of a proxy.
pub struct Envoy {
    pub worker: Worker,
    pub host: SimHost,
    next: VecDeque<Next>,
    requests: BTreeMap<StreamId, Request>,
    attempts: BTreeMap<StreamId, Attempt>,
    streams: u32,
    /// How long a route waits.
    pub route_timeout: Duration,
}

/// How a stream ends.
struct End {
    flags: Flags,
    status: Option<u64>,
    details: &'static str,
    /// A header of the response that says more than its status.
    header: Option<(&'static str, &'static str)>,
}

const fn end(flags: Flags, status: Option<u64>, details: &'static str) -> End {
    End { flags, status, details, header: None }
}

impl Head {
    /// How an attempt that was answered so ends with those flags, and its request.
    const fn end(self, flags: Flags, details: &'static str) -> End {
        let (status, header) = match self {
            Self::Upgrade => (101, None),
            Self::Events => (200, Some(("content-type", "text/event-stream"))),
        };
        End { flags, status: Some(status), details, header }
    }
}

/// What Envoy says of an attempt, and of a request whose last it was.
fn ends(signal: Signal) -> (End, End) {
    let none = Flags::default();
    let both = |flags, status, details| (end(flags, None, ""), end(flags, Some(status), details));
    match signal {
        Signal::Answered => (end(none, Some(200), ""), end(none, Some(200), "via_upstream")),
        Signal::Error => (end(none, Some(503), ""), end(none, Some(503), "via_upstream")),
        Signal::Pushback => {
            let busy = |details| End { header: Some(("retry-after", "1")), ..end(none, Some(503), details) };
            (busy(""), busy("via_upstream"))
        }
        Signal::Refused => both(
            Flags::CONNECTION_FAILURE,
            503,
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
        ),
        Signal::Reset => {
            both(Flags::CONNECTION_TERMINATION, 503, "upstream_reset_before_response_started{connection_termination}")
        }
        Signal::Timeout => both(Flags::TIMEOUT, 504, "upstream_per_try_timeout"),
        // A reply of `guard`.
        _ => (end(none, None, ""), end(none, Some(503), "weir_retry_budget_exhausted")),
    }
}

impl Envoy {
    /// A worker that just started, with these records.
    pub fn new(records: Records, policy: Policy, now: Time) -> Self {
        let (mut worker, host) = (Worker::default(), SimHost::new(records));
        host.set_time(now.as_nanos());
        worker.attach(Attachments { decide: true, watch: true, only_failures: false, guard: true });
        worker.configure(policy, &host);
        Self {
            worker,
            host,
            next: VecDeque::new(),
            requests: BTreeMap::new(),
            attempts: BTreeMap::new(),
            streams: 0,
            route_timeout: ROUTE_TIMEOUT,
        }
    }

    /// What the driver is to do next.
    pub fn next(&mut self) -> Option<Next> {
        self.next.pop_front()
    }

    /// The hosts that a request's attempts should go to.
    pub fn listed(&self, request: StreamId) -> &[usize] {
        self.requests.get(&request).map_or(&[], |request| &request.hosts)
    }

    /// The request that an attempt belongs to, if it still runs.
    pub fn request_of(&self, attempt: StreamId) -> Option<StreamId> {
        self.attempts.get(&attempt).map(|attempt| attempt.request)
    }

    /// Forgets all that is under way.
    pub fn settle(&mut self) {
        for (attempt, _) in std::mem::take(&mut self.attempts) {
            self.host.forget(attempt);
        }
        for (request, _) in std::mem::take(&mut self.requests) {
            self.host.forget(request);
            self.worker.on_request_done(request);
        }
    }

    fn stream(&mut self) -> StreamId {
        self.streams = self.streams.wrapping_add(1);
        StreamId(self.streams)
    }

    /// A request arrives; `None` if it is answered at once.
    pub fn arrives(&mut self, method: &str, now: Time, balance: &mut Balance<'_>) -> Option<StreamId> {
        self.host.set_time(now.as_nanos());
        let (id, mut facts) = (self.stream(), Facts::default());
        facts.set(Property::Cluster, CLUSTER);
        facts.set_header(HeaderMap::Request, ":method", method);
        let edits = match self.host.lend(&mut facts, || self.worker.on_request_headers(id, &self.host)) {
            RequestDecision::Forward(edits) => edits,
            RequestDecision::Reply(_) => {
                self.request_ends(id, &mut facts, now, now, (Signal::Local, None));
                return None;
            }
        };
        let Edits { hosts, hedge, tag, .. } = &edits;
        if *tag {
            facts.set(Property::Request, id.0.to_le_bytes());
        }
        let retry_on = RetryOn::of(&edits);
        let hosts = hosts.iter().flat_map(|(_, list)| list.split(',')).map(index).collect();
        let (retries_left, hedge) = (retry_on.most, *hedge);
        let (tried, running) = (Vec::new(), Vec::new());
        let request = Request { facts, arrived: now, retry_on, retries_left, hedge, hosts, tried, running, pending: 0 };
        self.requests.insert(id, request);
        self.send(id, now, balance);
        Some(id)
    }

    /// The back-off of a retry is over.
    pub fn retry(&mut self, id: StreamId, now: Time, balance: &mut Balance<'_>) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        request.pending -= 1;
        self.host.set_time(now.as_nanos());
        self.send(id, now, balance);
    }

    fn send(&mut self, id: StreamId, now: Time, balance: &mut Balance<'_>) {
        let attempt = self.stream();
        let Some(request) = self.requests.get_mut(&id) else { return };
        let listed = request.hosts.get(request.tried.len()).copied();
        let host = listed.unwrap_or_else(|| balance(&request.tried));
        request.tried.push(host);
        let number = request.tried.len() as u32;
        let mut facts = self.attempt_facts(id, number);
        facts.set(Property::UpstreamAddress, address(host));
        self.host.keep(attempt, &facts);
        let mut waits_at = Facts::default();
        waits_at.set(Property::UpstreamAddress, address(host));
        self.host.keep(id, &waits_at);
        let then = self.host.lend(&mut facts, || self.worker.on_attempt_headers(attempt, &self.host).then);
        let sent = Attempt { request: id, host, number, began: now, late: false, retried: false, stream: None };
        self.attempts.insert(attempt, sent);
        if let Some(request) = self.requests.get_mut(&id) {
            request.running.push(attempt);
        }
        match then {
            Then::Send => self.sent(attempt, listed.is_some()),
            Then::Pause => {}
            Then::Reply(_) => self.replied(attempt, now),
        }
    }

    fn sent(&mut self, attempt: StreamId, listed: bool) {
        let Some(Attempt { request, host, number, .. }) = self.attempts.get(&attempt) else { return };
        let sent = Sent { request: *request, attempt, host: *host, number: *number, listed };
        if let Some(after) = self.requests.get(request).and_then(|request| request.hedge) {
            self.next.push_back(Next::Wait(attempt, after));
        }
        self.next.push_back(Next::Sent(sent));
    }

    /// What `guard` sees of an attempt.
    fn attempt_facts(&self, request: StreamId, number: u32) -> Facts {
        let mut facts = Facts::default();
        facts.set(Property::Cluster, CLUSTER);
        facts.set_number(Property::AttemptCount, number.into());
        if let Some(tag) = self.requests.get(&request).and_then(|request| request.facts.property(Property::Request)) {
            facts.set(Property::Request, tag);
        }
        facts
    }

    /// `guard` answers in the place of an attempt: the request is over, whatever else of it runs.
    fn replied(&mut self, attempt: StreamId, now: Time) {
        let Some(Attempt { request, .. }) = self.attempts.get(&attempt) else { return };
        let id = *request;
        self.attempt_ends(attempt, Signal::Local, now);
        self.responds(id, Signal::Local, now);
    }

    /// The time to wait for an attempt passed: if it still runs, another one goes beside it.
    pub fn waited(&mut self, attempt: StreamId, now: Time) {
        self.host.set_time(now.as_nanos());
        // What was answered waits no more.
        let attempt = self.attempts.get_mut(&attempt).filter(|attempt| attempt.stream.is_none());
        let Some(Attempt { request, retried, late, .. }) = attempt else { return };
        let id = *request;
        if self.requests.get(&id).is_some_and(|request| now.since(request.arrived) >= self.route_timeout) {
            return self.out_of_time(id, now);
        }
        *late = true;
        let Some(request) = self.requests.get_mut(&id).filter(|request| request.retries_left > 0) else { return };
        *retried = true;
        request.retries_left -= 1;
        request.pending += 1;
        self.next.push_back(Next::Retry(id, request.tried.len() as u32 + request.pending));
    }

    /// The host did this with an attempt; what was reset meanwhile, nobody hears of.
    pub fn ended(&mut self, attempt: StreamId, signal: Signal, now: Time) {
        self.host.set_time(now.as_nanos());
        let Some(Attempt { request: id, retried, .. }) = self.attempts.get(&attempt) else { return };
        let (id, retried) = (*id, *retried);
        let Some(request) = self.requests.get(&id) else { return };
        if signal == Signal::Timeout && request.hedge.is_some() {
            // It has no timeout of its own any more. The route's, when nothing is left of it, ends the request.
            let left = self.route_timeout.saturating_sub(now.since(request.arrived));
            return self.next.push_back(Next::Wait(attempt, left));
        }
        let response = matches!(signal, Signal::Answered | Signal::Error | Signal::Pushback);
        let mark = if response { self.attempt_answered(attempt, id, &ends(signal).0, true) } else { None };
        let would_retry = self.requests.get(&id).is_some_and(|request| match signal {
            Signal::Answered => request.retry_on.after_response(200, None, mark),
            Signal::Error | Signal::Pushback => request.retry_on.after_response(503, None, mark),
            Signal::Refused | Signal::Unreachable => request.retry_on.after_break(Broke::Connect),
            _ => request.retry_on.after_break(Broke::Other),
        });
        let Some(request) = self.requests.get_mut(&id) else { return };
        let retries = would_retry && !retried && request.retries_left > 0;
        let others = request.running.len() > 1 || request.pending > 0;
        if retries {
            request.retries_left -= 1;
            request.pending += 1;
            let number = request.tried.len() as u32 + request.pending;
            self.next.push_back(Next::Retry(id, number));
        }
        if retries || (others && (!response || (would_retry && retried))) {
            self.attempt_ends(attempt, signal, now);
        } else if response {
            self.responds_with(attempt, id, signal, now);
        } else {
            self.attempt_ends(attempt, signal, now);
            self.responds(id, signal, now);
        }
    }

    /// Response headers of an attempt; what `guard` sets on them.
    fn attempt_answered(&mut self, attempt: StreamId, id: StreamId, head: &End, all: bool) -> Option<&'static str> {
        let number = self.attempts.get(&attempt)?.number;
        let mut facts = self.attempt_facts(id, number);
        tell_response(&mut facts, head);
        self.host.lend(&mut facts, || self.worker.on_attempt_response(attempt, &self.host, all)).mark
    }

    /// Response headers of a stream.
    pub fn stream_begins(&mut self, attempt: StreamId, head: Head, now: Time) {
        self.host.set_time(now.as_nanos());
        let Some(Attempt { request, host, stream, .. }) = self.attempts.get_mut(&attempt) else { return };
        *stream = Some((head, now));
        let (id, host) = (*request, *host);
        let end = head.end(Flags::default(), "via_upstream");
        self.attempt_answered(attempt, id, &end, false);
        self.reset_others(id, Some(attempt), now);
        self.response_passes(id, &end, false);
        let mut runs = Facts::default();
        tell(&mut runs, &end);
        runs.set(Property::UpstreamAddress, address(host));
        self.host.keep(id, &runs);
    }

    /// A stream that was answered ends.
    pub fn stream_ends(&mut self, attempt: StreamId, by: Close, now: Time) {
        self.host.set_time(now.as_nanos());
        let Some(Attempt { request, host, stream: Some((head, _)), .. }) = self.attempts.get(&attempt) else { return };
        let (id, host, head) = (*request, *host, *head);
        let (own, flags, details) = match by {
            Close::Host => {
                let details = "upstream_reset_after_response_started{connection_termination}";
                (Flags::CONNECTION_TERMINATION, Flags::CONNECTION_TERMINATION, details)
            }
            Close::Client => (Flags::default(), Flags::DOWNSTREAM_TERMINATION, "downstream_remote_disconnect"),
            Close::Idle => (Flags::default(), Flags::IDLE_TIMEOUT, "stream_idle_timeout"),
        };
        let end = (Signal::Closed, Some(head.end(flags, details)));
        let attempt_end = head.end(own, "");
        // Where the client leaves, Envoy tells of the attempt after the request.
        if by == Close::Client {
            self.over(id, host, end, now);
            self.attempt_ends_so(attempt, Signal::Closed, &attempt_end, now);
        } else {
            self.attempt_ends_so(attempt, Signal::Closed, &attempt_end, now);
            self.over(id, host, end, now);
        }
    }

    /// An attempt is over, and logged.
    fn attempt_ends(&mut self, attempt: StreamId, signal: Signal, now: Time) {
        self.attempt_ends_so(attempt, signal, &ends(signal).0, now);
    }

    fn attempt_ends_so(&mut self, attempt: StreamId, signal: Signal, end: &End, now: Time) {
        let Some(Attempt { request, host, number, began, late, stream, .. }) = self.attempts.remove(&attempt) else {
            return;
        };
        if let Some(request) = self.requests.get_mut(&request) {
            request.running.retain(|running| *running != attempt);
        }
        let mut facts = self.attempt_facts(request, number);
        self.host.lend(&mut facts, || self.worker.on_attempt_end(attempt, &self.host));
        self.host.forget(attempt);
        let mut facts = Facts::default();
        facts.set(Property::Cluster, CLUSTER);
        facts.set_number(Property::Flags, end.flags.0 | if late { Flags::TIMEOUT.0 } else { 0 });
        facts.set(Property::UpstreamAddress, address(host));
        facts.set_number(Property::Duration, now.since(began).as_nanos() as u64);
        if end.status.is_some() {
            let answered = stream.map_or(now, |(_, answered)| answered);
            facts.set_number(Property::BackendLatency, answered.since(began).as_nanos() as u64);
        }
        tell_response(&mut facts, end);
        if signal == Signal::Refused {
            facts.set(Property::FailureReason, "delayed_connect_error:_Connection_refused");
        }
        self.host.lend(&mut facts, || self.worker.on_attempt_log(&self.host));
        let failed = signal.is_failure() || (late && signal == Signal::Cancelled);
        self.next.push_back(Next::Logged(host, began, failed));
    }

    /// The other attempts of a request are of no use any more.
    fn reset_others(&mut self, id: StreamId, but: Option<StreamId>, now: Time) {
        let Some(request) = self.requests.get(&id) else { return };
        let others: Vec<_> = request.running.iter().copied().filter(|attempt| Some(*attempt) != but).collect();
        others.into_iter().for_each(|attempt| self.attempt_ends(attempt, Signal::Cancelled, now));
    }

    /// An attempt's response goes to the client.
    fn responds_with(&mut self, attempt: StreamId, id: StreamId, signal: Signal, now: Time) {
        self.reset_others(id, Some(attempt), now);
        let (_, end) = ends(signal);
        self.response_passes(id, &end, true);
        let host = self.attempts.get(&attempt).map_or(0, |attempt| attempt.host);
        self.attempt_ends(attempt, signal, now);
        self.over(id, host, (signal, None), now);
    }

    /// Envoy answers itself.
    fn responds(&mut self, id: StreamId, signal: Signal, now: Time) {
        self.reset_others(id, None, now);
        let (_, end) = ends(signal);
        self.response_passes(id, &end, true);
        self.over(id, self.last_host(id), (signal, None), now);
    }

    /// The route's timeout passed.
    fn out_of_time(&mut self, id: StreamId, now: Time) {
        self.reset_others(id, None, now);
        let end = end(Flags::TIMEOUT, Some(504), "response_timeout");
        self.response_passes(id, &end, true);
        self.over(id, self.last_host(id), (Signal::Timeout, Some(end)), now);
    }

    fn last_host(&self, id: StreamId) -> usize {
        self.requests.get(&id).and_then(|request| request.tried.last()).copied().unwrap_or_default()
    }

    fn response_passes(&mut self, id: StreamId, end: &End, all: bool) {
        let Some(Request { facts, tried, .. }) = self.requests.get_mut(&id) else { return };
        facts.set_number(Property::AttemptCount, tried.len() as u64);
        tell(facts, end);
        self.host.lend(facts, || self.worker.on_response_headers(id, &self.host, all));
    }

    fn over(&mut self, id: StreamId, host: usize, end: (Signal, Option<End>), now: Time) {
        let Some(mut request) = self.requests.remove(&id) else { return };
        self.host.forget(id);
        let signal = end.0;
        request.facts.set(Property::UpstreamAddress, address(host));
        self.request_ends(id, &mut request.facts, request.arrived, now, end);
        let attempts = request.tried.len() as u32;
        self.next.push_back(Next::Over(Over { request: id, signal, host, attempts }));
    }

    fn request_ends(
        &mut self,
        id: StreamId,
        facts: &mut Facts,
        arrived: Time,
        now: Time,
        (signal, told): (Signal, Option<End>),
    ) {
        let (_, end) = ends(signal);
        tell(facts, told.as_ref().unwrap_or(&end));
        let took = now.since(arrived).as_nanos() as u64;
        facts.set_number(Property::Duration, took);
        facts.set_number(Property::BackendLatency, took);
        self.host.lend(facts, || self.worker.on_request_end(id, &self.host));
        self.worker.on_request_done(id);
    }

    /// The timer, ten times a second.
    pub fn tick(&mut self, now: Time) {
        self.host.set_time(now.as_nanos());
        self.host.lend(&mut Facts::default(), || self.worker.on_tick(&self.host));
        for attempt in self.worker.paused_alone() {
            let Some(Attempt { request, number, .. }) = self.attempts.get(&attempt) else { continue };
            let mut facts = self.attempt_facts(*request, *number);
            match self.host.lend(&mut facts, || self.worker.on_pause_over(attempt, &self.host)) {
                Some(Then::Send) => {
                    if let Some(paused) = self.attempts.get_mut(&attempt) {
                        paused.began = now;
                    }
                    self.sent(attempt, false);
                }
                Some(Then::Reply(_)) => self.replied(attempt, now),
                Some(Then::Pause) | None => {}
            }
        }
    }
}

/// What `decide` sees of a response, or of a request's end.
fn tell(facts: &mut Facts, end: &End) {
    facts.set_number(Property::Flags, end.flags.0);
    facts.set(Property::Details, end.details);
    tell_response(facts, end);
}

/// The response, if there was any.
fn tell_response(facts: &mut Facts, end: &End) {
    if let Some(status) = end.status {
        facts.set_number(Property::Code, status);
        facts.set_header(HeaderMap::Response, ":status", status.to_string());
    }
    if let Some((name, value)) = end.header {
        facts.set_header(HeaderMap::Response, name, value);
    }
}
