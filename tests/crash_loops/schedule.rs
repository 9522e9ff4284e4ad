//! When each replica crashes: the same in every run with the same seed.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Bounds of how long a replica works, resets, and refuses, in milliseconds.
const UP: RangeInclusive<u64> = 5000..=9000;
const RESETTING: RangeInclusive<u64> = 300..=800;
const REFUSING: RangeInclusive<u64> = 1000..=3000;

/// The last replica that is up waits with its crash until another has been back for this long.
const RELIEF: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Answers.
    Up,
    /// Out of memory: resets the requests that it holds, processed or not, and those that still arrive.
    Resetting,
    /// Restarting: refuses connections.
    Refusing,
}

/// What a replica does from its crash until it is back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outage {
    /// Refuses connections, as where a process is gone.
    #[default]
    Refuses,
    /// Accepts them and never answers, as where a process is stuck; it is killed at the end.
    Hangs,
    /// The same in place of the resets as well: it takes requests, and answers nothing from one moment to the other.
    Stalls,
    /// Refuses connections; and before each crash a garbage collector stops it once a second, for longer and longer.
    Collects,
}

/// One crash, in times since the start of a run.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    pub resets_from: Duration,
    pub refuses_from: Duration,
    pub back_at: Duration,
}

/// The crashes of one replica, in order.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    pub crashes: Vec<Crash>,
}

impl Timeline {
    /// Crash loops of `replicas` replicas over `length`, such that at every moment at least one of them is up.
    pub fn crash_loops(seed: u64, replicas: usize, length: Duration) -> Vec<Self> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut draw = |range| Duration::from_millis(random.u64(range));
        let mut timelines = vec![Self::default(); replicas];
        // Each starts somewhere in its loop.
        let mut crash_at: Vec<Duration> = (0..replicas).map(|_| draw(1000..=*UP.end())).collect();
        while let Some((replica, at)) = crash_at.iter().copied().enumerate().min_by_key(|(_, at)| *at)
            && at < length
        {
            let others = timelines.iter().enumerate().filter(|(other, _)| *other != replica);
            let relief = others.map(|(_, other)| other.reliable_from()).min().unwrap_or_default();
            if at < relief {
                crash_at[replica] = relief;
                continue;
            }
            let refuses_from = at + draw(RESETTING);
            let back_at = refuses_from + draw(REFUSING);
            timelines[replica].crashes.push(Crash { resets_from: at, refuses_from, back_at });
            crash_at[replica] = back_at + draw(UP);
        }
        timelines
    }

    /// The same crashes, all of them so much later.
    pub fn delayed(mut self, by: Duration) -> Self {
        for crash in &mut self.crashes {
            crash.resets_from += by;
            crash.refuses_from += by;
            crash.back_at += by;
        }
        self
    }

    /// Until when a garbage collector stops this replica at that time: before a crash once in each of six seconds, for 0.15 s at
    /// first and for 0.9 s at last.
    pub fn collects_until(&self, at: Duration) -> Option<Duration> {
        let crash = self.crashes.iter().find(|crash| crash.resets_from > at)?;
        (1..=6).find_map(|round: u32| {
            let from = crash.resets_from.checked_sub(Duration::from_secs(7) - Duration::from_secs(1) * round)?;
            let until = from + Duration::from_millis(150) * round;
            (from <= at && at < until).then_some(until)
        })
    }

    /// When this replica has been back from its latest crash for long enough that the others may crash.
    fn reliable_from(&self) -> Duration {
        self.crashes.last().map_or(Duration::ZERO, |crash| crash.back_at + RELIEF)
    }

    pub fn phase(&self, at: Duration) -> Phase {
        match self.crashes.iter().rev().find(|crash| crash.resets_from <= at) {
            Some(crash) if at < crash.refuses_from => Phase::Resetting,
            Some(crash) if at < crash.back_at => Phase::Refusing,
            _ => Phase::Up,
        }
    }
}
