//! How many instructions the core takes per call, counted by valgrind: the same on every run, to one or two, whatever else the machine does.
//!
//! `cargo bench --bench instructions` prints a table, `… -- check` compares with `benches/instructions.txt` and fails where
//! a count grew by more than a tenth, `… -- accept` writes that file. Without valgrind it says so, and checks nothing.
//!
//! Each case runs twice under callgrind, with so many calls and with twice as many; the difference is what the calls take,
//! less what the loop takes. It is compiled for size, as the module is, but for this machine: the figures compare, with
//! other libraries and over time. They are no forecast of what V8 makes of the module.
#![cfg_attr(target_arch = "wasm32", allow(unused))]

#[cfg(not(target_arch = "wasm32"))]
#[path = "instructions/cases.rs"]
mod cases;
#[path = "../tests/fake_host/mod.rs"]
mod fake_host;
#[cfg(not(target_arch = "wasm32"))]
#[path = "instructions/valgrind.rs"]
mod valgrind;

#[cfg(target_arch = "wasm32")]
fn main() {}

#[cfg(not(target_arch = "wasm32"))]
fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", case, calls] => cases::run(case, calls.parse()?),
        ["check"] => valgrind::check(),
        ["accept"] => valgrind::accept(),
        [] if std::env::args().any(|argument| argument == "--bench") => valgrind::print(),
        // `cargo test --all-targets` only sees whether each runs.
        [] => cases::ALL.iter().flat_map(|row| row.names()).try_for_each(|case| cases::run(case, 10)),
        _ => anyhow::bail!("nothing, check or accept"),
    }
}
