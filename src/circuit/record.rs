//! The state of a circuit, in one record that all workers share: when it opens, by its policy, and when it closes, by its probes.
//!
//! The record is the truth: a circuit is open if and only if it says so. So all workers shed and pass together, a fresh VM
//! after a reload knows of an open circuit with the first record that it reads, and a probe belongs to the worker whose swap
//! succeeded. Without any trouble ever, there is no record.
//!
//! Times are the host's wall clock, as in all records. Where it stepped, what the record says is brought back to what is
//! possible: nothing happened in the future, and the next probe is at most `open_time` away.
//!
//! **What the end of a probe means**: whether the circuit closes, and when the next probe goes if it stays open.
//!
//! | the probe's last attempt | the circuit | the next probe |
//! |---|---|---|
//! | answered, error, pushback, closed | closes: somebody processed it | none |
//! | refused, unreachable | stays open | after an eightieth of `open_time`, and any request will do: none pays for it |
//! | reset, truncated | stays open | after a twentieth |
//! | timeout | stays open | after a quarter, since a client waited in vain |
//! | cancelled, local, or none at all | stays open: nobody knows | at once |
//! | has not ended | stays open | `open_time` after it began |
//!
//! If no request came during sixteen such pauses (of what was refused, or else of what broke off), as many probes go as
//! would have gone meanwhile, until the latest of them has failed.
//!
//! The first probe goes an eightieth of `open_time` after the circuit opened, or at once if the attempt that broke last was not
//! processed.

use std::time::Duration;

use super::{Command, Event, SETTLE};
use crate::base::bytes::{Format, Reader, Writer};
use crate::base::percent::Percent;
use crate::base::time::{Time, nanos};
use crate::base::window::{Edge, SLOTS, Window};
use crate::signal::Signal;

/// What a record starts with: a name, and the version of what follows.
const FORMAT: Format = *b"wrc\x02";
/// A probe that has been due for sixteen pauses was not asked for: for a fifth of a second at the defaults. A cluster
/// with fewer requests than that opens no circuit.
const UNASKED: u32 = 16;
/// A circuit is never abandoned before this time, even where the interval is shorter.
const MIN_ABANDONED: Duration = Duration::from_secs(10);
/// After a probe that was not processed, or after the circuit opened, the next probe goes after this part of `open_time`.
const NOT_PROCESSED: u64 = 80;
/// After a probe that broke off, the next one goes after this part of `open_time`.
const BROKE_OFF: u64 = 20;
/// After a probe that timed out, the next one goes after this part of `open_time`.
const TIMED_OUT: u64 = 4;

/// When a cluster's circuit opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// The circuit opens if at least this share of the attempts broke, 1 to 100 percent. Default: 90.
    pub percent: Percent,
    /// The smallest number of attempts that opens it, 1 to 1,000,000. Default: 50.
    pub min_requests: u32,
    /// The longest time over which these attempts are counted, 1 s to 1 h. Default: 10 s.
    pub interval: Duration,
    /// How long a probe that does not end holds up the next, 100 ms to 1 h. After a probe that fails, the next one goes
    /// after a part of this. Default: 1 s.
    pub open_time: Duration,
}

impl BreakerPolicy {
    /// The policy where nothing is configured.
    pub const DEFAULT: Self = Self {
        percent: Percent::saturating(9_000),
        min_requests: 50,
        interval: Duration::from_secs(10),
        open_time: Duration::from_secs(1),
    };
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The state of a circuit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it opened; `None` while it is closed.
    pub opened: Option<Time>,
    /// When it closed last: attempts that began earlier say nothing.
    pub closed: Time,
    /// While it is open, from when on the next request is a probe.
    pub next: Time,
    /// Probes since it opened.
    pub probes: u64,
    /// Requests shed since it opened.
    pub shed: u64,
    /// While it is open: whether the latest probe that failed was not processed; before one failed, the latest attempt that broke.
    pub not_processed: bool,
    /// While it is closed, the attempts that ended.
    attempts: Window,
    /// Those of them that broke.
    broke: Window,
    /// Whether the record had times that are not possible, so that the corrected record is to be written.
    pub(super) corrected: bool,
}

/// Identifies a probe. What the probe finds out counts for the outage in which it was sent, and for no later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeId {
    opened: Time,
    number: u64,
}

impl Record {
    /// A closed circuit.
    #[must_use]
    pub fn new(policy: &BreakerPolicy) -> Self {
        Self {
            opened: None,
            closed: Time::default(),
            next: Time::default(),
            probes: 0,
            shed: 0,
            not_processed: false,
            attempts: Window::new(policy.interval),
            broke: Window::new(policy.interval),
            corrected: false,
        }
    }

    /// Whether any attempt broke within the interval.
    #[must_use]
    pub fn is_troubled(&self) -> bool {
        !self.broke.is_empty()
    }

    /// Adds what ended at a worker.
    pub fn merge(&mut self, attempts: &Window, broke: &Window, now: Time) {
        self.attempts.merge(attempts, Edge::Start, now);
        self.broke.merge(broke, Edge::Start, now);
    }

    /// Opens the circuit if the policy says so of the attempts that were counted. `not_processed` says whether the
    /// latest attempt that broke was not processed.
    pub fn judge(&mut self, policy: &BreakerPolicy, not_processed: bool, now: Time) -> Option<Event> {
        self.attempts.advance(now);
        self.broke.advance(now);
        let settled = Time::from_nanos(now.as_nanos().saturating_sub(nanos(SETTLE)));
        let slots = self.attempts.over_by(settled).zip(self.broke.over_by(settled));
        let (mut attempts, mut broke, mut length) = (0, 0, 0);
        for (&in_slot, &broke_in_slot) in slots {
            attempts += u64::from(in_slot);
            broke += u64::from(broke_in_slot);
            length += 1;
            if attempts >= u64::from(policy.min_requests.max(1)) {
                break;
            }
        }
        let enough = attempts >= u64::from(policy.min_requests.max(1));
        // At most 11 x 2^32 attempts, so nothing overflows.
        let whole = u64::from(Percent::MAX.basis_points());
        if !enough || broke == 0 || broke * whole < attempts * u64::from(policy.percent.basis_points()) {
            return None;
        }
        let within = Duration::from_nanos(nanos(self.attempts.interval()) / SLOTS as u64 * length);
        let next = if not_processed { now } else { now.saturating_add(policy.pause(Signal::Refused)) };
        *self = Self { opened: Some(now), closed: self.closed, next, not_processed, ..Self::new(policy) };
        Some(Event::Opened { broke, attempts, within })
    }

    /// Lets a request through as a probe, if one is due. If none was asked for during sixteen pauses, as many go as
    /// would have gone meanwhile. Otherwise, of requests that come all at once, all but the first would be shed until
    /// that finds out that the outage is over.
    pub fn probe(&mut self, policy: &BreakerPolicy, now: Time) -> Option<Event> {
        let opened = self.opened.filter(|_| now >= self.next)?;
        let pause = policy.pause(if self.not_processed { Signal::Refused } else { Signal::Reset });
        let unasked = now.is_later(pause.saturating_mul(UNASKED), self.next);
        self.next = if unasked { self.next.saturating_add(pause) } else { now.saturating_add(policy.open_time) };
        self.probes = self.probes.saturating_add(1);
        Some(Event::Probing(ProbeId { opened, number: self.probes }))
    }

    /// Whether a probe was sent since the circuit opened, and the circuit is still open.
    #[must_use]
    pub fn is_of(&self, probe: ProbeId) -> bool {
        self.opened == Some(probe.opened)
    }

    /// A probe failed with this `signal`. If it was the latest probe, the next one is due after the pause for that
    /// signal. Returns whether that changed anything.
    pub fn fail(&mut self, policy: &BreakerPolicy, probe: ProbeId, signal: Signal, now: Time) -> bool {
        let last = self.is_of(probe) && self.probes == probe.number;
        if last {
            let due = now.saturating_add(policy.pause(signal));
            self.next = if self.next > now { self.next.min(due) } else { due };
            self.not_processed = is_not_processed(signal);
        }
        last
    }

    /// A probe ended, and its end says nothing. If it was the latest probe, the next request may be one. Returns
    /// whether that changed anything.
    pub fn give_back(&mut self, probe: ProbeId, now: Time) -> bool {
        let last = self.is_of(probe) && self.probes == probe.number;
        if last {
            self.next = self.next.min(now);
        }
        last
    }

    /// Closes, and begins anew.
    pub fn close(&mut self, now: Time, processed: bool) -> Option<Event> {
        let after = now.since(self.opened?);
        let (probes, shed) = (self.probes, self.shed);
        (self.opened, self.closed, self.next, self.probes, self.shed) = (None, now, Time::default(), 0, 0);
        self.not_processed = false;
        Some(Event::Closed { after, probes, shed, processed })
    }

    /// Whether the next probe has been due for the interval, or for ten seconds where that is longer. Then there were
    /// no requests, or the circuit breaker was off, and it is not known whether the outage is over.
    #[must_use]
    pub fn is_abandoned(&self, policy: &BreakerPolicy, now: Time) -> bool {
        now >= self.next.saturating_add(policy.interval.max(MIN_ABANDONED))
    }

    /// The record in bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut record = Vec::new();
        let mut writer = Writer::new(&mut record, &FORMAT, FORMAT.len() + 5 * 8 + 1 + 2 * Window::ENCODED_BYTES);
        let [opened, closed, next] = [self.opened.unwrap_or_default(), self.closed, self.next].map(Time::as_nanos);
        writer.u64s([opened, closed, next, self.probes, self.shed]);
        writer.u8(u8::from(self.not_processed));
        self.attempts.encode(&mut writer);
        self.broke.encode(&mut writer);
        record
    }

    /// The circuit in `record`, brought back to what is possible now. `None` if it is no such record, or one of another
    /// version: then the circuit is closed.
    #[must_use]
    pub fn decode(record: &[u8], policy: &BreakerPolicy, now: Time) -> Option<Self> {
        let mut record = Reader::new(record, &FORMAT)?;
        let mut circuit = Self::new(policy);
        let [opened, closed, next, probes, shed] = record.u64s()?;
        let [opened, closed, next] = [opened, closed, next].map(Time::from_nanos);
        (circuit.probes, circuit.shed) = (probes, shed);
        circuit.not_processed = record.u8()? == 1;
        for window in [&mut circuit.attempts, &mut circuit.broke] {
            let read = Window::decode(&mut record)?;
            // What was counted over another interval is of little use.
            if read.interval() == window.interval() {
                *window = read;
                window.advance(now);
            }
        }
        if !record.is_empty() {
            return None;
        }
        let latest = now.saturating_add(policy.open_time);
        circuit.opened = (opened > Time::default()).then(|| opened.min(now));
        (circuit.closed, circuit.next) = (closed.min(now), next.min(latest));
        circuit.corrected = opened > now || closed > now || next > latest;
        Some(circuit)
    }
}

impl Command {
    /// The command that follows from how the last attempt of a probe ended, as far as is known.
    #[must_use]
    pub const fn of_probe(probe: ProbeId, last_attempt: Option<Signal>) -> Self {
        match last_attempt {
            Some(Signal::Answered | Signal::Error | Signal::Pushback | Signal::Closed) => Self::Close(probe),
            Some(Signal::Cancelled | Signal::Local) | None => Self::GiveBack(probe),
            Some(signal) => Self::Fail(probe, signal),
        }
    }
}

impl BreakerPolicy {
    /// How long after a probe that failed with this `signal` the next one goes.
    fn pause(&self, signal: Signal) -> Duration {
        let parts = match signal {
            signal if is_not_processed(signal) => NOT_PROCESSED,
            Signal::Reset | Signal::Truncated => BROKE_OFF,
            _ => TIMED_OUT,
        };
        Duration::from_nanos(nanos(self.open_time) / parts)
    }
}

/// Whether an attempt that ended with this signal was processed by nobody: then its end costs no client anything.
pub(super) const fn is_not_processed(signal: Signal) -> bool {
    matches!(signal, Signal::Refused | Signal::Unreachable)
}
