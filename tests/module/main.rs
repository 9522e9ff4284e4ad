//! The module that Envoy loads, taken apart: where it can trap, what it asks of Envoy, what it must not contain.
//!
//! `./build.sh` makes both files that this looks at: `target/weir.wasm`, and `target/weir.names.wasm`, the same with names.
#![cfg(not(target_arch = "wasm32"))]

mod contents;
mod flow;
mod graph;
mod traps;

use graph::Module;
use std::path::PathBuf;

/// `WEIR_WASM`, else what `build.sh` made.
fn shipped() -> PathBuf {
    let built = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/weir.wasm"));
    std::env::var_os("WEIR_WASM").map_or_else(built, PathBuf::from)
}

fn bytes(path: PathBuf) -> Vec<u8> {
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; build it with ./build.sh", path.display()))
}

/// With the names of its functions.
fn named() -> Module {
    Module::read(&bytes(shipped().with_extension("names.wasm"))).expect("a module")
}
