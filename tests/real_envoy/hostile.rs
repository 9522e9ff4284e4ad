//! Clients, upstreams and filters that mean harm, or look as if they did. Without Envoy around it: `tests/hostile`.

mod clients;
mod filters;
mod routes;
mod upstreams;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};

use crate::alone::Test;
use crate::check::Tally;
use crate::stage::back_off;
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::envoy::{Envoy, Launch};
use crate::support::upstream::Upstream;
use crate::support::{ports, wait};

pub fn all() -> Vec<Test> {
    [clients::TESTS, filters::TESTS, routes::TESTS, upstreams::TESTS].concat()
}

/// An Envoy of two workers with all roles in front of one upstream.
struct Site {
    envoy: Envoy,
    address: SocketAddr,
}

impl Site {
    /// `manager` and `route` are merged over the connection manager and the route.
    fn start(upstream: &Upstream, policy: &Value, manager: &Value, route: &Value) -> Result<Self> {
        Self::start_with(upstream, policy, manager, route, |_| {})
    }

    /// The same; `change` has the last word on the listener.
    fn start_with(
        upstream: &Upstream,
        policy: &Value,
        manager: &Value,
        route: &Value,
        change: impl FnOnce(&mut Value),
    ) -> Result<Self> {
        let address = ports::free();
        let mut whole = bootstrap::route("/", "upstream");
        bootstrap::merge(&mut whole, &back_off());
        bootstrap::merge(&mut whole, route);
        let mut listener = bootstrap::listener(Listener {
            name: "hostile",
            port: address.port(),
            attach: Attach::GUARD,
            policy,
            routes: vec![whole],
            logs: None,
            manager: manager.clone(),
        });
        listener["connection_balance_config"] = json!({"exact_balance": {}});
        change(&mut listener);
        let cluster = bootstrap::cluster("upstream", &[upstream.address]);
        let envoy = Launch::json(bootstrap::bootstrap(&[listener], &[cluster])).concurrency(2).start()?;
        Ok(Self { envoy, address })
    }

    /// Waits until all is over, and the books agree: nothing is active, each request and each attempt was counted once, and
    /// each retry that Envoy made was granted or stopped.
    fn settled(&self) -> Result<Tally> {
        wait::until(wait::LIMIT, || {
            let stats = self.envoy.admin.stats("^(http[.]hostile[.]|cluster[.]upstream[.])").map_err(|error| error.to_string())?;
            let stat = |name: &str| stats.get(name).copied().unwrap_or_default() as usize;
            for active in [
                "http.hostile.downstream_rq_active",
                "cluster.upstream.upstream_rq_active",
                "cluster.upstream.upstream_rq_pending_active",
                "cluster.upstream.upstream_rq_retry_backoff_active",
            ] {
                if stat(active) > 0 {
                    return Err(format!("{active}: {}", stat(active)));
                }
            }
            let tally = Tally::read(self.envoy.admin, "upstream")?;
            let mut signals = BTreeMap::<&str, usize>::new();
            tally.attempts.iter().for_each(|signal| *signals.entry(signal).or_default() += 1);
            let (requests, retries) = (stat("http.hostile.downstream_rq_total"), stat("cluster.upstream.upstream_rq_retry"));
            let granted = tally.retries.iter().filter(|verdict| *verdict == "granted").count();
            let local = signals.get("local").copied().unwrap_or_default();
            if tally.requests == requests && tally.attempts.len() == requests + retries && granted + local == retries {
                return Ok(tally);
            }
            Err(format!(
                "Envoy: {requests} requests, {retries} retries; Weir: {} requests, {granted} granted, attempts {signals:?}",
                tally.requests
            ))
        })
        .map_err(|error| anyhow::anyhow!("{error}\n{}", self.envoy.log_end()))
    }
}

/// Retries are paid for, and the host stays in: what is looked at is something else.
fn generous() -> Value {
    json!({"role": "decide", "outlierDetection": null, "circuitBreaker": null, "retry": {
        "budget": {"percent": 100, "interval": "10s"}, "minRetryRate": {"count": 10000, "interval": "1s"},
    }})
}
