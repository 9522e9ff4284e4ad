//! What a worker knows of each cluster; and the clusters that it knows: by name, bounded, the least recently used forgotten first,
//! unless hosts of it are out or its circuit is open.

use super::correlate::ClusterId;
use super::host::StreamId;
use super::log::Visibility;
use super::misrouted::Misrouted;
use super::waiting::Waiting;
use crate::base::random::Random;
use crate::base::time::Time;
use crate::circuit::Circuit;
use crate::incident::Incidents;
use crate::outlier::Outliers;
use crate::retry::latency::Latency;
use crate::retry::reservations::Account;

/// What a worker knows of a cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The name, as Envoy's configuration has it.
    pub(super) name: Box<str>,
    /// The index of its policy among the engine's policies. They are shared, since thousands of clusters may have the
    /// same.
    pub(super) policy: usize,
    /// Which of them are for some of its routes, and whether a request went by them.
    pub(super) routes: Vec<(usize, bool)>,
    /// Which of this cluster's attempts `watch` sees.
    pub(super) visibility: Visibility,
    /// When retries at this cluster are charged.
    pub(super) charging: Charging,
    /// The retry budget, where there is one.
    pub(super) account: Option<Account>,
    /// How long attempts take, where an adaptive timeout depends on it.
    pub(super) latency: Option<Latency>,
    /// What is known of its hosts, where outlier detection is on; `None` before the first request.
    pub(super) outliers: Option<Outliers>,
    /// Its circuit, where there is a breaker.
    pub(super) circuit: Option<Box<Circuit>>,
    /// The incidents of its hosts.
    pub(super) incidents: Incidents,
    /// Whether its circuit was open when that was last reported.
    pub(super) reported_open: bool,
    /// How many hosts were ejected and how many were remembered when that was last reported, and the names of the ejected ones.
    pub(super) reported_hosts: (usize, usize),
    pub(super) reported_out: String,
    /// Whether it was reported how many retries are left.
    pub(super) reported_budget: bool,
    pub(super) sampler: Sampler,
    /// Whether its requests are steered, where steering is on.
    pub(super) steered: bool,
    pub(super) misrouted: Misrouted,
    /// Whether Envoy's balancer was seen to choose among hosts. In a cluster of type `ORIGINAL_DST`, each request can
    /// only go to its own destination.
    pub(super) is_balanced: bool,
    /// How many attempts ended here, while `decide` has seen no request; `None` once it has.
    pub(super) undecided: Option<u8>,
    /// Its requests that are not answered yet.
    pub(super) waiting: Waiting,
    /// When an attempt failed or was pushed back last.
    pub(super) failed: Time,
    pub(super) last_used: u64,
}

/// When retries at a cluster are charged to its budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Charging {
    /// No retry was seen yet: if a `guard` is attached, it is taken to see them.
    #[default]
    Unknown,
    /// When they happen: `guard` sees them.
    PerAttempt,
    /// When their request ends, by how many there were; each needs a permission when the request arrives.
    AtEnd,
}

impl Charging {
    /// Whether each retry is charged when it happens; `guard`: whether there is one at all.
    #[must_use]
    pub const fn is_per_attempt(self, guard: bool) -> bool {
        match self {
            Self::Unknown => guard,
            Self::PerAttempt => true,
            Self::AtEnd => false,
        }
    }
}

/// Of a calm cluster's answered attempts, and of its requests that went where they were steered, one in eight is looked
/// at: to ask for a host's address costs more than it tells there. It is chosen at random. If it were each eighth, a
/// balancer that takes turns among four hosts would show the same host each time, and the other three would never be
/// known.
pub(super) const SAMPLE: u32 = 8;

/// Counts what of a calm cluster could be looked at, and says which of it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sampler {
    chances: u32,
}

impl Sampler {
    /// Whether the next answered attempt, or the next steered request, is in the sample.
    pub(super) fn takes_by_chance(&mut self) -> bool {
        self.chances = self.chances.wrapping_add(1);
        Random::new(self.chances.into()).number().is_multiple_of(SAMPLE.into())
    }
}

impl Cluster {
    /// One of which nothing is known but its name.
    pub(super) fn new(name: &str, last_used: u64) -> Self {
        Self {
            name: name.into(),
            policy: 0,
            routes: Vec::new(),
            visibility: Visibility::default(),
            charging: Charging::default(),
            account: None,
            latency: None,
            outliers: None,
            circuit: None,
            incidents: Incidents::default(),
            reported_open: false,
            reported_hosts: (0, 0),
            reported_out: String::new(),
            reported_budget: false,
            sampler: Sampler::default(),
            steered: true,
            misrouted: Misrouted::default(),
            is_balanced: false,
            undecided: Some(0),
            waiting: Waiting::default(),
            failed: Time::default(),
            last_used,
        }
    }

    /// Whether requests to it go by this one of the engine's policies.
    pub(super) fn goes_by(&self, policy: usize) -> bool {
        self.policy == policy || self.routes.contains(&(policy, true))
    }

    /// A request is sent to it.
    pub(super) fn sent(&mut self, stream: StreamId) {
        self.undecided = None;
        // Where hosts are not judged, the queue is not used.
        if self.outliers.is_some() {
            self.waiting.arrived(stream);
        }
    }

    /// Whether its circuit is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.circuit.as_ref().is_some_and(|circuit| circuit.is_open())
    }
}

/// At most this many clusters are remembered.
pub const MOST_CLUSTERS: usize = 1_000;
/// The longest name of one that is; requests to others go on as if Weir were not there. Istio's have up to 400 bytes.
pub const LONGEST_NAME: usize = 512;
/// At most this many hosts of all clusters together; of one, see [`crate::outlier::hosts::MOST_HOSTS`].
pub const MOST_HOSTS_IN_ALL: usize = 20_000;

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

pub(super) const SLOTS: u32 = MOST_CLUSTERS.next_power_of_two() as u32;

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

    /// A new cluster, of which nothing is known but its name; one that is known stays as it is.
    pub fn add(&mut self, name: &str) -> ClusterId {
        if let Some(known) = self.find(name) {
            return known;
        }
        self.uses += 1;
        let cluster = Box::new(Cluster::new(name, self.uses));
        let id = if self.slots.len() < MOST_CLUSTERS {
            let id = ClusterId(self.slots.len() as u32);
            self.slots.push((id, cluster));
            id
        } else {
            self.replace_least_recently_used(cluster)
        };
        // The new name is in its slot, but the slot is not in the list.
        if let Err(place) = self.search(name) {
            self.by_name.insert(place, id.slot() as u16);
        }
        id
    }

    fn replace_least_recently_used(&mut self, cluster: Box<Cluster>) -> ClusterId {
        // A cluster with ejected hosts or an open circuit is kept if possible: its gauges would otherwise stay as they
        // are.
        let key = |cluster: &Cluster| (cluster.reported_open || cluster.reported_hosts.0 > 0, cluster.last_used);
        let oldest = self.slots.iter().enumerate().min_by_key(|(_, (_, cluster))| key(cluster));
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
        let (known, cluster) = self.slots.get(id.slot())?;
        (*known == id).then_some(cluster)
    }

    /// A known cluster, to change it; `None` once it was forgotten.
    pub fn get_mut(&mut self, id: ClusterId) -> Option<&mut Cluster> {
        let (known, cluster) = self.slots.get_mut(id.slot())?;
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

    /// The clusters for which `due` holds. (By reference: each kind of closure would cost the module 300 bytes.)
    pub fn that(&self, due: &dyn Fn(&Cluster) -> bool) -> Vec<ClusterId> {
        let mut clusters = Vec::new();
        for (id, cluster) in self.iter() {
            if due(cluster) {
                clusters.push(id);
            }
        }
        clusters
    }

    /// All known clusters.
    pub fn iter(&self) -> impl Iterator<Item = (ClusterId, &Cluster)> {
        self.slots.iter().map(|(id, cluster)| (*id, &**cluster))
    }

    /// All known clusters, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (ClusterId, &mut Cluster)> {
        self.slots.iter_mut().map(|(id, cluster)| (*id, &mut **cluster))
    }
}
