//! What the host does to the module: it ends the VM, loads another, restarts, stalls, is overloaded.

mod killed;
mod process;
mod updates;

use std::time::Duration;

use crate::alone::Test;
use crate::soak;

pub fn all() -> Vec<Test> {
    [process::TESTS, SOAK].concat()
}

/// Those that are about time.
pub fn timed() -> Vec<Test> {
    [killed::TIMED, updates::TIMED].concat()
}

/// For some seconds what `./build.sh soak` does for half an hour.
const SOAK: &[Test] = &[("faults::sums_agree_after_incidents", || {
    let story = soak::soak(Duration::from_secs(8), 16, |_| {})?;
    println!("{story}");
    Ok(())
})];
