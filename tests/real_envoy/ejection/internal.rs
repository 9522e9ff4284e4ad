//! Hosts behind internal listeners, as Istio's ambient mode has them: their addresses are `envoy://connect_originate/IP:PORT`.

use anyhow::ensure;
use serde_json::{Value, json};

use super::replica::Replica;
use crate::alone::Test;
use crate::case::route_retries;
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::{Request, exchange};
use crate::support::envoy::Launch;
use crate::support::{ports, wait};

pub const TESTS: &[Test] = &[("ejection::guard::internal_listeners", internal_listeners)];

/// One of two is down, and does not even refuse: its connection is made, and then broken.
fn internal_listeners() -> anyhow::Result<()> {
    const REQUESTS: usize = 180;
    let replicas = [Replica::new()?, Replica::new()?];
    let tunnel = |number: usize| format!("connect_originate_{number}");
    let address = ports::free();
    let mut route = bootstrap::route("/", "orders");
    bootstrap::merge(&mut route, &route_retries("connect-failure", 2));
    bootstrap::merge(&mut route, &previous_hosts());
    let outer = bootstrap::listener(Listener {
        name: "outer",
        port: address.port(),
        attach: Attach::GUARD,
        policy: &json!({"role": "decide"}),
        routes: vec![route],
        logs: None,
        manager: Value::Null,
    });
    let mut orders = bootstrap::cluster("orders", &[]);
    let hosts = replicas.iter().enumerate().map(|(number, replica)| {
        json!({"endpoint": {"address": {"envoy_internal_address":
            {"server_listener_name": tunnel(number), "endpoint_id": replica.address}}}})
    });
    orders["load_assignment"]["endpoints"][0]["lb_endpoints"] = hosts.collect();
    bootstrap::merge(&mut orders, &bootstrap::override_host("x-weir-hosts"));
    let inner = (0..replicas.len()).map(|number| {
        json!({"name": tunnel(number), "internal_listener": {}, "filter_chains": [{"filters": [{"name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": tunnel(number),
            "cluster": tunnel(number),
        }}]}]})
    });
    let listeners: Vec<Value> = [outer].into_iter().chain(inner).collect();
    let pods =
        replicas.iter().enumerate().map(|(number, replica)| bootstrap::cluster(&tunnel(number), &[replica.address]));
    let clusters: Vec<Value> = [orders].into_iter().chain(pods).collect();
    let mut config = bootstrap::bootstrap(&listeners, &clusters);
    config["bootstrap_extensions"] = json!([{"name": "envoy.bootstrap.internal_listener", "typed_config":
        {"@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"}}]);
    let envoy = Launch::json(config).concurrency(1).start()?;

    let get = || exchange(address, &Request::get("/"));
    for _ in 0..20 {
        ensure!(get()?.status == 200, "in a calm cluster: {}", envoy.log_end());
    }
    replicas[0].stop();
    for number in 0..REQUESTS {
        let response = get()?;
        ensure!(response.status == 200, "GET {number}: {response:?}\n{}", envoy.log_end());
    }
    let host = format!("envoy://{}/{}", tunnel(0), replicas[0].address);
    envoy.wait_for_log(&[&format!("host {host} ejected for")])?;
    replicas[0].start()?;
    let seen = replicas[0].seen().len();
    let back = wait::until(wait::LIMIT, || match get() {
        Ok(response) if response.status != 200 => Err(format!("{response:?}")),
        Ok(_) if replicas[0].seen().len() > seen + 5 => Ok(()),
        other => Err(format!("{host} gets nothing, after {other:?}\n{}", envoy.log_end())),
    });
    back.map_err(anyhow::Error::msg)
}

/// A retry goes to another host, as Istio has it.
fn previous_hosts() -> Value {
    json!({"route": {"retry_policy": {
        "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config":
            {"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}],
        "host_selection_retry_max_attempts": "5",
    }}})
}
