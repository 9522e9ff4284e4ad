//! Incidents: what happened to a cluster's hosts, reported once, with its evidence.
//!
//! ```text
//!   attempt ends ──► notes of this worker ──► record that all workers share ──► pattern? ──► report
//! ```
//!
//! Each worker sees a share of the attempts, and no worker sees all. So it notes what failed and what was answered
//! since, host by host, and adds that to a record of the cluster, ten times a second while a host is down. If a
//! worker's write completes a pattern, that worker reports it: once, over all workers.
//!
//! Nothing is guessed. Each pattern has its evidence (see [`Pattern`]), and below it there is no pattern. All times scale
//! with one setting, the interval. `decide` alone sees the last attempt of each request only: where there were retries, it
//! cannot know when a host went down and how often, and so it reports no restarts.
//!
//! **Idle connections.** A server that closes a connection when it was idle for too long races with the next request on
//! it. After a cluster had a reset, `watch` reads the local address of each attempt's connection, and so knows how long
//! it had been idle before. It is this race if resets follow idle times that are alike, each at another moment, and the
//! host answers again after each. A crash cuts off connections whatever they were doing.
//!
//! Times are the host's wall clock in milliseconds, as in all records (see [`crate::base::time`]).

mod cluster;
mod episode;
mod host;
mod pattern;

use crate::base::time::Time;
use crate::signal::Signal;

pub use cluster::{ALIKE, MOST_HOSTS_DOWN, RACES};
pub use episode::{CRASHES, MANY_CRASHES};
pub use host::{CONNECT_TIMEOUTS, REFUSALS, TIMEOUTS};
pub use pattern::{Event, Key, Pattern, State};

use cluster::ClusterIncidents;
use episode::Kind;

/// Milliseconds, since the epoch or between two moments.
pub type Milliseconds = u64;

/// How incidents are reported. They decide nothing, so the policy is the same for all clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncidentPolicy {
    /// The time that patterns scale with: 1 s to 1 h. Default: 10 s.
    pub interval: Milliseconds,
}

/// What `watch` knows of an attempt besides the signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttemptDetail {
    /// There is nothing to add.
    #[default]
    None,
    /// No connection was made within the connect timeout.
    ConnectTimeout,
    /// The connection had been idle for this long.
    Idle(Milliseconds),
}

/// What a worker noted of a host and did not write into the record yet: attempts that ended alike, from the first to the last.
#[derive(Clone, Debug)]
struct Note {
    host: Box<str>,
    /// How the attempts failed; `None` if they were answered.
    kind: Option<Kind>,
    first: Milliseconds,
    last: Milliseconds,
    count: u64,
    idle: Option<Milliseconds>,
}

/// A worker keeps at most this many notes between two writes.
const MOST_NOTES: usize = 200;
/// Stands for a connection that is closed.
const CLOSED: u64 = 0;
/// A worker remembers at most this many connections of a cluster.
const MOST_CONNECTIONS: usize = 256;
/// A connection counts as idle after this pause.
const IDLE: Milliseconds = 100;
/// How often the record is read while a host is down.
const WHILE_DOWN: Milliseconds = 100;
/// How often the record is read while no host is down.
const WHILE_UP: Milliseconds = 1_000;

/// What one worker knows of a cluster's incidents.
#[derive(Debug, Default)]
pub struct Incidents {
    notes: Vec<Note>,
    /// Whether a host is down, as the record says: then answers matter.
    watchful: bool,
    /// When the record is to be read next.
    next: Milliseconds,
    /// Connections by a hash of their local address, and when each was last in use.
    connections: Vec<(u64, Milliseconds)>,
    /// When a connection was last reset.
    reset: Milliseconds,
    /// When a request last ended of which this worker saw only the last of several attempts; 0 if none did.
    hidden: Milliseconds,
    events: Vec<Event>,
    /// The record as it was last read.
    shared: ClusterIncidents,
}

impl Incidents {
    /// Whether answered attempts matter, so that their hosts are worth reading.
    #[must_use]
    pub fn is_watchful(&self) -> bool {
        self.watchful || !self.notes.is_empty()
    }

    /// Whether connections matter: there was a reset within thirty intervals.
    #[must_use]
    pub fn tracks(&self, now: Time, interval: Milliseconds) -> bool {
        self.reset > 0 && sub(ms(now), self.reset) < times(interval, 30)
    }

    /// An attempt ended on the connection with that hash. Returns for how long the connection had been idle when the attempt
    /// `began`, if it is known.
    pub fn used(&mut self, connection: u64, reset: bool, began: Time, now: Time) -> Option<Milliseconds> {
        // After a reset, another connection may get the same port.
        let (kept, now) = (if reset { CLOSED } else { connection }, ms(now));
        if let Some((known, used)) = self.connections.iter_mut().find(|(known, _)| *known == connection) {
            *known = kept;
            return Some(sub(ms(began), std::mem::replace(used, now)));
        }
        if self.connections.len() < MOST_CONNECTIONS {
            self.connections.push((kept, now));
        } else if let Some(oldest) = self.connections.iter_mut().min_by_key(|(_, used)| *used) {
            *oldest = (kept, now);
        }
        None
    }

    /// A request was retried, and only its last attempt is seen.
    pub fn retried_unseen(&mut self, now: Time) {
        self.hidden = ms(now);
    }

    /// An attempt ended.
    pub fn ended(&mut self, host: &str, signal: Signal, detail: AttemptDetail, began: Time, now: Time) {
        let (kind, idle) = match (signal, detail) {
            (Signal::Answered | Signal::Pushback, _) => (None, None),
            (Signal::Refused, _) => (Some(Kind::Refused), None),
            (Signal::Unreachable, AttemptDetail::ConnectTimeout) => (Some(Kind::ConnectTimeout), None),
            (Signal::Unreachable, _) => (Some(Kind::NoConnection), None),
            (Signal::Reset, AttemptDetail::Idle(idle)) => (Some(Kind::Reset), (idle >= IDLE).then_some(idle)),
            (Signal::Reset | Signal::Truncated, _) => (Some(Kind::Reset), None),
            (Signal::Timeout, _) => (Some(Kind::Timeout), None),
            (Signal::Error, _) => (Some(Kind::Error), None),
            (Signal::Cancelled | Signal::Local | Signal::Closed, _) => return,
        };
        if kind.is_none() && !self.is_watchful() {
            return;
        }
        if kind == Some(Kind::Reset) {
            self.reset = ms(now);
        }
        // An answer shows that the host was up when the attempt began, and no more.
        let at = ms(if kind.is_some() { now } else { began });
        let full = self.notes.len() >= MOST_NOTES;
        let last = self.notes.iter_mut().rev().find(|note| *note.host == *host);
        match last {
            Some(note) if note.kind == kind && idle.is_none() && note.idle.is_none() => {
                (note.first, note.last) = (note.first.min(at), note.last.max(at));
                note.count = add(note.count, 1);
            }
            _ if !full => {
                self.notes.push(Note { host: host.into(), kind, first: at, last: at, count: 1, idle });
            }
            _ => {}
        }
    }

    /// Whether the record should be read now.
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        let now = ms(now);
        !self.notes.is_empty() || now >= self.next || self.next > add(now, WHILE_UP)
    }

    /// Adds what was noted to the record that all workers share, and returns what to put in its place, if anything.
    /// `known` is how many hosts the cluster has.
    pub fn exchange(
        &mut self,
        record: Option<&[u8]>,
        interval: Milliseconds,
        known: usize,
        now: Time,
    ) -> Option<Vec<u8>> {
        let now = ms(now);
        let mut shared = record.and_then(|record| ClusterIncidents::decode(record, now)).unwrap_or_default();
        self.events.clear();
        for note in &self.notes {
            shared.note(note);
        }
        let seen_whole = self.hidden == 0 || sub(now, self.hidden) >= times(interval, 30);
        shared.advance(now, interval, known, seen_whole, &mut self.events);
        self.events.iter_mut().for_each(|event| event.open = shared.open(event.pattern));
        self.watchful = shared.is_down();
        self.next = add(now, if self.watchful { WHILE_DOWN } else { WHILE_UP });
        let written = shared.encode();
        self.shared = shared;
        (written != record.unwrap_or_default()).then_some(written)
    }

    /// Calls `schedule` for each host that should be probed once, and when, to measure how long it is down.
    pub fn each_scheduled_probe(&self, now: Time, schedule: &mut dyn FnMut(&str, Time)) {
        self.shared.each_scheduled_probe(ms(now), schedule);
    }

    /// The record now has what [`exchange`](Self::exchange) returned, or it returned nothing, or the record cannot be written.
    /// Returns what to report.
    pub fn published(&mut self) -> Vec<Event> {
        self.notes.clear();
        std::mem::take(&mut self.events)
    }
}

const fn ms(time: Time) -> Milliseconds {
    time.as_nanos() / 1_000_000
}

/// `a` less `b`, or 0. (A call takes a third of the module's bytes that it takes inlined.)
#[inline(never)]
const fn sub(a: u64, b: u64) -> u64 {
    a.saturating_sub(b)
}

/// `a` and `b` together, at most `u64::MAX`.
#[inline(never)]
const fn add(a: u64, b: u64) -> u64 {
    a.saturating_add(b)
}

/// `a` times `b`, at most `u64::MAX`.
#[inline(never)]
const fn times(a: u64, b: u64) -> u64 {
    a.saturating_mul(b)
}
