//! The command line: what a policy means, and what Weir would have done about yesterday's traffic.
//!
//! It runs on a host, and is the engine of the module with another door: policies are read by `weir::config`, ends of
//! attempts by `weir::signal`, and so on. What it needs besides is in nobody's way in the module, which is built without it.
//!
//! - [`check`]: `weir check FILE` validates a policy and says in words and numbers what it means.
//! - [`replay`]: `weir replay ACCESS_LOG...` runs the engine over Envoy's access logs.
#![deny(unsafe_code)]

#[cfg(not(target_arch = "wasm32"))]
mod check;
#[cfg(not(target_arch = "wasm32"))]
mod http;
#[cfg(not(target_arch = "wasm32"))]
mod replay;

/// Cargo builds the binaries of a package for its tests, so also where these run as WebAssembly.
#[cfg(target_arch = "wasm32")]
fn main() {}

#[cfg(not(target_arch = "wasm32"))]
fn main() -> std::process::ExitCode {
    use clap::Parser;

    /// Weir's command line: the same engine that runs in Envoy, on files.
    #[derive(Parser)]
    #[command(name = "weir", version, about)]
    enum Command {
        Check(check::Arguments),
        Replay(replay::Arguments),
    }

    match Command::parse() {
        Command::Check(arguments) => check::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
    }
}

/// Writes to standard output. Whoever reads it may have seen enough, which is no error.
#[cfg(not(target_arch = "wasm32"))]
fn print(text: &str) {
    use std::io::Write as _;
    drop(std::io::stdout().write_all(text.as_bytes()));
}
