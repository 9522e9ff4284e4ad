//! What one worker knows, and what it decides: clusters, their policies, and the attempts that end there.
//!
//! Decisions are values; the filter carries them out. Nothing here calls the host.

use std::collections::HashMap;

use crate::attempt::{Attempts, ClusterId};
use crate::config::{Mode, Policy, RetryPolicy};
use crate::retry::{Class, Header, Plan, Request, RetryHeaders};

/// At most this many clusters are remembered; the least recently used goes first.
pub const MOST_CLUSTERS: usize = 1_000;

/// A cluster's policy, in the form in which requests need it.
#[derive(Debug)]
struct Retry {
    policy: RetryPolicy,
    headers: RetryHeaders,
}

#[derive(Debug)]
struct Cluster {
    id: ClusterId,
    /// Which of the engine's policies; they are shared, since thousands of clusters may have the same.
    policy: usize,
    /// Whether `watch` sees this cluster's attempts, so that `decide` need not judge the last one.
    watched: bool,
    last_used: u64,
}

/// What to do with a request that arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission<'a> {
    /// How it counts.
    pub class: Class,
    /// What may be retried; `None` where the retry section is off.
    pub plan: Option<Plan>,
    /// The request headers that say so to Envoy. Empty in shadow mode and where the section is off.
    pub headers: &'a [Header],
}

/// One worker's engine.
#[derive(Debug)]
pub struct Engine {
    policy: Policy,
    retries: Vec<Option<Retry>>,
    clusters: HashMap<Box<str>, Cluster>,
    names: HashMap<ClusterId, Box<str>>,
    next_id: u32,
    uses: u64,
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
        Self {
            retries: compile(&policy),
            policy,
            clusters: HashMap::new(),
            names: HashMap::new(),
            next_id: 0,
            uses: 0,
            attempts: Attempts::default(),
        }
    }

    /// Puts another policy in force; what was learned stays.
    pub fn reconfigure(&mut self, policy: Policy) {
        self.retries = compile(&policy);
        for (name, cluster) in &mut self.clusters {
            cluster.policy = policy.index_for(name);
        }
        self.policy = policy;
    }

    /// Whether decisions are carried out or only counted.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.policy.mode
    }

    /// The cluster of that name, known from now on.
    pub fn cluster(&mut self, name: &str) -> ClusterId {
        self.uses += 1;
        if let Some(cluster) = self.clusters.get_mut(name) {
            cluster.last_used = self.uses;
            return cluster.id;
        }
        if self.clusters.len() >= MOST_CLUSTERS {
            self.forget_least_recently_used();
        }
        let id = ClusterId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        let cluster = Cluster { id, policy: self.policy.index_for(name), watched: false, last_used: self.uses };
        self.clusters.insert(name.into(), cluster);
        self.names.insert(id, name.into());
        id
    }

    fn forget_least_recently_used(&mut self) {
        let oldest = self.clusters.iter().min_by_key(|(_, cluster)| cluster.last_used);
        if let Some((name, id)) = oldest.map(|(name, cluster)| (name.clone(), cluster.id)) {
            self.clusters.remove(&name);
            self.names.remove(&id);
        }
    }

    /// A cluster's name; `None` once it was forgotten.
    #[must_use]
    pub fn cluster_name(&self, id: ClusterId) -> Option<&str> {
        self.names.get(&id).map(AsRef::as_ref)
    }

    fn known(&self, id: ClusterId) -> Option<&Cluster> {
        self.clusters.get(self.names.get(&id)?)
    }

    /// The retry policy of a cluster; `None` where it is off or the cluster was forgotten.
    #[must_use]
    pub fn retry_policy(&self, id: ClusterId) -> Option<&RetryPolicy> {
        Some(&self.retry(id)?.policy)
    }

    fn retry(&self, id: ClusterId) -> Option<&Retry> {
        self.retries.get(self.known(id)?.policy)?.as_ref()
    }

    /// Whether `watch` sees this cluster's attempts.
    #[must_use]
    pub fn watched(&self, id: ClusterId) -> bool {
        self.known(id).is_some_and(|cluster| cluster.watched)
    }

    /// `watch` saw an attempt of this cluster.
    pub fn set_watched(&mut self, id: ClusterId) {
        if let Some(cluster) = self.names.get(&id).and_then(|name| self.clusters.get_mut(name)) {
            cluster.watched = true;
        }
    }

    /// What to do with a request for this cluster.
    #[must_use]
    pub fn admit(&self, id: ClusterId, request: &Request<'_>) -> Admission<'_> {
        let Some(retry) = self.retry(id) else { return Admission { class: Class::Off, plan: None, headers: &[] } };
        let plan = Plan::of(&retry.policy, request);
        let headers = match self.policy.mode {
            Mode::Enforce => retry.headers.of(plan),
            Mode::Shadow => &[],
        };
        Admission { class: Class::of(&retry.policy, request), plan: Some(plan), headers }
    }
}

fn compile(policy: &Policy) -> Vec<Option<Retry>> {
    let retry = |policy: &RetryPolicy| Retry { policy: policy.clone(), headers: RetryHeaders::new(policy) };
    policy.clusters().map(|cluster| cluster.retry.as_ref().map(retry)).collect()
}
