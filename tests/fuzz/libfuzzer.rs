//! Any of the targets, driven by libFuzzer.
#![no_main]

#[path = "../fake_host/mod.rs"]
mod fake_host;
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    targets::find(env!("CARGO_BIN_NAME")).expect("a target of that name")(data);
});
