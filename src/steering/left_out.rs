//! Whether Envoy's balancer leaves out the ejected hosts by itself: it checks their health, for example, or ejects them
//! as well. Then requests that may be repeated are left to it. It knows what Weir does not: hosts of a lower priority,
//! and those that fail health checks and still answer.
//!
//! ```text
//!              a while after others are ejected         as many requests as would have met one four times
//!   Unknown ──────────────────────────────────► Tried ────────────────────────────────────────────────► LeftOut
//!      ▲                                          │                                                         │
//!      └──── a request meets an ejected host: ────┴─────────────────────────────────────────────────────────┘
//!            the while is twice as long
//! ```

use std::time::Duration;

use crate::base::time::{Time, nanos, nanos_since};

/// The first trial begins half a second after an ejection, here in nanoseconds, times the number of workers, each of
/// which tries. After each trial that met an ejected host, the time is doubled.
const FIRST: u64 = nanos(Duration::from_millis(500));
/// The time before a trial is doubled four times at most.
const MOST_DOUBLINGS: u32 = 4;
/// A trial begins only after 16 requests that may be repeated: to meet an ejected host costs one of them a retry.
const REQUESTS: u32 = 16;
/// A trial goes on with its next request once the one before has ended, or after this time.
const PATIENCE: Duration = Duration::from_secs(1);
/// The balancer leaves out the ejected hosts if none was met where four were expected, were all hosts picked alike.
/// Chance alone explains that in one of fifty trials.
const MISSED: usize = 4;

/// What is known of whether Envoy's balancer leaves out the ejected hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is known since that time. `requests` is the number of repeatable requests since then.
    Unknown { since: Time, requests: u32 },
    /// One request at a time is left to the balancer.
    Tried {
        /// The number of these requests that ended without having met an ejected host.
        missed: usize,
        /// When the request was left to the balancer that is not over yet; zero if there is none.
        sent: Time,
    },
    /// The balancer leaves out the ejected hosts.
    LeftOut,
}

/// Whether the ejected hosts of one cluster are left out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeftOut {
    state: State,
    /// The number of trials that met an ejected host.
    failed_trials: u32,
}

impl LeftOut {
    /// Other hosts are ejected from now on: of these, nothing is known.
    pub(crate) const fn new(now: Time) -> Self {
        Self { state: State::Unknown { since: now, requests: 0 }, failed_trials: 0 }
    }

    /// Whether the end of a request that was left to the balancer tells anything.
    pub(crate) const fn listens(&self) -> bool {
        !matches!(self.state, State::Unknown { .. })
    }

    /// A request arrives that may be repeated, and only the ejected hosts are a reason to steer it. Returns whether it
    /// is left to Envoy's balancer. `workers` is the number of workers that have requests.
    pub(crate) fn leaves(&mut self, workers: u32, now: Time) -> bool {
        match &mut self.state {
            State::LeftOut => return true,
            State::Unknown { since, requests } => {
                *requests = requests.saturating_add(1);
                let wait = (FIRST << self.failed_trials.min(MOST_DOUBLINGS)) * u64::from(workers.max(1));
                if *requests < REQUESTS || nanos_since(*since, now) < wait {
                    return false;
                }
                self.state = State::Tried { missed: 0, sent: now };
            }
            State::Tried { sent, .. } => {
                if now.is_soon_after(PATIENCE, *sent) {
                    return false;
                }
                *sent = now;
            }
        }
        true
    }

    /// A request that was left to the balancer is over. `meets`: it met an ejected host. `ejected` of all `hosts` are
    /// ejected.
    pub(crate) fn learn(&mut self, meets: bool, (ejected, hosts): (usize, usize), now: Time) {
        match &mut self.state {
            State::Unknown { .. } => {}
            State::Tried { missed, sent } if !meets => {
                (*missed, *sent) = (*missed + 1, Time::default());
                if *missed * ejected >= MISSED * hosts {
                    self.state = State::LeftOut;
                }
            }
            State::LeftOut if !meets => {}
            State::Tried { .. } | State::LeftOut => {
                self.failed_trials = self.failed_trials.saturating_add(1);
                self.state = State::Unknown { since: now, requests: 0 };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Requests, one each ten milliseconds from `from` on, each over at once; `meets` says whether it meets an ejected host. How
    /// many were left to the balancer.
    fn run(left_out: &mut LeftOut, milliseconds: std::ops::Range<u64>, meets: bool) -> usize {
        let mut left = 0;
        for at in milliseconds.step_by(10).map(|at| Time::from_nanos(at * MS)) {
            if left_out.leaves(1, at) {
                left += 1;
                left_out.learn(meets, (1, 2), at);
            }
        }
        left
    }

    fn ejected() -> LeftOut {
        LeftOut::new(Time::from_nanos(1_000 * MS))
    }

    #[test]
    fn what_the_balancer_leaves_out_is_found_after_a_while() {
        let mut left_out = ejected();
        assert_eq!(run(&mut left_out, 1_000..1_500, false), 0);
        assert_eq!(run(&mut left_out, 1_500..1_580, false), 8);
        assert_eq!(left_out.state, State::LeftOut);
        assert_eq!(run(&mut left_out, 1_580..2_580, false), 100);
    }

    #[test]
    fn a_host_that_is_met_costs_one_request_for_each_wait() {
        let mut left_out = ejected();
        // After 0.5, 1, 2, 4, and then each 8 s.
        assert_eq!(run(&mut left_out, 1_000..8_400, true), 3);
        assert_eq!(run(&mut left_out, 8_400..8_600, true), 1);
        assert_eq!(run(&mut left_out, 8_600..32_600, true), 3);
    }

    #[test]
    fn workers_wait_for_each_other() {
        let mut left_out = ejected();
        let first = (1_000..).step_by(10).find(|at| left_out.leaves(8, Time::from_nanos(at * MS)));
        assert_eq!(first, Some(5_000));
    }

    #[test]
    fn few_requests_try_seldom() {
        let mut left_out = ejected();
        let tries = (1..=64).filter(|second| {
            let at = Time::from_nanos(second * 1_000 * MS);
            let leaves = left_out.leaves(1, at);
            if leaves {
                left_out.learn(true, (1, 2), at);
            }
            leaves
        });
        assert_eq!(tries.count(), 4);
    }

    #[test]
    fn one_that_is_met_later_ends_it() {
        let mut left_out = ejected();
        run(&mut left_out, 1_500..2_000, false);
        assert_eq!(left_out.state, State::LeftOut);
        assert_eq!(run(&mut left_out, 2_000..2_500, true), 1);
    }

    #[test]
    fn a_trial_waits_for_the_end_of_its_request() {
        let mut left_out = ejected();
        (0..50).for_each(|at| _ = left_out.leaves(1, Time::from_nanos((1_000 + at * 10) * MS)));
        assert!(left_out.leaves(1, Time::from_nanos(1_500 * MS)));
        assert!(!left_out.leaves(1, Time::from_nanos(1_510 * MS)));
        assert!(left_out.leaves(1, Time::from_nanos(2_500 * MS)), "its end may never be told");
    }
}
