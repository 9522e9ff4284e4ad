//! The hosts of a cluster, by address, bounded: the least recently seen is forgotten first, and one that is out last.
//!
//! A host costs about 400 bytes, its address included.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use crate::ejection::Standing;
use crate::exchange::FRESH;
use crate::record::Record;
use crate::time::Time;

/// At most this many hosts of a cluster are remembered.
pub const MOST_HOSTS: usize = 1_000;
/// The longest address: an IPv6 address with a zone, in brackets, and a port.
pub const LONGEST_ADDRESS: usize = 80;
/// A host that was not seen for so long is no longer counted as known.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// What a worker knows of a host.
#[derive(Clone, Debug)]
pub struct Host {
    /// How its attempts ended.
    pub record: Record,
    /// In or out.
    pub standing: Standing,
    /// How often Envoy's own balancer picked it.
    pub picks: Picks,
    /// How many attempts it answered since there is evidence against it, and when that was last told or heard.
    pub answers: u32,
    evident: Time,
    /// When an attempt on it ended last, or its ejection was read.
    pub seen: Time,
    /// When it last answered this worker, if no request followed that could not be repeated (see [`crate::steering`]).
    pub heard: Time,
    /// How many such requests followed, and are not over yet.
    pub followed: u8,
    /// When this worker first steered a request to it since it last said anything; the epoch if it owes nothing.
    pub asked: Time,
}

impl Host {
    /// Whether it was seen within the last minute.
    #[must_use]
    pub fn is_known(&self, now: Time) -> bool {
        now.since(self.seen) < KNOWN_FOR
    }

    /// There is evidence against the host: told, or heard of others. Returns how many attempts it answered since there was
    /// some before: none, if that is not fresh any more.
    pub fn evident(&mut self, now: Time) -> u32 {
        let fresh = now.since(self.evident) < FRESH && self.evident <= now;
        self.evident = now;
        let answers = if fresh { self.answers } else { 0 };
        self.answers = 0;
        answers
    }
}

/// How often Envoy's own balancer picked a host: its share of late.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Picks {
    /// The picks of this host, old ones halved.
    pub weight: u32,
    /// The number of the latest, counted over all hosts of the cluster.
    pub latest: u64,
}

/// The hosts of a cluster. In the order of their addresses, so that what is drawn from them depends on nothing else.
#[derive(Clone, Debug)]
pub struct Hosts {
    hosts: BTreeMap<Box<str>, Host>,
    interval: Duration,
    most: usize,
    /// How many were forgotten to make room, since that was last asked.
    forgotten: u32,
    /// When one was that was still known.
    crowded: Option<Time>,
}

impl Hosts {
    /// None yet, and never more than `most`; their failures count for `interval`.
    #[must_use]
    pub const fn new(interval: Duration, most: usize) -> Self {
        Self { hosts: BTreeMap::new(), interval, most, forgotten: 0, crowded: None }
    }

    /// Failures count for another interval from now on; all records start anew.
    pub fn set_interval(&mut self, interval: Duration) {
        if self.interval != interval {
            self.interval = interval;
            self.hosts.values_mut().for_each(|host| host.record = Record::new(interval));
        }
    }

    /// The host at that address, known from now on. `None` if that is no address (see [`is_address`]).
    pub fn seen(&mut self, address: &str, now: Time) -> Option<&mut Host> {
        if !self.hosts.contains_key(address) {
            if !is_address(address) {
                return None;
            }
            if self.hosts.len() >= self.most {
                self.forget_one(now);
            }
        }
        let host = match self.hosts.entry(address.into()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Host {
                record: Record::new(self.interval),
                standing: Standing::new(),
                picks: Picks::default(),
                answers: 0,
                evident: Time::default(),
                seen: now,
                heard: Time::default(),
                followed: 0,
                asked: Time::default(),
            }),
        };
        host.seen = now;
        Some(host)
    }

    fn forget_one(&mut self, now: Time) {
        let least = self.hosts.iter().min_by_key(|(_, host)| (host.standing.is_out(), host.seen));
        if let Some((address, known)) = least.map(|(address, host)| (address.clone(), host.is_known(now))) {
            self.hosts.remove(&address);
            self.forgotten = self.forgotten.saturating_add(1);
            self.crowded = if known { Some(now) } else { self.crowded };
        }
    }

    /// Whether the cluster has more hosts than can be remembered, as far as the last minute tells. (Where old ones make room
    /// for new ones, it has not.)
    #[must_use]
    pub fn is_crowded(&self, now: Time) -> bool {
        self.crowded.is_some_and(|crowded| now.since(crowded) < KNOWN_FOR)
    }

    /// How many were forgotten to make room, since this was last asked.
    pub fn take_forgotten(&mut self) -> u32 {
        std::mem::take(&mut self.forgotten)
    }

    /// A known host.
    #[must_use]
    pub fn get(&self, address: &str) -> Option<&Host> {
        self.hosts.get(address)
    }

    /// The same, to change it.
    pub fn get_mut(&mut self, address: &str) -> Option<&mut Host> {
        self.hosts.get_mut(address)
    }

    /// All known hosts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Host)> + Clone {
        self.hosts.iter().map(|(address, host)| (&**address, host))
    }

    /// The same, to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Host)> {
        self.hosts.iter_mut().map(|(address, host)| (&**address, host))
    }

    /// The hosts that are in and were seen within the last minute.
    pub fn present(&self, now: Time) -> impl Iterator<Item = (&str, &Host)> + Clone {
        self.iter().filter(move |(_, host)| !host.standing.is_out() && host.is_known(now))
    }

    /// The addresses of so many hosts for which `time` is the earliest, the earliest first.
    pub fn earliest(&self, count: usize, time: &dyn Fn(&Host) -> Option<Time>) -> Vec<&str> {
        let mut earliest: Vec<&str> = Vec::new();
        // A few of them, time and again: less code than sorting all.
        while earliest.len() < count {
            let left = self.iter().filter(|(address, _)| !earliest.contains(address));
            let next = left.filter_map(|(address, host)| Some((time(host)?, address))).min();
            let Some((_, address)) = next else { break };
            earliest.push(address);
        }
        earliest
    }

    /// How many hosts the cluster seems to have: those that are present, and those that are out.
    #[must_use]
    pub fn known(&self, now: Time) -> usize {
        self.present(now).count() + self.out()
    }

    /// How many are out.
    #[must_use]
    pub fn out(&self) -> usize {
        self.hosts.values().filter(|host| host.standing.is_out()).count()
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hosts.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }
}

/// Whether it may stand in a list of addresses in a header: an address and a port, in letters, digits and `.:[]%-_`.
#[must_use]
pub fn is_address(address: &str) -> bool {
    // Not `rsplit_once`, which the compiler does not see to be free of panics.
    let port = address
        .bytes()
        .rposition(|byte| byte == b':')
        .filter(|colon| *colon > 0)
        .and_then(|colon| address.get(colon + 1..));
    address.len() <= LONGEST_ADDRESS
        && address.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:[]%-_".contains(&byte))
        && port.is_some_and(|port| port.parse::<u16>().is_ok())
}
