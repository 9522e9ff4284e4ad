//! Draws the list of hosts of a request.

use std::time::Duration;

use super::sampler::Weighting;
use super::{Steering, is_suspect};
use crate::base::time::{Time, nanos, nanos_since};
use crate::outlier::busy::is_busy;
use crate::outlier::host::Host;
use crate::outlier::hosts::Hosts;

/// A request is pinned to the host that answered last, if that was within this time.
const ANSWERED_RECENTLY: Duration = Duration::from_secs(1);

/// A host that was drawn.
struct Drawn {
    place: usize,
    /// The picks that it had in the sampler, which are put back in the end.
    picks: u32,
    /// Whether it comes first; suspects and unresponsive hosts come last.
    first: bool,
}

impl Steering {
    /// Draws `count` different healthy hosts, or as many as there are: each with its share among those that are left. Suspects
    /// and unresponsive hosts come last, and only if `trusting`; if not, the host that answered last comes first.
    pub fn draw<'a>(&mut self, hosts: &'a Hosts, count: usize, trusting: bool, now: Time) -> Vec<&'a str> {
        self.shares.fill_sampler(hosts);
        let mut drawn: Vec<Drawn> = Vec::with_capacity(4);
        if !trusting && let Some(place) = self.pin(hosts, now) {
            let picks = self.shares.sampler.set(place, 0);
            drawn.push(Drawn { place, picks, first: true });
        }
        let pinned = drawn.len();
        let first = pinned + self.draw_by_share(hosts, count, trusting, &mut drawn, now);
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
        list.truncate(count.max(first));
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

    /// Draws hosts until `count` come first, or none is left. Returns how many come first of those that were drawn.
    fn draw_by_share(
        &mut self,
        hosts: &Hosts,
        count: usize,
        trusting: bool,
        drawn: &mut Vec<Drawn>,
        now: Time,
    ) -> usize {
        let (real, mean) = self.shares.spread(hosts.len() as u64);
        let weighting = Weighting::new(256 * real, mean * (256 - real));
        let (pinned, mut first) = (drawn.len(), 0);
        while pinned + first < count && self.shares.sampler.total(weighting) > 0 {
            let point = self.random.below(self.shares.sampler.total(weighting));
            let place = self.shares.sampler.pick(point, weighting);
            let picks = self.shares.sampler.set(place, 0);
            // A host that is picked no longer stays out of the sampler, until it is picked.
            if let Some(host) = hosts.at(place).filter(|host| self.is_picked(host)) {
                // One request at a time tries a suspect, with its first attempt.
                let tries = trusting && pinned + first == 0 && host.oldest_outstanding.is_none();
                let comes_first =
                    (tries || !is_suspect(host, now)) && !self.is_unresponsive(host, now) && !is_busy(host, now);
                drawn.push(Drawn { place, picks, first: comes_first });
                first += usize::from(comes_first);
            }
        }
        first
    }

    /// The host that answered last, if a request may be pinned to it.
    fn last_to_answer<'a>(&self, hosts: &'a Hosts, now: Time) -> Option<&'a Host> {
        let may = |host: &Host| {
            !host.state.is_ejected()
                && host.history.last_succeeded()
                && host.pinned == 0
                && host.last_answer <= now
                && nanos_since(host.last_answer, now) < nanos(ANSWERED_RECENTLY)
                && self.is_picked(host)
                && !self.is_unresponsive(host, now)
                && !is_busy(host, now)
        };
        hosts.last_to_answer(&may, ANSWERED_RECENTLY, now)
    }
}
