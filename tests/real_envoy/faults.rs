//! What the host does to the module: it ends the VM, loads another, restarts, stalls, is overloaded.

mod killed;
mod process;
mod updates;

use crate::alone::Test;

pub fn all() -> Vec<Test> {
    [killed::TESTS, process::TESTS, updates::TESTS].concat()
}
