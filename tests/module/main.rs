//! The module that Envoy loads, taken apart: where it can trap, what it asks of Envoy, what it must not contain.
//!
//! `./build.sh` makes the files that this looks at: `target/weir.wasm`; `target/weir.names.wasm`, the same with names; and
//! `target/weir.panics.wasm`, as it was linked, in which a panic is still a call.
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

/// As it was linked, where panics are still calls with names.
fn panicking() -> Module {
    Module::read(&bytes(shipped().with_extension("panics.wasm"))).expect("a module")
}
