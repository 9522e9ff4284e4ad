//! `./build.sh soak [MINUTES [CONNECTIONS]]`: a real Envoy of four workers with all roles, under load, through one incident
//! after the other, and what must hold at the end: memory is flat, the sums agree to the last request, nothing is active.

mod run;
// The launcher of Envoy and the composition of its bootstrap are what is used of it.
#[allow(unused_imports)]
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let (minutes, connections) = match (arguments.next().unwrap_or(Ok(30)), arguments.next().unwrap_or(Ok(32))) {
        (Ok(minutes @ 1..), Ok(connections @ 1..)) => (minutes, connections),
        _ => {
            eprintln!("usage: ./build.sh soak [MINUTES [CONNECTIONS]]");
            return ExitCode::FAILURE;
        }
    };
    match run::soak(Duration::from_secs(60 * minutes), connections, |line| println!("{line}")) {
        Ok(story) => {
            println!("{story}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
