//! What is drawn from: how often each place was picked. There is a sum over each half, quarter, and so on, so that a draw and a
//! change take as many steps as the number of places has binary digits.

/// The picks of so many places.
#[derive(Clone, Debug, Default)]
pub(super) struct Urn {
    /// The sum of all is the second; of each, at n, the two halves are at 2n and 2n + 1. The last half are the places. The
    /// lower half of each number is the picks, the upper one how many places have any.
    sums: Vec<u64>,
}

/// Of a place that has picks: what it has for each pick, and for itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    pick: u64,
    place: u64,
}

impl Shares {
    /// So much for each pick, and for each place; all have the same if both are 0.
    pub(super) const fn new(pick: u64, place: u64) -> Self {
        Self { pick, place: if pick == 0 && place == 0 { 1 } else { place } }
    }

    const fn of(self, sum: u64) -> u64 {
        let (picks, places) = (sum & u32::MAX as u64, sum >> u32::BITS);
        picks.wrapping_mul(self.pick).wrapping_add(places.wrapping_mul(self.place))
    }
}

const fn one(picks: u32) -> u64 {
    if picks == 0 { 0 } else { (1 << u32::BITS) | picks as u64 }
}

impl Urn {
    /// Without places.
    pub(super) const fn new() -> Self {
        Self { sums: Vec::new() }
    }

    /// Has these picks from now on; there are so many `places`.
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

    /// The shares of all places together.
    pub(super) fn total(&self, shares: Shares) -> u64 {
        shares.of(self.sum(1))
    }

    /// Gives a place other picks; returns those it had.
    pub(super) fn put(&mut self, place: usize, picks: u32) -> u32 {
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

    /// The place that a ticket below the total falls on, as if the shares lay one after the other.
    pub(super) fn find(&self, mut ticket: u64, shares: Shares) -> usize {
        let leaves = self.sums.len() / 2;
        let mut node = 1;
        while node < leaves {
            node *= 2;
            let left = shares.of(self.sum(node));
            if ticket >= left {
                ticket -= left;
                node += 1;
            }
        }
        node.saturating_sub(leaves)
    }
}
