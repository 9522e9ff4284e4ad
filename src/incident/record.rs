//! The record of a cluster's incidents, as bytes.

use super::Milliseconds;
use super::cluster::{ClusterIncidents, MOST_HOSTS_DOWN, Outage, Race};
use super::episode::{Down, Episode, IdleResets};
use super::host::HostIncidents;
use super::pattern::Pattern;
use super::restarts::Restarts;
use crate::base::bytes::{Format, Reader, Writer};
use crate::outlier::host::is_address;

/// What a record starts with: a name, and the version of what follows.
const FORMAT: Format = *b"wri\x01";

impl ClusterIncidents {
    /// The record as bytes; none if there is nothing to remember.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut record = Vec::new();
        let (outage, race) = (self.outage, &self.race);
        let Outage { since, hosts, within } = outage.unwrap_or(Outage { since: 0, hosts: 0, within: 0 });
        let numbers = [since, race.latest, race.reported, hosts, within, race.moments, race.idle_min, race.idle_max];
        if self.hosts.is_empty() && numbers == [0; 8] {
            return record;
        }
        let mut writer = Writer::new(&mut record, &FORMAT, 64 + 320 * self.hosts.len());
        writer.u64s(numbers);
        self.hosts.iter().for_each(|host| host.encode(&mut writer));
        record
    }

    /// Reads a record, brought back to what is possible now. `None` if it is no such record, or one of another version: then
    /// there is nothing to remember.
    pub(super) fn decode(record: &[u8], now: Milliseconds) -> Option<Self> {
        let mut record = Reader::new(record, &FORMAT)?;
        let [since, latest, reported] = record.u64s()?.map(|time: Milliseconds| time.min(now));
        let [hosts, within, moments, idle_min, idle_max] = record.u64s()?;
        let outage = (since > 0).then_some(Outage { since, hosts, within });
        let race = Race { moments, latest, idle_min, idle_max, reported };
        let mut shared = Self { hosts: Vec::new(), outage, race };
        while !record.is_empty() {
            let address = record.text().filter(|address| is_address(address))?;
            let host = HostIncidents::decode(address, &mut record, now)?;
            if shared.hosts.len() >= MOST_HOSTS_DOWN {
                return None;
            }
            shared.hosts.push(host);
        }
        Some(shared)
    }
}

impl HostIncidents {
    /// Writes the address, then the times, then the other numbers.
    fn encode(&self, record: &mut Writer<'_>) {
        let down = self.episode.down().copied().unwrap_or_default();
        let restarts = &self.restarts;
        // Addresses are at most `LONGEST_ADDRESS` long.
        record.text(&self.address);
        record.u64s([
            down.since,
            down.failed,
            self.episode.up(),
            down.first_break,
            restarts.first_down,
            restarts.last_down,
            self.opened,
            self.reported,
        ]);
        record.u64s(down.counts);
        record.u64s([
            down.idle.count,
            down.idle.min,
            down.idle.max,
            down.timeouts,
            restarts.count,
            restarts.crashes,
            restarts.resets,
            restarts.refusals,
            restarts.period_min,
            restarts.period_max,
            restarts.least,
            restarts.most,
            restarts.middle_min,
            restarts.middle_max,
            restarts.middle_sum,
            // The open pattern is written by its number, from 1; 0 is none.
            self.open.map_or(0, |pattern| pattern as u64 + 1),
            u64::from(down.is_cluster_wide),
        ]);
    }

    /// Reads what follows the address. The clock may have stepped back: no time is in the future.
    fn decode(address: &str, record: &mut Reader<'_>, now: Milliseconds) -> Option<Self> {
        let times = record.u64s::<8>()?.map(|time| time.min(now));
        let [since, failed, up, first_break, first_down, last_down, opened, reported] = times;
        let counts = record.u64s()?;
        let numbers: [_; 17] = record.u64s()?;
        let [idle_resets, min, max, timeouts, count, crashes, resets, refusals, period_min, period_max, ..] = numbers;
        let [.., least, most, middle_min, middle_max, middle_sum, open, is_cluster_wide] = numbers;
        let idle = IdleResets { count: idle_resets, min, max };
        let is_cluster_wide = is_cluster_wide > 0;
        let down = Down { since, failed, first_break, counts, idle, timeouts, is_cluster_wide };
        let episode = match (since, up) {
            (0, _) => Episode::None,
            (_, 0) => Episode::Down(down),
            (_, up) => Episode::Back(down, up),
        };
        let restarts = Restarts {
            count,
            crashes,
            resets,
            refusals,
            first_down,
            last_down,
            period_min,
            period_max,
            least,
            most,
            middle_min,
            middle_max,
            middle_sum,
        };
        let open = usize::try_from(open.wrapping_sub(1)).ok().and_then(|number| Pattern::ALL.get(number).copied());
        Some(Self { address: address.into(), episode, restarts, open, opened, reported })
    }
}
