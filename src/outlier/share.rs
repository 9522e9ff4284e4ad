//! What a worker tells the others, and hears from them.

use super::{Event, MOST_EVENTS, Outliers};
use crate::ejection::Standing;
use crate::exchange::{Change, Ejections};
use crate::time::Time;

impl Outliers {
    /// Reads the record that all workers share, and returns what to put in its place, if anything.
    pub fn exchange(&mut self, record: Option<&[u8]>, now: Time) -> Option<Vec<u8>> {
        let found = record.and_then(|record| Ejections::decode(record, &self.policy, now)).unwrap_or_default();
        let mut shared = found.clone();
        let (me, applied) = (self.me, &mut self.applied);
        applied.clear();
        applied.extend(self.pending.iter().filter(|change| shared.apply(change, me, now)).map(Event::from));
        shared.keep(me, self.has_requests(now), now);
        self.adopt(&shared, now);
        if shared == found {
            return None;
        }
        let mut record = Vec::new();
        shared.encode(&mut record);
        Some(record)
    }

    /// What [`exchange`](Self::exchange) returned is in the record, or it returned nothing, or it cannot be helped.
    pub fn published(&mut self) {
        self.pending.clear();
        for event in std::mem::take(&mut self.applied) {
            self.tell(event);
        }
    }

    pub(super) fn tell(&mut self, event: Event) {
        if self.events.len() < MOST_EVENTS {
            self.events.push(event);
        }
    }

    /// Does as the record says.
    fn adopt(&mut self, shared: &Ejections, now: Time) {
        let interval = self.policy.interval;
        let common = shared.common > self.common;
        for (address, host) in self.hosts.iter_mut() {
            if let Standing::Out(out) = &host.standing
                && shared.of(address).is_none()
            {
                if common {
                    // What is known of it is that it failed.
                    host.record.failed(out.ejection.failure, now);
                } else {
                    // What it did before stays known: else others would be held to a record that is clean for being short.
                    host.record.answered(self.policy.probe_successes);
                }
                host.standing.readmit(now, interval, common);
            }
            host.seen = host.seen.min(now);
            host.standing.clamp(now, interval);
        }
        for ejection in &shared.out {
            if let Some(host) = self.hosts.seen(&ejection.address, now) {
                host.standing.follow(ejection.clone());
            }
        }
        (self.common, self.exchanged) = (shared.common, now);
        self.troubled = self.troubled.min(now);
        self.broken = self.broken.min(now);
        self.out = self.hosts.out();
        self.steering.steers(self.out > 0, now);
    }
}

impl From<&Change> for Event {
    fn from(change: &Change) -> Self {
        match change {
            Change::Eject(ejection, _) => Self::Ejected(ejection.clone()),
            Change::Extend(ejection) => Self::Extended(ejection.clone()),
            Change::Readmit(address) => Self::Readmitted(address.clone()),
            Change::ReadmitAll => Self::AllReadmitted,
        }
    }
}
