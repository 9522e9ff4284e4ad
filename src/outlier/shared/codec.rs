//! What workers share about hosts, as bytes: the record of ejections, and the list of a cluster's hosts.
//!
//! **The list of hosts** is for workers that do not know them yet. A worker that starts while hosts are ejected, since it had no
//! requests before or its VM was loaded anew, knows the ejected hosts from the record, and no others: it would have to leave its
//! requests to Envoy's balancer, which also sends them to ejected hosts. So a worker that ejects a host, or keeps it ejected, writes
//! down which hosts there are, and how often Envoy's balancer picks each.

use std::time::Duration;

use super::{Ejection, Ejections, Evidence, MOST_EVIDENCE, WORKER_TIMEOUT, Worker, WorkerId};
use crate::base::bytes::{Format, Reader, Writer};
use crate::base::time::{Time, nanos};
use crate::outlier::address::is_address;
use crate::outlier::detector::{Failure, OutlierPolicy};
use crate::outlier::hosts::MOST_HOSTS;

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
            all.workers.push(read_worker(&mut record, now)?);
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

fn read_worker(record: &mut Reader<'_>, now: Time) -> Option<Worker> {
    let (worker, heartbeat) = (record.u64()?, record.time()?);
    // A heartbeat from the future says nothing about now.
    let future = heartbeat > now.saturating_add(WORKER_TIMEOUT);
    Some(Worker { id: WorkerId(worker), heartbeat: if future { Time::default() } else { heartbeat.min(now) } })
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

/// Writes an address and a failure. Addresses are at most [`LONGEST_ADDRESS`](crate::outlier::address::LONGEST_ADDRESS) long.
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
