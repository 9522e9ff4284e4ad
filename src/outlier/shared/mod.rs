//! What workers tell each other about the hosts of a cluster, in one record that all of them share.
//!
//! The record says which hosts are out, until when, and which worker owns each. It is the truth: a host is out if and only
//! if the record says so, and whoever ejects or readmits a host swaps a new record in if no other worker was faster. So the
//! cap on ejections is exact over all workers, no worker undoes what another one did, and a fresh VM after a reload knows
//! of every ejection with the first record it reads. The alternative, a record per worker with its own view, needs rules for
//! contradictions, as many reads as there are workers, and slots to claim and to expire.
//!
//! A worker reads the record ten times a second for each cluster that has traffic, when one of its attempts fails (another
//! worker may have seen that before), and when it has something to say. Without any failure ever, there is no record.
//!
//! **Evidence.** What a worker saw fail on a host that is in, it writes down at once, and the others count it as if they had
//! seen it: two resets on a host are two, whoever saw them. With each goes how many answers the worker had from that host
//! since evidence against it was last heard or told: else a host that fails now and then would look like one that fails
//! always. What was answered before there was evidence is not told: it would hide what others just saw. Evidence is fresh for
//! a second, at most eight failures of each host and 128 in all; where there is more, each worker sees enough by itself.
//! Which hosts Envoy's own balancer picks, while requests are steered, is told in the same way: so workers explore together,
//! and not each for itself.
//!
//! **Owners.** While there is something to share, a worker that has requests says so four times a second. If the owner of
//! an ejection has been silent for a second, because it is gone or has no requests, any worker that has some takes over.
//!
//! **Time** is the host's wall clock, as in all records. Workers on one machine read the same one. Where it stepped, what a
//! record says is brought back to what is possible: nothing began in the future, and nobody is out for longer than the
//! longest ejection.

mod codec;
mod host_list;

pub use host_list::{decode_roster, encode_roster};

use std::time::Duration;

use crate::base::bytes::{Format, Reader, Writer};
use crate::base::time::Time;
use crate::outlier::detector::Failure;

/// A worker: unique among all that share records, also over time. See [`claim`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WorkerId(pub u64);

/// A host that is out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Its address and port.
    pub address: Box<str>,
    /// What it did last.
    pub failure: Failure,
    /// The n of the diagram in [`crate::outlier::ejection`].
    pub strikes: u8,
    /// When it was ejected.
    pub since: Time,
    /// When it failed last.
    pub failed: Time,
    /// When its time is over: if it fails then, it is out for twice as long.
    pub until: Time,
    /// When it may be probed: then, or before that if those that are in fail. To fail before its time is no strike.
    pub due: Time,
    /// Who probes it.
    pub owner: WorkerId,
}

/// What a worker saw of a host that is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The host's address and port.
    pub address: Box<str>,
    /// How it failed; `None`: Envoy's own balancer picked it, while requests were steered.
    pub failure: Option<Failure>,
    /// How many answers came before, since there is evidence.
    pub answers: u32,
    /// When that was known.
    pub at: Time,
    /// Who saw it.
    pub by: WorkerId,
    /// Its number, counted over all evidence of the cluster, from 1.
    pub number: u64,
}

/// A worker that spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// Which.
    pub worker: WorkerId,
    /// When it last said that it has requests.
    pub beat: Time,
}

/// What a worker wants to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An attempt on a host that is in failed so, after so many answers; or Envoy's own balancer picked it.
    See(Box<str>, Option<Failure>, u32),
    /// A host goes out, unless it is out already, or too many are. At most so many in all.
    Eject(Ejection, usize),
    /// A probe failed: the host stays out.
    Extend(Ejection),
    /// Probes were answered: the host of that address comes back.
    Readmit(Box<str>),
    /// Those that are in fail as well: all that are out are probed at once, by the worker that says so.
    Hurry,
    /// And those that are out still fail: all come back.
    ReadmitAll,
}

/// What all workers share about the hosts of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ejections {
    /// Those that are out, in the order of their addresses.
    pub out: Vec<Ejection>,
    /// When all were readmitted last, because all failed.
    pub common: Time,
    /// Who spoke of late.
    pub speakers: Vec<Speaker>,
    /// What failed on hosts that are in, the oldest first.
    pub evidence: Vec<Evidence>,
    /// How much evidence was ever told.
    pub told: u64,
}

/// A record holds at most this many ejections.
pub const MOST_EJECTIONS: usize = 500;
/// It holds at most this much evidence, and of one host,
const MOST_EVIDENCE: usize = 128;
/// this much.
const MOST_OF_A_HOST: usize = 8;
/// And at most so many workers; more take part without being counted, and own nothing for long.
const MOST_SPEAKERS: usize = 255;
/// How long evidence counts for those that did not see it.
pub const FRESH: Duration = Duration::from_secs(1);
/// How often a worker says that it has requests.
const BEAT: Duration = Duration::from_millis(250);
/// How long it may be silent.
const SILENCE: Duration = Duration::from_secs(1);
/// A host that is due for so long, and that no probe reached, is not there any more, or nothing is known of it.
const LOST: Duration = Duration::from_secs(60);

impl Evidence {
    /// Whether it still counts.
    #[must_use]
    pub fn is_fresh(&self, now: Time) -> bool {
        !now.is_later(FRESH, self.at)
    }
}

impl Ejections {
    /// Whether the record says that the host is out.
    #[must_use]
    pub fn of(&self, address: &str) -> Option<&Ejection> {
        self.out.iter().find(|ejection| &*ejection.address == address)
    }

    /// How many workers spoke of late.
    #[must_use]
    pub fn speaking(&self, now: Time) -> u32 {
        self.speakers.iter().map(|speaker| u32::from(now.since(speaker.beat) < SILENCE)).sum()
    }

    /// Makes a change, if it still applies: whether it did.
    pub fn apply(&mut self, change: &Change, me: WorkerId, now: Time) -> bool {
        let before = self.out.len();
        match change {
            Change::See(address, failure, answers) => {
                self.evidence.retain(|evidence| evidence.is_fresh(now));
                let alike = |evidence: &&Evidence| evidence.address == *address && evidence.failure.is_some();
                let room = failure.is_none() || self.evidence.iter().filter(alike).count() < MOST_OF_A_HOST;
                let counts = failure.is_none() || self.of(address).is_none();
                if room && counts && self.evidence.len() < MOST_EVIDENCE {
                    self.told = self.told.wrapping_add(1);
                    let (address, failure, answers) = (address.clone(), *failure, *answers);
                    self.evidence.push(Evidence { address, failure, answers, at: now, by: me, number: self.told });
                    self.speak(me, now);
                }
                false
            }
            Change::Eject(ejection, most) => {
                let applies = self.of(&ejection.address).is_none() && before < (*most).min(MOST_EJECTIONS);
                if applies {
                    self.evidence.retain(|evidence| evidence.address != ejection.address);
                    let place = self.out.partition_point(|other| other.address < ejection.address);
                    self.out.insert(place, ejection.clone());
                    self.speak(me, now);
                }
                applies
            }
            Change::Extend(extended) => {
                let mine = |ejection: &&mut Ejection| ejection.address == extended.address && ejection.owner == me;
                self.out.iter_mut().find(mine).map(|ejection| *ejection = extended.clone()).is_some()
            }
            Change::Readmit(address) => {
                self.out.retain(|ejection| ejection.address != *address || ejection.owner != me);
                self.out.len() < before
            }
            Change::Hurry => {
                // What just became due, its owner may be probing now.
                let idle = |due: Time| due > now || now.since(due) >= BEAT / 2;
                for ejection in self.out.iter_mut().filter(|ejection| idle(ejection.due)) {
                    (ejection.due, ejection.owner) = (now, me);
                }
                self.speak(me, now);
                false
            }
            Change::ReadmitAll => {
                self.out.clear();
                if before > 0 {
                    self.common = now;
                }
                before > 0
            }
        }
    }

    /// Whether that changed anything.
    fn speak(&mut self, me: WorkerId, now: Time) -> bool {
        let room = self.speakers.len() < MOST_SPEAKERS;
        match self.speakers.iter_mut().find(|speaker| speaker.worker == me) {
            Some(speaker) if now.since(speaker.beat) >= BEAT => speaker.beat = now,
            None if room => self.speakers.push(Speaker { worker: me, beat: now }),
            _ => return false,
        }
        true
    }

    /// Says for this worker that it has requests, if it `has_requests`, and takes over from owners that are silent. Drops
    /// what no probe reached. Whether that changed anything.
    pub fn keep(&mut self, me: WorkerId, has_requests: bool, now: Time) -> bool {
        let before = (self.out.len(), self.speakers.len());
        self.out.retain(|ejection| now.since(ejection.until) < LOST);
        let troubled = !self.out.is_empty() || self.evidence.iter().any(|evidence| evidence.is_fresh(now));
        if !has_requests || !troubled {
            return before.0 != self.out.len();
        }
        self.speakers.retain(|speaker| now.since(speaker.beat) < SILENCE);
        let mut changed = before != (self.out.len(), self.speakers.len());
        changed |= self.speak(me, now);
        let Self { out, speakers, .. } = self;
        for ejection in out {
            if !speakers.iter().any(|speaker| speaker.worker == ejection.owner) {
                ejection.owner = me;
                changed = true;
            }
        }
        changed
    }
}

/// Claims an id that no other worker has, from the record under a key of its own: how many were claimed so far. Returns the id
/// and the record to swap in; if another worker was faster, read it again and ask again.
///
/// A VM claims one when it is about to serve its first request, so those that never serve any claim none. It keeps nothing
/// alive: what makes an owner is that it speaks.
#[must_use]
pub fn claim(record: Option<&[u8]>) -> (WorkerId, Vec<u8>) {
    let claimed = || {
        let mut record = Reader::new(record?, &CLAIMS)?;
        record.u64().filter(|_| record.is_empty())
    };
    let id = claimed().unwrap_or_default().wrapping_add(1);
    let mut record = Vec::new();
    Writer::new(&mut record, &CLAIMS, CLAIMS.len() + 8).u64s([id]);
    (WorkerId(id), record)
}

const CLAIMS: Format = *b"wrw\x01";
