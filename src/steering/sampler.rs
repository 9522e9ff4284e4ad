//! Draws places at random, each with a weight: a sum tree over the picks of each place. It has a sum over each half, quarter,
//! and so on, so that a draw and a change take as many steps as the number of places has binary digits.

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
}
