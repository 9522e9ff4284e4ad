//! Weir in a real Envoy, against upstreams that misbehave on purpose.
//!
//! Each case of `rows` and `retries` is a trial at each level of attachment, `decide+watch+guard::reset_fresh`. All
//! cases of a level share one Envoy, and each has its own upstreams, cluster and route there, so they run in parallel
//! and their counters do not mix. What needs an Envoy of its own is in `alone`, `ejection` and others. See
//! `support::envoy` for the environment variables.

mod alone;
mod breaker;
mod budget;
mod case;
mod chain;
mod check;
mod ejection;
mod faults;
mod harm;
mod hostile;
mod incidents;
mod level;
mod mesh;
mod retries;
mod rows;
#[path = "../soak/run.rs"]
mod soak;
mod stage;
#[path = "../support/mod.rs"]
mod support;
mod timeouts;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use check::Ledger;
use level::{Level, Sites, Version};
use support::wait;

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
    let cases: Arc<Vec<_>> =
        Arc::new([rows::all(), retries::all(), budget::cases(), chain::cases()].into_iter().flatten().collect());
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
    for level in Level::WITH_WEIR {
        let sites = Arc::clone(&sites);
        // That it remains the only one is looked at when all is over.
        trials.push(Trial::test(format!("{}::startup_line", level.name()), move || {
            let site = sites.get(*level)?;
            wait::until(wait::LIMIT, || {
                let log = site.envoy.lock().map(|envoy| envoy.log()).unwrap_or_default();
                check::announced(*level, &log)
            })
            .map_err(Into::into)
        }));
    }
    // On a machine that is shared, as those of CI are, a timer may be late by seconds. A trial that needs its Envoy for itself
    // may then be tried again, and says so.
    let tries = std::env::var("WEIR_TRIES").ok().and_then(|tries| tries.parse().ok()).unwrap_or(1_u32);
    for (name, test) in [
        alone::all(),
        breaker::all(),
        budget::tests(),
        chain::tests(),
        ejection::all(),
        faults::all(),
        harm::all(),
        hostile::all(),
        mesh::tests(),
        incidents::all(),
        timeouts::tests(),
    ]
    .concat()
    {
        trials.push(Trial::test(name, move || {
            let mut result = test();
            for _ in 1..tries {
                let Err(error) = &result else { break };
                eprintln!("{name} FAILED and is tried again: {error:#}");
                result = test();
            }
            result.map_err(|error| format!("{error:#}").into())
        }));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    let complaints = ledger.audit(&sites);
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    if conclusion.has_failed() || !complaints.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
