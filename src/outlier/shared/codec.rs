//! The record in bytes.

use super::{Ejection, Ejections, Evidence, MOST_EJECTIONS, MOST_EVIDENCE, SILENCE, Speaker, WorkerId};
use crate::base::bytes::{Format, Reader, Writer};
use crate::base::time::Time;
use crate::outlier::detector::{Failure, OutlierPolicy};
use crate::outlier::hosts::is_address;

/// What a record starts with: a name, and the version of what follows.
const FORMAT: Format = *b"wre\x03";

const NO_FAILURE: u8 = u8::MAX;

impl Ejections {
    /// Replaces `record` by this in bytes: two times and counters, then the workers, ejections and evidence, each with their
    /// number before them.
    pub fn encode(&self, record: &mut Vec<u8>) {
        // What most take.
        let bytes = 64 * (1 + self.speakers.len() + self.out.len() + self.evidence.len());
        let mut record = Writer::new(record, &FORMAT, bytes);
        record.u64s([self.common.as_nanos(), self.told]);
        record.u8(self.speakers.len() as u8);
        for speaker in &self.speakers {
            record.u64s([speaker.worker.0, speaker.beat.as_nanos()]);
        }
        record.u16(self.out.len() as u16);
        for ejection in &self.out {
            write_host(&mut record, &ejection.address, Some(ejection.failure));
            record.u8(ejection.strikes);
            let [since, failed, until, due] =
                [ejection.since, ejection.failed, ejection.until, ejection.due].map(Time::as_nanos);
            record.u64s([since, failed, until, due, ejection.owner.0]);
        }
        for evidence in &self.evidence {
            write_host(&mut record, &evidence.address, evidence.failure);
            record.u64s([u64::from(evidence.answers), evidence.at.as_nanos(), evidence.by.0, evidence.number]);
        }
    }

    /// What is in `record`, brought back to what is possible now. `None` if it is no such record, or one of another version:
    /// then there is nothing to know.
    #[must_use]
    pub fn decode(record: &[u8], policy: &OutlierPolicy, now: Time) -> Option<Self> {
        let mut record = Reader::new(record, &FORMAT)?;
        let (common, told) = (record.time()?, record.u64()?);
        let mut all = Self { common: common.min(now), told, ..Self::default() };
        for _ in 0..record.u8()? {
            let (worker, beat) = (record.u64()?, record.time()?);
            // A beat from the future says nothing about now.
            let beat = if beat > now.saturating_add(SILENCE) { Time::default() } else { beat.min(now) };
            all.speakers.push(Speaker { worker: WorkerId(worker), beat });
        }
        let longest = policy.max_ejection_time.saturating_add(policy.max_ejection_time / 4);
        for _ in 0..record.u16()? {
            let (address, failure) = read_host(&mut record)?;
            let strikes = record.u8()?;
            let [since, failed, until, due, owner] = record.u64s()?;
            // They come in this order, unless somebody else wrote them.
            let place = match all.out.last() {
                Some(last) if last.address >= address => all.out.partition_point(|other| other.address < address),
                _ => all.out.len(),
            };
            let twice = all.out.get(place).is_some_and(|other| other.address == address);
            if twice || all.out.len() >= MOST_EJECTIONS {
                return None;
            }
            let ejection = Ejection {
                address,
                failure: failure?,
                strikes,
                since: Time::from_nanos(since).min(now),
                failed: Time::from_nanos(failed).min(now),
                until: Time::from_nanos(until).min(now.saturating_add(longest)),
                due: Time::from_nanos(due).min(now.saturating_add(longest)),
                owner: WorkerId(owner),
            };
            if place <= all.out.len() {
                all.out.insert(place, ejection);
            }
        }
        while !record.is_empty() {
            let (address, failure) = read_host(&mut record)?;
            let [answers, at, by, number] = record.u64s()?;
            if all.evidence.len() >= MOST_EVIDENCE {
                return None;
            }
            let at = Time::from_nanos(at).min(now);
            let answers = u32::try_from(answers).unwrap_or(u32::MAX);
            all.evidence.push(Evidence { address, failure, answers, at, by: WorkerId(by), number });
        }
        Some(all)
    }
}

/// Writes an address and a failure. Addresses are at most [`LONGEST_ADDRESS`](crate::outlier::hosts::LONGEST_ADDRESS) long.
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

pub(super) fn read_address(record: &mut Reader<'_>) -> Option<Box<str>> {
    record.text().filter(|address| is_address(address)).map(Into::into)
}
