//! Which requests are left to Envoy's balancer, to keep the shares current and to meet new hosts.

use std::time::Duration;

use super::Steering;
use crate::base::percent::Percent;
use crate::base::time::{Time, nanos, nanos_since};

/// This long after some host was ejected, the shares from calm times are current, and half the exploring will do.
const CURRENT: Duration = Duration::from_secs(5);
/// More than `explore_percent` may explore while fewer requests than this meet an ejected host because they explore, in basis
/// points of the requests that can be repeated.
const CHEAP: u64 = 225;
/// While probes fail all the time, which costs enough, no more requests than this may meet an ejected host.
const DEAR: u64 = 20;
/// The same where all ejected hosts refuse, which costs hardly any time, and no budget.
const REFUSED: u64 = 1_250;
/// How often each host should be picked by Envoy's balancer.
const EACH_HOST: Duration = Duration::from_secs(2);
/// The same where all ejected hosts refuse. A host that Envoy's balancer does not pick any more, since it is drained or fails
/// health checks, then gets no more after a second or so.
const EACH_HOST_REFUSED: Duration = Duration::from_millis(100);

/// What decides how many requests explore.
#[derive(Clone, Copy, Debug)]
pub struct Exploration {
    /// The share of requests that may explore, as it is configured.
    pub percent: Percent,
    /// The number of hosts that are remembered.
    pub hosts: u64,
    /// How many of these are ejected.
    pub ejected: u64,
    /// The number of workers that take turns.
    pub workers: u32,
    /// Whether to meet an ejected host costs next to nothing: all of them refuse, and another one is asked instead.
    pub cheap: bool,
    /// Whether probes fail all the time.
    pub probes_fail: bool,
}

impl Steering {
    /// Whether the next request should be left to Envoy's balancer. One that is not `repeatable` is left only where no other
    /// comes.
    pub fn explores(&mut self, exploration: Exploration, repeatable: bool, now: Time) -> bool {
        let Exploration { percent, workers, cheap, probes_fail, .. } = exploration;
        if !repeatable && self.has_canaries() {
            return false;
        }
        let (hosts, ejected) = (exploration.hosts.max(1), exploration.ejected.max(1));
        let healthy = hosts.saturating_sub(ejected).max(1);
        if percent > Percent::default() && self.lacks_samples(hosts) {
            return self.random.below(2 * hosts * hosts) < healthy * healthy;
        }
        let share = match percent.basis_points() {
            0 => 0,
            share if cheap => (REFUSED * hosts / ejected).max(u64::from(share)),
            share if probes_fail => (DEAR * hosts / ejected).min(u64::from(share)),
            share => (CHEAP * hosts / ejected).max(u64::from(share)),
        };
        // Whether a host is still picked is soon known, if that is all that is asked.
        if cheap && share > 0 && self.shares.doubts {
            return true;
        }
        if self.random.below(u64::from(Percent::MAX.basis_points())) >= share {
            return false;
        }
        let current = self.active_since.is_some_and(|since| now.is_within(CURRENT, since));
        let pause = nanos(if cheap { EACH_HOST_REFUSED } else { EACH_HOST })
            .saturating_mul(hosts)
            .saturating_mul(u64::from(workers.max(1)))
            .saturating_mul(if current && !cheap { 2 } else { 1 })
            .saturating_mul(if repeatable { 1 } else { 4 })
            / (healthy * healthy);
        let explores = nanos_since(self.explored, now) >= pause;
        if explores {
            self.explored = now;
        }
        explores
    }
}
