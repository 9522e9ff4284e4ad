//! The clusters that a worker knows: by name, bounded, the least recently used forgotten first.

use std::collections::HashMap;

use crate::account::Account;
use crate::attempt::ClusterId;
use crate::latency::Latency;
use crate::outlier::Outliers;

/// At most this many clusters are remembered.
pub const MOST_CLUSTERS: usize = 1_000;

/// What a worker knows of a cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The name, as Envoy's configuration has it.
    pub name: Box<str>,
    /// Which of the engine's policies; they are shared, since thousands of clusters may have the same.
    pub policy: usize,
    /// Whether `watch` sees this cluster's attempts, so that `decide` need not judge the last one.
    pub watched: bool,
    /// Whether `guard` sees this cluster's attempts, so that it charges each retry and `decide` need not; `None` while no
    /// retry has told.
    pub guarded: Option<bool>,
    /// The retry budget, where there is one.
    pub account: Option<Account>,
    /// How long attempts take, where an adaptive timeout depends on it.
    pub latency: Option<Latency>,
    /// Its hosts, where outlier detection is on: from the first request on.
    pub outliers: Option<Outliers>,
    /// Answered attempts, of whose hosts a sample is read.
    pub attempts: u32,
    /// Requests, of whose hosts a sample is read.
    pub requests: u32,
    /// How many more requests went elsewhere than where they were steered.
    pub astray: u32,
    /// How many hosts were out when that was last told.
    pub told_out: usize,
    last_used: u64,
}

/// The clusters that a worker knows.
#[derive(Debug, Default)]
pub struct Clusters {
    ids: HashMap<Box<str>, ClusterId>,
    known: HashMap<ClusterId, Cluster>,
    next_id: u32,
    uses: u64,
}

impl Clusters {
    /// The cluster of that name if it is known.
    pub fn find(&mut self, name: &str) -> Option<ClusterId> {
        let id = *self.ids.get(name)?;
        self.uses += 1;
        if let Some(cluster) = self.known.get_mut(&id) {
            cluster.last_used = self.uses;
        }
        Some(id)
    }

    /// A new cluster, under the engine's `policy`.
    pub fn add(&mut self, name: &str, policy: usize) -> ClusterId {
        if self.known.len() >= MOST_CLUSTERS {
            self.forget_least_recently_used();
        }
        self.uses += 1;
        let id = ClusterId(self.next_id);
        self.next_id = self.next_id.wrapping_add(1);
        let cluster = Cluster {
            name: name.into(),
            policy,
            watched: false,
            guarded: None,
            account: None,
            latency: None,
            outliers: None,
            attempts: 0,
            requests: 0,
            astray: 0,
            told_out: 0,
            last_used: self.uses,
        };
        self.ids.insert(name.into(), id);
        self.known.insert(id, cluster);
        id
    }

    fn forget_least_recently_used(&mut self) {
        let oldest = self.known.iter().min_by_key(|(_, cluster)| cluster.last_used).map(|(id, _)| *id);
        if let Some(cluster) = oldest.and_then(|id| self.known.remove(&id)) {
            self.ids.remove(&cluster.name);
        }
    }

    /// A known cluster; `None` once it was forgotten.
    #[must_use]
    pub fn get(&self, id: ClusterId) -> Option<&Cluster> {
        self.known.get(&id)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, id: ClusterId) -> Option<&mut Cluster> {
        self.known.get_mut(&id)
    }

    /// All known clusters.
    pub fn iter(&self) -> impl Iterator<Item = (ClusterId, &Cluster)> {
        self.known.iter().map(|(id, cluster)| (*id, cluster))
    }

    /// The same, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ClusterId, &mut Cluster)> {
        self.known.iter_mut().map(|(id, cluster)| (*id, cluster))
    }
}
