//! What one worker knows, and what it decides.
//!
//! Decisions are values; the filter carries them out. Nothing here calls the host.

pub mod cluster;
pub mod correlate;

use std::time::Duration;

use crate::base::time::Time;
use crate::circuit::Circuit;
use crate::config::{ClusterPolicy, Mode, PerTryTimeout, Policy, RetryPolicy, SteeringPolicy};
use crate::engine::cluster::{Cluster, Clusters};
use crate::engine::correlate::{Attempts, ClusterId};
use crate::incident::Milliseconds;
use crate::latency::{AdaptiveTimeout, Latency};
use crate::outlier::Outliers;
use crate::outlier::detector::OutlierPolicy;
use crate::retry::reservations::Account;
use crate::retry::{Class, Header, Plan, Request, RetryHeaders};

/// Over which time attempts are observed for adaptive timeouts.
const LATENCY_INTERVAL: Duration = Duration::from_secs(30);

/// A cluster's policy, in the form in which requests need it.
#[derive(Debug)]
struct Retry {
    policy: RetryPolicy,
    headers: RetryHeaders,
    adaptive: Option<AdaptiveTimeout>,
}

/// What to do with a request that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission<'a> {
    /// How it counts.
    pub class: Class,
    /// What may be retried; `None` where the retry section is off.
    pub plan: Option<Plan>,
    /// What may be retried less often than the policy allows, since the budget has no more.
    pub denied: Option<Plan>,
    /// Retries that it has permission for, where it needs one; they are to be released when it ends.
    pub held: Option<u32>,
    /// The request headers that say so to Envoy. Empty in shadow mode and where the section is off.
    pub headers: &'a [Header],
    /// The timeout for each attempt, where it depends on what was observed. `None` in shadow mode.
    pub per_try_timeout: Option<Duration>,
}

/// One worker's engine.
#[derive(Debug)]
pub struct Engine {
    policy: Policy,
    retries: Vec<Option<Retry>>,
    clusters: Clusters,
    /// Attempts that ended and are not yet understood.
    pub attempts: Attempts,
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
        Self { retries: compile(&policy), policy, clusters: Clusters::default(), attempts: Attempts::default() }
    }

    /// Puts another policy in force; what was learned stays.
    pub fn reconfigure(&mut self, policy: Policy, now: Time) {
        self.retries = compile(&policy);
        let policies: Vec<_> = policy.clusters().collect();
        for (_, cluster) in self.clusters.iter_mut() {
            cluster.policy = policy.index_for(&cluster.name);
            let policy = policies.get(cluster.policy).copied();
            equip(cluster, &self.retries, policy, now);
            match policy.and_then(|policy| policy.outlier_detection) {
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
            let id = self.clusters.add(name, self.policy.index_for(name));
            if let Some(cluster) = self.clusters.get_mut(id) {
                equip(cluster, &self.retries, self.policy.clusters().nth(cluster.policy), Time::default());
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

    /// All clusters, to change them.
    pub fn clusters_mut(&mut self) -> impl Iterator<Item = &mut Cluster> {
        self.clusters.iter_mut().map(|(_, cluster)| cluster)
    }

    /// The clusters without a budget, and whether they have retries.
    pub fn unbudgeted_clusters(&mut self) -> impl Iterator<Item = (&mut Cluster, bool)> {
        let retries = &self.retries;
        let has_retries = |cluster: &Cluster| retries.get(cluster.policy).is_some_and(Option::is_some);
        let clusters = self.clusters.iter_mut().map(|(_, cluster)| cluster);
        clusters.filter(|cluster| cluster.account.is_none()).map(move |cluster| {
            let retries = has_retries(cluster);
            (cluster, retries)
        })
    }

    /// The same, to change it.
    pub fn cluster_mut(&mut self, id: ClusterId) -> Option<&mut Cluster> {
        self.clusters.get_mut(id)
    }

    /// The retry policy of a cluster; `None` where it is off or the cluster was forgotten.
    #[must_use]
    pub fn retry_policy(&self, id: ClusterId) -> Option<&RetryPolicy> {
        let policy = self.clusters.get(id)?.policy;
        Some(&self.retries.get(policy)?.as_ref()?.policy)
    }

    /// The outlier detection of a cluster; `None` where it is off or the cluster was forgotten.
    #[must_use]
    pub fn outlier_policy(&self, id: ClusterId) -> Option<OutlierPolicy> {
        let policy = self.clusters.get(id)?.policy;
        self.policy.clusters().nth(policy)?.outlier_detection
    }

    /// How requests are steered; `None` where that is off.
    #[must_use]
    pub fn steering(&self) -> Option<&SteeringPolicy> {
        self.policy.steering.as_ref()
    }

    /// The clusters for which `due` holds. (By reference: each kind of closure would cost the module 300 bytes.)
    fn clusters_that(&self, due: &dyn Fn(&Cluster) -> bool) -> Vec<ClusterId> {
        self.clusters.iter().filter(|(_, cluster)| due(cluster)).map(|(id, _)| id).collect()
    }

    /// The clusters whose hosts other workers may know more about, or shall hear of.
    #[must_use]
    pub fn clusters_to_exchange(&self, now: Time) -> Vec<ClusterId> {
        let due = |outliers: &Outliers| outliers.has_requests(now) || outliers.is_pending();
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

    /// Keeps the hosts of all clusters within bounds. The clusters of which another number of hosts is out or remembered than
    /// when this was last asked, with these numbers and how many were forgotten meanwhile.
    pub fn changed_host_counts(&mut self) -> Vec<(ClusterId, (usize, usize), u32)> {
        self.clusters.bound_hosts();
        let changed = |(id, cluster): (ClusterId, &mut Cluster)| {
            let forgotten = cluster.outliers.as_mut().map_or(0, Outliers::take_forgotten);
            let counts = cluster.outliers.as_ref().map_or((0, 0), |outliers| (outliers.out(), outliers.remembered()));
            let told = std::mem::replace(&mut cluster.told, counts);
            (told != counts || forgotten > 0).then_some((id, counts, forgotten))
        };
        self.clusters.iter_mut().filter_map(changed).collect()
    }

    /// The clusters whose circuits have something to say, or may have changed elsewhere, or changed and nobody was told.
    #[must_use]
    pub fn due_circuits(&self, now: Time) -> Vec<ClusterId> {
        let due = |cluster: &Cluster| {
            let circuit = cluster.circuit.as_ref();
            circuit.is_some_and(|circuit| circuit.is_due(now)) || cluster.told_open != cluster.is_open()
        };
        self.clusters_that(&due)
    }

    /// How many clusters are known, and how many were forgotten to make room.
    #[must_use]
    pub fn cluster_counts(&self) -> (usize, u64) {
        self.clusters.counts()
    }

    /// The clusters whose accounts have something to write into the shared record, or to learn from it.
    #[must_use]
    pub fn due_accounts(&self, now: Time) -> Vec<ClusterId> {
        self.clusters_that(&|cluster| cluster.account.as_ref().is_some_and(|account| account.is_due(now)))
    }

    /// A request for a cluster arrives. `now` is this worker's time; `wall_clock`, the host's own, is the one that the budget's
    /// shared record goes by (see [`crate::base::time`]).
    ///
    /// `guarded` says whether this VM has a `guard` at all: until a retry tells whether it sees this cluster, it is trusted to
    /// charge each retry when it happens. Then no permission is needed; but where retries do not help, those that the budget
    /// cannot pay are not even begun, which saves the host a connection.
    pub fn admit(
        &mut self,
        id: ClusterId,
        request: &Request<'_>,
        guarded: bool,
        now: Time,
        wall_clock: Time,
    ) -> Admission<'_> {
        let off =
            Admission { class: Class::Off, plan: None, denied: None, held: None, headers: &[], per_try_timeout: None };
        let Some(cluster) = self.clusters.get_mut(id) else { return off };
        let Some(Some(retry)) = self.retries.get(cluster.policy) else { return off };
        let plan = Plan::of(&retry.policy, request);
        let guarded = cluster.guarded.unwrap_or(guarded);
        let held = cluster.account.as_mut().and_then(|account| {
            account.arrive(wall_clock);
            // In shadow mode `guard` sees the retries that are not begun otherwise.
            let begun = guarded && (self.policy.mode == Mode::Shadow || !account.is_futile(wall_clock));
            (plan != Plan::Nothing && !begun).then(|| account.hold(retry.policy.max_retries, wall_clock))
        });
        let denied = held.filter(|held| *held < retry.policy.max_retries).map(|_| plan);
        let admission = Admission { class: Class::of(&retry.policy, request), plan: Some(plan), denied, held, ..off };
        if self.policy.mode == Mode::Shadow {
            return admission;
        }
        let plan = if held == Some(0) { Plan::Nothing } else { plan };
        let observed = cluster.latency.as_mut().filter(|_| plan.repeats());
        Admission {
            plan: Some(plan),
            headers: retry.headers.of(plan, guarded),
            per_try_timeout: retry
                .adaptive
                .zip(observed)
                .and_then(|(timeout, observed)| timeout.timeout(observed, now)),
            ..admission
        }
    }
}

/// Gives a cluster what its policy needs, and takes away what it does not.
fn equip(cluster: &mut Cluster, retries: &[Option<Retry>], policy: Option<&ClusterPolicy>, now: Time) {
    let retry = retries.get(cluster.policy).and_then(Option::as_ref);
    cluster.account = retry.and_then(|retry| retry.policy.budget).map(|policy| match cluster.account.take() {
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
    let adaptive = retry.is_some_and(|retry| retry.adaptive.is_some());
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
    policy.clusters().map(|cluster| cluster.retry.as_ref().map(retry)).collect()
}
