//! How many hosts are known, and what those that are in show together: counted anew when one of them may not be known any more,
//! that is hardly more often than once a minute, and kept up to date else.

use super::{Hosts, KNOWN_FOR};
use crate::base::time::Time;
use crate::outlier::detector::Others;

impl Hosts {
    fn is_counted(&self, now: Time) -> bool {
        self.counted <= now && now < self.until
    }

    /// Counts who is known, unless that is known to hold still.
    pub fn count(&mut self, now: Time) {
        if self.is_counted(now) {
            return;
        }
        (self.shown, self.counted) = (Others::new(), now);
        self.until = Time::from_nanos(u64::MAX);
        for host in &mut self.hosts {
            host.counted = host.is_present(now);
            if host.counted {
                self.shown.add(&host.record);
                self.until = self.until.min(host.seen.saturating_add(KNOWN_FOR));
            }
        }
    }

    /// What those show that are in and known, but for the host at that place.
    pub fn others(&mut self, place: usize, now: Time) -> Others {
        self.count(now);
        let mut others = self.shown.clone();
        if let Some(host) = self.hosts.get(place)
            && host.counted
        {
            others.remove(&host.record);
        }
        others
    }

    /// How many hosts the cluster seems to have: those that are present, and those that are out.
    #[must_use]
    pub fn known(&self, now: Time) -> usize {
        let present = if self.is_counted(now) { self.shown.hosts() as usize } else { self.present(now).count() };
        present + self.out()
    }
}
