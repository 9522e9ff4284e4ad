//! Who is out, as the record has it that all workers share.

use super::{Hosts, KNOWN_FOR, insert};
use crate::base::time::Time;
use crate::outlier::shared::Ejection;

impl Hosts {
    /// Does as `shared` says, the ejections in the order of addresses. Those that are out and are not among these come back:
    /// as having failed again if `common`, else with so many answers, and as if Envoy's balancer had made the latest of its
    /// `picks` there. Whether any came back.
    pub fn adopt(&mut self, shared: &[Ejection], common: bool, answers: u32, picks: u64, now: Time) -> bool {
        let interval = self.interval;
        if now < self.latest {
            for host in &mut self.hosts {
                host.seen = host.seen.min(now);
                host.standing.clamp(now, interval);
            }
            self.until = Time::default();
        }
        self.latest = now;
        let (before, mut next) = (std::mem::take(&mut self.out), 0);
        let mut fresh = Vec::new();
        for ejection in shared {
            while let Some(place) = before.get(next).copied().map(usize::from)
                && self.at(place).is_some_and(|host| host.address < ejection.address)
            {
                self.readmit(place, common, answers, picks, now);
                next += 1;
            }
            let known = before
                .get(next)
                .copied()
                .filter(|place| self.at(usize::from(*place)).is_some_and(|host| host.address == ejection.address));
            match known {
                Some(place) => {
                    next += 1;
                    self.out.push(place);
                    if let Some(host) = self.at_mut(usize::from(place)) {
                        host.seen = now;
                        host.standing.clamp(now, interval);
                        host.standing.follow(ejection);
                    }
                }
                None => fresh.push(ejection),
            }
        }
        let back = self.out.len() < before.len();
        for place in before.iter().skip(next) {
            self.readmit(usize::from(*place), common, answers, picks, now);
        }
        for ejection in &fresh {
            let Some(place) = self.seen(&ejection.address, now) else { continue };
            let Some(host) = self.hosts.get_mut(place) else { continue };
            if std::mem::take(&mut host.counted) {
                self.shown.remove(&host.record);
            }
            host.standing.follow(ejection);
            insert(&mut self.out, &|other| usize::from(*other) < place, place as u16);
            self.version += 1;
        }
        back
    }

    fn readmit(&mut self, place: usize, common: bool, answers: u32, picks: u64, now: Time) {
        let interval = self.interval;
        let Some(failure) = self.out_at(place).map(|out| out.ejection.failure) else { return };
        if common {
            // What is known of it is that it failed.
            self.failed(place, failure, now);
        } else {
            // What it did before stays known: else others would be held to a record that is clean for being short.
            self.answered(place, answers);
        }
        let Some(host) = self.hosts.get_mut(place) else { return };
        host.standing.readmit(now, interval, common);
        // Where it failed, requests were retried, and the balancer seems to have picked others.
        if host.picks.weight > 0 {
            host.picks.latest = picks;
        }
        if host.is_known(now) {
            host.counted = true;
            self.shown.add(&host.record);
            self.until = self.until.min(host.seen.saturating_add(KNOWN_FOR));
        }
        self.version += 1;
    }
}
