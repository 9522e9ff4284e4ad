//! Lists of hosts, while some host of a cluster is ejected: for Envoy's `override_host` policy, or their first host for its
//! filter `stateful_session` (`session`).
//!
//! The policy sends the n-th attempt of a request to the n-th host of the list in its header, whatever the host's health
//! and weight. So a list has one host for the first attempt and a different one for each retry, and both come from what
//! Envoy's own balancer did: each host is drawn with the share that the balancer gave it while it was asked, and a host
//! that the balancer picks no longer (drained, unhealthy, removed) is listed no longer.
//!
//! **Shares** (`shares`) are counted in picks, not in seconds: when there are 64 for each host, all are halved. So in calm times
//! they follow the balancer within a second or so, and in a long ejection, when few requests are left to the balancer, they
//! stay as exact as they were; a host that is first met then is taken to have the mean share. A host is listed until the
//! balancer has made as many picks without it as would have given it four.
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
//! **Exploring** (`explore`). To keep the shares current and to meet new hosts, some requests carry no list: a share of
//! `explore_percent` at most, and no more than it takes for each host to be picked every two seconds, by all workers together:
//! they share what was picked. Such a request may meet an ejected host, which costs it a retry. So where one of many hosts is
//! ejected there may be more of them, up to nine in 400 that meet it: in a big and quiet cluster, where two seconds are never
//! enough, Envoy goes on balancing nearly all by itself, and what it drains gets nothing. Where most hosts are ejected there
//! are fewer, and half as many in the first five seconds, while the shares from calm times are current. Where all ejected hosts refuse
//! connections, and there are few of them, to meet one costs some milliseconds and no budget: then up to one in eight may, so
//! that a host which the balancer leaves out (drained, or failing health checks) is found out within a second.
//!
//! **Unseen hosts** have their share as well. Where a worker knows few of many hosts, lists of those alone would give these the
//! requests of the others: so as many requests carry no list as Envoy's balancer would send to hosts that are unknown here.

use std::time::Duration;

mod explore;
mod list;
mod responsiveness;
mod sampler;
pub mod session;
mod shares;

pub use explore::Exploration;

use responsiveness::Responsiveness;
use shares::Shares;

use crate::base::random::Random;
use crate::base::time::Time;
use crate::outlier::host::Host;
use crate::outlier::hosts::Hosts;

/// A host is suspect for this long, if it answers no request before.
pub const SUSPICION: Duration = Duration::from_secs(1);
/// At most this many requests that cannot be repeated may be pinned without further canaries.
const MAX_CANARIES: u32 = 8;

/// Whether the latest attempt on a host was not answered at all, recently.
#[must_use]
pub fn is_suspect(host: &Host, now: Time) -> bool {
    host.history.last_broke() && now.is_within(SUSPICION, host.seen)
}

/// Draws the lists of one cluster.
#[derive(Clone, Debug)]
pub struct Steering {
    random: Random,
    shares: Shares,
    responsiveness: Responsiveness,
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
            shares: Shares::new(),
            responsiveness: Responsiveness::new(),
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

    /// The number of picks of Envoy's balancer that were seen so far.
    #[must_use]
    pub const fn picks(&self) -> u64 {
        self.shares.picks()
    }

    /// Whether there are too few picks to know anything of this number of hosts.
    #[must_use]
    pub const fn lacks_samples(&self, hosts: u64) -> bool {
        self.shares.lacks_samples(hosts)
    }

    /// Whether enough picks were seen to know the shares of this number of hosts.
    #[must_use]
    pub const fn knows_shares(&self, hosts: usize) -> bool {
        self.shares.are_known(hosts)
    }

    /// Adds what another worker knows of the hosts' shares, as if this one had seen it.
    pub fn learn(&mut self, hosts: &mut Hosts, shares: &[(Box<str>, u32)]) {
        self.shares.learn(hosts, shares);
    }

    /// A host is no longer in the cluster.
    pub fn gone(&mut self, hosts: &mut Hosts, address: &str) {
        self.shares.gone(hosts, address);
    }

    /// Whether Envoy's balancer still picks a host, so that it may be listed.
    #[must_use]
    pub fn is_picked(&self, host: &Host) -> bool {
        self.shares.is_picked(host)
    }

    /// Whether the next request should be left to Envoy's balancer because that has hosts that were never seen: as often as it
    /// would pick one of these.
    pub const fn goes_to_unseen_host(&mut self) -> bool {
        self.shares.goes_to_unseen_host(&mut self.random)
    }

    /// An attempt that `began` then was answered.
    pub fn answered(&mut self, began: Time, now: Time) {
        self.responsiveness.answered(began, now);
    }

    /// How many nanoseconds an answer may take before a host counts as unresponsive; `None` while too few answers were seen.
    #[must_use]
    pub fn response_deadline(&self) -> Option<u64> {
        self.responsiveness.deadline()
    }

    /// How many nanoseconds are to pass before a request is hedged, since some take that long by nature, wherever they are sent.
    #[must_use]
    pub fn takes_by_nature(&self, now: Time) -> u64 {
        self.responsiveness.takes_by_nature(now)
    }

    /// A request was answered by a host that was to be hedged after that time, and took so long.
    pub fn hedged(&mut self, after: Duration, took: Duration, now: Time) {
        self.responsiveness.hedged(after, took, now);
    }

    /// Whether some host answered recently. If none did, all may just have become slow.
    #[must_use]
    pub fn answers_arrive(&self, deadline: u64, now: Time) -> bool {
        self.responsiveness.answers_arrive(deadline, now)
    }

    /// Whether a host has not answered any request since its oldest outstanding one, for longer than answers take.
    #[must_use]
    pub fn is_unresponsive(&self, host: &Host, now: Time) -> bool {
        self.responsiveness.is_unresponsive(host, now)
    }

    /// Whether so many requests take long wherever they are sent that a host is not found by those that wait for it.
    pub const fn set_blind(&mut self, blind: bool) {
        self.responsiveness.blind = blind;
    }

    /// A request is steered to a host.
    pub fn sends(&self, host: &mut Host, now: Time) {
        self.responsiveness.sends(host, now);
    }
}
