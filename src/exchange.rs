//! What workers tell each other: the ejections of a cluster, in one record that all of them share.
//!
//! The record says which hosts are out, until when, and which worker owns each. It is the truth: a host is out if and only
//! if the record says so, and whoever ejects or readmits a host swaps a new record in if no other worker was faster. So the
//! cap on ejections is exact over all workers, no worker undoes what another one did, and a fresh VM after a reload knows
//! of every ejection with the first record it reads. The alternative, a record per worker with its own view, needs rules for
//! contradictions, as many reads as there are workers, and slots to claim and to expire.
//!
//! A worker reads the record ten times a second for each cluster that has traffic, when one of its attempts fails (another
//! worker may have seen that before), and when it has something to say. Without any ejection ever, there is no record.
//!
//! **Owners.** An owner that has requests to probe with says so four times a second; if it has been silent for a second,
//! because it is gone or has no requests, any worker that has some takes over.
//!
//! **Time** is the host's wall clock, as in all records. Workers on one machine read the same one. Where it stepped, what a
//! record says is brought back to what is possible: nothing began in the future, and nobody is out for longer than the
//! longest ejection.

use std::time::Duration;

use crate::detector::{Failure, OutlierPolicy};
use crate::hosts::is_address;
use crate::time::Time;

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
    /// The n of the diagram in [`crate::ejection`].
    pub strikes: u8,
    /// When it was ejected.
    pub since: Time,
    /// When it may be probed.
    pub until: Time,
    /// Who probes it.
    pub owner: WorkerId,
    /// When the owner last said that it can.
    pub beat: Time,
}

/// What a worker wants to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A host goes out, unless it is out already, or too many are. At most so many in all.
    Eject(Ejection, usize),
    /// A probe failed: the host stays out.
    Extend(Ejection),
    /// Probes were answered: the host of that address comes back.
    Readmit(Box<str>),
    /// Those that are in fail as well: all come back.
    ReadmitAll,
}

/// All ejections of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ejections {
    /// Those that are out, in no order.
    pub out: Vec<Ejection>,
    /// When all were readmitted last, because all failed.
    pub common: Time,
}

/// A record holds at most this many.
pub const MOST_EJECTIONS: usize = 500;
/// How often an owner says that it can probe.
const BEAT: Duration = Duration::from_millis(250);
/// How long it may be silent.
const SILENCE: Duration = Duration::from_secs(1);
/// A host that is due for so long, and that no probe reached, is not there any more, or nothing is known of it.
const LOST: Duration = Duration::from_secs(60);

impl Ejections {
    /// Whether the record says that the host is out.
    #[must_use]
    pub fn of(&self, address: &str) -> Option<&Ejection> {
        self.out.iter().find(|ejection| &*ejection.address == address)
    }

    /// Makes a change, if it still applies: whether it did.
    pub fn apply(&mut self, change: &Change, me: WorkerId, now: Time) -> bool {
        let before = self.out.len();
        match change {
            Change::Eject(ejection, most) => {
                let applies = self.of(&ejection.address).is_none() && before < (*most).min(MOST_EJECTIONS);
                if applies {
                    self.out.push(ejection.clone());
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
            Change::ReadmitAll => {
                self.out.clear();
                if before > 0 {
                    self.common = now;
                }
                before > 0
            }
        }
    }

    /// Says for this worker that it can probe, and takes over from those that are silent, if it `has_requests`. Drops what
    /// no probe reached.
    pub fn keep(&mut self, me: WorkerId, has_requests: bool, now: Time) {
        self.out.retain(|ejection| now.since(ejection.until) < LOST);
        for ejection in self.out.iter_mut().filter(|_| has_requests) {
            let silent = now.since(ejection.beat);
            if silent >= if ejection.owner == me { BEAT } else { SILENCE } {
                (ejection.owner, ejection.beat) = (me, now);
            }
        }
    }

    /// Replaces `record` by the ejections in bytes.
    pub fn encode(&self, record: &mut Vec<u8>) {
        record.clear();
        record.extend_from_slice(&FORMAT);
        record.extend_from_slice(&self.common.as_nanos().to_le_bytes());
        for ejection in &self.out {
            // Addresses are at most `LONGEST_ADDRESS` long, see `is_address`.
            record.push(ejection.address.len() as u8);
            record.extend_from_slice(ejection.address.as_bytes());
            record.extend_from_slice(&[ejection.failure as u8, ejection.strikes]);
            let times = [ejection.since, ejection.until, ejection.beat].map(Time::as_nanos);
            times.iter().chain([&ejection.owner.0]).for_each(|number| record.extend_from_slice(&number.to_le_bytes()));
        }
    }

    /// The ejections in `record`, brought back to what is possible now. `None` if it is no such record, or one of another
    /// version: then there are none.
    #[must_use]
    pub fn decode(record: &[u8], policy: &OutlierPolicy, now: Time) -> Option<Self> {
        let mut rest = record.strip_prefix(&FORMAT)?;
        let common = number(&mut rest).map(Time::from_nanos)?.min(now);
        let mut all = Self { out: Vec::new(), common };
        while !rest.is_empty() {
            let ejection = ejection(&mut rest, policy, now)?;
            if all.of(&ejection.address).is_some() || all.out.len() >= MOST_EJECTIONS {
                return None;
            }
            all.out.push(ejection);
        }
        Some(all)
    }
}

/// What a record starts with: a name, and the version of what follows.
const FORMAT: [u8; 4] = *b"wre\x01";

fn ejection(rest: &mut &[u8], policy: &OutlierPolicy, now: Time) -> Option<Ejection> {
    let ([length], bytes) = rest.split_first_chunk()?;
    let (address, bytes) = bytes.split_at_checked(usize::from(*length))?;
    let address = std::str::from_utf8(address).ok().filter(|address| is_address(address))?;
    let ([failure, strikes], bytes) = bytes.split_first_chunk()?;
    *rest = bytes;
    let mut time = || number(rest).map(Time::from_nanos);
    let (since, until, beat) = (time()?, time()?, time()?);
    let longest = policy.max_ejection_time.saturating_add(policy.max_ejection_time / 4);
    Some(Ejection {
        address: address.into(),
        failure: *Failure::ALL.get(usize::from(*failure))?,
        strikes: *strikes,
        since: since.min(now),
        until: until.min(now.saturating_add(longest)),
        owner: WorkerId(number(rest)?),
        // A beat from the future says nothing about now.
        beat: if beat > now.saturating_add(SILENCE) { Time::default() } else { beat.min(now) },
    })
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let (first, bytes) = rest.split_first_chunk()?;
    *rest = bytes;
    Some(u64::from_le_bytes(*first))
}

/// Claims an id that no other worker has, from the record under a key of its own: how many were claimed so far. Returns the id
/// and the record to swap in; if another worker was faster, read it again and ask again.
///
/// A VM claims one when it is about to serve its first request, so those that never serve any claim none. It keeps nothing
/// alive: what makes an owner is that it speaks.
#[must_use]
pub fn claim(record: Option<&[u8]>) -> (WorkerId, Vec<u8>) {
    let claimed = record
        .and_then(|record| record.strip_prefix(&CLAIMS))
        .and_then(|rest| <[u8; 8]>::try_from(rest).ok())
        .map_or(0, u64::from_le_bytes);
    let id = claimed.wrapping_add(1);
    let mut record = CLAIMS.to_vec();
    record.extend_from_slice(&id.to_le_bytes());
    (WorkerId(id), record)
}

const CLAIMS: [u8; 4] = *b"wrw\x01";
