//! What workers share about the hosts of a cluster, in one record.
//!
//! The record says which hosts are ejected, until when, and which worker owns each ejection. It is the truth: a host is ejected
//! if and only if the record says so, and a worker that ejects a host or brings it back swaps a new record in if no other
//! worker was faster. So the cap on ejections is exact over all workers, no worker undoes what another one did, and a new VM
//! after a reload knows of every ejection with the first record it reads. The alternative, a record per worker with its own
//! view, needs rules for contradictions, as many reads as there are workers, and slots to claim and to expire.
//!
//! A worker reads the record ten times a second for each cluster that has traffic, and before that when a request arrives and it was not
//! read for some milliseconds ([`is_stale`](super::Outliers::is_stale)), when one of the worker's attempts fails (another worker may
//! have seen that before), and when it has something to write. As long as nothing ever failed, there is no record.
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

use std::time::Duration;

use crate::base::bytes::{Format, Reader, Writer};
use crate::base::time::{Time, nanos};
use crate::outlier::detector::{Failure, OutlierPolicy};
use crate::outlier::host::is_address;
use crate::outlier::hosts::MOST_HOSTS;

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
    /// Whether the latest connection to it got no response at all, not even a refusal: then an attempt waits for the
    /// connect timeout.
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
pub(super) const MOST_EVIDENCE: usize = 128;
/// How long evidence counts for workers that did not see it.
pub const FRESH: Duration = Duration::from_secs(1);
/// A worker without a heartbeat for this long is gone.
pub(super) const WORKER_TIMEOUT: Duration = Duration::from_secs(1);

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

/// What a record starts with: a name, and the version of what follows.
const FORMAT: Format = *b"wre\x03";

const NO_FAILURE: u8 = u8::MAX;
/// The bit beside the count of ejections.
const UNREACHABLE: u8 = 128;

/// What a list of hosts starts with: a name, and the version of what follows.
const LIST_FORMAT: Format = *b"wrh\x01";
/// How long a list of hosts is valid. While hosts are ejected, one is written more often than this; later, the hosts may be others.
const VALID: Duration = Duration::from_secs(120);
/// The largest weight that a host may have in a list.
const MOST_WEIGHT: u32 = 128 * MOST_HOSTS as u32;

impl Ejections {
    /// Replaces what is in `record`: the time of the last cluster-wide failure and the number of the latest evidence, then the
    /// workers and the ejections, each with their number before them, then the evidence.
    pub fn encode(&self, record: &mut Vec<u8>) {
        // Most entries take less than 64 bytes.
        let bytes = 64 * (1 + self.workers.len() + self.ejected.len() + self.evidence.len());
        let mut record = Writer::new(record, &FORMAT, bytes);
        record.u64s([self.all_failed.as_nanos(), self.reported]);
        record.u8(self.workers.len() as u8);
        for worker in &self.workers {
            record.u64s([worker.id.0, worker.heartbeat.as_nanos()]);
        }
        record.u16(self.ejected.len() as u16);
        for ejection in &self.ejected {
            write_host(&mut record, &ejection.address, Some(ejection.failure));
            record.u8(ejection.ejection_count | (u8::from(ejection.unreachable) * UNREACHABLE));
            let [since, failed, until, due] =
                [ejection.since, ejection.failed, ejection.until, ejection.due].map(Time::as_nanos);
            record.u64s([since, failed, until, due, ejection.owner.0]);
        }
        for evidence in &self.evidence {
            write_host(&mut record, &evidence.address, evidence.failure);
            record.u64s([u64::from(evidence.answers), evidence.at.as_nanos(), evidence.by.0, evidence.number]);
        }
    }

    /// Reads a record, brought back to what is possible now. `None` if it is no such record, or one of another version: then
    /// nothing is known.
    #[must_use]
    pub fn decode(record: &[u8], policy: &OutlierPolicy, now: Time) -> Option<Self> {
        let mut record = Reader::new(record, &FORMAT)?;
        let (all_failed, reported) = (record.time()?.min(now), record.u64()?);
        let mut all = Self { all_failed, reported, ..Self::default() };
        for _ in 0..record.u8()? {
            let (id, heartbeat) = (WorkerId(record.u64()?), record.time()?);
            // A heartbeat from the future says nothing about now.
            let future = heartbeat > now.saturating_add(WORKER_TIMEOUT);
            let heartbeat = if future { Time::default() } else { heartbeat.min(now) };
            all.workers.push(Worker { id, heartbeat });
        }
        for _ in 0..record.u16()? {
            if !all.add(read_ejection(&mut record, policy, now)?) {
                return None;
            }
        }
        while !record.is_empty() {
            if all.evidence.len() >= MOST_EVIDENCE {
                return None;
            }
            all.evidence.push(read_evidence(&mut record, now)?);
        }
        Some(all)
    }
}

fn read_ejection(record: &mut Reader<'_>, policy: &OutlierPolicy, now: Time) -> Option<Ejection> {
    let (address, failure) = read_host(record)?;
    let count = record.u8()?;
    let [since, failed, until, due, owner] = record.u64s()?;
    // The longest ejection, and the jitter.
    let longest = policy.max_ejection_time;
    let latest = now.saturating_add(longest).saturating_add(Duration::from_nanos(nanos(longest) / 4));
    Some(Ejection {
        address,
        failure: failure?,
        unreachable: count >= UNREACHABLE,
        ejection_count: count % UNREACHABLE,
        since: Time::from_nanos(since).min(now),
        failed: Time::from_nanos(failed).min(now),
        until: Time::from_nanos(until).min(latest),
        due: Time::from_nanos(due).min(latest),
        owner: WorkerId(owner),
    })
}

fn read_evidence(record: &mut Reader<'_>, now: Time) -> Option<Evidence> {
    let (address, failure) = read_host(record)?;
    let [answers, at, by, number] = record.u64s()?;
    let answers = u32::try_from(answers).unwrap_or(u32::MAX);
    Some(Evidence { address, failure, answers, at: Time::from_nanos(at).min(now), by: WorkerId(by), number })
}

/// Writes an address and a failure. Addresses are at most [`LONGEST_ADDRESS`](crate::outlier::host::LONGEST_ADDRESS) long.
fn write_host(record: &mut Writer<'_>, address: &str, failure: Option<Failure>) {
    record.text(address);
    record.u8(failure.map_or(NO_FAILURE, |failure| failure as u8));
}

fn read_host(record: &mut Reader<'_>) -> Option<(Box<str>, Option<Failure>)> {
    let address = read_address(record)?;
    let failure = match record.u8()? {
        NO_FAILURE => None,
        number => Some(*Failure::ALL.get(usize::from(number))?),
    };
    Some((address, failure))
}

fn read_address(record: &mut Reader<'_>) -> Option<Box<str>> {
    record.text().filter(|address| is_address(address)).map(Into::into)
}

/// Writes a list of addresses, each with its weight.
#[must_use]
pub fn encode_host_list<'a>(hosts: impl Iterator<Item = (&'a str, u32)>, now: Time) -> Vec<u8> {
    let mut list = Vec::new();
    let mut record = Writer::new(&mut list, &LIST_FORMAT, 0);
    record.times([now]);
    for (address, weight) in hosts.take(MOST_HOSTS) {
        record.text(address);
        record.u32(weight);
    }
    list
}

/// Reads a list of addresses with their weights. `None` if it is no such list, one of another version, or too old.
#[must_use]
pub fn decode_host_list(list: &[u8], now: Time) -> Option<Vec<(Box<str>, u32)>> {
    let mut record = Reader::new(list, &LIST_FORMAT)?;
    let written = record.time()?;
    if now.is_later(VALID, written) || written.is_later(VALID, now) {
        return None;
    }
    let mut hosts = Vec::new();
    while !record.is_empty() && hosts.len() < MOST_HOSTS {
        let address = read_address(&mut record)?;
        hosts.push((address, record.u32()?.min(MOST_WEIGHT)));
    }
    Some(hosts)
}

#[cfg(test)]
mod tests;
