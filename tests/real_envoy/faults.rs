//! What the host does to the module: it ends the VM, loads another, restarts, stalls, is overloaded.

mod killed;
mod process;
mod updates;

use std::time::Duration;

use crate::alone::Test;
use crate::soak;

pub fn all() -> Vec<Test> {
    [killed::TESTS, process::TESTS, updates::TESTS, SOAK].concat()
}

/// For some seconds what `./build.sh soak` does for half an hour.
const SOAK: &[Test] = &[("faults::sums_agree_after_incidents", || {
    let story = soak::soak(Duration::from_secs(8), 16, |_| {})?;
    println!("{story}");
    Ok(())
})];
