//! With `guard`, the retries of all workers together are what the budget says, to the last one.
//!
//! Requests are answered, then as many fail at the same time, on all workers, each asking for one retry. A worker's
//! requests are in the shared record once it has asked for its first retry, and each asks for more of them than the budget
//! has left then. So the numbers are exact, whichever worker comes first.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{obedient, retries, share};
use crate::alone::Test;
use crate::check::Tally;
use crate::stage::{Setup, Stage, counts, summary, times};
use crate::support::bootstrap::Attach;
use crate::support::client::Request;
use crate::support::upstream::Upstream;

pub const TESTS: &[Test] = &[("budget::exact_without_watch", without_watch), ("budget::fresh_worker", fresh_worker)];

/// Those of which one budget is over ten seconds.
pub const TIMED: &[Test] = &[("budget::exact_2_workers", || exact(2)), ("budget::exact_4_workers", || exact(4))];

const ANSWERED: usize = 80;
const FAILING: usize = 120;

/// A budget, and the retries that it has for all requests together.
struct Budget {
    name: &'static str,
    retry: Value,
    retries: usize,
    /// Whether that is a share of the requests.
    percent: bool,
    /// More that it has for each further second.
    per_second: usize,
}

fn budgets() -> Vec<Budget> {
    let budget = |name, retry, retries| Budget { name, retry, retries, percent: name != "floor", per_second: 0 };
    vec![
        budget("share", share(20.0, 0), 40),
        // 199 requests would pay for one retry less.
        budget("odd", share(37.5, 0), 75),
        budget("floor", share(0.0, 25), 25),
        // The share counts what the floor granted, so the larger of the two holds, not their sum.
        budget("both", share(20.0, 25), 40),
        // 20 percent of 10 seconds, and 10 per second.
        Budget { per_second: 10, ..budget("default", json!({"maxRetries": 1}), 40) },
    ]
}

#[derive(Clone, Copy)]
enum Failure {
    Reset,
    Refused,
    Error,
}

fn exact(workers: u32) -> Result<()> {
    let failures = [("reset", Failure::Reset), ("refused", Failure::Refused), ("503", Failure::Error)];
    let budgets = budgets();
    let overrides: Vec<Value> =
        budgets.iter().map(|budget| json!({"match": format!("{}-*", budget.name), "retry": budget.retry})).collect();
    let mut setup = Setup::new(Attach::GUARD, json!({"clusters": overrides})).workers(workers);
    let mut scenes = Vec::new();
    for budget in &budgets {
        for (failure, kind) in failures {
            let (cluster, upstream) = (format!("{}-{failure}", budget.name), obedient());
            setup = setup.cluster(&cluster, upstream.address);
            scenes.push((cluster, budget, kind, upstream));
        }
    }
    let stage = setup.start()?;
    for (cluster, budget, kind, upstream) in scenes {
        let seen = run(&stage, &cluster, budget, kind, upstream, workers);
        seen.with_context(|| format!("{cluster} with {workers} workers"))?;
    }
    for worker in 0..workers {
        let name = format!("listener.127.0.0.1_{}.worker_{worker}.downstream_cx_total", stage.address.port());
        ensure!(stage.stat(&name) > 0, "worker {worker} had nothing to do");
    }
    Ok(())
}

/// `guard` needs no `watch` for it.
fn without_watch() -> Result<()> {
    let upstream = obedient();
    let attach = Attach { watch: false, ..Attach::GUARD };
    let setup = Setup::new(attach, json!({"retry": share(20.0, 0)}));
    let stage = setup.cluster("orders", upstream.address).start()?;
    let mut client = stage.connect()?;
    for (wish, requests) in [("ok", 50), ("once-503", 50), ("ok", 50), ("once-reset", 50)] {
        for _ in 0..requests {
            client.exchange(&Request::get(&format!("/orders/{wish}")))?;
        }
    }
    ensure!(retries(&upstream) == 40, "{} retries of 200 requests", retries(&upstream));
    stage.wait_tally("orders", "40 granted, 60 denied", |tally| {
        times(&tally.retries, "granted") == 40 && times(&tally.retries, "denied") == 60
    })?;
    Ok(())
}

/// What a worker knows by itself is not what there is: one that has seen no request yet can spend what the others' requests
/// pay for.
fn fresh_worker() -> Result<()> {
    for wish in ["once-503", "once-reset"] {
        let upstream = obedient();
        let setup = Setup::new(Attach::GUARD, json!({"retry": share(20.0, 0)})).workers(2);
        let stage = setup.cluster("orders", upstream.address).start()?;
        // Connections go to the worker that has the fewest.
        let (mut one, mut other) = (stage.connect()?, stage.connect()?);
        for _ in 0..ANSWERED {
            one.exchange(&Request::get("/orders/ok"))?;
        }
        let failing = Request::get(&format!("/orders/{wish}"));
        // With its first retry, a worker tells of its requests.
        one.exchange(&failing)?;
        ensure!(retries(&upstream) == 1, "{wish}: the first worker retried {} times", retries(&upstream));
        for count in 1..=5 {
            let response = other.exchange(&failing)?;
            ensure!(retries(&upstream) == 1 + count, "{wish}: failure {count} was not retried: {response:?}");
        }
        stage.wait_tally("orders", "six granted", |tally| tally.retries == vec!["granted"; 6])?;
    }
    Ok(())
}

fn run(
    stage: &Stage,
    cluster: &str,
    budget: &Budget,
    failure: Failure,
    upstream: Upstream,
    workers: u32,
) -> Result<()> {
    // Connections are dealt out by how many each worker has, and those of before may still be closing.
    let open = format!("listener.127.0.0.1_{}.downstream_cx_active", stage.address.port());
    stage.wait_for("the clients before are gone", |stage| match stage.stat(&open) {
        0 => Ok(()),
        count => Err(format!("{count} are left")),
    })?;
    let mut clients = Vec::new();
    for _ in 0..FAILING {
        clients.push(stage.connect()?);
    }
    for client in clients.iter_mut().take(ANSWERED) {
        let response = client.exchange(&Request::get(&format!("/{cluster}/ok")))?;
        ensure!(response.status == 200, "{response:?}");
    }
    ensure!(upstream.count() == ANSWERED, "the upstream saw {} requests", upstream.count());

    let path = format!(
        "/{cluster}/{}",
        match failure {
            Failure::Reset => "held-reset",
            Failure::Refused => "refused",
            Failure::Error => "held-503",
        }
    );
    let mut upstream = Some(upstream);
    if let Failure::Refused = failure {
        upstream = None;
        stage.wait_for("the connections are gone", |stage| {
            match stage.stat(&format!("cluster.{cluster}.upstream_cx_active")) {
                0 => Ok(()),
                count => Err(format!("{count} are left")),
            }
        })?;
    }
    let begin = Instant::now();
    for client in &mut clients {
        client.send(&Request::get(&path))?;
    }
    if let Some(upstream) = &upstream {
        upstream.wait_for(ANSWERED + FAILING).map_err(anyhow::Error::msg)?;
        (0..FAILING).for_each(|_| upstream.open_gate());
        // All are decided before the first retry fails: from then on it is an outage, and the floor is lowered.
        stage.wait_for("all are decided", |stage| {
            let tally = Tally::read(stage.envoy().admin, cluster)?;
            match times(&tally.retries, "granted") + times(&tally.retries, "denied") {
                FAILING => Ok(()),
                count => Err(format!("{count} are")),
            }
        })?;
        (0..FAILING).for_each(|_| upstream.open_later_gate());
    }
    let mut responses = Vec::new();
    for client in &mut clients {
        let mut response = client.read_head()?;
        client.read_body(&mut response)?;
        ensure!(response.status == 503, "{response:?}");
        responses.push(response);
    }

    // Nobody above shall retry what was retried in vain, nor what nobody could pay for. Only the log tells them apart.
    for response in &responses {
        ensure!(response.header("x-envoy-ratelimited").is_some(), "{response:?}");
    }
    let logged = stage.requests(&path, FAILING)?;
    let denied = logged.iter().filter(|request| request.verdict == "retry_budget_exhausted").count();
    let granted = FAILING - denied;
    let later = if begin.elapsed() < Duration::from_secs(1) { 0 } else { begin.elapsed().as_secs() as usize };
    // Until eight attempts in a row were not taken, some other host might answer, and retries of these are free.
    let free = if let Failure::Refused = failure { 9 * workers as usize } else { 0 };
    let most = budget.retries + later * budget.per_second + free;
    // They are all under way when they fail, but for those that are refused at once: those pay from their own second, and retries
    // of some are in vain before others are granted, so that the floor is lowered.
    let least = match failure {
        Failure::Refused if budget.percent => budget.retries * FAILING / (ANSWERED + FAILING),
        Failure::Refused => 1,
        Failure::Reset | Failure::Error => budget.retries,
    };
    ensure!((least..=most).contains(&granted), "{granted} retries were granted, not {least} to {most}");
    if let Some(upstream) = &upstream {
        let retries = retries(upstream);
        ensure!(retries == granted, "{retries} retries reached the upstream, {granted} were granted");
    }
    let (signal, end) = match failure {
        Failure::Reset => ("reset", "UC/-"),
        Failure::Refused => ("refused", "UF/-"),
        Failure::Error => ("error", "-/503"),
    };
    // An answer that is not retried ends the request. Else the retry ends before it is sent, unless it was known when the
    // request arrived that there would be none.
    let sent = FAILING + granted;
    stage.wait_for("what is logged and counted", |stage| {
        let ends: Vec<String> = stage.attempts(&path).into_iter().map(|entry| entry.end).collect();
        let stopped = times(&ends, "-/-");
        let tally = Tally::read(stage.envoy().admin, cluster)?;
        let whole = times(&ends, end) == sent
            && ends.len() == sent + stopped
            && stopped <= denied
            && tally.requests == ANSWERED + FAILING
            && times(&tally.attempts, signal) == sent
            && times(&tally.attempts, "local") == stopped
            && times(&tally.attempts, "answered") == ANSWERED
            && tally.attempts.len() == ANSWERED + sent + stopped
            && times(&tally.retries, "granted") == granted
            && times(&tally.retries, "denied") == denied
            && tally.vetoes.is_empty();
        if whole {
            return Ok(());
        }
        let (ends, tally) = (summary(&ends), counts(&tally));
        Err(format!("{sent} {end}, {granted} granted and {denied} denied, but logged {ends}, and counted {tally}"))
    })?;
    Ok(())
}
