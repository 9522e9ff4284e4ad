//! A property is tried on many lists of numbers: natively by proptest, which finds the shortest list that breaks it; in Node
//! by a seeded loop. The property reads the numbers as it likes, with [`Digits`].
#![allow(dead_code, reason = "each test binary uses another part of it")]

/// Tries `property` on `runs` lists of 1 to `length` numbers.
#[cfg(not(target_arch = "wasm32"))]
pub fn for_all(runs: u32, length: usize, property: impl Fn(&[u64])) {
    use proptest::test_runner::{Config, TestRunner};
    let config = Config { cases: runs, failure_persistence: None, ..Config::default() };
    let lists = proptest::collection::vec(proptest::num::u64::ANY, 1..=length);
    let result = TestRunner::new(config).run(&lists, |numbers| {
        property(&numbers);
        Ok(())
    });
    result.unwrap_or_else(|failure| panic!("{failure}"));
}

/// Tries `property` on `runs` lists of 1 to `length` numbers.
#[cfg(target_arch = "wasm32")]
pub fn for_all(runs: u32, length: usize, property: impl Fn(&[u64])) {
    let mut random = crate::fake_host::Random::new(1);
    for _ in 0..runs {
        let length = 1 + random.below(length as u64);
        let numbers: Vec<u64> = (0..length).map(|_| random.below(u64::MAX)).collect();
        property(&numbers);
    }
}

/// A number taken apart into choices.
pub struct Digits(pub u64);

impl Digits {
    pub fn below(&mut self, bound: u64) -> u64 {
        let digit = self.0 % bound;
        self.0 /= bound;
        digit
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A time to pass, in nanoseconds, that lies on, before or after what matters to a window with slots of this length.
    pub fn gap(&mut self, slot: u64) -> u64 {
        let whole = slot * self.pick(&[0, 0, 0, 1, 2, 9, 10, 11, 12, 604_800]);
        match self.below(5) {
            0 => whole,
            1 => whole.saturating_sub(1),
            2 => whole + 1,
            3 => whole + slot / 2,
            _ => whole + self.below(slot),
        }
    }
}
