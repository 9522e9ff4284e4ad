//! Which hosts are unresponsive: they fail no attempt, but have not answered for longer than answers take.

use std::time::Duration;

use crate::base::time::{Time, nanos, nanos_since};
use crate::outlier::host::Host;

/// The number of answers after which it is known how long they take.
const TIMED: u32 = 16;
/// A host is unresponsive once its oldest outstanding request has waited this many times the recent slow-answer time.
const DEADLINE_FACTOR: u64 = 4;
/// A host is never unresponsive before this.
const MIN_DEADLINE: Duration = Duration::from_millis(50);
/// How long a host that became unresponsive gets no requests; doubled each time that it stays so.
const AVOIDED: Duration = Duration::from_secs(1);
/// The largest number of doublings.
const MAX_DOUBLINGS: u8 = 3;
/// A hedge was in vain if the request took this many times as long as it had waited before it was hedged.
const IN_VAIN: u64 = 3;
/// For this long after the latest such request, each request waits for twice as long as that one took before it is hedged.
const NATURAL: Duration = Duration::from_secs(60);
/// Where no host answered for this much longer than answers take, all may have become slow.
const NO_ANSWERS: Duration = Duration::from_millis(100);
/// The part of the slow-answer time that an answer which took no time takes away from it: a thirty-second.
const DECAY: u64 = 32;

/// How long answers take.
#[derive(Clone, Debug)]
pub(crate) struct Responsiveness {
    /// When some host answered last.
    answered: Time,
    /// What the slower of the recent answers took, in nanoseconds.
    slow: u64,
    /// The number of answers that this is known from.
    timed: u32,
    /// How long a request took that was hedged in vain, in nanoseconds, and when that was.
    natural: (u64, Time),
    /// Whether requests take long at every host, so that the overdue ones do not show which host hangs: then no host
    /// counts as unresponsive.
    pub(crate) blind: bool,
}

impl Responsiveness {
    pub(crate) const fn new() -> Self {
        Self { answered: Time::from_nanos(0), slow: 0, timed: 0, natural: (0, Time::from_nanos(0)), blind: false }
    }

    pub(crate) fn clamp(&mut self, now: Time) {
        self.answered = self.answered.min(now);
    }

    /// An attempt that `began` then was answered. The longest recent time counts, and fades with a few dozen shorter ones.
    pub(crate) fn answered(&mut self, began: Time, now: Time) {
        self.answered = now;
        let time = nanos_since(began, now);
        self.slow = time.max(self.slow - self.slow.saturating_sub(time) / DECAY);
        self.timed = self.timed.saturating_add(1);
    }

    /// How many nanoseconds an answer may take before a host counts as unresponsive; `None` while too few answers were seen.
    pub(crate) fn deadline(&self) -> Option<u64> {
        (self.timed >= TIMED).then_some(self.slow.saturating_mul(DEADLINE_FACTOR).max(nanos(MIN_DEADLINE)))
    }

    /// How many nanoseconds are to pass before a request is hedged, since some take that long by nature, wherever they are sent.
    ///
    /// To send those once more helps nobody. So if a request took three times as long as it waited before it was
    /// hedged, none is hedged before it has waited for twice as long as that one took. This ends when none took that
    /// long for a minute.
    pub(crate) fn takes_by_nature(&self, now: Time) -> u64 {
        self.natural(now).saturating_mul(2)
    }

    /// A request that was to be hedged `after` that time was answered, and `took` this long.
    pub(crate) fn hedged(&mut self, after: Duration, took: Duration, now: Time) {
        let (natural, took) = (self.natural(now), nanos(took));
        if took >= IN_VAIN.saturating_mul(nanos(after)) || (natural > 0 && took >= natural / 2) {
            self.took_long(took, now);
        }
    }

    /// A request took `took` nanoseconds by nature, wherever it was sent.
    pub(crate) fn took_long(&mut self, took: u64, now: Time) {
        self.natural = (took.max(self.natural(now)), now);
    }

    /// The number of nanoseconds that requests took by nature within [`NATURAL`]; 0 if none did.
    const fn natural(&self, now: Time) -> u64 {
        let (natural, seen) = self.natural;
        if now.is_soon_after(NATURAL, seen) { natural } else { 0 }
    }

    /// Whether some host answered recently. If none did, all may just have become slow.
    pub(crate) fn answers_arrive(&self, deadline: u64, now: Time) -> bool {
        nanos_since(self.answered, now) < deadline.saturating_add(nanos(NO_ANSWERS))
    }

    pub(crate) fn answered_within(&self, time: Duration, now: Time) -> bool {
        now.is_soon_after(time, self.answered)
    }

    /// Whether a host has not answered any request since its oldest outstanding one, for longer than answers take.
    pub(crate) fn is_unresponsive(&self, host: &Host, now: Time) -> bool {
        let Some(oldest) = host.oldest_outstanding.filter(|_| !self.blind) else { return false };
        let waits = nanos_since(oldest, now);
        self.deadline().is_some_and(|deadline| waits >= deadline && waits - deadline < avoided(host))
    }

    /// A request is steered to a host: it is the oldest outstanding one, if there is no other, or the other is so old that the
    /// host is tried again.
    pub(crate) fn sends(&self, host: &mut Host, now: Time) {
        let over = self.deadline().unwrap_or(nanos(AVOIDED)).saturating_add(avoided(host));
        match host.oldest_outstanding {
            Some(oldest) if oldest <= now && nanos_since(oldest, now) < over => return,
            Some(oldest) if oldest <= now => host.missed_deadlines = host.missed_deadlines.saturating_add(1),
            _ => {}
        }
        host.oldest_outstanding = Some(now);
    }
}

/// For how many nanoseconds a host that is unresponsive gets no requests.
const fn avoided(host: &Host) -> u64 {
    let doublings = if host.missed_deadlines < MAX_DOUBLINGS { host.missed_deadlines } else { MAX_DOUBLINGS };
    nanos(AVOIDED) << doublings
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Time = Time::from_nanos(1_800_000_000_000_000_000);

    fn after(millis: u64) -> Time {
        START.saturating_add(Duration::from_millis(millis))
    }

    /// Sixteen answers that took this long.
    fn answers_in(millis: u64) -> Responsiveness {
        let mut responsiveness = Responsiveness::new();
        (0..TIMED).for_each(|_| responsiveness.answered(START, after(millis)));
        responsiveness
    }

    #[test]
    fn the_deadline_is_four_times_the_slow_answer_time_and_at_least_50_ms() {
        assert_eq!(Responsiveness::new().deadline(), None);
        assert_eq!(answers_in(5).deadline(), Some(50_000_000));
        assert_eq!(answers_in(100).deadline(), Some(400_000_000));
        let mut faded = answers_in(100);
        faded.answered(START, START);
        assert_eq!(faded.deadline(), Some(400_000_000 - 400_000_000 / DECAY));
    }

    #[test]
    fn a_host_is_avoided_for_twice_as_long_each_time_and_at_most_for_eight_seconds() {
        let responsiveness = answers_in(5);
        let mut host = Host::new("10.0.0.1:80", Duration::from_secs(10), START);
        let mut sent = 0;
        for seconds in [1, 2, 4, 8, 8] {
            responsiveness.sends(&mut host, after(sent));
            let is_unresponsive = |host: &Host, millis| responsiveness.is_unresponsive(host, after(sent + millis));
            assert!(!is_unresponsive(&host, 49) && is_unresponsive(&host, 50), "{seconds}");
            let over = 50 + seconds * 1_000;
            assert!(is_unresponsive(&host, over - 1) && !is_unresponsive(&host, over), "{seconds}");
            // A request within that time changes nothing.
            responsiveness.sends(&mut host, after(sent + over - 1));
            assert_eq!(host.oldest_outstanding, Some(after(sent)));
            sent += over;
        }
    }

    #[test]
    fn all_hosts_are_slow_when_none_answered_for_longer() {
        let responsiveness = answers_in(5);
        assert!(responsiveness.answers_arrive(50_000_000, after(5 + 149)));
        assert!(!responsiveness.answers_arrive(50_000_000, after(5 + 150)));
    }
}
