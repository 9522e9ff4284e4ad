//! What workers share about the hosts of a cluster, in one record.
//!
//! The record says which hosts are ejected, until when, and which worker owns each ejection. It is the truth: a host is ejected
//! if and only if the record says so, and a worker that ejects a host or brings it back swaps a new record in if no other
//! worker was faster. So the cap on ejections is exact over all workers, no worker undoes what another one did, and a new VM
//! after a reload knows of every ejection with the first record it reads. The alternative, a record per worker with its own
//! view, needs rules for contradictions, as many reads as there are workers, and slots to claim and to expire.
//!
//! A worker reads the record ten times a second for each cluster that has traffic, when one of its attempts fails (another
//! worker may have seen that before), and when it has something to write. As long as nothing ever failed, there is no record.
//!
//! **Evidence.** A failure on a healthy host is reported at once, and the other workers count it as if they had seen it: two
//! resets on a host are two, whichever workers saw them. Each report says how many answers the worker had from that host since
//! the report before; without that, a host that fails now and then would look like one that always fails. Successes from before
//! the first failure are not shared: they would dilute failures that other workers have just seen. Evidence counts for a
//! second, and there are at most eight failures of each host and 128 in all; where there are more, each worker sees enough by
//! itself. The picks of Envoy's own balancer, while requests are steered, are reported in the same way: so workers explore
//! together, and not each for itself.
//!
//! **Owners.** While there is something to share, a worker that has requests sends a heartbeat four times a second. If an owner
//! of an ejection has sent none for a second, because it is gone or has no requests, a worker that has some takes over.
//!
//! **Time** is the host's wall clock, as in all records. Workers on one machine read the same one. If the clock stepped, what a
//! record says is brought back to what is possible: nothing began in the future, and no host is ejected for longer than the
//! longest ejection.

mod codec;

pub use codec::{decode_host_list, encode_host_list};

use std::time::Duration;

use crate::base::bytes::{Format, Reader, Writer};
use crate::base::time::Time;
use crate::outlier::detector::Failure;

/// The number of a worker, unique among all that share records, also over time. See [`claim`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WorkerId(pub u64);

/// The ejection of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// The host's address and port.
    pub address: Box<str>,
    /// How the host failed last.
    pub failure: Failure,
    /// Whether nothing came back of it when it was connected to last, so that whoever tries it waits.
    pub unreachable: bool,
    /// How often the host was ejected before, as far as that still counts (see [`crate::outlier::ejection`]).
    pub ejection_count: u8,
    /// When the host was ejected.
    pub since: Time,
    /// When the host failed last.
    pub failed: Time,
    /// When the time out is over. If the host fails a probe after that, the next one is twice as long.
    pub until: Time,
    /// When the host may be probed: at `until`, or earlier if the healthy hosts fail.
    pub due: Time,
    /// The worker that probes the host.
    pub owner: WorkerId,
}

/// What a worker saw of a healthy host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The host's address and port.
    pub address: Box<str>,
    /// How the host failed; `None` if Envoy's own balancer picked it while requests were steered.
    pub failure: Option<Failure>,
    /// How many answers came before, since the worker's report before.
    pub answers: u32,
    /// When the worker reported it.
    pub at: Time,
    /// The worker that saw it.
    pub by: WorkerId,
    /// The number of the report, counted over all evidence of the cluster, from 1.
    pub number: u64,
}

/// A worker that has requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The worker's number.
    pub id: WorkerId,
    /// When the worker last sent a heartbeat.
    pub heartbeat: Time,
}

/// A change that a worker wants to make to the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An attempt on a healthy host failed, after this number of answers.
    ReportFailure(Box<str>, Failure, u32),
    /// Envoy's own balancer picked a host.
    ReportPick(Box<str>),
    /// A host is ejected, unless it is already, or as many are as the number says.
    Eject(Ejection, usize),
    /// A probe failed: the host stays ejected.
    Extend(Ejection),
    /// Probes were answered: the host of that address comes back.
    Uneject(Box<str>),
    /// All healthy hosts fail: the ejected ones are probed at once, by the worker that makes this change.
    ProbeNow,
    /// The ejected hosts still fail as well: all come back.
    UnejectAll,
}

/// What all workers share about the hosts of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ejections {
    /// The ejected hosts, in the order of their addresses.
    pub ejected: Vec<Ejection>,
    /// When all hosts came back last because all failed: a cluster-wide failure.
    pub all_failed: Time,
    /// The workers that sent heartbeats.
    pub workers: Vec<Worker>,
    /// What workers saw of healthy hosts, the oldest first.
    pub evidence: Vec<Evidence>,
    /// The number of the latest evidence.
    pub reported: u64,
}

/// A record holds at most this many ejections.
pub const MOST_EJECTIONS: usize = 500;
/// A record holds at most this many pieces of evidence.
const MOST_EVIDENCE: usize = 128;
/// A record holds at most this many failures of one host as evidence.
const MOST_OF_A_HOST: usize = 8;
/// A record holds at most this many workers. More take part without being counted, and own no ejection for long.
const MOST_WORKERS: usize = 255;
/// How long evidence counts for workers that did not see it.
pub const FRESH: Duration = Duration::from_secs(1);
/// How often a worker that has requests sends a heartbeat.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// A worker without a heartbeat for this long is gone.
const WORKER_TIMEOUT: Duration = Duration::from_secs(1);
/// An ejection is dropped this long after its time, if no probe reached the host: the host may have left the cluster.
const ABANDONED: Duration = Duration::from_secs(60);

impl Evidence {
    /// Whether the evidence still counts.
    #[must_use]
    pub fn is_fresh(&self, now: Time) -> bool {
        !now.is_later(FRESH, self.at)
    }
}

impl Ejections {
    /// The ejection of a host, if it is ejected.
    #[must_use]
    pub fn of(&self, address: &str) -> Option<&Ejection> {
        self.ejected.iter().find(|ejection| &*ejection.address == address)
    }

    /// The number of workers that have requests.
    #[must_use]
    pub fn active_workers(&self, now: Time) -> u32 {
        self.workers.iter().map(|worker| u32::from(now.is_within(WORKER_TIMEOUT, worker.heartbeat))).sum()
    }

    /// Makes a change, if it still applies. Whether a host was ejected, stays ejected for longer, or came back.
    pub fn apply(&mut self, change: &Change, me: WorkerId, now: Time) -> bool {
        let before = self.ejected.len();
        match change {
            Change::ReportFailure(address, failure, answers) => {
                self.report(address, Some(*failure), *answers, me, now);
                false
            }
            Change::ReportPick(address) => {
                self.report(address, None, 0, me, now);
                false
            }
            Change::Eject(ejection, most) => self.eject(ejection, *most, me, now),
            Change::Extend(extended) => {
                let mine = |ejection: &&mut Ejection| ejection.address == extended.address && ejection.owner == me;
                self.ejected.iter_mut().find(mine).map(|ejection| *ejection = extended.clone()).is_some()
            }
            Change::Uneject(address) => {
                self.keep(&|ejection| ejection.address != *address || ejection.owner != me);
                self.ejected.len() < before
            }
            Change::ProbeNow => {
                // If a host became due just now, its owner may be probing it.
                let idle = |due: Time| !now.is_soon_after(HEARTBEAT / 2, due);
                for ejection in self.ejected.iter_mut().filter(|ejection| idle(ejection.due)) {
                    (ejection.due, ejection.owner) = (now, me);
                }
                self.beat(me, now);
                false
            }
            Change::UnejectAll => {
                self.ejected.clear();
                if before > 0 {
                    self.all_failed = now;
                }
                before > 0
            }
        }
    }

    /// Adds evidence, if there is room and the host is healthy. A pick counts for an ejected host as well.
    fn report(&mut self, address: &str, failure: Option<Failure>, answers: u32, me: WorkerId, now: Time) {
        self.keep_evidence(&|evidence| evidence.is_fresh(now));
        let alike = |evidence: &&Evidence| *evidence.address == *address && evidence.failure.is_some();
        let room = failure.is_none() || self.evidence.iter().filter(alike).count() < MOST_OF_A_HOST;
        let counts = failure.is_none() || self.of(address).is_none();
        if room && counts && self.evidence.len() < MOST_EVIDENCE {
            self.reported = self.reported.wrapping_add(1);
            let (address, number) = (address.into(), self.reported);
            self.evidence.push(Evidence { address, failure, answers, at: now, by: me, number });
            self.beat(me, now);
        }
    }

    fn eject(&mut self, ejection: &Ejection, most: usize, me: WorkerId, now: Time) -> bool {
        let applies = self.ejected.len() < most && self.add(ejection.clone());
        if applies {
            self.keep_evidence(&|evidence| evidence.address != ejection.address);
            self.beat(me, now);
        }
        applies
    }

    /// Adds an ejection, unless there are too many, or one of the same host. Whether it did.
    #[inline(never)]
    fn add(&mut self, ejection: Ejection) -> bool {
        // Those of a record come in the order of their addresses, unless something else than this module wrote them.
        let place = match self.ejected.last() {
            Some(last) if last.address >= ejection.address => {
                self.ejected.partition_point(|other| other.address < ejection.address)
            }
            _ => self.ejected.len(),
        };
        let twice = self.ejected.get(place).is_some_and(|other| other.address == ejection.address);
        let adds = !twice && self.ejected.len() < MOST_EJECTIONS;
        if adds && place <= self.ejected.len() {
            self.ejected.insert(place, ejection);
        }
        adds
    }

    /// Drops the other ejections. (By reference, since there are several callers.)
    #[inline(never)]
    fn keep(&mut self, keep: &dyn Fn(&Ejection) -> bool) {
        self.ejected.retain(keep);
    }

    /// Drops the other evidence.
    #[inline(never)]
    fn keep_evidence(&mut self, keep: &dyn Fn(&Evidence) -> bool) {
        self.evidence.retain(keep);
    }

    /// Adds a heartbeat of this worker, if one is due. Whether that changed anything.
    fn beat(&mut self, me: WorkerId, now: Time) -> bool {
        let room = self.workers.len() < MOST_WORKERS;
        match self.workers.iter_mut().find(|worker| worker.id == me) {
            Some(worker) if now.is_later(HEARTBEAT, worker.heartbeat) => worker.heartbeat = now,
            None if room => self.workers.push(Worker { id: me, heartbeat: now }),
            _ => return false,
        }
        true
    }

    /// Drops ejections whose hosts no probe reached. If this worker `has_requests`, it sends a heartbeat and takes over the
    /// ejections of workers that are gone. Whether that changed anything.
    pub fn maintain(&mut self, me: WorkerId, has_requests: bool, now: Time) -> bool {
        let before = (self.ejected.len(), self.workers.len());
        self.keep(&|ejection| now.is_within(ABANDONED, ejection.until));
        let in_use = !self.ejected.is_empty() || self.evidence.iter().any(|evidence| evidence.is_fresh(now));
        if !has_requests || !in_use {
            return before.0 != self.ejected.len();
        }
        self.workers.retain(|worker| now.is_within(WORKER_TIMEOUT, worker.heartbeat));
        let mut changed = before != (self.ejected.len(), self.workers.len());
        changed |= self.beat(me, now);
        let Self { ejected, workers, .. } = self;
        for ejection in ejected {
            if !workers.iter().any(|worker| worker.id == ejection.owner) {
                ejection.owner = me;
                changed = true;
            }
        }
        changed
    }
}

/// Claims a number that no other worker has, from a record under a key of its own that says how many were claimed so far.
/// Returns the number and the record to swap in; if another worker was faster, the caller reads the record and claims again.
///
/// A VM claims one when it is about to serve its first request, so a VM that never serves any claims none. A claim keeps nothing
/// alive: a worker remains an owner by its heartbeats.
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

#[cfg(test)]
mod tests;
