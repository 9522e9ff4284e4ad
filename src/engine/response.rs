//! Role `decide`, response headers pass on their way to the client: what the budget learns, and what the response says
//! to hops above.
//!
//! **Streams** speak for their hosts while they run: response headers are an answer, and the end of a WebSocket, of
//! events or of a long poll may be hours away. An ordinary response is over a moment after its headers, and its attempt
//! is reported then. So only responses that go on for longer are looked at, on the timer. In a calm cluster this costs
//! nothing more.

use std::time::Duration;

use super::correlate::ClusterId;
use super::decision::{Later, RATE_LIMITED, ResponseDecision, Verdict};
use super::event::What;
use super::host::{Host, Property, StreamId};
use super::policies::Routed;
use super::request::{Request, Retries};
use super::view::{Phase, View};
use super::worker::Worker;
use crate::base::time::Time;
use crate::outlier::EndedAttempt;
use crate::retry::Plan;
use crate::retry::reason::Reason;
use crate::signal::Signal;

/// A response that still goes on this long after its headers is a stream.
const GOES_ON: Duration = Duration::from_millis(50);

impl Worker {
    /// Response headers of a request pass; `end_of_stream` if that is all of the response.
    pub fn on_response_headers<H: Host>(
        &mut self,
        stream: StreamId,
        host: &H,
        end_of_stream: bool,
    ) -> ResponseDecision {
        let view = &View::new(host, Phase::Headers);
        self.last_attempt = None;
        let by_upstream = || view.is_by_upstream();
        let unresolved = self.unresolved.response_started(by_upstream, &mut self.ended);
        self.attempts_ended(view);
        let last = self.wall_clock;
        let Some(request) = self.request_or_new(stream) else { return ResponseDecision::default() };
        request.unresolved.extend(unresolved);
        let runs = !end_of_stream && request.cluster.is_some();
        if runs {
            request.answered = Some(last);
        }
        let remove = request.strip_response_header.take();
        let denied = request.retries.reservation().and_then(|reservation| reservation.denied).is_some();
        let probes = request.circuit_probe.is_some();
        let retries = self.retries_made(stream, view);
        if runs {
            self.running.push_back(stream);
        }
        self.wait_over(stream, view);
        self.hedge_answered(stream, view);
        let decision = if retries > 0 || denied {
            self.response_after_retries(stream, retries, view).unwrap_or_default()
        } else {
            ResponseDecision::default()
        };
        if probes {
            self.circuit_probe_ended(stream, view);
        }
        let decision = ResponseDecision { remove, ..decision };
        if self.enforces() { decision } else { decision.in_shadow() }
    }

    /// A request that was to be hedged is answered: whether hedges help depends on how long that took.
    fn hedge_answered<H: Host>(&mut self, stream: StreamId, view: &View<'_, H>) {
        let Some(request) = self.requests.get_mut(stream.0) else { return };
        let (after, cluster, arrived) = (request.hedge, request.cluster, request.arrived);
        let (Some(after), Some(cluster)) = (after, cluster) else { return };
        let now = self.now(view);
        let took = now.since(arrived);
        let outliers = self.clusters.get_mut(cluster).and_then(|cluster| cluster.outliers.as_mut());
        // What Envoy itself answers at a timeout says nothing of the hosts.
        if let Some(outliers) = outliers
            && (took < after || view.is_by_upstream())
        {
            outliers.hedged(after, took, now);
        }
    }

    /// A request that is known, or one that never arrived: another filter answered it first.
    fn request_or_new(&mut self, stream: StreamId) -> Option<&mut Request> {
        if self.requests.get(stream.0).is_none() {
            self.requests.insert(stream.0, Request::default());
        }
        self.requests.get_mut(stream.0)
    }

    /// The retries that a request had, as far as Weir has a say; read once at most.
    fn retries_made<H: Host>(&mut self, stream: StreamId, view: &View<'_, H>) -> u32 {
        let Some(request) = self.requests.get(stream.0) else { return 0 };
        let governed = request.retries.plan().is_some_and(|plan| plan != Plan::Nothing);
        let Some(cluster) = request.cluster.filter(|_| governed) else { return 0 };
        match request.retries {
            Retries::Charged { charged: charged @ 1.., .. } => return charged,
            _ if self.is_charged_per_attempt(cluster) => return request.retries.charged(),
            Retries::Reserved { made: Some(retries), .. } => return retries,
            _ => {}
        }
        // A retry follows a failure.
        if !self.may_have_failed(request) {
            return 0;
        }
        let retries = view.retries();
        if let Some(Request { retries: Retries::Reserved { made, .. }, .. }) = self.requests.get_mut(stream.0) {
            *made = Some(retries);
        }
        retries
    }

    fn is_charged_per_attempt(&self, cluster: ClusterId) -> bool {
        let charging = self.clusters.get(cluster).map(|cluster| cluster.charging).unwrap_or_default();
        charging.is_per_attempt(self.attached.guard)
    }

    /// Whether an attempt of this request may have failed: `watch` sees each that does, of this request or of another to its
    /// cluster. `false` is certain.
    pub(super) fn may_have_failed(&self, request: &Request) -> bool {
        let Some(cluster) = request.cluster.and_then(|cluster| self.clusters.get(cluster)) else { return true };
        let seen = cluster.visibility;
        !(self.attached.only_failures || seen.sees_failures()) || seen.failures() != request.failures_before
    }

    /// Response headers of a request that was retried, or would have been if the budget had more. If it would be
    /// retried once more, it is marked, so that no hop above retries it: otherwise attempts would multiply with each
    /// hop.
    fn response_after_retries<H: Host>(
        &mut self,
        stream: StreamId,
        retries: u32,
        view: &View<'_, H>,
    ) -> Option<ResponseDecision> {
        let request = self.requests.get(stream.0)?;
        let (cluster, grpc, reservation) = (request.cluster?, request.grpc, request.retries.reservation());
        let (by_route, not_sent) = (request.by_route, request.last_not_sent);
        let wanted = reservation.and_then(|reservation| reservation.denied);
        let plan = wanted.or(request.retries.plan())?;
        // What was not processed may have been retried without a charge, though the budget had nothing left.
        let spared = retries > 0 && request.retries.plan() == Some(Plan::Unprocessed);
        let denied =
            wanted.is_some() && !spared && reservation.is_none_or(|reservation| retries >= reservation.granted);
        if retries == 0 && !grpc && view.status().is_some_and(|status| status < 400) {
            let now = self.wall_clock;
            self.account(cluster).into_iter().for_each(|account| account.answered(now));
            return None;
        }
        let routed = Routed { cluster, by_route };
        let (signal, again) = self.is_retried_again(routed, (plan, not_sent), grpc, view)?;
        let now = self.now(view);
        if let Some(account) = self.account(cluster) {
            if signal.is_failure() && (again || retries > 0) {
                account.failed(retries > 0, now);
            } else if signal == Signal::Answered && retries > 0 {
                account.helped(now);
            } else if signal == Signal::Answered {
                account.answered(now);
            }
        }
        if !again || (!denied && retries == 0) {
            return None;
        }
        let mark = ResponseDecision::marked(RATE_LIMITED);
        if !denied {
            return Some(mark);
        }
        self.report(cluster, What::RetryDenied);
        self.give_reason(stream, Reason::Budget);
        let later = !matches!(signal, Signal::Error | Signal::Answered);
        let later = later.then_some(Later::after(1, grpc));
        Some(ResponseDecision { later, verdict: Some(Verdict::BudgetExhausted), ..mark })
    }

    /// The signal of the last attempt of a request, whose response headers pass, and whether it would be retried once
    /// more under this plan. `not_sent`: a proxy in front of the upstream did not send it on.
    fn is_retried_again<H: Host>(
        &self,
        routed: Routed,
        (plan, not_sent): (Plan, bool),
        grpc: bool,
        view: &View<'_, H>,
    ) -> Option<(Signal, bool)> {
        let mut answer = view.answer(grpc);
        answer.overloaded |= view.limit_reached();
        let signal = view.request_end(answer).last_attempt()?;
        let policy = self.retry_policy(routed)?;
        let stated = answer.is_error() && plan != Plan::Nothing && view.not_processed(policy);
        let by_table = !matches!(signal, Signal::Cancelled | Signal::Local) && plan.permits(policy, signal, &answer);
        Some((signal, not_sent || stated || by_table))
    }

    /// Reports each stream that began a moment ago, and goes on, as an answer of its host.
    pub(super) fn running_streams_speak<H: Host>(&mut self, view: &View<'_, H>) {
        let now = self.wall_clock;
        while let Some(stream) = self.running.front().copied() {
            if let Some(request) = self.requests.get_mut(stream.0)
                && let (Some(answered), Some(cluster), false) = (request.answered, request.cluster, request.spoke)
            {
                if now.is_soon_after(GOES_ON, answered) {
                    return;
                }
                request.spoke = true;
                let (arrived, steered) = (request.arrived, request.route.is_steered());
                self.stream_runs(stream, cluster, (arrived, answered), steered, view);
            }
            self.running.pop_front();
        }
    }

    fn stream_runs<H: Host>(
        &mut self,
        stream: StreamId,
        cluster: ClusterId,
        (arrived, answered): (Time, Time),
        steered: bool,
        view: &View<'_, H>,
    ) {
        let (now, enforces, steers) = (self.wall_clock, self.enforces(), self.policies.steering().is_some());
        let property = |property| view.host.property_of(stream, property).ok().flatten();
        let status = property(Property::Code).and_then(|code| code.first_chunk().copied()).map(u64::from_le_bytes);
        if status.is_none_or(|status| status >= 500 || status == 429) {
            return;
        }
        let Some(address) = property(Property::UpstreamAddress) else { return };
        let Ok(address) = std::str::from_utf8(&address) else { return };
        let Some(state) = self.clusters.get_mut(cluster) else { return };
        state.circuit.iter_mut().for_each(|circuit| circuit.attempt_ended(Signal::Answered, arrived, now));
        state.account.iter_mut().for_each(|account| account.attempt_ended(Signal::Answered, now));
        let Some(outliers) = &mut state.outliers else { return };
        let attempt =
            EndedAttempt { host: Some(address), signal: Signal::Answered, began: arrived, weight: 1, picked: false };
        let urgent = outliers.stream_runs(&attempt, answered, now);
        if steers && (!steered || !enforces) {
            outliers.picked(address, now);
        }
        if urgent {
            self.exchange_hosts(cluster, view);
        }
    }
}
