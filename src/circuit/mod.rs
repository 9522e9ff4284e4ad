//! The circuit breaker of a cluster. When most attempts fail, sending more helps nobody: requests are answered at once,
//! and one now and then finds out whether the outage is over.
//!
//! ```text
//!             `percent` of at least `min_requests` attempts broke
//!   Closed ------------------------------------------------------> Open ---+
//!     ^                                                            |  ^    | one request goes through
//!     |                 the probe was processed                    |  |    |
//!     +------------------------------------------------------------+  +----+ it broke: the next one goes in a moment
//!     |                 nobody asked for long                      |         it said nothing: the next one goes at once
//!     +------------------------------------------------------------+
//! ```
//!
//! **What counts** is the end of every attempt that Weir sees. Refused, Unreachable, Reset, Truncated and Timeout mean
//! that no host was there to process it. Answered, Error and Pushback mean that a host was: a cluster that answers 503
//! decides itself what it can take, and a breaker would only hide its answers. The rest says nothing. A stream that
//! goes on counts as Answered while it runs.
//!
//! **Over which time.** A share of the whole interval would be slow where it matters: after nine calm seconds, a window of
//! ten shows 90 percent only when the outage is nine seconds old. So what is judged is the latest stretch of whole slots, a
//! tenth of the interval each, that holds `min_requests` attempts: the last second where there are enough in one, and up to
//! the interval where requests are rare. With fewer in the interval, nothing is judged. A slot counts only once it has been
//! over for [`SETTLE`], so that all workers had time to add theirs: from the start of a total outage to the open circuit
//! it takes one to two seconds and a bit. Counting from the last n attempts instead would be sooner, and would take the
//! burst of resets that one restarting host causes for an outage.
//!
//! **One host is not the cluster.** A balancer that prefers idle hosts sends most requests to one that refuses them. If a host
//! that is in answered its latest attempt, and that within three slots, the circuit stays closed: leaving hosts out is the
//! business of [`crate::outlier`]. (Three, since a host with a small share may have no request in one.)
//!
//! **Probes** are requests like any other, with their retries. Otherwise they would be shed, so a probe costs its
//! client nothing but time. The sooner the circuit closes once the upstream is back, the fewer requests are shed for
//! nothing. What the end of a probe means for the circuit, and when the first probe goes and the next, is a table in
//! `record`. A probe that does not end holds up the next for `open_time`, counted from when it began: where hosts hang,
//! their whole timeout would be longer, and this way no probe is lost with its worker. The end of a probe that hangs
//! counts as soon as it is answered.
//!
//! A request that may be repeated whatever happens is taken as a probe at once. Any other waits for a tenth of
//! `open_time`: where both come, a probe then costs no client a failed request. It does not wait if the latest probe
//! was not processed, or, before the first one, the latest attempt that broke: then no probe costs a client anything.
//! What counts is whether response headers of the upstream came.
//!
//! **All workers** share one [record](Record), by compare-and-swap. While nothing fails anywhere, it is read ten times a
//! second and not written: each worker keeps what it counted until there is trouble. What an attempt says that began before
//! the circuit closed, or that ends while it is open, is not counted.
//!
//! **Requests that are shed** never reach the retry budget. They need no retry. If they counted as requests, they would
//! pay for many retries in the moment in which the circuit closes.

mod record;

use std::time::Duration;

pub use record::{BreakerPolicy, ProbeId, Record};

use record::is_not_processed;

use crate::base::time::{Time, nanos};
use crate::base::window::{SLOTS, Window};
use crate::signal::Signal;

/// Workers may add to a slot until this long after it is over: each worker writes ten times a second.
pub const SETTLE: Duration = Duration::from_millis(250);
/// A request that arrives reads the record first if this worker has not read it for this long. While requests arrive,
/// the timer reads it more often.
const STALE: Duration = Duration::from_millis(200);
/// A cluster had requests recently if one arrived within this time.
const RECENTLY: Duration = Duration::from_millis(500);
/// While the circuit is open, a request that would be shed reads the record first if this worker has not read it for
/// this long.
const STALE_WHILE_OPEN: Duration = Duration::from_millis(5);
/// The timer does not read the record if this worker has read it within this time. Each role has a timer, and one of
/// them is enough.
const PAUSE: Duration = Duration::from_millis(50);
/// No attempt is taken to last longer than this. Once a circuit closed this long ago, all attempts began after it
/// closed.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(300);

/// A request that may not be repeated waits at most this long for others to be the probe. Where there are no others,
/// nobody else finds out whether the cluster is back.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What a circuit permits to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Send the request.
    Pass,
    /// Ask for [`Command::Probe`], and send the request if that is granted.
    Due,
    /// Answer the request at once.
    Shed,
}

/// What a worker asks for when it exchanges the shared record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Add what was counted here to the record, read what other workers added, and judge whether to open.
    Exchange {
        /// Whether some host answers: then the circuit stays closed.
        answering: bool,
    },
    /// Let a request through as a probe.
    Probe,
    /// A probe was processed.
    Close(ProbeId),
    /// A probe failed: its last attempt ended with this signal.
    Fail(ProbeId, Signal),
    /// A probe ended, and its end says nothing of the cluster.
    GiveBack(ProbeId),
}

/// What happened to a circuit when a [`Command`] was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The circuit opened: enough attempts ended, and too large a share of them broke.
    Opened {
        /// The number of attempts that broke.
        broke: u64,
        /// The number of attempts that ended, those that broke among them.
        attempts: u64,
        /// The time within which they ended.
        within: Duration,
    },
    /// The request may go as a probe.
    Probing(ProbeId),
    /// The circuit closed.
    Closed {
        /// How long it was open.
        after: Duration,
        /// The number of probes.
        probes: u64,
        /// The number of requests that were shed, as far as workers wrote it down; the last 150 ms may be missing.
        shed: u64,
        /// Whether a probe was processed; otherwise, no request had asked for a probe for long.
        processed: bool,
    },
}

/// One worker's side of a cluster's circuit.
#[derive(Clone, Debug)]
pub struct Circuit {
    policy: BreakerPolicy,
    /// Attempts that ended here and are not in the record yet.
    attempts: Window,
    /// Those of them that broke.
    broke: Window,
    /// Whether the latest attempt that broke here was not processed.
    not_processed: bool,
    /// The number of requests that were shed here and are not in the record yet.
    shed: u64,
    /// The record as it was last read or written.
    view: Record,
    /// An exchange under way: the new record, the event if it is written, and whether it has the attempts counted here.
    staged: Option<(Record, Option<Event>, bool)>,
    /// When the record was last read.
    read: Time,
    /// When a request last arrived; `None` before the first one.
    requested: Option<Time>,
}

impl Circuit {
    /// The circuit of a cluster of which nothing is known yet.
    #[must_use]
    pub fn new(policy: BreakerPolicy) -> Self {
        Self {
            policy,
            attempts: Window::new(policy.interval),
            broke: Window::new(policy.interval),
            not_processed: false,
            shed: 0,
            view: Record::new(&policy),
            staged: None,
            read: Time::default(),
            requested: None,
        }
    }

    /// Puts another policy in force. What was counted here and is not in the record is lost if its interval is another.
    pub fn set_policy(&mut self, policy: BreakerPolicy) {
        let other = policy.interval != self.policy.interval;
        self.policy = policy;
        if other {
            self.forget();
        }
    }

    /// Whether requests are shed, as far as this worker knows.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.view.opened.is_some()
    }

    /// How long a probe that does not end holds up the next.
    #[must_use]
    pub const fn open_time(&self) -> Duration {
        self.policy.open_time
    }

    /// A request arrives. Returns whether to read the record first ([`Command::Exchange`]).
    pub fn requested(&mut self, now: Time) -> bool {
        self.requested = Some(now);
        !now.is_soon_after(STALE, self.read)
    }

    /// Whether the record by which requests are shed was last read more than five milliseconds ago: another worker may
    /// have closed the circuit since.
    #[must_use]
    pub fn may_have_closed(&self, now: Time) -> bool {
        !now.is_soon_after(STALE_WHILE_OPEN, self.read)
    }

    /// What to do with a request that arrives. `repeatable`: it may be sent again whatever happens to it.
    pub fn admit(&self, now: Time, repeatable: impl FnOnce() -> bool) -> Permission {
        let next = self.view.next;
        if self.view.opened.is_none() {
            Permission::Pass
        } else if now < next || (now < next.saturating_add(self.waits_for_others()) && !repeatable()) {
            Permission::Shed
        } else {
            Permission::Due
        }
    }

    /// The time that a request that may not be repeated waits for others before it is a probe itself.
    fn waits_for_others(&self) -> Duration {
        let tenth = Duration::from_nanos(nanos(self.policy.open_time) / 10);
        if self.view.not_processed { Duration::ZERO } else { tenth.min(LONGEST_WAIT) }
    }

    /// A request was shed.
    pub fn shed(&mut self) {
        self.shed = self.shed.saturating_add(1);
    }

    /// Whether it matters when an attempt that breaks now began.
    #[must_use]
    pub fn asks_when_begun(&self, now: Time) -> bool {
        self.view.closed > Time::default() && now.is_within(LONGEST_ATTEMPT, self.view.closed)
    }

    /// An attempt that `began` at that time ended with this `signal`.
    pub fn attempt_ended(&mut self, signal: Signal, began: Time, now: Time) {
        let broke = match signal {
            Signal::Refused | Signal::Unreachable | Signal::Reset | Signal::Truncated | Signal::Timeout => 1,
            Signal::Error | Signal::Pushback | Signal::Answered => 0,
            Signal::Cancelled | Signal::Local | Signal::Closed => return,
        };
        if self.is_open() || began < self.view.closed {
            return;
        }
        self.attempts.add(now, 1);
        self.broke.add(now, broke);
        if broke > 0 {
            self.not_processed = is_not_processed(signal);
        }
    }

    /// Whether to exchange on this tick: there were requests, attempts broke, or the circuit is open.
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        let Some(requested) = self.requested else { return false };
        let read_of_late = now.is_soon_after(PAUSE, self.read);
        let of_late = now.is_soon_after(RECENTLY, requested);
        !read_of_late && (of_late || self.is_open() || self.is_troubled())
    }

    /// Whether any attempt broke within the interval, as far as this worker knows.
    #[must_use]
    pub fn is_troubled(&self) -> bool {
        !self.broke.is_empty() || self.view.is_troubled()
    }

    /// The time within which a host must have answered its latest attempt to keep the circuit closed: three slots.
    #[must_use]
    pub fn answering(&self) -> Duration {
        Duration::from_nanos(nanos(self.policy.interval).saturating_mul(3) / SLOTS as u64)
    }

    /// Reads the record, and returns what to put in its place, if anything. `now` is a time after it was read. Next,
    /// the caller calls [`done`](Self::done), or this again if another worker wrote first, or [`failed`](Self::failed).
    pub fn exchange(&mut self, record: Option<&[u8]>, command: Command, now: Time) -> Option<Vec<u8>> {
        let found = record.and_then(|record| Record::decode(record, &self.policy, now));
        let mut shared = found.unwrap_or_else(|| Record::new(&self.policy));
        let mut news = std::mem::take(&mut shared.corrected);
        let mut counted = false;
        let event = if shared.opened.is_some() {
            news |= self.shed > 0;
            shared.shed = shared.shed.saturating_add(self.shed);
            match command {
                _ if shared.is_abandoned(&self.policy, now) => shared.close(now, false),
                Command::Probe => shared.probe(&self.policy, now),
                Command::Close(probe) if shared.is_of(probe) => shared.close(now, true),
                Command::Fail(probe, signal) => {
                    news |= shared.fail(&self.policy, probe, signal, now);
                    None
                }
                Command::GiveBack(probe) => {
                    news |= shared.give_back(probe, now);
                    None
                }
                Command::Exchange { .. } | Command::Close(_) => None,
            }
        } else {
            self.attempts.advance(now);
            self.broke.advance(now);
            // What was counted before it closed is of no use any more.
            let current = shared.closed <= self.view.closed && !self.is_open();
            let mut event = None;
            if current && (!self.broke.is_empty() || shared.is_troubled()) {
                counted = !self.attempts.is_empty();
                shared.merge(&self.attempts, &self.broke, now);
                if command == (Command::Exchange { answering: false }) {
                    event = shared.judge(&self.policy, self.not_processed, now);
                }
            }
            event
        };
        self.read = now;
        let record = (news || counted || event.is_some()).then(|| shared.encode());
        self.staged = Some((shared, event, counted));
        record
    }

    /// What [`exchange`](Self::exchange) returned is in the record, or it returned nothing. Returns the event of that
    /// exchange, once.
    pub fn done(&mut self) -> Option<Event> {
        let (shared, event, counted) = self.staged.take()?;
        if counted || shared.opened.is_some() || shared.closed > self.view.closed {
            self.forget();
        }
        self.shed = 0;
        self.view = shared;
        event
    }

    /// The record could not be read, or could not be written. This worker then takes the circuit for closed, and sheds nothing.
    pub fn failed(&mut self, now: Time) {
        self.staged = None;
        self.view = Record::new(&self.policy);
        self.read = now;
    }

    fn forget(&mut self) {
        self.attempts = Window::new(self.policy.interval);
        self.broke = Window::new(self.policy.interval);
    }
}
