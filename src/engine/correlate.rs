//! Two views of one attempt, joined: its own log entry (`watch`) and the end of its request (`decide`).
//!
//! An attempt's log entry may leave a question that only the request's end answers (see [`Open`]). No key joins the two in
//! all set-ups, but their order does, since one worker is one thread and Envoy tells both ends of a failure in one turn of
//! its event loop:
//!
//! ```text
//!   Envoy gives up on an attempt      attempt's log entry → [response headers →] request's end
//!   the client gives up               request's end → attempt's log entry
//!   Envoy retries                     attempt's log entry → (another turn)
//! ```
//!
//! So an open attempt stays unresolved until the next event of its worker: the end of a request takes it, and anything else
//! settles it with what was known. After a client went away, the entries that follow in the same turn are compared by request id,
//! for the request that ended may have had no attempt under way.

use super::cluster::SLOTS;
use super::host::StreamId;
use crate::base::time::Time;
use crate::incident::AttemptDetail;
use crate::signal::{Open, RequestEnd, Signal, Verdict};

/// Identifies a cluster for as long as Weir remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u32);

impl ClusterId {
    /// A number below the most clusters that are remembered, unique among those that are.
    #[must_use]
    pub const fn slot(self) -> usize {
        (self.0 % SLOTS) as usize
    }
}

/// An attempt, and what is known of it when it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The cluster that it was sent to.
    pub cluster: ClusterId,
    /// The host's address; `None` if it was not read.
    pub host: Option<Box<str>>,
    /// When it began, by the host's clock.
    pub began: Time,
    /// The number of answered attempts that it stands for, where only a sample of them is read.
    pub weight: u32,
    /// The request that it belonged to; `None` if `guard` did not say.
    pub request: Option<StreamId>,
    /// What incidents need to know besides the signal.
    pub detail: AttemptDetail,
}

/// An attempt that ended, its signal known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The attempt that ended.
    pub attempt: Attempt,
    /// How it ended.
    pub signal: Signal,
}

/// An attempt that ended, and whose signal is open until more is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    attempt: Attempt,
    open: Open,
    /// Whether it lasted as long as Envoy had said that it would wait.
    expired: bool,
}

impl Unresolved {
    /// The attempt with the signal that it has as long as the end of its request says nothing more.
    fn settled(self) -> Ended {
        self.end(|unresolved| unresolved.open.provisional(unresolved.expired))
    }

    /// The attempt with the signal that follows from the end of its request, or of the request that came next. No end
    /// of a request explains a reset stream that Envoy retries.
    fn explained(self, end: &RequestEnd<'_>) -> Ended {
        if self.open == Open::StreamReset && !end.stream_reset() {
            return self.settled();
        }
        self.end(|unresolved| unresolved.open.resolve(end))
    }

    /// The attempt with this `signal`. The request is left out if the stream was reset: what that means stays in doubt
    /// while the request goes on, and no decision rests on a guess.
    fn end(self, signal: impl FnOnce(&Self) -> Signal) -> Ended {
        let signal = signal(&self);
        let request = self.attempt.request.filter(|_| self.open != Open::StreamReset);
        Ended { attempt: Attempt { request, ..self.attempt }, signal }
    }
}

/// At most this many attempts are open in one turn; hedging needs two or three.
const MOST_UNRESOLVED: usize = 64;

/// The attempts of one worker that ended, and whose signals are open until more is known.
#[derive(Debug, Default)]
pub struct Attempts {
    unresolved: Vec<Unresolved>,
    /// The `x-request-id` of the request whose client went away in this turn; empty if it has none.
    client_gone: Option<Vec<u8>>,
}

impl Attempts {
    /// Whether nothing waits to be explained.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.unresolved.is_empty() && self.client_gone.is_none()
    }

    /// Whether [`Attempts::attempt_ended`] needs the attempt's `x-request-id`, which costs a host call.
    #[must_use]
    pub fn needs_request_id(&self, verdict: Verdict) -> bool {
        self.client_gone.is_some() && matches!(verdict, Verdict::Open(_))
    }

    /// An attempt's log entry. `request_id` is its `x-request-id` where [`Attempts::needs_request_id`], else empty.
    pub fn attempt_ended(
        &mut self,
        attempt: Attempt,
        verdict: Verdict,
        expired: bool,
        request_id: &[u8],
        ended: &mut Vec<Ended>,
    ) {
        self.settle_all_but(|open| open == Open::Dropped, ended);
        match verdict {
            Verdict::Certain(signal) => ended.push(Ended { attempt, signal }),
            Verdict::Open(_) if self.client_gone.as_deref() == Some(request_id) => {
                ended.push(Ended { attempt, signal: Signal::Cancelled });
            }
            Verdict::Open(open) => {
                self.client_gone = None;
                let unresolved = Unresolved { attempt, open, expired };
                if self.unresolved.len() < MOST_UNRESOLVED {
                    self.unresolved.push(unresolved)
                } else {
                    ended.push(unresolved.settled())
                }
            }
        }
    }

    /// Response headers of a request pass `decide`; `by_upstream` tells whether they are the upstream's, where that matters:
    /// then an attempt that Envoy dropped lost to the one that answers, however that goes on. Returns the attempts that the
    /// request's end will explain.
    #[must_use]
    pub fn response_started(&mut self, by_upstream: impl FnOnce() -> bool, ended: &mut Vec<Ended>) -> Vec<Unresolved> {
        if self.is_settled() {
            return Vec::new();
        }
        self.client_gone = None;
        self.settle_all_but(|open| !matches!(open, Open::Answered(_)), ended);
        if self.unresolved.iter().any(|unresolved| unresolved.open == Open::Dropped) && by_upstream() {
            let lost = self.unresolved.extract_if(.., |unresolved| unresolved.open == Open::Dropped);
            ended.extend(lost.map(|unresolved| unresolved.end(|_| Signal::Cancelled)));
        }
        std::mem::take(&mut self.unresolved)
    }

    /// A request ended. `explained` is what [`Attempts::response_started`] returned for it; `request_id` its
    /// `x-request-id`, needed only if its client went away.
    pub fn request_ended(
        &mut self,
        end: &RequestEnd<'_>,
        explained: Vec<Unresolved>,
        request_id: &[u8],
        ended: &mut Vec<Ended>,
    ) {
        self.client_gone = end.flags.client_gone().then(|| request_id.to_vec());
        if explained.is_empty() && self.unresolved.is_empty() {
            return;
        }
        let unresolved = explained.into_iter().chain(self.unresolved.drain(..));
        ended.extend(unresolved.map(|unresolved| unresolved.explained(end)));
    }

    /// The turn of the event loop is over: nothing more will be known.
    pub fn settle(&mut self, ended: &mut Vec<Ended>) {
        if self.is_settled() {
            return;
        }
        self.client_gone = None;
        ended.extend(self.unresolved.drain(..).map(Unresolved::settled));
    }

    fn settle_all_but(&mut self, stays: impl Fn(Open) -> bool, ended: &mut Vec<Ended>) {
        ended.extend(self.unresolved.extract_if(.., |unresolved| !stays(unresolved.open)).map(Unresolved::settled));
    }
}
