//! What all workers know of a cluster's incidents: the stories of its hosts, and what concerns several of them.

use super::host::{Settled, Story};
use super::{Event, Milliseconds, Note, Pattern, State, add, sub, times};
use crate::base::bytes::{Format, Reader, Writer};
use crate::base::time::Time;
use crate::outlier::address::is_address;

/// At most so many hosts have a story at a time.
pub const MOST_STORIES: usize = 64;
/// So many resets of idle connections, each at another moment, are a race.
pub const RACES: u64 = 3;
/// Idle times are alike if the longest is at most so many times the shortest; in halves.
pub const ALIKE: u64 = 3;
/// A host counts as one of many that are down with so many failures.
const FAILURES: u64 = 3;

/// The record.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    stories: Vec<Story>,
    /// Since when most hosts are down; 0: they are not.
    everyone: Milliseconds,
    /// How many there were, and how far apart they went.
    hosts: u64,
    within: Milliseconds,
    /// Moments at which connections were reset that had been idle: how many, since when, and when last.
    races: u64,
    raced: Milliseconds,
    idle_min: Milliseconds,
    idle_max: Milliseconds,
    /// When the race was told; 0: it was not.
    told: Milliseconds,
}

impl Shared {
    const TIMES: usize = 3;

    /// All its numbers, the times first.
    fn numbers(&mut self) -> [&mut u64; 8] {
        [
            &mut self.everyone,
            &mut self.raced,
            &mut self.told,
            &mut self.hosts,
            &mut self.within,
            &mut self.races,
            &mut self.idle_min,
            &mut self.idle_max,
        ]
    }

    /// The record in bytes; empty if there is nothing to remember.
    pub(super) fn encode(&mut self) -> Vec<u8> {
        let mut record = Vec::new();
        if self.stories.is_empty() && self.numbers().iter().all(|number| **number == 0) {
            return record;
        }
        let mut writer = Writer::new(&mut record, &FORMAT, 64 + 320 * self.stories.len());
        write(&mut writer, &mut self.numbers());
        for story in &mut self.stories {
            // Addresses are at most `LONGEST_ADDRESS` long, see `is_address`.
            writer.text(&story.address);
            write(&mut writer, &mut story.numbers());
        }
        record
    }

    /// The record in these bytes, brought back to what is possible now. `None` if it is no such record, or one of another
    /// version: then there is nothing to remember.
    pub(super) fn decode(record: &[u8], now: Milliseconds) -> Option<Self> {
        let mut record = Reader::new(record, &FORMAT)?;
        let mut shared = Self::default();
        read(&mut record, &mut shared.numbers(), Self::TIMES, now)?;
        while !record.is_empty() {
            let address = record.text().filter(|address| is_address(address))?;
            let mut story = Story::new(address);
            read(&mut record, &mut story.numbers(), Story::TIMES, now)?;
            if shared.stories.len() >= MOST_STORIES {
                return None;
            }
            shared.stories.push(story);
        }
        Some(shared)
    }

    /// Adds what a worker noted.
    pub(super) fn note(&mut self, note: &Note) {
        let known = self.stories.iter().position(|story| story.address == note.host);
        let Some(kind) = note.kind else {
            if let Some(story) = known.and_then(|position| self.stories.get_mut(position)) {
                story.answer(note.first, note.last);
            }
            return;
        };
        if known.is_none() && is_address(&note.host) {
            let story = Story::new(&note.host);
            if self.stories.len() < MOST_STORIES {
                self.stories.push(story);
            } else if let Some(least) = self.stories.iter_mut().min_by_key(|story| (story.open().is_some(), story.down))
            {
                *least = story;
            }
        }
        let Some(story) = self.stories.iter_mut().find(|story| story.address == note.host) else { return };
        story.fail(kind, note.first, note.last, note.count);
        if let Some(idle) = note.idle {
            story.idle(idle);
        }
    }

    /// Time passes.
    pub(super) fn advance(
        &mut self,
        now: Milliseconds,
        interval: Milliseconds,
        known: usize,
        seen_whole: bool,
        events: &mut Vec<Event>,
    ) {
        self.most_hosts(now, interval, known, events);
        let quiet = self.everyone > 0;
        let mut stories = std::mem::take(&mut self.stories);
        for story in &mut stories {
            let (least, most) = (story.idle_min, story.idle_max);
            match story.advance(now, interval, quiet, seen_whole, events) {
                Settled::Stale => self.raced(least, most, now, interval),
                Settled::Broken if self.told == 0 => self.races = 0,
                _ => {}
            }
        }
        stories.retain(|story| !story.is_empty());
        self.stories = stories;
        self.race(now, interval, events);
    }

    /// Connections of a host that had been idle were reset, and it answers.
    fn raced(&mut self, least: Milliseconds, most: Milliseconds, now: Milliseconds, interval: Milliseconds) {
        let (min, max) = (self.idle_min.min(least), self.idle_max.max(most));
        let goes_on = self.races > 0 && sub(now, self.raced) < times(interval, 30);
        if goes_on && times(max, 2) <= times(min, ALIKE) {
            (self.idle_min, self.idle_max) = (min, max);
            self.races = add(self.races, 1);
        } else if self.told == 0 {
            (self.idle_min, self.idle_max, self.races) = (least, most, 1);
        }
        self.raced = now;
    }

    fn race(&mut self, now: Milliseconds, interval: Milliseconds, events: &mut Vec<Event>) {
        let over = sub(now, self.raced) >= times(interval, 30);
        let state = match self.told {
            0 if self.races >= RACES && times(self.idle_max, 2) <= times(self.idle_min, ALIKE) => {
                self.told = now;
                State::Open
            }
            1.. if over => State::Over,
            _ if over => {
                (self.races, self.raced, self.idle_min, self.idle_max) = (0, 0, 0, 0);
                return;
            }
            _ => return,
        };
        let numbers = [self.races, self.idle_min, self.idle_max, sub(now, self.told)];
        if state == State::Over {
            (self.races, self.raced, self.idle_min, self.idle_max, self.told) = (0, 0, 0, 0, 0);
        }
        events.push(Event::new(state, Pattern::KeepAliveRace, None, &numbers));
    }

    /// Whether most hosts went down at once.
    fn most_hosts(&mut self, now: Milliseconds, interval: Milliseconds, known: usize, events: &mut Vec<Event>) {
        let (at_once, most) = (interval / 10, known as u64 / 2);
        if self.everyone > 0 {
            let down = self.stories.iter().filter(|story| story.is_down()).count() as u64;
            if down * 2 <= self.hosts {
                self.tell_everyone(State::Over, known, now, events);
                (self.everyone, self.hosts, self.within) = (0, 0, 0);
            }
            return;
        }
        let failing = |story: &&mut Story| story.is_down() && story.failures() >= FAILURES;
        let last = self.stories.iter_mut().filter(failing).map(|story| story.down).max().unwrap_or(now);
        let (mut hosts, mut first) = (0, last);
        for story in self.stories.iter_mut().filter(failing) {
            if last - story.down <= at_once {
                (hosts, first) = (hosts + 1, first.min(story.down));
            }
        }
        if hosts < 2 || hosts <= most || sub(now, last) < at_once {
            return;
        }
        (self.everyone, self.hosts, self.within) = (now, hosts, last - first);
        self.stories.iter_mut().filter(|story| story.down >= first).for_each(|story| story.shared = 1);
        self.tell_everyone(State::Open, known, now, events);
    }

    fn tell_everyone(&self, state: State, known: usize, now: Milliseconds, events: &mut Vec<Event>) {
        let numbers = [self.hosts, known as u64, self.within, sub(now, self.everyone)];
        events.push(Event::new(state, Pattern::Everyone, None, &numbers));
    }

    /// Which hosts to look at, and when.
    pub(super) fn each_scheduled_probe(&self, now: Milliseconds, look_at: &mut dyn FnMut(&str, Time)) {
        for story in &self.stories {
            if let Some(at) = story.look_at(now) {
                look_at(&story.address, Time::from_nanos(times(at, 1_000_000)));
            }
        }
    }

    /// Whether a host is down, or not yet surely back.
    pub(super) fn is_down(&self) -> bool {
        self.stories.iter().any(|story| story.down > 0)
    }

    /// How many incidents of a pattern are open.
    pub(super) fn open(&self, pattern: Pattern) -> u64 {
        match pattern {
            Pattern::KeepAliveRace => u64::from(self.told > 0),
            Pattern::Everyone => u64::from(self.everyone > 0),
            _ => self.stories.iter().filter(|story| story.open() == Some(pattern)).count() as u64,
        }
    }
}

/// What a record starts with: a name, and the version of what follows.
const FORMAT: Format = *b"wri\x01";

fn write(record: &mut Writer<'_>, numbers: &mut [&mut u64]) {
    numbers.iter().for_each(|number| record.u64s([**number]));
}

/// Reads as many numbers. The first are times: the clock may have stepped back, and none is from the future.
#[inline(never)]
fn read(record: &mut Reader<'_>, numbers: &mut [&mut u64], times: usize, now: Milliseconds) -> Option<()> {
    for (position, number) in numbers.iter_mut().enumerate() {
        let most = if position < times { now } else { u64::MAX };
        **number = record.u64()?.min(most);
    }
    Some(())
}
