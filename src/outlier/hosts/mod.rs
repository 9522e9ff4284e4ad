//! The hosts of a cluster, by address, bounded: the least recently seen is forgotten first, and one that is out last.
//!
//! A host costs about 400 bytes, its address included.
//!
//! They lie in the order of their addresses, so that what is drawn from them depends on nothing else; a *place* is a position in
//! that order, and holds until a host is added or forgotten. What is asked for each request or attempt is found without looking
//! at all of them: a host by a hash of its address, and kept up to date are which are out, what those that are in show together,
//! who answered last, and which may be suspect or silent. To meet a new host and to forget one may take longer.

use std::time::Duration;

mod address;
mod adopt;
mod known;
mod recent;

pub use address::{LONGEST_ADDRESS, is_address};

use crate::base::time::Time;
use crate::outlier::detector::{Failure, Others};
use crate::outlier::ejection::{Out, Standing};
use crate::outlier::history::Record;
use crate::outlier::shared::FRESH;

/// At most this many hosts of a cluster are remembered.
pub const MOST_HOSTS: usize = 1_000;
/// A host that was not seen for so long is no longer counted as known.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// What a worker knows of a host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its address and port.
    pub address: Box<str>,
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
    /// How often that was renewed, since it still owed.
    pub silences: u8,
    /// Whether it is one of those that are counted: in, and known when that was last looked at.
    counted: bool,
    /// Whether it is one of those that are watched.
    watched: bool,
}

impl Host {
    /// Whether it was seen within the last minute.
    #[must_use]
    pub fn is_known(&self, now: Time) -> bool {
        now.since(self.seen) < KNOWN_FOR
    }

    /// Whether it is in and was seen within the last minute.
    #[must_use]
    pub fn is_present(&self, now: Time) -> bool {
        !self.standing.is_out() && self.is_known(now)
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

/// The hosts of a cluster.
#[derive(Clone, Debug)]
pub struct Hosts {
    #[allow(clippy::vec_box, reason = "a new one moves those behind it: eight bytes each, not 300")]
    hosts: Vec<Box<Host>>,
    /// Hashes of their addresses, and their places, in the order of the hashes.
    index: Vec<(u32, u16)>,
    interval: Duration,
    most: usize,
    /// Another one whenever places change, or who is out.
    version: u64,
    /// The places of those that are out.
    out: Vec<u16>,
    /// What those show that are in and known,
    shown: Others,
    /// which holds from then
    counted: Time,
    /// until then.
    until: Time,
    /// The places of those whose latest attempt broke, or that were asked and did not say anything yet; of others, too.
    watched: Vec<u16>,
    /// The places of those that answered last, the latest first.
    answered: Vec<u16>,
    /// The place of one that was well when somebody last looked for such a one.
    well: u16,
    /// The latest time that anything here may bear.
    latest: Time,
    /// How many were forgotten to make room, since that was last asked.
    forgotten: u32,
    /// When one was that was still known.
    crowded: Option<Time>,
}

/// No place.
const NOWHERE: u16 = u16::MAX;

impl Hosts {
    /// None yet, and never more than `most`; their failures count for `interval`.
    #[must_use]
    pub const fn new(interval: Duration, most: usize) -> Self {
        Self {
            hosts: Vec::new(),
            index: Vec::new(),
            interval,
            most,
            version: 1,
            out: Vec::new(),
            shown: Others::new(),
            counted: Time::from_nanos(0),
            until: Time::from_nanos(0),
            watched: Vec::new(),
            answered: Vec::new(),
            well: NOWHERE,
            latest: Time::from_nanos(0),
            forgotten: 0,
            crowded: None,
        }
    }

    /// Failures count for another interval from now on; all records start anew.
    pub fn set_interval(&mut self, interval: Duration) {
        if self.interval != interval {
            self.interval = interval;
            self.hosts.iter_mut().for_each(|host| host.record = Record::new(interval));
            (self.until, self.latest) = (Time::default(), Time::from_nanos(u64::MAX));
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

    /// The place of the host at that address, known from now on. `None` if that is no address (see [`is_address`]).
    pub fn seen(&mut self, address: &str, now: Time) -> Option<usize> {
        let place = match self.find(address) {
            Some(place) => place,
            None => self.add(address, now)?,
        };
        self.latest = self.latest.max(now);
        self.until = self.until.min(now.saturating_add(KNOWN_FOR));
        let host = self.hosts.get_mut(place)?;
        host.seen = now;
        if !host.counted && !host.standing.is_out() {
            host.counted = true;
            self.shown.add(&host.record);
        }
        Some(place)
    }

    fn add(&mut self, address: &str, now: Time) -> Option<usize> {
        if !is_address(address) {
            return None;
        }
        if self.hosts.len() >= self.most {
            self.forget_one(now);
        }
        let host = Box::new(Host {
            address: address.into(),
            record: Record::new(self.interval),
            standing: Standing::new(),
            picks: Picks::default(),
            answers: 0,
            evident: Time::default(),
            seen: now,
            heard: Time::default(),
            followed: 0,
            asked: Time::default(),
            silences: 0,
            counted: false,
            watched: false,
        });
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

    /// Places change.
    fn each_place(&mut self, change: &mut dyn FnMut(&mut u16)) {
        self.index.iter_mut().for_each(|(_, place)| change(place));
        self.out.iter_mut().for_each(&mut *change);
        self.watched.iter_mut().for_each(&mut *change);
        self.answered.iter_mut().for_each(&mut *change);
        change(&mut self.well);
        self.version += 1;
    }

    fn forget_one(&mut self, now: Time) {
        let least = (0..).zip(&self.hosts).min_by_key(|(_, host)| (host.standing.is_out(), host.seen));
        let Some(least) = least.map(|(place, _)| place) else { return };
        self.each_place(&mut |other| {
            if *other == least {
                *other = NOWHERE;
            } else if *other > least && *other != NOWHERE {
                *other -= 1;
            }
        });
        self.index.retain(|(_, place)| *place != NOWHERE);
        self.out.retain(|place| *place != NOWHERE);
        self.watched.retain(|place| *place != NOWHERE);
        self.answered.retain(|place| *place != NOWHERE);
        let least = usize::from(least);
        if least < self.hosts.len() {
            let host = self.hosts.remove(least);
            if host.counted {
                self.shown.remove(&host.record);
            }
            self.forgotten = self.forgotten.saturating_add(1);
            self.crowded = if host.is_known(now) { Some(now) } else { self.crowded };
        }
    }

    /// Another number whenever places changed, or who is out.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
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

    /// The host at that place.
    #[must_use]
    pub fn at(&self, place: usize) -> Option<&Host> {
        self.hosts.get(place).map(|host| &**host)
    }

    /// The same, to change it; but for its record and its standing.
    pub fn at_mut(&mut self, place: usize) -> Option<&mut Host> {
        self.hosts.get_mut(place).map(|host| &mut **host)
    }

    /// What is known of a host that is out.
    pub fn out_at(&mut self, place: usize) -> Option<&mut Out> {
        match &mut self.at_mut(place)?.standing {
            Standing::Out(out) => Some(out),
            Standing::In(_) => None,
        }
    }

    /// Changes a host's record.
    fn record(&mut self, place: usize, change: &mut dyn FnMut(&mut Record)) {
        let Some(host) = self.hosts.get_mut(place) else { return };
        if host.counted {
            self.shown.remove(&host.record);
        }
        change(&mut host.record);
        if host.counted {
            self.shown.add(&host.record);
        }
        if !host.watched && host.record.is_broken() {
            host.watched = true;
            self.watched.push(place as u16);
        }
    }

    /// Attempts on a host were answered.
    pub fn answered(&mut self, place: usize, attempts: u32) {
        if self.at(place).is_some_and(|host| !host.record.is_spotless()) {
            self.record(place, &mut |record| record.answered(attempts));
        }
    }

    /// An attempt on a host failed.
    pub fn failed(&mut self, place: usize, failure: Failure, now: Time) {
        self.record(place, &mut |record| record.failed(failure, now));
    }

    /// All known hosts, in the order of their addresses.
    pub fn iter(&self) -> impl Iterator<Item = &Host> + Clone {
        self.hosts.iter().map(|host| &**host)
    }

    /// The same, to change them; but for their records and standings.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Host> {
        self.hosts.iter_mut().map(|host| &mut **host)
    }

    /// The places of those that are out, and what is known of these.
    pub fn each_out(&self) -> impl Iterator<Item = (usize, &Host, &Out)> {
        self.out.iter().filter_map(|place| {
            let host = self.at(usize::from(*place))?;
            match &host.standing {
                Standing::Out(out) => Some((usize::from(*place), host, out)),
                Standing::In(_) => None,
            }
        })
    }

    /// What is known of each that is out, to change it.
    pub fn each_out_mut(&mut self, change: &mut dyn FnMut(&mut Out)) {
        for place in &self.out {
            if let Some(host) = self.hosts.get_mut(usize::from(*place))
                && let Standing::Out(out) = &mut host.standing
            {
                change(out);
            }
        }
    }

    /// The hosts that are in and were seen within the last minute.
    pub fn present(&self, now: Time) -> impl Iterator<Item = &Host> + Clone {
        self.iter().filter(move |host| host.is_present(now))
    }

    /// The addresses of so many hosts that rank lowest, the lowest first.
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

    /// How many are out.
    #[must_use]
    pub const fn out(&self) -> usize {
        self.out.len()
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

/// Puts an item into a list that is in order, after those that are less.
fn insert<T>(list: &mut Vec<T>, less: &dyn Fn(&T) -> bool, item: T) {
    let position = list.partition_point(less);
    // It is; but the compiler does not see that.
    if position <= list.len() {
        list.insert(position, item);
    }
}

/// Eight bytes at a time; the last eight may have been among those before.
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
