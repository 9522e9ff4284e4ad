//! What opens no circuit.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::site::{CLUSTER, Load, Mode, PATH, Switch, metric, policy, stage, story};
use crate::alone::Test;
use crate::ejection::replica::{Mode as ReplicaMode, Replica};
use crate::stage::{Setup, Stage};
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

/// Nothing but 503, for longer than an interval.
fn statuses() -> Result<()> {
    let upstream = Switch::new();
    upstream.set(Mode::Fail);
    let stage = stage(Attach::GUARD, policy("400ms"), 1, &upstream)?;
    let load = Load::start(stage.address, 4, Duration::from_millis(4), &Request::get(PATH));
    std::thread::sleep(LONG);
    let outcome = load.stop()?;
    ensure!(outcome.sent > 200 && outcome.shed == 0, "{outcome:?}");
    stage.wait_for("attempts", |stage| match metric(stage, "attempts_total.signal.error") {
        errors if errors == outcome.sent => Ok(()),
        errors => Err(format!("{errors} errors counted, {outcome:?}")),
    })?;
    never_opened(&stage)
}

/// Every request is reset, but there are fewer than `minRequests` in any interval.
fn low_traffic() -> Result<()> {
    let upstream = Switch::new();
    upstream.set(Mode::Reset);
    let stage = stage(Attach::WATCH, policy("400ms"), 2, &upstream)?;
    let (began, mut sent) = (Instant::now(), 0);
    while began.elapsed() < 2 * LONG {
        let response = stage.get(PATH)?;
        ensure!(response.header("x-envoy-ratelimited").is_none(), "{response:?}");
        sent += 1;
        // At most 19 in two seconds.
        std::thread::sleep(Duration::from_millis(107));
    }
    ensure!(metric(&stage, "attempts_total.signal.reset") >= 25, "{sent} sent");
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
        "circuitBreaker": {"minRequests": 20, "interval": "5s", "openTime": "400ms"},
    });
    let cluster = endpoints(&replicas);
    let setup = Setup::new(attach, policy).workers(1);
    let stage = setup.cluster_with(CLUSTER, replicas[0].address, &cluster, &Value::Null).start()?;
    replicas[0].set(ReplicaMode::Reset);
    let load = Load::start(stage.address, 8, Duration::from_millis(2), &Request::post(PATH));
    std::thread::sleep(LONG);
    let outcome = load.stop()?;
    // More than 90 percent broke off.
    ensure!(outcome.answered > 0 && outcome.answered * 12 < outcome.sent, "{outcome:?}");
    never_opened(&stage)
}
