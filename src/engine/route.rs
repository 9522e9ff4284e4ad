//! Where a request's attempts should go, and whether they did.

use std::time::Duration;

use super::admission::Admission;
use super::correlate::ClusterId;
use super::event::What;
use super::host::{Host, Property, StreamId};
use super::view::View;
use super::worker::Worker;
use crate::base::percent::Percent;
use crate::base::time::{Time, nanos, nanos_since};
use crate::config::Via;
use crate::outlier::{EndedAttempt, Outliers, Probe};
use crate::retry::Plan;
use crate::signal::Signal;

/// A cluster is taken not to obey the steering header when steered requests went elsewhere so often.
const MOST_MISROUTED: u32 = 20 * MISROUTED;
/// Each request that went where it should takes back a quarter of one that did not: some go there by chance, with two hosts
/// every other one.
const MISROUTED: u32 = 4;

/// After so many requests in a row went where they should, only a sample of those that were answered is looked at.
const TRUSTED: u32 = 16;

/// A hedge helps within half as long again as the request waited before, in halves.
const IN_VAIN: u64 = 3;

/// What steering did to a request.
#[derive(Debug, Default)]
pub(super) struct Route {
    /// The probe of an ejected host that its first attempt is.
    probe: Option<Probe>,
    /// The hosts that its attempts should go to; empty where Envoy chooses.
    hosts: Box<str>,
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

/// Whether the requests of a cluster go where they are steered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Misrouted {
    /// How many more of them went elsewhere, in quarters.
    quarters: u32,
    /// How many of those that were looked at went there, one after the other.
    obeyed: u32,
}

impl Misrouted {
    fn obeyed(&mut self) {
        self.quarters = self.quarters.saturating_sub(1);
        self.obeyed = self.obeyed.saturating_add(1);
    }

    /// Whether so many obeyed that a sample will do.
    const fn is_trusted(self) -> bool {
        self.quarters == 0 && self.obeyed >= TRUSTED
    }

    /// A request is not known to have gone where it should.
    fn doubted(&mut self) {
        self.obeyed = 0;
    }

    /// Whether to report that requests are misrouted: again only if they obeyed for a while meanwhile.
    fn disobeyed(&mut self) -> bool {
        self.quarters = self.quarters.saturating_add(MISROUTED);
        let reports = (MOST_MISROUTED..2 * MOST_MISROUTED).contains(&self.quarters);
        if reports {
            self.quarters = 10 * MOST_MISROUTED;
        }
        reports
    }

    /// Whether a request that went to a later host of its list, with the earlier ones skipped, is taken for Envoy's obedience:
    /// it skips what is not in the cluster any more.
    fn excuses(&mut self) -> bool {
        let excuses = self.quarters < MISROUTED;
        self.quarters += u32::from(excuses);
        excuses
    }
}

impl Worker {
    /// A request arrives: where to send it. `circuit_probe`: it finds out for an open circuit whether the cluster is back.
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

    /// Whether the requests of a cluster go where the clients' connections went to, as far as was seen. While hosts of it are out,
    /// that is told as often as requests that go astray are.
    fn is_for_its_own_destination(&mut self, cluster: ClusterId) -> bool {
        let now = self.wall_clock;
        let Some(state) = self.clusters.get_mut(cluster).filter(|state| !state.is_balanced) else { return false };
        if state.outliers.as_ref().is_some_and(|outliers| !outliers.is_calm(now)) && state.misrouted.disobeyed() {
            self.report(cluster, What::Misrouted);
        }
        true
    }

    /// Whether a request waits for much longer than until it was sent once more, and was not answered for that: what is sent now
    /// would not be, either, since such requests take long by nature, or all hosts do.
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
        let (now, retries) = (self.wall_clock, admission.retries());
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

    /// Whether a request that was answered well may be taken to have gone where it was steered, without asking for the host's
    /// address: nearly all do, and a sample shows whether that is still so. Not a probe, whose host has yet to show that it is back,
    /// nor what took so long that it may have been sent once more, beside the first attempt.
    pub(super) fn obeys<H: Host>(
        &mut self,
        (cluster, arrived, hedge): (ClusterId, Time, Option<Duration>),
        route: &Route,
        view: &View<'_, H>,
    ) -> bool {
        if !route.is_steered() || route.is_probe() {
            return false;
        }
        let took = nanos_since(arrived, self.now(view));
        let Some(state) = self.clusters.get_mut(cluster) else { return false };
        let once = hedge.map_or(u64::MAX, nanos).min(state.waiting.hedge_after().unwrap_or_default());
        state.misrouted.is_trusted() && took < once && !state.sampler.takes_by_chance()
    }

    /// A request is over: its probe gives its slot back, and what Envoy's balancer chose is learned. `once`: it had one attempt,
    /// as far as is known without asking.
    pub(super) fn route_ended<H: Host>(
        &mut self,
        id: StreamId,
        cluster: ClusterId,
        (route, once): (&Route, bool),
        view: &View<'_, H>,
    ) {
        let Some(request) = self.requests.get(id.0) else { return };
        let (spoke, arrived) = (request.spoke, request.arrived);
        let odd = request.waits || request.odd;
        let hedge = request.hedge.map_or(u64::MAX, nanos);
        let unseen = !self.visibility(cluster).sees_failures();
        let (via, enforces, last) =
            (self.policies.steering().map(|steering| steering.via), self.enforces(), self.wall_clock);
        let Some(state) = self.clusters.get_mut(cluster) else { return };
        let Some(outliers) = &mut state.outliers else { return };
        if let Some(probe) = route.probe {
            // Where nobody sees the attempts, nobody else tells that the host did not answer until the request was sent once more.
            if unseen && nanos_since(arrived, last) >= hedge {
                let host = Some(route.first());
                outliers.attempt_ended(
                    &EndedAttempt { host, signal: Signal::Timeout, began: arrived, weight: 1, picked: false },
                    last,
                );
            }
            outliers.probe_over(probe);
        }
        // Whom Envoy's balancer picked for a stream was learned while it ran. By now it may be one that is picked no longer.
        if via.is_none() || !state.steered || spoke {
            return;
        }
        let steered = !route.hosts.is_empty();
        let calm = !steered && outliers.is_calm(last) && outliers.knows_shares();
        if calm && !state.sampler.takes_request(last) {
            return;
        }
        let Some(address) = view.address() else {
            state.misrouted.doubted();
            return;
        };
        // Was there but one, it went to the first host. Another may be a hedge, of which nobody told.
        let once = !steered || (once && address == route.first());
        let attempts = if once { 1 } else { view.attempts().unwrap_or_default() as usize };
        let now = self.now(view);
        let Some(state) = self.clusters.get_mut(cluster) else { return };
        let took = nanos_since(arrived, now);
        if !odd && took < hedge {
            state.waiting.timed(took);
        }
        let Some(outliers) = &mut state.outliers else { return };
        if !steered && !state.is_balanced && via == Some(Via::StatefulSession) {
            let destination = view.host.property(Property::Destination);
            state.is_balanced = destination.as_deref() != Some(address.as_bytes());
        }
        // A retry of a request without a list is a pick, too: where the balancer takes turns, the host after a dead one gets
        // nothing else from it. In shadow mode, a list is made, and nobody sees it.
        if !steered || !enforces {
            outliers.picked(address, now);
            return;
        }
        if view.is_address_assumed() {
            return;
        }
        let astray = match Arrival::of(address, &route.hosts, attempts) {
            Arrival::Listed => return state.misrouted.obeyed(),
            Arrival::Unknown => false,
            Arrival::Later(skipped) if !outliers.is_ejected(address) && state.misrouted.excuses() => {
                skipped.iter().for_each(|host| outliers.gone(host));
                false
            }
            Arrival::Later(_) | Arrival::Elsewhere => {
                outliers.picked(address, now);
                state.misrouted.disobeyed()
            }
        };
        state.misrouted.doubted();
        if astray {
            self.report(cluster, What::Misrouted);
        }
    }

    /// What a worker knows of a cluster's hosts; made when its first request arrives, and only where the policy asks for it.
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

/// Where the last attempt of a request went, by its list. The n-th attempt goes to the n-th host; beyond the list, Envoy
/// chooses.
#[derive(Debug, PartialEq, Eq)]
enum Arrival<'a> {
    /// To where it should.
    Listed,
    /// The first attempt, to a later host of the list, past these.
    Later(Vec<&'a str>),
    /// To another host.
    Elsewhere,
    /// That cannot be told.
    Unknown,
}

impl<'a> Arrival<'a> {
    fn of(address: &str, list: &'a str, attempts: usize) -> Self {
        let listed = list.split(',').count();
        if attempts == 0 || attempts > listed {
            return Self::Unknown;
        }
        match list.split(',').position(|host| host == address) {
            Some(place) if place + 1 == attempts => Self::Listed,
            Some(place) if place + 1 < attempts => Self::Elsewhere,
            // Envoy skipped hosts before one of the attempts.
            _ if attempts > 1 => Self::Unknown,
            Some(place) => Self::Later(list.split(',').take(place).collect()),
            // A session has one host alone.
            None if listed == 1 => Self::Later(vec![list]),
            None => Self::Elsewhere,
        }
    }
}
