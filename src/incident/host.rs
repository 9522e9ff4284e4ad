//! One host's story: how it went down and came back, and which pattern that makes.
//!
//! ```text
//!            a failure                 an answer to what began later
//!   fine ───────────────► down ─────────────────────────────────────► back
//!    ▲                     ▲                                           │ │
//!    │                     └──── refused again within `settle` ────────┘ │
//!    └──────────── no failure for `settle`: the episode is told ─────────┘
//! ```
//!
//! An episode with a refusal in it is a *restart*: nothing listened, and then something did. With a reset in it, it is a
//! *crash*: requests were cut off. When a host came back is known to lie between the last failure and the first answer,
//! which can be far apart, since a host that is out is probed more and more seldom. So the time down is kept as these
//! two bounds. If one and the same time fits all restarts, it lies within all bounds, and more restarts narrow it down.

use super::{Event, Milliseconds, Pattern, State, add, sub, times};

/// Failures of an attempt, as patterns tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Broken off.
    Reset,
    /// Connection refused.
    Refused,
    /// No connection within the connect timeout.
    ConnectTimeout,
    /// No connection for another reason.
    NoConnection,
    /// No answer in time.
    Timeout,
    /// An answer that is a failure.
    Error,
}

const KINDS: usize = 6;
/// Workers' clocks and event loops are this far apart at most.
const SKEW: Milliseconds = 20;
/// What another worker saw is known so much later at most, as a rule.
const LAG: Milliseconds = 200;
/// So many crashes are a loop.
pub const CRASHES: u64 = 3;
/// So many are a loop, though nobody knows well how long it is down each time.
pub const MANY_CRASHES: u64 = 5;
/// So many refusals at least, over three intervals, mean that nothing listens.
pub const REFUSALS: u64 = 5;
/// So many connect timeouts at least, over one interval, mean that a host cannot be reached.
pub const CONNECT_TIMEOUTS: u64 = 3;
/// So many timeouts before a host broke off or refused make its death a slow one.
pub const TIMEOUTS: u64 = 3;

/// What is known of a host in trouble. All times are milliseconds since the epoch; 0 is none.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// The host's address and port.
    pub address: Box<str>,
    /// First and last failure of the current episode, and the first answer after it.
    pub(super) down: Milliseconds,
    failed: Milliseconds,
    up: Milliseconds,
    /// The first reset or refusal in it.
    died: Milliseconds,
    first_down: Milliseconds,
    last_down: Milliseconds,
    /// When the open incident was told, and told again.
    opened: Milliseconds,
    told_at: Milliseconds,
    /// Failures in the current episode.
    counts: [u64; KINDS],
    /// Resets of connections that were idle for long, and how long at least and at most.
    pub(super) stale: u64,
    pub(super) idle_min: Milliseconds,
    pub(super) idle_max: Milliseconds,
    /// Timeouts before the first reset or refusal of the current episode.
    timeouts: u64,
    restarts: u64,
    crashes: u64,
    /// Resets and refusals in all restarts.
    resets: u64,
    refusals: u64,
    period_min: Milliseconds,
    period_max: Milliseconds,
    /// What the time down is at least, and at most, by each restart: the bounds that are met by all, and the middles.
    least: Milliseconds,
    most: Milliseconds,
    middle_min: Milliseconds,
    middle_max: Milliseconds,
    middle_sum: Milliseconds,
    /// The pattern that is open, by its number, from 1.
    told: u64,
    /// Whether the current episode is part of one that most hosts share.
    pub(super) shared: u64,
}

/// How an episode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It goes on, or there is none.
    No,
    /// Resets of idle connections, and nothing else.
    Stale,
    /// Other resets, and no refusal.
    Broken,
    /// Anything else.
    Other,
}

impl Story {
    /// Its times are the first of its [numbers](Self::numbers).
    pub(super) const TIMES: usize = 8;

    /// A host's story begins.
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self { address: address.into(), ..Self::default() }
    }

    /// All its numbers, the times first. (Not inlined: four loops run over it.)
    #[inline(never)]
    pub(super) fn numbers(&mut self) -> [&mut u64; Self::TIMES + KINDS + 17] {
        let [reset, refused, connect_timeout, no_connection, timeout, error] = &mut self.counts;
        [
            &mut self.down,
            &mut self.failed,
            &mut self.up,
            &mut self.died,
            &mut self.first_down,
            &mut self.last_down,
            &mut self.opened,
            &mut self.told_at,
            reset,
            refused,
            connect_timeout,
            no_connection,
            timeout,
            error,
            &mut self.stale,
            &mut self.idle_min,
            &mut self.idle_max,
            &mut self.timeouts,
            &mut self.restarts,
            &mut self.crashes,
            &mut self.resets,
            &mut self.refusals,
            &mut self.period_min,
            &mut self.period_max,
            &mut self.least,
            &mut self.most,
            &mut self.middle_min,
            &mut self.middle_max,
            &mut self.middle_sum,
            &mut self.told,
            &mut self.shared,
        ]
    }

    fn count(&self, kind: Kind) -> u64 {
        self.counts.get(kind as usize).copied().unwrap_or_default()
    }

    /// How many failures the current episode has.
    pub(super) fn failures(&self) -> u64 {
        self.counts.iter().fold(0, |sum, count| add(sum, *count))
    }

    /// Whether it is down: it failed, and has not answered since.
    #[must_use]
    pub const fn is_down(&self) -> bool {
        self.down > 0 && self.up == 0
    }

    /// When to look whether it is back, to learn how long it is down each time: twice between what is known from the
    /// restarts before to be too early, and to be late enough. So each restart leaves a third of what is not known. `None`
    /// where it is known well enough, or nothing is, or the loop is told already.
    pub(super) fn look_at(&self, now: Milliseconds) -> Option<Milliseconds> {
        if !self.is_down() || self.restarts == 0 || self.open() == Some(Pattern::CrashLoop) {
            return None;
        }
        // Without a refusal it is no restart, and whoever waits longer from probe to probe than it is down sees none.
        let half = add(self.down, self.least / 2);
        if self.count(Kind::Refused) == 0 && half > now {
            return Some(half);
        }
        let third = sub(self.most, self.least) / 3;
        if third <= self.least / 30 {
            return None;
        }
        let first = add(add(self.down, self.least), third);
        Some(if first > now { first } else { add(first, third) })
    }

    /// The pattern that is open on this host.
    #[must_use]
    pub fn open(&self) -> Option<Pattern> {
        Pattern::ALL.get(usize::try_from(self.told.checked_sub(1)?).ok()?).copied()
    }

    /// Failures of a kind, the first and the last at these times.
    pub(super) fn fail(&mut self, kind: Kind, first: Milliseconds, last: Milliseconds, count: u64) {
        if self.up > 0 && last > self.up {
            if self.count(Kind::Refused) > 0 {
                self.up = 0;
            } else {
                self.end_episode();
            }
        }
        self.down = earliest(self.down, first);
        self.failed = self.failed.max(last);
        if matches!(kind, Kind::Reset | Kind::Refused) {
            self.died = earliest(self.died, first);
        } else if kind == Kind::Timeout && self.died == 0 {
            self.timeouts = add(self.timeouts, count);
        }
        if let Some(known) = self.counts.get_mut(kind as usize) {
            *known = add(*known, count);
        }
    }

    /// A reset of a connection that had been idle for so long.
    pub(super) fn idle(&mut self, idle: Milliseconds) {
        self.idle_min = earliest(self.idle_min, idle);
        self.idle_max = self.idle_max.max(idle);
        self.stale = add(self.stale, 1);
    }

    /// It answered what began then.
    pub(super) fn answer(&mut self, first: Milliseconds, last: Milliseconds) {
        let back = add(self.failed, SKEW);
        if self.down == 0 || last < back {
            return;
        }
        self.up = earliest(self.up, first.max(back));
    }

    fn end_episode(&mut self) {
        (self.down, self.failed, self.up, self.died, self.shared) = (0, 0, 0, 0, 0);
        (self.stale, self.idle_min, self.idle_max, self.timeouts) = (0, 0, 0, 0);
        self.counts = [0; KINDS];
    }

    /// Time passes: an episode may be over, a pattern may show or end.
    pub(super) fn advance(
        &mut self,
        now: Milliseconds,
        interval: Milliseconds,
        quiet: bool,
        seen_whole: bool,
        events: &mut Vec<Event>,
    ) -> Settled {
        let mut settled = Settled::No;
        if self.up > 0 && now >= add(add(self.up, settle(interval)), LAG) {
            settled = self.settle(now, interval, seen_whole, events);
        }
        // Nothing is heard of it any more.
        let last = self.failed.max(self.up).max(self.last_down);
        let patience = match self.open() {
            Some(Pattern::CrashLoop) => times(self.period_max, 3).max(times(interval, 3)),
            Some(_) => times(interval, 30),
            None => times(interval, 360),
        };
        if sub(now, last) > patience {
            self.close(now, events);
            *self = Self::new(&self.address);
        }
        if self.is_down()
            && self.told == 0
            && !quiet
            && self.shared == 0
            && let Some(pattern) = self.dying(interval)
        {
            self.tell(pattern, now, events);
        }
        settled
    }

    /// What an episode that goes on looks like.
    fn dying(&self, interval: Milliseconds) -> Option<Pattern> {
        let [reset, refused, connect, other, timeout, error] = self.counts;
        let lasted = sub(self.failed, self.down);
        if self.timeouts >= TIMEOUTS && (refused > 0 || reset > 1) {
            return Some(Pattern::SlowDeath);
        }
        if reset + connect + other + timeout + error == 0
            && self.restarts == 0
            && refused >= REFUSALS
            && lasted >= times(interval, 3)
        {
            return Some(Pattern::NotListening);
        }
        let only = reset + refused + other + timeout + error == 0;
        (only && connect >= CONNECT_TIMEOUTS && lasted >= interval).then_some(Pattern::Unreachable)
    }

    /// The episode is over.
    fn settle(&mut self, now: Milliseconds, interval: u64, seen_whole: bool, events: &mut Vec<Event>) -> Settled {
        let (reset, refused) = (self.count(Kind::Reset), self.count(Kind::Refused));
        let shared = self.shared > 0;
        let settled = if refused == 0 && reset == self.failures() {
            if self.stale == reset { Settled::Stale } else { Settled::Broken }
        } else {
            Settled::Other
        };
        let told = self.open();
        // Where it is known to crash and start again, nobody needs to look whether it refused: it was away for long enough.
        let away = times(sub(self.up, self.down), 2) >= self.least;
        if refused > 0 || (told == Some(Pattern::CrashLoop) && settled == Settled::Broken && away) {
            self.restarted(reset > 0);
        }
        let again = sub(now, self.told_at) >= times(interval, 60);
        if told == Some(Pattern::CrashLoop) {
            if again {
                self.told_at = now;
                events.push(self.event(State::Update, Pattern::CrashLoop, now));
            }
        } else {
            self.close(now, events);
            if shared || refused == 0 || !seen_whole {
                // Of everyone, or of nobody knows how many.
            } else if self.crashes >= CRASHES && self.is_known() {
                self.tell(Pattern::CrashLoop, now, events);
            } else if told.is_none() && (self.restarts < CRASHES || again) {
                self.told_at = now;
                events.push(self.event(State::Over, Pattern::Restart, now));
            }
        }
        self.end_episode();
        settled
    }

    /// Whether it is known well enough how long it is down each time: to a tenth, or as well as can be; or there were many
    /// crashes.
    fn is_known(&self) -> bool {
        self.crashes >= MANY_CRASHES || sub(self.most, self.least) <= LAG.max(self.least / 10)
    }

    fn restarted(&mut self, crash: bool) {
        let first = self.restarts == 0;
        let least = sub(self.failed, self.down);
        let most = sub(self.up, self.down);
        let middle = add(least, most) / 2;
        if first {
            (self.first_down, self.least, self.most) = (self.down, least, most);
            (self.middle_min, self.middle_max) = (middle, middle);
        } else {
            let period = sub(self.down, self.last_down);
            self.period_min = if self.restarts == 1 { period } else { self.period_min.min(period) };
            self.period_max = self.period_max.max(period);
        }
        self.last_down = self.down;
        self.least = self.least.max(least);
        self.most = self.most.min(most);
        self.middle_min = self.middle_min.min(middle);
        self.middle_max = self.middle_max.max(middle);
        self.middle_sum = add(self.middle_sum, middle);
        self.restarts = add(self.restarts, 1);
        self.crashes = add(self.crashes, u64::from(crash));
        self.resets = add(self.resets, self.count(Kind::Reset));
        self.refusals = add(self.refusals, self.count(Kind::Refused));
    }

    fn tell(&mut self, pattern: Pattern, now: Milliseconds, events: &mut Vec<Event>) {
        (self.told, self.opened, self.told_at) = (pattern as u64 + 1, now, now);
        events.push(self.event(State::Open, pattern, now));
    }

    fn close(&mut self, now: Milliseconds, events: &mut Vec<Event>) {
        if let Some(pattern) = self.open() {
            events.push(self.event(State::Over, pattern, now));
        }
        self.told = 0;
    }

    /// Whether nothing is left to remember.
    pub(super) const fn is_empty(&self) -> bool {
        self.down == 0 && self.restarts == 0 && self.told == 0
    }

    fn event(&self, state: State, pattern: Pattern, now: Milliseconds) -> Event {
        let lasted = sub(now, self.opened);
        let host = Some(&*self.address);
        if matches!(pattern, Pattern::CrashLoop | Pattern::Restart) {
            let period = sub(self.last_down, self.first_down).checked_div(sub(self.restarts, 1)).unwrap_or_default();
            // One time fits all restarts, or they differ.
            let (down, min, max) = if self.least <= self.most {
                (add(self.least, self.most) / 2, self.least, self.most)
            } else {
                let middle = self.middle_sum.checked_div(self.restarts).unwrap_or_default();
                (middle, self.middle_min, self.middle_max)
            };
            let numbers = [
                self.restarts,
                down,
                min,
                max,
                self.resets,
                self.refusals,
                self.crashes,
                period,
                self.period_min,
                self.period_max,
                lasted,
            ];
            Event::new(state, pattern, host, &numbers)
        } else {
            let down = sub(self.up.max(self.failed), self.down);
            let count = |kind| self.count(kind);
            let numbers = [
                count(Kind::Reset),
                count(Kind::Refused),
                count(Kind::ConnectTimeout),
                count(Kind::Timeout),
                down,
                lasted,
            ];
            Event::new(state, pattern, host, &numbers)
        }
    }
}

/// The smaller of two, where 0 is none.
fn earliest(known: u64, other: u64) -> u64 {
    if known == 0 { other } else { known.min(other) }
}

/// A host that is back and fails again sooner was not back.
const fn settle(interval: Milliseconds) -> Milliseconds {
    interval / 20
}
