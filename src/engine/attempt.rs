//! Role `guard`: every attempt before it is sent. It decides last whether a retry is sent.

use super::cluster::Charging;
use super::decision::{AttemptDecision, Later, Reply, Then, Verdict};
use super::event::{Veto, What};
use super::host::{Host, Property, StreamId};
use super::request::{Managed, Request};
use super::view::{Phase, View};
use super::worker::Worker;
use crate::config::SteeringPolicy;
use crate::retry::budget::Charge;
use crate::retry::reason::Reason;
use crate::signal::{Answer, Signal};

/// An attempt that `guard` sees.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    /// Which attempt of its request, from 1.
    pub(super) number: u64,
    /// Its request, where that was read.
    request: Option<StreamId>,
    pub(super) state: State,
}

/// ```text
///             response headers
///   Running ───────────────────► Answered
///      │  ▲
///      │  │ the others are over, and the budget pays by now
///      │  │
///      │  └─── Paused ──┐
///      │         ▲      │ the others are over
///      │ others  │      ▼
///      └─────────┴──► Stopped
///   it may not be sent
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum State {
    /// It was sent.
    #[default]
    Running,
    /// It was sent, and its response headers came.
    Answered,
    /// It may not be sent, and another of its request still runs beside it (a hedge, in Envoy's words). To answer in its place
    /// would cost the client the answer that the other may get.
    Paused(Refusal),
    /// It was answered in place of the upstream.
    Stopped,
}

/// Why an attempt is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The route's own policy repeats what may have been processed.
    Unsafe,
    /// The budget does not pay for it.
    Unpaid,
}

impl Refusal {
    const fn reason(self) -> Reason {
        match self {
            Self::Unsafe => Reason::Method,
            Self::Unpaid => Reason::Budget,
        }
    }

    /// The reply in place of the attempt. If the budget does not pay for the retry, no hop above may retry the reply
    /// either.
    const fn reply(self, grpc: bool) -> Reply {
        match self {
            Self::Unsafe => Reply { verdict: Verdict::UnsafeRetry, later: None },
            Self::Unpaid => Reply { verdict: Verdict::BudgetExhausted, later: Some(Later::after(1, grpc)) },
        }
    }
}

/// An attempt that `guard` saw end, for the log entry that directly follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttemptEnd {
    /// The request it belonged to, read where there was no answer.
    pub(super) request: Option<StreamId>,
    /// Whether `guard` ended it.
    pub(super) stopped: bool,
}

impl Worker {
    /// An attempt is about to be sent.
    pub fn on_attempt_headers<H: Host>(&mut self, stream: StreamId, host: &H) -> AttemptDecision<'_> {
        let view = &View::new(host, Phase::Headers);
        self.last_attempt = None;
        let number = view.attempts().unwrap_or(1);
        self.attempts.insert(stream.0, Attempt { number, ..Attempt::default() });
        let latest = self.latest_request.take();
        let refusal = if number < 2 {
            if let Some(request) = latest.and_then(|id| self.requests.get_mut(id.0)) {
                request.first = Some(stream);
            }
            None
        } else {
            self.refuse_retry(stream, view)
        };
        let remove_hosts = self.policies.steering().filter(|_| self.steered).map(SteeringPolicy::own_header);
        let remove_hosts = remove_hosts.filter(|header| !header.is_empty());
        let then = match refusal {
            None => Then::Send,
            Some((_, _, true)) => Then::Pause,
            Some((refusal, grpc, false)) => Then::Reply(refusal.reply(grpc)),
        };
        let decision = AttemptDecision { remove_hosts, then };
        if self.enforces() { decision } else { decision.in_shadow() }
    }

    /// A retry is about to be sent. Returns why it may not be, whether it is gRPC, and whether another attempt runs
    /// beside it.
    fn refuse_retry<H: Host>(&mut self, stream: StreamId, view: &View<'_, H>) -> Option<(Refusal, bool, bool)> {
        let request = self.managed(tagged(view.host)?)?;
        if let Some(attempt) = self.attempts.get_mut(stream.0) {
            attempt.request = Some(request.id);
        }
        if let Some(cluster) = self.clusters.get_mut(request.routed.cluster)
            && cluster.charging == Charging::Unknown
        {
            cluster.charging = Charging::PerAttempt;
        }
        if let Some(request) = self.requests.get_mut(request.id.0) {
            request.retries.retry_seen();
        }
        let beside = self.is_beside_another(stream, request.id, view);
        if let Some(request) = self.requests.get_mut(request.id.0) {
            request.later.push(stream);
        }
        let refusal = if self.is_forbidden(&request, beside) {
            self.report(request.routed.cluster, What::Vetoed(Veto::Unsafe));
            Refusal::Unsafe
        } else if self.is_paid(&request, view) {
            return None;
        } else {
            Refusal::Unpaid
        };
        if !self.enforces() {
            return None;
        }
        self.give_reason(request.id, refusal.reason());
        if let Some(attempt) = self.attempts.get_mut(stream.0) {
            attempt.state = if beside { State::Paused(refusal) } else { State::Stopped };
        }
        if beside {
            self.paused.push(stream);
        }
        Some((refusal, request.grpc, beside))
    }

    /// Whether another attempt of the request runs beside this one: the first, about which the host is asked, or a later one.
    fn is_beside_another<H: Host>(&mut self, stream: StreamId, id: StreamId, view: &View<'_, H>) -> bool {
        let first = self.requests.get(id.0).and_then(|request| request.first).filter(|first| self.runs(*first));
        if let Some(first) = first {
            let Ok(tag) = view.host.property_of(first, Property::Request) else { return true };
            if tag.and_then(|tag| read_tag(&tag)) != Some(id)
                && let Some(request) = self.requests.get_mut(id.0)
            {
                request.first = None;
            }
        }
        self.others_run(stream, id)
    }

    /// Whether another attempt of the request runs, as far as is known.
    fn others_run(&self, stream: StreamId, id: StreamId) -> bool {
        let Some(Request { first, later, .. }) = self.requests.get(id.0) else { return false };
        first.iter().chain(later).any(|other| *other != stream && self.runs(*other))
    }

    /// Whether an attempt may still bring its request an answer: it was sent and is not answered yet, or it was answered in place
    /// of the upstream and has not ended.
    fn runs(&self, stream: StreamId) -> bool {
        let state = self.attempts.get(stream.0).map(|attempt| attempt.state);
        matches!(state, Some(State::Running | State::Stopped))
    }

    /// Whether the safety table forbids this retry; then the route's own policy asked for it. Two cases pass on purpose: an
    /// attempt with a response was already decided on when the response passed, and a stream reset may turn out to be a
    /// refused stream, which is safe to repeat (`Open::StreamReset`). An attempt that still runs, with this one `beside` it,
    /// timed out.
    fn is_forbidden(&mut self, request: &Managed, beside: bool) -> bool {
        let last_signal = self.requests.get_mut(request.id.0).and_then(|request| {
            request.failed_before = request.last_signal.take();
            request.failed_before
        });
        let last_signal = if beside { Some(Signal::Timeout) } else { last_signal };
        let Some(signal @ (Signal::Reset | Signal::Timeout)) = last_signal else { return false };
        let policy = self.retry_policy(request.routed);
        policy.is_some_and(|policy| !request.plan.permits(policy, signal, &Answer::default()))
    }

    /// Whether a retry is paid for. If it was not before, the budget is asked now.
    fn is_paid<H: Host>(&mut self, request: &Managed, view: &View<'_, H>) -> bool {
        let ahead = self.requests.get_mut(request.id.0).is_some_and(|request| request.retries.take_paid_ahead());
        let unprocessed = self.replaces_unprocessed(request);
        ahead || self.charge_retry(request, unprocessed, view) == Charge::Granted
    }

    /// Whether the attempt that this retry replaces was not processed, as far as is known. (A request that may not be
    /// repeated is retried after nothing else: retries by status were decided on when the response passed, and others
    /// against the safety table are stopped.)
    fn replaces_unprocessed(&self, managed: &Managed) -> bool {
        let before = self.requests.get(managed.id.0).and_then(|request| request.failed_before);
        match before {
            Some(signal) => matches!(signal, Signal::Refused | Signal::Unreachable),
            None => self.visibility(managed.routed.cluster).sees_failures() && !managed.plan.repeats(),
        }
    }

    /// Asks the budget for a retry, and reports the answer. `unprocessed`: the retry replaces an attempt that was not
    /// processed.
    pub(super) fn charge_retry<H: Host>(&mut self, managed: &Managed, unprocessed: bool, view: &View<'_, H>) -> Charge {
        let now = self.now(view);
        let account = self.account(managed.routed.cluster);
        let free = unprocessed && account.is_some_and(|account| account.try_unprocessed(managed.retry.again, now));
        let charge = if free { Charge::Granted } else { self.charge(managed.routed.cluster, managed.retry, view) };
        match charge {
            Charge::Denied => self.report(managed.routed.cluster, What::RetryDenied),
            Charge::Granted => {
                self.report(managed.routed.cluster, What::RetriesGranted(1));
                let unused = self.requests.get_mut(managed.id.0).map_or(0, |request| {
                    let unused = request.retries.unused();
                    request.retries.pay();
                    unused
                });
                self.release(managed.routed.cluster, unused.min(1));
            }
        }
        charge
    }

    /// The paused attempts that are the last ones of their requests by now: the others have failed. The caller is to
    /// call [`Worker::on_pause_over`] for each that it can act for. (This is done on a tick: when Envoy reports the end
    /// of the others, it is not yet done with them.)
    pub fn paused_alone(&mut self) -> Vec<StreamId> {
        let mut alone = Vec::new();
        for stream in std::mem::take(&mut self.paused) {
            if self.is_alone(stream) {
                alone.push(stream);
            }
            if self.paused_request(stream).is_some() {
                self.paused.push(stream);
            }
        }
        alone
    }

    fn paused_request(&self, stream: StreamId) -> Option<(StreamId, Refusal)> {
        match self.attempts.get(stream.0)? {
            Attempt { request: Some(request), state: State::Paused(why), .. } => Some((*request, *why)),
            _ => None,
        }
    }

    fn is_alone(&self, stream: StreamId) -> bool {
        self.paused_request(stream).is_some_and(|(request, _)| !self.others_run(stream, request))
    }

    /// Decides on an attempt that [was paused](Worker::paused_alone). `None` if it has to go on waiting, since another paused attempt
    /// of its request was decided on just before.
    pub fn on_pause_over<H: Host>(&mut self, stream: StreamId, host: &H) -> Option<Then> {
        if !self.is_alone(stream) {
            return None;
        }
        let (request, why) = self.paused_request(stream)?;
        self.paused.retain(|paused| *paused != stream);
        let request = self.managed(request)?;
        let paid = why == Refusal::Unpaid && self.is_paid(&request, &View::new(host, Phase::Headers));
        if let Some(attempt) = self.attempts.get_mut(stream.0) {
            attempt.state = if paid { State::Running } else { State::Stopped };
        }
        Some(if paid { Then::Send } else { Then::Reply(why.reply(request.grpc)) })
    }

    /// Why a request is not retried.
    pub(super) fn give_reason(&mut self, request: StreamId, reason: Reason) {
        if let Some(request) = self.requests.get_mut(request.0) {
            request.reason = Some(reason);
        }
    }

    /// An attempt is over; its log entry comes next.
    pub fn on_attempt_end<H: Host>(&mut self, stream: StreamId, host: &H) {
        let state = self.attempts.remove(stream.0).unwrap_or_default().state;
        let request = if state == State::Answered { None } else { tagged(host) };
        self.last_attempt = Some(AttemptEnd { request, stopped: matches!(state, State::Stopped | State::Paused(_)) });
    }

    /// What `decide` said about a request; `None` for requests that `decide` does not see, mirrored ones among them, and where
    /// it has no say.
    pub(super) fn managed(&self, id: StreamId) -> Option<Managed> {
        self.requests.get(id.0)?.managed(id)
    }
}

/// The request that the current attempt belongs to.
pub(super) fn tagged<H: Host>(host: &H) -> Option<StreamId> {
    host.property(Property::Request).and_then(|tag| read_tag(&tag))
}

fn read_tag(tag: &[u8]) -> Option<StreamId> {
    tag.first_chunk().map(|id| StreamId(u32::from_le_bytes(*id)))
}
