//! The circuit breaker in a real Envoy: when it opens, what those get that are shed, who finds out, and that the books
//! agree.

mod closed;
mod life;
mod modes;
mod probes;
mod site;

use crate::alone::Test;

pub use site::metric;

pub fn all() -> Vec<Test> {
    [closed::TESTS, modes::TESTS, probes::TESTS].concat()
}

/// Those that are about time.
pub fn timed() -> Vec<Test> {
    [life::TIMED, probes::TIMED].concat()
}
