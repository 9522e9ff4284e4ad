//! The state of one host: healthy, ejected for a while, or being probed.
//!
//! ```text
//!             detector fires                a probe is sent
//!   Healthy ------------------> Ejected ----------------------> Probing
//!      ^                           ^                             |  |
//!      |                           |       a probe failed,       |  |
//!      |                           +--- or all ended without ----+  |
//!      |                                      a verdict             |
//!      +----- `probe_successes` answers in a row, or all hosts -----+
//!                  fail (that also from Ejected)
//! ```
//!
//! A host carries a count of its ejections. The time out starts at `base_ejection_time` and is doubled for each of them. The
//! count goes up by one when the host comes back, and when it fails a probe after its time. It is halved for each tenth of
//! `interval` that passes with answers and without a failure: no answers are no evidence of health. So a host that answers
//! for three seconds after a restart starts from nothing, and one that fails every few requests is out for longer each time.
//!
//! **Early probes.** Where half or more of the hosts are ejected, a host is probed before its time is over; and when the healthy
//! hosts fail, all ejected ones are probed at once. A host that fails such a probe stays out until the time that was set before.
//!
//! **Who decides.** All workers share one [ejection](Ejection) of a host (see [`crate::outlier::shared`]). Its owner, the
//! worker that ejected the host, alone probes it, one request at a time; the others follow it out and back.
//!
//! **What decides.** A verdict is the end of any attempt on the host that began when the host was due, whether or not it was
//! meant as a probe, and the end of each probe. What began before decides nothing. The next probe may start when this one ended
//! without a verdict, or when its end was not reported within ten seconds: two seconds, if the next one may be repeated.

use std::time::Duration;

use crate::base::random::hash;
use crate::base::time::{Time, nanos};
use crate::outlier::detector::{Failure, OutlierPolicy};
use crate::outlier::shared::{Ejection, WorkerId};

/// A probe whose end was not reported for this long is given up.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// When an attempt began is known from its end and its duration, which are measured by different clocks.
const CLOCK_ERROR: Duration = Duration::from_millis(2);
/// The largest exponent that can matter: 2^24 times the shortest ejection is longer than any longest one.
const MAX_EJECTION_COUNT: u8 = 24;

/// Whether a host takes requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostState {
    /// The host takes requests.
    Healthy(Health),
    /// The host takes no requests, and no probe is under way or was answered since it was ejected or failed.
    Ejected(Box<Ejected>),
    /// The host takes no requests but probes.
    Probing(Box<Ejected>, Probes),
}

/// What is known of a host that is ejected, whether or not it is being probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejected {
    /// What all workers share.
    pub ejection: Ejection,
    /// When the host last answered a probe of this worker.
    pub(super) last_answer: Time,
    /// When to probe the host once although it may not be due (see [`HostState::schedule_probe`]).
    pub(super) scheduled: Option<Time>,
}

/// The probes of a host, since it was ejected or failed last. Only the owner of the ejection counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// How many were answered, one after the other.
    pub(super) answered: u32,
    pub(super) in_flight: Option<Probe>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Probe {
    number: u64,
    /// The tokens that were taken for it, see [`super::probing`].
    cost: u32,
    pub(super) started: Time,
}

impl Probe {
    pub(super) fn is_under_way(self, now: Time) -> bool {
        now.is_soon_after(PROBE_TIMEOUT, self.started)
    }

    /// Whether an attempt that `began` then may be this probe.
    fn may_be(self, began: Time) -> bool {
        began.saturating_add(CLOCK_ERROR) >= self.started
    }
}

/// What the end of an attempt on an ejected host decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It decides nothing yet.
    None,
    /// The host stays ejected for longer.
    Extended,
    /// The host comes back.
    Unejected,
}

impl HostState {
    /// The state of a host that is not known to have failed.
    #[must_use]
    pub fn new() -> Self {
        Self::Healthy(Health::default())
    }

    /// Whether the host takes no requests but probes.
    #[must_use]
    pub const fn is_ejected(&self) -> bool {
        !matches!(self, Self::Healthy(_))
    }

    /// What is known of the host if it is ejected.
    #[must_use]
    pub fn ejected(&self) -> Option<&Ejected> {
        match self {
            Self::Healthy(_) => None,
            Self::Ejected(ejected) | Self::Probing(ejected, _) => Some(ejected),
        }
    }

    fn ejected_mut(&mut self) -> Option<&mut Ejected> {
        match self {
            Self::Healthy(_) => None,
            Self::Ejected(ejected) | Self::Probing(ejected, _) => Some(ejected),
        }
    }

    /// Whether a probe of the host is under way.
    pub(super) fn is_probed(&self, now: Time) -> bool {
        self.probes().in_flight.is_some_and(|probe| probe.is_under_way(now))
    }

    pub(super) const fn probes(&self) -> Probes {
        match self {
            Self::Healthy(_) | Self::Ejected(_) => Probes { answered: 0, in_flight: None },
            Self::Probing(_, probes) => *probes,
        }
    }

    /// Puts other probes in place of those that an ejected host has; without any, the host is no longer being probed.
    fn set_probes(&mut self, probes: Probes) {
        let is_probing = probes.answered > 0 || probes.in_flight.is_some();
        *self = match std::mem::take(self) {
            Self::Ejected(ejected) | Self::Probing(ejected, _) if is_probing => Self::Probing(ejected, probes),
            Self::Ejected(ejected) | Self::Probing(ejected, _) => Self::Ejected(ejected),
            healthy @ Self::Healthy(_) => healthy,
        };
    }

    /// Follows an ejection that all workers share: the host is ejected, or its ejection was changed.
    pub fn follow(&mut self, ejection: &Ejection) {
        let Some(ejected) = self.ejected_mut() else {
            let ejection = ejection.clone();
            *self = Self::Ejected(Box::new(Ejected { ejection, last_answer: Time::default(), scheduled: None }));
            return;
        };
        if ejected.ejection == *ejection {
            return;
        }
        let times = |ejection: &Ejection| (ejection.owner, ejection.until, ejection.due);
        let other = times(&ejected.ejection) != times(ejection);
        ejected.ejection = ejection.clone();
        if other {
            self.set_probes(Probes::default());
        }
    }

    /// Brings an ejected host back: by its probes, or because all other hosts fail as well (`all_fail`).
    pub fn uneject(&mut self, now: Time, interval: Duration, all_fail: bool) {
        if let Some(ejected) = self.ejected() {
            let count = ejected.ejection.ejection_count.saturating_add(u8::from(!all_fail));
            *self = Self::Healthy(Health::after(count, now, interval));
        }
    }

    /// Forgets what seems to lie in the future: the host's clock may have stepped back.
    pub fn clamp(&mut self, now: Time, interval: Duration) {
        match self {
            Self::Healthy(health) => health.clamp(now, interval),
            Self::Ejected(ejected) => ejected.last_answer = ejected.last_answer.min(now),
            Self::Probing(ejected, probes) => {
                ejected.last_answer = ejected.last_answer.min(now);
                let in_flight = probes.in_flight.filter(|probe| probe.is_under_way(now));
                if in_flight != probes.in_flight {
                    let probes = Probes { in_flight, ..*probes };
                    self.set_probes(probes);
                }
            }
        }
    }

    /// Schedules one probe of an ejected host, though it may not be due then. It gives no verdict, and shows whether something
    /// listens. A time that is past is ignored.
    pub fn schedule_probe(&mut self, at: Time, now: Time) {
        if let Some(ejected) = self.ejected_mut()
            && at > now
        {
            ejected.scheduled = Some(at);
        }
    }

    /// A probe is sent to an ejected host.
    pub fn start_probe(&mut self, number: u64, cost: u32, now: Time) {
        if let Some(ejected) = self.ejected_mut() {
            ejected.scheduled = ejected.scheduled.filter(|at| *at > now);
        }
        let in_flight = Some(Probe { number, cost, started: now });
        self.set_probes(Probes { in_flight, ..self.probes() });
    }

    /// The request that carried a probe is over. If there was no verdict, the next request may be a probe; the tokens are
    /// returned that were taken for this one.
    pub fn end_probe(&mut self, number: u64) -> u32 {
        let Probes { answered, in_flight } = self.probes();
        let Some(probe) = in_flight.filter(|probe| probe.number == number) else { return 0 };
        self.set_probes(Probes { answered, in_flight: None });
        probe.cost
    }

    /// Whether the end of an attempt that `began` then is a verdict for this worker to take.
    #[must_use]
    pub fn decides(&self, began: Time, me: WorkerId) -> bool {
        let is_probe = || self.probes().in_flight.is_some_and(|probe| probe.may_be(began));
        self.ejected().is_some_and(|Ejected { ejection, .. }| {
            ejection.owner == me && (began.saturating_add(CLOCK_ERROR) >= ejection.due || is_probe())
        })
    }

    /// The tokens that were taken for the probe, if an attempt that `began` then may be it.
    #[must_use]
    pub fn probe_cost(&self, began: Time) -> u32 {
        self.probes().in_flight.filter(|probe| probe.may_be(began)).map_or(0, |probe| probe.cost)
    }

    /// An attempt on an ejected host ended and says nothing. If it was the probe, that is over.
    pub fn no_verdict(&mut self, began: Time) -> Verdict {
        let Probes { answered, in_flight } = self.probes();
        if in_flight.is_some_and(|probe| probe.may_be(began)) {
            self.set_probes(Probes { answered, in_flight: None });
        }
        Verdict::None
    }

    /// An ejected host answered an attempt. It comes back when `enough` were answered one after the other.
    pub fn answered(&mut self, began: Time, enough: u32, now: Time) -> Verdict {
        let Probes { answered, in_flight } = self.probes();
        let (answered, in_flight) = (answered.saturating_add(1), in_flight.filter(|probe| !probe.may_be(began)));
        if let Some(ejected) = self.ejected_mut() {
            ejected.last_answer = now;
        }
        self.set_probes(Probes { answered, in_flight });
        if answered >= enough { Verdict::Unejected } else { Verdict::None }
    }

    /// An attempt that `began` then failed on an ejected host. If the time out is not over yet, it goes on as it was: the
    /// attempt was made only because there were hardly any other hosts.
    pub fn failed(&mut self, failure: Failure, began: Time, policy: &OutlierPolicy, now: Time) -> Verdict {
        let Some(Ejected { ejection, .. }) = self.ejected_mut() else { return Verdict::None };
        (ejection.failure, ejection.failed) = (failure, now);
        if began.saturating_add(CLOCK_ERROR) >= ejection.until {
            ejection.ejection_count = ejection.ejection_count.saturating_add(1).min(MAX_EJECTION_COUNT);
            let time = ejection_time(policy, ejection.ejection_count, &ejection.address, ejection.owner);
            ejection.until = now.saturating_add(time);
        }
        ejection.due = ejection.until;
        self.set_probes(Probes::default());
        Verdict::Extended
    }
}

impl Default for HostState {
    fn default() -> Self {
        Self::new()
    }
}

/// What is counted against a healthy host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    ejection_count: u8,
    /// The host is healthy since then. Attempts that began earlier say nothing about it.
    since: Time,
    /// When the count of ejections is halved next.
    halved_at: Time,
}

impl Health {
    /// The state of a host that comes back, after this number of ejections.
    fn after(ejection_count: u8, now: Time, interval: Duration) -> Self {
        let ejection_count = ejection_count.min(MAX_EJECTION_COUNT);
        Self { ejection_count, since: now, halved_at: halved_next(now, interval) }
    }

    /// Forgets what seems to lie in the future: the host's clock may have stepped back.
    fn clamp(&mut self, now: Time, interval: Duration) {
        self.since = self.since.min(now);
        self.halved_at = self.halved_at.min(now.saturating_add(interval));
    }

    /// Whether the end of an attempt that `began` then says something about the host.
    #[must_use]
    pub fn concerns(&self, began: Time) -> bool {
        began.saturating_add(CLOCK_ERROR) >= self.since
    }

    /// An attempt was answered.
    pub fn answered(&mut self, now: Time, interval: Duration) {
        if self.ejection_count > 0 && now >= self.halved_at {
            self.ejection_count /= 2;
            self.halved_at = halved_next(now, interval);
        }
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Time, interval: Duration) {
        self.halved_at = halved_next(now, interval);
    }

    /// The ejection of this host by a worker that will own it.
    #[must_use]
    pub fn eject(
        &self,
        address: &str,
        failure: Failure,
        owner: WorkerId,
        policy: &OutlierPolicy,
        now: Time,
    ) -> Ejection {
        let until = now.saturating_add(ejection_time(policy, self.ejection_count, address, owner));
        Ejection {
            address: address.into(),
            failure,
            unreachable: false,
            ejection_count: self.ejection_count,
            since: now,
            failed: now,
            until,
            due: until,
            owner,
        }
    }
}

/// When the count of ejections is halved next: after a tenth of the interval.
fn halved_next(now: Time, interval: Duration) -> Time {
    now.saturating_add(Duration::from_nanos(nanos(interval) / 10))
}

/// `base_ejection_time` x 2^`count`, at most `max_ejection_time`, and up to a quarter more, so that hosts that were ejected at
/// once do not come back at once, nor does one host at all proxies.
fn ejection_time(policy: &OutlierPolicy, count: u8, address: &str, worker: WorkerId) -> Duration {
    let longest = nanos(policy.max_ejection_time);
    let time = nanos(policy.base_ejection_time).saturating_mul(1 << count.min(MAX_EJECTION_COUNT)).min(longest);
    let seed = hash(address.as_bytes(), worker.0 ^ u64::from(count).rotate_left(32));
    let jitter = (time / 4).saturating_mul(seed % 1_024) / 1_024;
    Duration::from_nanos(time.saturating_add(jitter))
}

#[cfg(test)]
mod tests;
