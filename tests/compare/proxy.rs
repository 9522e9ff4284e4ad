//! An Envoy that retries by one policy.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::attempts;
use super::crash_loops::weir_log;
use super::policy::Policy;
use super::support::bootstrap::{self, Listener, merge};
use super::support::envoy::{Envoy, Launch};
use super::support::ports;

pub struct Proxy {
    pub policy: Policy,
    pub listener: SocketAddr,
    pub envoy: Envoy,
    /// Holds the log of attempts; goes away with this.
    directory: tempfile::TempDir,
}

impl Proxy {
    /// One cluster for each of `clusters`, reached by a path that begins with its name; `timeouts` goes into each route's
    /// action.
    pub fn start(
        policy: Policy,
        workers: u32,
        clusters: &[(String, Vec<SocketAddr>)],
        timeouts: &Value,
    ) -> Result<Self> {
        Self::start_with(policy, workers, clusters, timeouts, &Value::Null, &policy.weir())
    }

    /// `over` is merged over each cluster; `decide` is Weir's configuration.
    pub fn start_with(
        policy: Policy,
        workers: u32,
        clusters: &[(String, Vec<SocketAddr>)],
        timeouts: &Value,
        over: &Value,
        decide: &Value,
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("weir-compare-").tempdir()?;
        let port = ports::free();
        let routes = clusters.iter().map(|(name, _)| route(name, policy, timeouts)).collect();
        let mut listener = bootstrap::listener(Listener {
            name: "compare",
            port: port.port(),
            attach: policy.attach(),
            policy: decide,
            routes,
            logs: None,
            manager: json!({}),
        });
        // Every worker gets its share of the connections.
        listener["enable_reuse_port"] = json!(true);
        // On a busy machine many connections wait to be accepted; those that find no place would try for minutes.
        listener["tcp_backlog_size"] = json!(4096);
        log_attempts(&mut listener, &directory.path().join(LOG));
        let clusters: Vec<Value> = clusters.iter().map(|(name, hosts)| cluster(name, hosts, policy, over)).collect();
        let envoy = Launch::json(bootstrap::bootstrap(&[listener], &clusters))
            .concurrency(workers)
            .log_level("warn")
            .argument("--component-log-level")
            .argument("wasm:info")
            .argument("--log-format")
            .argument(weir_log::FORMAT)
            .start()?;
        Ok(Self { policy, listener: port, envoy, directory })
    }

    /// Requests that reached it. On a machine that is too busy some clients do not get through in time.
    pub fn requests(&self) -> Result<u64> {
        const REQUESTS: &str = "http.compare.downstream_rq_total";
        Ok(self.envoy.admin.stats(&format!("^{REQUESTS}$"))?.get(REQUESTS).copied().unwrap_or(0))
    }

    pub fn log(&self) -> PathBuf {
        self.directory.path().join(LOG)
    }
}

const LOG: &str = "attempts.log";

fn route(cluster: &str, policy: Policy, timeouts: &Value) -> Value {
    let mut route = bootstrap::route(&format!("/{cluster}/"), cluster);
    merge(&mut route, &json!({"route": {"retry_policy": policy.retry_policy()}}));
    merge(&mut route["route"], timeouts);
    route
}

fn cluster(name: &str, hosts: &[SocketAddr], policy: Policy, over: &Value) -> Value {
    let mut cluster = bootstrap::cluster(name, hosts);
    merge(&mut cluster, over);
    merge(&mut cluster, &json!({"circuit_breakers": {"thresholds": [policy.thresholds()]}}));
    cluster
}

/// Adds a file access log to the router's `upstream_log`.
fn log_attempts(listener: &mut Value, path: &std::path::Path) {
    let router = listener
        .pointer_mut("/filter_chains/0/filters/0/typed_config/http_filters")
        .and_then(Value::as_array_mut)
        .and_then(|filters| filters.last_mut());
    if let Some(log) = router.and_then(|router| router.pointer_mut("/typed_config/upstream_log")?.as_array_mut()) {
        log.push(json!({
            "name": "file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": path,
                "log_format": {"text_format_source": {"inline_string": attempts::FORMAT}},
            },
        }));
    }
}
