//! What opens no circuit.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::site::{CLUSTER, Load, Mode, PATH, Switch, metric, policy, stage, story};
use crate::alone::Test;
use crate::ejection::replica::{Mode as ReplicaMode, Replica};
use crate::stage::{Setup, Stage, times};
use crate::support::bootstrap::{self, Attach};
use crate::support::client::Request;

pub const TESTS: &[Test] = &[
    ("breaker::closed::statuses", statuses),
    ("breaker::closed::low_traffic", low_traffic),
    ("breaker::closed::decide::one_dead_host", || one_dead_host(Attach::DECIDE)),
    ("breaker::closed::guard::one_dead_host", || one_dead_host(Attach::GUARD)),
];

/// Longer than an interval, and the time in which workers hear of each other.
const LONG: Duration = Duration::from_millis(2_600);

fn never_opened(stage: &Stage) -> Result<()> {
    let opened = metric(stage, "circuit_opened_total");
    ensure!(opened == 0 && metric(stage, "shed_total") == 0, "{}", story(stage));
    Ok(())
}

/// Waits until so many attempts ended so, and so much time is over.
fn wait_for_many(stage: &Stage, signal: &str, least: u64, time: Duration) -> Result<()> {
    let began = Instant::now();
    stage.wait_for("attempts", |stage| match metric(stage, &format!("attempts_total.signal.{signal}")) {
        found if found < least => Err(format!("{found} of {least} are {signal}")),
        _ if began.elapsed() < time => Err(format!("{time:?} are not over")),
        _ => Ok(()),
    })
}

/// Nothing but 503, for longer than an interval.
fn statuses() -> Result<()> {
    let upstream = Switch::new();
    upstream.set(Mode::Fail);
    let stage = stage(Attach::GUARD, policy("400ms"), 1, &upstream)?;
    let load = Load::start(stage.address, 4, Duration::from_millis(4), &Request::get(PATH));
    let many = wait_for_many(&stage, "error", 200, LONG);
    let outcome = load.stop()?;
    many?;
    ensure!(outcome.shed == 0, "{outcome:?}");
    let what = format!("{} errors", outcome.sent);
    stage.wait_tally(CLUSTER, &what, |tally| times(&tally.attempts, "error") as u64 == outcome.sent)?;
    never_opened(&stage)
}

/// Every request is reset, but there are fewer than `minRequests` in any interval.
fn low_traffic() -> Result<()> {
    let upstream = Switch::new();
    upstream.set(Mode::Reset);
    let stage = stage(Attach::WATCH, policy("400ms"), 2, &upstream)?;
    // At most 15 in two seconds, and so few more where one of them is counted late that it makes no 20.
    for _ in 0..40 {
        let response = stage.get(PATH)?;
        ensure!(response.header("x-envoy-ratelimited").is_none(), "{response:?}");
        std::thread::sleep(Duration::from_millis(140));
    }
    wait_for_many(&stage, "reset", 40, LONG)?;
    never_opened(&stage)
}

/// Of two hosts one resets every request, and gets nearly all of them, since it is always idle; nothing leads away from
/// it. The other one answers, so the cluster is not down.
fn one_dead_host(attach: Attach) -> Result<()> {
    let replicas = [Replica::new()?, Replica::new()?];
    let endpoints = |replicas: &[Replica; 2]| -> Value {
        let hosts = replicas.iter().zip([15, 1]).map(|(replica, weight)| {
            json!({"endpoint": {"address": bootstrap::address(replica.address)}, "load_balancing_weight": weight})
        });
        json!({"load_assignment": {"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": hosts.collect::<Vec<_>>()}]}})
    };
    let policy = json!({
        "retry": {"maxRetries": 0},
        "circuitBreaker": {"minRequests": 20, "interval": "20s", "openTime": "400ms"},
    });
    let cluster = endpoints(&replicas);
    let setup = Setup::new(attach, policy).workers(1);
    let stage = setup.cluster_with(CLUSTER, replicas[0].address, &cluster, &Value::Null).start()?;
    replicas[0].set(ReplicaMode::Reset);
    let load = Load::start(stage.address, 8, Duration::from_millis(2), &Request::post(PATH));
    // A tenth of the interval, which must be over, and twice as long: while a machine stands still, no host answers.
    let many = wait_for_many(&stage, "reset", 400, Duration::from_millis(4_500));
    let outcome = load.stop()?;
    many?;
    // More than 90 percent broke off.
    ensure!(outcome.answered > 0 && outcome.answered * 12 < outcome.sent, "{outcome:?}");
    never_opened(&stage)
}
