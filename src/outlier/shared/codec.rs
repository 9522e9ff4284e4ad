//! The record in bytes.

use super::{Ejection, Ejections, Evidence, MOST_EJECTIONS, MOST_EVIDENCE, SILENCE, Speaker, WorkerId};
use crate::base::time::Time;
use crate::outlier::detector::{Failure, OutlierPolicy};
use crate::outlier::hosts::is_address;

/// What a record starts with: a name, and the version of what follows.
const FORMAT: [u8; 4] = *b"wre\x03";

const NO_FAILURE: u8 = u8::MAX;

impl Ejections {
    /// Replaces `record` by this in bytes: two times and counters, then the workers, ejections and evidence, each with their
    /// number before them.
    pub fn encode(&self, record: &mut Vec<u8>) {
        record.clear();
        // What most take.
        record.reserve(64 * (1 + self.speakers.len() + self.out.len() + self.evidence.len()));
        record.extend_from_slice(&FORMAT);
        put(record, &[self.common.as_nanos(), self.told]);
        record.push(self.speakers.len() as u8);
        for speaker in &self.speakers {
            put(record, &[speaker.worker.0, speaker.beat.as_nanos()]);
        }
        record.extend_from_slice(&(self.out.len() as u16).to_le_bytes());
        for ejection in &self.out {
            put_host(record, &ejection.address, Some(ejection.failure));
            record.push(ejection.strikes);
            let [since, failed, until, due] =
                [ejection.since, ejection.failed, ejection.until, ejection.due].map(Time::as_nanos);
            put(record, &[since, failed, until, due, ejection.owner.0]);
        }
        for evidence in &self.evidence {
            put_host(record, &evidence.address, evidence.failure);
            put(record, &[u64::from(evidence.answers), evidence.at.as_nanos(), evidence.by.0, evidence.number]);
        }
    }

    /// What is in `record`, brought back to what is possible now. `None` if it is no such record, or one of another version:
    /// then there is nothing to know.
    #[must_use]
    pub fn decode(record: &[u8], policy: &OutlierPolicy, now: Time) -> Option<Self> {
        let mut rest = record.strip_prefix(&FORMAT)?;
        let [common, told] = numbers(&mut rest)?;
        let mut all = Self { common: Time::from_nanos(common).min(now), told, ..Self::default() };
        let [speakers] = take(&mut rest)?;
        for _ in 0..speakers {
            let [worker, beat] = numbers(&mut rest)?;
            let beat = Time::from_nanos(beat);
            // A beat from the future says nothing about now.
            let beat = if beat > now.saturating_add(SILENCE) { Time::default() } else { beat.min(now) };
            all.speakers.push(Speaker { worker: WorkerId(worker), beat });
        }
        let longest = policy.max_ejection_time.saturating_add(policy.max_ejection_time / 4);
        for _ in 0..u16::from_le_bytes(take(&mut rest)?) {
            let (address, failure) = host(&mut rest)?;
            let [strikes] = take(&mut rest)?;
            let [since, failed, until, due, owner] = numbers(&mut rest)?;
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
        while !rest.is_empty() {
            let (address, failure) = host(&mut rest)?;
            let [answers, at, by, number] = numbers(&mut rest)?;
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

/// At most five.
pub(super) fn put(record: &mut Vec<u8>, numbers: &[u64]) {
    let mut bytes = [[0; 8]; 5];
    bytes.iter_mut().zip(numbers).for_each(|(bytes, number)| *bytes = number.to_le_bytes());
    // At once: each time costs as much as the bytes.
    record.extend_from_slice(bytes.as_flattened().get(..8 * numbers.len()).unwrap_or_default());
}

fn put_host(record: &mut Vec<u8>, address: &str, failure: Option<Failure>) {
    put_address(record, address);
    record.push(failure.map_or(NO_FAILURE, |failure| failure as u8));
}

/// Addresses are at most [`LONGEST_ADDRESS`](crate::outlier::hosts::LONGEST_ADDRESS) long, see [`is_address`].
pub(super) fn put_address(record: &mut Vec<u8>, address: &str) {
    record.push(address.len() as u8);
    record.extend_from_slice(address.as_bytes());
}

fn host(rest: &mut &[u8]) -> Option<(Box<str>, Option<Failure>)> {
    let address = address(rest)?;
    let [failure] = take(rest)?;
    let failure = if failure == NO_FAILURE { None } else { Some(*Failure::ALL.get(usize::from(failure))?) };
    Some((address, failure))
}

pub(super) fn address(rest: &mut &[u8]) -> Option<Box<str>> {
    let [length] = take(rest)?;
    let (address, bytes) = rest.split_at_checked(usize::from(length))?;
    *rest = bytes;
    std::str::from_utf8(address).ok().filter(|address| is_address(address)).map(Into::into)
}

pub(super) fn numbers<const N: usize>(rest: &mut &[u8]) -> Option<[u64; N]> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        *number = u64::from_le_bytes(take(rest)?);
    }
    Some(numbers)
}

pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, bytes) = rest.split_first_chunk()?;
    *rest = bytes;
    Some(*first)
}
