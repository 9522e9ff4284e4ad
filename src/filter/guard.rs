//! Role `guard`: every attempt before it is sent, and its response headers. The last word on a retry.

use super::decide::{come_back_later, limit_reached, pushed_back};
use super::{ATTEMPT_COUNT, ContextId, RATE_LIMITED, REQUEST, Stream, VERDICT, Vm, is_grpc, parse_u32};
use crate::config::Mode;
use crate::engine::correlate::{ClusterId, RequestId};
use crate::host::{self, LocalReply, Map};
use crate::metrics::{Counter, Grant, Veto};
use crate::retry::budget::{Asker, Charge};
use crate::retry::{NOT_SENT, Plan};
use crate::signal::proxy_status;
use crate::signal::{Answer, Signal};

/// gRPC's UNAVAILABLE.
const UNAVAILABLE: i32 = 14;

/// Envoy waits for the local reply; the attempt does not go on.
const STOP: u32 = 1;
const CONTINUE: u32 = 0;
/// Neither headers nor body go on until they are told to.
const HOLD: u32 = 4;

/// What `guard` knows about an attempt.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    /// Which attempt of its request, from 1.
    number: u64,
    answered: bool,
    vetoed: bool,
    /// Its request, where that was read.
    request: Option<RequestId>,
    /// It waits: it may not be sent, and another of its request still runs beside it (a hedge, in Envoy's words). To answer in
    /// its place would cost the client the answer that the other may get.
    held_back: Option<Refusal>,
}

/// Why an attempt is not sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Refusal {
    /// The route's own policy repeats what may have been processed.
    Unsafe,
    /// The budget does not pay for it.
    Unpaid,
}

/// An attempt that `guard` saw end, for the log entry that directly follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttemptEnd {
    /// The request it belonged to, read where there was trouble.
    pub(super) request: Option<RequestId>,
    /// Whether `guard` ended it.
    pub(super) vetoed: bool,
}

/// What `decide` said about the request of the current attempt.
struct Governed {
    id: RequestId,
    cluster: ClusterId,
    plan: Plan,
    grpc: bool,
    asker: Asker,
    /// Retries that it has permission for, where it needs one.
    held: Option<u32>,
}

impl Vm {
    /// An attempt is about to be sent.
    pub(super) fn attempt_begins(&mut self, context: ContextId) -> u32 {
        let number = host::property_u64(ATTEMPT_COUNT).unwrap_or(1);
        if let Some(Stream::Guard(attempt)) = self.streams.get_mut(context) {
            attempt.number = number;
        }
        let stripped = self.steered && self.engine.mode() == Mode::Enforce;
        if let (true, Some(steering)) = (stripped, self.engine.steering()) {
            host::remove_header(Map::Request, &steering.header);
        }
        let arrived = self.arrived.take();
        if number < 2 {
            if let Some(request) = arrived.and_then(|id| self.request(RequestId(id))) {
                request.first = Some(context);
            }
            return CONTINUE;
        }
        let Some(request) = request_id().and_then(|id| self.governed(id)) else { return CONTINUE };
        if let Some(Stream::Guard(attempt)) = self.streams.get_mut(context) {
            attempt.request = Some(request.id);
        }
        if let Some(cluster) = self.engine.cluster_mut(request.cluster) {
            cluster.guarded.get_or_insert(true);
        }
        if let Some(request) = self.request(request.id) {
            request.guarded = true;
        }
        let beside = self.is_beside_another(context, request.id);
        if let Some(request) = self.request(request.id) {
            request.later.push(context);
        }
        let why = if self.forbidden(&request, beside) {
            self.count(request.cluster, Counter::Vetoes(Veto::Unsafe));
            Refusal::Unsafe
        } else if self.is_paid(&request) {
            return CONTINUE;
        } else {
            Refusal::Unpaid
        };
        if self.engine.mode() == Mode::Shadow {
            return CONTINUE;
        }
        if let Some(Stream::Guard(attempt)) = self.streams.get_mut(context) {
            attempt.vetoed = true;
            attempt.held_back = beside.then_some(why);
        }
        if beside {
            self.held_back.push(context);
            return HOLD;
        }
        if veto(why, request.grpc) { STOP } else { CONTINUE }
    }

    /// Whether another attempt of the request runs beside this one: the first, about which Envoy is asked, or a later one.
    fn is_beside_another(&mut self, context: ContextId, id: RequestId) -> bool {
        let first = self.request(id).and_then(|request| request.first).filter(|first| self.runs(*first));
        if let Some(first) = first {
            let certain = host::act_for(first) && request_id() == Some(id);
            // Back again; should that fail, whatever follows would be done to the first attempt.
            if !host::act_for(context) {
                return true;
            }
            if !certain && let Some(request) = self.request(id) {
                request.first = None;
            }
        }
        self.others_run(context, id)
    }

    /// The same, as far as is known.
    fn others_run(&self, context: ContextId, id: RequestId) -> bool {
        let Some(Stream::Decide(request)) = self.streams.get(id.0) else { return false };
        request.first.iter().chain(&request.later).any(|other| *other != context && self.runs(*other))
    }

    /// Whether an attempt was sent and not answered yet.
    fn runs(&self, context: ContextId) -> bool {
        let attempt = self.streams.get(context);
        matches!(attempt, Some(Stream::Guard(Attempt { answered: false, held_back: None, .. })))
    }

    /// Whether the safety table forbids this retry, which then is the route's own policy at work. What an attempt with an
    /// answer meant was decided when the answer passed; and a refused stream cannot be told from any other before the
    /// request ends (`Open::StreamReset`): no veto on a doubt. One that still runs, with this attempt `beside` it, timed out.
    fn forbidden(&mut self, request: &Governed, beside: bool) -> bool {
        let last_signal = self.request(request.id).and_then(|request| {
            request.failed_before = request.last_signal.take();
            request.failed_before
        });
        let last_signal = if beside { Some(Signal::Timeout) } else { last_signal };
        let Some(signal @ (Signal::Reset | Signal::Timeout)) = last_signal else { return false };
        let policy = self.engine.retry_policy(request.cluster);
        policy.is_some_and(|policy| !request.plan.permits(policy, signal, &Answer::default()))
    }

    /// Whether a retry is paid for, now if not before.
    fn is_paid(&mut self, request: &Governed) -> bool {
        let prepaid = self.request(request.id).is_some_and(|request| std::mem::take(&mut request.prepaid));
        prepaid || self.charge_retry(request) == Charge::Granted
    }

    /// Asks the budget for a retry, and counts what it says.
    fn charge_retry(&mut self, request: &Governed) -> Charge {
        let charge = self.charge(request.cluster, request.asker);
        let grant = match charge {
            Charge::Granted => Grant::Granted,
            Charge::Denied => Grant::Denied,
        };
        self.count_grant(request.cluster, grant, 1);
        if charge == Charge::Granted {
            if let Some(request) = self.request(request.id) {
                request.charged += 1;
            }
            if request.held.is_some() {
                self.release(request.cluster, 1);
            }
        }
        charge
    }

    /// Decides on attempts that were held back and are the last ones of their requests by now: the others have failed. (On a
    /// tick, since Envoy is not yet done with those when it tells of their end.)
    pub(super) fn release_held_back(&mut self) {
        for context in std::mem::take(&mut self.held_back) {
            let Some(Stream::Guard(Attempt { held_back: Some(why), request: Some(id), .. })) =
                self.streams.get(context)
            else {
                continue;
            };
            let (why, id) = (*why, *id);
            if self.others_run(context, id) || !host::act_for(context) {
                self.held_back.push(context);
                continue;
            }
            let Some(request) = self.governed(id) else { continue };
            let paid = why == Refusal::Unpaid && self.is_paid(&request);
            if let Some(Stream::Guard(attempt)) = self.streams.get_mut(context) {
                attempt.held_back = None;
                attempt.vetoed = !paid;
            }
            if paid {
                host::resume_request();
            } else {
                veto(why, request.grpc);
            }
        }
    }

    /// Response headers of an attempt. A response that must not be retried, or whose retry nobody pays for, is marked: that
    /// ends the retries, and the client gets it as it is.
    pub(super) fn attempt_answered(&mut self, context: ContextId, end_of_stream: bool) {
        let Some(Stream::Guard(attempt)) = self.streams.get_mut(context) else { return };
        attempt.answered = true;
        let number = attempt.number;
        if self.marks {
            // Nobody but `guard` has business setting it; Envoy would retry even a success.
            host::remove_header(Map::Response, NOT_SENT);
        }
        let Some(answer) = refusal(end_of_stream) else { return };
        let Some(signal) = answer.signal() else { return };
        let Some(request) = request_id().and_then(|id| self.governed(id)) else { return };
        let Some(policy) = self.engine.retry_policy(request.cluster) else { return };
        let retries_left = number <= u64::from(request.held.unwrap_or(policy.max_retries));
        let by_status = request.plan.permits(policy, Signal::Error, &answer);
        let enforce = self.engine.mode() == Mode::Enforce;
        let marked = host::header(Map::Response, RATE_LIMITED).is_some();
        let unsent = signal == Signal::Error && !by_status && request.plan != Plan::Nothing && not_sent();
        if let (true, false, Some(request)) = (unsent, retries_left, self.request(request.id)) {
            request.unsent = true;
        }
        let not_sent = unsent && retries_left;
        let (verdict, stays) = if signal == Signal::Pushback {
            if by_status && retries_left {
                self.count(request.cluster, Counter::Vetoes(Veto::Pushback));
            }
            // Not to be retried by any hop above either, so the client sees the mark.
            ("pushback", true)
        } else if !by_status && !not_sent {
            // What would be retried once more is not to be retried by any hop above, either.
            ("", unsent)
        } else if !retries_left || !enforce || marked {
            return;
        } else if self.charge_retry(&request) == Charge::Granted {
            if not_sent {
                host::set_header(Map::Response, NOT_SENT, "true");
            }
            if let Some(request) = self.request(request.id) {
                request.prepaid = true;
                if not_sent {
                    request.unmark = Some(NOT_SENT);
                }
            }
            return;
        } else {
            ("retry_budget_exhausted", true)
        };
        if !enforce || marked || !host::set_header(Map::Response, RATE_LIMITED, "true") {
            return;
        }
        if !verdict.is_empty() {
            host::set_property(VERDICT, verdict.as_bytes());
        }
        if let (false, Some(request)) = (stays, self.request(request.id)) {
            request.unmark = Some(RATE_LIMITED);
        }
    }

    /// An attempt is over; its log entry comes next.
    pub(super) fn attempt_over(&mut self, context: ContextId) {
        let Some(Stream::Guard(attempt)) = self.streams.get(context) else { return };
        let request = if attempt.answered { None } else { request_id() };
        self.last_attempt = Some(AttemptEnd { request, vetoed: attempt.vetoed });
    }

    /// What `decide` said about the request of the current attempt; `None` for requests that `decide` does not see, mirrored
    /// ones among them, and where it has no say.
    fn governed(&mut self, id: RequestId) -> Option<Governed> {
        let request = self.request(id)?;
        let (cluster, plan) = (request.cluster?, request.plan?);
        let asker = Asker { arrived: request.arrived, again: request.charged > 0 };
        Some(Governed { id, cluster, plan, grpc: request.grpc, asker, held: request.held })
    }
}

/// Answers in the place of the current attempt. Whether the host lets us.
fn veto(why: Refusal, grpc: bool) -> bool {
    // No hop above shall retry it either, if it is for want of budget.
    let marks = [(RATE_LIMITED, "true"), come_back_later(grpc)];
    let (verdict, body, headers) = match why {
        Refusal::Unsafe => ("unsafe_retry", UNSAFE, &[][..]),
        Refusal::Unpaid => ("retry_budget_exhausted", EXHAUSTED, &marks[..]),
    };
    host::set_property(VERDICT, verdict.as_bytes());
    let details = ["weir_", verdict].concat();
    host::send_local_reply(&LocalReply { status: 503, details: &details, body, headers, grpc_status: UNAVAILABLE })
}

const UNSAFE: &str = "weir: not retried: the request may have been processed, and is not safe to repeat";
const EXHAUSTED: &str = "weir: not retried: the cluster's retry budget is used up";

fn request_id() -> Option<RequestId> {
    host::property(REQUEST).and_then(|id| id.first_chunk().copied()).map(|id| RequestId(u32::from_le_bytes(id)))
}

/// Whether the answer is one of a proxy in front of the upstream that had no connection to send the request on, and says so
/// without a doubt: see [`proxy_status`] on what Envoy states, and why its `proxy-status` alone is not enough.
fn not_sent() -> bool {
    let header = |name| host::header(Map::Response, name);
    header("proxy-status").is_some_and(|value| proxy_status::signal(&value) == Some(Signal::Refused))
        && header("x-envoy-attempt-count").is_some_and(|count| &*count == b"1")
        && header("x-envoy-upstream-service-time").is_none()
}

/// The answer of the current attempt, if it is one that somebody might retry.
fn refusal(end_of_stream: bool) -> Option<Answer<'static>> {
    let status = host::header(Map::Response, ":status").and_then(|status| parse_u32(&status))?;
    let status = u16::try_from(status).ok()?;
    // A gRPC status comes in headers only where there is nothing else.
    let grpc_status = if status == 200 && end_of_stream {
        let grpc = host::header(Map::Response, "content-type").is_some_and(|content_type| is_grpc(&content_type));
        grpc.then(|| host::header(Map::Response, "grpc-status").and_then(|status| parse_u32(&status))).flatten()
    } else {
        None
    };
    if status < 400 && grpc_status.unwrap_or(0) == 0 {
        return None;
    }
    Some(Answer {
        status: Some(status),
        grpc_status,
        retry_after: status == 503 && host::header(Map::Response, "retry-after").is_some(),
        overloaded: pushed_back() || limit_reached(Some(status)),
        proxy_status: &[],
    })
}
