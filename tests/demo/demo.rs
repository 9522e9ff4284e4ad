//! The incident that Weir exists for, on this machine and in a minute: four replicas that crash-loop, a real Envoy in
//! front of them running `envoy/envoy.yaml`, and a steady load of GETs and POSTs. Four times the same crashes and the
//! same requests: without retries, with the retries that everybody configures first, with Envoy tuned by hand, and with Weir.
//!
//! Fails if Weir did not help, so that CI can run it.

// The launcher of Envoy is what is used of it.
#[allow(unused_imports)]
#[path = "../support/mod.rs"]
mod support;

#[path = "../crash_loops/mod.rs"]
mod crash_loops;

mod bootstrap;
mod chart;
mod options;
mod page;
mod progress;
mod report;
mod story;
mod table;
mod trial;

use std::process::ExitCode;

use anyhow::{Context, Result};

use bootstrap::Variant;
use crash_loops::schedule::Timeline;
use options::Options;

/// As many as `envoy/envoy.yaml` has endpoints.
const REPLICAS: usize = 4;

fn main() -> ExitCode {
    let options = Options::from_arguments(std::env::args().skip(1));
    support::exit_code("demo", options.and_then(|options| options.map_or(Ok(true), |options| run(&options))))
}

/// Whether Weir helped.
fn run(options: &Options) -> Result<bool> {
    let timelines = Timeline::crash_loops(options.seed, REPLICAS, options.length());
    let envoy = support::envoy::version()?;
    println!("{}", table::introduction(options, &timelines, &envoy));
    let runtime = tokio::runtime::Runtime::new().context("cannot start the threads")?;
    let mut reports = Vec::new();
    for variant in Variant::ALL {
        reports.push(trial::run(&runtime, options, &timelines, variant)?);
    }
    println!("\n{}\n\n{}", table::comparison(&reports), table::explanation(&reports));
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report::to_json(options, &reports))?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    let page = page::compose(options, &timelines, &page::Made::now(envoy), &reports);
    std::fs::write(&options.html, page).with_context(|| format!("cannot write {}", options.html.display()))?;
    let place = std::path::absolute(&options.html)?;
    println!("\nThe same as a page, with what happened when: file://{}", place.display());
    let shortcomings = report::shortcomings(&reports);
    println!("\n{}", table::verdict(&reports, &shortcomings));
    Ok(shortcomings.is_empty())
}
