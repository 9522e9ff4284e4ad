//! A configuration that is wrong takes no service down: requests pass, and Envoy's log says where, what, and what would be right.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{Simple, Test};
use crate::support::bootstrap::Attach;
use crate::support::client::{Request, exchange};
use crate::support::upstream::{answer, http1};

pub const TESTS: &[Test] = &[
    ("configuration::out_of_range", || {
        passes(&json!({"retry": {"maxRetries": 11}}), &["retry.maxRetries", "11", "from 0 to 10"])
    }),
    ("configuration::unknown_field", || {
        passes(&json!({"retry": {"maxRetrys": 1}}), &["retry.maxRetrys", "unknown field", "maxRetries"])
    }),
    ("configuration::wrong_type_in_a_cluster", || {
        let policy = json!({"clusters": [{"match": "*", "retry": {"budget": {"percent": "20"}}}]});
        passes(&policy, &["clusters[0].retry.budget.percent", "\"20\"", "from 0 to 100"])
    }),
    ("configuration::no_json", || passes(&json!("retry: {}"), &["configuration"])),
    ("configuration::defaults", || {
        let upstream = http1(|_| answer(200, &[], ""));
        let simple = Simple::start(Attach::GUARD, &Value::Null, &upstream)?;
        let response = exchange(simple.address, &Request::get("/"))?;
        ensure!(response.status == 200, "{response:?}");
        Ok(())
    }),
];

/// Requests pass, with all roles attached; one line of Envoy's log holds all of `parts`, and a metric says so, too.
fn passes(policy: &Value, parts: &[&str]) -> anyhow::Result<()> {
    let upstream = http1(|_| answer(200, &[], ""));
    let simple = Simple::start(Attach::GUARD, policy, &upstream)?;
    for request in [Request::get("/"), Request::post("/")] {
        let response = exchange(simple.address, &request)?;
        ensure!(response.status == 200, "{response:?}");
    }
    let log = simple.envoy.log();
    let told = log.lines().any(|line| line.contains("weir") && parts.iter().all(|part| line.contains(part)));
    ensure!(told, "no line of Envoy's log holds {parts:?}:\n{log}");
    let refused = simple.envoy.admin.stats("weir_configuration_refused")?;
    ensure!(refused.values().eq([&1]), "{refused:?}");
    Ok(())
}
