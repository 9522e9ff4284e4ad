//! What a worker knows of one cluster.

use super::misrouted::Misrouted;
use super::waiting::Waiting;
use crate::base::random::Random;
use crate::base::time::Time;
use crate::circuit::Circuit;
use crate::incident::Incidents;
use crate::latency::Latency;
use crate::outlier::Outliers;
use crate::retry::reservations::Account;

/// What a worker knows of a cluster.
#[derive(Debug)]
pub struct Cluster {
    /// The name, as Envoy's configuration has it.
    pub(super) name: Box<str>,
    /// Which of the engine's policies; they are shared, since thousands of clusters may have the same.
    pub(super) policy: usize,
    /// Which of them are for some of its routes, and whether a request went by them.
    pub(super) routes: Vec<(usize, bool)>,
    /// Which of this cluster's attempts `watch` sees.
    pub(super) visibility: Visibility,
    /// When retries at this cluster are charged.
    pub(super) charging: Charging,
    /// The retry budget, where there is one.
    pub(super) account: Option<Account>,
    /// How long attempts take, where an adaptive timeout depends on it.
    pub(super) latency: Option<Latency>,
    /// Its hosts, where outlier detection is on: from the first request on.
    pub(super) outliers: Option<Outliers>,
    /// Its circuit, where there is a breaker.
    pub(super) circuit: Option<Box<Circuit>>,
    /// What happened to its hosts.
    pub(super) incidents: Incidents,
    /// Whether its circuit was open when that was last reported.
    pub(super) reported_open: bool,
    /// How many hosts were ejected and how many were remembered when that was last reported, and the names of the ejected ones.
    pub(super) reported_hosts: (usize, usize),
    pub(super) reported_out: String,
    /// Whether it was reported how many retries are left.
    pub(super) reported_budget: bool,
    pub(super) sampler: Sampler,
    /// Whether its requests are steered, where steering is on.
    pub(super) steered: bool,
    pub(super) misrouted: Misrouted,
    /// Whether Envoy's balancer was seen to choose among hosts. What always goes to its own destination (a cluster of type
    /// `ORIGINAL_DST`) belongs nowhere else.
    pub(super) is_balanced: bool,
    /// How many attempts ended here, while `decide` has seen no request; `None` once it has.
    pub(super) undecided: Option<u8>,
    /// Its requests that are not answered yet.
    pub(super) waiting: Waiting,
    /// When an attempt failed or was pushed back last.
    pub(super) failed: Time,
    pub(super) last_used: u64,
}

/// Which of a cluster's attempts `watch` sees. What it does not see, `decide` infers from the end of each request.
///
/// Where `watch` sees failures, it counts them, and all that it sees where an access-log filter passes failures only: a request
/// during which none was counted had none, so it had no retry. The counts wrap around.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// It saw none so far: only the last attempt of each request is known.
    #[default]
    LastOnly,
    /// An access-log filter keeps from it what went well.
    Failures {
        /// Attempts that it saw.
        seen: u32,
        /// Answers that the filter passed all the same (of a hedged attempt past its timeout, for one), while the end of their
        /// request has not been seen.
        flagged_answers: u32,
    },
    /// It sees all.
    All {
        /// Attempts that did not go well, so that Envoy may have retried them.
        failures: u32,
    },
}

impl Visibility {
    /// Whether it sees each attempt that fails.
    pub(super) const fn sees_failures(self) -> bool {
        !matches!(self, Self::LastOnly)
    }

    /// How many attempts failed so far, as far as this tells.
    pub(super) const fn failures(self) -> u32 {
        match self {
            Self::LastOnly => 0,
            Self::Failures { seen, .. } => seen,
            Self::All { failures } => failures,
        }
    }

    /// What it is where an access-log filter keeps from every `watch` what went well.
    pub(super) const fn filtered(self) -> Self {
        match self {
            Self::Failures { .. } => self,
            Self::LastOnly | Self::All { .. } => Self::Failures { seen: self.failures(), flagged_answers: 0 },
        }
    }

    /// `watch` sees an attempt end. `filtered`: an access-log filter keeps from it what went well. `plain`: there was nothing
    /// that might be retried.
    pub(super) const fn attempt_seen(&mut self, filtered: bool, plain: bool, answered: bool) {
        *self = if filtered {
            match self.filtered() {
                Self::Failures { seen, flagged_answers } => Self::Failures {
                    seen: seen.wrapping_add(1),
                    flagged_answers: flagged_answers.saturating_add(answered as u32),
                },
                other => other,
            }
        } else {
            let failures = self.failures();
            Self::All { failures: if plain { failures } else { failures.wrapping_add(1) } }
        };
    }

    /// A request ended, with an answer that the filter keeps from `watch` unless it has a flag: whether `watch` saw it.
    pub(super) const fn take_flagged_answer(&mut self) -> bool {
        match self {
            Self::Failures { flagged_answers: answers @ 1.., .. } => {
                *answers -= 1;
                true
            }
            _ => false,
        }
    }
}

/// When retries at a cluster are charged to its budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Charging {
    /// No retry has told yet: a `guard` is trusted to see them, if there is one at all.
    #[default]
    Unknown,
    /// When they happen: `guard` sees them.
    PerAttempt,
    /// When their request ends, by how many there were; each needs a permission when the request arrives.
    AtEnd,
}

impl Charging {
    /// Whether each retry is charged when it happens; `guard`: whether there is one at all.
    #[must_use]
    pub const fn is_per_attempt(self, guard: bool) -> bool {
        match self {
            Self::Unknown => guard,
            Self::PerAttempt => true,
            Self::AtEnd => false,
        }
    }
}

/// Of a calm cluster's answered attempts, and of what went where it was steered, one in so many is looked at, by chance: to ask for a
/// host's address costs more than it tells there. Not each eighth: a balancer that takes turns among four hosts would show the same
/// one each time, and the other three would never be known.
pub(super) const SAMPLE: u32 = 8;
/// Of a calm cluster's requests, so many in a row are looked at, from the beginning of each second.
const RUN: u32 = 64;
/// And then so many of this many.
const CYCLE: u32 = 1_024;

/// Counts what of a calm cluster could be looked at, and says which of it is.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sampler {
    chances: u32,
    requests: u32,
    second: u64,
}

impl Sampler {
    /// Whether the next answered attempt, or the next steered request, is in the sample.
    pub(super) fn takes_by_chance(&mut self) -> bool {
        self.chances = self.chances.wrapping_add(1);
        Random::new(self.chances.into()).number().is_multiple_of(SAMPLE.into())
    }

    /// Whether the next request that was left to Envoy's balancer is in the sample. In a row: the balancer gives hosts and localities
    /// their weights by turns, so that a run of requests shows the weights as they are, and one here and there shows chance.
    pub(super) const fn takes_request(&mut self, now: Time) -> bool {
        // A second, or nearly so.
        let second = now.as_nanos() >> 30;
        self.requests = if self.second == second { self.requests.wrapping_add(1) } else { 0 };
        self.second = second;
        self.requests % CYCLE < RUN
    }
}

/// After so many attempts at a cluster for which `decide` saw no request, it is taken not to see any.
const UNDECIDED: u8 = 20;

impl Cluster {
    /// An attempt ended here. Whether `decide` seems to see no requests for it; that is said once.
    pub(super) fn is_undecided(&mut self) -> bool {
        let Some(attempts) = &mut self.undecided else { return false };
        *attempts = attempts.saturating_add(1);
        *attempts == UNDECIDED
    }

    /// One of which nothing is known but its name.
    pub(super) fn new(name: &str, last_used: u64) -> Self {
        Self {
            name: name.into(),
            policy: 0,
            routes: Vec::new(),
            visibility: Visibility::default(),
            charging: Charging::default(),
            account: None,
            latency: None,
            outliers: None,
            circuit: None,
            incidents: Incidents::default(),
            reported_open: false,
            reported_hosts: (0, 0),
            reported_out: String::new(),
            reported_budget: false,
            sampler: Sampler::default(),
            steered: true,
            misrouted: Misrouted::default(),
            is_balanced: false,
            undecided: Some(0),
            waiting: Waiting::default(),
            failed: Time::default(),
            last_used,
        }
    }

    /// Whether requests to it go by this one of the engine's policies.
    pub(super) fn goes_by(&self, policy: usize) -> bool {
        self.policy == policy || self.routes.contains(&(policy, true))
    }

    /// Whether its circuit is open.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.circuit.as_ref().is_some_and(|circuit| circuit.is_open())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_requests_are_looked_at() {
        let mut sampler = Sampler::default();
        let mut taken = |second: u64, requests: u32| {
            let of = |_: &u32| sampler.takes_request(Time::from_nanos(second << 30));
            (0..requests).filter(of).collect::<Vec<_>>()
        };
        assert_eq!(taken(1, 20), (0..20).collect::<Vec<_>>());
        assert_eq!(taken(1, 1_000), (0..44).collect::<Vec<_>>(), "of this second, 20 were looked at before");
        assert_eq!(taken(2, 2_000), (0..64).chain(1_024..1_088).collect::<Vec<_>>());
    }
}
