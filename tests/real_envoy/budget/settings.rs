//! Budgets differ by cluster, change while Envoy runs, and are refused where they make no sense.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{obedient, retries, share};
use crate::alone::Test;
use crate::stage::{Setup, Stage};
use crate::support::bootstrap::Attach;
use crate::support::client::Request;
use crate::support::upstream::Upstream;

pub const TESTS: &[Test] = &[
    ("budget::overrides", overrides),
    ("budget::update_keeps_counts", update_keeps_counts),
    ("budget::update_interval_keeps_counts", update_interval_keeps_counts),
    ("budget::refused_settings", refused_settings),
];

/// Requests to a cluster, one after another.
pub fn send(stage: &Stage, cluster: &str, wish: &str, times: usize) -> Result<()> {
    let mut client = stage.connect()?;
    for _ in 0..times {
        let response = client.exchange(&Request::get(&format!("/{cluster}/{wish}")))?;
        let statuses: &[u16] = if wish == "ok" { &[200] } else { &[200, 503] };
        ensure!(statuses.contains(&response.status), "{response:?}");
    }
    Ok(())
}

/// How many retries failing requests got, which were answered.
pub fn fail(stage: &Stage, cluster: &str, upstream: &Upstream, times: usize) -> Result<usize> {
    let before = retries(upstream);
    send(stage, cluster, "once-503", times)?;
    Ok(retries(upstream) - before)
}

/// The first pattern that matches; budgets of clusters do not mix, whether or not they have the same policy.
fn overrides() -> Result<()> {
    let clusters = [("orders-slow", 2), ("orders-fast", 5), ("orders-new", 5), ("stock", 7), ("free", 20)];
    let mut setup = Setup::new(
        Attach::GUARD,
        json!({
            "retry": share(0.0, 7),
            "clusters": [
                {"match": "*-slow", "retry": {"minRetryRate": {"count": 2, "interval": "1h"}}},
                {"match": "orders-*", "retry": {"minRetryRate": {"count": 5, "interval": "1h"}}},
                {"match": "orders-new", "retry": null},
                {"match": "free", "retry": {"budget": null}},
            ],
        }),
    );
    let mut upstreams = Vec::new();
    for (cluster, _) in clusters {
        let upstream = obedient();
        setup = setup.cluster(cluster, upstream.address);
        upstreams.push(upstream);
    }
    let stage = setup.start()?;
    for ((cluster, expected), upstream) in clusters.iter().zip(&upstreams) {
        let retries = fail(&stage, cluster, upstream, 20)?;
        ensure!(retries == *expected, "{cluster}: {retries} retries, not {expected}");
    }
    Ok(())
}

/// Another percentage, of the same requests, less the same retries.
fn update_keeps_counts() -> Result<()> {
    let upstream = obedient();
    let mut stage =
        Setup::new(Attach::GUARD, json!({"retry": share(20.0, 0)})).cluster("orders", upstream.address).start()?;
    send(&stage, "orders", "ok", 60)?;
    let mut requests = 60;
    let mut spent = 0;
    // The share of all requests so far, of which some is spent already.
    for (percent, failing) in [(20, 40), (30, 40), (10, 20), (50, 160), (0, 10), (100, 90)] {
        stage.update_policy(json!({"retry": share(f64::from(percent), 0)}))?;
        let retries = fail(&stage, "orders", &upstream, failing)?;
        requests += failing;
        let share = requests * percent as usize / 100;
        let expected = share.saturating_sub(spent).min(failing);
        ensure!(retries == expected, "{retries} retries at {percent} percent of {requests}, not {expected}");
        spent += retries;
    }
    Ok(())
}

/// Another interval. In a longer one, all counts are still there; how a shorter one rounds, the budget's own tests say.
fn update_interval_keeps_counts() -> Result<()> {
    let upstream = obedient();
    let policy = |interval: &str| {
        json!({"retry": {
            "maxRetries": 1,
            "budget": {"percent": 20, "interval": interval},
            "minRetryRate": {"count": 0, "interval": "1s"},
        }})
    };
    let mut stage = Setup::new(Attach::GUARD, policy("10m")).cluster("orders", upstream.address).start()?;
    send(&stage, "orders", "ok", 50)?;
    let retries = fail(&stage, "orders", &upstream, 50)?;
    ensure!(retries == 20, "{retries} retries of 100 requests");
    stage.update_policy(policy("1h"))?;
    let retries = fail(&stage, "orders", &upstream, 50)?;
    ensure!(retries == 10, "{retries} retries more of 150 requests, not 10");
    Ok(())
}

/// Envoy goes on with what it has, and its log names field, range and value.
fn refused_settings() -> Result<()> {
    let upstream = obedient();
    let retry = share(0.0, 3);
    let mut stage = Setup::new(Attach::GUARD, json!({"retry": retry})).cluster("orders", upstream.address).start()?;
    let settings: [(Value, &[&str]); 9] = [
        (json!({"budget": {"percent": 101}}), &["retry.budget.percent", "101", "from 0 to 100"]),
        (json!({"budget": {"percent": -1}}), &["retry.budget.percent", "-1", "from 0 to 100"]),
        (json!({"budget": {"percent": 0.001}}), &["retry.budget.percent", "0.001"]),
        (json!({"budget": {"interval": "999ms"}}), &["retry.budget.interval", "999ms", "1s"]),
        (json!({"budget": {"interval": "1h1s"}}), &["retry.budget.interval", "1h1s", "1h"]),
        (json!({"minRetryRate": {"count": 5}}), &["retry.minRetryRate.interval"]),
        (json!({"minRetryRate": {"interval": "1s"}}), &["retry.minRetryRate.count"]),
        (json!({"minRetryRate": {"count": 5, "interval": "20s"}}), &["retry", "20s", "budget.interval (10s)"]),
        (json!({"budget": {"percent": 20, "intervall": "10s"}}), &["retry.budget.intervall", "interval"]),
    ];
    for (retry, parts) in settings {
        let log = stage.mistaken_policy(json!({"retry": retry}))?;
        let told = |line: &&str| line.contains("weir") && parts.iter().all(|part| line.contains(part));
        let line = log.lines().find(told);
        ensure!(line.is_some(), "{retry}: no line of Envoy's log holds {parts:?}:\n{log}");
    }
    let retries = fail(&stage, "orders", &upstream, 5)?;
    ensure!(retries == 3, "{retries} retries after all this, not 3");
    Ok(())
}
