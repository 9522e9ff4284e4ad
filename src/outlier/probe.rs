//! Probes: which host that is out gets one, when, and what that may cost.

use super::{JUST, Outliers, Probe};
use crate::base::time::Time;
use crate::outlier::ejection::Out;

/// A probe that fails is paid with so many requests, or half as many where hosts are scarce: so they are hardly ever more than
/// one in a hundred and fifty attempts. Where they are not paid, they wait until hosts usually are back.
const PRICE: u32 = 300;
/// A look is paid with so many requests for each host that is out.
const LOOK: u32 = 25;
/// So many requests are remembered to pay with, of each kind.
const MOST_CREDIT: u32 = 2 * PRICE;
/// A host that is due for so many nanoseconds is probed even so,
const UNPAID: u64 = 3_000_000_000;
/// or for so many, where no host has come back yet.
const UNKNOWN: u64 = 2_000_000_000;
/// A host that is out for half as long as hosts usually are down is not probed, or for less than this: it may have gone out for
/// something else.
const TOO_EARLY: u64 = 2_000_000_000;
/// What a probe takes of [`Purse::turns`], and what these are at most.
const TURN: u32 = 10_000;
const MOST_TURNS: u32 = 4 * TURN;

/// What pays for the probes of one worker.
#[derive(Clone, Debug)]
pub(super) struct Purse {
    /// How many requests came, less the price of each probe that failed or is not over.
    credit: u32,
    /// The same, less the price of each look.
    look_credit: u32,
    /// How many probes may be sent, by what hosts that are out would get of the requests that came, in ten-thousandths.
    turns: u32,
}

impl Purse {
    pub(super) const fn new() -> Self {
        Self { credit: MOST_CREDIT, look_credit: 0, turns: MOST_TURNS }
    }

    /// A request arrives.
    pub(super) fn earn(&mut self) {
        self.refund(1);
        self.look_credit = self.look_credit.saturating_add(1).min(MOST_CREDIT);
    }

    /// What was set aside for a probe is not needed.
    pub(super) fn refund(&mut self, paid: u32) {
        self.credit = self.credit.saturating_add(paid).min(MOST_CREDIT);
    }
}

impl Outliers {
    /// A request is a probe of that host, if it is out. What it costs if it fails is set aside: while one that hangs is not
    /// over, others would be sent as if there were credit left.
    pub(super) fn probe(&mut self, place: usize, now: Time) -> Option<Probe> {
        let (price, look_price, may_look) = (self.price(now), self.look_price(), self.may_look());
        let out = self.hosts.out_at(place)?;
        let paid = if may_look && out.looks(now) {
            self.purse.look_credit -= look_price;
            0
        } else {
            price.min(self.purse.credit)
        };
        self.purse.credit -= paid;
        self.probes += 1;
        out.probe(self.probes, paid, now);
        Some(Probe(self.probes))
    }

    /// Of a probe that fails, in requests.
    pub(super) fn price(&self, now: Time) -> u32 {
        if self.is_scarce(now) { PRICE / 2 } else { PRICE }
    }

    /// Of a look, in requests: of the more hosts there is something to learn, the more there are.
    fn look_price(&self) -> u32 {
        LOOK.saturating_mul(u32::try_from(self.out).unwrap_or(u32::MAX))
    }

    /// Whether the next look is paid.
    fn may_look(&self) -> bool {
        self.purse.look_credit >= self.look_price()
    }

    /// Whether probes failed of late that are not paid for yet.
    pub(super) fn is_poor(&self, now: Time) -> bool {
        self.purse.credit < self.price(now)
    }

    /// The host to probe, if any. Hosts that are out shall not get more probes than they would get requests if they were in: each
    /// worker of thousands of proxies with few requests probes hosts that others know to be back, and these are overloaded.
    /// (Two more than are out, else the last of many waits for as many requests. And not where half of the hosts are out.)
    pub(super) fn due_in_turn(&mut self, now: Time, repeatable: bool) -> Option<usize> {
        let known = u32::try_from(self.hosts.len().max(1)).unwrap_or(u32::MAX);
        let out = u32::try_from(self.out).unwrap_or(u32::MAX);
        self.purse.turns =
            self.purse.turns.saturating_add(TURN.saturating_mul(out.saturating_add(2)) / known).min(MOST_TURNS);
        if self.purse.turns < TURN && !self.is_scarce(now) {
            return None;
        }
        let due = self.due(now, repeatable)?;
        self.purse.turns = self.purse.turns.saturating_sub(TURN);
        Some(due)
    }

    /// Of the hosts that want a probe from this worker, the one that is due for longest.
    fn due(&self, now: Time, repeatable: bool) -> Option<usize> {
        let scarce = self.is_scarce(now);
        let lost = now.since(self.lost) < JUST;
        let poor = self.is_poor(now) && !lost;
        // Half as long again as hosts are down here: most of them are back by then.
        let half = self.usual / 2;
        // Hardly any is back before this.
        let early = half.min(TOO_EARLY);
        let may_look = self.may_look();
        let due = self.hosts.each_out().filter_map(|(place, _, out)| {
            let looks = may_look && out.looks(now);
            if !out.wants_probe(self.me, repeatable, looks, &self.policy, scarce, now) {
                return None;
            }
            let due = out.due(&self.policy, scarce);
            let since = |time: Time| now.as_nanos().saturating_sub(time.as_nanos());
            let ejection = &out.ejection;
            if !lost && !looks && since(ejection.since) < early {
                return None;
            }
            let patience = match poor && !looks {
                false => 0,
                true if half == 0 => UNKNOWN,
                true if since(ejection.since) / 3 >= half && since(ejection.failed) >= half => 0,
                true => UNPAID,
            };
            (since(due) >= patience).then_some((due, place))
        });
        due.min().map(|(_, place)| place)
    }

    /// Asks for one probe of a host at that time, should it be out: see [`Out::look_at`].
    pub fn look_at(&mut self, address: &str, at: Time, now: Time) {
        if let Some(out) = self.out_mut(address) {
            out.look_at(at, now);
        }
    }

    fn out_mut(&mut self, address: &str) -> Option<&mut Out> {
        self.hosts.out_at(self.hosts.find(address)?)
    }

    /// A request that carried a probe is over.
    pub fn probe_over(&mut self, probe: Probe) {
        let mut paid = 0;
        self.hosts.each_out_mut(&mut |out| paid += out.probe_over(probe.0));
        self.purse.refund(paid);
    }
}
