//! What all workers know of a cluster's incidents: those of its hosts, and those that concern several of them; and the record that
//! has it, as bytes.

use super::episode::{Down, Episode, IdleResets, Restarts};
use super::host::{Context, HostIncidents, Settled};
use super::pattern::{Event, Pattern, State};
use super::{Milliseconds, Note, add, sub, times};
use crate::base::bytes::{Format, Reader, Writer};
use crate::base::time::Time;
use crate::outlier::host::is_address;

/// A record holds at most this many hosts.
pub const MOST_HOSTS_DOWN: usize = 64;
/// This many resets of idle connections, each at another moment, are a race.
pub const RACES: u64 = 3;
/// Idle times are alike if the longest is at most this many times half the shortest.
pub const ALIKE: u64 = 3;
/// The record. Times are milliseconds since the epoch; 0 is none.
#[derive(Clone, Debug, Default)]
pub(super) struct ClusterIncidents {
    pub(super) hosts: Vec<HostIncidents>,
    pub(super) outage: Option<Outage>,
    pub(super) race: Race,
}

/// Most hosts are down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outage {
    pub(super) since: Milliseconds,
    /// How many hosts went down.
    pub(super) hosts: u64,
    /// How far apart they went down.
    pub(super) within: Milliseconds,
}

/// Requests on idle connections race with the server, which closes these.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Race {
    /// The number of moments at which idle connections were reset.
    pub(super) moments: u64,
    /// The latest such moment.
    pub(super) latest: Milliseconds,
    /// The shortest idle time.
    pub(super) idle_min: Milliseconds,
    /// The longest idle time.
    pub(super) idle_max: Milliseconds,
    /// When the race was reported; 0 if it was not.
    pub(super) reported: Milliseconds,
}

impl Race {
    /// A host answers again whose idle connections were reset, after idle times between these two.
    fn add(&mut self, min: Milliseconds, max: Milliseconds, now: Milliseconds, interval: Milliseconds) {
        let (all_min, all_max) = (self.idle_min.min(min), self.idle_max.max(max));
        let goes_on = self.moments > 0 && sub(now, self.latest) < times(interval, 30);
        if goes_on && times(all_max, 2) <= times(all_min, ALIKE) {
            (self.idle_min, self.idle_max) = (all_min, all_max);
            // Of several hosts that had been idle for as long, connections are reset at one moment.
            let moment = |time| time / (interval / 10).max(1);
            self.moments = add(self.moments, u64::from(moment(now) != moment(self.latest)));
        } else if self.reported == 0 {
            (self.idle_min, self.idle_max, self.moments) = (min, max, 1);
        }
        self.latest = now;
    }

    /// Time passes: the incident may open or end.
    fn advance(&mut self, now: Milliseconds, interval: Milliseconds) -> Option<Event> {
        let over = sub(now, self.latest) >= times(interval, 30);
        let shows = self.moments >= RACES && times(self.idle_max, 2) <= times(self.idle_min, ALIKE);
        let event = |race: &Self, state| {
            let numbers = [race.moments, race.idle_min, race.idle_max, sub(now, race.reported)];
            Some(Event::new(state, Pattern::KeepAliveRace, None, &numbers))
        };
        match self.reported {
            0 if shows => {
                self.reported = now;
                event(self, State::Open)
            }
            0 if over => {
                *self = Self::default();
                None
            }
            1.. if over => event(&std::mem::take(self), State::Over),
            _ => None,
        }
    }
}

impl ClusterIncidents {
    /// Adds what a worker noted.
    pub(super) fn note(&mut self, note: &Note) {
        let known = self.hosts.iter().position(|host| host.address == note.host);
        let Some(kind) = note.kind else {
            if let Some(host) = known.and_then(|position| self.hosts.get_mut(position)) {
                host.episode_mut().answer(note.first, note.last);
            }
            return;
        };
        if known.is_none() && is_address(&note.host) {
            self.add(HostIncidents::new(&note.host));
        }
        let Some(host) = self.hosts.iter_mut().find(|host| host.address == note.host) else { return };
        host.episode_mut().fail(kind, note.first, note.last, note.count);
        if let Some(idle) = note.idle {
            host.episode_mut().reset_after_idle(idle);
        }
    }

    /// Adds a host. Where there is no room, it replaces another: first one without an open incident, then one that is not down, then the one
    /// that is down for longest. (Where all have open incidents, the end of that one is not reported.)
    fn add(&mut self, host: HostIncidents) {
        if self.hosts.len() < MOST_HOSTS_DOWN {
            self.hosts.push(host);
        } else if let Some(least) = self.hosts.iter_mut().min_by_key(|host| (host.open().is_some(), host.down_since()))
        {
            *least = host;
        }
    }

    /// Time passes. `known` is how many hosts the cluster has.
    pub(super) fn advance(
        &mut self,
        now: Milliseconds,
        interval: Milliseconds,
        known: usize,
        seen_whole: bool,
        events: &mut Vec<Event>,
    ) {
        events.extend(self.advance_outage(now, interval, known as u64));
        let context = Context { now, interval, is_cluster_wide: self.outage.is_some(), seen_whole };
        for host in &mut self.hosts {
            match host.advance(context, events) {
                Settled::IdleResets { min, max } => self.race.add(min, max, now, interval),
                // Connections in use were reset as well, so it was no race.
                Settled::Resets if self.race.reported == 0 => self.race.moments = 0,
                _ => {}
            }
        }
        self.hosts.retain(|host| !host.is_empty());
        events.extend(self.race.advance(now, interval));
    }

    /// Whether most hosts went down at once, or are back.
    fn advance_outage(&mut self, now: Milliseconds, interval: Milliseconds, known: u64) -> Option<Event> {
        let event = |state, Outage { since, hosts, within }: Outage| {
            let numbers = [hosts, known, within, sub(now, since)];
            Some(Event::new(state, Pattern::Everyone, None, &numbers))
        };
        if let Some(outage) = self.outage {
            let down = self.hosts.iter().filter(|host| host.is_down()).count() as u64;
            if down.saturating_mul(2) > outage.hosts {
                return None;
            }
            self.outage = None;
            return event(State::Over, outage);
        }
        let at_once = interval / 10;
        let mut last = None;
        for host in &self.hosts {
            last = last.max(host.failing_since());
        }
        let last = last?;
        let (mut hosts, mut first) = (0, last);
        for host in &self.hosts {
            if let Some(since) = host.failing_since().filter(|since| last - since <= at_once) {
                hosts += 1;
                first = first.min(since);
            }
        }
        if hosts < 2 || hosts <= known / 2 || sub(now, last) < at_once {
            return None;
        }
        let outage = Outage { since: now, hosts, within: last - first };
        self.outage = Some(outage);
        for host in &mut self.hosts {
            if host.down_since() >= Some(first) {
                host.set_cluster_wide();
            }
        }
        event(State::Open, outage)
    }

    /// Calls `schedule` for each host that should be probed, and when.
    pub(super) fn each_scheduled_probe(&self, now: Milliseconds, schedule: &mut dyn FnMut(&str, Time)) {
        for host in &self.hosts {
            if let Some(at) = host.scheduled_probe(now) {
                schedule(&host.address, Time::from_nanos(times(at, 1_000_000)));
            }
        }
    }

    /// Whether a host is down, or not yet surely back.
    pub(super) fn is_down(&self) -> bool {
        self.hosts.iter().any(|host| host.down_since().is_some())
    }

    /// The number of incidents of a pattern that are open.
    pub(super) fn open(&self, pattern: Pattern) -> u64 {
        match pattern {
            Pattern::KeepAliveRace => u64::from(self.race.reported > 0),
            Pattern::Everyone => u64::from(self.outage.is_some()),
            _ => self.hosts.iter().filter(|host| host.open() == Some(pattern)).count() as u64,
        }
    }
}

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
