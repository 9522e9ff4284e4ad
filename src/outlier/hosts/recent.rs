//! Which hosts answered last, which may be suspect or silent, and one that is well: known without looking at all of them.

use std::time::Duration;

use super::{Host, Hosts, NOWHERE, insert};
use crate::base::time::Time;

/// Of so many it is known that they answered last.
const LAST: usize = 8;

impl Hosts {
    /// A host answered this worker.
    pub fn heard(&mut self, place: usize, now: Time) {
        let Some(host) = self.hosts.get_mut(place) else { return };
        host.heard = now;
        let mut moved = place as u16;
        let later = |other: u16| {
            let heard = self.hosts.get(usize::from(other)).map(|host| host.heard);
            (heard.unwrap_or_default(), other) > (now, moved)
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

    /// The host that answered last, of those for which `may` holds, if that was within `time`.
    pub fn last_heard(&self, may: &dyn Fn(&Host) -> bool, within: Duration, now: Time) -> Option<&Host> {
        let mut last = self.answered.iter().filter_map(|place| self.at(usize::from(*place)));
        last.clone().find(|host| may(host)).or_else(|| {
            // There may be others; but none that answered later than the last of these.
            let recent = last.next_back().is_some_and(|host| now.since(host.heard) < within);
            let all = self.iter().filter(|host| recent && may(host));
            all.max_by_key(|host| host.heard)
        })
    }

    /// A host is watched until it says something.
    pub fn watch(&mut self, place: usize) {
        if let Some(host) = self.hosts.get_mut(place)
            && !host.watched
        {
            host.watched = true;
            self.watched.push(place as u16);
        }
    }

    /// Whether `is` holds for any host that is present and watched: whose latest attempt broke, or that was asked.
    pub fn any_watched(&mut self, is: &dyn Fn(&Host) -> bool, now: Time) -> bool {
        let mut next = 0;
        while let Some(place) = self.watched.get(next) {
            let Some(host) = self.hosts.get_mut(usize::from(*place)) else { return false };
            host.watched = host.record.is_broken() || host.asked != Time::default();
            if host.watched {
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

    /// A place that is well, if any is: present, and `is` holds.
    pub fn well(&mut self, is: &dyn Fn(&Host) -> bool, now: Time) -> bool {
        let is = |host: &Host| host.is_present(now) && is(host);
        if self.at(usize::from(self.well)).is_some_and(is) {
            return true;
        }
        let well = self.hosts.iter().position(|host| is(host));
        self.well = well.map_or(NOWHERE, |place| place as u16);
        well.is_some()
    }
}
