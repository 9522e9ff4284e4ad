//! The clusters that a worker knows: by name, bounded, the least recently used forgotten first.

use crate::circuit::Circuit;
use crate::engine::correlate::ClusterId;
use crate::incident::Incidents;
use crate::latency::Latency;
use crate::metrics::Counter;
use crate::outlier::Outliers;
use crate::retry::reservations::Account;

/// At most this many clusters are remembered.
pub const MOST_CLUSTERS: usize = 1_000;
/// The longest name of one that is; requests to others go on as if Weir were not there. Istio's have up to 400 bytes.
pub const LONGEST_NAME: usize = 512;
/// At most this many hosts of all clusters together; of one, see [`crate::outlier::hosts::MOST_HOSTS`].
pub const MOST_HOSTS_IN_ALL: usize = 20_000;

/// What a worker knows of a cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The name, as Envoy's configuration has it.
    pub name: Box<str>,
    /// Which of the engine's policies; they are shared, since thousands of clusters may have the same.
    pub policy: usize,
    /// Whether `watch` sees this cluster's attempts, so that `decide` need not judge the last one.
    pub watched: bool,
    /// Attempts that `watch` saw and that did not go well, so that Envoy may have retried them; all that it saw, where an
    /// access-log filter passes failures only. Wraps around.
    pub failures: u32,
    /// Answers that such a filter passed all the same (of a hedged attempt past its timeout, for one), while the end of their
    /// request has not been seen.
    pub flagged_answers: u32,
    /// Whether `guard` sees this cluster's attempts, so that it charges each retry and `decide` need not; `None` while no
    /// retry has told.
    pub guarded: Option<bool>,
    /// The retry budget, where there is one.
    pub account: Option<Account>,
    /// How long attempts take, where an adaptive timeout depends on it.
    pub latency: Option<Latency>,
    /// Its hosts, where outlier detection is on: from the first request on.
    pub outliers: Option<Outliers>,
    /// Its circuit, where there is a breaker.
    pub circuit: Option<Box<Circuit>>,
    /// Whether its circuit was open when that was last told.
    pub told_open: bool,
    /// What happened to its hosts.
    pub incidents: Incidents,
    /// Answered attempts, of whose hosts a sample is read.
    pub attempts: u32,
    /// Requests, of whose hosts a sample is read.
    pub requests: u32,
    /// How many more requests went elsewhere than where they were steered.
    pub astray: u32,
    /// How many hosts were out and how many were remembered when that was last told.
    pub told: (usize, usize),
    /// The numbers under which the host knows its counters, by [`Counter::index`]; `None` until one is counted.
    pub metrics: [Option<u32>; Counter::COUNT],
    /// The same of the gauge of what its budget has left.
    pub budget_left: Option<u32>,
    last_used: u64,
}

impl Cluster {
    /// Whether its circuit is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.circuit.as_ref().is_some_and(|circuit| circuit.is_open())
    }
}

/// The clusters that a worker knows.
#[derive(Debug, Default)]
pub struct Clusters {
    /// A slot, once made, always has a cluster. It is the lower part of its cluster's id; the upper one counts those that the
    /// slot had before.
    slots: Vec<(ClusterId, Box<Cluster>)>,
    /// The slots in the order of their clusters' names.
    by_name: Vec<u16>,
    /// The slot that was found last: often the next one, too.
    last: u16,
    uses: u64,
    /// How many were forgotten to make room.
    forgotten: u64,
}

const SLOTS: u32 = MOST_CLUSTERS.next_power_of_two() as u32;

impl Clusters {
    /// The cluster of that name if it is known.
    pub fn find(&mut self, name: &str) -> Option<ClusterId> {
        if let Some(id) = self.same(name.as_bytes()) {
            return Some(id);
        }
        let place = self.search(name).ok()?;
        self.last = *self.by_name.get(place)?;
        self.same(name.as_bytes())
    }

    /// The cluster that was found last, if that is its name.
    pub fn same(&mut self, name: &[u8]) -> Option<ClusterId> {
        let (id, cluster) = self.slots.get_mut(usize::from(self.last))?;
        if cluster.name.as_bytes() != name {
            return None;
        }
        self.uses += 1;
        cluster.last_used = self.uses;
        Some(*id)
    }

    /// Where the cluster of that name stands in `by_name`, or where it would.
    fn search(&self, name: &str) -> Result<usize, usize> {
        self.by_name.binary_search_by(|slot| self.name(*slot).cmp(name))
    }

    fn name(&self, slot: u16) -> &str {
        self.slots.get(usize::from(slot)).map_or("", |(_, cluster)| &cluster.name)
    }

    /// A new cluster, under the engine's `policy`; one that is known stays as it is.
    pub fn add(&mut self, name: &str, policy: usize) -> ClusterId {
        if let Some(known) = self.find(name) {
            return known;
        }
        self.uses += 1;
        let cluster = Box::new(Cluster {
            name: name.into(),
            policy,
            watched: false,
            failures: 0,
            flagged_answers: 0,
            guarded: None,
            account: None,
            latency: None,
            outliers: None,
            circuit: None,
            told_open: false,
            incidents: Incidents::default(),
            attempts: 0,
            requests: 0,
            astray: 0,
            told: (0, 0),
            metrics: [None; Counter::COUNT],
            budget_left: None,
            last_used: self.uses,
        });
        let id = if self.slots.len() < MOST_CLUSTERS {
            let id = ClusterId(self.slots.len() as u32);
            self.slots.push((id, cluster));
            id
        } else {
            self.replace_least_recently_used(cluster)
        };
        // The new name is in its slot, but the slot is not in the list.
        if let Err(place) = self.search(name) {
            self.by_name.insert(place, (id.0 % SLOTS) as u16);
        }
        id
    }

    fn replace_least_recently_used(&mut self, cluster: Box<Cluster>) -> ClusterId {
        let oldest = self.slots.iter().enumerate().min_by_key(|(_, (_, cluster))| cluster.last_used);
        let slot = oldest.map_or(0, |(slot, _)| slot as u16);
        self.by_name.retain(|listed| *listed != slot);
        let Some((id, oldest)) = self.slots.get_mut(usize::from(slot)) else { return ClusterId(0) };
        self.forgotten += 1;
        *id = ClusterId(id.0.wrapping_add(SLOTS));
        *oldest = cluster;
        *id
    }

    /// A known cluster; `None` once it was forgotten.
    #[must_use]
    pub fn get(&self, id: ClusterId) -> Option<&Cluster> {
        let (known, cluster) = self.slots.get((id.0 % SLOTS) as usize)?;
        (*known == id).then_some(cluster)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, id: ClusterId) -> Option<&mut Cluster> {
        let (known, cluster) = self.slots.get_mut((id.0 % SLOTS) as usize)?;
        (*known == id).then_some(cluster)
    }

    /// How many are known, and how many were forgotten to make room.
    #[must_use]
    pub fn counts(&self) -> (usize, u64) {
        (self.slots.len(), self.forgotten)
    }

    /// Forgets the hosts of the clusters used least recently, until all together have few enough.
    pub fn bound_hosts(&mut self) {
        let hosts = |cluster: &Cluster| cluster.outliers.as_ref().map_or(0, Outliers::remembered);
        let mut all: usize = self.iter().map(|(_, cluster)| hosts(cluster)).sum();
        while all > MOST_HOSTS_IN_ALL {
            let with_hosts = self.slots.iter_mut().map(|(_, cluster)| cluster).filter(|cluster| hosts(cluster) > 0);
            let Some(oldest) = with_hosts.min_by_key(|cluster| cluster.last_used) else { return };
            all -= hosts(oldest);
            oldest.outliers = None;
        }
    }

    /// All known clusters.
    pub fn iter(&self) -> impl Iterator<Item = (ClusterId, &Cluster)> {
        self.slots.iter().map(|(id, cluster)| (*id, &**cluster))
    }

    /// The same, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ClusterId, &mut Cluster)> {
        self.slots.iter_mut().map(|(id, cluster)| (*id, &mut **cluster))
    }
}
