//! What Weir costs, in a real Envoy: see `./build.sh bench help`.

// The launcher of Envoy and the composition of its bootstrap are what is used of it.
#[allow(unused_imports)]
#[path = "../support/mod.rs"]
mod support;

mod calls;
mod cost;
mod growth;
mod load;
mod options;
mod statistics;
mod upstream;
mod variants;

use std::process::ExitCode;

use anyhow::Result;

use cost::{Bench, Measured};
use load::Shape;
use options::{Options, Part};
use variants::Filter;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(growth::SERVE) {
        let count = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(1);
        return if growth::serve(count).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let outcome = Options::from_arguments(std::env::args().skip(1)).and_then(|options| match options {
        Some(options) => run(&options),
        None => Ok(true),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether Weir costs no more than it should.
fn run(options: &Options) -> Result<bool> {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    println!(
        "Envoy {}, {}, load {load} before, `{}`",
        support::envoy::version()?,
        support::machine(),
        options.command()
    );
    let mut kept = true;
    if options.parts.contains(&Part::Calls) {
        println!("\n{}", calls::run()?);
    }
    if options.parts.contains(&Part::Cost) || options.parts.contains(&Part::Latency) {
        let mut bench = Bench::start(&Filter::all(), |launch| launch)?;
        bench.warm_up()?;
        if options.parts.contains(&Part::Cost) {
            for shape in Shape::ALL {
                let measured = Measured::take(&mut bench, shape, options.effort)?;
                println!("\n{}", measured.table());
                if !shape.large {
                    let (lines, broken) = measured.targets();
                    println!("{lines}");
                    kept &= !broken;
                }
            }
        }
        if options.parts.contains(&Part::Latency) {
            println!("\n{}", cost::latency(&mut bench, options.effort)?);
        }
    }
    if options.parts.contains(&Part::Steps) {
        let mut bench = Bench::start(&Filter::STEPS, |launch| launch)?;
        bench.warm_up()?;
        for shape in Shape::ALL.into_iter().filter(|shape| !shape.large) {
            println!("\n{}", Measured::take(&mut bench, shape, options.effort)?.steps());
        }
    }
    if options.parts.contains(&Part::Growth) {
        println!("\n{}", growth::run(if options.quick { 6 } else { 20 })?);
    }
    Ok(kept)
}
