//! Three count the same attempts: the upstream hosts, Envoy, and Weir. Their books must agree.

use anyhow::{Result, anyhow};
use serde_json::{Value, json};

use super::attempts::{self, Attempt, End};
use super::policy::Policy;
use super::proxy::Proxy;
use super::support::admin::Stats;
use super::support::wait;

pub struct Books {
    policy: Policy,
    /// What the clients sent.
    pub requests: u64,
    /// Attempts that the hosts saw.
    pub arrived: u64,
    /// Envoy's log: every attempt, and every one that was stopped.
    pub attempts: Vec<Attempt>,
    envoy: Envoy,
    weir: Weir,
}

/// Envoy's counters.
struct Envoy {
    /// Attempts that got a connection.
    connected: u64,
    retries: u64,
    connections: u64,
    refused_connections: u64,
}

/// Weir's counters.
struct Weir {
    attempts: u64,
    /// Those that it stopped itself.
    local: u64,
    granted: u64,
    denied: u64,
    /// Requests that its circuit breaker answered.
    shed: u64,
}

impl Books {
    /// Closes the books on a cluster that is at rest.
    pub fn close(proxy: &Proxy, cluster: &str, requests: u64, arrived: u64) -> Result<Self> {
        let stats = proxy.envoy.admin.stats(&format!("cluster[.]{cluster}([.]upstream_(rq|cx)_|$)"))?;
        let envoy = Envoy {
            connected: stat(&stats, &format!("cluster.{cluster}.upstream_rq_total")),
            retries: stat(&stats, &format!("cluster.{cluster}.upstream_rq_retry")),
            connections: stat(&stats, &format!("cluster.{cluster}.upstream_cx_total")),
            refused_connections: stat(&stats, &format!("cluster.{cluster}.upstream_cx_connect_fail")),
        };
        let weir = |name: &str| stat(&stats, &format!("wasmcustom.weir_{name}.cluster.{cluster}"));
        let signals = stats.iter().filter(|(name, _)| name.starts_with("wasmcustom.weir_attempts_total."));
        let weir = Weir {
            attempts: signals.map(|(_, count)| count).sum(),
            local: weir("attempts_total.signal.local"),
            granted: weir("retries_total.verdict.granted"),
            denied: weir("retries_total.verdict.denied"),
            shed: weir("shed_total"),
        };
        // The log is written with a delay.
        let complete = |attempts: &[Attempt]| attempts.len() as u64 + weir.shed >= requests + envoy.retries;
        let attempts = wait::until(wait::LIMIT, || match attempts::read(&proxy.log(), cluster) {
            Ok(attempts) if complete(&attempts) => Ok(attempts),
            Ok(attempts) => {
                Err(format!("Envoy logged {} attempts, not {requests} + {}", attempts.len(), envoy.retries))
            }
            Err(error) => Err(format!("{error:#}")),
        })
        .map_err(|reason| anyhow!("{}: {reason}", proxy.policy.name()))?;
        Ok(Self { policy: proxy.policy, requests, arrived, attempts, envoy, weir })
    }

    fn count(&self, which: impl Fn(&Attempt) -> bool) -> u64 {
        self.attempts.iter().filter(|attempt| which(attempt)).count() as u64
    }

    /// Retries that went out.
    pub fn retries(&self) -> u64 {
        self.count(|attempt| attempt.is_retry() && attempt.end != End::Vetoed)
    }

    /// TCP connections that the hosts refused.
    pub fn refused_connections(&self) -> u64 {
        self.envoy.refused_connections
    }

    /// Where they do not agree. `lost` is how many attempts may have been sent to a host just when it went down.
    pub fn mistakes(&self, lost: u64) -> Vec<String> {
        let mut mistakes = Vec::new();
        let mut equal = |what: &str, one: u64, other: u64, apart: u64| {
            if one.abs_diff(other) > apart {
                mistakes.push(format!("{}: {what}: {one} and {other}", self.policy.name()));
            }
        };
        let vetoed = self.count(|attempt| attempt.end == End::Vetoed);
        let sent = self.count(|attempt| attempt.end == End::Sent);
        let first = self.count(|attempt| !attempt.is_retry());
        let sent_or_shed = first + self.weir.shed;
        equal("requests of the clients, first attempts in Envoy's log and shed ones", self.requests, sent_or_shed, 0);
        equal("upstream_rq_retry, retries and vetoes in Envoy's log", self.envoy.retries, self.retries() + vetoed, 0);
        equal("attempts that arrived, attempts sent in Envoy's log", self.arrived, sent, lost);
        // Envoy counts an attempt as soon as it has a connection, and only then asks `guard`.
        let connected = (self.arrived..=self.arrived + vetoed + lost).contains(&self.envoy.connected);
        equal(
            "attempts that arrived, upstream_rq_total",
            self.arrived,
            self.envoy.connected,
            if connected { u64::MAX } else { 0 },
        );
        match self.policy {
            Policy::Weir | Policy::Breaker => {
                equal("Weir's attempts, Envoy's log", self.weir.attempts, self.attempts.len() as u64, 0);
                equal("attempts that Weir stopped, vetoes in Envoy's log", self.weir.local, vetoed, 0);
                equal("retries that Weir granted, retries in Envoy's log", self.weir.granted, self.retries(), 0);
            }
            Policy::Decide => {
                equal("Weir's last attempts, requests", self.weir.attempts, self.requests, 0);
                equal("retries that Weir counted, retries in Envoy's log", self.weir.granted, self.retries(), 0);
            }
            _ => {}
        }
        mistakes
    }

    pub fn to_json(&self) -> Value {
        let mut numbers = json!({
            "requests": self.requests,
            "arrivedAtUpstream": self.arrived,
            "envoyLog": {
                "sent": self.count(|attempt| attempt.end == End::Sent),
                "unconnected": self.count(|attempt| attempt.end == End::Unconnected),
                "vetoed": self.count(|attempt| attempt.end == End::Vetoed),
                "retries": self.retries(),
            },
            "envoy": {
                "upstream_rq_total": self.envoy.connected, "upstream_rq_retry": self.envoy.retries,
                "upstream_cx_total": self.envoy.connections, "upstream_cx_connect_fail": self.envoy.refused_connections,
            },
        });
        if self.policy.is_weir() {
            numbers["weir"] = json!({
                "attempts": self.weir.attempts, "local": self.weir.local,
                "granted": self.weir.granted, "denied": self.weir.denied, "shed": self.weir.shed,
            });
        }
        numbers
    }
}

/// Whether as many attempts arrived as Envoy had a connection for. Those that `guard` stopped may have had one.
pub fn connected(proxy: &Proxy, cluster: &str, arrived: u64) -> Result<Option<String>> {
    let stats = proxy.envoy.admin.stats(&format!("cluster[.]{cluster}([.]upstream_rq_|$)"))?;
    let connected = stat(&stats, &format!("cluster.{cluster}.upstream_rq_total"));
    let stopped = stat(&stats, &format!("wasmcustom.weir_attempts_total.signal.local.cluster.{cluster}"));
    let agree = (arrived..=arrived + stopped).contains(&connected);
    Ok((!agree).then(|| format!("{}: {arrived} attempts arrived, upstream_rq_total: {connected}", proxy.policy.name())))
}

fn stat(stats: &Stats, name: &str) -> u64 {
    stats.get(name).copied().unwrap_or(0)
}
