//! Outlier detection that acts: what one worker knows of the hosts of one cluster, and where it sends requests.
//!
//! ```text
//!   attempt ends ──► detector: worse than the others? ──► change ──► record that all workers share
//!                                                                          │
//!   request ◄── steering: list of hosts, or a probe ◄── standing of each ◄─┘
//! ```
//!
//! **What the caller must do.** All times are the host's wall clock as it is ([`Time::from_nanos`]), as in all records.
//!
//! 1. Make one of these per cluster, with a [`WorkerId`] from [`claim`](crate::outlier::shared::claim), when the first request for
//!    the cluster arrives.
//! 2. When a request arrives and nothing was exchanged of late ([`is_stale`](Outliers::is_stale)), exchange. Then
//!    [`route`](Outliers::route) it: put the list, if any, into the header that the cluster's `override_host` policy reads,
//!    and remove what a client sent there in any case. Remember the [`Route::probe`]. If it can be repeated, hedge it after
//!    [`hedge_after`](Outliers::hedge_after).
//! 3. When an attempt ends, say so ([`attempt_ended`](Outliers::attempt_ended)); if that returns `true`, exchange at once.
//!    Where [`is_calm`](Outliers::is_calm), answered attempts may be sampled, the sample's `weight` telling how many it
//!    stands for; failures are never sampled.
//! 4. When a request that carried a probe is over, however it ended, say so ([`probe_over`](Outliers::probe_over)), after
//!    its attempts if the order can be chosen. A verdict that comes later still counts.
//! 5. Ten times a second, exchange for each cluster that [had requests](Outliers::has_requests) of late or has something to
//!    say ([`is_pending`](Outliers::is_pending)):
//!
//! ```text
//!     loop {
//!         record, version = get_shared_data("weir/ejections/" + cluster)
//!         now = the host's time                              // after reading the record, see crate::base::time
//!         changed = outliers.exchange(record, now)
//!         if changed is none, or set_shared_data(changed, version) is ok {
//!             outliers.published()
//!             break
//!         }
//!     }
//!     events = outliers.take_events()                        // count and log them
//!     if any of these ejects a host, or keeps it out {
//!         set_shared_data("weir/hosts/" + cluster, outliers.roster(), whatever was there)
//!     }
//!     if outliers.wants_roster() {                           // a worker that just started
//!         outliers.learn(get_shared_data("weir/hosts/" + cluster))
//!     }
//! ```
//!
//! In shadow mode, do all but step 2's header, under a key of its own.
//!
//! A worker acts on its own verdict as soon as it exchanged, whether or not the record could be written.

use std::time::Duration;

pub mod detector;
pub mod ejection;
pub mod history;
pub mod hosts;
mod judge;
mod probe;
mod share;
pub mod shared;

use judge::JUST;
use probe::Purse;

use crate::base::percent::Percent;
use crate::base::time::Time;
use crate::outlier::detector::{Failure, OutlierPolicy};
use crate::outlier::ejection::{Out, Standing};
use crate::outlier::hosts::{Host, Hosts, MOST_HOSTS};
use crate::outlier::shared::{Change, Ejection, WorkerId};
use crate::signal::Signal;
use crate::steering::{SUSPICION, Steering, is_suspect};

/// A cluster had requests of late if there was one within this time.
const RECENTLY: Duration = Duration::from_millis(500);
/// The record is read at most so often because a request arrives, 200 times a second, at two microseconds each. With eight workers
/// and 1,000 requests a second, 5 ms instead of 10 save one attempt on a replica that goes down, of seven;
const STALE: Duration = Duration::from_millis(5);
/// or so often, while some host is out: it says more then, and takes longer to read;
const STALE_WITHOUT: Duration = Duration::from_millis(10);
/// or so often, where half or more of the hosts are out, but no more than `FEW`: the next to go down has many of the requests.
const STALE_WITHOUT_HALF: Duration = Duration::from_millis(2);
const FEW: usize = 8;
/// While it is not known how long hosts usually are down, in nanoseconds.
const USUAL: u64 = 2_000_000_000;
/// A probability of one, in millionths.
const CERTAIN: u64 = 1_000_000;
/// At most this many events wait for [`Outliers::take_events`].
const MOST_EVENTS: usize = 1_000;

/// An attempt that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedAttempt<'a> {
    /// The address and port of its host; `None` where that is unknown, and then the attempt says nothing.
    pub host: Option<&'a str>,
    /// How it ended.
    pub signal: Signal,
    /// When it began: now, less its duration.
    pub began: Time,
    /// How many answered attempts it stands for; 1 where all are told.
    pub weight: u32,
    /// Whether Envoy's own balancer picked the host: the request carried no list, and this was no retry.
    pub picked: bool,
}

/// Where to send a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Different addresses, separated by commas: for the first attempt, and for each retry.
    pub hosts: String,
    /// Set if the first attempt is a probe: what [`Outliers::probe_over`] wants to know.
    pub probe: Option<Probe>,
}

/// A probe, by its number: unique within this worker and cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe(u64);

/// What happened, told once: by the worker that did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A detector fired, but the host stays in: too many are out, or it is the last.
    Detected(Box<str>, Failure),
    /// A host is out, for the first time or again after a failed probe (then its `strikes` are not 0).
    Ejected(Ejection),
    /// A probe failed.
    Extended(Ejection),
    /// A host is back.
    Readmitted(Box<str>),
    /// All are back: those that were in failed as well.
    AllReadmitted,
}

/// The hosts of one cluster, as one worker sees them.
#[derive(Clone, Debug)]
pub struct Outliers {
    policy: OutlierPolicy,
    me: WorkerId,
    hosts: Hosts,
    steering: Steering,
    /// Hosts that are out.
    out: usize,
    /// When all were last readmitted, as the record has it.
    common: Time,
    /// What the record does not say yet.
    pending: Vec<Change>,
    /// Which of it applied to the record that was last seen.
    applied: Vec<Event>,
    events: Vec<Event>,
    probes: u64,
    /// How much evidence of others was heard.
    heard: u64,
    /// How many workers have requests, as far as they spoke.
    speaking: u32,
    requested: Time,
    exchanged: Time,
    /// When an attempt failed last, and when one was not answered at all.
    troubled: Time,
    broken: Time,
    /// What probes may cost.
    purse: Purse,
    /// When some host was last out.
    was_out: Time,
    /// When all that are in last were silent.
    lost: Time,
    /// How long hosts were down, of late, in nanoseconds; only of those that this worker brought back.
    usual: u64,
    /// When all that are in failed, last and first.
    desperate: Time,
    despaired: Time,
    /// When this said which hosts there are.
    listed: Time,
    /// Whether it asked others.
    asked: bool,
}

/// How likely it is, in millionths, that a host is back that was down for `known` when it was last tried, and would be for `age`
/// now, in nanoseconds, where hosts `usual`ly are down for so long.
///
/// Most are back after half as long to half as long again, one time as likely as another. Of one that was down for longer, it is
/// known only that it takes long: it may well take as long again.
fn back(known: u64, age: u64, usual: u64) -> u64 {
    let micros = |nanos: u64| nanos / 1_000;
    let usual = if usual == 0 { USUAL } else { usual };
    let (first, last) = (micros(usual / 2), micros(usual.saturating_add(usual / 2)));
    let (known, age) = (micros(known), micros(age));
    let (part, whole) = if known < last {
        (age.min(last).saturating_sub(known.max(first)), last - known.max(first))
    } else {
        (age.saturating_sub(known), age)
    };
    part.saturating_mul(CERTAIN) / whole.max(1)
}

impl Outliers {
    /// Nothing is known yet.
    #[must_use]
    pub const fn new(policy: OutlierPolicy, me: WorkerId) -> Self {
        Self {
            policy,
            me,
            hosts: Hosts::new(policy.interval, MOST_HOSTS),
            steering: Steering::new(me.0),
            out: 0,
            common: Time::from_nanos(0),
            pending: Vec::new(),
            applied: Vec::new(),
            events: Vec::new(),
            probes: 0,
            heard: 0,
            speaking: 0,
            requested: Time::from_nanos(0),
            exchanged: Time::from_nanos(0),
            troubled: Time::from_nanos(0),
            broken: Time::from_nanos(0),
            purse: Purse::new(),
            was_out: Time::from_nanos(0),
            lost: Time::from_nanos(0),
            usual: 0,
            desperate: Time::from_nanos(0),
            despaired: Time::from_nanos(0),
            listed: Time::from_nanos(0),
            asked: false,
        }
    }

    /// Puts another policy in force. What was learned stays, but for the records of hosts if the interval is another.
    pub fn set_policy(&mut self, policy: OutlierPolicy) {
        self.hosts.set_interval(policy.interval);
        self.policy = policy;
    }

    /// How many hosts are known; those that are out among them.
    #[must_use]
    pub fn known(&self, now: Time) -> usize {
        self.hosts.known(now)
    }

    /// How many are remembered, seen of late or not.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.hosts.len()
    }

    /// How many were forgotten to make room for others, since this was last asked.
    pub fn take_forgotten(&mut self) -> u32 {
        self.hosts.take_forgotten()
    }

    /// How many are out.
    #[must_use]
    pub const fn out(&self) -> usize {
        self.out
    }

    /// Whether a host is out.
    #[must_use]
    pub fn is_out(&self, address: &str) -> bool {
        self.hosts.find(address).and_then(|place| self.hosts.at(place)).is_some_and(|host| host.standing.is_out())
    }

    /// Whether no host was out and none failed within the interval, so that a sample of the answered attempts is enough.
    #[must_use]
    pub fn is_calm(&self, now: Time) -> bool {
        self.out == 0 && now.is_later(self.policy.interval, self.troubled.max(self.was_out))
    }

    /// Whether the shares that Envoy's balancer gives the hosts are known well enough that a sample keeps them fresh.
    #[must_use]
    pub fn knows_shares(&self) -> bool {
        self.steering.knows_shares(self.hosts.len())
    }

    /// Whether the record was not read for a while, so that another worker may have ejected a host since.
    #[must_use]
    pub fn is_stale(&self, now: Time) -> bool {
        let stale = match self.out {
            0 => STALE,
            1..=FEW if self.is_scarce(now) => STALE_WITHOUT_HALF,
            _ => STALE_WITHOUT,
        };
        now.is_later(stale, self.exchanged) || self.exchanged > now
    }

    /// Whether there were requests of late.
    #[must_use]
    pub fn has_requests(&self, now: Time) -> bool {
        now.since(self.requested) < RECENTLY && self.requested <= now
    }

    /// Whether there is something to say to other workers.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What happened since this was last asked.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// A request arrives. `None` where Envoy should decide: no host is out, or none is left to list, or it explores. (If no
    /// host is out but one is suspect, or was out of late, a request that could not be repeated is steered all the same: see
    /// [`crate::steering`].)
    ///
    /// `repeatable` says that this request is retried whatever happens to its first attempt: its method allows it, and so do
    /// its route and budget. `retries` is how many retries it may have.
    pub fn route(&mut self, now: Time, repeatable: bool, retries: u32, explore: Percent) -> Option<Route> {
        let route = self.choose(now, repeatable, retries, explore)?;
        let first = route.hosts.split(',').next().unwrap_or_default();
        if let Some(place) = self.hosts.find(first)
            && let Some(host) = self.hosts.at_mut(place)
        {
            self.steering.sends(host, now);
            if !repeatable && host.heard != Time::default() {
                host.followed = host.followed.saturating_add(1);
            }
            self.hosts.watch(place);
        }
        Some(route)
    }

    /// After what time a repeatable request should be sent once more, beside its first attempt, if that is not answered by then:
    /// while some host is out, since its host may hang. `None` where it should not: what answers take is not known yet, or
    /// none came of late, so that all hosts may just have become slow.
    #[must_use]
    pub fn hedge_after(&self, now: Time) -> Option<Duration> {
        self.steering
            .patience()
            .filter(|patience| self.out > 0 && self.steering.hears(*patience, now))
            .map(Duration::from_nanos)
    }

    /// Whether a request should be steered although no host is out: around a host that is silent, or, if it cannot be repeated,
    /// to where something was answered.
    fn is_wary(&mut self, repeatable: bool, now: Time) -> bool {
        let after = !now.is_later(self.policy.interval, self.was_out);
        if after && !repeatable && self.steering.has_scouts() {
            return true;
        }
        let looks = if repeatable { after } else { now.since(self.broken) < SUSPICION };
        let is = |host: &Host| match repeatable {
            true => self.steering.is_silent(host, now),
            false => is_suspect(host, now),
        };
        looks && self.hosts.any_watched(&is, now)
    }

    /// Whether all that are in are silent or fail, and those that are out should be tried.
    fn is_lost(&mut self, now: Time) -> bool {
        let silent = |host: &Host| self.steering.is_silent(host, now);
        self.out > 0
            && !self.hosts.well(&|host| !silent(host) && !host.record.is_in_trouble(), now)
            && self.hosts.present(now).any(silent)
    }

    fn choose(&mut self, now: Time, repeatable: bool, retries: u32, explore: Percent) -> Option<Route> {
        self.requested = now;
        self.purse.earn();
        let repeatable = repeatable && retries > 0;
        if repeatable {
            self.steering.scout();
        }
        if self.all_are_down(now) {
            return self.in_turn(retries, now);
        }
        let wary = self.out == 0 && self.is_wary(repeatable, now);
        // Where only some of the hosts can be remembered, these would get all requests.
        if self.out == 0 && !wary || self.hosts.is_crowded(now) {
            return None;
        }
        self.hosts.count(now);
        let count = usize::try_from(retries).unwrap_or(usize::MAX).saturating_add(1);
        if self.is_lost(now) {
            if now.since(self.lost) >= JUST {
                self.pending.push(Change::Hurry);
            }
            self.lost = now;
        }
        if self.is_desperate(now) {
            return self.likeliest_back(count, now);
        }
        if self.steering.is_at_sea() {
            return None;
        }
        if let Some(place) = self.due_in_turn(now, repeatable) {
            let mut list: Vec<_> = self.hosts.at(place).map(|host| &*host.address).into_iter().collect();
            list.extend(self.steering.draw(&self.hosts, count.saturating_sub(1).max(1), repeatable, now));
            if list.len() > 1 {
                let hosts = list.join(",");
                return Some(Route { hosts, probe: self.probe(place, now) });
            }
        }
        if self.out > 0 && self.explores(explore, repeatable, now) {
            return None;
        }
        let mut list = self.steering.draw(&self.hosts, count, repeatable, now);
        if list.is_empty() && self.out > 0 {
            list = self.steering.draw(&self.hosts, count, true, now);
        }
        if list.is_empty() {
            return None;
        }
        // Else Envoy picks where the last retries go, and may pick the host that went last.
        // A host that seems to have left may still be there: it is better than one that failed.
        let left = |host: &Host| match &host.standing {
            Standing::Out(out) => Some(self.is_hardly_back(out, now)),
            Standing::In(_) if host.picks.weight > 0 && host.is_known(now) && !self.steering.is_picked(host) => Some(0),
            Standing::In(_) => None,
        };
        list.extend(self.hosts.lowest(count.saturating_sub(list.len()), &left));
        Some(Route { hosts: list.join(","), probe: None })
    }

    /// Whether no host is out, and all failed a moment ago: none is worse than the others.
    fn all_are_down(&mut self, now: Time) -> bool {
        self.out == 0
            && now.since(self.broken) < SUSPICION
            && !self.hosts.is_crowded(now)
            && !self.hosts.well(&|host| !host.record.is_in_trouble(), now)
    }

    /// The hosts by how long ago they were tried, by any worker: so the first that is back is soon found, whatever the turns that
    /// Envoy's balancer takes in each.
    fn in_turn(&self, retries: u32, now: Time) -> Option<Route> {
        let tried = |host: &Host| self.steering.is_picked(host).then(|| host.seen.as_nanos());
        let known = |host: &Host| if host.is_known(now) { tried(host) } else { None };
        let list = self.hosts.lowest(usize::try_from(retries).unwrap_or(usize::MAX).saturating_add(1), &known);
        (list.len() > 1).then(|| Route { hosts: list.join(","), probe: None })
    }

    fn explores(&mut self, explore: Percent, repeatable: bool, now: Time) -> bool {
        let hosts = (self.hosts.len(), self.out);
        let poor = self.is_poor(now);
        self.steering.explores(explore, hosts, self.speaking, repeatable, poor, now)
    }

    /// A rank: lower for a host that is likelier to be [`back`].
    fn is_hardly_back(&self, out: &Out, now: Time) -> u64 {
        let nanos = |from: Time, to: Time| to.as_nanos().saturating_sub(from.as_nanos());
        let ejection = &out.ejection;
        CERTAIN - back(nanos(ejection.since, ejection.failed), nanos(ejection.since, now), self.usual).min(CERTAIN)
    }

    /// All that are in fail: the hosts, in or out, that are likeliest to be back.
    fn likeliest_back(&mut self, count: usize, now: Time) -> Option<Route> {
        let in_or_out = |host: &Host| {
            // One that seems to hang comes last.
            if self.steering.is_silent(host, now) {
                return Some(u64::MAX);
            }
            match &host.standing {
                Standing::Out(out) => Some(self.is_hardly_back(out, now)),
                Standing::In(_) if !host.is_known(now) => None,
                Standing::In(_) if host.record.is_fine() => Some(0),
                // It just failed.
                Standing::In(_) => Some(CERTAIN),
            }
        };
        let list = self.hosts.lowest(count, &in_or_out);
        let (first, hosts) = (self.hosts.find(list.first()?), list.join(","));
        Some(Route { hosts, probe: first.and_then(|place| self.probe(place, now)) })
    }

    /// A request arrives that finds out for an open circuit whether the cluster is back. The host that is out and due for
    /// longest first, whoever owns it: those that are in failed a moment ago, and it had more time to come back. Where none
    /// is, all are alike, and take turns.
    pub fn route_circuit_probe(&mut self, now: Time, retries: u32) -> Option<Route> {
        self.requested = now;
        if self.all_are_down(now) {
            return self.in_turn(retries, now);
        }
        let due = self.hosts.each_out().filter(|(_, _, out)| out.ejection.due <= now);
        let (_, probed, _) = due.min_by_key(|(_, _, out)| out.ejection.due)?;
        let mut list = vec![&*probed.address];
        list.extend(self.steering.draw(&self.hosts, usize::try_from(retries).unwrap_or(usize::MAX), true, now));
        Some(Route { hosts: list.join(","), probe: None })
    }

    /// Whether half or more of the hosts are out.
    fn is_scarce(&self, now: Time) -> bool {
        self.out * 2 >= self.hosts.known(now)
    }

    /// Envoy's own balancer picked a host, for a request that carried no list; where [`EndedAttempt::picked`] cannot tell.
    pub fn picked(&mut self, address: &str, now: Time) {
        if let Some(place) = self.hosts.seen(address, now) {
            self.picked_at(place);
        }
    }

    fn picked_at(&mut self, place: usize) {
        self.steering.picked(&mut self.hosts, place);
        if self.out > 0
            && self.pending.len() < MOST_EVENTS
            && let Some(host) = self.hosts.at(place)
        {
            self.pending.push(Change::See(host.address.clone(), None, 0));
        }
    }

    /// A request arrives that is not [routed](Self::route).
    pub fn requested(&mut self, now: Time) {
        self.requested = now;
    }

    /// A host that was listed is not in the cluster any more: it is listed again when Envoy's balancer picks it.
    pub fn gone(&mut self, address: &str) {
        self.steering.gone(&mut self.hosts, address);
    }
}
