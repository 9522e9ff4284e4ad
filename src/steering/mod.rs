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
//! The share of each host is hardly ever known to better than an eighth. Where hosts differ by no more than chance explains,
//! all get the same: of 300 equal ones that do 70 percent of what they can, those that chance had favoured had more than they
//! could do.
//!
//! **Suspects.** Before a detector has seen enough, a host whose latest attempt was not answered is suspect, for a second or
//! until it answers. Requests that could not be repeated avoid it; of those that can be, one at a time finds out.
//!
//! **Those that could not be repeated** go, while a host is out and for an interval after, to the host that answered last: so
//! the first to meet one that is down is one that can be repeated, and is. They follow the others' shares thereby. No more of
//! them follow than there are others to follow: where nothing can be repeated, one host would get all. And what follows is not
//! followed in turn, and follows alone: else a host that gets more answers more, and so gets ever more.
//!
//! **Silence.** A host that hangs fails nothing for long. But this knows where it sent requests: where none was answered for
//! several times as long as answers take, at least 50 ms, the host gets no more, for a second or until it answers; for two if it is
//! silent again, then for four, at most for eight. If all that
//! are in are silent, those that are out are probed at once. And what can be repeated is sent once more, beside the first
//! attempt, after that time ([`Outliers::hedge_after`](crate::outlier::Outliers::hedge_after)): so nobody waits for a host that
//! hangs, and whoever just takes long still gets the answer.
//!
//! **Exploring.** To keep this fresh and to meet new hosts, some requests carry no list: a share of `explore_percent` at
//! most, and no more than it takes for each host to be picked every two seconds, by all workers together: they tell each other
//! what was picked. Such a request may meet a host that is out, which costs it a retry. So where one of many hosts is out
//! there may be more of them, up to nine in 400 that meet it: in a big and quiet cluster, where two seconds never
//! are enough, Envoy goes on balancing nearly all by itself, and what it drains gets nothing. Where most are out there are
//! fewer, and half as many in the first five seconds, while what the calm taught is fresh.
//!
//! **Hosts that were never met** have their share as well. Where a worker knows few of many hosts, lists of those alone would send
//! these what is the others': so as many requests carry no list as Envoy's balancer would send to hosts unknown here.

use std::time::Duration;

mod sampler;

use sampler::{Shares, Urn};

use crate::base::percent::Percent;
use crate::base::random::Random;
use crate::base::time::Time;
use crate::outlier::hosts::{Host, Hosts, Picks};

/// Picks that are remembered for each host, at most; on average half to all of it.
const MEMORY: u64 = 64;
/// A host that would have been picked so many times, but was not, is not there.
const MISSED: u64 = 4;
/// With so many picks for each host, the shares are known to a quarter or so.
const ENOUGH: u64 = 16;
/// With fewer picks than this for each host, there may be hosts that were not met yet, and the shares are guesses: a worker
/// that starts while a host is out, and could not [learn](Steering::learn) from others, would send everything to the first that
/// answers. So up to half the requests explore: fewer, the more hosts are out that these would meet.
const FEW: u64 = 4;
/// While so long ago nothing was steered, half the exploring will do.
const CALM: Duration = Duration::from_secs(5);
/// While fewer requests than this (in basis points, of those that can be repeated) meet a host that is out because they
/// explore, more than `explore_percent` may.
const CHEAP: u64 = 225;
/// While probes that fail cost enough, no more than this may.
const DEAR: u64 = 20;
/// How often each host should be picked by Envoy's balancer.
const EXPLORE_EACH: Duration = Duration::from_secs(2);

/// A host is suspect for so long, if it answers no request before.
pub const SUSPICION: Duration = Duration::from_secs(1);
/// Where no host answered for so many nanoseconds longer than answers take, all may have become slow.
const HEARD: u64 = 100_000_000;
/// So many requests that cannot be repeated may follow those that can.
const MOST_SCOUTS: u32 = 8;
/// So many answers have to be timed before silence tells anything.
const TIMED: u32 = 16;
/// A host is silent that says nothing for so many times what answers take, and for at least
const SILENT: u64 = 4;
/// this long, in nanoseconds,
const SILENT_AT_LEAST: u64 = 50_000_000;
/// and for so long after.
const AVOIDED: u64 = 1_000_000_000;
/// and for twice as long each time that it stays so, so many times.
const MOST_SILENCES: u8 = 3;

/// Whether the latest attempt on it was not answered at all, of late.
#[must_use]
pub fn is_suspect(host: &Host, now: Time) -> bool {
    host.record.is_broken() && now.since(host.seen) < SUSPICION
}

/// For how many nanoseconds a host that is silent gets no more.
fn avoided(host: &Host) -> u64 {
    AVOIDED << host.silences.min(MOST_SILENCES)
}

const fn nanos_since(time: Time, now: Time) -> u64 {
    now.as_nanos().saturating_sub(time.as_nanos())
}

/// Draws the lists of one cluster.
#[derive(Clone, Debug)]
pub struct Steering {
    random: Random,
    /// Picks of Envoy's own balancer so far.
    picks: u64,
    /// Those that are remembered: the sum over the hosts, and the sum of their squares.
    weight: u64,
    squares: u64,
    /// How many hosts have just one of them.
    singles: u64,
    /// Since when some host is out.
    since: Option<Time>,
    explored: Time,
    /// Requests that can be repeated, less those that followed where one of them was answered.
    scouts: u32,
    /// When some host answered last.
    answered: Time,
    /// What the slower answers of late took, in nanoseconds, and of how many that is known.
    slow: u64,
    timed: u32,
    /// What hosts that are in are drawn from, each with its picks, but for those that were found to be picked no longer;
    urn: Urn,
    /// and which version of the hosts these are.
    filled: u64,
}

impl Steering {
    /// Nothing is known yet. Workers that draw different lists have different seeds.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            picks: 0,
            weight: 0,
            squares: 0,
            singles: 0,
            since: None,
            explored: Time::from_nanos(0),
            scouts: 0,
            answered: Time::from_nanos(0),
            slow: 0,
            timed: 0,
            urn: Urn::new(),
            filled: 0,
        }
    }

    /// Envoy's balancer picked a host, as far as this attempt tells: one that carried no list, and was no retry.
    pub fn picked(&mut self, hosts: &mut Hosts, place: usize) {
        self.picks += 1;
        if self.weight >= MEMORY * hosts.len() as u64 {
            // What is odd is rounded by chance, so that no share is rounded away.
            let random = &mut self.random;
            hosts.iter_mut().for_each(|host| host.picks.weight = (host.picks.weight + random.below(2) as u32) / 2);
            self.weigh(hosts);
        }
        let mean = self.weight / hosts.len().max(1) as u64;
        let version = hosts.version();
        if let Some(host) = hosts.at_mut(place) {
            // A host that is met while requests are steered gets few picks; as many as the others have is the best guess.
            let met = host.picks.latest == 0 && self.since.is_some();
            let more = if met { mean.max(1) } else { 1 };
            let before = u64::from(host.picks.weight);
            host.picks.weight = host.picks.weight.saturating_add(u32::try_from(more).unwrap_or(1));
            host.picks.latest = self.picks;
            self.weight += more;
            self.squares = self.squares.saturating_add((2 * before + more) * more);
            self.singles = (self.singles + u64::from(before + more == 1)).saturating_sub(u64::from(before == 1));
            if self.filled == version {
                self.urn.put(place, in_urn(host));
            }
        }
    }

    /// How many picks of Envoy's balancer were seen so far.
    #[must_use]
    pub const fn picks(&self) -> u64 {
        self.picks
    }

    /// Whether hardly anything is known of so many hosts.
    #[must_use]
    pub const fn is_stranger(&self, hosts: u64) -> bool {
        self.picks < FEW.saturating_mul(hosts)
    }

    /// What another worker knows of the hosts' shares, as if this one had seen it.
    pub fn learn(&mut self, hosts: &mut Hosts, shares: &[(Box<str>, u32)]) {
        self.picks += shares.iter().map(|(_, weight)| u64::from(*weight)).sum::<u64>();
        for (address, weight) in shares {
            let Some(host) = hosts.find(address).and_then(|place| hosts.at_mut(place)) else { continue };
            host.picks = Picks { weight: host.picks.weight.saturating_add(*weight), latest: self.picks };
        }
        self.weigh(hosts);
    }

    /// Adds up what is remembered of each host.
    fn weigh(&mut self, hosts: &Hosts) {
        let weights = || hosts.iter().map(|host| u64::from(host.picks.weight));
        (self.weight, self.squares) = (weights().sum(), weights().map(|weight| weight.saturating_mul(weight)).sum());
        self.singles = weights().filter(|weight| *weight == 1).count() as u64;
        self.filled = 0;
    }

    /// A host is not there any more.
    pub fn gone(&mut self, hosts: &mut Hosts, address: &str) {
        let version = hosts.version();
        if let Some(place) = hosts.find(address)
            && let Some(host) = hosts.at_mut(place)
        {
            let weight = u64::from(std::mem::take(&mut host.picks.weight));
            self.weight = self.weight.saturating_sub(weight);
            self.squares = self.squares.saturating_sub(weight.saturating_mul(weight));
            self.singles = self.singles.saturating_sub(u64::from(weight == 1));
            if self.filled == version {
                self.urn.put(place, 0);
            }
        }
    }

    /// Whether enough picks were seen to know the shares of so many hosts.
    #[must_use]
    pub const fn knows_shares(&self, hosts: usize) -> bool {
        self.weight >= ENOUGH * hosts as u64
    }

    /// Whether the next request should be left to Envoy's balancer because it has hosts that were never met: as often as it
    /// would pick one of these. (That is the share of the picks that met a host for the only time so far; I. J. Good, "The
    /// population frequencies of species and the estimation of population parameters", Biometrika 40, 1953. One such host is
    /// no evidence: it may be new.)
    pub const fn is_at_sea(&mut self) -> bool {
        self.singles > 1 && self.random.below(self.weight) < self.singles - 1
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
        self.answered = self.answered.min(now);
    }

    /// A request arrives that can be repeated.
    pub fn scout(&mut self) {
        self.scouts = self.scouts.saturating_add(1).min(MOST_SCOUTS);
    }

    /// Whether there were such requests of late.
    #[must_use]
    pub const fn has_scouts(&self) -> bool {
        self.scouts > 0
    }

    /// An attempt that `began` then was answered. The longest of late counts, forgotten with a few dozen shorter ones.
    pub fn took(&mut self, began: Time, now: Time) {
        self.answered = now;
        let time = nanos_since(began, now);
        self.slow = time.max(self.slow - self.slow.saturating_sub(time) / 32);
        self.timed = self.timed.saturating_add(1);
    }

    /// How many nanoseconds an answer may take before it is odd that it did not come; `None` while that is not known.
    #[must_use]
    pub fn patience(&self) -> Option<u64> {
        (self.timed >= TIMED).then_some(self.slow.saturating_mul(SILENT).max(SILENT_AT_LEAST))
    }

    /// Whether some host answered of late. If none did, all may just have become slow.
    #[must_use]
    pub fn hears(&self, patience: u64, now: Time) -> bool {
        nanos_since(self.answered, now) < patience.saturating_add(HEARD)
    }

    /// Whether a host that was sent requests has not said anything since, for longer than answers take.
    #[must_use]
    pub fn is_silent(&self, host: &Host, now: Time) -> bool {
        if host.asked == Time::default() {
            return false;
        }
        let waits = nanos_since(host.asked, now);
        self.patience().is_some_and(|patience| waits >= patience && waits - patience < avoided(host))
    }

    /// A request is steered to that host.
    pub fn sends(&self, host: &mut Host, now: Time) {
        let over = self.patience().unwrap_or(AVOIDED).saturating_add(avoided(host));
        if host.asked == Time::default() || host.asked > now {
            host.asked = now;
        } else if nanos_since(host.asked, now) >= over {
            host.asked = now;
            host.silences = host.silences.saturating_add(1);
        }
    }

    /// Whether the next request should be left to Envoy's balancer: one that is not `repeatable` only where no other comes.
    /// `poor`: probes fail all the time.
    /// So many `hosts` are known, so many of them are `out`, and `workers` take turns.
    pub fn explores(
        &mut self,
        percent: Percent,
        (hosts, out): (usize, usize),
        workers: u32,
        repeatable: bool,
        poor: bool,
        now: Time,
    ) -> bool {
        if !repeatable && self.has_scouts() {
            return false;
        }
        let (hosts, out) = (hosts.max(1) as u64, out.max(1) as u64);
        let inside = hosts.saturating_sub(out).max(1);
        if percent > Percent::default() && self.is_stranger(hosts) {
            return self.random.below(2 * hosts * hosts) < inside * inside;
        }
        let share = match percent.basis_points() {
            0 => 0,
            share if poor => (DEAR * hosts / out).min(u64::from(share)),
            share => (CHEAP * hosts / out).max(u64::from(share)),
        };
        if self.random.below(u64::from(Percent::MAX.basis_points())) >= share {
            return false;
        }
        let calm = self.since.is_some_and(|since| now.since(since) < CALM);
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
    /// Suspects and silent ones come last, and only if `trusting`; if not, those that answered a moment ago come first.
    pub fn draw<'a>(&mut self, hosts: &'a Hosts, count: usize, trusting: bool, now: Time) -> Vec<&'a str> {
        if self.filled != hosts.version() {
            self.filled = hosts.version();
            self.urn.fill(hosts.len(), &mut hosts.iter().map(in_urn));
        }
        // With their weights, which are put back in the end, and whether they come first.
        let mut drawn: Vec<(usize, u32, bool)> = Vec::with_capacity(4);
        let mut first = 0;
        if !trusting && self.scouts > 0 {
            self.scouts -= 1;
            if let Some(host) = self.latest(hosts, now)
                && let Some(place) = hosts.find(&host.address)
            {
                drawn.push((place, self.urn.put(place, 0), true));
                first += 1;
            }
        }
        let (real, mean) = self.spread(hosts.len() as u64);
        let shares = Shares::new(256 * real, mean * (256 - real));
        while first < count && self.urn.total(shares) > 0 {
            let place = self.urn.find(self.random.below(self.urn.total(shares)), shares);
            let weight = self.urn.put(place, 0);
            // One that is picked no longer stays out, until it is picked.
            if let Some(host) = hosts.at(place).filter(|host| self.is_picked(host)) {
                // One request at a time finds out about a suspect, with its first attempt.
                let finds_out = trusting && first == 0 && host.asked == Time::default();
                let comes_first = (finds_out || !is_suspect(host, now)) && !self.is_silent(host, now);
                drawn.push((place, weight, comes_first));
                first += usize::from(comes_first);
            }
        }
        for (place, weight, _) in &drawn {
            self.urn.put(*place, *weight);
        }
        let mut list = Vec::with_capacity(4);
        for turn in [true, false] {
            let last = list.len() >= count || !turn && !trusting;
            let of_turn = drawn.iter().filter(|(_, _, comes_first)| *comes_first == turn && !last);
            list.extend(of_turn.filter_map(|(place, _, _)| hosts.at(*place)).map(|host| &*host.address));
        }
        list.truncate(count.max(first));
        list
    }

    /// The host that answered last.
    fn latest<'a>(&self, hosts: &'a Hosts, now: Time) -> Option<&'a Host> {
        let may = |host: &Host| {
            !host.standing.is_out()
                && host.record.is_fine()
                && host.followed == 0
                && host.heard <= now
                && nanos_since(host.heard, now) < AVOIDED
                && self.is_picked(host)
                && !self.is_silent(host, now)
        };
        hosts.last_heard(&may, Duration::from_nanos(AVOIDED), now)
    }

    /// How much of the differences between the hosts' picks is no chance, in 256ths; and the mean of the picks, times 256.
    ///
    /// Where a balancer picks by chance, their variance is a third to all of their mean. Up to half as much again is taken to be
    /// chance; from two and a half times the mean on, all of it is real.
    fn spread(&self, hosts: u64) -> (u64, u64) {
        let (hosts, weight) = (hosts.max(1), self.weight.max(1));
        let variance = self.squares.saturating_sub(weight.saturating_mul(weight) / hosts);
        let beyond = variance.saturating_mul(2).saturating_sub(weight.saturating_mul(3));
        ((beyond.saturating_mul(128) / weight).min(256), 256 * weight / hosts)
    }
}

/// With which weight a host is drawn.
fn in_urn(host: &Host) -> u32 {
    if host.standing.is_out() { 0 } else { host.picks.weight }
}
