//! What the engine decided, carried out in Envoy.

use super::abi::{self, LocalReply, Map};
use super::host::{REQUEST, VERDICT};
use crate::base::time::millis;
use crate::engine::decision::{
    AttemptDecision, Edits, RATE_LIMITED, Reply, ResponseDecision, Then, UNAVAILABLE, Verdict,
};
use crate::engine::host::StreamId;
use crate::retry;

/// Ends the tag of a request of whose first attempt `guard` need not hear: what a matcher in Envoy's configuration asks for.
const QUIET: u64 = u64::from_le_bytes(*b"\0\0\0\0calm");

/// Changes the headers of a request.
pub(super) fn to_request(stream: StreamId, edits: &Edits<'_>) {
    let set = |name: &str, value: &str| _ = abi::set_header(Map::Request, name, value);
    if let Some(name) = edits.remove_hosts {
        abi::remove_header(Map::Request, name);
    }
    for name in &edits.remove_control {
        abi::remove_header(Map::Request, name);
    }
    for (name, value) in edits.retry {
        set(name, value);
    }
    if let Some(timeout) = edits.per_try_timeout {
        set(retry::PER_TRY_TIMEOUT, &millis(timeout).max(1).to_string());
    }
    if let Some(retries) = edits.max_retries {
        set(retry::MAX_RETRIES, &retries.to_string());
    }
    if let Some((name, hosts)) = &edits.hosts {
        set(name, hosts);
    }
    if let Some(after) = edits.hedge {
        set(retry::PER_TRY_TIMEOUT, &millis(after).to_string());
        set(retry::HEDGE, "true");
    }
    if edits.tag {
        let tag = u64::from(stream.0) | if edits.quiet { QUIET } else { 0 };
        abi::set_property(REQUEST, &tag.to_le_bytes());
    }
}

/// Sends an attempt, or does not. Whether its headers stop here.
pub(super) fn to_attempt(decision: &AttemptDecision<'_>) -> bool {
    if let Some(name) = decision.remove_hosts {
        abi::remove_header(Map::Request, name);
    }
    match decision.then {
        Then::Send => false,
        Then::Pause => true,
        Then::Reply(reply) => self::reply(&reply),
    }
}

/// Changes the headers of a response.
pub(super) fn to_response(decision: &ResponseDecision) {
    if let Some(name) = decision.remove {
        abi::remove_header(Map::Response, name);
    }
    if let Some(name) = decision.mark {
        abi::set_header(Map::Response, name, "true");
    }
    if let Some((name, value)) = decision.later.map(|later| later.header()) {
        abi::set_header(Map::Response, name, &value);
    }
    if let Some(verdict) = decision.verdict {
        abi::set_property(VERDICT, verdict.name().as_bytes());
    }
}

/// Says something about the current stream in access logs.
pub(super) fn verdict(verdict: Verdict) {
    abi::set_property(VERDICT, verdict.name().as_bytes());
}

/// Answers the current stream in place of the upstream. Whether Envoy does.
pub(super) fn reply(reply: &Reply) -> bool {
    let later = reply.later.map(|later| later.header());
    let mut headers = Vec::new();
    if let Some((name, value)) = &later {
        headers.extend([(RATE_LIMITED, "true"), (*name, &**value)]);
    }
    let verdict = reply.verdict.name();
    let sent = abi::send_local_reply(&LocalReply {
        status: 503,
        details: &["weir_", verdict].concat(),
        body: reply.body(),
        headers: &headers,
        grpc_status: UNAVAILABLE as i32,
    });
    if sent {
        abi::set_property(VERDICT, verdict.as_bytes());
    }
    sent
}
