//! Outlier detection in a real Envoy: hosts that go are left alone, and come back.

mod crowd;
mod everywhere;
mod header;
mod internal;
mod life;
pub mod load;
mod modes;
pub mod replica;
mod session;
mod shares;
pub mod site;
mod updates;
mod workers;

use crate::alone::Test;

pub fn all() -> Vec<Test> {
    [
        life::TESTS,
        crowd::TESTS,
        shares::TESTS,
        everywhere::TESTS,
        header::TESTS,
        internal::TESTS,
        session::TESTS,
        workers::TESTS,
        updates::TESTS,
        modes::TESTS,
    ]
    .concat()
}

/// Those that are about time.
pub fn timed() -> Vec<Test> {
    [life::TIMED, everywhere::TIMED, workers::TIMED, updates::TIMED, modes::TIMED].concat()
}
