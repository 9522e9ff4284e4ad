//! What is kept up to date of the hosts, so that what a request or an attempt needs takes no walk over all: which are ejected, as the
//! record says that all workers share; the sums over the others, to compare one with; which answered last; and which may be suspect or
//! unresponsive.
//!
//! The sums are counted anew when a host may no longer be known, which is hardly more often than once a minute.

use std::time::Duration;

use super::{Hosts, NOWHERE, insert};
use crate::base::time::Time;
use crate::outlier::detector::Peers;
use crate::outlier::host::{Host, KNOWN_FOR};
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
        if now < self.latest {
            // The host's clock stepped back: what seems to lie in the future is forgotten.
            for host in &mut self.hosts {
                (host.seen, host.answered) = (host.seen.min(now), host.answered.min(now));
                host.state.clamp(now, self.interval);
            }
            self.peers_until = Time::default();
        }
        self.latest = now;
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
            if let Some(host) = self.hosts.get_mut(usize::from(place)) {
                host.seen = now;
                host.state.clamp(now, self.interval);
                host.state.follow(ejection);
            }
        }
        let some_came_back = self.ejected.len() < before.len();
        for place in before.iter().skip(next) {
            self.uneject(usize::from(*place), back, now);
        }
        new.into_iter().for_each(|ejection| self.eject(ejection, now));
        some_came_back
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
            // What its crash broke says nothing of what is broken wherever it is sent, and is forgotten. What was before that is kept:
            // other hosts are compared with it, and would look worse beside a clean history.
            if let Some(host) = self.hosts.get_mut(place) {
                host.history.restarted();
            }
            self.answered(place, back.answers);
        }
        let Some(host) = self.hosts.get_mut(place) else { return };
        host.state.uneject(now, interval, back.all_fail);
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

/// The number of hosts that are kept as those that answered last.
const LAST: usize = 8;

impl Hosts {
    /// A host answered this worker: it is now the one that answered last.
    pub fn set_last_answer(&mut self, place: usize, now: Time) {
        let Some(host) = self.hosts.get_mut(place) else { return };
        host.last_answer = now;
        let mut moved = place as u16;
        let later = |other: u16| {
            let answered = self.hosts.get(usize::from(other)).map(|host| host.last_answer);
            (answered.unwrap_or_default(), other) > (now, moved)
        };
        if self.answered.first().is_some_and(|first| later(*first)) {
            // The clock stepped back, or this is the same moment.
            self.answered.retain(|other| *other != moved);
            self.answered.truncate(LAST - 1);
            insert(&mut self.answered, &|other| later(*other), moved);
            return;
        }
        for other in &mut self.answered {
            std::mem::swap(other, &mut moved);
            if usize::from(moved) == place {
                return;
            }
        }
        if self.answered.len() < LAST {
            self.answered.push(moved);
        }
    }

    /// The host that answered last, of those for which `may` holds. `may` must not hold for hosts that did not answer `within`
    /// this time.
    pub fn last_to_answer(&self, may: &dyn Fn(&Host) -> bool, within: Duration, now: Time) -> Option<&Host> {
        let mut last = self.answered.iter().filter_map(|place| self.at(usize::from(*place)));
        last.clone().find(|host| may(host)).or_else(|| {
            // There may be others; but none that answered later than the last of these.
            let recent = last.next_back().is_some_and(|host| now.is_within(within, host.last_answer));
            let all = self.iter().filter(|host| recent && may(host));
            all.max_by_key(|host| host.last_answer)
        })
    }

    /// Watches a host, since a request was steered to it.
    pub fn watch(&mut self, place: usize) {
        if let Some(host) = self.hosts.get_mut(place)
            && !host.is_watched
        {
            host.is_watched = true;
            self.watched.push(place as u16);
        }
    }

    /// Whether `is` holds for any host that is present and watched: its latest attempt broke, or it has requests outstanding.
    pub fn any_watched(&mut self, is: &dyn Fn(&Host) -> bool, now: Time) -> bool {
        let mut next = 0;
        while let Some(place) = self.watched.get(next) {
            let Some(host) = self.hosts.get_mut(usize::from(*place)) else { return false };
            host.is_watched = host.history.last_broke() || host.oldest_outstanding.is_some();
            if host.is_watched {
                if host.is_present(now) && is(host) {
                    return true;
                }
                next += 1;
            } else {
                self.watched.swap_remove(next);
            }
        }
        false
    }

    /// Whether `is` holds for any host that is present.
    pub fn any_healthy(&mut self, is: &dyn Fn(&Host) -> bool, now: Time) -> bool {
        let is = |host: &Host| host.is_present(now) && is(host);
        if self.at(usize::from(self.healthy)).is_some_and(is) {
            return true;
        }
        let healthy = self.hosts.iter().position(|host| is(host));
        self.healthy = healthy.map_or(NOWHERE, |place| place as u16);
        healthy.is_some()
    }
}
