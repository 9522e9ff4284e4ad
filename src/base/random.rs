//! Numbers that look random and are not: the same seed gives the same numbers, on every machine. Not for secrets.

/// The golden section, of 2^64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A generator: SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator that starts at `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// The next number, below `limit`; 0 if the limit is 0. The bias is below 2^-32 for limits below 2^32.
    pub const fn below(&mut self, limit: u64) -> u64 {
        share(self.number(), limit)
    }

    /// The next number in turn, below `limit`: spread more evenly than by chance. Of any number of turns, each range of numbers has
    /// its share to within two or three, since they are the multiples of the golden section (H. Weyl, "Über die Gleichverteilung
    /// von Zahlen mod. Eins", Mathematische Annalen 77, 1916).
    pub const fn in_turn(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        share(self.0, limit)
    }
}

const fn share(of: u64, limit: u64) -> u64 {
    ((of as u128 * limit as u128) >> u64::BITS) as u64
}

const fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A number that depends on all of `bytes` and on the seed.
#[must_use]
pub fn hash(bytes: &[u8], seed: u64) -> u64 {
    bytes.iter().fold(mix(seed), |hash, byte| mix(hash ^ u64::from(*byte)).wrapping_add(GOLDEN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_turn_each_range_has_its_share() {
        for seed in 0..20 {
            let mut random = Random::new(mix(seed));
            let mut below = [0_u32; 4];
            for turn in 1..=5_000 {
                let number = random.in_turn(1_000);
                assert!(number < 1_000);
                for (range, end) in [10, 58, 200, 500].into_iter().enumerate() {
                    below[range] += u32::from(number < end);
                    let right = f64::from(turn) * f64::from(end as u32) / 1_000.0;
                    assert!((f64::from(below[range]) - right).abs() < 4.0, "{turn}: {} below {end}", below[range]);
                }
            }
        }
        assert_eq!(Random::new(7).in_turn(0), 0);
    }
}
