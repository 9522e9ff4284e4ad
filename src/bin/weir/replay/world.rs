//! A worker in virtual time: it is told of the same events as the module would have been, and what it decides is counted.
//!
//! The past does not change. Requests went where they went, so what is out here was sent requests all the same, and those that it
//! got when it was due are taken as probes. What would have been shed was sent, and a retry that would have been stopped was made.
//!
//! ```text
//!   a request's line    start ──► on_request_headers     end ──► on_response_headers, on_request_end, on_request_done
//!   an attempt's line   start ──► on_attempt_headers     end ──► on_attempt_response, on_attempt_end, on_attempt_log
//! ```
//!
//! A failure that a client saw gets the retry that it might have had: an attempt that no line tells of.

mod attempts;
mod requests;

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use weir::config::Policy;
use weir::engine::decision::RequestDecision;
use weir::engine::event::What;
use weir::engine::host::StreamId;
use weir::engine::worker::{Attachments, Worker};
use weir::engine::{LONGEST_NAME, MOST_CLUSTERS};
use weir::incident::{self, Pattern, State};
use weir::signal::Signal;

use super::host::{LogHost, Shown};
use super::line::Useless;
use super::order::{Event, Kind};
use super::record::Record;
use super::remembered::Remembered;
use super::retry_on::RetryOn;
use super::tally::{MOST_KEPT, Tally, Told};

/// The module's timer.
const TICK: u64 = 100_000_000;
/// After so long without an event, nothing more comes of it.
const LULL: u64 = 3_600_000_000_000;
/// How far an attempt's end may be from that of its request, if it is the last one: durations are in milliseconds.
const TOGETHER: u64 = 5_000_000;

/// An attempt that no line tells of.
const IMAGINED: StreamId = StreamId(u32::MAX);

/// One cluster.
struct Cluster {
    name: Rc<str>,
    /// Its attempts have lines of their own.
    watched: bool,
    /// The attempts that the worker was told of and has not judged yet; `None` for one that no line tells of.
    unjudged: VecDeque<Option<Rc<Record>>>,
    /// The most retries that a request was given.
    most_retries: u32,
    tally: Tally,
}

/// A request under way that was not shed.
struct Request {
    stream: StreamId,
    retry_on: RetryOn,
    /// Attempts that began.
    attempts: u32,
    /// What was decided about the retry of the attempt that ended last, if that was answered.
    decided: Option<Decided>,
    /// Attempts that ended together with it: the end of one explains the other.
    last: Vec<(StreamId, Rc<Record>)>,
}

/// What is decided about a retry when the attempt before is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decided {
    Paid,
    Denied,
    Stopped,
}

impl Decided {
    /// A retry is not sent: for want of budget, or since it may not be.
    const fn not_sent(denied: bool) -> Self {
        if denied { Self::Denied } else { Self::Stopped }
    }
}

/// What happened in some callbacks.
#[derive(Clone, Copy, Debug, Default)]
struct Happened {
    denied: u64,
    shed: u64,
}

/// All of it.
pub struct World {
    worker: Worker,
    host: LogHost,
    clusters: Vec<Cluster>,
    by_name: HashMap<Rc<str>, usize>,
    now: u64,
    next_tick: u64,
    requests: HashMap<StreamId, Request>,
    /// Requests under way by what their lines have in common with those of their attempts.
    by_id: HashMap<u64, StreamId>,
    /// Ends of requests that may explain those of attempts.
    ends: Remembered<u64>,
    /// The line of a request that ends.
    ending: Option<Rc<Record>>,
    /// Events that came too late to be put in order.
    pub late: u64,
}

impl World {
    /// Nothing happened yet.
    pub fn new(policy: Policy) -> Self {
        let (mut worker, host) = (Worker::default(), LogHost::new(&policy));
        worker.configure(policy, &host);
        Self {
            worker,
            host,
            clusters: Vec::new(),
            by_name: HashMap::new(),
            now: 0,
            next_tick: 0,
            requests: HashMap::new(),
            by_id: HashMap::new(),
            ends: Remembered::default(),
            ending: None,
            late: 0,
        }
    }

    /// The number of a cluster.
    pub fn cluster(&mut self, name: &str) -> Result<usize, Useless> {
        if let Some(known) = self.by_name.get(name) {
            return Ok(*known);
        }
        if name.len() > LONGEST_NAME {
            return Err(Useless::LongName);
        }
        if self.clusters.len() >= MOST_CLUSTERS {
            return Err(Useless::TooManyClusters);
        }
        let (number, name) = (self.clusters.len(), Rc::<str>::from(name));
        self.by_name.insert(Rc::clone(&name), number);
        let (unjudged, tally) = (VecDeque::new(), Tally::default());
        self.clusters.push(Cluster { name, watched: false, unjudged, most_retries: 0, tally });
        Ok(number)
    }

    /// A line was read, and happens later.
    pub fn foresee(&mut self, cluster: usize, record: &Rc<Record>) {
        if let (true, Some(cluster)) = (record.is_attempt, self.clusters.get_mut(cluster)) {
            cluster.watched = true;
        }
        if record.id > 0 && record.explains() {
            self.ends.insert(record.id, record.end);
        }
    }

    /// Something happens.
    pub fn happens(&mut self, event: &Event) {
        if event.at < self.now && event.kind != Kind::AttemptStarted {
            self.late += 1;
        }
        self.advance(event.at);
        let Some(cluster) = self.clusters.get(event.cluster) else { return };
        self.worker.attach(Attachments { decide: true, watch: cluster.watched, only_failures: false, guard: true });
        let (number, stream, line) = (event.cluster, event.stream, &event.record);
        match event.kind {
            Kind::Arrived => self.arrives(number, stream, line),
            Kind::AttemptStarted => self.attempt_starts(number, stream, line),
            Kind::AttemptEnded => self.attempt_ends(number, stream, line),
            Kind::RequestEnded => self.request_ends(number, stream, line),
        }
    }

    /// All is over: what is still open is looked at once more.
    pub fn finish(&mut self) {
        self.advance(self.now.saturating_add(2_000_000_000));
    }

    /// The clusters by name, with what was counted and whether attempts were told.
    pub fn tallies(&self) -> impl Iterator<Item = (&str, bool, &Tally)> {
        self.clusters.iter().map(|cluster| (&*cluster.name, cluster.watched, &cluster.tally))
    }

    fn advance(&mut self, at: u64) {
        if self.now == 0 || at.saturating_sub(self.now) > LULL {
            // Run the timers that would have fired during the gap; more ticks would change nothing.
            for after in [0, TICK, 60_000_000_000, LULL / 2] {
                if self.now > 0 {
                    self.tick(self.now.saturating_add(after));
                }
            }
            self.next_tick = at.saturating_add(TICK);
        }
        while self.next_tick <= at {
            self.tick(self.next_tick);
            self.next_tick = self.next_tick.saturating_add(TICK);
        }
        self.now = self.now.max(at);
        self.host.set_time(self.now);
    }

    fn tick(&mut self, at: u64) {
        self.host.set_time(at);
        self.host.show(Shown::default());
        self.worker.on_tick(&self.host);
        self.poll(at);
    }

    /// A callback sees this.
    fn show(&self, cluster: usize, line: &Rc<Record>, request: Option<StreamId>, attempts: u32) {
        let Some(cluster) = self.clusters.get(cluster) else { return };
        let (line, cluster) = (Some(Rc::clone(line)), Rc::clone(&cluster.name));
        self.host.show(Shown { line, cluster, request, attempts, answered: false });
    }

    fn tally(&mut self, cluster: usize, change: impl FnOnce(&mut Tally)) {
        if let Some(cluster) = self.clusters.get_mut(cluster) {
            change(&mut cluster.tally);
        }
    }

    fn arrives(&mut self, cluster: usize, stream: StreamId, line: &Rc<Record>) {
        let now = self.now;
        self.tally(cluster, |tally| {
            tally.requests += 1;
            tally.timeline.step(now, |step| step.requests += 1);
        });
        self.show(cluster, line, None, 0);
        let retry_on = match self.worker.on_request_headers(stream, &self.host) {
            RequestDecision::Forward(edits) => Some(RetryOn::of(&edits)),
            RequestDecision::Reply(_) => None,
        };
        let shed = self.poll(now).shed;
        self.tally(cluster, |tally| tally.shed += shed);
        let Some(retry_on) = retry_on else { return };
        if let Some(cluster) = self.clusters.get_mut(cluster) {
            cluster.most_retries = cluster.most_retries.max(retry_on.most);
        }
        if line.id > 0 {
            self.by_id.insert(line.id, stream);
        }
        self.requests.insert(stream, Request { stream, retry_on, attempts: 0, decided: None, last: Vec::new() });
    }

    /// Counts what happened.
    fn poll(&mut self, at: u64) -> Happened {
        let mut happened = Happened::default();
        while let Some(event) = self.worker.poll_event() {
            let name = self.worker.cluster_name(event.cluster).unwrap_or_default();
            let Some(cluster) = self.by_name.get(name).and_then(|number| self.clusters.get_mut(*number)) else {
                continue;
            };
            match event.what {
                What::Shed(_) => happened.shed += 1,
                What::RetryDenied => happened.denied += 1,
                What::AttemptEnded(signal) => {
                    let line = cluster.unjudged.pop_front().unwrap_or_else(|| self.ending.clone());
                    line.iter().for_each(|line| cluster.judged(line, signal, at));
                }
                What::Host(event) => cluster.tally.host(&event.event, event.at.as_nanos()),
                What::Circuit(event, _) => cluster.tally.circuit(event, at),
                What::Incident(event) => cluster.incident(&event, at),
                _ => {}
            }
        }
        happened
    }
}

impl Cluster {
    /// An attempt ended so.
    fn judged(&mut self, line: &Record, signal: Signal, at: u64) {
        let host = line.host.as_deref();
        // The clock of the log may step; nothing began after it ended.
        let out = host.is_some_and(|host| self.tally.is_out_since(host, line.start.min(at)));
        self.tally.attempt(host, signal, out, at);
    }

    fn incident(&mut self, event: &incident::Event, at: u64) {
        let (state, counts) = match event.state {
            State::Open => ("open", true),
            State::Update => ("update", false),
            State::Over => ("over", event.pattern == Pattern::Restart),
        };
        self.tally.incidents += u64::from(counts);
        if self.tally.told.len() < MOST_KEPT {
            let line = event.line(&self.name);
            let line = line.strip_prefix("weir: incident ").unwrap_or(&line).to_owned();
            let (pattern, host) = (event.pattern.name(), event.host.clone());
            self.tally.told.push(Told { at, pattern, state, host, line, proxy: None });
        }
    }
}
