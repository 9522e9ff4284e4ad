//! The number of known hosts, and the sums over the healthy ones: kept up to date, and counted anew when a host may no longer
//! be known, which is hardly more often than once a minute.

use super::Hosts;
use crate::base::time::Time;
use crate::outlier::detector::Peers;
use crate::outlier::host::KNOWN_FOR;

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
