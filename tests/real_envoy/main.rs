//! Weir in a real Envoy, against upstreams that misbehave on purpose.
//!
//! Each case of `rows` and `retries` is a trial at each level of attachment, `decide+watch+guard::reset_fresh`. All
//! cases of a level share one Envoy, and each has its own upstreams, cluster and route there, so they run in parallel
//! and their counters do not mix. What needs an Envoy of its own is in `alone`, `ejection` and others. See
//! `support::envoy` for the environment variables.
//!
//! Trials wait for conditions and count events, so that they run beside each other, and beside whatever else the machine does.
//! Those that are about time itself come last, and each has the machine for itself as far as this suite goes; but for those that
//! mostly sleep, of which as many run together as leave a third of the machine idle.

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

use std::collections::BTreeMap;
use std::mem::discriminant;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use libtest_mimic::{Arguments, Trial};

use check::Ledger;
use level::{Level, Sites, Version};
use support::wait;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The machine waits more than it works here.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(8 * cores.min(4));
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
            trials.push(trial(Share::BesideOthers, format!("{}::{}", level.name(), case.name), move || {
                check::run(&cases[index], level, &sites, &ledger).map_err(anyhow::Error::msg)
            }));
        }
    }
    for level in Level::WITH_WEIR {
        let sites = Arc::clone(&sites);
        // That it remains the only one is looked at when all is over.
        trials.push(trial(Share::BesideOthers, format!("{}::startup_line", level.name()), move || {
            let site = sites.get(*level).map_err(anyhow::Error::msg)?;
            wait::until(wait::LIMIT, || {
                let log = site.envoy.lock().map(|envoy| envoy.log()).unwrap_or_default();
                check::announced(*level, &log)
            })
            .map_err(anyhow::Error::msg)
        }));
    }
    let shared = [
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
    ];
    trials.extend(shared.concat().into_iter().map(|(name, test)| trial(Share::BesideOthers, name, test)));
    for (percent, tests) in [incidents::paced(), harm::paced()].concat() {
        trials.extend(tests.iter().map(|(name, test)| trial(Share::AtAPace { percent }, *name, test)));
    }
    let timed = [
        breaker::timed(),
        budget::timed(),
        ejection::timed(),
        faults::timed(),
        harm::timed(),
        incidents::timed(),
        timeouts::TIMED.to_vec(),
    ];
    trials.extend(timed.concat().into_iter().map(|(name, test)| trial(Share::Alone, name, test)));
    let conclusion = libtest_mimic::run(&arguments, trials);
    let complaints = ledger.audit(&sites);
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    if conclusion.has_failed() || !complaints.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Which trials run at the same time as this one.
#[derive(Clone, Copy)]
enum Share {
    /// Others of this kind, as many as there are threads.
    BesideOthers,
    /// Others of this kind: what is about time, and keeps a core busy for so many percent of it.
    AtAPace { percent: usize },
    /// None: what is about time.
    Alone,
}

impl Share {
    /// How much of the machine it takes, and how much of it those of its kind may take together.
    fn of(self) -> (usize, usize) {
        match self {
            Self::BesideOthers => (1, usize::MAX),
            Self::AtAPace { percent } => (percent, 65 * std::thread::available_parallelism().map_or(1, usize::from)),
            Self::Alone => (1, 1),
        }
    }
}

/// The trials that run now, and those that wait.
struct Trials {
    share: Share,
    /// How much of the machine they take.
    taken: usize,
    /// The places of those that wait in the list of all, and how much each takes.
    waiting: BTreeMap<usize, usize>,
}

static TRIALS: Mutex<Trials> = Mutex::new(Trials { share: Share::Alone, taken: 0, waiting: BTreeMap::new() });
static ENDED: Condvar = Condvar::new();

/// What a trial takes of the machine, until it is dropped.
struct Machine(usize);

impl Machine {
    /// Waits until there is room. Of those that have, the first in the list goes first: the longest stand there.
    fn take(share: Share, place: usize) -> Self {
        let (part, most) = share.of();
        let mut trials = TRIALS.lock().unwrap_or_else(PoisonError::into_inner);
        trials.waiting.insert(place, part);
        let waits = |trials: &mut Trials| {
            let others = discriminant(&trials.share) != discriminant(&share);
            let room = if trials.taken > 0 && others { 0 } else { most - trials.taken };
            trials.waiting.iter().find(|(_, part)| **part <= room).map(|(first, _)| *first) != Some(place)
        };
        let mut trials = ENDED.wait_while(trials, waits).unwrap_or_else(PoisonError::into_inner);
        trials.waiting.remove(&place);
        (trials.share, trials.taken) = (share, trials.taken + part);
        // There may be room for others as well.
        ENDED.notify_all();
        Self(part)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        TRIALS.lock().unwrap_or_else(PoisonError::into_inner).taken -= self.0;
        ENDED.notify_all();
    }
}

/// What runs alone stands at the end of the list, so that it waits for its like only.
fn trial(share: Share, name: impl Into<String>, test: impl FnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
    static PLACE: AtomicUsize = AtomicUsize::new(0);
    let place = PLACE.fetch_add(1, Ordering::Relaxed);
    Trial::test(name, move || {
        let _machine = Machine::take(share, place);
        test().map_err(|error| format!("{error:#}").into())
    })
}
