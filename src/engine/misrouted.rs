//! Where requests went: whether those that are steered go where they should, and what Envoy's balancer chose of the others.

use std::time::Duration;

use super::cluster::Cluster;
use super::correlate::ClusterId;
use super::event::What;
use super::host::{Host, Property, StreamId};
use super::route::Route;
use super::view::View;
use super::worker::Worker;
use crate::base::time::{Time, nanos, nanos_since};
use crate::config::Via;
use crate::outlier::{EndedAttempt, Probe};
use crate::signal::Signal;

/// A cluster is taken not to obey the steering header once this many steered requests went elsewhere: 20, in quarters
/// of a request.
const MOST_MISROUTED: u32 = 20 * MISROUTED;
/// One request that went elsewhere, in quarters. Each request that went where it should takes back one quarter, since
/// some go there by chance: with two hosts, every other one.
const MISROUTED: u32 = 4;

/// Once this many requests in a row went where they should, only a sample of those that were answered is looked at.
const TRUSTED: u32 = 16;

/// Whether the requests of a cluster go where they are steered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Misrouted {
    /// The requests that went elsewhere, less what is taken back, in quarters of a request.
    quarters: u32,
    /// The number of requests in a row, of those that were looked at, that went where they were steered.
    obeyed: u32,
}

impl Misrouted {
    fn obeyed(&mut self) {
        self.quarters = self.quarters.saturating_sub(1);
        self.obeyed = self.obeyed.saturating_add(1);
    }

    /// Whether enough requests in a row obeyed for a sample to do.
    const fn is_trusted(self) -> bool {
        self.quarters == 0 && self.obeyed >= TRUSTED
    }

    /// A request is not known to have gone where it should.
    fn doubted(&mut self) {
        self.obeyed = 0;
    }

    /// Whether to report that requests are misrouted: again only if they obeyed for a while meanwhile.
    pub(super) fn disobeyed(&mut self) -> bool {
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
    /// Whether a request that was answered well may be taken to have gone where it was steered, without asking for the
    /// host's address. Nearly all do, and a sample shows whether that is still so. Two kinds are always looked at:
    /// probes, whose hosts have yet to show that they are back, and requests that took long enough to have been hedged.
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
        let (arrived, odd, spoke) = (request.arrived, request.wait.is_odd(), request.spoke);
        let hedge = request.hedge.map_or(u64::MAX, nanos);
        let (steers, last) = (self.policies.steering().is_some(), self.wall_clock);
        if let Some(probe) = route.probe {
            self.probe_over(cluster, (probe, route.first()), arrived, nanos_since(arrived, last) >= hedge);
        }
        let Some(state) = self.clusters.get_mut(cluster) else { return };
        let Some(outliers) = &mut state.outliers else { return };
        // Which host Envoy's balancer picked for a stream was learned while it ran. By now the balancer may not pick it
        // any more.
        if !steers || !state.steered || spoke {
            return;
        }
        let calm = !route.is_steered() && outliers.is_calm(last);
        let picks = outliers.wants_pick(calm, last);
        // For how long requests take, a sample at random will do.
        let times = !calm || !state.waiting.is_known() || state.sampler.takes_by_chance();
        if !picks && !times {
            return;
        }
        let took = nanos_since(arrived, self.now(view));
        if times
            && !odd
            && took < hedge
            && let Some(state) = self.clusters.get_mut(cluster)
        {
            state.waiting.timed(took);
        }
        if picks {
            self.learn_where(cluster, route, once, view);
        }
    }

    /// The request that carried a probe is over. `silent`: its host did not answer it in time. If `watch` sees no
    /// attempts, nothing else shows that the host did not answer before the request was hedged.
    fn probe_over(&mut self, cluster: ClusterId, (probe, host): (Probe, &str), arrived: Time, silent: bool) {
        let (unseen, now) = (!self.visibility(cluster).sees_failures(), self.wall_clock);
        let Some(outliers) = self.clusters.get_mut(cluster).and_then(|state| state.outliers.as_mut()) else { return };
        if unseen && silent {
            let (host, signal) = (Some(host), Signal::Timeout);
            outliers.attempt_ended(&EndedAttempt { host, signal, began: arrived, weight: 1, picked: false }, now);
        }
        outliers.probe_over(probe);
    }

    /// Learns which host a request went to. `once`: it had one attempt.
    fn learn_where<H: Host>(&mut self, cluster: ClusterId, route: &Route, once: bool, view: &View<'_, H>) {
        let (now, enforces, via) = (self.now(view), self.enforces(), self.steers_via());
        let Some(state) = self.clusters.get_mut(cluster) else { return };
        let Some(address) = view.address() else {
            state.misrouted.doubted();
            return;
        };
        let steered = route.is_steered();
        // A single attempt goes to the first host of the list. If it was at another one, there may have been a hedge,
        // so the attempts are counted.
        let once = !steered || (once && address == route.first());
        let attempts = if once { 1 } else { view.attempts().unwrap_or_default() as usize };
        let Some(outliers) = &mut state.outliers else { return };
        if !steered && !state.is_balanced && via == Some(Via::StatefulSession) {
            let destination = view.host.property(Property::Destination);
            state.is_balanced = destination.as_deref() != Some(address.as_bytes());
        }
        // A retry of a request without a list is a pick as well: where the balancer takes turns, the host after one
        // that is down is picked only for retries. In shadow mode, a list is made, and Envoy does not see it.
        if !steered || !enforces {
            let once = !outliers.tries_balancer() || view.attempts() == Some(1);
            outliers.left_to_balancer(address, once, now);
        } else if !view.is_address_assumed() && state.is_misrouted(address, &route.hosts, attempts, now) {
            self.report(cluster, What::Misrouted);
        }
    }
}

impl Cluster {
    /// The last of this many `attempts` of a request with this `list` went to that `address`. Returns whether to report
    /// that requests are misrouted.
    fn is_misrouted(&mut self, address: &str, list: &str, attempts: usize, now: Time) -> bool {
        let Some(outliers) = &mut self.outliers else { return false };
        let misrouted = match Arrival::of(address, list, attempts) {
            Arrival::Listed => {
                self.misrouted.obeyed();
                return false;
            }
            Arrival::Unknown => false,
            Arrival::Later(skipped) if !outliers.is_ejected(address) && self.misrouted.excuses() => {
                skipped.iter().for_each(|host| outliers.gone(host));
                false
            }
            Arrival::Later(_) | Arrival::Elsewhere => {
                outliers.picked(address, now);
                self.misrouted.disobeyed()
            }
        };
        self.misrouted.doubted();
        misrouted
    }
}

/// Where the last attempt of a request went, by its list. The n-th attempt goes to the n-th host; beyond the list, Envoy
/// chooses.
#[derive(Debug, PartialEq, Eq)]
enum Arrival<'a> {
    /// The host that it should go to.
    Listed,
    /// The first attempt went to a later host of the list, past these.
    Later(Vec<&'a str>),
    /// Another host.
    Elsewhere,
    /// It is not known which host it should go to.
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
