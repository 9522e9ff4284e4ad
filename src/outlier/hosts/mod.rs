//! The hosts of a cluster, by address, bounded: the least recently seen host is forgotten first, and ejected ones last.
//!
//! A host costs about 400 bytes, its address included.
//!
//! Hosts lie in the order of their addresses, so that what is drawn from them depends on nothing else. A *place* is a position
//! in that order, and is valid until a host is added or forgotten. What each request or attempt needs is found without a walk
//! over all hosts: a host by a hash of its address; and which hosts are ejected, the sums over the healthy ones (the *peers*),
//! which answered last, and which may be suspect or unresponsive are kept up to date. To add a host or to forget one may take
//! longer.

use std::time::Duration;

mod kept;

pub use kept::Return;

use crate::base::time::Time;
use crate::outlier::detector::{Failure, Peers};
use crate::outlier::ejection::{Ejected, HostState};
use crate::outlier::host::{AttemptHistory, Host, KNOWN_FOR, is_address};

/// At most this many hosts of a cluster are remembered.
pub const MOST_HOSTS: usize = 1_000;

/// The hosts of a cluster.
#[derive(Clone, Debug)]
pub struct Hosts {
    #[allow(clippy::vec_box, reason = "a new one moves those behind it: eight bytes each, not 300")]
    hosts: Vec<Box<Host>>,
    /// The hash of each address and its place, in the order of the hashes.
    index: Vec<(u32, u16)>,
    interval: Duration,
    most: usize,
    /// A number that changes whenever places change, or a host is ejected or comes back.
    version: u64,
    /// The places of the ejected hosts.
    ejected: Vec<u16>,
    /// The sums over hosts that are healthy and were seen within a minute. Valid from `peers_from` until `peers_until`.
    peers: Peers,
    peers_from: Time,
    peers_until: Time,
    /// The places of all hosts whose latest attempt broke, or that have requests outstanding; there may be others as well.
    watched: Vec<u16>,
    /// The places of the hosts that answered last, the latest first.
    answered: Vec<u16>,
    /// The place of the host that [`any_healthy`](Self::any_healthy) found last.
    healthy: u16,
    /// No time that is kept here is later than this.
    latest: Time,
    /// How many hosts were forgotten to make room, since [`take_forgotten`](Self::take_forgotten) was last called.
    forgotten: u32,
    /// When a host was last forgotten that was still known.
    crowded: Option<Time>,
    /// Whether a host was seen that is not judged, since it has no address with a port, and whether that was reported.
    unjudged: Unjudged,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Unjudged {
    #[default]
    None,
    Seen,
    Told,
}

/// A place that no host has.
const NOWHERE: u16 = u16::MAX;

impl Hosts {
    /// An empty list that never holds more than `most` hosts, whose failures count for `interval`.
    #[must_use]
    pub const fn new(interval: Duration, most: usize) -> Self {
        Self {
            hosts: Vec::new(),
            index: Vec::new(),
            interval,
            most,
            version: 1,
            ejected: Vec::new(),
            peers: Peers::new(),
            peers_from: Time::from_nanos(0),
            peers_until: Time::from_nanos(0),
            watched: Vec::new(),
            answered: Vec::new(),
            healthy: NOWHERE,
            latest: Time::from_nanos(0),
            forgotten: 0,
            crowded: None,
            unjudged: Unjudged::None,
        }
    }

    /// Puts another interval in force, for which failures count; all histories start anew.
    pub fn set_interval(&mut self, interval: Duration) {
        if self.interval != interval {
            self.interval = interval;
            self.hosts.iter_mut().for_each(|host| host.history = AttemptHistory::new(interval));
            (self.peers_until, self.latest) = (Time::default(), Time::from_nanos(u64::MAX));
        }
    }

    /// The place of a known host.
    #[must_use]
    pub fn find(&self, address: &str) -> Option<usize> {
        let hash = hash(address);
        let first = self.index.partition_point(|(other, _)| *other < hash);
        let alike = self.index.iter().skip(first).take_while(|(other, _)| *other == hash);
        alike
            .map(|(_, place)| usize::from(*place))
            .find(|place| self.at(*place).is_some_and(|host| *host.address == *address))
    }

    /// Sees a host now, which is added if it was not known. Returns its place, or `None` if that is no address (see
    /// [`is_address`]).
    pub fn seen(&mut self, address: &str, now: Time) -> Option<usize> {
        let place = match self.find(address) {
            Some(place) => place,
            None => self.add(address, now)?,
        };
        self.latest = self.latest.max(now);
        self.peers_until = self.peers_until.min(now.saturating_add(KNOWN_FOR));
        let host = self.hosts.get_mut(place)?;
        host.seen = now;
        if !host.is_peer && !host.state.is_ejected() {
            host.is_peer = true;
            self.peers.add(&host.history);
        }
        Some(place)
    }

    fn add(&mut self, address: &str, now: Time) -> Option<usize> {
        if !is_address(address) {
            if self.unjudged == Unjudged::None {
                self.unjudged = Unjudged::Seen;
            }
            return None;
        }
        if self.hosts.len() >= self.most {
            self.forget_one(now);
        }
        let host = Box::new(Host::new(address, self.interval, now));
        let place = self.hosts.partition_point(|other| *other.address < *address);
        self.each_place(&mut |other| {
            if usize::from(*other) >= place && *other != NOWHERE {
                *other += 1
            }
        });
        let hash = hash(address);
        insert(&mut self.index, &|(other, _)| *other < hash, (hash, place as u16));
        insert(&mut self.hosts, &|other| *other.address < *address, host);
        Some(place)
    }

    /// Changes all places that are kept here.
    fn each_place(&mut self, change: &mut dyn FnMut(&mut u16)) {
        self.index.iter_mut().for_each(|(_, place)| change(place));
        self.ejected.iter_mut().for_each(&mut *change);
        self.watched.iter_mut().for_each(&mut *change);
        self.answered.iter_mut().for_each(&mut *change);
        change(&mut self.healthy);
        self.version += 1;
    }

    fn forget_one(&mut self, now: Time) {
        let least = (0..).zip(&self.hosts).min_by_key(|(_, host)| (host.state.is_ejected(), host.seen));
        let Some(least) = least.map(|(place, _)| place) else { return };
        self.each_place(&mut |other| {
            if *other == least {
                *other = NOWHERE;
            } else if *other > least && *other != NOWHERE {
                *other -= 1;
            }
        });
        self.index.retain(|(_, place)| *place != NOWHERE);
        drop_nowhere(&mut self.ejected);
        drop_nowhere(&mut self.watched);
        drop_nowhere(&mut self.answered);
        let least = usize::from(least);
        if least < self.hosts.len() {
            let host = self.hosts.remove(least);
            if host.is_peer {
                self.peers.remove(&host.history);
            }
            self.forgotten = self.forgotten.saturating_add(1);
            self.crowded = if host.is_known(now) { Some(now) } else { self.crowded };
        }
    }

    /// A number that changes whenever places change, or a host is ejected or comes back.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Whether the cluster has more hosts than can be remembered: within the last minute, one was forgotten that was still
    /// known.
    #[must_use]
    pub fn is_crowded(&self, now: Time) -> bool {
        self.crowded.is_some_and(|crowded| now.is_within(KNOWN_FOR, crowded))
    }

    /// Takes the number of hosts that were forgotten to make room since the last call.
    pub fn take_forgotten(&mut self) -> u32 {
        std::mem::take(&mut self.forgotten)
    }

    /// Whether a host was seen that is not judged, since it has no address with a port. Returns `true` once.
    pub fn take_unjudged(&mut self) -> bool {
        let seen = self.unjudged == Unjudged::Seen;
        if seen {
            self.unjudged = Unjudged::Told;
        }
        seen
    }

    /// The host at that place.
    #[must_use]
    pub fn at(&self, place: usize) -> Option<&Host> {
        self.hosts.get(place).map(|host| &**host)
    }

    /// The host at that place, to change it. Its history and whether it is ejected must not be changed through this.
    pub fn at_mut(&mut self, place: usize) -> Option<&mut Host> {
        self.hosts.get_mut(place).map(|host| &mut **host)
    }

    /// The state of the host at that place, if it is ejected.
    pub fn ejected_at(&mut self, place: usize) -> Option<&mut HostState> {
        Some(&mut self.at_mut(place)?.state).filter(|state| state.is_ejected())
    }

    /// Changes the history of a host, and what is kept up to date of it.
    fn change_history(&mut self, place: usize, change: &mut dyn FnMut(&mut AttemptHistory)) {
        let Some(host) = self.hosts.get_mut(place) else { return };
        if host.is_peer {
            self.peers.remove(&host.history);
        }
        change(&mut host.history);
        if host.is_peer {
            self.peers.add(&host.history);
        }
        if !host.is_watched && host.history.last_broke() {
            host.is_watched = true;
            self.watched.push(place as u16);
        }
    }

    /// A host answered attempts.
    pub fn answered(&mut self, place: usize, attempts: u32) {
        if self.at(place).is_some_and(|host| !host.history.is_full_of_answers()) {
            self.change_history(place, &mut |history| history.answered(attempts));
        }
    }

    /// An attempt on a host failed.
    pub fn failed(&mut self, place: usize, failure: Failure, now: Time) {
        self.change_history(place, &mut |history| history.failed(failure, now));
    }

    /// The attempt that failed last on a host, by a timeout, began before the host answered another.
    pub fn failed_before(&mut self, place: usize) {
        self.change_history(place, &mut AttemptHistory::failed_before);
    }

    /// All known hosts, in the order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = &Host> + Clone {
        self.hosts.iter().map(|host| &**host)
    }

    /// All known hosts, to change them. Histories and whether a host is ejected must not be changed through this.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Host> {
        self.hosts.iter_mut().map(|host| &mut **host)
    }

    /// The ejected hosts, each with its place and its ejection.
    pub fn each_ejected(&self) -> impl Iterator<Item = (usize, &Host, &Ejected)> {
        self.ejected.iter().filter_map(|place| {
            let host = self.at(usize::from(*place))?;
            host.state.ejected().map(|ejected| (usize::from(*place), host, ejected))
        })
    }

    /// The states of the ejected hosts, to change them.
    pub fn each_ejected_mut(&mut self, change: &mut dyn FnMut(&mut HostState)) {
        for place in &self.ejected {
            if let Some(host) = self.hosts.get_mut(usize::from(*place)) {
                change(&mut host.state);
            }
        }
    }

    /// The hosts that are healthy and were seen within the last minute.
    pub fn present(&self, now: Time) -> impl Iterator<Item = &Host> + Clone {
        self.iter().filter(move |host| host.is_present(now))
    }

    /// The addresses of the `count` hosts that rank lowest, the lowest first. Hosts without a rank are left out.
    pub fn lowest(&self, count: usize, rank: &dyn Fn(&Host) -> Option<u64>) -> Vec<&str> {
        let mut lowest: Vec<(u64, &str)> = Vec::new();
        if count == 0 {
            return Vec::new();
        }
        for host in self.iter() {
            let Some(rank) = rank(host) else { continue };
            if lowest.len() < count || lowest.last().is_some_and(|(last, _)| rank < *last) {
                lowest.truncate(count - 1);
                let position = lowest.partition_point(|(other, _)| *other <= rank);
                lowest.insert(position, (rank, &host.address));
            }
        }
        lowest.iter().map(|(_, address)| *address).collect()
    }

    /// The number of ejected hosts.
    #[must_use]
    pub const fn ejected(&self) -> usize {
        self.ejected.len()
    }

    /// The number of hosts that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether no host is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

/// Takes out the places that no host has. (Not inlined: there are three such lists.)
#[inline(never)]
fn drop_nowhere(places: &mut Vec<u16>) {
    places.retain(|place| *place != NOWHERE);
}

/// Puts an item into a sorted list, after those that are less.
fn insert<T>(list: &mut Vec<T>, less: &dyn Fn(&T) -> bool, item: T) {
    let position = list.partition_point(less);
    // It always is; the compiler does not see that, and would keep a panic.
    if position <= list.len() {
        list.insert(position, item);
    }
}

/// A hash of an address, eight bytes at a time; the last eight may overlap those before.
fn hash(address: &str) -> u32 {
    let bytes = address.as_bytes();
    let mix = |hash: u64, chunk: &[u8; 8]| {
        let mixed = (hash ^ u64::from_le_bytes(*chunk)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 32)
    };
    let chunks = bytes.chunks_exact(8).filter_map(<[u8]>::first_chunk);
    match bytes.last_chunk() {
        Some(last) => mix(chunks.fold(0, mix), last) as u32,
        None => bytes.iter().fold(0, |hash, byte| hash << 4 ^ u32::from(*byte)),
    }
}
