//! Weir beside what Envoy and Istio bring along, in real Envoys: what retries cost in an outage, when everything fails at
//! once, in a reset storm, and after an overload. Each comparison sends the same requests on the same schedule through
//! every policy.
//!
//! Fails if Weir does not keep what it promises; never because of how fast the machine is.

// The launcher of Envoy and the composition of its bootstrap are what is used of it.
#[allow(unused_imports)]
#[path = "../support/mod.rs"]
mod support;

#[path = "../crash_loops/mod.rs"]
mod crash_loops;

mod attempts;
mod books;
mod chain;
mod finding;
mod harm;
mod herd;
mod host;
mod incident;
mod load;
mod options;
mod outage;
mod policy;
mod proxy;
mod recovery;
mod safety;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::time::Instant;

use finding::Finding;
use options::{Comparison, Options};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("harm", arguments)) = arguments.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return support::exit_code("compare harm", harm(arguments));
    }
    let options = Options::from_arguments(std::env::args().skip(1));
    support::exit_code("compare", options.and_then(|options| options.map_or(Ok(true), |options| run(&options))))
}

fn harm(arguments: &[String]) -> Result<bool> {
    let runtime = tokio::runtime::Runtime::new().context("cannot start the threads")?;
    harm::run(&runtime, arguments, &format!("Envoy {}, {}", support::envoy::version()?, support::machine()))
}

/// Whether Weir kept its promises.
fn run(options: &Options) -> Result<bool> {
    let envoy = support::envoy::version()?;
    let machine = support::machine();
    println!("Envoy {envoy}, {machine}, `{}`", options.command());
    println!("\n{}", finding::legend());
    let runtime = tokio::runtime::Runtime::new().context("cannot start the threads")?;
    let mut findings = Vec::new();
    for comparison in &options.comparisons {
        let began = Instant::now();
        let finding = match comparison {
            Comparison::Outage => outage::run(&runtime)?,
            Comparison::Herd => herd::run(&runtime)?,
            Comparison::Safety => safety::run(&runtime, options.seed)?,
            Comparison::Recovery => recovery::run(&runtime)?,
            Comparison::Chain => chain::run(&runtime)?,
            Comparison::Incident => incident::run(&runtime, &options.incident)?,
        };
        println!("\n{finding}\n(took {} s)", whole_seconds(began.elapsed()));
        findings.push((comparison.name(), finding));
    }
    if let Some(path) = &options.json {
        let results: serde_json::Map<_, _> =
            findings.iter().map(|(name, finding)| ((*name).to_owned(), finding.to_json())).collect();
        let document = json!({
            "envoy": envoy, "machine": machine, "command": options.command(), "seed": options.seed, "comparisons": results,
        });
        let text = serde_json::to_string_pretty(&document)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("\n{}", verdict(&findings));
    Ok(findings.iter().all(|(_, finding)| finding.broken.is_empty()))
}

fn verdict(findings: &[(&'static str, Finding)]) -> String {
    let broken: Vec<String> = findings
        .iter()
        .flat_map(|(name, finding)| finding.broken.iter().map(move |promise| format!("{name}: {promise}")))
        .collect();
    if broken.is_empty() {
        "Weir kept every promise above, and all counts add up.".to_owned()
    } else {
        format!("NOT KEPT:\n  {}", broken.join("\n  "))
    }
}

fn whole_seconds(duration: Duration) -> u64 {
    (duration.as_millis() as u64 + 500) / 1000
}
