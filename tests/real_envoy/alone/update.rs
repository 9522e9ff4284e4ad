//! Policies that change while Envoy runs, through a file that it watches for listeners.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Test;
use crate::check::Tally;
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::{Request, exchange};
use crate::support::envoy::{Envoy, Launch};
use crate::support::upstream::{Upstream, answer, http1};
use crate::support::{ports, wait};

pub const TESTS: &[Test] = &[("update::newest_policy_wins", newest_policy_wins)];

/// An Envoy whose one listener can be replaced.
struct Site {
    envoy: Envoy,
    address: SocketAddr,
    directory: TempDir,
    /// Behind the clusters `plenty` and `scarce`. Both always fail.
    plenty: Upstream,
    scarce: Upstream,
}

impl Site {
    fn start(policy: &Value) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("weir-lds-").tempdir()?;
        let (plenty, scarce) = (http1(|_| answer(503, &[], "")), http1(|_| answer(503, &[], "")));
        let address = ports::free();
        publish(&directory, address.port(), policy)?;
        let mut config = bootstrap::bootstrap(
            &[],
            &[bootstrap::cluster("plenty", &[plenty.address]), bootstrap::cluster("scarce", &[scarce.address])],
        );
        config["node"] = json!({"id": "test", "cluster": "test"});
        config["dynamic_resources"] = json!({"lds_config": bootstrap::watched(directory.path(), "listeners.json")});
        let envoy = Launch::json(config).concurrency(2).start()?;
        Ok(Self { envoy, address, directory, plenty, scarce })
    }

    fn update(&self, policy: &Value) -> anyhow::Result<()> {
        publish(&self.directory, self.address.port(), policy)
    }

    /// How often a request to the cluster reaches its upstream.
    fn attempts(&self, cluster: &str) -> Result<usize, String> {
        let upstream = if cluster == "plenty" { &self.plenty } else { &self.scarce };
        let before = upstream.count();
        let path = format!("/{cluster}");
        let response = exchange(self.address, &Request::get(&path)).map_err(|error| format!("{error:#}"))?;
        if response.status == 503 { Ok(upstream.count() - before) } else { Err(format!("{response:?}")) }
    }

    /// Waits until a policy is in force that makes so many attempts.
    fn wait_for(&self, attempts: usize) -> anyhow::Result<usize> {
        let mut requests = 0;
        let changed = wait::until(wait::LIMIT, || {
            // Between two listeners nobody may listen for a moment.
            let seen = self.attempts("plenty")?;
            requests += 1;
            if seen == attempts { Ok(()) } else { Err(format!("a request makes {seen} attempts, not {attempts}")) }
        });
        changed.map_err(|error| anyhow::anyhow!("{error}\n{}", self.envoy.log_end()))?;
        Ok(requests)
    }
}

/// Writes the listener for Envoy to find, all at once.
fn publish(directory: &TempDir, port: u16, policy: &Value) -> anyhow::Result<()> {
    let mut listener = bootstrap::listener(Listener {
        name: "updated",
        port,
        attach: Attach::GUARD,
        policy,
        routes: vec![bootstrap::route("/plenty", "plenty"), bootstrap::route("/scarce", "scarce")],
        logs: None,
        manager: Value::Null,
    });
    listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
    let text = json!({"resources": [listener]}).to_string();
    let (draft, path) = (directory.path().join("draft"), directory.path().join("listeners.json"));
    std::fs::write(&draft, text)?;
    std::fs::rename(&draft, &path).context("replacing the listener")
}

fn policy(max_retries: u32) -> Value {
    json!({
        "retry": {"maxRetries": max_retries},
        "clusters": [
            // Four retries an hour.
            {"match": "scarce", "retry": {
                "budget": {"percent": 0, "interval": "1h"}, "minRetryRate": {"count": 4, "interval": "1h"},
            }},
            // As many as it takes; as long as all fail, less and less of it.
            {"match": "plenty", "retry": {
                "budget": {"percent": 100, "interval": "10s"}, "minRetryRate": {"count": 1_000_000, "interval": "1s"},
            }},
        ],
    })
}

fn newest_policy_wins() -> anyhow::Result<()> {
    let site = Site::start(&policy(1))?;
    let mut requests = site.wait_for(2)?;
    let scarce = |expected: usize, why: &str| -> anyhow::Result<()> {
        let attempts = site.attempts("scarce").map_err(anyhow::Error::msg)?;
        ensure!(attempts == expected, "{attempts} attempts where {why}");
        Ok(())
    };
    scarce(2, "one retry is allowed")?;

    site.update(&policy(5))?;
    requests += site.wait_for(6)?;
    scarce(4, "five retries are allowed, and three of the budget are left")?;
    scarce(1, "nothing is left")?;

    // In a wrong one it is told what is wrong. The old one stays.
    site.update(&json!({"retry": {"maxRetries": 99}}))?;
    site.envoy.wait_for_log(&["weir", "retry.maxRetries", "99", "from 0 to 10", "the policy in force stays"])?;
    let attempts = site.attempts("plenty").map_err(anyhow::Error::msg)?;
    requests += 1;
    ensure!(attempts == 6, "{attempts} attempts after a wrong update");
    scarce(1, "nothing is left, after a wrong update as before")?;

    site.update(&policy(0))?;
    requests += site.wait_for(1)?;

    // Counters went on through it all. A request that was under way when a policy with more retries came may have paid
    // for one that it did not make.
    let (attempts, retries) = (site.plenty.count(), site.plenty.count() - requests);
    wait::until(wait::LIMIT, || {
        let tally = Tally::read(site.envoy.admin, "plenty")?;
        let complete = tally.requests == requests
            && tally.attempts.len() == attempts
            && (retries..=retries + 1).contains(&tally.retries.len());
        if complete { Ok(()) } else { Err(format!("{requests} requests, {attempts} attempts, but counted {tally:?}")) }
    })
    .map_err(anyhow::Error::msg)
}
