//! What a worker tells the others, and hears from them.

use std::time::Duration;

use super::{Event, MOST_EVENTS, Outliers};
use crate::base::time::Time;
use crate::outlier::ejection::Standing;
use crate::outlier::shared::{Change, Ejections, decode_roster, encode_roster};

/// Which hosts there are is said at most so often.
const OFTEN: Duration = Duration::from_secs(10);

impl Outliers {
    /// Reads the record that all workers share, and returns what to put in its place, if anything.
    pub fn exchange(&mut self, record: Option<&[u8]>, now: Time) -> Option<Vec<u8>> {
        let found = record.and_then(|record| Ejections::decode(record, &self.policy, now)).unwrap_or_default();
        self.hear(&found, now);
        let mut shared = found;
        // Evidence is added and dropped, and never changed. Without anything to say, there is nothing to compare.
        let parts = |shared: &Ejections| {
            (shared.common, shared.told, shared.evidence.len(), shared.out.clone(), shared.speakers.clone())
        };
        let before = self.is_pending().then(|| parts(&shared));
        let (me, applied) = (self.me, &mut self.applied);
        applied.clear();
        applied.extend(self.pending.iter().filter(|change| shared.apply(change, me, now)).filter_map(event));
        let changed = before.is_some_and(|before| before != parts(&shared));
        let kept = shared.keep(me, self.has_requests(now), now);
        self.adopt(&shared, now);
        if !changed && !kept {
            return None;
        }
        let mut record = Vec::new();
        shared.encode(&mut record);
        Some(record)
    }

    /// Counts what other workers saw fail as if this one had seen it.
    fn hear(&mut self, shared: &Ejections, now: Time) {
        // The record may have been lost, and begun anew.
        let heard = std::mem::replace(&mut self.heard, shared.told).min(shared.told);
        for evidence in &shared.evidence {
            if evidence.by == self.me || evidence.number <= heard || !evidence.is_fresh(now) {
                continue;
            }
            let interval = self.policy.interval;
            let Some(place) = self.hosts.seen(&evidence.address, now) else { continue };
            let Some(failure) = evidence.failure else {
                self.steering.picked(&mut self.hosts, place);
                continue;
            };
            if let Some(host) = self.hosts.at_mut(place)
                && let Standing::In(health) = &mut host.standing
                && health.concerns(evidence.at)
            {
                health.failed(now, interval);
                host.evident(now);
                self.hosts.answered(place, evidence.answers);
                self.failed(place, failure, false, now);
            }
        }
    }

    /// What [`exchange`](Self::exchange) returned is in the record, or it returned nothing, or it cannot be helped.
    pub fn published(&mut self) {
        self.pending.clear();
        for event in std::mem::take(&mut self.applied) {
            self.tell(event);
        }
    }

    /// Which hosts there are, for workers that do not know yet, to put under a key of its own: see [`crate::outlier::shared`]. `None`
    /// if this worker hardly knows itself, or said so a moment ago, or there are more than can be remembered: then nothing is
    /// steered.
    pub fn roster(&mut self, now: Time) -> Option<Vec<u8>> {
        let recent = now.since(self.listed) < OFTEN && self.listed <= now;
        if recent || self.is_stranger() || self.hosts.is_crowded(now) {
            return None;
        }
        self.listed = now;
        let known = self.hosts.iter().filter(|host| host.picks.weight > 0);
        Some(encode_roster(known.map(|host| (&*host.address, host.picks.weight)), now))
    }

    /// Whether some host is out, and hardly any other is known: told once.
    pub fn wants_roster(&mut self) -> bool {
        self.out > 0 && self.is_stranger() && !std::mem::replace(&mut self.asked, true)
    }

    /// Learns which hosts there are from what another worker [said](Self::roster).
    pub fn learn(&mut self, roster: &[u8], now: Time) {
        let Some(shares) = decode_roster(roster, now) else { return };
        for (address, _) in &shares {
            self.hosts.seen(address, now);
        }
        self.steering.learn(&mut self.hosts, &shares);
    }

    fn is_stranger(&self) -> bool {
        self.steering.is_stranger(self.hosts.len() as u64)
    }

    pub(super) fn tell(&mut self, event: Event) {
        if self.events.len() < MOST_EVENTS {
            self.events.push(event);
        }
    }

    /// Does as the record says.
    fn adopt(&mut self, shared: &Ejections, now: Time) {
        let common = shared.common > self.common;
        let picks = self.steering.picks();
        if self.hosts.adopt(&shared.out, common, self.policy.probe_successes, picks, now) && !common {
            self.desperate = Time::default();
        }
        (self.common, self.exchanged) = (shared.common, now);
        self.speaking = shared.speaking(now);
        self.troubled = self.troubled.min(now);
        self.broken = self.broken.min(now);
        self.lost = self.lost.min(now);
        self.out = self.hosts.out();
        self.was_out = if self.out > 0 { now } else { self.was_out.min(now) };
        self.steering.steers(self.out > 0, now);
    }
}

fn event(change: &Change) -> Option<Event> {
    Some(match change {
        Change::See(..) | Change::Hurry => return None,
        Change::Eject(ejection, _) => Event::Ejected(ejection.clone()),
        Change::Extend(ejection) => Event::Extended(ejection.clone()),
        Change::Readmit(address) => Event::Readmitted(address.clone()),
        Change::ReadmitAll => Event::AllReadmitted,
    })
}
