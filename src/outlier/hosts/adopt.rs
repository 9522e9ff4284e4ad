//! Which hosts are ejected, as the record says that all workers share.

use super::{Hosts, insert};
use crate::base::time::Time;
use crate::outlier::host::KNOWN_FOR;
use crate::outlier::shared::Ejection;

/// How hosts come back that are no longer in the record.
#[derive(Clone, Copy, Debug)]
pub struct Return {
    /// Whether they come back because all hosts fail, and not by their probes.
    pub all_fail: bool,
    /// How many attempts each answered, if it came back by its probes.
    pub answers: u32,
    /// The number of the latest pick of Envoy's balancer; each host is taken to have been picked then.
    pub picks: u64,
}

impl Hosts {
    /// Ejects and brings back hosts as `shared` says, the ejections in the order of addresses. Whether any host came back.
    pub fn adopt(&mut self, shared: &[Ejection], back: Return, now: Time) -> bool {
        self.clamp(now);
        let (before, mut next) = (std::mem::take(&mut self.ejected), 0);
        let mut new = Vec::new();
        for ejection in shared {
            while let Some(place) = before.get(next).copied().map(usize::from)
                && self.at(place).is_some_and(|host| host.address < ejection.address)
            {
                self.uneject(place, back, now);
                next += 1;
            }
            let known = before.get(next).copied();
            let known =
                known.filter(|place| self.at(usize::from(*place)).is_some_and(|host| host.address == ejection.address));
            let Some(place) = known else {
                new.push(ejection);
                continue;
            };
            next += 1;
            self.ejected.push(place);
            self.follow(usize::from(place), ejection, now);
        }
        let some_came_back = self.ejected.len() < before.len();
        for place in before.iter().skip(next) {
            self.uneject(usize::from(*place), back, now);
        }
        new.into_iter().for_each(|ejection| self.eject(ejection, now));
        some_came_back
    }

    /// Forgets what seems to lie in the future, if the host's clock stepped back.
    fn clamp(&mut self, now: Time) {
        if now < self.latest {
            for host in &mut self.hosts {
                host.seen = host.seen.min(now);
                host.state.clamp(now, self.interval);
            }
            self.peers_until = Time::default();
        }
        self.latest = now;
    }

    fn follow(&mut self, place: usize, ejection: &Ejection, now: Time) {
        let interval = self.interval;
        if let Some(host) = self.at_mut(place) {
            host.seen = now;
            host.state.clamp(now, interval);
            host.state.follow(ejection);
        }
    }

    fn eject(&mut self, ejection: &Ejection, now: Time) {
        let Some(place) = self.seen(&ejection.address, now) else { return };
        let Some(host) = self.hosts.get_mut(place) else { return };
        if std::mem::take(&mut host.is_peer) {
            self.peers.remove(&host.history);
        }
        host.state.follow(ejection);
        insert(&mut self.ejected, &|other| usize::from(*other) < place, place as u16);
        self.version += 1;
    }

    fn uneject(&mut self, place: usize, back: Return, now: Time) {
        let interval = self.interval;
        let ejected = self.at(place).and_then(|host| host.state.ejected());
        let Some(failure) = ejected.map(|ejected| ejected.ejection.failure) else { return };
        if back.all_fail {
            // What is known of it is that it failed.
            self.failed(place, failure, now);
        } else {
            // The history goes on: a shorter one would be clean, and other hosts would be compared with that.
            self.answered(place, back.answers);
        }
        let Some(host) = self.hosts.get_mut(place) else { return };
        host.state.uneject(now, interval, back.all_fail);
        if !back.all_fail {
            // But what its crash broke says nothing of what is broken wherever it is sent.
            host.history.restarted();
        }
        // Where it failed, requests were retried, and the balancer seems to have picked others.
        if host.picks.weight > 0 {
            host.picks.latest = back.picks;
        }
        if host.is_known(now) {
            host.is_peer = true;
            self.peers.add(&host.history);
            self.peers_until = self.peers_until.min(host.seen.saturating_add(KNOWN_FOR));
        }
        self.version += 1;
    }
}
