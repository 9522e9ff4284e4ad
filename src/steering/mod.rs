//! Lists of hosts, while some host of a cluster is ejected: for Envoy's `override_host` policy, or their first host for its
//! filter `stateful_session` (`session`).
//!
//! The policy sends the n-th attempt of a request to the n-th host of the list in its header, whatever the host's health
//! and weight. So a list has one host for the first attempt and a different one for each retry, and both come from what
//! Envoy's own balancer did: each host is drawn with the share that the balancer gave it while it was asked, and a host
//! that the balancer picks no longer (drained, unhealthy, removed) is listed no longer.
//!
//! **Shares** (`shares`) are counted in picks, not in seconds: when there are 128 for each host, or 1,024, all are halved. So in calm
//! times they follow the balancer within some seconds, and at once where a host is new; and in a long ejection, when few requests are
//! left to the balancer, they stay as exact as they were; a host that is first met then is taken to have the mean share. A host is
//! listed until the balancer has made as many picks without it as would have given it four.
//!
//! The share of each host is hardly ever known to better than an eighth. Where hosts differ by no more than chance explains,
//! all get the same: of 300 equal hosts at 70 percent of their capacity, those that chance had favoured got more than they
//! could do.
//!
//! **Suspects.** Before a detector has seen enough, a host whose latest attempt was not answered is suspect, for a second or
//! until it answers. Requests that could not be repeated avoid it; of those that can be, one at a time tries it.
//!
//! **Pinned requests.** While a host is ejected and for an interval after, requests that could not be repeated are pinned to the
//! host that answered last: so the first request to meet a host that is down is one that can be repeated, and is. The requests
//! that can be repeated are their canaries, and pinned requests follow the canaries' shares thereby. No more requests are pinned
//! than there are canaries: where nothing can be repeated, one host would get all. Answers to pinned requests do not count, and
//! a host has one pinned request at a time: otherwise a host that gets more would answer more, and so get ever more.
//!
//! **Unresponsive hosts** (`responsiveness`). A host that hangs fails no attempt for long. But it is known where requests were
//! sent: if a host answered none for several times as long as answers take, at least 50 ms, it gets no more, for a second or
//! until it answers; then for two, for four, at most for eight seconds, as long as it stays so. If all healthy hosts are
//! unresponsive, the ejected ones are probed at once. And a request that can be repeated is sent once more, beside the first
//! attempt, after that time ([`Outliers::hedge_after`](crate::outlier::Outliers::hedge_after)): so no client waits for a host
//! that hangs, and an attempt that just takes long is still answered.
//!
//! **Exploring.** To keep the shares current and to meet new hosts, some requests carry no list: a share of
//! `explore_percent` at most, and no more than it takes for each host to be picked every two seconds, by all workers together:
//! they share what was picked. Such a request may meet an ejected host, which costs it a retry. So where one of many hosts is
//! ejected there may be more of them, up to nine in 400 that meet it: in a big and quiet cluster, where two seconds are never
//! enough, Envoy goes on balancing nearly all by itself, and what it drains gets nothing. Where most hosts are ejected there
//! are fewer, and half as many in the first five seconds, while the shares from calm times are current. Where all ejected hosts refuse
//! connections, and there are few of them, to meet one costs some milliseconds and no budget: then up to one in eight may, so
//! that a host which the balancer leaves out (drained, or failing health checks) is found out within a second.
//!
//! **Hosts that Envoy leaves out** (`left_out`). Where the balancer itself leaves out all that is ejected, which a few requests show,
//! what may be repeated is left to it.
//!
//! **Unseen hosts** have their share as well. Where a worker knows few of many hosts, lists of those alone would give these the
//! requests of the others: so as many requests carry no list as Envoy's balancer would send to hosts that are unknown here.

use std::time::Duration;

pub(crate) mod left_out;
pub(crate) mod responsiveness;
pub mod session;
pub(crate) mod shares;

use left_out::LeftOut;
use responsiveness::Responsiveness;
use shares::{Shares, Weighting};

use crate::base::percent::Percent;
use crate::base::random::Random;
use crate::base::time::{Time, nanos, nanos_since};
use crate::outlier::host::Host;
use crate::outlier::host::is_busy;
use crate::outlier::hosts::Hosts;

/// A host is suspect for this long, if it answers no request before.
pub const SUSPICION: Duration = Duration::from_secs(1);
/// At most this many requests that cannot be repeated may be pinned without further canaries.
const MAX_CANARIES: u32 = 8;
/// A request is pinned to the host that answered last, if that was within this time.
const ANSWERED_RECENTLY: Duration = Duration::from_secs(1);
/// This long after some host was ejected, the shares from calm times are current, and half the exploring will do.
const CURRENT: Duration = Duration::from_secs(5);
/// More than `explore_percent` of the requests may explore, as long as exploring makes at most this share of the
/// repeatable requests meet an ejected host: 2.25 percent, in basis points.
const MOST_MEET: u64 = 225;
/// The share that replaces [`MOST_MEET`] while probes fail all the time, which costs enough: 0.2 percent, in basis
/// points. Then no more than `explore_percent` explore in any case.
const MOST_MEET_WHILE_PROBES_FAIL: u64 = 20;
/// The share that replaces [`MOST_MEET`] where it is [cheap](Exploration::cheap) to meet an ejected host: 12.5 percent,
/// in basis points. All ejected hosts refuse, which costs no time and no budget.
const MOST_MEET_WHERE_CHEAP: u64 = 1_250;
/// While some host is ejected, requests explore so that Envoy's balancer picks each host about once in this time.
const EACH_HOST: Duration = Duration::from_secs(2);
/// The time that replaces [`EACH_HOST`] where all ejected hosts refuse. A host that Envoy's balancer does not pick any
/// more, since it is drained or fails health checks, then gets no more after a second or so.
const EACH_HOST_REFUSED: Duration = Duration::from_millis(100);

/// Whether the latest attempt on a host was not answered at all, and something concerned the host within a second (see [`Host::seen`]).
#[must_use]
pub fn is_suspect(host: &Host, now: Time) -> bool {
    host.history.last_broke() && now.is_within(SUSPICION, host.seen)
}

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

/// A host that was drawn.
struct Drawn {
    place: usize,
    /// The picks that it had in the sampler, which are put back in the end.
    picks: u32,
    /// Whether it comes first; suspects and unresponsive hosts come last.
    first: bool,
}

/// Draws the lists of one cluster.
#[derive(Clone, Debug)]
pub struct Steering {
    random: Random,
    /// Which host comes first in each list.
    turns: Random,
    pub(crate) shares: Shares,
    pub(crate) responsiveness: Responsiveness,
    pub(crate) left_out: LeftOut,
    /// Since when some host is ejected.
    active_since: Option<Time>,
    /// When a request was last left to Envoy's balancer.
    explored: Time,
    /// The requests that can be repeated, less the requests that were pinned since.
    canaries: u32,
}

impl Steering {
    /// The steering of a cluster of which nothing is known yet. Workers that should draw different lists have different seeds.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            turns: Random::new(Random::new(seed).number()),
            shares: Shares::new(),
            responsiveness: Responsiveness::new(),
            left_out: LeftOut::new(Time::from_nanos(0)),
            active_since: None,
            explored: Time::from_nanos(0),
            canaries: 0,
        }
    }

    /// Some host is ejected, or none is.
    pub fn set_active(&mut self, some_ejected: bool, now: Time) {
        self.active_since = if some_ejected { Some(self.active_since.unwrap_or(now).min(now)) } else { None };
        self.explored = self.explored.min(now);
        self.responsiveness.clamp(now);
    }

    /// A request arrives that can be repeated.
    pub fn add_canary(&mut self) {
        self.canaries = self.canaries.saturating_add(1).min(MAX_CANARIES);
    }

    /// Whether there are requests that can be repeated, to find out for those that cannot be.
    #[must_use]
    pub const fn has_canaries(&self) -> bool {
        self.canaries > 0
    }

    /// Envoy's balancer picked a host, as far as an attempt shows: its request carried no list, and it was no retry.
    pub fn picked(&mut self, hosts: &mut Hosts, place: usize) {
        self.shares.picked(hosts, place, self.active_since.is_some(), &mut self.random);
    }

    /// Whether the next request should be left to Envoy's balancer because that has hosts that were never seen: as often as it
    /// would pick one of these.
    pub const fn goes_to_unseen_host(&mut self) -> bool {
        self.shares.goes_to_unseen_host(&mut self.random)
    }

    /// Whether the next request should be left to Envoy's balancer. One that is not `repeatable` is left only where no other
    /// comes.
    pub fn explores(&mut self, exploration: Exploration, repeatable: bool, now: Time) -> bool {
        let Exploration { percent, workers, cheap, probes_fail, .. } = exploration;
        if !repeatable && self.has_canaries() {
            return false;
        }
        let (hosts, ejected) = (exploration.hosts.max(1), exploration.ejected.max(1));
        let healthy = hosts.saturating_sub(ejected).max(1);
        if percent > Percent::default() && self.shares.lacks_samples(hosts) {
            return self.random.below(2 * hosts * hosts) < healthy * healthy;
        }
        let share = match percent.basis_points() {
            0 => 0,
            share if cheap => (MOST_MEET_WHERE_CHEAP * hosts / ejected).max(u64::from(share)),
            share if probes_fail => (MOST_MEET_WHILE_PROBES_FAIL * hosts / ejected).min(u64::from(share)),
            share => (MOST_MEET * hosts / ejected).max(u64::from(share)),
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

    /// Draws `count` different healthy hosts, or as many as there are: each with its share among those that are left. Suspects
    /// and unresponsive hosts come last, and only if `trusting`; if not, the host that answered last comes first.
    pub fn draw<'a>(&mut self, hosts: &'a Hosts, count: usize, trusting: bool, now: Time) -> Vec<&'a str> {
        self.shares.fill_sampler(hosts);
        let mut drawn: Vec<Drawn> = Vec::with_capacity(4);
        if !trusting && let Some(place) = self.pin(hosts, now) {
            let picks = self.shares.sampler.set(place, 0);
            drawn.push(Drawn { place, picks, first: true });
        }
        self.draw_by_share(hosts, count, trusting, &mut drawn, now);
        for host in &drawn {
            self.shares.sampler.set(host.place, host.picks);
        }
        let mut list = Vec::with_capacity(4);
        for turn in [true, false] {
            if list.len() < count && (turn || trusting) {
                let of_turn = drawn.iter().filter(|drawn| drawn.first == turn);
                list.extend(of_turn.filter_map(|drawn| hosts.at(drawn.place)).map(|host| &*host.address));
            }
        }
        list.truncate(count);
        list
    }

    /// The place of the host that a request is pinned to, if it has a canary.
    fn pin(&mut self, hosts: &Hosts, now: Time) -> Option<usize> {
        if self.canaries == 0 {
            return None;
        }
        self.canaries -= 1;
        self.last_to_answer(hosts, now).and_then(|host| hosts.find(&host.address))
    }

    /// Draws hosts until `count` come first, or none is left.
    fn draw_by_share(&mut self, hosts: &Hosts, count: usize, trusting: bool, drawn: &mut Vec<Drawn>, now: Time) {
        let (real, mean) = self.shares.spread(hosts.len() as u64);
        let weighting = Weighting::new(256 * real, mean * (256 - real));
        let (pinned, mut first) = (drawn.len(), 0);
        while pinned + first < count && self.shares.sampler.total(weighting) > 0 {
            let total = self.shares.sampler.total(weighting);
            // First attempts are most of what a host gets: by turns, each has its share, and not what chance makes of that.
            let point = if drawn.is_empty() { self.turns.in_turn(total) } else { self.random.below(total) };
            let place = self.shares.sampler.pick(point, weighting);
            let picks = self.shares.sampler.set(place, 0);
            // A host that is picked no longer stays out of the sampler, until it is picked.
            if let Some(host) = hosts.at(place).filter(|host| self.shares.is_picked(host)) {
                // One request at a time tries a suspect, with its first attempt.
                let tries = trusting && pinned + first == 0 && host.oldest_outstanding.is_none();
                let comes_first = (tries || !is_suspect(host, now))
                    && !self.responsiveness.is_unresponsive(host, now)
                    && !is_busy(host, now);
                drawn.push(Drawn { place, picks, first: comes_first });
                first += usize::from(comes_first);
            }
        }
    }

    /// The host that answered last, if a request may be pinned to it.
    fn last_to_answer<'a>(&self, hosts: &'a Hosts, now: Time) -> Option<&'a Host> {
        let may = |host: &Host| {
            !host.state.is_ejected()
                && host.history.last_succeeded()
                && host.pinned == 0
                && host.last_answer <= now
                && nanos_since(host.last_answer, now) < nanos(ANSWERED_RECENTLY)
                && self.shares.is_picked(host)
                && !self.responsiveness.is_unresponsive(host, now)
                && !is_busy(host, now)
        };
        hosts.last_to_answer(&may, ANSWERED_RECENTLY, now)
    }
}
