//! Where a request goes: to a list of hosts, as a probe, or where Envoy's own balancer sends it.
//!
//! **Busy hosts.** A host that says "not now" while others answer is busy, and the others are not. It is left alone for a second, which
//! is what most `retry-after` say at least, and what may be repeated goes to another host. Where half or more of the hosts push back,
//! they are right together: then it is the cluster that has enough, and nothing is repeated. What each did with its latest attempts
//! decides, so that a limit that all of them enforce now and then is no host's own.

use std::time::Duration;

use super::probing::CERTAIN;
use super::{Outliers, Probe};
use crate::base::percent::Percent;
use crate::base::text;
use crate::base::time::Time;
use crate::outlier::detector::Failure;
use crate::outlier::ejection::{Ejected, HostState};
use crate::outlier::host::{Host, LEFT_ALONE, is_busy};
use crate::steering::{Exploration, SUSPICION, is_suspect};

/// Once the latest ejection is this long ago, ejected hosts that refuse do not just restart, and it is
/// [cheap](Exploration::cheap) to meet them.
const SETTLED: Duration = Duration::from_secs(2);

/// While all hosts are down, a host that was tried within this time gets no request in turn.
const TURN: Duration = Duration::from_millis(70);

/// While all hosts are down, Envoy's balancer picks the hosts until this long after the last answer: quick health
/// checks have found other hosts by then.
const HANDED_OVER: Duration = Duration::from_millis(500);

/// For this long after a pushback, another is expected, and repeatable requests are sent so that `guard` may ask another host.
const EXPECTED: Duration = Duration::from_secs(60);
/// A host that pushed back this often in its latest sixteen attempts counts as busy in [`Outliers::others_take`], however long ago.
const OFTEN: u32 = 4;

/// Where to send a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Different addresses, separated by commas: for the first attempt, and for each retry.
    pub hosts: String,
    /// The probe, if the first attempt is one, to pass to [`Outliers::probe_over`].
    pub probe: Option<Probe>,
}

/// A request that is to be routed.
#[derive(Clone, Copy)]
struct Request {
    /// Whether it is retried whatever happens to its first attempt.
    repeatable: bool,
    /// How many attempts it may have in all.
    attempts: usize,
    /// The share of requests that may be left to Envoy's balancer.
    explore: Percent,
    now: Time,
}

impl Outliers {
    /// A request arrives. `None` where Envoy should decide: no host is ejected, or there is none to list, or the request
    /// explores. (If no host is ejected but one is suspect, or was ejected recently, a request that could not be repeated is
    /// steered all the same: see [`crate::steering`].)
    ///
    /// `repeatable` says that this request is retried whatever happens to its first attempt: its method allows it, and so do
    /// its route and budget. `retries` is how many retries it may have.
    pub fn route(&mut self, now: Time, repeatable: bool, retries: u32, explore: Percent) -> Option<Route> {
        let attempts = usize::try_from(retries).unwrap_or(usize::MAX).saturating_add(1);
        let route = self.choose(Request { repeatable: repeatable && retries > 0, attempts, explore, now })?;
        let first = route.hosts.split(',').next().unwrap_or_default();
        if let Some(place) = self.hosts.find(first)
            && let Some(host) = self.hosts.at_mut(place)
        {
            self.steering.responsiveness.sends(host, now);
            if !repeatable && host.last_answer != Time::default() {
                host.pinned = host.pinned.saturating_add(1);
            }
            self.hosts.watch(place);
        }
        Some(route)
    }

    /// The time after which a repeatable request should be hedged, since the host of its first attempt may hang. While
    /// some host is ejected, it is the time after which hosts count as unresponsive. Otherwise, or where that is not
    /// known, it is `usually`, in nanoseconds, and only within a minute after a host seemed to hang. `None` where the
    /// request should not be hedged: it is not known how long answers take, or no host answered recently, so that all
    /// may just have become slow.
    #[must_use]
    pub fn hedge_after(&self, usually: Option<u64>, now: Time) -> Option<Duration> {
        let deadline = match self.steering.responsiveness.deadline().filter(|_| self.ejected > 0) {
            Some(deadline) => {
                Some(deadline).filter(|deadline| self.steering.responsiveness.answers_arrive(*deadline, now))
            }
            None => usually.filter(|_| now < self.latest.alert_until),
        };
        deadline.map(|deadline| Duration::from_nanos(deadline.max(self.steering.responsiveness.takes_by_nature(now))))
    }

    /// A request that was to be hedged `after` that time was answered, and `took` this long.
    pub fn hedged(&mut self, after: Duration, took: Duration, now: Time) {
        self.steering.responsiveness.hedged(after, took, now);
    }

    /// A request that may be repeated was answered, and took `took` nanoseconds by nature. While some host is ejected,
    /// hedges need not find that out again.
    pub fn took_long(&mut self, took: u64, now: Time) {
        if self.ejected > 0 {
            self.steering.responsiveness.took_long(took, now);
        }
    }

    /// A request arrives that finds out for an open circuit whether the cluster is back. It goes to the ejected host that is due
    /// for longest, whichever worker owns it: the healthy hosts failed a moment ago, and this one had more time to come back.
    /// Where no host is ejected, all are alike, and take turns.
    pub fn route_circuit_probe(&mut self, now: Time, retries: u32) -> Option<Route> {
        self.latest.request = now;
        if self.all_are_down(now) {
            return self.in_turn(now);
        }
        let due = self.hosts.each_ejected().filter(|(_, _, ejected)| ejected.ejection.due <= now);
        let (_, probed, _) = due.min_by_key(|(_, _, ejected)| ejected.ejection.due)?;
        let mut list = vec![&*probed.address];
        list.extend(self.steering.draw(&self.hosts, usize::try_from(retries).unwrap_or(usize::MAX), true, now));
        Some(Route { hosts: text::list(&list), probe: None })
    }

    fn choose(&mut self, request: Request) -> Option<Route> {
        let Request { repeatable, now, .. } = request;
        self.latest.request = now;
        self.probe_budget.deposit();
        if repeatable {
            self.latest.repeatable = now;
            self.steering.add_canary();
        }
        if self.all_are_down(now) {
            return self.in_turn(now);
        }
        let leaves_alone = self.leaves_alone(now);
        let steered = self.ejected > 0 || leaves_alone || self.is_wary(repeatable, now);
        // Where only some of the hosts can be remembered, these would get all requests.
        if !steered || self.hosts.is_crowded(now) {
            return None;
        }
        self.hosts.count_peers(now);
        self.panic_if_unresponsive(now);
        if self.in_panic(now) {
            return self.likeliest_back(request.attempts, now);
        }
        if self.steering.goes_to_unseen_host() {
            return None;
        }
        if let Some(route) = self.probe_next(request) {
            return Some(route);
        }
        // What cannot be repeated must not meet a host that hangs.
        let may_meet = repeatable || now >= self.latest.alert_until;
        if self.ejected > 0 && may_meet && self.explores(request, leaves_alone) {
            return None;
        }
        self.list(request)
    }

    /// The host that any worker tried longest ago: so the first one that is back is soon found, whatever the turns that Envoy's
    /// balancer takes in each worker. A request that may not be retried has its turn as well. Retries are left to the balancer, and so
    /// is one request in eight, and each that comes soon after an answer, or when all were tried a moment ago: it may have other hosts
    /// by now, those of a lower priority.
    fn in_turn(&mut self, now: Time) -> Option<Route> {
        self.requests_while_down = self.requests_while_down.wrapping_add(1);
        if self.requests_while_down.is_multiple_of(8) || self.steering.responsiveness.answered_within(HANDED_OVER, now)
        {
            return None;
        }
        let tried = |host: &Host| {
            // The balancer picks hosts too rarely here to show which ones left.
            let listed = host.is_known(now) && host.picks.weight > 0 && now.is_later(TURN, host.seen);
            listed.then(|| host.seen.as_nanos())
        };
        let list = self.hosts.lowest(1, &tried);
        list.first().filter(|_| self.hosts.len() > 1).map(|host| Route { hosts: (*host).to_owned(), probe: None })
    }

    /// Whether a request should be steered although no host is ejected: around a host that is unresponsive, or, if the request
    /// cannot be repeated, to a host that answered.
    fn is_wary(&mut self, repeatable: bool, now: Time) -> bool {
        let after_ejection = !now.is_later(self.policy.interval, self.latest.ejected);
        if after_ejection && !repeatable && self.steering.has_canaries() {
            return true;
        }
        let may = if repeatable { after_ejection } else { now.is_within(SUSPICION, self.latest.break_off) };
        let is_bad = |host: &Host| match repeatable {
            true => self.steering.responsiveness.is_unresponsive(host, now),
            false => is_suspect(host, now),
        };
        may && self.hosts.any_watched(&is_bad, now)
    }

    /// Routes a request as a probe of an ejected host, if one should get it and there are other hosts for its retries.
    fn probe_next(&mut self, Request { repeatable, attempts, now, .. }: Request) -> Option<Route> {
        let place = self.next_to_probe(repeatable, now)?;
        let mut list: Vec<_> = self.hosts.at(place).map(|host| &*host.address).into_iter().collect();
        list.extend(self.steering.draw(&self.hosts, attempts.saturating_sub(1).max(1), repeatable, now));
        if list.len() < 2 {
            return None;
        }
        let hosts = text::list(&list);
        Some(Route { hosts, probe: self.start_probe(place, now) })
    }

    /// Whether a request should be left to Envoy's balancer: to keep the shares current and to meet new hosts, or since that leaves out
    /// all ejected hosts by itself, and no busy host is to be left alone.
    fn explores(&mut self, Request { repeatable, attempts, explore, now }: Request, leaves_alone: bool) -> bool {
        let mut latest = Time::default();
        let refuses = |(_, host, ejected): (usize, &Host, &Ejected)| {
            let ejection = &ejected.ejection;
            latest = latest.max(ejection.since);
            ejection.failure == Failure::Refused && !ejection.unreachable && !host.unreachable
        };
        // Its retries cannot all meet such a host.
        let cheap = repeatable && self.ejected < attempts && self.hosts.each_ejected().all(refuses);
        let tries = cheap && explore > Percent::default() && !leaves_alone;
        if tries && self.steering.left_out.leaves(self.sharing.active_workers, now) {
            return true;
        }
        let exploration = Exploration {
            cheap: cheap && now.is_later(SETTLED, latest),
            percent: explore,
            hosts: self.hosts.len() as u64,
            ejected: self.ejected as u64,
            workers: self.sharing.active_workers,
            probes_fail: self.is_probe_budget_exhausted(now),
        };
        self.steering.explores(exploration, repeatable, now)
    }

    /// Lists hosts for all attempts of a request: healthy ones, then those that seem to have left the cluster and ejected ones.
    /// If the list were shorter, Envoy would pick the hosts of the last retries, and might pick one that just failed.
    fn list(&mut self, Request { repeatable, attempts, now, .. }: Request) -> Option<Route> {
        let mut list = self.steering.draw(&self.hosts, attempts, repeatable, now);
        if list.is_empty() && self.ejected > 0 {
            list = self.steering.draw(&self.hosts, attempts, true, now);
        }
        if list.is_empty() {
            return None;
        }
        // A host that seems to have left may still be there: it is better than one that failed.
        let rank = |host: &Host| match host.state.ejected() {
            Some(ejected) => Some(self.downtime.rank(ejected, now)),
            None if host.picks.weight > 0 && host.is_known(now) && !self.steering.shares.is_picked(host) => Some(0),
            None => None,
        };
        list.extend(self.hosts.lowest(attempts.saturating_sub(list.len()), &rank));
        Some(Route { hosts: text::list(&list), probe: None })
    }

    /// In panic mode, lists the hosts that are likeliest to be back, healthy ones and ejected ones.
    fn likeliest_back(&mut self, attempts: usize, now: Time) -> Option<Route> {
        let rank = |host: &Host| {
            // A host that seems to hang comes last.
            if self.steering.responsiveness.is_unresponsive(host, now) {
                return Some(u64::MAX);
            }
            match &host.state {
                HostState::Ejected(ejected) | HostState::Probing(ejected, _) => Some(self.downtime.rank(ejected, now)),
                HostState::Healthy(_) if !host.is_known(now) => None,
                HostState::Healthy(_) if host.history.last_succeeded() => Some(0),
                // It just failed.
                HostState::Healthy(_) => Some(CERTAIN),
            }
        };
        let list = self.hosts.lowest(attempts, &rank);
        let (first, hosts) = (self.hosts.find(list.first()?), text::list(&list));
        // Each pays for itself only when it is answered: one at a time.
        let first = first.filter(|place| !self.hosts.at(*place).is_some_and(|host| host.state.is_probed(now)));
        Some(Route { hosts, probe: first.and_then(|place| self.start_probe(place, now)) })
    }
}

impl Outliers {
    /// Whether some host pushed back within the last minute, and so may again.
    #[must_use]
    pub fn expects_pushback(&self, now: Time) -> bool {
        self.was_pushed_back(EXPECTED, now)
    }

    fn was_pushed_back(&self, within: Duration, now: Time) -> bool {
        self.latest.pushback > Time::default() && now.is_soon_after(within, self.latest.pushback)
    }

    /// Whether other hosts may take what a busy one pushes back: fewer than half of the healthy hosts are busy, or just one is.
    #[must_use]
    pub fn others_take(&self, now: Time) -> bool {
        let is = |host: &&Host| is_busy(host, now) || host.pushes.count_ones() >= OFTEN;
        let (present, busy) = (self.hosts.present(now).count(), self.hosts.present(now).filter(is).count());
        present > 1 && (2 * busy < present || busy == 1)
    }

    /// Whether some host is to be left alone.
    pub(super) fn leaves_alone(&self, now: Time) -> bool {
        self.was_pushed_back(LEFT_ALONE, now) && self.others_take(now)
    }
}
