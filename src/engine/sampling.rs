//! Which of a calm cluster's answered attempts, and of its requests, are looked at: to ask for a host's address costs more
//! than it tells there.

use crate::base::random::Random;

/// One in so many is looked at, by chance.
pub(super) const SAMPLE: u32 = 8;

/// Counts what could be looked at.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sampler {
    attempts: u32,
    requests: u32,
}

impl Sampler {
    /// Whether the next answered attempt is in the sample.
    pub(super) fn takes_attempt(&mut self) -> bool {
        takes(&mut self.attempts)
    }

    /// Whether the next request is in the sample.
    pub(super) fn takes_request(&mut self) -> bool {
        takes(&mut self.requests)
    }
}

/// Not each eighth: a balancer that takes turns among four hosts would show the same one each time, and the other three would
/// never be known.
fn takes(count: &mut u32) -> bool {
    *count = count.wrapping_add(1);
    Random::new((*count).into()).number().is_multiple_of(SAMPLE.into())
}
