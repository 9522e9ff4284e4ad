//! The policy in force, in the form in which requests need it: which entry is for which request, and what a cluster keeps for it.

use std::time::Duration;

use super::arrival::Admission;
use super::cluster::Cluster;
use super::correlate::ClusterId;
use crate::base::time::Time;
use crate::circuit::Circuit;
use crate::config::{ClusterPolicy, Mode, PerTryTimeout, Policy, RetryPolicy, SteeringPolicy};
use crate::incident::Milliseconds;
use crate::retry::latency::{AdaptiveTimeout, Latency};
use crate::retry::reservations::Account;
use crate::retry::{Header, RetryHeaders};

/// Over which time attempts are observed for adaptive timeouts.
const LATENCY_INTERVAL: Duration = Duration::from_secs(30);

/// Where a request goes, and what says how it is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Routed {
    pub(super) cluster: ClusterId,
    pub(super) by_route: ByRoute,
}

impl Routed {
    /// A request to a cluster whose route has no policy of its own.
    pub(super) fn to(cluster: ClusterId) -> Self {
        Self { cluster, by_route: ByRoute::default() }
    }
}

/// Which entry of the policy says how a request is retried, where its route has one; the default is the cluster's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByRoute(u32);

/// How requests by one entry of the policy are retried.
#[derive(Debug)]
pub(super) struct Retry {
    pub(super) policy: RetryPolicy,
    headers: RetryHeaders,
    pub(super) adaptive: Option<AdaptiveTimeout>,
}

/// The policy in force.
#[derive(Debug)]
pub(super) struct Policies {
    policy: Policy,
    /// For each entry of the policy; `None` where it switches retries off.
    retries: Vec<Option<Retry>>,
    /// What [`ByRoute`] has for the first entry: more than it had for any entry of an earlier policy, and more than 0. Requests that
    /// were under way when a policy came into force go by their clusters' policies.
    first_entry: u32,
}

impl Default for Policies {
    fn default() -> Self {
        let policy = Policy::default();
        Self { retries: compile(&policy), first_entry: 1, policy }
    }
}

impl Policies {
    /// Puts another policy in force.
    pub(super) fn replace(&mut self, policy: Policy) {
        self.first_entry += self.retries.len() as u32;
        self.retries = compile(&policy);
        self.policy = policy;
    }

    /// Whether decisions are carried out or only counted.
    pub(super) const fn mode(&self) -> Mode {
        self.policy.mode
    }

    /// How requests are steered; `None` where that is off.
    pub(super) const fn steering(&self) -> Option<&SteeringPolicy> {
        self.policy.steering.as_ref()
    }

    /// The time that incidents are measured by, in milliseconds; `None` where they are off.
    pub(super) fn incident_interval(&self) -> Option<Milliseconds> {
        self.policy.incidents.map(|incidents| incidents.interval)
    }

    /// The entry for a cluster as a whole.
    pub(super) fn of(&self, cluster: &Cluster) -> Option<&ClusterPolicy> {
        self.policy.clusters().get(cluster.policy)
    }

    /// Which entry is for requests to a cluster whose route has this name.
    pub(super) fn by_route(&self, cluster: &mut Cluster, route: &[u8]) -> ByRoute {
        for (place, used) in &mut cluster.routes {
            if self.policy.is_for_route(*place, route) {
                *used = true;
                return ByRoute(self.first_entry + *place as u32);
            }
        }
        ByRoute::default()
    }

    /// How a request to a cluster is retried; `None` where that is off.
    pub(super) fn retry(&self, cluster: &Cluster, by_route: ByRoute) -> Option<&Retry> {
        let place = by_route.0.checked_sub(self.first_entry).map_or(cluster.policy, |place| place as usize);
        self.retries.get(place)?.as_ref()
    }

    /// The request headers that tell Envoy's router what may be retried. Empty where that is off.
    pub(super) fn retry_headers(&self, cluster: &Cluster, by_route: ByRoute, admission: &Admission) -> &[Header] {
        let plan = self.retry(cluster, by_route).zip(admission.plan);
        plan.map_or(&[], |(retry, plan)| retry.headers.of(plan, admission.per_attempt, admission.busy))
    }

    /// Calls `visit` with what each entry of `clusters` is for, and its place.
    pub(super) fn each_entry(&self, visit: &mut dyn FnMut(&str, usize)) {
        for (place, pattern) in self.policy.patterns().iter().enumerate() {
            visit(&pattern.text(), place);
        }
    }

    /// Gives a cluster what its policy needs, and takes away what it does not.
    pub(super) fn apply_to(&self, cluster: &mut Cluster, now: Time) {
        cluster.routes.clear();
        cluster.policy = self.policy.places_for(&cluster.name, &mut cluster.routes);
        let by_route = !cluster.routes.is_empty();
        let policy = self.of(cluster);
        let retry = self.retries.get(cluster.policy).and_then(Option::as_ref);
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
        // What is known of hosts begins with the first request.
        match policy.and_then(|policy| policy.outlier_detection) {
            Some(policy) => cluster.outliers.iter_mut().for_each(|outliers| outliers.set_policy(policy)),
            None => cluster.outliers = None,
        }
    }
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
