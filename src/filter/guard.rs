//! Role `guard`: every attempt before it is sent, and its response headers. The last word on a retry.

use super::decide::pushed_back;
use super::{ContextId, RATE_LIMITED, REQUEST, Stream, Vm, is_grpc, parse_u32};
use crate::attempt::{ClusterId, RequestId};
use crate::config::Mode;
use crate::host::{self, LocalReply, Map, Path};
use crate::metrics::{Counter, Veto};
use crate::retry::Plan;
use crate::signal::{Answer, Signal};

const ATTEMPT_COUNT: Path = Path("upstream\0request_attempt_count");

/// gRPC's UNAVAILABLE.
const UNAVAILABLE: i32 = 14;

/// Envoy waits for the local reply; the attempt does not go on.
const STOP: u32 = 1;
const CONTINUE: u32 = 0;

/// What `guard` knows about an attempt.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    answered: bool,
    vetoed: bool,
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
}

impl Vm {
    /// An attempt is about to be sent.
    pub(super) fn attempt_begins(&mut self, context: ContextId) -> u32 {
        if host::property_u64(ATTEMPT_COUNT).unwrap_or(1) < 2 {
            return CONTINUE;
        }
        let Some(request) = self.governed() else { return CONTINUE };
        // What an attempt with an answer meant was decided when the answer passed, and a refused stream cannot be told from
        // any other before the request ends (`Open::StreamReset`): no veto on a doubt.
        let last_signal = self.request(request.id).and_then(|request| request.last_signal.take());
        let Some(signal @ (Signal::Reset | Signal::Timeout)) = last_signal else { return CONTINUE };
        let permitted = self
            .engine
            .retry_policy(request.cluster)
            .is_none_or(|policy| request.plan.permits(policy, signal, &Answer::default()));
        if permitted {
            return CONTINUE;
        }
        self.count_veto(request.cluster, Veto::Unsafe);
        if self.engine.mode() == Mode::Shadow {
            return CONTINUE;
        }
        if let Some(Stream::Guard(attempt)) = self.streams.get_mut(&context) {
            attempt.vetoed = true;
        }
        let body =
            format!("weir: not retried: the attempt before ended in {} and may have been processed", signal.name());
        host::send_local_reply(&LocalReply {
            status: 503,
            details: "weir_unsafe_retry",
            body: &body,
            headers: &[],
            grpc_status: UNAVAILABLE,
        });
        STOP
    }

    /// Response headers of an attempt. A response that must not be retried is marked, which ends the retries, and the client
    /// gets it as it is.
    pub(super) fn attempt_answered(&mut self, context: ContextId, end_of_stream: bool) {
        if let Some(Stream::Guard(attempt)) = self.streams.get_mut(&context) {
            attempt.answered = true;
        }
        let Some(answer) = refusal(end_of_stream) else { return };
        let Some(signal) = answer.signal() else { return };
        let Some(request) = self.governed() else { return };
        let Some(policy) = self.engine.retry_policy(request.cluster) else { return };
        let pushback = signal == Signal::Pushback;
        let by_status = request.plan.permits(policy, Signal::Error, &answer);
        if pushback && by_status {
            self.count_veto(request.cluster, Veto::Pushback);
        }
        let permitted = by_status && !pushback;
        if permitted || self.engine.mode() == Mode::Shadow || host::header(Map::Response, RATE_LIMITED).is_some() {
            return;
        }
        // A pushback is not to be retried by any hop above either, so the client sees that mark.
        if host::set_header(Map::Response, RATE_LIMITED, "true") && !pushback {
            if let Some(request) = self.request(request.id) {
                request.unmark = true;
            }
        }
    }

    /// An attempt is over; its log entry comes next.
    pub(super) fn attempt_over(&mut self, context: ContextId) {
        let Some(Stream::Guard(attempt)) = self.streams.get(&context) else { return };
        let request = if attempt.answered { None } else { request_id() };
        self.last_attempt = Some(AttemptEnd { request, vetoed: attempt.vetoed });
    }

    /// What `decide` said about the request of the current attempt; `None` for requests that `decide` does not see, mirrored
    /// ones among them, and where it has no say.
    fn governed(&mut self) -> Option<Governed> {
        let id = request_id()?;
        let request = self.request(id)?;
        Some(Governed { id, cluster: request.cluster?, plan: request.plan? })
    }

    fn count_veto(&mut self, cluster: ClusterId, veto: Veto) {
        self.count(
            cluster,
            match self.engine.mode() {
                Mode::Enforce => Counter::Vetoes(veto),
                Mode::Shadow => Counter::ShadowVetoes(veto),
            },
        );
    }
}

fn request_id() -> Option<RequestId> {
    host::property(REQUEST).and_then(|id| id.first_chunk().copied()).map(|id| RequestId(u32::from_le_bytes(id)))
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
        overloaded: pushed_back(),
        proxy_status: &[],
    })
}
