//! Role `watch`: the end of every upstream attempt, from the router's `upstream_log`.

use std::time::Duration;

use super::decide::{answer, went_well};
use super::{BACKEND_LATENCY, DURATION, RESPONSE_FLAGS, Vm, parse_u32, response_code};
use crate::engine::correlate::ClusterId;
use crate::host::{self, Map, Path};
use crate::incident::Hint;
use crate::signal::{self, Answer, Flags, Open, Signal, Verdict};

const FAILURE_REASON: Path = Path("upstream\0transport_failure_reason");
const LISTENER_DIRECTION: Path = Path("xds\0listener_direction");

impl Vm {
    /// The log entry of an attempt.
    pub(super) fn attempt_logged(&mut self) {
        let guarded = self.last_attempt.take();
        if self.mirrored() {
            return;
        }
        let Some(cluster) = self.routed_cluster() else { return };
        let Logged { verdict, plain } = match guarded {
            Some(attempt) if attempt.vetoed => Logged { verdict: Verdict::Certain(Signal::Local), plain: false },
            _ => Logged::read(),
        };
        let only_failures = self.only_failures_watched();
        if let Some(cluster) = self.engine.cluster_mut(cluster) {
            cluster.watched = true;
            if !plain || only_failures {
                cluster.failures = cluster.failures.wrapping_add(1);
            }
            if only_failures && verdict.is_answered() {
                cluster.flagged_answers = cluster.flagged_answers.saturating_add(1);
            }
        }
        self.observe_latency(cluster, verdict);
        let expired = verdict == Verdict::Open(Open::Dropped) && expired();
        let request_id = if self.engine.attempts.needs_request_id(verdict) {
            host::header(Map::Request, "x-request-id")
        } else {
            None
        };
        let request = guarded.and_then(|attempt| attempt.request);
        let hint = match verdict {
            Verdict::Certain(Signal::Unreachable)
                if host::property(FAILURE_REASON).is_none_or(|why| why.is_empty()) =>
            {
                Hint::ConnectTimeout
            }
            _ => self.idle_of_attempt(cluster, verdict),
        };
        let attempt = self.attempt(cluster, verdict.is_answered(), hint, request);
        let request_id = request_id.as_deref().unwrap_or_default();
        self.engine.attempts.attempt_ended(attempt, verdict, expired, request_id, &mut self.ended);
        self.count_ended();
    }

    /// Where an adaptive timeout depends on it: how long the attempt took until its answer began, or was cut off.
    fn observe_latency(&mut self, cluster: ClusterId, verdict: Verdict) {
        if self.engine.cluster(cluster).is_none_or(|cluster| cluster.latency.is_none()) {
            return;
        }
        let timed_out = verdict == Verdict::Certain(Signal::Timeout);
        let Some(took) = host::property_u64(if timed_out { DURATION } else { BACKEND_LATENCY }) else { return };
        let now = self.now();
        let Some(latency) = self.engine.cluster_mut(cluster).and_then(|cluster| cluster.latency.as_mut()) else {
            return;
        };
        let took = Duration::from_nanos(took);
        if timed_out { latency.record_timeout(now, took) } else { latency.record(now, took) }
    }

    /// Whether this attempt is a copy that a route's `request_mirror_policies` sent. Envoy crashes when some properties of
    /// such a stream are read (`source.address` and `destination.port` among them). What is safe tells enough: Envoy marks a
    /// copy as internal; it came through no listener, which Envoy tells since 1.37 or so (1.36 never does); and its authority says so, unless
    /// `disable_shadow_host_suffix_append` is set.
    fn mirrored(&mut self) -> bool {
        if host::header(Map::Request, "x-envoy-internal").is_none() {
            return false;
        }
        if host::property(LISTENER_DIRECTION).is_some() {
            self.listeners_told = true;
            return false;
        }
        self.listeners_told || host::header(Map::Request, ":authority").is_some_and(|authority| is_shadow(&authority))
    }
}

/// What the entry says of the attempt.
struct Logged {
    verdict: Verdict,
    /// There is nothing in it that might be retried.
    plain: bool,
}

impl Logged {
    fn read() -> Self {
        let flags = Flags(host::property_u64(RESPONSE_FLAGS).unwrap_or_default());
        let status = response_code();
        let failed = flags.any(Flags::CONNECTION_FAILURE);
        let failure_reason = if failed { host::property(FAILURE_REASON) } else { None };
        let proxy_status = if status >= Some(500) { host::header(Map::Response, "proxy-status") } else { None };
        let answer = Answer { proxy_status: proxy_status.as_deref().unwrap_or_default(), ..answer(status, true) };
        let plain = flags.is_empty() && went_well(status) && answer.grpc_status.is_none_or(|status| status == 0);
        let attempt = signal::Attempt { flags, answer, failure_reason: failure_reason.as_deref().unwrap_or_default() };
        Self { verdict: attempt.classify(), plain }
    }
}

/// `host-shadow`, or `host-shadow:port`.
fn is_shadow(authority: &[u8]) -> bool {
    let host = match authority.iter().rposition(|byte| *byte == b':') {
        Some(colon) if authority.get(colon + 1..).is_some_and(|port| port.iter().all(u8::is_ascii_digit)) => {
            authority.get(..colon).unwrap_or(authority)
        }
        _ => authority,
    };
    host.ends_with(b"-shadow")
}

/// Whether the attempt lasted as long as Envoy had announced to the upstream. Decides only where `decide` is not attached.
fn expired() -> bool {
    let Some(announced) = host::header(Map::Request, "x-envoy-expected-rq-timeout-ms").and_then(|ms| parse_u32(&ms))
    else {
        return false;
    };
    let lasted = host::property_u64(DURATION).map(Duration::from_nanos);
    announced > 0 && lasted >= Some(Duration::from_millis(u64::from(announced)))
}
