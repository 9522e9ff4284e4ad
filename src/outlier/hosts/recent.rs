//! Which hosts answered last, which may be suspect or unresponsive, and one that is healthy: known without a walk over all.

use std::time::Duration;

use super::{Hosts, NOWHERE, insert};
use crate::base::time::Time;
use crate::outlier::host::Host;

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
