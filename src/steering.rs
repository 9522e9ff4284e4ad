//! Lists of hosts for Envoy's `override_host` policy, while some host of a cluster is out.
//!
//! The policy sends the n-th attempt of a request to the n-th host of the list in its header, whatever the host's health
//! and weight. So a list has one host for the first attempt and a different one for each retry, and both come from what
//! Envoy's own balancer did: each host is drawn with the share that the balancer gave it while it was asked, and a host
//! that the balancer picks no longer (drained, unhealthy, removed) is listed no longer.
//!
//! **Shares** are counted in picks, not in seconds: when there are 64 for each host, all are halved. So in calm times they
//! follow the balancer within a second or so, and in a long ejection, when few requests are left to the balancer, they
//! stay as exact as they were; a host that is first met then is taken to have the mean share. A host is listed until the balancer has made so many picks without it that four would have
//! been its own.
//!
//! **Suspects.** Before a detector has seen enough, a host whose latest attempt was not answered is suspect, for a second or
//! until it answers. Requests that could not be repeated avoid it; those that can be find out. And while requests are steered
//! anyway, those that could not be repeated prefer hosts that answered within the last tenth of a second: where there are many
//! hosts with few requests each, the first to meet one that is down then is one that can be repeated. Where there are many
//! requests, all hosts have answered by then.
//!
//! **Exploring.** To keep this fresh and to meet new hosts, some requests carry no list: a share of `explore_percent` at
//! most, and no more than it takes for each host to be picked every two seconds, by all workers together: they tell each other
//! what was picked. Such a request may meet a host that is out, which costs it a retry. So where one of many hosts is out
//! there may be more of them, up to three in 200 requests that meet it: in a big and quiet cluster, where two seconds never
//! are enough, Envoy goes on balancing nearly all by itself, and what it drains gets nothing. Where most are out there are
//! fewer, and half as many in the first five seconds, while what the calm taught is fresh.

use std::time::Duration;

use crate::hosts::{Host, Hosts};
use crate::percent::Percent;
use crate::random::Random;
use crate::time::Time;

/// Picks that are remembered for each host, at most; on average half to all of it.
const MEMORY: u64 = 64;
/// A host that would have been picked so many times, but was not, is not there.
const MISSED: u64 = 4;
/// With so many picks for each host, the shares are known to a quarter or so.
const ENOUGH: u64 = 16;
/// With fewer picks than this for each host, there may be hosts that were not met yet, and the shares are guesses: a worker
/// that starts while a host is out would send everything to the first that answers. So half the requests explore.
const FEW: u64 = 4;
/// While so long ago nothing was steered, half the exploring will do.
const CALM: Duration = Duration::from_secs(5);
/// While fewer requests than this (in basis points) meet a host that is out because they explore, more than `explore_percent`
/// may.
const CHEAP: u64 = 150;
/// How often each host should be picked by Envoy's balancer.
const EXPLORE_EACH: Duration = Duration::from_secs(2);

/// A host is suspect for so long, if it answers no request before.
pub const SUSPICION: Duration = Duration::from_secs(1);
/// A host that answered within this time is heard.
const HEARD: Duration = Duration::from_millis(100);

/// Whether the latest attempt on it was not answered at all, of late.
#[must_use]
pub fn is_suspect(host: &Host, now: Time) -> bool {
    host.record.is_broken() && now.since(host.seen) < SUSPICION
}

fn is_heard(host: &Host, now: Time) -> bool {
    host.record.is_fine() && now.since(host.seen) < HEARD
}

/// Draws the lists of one cluster.
#[derive(Clone, Debug)]
pub struct Steering {
    random: Random,
    /// Picks of Envoy's own balancer so far.
    picks: u64,
    /// Those that are remembered: the sum over the hosts.
    weight: u64,
    /// Since when some host is out.
    since: Option<Time>,
    explored: Time,
}

impl Steering {
    /// Nothing is known yet. Workers that draw different lists have different seeds.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { random: Random::new(seed), picks: 0, weight: 0, since: None, explored: Time::from_nanos(0) }
    }

    /// Envoy's balancer picked a host, as far as this attempt tells: one that carried no list, and was no retry.
    pub fn picked(&mut self, hosts: &mut Hosts, address: &str) {
        self.picks += 1;
        if self.weight >= MEMORY * hosts.len() as u64 {
            // What is odd is rounded by chance, so that no share is rounded away.
            let random = &mut self.random;
            hosts.iter_mut().for_each(|(_, host)| host.picks.weight = (host.picks.weight + random.below(2) as u32) / 2);
            self.weight = hosts.iter().map(|(_, host)| u64::from(host.picks.weight)).sum();
        }
        let mean = self.weight / hosts.len().max(1) as u64;
        if let Some(host) = hosts.get_mut(address) {
            // A host that is met while requests are steered gets few picks; as many as the others have is the best guess.
            let met = host.picks.latest == 0 && self.since.is_some();
            let more = if met { mean.max(1) } else { 1 };
            host.picks.weight = host.picks.weight.saturating_add(u32::try_from(more).unwrap_or(1));
            host.picks.latest = self.picks;
            self.weight += more;
        }
    }

    /// A host is not there any more.
    pub fn gone(&mut self, hosts: &mut Hosts, address: &str) {
        if let Some(host) = hosts.get_mut(address) {
            self.weight = self.weight.saturating_sub(u64::from(std::mem::take(&mut host.picks.weight)));
        }
    }

    /// Whether enough picks were seen to know the shares of so many hosts.
    #[must_use]
    pub const fn knows_shares(&self, hosts: usize) -> bool {
        self.weight >= ENOUGH * hosts as u64
    }

    /// Whether Envoy's balancer still picks that host, so that it may be listed.
    #[must_use]
    pub fn is_picked(&self, host: &Host) -> bool {
        let weight = u64::from(host.picks.weight);
        let missed = self.picks.saturating_sub(host.picks.latest);
        // Its share before it was missed: what was picked since then is in the sum as well, and would make a host with four
        // picks or fewer stay for good.
        let before = self.weight.saturating_sub(missed).max(weight);
        weight > 0 && missed.saturating_mul(weight) <= MISSED.saturating_mul(before)
    }

    /// Some host is out, or none.
    pub fn steers(&mut self, some_out: bool, now: Time) {
        self.since = if some_out { Some(self.since.unwrap_or(now).min(now)) } else { None };
        self.explored = self.explored.min(now);
    }

    /// Whether the next request should be left to Envoy's balancer: one that is not `repeatable` only where no other comes.
    /// So many `hosts` are known, so many of them are `out`, and `workers` take turns.
    pub fn explores(
        &mut self,
        percent: Percent,
        (hosts, out): (usize, usize),
        workers: u32,
        repeatable: bool,
        now: Time,
    ) -> bool {
        let (hosts, out) = (hosts.max(1) as u64, out.max(1) as u64);
        if percent > Percent::default() && self.picks < FEW.saturating_mul(hosts) {
            return self.random.below(2) == 0;
        }
        let share = match percent.basis_points() {
            0 => 0,
            share => (CHEAP * hosts / out).max(u64::from(share)),
        };
        if self.random.below(u64::from(Percent::MAX.basis_points())) >= share {
            return false;
        }
        let calm = self.since.is_some_and(|since| now.since(since) < CALM);
        let inside = hosts.saturating_sub(out).max(1);
        let pause = (EXPLORE_EACH.as_nanos() as u64)
            .saturating_mul(hosts)
            .saturating_mul(u64::from(workers.max(1)))
            .saturating_mul(if calm { 2 } else { 1 })
            .saturating_mul(if repeatable { 1 } else { 4 })
            / (inside * inside);
        let explores = now.since(self.explored) >= Duration::from_nanos(pause);
        if explores {
            self.explored = now;
        }
        explores
    }

    /// Draws `count` different hosts that are in, or as many as there are: each with its share among those that are left.
    /// Suspects are drawn only if `trusting`; if not, those that answered a moment ago come first.
    pub fn draw<'a>(&mut self, hosts: &'a Hosts, count: usize, trusting: bool, now: Time) -> Vec<&'a str> {
        let mut drawn = Vec::new();
        self.draw_from(hosts, count, &mut drawn, |host| trusting || is_heard(host, now));
        if !trusting {
            self.draw_from(hosts, count, &mut drawn, |host| !is_heard(host, now) && !is_suspect(host, now));
        }
        drawn
    }

    fn draw_from<'a>(&mut self, hosts: &'a Hosts, count: usize, drawn: &mut Vec<&'a str>, may: impl Fn(&Host) -> bool) {
        let listed = hosts.iter().filter(|(_, host)| !host.standing.is_out() && self.is_picked(host) && may(host));
        let mut urn: Vec<_> = listed.map(|(address, host)| (address, u64::from(host.picks.weight))).collect();
        let mut total: u64 = urn.iter().map(|(_, weight)| weight).sum();
        while drawn.len() < count && !urn.is_empty() {
            let mut ticket = self.random.below(total);
            let position = urn.iter().position(|(_, weight)| {
                let found = ticket < *weight;
                ticket = ticket.saturating_sub(*weight);
                found
            });
            let (address, weight) = urn.swap_remove(position.unwrap_or_default());
            total -= weight;
            drawn.push(address);
        }
    }
}
