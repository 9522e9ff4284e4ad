//! Where a request's attempts should go, if anywhere. An open circuit answers most requests at once, and lets one through that finds
//! out whether the cluster is back; steering sends them around ejected hosts, or to one of these as a probe.

use std::time::Duration;

use super::arrival::Admission;
use super::cluster::Cluster;
use super::correlate::ClusterId;
use super::decision::{Later, Reply, Verdict};
use super::event::What;
use super::host::{Host, StreamId};
use super::policies::Routed;
use super::view::View;
use super::worker::Worker;
use crate::base::percent::Percent;
use crate::base::time::{millis, nanos, nanos_since};
use crate::circuit::{Command, Event, Permission, ProbeId};
use crate::config::Via;
use crate::outlier::{Outliers, Probe};
use crate::retry::{Class, Plan, Request};
use crate::signal::{Answer, Flags, Signal};

/// Hedges are in vain once a request waited this many halves of the time after which it was hedged, and is still not
/// answered: one and a half times as long.
const IN_VAIN: u64 = 3;

/// What steering did to a request.
#[derive(Debug, Default)]
pub(super) struct Route {
    /// The probe of an ejected host that its first attempt is.
    pub(super) probe: Option<Probe>,
    /// The hosts that its attempts should go to; empty where Envoy chooses.
    pub(super) hosts: Box<str>,
}

impl Route {
    /// Whether its first attempt probes an ejected host.
    pub(super) const fn is_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// The host that its first attempt should go to; empty where Envoy chooses.
    pub(super) fn first(&self) -> &str {
        self.hosts.split(',').next().unwrap_or_default()
    }

    /// Whether the request bears a list of hosts.
    pub(super) fn is_steered(&self) -> bool {
        !self.hosts.is_empty()
    }
}

/// What steering does to a request that arrives.
#[derive(Debug, Default)]
pub(super) struct Steering {
    pub(super) route: Route,
    /// What goes into the steering header.
    pub(super) list: Option<String>,
    /// After what time the request is sent once more, beside the first, where one of its hosts may hang.
    pub(super) hedge: Option<Duration>,
}

impl Worker {
    /// Decides where to send a request that arrives. `circuit_probe`: the request finds out for an open circuit whether
    /// the cluster is back.
    pub(super) fn steer<H: Host>(
        &mut self,
        cluster: ClusterId,
        admission: &Admission,
        circuit_probe: bool,
        view: &View<'_, H>,
    ) -> Steering {
        let now = self.wall_clock;
        let steered = self.clusters.get(cluster).is_some_and(|cluster| cluster.steered);
        let policy = self.policies.steering().filter(|_| steered);
        let policy = policy.map(|steering| (steering.explore_percent, steering.via));
        let Some(outliers) = self.outliers(cluster, view) else { return Steering::default() };
        outliers.requested(now);
        // Without steering, hosts are judged all the same, and somebody else may act on it.
        let Some((explore, via)) = policy else { return Steering::default() };
        if outliers.is_stale(now) {
            self.exchange_hosts(cluster, view);
        }
        if via == Via::StatefulSession && self.is_for_its_own_destination(cluster) {
            return Steering::default();
        }
        let mut steering = self.choose_route(cluster, admission, circuit_probe, explore);
        let hedge = steering.hedge.filter(|after| !self.hedges_are_in_vain(cluster, *after));
        if via == Via::StatefulSession
            && let Some(list) = &mut steering.list
        {
            // The session is for the first attempt.
            *list = list.split(',').next().unwrap_or_default().to_owned();
            steering.route.hosts = list.as_str().into();
        }
        let steering = Steering { hedge, ..steering };
        self.steered |= steering.list.is_some();
        if steering.route.probe.is_some() {
            self.report(cluster, What::HostProbed);
        }
        steering
    }

    /// Whether the requests of a cluster go where the clients' connections went to, as far as was seen. While some host
    /// of it is ejected, that is reported as often as misrouted requests are.
    fn is_for_its_own_destination(&mut self, cluster: ClusterId) -> bool {
        let now = self.wall_clock;
        let Some(state) = self.clusters.get_mut(cluster).filter(|state| !state.is_balanced) else { return false };
        if state.outliers.as_ref().is_some_and(|outliers| !outliers.is_calm(now)) && state.misrouted.disobeyed() {
            self.report(cluster, What::Misrouted);
        }
        true
    }

    /// Whether a request has waited for much longer than the time after which it was hedged, and is still not answered.
    /// Hedges that are sent now would not be answered either: such requests take long by nature, or all hosts do.
    fn hedges_are_in_vain(&self, cluster: ClusterId, after: Duration) -> bool {
        let state = self.clusters.get(cluster);
        state.is_some_and(|state| {
            nanos_since(state.waiting.oldest_hedged(), self.wall_clock).saturating_mul(2)
                >= nanos(after).saturating_mul(IN_VAIN)
        })
    }

    fn choose_route(
        &mut self,
        cluster: ClusterId,
        admission: &Admission,
        circuit_probe: bool,
        explore: Percent,
    ) -> Steering {
        let (now, retries) = (self.wall_clock, admission.most_retries);
        let Some(state) = self.clusters.get_mut(cluster) else { return Steering::default() };
        let Some(outliers) = &mut state.outliers else { return Steering::default() };
        // Nobody pays for a probe if the request is retried whatever happens: its plan allows it, and so does the budget. In a
        // calm cluster there is nothing to probe, so the budget need not be asked.
        let repeatable = admission.plan.is_some_and(Plan::repeats)
            && (outliers.is_calm(now) || state.account.as_mut().is_none_or(|account| account.affords(now)));
        let chosen = if circuit_probe {
            outliers.route_circuit_probe(now, retries)
        } else {
            outliers.route(now, repeatable, retries, explore)
        };
        let hedge =
            if repeatable && admission.hedges { outliers.hedge_after(state.waiting.hedge_after(), now) } else { None };
        let Some(chosen) = chosen else { return Steering { hedge, ..Steering::default() } };
        let route = Route { probe: chosen.probe, hosts: chosen.hosts.as_str().into() };
        Steering { route, list: Some(chosen.hosts), hedge }
    }

    /// What this worker knows of a cluster's hosts. It is made when the first request arrives, where the policy asks
    /// for it.
    fn outliers<H: Host>(&mut self, cluster: ClusterId, view: &View<'_, H>) -> Option<&mut Outliers> {
        if self.clusters.get(cluster)?.outliers.is_some() {
            return self.clusters.get_mut(cluster)?.outliers.as_mut();
        }
        let policy = self.policies.of(self.clusters.get(cluster)?)?.outlier_detection?;
        let me = self.worker_id(view);
        let state = self.clusters.get_mut(cluster)?;
        Some(state.outliers.get_or_insert_with(|| Outliers::new(policy, me)))
    }
}

/// What the circuit breaker decides about a request.
pub(super) enum CircuitDecision {
    /// The request is sent on.
    Forward,
    /// The request is sent on as a probe, which finds out whether the cluster is back.
    Probe(ProbeId),
    /// The request is answered at once with this reply.
    Shed(Reply),
}

impl Worker {
    /// A request arrives: decides by the circuit whether it is sent on.
    pub(super) fn pass_circuit<H: Host>(
        &mut self,
        routed: Routed,
        request: &Request,
        view: &View<'_, H>,
    ) -> CircuitDecision {
        let (cluster, now) = (routed.cluster, self.wall_clock);
        let Some(circuit) = self.circuit(cluster) else { return CircuitDecision::Forward };
        if circuit.requested(now) {
            self.exchange_circuit(cluster, view);
        }
        let mut asked = false;
        let permission = loop {
            let Some(circuit) = self.clusters.get(cluster).and_then(|cluster| cluster.circuit.as_ref()) else {
                return CircuitDecision::Forward;
            };
            let repeats = || self.retry_policy(routed).is_some_and(|policy| Plan::of(policy, request).repeats());
            let permission = circuit.admit(now, repeats);
            if permission != Permission::Shed || asked || !circuit.may_have_closed(now) {
                break permission;
            }
            // Another worker may have found the cluster back a moment ago: to ask costs less than to shed for nothing.
            self.exchange_circuit(cluster, view);
            asked = true;
        };
        match permission {
            Permission::Pass => CircuitDecision::Forward,
            Permission::Shed => self.shed(routed, request),
            Permission::Due => match self.change_circuit(cluster, Command::Probe, view) {
                Some(Event::Probing(probe)) => {
                    self.report(cluster, What::CircuitProbed);
                    CircuitDecision::Probe(probe)
                }
                // Another worker was faster: with a probe, or with what it found out.
                _ if self.clusters.get(cluster).is_some_and(Cluster::is_open) => self.shed(routed, request),
                _ => CircuitDecision::Forward,
            },
        }
    }

    fn shed(&mut self, routed: Routed, request: &Request) -> CircuitDecision {
        let (cluster, enforces) = (routed.cluster, self.enforces());
        let Some(circuit) = self.circuit(cluster) else { return CircuitDecision::Forward };
        circuit.shed();
        let seconds = millis(circuit.open_time()).div_ceil(1_000);
        if !enforces {
            self.report(cluster, What::WouldShed);
            return CircuitDecision::Forward;
        }
        let class = self.retry_policy(routed).map_or(Class::Off, |_| Class::of(request));
        self.report(cluster, What::Shed(class));
        // No hop above shall retry it either.
        CircuitDecision::Shed(Reply { verdict: Verdict::CircuitOpen, later: Some(Later::after(seconds, request.grpc)) })
    }

    /// Response headers of a circuit probe pass, or the probe ended without any. The circuit closes or stays open by
    /// how its last attempt ended.
    pub(super) fn circuit_probe_ended<H: Host>(&mut self, id: StreamId, view: &View<'_, H>) {
        let Some(request) = self.requests.get_mut(id.0) else { return };
        let (Some(probe), Some(cluster)) = (request.circuit_probe.take(), request.cluster) else { return };
        let stopped = request.retries.is_seen().then_some(request.failed_before.unwrap_or(Signal::Reset));
        let status = view.status();
        let proxy_status = view.cause();
        let end = view.request_end(Answer { status, proxy_status, ..Answer::default() });
        // If no attempt says more, there was no host to send the probe to, or `guard` stopped its retry.
        let no_host = end.flags.any(Flags::NO_HEALTHY_UPSTREAM).then_some(Signal::Unreachable);
        let command = Command::of_probe(probe, end.last_attempt().or(no_host).or(stopped));
        self.change_circuit(cluster, command, view);
    }
}
