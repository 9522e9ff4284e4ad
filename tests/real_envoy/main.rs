//! Weir in a real Envoy, against upstreams that misbehave on purpose.
//!
//! Each case of `rows` and `retries` is a trial at each level of attachment, `decide+watch+guard::reset_fresh`. All
//! cases of a level share one Envoy, and each has its own upstreams, cluster and route there, so they run in parallel
//! and their counters do not mix. See `support::envoy` for the environment variables.

mod case;
mod check;
mod level;
mod retries;
mod rows;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use check::Ledger;
use level::{Level, Sites, Version};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The machine waits more than it works here.
    arguments.test_threads.get_or_insert(16);
    let version = match Version::detect() {
        Ok(version) => version,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let cases: Arc<Vec<_>> = Arc::new([rows::all(), retries::all()].into_iter().flatten().collect());
    let sites = Arc::new(Sites::new(version, Arc::clone(&cases)));
    let ledger = Arc::new(Ledger::default());
    let mut trials = Vec::new();
    for level in Level::ALL {
        for (index, case) in cases.iter().enumerate() {
            if level == Level::Without && !case.without {
                continue;
            }
            let (cases, sites, ledger) = (Arc::clone(&cases), Arc::clone(&sites), Arc::clone(&ledger));
            trials.push(Trial::test(format!("{}::{}", level.name(), case.name), move || {
                check::run(&cases[index], level, &sites, &ledger).map_err(Into::into)
            }));
        }
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let complaints = ledger.audit(&sites);
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    if conclusion.has_failed() || !complaints.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
