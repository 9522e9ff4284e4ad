//! Incidents: what happened to a cluster's hosts, told once, with its evidence.
//!
//! ```text
//!   attempt ends ──► notes of this worker ──► record that all workers share ──► pattern? ──► told by who wrote it
//! ```
//!
//! Each worker sees a share of the attempts, and no worker a whole story. So it notes what failed and what was answered
//! since, host by host, and adds that to a record of the cluster by compare-and-swap, ten times a second while there is
//! trouble. Whoever's swap makes a pattern show tells it: that is once, over all workers.
//!
//! Nothing is guessed. Each pattern has its evidence (see [`Pattern`]), and below it there is no pattern. All times scale
//! with one setting, the interval. `decide` alone sees the last attempt of each request only: where there were retries, it
//! cannot know when a host went down and how often, and so tells of no restarts.
//!
//! **Idle connections.** A server that closes a connection when it was idle for too long races with the next request on it.
//! While a cluster had a reset of late, `watch` reads the local address of each attempt's connection, and so knows how long
//! it had been idle before. Resets after idle times that are alike, each at another moment, and each with the host fine
//! after it, are this race; a crash cuts off connections whatever they were doing.
//!
//! Times are the host's wall clock in milliseconds, as in all records (see [`crate::base::time`]).

mod host;
mod shared;

use crate::base::time::Time;
use crate::metrics::printable;
use crate::signal::Signal;

pub use host::{CONNECT_TIMEOUTS, CRASHES, Kind, MANY_CRASHES, REFUSALS, Story, TIMEOUTS};
pub use shared::{ALIKE, MOST_STORIES, RACES};

use shared::Shared;

/// Milliseconds, since the epoch or between two moments.
pub type Milliseconds = u64;

/// The name of a number, and whether it is a time in milliseconds.
pub type Key = (&'static str, bool);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Resets, then refusals, then answers, [`CRASHES`] times or more.
    CrashLoop,
    /// Refusals, then answers.
    Restart,
    /// [`RACES`] times or more, a reset of a connection that had been idle, for times that are alike.
    KeepAliveRace,
    /// [`REFUSALS`] or more, over three intervals or longer, and nothing else.
    NotListening,
    /// [`CONNECT_TIMEOUTS`] or more, over an interval or longer, and nothing else.
    Unreachable,
    /// [`TIMEOUTS`] or more, and then resets or a refusal.
    SlowDeath,
    /// More than half of the known hosts went down within a tenth of an interval, and are down for as long.
    Everyone,
}

impl Pattern {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::CrashLoop,
        Self::Restart,
        Self::KeepAliveRace,
        Self::NotListening,
        Self::Unreachable,
        Self::SlowDeath,
        Self::Everyone,
    ];

    /// The name in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CrashLoop => "crash_loop",
            Self::Restart => "restart",
            Self::KeepAliveRace => "keep_alive_race",
            Self::NotListening => "not_listening",
            Self::Unreachable => "unreachable",
            Self::SlowDeath => "slow_death",
            Self::Everyone => "everyone",
        }
    }

    /// What the numbers of its evidence are.
    #[must_use]
    pub const fn keys(self) -> &'static [Key] {
        match self {
            Self::CrashLoop => &[
                ("restarts", false),
                ("down", true),
                ("down_min", true),
                ("down_max", true),
                ("reset", false),
                ("refused", false),
                ("crashes", false),
                ("period", true),
                ("period_min", true),
                ("period_max", true),
                ("lasted", true),
            ],
            Self::Restart => &[
                ("restarts", false),
                ("down", true),
                ("down_min", true),
                ("down_max", true),
                ("reset", false),
                ("refused", false),
            ],
            Self::KeepAliveRace => &[("resets", false), ("idle_min", true), ("idle_max", true), ("lasted", true)],
            Self::NotListening | Self::Unreachable | Self::SlowDeath => &[
                ("reset", false),
                ("refused", false),
                ("connect_timeout", false),
                ("timeout", false),
                ("down", true),
                ("lasted", true),
            ],
            Self::Everyone => &[("hosts", false), ("known", false), ("within", true), ("lasted", true)],
        }
    }

    /// What to look at.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::CrashLoop => {
                "the process dies and starts again: look at its memory limit, its exit code and its last log lines"
            }
            Self::Restart => "the process was started again: a deploy, or a crash if requests were reset",
            Self::KeepAliveRace => {
                "the upstream closes connections that were idle for so long, and Envoy still uses them: set \
                 common_http_protocol_options.idle_timeout in the cluster's HttpProtocolOptions below idle_min, or raise the \
                 upstream's keep-alive timeout (Node.js: server.keepAliveTimeout, 5 s by default)"
            }
            Self::NotListening => {
                "nothing listens there: a wrong port, or a host that is gone and still among the endpoints"
            }
            Self::Unreachable => {
                "connections are neither taken nor refused: look at the network, firewalls, network policies, and for an \
                 accept queue that is full"
            }
            Self::SlowDeath => {
                "it was too slow for its timeouts before it died: look at its load, CPU, memory and garbage collection"
            }
            Self::Everyone => {
                "most hosts at once, so none of them is at fault: look at what they share, such as a database, a deploy or a \
                 wrong port, and at this Envoy's own network"
            }
        }
    }
}

/// What becomes of an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Its pattern shows.
    Open,
    /// It goes on.
    Update,
    /// It is over.
    Over,
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Whether it begins, goes on or ends.
    pub state: State,
    /// What it is.
    pub pattern: Pattern,
    /// The host; `None` where it is the whole cluster.
    pub host: Option<Box<str>>,
    /// How many of this pattern are open now.
    pub open: u64,
    /// Its evidence, by the [keys](Pattern::keys) of the pattern.
    pub numbers: Vec<u64>,
}

impl Event {
    fn new(state: State, pattern: Pattern, host: Option<&str>, numbers: &[u64]) -> Self {
        Self { state, pattern, host: host.map(Into::into), open: 0, numbers: numbers.into() }
    }

    /// What it rests on: a key, whether it is a time in milliseconds, and the number. How long it lasted only when it is not
    /// new.
    pub fn evidence(&self) -> impl Iterator<Item = (Key, u64)> {
        // The last one is how long it lasted.
        let keys = self.pattern.keys();
        let told = if self.state == State::Open { keys.len().saturating_sub(1) } else { keys.len() };
        keys.iter().zip(&self.numbers).take(told).map(|(key, number)| (*key, *number))
    }

    /// The line for the log: `state=open pattern=restart cluster="orders" host="10.0.3.7:8080" … look_at="…"`.
    #[must_use]
    pub fn line(&self, cluster: &str) -> String {
        let state = match self.state {
            State::Open => "open",
            State::Update => "update",
            State::Over => "over",
        };
        let mut line = String::new();
        append(&mut line, &["weir: incident state=", state, " pattern=", self.pattern.name()]);
        append(
            &mut line,
            &[" cluster=\"", &printable(cluster), "\" host=\"", self.host.as_deref().unwrap_or("*"), "\""],
        );
        for ((key, is_time), number) in self.evidence() {
            append(&mut line, &[" ", key, "="]);
            if is_time { append_time(&mut line, number) } else { append_number(&mut line, number) }
        }
        append(&mut line, &[" look_at=\"", self.pattern.advice(), "\""]);
        line
    }
}

/// What `watch` knows of an attempt besides its signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hint {
    /// Nothing.
    #[default]
    None,
    /// No connection came about within the connect timeout.
    ConnectTimeout,
    /// Its connection had been idle for so many milliseconds.
    Idle(Milliseconds),
}

/// What a worker noted of a host and did not yet write down: a run of the same, from the first to the last.
#[derive(Clone, Debug)]
struct Note {
    host: Box<str>,
    /// `None` is an answer.
    kind: Option<Kind>,
    first: Milliseconds,
    last: Milliseconds,
    count: u64,
    idle: Option<Milliseconds>,
}

/// A worker keeps at most so many notes between two writes.
const MOST_NOTES: usize = 200;
/// A connection that is none.
const GONE: u64 = 0;
/// It remembers so many connections of a cluster.
const MOST_CONNECTIONS: usize = 256;
/// Shorter pauses make no connection an idle one.
const IDLE: Milliseconds = 100;
/// How often the record is read while a host is down, and otherwise.
const SOON: Milliseconds = 100;
const LATER: Milliseconds = 1_000;

/// What one worker knows of a cluster's incidents.
#[derive(Debug, Default)]
pub struct Incidents {
    notes: Vec<Note>,
    /// Whether a host is down, as the record has it: then answers matter.
    watchful: bool,
    /// When the record is to be read next.
    next: Milliseconds,
    /// Connections by a hash of their local address, and when each was last in use.
    connections: Vec<(u64, Milliseconds)>,
    /// When there was a reset last.
    reset: Milliseconds,
    /// When an attempt was retried last of which nothing else is seen.
    hidden: Milliseconds,
    events: Vec<Event>,
    /// The record as it was last read.
    shared: Shared,
}

impl Incidents {
    /// Whether answered attempts matter, so that their hosts are worth reading.
    #[must_use]
    pub fn is_watchful(&self) -> bool {
        self.watchful || !self.notes.is_empty()
    }

    /// Whether connections matter, since there was a reset of late.
    #[must_use]
    pub fn tracks(&self, now: Time, interval: Milliseconds) -> bool {
        self.reset > 0 && sub(ms(now), self.reset) < times(interval, 30)
    }

    /// An attempt ended on the connection with that hash; for how long it had been idle when the attempt `began`, if it is
    /// known.
    pub fn used(&mut self, connection: u64, reset: bool, began: Time, now: Time) -> Option<Milliseconds> {
        // Whoever has the port of a connection that is gone is another.
        let (kept, now) = (if reset { GONE } else { connection }, ms(now));
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

    /// A request was retried, and its attempts but the last one are not seen.
    pub fn retried_unseen(&mut self, now: Time) {
        self.hidden = ms(now);
    }

    /// An attempt ended.
    pub fn ended(&mut self, host: &str, signal: Signal, hint: Hint, began: Time, now: Time) {
        let (kind, idle) = match (signal, hint) {
            (Signal::Answered | Signal::Pushback, _) => (None, None),
            (Signal::Refused, _) => (Some(Kind::Refused), None),
            (Signal::Unreachable, Hint::ConnectTimeout) => (Some(Kind::ConnectTimeout), None),
            (Signal::Unreachable, _) => (Some(Kind::NoConnection), None),
            (Signal::Reset, Hint::Idle(idle)) => (Some(Kind::Reset), (idle >= IDLE).then_some(idle)),
            (Signal::Reset | Signal::Truncated, _) => (Some(Kind::Reset), None),
            (Signal::Timeout, _) => (Some(Kind::Timeout), None),
            (Signal::Error, _) => (Some(Kind::Error), None),
            (Signal::Cancelled | Signal::Local, _) => return,
        };
        if kind.is_none() && !self.is_watchful() {
            return;
        }
        if kind == Some(Kind::Reset) {
            self.reset = ms(now);
        }
        // An answer says that the host was there when the attempt began, and no more.
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
        !self.notes.is_empty() || now >= self.next || self.next > add(now, LATER)
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
        let mut shared = record.and_then(|record| Shared::decode(record, now)).unwrap_or_default();
        self.events.clear();
        for note in &self.notes {
            shared.note(note);
        }
        let seen_whole = self.hidden == 0 || sub(now, self.hidden) >= times(interval, 30);
        shared.advance(now, interval, known, seen_whole, &mut self.events);
        self.events.iter_mut().for_each(|event| event.open = shared.open(event.pattern));
        self.watchful = shared.is_down();
        self.next = add(now, if self.watchful { SOON } else { LATER });
        let written = shared.encode();
        self.shared = shared;
        (written != record.unwrap_or_default()).then_some(written)
    }

    /// Hosts that should be looked at once, and when, to learn how long they are down.
    pub fn each_scheduled_probe(&self, now: Time, look_at: &mut dyn FnMut(&str, Time)) {
        self.shared.each_scheduled_probe(ms(now), look_at);
    }

    /// What [`exchange`](Self::exchange) returned is in the record, or it returned nothing, or it cannot be helped. What is
    /// to be told.
    pub fn published(&mut self) -> Vec<Event> {
        self.notes.clear();
        std::mem::take(&mut self.events)
    }
}

const fn ms(time: Time) -> Milliseconds {
    time.as_nanos() / 1_000_000
}

/// What is left of `a` without `b`, if anything. (A call takes a third of the module's bytes that it takes inlined.)
#[inline(never)]
const fn sub(a: u64, b: u64) -> u64 {
    a.saturating_sub(b)
}

/// Both together, or the most there is.
#[inline(never)]
const fn add(a: u64, b: u64) -> u64 {
    a.saturating_add(b)
}

/// So many times as much, or the most there is.
#[inline(never)]
const fn times(a: u64, b: u64) -> u64 {
    a.saturating_mul(b)
}

fn append(text: &mut String, parts: &[&str]) {
    parts.iter().for_each(|part| text.push_str(part));
}

fn append_number(text: &mut String, number: u64) {
    append(text, &[&number.to_string()]);
}

/// In seconds, with three digits.
fn append_time(text: &mut String, time: Milliseconds) {
    append_number(text, time / 1_000);
    append(text, &["."]);
    [time / 100 % 10, time / 10 % 10, time % 10].iter().for_each(|digit| append_number(text, *digit));
    append(text, &["s"]);
}
