//! Role `decide`, a request ends: how its attempts ended, what its retries cost, and where it went.

use std::time::Duration;

use super::cluster::Charging;
use super::correlate::{ClusterId, Ended, Unresolved};
use super::decision::Verdict;
use super::event::What;
use super::host::{HeaderMap, Host, StreamId};
use super::log::{Origin, Visibility};
use super::policies::Routed;
use super::request::{Request, Reservation, Retries};
use super::route::Route;
use super::view::{Phase, View, is_failure, went_well};
use super::worker::Worker;
use crate::base::time::Time;
use crate::incident::AttemptDetail;
use crate::retry::Plan;
use crate::retry::reason::{Failed, Reason};
use crate::signal::{Answer, Flags, RequestEnd, Signal};

/// What the end of a request depends on.
#[derive(Clone, Copy, Debug)]
struct Ending {
    stream: StreamId,
    cluster: Option<ClusterId>,
    arrived: Time,
    grpc: bool,
    /// The retries that were reserved for it.
    reservation: Option<Reservation>,
    /// Whether it had exactly one attempt, as was read when its response passed.
    once: bool,
    /// Whether one of its attempts may have failed; `false` is certain.
    failed: bool,
    per_try_timeout: Option<Duration>,
    /// The time after which it was hedged, if it was not answered before.
    hedge: Option<Duration>,
    /// Whether it is a circuit probe whose end has not been reported yet.
    probes: bool,
}

impl Ending {
    fn of(stream: StreamId, request: &Request, failed: bool) -> Self {
        Self {
            stream,
            cluster: request.cluster,
            arrived: request.arrived,
            grpc: request.grpc,
            reservation: request.retries.reservation(),
            once: matches!(request.retries, Retries::Reserved { made: Some(0), .. }),
            failed,
            per_try_timeout: request.per_try_timeout,
            hedge: request.hedge,
            probes: request.circuit_probe.is_some(),
        }
    }
}

impl Worker {
    /// A request ended. Returns what access logs say about it, if anything.
    pub fn on_request_end<H: Host>(&mut self, stream: StreamId, host: &H) -> Option<Verdict> {
        let route =
            self.requests.get_mut(stream.0).map(|request| std::mem::take(&mut request.route)).unwrap_or_default();
        let view = &View::new(host, Phase::Log);
        self.last_attempt = None;
        let failed = self.requests.get(stream.0).is_none_or(|request| self.may_have_failed(request));
        let request = self.requests.get_mut(stream.0)?;
        let ending = Ending::of(stream, request, failed);
        let (unresolved, unused) = (std::mem::take(&mut request.unresolved), request.retries.take_unused());
        let plain = ending.cluster.filter(|cluster| unresolved.is_empty() && self.was_plain(*cluster, &ending, view));
        if let Some(cluster) = plain {
            self.plain_request_ended(cluster, &ending, &route, view);
        } else {
            self.resolve_attempts(&ending, unresolved, view);
        }
        self.attempts_ended(view);
        let mut verdict = None;
        if let Some(cluster) = ending.cluster {
            self.release(cluster, unused);
            if plain.is_none() {
                let retries = self.settle_retries(cluster, &ending, view);
                verdict = self.why_not_retried(cluster, retries, &ending, view);
            }
            self.route_ended(stream, cluster, (&route, ending.once || !ending.failed), view);
        }
        if ending.probes {
            self.circuit_probe_ended(stream, view);
        }
        verdict.filter(|_| self.enforces())
    }

    /// A request had exactly one attempt, which succeeded.
    fn plain_request_ended<'h, H: Host>(
        &mut self,
        cluster: ClusterId,
        ending: &Ending,
        route: &'h Route,
        view: &View<'h, H>,
    ) {
        if self.obeys((cluster, ending.arrived, ending.hedge), route, view) {
            view.assume_address(route.first());
        }
        if matches!(self.visibility(cluster), Visibility::All { .. }) {
            // `watch` saw its attempt, and this is how it ended.
            self.unresolved.request_ended(&RequestEnd::default(), Vec::new(), &[], &mut self.ended);
        } else {
            self.last_attempt_ended(cluster, Signal::Answered, AttemptDetail::None, ending, view);
        }
    }

    /// Finds and reports why a request that failed was not retried. Returns what access logs are to say, if they say
    /// nothing yet.
    fn why_not_retried<H: Host>(
        &mut self,
        cluster: ClusterId,
        retries: u32,
        ending: &Ending,
        view: &View<'_, H>,
    ) -> Option<Verdict> {
        let flags = view.flags();
        if flags.client_gone() || (flags.is_empty() && !ending.failed) {
            return None;
        }
        if flags.is_empty() && !ending.grpc && !is_failure(view.status()) {
            return None;
        }
        let request = self.requests.get(ending.stream.0)?;
        let known = request.reason;
        let reason = known.or_else(|| self.find_reason(cluster, request, retries, ending, view))?;
        self.report(cluster, What::NotRetried(reason));
        known.is_none().then_some(Verdict::NotRetried(reason))
    }

    fn find_reason<H: Host>(
        &self,
        cluster: ClusterId,
        request: &Request,
        retries: u32,
        ending: &Ending,
        view: &View<'_, H>,
    ) -> Option<Reason> {
        let flags = view.flags();
        let proxy_status = view.cause();
        let begun = !flags.is_empty() && view.status().is_some_and(|status| status < 400);
        let answer = Answer { proxy_status, stream: begun && view.is_stream(), ..view.answer(ending.grpc) };
        if flags.is_empty() && matches!(answer.signal(), Some(Signal::Answered)) {
            return None;
        }
        let denied = ending.reservation.and_then(|reservation| Some((reservation.denied?, reservation.granted)));
        let failed = Failed {
            end: &view.request_end(answer),
            plan: denied.map(|(plan, _)| plan).or(request.retries.plan()),
            already_retried: request.already_retried,
            grpc: ending.grpc,
            retries,
            denied: denied.is_some_and(|(_, granted)| retries >= granted),
            shadow: !self.enforces(),
        };
        Reason::of(self.retry_policy(Routed { cluster, by_route: request.by_route }), &failed)
    }

    /// Whether a request had exactly one attempt, which succeeded. Certain if the attempt count says so, or if `watch` saw no
    /// failure in this cluster since the request arrived; most requests end so, and hardly anything needs to be read of them.
    fn was_plain<H: Host>(&self, cluster: ClusterId, ending: &Ending, view: &View<'_, H>) -> bool {
        if ending.grpc || !view.flags().is_empty() {
            return false;
        }
        match self.visibility(cluster) {
            Visibility::All { .. } => !ending.failed,
            _ if !self.unresolved.is_settled() => false,
            Visibility::Failures { .. } => !ending.failed,
            Visibility::LastOnly => ending.once && went_well(view.status()),
        }
    }

    /// What the end of a request says of its attempts: it resolves those that `watch` left open, and speaks for the last one
    /// where `watch` did not see it.
    fn resolve_attempts<H: Host>(&mut self, ending: &Ending, unresolved: Vec<Unresolved>, view: &View<'_, H>) {
        let flags = view.flags();
        let unseen = ending.cluster.filter(|cluster| !self.watch_sees_last(*cluster, flags));
        let filtered = self.attached.only_failures;
        let status = if unseen.is_some() || !flags.is_empty() || (filtered && ending.cluster.is_some()) {
            view.status()
        } else {
            None
        };
        let kept = filtered && went_well(status) && !flags.any(Flags::BROKEN) && !self.was_passed_by_filter(ending);
        let judged = unseen.or(ending.cluster.filter(|_| kept));
        // Details cost a host call; nothing depends on them where all went well.
        let trouble = !flags.is_empty() || !unresolved.is_empty() || status.is_some_and(|status| status >= 400);
        let request_id = if flags.client_gone() { view.host.header(HeaderMap::Request, "x-request-id") } else { None };
        let answer = match judged {
            Some(_) => Answer { proxy_status: view.cause(), ..view.answer(ending.grpc) },
            None => Answer { status, ..Answer::default() },
        };
        let cut = trouble && status.is_some_and(|status| status < 400) && !flags.client_gone();
        let answer = Answer { stream: cut && view.is_stream(), ..answer };
        let end = RequestEnd { flags, answer, details: if trouble { view.details() } else { &[] } };
        let id = request_id.as_deref().unwrap_or_default();
        self.unresolved.request_ended(&end, unresolved, id, &mut self.ended);
        // The gRPC statuses that the filter passes: `watch` has counted these.
        let judged = judged.filter(|_| !kept || !matches!(end.answer.grpc_status, Some(4 | 8 | 13 | 14 | 15)));
        if let (Some(cluster), Some(signal)) = (judged, judged.and_then(|_| end.last_attempt())) {
            let timed_out = signal == Signal::Unreachable && end.connect_timeout();
            let detail = if timed_out { AttemptDetail::ConnectTimeout } else { AttemptDetail::None };
            self.last_attempt_ended(cluster, signal, detail, ending, view);
        }
    }

    /// Whether `watch` sees the last attempt of a request to this cluster, if an access-log filter does not keep it back. When
    /// the client goes away, the attempt's log entry comes after this, also that of a cluster's first attempt.
    fn watch_sees_last(&self, cluster: ClusterId, flags: Flags) -> bool {
        self.visibility(cluster).sees_failures() || (flags.client_gone() && self.attached.watch)
    }

    /// Whether an access-log filter passed the last attempt although it was answered well.
    fn was_passed_by_filter(&mut self, ending: &Ending) -> bool {
        let Some(cluster) = ending.cluster.filter(|_| ending.failed) else { return false };
        self.clusters.get_mut(cluster).is_some_and(|cluster| cluster.visibility.take_flagged_answer())
    }

    /// The last attempt of a request ended with this `signal`, and `watch` did not see it.
    fn last_attempt_ended<H: Host>(
        &mut self,
        cluster: ClusterId,
        signal: Signal,
        detail: AttemptDetail,
        ending: &Ending,
        view: &View<'_, H>,
    ) {
        let mut attempt =
            self.attempt(cluster, signal == Signal::Answered, detail, Origin::Request(ending.arrived), view);
        let hedged = ending.hedge.map(|after| attempt.began.saturating_add(after));
        attempt.began = hedged.filter(|began| *began < self.wall_clock).unwrap_or(attempt.began);
        self.ended.push(Ended { attempt, signal });
        if self.clusters.get(cluster).is_none_or(|cluster| cluster.latency.is_none()) {
            return;
        }
        let (now, took) = (self.worker_time(view), view.latency());
        let cluster = self.clusters.get_mut(cluster);
        let Some(latency) = cluster.and_then(|cluster| cluster.latency.as_mut()) else { return };
        match (signal, ending.per_try_timeout, took) {
            (Signal::Timeout, Some(timeout), _) => latency.record_timeout(now, timeout),
            (Signal::Answered | Signal::Error, _, Some(took)) => latency.record(now, took),
            _ => {}
        }
    }

    /// Charges the retries of a request that ended, unless `guard` charged them when they happened. Returns how many were charged: 0
    /// where there is neither a budget nor a `guard` that saw them.
    fn settle_retries<H: Host>(&mut self, cluster: ClusterId, ending: &Ending, view: &View<'_, H>) -> u32 {
        let Some(retries) = self.requests.get(ending.stream.0).map(|request| request.retries) else { return 0 };
        let made = if retries.is_seen() { retries.charged() } else { self.charge_at_end(cluster, retries, view) };
        if made > 0 && view.request_end(view.answer(ending.grpc)).last_attempt() == Some(Signal::Answered) {
            self.report(cluster, What::RetrySucceeded);
        }
        made
    }

    /// Charges the retries of a request at its end, where no `guard` charged them as they happened. Returns how many
    /// were charged.
    fn charge_at_end<H: Host>(&mut self, cluster: ClusterId, retries: Retries, view: &View<'_, H>) -> u32 {
        let Some(state) = self.clusters.get(cluster) else { return 0 };
        let unseen = state.visibility == Visibility::LastOnly;
        if state.account.is_none() && !(unseen && state.incidents.is_watchful()) {
            return 0;
        }
        let made = match retries {
            Retries::Reserved { made: Some(made), .. } => made,
            _ => view.retries(),
        };
        let made = made.saturating_sub(retries.charged());
        if made == 0 {
            return 0;
        }
        let now = self.now(view);
        let Some(state) = self.clusters.get_mut(cluster) else { return 0 };
        if unseen {
            state.incidents.retried_unseen(now);
        }
        let Some(account) = &mut state.account else { return 0 };
        state.charging = Charging::AtEnd;
        // An attempt that was not processed may be retried without a charge; in this plan, nothing else was retried.
        let unprocessed = retries.plan() == Some(Plan::Unprocessed);
        if unprocessed {
            account.was_unprocessed(now);
        }
        if !unprocessed || !account.unprocessed_is_free(now) {
            account.retried(made, now);
        }
        self.report(cluster, What::RetriesGranted(made));
        made
    }
}
