//! The circuit breaker of a cluster: when so much fails that sending more helps nobody, requests are answered at once, and
//! one now and then finds out whether that is over.
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
//! **What counts** is the end of every attempt that Weir sees. Refused, Unreachable, Reset, Truncated and Timeout mean that
//! nobody was there to process it. Answered, Error and Pushback mean that somebody was: a cluster that answers 503 decides
//! itself what it can take, and a breaker would only hide its answers. The rest says nothing. A stream that goes on is told as
//! Answered while it runs.
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
//! **Probes** are requests like any other, with their retries. What is let through would have been shed, so to try costs its
//! client nothing, but for the time that it takes; and the sooner an upstream that is back is found, the fewer requests fail for
//! nothing. What the end of a probe means for the circuit, and when the first probe goes and the next, is a table in `record`.
//! A probe that does not end holds up the next for `open_time`, counted from when it
//! began: where hosts hang, their whole timeout would be longer, and so none is lost with its worker. A probe that hangs is
//! told as soon as it is answered.
//!
//! A request that may be repeated whatever happens is taken as a probe at once; any other waits for a tenth of `open_time`, so
//! that where there are both, nobody pays for a probe twice, unless the latest probe was not processed, or, before the
//! first one, the latest attempt that broke: then none pays for it. What counts is whether response headers of the upstream came.
//!
//! **All workers** share one [record](Record), by compare-and-swap. While nothing fails anywhere, it is read ten times a
//! second and not written: each worker keeps what it counted until there is trouble. What an attempt says that began before
//! the circuit closed, or that ends while it is open, is not counted.
//!
//! **Requests that are shed** never reach the retry budget: they can need no retry, and as a part of what retries may be a
//! share of, they would buy a herd of retries for the moment in which the circuit closes.

mod record;

use std::time::Duration;

pub use record::{BreakerPolicy, ProbeId, Record};

use record::is_not_processed;

use crate::base::time::{Time, nanos};
use crate::base::window::{SLOTS, Window};
use crate::signal::Signal;

/// For so long after a slot, workers may still add to it: each writes ten times a second.
pub const SETTLE: Duration = Duration::from_millis(250);
/// A request that arrives reads the record if nobody did for so long. Where there are requests, the timer does.
const STALE: Duration = Duration::from_millis(200);
/// A cluster had requests of late if there was one within this time.
const RECENTLY: Duration = Duration::from_millis(500);
/// While it is open, a request that would be shed reads the record if this worker did not for so long.
const STALE_WHILE_OPEN: Duration = Duration::from_millis(5);
/// Each role has a timer. Where the record was read within this time, another role's timer did it, and this one does not.
const PAUSE: Duration = Duration::from_millis(50);
/// Where a circuit closed so long ago, no attempt is from before.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(300);

/// One that may not be repeated waits for others at most this long: where there are no others, nobody else finds out.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// What a circuit permits to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Send it.
    Pass,
    /// Ask for [`Command::Probe`], and send it if that is granted.
    Due,
    /// Answer it at once.
    Shed,
}

/// What a worker asks for when it exchanges the shared record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Say what was counted here, hear what others said, and judge. `answering`: some host answers, so nothing opens.
    Exchange {
        /// Whether some host answers.
        answering: bool,
    },
    /// Let a request through as a probe.
    Probe,
    /// A probe was processed.
    Close(ProbeId),
    /// A probe failed so.
    Fail(ProbeId, Signal),
    /// A probe said nothing.
    GiveBack(ProbeId),
}

/// What happened to a circuit when a [`Command`] was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The circuit opened: so many of so many attempts broke, within this time.
    Opened {
        /// Those that broke.
        broke: u64,
        /// All that ended.
        attempts: u64,
        /// How long that took.
        within: Duration,
    },
    /// The request may go as a probe.
    Probing(ProbeId),
    /// The circuit closed.
    Closed {
        /// How long it was open.
        after: Duration,
        /// How many probes went.
        probes: u64,
        /// How many requests were shed, as far as workers wrote it down; the last 150 ms may be missing.
        shed: u64,
        /// Whether a probe was processed; else nobody had asked for long.
        processed: bool,
    },
}

/// One worker's side of a cluster's circuit.
#[derive(Clone, Debug)]
pub struct Circuit {
    policy: BreakerPolicy,
    /// What ended here and is not in the record.
    attempts: Window,
    broke: Window,
    /// Whether the latest that broke was not processed.
    not_processed: bool,
    /// What was shed here and is not in the record.
    shed: u64,
    /// The record as last seen.
    view: Record,
    /// What the record will be if the swap succeeds, what then happened, and whether it has what was counted here.
    staged: Option<(Record, Option<Event>, bool)>,
    read: Time,
    requested: Option<Time>,
}

impl Circuit {
    /// Nothing is known yet.
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

    /// A request arrives. If that returns `true`, read the record first ([`Command::Exchange`]).
    pub fn requested(&mut self, now: Time) -> bool {
        self.requested = Some(now);
        !now.is_soon_after(STALE, self.read)
    }

    /// Whether the record that says that requests are shed was not read for so long that another worker may have closed it since.
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

    /// For how long one that may not be repeated waits until it is a probe.
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

    /// An attempt ended that had begun then.
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

    /// Whether to exchange on this tick: there were requests, there is trouble, or it is open.
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        let Some(requested) = self.requested else { return false };
        let read_of_late = now.is_soon_after(PAUSE, self.read);
        let of_late = now.is_soon_after(RECENTLY, requested);
        !read_of_late && (of_late || self.is_open() || self.is_troubled())
    }

    /// Whether anything broke of late.
    #[must_use]
    pub fn is_troubled(&self) -> bool {
        !self.broke.is_empty() || self.view.is_troubled()
    }

    /// A host that answered its latest attempt within this time answers: three slots.
    #[must_use]
    pub fn answering(&self) -> Duration {
        Duration::from_nanos(nanos(self.policy.interval).saturating_mul(3) / SLOTS as u64)
    }

    /// Reads the record, which `now` is later than, and returns what to put in its place, if anything. Then comes
    /// [`done`](Self::done), or all of it again if another worker was faster, or [`failed`](Self::failed).
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

    /// What [`exchange`](Self::exchange) returned is in the record, or it returned nothing. What happened, once.
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
