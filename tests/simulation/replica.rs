//! A replica, and when it does what.

use std::time::Duration;

use weir::base::random::Random;
use weir::signal::Signal;

/// What a replica does with an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Fine,
    Resets,
    Refuses,
    Hangs,
    /// So many percent end so.
    Mixed(Signal, u64),
}

/// A replica, by what it does from when on.
#[derive(Clone, Debug)]
pub struct Replica(pub Vec<(Duration, State)>);

impl Replica {
    /// Does the same all the time.
    pub fn always(state: State) -> Self {
        Self(vec![(Duration::ZERO, state)])
    }

    /// Fine, then `state`, then fine again.
    pub fn between(from: Duration, to: Duration, state: State) -> Self {
        Self(vec![(Duration::ZERO, State::Fine), (from, state), (to, State::Fine)])
    }

    /// The incident: resets for 0.3 to 0.8 s, refuses for 1 to 3 s, is fine for 5 to 9 s, and again.
    pub fn crash_loop(random: &mut Random, lasts: Duration) -> Self {
        let mut millis = |from: u64, to: u64| Duration::from_millis(from + random.below(to - from));
        let mut phases = vec![(Duration::ZERO, State::Fine)];
        let mut time = millis(500, 9_000);
        while time < lasts {
            phases.push((time, State::Resets));
            time += millis(300, 800);
            phases.push((time, State::Refuses));
            time += millis(1_000, 3_000);
            phases.push((time, State::Fine));
            time += millis(5_000, 9_000);
        }
        Self(phases)
    }

    /// What it does at that time.
    pub fn state(&self, at: Duration) -> State {
        self.0.iter().rev().find(|(from, _)| *from <= at).map_or(State::Fine, |(_, state)| *state)
    }

    /// Since when it is fine, if it is: before, it had another process.
    pub fn fine_since(&self, at: Duration) -> Duration {
        self.0.iter().rev().find(|(from, _)| *from <= at).map_or(Duration::ZERO, |(from, _)| *from)
    }

    /// Since when it is not fine; then if it is.
    pub fn down_since(&self, at: Duration) -> Duration {
        let before = self.0.iter().rev().filter(|(from, _)| *from <= at);
        before.take_while(|(_, state)| *state != State::Fine).last().map_or(at, |(from, _)| *from)
    }

    /// If it breaks what it holds within that time: when.
    pub fn breaks_within(&self, at: Duration, within: Duration) -> Option<Duration> {
        let breaks = |state: State| matches!(state, State::Resets | State::Refuses);
        self.0
            .iter()
            .find(|(from, state)| *from > at && *from <= at + within && breaks(*state))
            .map(|(from, _)| *from - at)
    }

    /// Whether it was fine for the last half second.
    pub fn was_fine(&self, at: Duration) -> bool {
        let before = at.saturating_sub(Duration::from_millis(500));
        self.state(at) == State::Fine
            && self.state(before) == State::Fine
            && !self.0.iter().any(|(from, state)| *from > before && *from <= at && *state != State::Fine)
    }

    /// From when to when it was not fine, within the first `lasts`.
    pub fn outages(&self, lasts: Duration) -> Vec<(Duration, Duration)> {
        let mut outages: Vec<(Duration, Duration)> = Vec::new();
        let mut from = None;
        for (time, state) in &self.0 {
            match (from, state) {
                (None, State::Fine) => {}
                (None, _) => from = Some(*time),
                (Some(start), State::Fine) => {
                    outages.push((start, *time));
                    from = None;
                }
                (Some(_), _) => {}
            }
        }
        outages.retain(|(_, to)| *to < lasts);
        outages
    }
}
