//! Lines come in the order in which they ended, more or less; what happened is put in order here, within a bounded window.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;

use weir::engine::host::StreamId;

use super::record::Record;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request arrived.
    Arrived,
    /// An attempt began.
    AttemptStarted,
    /// An attempt ended.
    AttemptEnded,
    /// A request ended.
    RequestEnded,
}

/// The beginning or the end of a request or an attempt, by a line of the log.
pub struct Event {
    /// When it happened, in nanoseconds since the Unix epoch.
    pub at: u64,
    number: u64,
    /// Identifies the request or attempt.
    pub stream: StreamId,
    /// What happened to the request or attempt.
    pub kind: Kind,
    /// The index of its cluster.
    pub cluster: usize,
    /// The line of the log that says so.
    pub record: Rc<Record>,
}

/// The largest number of events that wait.
const MOST: usize = 1 << 17;
/// Durations are in whole milliseconds: a request does not end before its attempts, whatever the rounding.
const ROUNDING: u64 = 2_000_000;

/// Events that wait until all that came before them is known.
pub struct Order {
    window: u64,
    waiting: BinaryHeap<Event>,
    latest: u64,
    number: u64,
    streams: u32,
}

impl Order {
    /// Puts right what comes up to `window` nanoseconds late.
    pub fn new(window: u64) -> Self {
        Self { window, waiting: BinaryHeap::new(), latest: 0, number: 0, streams: 0 }
    }

    /// A line was read.
    pub fn push(&mut self, cluster: usize, record: &Rc<Record>) {
        self.latest = self.latest.max(record.end);
        self.streams = self.streams.wrapping_add(1);
        if record.is_attempt {
            // Times are in whole milliseconds, and a request is there before its attempts.
            let began = record.start.saturating_add(1);
            self.add(began, Kind::AttemptStarted, cluster, record);
            self.add(record.end.max(began), Kind::AttemptEnded, cluster, record);
        } else {
            self.add(record.start, Kind::Arrived, cluster, record);
            self.add(record.end.saturating_add(ROUNDING), Kind::RequestEnded, cluster, record);
        }
    }

    fn add(&mut self, at: u64, kind: Kind, cluster: usize, record: &Rc<Record>) {
        self.number += 1;
        let (number, stream) = (self.number, StreamId(self.streams));
        self.waiting.push(Event { at, number, stream, kind, cluster, record: Rc::clone(record) });
    }

    /// The earliest event that nothing comes before any more; at the `end` of all, the earliest.
    pub fn pop(&mut self, end: bool) -> Option<Event> {
        let first = self.waiting.peek()?;
        let due = end || self.waiting.len() > MOST || first.at.saturating_add(self.window) <= self.latest;
        if due { self.waiting.pop() } else { None }
    }
}

// The heap has its greatest first: so the earliest is the greatest.
impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Event {}
