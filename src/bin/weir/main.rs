//! The command line: what a policy means, and what Weir would have done about yesterday's traffic.
//!
//! It runs on a host, and is the engine of the module with another door: policies are read by `weir::config`, ends of
//! attempts by `weir::signal`, and so on. What it needs besides is in nobody's way in the module, which is built without it.
//!
//! - [`check`]: `weir check FILE...` validates policies, says in words and numbers what they mean, and looks at all that is set up
//!   around them.
//! - [`docs`]: `weir docs LINK` prints a page of the documentation.
//! - [`explain`]: `weir explain LINE` says what one line of an access log means to Weir.
//! - [`generate`]: `weir generate PLATFORM` writes the resources for one's own services.
//! - [`replay`]: `weir replay ACCESS_LOG...` runs the engine over Envoy's access logs.
//! - [`top`]: `weir top URL...` shows what Weir does now, from the metrics of running Envoys.
#![deny(unsafe_code)]

#[cfg(not(target_arch = "wasm32"))]
mod check;
#[cfg(not(target_arch = "wasm32"))]
mod docs;
#[cfg(not(target_arch = "wasm32"))]
mod explain;
#[cfg(not(target_arch = "wasm32"))]
mod generate;
#[cfg(not(target_arch = "wasm32"))]
mod http;
#[cfg(not(target_arch = "wasm32"))]
mod replay;
#[cfg(not(target_arch = "wasm32"))]
mod top;

/// Cargo builds the binaries of a package for its tests, so also where these run as WebAssembly.
#[cfg(target_arch = "wasm32")]
fn main() {}

#[cfg(not(target_arch = "wasm32"))]
fn main() -> std::process::ExitCode {
    use clap::{CommandFactory as _, Parser};

    /// `build.sh` knows the commit.
    const VERSION: &str = match option_env!("WEIR_VERSION") {
        Some(version) => version,
        None => env!("CARGO_PKG_VERSION"),
    };

    /// Weir's command line: the same engine that runs in Envoy, on files.
    #[derive(Parser)]
    #[command(name = "weir", version = VERSION, max_term_width = 100)]
    enum Command {
        Check(check::Arguments),
        Replay(replay::Arguments),
        Explain(explain::Arguments),
        Generate(generate::Arguments),
        Top(top::Arguments),
        Docs(docs::Arguments),
        /// Writes what a shell needs to complete commands
        #[command(after_help = "Example:\n  weir completions bash >/etc/bash_completion.d/weir")]
        Completions {
            /// Which shell
            shell: clap_complete::Shell,
        },
        /// Writes a manual page
        #[command(after_help = "Example:\n  weir man check | man -l -")]
        Man {
            /// Of which command; without it, of weir itself
            command: Option<String>,
        },
    }

    match Command::parse() {
        Command::Check(arguments) => check::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Generate(arguments) => generate::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Docs(arguments) => docs::run(&arguments),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Command::command(), "weir", &mut text);
            print(&String::from_utf8_lossy(&text));
            std::process::ExitCode::SUCCESS
        }
        Command::Man { command } => manual(Command::command(), command.as_deref()),
    }
}

/// The manual page of a command.
#[cfg(not(target_arch = "wasm32"))]
fn manual(mut all: clap::Command, name: Option<&str>) -> std::process::ExitCode {
    all.build();
    let command = match name {
        None => Some(&all),
        Some(name) => all.find_subcommand(name),
    };
    let Some(command) = command else {
        eprintln!("weir: there is no command {:?}", name.unwrap_or_default());
        return std::process::ExitCode::from(2);
    };
    let title = command.get_bin_name().unwrap_or("weir").replace(' ', "-");
    let mut text = Vec::new();
    if let Err(error) = clap_mangen::Man::new(command.clone()).title(title).render(&mut text) {
        eprintln!("weir: {error}");
        return std::process::ExitCode::FAILURE;
    }
    print(&String::from_utf8_lossy(&text));
    std::process::ExitCode::SUCCESS
}

/// Writes to standard output. Whoever reads it may have seen enough, which is no error.
#[cfg(not(target_arch = "wasm32"))]
fn print(text: &str) {
    use std::io::Write as _;
    drop(std::io::stdout().write_all(text.as_bytes()));
}
