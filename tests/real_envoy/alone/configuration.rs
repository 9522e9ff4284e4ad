//! Envoy refuses a configuration that is wrong, and its log says where, what, and what would be right.

use anyhow::{bail, ensure};
use serde_json::{Value, json};

use super::{Simple, Test};
use crate::support::bootstrap::Attach;
use crate::support::client::{Request, exchange};
use crate::support::upstream::{answer, http1};

pub const TESTS: &[Test] = &[
    ("configuration::out_of_range", || {
        refused(&json!({"retry": {"maxRetries": 11}}), &["retry.maxRetries", "11", "from 0 to 10"])
    }),
    ("configuration::unknown_field", || {
        refused(&json!({"retry": {"maxRetrys": 1}}), &["retry.maxRetrys", "unknown field", "maxRetries"])
    }),
    ("configuration::wrong_type_in_a_cluster", || {
        let policy = json!({"clusters": [{"match": "*", "retry": {"budget": {"percent": "20"}}}]});
        refused(&policy, &["clusters[0].retry.budget.percent", "\"20\"", "from 0 to 100"])
    }),
    ("configuration::no_json", || refused(&json!("retry: {}"), &["configuration"])),
    ("configuration::defaults", || {
        let upstream = http1(|_| answer(200, &[], ""));
        let simple = Simple::start(Attach::GUARD, &Value::Null, &upstream)?;
        let response = exchange(simple.address, &Request::get("/"))?;
        ensure!(response.status == 200, "{response:?}");
        Ok(())
    }),
];

/// Envoy does not start with it, and one line of its log holds all of `parts`.
fn refused(policy: &Value, parts: &[&str]) -> anyhow::Result<()> {
    let upstream = http1(|_| answer(200, &[], ""));
    let Err(error) = Simple::start(Attach::DECIDE, policy, &upstream) else { bail!("Envoy took {policy}") };
    let log = format!("{error:#}");
    let told = log.lines().any(|line| line.contains("weir") && parts.iter().all(|part| line.contains(part)));
    ensure!(told, "no line of Envoy's log holds {parts:?}:\n{log}");
    Ok(())
}
