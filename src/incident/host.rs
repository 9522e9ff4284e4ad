//! The incidents of one host: how it went down and came back, and which pattern that makes.
//!
//! ```text
//!            a failure                 an answer to what began later
//!   None ───────────────► Down ─────────────────────────────────────► Back
//!    ▲                     ▲                                           │ │
//!    │                     └───── fails again within `settle` ─────────┘ │
//!    └──────────── no failure for `settle`: the episode is over ─────────┘
//! ```
//!
//! An episode with a refusal in it is a *restart*: nothing listened, and then something did. With a reset in it, it is a
//! *crash*: requests were cut off. When a host came back is known to lie between the last failure and the first answer,
//! which can be far apart, since an ejected host is probed more and more seldom. So the time down is kept as these
//! two bounds. If one and the same time fits all restarts, it lies within all bounds, and more restarts narrow it down.

use super::episode::{CRASHES, Down, Episode, IdleResets, Kind, Restarts};
use super::pattern::{Event, Pattern, State};
use super::{Milliseconds, add, sub, times};

/// What another worker saw is known this much later at most, as a rule.
pub(super) const LAG: Milliseconds = 200;
/// A host counts as one of many that are down after this many failures.
const FAILURES: u64 = 3;
/// This many refusals, over three intervals, mean that nothing listens.
pub const REFUSALS: u64 = 5;
/// This many connect timeouts, over one interval, mean that a host cannot be reached.
pub const CONNECT_TIMEOUTS: u64 = 3;
/// This many timeouts before a host was reset or refused connections make its death a slow one.
pub const TIMEOUTS: u64 = 3;

/// What is known of a host that is down, was down, or has an open incident. Times are milliseconds since the epoch; 0 is none.
#[derive(Clone, Debug, Default)]
pub(super) struct HostIncidents {
    /// The address and port.
    pub(super) address: Box<str>,
    pub(super) episode: Episode,
    pub(super) restarts: Restarts,
    /// The pattern of the incident that is open.
    pub(super) open: Option<Pattern>,
    /// When the latest incident opened.
    pub(super) opened: Milliseconds,
    /// When something was last reported of the host.
    pub(super) reported: Milliseconds,
}

/// How an episode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// The episode goes on, or there is none.
    No,
    /// There were resets of idle connections, and nothing else. They had been idle for these times.
    IdleResets { min: Milliseconds, max: Milliseconds },
    /// There were other resets, and no refusal.
    Resets,
    /// There was another failure.
    Other,
}

/// What decides how the incidents of a host go on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    pub(super) now: Milliseconds,
    pub(super) interval: Milliseconds,
    /// Whether an incident of most hosts is open: then single hosts open none.
    pub(super) is_cluster_wide: bool,
    /// Whether all attempts are seen, also those that were retried.
    pub(super) seen_whole: bool,
}

impl HostIncidents {
    /// A host of which nothing is known yet.
    pub(super) fn new(address: &str) -> Self {
        Self { address: address.into(), ..Self::default() }
    }

    /// The current episode, to add attempts to it.
    pub(super) const fn episode_mut(&mut self) -> &mut Episode {
        &mut self.episode
    }

    /// When the current episode began, if there is one.
    pub(super) fn down_since(&self) -> Option<Milliseconds> {
        self.episode.down().map(|down| down.since)
    }

    /// When the host went down, if it is down and failed often enough to count as one of many that are.
    #[inline(never)]
    pub(super) fn failing_since(&self) -> Option<Milliseconds> {
        match &self.episode {
            Episode::Down(down) if down.failures() >= FAILURES => Some(down.since),
            _ => None,
        }
    }

    /// Whether the host is down: it failed, and has not answered since.
    pub(super) const fn is_down(&self) -> bool {
        matches!(self.episode, Episode::Down(_))
    }

    /// Most hosts went down with this one.
    pub(super) const fn set_cluster_wide(&mut self) {
        if let Episode::Down(down) | Episode::Back(down, _) = &mut self.episode {
            down.is_cluster_wide = true;
        }
    }

    /// The pattern of the incident that is open on this host.
    pub(super) const fn open(&self) -> Option<Pattern> {
        self.open
    }

    /// Whether nothing is left to remember.
    pub(super) const fn is_empty(&self) -> bool {
        matches!(self.episode, Episode::None) && self.restarts.count == 0 && self.open.is_none()
    }

    /// When to probe whether the host is back, to measure how long it is down each time: twice between the time that is known
    /// from the restarts before to be too early, and the one that is late enough. So each restart leaves a third of what is not
    /// known. `None` where it is known well enough, or nothing is known, or the crash loop was reported.
    pub(super) fn scheduled_probe(&self, now: Milliseconds) -> Option<Milliseconds> {
        let Episode::Down(down) = &self.episode else { return None };
        let Restarts { count, least, most, .. } = self.restarts;
        if count == 0 || self.open == Some(Pattern::CrashLoop) {
            return None;
        }
        // Without a refusal it is no restart, and probes that are further apart than the host is down would see none.
        let half = add(down.since, least / 2);
        if down.count(Kind::Refused) == 0 && half > now {
            return Some(half);
        }
        let third = sub(most, least) / 3;
        if third <= least / 30 {
            return None;
        }
        let first = add(add(down.since, least), third);
        Some(if first > now { first } else { add(first, third) })
    }

    /// Time passes: an episode may be over, an incident may open or end.
    pub(super) fn advance(&mut self, context: Context, events: &mut Vec<Event>) -> Settled {
        let Context { now, interval, .. } = context;
        let mut settled = Settled::No;
        if let Episode::Back(down, up) = self.episode
            && now >= add(add(up, settle(interval)), LAG)
        {
            settled = self.settle(&down, up, context, events);
            self.episode = Episode::None;
        }
        if self.is_abandoned(now, interval) {
            self.close(now, events);
            *self = Self::new(&self.address);
        }
        if let Episode::Down(down) = &self.episode
            && self.open.is_none()
            && !context.is_cluster_wide
            && !down.is_cluster_wide
            && let Some(pattern) = self.pattern_of(down, interval)
        {
            self.report_open(pattern, now, events);
        }
        settled
    }

    /// Whether nothing happened at the host for long, by its open pattern: it may have left the cluster.
    fn is_abandoned(&self, now: Milliseconds, interval: Milliseconds) -> bool {
        let latest = self.episode.down().map_or(0, |down| down.failed).max(self.episode.up());
        let remembered = match self.open {
            Some(Pattern::CrashLoop) => times(self.restarts.period_max, 3).max(times(interval, 3)),
            Some(_) => times(interval, 30),
            None => times(interval, 360),
        };
        sub(now, latest.max(self.restarts.last_down)) > remembered
    }

    /// The pattern that an episode shows while it goes on.
    fn pattern_of(&self, down: &Down, interval: Milliseconds) -> Option<Pattern> {
        let [reset, refused, connect, ..] = down.counts;
        let lasted = sub(down.failed, down.since);
        if down.timeouts >= TIMEOUTS && (refused > 0 || reset > 1) {
            return Some(Pattern::SlowDeath);
        }
        if refused == down.failures() && self.restarts.count == 0 && refused >= REFUSALS && lasted >= times(interval, 3)
        {
            return Some(Pattern::NotListening);
        }
        (connect == down.failures() && connect >= CONNECT_TIMEOUTS && lasted >= interval)
            .then_some(Pattern::Unreachable)
    }

    /// An episode is over: it may be a restart, and an incident may open, go on or end with it.
    fn settle(&mut self, down: &Down, up: Milliseconds, context: Context, events: &mut Vec<Event>) -> Settled {
        let (reset, refused) = (down.count(Kind::Reset), down.count(Kind::Refused));
        let settled = match down.idle {
            _ if refused > 0 || reset != down.failures() => Settled::Other,
            IdleResets { count, min, max } if count == reset => Settled::IdleResets { min, max },
            _ => Settled::Resets,
        };
        let in_loop = self.open == Some(Pattern::CrashLoop);
        // Where the host is known to crash and start again, an episode of resets is a restart if it was down for long enough,
        // whether or not a probe was there to be refused.
        let long_enough = times(sub(up, down.since), 2) >= self.restarts.least;
        if refused > 0 || (in_loop && settled == Settled::Resets && long_enough) {
            self.restarts.add(down, up);
        }
        let again = sub(context.now, self.reported) >= times(context.interval, 60);
        if !in_loop {
            // No restart is reported that is part of a cluster-wide outage, or of which retries hide an unknown number.
            let is_restart = refused > 0 && !down.is_cluster_wide && context.seen_whole;
            self.settle_restart(is_restart, again, context.now, events);
        } else if again {
            self.reported = context.now;
            events.push(self.event(State::Update, Pattern::CrashLoop, context.now));
        }
        settled
    }

    /// Ends the incident that was open during an episode, and reports the restart if the episode was one.
    fn settle_restart(&mut self, is_restart: bool, again: bool, now: Milliseconds, events: &mut Vec<Event>) {
        let was_open = self.open.is_some();
        self.close(now, events);
        if !is_restart {
            return;
        }
        if self.restarts.are_crash_loop() {
            self.report_open(Pattern::CrashLoop, now, events);
        } else if !was_open && (self.restarts.count < CRASHES || again) {
            self.reported = now;
            events.push(self.event(State::Over, Pattern::Restart, now));
        }
    }

    fn report_open(&mut self, pattern: Pattern, now: Milliseconds, events: &mut Vec<Event>) {
        (self.open, self.opened, self.reported) = (Some(pattern), now, now);
        events.push(self.event(State::Open, pattern, now));
    }

    fn close(&mut self, now: Milliseconds, events: &mut Vec<Event>) {
        if let Some(pattern) = self.open {
            events.push(self.event(State::Over, pattern, now));
        }
        self.open = None;
    }

    fn event(&self, state: State, pattern: Pattern, now: Milliseconds) -> Event {
        let lasted = sub(now, self.opened);
        let host = Some(&*self.address);
        if matches!(pattern, Pattern::CrashLoop | Pattern::Restart) {
            let restarts = &self.restarts;
            let (count, apart) = (restarts.count, sub(restarts.last_down, restarts.first_down));
            let period = apart.checked_div(sub(count, 1)).unwrap_or_default();
            let [down, min, max] = restarts.downtime();
            let Restarts { resets, refusals, crashes, period_min, period_max, .. } = *restarts;
            let numbers = [count, down, min, max, resets, refusals, crashes, period, period_min, period_max, lasted];
            return Event::new(state, pattern, host, &numbers);
        }
        let down = self.episode.down().copied().unwrap_or_default();
        let up = self.episode.up();
        let kinds = [Kind::Reset, Kind::Refused, Kind::ConnectTimeout, Kind::Timeout].map(|kind| down.count(kind));
        let [reset, refused, connect_timeout, timeout] = kinds;
        let lasted_down = sub(up.max(down.failed), down.since);
        Event::new(state, pattern, host, &[reset, refused, connect_timeout, timeout, lasted_down, lasted])
    }
}

/// A host that is back and fails again sooner than this was not back.
const fn settle(interval: Milliseconds) -> Milliseconds {
    interval / 20
}
