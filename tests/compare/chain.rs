//! Proxies one behind the other, each of which retries: how often is the last one's upstream asked for one request?

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep};

use super::attempts::{self, End};
use super::finding::{self, Finding};
use super::host::{Application, Host, Reset};
use super::load::Load;
use super::policy::{self, Policy};
use super::proxy::Proxy;
use super::support::wait;

const WORKERS: u32 = 2;
const RATE: u64 = 50;
const SECONDS: u64 = 4;

/// What Istio and Weir allow by default.
const MAX_RETRIES: u64 = 2;

/// Each is a cluster in every proxy, so that no case meets the budget of another.
const CASES: [Case; 4] = [
    Case { cluster: "two_refused", hops: 2, leaf: Leaf::Refuses },
    Case { cluster: "two_error", hops: 2, leaf: Leaf::Fails },
    Case { cluster: "three_refused", hops: 3, leaf: Leaf::Refuses },
    Case { cluster: "three_error", hops: 3, leaf: Leaf::Fails },
];
const LONGEST: usize = 3;

#[derive(Clone, Copy, Debug)]
struct Case {
    cluster: &'static str,
    hops: usize,
    leaf: Leaf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaf {
    Refuses,
    Fails,
}

/// Answers 503.
struct Service;

impl Application for Service {
    async fn answer(&self, _: u64, _: u64) -> Result<StatusCode, Reset> {
        Ok(StatusCode::SERVICE_UNAVAILABLE)
    }
}

/// Attempts at the leaf.
#[derive(Clone, Copy, Debug)]
struct Counts {
    /// For a request that comes alone, after a calm.
    one: u64,
    /// For those that follow, one after the other.
    more: u64,
    requests: u64,
}

impl Counts {
    fn per_request(self) -> f64 {
        self.more as f64 / self.requests as f64
    }
}

pub fn run(runtime: &Runtime) -> Result<Finding> {
    let (mut rows, mut numbers, mut broken, mut unsent) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (policy, counts) in runtime.block_on(everyone())? {
        for (case, counts) in CASES.iter().zip(&counts) {
            unsent.extend(finding::unsent(policy, RATE * SECONDS, counts.requests));
            if policy.is_weir() {
                broken.extend(
                    promise(policy, *counts).map(|reason| format!("{}: {}: {reason}", policy.name(), case.cluster)),
                );
            }
        }
        let cells = counts.iter().flat_map(|counts| [counts.one.to_string(), format!("{:.2}", counts.per_request())]);
        rows.push((policy, cells.collect()));
        let cases = CASES.iter().zip(&counts).map(|(case, counts)| {
            json!({"case": case.cluster, "ofOneRequest": counts.one, "perRequest": counts.per_request()})
        });
        numbers.push(json!({"policy": policy.name().trim(), "attemptsAtTheLeaf": cases.collect::<Vec<_>>()}));
    }
    let mut notes = vec![format!(
        "  Weir promises: the hop before the leaf alone retries, at most {MAX_RETRIES} times, and together within its budget."
    )];
    notes.extend(unsent);
    Ok(Finding {
        title: "Chain: attempts at the last upstream for one request of a client",
        setting: format!(
            "Two or three Envoys one behind the other, all of them with the policy; the last one's upstream refuses connections,\n\
             or answers 503. one: of a single request; load: of each of {} GETs, {RATE} a second.",
            RATE * SECONDS,
        ),
        columns: vec![
            "2, refused: one",
            "load",
            "2, 503: one",
            "load",
            "3, refused: one",
            "load",
            "3, 503: one",
            "load",
        ],
        rows,
        notes,
        broken,
        numbers: Value::Array(numbers),
    })
}

fn promise(policy: Policy, counts: Counts) -> Option<String> {
    if counts.one > 1 + MAX_RETRIES {
        return Some(format!("{} attempts for one request", counts.one));
    }
    // In any second the share of its requests, or the floor; and the requests touch one second more than they take.
    let of_second = (RATE * policy::WEIR_PERCENT / 100).max(policy::WEIR_FLOOR_PER_SECOND);
    // Without `guard`, each worker's part of the floor is rounded up.
    let of_second = if policy == Policy::Decide { of_second + u64::from(WORKERS) - 1 } else { of_second };
    let most = counts.requests + (SECONDS + 1) * of_second;
    (counts.more > most).then(|| format!("{} attempts for {} requests, not {most}", counts.more, counts.requests))
}

/// All policies at once.
async fn everyone() -> Result<Vec<(Policy, Vec<Counts>)>> {
    let mut trials = Vec::new();
    for policy in Policy::RETRIES {
        trials.push((policy, prepare(policy).await?));
    }
    let trials: Vec<_> = trials.into_iter().map(|(policy, chain)| (policy, tokio::spawn(trial(chain)))).collect();
    let mut done = Vec::new();
    for (policy, trial) in trials {
        done.push((policy, trial.await??));
    }
    Ok(done)
}

struct Chain {
    /// The first one first.
    hops: Vec<Arc<Proxy>>,
    _leaf: Host<Service>,
    _down: Host<Service>,
}

async fn prepare(policy: Policy) -> Result<Chain> {
    let (mut leaf, down) = (Host::new(&Arc::new(Service)), Host::new(&Arc::new(Service)));
    leaf.open().await?;
    let mut hops: Vec<Arc<Proxy>> = Vec::new();
    for _ in 0..LONGEST {
        let next = hops.first().map(|hop| hop.listener);
        let address = |case: &Case| match case.leaf {
            Leaf::Refuses => down.address,
            Leaf::Fails => leaf.address,
        };
        let clusters: Vec<_> =
            CASES.iter().map(|case| (case.cluster.to_owned(), vec![next.unwrap_or_else(|| address(case))])).collect();
        let proxy =
            tokio::task::spawn_blocking(move || Proxy::start(policy, WORKERS, &clusters, &json!({"timeout": "30s"})));
        hops.insert(0, Arc::new(proxy.await??));
    }
    Ok(Chain { hops, _leaf: leaf, _down: down })
}

async fn trial(chain: Chain) -> Result<Vec<Counts>> {
    let mut counts = Vec::new();
    for case in CASES {
        let entry = chain.hops.get(LONGEST - case.hops).context("a chain has hops")?;
        let last = chain.hops.last().context("a chain has hops")?;
        let load = |rate: u64, count: u64| Load {
            target: entry.listener,
            cluster: case.cluster,
            method: Method::GET,
            rate,
            count,
            patience: Duration::from_secs(60),
        };
        load(1, 1).run(Instant::now()).await;
        let one = leaf_attempts(last, case.cluster).await?;
        // Every budget is as before.
        sleep(Duration::from_secs(2)).await;
        let outcomes = load(RATE, RATE * SECONDS).run(Instant::now()).await;
        let all = leaf_attempts(last, case.cluster).await?;
        let requests = outcomes.iter().filter(|outcome| outcome.status.is_some()).count() as u64;
        counts.push(Counts { one, more: all - one, requests });
    }
    Ok(counts)
}

/// The attempts that Envoy logged. Those that were stopped before they were sent are not among them.
async fn leaf_attempts(last: &Arc<Proxy>, cluster: &'static str) -> Result<u64> {
    let last = Arc::clone(last);
    let logged = tokio::task::spawn_blocking(move || {
        let stat = |name: &str| -> Result<u64> {
            let name = format!("cluster.{cluster}.{name}");
            Ok(last.envoy.admin.stats(&format!("^{name}$"))?.get(&name).copied().unwrap_or(0))
        };
        // All are answered, so Envoy counts no more; but its log is written with a delay.
        let made = stat("upstream_rq_total")? + stat("upstream_rq_pending_failure_eject")?;
        wait::until(wait::LIMIT, || {
            let attempts = attempts::read(&last.log(), cluster).map_err(|error| format!("{error:#}"))?;
            if (attempts.len() as u64) < made {
                return Err(format!("{} of {made} attempts are logged", attempts.len()));
            }
            Ok(attempts.iter().filter(|attempt| attempt.end != End::Vetoed).count() as u64)
        })
        .map_err(anyhow::Error::msg)
    });
    logged.await?
}
