//! Role `decide`, a request arrives: whether it is sent, where to, what may be retried, and what that costs the budget.

use std::time::Duration;

use super::correlate::ClusterId;
use super::decision::{Edits, RequestDecision};
use super::event::What;
use super::host::{Host, Lengths, Property, StreamId};
use super::policies::{ByRoute, Routed};
use super::request::{Request, Reservation, Retries};
use super::route::{CircuitDecision, Steering};
use super::view::{Phase, View, is_grpc, parse_u32};
use super::waiting::Wait;
use super::worker::Worker;
use crate::base::time::Time;
use crate::circuit::ProbeId;
use crate::config::{RetryPolicy, SteeringPolicy, Via};
use crate::retry::reservations::Account;
use crate::retry::{self, CONTROL_HEADERS, Class, Header, Plan};
use crate::steering::session::envelope;

/// Until this long after a cluster's latest failure, `guard` sees all of its first attempts.
const QUIET: Duration = Duration::from_secs(1);

/// What a request's headers say, in one pass.
#[derive(Debug)]
struct Headers {
    /// What its retries depend on.
    request: retry::Request,
    /// Whether the client sent the steering header, which only Weir may set.
    hosts: bool,
    /// Which of [`CONTROL_HEADERS`] Envoy would obey, though a policy says how the request is retried.
    control: Vec<&'static str>,
}

/// The lengths of the names that are always looked for.
const NAMES: Lengths = {
    let names = Lengths::NONE.and(":method".len()).and("content-type".len());
    let mut names = names.and("x-envoy-attempt-count".len()).and("x-envoy-internal".len());
    let mut rest: &[&str] = &CONTROL_HEADERS;
    while let [first, others @ ..] = rest {
        names = names.and(first.len());
        rest = others;
    }
    names
};

impl Headers {
    /// Reads what Weir needs to know of a request with that policy; `hosts` is the name of the steering header.
    fn read<H: Host>(host: &H, policy: Option<&RetryPolicy>, hosts: &str) -> Self {
        let idempotency_keys = policy.map_or(&[][..], |policy| &policy.idempotency_key_headers);
        let request = retry::Request { repeatable: false, grpc: false, attempt: 1 };
        let mut headers = Self { request, hosts: false, control: Vec::new() };
        // Whether Envoy obeys what the client asks of it.
        let mut trusted = false;
        let lengths = idempotency_keys.iter().fold(NAMES.and(hosts.len()), |lengths, key| lengths.and(key.len()));
        let Self { request, hosts: steers, control } = &mut headers;
        host.each_header(lengths, &mut |name, value| match name {
            b":method" => request.repeatable |= policy.is_some_and(|policy| policy.is_idempotent(value)),
            b"content-type" => request.grpc = is_grpc(value),
            b"x-envoy-attempt-count" => request.attempt = parse_u32(value).unwrap_or(1),
            b"x-envoy-internal" => trusted = value == b"true",
            name if name == hosts.as_bytes() => *steers = true,
            name => {
                if let Some(header) = CONTROL_HEADERS.iter().find(|header| header.as_bytes() == name) {
                    control.push(header);
                }
                request.repeatable |= !value.is_empty() && idempotency_keys.iter().any(|key| key.as_bytes() == name);
            }
        });
        if !trusted || policy.is_none() {
            headers.control.clear();
        }
        headers
    }
}

impl Worker {
    /// A request arrives.
    pub fn on_request_headers<H: Host>(&mut self, stream: StreamId, host: &H) -> RequestDecision<'_> {
        let view = &View::new(host, Phase::Headers);
        self.last_attempt = None;
        self.settle_attempts(view);
        let now = self.worker_time(view);
        let routed = self.routed(view);
        let policy = routed.and_then(|routed| self.retry_policy(routed));
        let headers = Headers::read(host, policy, self.steering_header());
        let Some(routed) = routed else {
            return self.forward(Edits { remove_hosts: self.hosts_to_remove(headers.hosts), ..Edits::default() });
        };
        let (cluster, request) = (routed.cluster, headers.request);
        let circuit_probe = match self.pass_circuit(routed, &request, view) {
            CircuitDecision::Forward => None,
            CircuitDecision::Probe(probe) => Some(probe),
            CircuitDecision::Shed(reply) => return RequestDecision::Reply(reply),
        };
        if self.count_overdue(cluster, view).is_err() {
            return self.forward(Edits::default());
        }
        let admission = self.admit(routed, &request, now);
        self.report(cluster, What::Forwarded(admission.class));
        let steering = self.steer(cluster, &admission, circuit_probe.is_some(), view);
        self.send(stream, routed, headers, &admission, steering, circuit_probe)
    }

    /// Sends a request on, and keeps what is needed when it ends.
    fn send(
        &mut self,
        stream: StreamId,
        routed: Routed,
        headers: Headers,
        admission: &Admission,
        Steering { route, list, hedge }: Steering,
        circuit_probe: Option<ProbeId>,
    ) -> RequestDecision<'_> {
        let Routed { cluster, by_route } = routed;
        let guard = self.attached.guard;
        let quiet = guard && hedge.is_none() && !route.is_probe() && self.is_quiet(cluster, admission);
        let Some(state) = self.clusters.get_mut(cluster) else { return self.forward(Edits::default()) };
        let retry = self.policies.retry_headers(state, by_route, admission);
        let names_not_sent = retry.iter().any(|(name, _)| *name == retry::RETRIABLE_HEADER_NAMES);
        let request = Request {
            cluster: Some(cluster),
            by_route,
            arrived: self.wall_clock,
            grpc: headers.request.grpc,
            retries: admission.retries(),
            route,
            circuit_probe,
            per_try_timeout: admission.per_try_timeout,
            hedge,
            wait: Wait::Unanswered,
            already_retried: headers.request.attempt > 1,
            failures_before: state.visibility.failures(),
            names_not_sent,
            ..Request::default()
        };
        state.sent(stream);
        self.requests.insert(stream.0, request);
        if guard {
            self.latest_request = Some(stream);
        }
        self.uses_retriable_header |= names_not_sent && self.enforces();
        self.forward(Edits {
            remove_hosts: self.hosts_to_remove(headers.hosts),
            remove_control: headers.control,
            retry,
            max_retries: admission.fewer_retries(),
            denied: admission.denied.is_some(),
            per_try_timeout: admission.per_try_timeout,
            hedge,
            hosts: list.and_then(|list| self.steering_value(list, retry)),
            tag: guard,
            quiet: quiet && !names_not_sent,
        })
    }

    /// The cluster of the current request, if Envoy knows it, and the policy by which it is retried.
    fn routed<H: Host>(&mut self, view: &View<'_, H>) -> Option<Routed> {
        let cluster = self.routed_cluster(view)?;
        let has_routes = self.clusters.get(cluster).is_some_and(|state| !state.routes.is_empty());
        let by_route = if has_routes { self.by_route(cluster, view) } else { ByRoute::default() };
        Some(Routed { cluster, by_route })
    }

    /// The policy by which this request is retried, where that depends on its route. Only then the route's name is
    /// read.
    #[inline(never)]
    fn by_route<H: Host>(&mut self, cluster: ClusterId, view: &View<'_, H>) -> ByRoute {
        // A route without a name is matched by `*` alone.
        let name = view.host.property(Property::RouteName);
        let Some(state) = self.clusters.get_mut(cluster) else { return ByRoute::default() };
        self.policies.by_route(state, name.as_deref().unwrap_or_default())
    }

    /// Whether `guard` has nothing to decide about the first attempt of a request. That is so if the request may be
    /// repeated, nothing of its response has to be looked at, and its retry is paid for when it is sent. It also needs
    /// a cluster in which `watch` saw no failure for a while, and a budget with something left.
    fn is_quiet(&mut self, cluster: ClusterId, admission: &Admission) -> bool {
        let now = self.wall_clock;
        let watched = self.visibility(cluster).sees_failures();
        let Some(state) = self.clusters.get_mut(cluster) else { return false };
        watched
            && admission.plan == Some(Plan::Repeatable)
            && admission.per_attempt
            && admission.reserved.is_none()
            && now.is_later(QUIET, state.failed)
            && state.account.as_mut().is_none_or(|account| account.affords(now))
    }

    /// The host could not answer a request that was to be shed: it is sent on as it is, and not reported again.
    pub fn on_reply_refused(&mut self) {
        // Not `retain`, which has an assertion that the module would carry.
        let events = std::mem::take(&mut self.events);
        self.events = events.into_iter().filter(|event| !matches!(event.what, What::Shed(_))).collect();
    }

    /// The host has removed a request, however it ended.
    pub fn on_request_done(&mut self, stream: StreamId) {
        let Some(mut request) = self.requests.remove(stream.0) else { return };
        if let Some(cluster) = request.cluster {
            self.release(cluster, request.retries.take_unused());
        }
    }

    fn forward<'w>(&self, edits: Edits<'w>) -> RequestDecision<'w> {
        RequestDecision::Forward(if self.enforces() { edits } else { edits.in_shadow() })
    }

    /// The steering header, where it is Weir's own; otherwise empty.
    fn steering_header(&self) -> &str {
        self.policies.steering().map_or("", SteeringPolicy::own_header)
    }

    /// The steering header and its value, beside these headers.
    fn steering_value(&self, list: String, retry: &[Header]) -> Option<(&str, String)> {
        let steering = self.policies.steering()?;
        let value = match steering.via {
            Via::OverrideHost => list,
            Via::StatefulSession => {
                let own = retry.iter().find(|(name, _)| *name == steering.header);
                envelope(&list, own.map_or("-", |(_, value)| value))
            }
        };
        Some((&steering.header, value))
    }

    /// The steering header, if the client `sent` it: it is removed in shadow mode, too, since only Weir may set it.
    fn hosts_to_remove(&self, sent: bool) -> Option<&str> {
        sent.then(|| self.steering_header())
    }

    /// Gives back reserved retries.
    pub(super) fn release(&mut self, cluster: ClusterId, retries: u32) {
        self.account(cluster).into_iter().for_each(|account| account.release(retries));
    }
}

/// What may be retried in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The class of the request in metrics.
    pub class: Class,
    /// What may be retried; `None` where the retry section is off.
    pub plan: Option<Plan>,
    /// The plan of the policy, if the budget grants fewer retries than the policy allows; otherwise `None`.
    pub denied: Option<Plan>,
    /// The largest number of retries.
    pub(super) most_retries: u32,
    /// Whether the policy lets Weir hedge the request.
    pub(super) hedges: bool,
    /// Retries that it has permission for, where it needs one; they are to be released when it ends.
    pub reserved: Option<u32>,
    /// The timeout for each attempt, where it depends on what was observed. `None` in shadow mode.
    pub per_try_timeout: Option<Duration>,
    /// Whether each retry is charged when it happens.
    pub per_attempt: bool,
    /// Whether a host pushed back not long ago, and `guard` may ask another where one does.
    pub busy: bool,
}

impl Admission {
    const OFF: Self = Self {
        class: Class::Off,
        plan: None,
        denied: None,
        most_retries: 0,
        hedges: false,
        reserved: None,
        per_try_timeout: None,
        per_attempt: false,
        busy: false,
    };

    /// How the request's retries are permitted and paid.
    fn retries(&self) -> Retries {
        let reservation = self.reserved.map(|granted| Reservation { granted, denied: self.denied });
        self.plan.map_or(Retries::Unmanaged, |plan| Retries::Reserved { plan, reservation, made: None })
    }

    /// How many retries there may be, where these are less than the policy says, and not none.
    fn fewer_retries(&self) -> Option<u32> {
        self.denied.and(self.reserved).filter(|reserved| *reserved > 0)
    }
}

impl Worker {
    /// A request for a cluster arrives. `now` is this worker's time; the budget's shared record goes by the host's own (see
    /// [`crate::base::time`]).
    ///
    /// A `guard` that is attached is taken to charge each retry when it happens, until a retry shows whether it sees
    /// this cluster. Then no permission is needed. But where retries do not help, those that the budget cannot pay for
    /// are not even begun, which saves the host a connection.
    pub(super) fn admit(&mut self, routed: Routed, request: &retry::Request, now: Time) -> Admission {
        let (shadow, wall_clock) = (!self.enforces(), self.wall_clock);
        let Some(cluster) = self.clusters.get_mut(routed.cluster) else { return Admission::OFF };
        let Some(retry) = self.policies.retry(cluster, routed.by_route) else { return Admission::OFF };
        let (plan, max_retries) = (Plan::of(&retry.policy, request), retry.policy.max_retries);
        let per_attempt = cluster.charging.is_per_attempt(self.attached.guard);
        // Without `guard`, Envoy cannot distinguish what an upstream says it did not process from what was never sent:
        // all retries are paid for.
        let may_be_free = per_attempt || retry.policy.not_processed_headers.is_empty();
        let wanted = Wanted { plan, retries: max_retries, per_attempt, shadow, may_be_free };
        let account = cluster.account.as_mut();
        let (reserved, free) = account.map(|account| wanted.ask(account, wall_clock)).unwrap_or_default();
        let allowed = match reserved {
            _ if shadow => plan,
            // An attempt that was not processed may be retried all the same.
            Some(0) if free => Plan::Unprocessed,
            Some(0) => Plan::Nothing,
            _ => plan,
        };
        let observed = cluster.latency.as_mut().filter(|_| !shadow && allowed.repeats());
        let timeout = retry.adaptive.zip(observed).and_then(|(timeout, observed)| timeout.timeout(observed, now));
        let outliers = cluster.outliers.as_ref().filter(|_| per_attempt && plan.repeats());
        Admission {
            class: Class::of(request),
            plan: Some(allowed),
            denied: reserved.filter(|reserved| *reserved < max_retries).map(|_| plan),
            most_retries: if allowed == Plan::Nothing { 0 } else { max_retries },
            hedges: max_retries > 0 && retry.policy.per_try_timeout.is_none(),
            reserved,
            per_try_timeout: timeout,
            per_attempt,
            busy: outliers.is_some_and(|outliers| outliers.expects_pushback(wall_clock)),
        }
    }
}

/// What a request asks of the budget when it arrives.
struct Wanted {
    plan: Plan,
    retries: u32,
    /// Whether each retry is charged when it happens.
    per_attempt: bool,
    shadow: bool,
    /// Whether a retry in place of what was not processed may be free.
    may_be_free: bool,
}

impl Wanted {
    /// The number of retries that are reserved for the request; `None` where it needs no permission. And whether none
    /// are reserved, since it is retried only in place of attempts that were not processed, which is free.
    fn ask(&self, account: &mut Account, now: Time) -> (Option<u32>, bool) {
        account.arrive(now);
        if self.plan == Plan::Unprocessed && self.may_be_free && account.unprocessed_is_free(now) {
            return (None, false);
        }
        // In shadow mode `guard` sees the retries that are not begun otherwise.
        let begun = self.per_attempt && (self.shadow || !account.retries_fail(now));
        if self.plan == Plan::Nothing || begun {
            return (None, false);
        }
        let is_shared = account.has_reservations();
        let reserved = account.reserve(self.retries, now);
        // If hosts refuse, or other requests have reserved retries, a request does better with all its retries but only in place of
        // attempts that were not processed. With one retry of two, it would fail if it meets two hosts that are down.
        let scarce = reserved == 0 || (reserved < self.retries && (is_shared || account.is_refused(now)));
        if scarce && self.may_be_free && account.unprocessed_is_free(now) {
            account.release(reserved);
            return (Some(0), true);
        }
        (Some(reserved), false)
    }
}
