//! What a worker writes into the record that all workers share, what it reads there, and what changes make of the record.

use std::time::Duration;

use super::Outliers;
use crate::base::time::Time;
use crate::outlier::detector::Failure;
use crate::outlier::ejection::HostState;
use crate::outlier::hosts::Return;
use crate::outlier::shared::{
    Change, Ejection, Ejections, Evidence, FRESH, MOST_EJECTIONS, MOST_EVIDENCE, WORKER_TIMEOUT, Worker, WorkerId,
    decode_host_list, encode_host_list,
};
use crate::steering::left_out::LeftOut;

/// A record holds at most this many failures of one host as evidence.
const MOST_OF_A_HOST: usize = 8;
/// A record holds at most this many workers. More take part without being counted, and own no ejection for long.
const MOST_WORKERS: usize = 255;
/// How often a worker that has requests sends a heartbeat.
const HEARTBEAT: Duration = Duration::from_millis(250);
/// An ejection is dropped this long after its time, if no probe reached the host: the host may have left the cluster.
const ABANDONED: Duration = Duration::from_secs(60);
/// The list of hosts is written at most once in this time.
const LIST_EVERY: Duration = Duration::from_secs(10);
/// At most this many events wait to be [published](Outliers::published).
pub(super) const MOST_EVENTS: usize = 1_000;

/// What happened. The worker that did it reports it, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A detector fired, and the host stays healthy: too many hosts are ejected, or it is the last.
    Detected(Box<str>, Failure),
    /// A host was ejected.
    Ejected(Ejection),
    /// A probe failed, so the host stays ejected.
    Extended(Ejection),
    /// A host came back.
    Unejected(Box<str>),
    /// All hosts came back, since the healthy ones failed as well.
    AllUnejected,
}

/// Where a worker stands with the record.
#[derive(Clone, Debug)]
pub(super) struct Sharing {
    /// The changes that the record does not have yet.
    pub(super) pending: Vec<Change>,
    /// The events of those changes that applied to the record that was read last.
    applied: Vec<Event>,
    pub(super) events: Vec<Event>,
    /// The number of the latest evidence that was read.
    evidence_read: u64,
    /// The number of workers that have requests.
    pub(super) active_workers: u32,
    /// When the record was read last.
    pub(super) exchanged: Time,
    /// When all hosts came back last because all failed, as the record says.
    all_failed: Time,
    /// When this worker last wrote the list of hosts.
    listed: Time,
    /// Whether this worker asked for the list of hosts.
    asked_for_list: bool,
}

impl Sharing {
    pub(super) const fn new() -> Self {
        Self {
            pending: Vec::new(),
            applied: Vec::new(),
            events: Vec::new(),
            evidence_read: 0,
            active_workers: 0,
            exchanged: Time::from_nanos(0),
            all_failed: Time::from_nanos(0),
            listed: Time::from_nanos(0),
            asked_for_list: false,
        }
    }
}

impl Outliers {
    /// Reads the record that all workers share, and returns what to put in its place, if anything.
    pub fn exchange(&mut self, record: Option<&[u8]>, now: Time) -> Option<Vec<u8>> {
        let found = record.and_then(|record| Ejections::decode(record, &self.policy, now)).unwrap_or_default();
        self.count_evidence(&found, now);
        let mut shared = found;
        // Evidence is added and dropped, and never changed, so its number is enough to see whether it is other evidence.
        let parts = |shared: &Ejections| {
            let numbers = (shared.all_failed, shared.reported, shared.evidence.len());
            (numbers, shared.ejected.clone(), shared.workers.clone())
        };
        // With nothing pending, there is nothing to compare.
        let before = (!self.sharing.pending.is_empty()).then(|| parts(&shared));
        let (me, applied) = (self.me, &mut self.sharing.applied);
        applied.clear();
        applied.extend(self.sharing.pending.iter().filter_map(|change| shared.apply(change, me, now)));
        let changed = before.is_some_and(|before| before != parts(&shared));
        let maintained = shared.maintain(me, self.has_requests(now), now);
        self.adopt(&shared, now);
        if !changed && !maintained {
            return None;
        }
        let mut record = Vec::new();
        shared.encode(&mut record);
        Some(record)
    }

    /// Counts what other workers saw as if this one had seen it.
    fn count_evidence(&mut self, shared: &Ejections, now: Time) {
        // The record may have been lost, and begun anew.
        let read = std::mem::replace(&mut self.sharing.evidence_read, shared.reported).min(shared.reported);
        for evidence in &shared.evidence {
            if evidence.by == self.me || evidence.number <= read || !evidence.is_fresh(now) {
                continue;
            }
            let interval = self.policy.interval;
            let Some(place) = self.hosts.seen(&evidence.address, now) else { continue };
            let Some(failure) = evidence.failure else {
                self.steering.picked(&mut self.hosts, place);
                continue;
            };
            if let Some(host) = self.hosts.at_mut(place)
                && let HostState::Healthy(health) = &mut host.state
                && health.concerns(evidence.at)
            {
                health.failed(now, interval);
                host.report(now);
                self.hosts.answered(place, evidence.answers);
                self.failed(place, failure, evidence.answers > 0, false, now);
            }
        }
    }

    /// The record now has what [`exchange`](Self::exchange) returned, or it returned nothing, or the record cannot be written. Returns
    /// what happened since the last call.
    pub fn published(&mut self) -> Vec<Event> {
        self.sharing.pending.clear();
        let mut events = std::mem::take(&mut self.sharing.events);
        events.append(&mut self.sharing.applied);
        events
    }

    /// The list of hosts, for workers that do not know them yet (see [`crate::outlier::shared`]), to put under a key of its own.
    /// `None` if this worker hardly knows the hosts itself, or wrote the list a moment ago, or if there are more hosts than can
    /// be remembered: then nothing is steered.
    pub fn host_list(&mut self, now: Time) -> Option<Vec<u8>> {
        let recent = now.since(self.sharing.listed) < LIST_EVERY && self.sharing.listed <= now;
        if recent || self.lacks_samples() || self.hosts.is_crowded(now) {
            return None;
        }
        self.sharing.listed = now;
        let known = self.hosts.iter().filter(|host| host.picks.weight > 0);
        Some(encode_host_list(known.map(|host| (&*host.address, host.picks.weight)), now))
    }

    /// Whether some host is ejected and hardly any other is known. Returns `true` at most once.
    pub fn wants_host_list(&mut self) -> bool {
        self.ejected > 0 && self.lacks_samples() && !std::mem::replace(&mut self.sharing.asked_for_list, true)
    }

    /// Learns which hosts there are from a [list](Self::host_list) that another worker wrote.
    pub fn learn(&mut self, list: &[u8], now: Time) {
        let Some(shares) = decode_host_list(list, now) else { return };
        for (address, _) in &shares {
            self.hosts.seen(address, now);
        }
        self.steering.shares.learn(&mut self.hosts, &shares);
    }

    fn lacks_samples(&self) -> bool {
        self.steering.shares.lacks_samples(self.hosts.len() as u64)
    }

    /// Ejects hosts and brings them back, as the record says.
    fn adopt(&mut self, shared: &Ejections, now: Time) {
        let all_fail = shared.all_failed > self.sharing.all_failed;
        let back = Return { all_fail, answers: self.policy.probe_successes, picks: self.steering.shares.picks() };
        if self.hosts.adopt(&shared.ejected, back, now) && !all_fail {
            self.all_fail = super::verdict::Condition::Absent;
        }
        (self.sharing.all_failed, self.sharing.exchanged) = (shared.all_failed, now);
        self.sharing.active_workers = shared.active_workers(now);
        let before = std::mem::replace(&mut self.ejected, self.hosts.ejected());
        if self.ejected != before {
            self.steering.left_out = LeftOut::new(now);
            if before == 0 {
                self.steering.shares.begin(&mut self.hosts);
            }
        }
        self.all_fail.clamp(now);
        self.all_unresponsive.clamp(now);
        self.latest.clamp(now);
        if self.ejected > 0 {
            self.latest.ejected = now;
        }
        self.steering.set_active(self.ejected > 0, now);
    }
}

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

    /// Makes a change, if it still applies. Returns what that did to a host, if anything: it was ejected, stays ejected
    /// for longer, or came back.
    pub fn apply(&mut self, change: &Change, me: WorkerId, now: Time) -> Option<Event> {
        let before = self.ejected.len();
        match change {
            Change::ReportFailure(address, failure, answers) => {
                self.report(address, Some(*failure), *answers, me, now);
                None
            }
            Change::ReportPick(address) => {
                self.report(address, None, 0, me, now);
                None
            }
            Change::Eject(ejection, most) => (before < *most && self.add(ejection.clone())).then(|| {
                self.keep_evidence(&|evidence| evidence.address != ejection.address);
                self.beat(me, now);
                Event::Ejected(ejection.clone())
            }),
            Change::Extend(extended) => {
                let mine = |ejection: &&mut Ejection| ejection.address == extended.address && ejection.owner == me;
                *self.ejected.iter_mut().find(mine)? = extended.clone();
                Some(Event::Extended(extended.clone()))
            }
            Change::Uneject(address) => {
                self.keep(&|ejection| ejection.address != *address || ejection.owner != me);
                (self.ejected.len() < before).then(|| Event::Unejected(address.clone()))
            }
            Change::ProbeNow => {
                // If a host became due just now, its owner may be probing it.
                let idle = |due: Time| !now.is_soon_after(HEARTBEAT / 2, due);
                for ejection in self.ejected.iter_mut().filter(|ejection| idle(ejection.due)) {
                    (ejection.due, ejection.owner) = (now, me);
                }
                self.beat(me, now);
                None
            }
            Change::UnejectAll => {
                self.ejected.clear();
                (before > 0).then(|| {
                    self.all_failed = now;
                    Event::AllUnejected
                })
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

    /// Adds an ejection, unless there are too many, or one of the same host. Whether it did.
    #[inline(never)]
    pub(super) fn add(&mut self, ejection: Ejection) -> bool {
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
