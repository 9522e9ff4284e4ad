//! The peers that a host is compared with: sums over the histories of the healthy hosts, so that to compare one of a thousand hosts
//! takes no longer than to compare one of four.
//!
//! The sums are kept up to date, and counted anew when a host may no longer be known, which is hardly more often than once a
//! minute.

use super::Hosts;
use crate::base::time::Time;
use crate::outlier::detector::{LENGTHS, RUN};
use crate::outlier::history::{AttemptHistory, Failure, LENGTH};
use crate::outlier::host::KNOWN_FOR;

/// The number of lengths to look back over.
const COUNT: usize = LENGTHS.len();

/// Sums over the histories of some hosts.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// The sums over hosts that are not failing.
    healthy: Sums,
    /// The sums over hosts that are.
    failing: Sums,
    /// The number of hosts that are not failing, and of which a run of attempts is known.
    well_known: u32,
    /// The number of hosts whose latest attempt was answered.
    succeeded: u32,
    /// The number of hosts whose latest attempts were all answered, a run of them.
    runs: u32,
}

/// The sums, for each length to look back over.
#[derive(Clone, Debug, Default)]
struct Sums {
    /// How many of the last attempts failed, by kind of failure.
    failed: [[u32; COUNT]; Failure::ALL.len()],
    /// How many attempts are missing, of hosts that had fewer than the length.
    missing: [u32; COUNT],
    hosts: u32,
}

impl Sums {
    const NONE: Self = Self { failed: [[0; COUNT]; Failure::ALL.len()], missing: [0; COUNT], hosts: 0 };
}

impl Peers {
    /// The sums over no hosts.
    #[must_use]
    pub const fn new() -> Self {
        Self { healthy: Sums::NONE, failing: Sums::NONE, well_known: 0, succeeded: 0, runs: 0 }
    }

    /// Adds a host.
    pub fn add(&mut self, history: &AttemptHistory) {
        self.count(history, 1);
    }

    /// Takes a host out that was added with the same history.
    pub fn remove(&mut self, history: &AttemptHistory) {
        self.count(history, u32::MAX);
    }

    /// Adds a host, or takes it out: `one` is 1, or -1 as numbers wrap around.
    fn count(&mut self, history: &AttemptHistory, one: u32) {
        let count = |counter: &mut u32, number: u32| *counter = counter.wrapping_add(number.wrapping_mul(one));
        let failing = history.is_failing();
        count(&mut self.well_known, u32::from(!failing && history.attempts() >= RUN));
        count(&mut self.succeeded, u32::from(history.last_succeeded()));
        count(&mut self.runs, u32::from(history.answered_in_a_row() >= RUN));
        let sums = if failing { &mut self.failing } else { &mut self.healthy };
        count(&mut sums.hosts, 1);
        if history.attempts() < LENGTH {
            for (sum, length) in sums.missing.iter_mut().zip(LENGTHS) {
                count(sum, length.saturating_sub(history.attempts()));
            }
        }
        for (sums, failure) in sums.failed.iter_mut().zip(Failure::ALL) {
            if history.has(failure) {
                for (sum, length) in sums.iter_mut().zip(LENGTHS) {
                    count(sum, history.last(failure, length).0 as u32);
                }
            }
        }
    }

    /// The number of hosts.
    #[must_use]
    pub const fn hosts(&self) -> u32 {
        self.healthy.hosts.wrapping_add(self.failing.hosts)
    }

    /// Whether some host is not failing and well known, so that failing hosts are left out of the comparison.
    pub(in crate::outlier) const fn some_well_known(&self) -> bool {
        self.well_known > 0
    }

    /// Whether the latest attempt on some host was answered.
    pub(in crate::outlier) const fn some_succeeded(&self) -> bool {
        self.succeeded > 0
    }

    /// Whether some host answered its last [`RUN`] attempts.
    pub(in crate::outlier) const fn some_run(&self) -> bool {
        self.runs > 0
    }

    /// How many of the hosts' last attempts failed in this way, and how many of these there were: `length` is the number of the
    /// length to look back over. With `healthy_only`, failing hosts are left out.
    pub(in crate::outlier) fn share(&self, failure: Failure, length: usize, healthy_only: bool) -> (u64, u64) {
        let of = |sums: &Sums| {
            let failed = sums.failed.get(failure as usize).and_then(|failed| failed.get(length)).copied();
            let missing = sums.missing.get(length).copied().unwrap_or_default();
            let length = LENGTHS.get(length).copied().unwrap_or_default();
            let attempts = sums.hosts.wrapping_mul(length).wrapping_sub(missing);
            (u64::from(failed.unwrap_or_default()), u64::from(attempts))
        };
        let (failed, attempts) = of(&self.healthy);
        let failing = if healthy_only { (0, 0) } else { of(&self.failing) };
        (failed + failing.0, attempts + failing.1)
    }
}

impl Hosts {
    fn are_peers_valid(&self, now: Time) -> bool {
        self.peers_from <= now && now < self.peers_until
    }

    /// Counts the peers anew, unless they are still valid.
    pub fn count_peers(&mut self, now: Time) {
        if self.are_peers_valid(now) {
            return;
        }
        (self.peers, self.peers_from) = (Peers::new(), now);
        self.peers_until = Time::from_nanos(u64::MAX);
        for host in &mut self.hosts {
            host.is_peer = host.is_present(now);
            if host.is_peer {
                self.peers.add(&host.history);
                self.peers_until = self.peers_until.min(host.seen.saturating_add(KNOWN_FOR));
            }
        }
    }

    /// The peers of the host at that place: all healthy hosts but this one.
    pub fn peers_of(&mut self, place: usize, now: Time) -> Peers {
        self.count_peers(now);
        let mut peers = self.peers.clone();
        if let Some(host) = self.hosts.get(place)
            && host.is_peer
        {
            peers.remove(&host.history);
        }
        peers
    }

    /// The number of hosts that the cluster seems to have: healthy ones that were seen within a minute, and ejected ones.
    #[must_use]
    pub fn known(&self, now: Time) -> usize {
        let valid = self.are_peers_valid(now);
        let present = if valid { self.peers.hosts() as usize } else { self.present(now).count() };
        present + self.ejected()
    }
}
