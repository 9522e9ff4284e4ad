//! Every place where the module can trap, reached from what Envoy calls: none is our own doing, and each that is left is
//! explained here.
//!
//! A trap in WebAssembly is `unreachable`. The compiler puts one behind each call that does not return (a panic, an allocation
//! that failed), and where it knows that nothing arrives. (Memory out of bounds, a division by zero and a stack that is used
//! up trap as well: safe Rust checks the first two, and nothing here recurses but the reader of a configuration, to a bound.)

use super::graph::Module;

/// What a function is, by the beginning of its name; why it traps, by the call in front; and why that does not happen.
struct Explained {
    function: &'static str,
    cause: &'static str,
    why: &'static str,
}

const fn explained(function: &'static str, cause: &'static str, why: &'static str) -> Explained {
    Explained { function, cause, why }
}

/// The trap itself stands alone.
const ALONE: &str = "alone";

/// Wherever memory is asked for. Envoy's V8 gives a VM up to 4 GiB; everything that Weir keeps is bounded (tests/hostile), and
/// Envoy's own limits bound what a request brings.
const OUT_OF_MEMORY: [&str; 4] = [
    "alloc::raw_vec::handle_error",
    "alloc::raw_vec::capacity_overflow",
    "alloc::alloc::handle_alloc_error",
    "__rustc::__rust_alloc_error_handler",
];

const MAP: &str =
    "the map's own invariants, with no code of ours in between: keys are text and numbers, whose order is total";
const COUNTED: &str = "a list made from one whose length is known, which the compiler no longer sees";
const CARRY: &str =
    "`Duration`'s own arithmetic checks the seconds before, and passes less than a second of nanoseconds";
const DISTANCE: &str =
    "strsim visits as many bytes of the second name as it has counted there; fuzzed (tests/fuzz: configuration)";
const TEXT: &str = "the sum of the lengths of a few short texts does not overflow";
const READER: &str = "serde_json stays within what it has counted itself; fuzzed (tests/fuzz: configuration)";
const ALLOCATOR: &str = "the allocator's own invariants: classes of sizes of which there are as many as it has lists";
const THREAD: &str = "the VM's state does not ask for itself while it is made, and is there as long as the VM";
const MACHINERY: &str = "what a panic or an allocation that failed runs through, had there been one";

const STATUS: &str = "a status that Envoy does not give to this call as Weir makes it: `HostCall::refusals` in tests/fake_host/faults.rs";
const LIFE: &str = "Envoy calls a context only between its creation and its deletion, and makes each once";
const HELPER: &str = "a method of the SDK's traits that nobody calls, and that `postlink/postlink.mjs` made trap";
const BORROWED: &str =
    "the dispatcher's maps are borrowed for a callback, and no host function calls back but to allocate";

const EXPLAINED: [Explained; 53] = [
    // Of the SDK, and where the compiler has put it into ours.
    explained("proxy_wasm::traits::", ALONE, HELPER),
    explained("proxy_wasm::hostcalls::", "core::panicking::panic_fmt", STATUS),
    explained("weir::filter::abi::", "core::panicking::panic_fmt", STATUS),
    explained("<weir::filter::abi::EnvoyLog", "core::panicking::panic_fmt", STATUS),
    explained("<weir::filter::", "core::panicking::panic_fmt", STATUS),
    explained("weir::filter::abi::writable", ALONE, "a fifth way of lending maps, of which there are four"),
    explained("proxy_wasm::dispatcher::", "std::panicking::begin_panic", LIFE),
    explained("proxy_on_", "std::panicking::begin_panic", LIFE),
    explained("proxy_on_", "std::thread::local::panic_access_error", THREAD),
    explained("core::cell::RefCell", "core::", BORROWED),
    explained("core::cell::panic_already_", "core::panicking::panic_fmt", BORROWED),
    explained("weir::filter::with_vm", "core::panicking::panic_fmt", STATUS),
    explained("weir::filter::roots::", "core::panicking::panic_fmt", STATUS),
    explained("hashbrown::raw::", "hashbrown::raw::Fallibility", "there are never so many contexts"),
    explained("hashbrown::raw::Fallibility", "core::panicking::panic_fmt", MACHINERY),
    // Of ours.
    explained("weir::engine::compile", "core::panicking::panic_fmt", COUNTED),
    explained("weir::filter::", "core::option::expect_failed", TEXT),
    // Where the compiler has put strsim's distance, or that by itself.
    explained("weir::config::error::similar", "core::panicking::panic_bounds_check", DISTANCE),
    explained("strsim::", "core::panicking::panic_bounds_check", DISTANCE),
    explained("weir::outlier::hosts::Hosts::", "core::option::unwrap_failed", MAP),
    explained("weir::outlier::hosts::Hosts::", "core::panicking::panic", MAP),
    explained("weir::outlier::hosts::Hosts::", "core::slice::index::slice_index_fail", MAP),
    explained("core::ptr::drop_in_place<core::option::Option<weir::", "core::option::unwrap_failed", MAP),
    // Of the standard library.
    explained("alloc::collections::btree", "core::panicking::panic", MAP),
    explained("<alloc::collections::btree", "core::option::unwrap_failed", MAP),
    explained("alloc::collections::btree", "core::option::unwrap_failed", MAP),
    explained("alloc::vec::Vec", "<alloc::vec::Vec", "places to insert at come from a binary search of the same list"),
    explained("<alloc::vec::Vec", "core::panicking::panic", "the same"),
    explained("alloc::slice::<impl [T]>::join", "core::", TEXT),
    explained("alloc::str::join_generic_copy", "core::", TEXT),
    explained("core::slice::copy_from_slice_impl", "core::slice::copy_from_slice_impl", TEXT),
    explained("alloc::fmt::format", "core::", "writing to a string does not fail"),
    explained("std::sys::thread_local::", "core::panicking::panic_fmt", THREAD),
    explained("core::ops::function::FnOnce::call_once", "core::panicking::panic_fmt", THREAD),
    explained("<core::str::iter::Split", "core::slice::index::slice_index_fail", "a search in a text stays within it"),
    explained("core::slice::sort::", "", "what is sorted are numbers, whose order is total"),
    explained("<core::time::Duration>::new", "core::option::expect_failed", CARRY),
    // Of serde_json.
    explained("<core::ops::range::RangeFrom<usize> as core::slice", "core::slice::index::slice_index_fail", READER),
    explained("<serde_json::read::SliceRead", "core::", READER),
    explained("serde_json::read::SliceRead", "core::slice::index::slice_index_fail", READER),
    explained("<serde_json::error::ErrorCode", "<serde_json::io::imp::Error", READER),
    explained("<serde_json::io::imp::Error", "core::panicking::panic", "what is in memory is read without an error"),
    // Of the allocator.
    explained("rlsf::", "", ALLOCATOR),
    // The machinery.
    explained("core::panicking::", "core::panicking::panic_fmt", MACHINERY),
    explained("core::panicking::", "__rustc::rust_begin_unwind", MACHINERY),
    explained("core::panicking::", "std::panicking::", MACHINERY),
    explained("core::option::", "core::panicking::panic", MACHINERY),
    explained("core::result::", "core::panicking::panic_fmt", MACHINERY),
    explained("core::slice::", "core::panicking::panic_fmt", MACHINERY),
    explained("alloc::raw_vec::", "core::panicking::panic_fmt", MACHINERY),
    explained("std::", "", MACHINERY),
    explained("<std::panicking::begin_panic::Payload", "", MACHINERY),
    explained("__rustc::", "", MACHINERY),
];

#[test]
fn every_trap_is_explained() {
    let module = super::panicking();
    let mut used = [false; EXPLAINED.len()];
    let mut unexplained = Vec::new();
    for number in module.reachable() {
        let Some(function) = module.functions.get(&number) else { continue };
        for end in &function.dead_ends {
            let cause = end.map_or(ALONE, |end| module.name(end));
            if OUT_OF_MEMORY.iter().any(|known| cause.starts_with(known)) {
                continue;
            }
            let explains =
                |known: &Explained| function.name.starts_with(known.function) && cause.starts_with(known.cause);
            match EXPLAINED.iter().position(explains) {
                Some(place) => used[place] = true,
                None => {
                    let callers: Vec<_> = module.callers(number).collect();
                    unexplained.push(format!("{}, by {cause}; called by {}", function.name, callers.join(", ")));
                }
            }
        }
    }
    assert!(
        unexplained.is_empty(),
        "the module can trap in {} places that nobody has explained; get rid of them (checked arithmetic, `get`, no \
         `swap`), or explain here why they are never reached:\n{}",
        unexplained.len(),
        unexplained.join("\n")
    );
    // What a compiler leaves out is no fault, but whoever reads this should see it.
    for (explained, used) in EXPLAINED.iter().zip(used) {
        if !used {
            println!("not in this build: {} by {} ({})", explained.function, explained.cause, explained.why);
        }
    }
}

/// The list above would be worth nothing if the names were not there, or the graph had no edges.
#[test]
fn the_graph_is_one() {
    let module = super::panicking();
    let reachable = module.reachable();
    let names: Vec<_> = reachable.iter().map(|number| module.name(*number)).collect();
    for part in ["weir::filter", "weir::config", "serde_json::", "proxy_wasm::dispatcher", "core::panicking::panic_fmt"]
    {
        assert!(names.iter().any(|name| name.contains(part)), "{part} is not reachable: {names:#?}");
    }
    let unnamed = names.iter().filter(|name| name.starts_with("function ")).count();
    assert_eq!(unnamed, 0, "functions without names");
    assert!(Module::default().reachable().is_empty());
}
