//! One host's standing: in, or out for a while, or being probed.
//!
//! ```text
//!            detector fires                 ejection time over
//!   Healthy ------------------> Ejected(n) ----------------------> Probing(n)
//!   strikes                        ^                                |   |
//!     ^                            |      any failed probe          |   |
//!     |                            +----- n+1, time doubles --------+   |
//!     |   strikes = n+1                                                 |
//!     +------------ `probe_successes` in a row, or a common failure ----+
//! ```
//!
//! A host is ejected with n = its strikes. They are halved for each tenth of `interval` that passes with answers and
//! without a failure: silence is no evidence of health. So a host that answers for three seconds after a restart starts
//! from nothing, and one that fails every few requests is out for longer each time.
//!
//! **Early probes.** Where half or more of the hosts are out, a host is probed before its time is over, and so are all of
//! them at once when those that are in fail. To fail such a probe is no strike: the time goes on as it was.
//!
//! **Who decides.** All workers share one [ejection](Ejection) of a host (see [`crate::outlier::shared`]). Its owner, the worker that
//! ejected the host, alone probes it, one request at a time; the others follow it out and back.
//!
//! **What decides.** A verdict is the end of any attempt on the host that began when the host was due, whether or not it
//! was meant as a probe, and of each probe. What began before decides nothing. A probe that ends without a verdict gives its slot back,
//! and so does one of which nothing was heard for ten seconds.

use std::time::Duration;

use crate::base::random::hash;
use crate::base::time::Time;
use crate::outlier::detector::{Failure, OutlierPolicy};
use crate::outlier::shared::{Ejection, WorkerId};

/// A probe of which nothing is heard for so long is given up.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// When an attempt began is known from its end and its duration, which are measured by different clocks.
const CLOCK_ERROR: Duration = Duration::from_millis(2);
/// For so long, only requests that may be repeated whatever happens are used as probes: nobody pays for these.
const PATIENCE: Duration = Duration::from_secs(1);
/// Where hosts are scarce, one that failed is probed again after this many times the shortest ejection.
const SOON: u32 = 4;
/// Longest exponent that can matter: 2^20 times the shortest ejection is beyond any longest one.
const MOST_STRIKES: u8 = 20;

/// Whether a host is in or out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It takes requests.
    In(Health),
    /// It does not, but for probes.
    Out(Out),
}

/// What is held against a host that is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    strikes: u8,
    /// Since when it is in: attempts that began before say nothing.
    since: Time,
    /// When the strikes are next halved.
    forgiven: Time,
}

/// A host that is out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Out {
    /// What all workers know.
    pub ejection: Ejection,
    /// Answered probes in a row; only its owner counts.
    successes: u32,
    /// The latest of them.
    succeeded: Time,
    probe: Option<Probe>,
    /// When to look once, before it is due (see [`Out::look_at`]).
    look: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Probe {
    number: u64,
    /// In requests, see [`crate::outlier`].
    paid: u32,
    started: Time,
}

/// What a verdict on a host that is out comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing, or not yet.
    None,
    /// It is out for longer.
    Extended,
    /// It comes back.
    Readmitted,
}

impl Standing {
    /// Of a host that nothing is known about.
    #[must_use]
    pub fn new() -> Self {
        Self::In(Health::default())
    }

    /// Whether it takes no requests but probes.
    #[must_use]
    pub const fn is_out(&self) -> bool {
        matches!(self, Self::Out(_))
    }

    /// Follows an ejection that all workers share: out, or on.
    pub fn follow(&mut self, ejection: &Ejection) {
        match self {
            Self::Out(out) if out.ejection == *ejection => {}
            Self::Out(out) => {
                let times = |ejection: &Ejection| (ejection.owner, ejection.until, ejection.due);
                if times(&out.ejection) != times(ejection) {
                    (out.successes, out.probe) = (0, None);
                }
                out.ejection = ejection.clone();
            }
            Self::In(_) => {
                let ejection = ejection.clone();
                *self = Self::Out(Out { ejection, successes: 0, succeeded: Time::default(), probe: None, look: None })
            }
        }
    }

    /// Brings a host back; `failed` says whether it was readmitted by its probes or because all others fail as well.
    pub fn readmit(&mut self, now: Time, interval: Duration, common: bool) {
        if let Self::Out(out) = self {
            let strikes = out.ejection.strikes.saturating_add(u8::from(!common)).min(MOST_STRIKES);
            *self = Self::In(Health { strikes, since: now, forgiven: now.saturating_add(interval / 10) });
        }
    }

    /// The host's clock may have stepped back: nothing here is from the future.
    pub fn clamp(&mut self, now: Time, interval: Duration) {
        match self {
            Self::In(health) => {
                health.since = health.since.min(now);
                health.forgiven = health.forgiven.min(now.saturating_add(interval));
            }
            Self::Out(out) => {
                out.succeeded = out.succeeded.min(now);
                out.probe = out.probe.filter(|probe| probe.started <= now && now.since(probe.started) < PROBE_TIMEOUT);
            }
        }
    }
}

impl Default for Standing {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Whether the end of an attempt that `began` then says something about the host.
    #[must_use]
    pub fn concerns(&self, began: Time) -> bool {
        began.saturating_add(CLOCK_ERROR) >= self.since
    }

    /// An attempt was answered.
    pub fn answered(&mut self, now: Time, interval: Duration) {
        if self.strikes > 0 && now >= self.forgiven {
            self.strikes /= 2;
            self.forgiven = now.saturating_add(interval / 10);
        }
    }

    /// An attempt failed.
    pub fn failed(&mut self, now: Time, interval: Duration) {
        self.forgiven = now.saturating_add(interval / 10);
    }

    /// The ejection of this host, by a worker that will own it.
    #[must_use]
    pub fn eject(
        &self,
        address: &str,
        failure: Failure,
        owner: WorkerId,
        policy: &OutlierPolicy,
        now: Time,
    ) -> Ejection {
        let until = now.saturating_add(ejection_time(policy, self.strikes, address, owner));
        Ejection {
            address: address.into(),
            failure,
            strikes: self.strikes,
            since: now,
            failed: now,
            until,
            due: until,
            owner,
        }
    }
}

impl Out {
    /// Whether the next request should be a probe, sent by this worker. `repeatable` says that it may be retried whatever
    /// happens to it; `looks`, that a [look](Self::looks) at it is due and paid.
    ///
    /// Any other request has to wait: a second after the host is due, so that it is used only where no repeatable ones come
    /// by, and only for a while if the host just answered a probe. A host that does not run refuses it, and what is refused
    /// may always be retried; one that takes it and breaks off costs that request. Where it broke off before, the wait is
    /// twice as long.
    #[must_use]
    pub fn wants_probe(
        &self,
        me: WorkerId,
        repeatable: bool,
        looks: bool,
        policy: &OutlierPolicy,
        scarce: bool,
        now: Time,
    ) -> bool {
        let patience = match self.ejection.failure {
            _ if repeatable => Duration::ZERO,
            _ if self.successes > 0 => policy.base_ejection_time.min(PATIENCE),
            Failure::Refused => PATIENCE,
            _ => PATIENCE.saturating_mul(2),
        };
        let due = self.due(policy, scarce).max(self.succeeded).saturating_add(patience);
        self.ejection.owner == me && (now >= due || repeatable && looks) && self.in_flight(now).is_none()
    }

    /// Whether it is time for the look that was asked for ([`Out::look_at`]).
    #[must_use]
    pub fn looks(&self, now: Time) -> bool {
        self.look.is_some_and(|at| now >= at)
    }

    /// Asks for one probe at that time, though the host may not be due: not for a verdict, which it does not give, but to
    /// see whether something listens. One that is past is none.
    pub fn look_at(&mut self, at: Time, now: Time) {
        if at > now {
            self.look = Some(at);
        }
    }

    /// When it may be probed. Where hosts are `scarce`, half or more of them out, none is left alone for longer than a second
    /// (at the defaults): it is missed more than an attempt is.
    #[must_use]
    pub fn due(&self, policy: &OutlierPolicy, scarce: bool) -> Time {
        let soon = self.ejection.failed.saturating_add(policy.base_ejection_time.saturating_mul(SOON));
        if scarce { self.ejection.due.min(soon) } else { self.ejection.due }
    }

    fn in_flight(&self, now: Time) -> Option<Probe> {
        self.probe.filter(|probe| probe.started <= now && now.since(probe.started) < PROBE_TIMEOUT)
    }

    /// A probe is sent.
    pub fn probe(&mut self, number: u64, paid: u32, now: Time) {
        self.probe = Some(Probe { number, paid, started: now });
        self.look = self.look.filter(|at| *at > now);
    }

    /// A probe is over. Without a verdict, it gives its slot back, and what was set aside for it.
    pub fn probe_over(&mut self, number: u64) -> u32 {
        let over = self.probe.take_if(|probe| probe.number == number);
        over.map_or(0, |probe| probe.paid)
    }

    /// Whether the end of an attempt that `began` then is a verdict, for this worker to take.
    #[must_use]
    pub fn concerns(&self, began: Time, me: WorkerId) -> bool {
        self.ejection.owner == me && (began.saturating_add(CLOCK_ERROR) >= self.ejection.due || self.is_probe(began))
    }

    /// Whether an attempt that `began` then may be the probe.
    fn is_probe(&self, began: Time) -> bool {
        self.probe.is_some_and(|probe| began.saturating_add(CLOCK_ERROR) >= probe.started)
    }

    /// What was set aside for the probe, if an attempt that `began` then may be it.
    #[must_use]
    pub fn paid(&self, began: Time) -> u32 {
        self.probe.filter(|_| self.is_probe(began)).map_or(0, |probe| probe.paid)
    }

    /// An attempt said nothing. If it was the probe, it is over.
    pub fn no_verdict(&mut self, began: Time) {
        if self.is_probe(began) {
            self.probe = None;
        }
    }

    /// An attempt was answered. So many in a row are `enough` to bring the host back.
    pub fn answered(&mut self, began: Time, enough: u32, now: Time) -> Verdict {
        self.no_verdict(began);
        self.successes = self.successes.saturating_add(1);
        self.succeeded = now;
        if self.successes >= enough { Verdict::Readmitted } else { Verdict::None }
    }

    /// An attempt that `began` then failed. Nobody would have tried so early if there were other hosts: if the time is not over
    /// yet, it goes on as it was.
    pub fn failed(&mut self, failure: Failure, began: Time, policy: &OutlierPolicy, now: Time) -> Verdict {
        let ejection = &mut self.ejection;
        (ejection.failure, ejection.failed) = (failure, now);
        if began.saturating_add(CLOCK_ERROR) >= ejection.until {
            ejection.strikes = ejection.strikes.saturating_add(1).min(MOST_STRIKES);
            let time = ejection_time(policy, ejection.strikes, &ejection.address, ejection.owner);
            ejection.until = now.saturating_add(time);
        }
        ejection.due = ejection.until;
        (self.successes, self.probe) = (0, None);
        Verdict::Extended
    }
}

/// `base_ejection_time` x 2^n, at most `max_ejection_time`, and up to a quarter more: so that hosts that went at once, and
/// workers or proxies that saw it, do not come back at once.
fn ejection_time(policy: &OutlierPolicy, n: u8, address: &str, worker: WorkerId) -> Duration {
    let time = policy.base_ejection_time.saturating_mul(1 << n.min(MOST_STRIKES)).min(policy.max_ejection_time);
    let seed = hash(address.as_bytes(), worker.0 ^ u64::from(n).rotate_left(32));
    let jitter = time / 4;
    time.saturating_add(jitter.saturating_mul((seed % 1_024) as u32) / 1_024)
}
