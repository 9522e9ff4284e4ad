//! The engine: every rule of the product, once, for whoever drives it.
//!
//! ```text
//!   callback ──► worker ──► decision    what is to be done
//!                │ asks  └─► event      what happened
//!                ▼
//!               host                    Envoy; or a replayed log, a simulation, a test
//! ```
//!
//! | | |
//! |---|---|
//! | [`worker`] | all that one worker knows; the timer; the end of an attempt |
//! | `arrival`, `response`, `end` | role `decide`: a request arrives, is answered, ends |
//! | `attempt`, `attempt_response` | role `guard`: an attempt is sent, is answered, ends |
//! | `log` | role `watch`: an attempt's log entry |
//! | `streams` | responses that go on speak for their hosts |
//! | `waiting` | requests that are overdue speak against theirs |
//! | `breaker`, `route` | what an open circuit and ejected hosts do to a request |
//! | `sync` | the records that workers share |
//! | [`correlate`] | an attempt's log entry and the end of its request, joined |
//! | [`host`], `view` | what is asked, and what one callback has learned |
//!
//! Decisions are values, and so is what happened. Nothing here calls out but through [`host::Host`].

mod admission;
mod arrival;
mod attempt;
mod attempt_response;
mod breaker;
mod cluster;
mod clusters;
pub mod correlate;
pub mod decision;
mod end;
pub mod event;
pub mod host;
mod log;
mod request;
mod response;
mod route;
mod streams;
mod sync;
#[cfg(test)]
mod tests;
mod view;
mod waiting;
pub mod worker;

pub use clusters::{LONGEST_NAME, MOST_CLUSTERS};

use std::time::Duration;

use crate::base::time::Time;
use crate::circuit::Circuit;
use crate::config::{Mode, PerTryTimeout, Policy, RetryPolicy, SteeringPolicy};
use crate::engine::cluster::Cluster;
use crate::engine::clusters::Clusters;
use crate::engine::correlate::{Attempts, ClusterId};
use crate::engine::event::{MOST_NAMED, What};
use crate::engine::route::Misrouted;
use crate::incident::Milliseconds;
use crate::latency::{AdaptiveTimeout, Latency};
use crate::outlier::Outliers;
use crate::outlier::detector::OutlierPolicy;
use crate::retry::RetryHeaders;
use crate::retry::reservations::Account;

/// Over which time attempts are observed for adaptive timeouts.
const LATENCY_INTERVAL: Duration = Duration::from_secs(30);

/// A cluster's policy, in the form in which requests need it.
#[derive(Debug)]
struct Retry {
    policy: RetryPolicy,
    headers: RetryHeaders,
    adaptive: Option<AdaptiveTimeout>,
}

/// Which entry of the policy says how a request is retried, where its route has one; the default is the cluster's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ByRoute(u32);

impl ByRoute {
    /// Which of the engine's policies that is, whose first entry this type knows by the number `first`.
    fn place(self, first: u32, cluster: &Cluster) -> usize {
        self.0.checked_sub(first).map_or(cluster.policy, |place| place as usize)
    }
}

/// One worker's engine.
#[derive(Debug)]
struct Engine {
    policy: Policy,
    retries: Vec<Option<Retry>>,
    /// What [`ByRoute`] has for the first entry: more than it had for any entry of an earlier policy, and more than 0. Requests that
    /// were under way when a policy came into force go by their clusters' policies.
    first_entry: u32,
    clusters: Clusters,
    /// Attempts that ended and are not yet understood.
    attempts: Attempts,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new(Policy::default())
    }
}

impl Engine {
    /// An engine that knows nothing but its policy.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            retries: compile(&policy),
            first_entry: 1,
            policy,
            clusters: Clusters::default(),
            attempts: Attempts::default(),
        }
    }

    /// Puts another policy in force; what was learned stays.
    pub fn reconfigure(&mut self, policy: Policy, now: Time) {
        self.first_entry += self.retries.len() as u32;
        self.retries = compile(&policy);
        for (_, cluster) in self.clusters.iter_mut() {
            equip(cluster, &self.retries, &policy, now);
            match policy.clusters().get(cluster.policy).and_then(|policy| policy.outlier_detection) {
                Some(policy) => cluster.outliers.iter_mut().for_each(|outliers| outliers.set_policy(policy)),
                None => cluster.outliers = None,
            }
        }
        self.policy = policy;
    }

    /// Whether decisions are carried out or only counted.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.policy.mode
    }

    /// The cluster of that name, known from now on.
    pub fn cluster_id(&mut self, name: &str) -> ClusterId {
        self.clusters.find(name).unwrap_or_else(|| {
            let id = self.clusters.add(name);
            if let Some(cluster) = self.clusters.get_mut(id) {
                equip(cluster, &self.retries, &self.policy, Time::default());
            }
            id
        })
    }

    /// The cluster that was asked for last, if that is its name.
    pub fn same_cluster(&mut self, name: &[u8]) -> Option<ClusterId> {
        self.clusters.same(name)
    }

    /// What is known of a cluster; `None` once it was forgotten.
    #[must_use]
    pub fn cluster(&self, id: ClusterId) -> Option<&Cluster> {
        self.clusters.get(id)
    }

    /// What is known of a cluster, to change it.
    pub fn cluster_mut(&mut self, id: ClusterId) -> Option<&mut Cluster> {
        self.clusters.get_mut(id)
    }

    /// Whether the policy for a request depends on its route.
    pub fn has_routes(&self, id: ClusterId) -> bool {
        self.clusters.get(id).is_some_and(|cluster| !cluster.routes.is_empty())
    }

    /// Which entry is for requests to a cluster whose route has this name.
    #[inline(never)]
    pub fn by_route(&mut self, id: ClusterId, route: &[u8]) -> ByRoute {
        let Some(cluster) = self.clusters.get_mut(id) else { return ByRoute::default() };
        for (place, used) in &mut cluster.routes {
            if self.policy.is_for_route(*place, route) {
                *used = true;
                return ByRoute(self.first_entry + *place as u32);
            }
        }
        ByRoute::default()
    }

    /// How a request to a cluster is retried; `None` where that is off or the cluster was forgotten.
    fn retry(&self, id: ClusterId, by_route: ByRoute) -> Option<&Retry> {
        self.retries.get(by_route.place(self.first_entry, self.clusters.get(id)?))?.as_ref()
    }

    /// The retry policy for a request to a cluster; `None` where it is off or the cluster was forgotten.
    #[must_use]
    pub fn retry_policy(&self, id: ClusterId, by_route: ByRoute) -> Option<&RetryPolicy> {
        self.retry(id, by_route).map(|retry| &retry.policy)
    }

    /// The outlier detection of a cluster; `None` where it is off or the cluster was forgotten.
    #[must_use]
    pub fn outlier_policy(&self, id: ClusterId) -> Option<OutlierPolicy> {
        let policy = self.clusters.get(id)?.policy;
        self.policy.clusters().get(policy)?.outlier_detection
    }

    /// How requests are steered; `None` where that is off.
    #[must_use]
    pub fn steering(&self) -> Option<&SteeringPolicy> {
        self.policy.steering.as_ref()
    }

    /// The clusters for which `due` holds. (By reference: each kind of closure would cost the module 300 bytes.)
    fn clusters_that(&self, due: &dyn Fn(&Cluster) -> bool) -> Vec<ClusterId> {
        let mut clusters = Vec::new();
        for (id, cluster) in self.clusters.iter() {
            if due(cluster) {
                clusters.push(id);
            }
        }
        clusters
    }

    /// The clusters whose hosts other workers may know more about, or shall hear of; and those of which hosts are out, since that is
    /// over some time after the last request.
    #[must_use]
    pub fn clusters_to_exchange(&self, now: Time) -> Vec<ClusterId> {
        let due =
            |outliers: &Outliers| outliers.has_requests(now) || outliers.is_pending() || outliers.may_be_over(now);
        let due = |cluster: &Cluster| cluster.outliers.as_ref().is_some_and(due);
        self.clusters_that(&due)
    }

    /// The time that incidents are measured by, in milliseconds; `None` where they are off.
    #[must_use]
    pub fn incident_interval(&self) -> Option<Milliseconds> {
        self.policy.incidents.map(|incidents| incidents.interval)
    }

    /// The clusters whose record of incidents should be read now.
    #[must_use]
    pub fn clusters_with_incidents(&self, now: Time) -> Vec<ClusterId> {
        self.clusters_that(&|cluster| cluster.incidents.is_due(now))
    }

    /// Keeps the hosts of all clusters within bounds. The clusters of which other hosts are out, or another number is remembered,
    /// than when this was last asked, each with what there is to report of it.
    pub fn changed_hosts(&mut self) -> Vec<(ClusterId, What)> {
        self.clusters.bound_hosts();
        let mut changed = Vec::new();
        for (id, cluster) in self.clusters.iter_mut() {
            let (mut counts, mut forgotten) = ((0, 0), 0);
            let mut out = String::with_capacity(cluster.reported_out.len());
            if let Some(outliers) = &mut cluster.outliers {
                forgotten = outliers.take_forgotten();
                outliers.each_ejected(&mut |address| {
                    if out.len() < MOST_NAMED {
                        out.push_str(address);
                        out.push(' ');
                    }
                });
                counts = (outliers.ejected(), outliers.remembered());
                if outliers.take_unjudged() {
                    changed.push((id, What::Unjudged));
                }
            }
            if cluster.reported_hosts != counts || cluster.reported_out != out || forgotten > 0 {
                cluster.reported_hosts = counts;
                changed.push((id, What::Hosts { ejected: counts.0, remembered: counts.1, forgotten }));
                cluster.report_out(id, out, &mut changed);
            }
        }
        changed
    }

    /// The mode is about to change. What there is to report, so that nothing is said to be out or open any more.
    pub fn leave_mode(&mut self) -> Vec<(ClusterId, What)> {
        let mut changed = Vec::new();
        for (id, cluster) in self.clusters.iter_mut() {
            let (ejected, remembered) = std::mem::take(&mut cluster.reported_hosts);
            if ejected > 0 {
                changed.push((id, What::Hosts { ejected: 0, remembered, forgotten: 0 }));
                cluster.report_out(id, String::new(), &mut changed);
            }
            if std::mem::take(&mut cluster.reported_open) {
                changed.push((id, What::CircuitOpen(false)));
            }
            // In shadow mode nothing goes where it is steered.
            cluster.misrouted = Misrouted::default();
        }
        changed
    }

    /// The clusters whose circuits have something to say, or may have changed elsewhere, or changed and nobody was told.
    #[must_use]
    pub fn due_circuits(&self, now: Time) -> Vec<ClusterId> {
        let due = |cluster: &Cluster| {
            let circuit = cluster.circuit.as_ref();
            circuit.is_some_and(|circuit| circuit.is_due(now)) || cluster.reported_open != cluster.is_open()
        };
        self.clusters_that(&due)
    }

    /// Calls `visit` with what each entry of `clusters` in the policy is for, and whether a request went by it.
    pub fn each_entry(&self, visit: &mut dyn FnMut(&str, bool)) {
        for (place, pattern) in self.policy.patterns().iter().enumerate() {
            visit(&pattern.text(), self.clusters.iter().any(|(_, cluster)| cluster.goes_by(place)));
        }
    }

    /// How many clusters are known, and how many were forgotten to make room.
    #[must_use]
    pub fn cluster_counts(&self) -> (usize, u64) {
        self.clusters.counts()
    }

    /// The clusters that have no budget any more and of which it was reported how many retries are left.
    pub(crate) fn closed_budgets(&self) -> Vec<ClusterId> {
        self.clusters_that(&|cluster| cluster.account.is_none() && cluster.reported_budget)
    }

    /// The clusters whose accounts have something to write into the shared record, or to learn from it.
    #[must_use]
    pub fn due_accounts(&self, now: Time) -> Vec<ClusterId> {
        self.clusters_that(&|cluster| cluster.account.as_ref().is_some_and(|account| account.is_due(now)))
    }
}

/// Gives a cluster what its policy needs, and takes away what it does not.
fn equip(cluster: &mut Cluster, retries: &[Option<Retry>], policy: &Policy, now: Time) {
    cluster.routes.clear();
    cluster.policy = policy.places_for(&cluster.name, &mut cluster.routes);
    let by_route = !cluster.routes.is_empty();
    let policy = policy.clusters().get(cluster.policy);
    let retry = retries.get(cluster.policy).and_then(Option::as_ref);
    cluster.steered = policy.is_none_or(|policy| policy.steered);
    // Where retries are off, those by some routes are paid for all the same.
    let budget = policy.filter(|_| by_route || retry.is_some()).and_then(|policy| policy.budget);
    cluster.account = budget.map(|policy| match cluster.account.take() {
        Some(mut account) => {
            account.set_policy(policy, now);
            account
        }
        None => Account::new(policy),
    });
    cluster.circuit = policy.and_then(|policy| policy.circuit_breaker).map(|policy| match cluster.circuit.take() {
        Some(mut circuit) => {
            circuit.set_policy(policy);
            circuit
        }
        None => Box::new(Circuit::new(policy)),
    });
    // Timeouts of single routes may depend on it, too.
    let adaptive = by_route || retry.is_some_and(|retry| retry.adaptive.is_some());
    cluster.latency = adaptive.then(|| cluster.latency.take().unwrap_or_else(|| Latency::new(LATENCY_INTERVAL)));
}

fn compile(policy: &Policy) -> Vec<Option<Retry>> {
    let retry = |policy: &RetryPolicy| Retry {
        policy: policy.clone(),
        headers: RetryHeaders::new(policy),
        adaptive: match policy.per_try_timeout {
            Some(PerTryTimeout::Adaptive(timeout)) => Some(timeout),
            _ => None,
        },
    };
    policy.clusters().iter().map(|cluster| cluster.retry.as_ref().map(retry)).collect()
}
