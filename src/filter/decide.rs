//! Role `decide`: each request, and the end of its last attempt.

use std::time::Duration;

use super::circuit::Passage;
use super::ejections::Steered;
use super::{
    ATTEMPT_COUNT, BACKEND_LATENCY, ContextId, RATE_LIMITED, REQUEST, RESPONSE_DETAILS, RESPONSE_FLAGS, Stream,
    VERDICT, Vm, grpc_pushback, is_grpc, parse_u32, response_code,
};
use crate::base::time::{Time, millis};
use crate::circuit::Ticket;
use crate::config::{Mode, Role};
use crate::engine::Admission;
use crate::engine::correlate::{ClusterId, Ended, Held};
use crate::host::{self, Bytes, HeaderPairs, Lengths, Map};
use crate::incident::Hint;
use crate::metrics::{Counter, Grant};
use crate::retry::{self, Plan};
use crate::signal::proxy_status;
use crate::signal::{Answer, Flags, RequestEnd, Signal};

/// What `decide` knows about a request.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// Where it was routed; `None` for what Envoy answers itself.
    pub(super) cluster: Option<ClusterId>,
    /// What may be retried; `None` where Weir has no say.
    pub(super) plan: Option<Plan>,
    /// How its latest attempt ended, where `watch` and `guard` told.
    pub(super) last_signal: Option<Signal>,
    /// How the attempt ended that its latest retry was to replace, as far as `guard` knew.
    pub(super) failed_before: Option<Signal>,
    /// Retries that `guard` charged.
    pub(super) charged: u32,
    /// Whether `guard` saw one of its retries, and so charged them all.
    pub(super) guarded: bool,
    /// Its first attempt that reached `guard`, most likely; and the later ones, for certain.
    pub(super) first: Option<ContextId>,
    pub(super) later: Vec<ContextId>,
    /// Whether its content is gRPC.
    pub(super) grpc: bool,
    /// The cluster's failed attempts when it arrived, see [`crate::engine::cluster::Cluster::failures`].
    failures: u32,
    /// The next retry is charged already.
    pub(super) prepaid: bool,
    /// When it arrived, by the host's own time.
    pub(super) arrived: Time,
    /// Retries that it has permission for, where it needs one.
    pub(super) held: Option<u32>,
    /// The permission is for fewer than the policy allows; this might have been retried once more.
    denied: Option<Plan>,
    /// Its retries, where `guard` does not tell, once they were read.
    retries: Option<u32>,
    /// The header by which `guard` told Envoy whether to retry a response; the client shall not see it.
    pub(super) unmark: Option<&'static str>,
    /// Its last attempt was not sent on by the proxy in front of the upstream, as `guard` knows: it would be retried once more.
    pub(super) unsent: bool,
    /// Where it was sent.
    pub(super) steered: Steered,
    /// It finds out for an open circuit whether the cluster is back.
    pub(super) circuit_probe: Option<Ticket>,
    /// The adaptive timeout that each of its attempts got.
    per_try_timeout: Option<Duration>,
    /// Attempts that its end explains.
    explained: Vec<Held>,
}

impl Request {
    /// Retries that it has permission for and did not make; where `guard` does not tell, as far as is known before its end.
    pub(super) fn holds(&self) -> u32 {
        self.held.unwrap_or_default().saturating_sub(self.charged)
    }
}

/// What a request's headers say, in one pass.
struct View<'a> {
    request: retry::Request<'a>,
    /// Whether the client sent the steering header, which is not for clients to set.
    hosts: bool,
    /// Whether Envoy obeys what the client asks of it.
    trusted: bool,
}

impl Vm {
    /// A request arrives. Whether it goes on: else it is answered.
    pub(super) fn request_arrives(&mut self, context: ContextId) -> bool {
        self.engine.attempts.settle(&mut self.ended);
        self.count_ended();
        let now = self.now();
        let wall_clock = self.wall_clock;
        let cluster = self.routed_cluster();
        let keys = cluster.and_then(|cluster| self.engine.retry_policy(cluster));
        let hosts = self.engine.steering().map_or("", |steering| &steering.header);
        let headers = host::headers(Map::Request);
        let view = view(headers.as_ref(), keys.map_or(&[], |policy| &policy.idempotency_key_headers), hosts);
        let enforce = self.engine.mode() == Mode::Enforce;
        // In shadow mode, too: nobody but Weir has business setting it, and a cluster with the policy would obey.
        if view.hosts {
            host::remove_header(Map::Request, hosts);
        }
        if let (true, true, Some(headers)) = (enforce && view.trusted, keys.is_some(), &headers) {
            remove_control(headers);
        }
        let Some(cluster) = cluster else { return true };
        let request = view.request;
        let circuit_probe = match self.pass_circuit(cluster, &request) {
            Passage::On => None,
            Passage::Probe(ticket) => Some(ticket),
            Passage::Shed => return false,
        };
        let guarded = self.has_role(Role::Guard);
        let admission = self.engine.admit(cluster, &request, guarded, now, wall_clock);
        for (name, value) in admission.headers {
            host::set_header(Map::Request, name, value);
            self.marks |= *name == retry::RETRIABLE_HEADER_NAMES;
        }
        if let Some(timeout) = admission.per_try_timeout {
            host::set_header(Map::Request, retry::PER_TRY_TIMEOUT, &millis(timeout).max(1).to_string());
        }
        let Admission { class, plan, denied, held, per_try_timeout, .. } = admission;
        if let (true, Some(held @ 1..), Some(_)) = (enforce, held, denied) {
            host::set_header(Map::Request, retry::MAX_RETRIES, &held.to_string());
        }
        self.count(cluster, Counter::Requests(class));
        let (steered, list) = self.steer(cluster, plan, circuit_probe.is_some());
        if let (true, Some(list), Some(steering)) = (enforce, &list, self.engine.steering()) {
            host::set_header(Map::Request, &steering.header, list);
        }
        if let (true, Some(after)) = (enforce, steered.hedge) {
            host::set_header(Map::Request, retry::PER_TRY_TIMEOUT, &millis(after).to_string());
            host::set_header(Map::Request, retry::HEDGE, "true");
        }
        if guarded {
            host::set_property(REQUEST, &context.to_le_bytes());
            self.arrived = Some(context);
        }
        let failures = self.engine.cluster(cluster).map_or(0, |cluster| cluster.failures);
        if let Some(Stream::Decide(request)) = self.streams.get_mut(context) {
            request.cluster = Some(cluster);
            request.plan = plan;
            request.arrived = wall_clock;
            request.held = held;
            request.denied = denied;
            request.per_try_timeout = per_try_timeout;
            request.steered = steered;
            request.circuit_probe = circuit_probe;
            request.grpc = view.request.grpc;
            request.failures = failures;
        }
        true
    }

    /// Response headers pass on their way to the client.
    pub(super) fn response_starts(&mut self, context: ContextId) {
        let held = self.engine.attempts.response_started(answered_by_upstream, &mut self.ended);
        self.count_ended();
        let Some(Stream::Decide(request)) = self.streams.get_mut(context) else { return };
        request.explained.extend(held);
        if let Some(mark) = request.unmark.take() {
            host::remove_header(Map::Response, mark);
        }
        let denied = request.denied.is_some();
        let probe = request.circuit_probe.is_some();
        let retries = self.retries_of(context);
        if retries > 0 || denied {
            self.response_after_retries(context, retries);
        }
        if probe {
            self.probe_tells(context);
        }
    }

    /// The retries that a request had; read once at most.
    fn retries_of(&mut self, context: ContextId) -> u32 {
        let Some(Stream::Decide(request)) = self.streams.get(context) else { return 0 };
        let governed = request.plan.is_some_and(|plan| plan != Plan::Nothing);
        let Some(cluster) = request.cluster.filter(|_| governed) else { return 0 };
        let (charged, known) = (request.charged, request.retries);
        let guarded = self.engine.cluster(cluster).and_then(|cluster| cluster.guarded);
        if charged > 0 || guarded.unwrap_or_else(|| self.has_role(Role::Guard)) {
            return charged;
        }
        if let Some(retries) = known {
            return retries;
        }
        if !self.may_have_failed(context) {
            // A retry follows a failure.
            return 0;
        }
        let attempts = host::property_u64(ATTEMPT_COUNT).unwrap_or_default();
        let retries = u32::try_from(attempts.saturating_sub(1)).unwrap_or_default();
        if let Some(Stream::Decide(request)) = self.streams.get_mut(context) {
            request.retries = Some(retries);
        }
        retries
    }

    /// Response headers of a request that was retried, or might have been if there were more of the budget. If it is one
    /// that would be retried once more, it is marked, so that no hop above retries it: where each did, attempts would
    /// multiply.
    fn response_after_retries(&mut self, context: ContextId, retries: u32) {
        let Some(Stream::Decide(request)) = self.streams.get(context) else { return };
        let (grpc, held, unsent) = (request.grpc, request.held.unwrap_or_default(), request.unsent);
        let Some(cluster) = request.cluster else { return };
        let Some(plan) = request.denied.or(request.plan) else { return };
        let denied = request.denied.is_some() && retries >= held;
        let status = response_code();
        if retries == 0 && !grpc && status.is_some_and(|status| status < 400) {
            let now = self.wall_clock;
            if let Some(account) = self.engine.cluster_mut(cluster).and_then(|cluster| cluster.account.as_mut()) {
                account.answered(now);
            }
            return;
        }
        let details = host::property(RESPONSE_DETAILS);
        let mut answer = answer(status, grpc);
        answer.overloaded |= limit_reached(status);
        let flags = Flags(host::property_u64(RESPONSE_FLAGS).unwrap_or_default());
        let end = RequestEnd { flags, answer, details: details.as_deref().unwrap_or_default() };
        let Some(signal) = end.last_attempt() else { return };
        let now = self.wall_clock();
        let Some(policy) = self.engine.retry_policy(cluster) else { return };
        let again = unsent
            || (!matches!(signal, Signal::Cancelled | Signal::Local) && plan.permits(policy, signal, &end.answer));
        if let Some(account) = self.engine.cluster_mut(cluster).and_then(|cluster| cluster.account.as_mut()) {
            if signal.is_failure() && (again || retries > 0) {
                account.failed(retries > 0, now);
            } else if signal == Signal::Answered && retries > 0 {
                account.helped(now);
            } else if signal == Signal::Answered {
                account.answered(now);
            }
        }
        if !again || (!denied && retries == 0) {
            return;
        }
        if denied {
            self.count_grant(cluster, Grant::Denied, 1);
        }
        if self.engine.mode() == Mode::Shadow {
            return;
        }
        host::set_header(Map::Response, RATE_LIMITED, "true");
        if !denied {
            return;
        }
        if !matches!(signal, Signal::Error | Signal::Answered) {
            let (name, value) = come_back_later(grpc);
            host::set_header(Map::Response, name, value);
        }
        host::set_property(VERDICT, b"retry_budget_exhausted");
    }

    /// The request ended.
    pub(super) fn request_ends(&mut self, context: ContextId) {
        self.last_attempt = None;
        let Some(Stream::Decide(request)) = self.streams.get_mut(context) else { return };
        let explained = std::mem::take(&mut request.explained);
        let (cluster, timeout) = (request.cluster, request.per_try_timeout);
        let (guarded, charged, grpc) = (request.guarded, request.charged, request.grpc);
        let once = request.retries == Some(0) && charged == 0;
        let held = request.holds();
        request.held = None;
        let probe = request.circuit_probe.is_some();
        let flags = Flags(host::property_u64(RESPONSE_FLAGS).unwrap_or_default());
        let only_failures = self.only_failures_watched();
        let failed = self.may_have_failed(context);
        if let (true, Some(cluster)) = (only_failures && flags.is_empty() && !failed && !grpc, cluster)
            && explained.is_empty()
            && self.engine.attempts.is_settled()
        {
            self.plain_request_ends(context, cluster, held, timeout);
            if probe {
                self.probe_tells(context);
            }
            return;
        }
        let watched = cluster.and_then(|cluster| self.engine.cluster(cluster)).is_some_and(|cluster| cluster.watched);
        // When the client goes away, the attempt's log entry comes after this, also that of a cluster's first attempt.
        let watched = watched || only_failures || (flags.client_gone() && self.has_role(Role::Watch));
        let counts = cluster.is_some() && (!watched || only_failures);
        let status = if counts || !flags.is_empty() { response_code() } else { None };
        if let (true, Some(cluster)) = (once && !watched && flags.is_empty() && !grpc && went_well(status), cluster)
            && explained.is_empty()
            && self.engine.attempts.is_settled()
        {
            self.plain_request_ends(context, cluster, held, timeout);
            if probe {
                self.probe_tells(context);
            }
            return;
        }
        // What an access-log filter keeps from `watch` is counted here.
        let mut unseen = only_failures && went_well(status) && !flags.any(Flags::BROKEN);
        if unseen
            && failed
            && let Some(state) = cluster.and_then(|cluster| self.engine.cluster_mut(cluster))
        {
            unseen = state.flagged_answers == 0;
            state.flagged_answers = state.flagged_answers.saturating_sub(1);
        }
        let judge = cluster.filter(|_| !watched || unseen);
        // Details cost a host call; nothing depends on them where all went well.
        let trouble = !flags.is_empty() || !explained.is_empty() || status.is_some_and(|status| status >= 400);
        let details = if trouble { host::property(RESPONSE_DETAILS) } else { None };
        let request_id = if flags.client_gone() { host::header(Map::Request, "x-request-id") } else { None };
        let proxy_status = match (judge, status) {
            (Some(_), Some(500..)) => host::header(Map::Response, "proxy-status"),
            _ => None,
        };
        let answer = if judge.is_some() { answer(status, grpc) } else { Answer { status, ..Answer::default() } };
        let end = RequestEnd {
            flags,
            answer: Answer { proxy_status: proxy_status.as_deref().unwrap_or_default(), ..answer },
            details: details.as_deref().unwrap_or_default(),
        };
        let id = request_id.as_deref().unwrap_or_default();
        self.engine.attempts.request_ended(&end, explained, id, &mut self.ended);
        // What the filter lets through of gRPC's statuses, `watch` has counted.
        let judge = judge.filter(|_| !unseen || !matches!(end.answer.grpc_status, Some(4 | 8 | 13 | 14 | 15)));
        if let (Some(cluster), Some(signal)) = (judge, judge.and_then(|_| end.last_attempt())) {
            let timed_out = signal == Signal::Unreachable && end.connect_timeout();
            let hint = if timed_out { Hint::ConnectTimeout } else { Hint::None };
            let attempt = self.attempt(cluster, signal == Signal::Answered, hint, None);
            self.ended.push(Ended { attempt, signal });
            self.observe_latency_of_last(cluster, signal, timeout);
        }
        self.count_ended();
        if let Some(cluster) = cluster {
            self.release(cluster, held);
            let retries = if guarded { charged } else { self.retries_happened(context, cluster) };
            if retries > 0 && answered_well(grpc) {
                self.count(cluster, Counter::RetriesSucceeded);
            }
            self.steered_request_ends(context);
        }
        if probe {
            self.probe_tells(context);
        }
    }

    /// The end of a request whose one attempt was answered well: there was no retry; or no attempt at the cluster failed
    /// meanwhile, of which `watch` is told even where it is told of failures only.
    fn plain_request_ends(&mut self, context: ContextId, cluster: ClusterId, held: u32, timeout: Option<Duration>) {
        let attempt = self.attempt(cluster, true, Hint::None, None);
        self.ended.push(Ended { attempt, signal: Signal::Answered });
        self.observe_latency_of_last(cluster, Signal::Answered, timeout);
        self.count_ended();
        self.release(cluster, held);
        self.steered_request_ends(context);
    }

    /// Whether an attempt of this request may have failed: `watch` sees each that does, of this request or of another to its
    /// cluster. `false` is certain.
    fn may_have_failed(&self, context: ContextId) -> bool {
        let Some(Stream::Decide(request)) = self.streams.get(context) else { return true };
        let Some(state) = request.cluster.and_then(|cluster| self.engine.cluster(cluster)) else { return true };
        !(state.watched || self.only_failures_watched()) || state.failures != request.failures
    }

    /// Where an adaptive timeout depends on it, and no `watch` tells: how long the last attempt took.
    fn observe_latency_of_last(&mut self, cluster: ClusterId, signal: Signal, timeout: Option<Duration>) {
        if self.engine.cluster(cluster).is_none_or(|cluster| cluster.latency.is_none()) {
            return;
        }
        let now = self.now();
        let took = host::property_u64(BACKEND_LATENCY).map(Duration::from_nanos);
        let Some(latency) = self.engine.cluster_mut(cluster).and_then(|cluster| cluster.latency.as_mut()) else {
            return;
        };
        match (signal, timeout, took) {
            (Signal::Timeout, Some(timeout), _) => latency.record_timeout(now, timeout),
            (Signal::Answered | Signal::Error, _, Some(took)) => latency.record(now, took),
            _ => {}
        }
    }

    /// Gives back the permission of a request.
    pub(super) fn release(&mut self, cluster: ClusterId, held: u32) {
        if let Some(account) = self.engine.cluster_mut(cluster).and_then(|cluster| cluster.account.as_mut()) {
            account.release(held);
        }
    }

    /// Charges the retries of a request after the fact, where no `guard` charged them as they happened. How many were charged.
    fn retries_happened(&mut self, context: ContextId, cluster: ClusterId) -> u32 {
        let Some(Stream::Decide(request)) = self.streams.get(context) else { return 0 };
        let (charged, known) = (request.charged, request.retries);
        let Some(state) = self.engine.cluster(cluster) else { return 0 };
        let unseen = !state.watched;
        if state.account.is_none() && !(unseen && state.incidents.is_watchful()) {
            return 0;
        }
        let retries = known.unwrap_or_else(|| {
            let attempts = host::property_u64(ATTEMPT_COUNT).unwrap_or_default();
            u32::try_from(attempts.saturating_sub(1)).unwrap_or_default()
        });
        let retries = retries.saturating_sub(charged);
        if retries == 0 {
            return 0;
        }
        let now = self.wall_clock();
        let Some(state) = self.engine.cluster_mut(cluster) else { return 0 };
        if unseen {
            state.incidents.retried_unseen(now);
        }
        let Some(account) = &mut state.account else { return 0 };
        state.guarded = Some(false);
        account.retried(retries, now);
        self.count_grant(cluster, Grant::Granted, retries);
        retries
    }
}

/// The header that tells a client not to try again at once; in gRPC a negative pushback says so (gRFC A6).
pub(super) const fn come_back_later(grpc: bool) -> (&'static str, &'static str) {
    if grpc { ("grpc-retry-pushback-ms", "-1") } else { ("retry-after", "1") }
}

/// What a response says, without the cause that a sidecar may state. Looks for no more than there can be.
pub(super) fn answer(status: Option<u16>, grpc: bool) -> Answer<'static> {
    let grpc_status = if grpc && status.is_some() { grpc_status() } else { None };
    Answer {
        status,
        grpc_status,
        retry_after: status == Some(503) && host::header(Map::Response, "retry-after").is_some(),
        overloaded: (grpc_status.is_some() || (status.is_some() && !went_well(status))) && pushed_back(),
        proxy_status: &[],
    }
}

/// Whether a status says that there was nothing wrong; gRPC has statuses of its own.
pub(super) fn went_well(status: Option<u16>) -> bool {
    matches!(status, Some(200..400))
}

/// Reads what Weir needs to know of a request.
fn view<'a>(headers: Option<&'a HeaderPairs>, idempotency_keys: &[String], hosts: &str) -> View<'a> {
    let request = retry::Request { method: &[], grpc: false, idempotency_key: false, attempt: 1 };
    let mut view = View { request, hosts: false, trusted: false };
    let lengths = idempotency_keys.iter().fold(NAMES.and(hosts.len()), |lengths, key| lengths.and(key.len()));
    let Some(headers) = headers else { return view };
    for (name, value) in headers.with_names_of(lengths) {
        match name {
            b":method" => view.request.method = value,
            b"content-type" => view.request.grpc = is_grpc(value),
            b"x-envoy-attempt-count" => view.request.attempt = parse_u32(value).unwrap_or(1),
            b"x-envoy-internal" => view.trusted = value == b"true",
            name if name == hosts.as_bytes() => view.hosts = true,
            _ => {
                view.request.idempotency_key |=
                    !value.is_empty() && idempotency_keys.iter().any(|key| key.as_bytes() == name);
            }
        }
    }
    view
}

/// The lengths of the names that `view` always looks for.
const NAMES: Lengths = Lengths::NONE
    .and(":method".len())
    .and("content-type".len())
    .and("x-envoy-attempt-count".len())
    .and("x-envoy-internal".len());

/// Takes away what a client asks of Envoy that trusts it.
#[cold]
fn remove_control(headers: &HeaderPairs) {
    for (name, _) in headers.iter() {
        if let Some(header) = retry::CONTROL_HEADERS.iter().find(|header| header.as_bytes() == name) {
            host::remove_header(Map::Request, header);
        }
    }
}

/// `grpc-status` of a response that is gRPC, from its trailers or, where it has only these, its headers.
pub(super) fn grpc_status() -> Option<u32> {
    let status =
        host::header(Map::ResponseTrailers, "grpc-status").or_else(|| host::header(Map::Response, "grpc-status"))?;
    let content_type = host::header(Map::Response, "content-type")?;
    if is_grpc(&content_type) { parse_u32(&status) } else { None }
}

/// Whether the proxy that made a response says that its upstream takes no more connections (RFC 9209).
pub(super) fn limit_reached(status: Option<u16>) -> bool {
    let pushback = |value: Bytes| proxy_status::signal(&value) == Some(Signal::Pushback);
    status >= Some(500) && host::header(Map::Response, "proxy-status").is_some_and(pushback)
}

/// Whether the last attempt of a request that ended was answered, and well. Costs up to six host calls.
#[cold]
fn answered_well(grpc: bool) -> bool {
    let details = host::property(RESPONSE_DETAILS);
    let end = RequestEnd {
        flags: Flags(host::property_u64(RESPONSE_FLAGS).unwrap_or_default()),
        answer: answer(response_code(), grpc),
        details: details.as_deref().unwrap_or_default(),
    };
    end.last_attempt() == Some(Signal::Answered)
}

fn answered_by_upstream() -> bool {
    host::property(RESPONSE_DETAILS).is_some_and(|details| &*details == b"via_upstream")
}

/// Whether a response says not to be repeated, other than by its status.
pub(super) fn pushed_back() -> bool {
    const GRPC_PUSHBACK: &str = "grpc-retry-pushback-ms";
    host::header(Map::Response, "x-envoy-overloaded").is_some()
        || grpc_pushback(host::header(Map::Response, GRPC_PUSHBACK).as_deref())
        || grpc_pushback(host::header(Map::ResponseTrailers, GRPC_PUSHBACK).as_deref())
}
