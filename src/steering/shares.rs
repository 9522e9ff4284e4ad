//! The shares that Envoy's balancer gives the hosts: how often it picked each. And how hosts are drawn by them at random, each with a
//! weight: a sum tree over the picks of each place. It has a sum over each half, quarter, and so on, so that a draw and a change take
//! as many steps as the number of places has binary digits.

use crate::base::random::Random;
use crate::base::time::Time;
use crate::outlier::host::{Host, Picks};
use crate::outlier::hosts::Hosts;

/// The largest number of picks that are remembered for each host: then all are halved. Of half as many, a canary of five
/// percent beside seven hosts cannot be told from chance just after the halving, and would get what the others get.
const MEMORY: u64 = 128;
/// A host has left once the balancer should have picked it four times, by its share, and did not. The unit is half a
/// pick.
const MISSED: u64 = 8;
/// A host may have left once the balancer should have picked it twice, by its share, and did not. The unit is half a
/// pick.
const DOUBTED: u64 = 4;
/// With fewer hosts than this, more picks are remembered for each.
const FEW_HOSTS: u64 = 8;
/// With this many picks for each host, the shares are known to a quarter or so.
const ENOUGH: u64 = 16;
/// With fewer picks than this for each host, there may be hosts that were not seen yet, and the shares are guesses. A worker that
/// starts while a host is ejected, and could not [learn](Shares::learn) from others, would send everything to the first host that
/// answers. So up to half the requests explore: fewer, the more of the hosts are ejected that these would meet.
const FEW: u64 = 4;
/// Of each [`CYCLE`] requests of a calm cluster within a second, the first 64 are looked at.
const RUN: u32 = 64;
/// The number of requests after which another [`RUN`] of them is looked at.
const CYCLE: u32 = 1_024;

/// How often Envoy's balancer picked the hosts of one cluster.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    /// All picks so far.
    picks: u64,
    /// The picks that are remembered: the sum over the hosts.
    weight: u64,
    /// The sum of the squares of each host's remembered picks.
    squares: u64,
    /// The number of hosts that have just one remembered pick.
    singles: u64,
    /// Whether some host of few was missed for long enough that it may have left, but not for certain.
    pub(super) doubts: bool,
    /// The healthy hosts, each with its picks, but for those that were found to be picked no longer.
    pub(super) sampler: WeightedSampler,
    /// The [version](Hosts::version) of the hosts that the sampler holds; 0 if it must be filled anew.
    filled: u64,
    /// The requests of this second that a calm cluster left to Envoy's balancer.
    requests: u32,
    second: u64,
}

impl Shares {
    pub(crate) const fn new() -> Self {
        Self {
            picks: 0,
            weight: 0,
            squares: 0,
            singles: 0,
            doubts: false,
            sampler: WeightedSampler::new(),
            filled: 0,
            requests: 0,
            second: 0,
        }
    }

    /// The number of picks of Envoy's balancer that were seen so far.
    pub(crate) const fn picks(&self) -> u64 {
        self.picks
    }

    /// Whether there are too few picks to know anything of this number of hosts.
    pub(crate) const fn lacks_samples(&self, hosts: u64) -> bool {
        self.picks < FEW.saturating_mul(hosts)
    }

    /// Whether enough picks were seen to know the shares of this number of hosts. Where there is none, its address is not understood.
    pub(crate) fn are_known(&self, hosts: usize) -> bool {
        hosts == 0 || self.weight >= ENOUGH * (2 * FEW_HOSTS).max(hosts as u64)
    }

    /// Whether the next of a calm cluster's requests is looked at, once the shares are known. In a row: the balancer gives hosts and
    /// localities their weights by turns, so that a run of requests shows the weights as they are, and one here and there shows chance.
    pub(crate) const fn takes_request(&mut self, now: Time) -> bool {
        // A second, or nearly so.
        let second = now.as_nanos() >> 30;
        self.requests = if self.second == second { self.requests.wrapping_add(1) } else { 0 };
        self.second = second;
        self.requests % CYCLE < RUN
    }

    /// Envoy's balancer picked a host; `steered` says whether requests are steered.
    pub(crate) fn picked(&mut self, hosts: &mut Hosts, place: usize, steered: bool, random: &mut Random) {
        self.picks += 1;
        // Where a host is new, the others have a start, which is none of their share.
        let is_new = !steered && hosts.at(place).is_some_and(|host| host.picks.latest == 0);
        let most = MEMORY * FEW_HOSTS.max(hosts.len() as u64);
        while self.weight >= most || (is_new && self.are_known(hosts.len())) {
            // Odd numbers are rounded by chance, so that no share is rounded away.
            hosts.iter_mut().for_each(|host| host.picks.weight = (host.picks.weight + random.below(2) as u32) / 2);
            self.sum_up(hosts);
        }
        let mean = self.weight / hosts.len().max(1) as u64;
        let version = hosts.version();
        let Some(host) = hosts.at_mut(place) else { return };
        // A host that is first seen while requests are steered gets few picks; as many as the others have is the best guess.
        let more = if host.picks.latest == 0 && steered { mean.max(1) } else { 1 };
        let before = u64::from(host.picks.weight);
        host.picks.weight = host.picks.weight.saturating_add(u32::try_from(more).unwrap_or(1));
        host.picks.latest = self.picks;
        self.weight += more;
        self.squares = self.squares.saturating_add((2 * before + more) * more);
        self.singles = (self.singles + u64::from(before + more == 1)).saturating_sub(u64::from(before == 1));
        if self.filled == version {
            self.sampler.set(place, sampled(host));
        }
        let doubted = |host: &Host| sampled(host) > 0 && self.is_picked(host) && self.is_missed(host, DOUBTED);
        self.doubts = steered && hosts.len() <= FEW_HOSTS as usize && hosts.iter().any(doubted);
    }

    /// Adds what another worker knows of the hosts' shares, as if this one had seen it.
    pub(crate) fn learn(&mut self, hosts: &mut Hosts, shares: &[(Box<str>, u32)]) {
        self.picks += shares.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>();
        for (address, weight) in shares {
            let Some(host) = hosts.find(address).and_then(|place| hosts.at_mut(place)) else { continue };
            host.picks = Picks { weight: host.picks.weight.saturating_add(*weight), latest: self.picks };
        }
        self.sum_up(hosts);
    }

    /// From now on, requests are steered. A balancer that picks at random may have missed a host by chance until then.
    /// So that is no sign that the host has left, unless it was missed for twice [`MISSED`].
    pub(crate) fn begin(&self, hosts: &mut Hosts) {
        for host in hosts.iter_mut().filter(|host| !self.is_missed(host, 2 * MISSED)) {
            host.picks.latest = self.picks;
        }
    }

    /// Computes the sums anew.
    fn sum_up(&mut self, hosts: &Hosts) {
        let weights = || hosts.iter().map(|host| u64::from(host.picks.weight));
        (self.weight, self.squares) = (weights().sum(), weights().map(|weight| weight.saturating_mul(weight)).sum());
        self.singles = weights().filter(|weight| *weight == 1).count() as u64;
        self.filled = 0;
    }

    /// A host is no longer in the cluster.
    pub(crate) fn gone(&mut self, hosts: &mut Hosts, address: &str) {
        let version = hosts.version();
        if let Some(place) = hosts.find(address)
            && let Some(host) = hosts.at_mut(place)
        {
            let weight = u64::from(std::mem::take(&mut host.picks.weight));
            self.weight = self.weight.saturating_sub(weight);
            self.squares = self.squares.saturating_sub(weight.saturating_mul(weight));
            self.singles = self.singles.saturating_sub(u64::from(weight == 1));
            if self.filled == version {
                self.sampler.set(place, 0);
            }
        }
    }

    /// Fills the sampler anew, if the hosts changed.
    pub(crate) fn fill_sampler(&mut self, hosts: &Hosts) {
        if self.filled != hosts.version() {
            self.filled = hosts.version();
            self.sampler.fill(hosts.len(), &mut hosts.iter().map(sampled));
        }
    }

    /// Whether the next request should go to a host that was never seen. The share of such hosts is that of the picks that saw a
    /// host for the only time so far (I. J. Good, "The population frequencies of species and the estimation of population
    /// parameters", Biometrika 40, 1953). One such host is no evidence: it may be new.
    pub(crate) const fn goes_to_unseen_host(&self, random: &mut Random) -> bool {
        self.singles > 1 && random.below(self.weight) < self.singles - 1
    }

    /// Whether Envoy's balancer still picks a host, so that it may be listed.
    pub(crate) fn is_picked(&self, host: &Host) -> bool {
        host.picks.weight > 0 && !self.is_missed(host, MISSED)
    }

    /// Whether a host should have been picked more often than this, in halves of a pick, since it was picked last.
    fn is_missed(&self, host: &Host, halves: u64) -> bool {
        let weight = u64::from(host.picks.weight);
        let missed = self.picks.saturating_sub(host.picks.latest);
        // The host's share is that from before it was missed: the picks since then are in the sum as well, and would make a
        // host with four picks or fewer stay for good.
        let before = self.weight.saturating_sub(missed).max(weight);
        missed.saturating_mul(2 * weight) > halves.saturating_mul(before)
    }

    /// How much of the differences between the hosts' picks is no chance, in 256ths; and the mean of the picks, times 256.
    ///
    /// Where a balancer picks by chance, their variance is a third to all of their mean. Up to half as much again is taken to be
    /// chance; from two and a half times the mean on, all of it is real. Of few hosts, each has many picks, and chance is less, while
    /// their weights may well be different: of four, half of that is chance, and of eight, two thirds.
    pub(crate) fn spread(&self, hosts: u64) -> (u64, u64) {
        let (hosts, weight) = (hosts.max(1), self.weight.max(1));
        let variance = self.squares.saturating_sub(weight.saturating_mul(weight) / hosts);
        let chance = weight.saturating_mul(3 * hosts) / (hosts + 4);
        let beyond = variance.saturating_mul(2).saturating_sub(chance);
        ((beyond.saturating_mul(128) / weight).min(256), 256 * weight / hosts)
    }
}

/// The picks with which a host is sampled.
fn sampled(host: &Host) -> u32 {
    if host.state.is_ejected() { 0 } else { host.picks.weight }
}

/// The picks of each place, and their sums.
#[derive(Clone, Debug, Default)]
pub(super) struct WeightedSampler {
    /// The sum over all places is the second; of the sum at n, the two halves are at 2n and 2n + 1; the last half are the places.
    /// The lower half of each number is the picks, the upper half the number of places that have any.
    sums: Vec<u64>,
}

/// How a place that has picks is weighed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weighting {
    /// The weight of each pick.
    pick: u64,
    /// The weight of the place itself.
    place: u64,
}

impl Weighting {
    /// A weight for each pick, and one for each place; if both are 0, all places weigh the same.
    pub(super) const fn new(pick: u64, place: u64) -> Self {
        Self { pick, place: if pick == 0 && place == 0 { 1 } else { place } }
    }

    const fn of(self, sum: u64) -> u64 {
        let (picks, places) = (sum & u32::MAX as u64, sum >> u32::BITS);
        picks.wrapping_mul(self.pick).wrapping_add(places.wrapping_mul(self.place))
    }
}

/// The sum over a single place.
const fn one(picks: u32) -> u64 {
    if picks == 0 { 0 } else { (1 << u32::BITS) | picks as u64 }
}

impl WeightedSampler {
    /// A sampler without places.
    pub(super) const fn new() -> Self {
        Self { sums: Vec::new() }
    }

    /// Replaces all places, each with its picks.
    pub(super) fn fill(&mut self, places: usize, picks: &mut dyn Iterator<Item = u32>) {
        let leaves = places.next_power_of_two();
        self.sums.clear();
        self.sums.resize(leaves, 0);
        self.sums.extend(picks.take(leaves).map(one));
        self.sums.resize(2 * leaves, 0);
        for node in (1..leaves).rev() {
            let sum = self.sum(2 * node).wrapping_add(self.sum(2 * node + 1));
            if let Some(node) = self.sums.get_mut(node) {
                *node = sum;
            }
        }
    }

    fn sum(&self, node: usize) -> u64 {
        self.sums.get(node).copied().unwrap_or_default()
    }

    /// The weight of all places together.
    pub(super) fn total(&self, weighting: Weighting) -> u64 {
        weighting.of(self.sum(1))
    }

    /// Sets the picks of a place, and returns those that it had.
    pub(super) fn set(&mut self, place: usize, picks: u32) -> u32 {
        let mut node = self.sums.len() / 2 + place;
        let before = self.sum(node);
        let more = one(picks).wrapping_sub(before);
        while node > 0 {
            let Some(sum) = self.sums.get_mut(node) else { return 0 };
            *sum = sum.wrapping_add(more);
            node /= 2;
        }
        before as u32
    }

    /// The place that a point below the total falls on, as if the weights lay one after the other.
    pub(super) fn pick(&self, mut point: u64, weighting: Weighting) -> usize {
        let leaves = self.sums.len() / 2;
        let mut node = 1;
        while node < leaves {
            node *= 2;
            let left = weighting.of(self.sum(node));
            if point >= left {
                point -= left;
                node += 1;
            }
        }
        node.saturating_sub(leaves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_point_falls_on_the_place_that_it_lies_in() {
        let mut sampler = WeightedSampler::new();
        sampler.fill(5, &mut [2, 0, 1, 3, 0].into_iter());
        let picks = Weighting::new(1, 0);
        assert_eq!(sampler.total(picks), 6);
        let places: Vec<_> = (0..6).map(|point| sampler.pick(point, picks)).collect();
        assert_eq!(places, [0, 0, 2, 3, 3, 3]);
        // Without weights, the places that have picks are alike; with both, a place adds to its picks.
        assert_eq!(sampler.total(Weighting::new(0, 0)), 3);
        assert_eq!(sampler.total(Weighting::new(2, 5)), 27);
        assert_eq!((sampler.set(3, 0), sampler.set(1, 4), sampler.total(picks)), (3, 0, 7));
        let places: Vec<_> = (0..7).map(|point| sampler.pick(point, picks)).collect();
        assert_eq!(places, [0, 0, 1, 1, 1, 1, 2]);
    }

    #[test]
    fn a_sampler_without_places_has_no_weight() {
        let mut sampler = WeightedSampler::new();
        assert_eq!((sampler.total(Weighting::new(1, 1)), sampler.set(7, 1)), (0, 0));
        sampler.fill(0, &mut std::iter::empty());
        assert_eq!(sampler.total(Weighting::new(1, 1)), 0);
    }

    #[test]
    fn runs_of_requests_are_looked_at() {
        let mut shares = Shares::new();
        let mut taken = |second: u64, requests: u32| {
            let of = |_: &u32| shares.takes_request(Time::from_nanos(second << 30));
            (0..requests).filter(of).collect::<Vec<_>>()
        };
        assert_eq!(taken(1, 20), (0..20).collect::<Vec<_>>());
        assert_eq!(taken(1, 1_000), (0..44).collect::<Vec<_>>(), "of this second, 20 were looked at before");
        assert_eq!(taken(2, 2_000), (0..64).chain(1_024..1_088).collect::<Vec<_>>());
    }
}
