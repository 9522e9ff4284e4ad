//! Role `watch`: the end of every upstream attempt, from its log entry.

use std::time::Duration;

use super::cluster::SAMPLE;
use super::correlate::{Attempt, ClusterId};
use super::event::What;
use super::host::{HeaderMap, Host, Property, StreamId};
use super::view::{Phase, View, parse_u32, went_well};
use super::worker::Worker;
use crate::base::random::hash;
use crate::base::time::Time;
use crate::incident::AttemptDetail;
use crate::signal::{self, Answer, Flags, Open, Signal, Verdict};

/// After this many attempts at a cluster for which `decide` saw no request, `decide` is taken not to see the cluster's
/// requests. That is reported once.
const UNDECIDED: u8 = 20;

impl Worker {
    /// The log entry of an attempt.
    pub fn on_attempt_log<H: Host>(&mut self, host: &H) {
        let view = &View::new(host, Phase::Log);
        let guarded = self.last_attempt.take();
        if self.is_mirrored(host) {
            return;
        }
        let Some(cluster) = self.routed_cluster(view) else { return };
        let Logged { verdict, plain } = match guarded {
            Some(attempt) if attempt.stopped => Logged { verdict: Verdict::Certain(Signal::Local), plain: false },
            _ => Logged::read(view),
        };
        let (filtered, decide) = (self.attached.only_failures, self.attached.decide);
        if let Some(state) = self.clusters.get_mut(cluster) {
            state.visibility.attempt_seen(filtered, plain, verdict.is_answered());
            if decide && let Some(attempts) = &mut state.undecided {
                *attempts = attempts.saturating_add(1);
                if *attempts == UNDECIDED {
                    self.report(cluster, What::Undecided);
                }
            }
        }
        self.observe_latency(cluster, verdict, view);
        let expired = verdict == Verdict::Open(Open::Dropped) && is_expired(view);
        let request_id = if self.unresolved.needs_request_id(verdict) {
            host.header(HeaderMap::Request, "x-request-id")
        } else {
            None
        };
        let detail = match verdict {
            Verdict::Certain(Signal::Unreachable) if view.failure_reason().is_empty() => AttemptDetail::ConnectTimeout,
            _ => self.idle_of_attempt(cluster, verdict, view),
        };
        let request = guarded.and_then(|attempt| attempt.request);
        let attempt = self.attempt(cluster, verdict.is_answered(), detail, Origin::Attempt(request), view);
        let request_id = request_id.as_deref().unwrap_or_default();
        self.unresolved.attempt_ended(attempt, verdict, expired, request_id, &mut self.ended);
        self.attempts_ended(view);
    }

    /// Records how long an attempt took until its answer was complete, or it was cut off. Only adaptive timeouts need
    /// that.
    fn observe_latency<H: Host>(&mut self, cluster: ClusterId, verdict: Verdict, view: &View<'_, H>) {
        if self.clusters.get(cluster).is_none_or(|cluster| cluster.latency.is_none()) {
            return;
        }
        let timed_out = verdict == Verdict::Certain(Signal::Timeout);
        let took = if timed_out { view.duration().map(Duration::from_nanos) } else { view.latency() };
        let Some(took) = took else { return };
        let now = self.worker_time(view);
        let cluster = self.clusters.get_mut(cluster);
        let Some(latency) = cluster.and_then(|cluster| cluster.latency.as_mut()) else { return };
        if timed_out { latency.record_timeout(now, took) } else { latency.record(now, took) }
    }

    /// How long the connection of the attempt had been idle. It is read only while there was a reset within the last
    /// intervals, and each attempt is logged. Without the attempts that were answered, a busy connection would seem to
    /// have been idle.
    fn idle_of_attempt<H: Host>(&mut self, cluster: ClusterId, verdict: Verdict, view: &View<'_, H>) -> AttemptDetail {
        let (Some(interval), last) = (self.policies.incident_interval(), self.wall_clock) else {
            return AttemptDetail::None;
        };
        let tracks = self.clusters.get(cluster).is_some_and(|state| state.incidents.tracks(last, interval));
        if !tracks || self.attached.only_failures {
            return AttemptDetail::None;
        }
        let now = self.now(view);
        let Some(state) = self.clusters.get_mut(cluster) else { return AttemptDetail::None };
        let Some(local) = view.host.property(Property::LocalAddress) else { return AttemptDetail::None };
        let reset = verdict == Verdict::Certain(Signal::Reset);
        let lasted = if reset { view.duration().unwrap_or_default() } else { 0 };
        let began = before(now, lasted);
        state.incidents.used(hash(&local, 0), reset, began, now).map_or(AttemptDetail::None, AttemptDetail::Idle)
    }

    /// What is known of an attempt that ended. Its host and its start are read only where outlier detection, incidents or the circuit
    /// use them.
    pub(super) fn attempt<H: Host>(
        &mut self,
        cluster: ClusterId,
        answered: bool,
        detail: AttemptDetail,
        origin: Origin,
        view: &View<'_, H>,
    ) -> Attempt {
        let (request, arrived) = match origin {
            Origin::Attempt(request) => (request, None),
            Origin::Request(arrived) => (None, Some(arrived)),
        };
        if answered && self.is_passed_over(cluster) {
            return Attempt { cluster, host: None, began: self.wall_clock, weight: 1, request, detail };
        }
        let now = self.now(view);
        let (incidents, state) = (self.policies.incident_interval().is_some(), self.clusters.get(cluster));
        // The number of answered attempts that it stands for; `None` if its host need not be read.
        let weight = match state.map(|state| &state.outliers) {
            Some(Some(outliers)) => Some(if answered && outliers.is_calm(now) { SAMPLE } else { 1 }),
            // Where hosts are not judged, incidents are reported all the same.
            Some(None) if incidents => Some(1),
            _ => None,
        };
        let host = weight.and_then(|_| view.address());
        let weight = weight.filter(|_| host.is_some()).unwrap_or(1);
        // When it began matters to outlier detection only after an ejection, and then nothing is sampled. To the
        // circuit it matters only if the attempt was not answered, and the circuit closed not long ago.
        let circuit = state.and_then(|state| state.circuit.as_ref());
        let matters = !answered && circuit.is_some_and(|circuit| circuit.asks_when_begun(now));
        let asks = matters || (host.is_some() && weight == 1);
        let began = arrived.map(|arrived| arrived.min(now)).filter(|_| asks);
        let began = began.unwrap_or_else(|| before(now, if asks { view.duration().unwrap_or_default() } else { 0 }));
        Attempt { cluster, host: host.map(Into::into), began, weight, request, detail }
    }

    /// Whether an answered attempt is left out of the sample of a calm cluster. It goes by the time of the last event,
    /// which saves a reading of the clock: with the timer, that is never long ago.
    fn is_passed_over(&mut self, cluster: ClusterId) -> bool {
        let now = self.wall_clock;
        let incidents = self.policies.incident_interval().is_some();
        let Some(state) = self.clusters.get_mut(cluster) else { return true };
        let Some(outliers) = &state.outliers else { return !(incidents && state.incidents.is_watchful()) };
        outliers.is_calm(now) && !state.sampler.takes_by_chance()
    }

    /// Whether this attempt is a copy that a route's `request_mirror_policies` sent. Envoy crashes when some properties of
    /// such a stream are read (`source.address` and `destination.port` among them). Three facts are safe to read, and are enough: Envoy
    /// marks a copy as internal; it came through no listener, as Envoy says from about 1.37 on, and 1.36 never does; and its authority
    /// ends with `-shadow`, unless `disable_shadow_host_suffix_append` is set.
    fn is_mirrored<H: Host>(&mut self, host: &H) -> bool {
        if host.header(HeaderMap::Request, "x-envoy-internal").is_none() {
            return false;
        }
        if host.property(Property::ListenerDirection).is_some() {
            self.names_listeners = true;
            return false;
        }
        self.names_listeners
            || host.header(HeaderMap::Request, ":authority").is_some_and(|authority| is_shadow(&authority))
    }
}

/// Which of a cluster's attempts `watch` sees. What it does not see, `decide` infers from the end of each request.
///
/// Where `watch` sees failures, it counts them, and all that it sees where an access-log filter passes failures only: a request
/// during which none was counted had none, so it had no retry. The counts wrap around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// `watch` saw no attempt so far: only the last attempt of each request is known.
    #[default]
    LastOnly,
    /// An access-log filter keeps from `watch` what went well.
    Failures {
        /// The number of attempts that `watch` saw.
        seen: u32,
        /// The number of answers that the filter passed all the same, while the end of their request has not been seen.
        /// (One is that of a hedged attempt past its timeout.)
        flagged_answers: u32,
    },
    /// `watch` sees all attempts.
    All {
        /// The number of attempts that did not go well, so that Envoy may have retried them.
        failures: u32,
    },
}

impl Visibility {
    /// Whether it sees each attempt that fails.
    pub(super) const fn sees_failures(self) -> bool {
        !matches!(self, Self::LastOnly)
    }

    /// The number of attempts that failed so far; 0 where `watch` sees none.
    pub(super) const fn failures(self) -> u32 {
        match self {
            Self::LastOnly => 0,
            Self::Failures { seen, .. } => seen,
            Self::All { failures } => failures,
        }
    }

    /// This visibility once an access-log filter keeps from every `watch` what went well.
    pub(super) const fn filtered(self) -> Self {
        match self {
            Self::Failures { .. } => self,
            Self::LastOnly | Self::All { .. } => Self::Failures { seen: self.failures(), flagged_answers: 0 },
        }
    }

    /// `watch` sees an attempt end. `filtered`: an access-log filter keeps from it what went well. `plain`: there was nothing
    /// that might be retried.
    pub(super) const fn attempt_seen(&mut self, filtered: bool, plain: bool, answered: bool) {
        *self = if filtered {
            match self.filtered() {
                Self::Failures { seen, flagged_answers } => Self::Failures {
                    seen: seen.wrapping_add(1),
                    flagged_answers: flagged_answers.saturating_add(answered as u32),
                },
                other => other,
            }
        } else {
            let failures = self.failures();
            Self::All { failures: if plain { failures } else { failures.wrapping_add(1) } }
        };
    }

    /// A request ended with an answer. The filter keeps such an answer from `watch` unless it has a flag. Returns
    /// whether `watch` saw it.
    pub(super) const fn take_flagged_answer(&mut self) -> bool {
        match self {
            Self::Failures { flagged_answers: answers @ 1.., .. } => {
                *answers -= 1;
                true
            }
            _ => false,
        }
    }
}

/// How the end of an attempt is known.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// By its log entry, with the request that it belongs to, where that is known.
    Attempt(Option<StreamId>),
    /// By the end of its request, which arrived at that time. The last attempt is taken to have begun with the request:
    /// early rather than late.
    Request(Time),
}

/// What the log entry says of the attempt.
struct Logged {
    verdict: Verdict,
    /// Whether there is nothing in it that might be retried.
    plain: bool,
}

impl Logged {
    fn read<H: Host>(view: &View<'_, H>) -> Self {
        let (flags, status) = (view.flags(), view.status());
        let failure_reason = if flags.any(Flags::CONNECTION_FAILURE) { view.failure_reason() } else { &[] };
        let proxy_status = view.cause();
        let stream = status.is_some() && flags.any(Flags::CUT) && view.is_stream();
        let answer = Answer { proxy_status, stream, ..view.answer(true) };
        let plain = flags.is_empty() && went_well(status) && answer.grpc_status.is_none_or(|status| status == 0);
        let attempt = signal::Attempt { flags, answer, failure_reason };
        Self { verdict: attempt.classify(), plain }
    }
}

const fn before(now: Time, nanos: u64) -> Time {
    Time::from_nanos(now.as_nanos().saturating_sub(nanos))
}

/// Whether an authority is `host-shadow` or `host-shadow:port`.
fn is_shadow(authority: &[u8]) -> bool {
    let host = match authority.iter().rposition(|byte| *byte == b':') {
        Some(colon) if authority.get(colon + 1..).is_some_and(|port| port.iter().all(u8::is_ascii_digit)) => {
            authority.get(..colon).unwrap_or(authority)
        }
        _ => authority,
    };
    host.ends_with(b"-shadow")
}

/// Whether the attempt lasted as long as Envoy had announced to the upstream. It matters only where `decide` is not
/// attached.
fn is_expired<H: Host>(view: &View<'_, H>) -> bool {
    let announced = view.host.header(HeaderMap::Request, "x-envoy-expected-rq-timeout-ms");
    let Some(announced) = announced.and_then(|ms| parse_u32(&ms)) else { return false };
    let lasted = view.duration().map(Duration::from_nanos);
    announced > 0 && lasted >= Some(Duration::from_millis(u64::from(announced)))
}
