//! Runs a case at a level, and compares Envoy's own logs and Weir's counters with what is legal.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;

use crate::case::{Case, Outcome, Scene};
use crate::level::{Level, Site, Sites};
use crate::support::admin::Admin;
use crate::support::bootstrap;
use crate::support::upstream::Upstream;
use crate::support::wait;

/// What was counted, case by case, to be looked at again when all is over.
#[derive(Default)]
pub struct Ledger(Mutex<Vec<Counted>>);

struct Counted {
    level: Level,
    case: &'static str,
    cluster: String,
    tally: Tally,
}

/// Weir's counters for one cluster: as many words as were counted, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub attempts: Vec<String>,
    pub vetoes: Vec<String>,
    /// The same in shadow mode.
    pub shadow_vetoes: Vec<String>,
    /// Retries, as `granted` or `denied`.
    pub retries: Vec<String>,
    pub requests: usize,
}

impl Tally {
    /// Reads the counters of a cluster.
    pub fn read(admin: Admin, cluster: &str) -> Result<Self, String> {
        let suffix = format!(".cluster.{cluster}");
        let filter = format!(r"^wasmcustom[.]weir_.*[.]cluster[.]{cluster}$");
        let stats = admin.stats(&filter).map_err(|error| error.to_string())?;
        let mut tally = Self::default();
        for (name, count) in &stats {
            let Some(name) = name.strip_prefix("wasmcustom.weir_").and_then(|name| name.strip_suffix(&suffix)) else {
                continue;
            };
            let count = usize::try_from(*count).unwrap_or(usize::MAX);
            let words = match name.rsplit_once('.') {
                Some(("requests_total.retry", _)) => {
                    tally.requests += count;
                    continue;
                }
                Some(("attempts_total.signal", signal)) => (&mut tally.attempts, signal),
                Some(("vetoes_total.reason", reason)) => (&mut tally.vetoes, reason),
                Some(("shadow_vetoes_total.reason", reason)) => (&mut tally.shadow_vetoes, reason),
                Some(("retries_total.verdict", verdict)) => (&mut tally.retries, verdict),
                // What is judged of hosts has tests of its own.
                _ => continue,
            };
            words.0.extend(std::iter::repeat_n(words.1.to_owned(), count));
        }
        tally.attempts.sort();
        tally.vetoes.sort();
        Ok(tally)
    }
}

/// Runs a case at a level.
pub fn run(case: &Case, level: Level, sites: &Sites, ledger: &Ledger) -> Result<(), String> {
    let site = sites.get(level)?;
    let result = visit(case, &site, ledger);
    // Hundreds of cases have theirs; a process may not have that many files open.
    site.upstreams(case.name).iter().for_each(Upstream::stop);
    result
}

fn visit(case: &Case, site: &Site, ledger: &Ledger) -> Result<(), String> {
    let level = site.level;
    let scene = Scene {
        case,
        level,
        envoy: SocketAddr::from((Ipv4Addr::LOCALHOST, site.port)),
        upstreams: site.upstreams(case.name),
    };
    (case.visit)(&scene).map_err(|error| format!("{error:#}\n{}", observed(case, site)))?;
    let legal: Vec<&Outcome> = case.outcomes.iter().filter(|outcome| outcome.is_legal(level, site.version)).collect();
    let outcome = wait::until(wait::LIMIT, || {
        let outcome = legal.iter().find(|outcome| logged(case, site, outcome));
        outcome
            .copied()
            .ok_or_else(|| format!("Envoy's logs fit no legal outcome.\n{}\nlegal: {legal:#?}", observed(case, site)))
    })?;
    if let Some(seen) = &outcome.seen {
        // An attempt that timed out may be over for Envoy before its upstream has read it.
        wait::until(wait::LIMIT, || {
            let counts: Vec<usize> = scene.upstreams.iter().map(Upstream::count).collect();
            let told = || format!("the upstreams saw {counts:?} requests, not {seen:?}\n{}", observed(case, site));
            if counts.iter().zip(seen).any(|(count, seen)| count > seen) {
                return Ok(Err(told()));
            }
            if counts == *seen { Ok(Ok(())) } else { Err(told()) }
        })??;
    }
    if level == Level::Without {
        return Ok(());
    }
    let cluster = case.cluster_name();
    let expected = Tally {
        attempts: outcome.counted(level).to_vec(),
        vetoes: counted_vetoes(if level == Level::Guard { outcome.vetoes.clone() } else { Vec::new() }),
        shadow_vetoes: Vec::new(),
        retries: outcome.retries(case.has_retries(), level),
        // What Envoy answers itself was never on its way to a cluster.
        requests: if outcome.attempts.is_empty() { 0 } else { outcome.requests.len() },
    };
    wait::until(wait::LIMIT, || {
        let mut tally = Tally::read(site.admin, &cluster)?;
        if outcome.attempts.is_empty() {
            tally.requests = 0;
        }
        tally.vetoes = counted_vetoes(tally.vetoes);
        if tally == expected {
            ledger.0.lock().expect("no one panics with the lock held").push(Counted {
                level,
                case: case.name,
                cluster: cluster.clone(),
                tally: Tally::read(site.admin, &cluster)?,
            });
            return Ok(());
        }
        Err(format!("Weir counted   {tally:?},\nbut should have {expected:?}\n{}", observed(case, site)))
    })
}

/// Where calm first attempts pass `guard` by, Envoy itself ends the retries of those that are pushed back, and nobody counts.
fn counted_vetoes(mut vetoes: Vec<String>) -> Vec<String> {
    if bootstrap::is_quiet() {
        vetoes.retain(|reason| reason != "pushback");
    }
    vetoes
}

impl Ledger {
    /// Whether nothing was counted for a case after it had passed, and all Envoys still run.
    pub fn audit(&self, sites: &Sites) -> Vec<String> {
        let mut complaints = Vec::new();
        for site in sites.started() {
            let level = site.level;
            let Ok(mut envoy) = site.envoy.lock() else { continue };
            if !envoy.is_running() {
                complaints.push(format!("{}: Envoy ended before it was told to:\n{}", level.name(), envoy.log_end()));
                continue;
            }
            // Where few trials ran, it is not there yet.
            if let Err(error) = wait::until(wait::LIMIT, || announced(level, &envoy.log())) {
                complaints.push(error);
            }
            for counted in self.0.lock().expect("no one panics with the lock held").iter() {
                if counted.level != level {
                    continue;
                }
                match Tally::read(site.admin, &counted.cluster) {
                    Ok(tally) if tally == counted.tally => {}
                    other => complaints.push(format!(
                        "{}::{}: after the case had passed, its counters went from {:?} to {other:?}",
                        level.name(),
                        counted.case,
                        counted.tally,
                    )),
                }
            }
        }
        complaints
    }
}

/// Whether the log has exactly one line of Weir's, and it names the roles that are attached.
pub fn announced(level: Level, log: &str) -> Result<(), String> {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("[wasm]") && line.contains("weir")).collect();
    let roles = format!("roles {};", level.name().replace('+', ", "));
    match (level, lines.as_slice()) {
        (Level::Without, []) => Ok(()),
        (Level::Decide | Level::Watch | Level::Guard, [line]) if line.contains(&roles) => Ok(()),
        _ => Err(format!("{}: expected one line with {roles:?}, found {lines:#?}", level.name())),
    }
}

/// Whether Envoy's logs show this outcome.
fn logged(case: &Case, site: &Site, outcome: &Outcome) -> bool {
    let with_weir = site.level != Level::Without;
    let attempts = ends(site, "attempts.log", case, false);
    let requests = ends(site, "requests.log", case, with_weir);
    let mut expected = outcome.requests.clone();
    if with_weir {
        // `x-envoy-max-retries: 0` makes Envoy say that retries are exhausted when anything fails.
        expected = expected.iter().map(|end| without_exhausted(end)).collect();
    }
    expected.sort();
    let details = || site.log("requests.log", &case.path()).iter().all(|entry| entry.details.contains(outcome.details));
    attempts == outcome.attempts && requests == expected && (with_weir || details())
}

fn ends(site: &Site, file: &str, case: &Case, strip: bool) -> Vec<String> {
    let entries = site.log(file, &case.path()).into_iter().map(|entry| entry.end);
    let mut ends: Vec<String> = entries.map(|end| if strip { without_exhausted(&end) } else { end }).collect();
    ends.sort();
    ends
}

/// Takes URX from the flags.
fn without_exhausted(end: &str) -> String {
    let Some((flags, code)) = end.split_once('/') else { return end.to_owned() };
    let flags: Vec<&str> = flags.split(',').filter(|flag| *flag != "URX").collect();
    if flags.is_empty() { format!("-/{code}") } else { format!("{}/{code}", flags.join(",")) }
}

/// All that a reader of a failure wants to know.
fn observed(case: &Case, site: &Site) -> String {
    let seen: Vec<usize> = site.upstreams(case.name).iter().map(Upstream::count).collect();
    format!(
        "attempts.log: {:?}\nrequests.log: {:?}\nupstreams saw {seen:?} requests; Weir counted {:?}",
        site.log("attempts.log", &case.path()),
        site.log("requests.log", &case.path()),
        Tally::read(site.admin, &case.cluster_name()),
    )
}
