//! Outlier detection that acts: what one worker knows of the hosts of one cluster, and where it sends requests.
//!
//! ```text
//!   attempt ends ──► detector: worse than its peers? ──► change ──► record that all workers share
//!                                                                          │
//!   request ◄── steering: list of hosts, or a probe ◄── state of each host ◄─┘
//! ```
//!
//! | file | what it holds |
//! |---|---|
//! | `verdict` | what the end of an attempt decides, also where all healthy hosts fail |
//! | `detector` | whether a host is an outlier among its peers, and the settings |
//! | `host`, `hosts` | what is known of each host, found by address, and of its peers |
//! | `ejection` | the state of one host: healthy, ejected, being probed |
//! | `probing` | which ejected host is probed, when, and what that may cost |
//! | `route` | where a request goes |
//! | `exchange`, `shared` | what workers share, and the record that holds it |
//!
//! **What the caller must do.** The engine is the caller. All times are readings of the host's wall clock
//! ([`Time::from_nanos`]), as in all records.
//!
//! 1. Make one [`Outliers`] per cluster, with a [`WorkerId`] from [`claim`](crate::outlier::shared::claim), when the
//!    first request for the cluster arrives.
//! 2. When a request arrives and the record was not read recently ([`is_stale`](Outliers::is_stale)), exchange. Then
//!    [`route`](Outliers::route) it: put the list, if any, into the steering header. The cluster's `override_host`
//!    policy reads all of it; for the HTTP filter `stateful_session`, put in the first host alone. Remove what a client
//!    sent there in any case. Remember the [`Route::probe`]. If the request can be repeated, hedge it after
//!    [`hedge_after`](Outliers::hedge_after).
//! 3. When an attempt ends, report it ([`attempt_ended`](Outliers::attempt_ended)); if that returns `true`, exchange at once.
//!    Where [`is_calm`](Outliers::is_calm), answered attempts may be sampled: the `weight` of a sample is how many attempts it
//!    stands for. Failures are never sampled.
//! 4. When a request that carried a probe is over, however it ended, report that ([`probe_over`](Outliers::probe_over)), after
//!    its attempts if the order can be chosen. A verdict that comes later still counts.
//! 5. Ten times a second, exchange for each cluster that had requests recently or has something to write
//!    ([`is_due`](Outliers::is_due)).
//!
//! `src/engine/sync.rs` has the one exchange. It passes [`exchange`](Outliers::exchange) to `Host::update`, which reads
//! the record, and writes what that returns. Then it reports the events ([`published`](Outliers::published)). It also
//! writes the list of hosts when one is ejected or stays so, and reads it in a worker that just started
//! ([`wants_host_list`](Outliers::wants_host_list)).
//!
//! In shadow mode, do all of this but put nothing into the header, and use records of its own.
//!
//! A worker acts on its own verdict as soon as it exchanged, even if the record could not be written.

use std::time::Duration;

pub mod detector;
pub mod ejection;
mod exchange;
pub mod host;
pub mod hosts;
mod probing;
mod route;
pub mod shared;
mod verdict;

pub use exchange::Event;
pub use route::Route;
pub use verdict::Overdue;

use exchange::{MOST_EVENTS, Sharing};
use probing::{Downtime, ProbeBudget};
use verdict::Condition;

use crate::base::time::Time;
use crate::outlier::detector::{Failure, OutlierPolicy};
use crate::outlier::hosts::{Hosts, MOST_HOSTS};
use crate::outlier::shared::{Change, WorkerId};
use crate::signal::Signal;
use crate::steering::Steering;

/// A cluster counts as having requests if there was one within this time.
const RECENTLY: Duration = Duration::from_millis(500);
/// While no host is ejected, a request reads the shared record again if it was last read more than five milliseconds
/// ago. A read takes two microseconds, and there are 200 in a second at most. With eight workers and 1,000 requests a
/// second, five milliseconds instead of ten save one of seven attempts on a replica that goes down.
const STALE: Duration = Duration::from_millis(5);
/// While some host is ejected, a request reads the shared record again if it was last read more than ten milliseconds
/// ago: the record is longer then, and takes longer to read.
const STALE_WITH_EJECTED: Duration = Duration::from_millis(10);
/// Where half or more of the hosts are ejected, but no more than [`FEW`], a request reads the shared record again if it
/// was last read more than two milliseconds ago: the next host to go down has many of the requests.
const STALE_WITH_HALF_EJECTED: Duration = Duration::from_millis(2);
/// For this long after an attempt was overdue, all answers are looked at: those of its host show that it does not hang.
const WATCHFUL: Duration = Duration::from_millis(500);
/// The number of ejected hosts up to which there are few.
const FEW: usize = 8;

/// An attempt that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedAttempt<'a> {
    /// The address and port of the host. `None` where that is unknown, and then the attempt does not count.
    pub host: Option<&'a str>,
    /// How the attempt ended.
    pub signal: Signal,
    /// When the attempt began: now, less its duration.
    pub began: Time,
    /// The number of answered attempts that it stands for; 1 where all are reported.
    pub weight: u32,
    /// Whether Envoy's own balancer picked the host: the request carried no list, and this was no retry.
    pub picked: bool,
}

/// A probe, by its number: unique within this worker and cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe(u64);

/// The hosts of one cluster, as one worker sees them.
#[derive(Clone, Debug)]
pub struct Outliers {
    policy: OutlierPolicy,
    me: WorkerId,
    hosts: Hosts,
    steering: Steering,
    /// The number of ejected hosts, by the record that was read last.
    ejected: usize,
    sharing: Sharing,
    latest: Latest,
    /// Whether all healthy hosts fail.
    all_fail: Condition,
    /// Whether all healthy hosts are unresponsive or fail.
    all_unresponsive: Condition,
    probe_budget: ProbeBudget,
    /// The number of the latest probe.
    probes: u64,
    /// The number of requests that arrived while all hosts were down, modulo 256.
    requests_while_down: u8,
    downtime: Downtime,
}

/// When something last happened.
#[derive(Clone, Copy, Debug)]
struct Latest {
    /// When the latest request arrived.
    request: Time,
    /// When the latest one arrived that is repeated whatever happens to its first attempt.
    repeatable: Time,
    /// When an attempt last failed.
    failure: Time,
    /// When an attempt was last not answered at all.
    break_off: Time,
    /// When some host was last ejected or still was.
    ejected: Time,
    /// When a host pushed back last.
    pushback: Time,
    /// When an attempt was last found to be overdue.
    overdue: Time,
    /// Until when the next host may hang at any time.
    alert_until: Time,
}

impl Latest {
    const NEVER: Self = {
        let never = Time::from_nanos(0);
        Self {
            request: never,
            repeatable: never,
            failure: never,
            break_off: never,
            ejected: never,
            pushback: never,
            overdue: never,
            alert_until: never,
        }
    };

    /// The host's clock may have stepped back: none of these but the request, which has a check of its own, lies in the future.
    fn clamp(&mut self, now: Time) {
        let times = [&mut self.failure, &mut self.break_off, &mut self.ejected, &mut self.pushback, &mut self.overdue];
        times.into_iter().for_each(|time| *time = (*time).min(now));
        self.alert_until = self.alert_until.min(now.saturating_add(verdict::ALERT));
    }
}

impl Outliers {
    /// Outlier detection of a cluster of which nothing is known yet.
    #[must_use]
    pub const fn new(policy: OutlierPolicy, me: WorkerId) -> Self {
        Self {
            policy,
            me,
            hosts: Hosts::new(policy.interval, MOST_HOSTS),
            steering: Steering::new(me.0),
            ejected: 0,
            sharing: Sharing::new(),
            latest: Latest::NEVER,
            all_fail: Condition::Absent,
            all_unresponsive: Condition::Absent,
            probe_budget: ProbeBudget::new(),
            probes: 0,
            requests_while_down: 0,
            downtime: Downtime::new(),
        }
    }

    /// Puts another policy in force. What was learned stays, but for the histories of hosts if the interval is another.
    pub fn set_policy(&mut self, policy: OutlierPolicy) {
        self.hosts.set_interval(policy.interval);
        self.policy = policy;
    }

    /// The number of hosts that the cluster seems to have, ejected ones among them.
    #[must_use]
    pub fn known(&self, now: Time) -> usize {
        self.hosts.known(now)
    }

    /// The number of hosts that are remembered, seen recently or not.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.hosts.len()
    }

    /// Takes the number of hosts that were forgotten to make room for others since the last call.
    pub fn take_forgotten(&mut self) -> u32 {
        self.hosts.take_forgotten()
    }

    /// Whether a host was seen that is not judged, since it has no address with a port. Returns `true` once.
    pub fn take_unjudged(&mut self) -> bool {
        self.hosts.take_unjudged()
    }

    /// The number of ejected hosts.
    #[must_use]
    pub const fn ejected(&self) -> usize {
        self.ejected
    }

    /// Names the ejected hosts.
    pub fn each_ejected(&self, name: &mut dyn FnMut(&str)) {
        self.hosts.each_ejected().for_each(|(_, host, _)| name(&host.address));
    }

    /// Whether the host of that address is ejected.
    #[must_use]
    pub fn is_ejected(&self, address: &str) -> bool {
        self.hosts.find(address).and_then(|place| self.hosts.at(place)).is_some_and(|host| host.state.is_ejected())
    }

    /// Whether the host of that address is ejected, or answers nothing.
    #[must_use]
    pub fn is_silent(&self, address: &str) -> bool {
        let host = self.hosts.find(address).and_then(|place| self.hosts.at(place));
        host.is_some_and(|host| host.state.is_ejected() || host.history.failed_in_a_row(Failure::Timeout) > 1)
    }

    /// Whether half or more of the hosts are ejected.
    fn is_mostly_ejected(&self, now: Time) -> bool {
        self.ejected * 2 >= self.hosts.known(now)
    }

    /// Whether no host was ejected and no attempt failed within the interval, so that a sample of the answered attempts is
    /// enough.
    #[must_use]
    pub fn is_calm(&self, now: Time) -> bool {
        self.ejected == 0
            && now.is_later(self.policy.interval, self.latest.failure.max(self.latest.ejected))
            && now.is_later(WATCHFUL, self.latest.overdue)
    }

    /// Whether to look where Envoy's balancer sent a request that is over, and was left to it: while the cluster is
    /// [calm](Self::is_calm) and its shares are known, a sample keeps these current.
    pub fn wants_pick(&mut self, calm: bool, now: Time) -> bool {
        !calm || !self.steering.shares.are_known(self.hosts.len()) || self.steering.shares.takes_request(now)
    }

    /// Whether the record was not read for a while, so that another worker may have ejected a host since.
    #[must_use]
    pub fn is_stale(&self, now: Time) -> bool {
        let stale = match self.ejected {
            0 => STALE,
            1..=FEW if self.is_mostly_ejected(now) => STALE_WITH_HALF_EJECTED,
            _ => STALE_WITH_EJECTED,
        };
        now.is_later(stale, self.sharing.exchanged) || self.sharing.exchanged > now
    }

    /// Whether there were requests recently.
    fn has_requests(&self, now: Time) -> bool {
        now.is_soon_after(RECENTLY, self.latest.request)
    }

    /// Whether to exchange on the timer: there were requests recently, or there is something to write for other
    /// workers. While hosts are ejected, it is also due if the record was not read for a while: some time after the
    /// last request they no longer are.
    #[must_use]
    pub fn is_due(&self, now: Time) -> bool {
        self.has_requests(now)
            || !self.sharing.pending.is_empty()
            || (self.ejected > 0 && now.is_later(RECENTLY, self.sharing.exchanged))
    }

    /// A request arrives that is not [routed](Self::route).
    pub fn requested(&mut self, now: Time) {
        self.latest.request = now;
    }

    /// Envoy's own balancer picked a host for a request that carried no list; where [`EndedAttempt::picked`] does not say so.
    pub fn picked(&mut self, address: &str, now: Time) {
        if let Some(place) = self.hosts.seen(address, now) {
            self.picked_at(place);
        }
    }

    /// A request is over that was left to Envoy's balancer, which picked the host of that address. `once`: it had one
    /// attempt. The caller need find that out only if the balancer is [tried](Self::tries_balancer).
    pub fn left_to_balancer(&mut self, address: &str, once: bool, now: Time) {
        let Some(place) = self.hosts.seen(address, now) else { return };
        self.picked_at(place);
        let meets = !once || self.hosts.ejected_at(place).is_some();
        self.steering.left_out.learn(meets, (self.ejected, self.hosts.len()), now);
    }

    /// Whether requests are left to Envoy's balancer although hosts are ejected: to find out whether it leaves them
    /// out, or because it does.
    #[must_use]
    pub const fn tries_balancer(&self) -> bool {
        self.steering.left_out.listens()
    }

    fn picked_at(&mut self, place: usize) {
        self.steering.picked(&mut self.hosts, place);
        // Where all is left to the balancer, each worker sees enough.
        if self.ejected > 0
            && !self.tries_balancer()
            && self.sharing.pending.len() < MOST_EVENTS
            && let Some(host) = self.hosts.at(place)
        {
            self.sharing.pending.push(Change::ReportPick(host.address.clone()));
        }
    }

    /// A host that was listed is no longer in the cluster. It is listed again when Envoy's balancer picks it.
    pub fn gone(&mut self, address: &str) {
        self.steering.shares.gone(&mut self.hosts, address);
    }
}
