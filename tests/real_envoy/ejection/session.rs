//! Steering by the filter `stateful_session`, in clusters that Envoy refuses with the policy `override_host`, and in one whose
//! requests must go nowhere else.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::load::failed;
use super::replica::Replica;
use super::site::{SESSION, Setup, Site};
use crate::alone::Test;
use crate::level::Level;
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::Request;
use crate::support::envoy::Launch;
use crate::support::{ports, wait};

pub const TESTS: &[Test] = &[
    ("ejection::session::plain", || steers(Value::Null)),
    ("ejection::session::locality_weights", || {
        steers(json!({"common_lb_config": {"locality_weighted_lb_config": {}}}))
    }),
    ("ejection::session::zone_aware", || steers(json!({"common_lb_config": {"zone_aware_lb_config": {}}}))),
    ("ejection::session::subsets", || {
        steers(
            json!({"lb_subset_config": {"fallback_policy": "ANY_ENDPOINT", "subset_selectors": [{"keys": ["version"]}]}}),
        )
    }),
    ("ejection::session::grpc_retries", grpc_retries),
    ("ejection::session::original_destination", original_destination),
];

/// Out for good, so that no trial meets a probe that ends it.
fn policy() -> Value {
    json!({"role": "decide", "steering": {"via": "stateful_session", "explorePercent": 0}, "retry": {"grpcStatusCodes": ["unavailable"]},
        "outlierDetection": {"baseEjectionTime": "5m", "maxEjectionTime": "5m"}})
}

fn setup(cluster: Value) -> Setup {
    let retries = json!({"route": {"retry_policy": {"retry_on": "connect-failure", "num_retries": 2, "retry_host_predicate":
        [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config":
            {"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}],
        "host_selection_retry_max_attempts": "5"}}});
    Setup { session: true, obeys: false, policy: policy(), route: retries, cluster, ..Setup::new(Level::Guard) }
}

fn with_one_out(cluster: Value) -> anyhow::Result<Site> {
    let site = setup(cluster).start()?;
    site.envoy.wait_for_log(&["stateful_session"])?;
    site.warm_up()?;
    site.stop(0)?;
    let statuses = site.get("/out", 60)?;
    ensure!(failed(&statuses).is_empty(), "{statuses:?}; {}", site.story());
    site.wait_for("hosts_out", 1)?;
    Ok(site)
}

/// Nothing goes to the host that is out, and upstreams see nothing of it.
fn steers(cluster: Value) -> anyhow::Result<()> {
    let site = with_one_out(cluster)?;
    let statuses = site.get("/steered", 200)?;
    ensure!(failed(&statuses).is_empty(), "{statuses:?}; {}", site.story());
    let attempts = site.attempts("/steered", 200)?;
    ensure!(site.on(0, &attempts) <= 3, "{} of 200 met it; {}", site.on(0, &attempts), site.story());
    let steered = attempts.iter().filter(|attempt| attempt.steered()).count();
    ensure!(steered >= 190, "{steered} of {} were steered; {}", attempts.len(), site.story());
    for replica in 1..4 {
        ensure!(site.on(replica, &attempts) >= 20, "host {replica} got {}", site.on(replica, &attempts));
    }
    for (replica, seen) in site.replicas.iter().map(Replica::seen).enumerate() {
        let leak = seen.iter().flatten().find(|(name, _)| name == SESSION || name.starts_with("x-weir"));
        ensure!(leak.is_none(), "replica {replica} saw {leak:?}");
    }
    ensure!(site.metric("steering_disobeyed_total") == 0, "{}", site.story());
    Ok(())
}

/// The header also says what Envoy retries of gRPC, and goes on saying that.
fn grpc_retries() -> anyhow::Result<()> {
    let site = with_one_out(Value::Null)?;
    let call = Request::grpc("/grpc").header("idempotency-key", "1");
    site.send(&call, 60)?;
    let attempts = site.attempts("/grpc", 60)?;
    let value = attempts.iter().find(|attempt| attempt.steered() && attempt.list.contains(";UV:"));
    let value = value.with_context(|| format!("nothing was steered: {}", site.story()))?.list.clone();
    ensure!(value.ends_with(";UV:dW5hdmFpbGFibGU="), "{value} takes away what is retried of gRPC: unavailable");
    Ok(())
}

/// Two addresses that clients choose, one of which refuses: nothing that is meant for it goes to the other.
fn original_destination() -> anyhow::Result<()> {
    let replicas = [Replica::new()?, Replica::new()?];
    let address = ports::free();
    let mut listener = bootstrap::listener(Listener {
        name: "captured",
        port: address.port(),
        attach: Attach::GUARD,
        policy: &policy(),
        routes: vec![bootstrap::route("/", "pods")],
        logs: None,
        manager: Value::Null,
    });
    // It stands for a firewall that redirects connections: they say where they were to go to.
    listener["listener_filters"] = json!([{"name": "proxy_protocol", "typed_config":
        {"@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"}}]);
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    let filters = manager["http_filters"].as_array_mut().context("no filters")?;
    filters.insert(filters.len() - 1, bootstrap::session(SESSION));
    let cluster =
        json!({"name": "pods", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "5s"});
    let envoy = Launch::json(bootstrap::bootstrap(&[listener], &[cluster])).start()?;
    envoy.wait_for_log(&["stateful_session"])?;
    let get = |replica: &Replica| -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(wait::LIMIT))?;
        let (ip, port) = (replica.address.ip(), replica.address.port());
        write!(stream, "PROXY TCP4 127.0.0.1 {ip} 1 {port}\r\nGET / HTTP/1.1\r\nhost: pods\r\nx-for: {port}\r\n\r\n")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    };
    for _ in 0..40 {
        for replica in &replicas {
            ensure!(get(replica)?.contains(" 200 "), "in a calm cluster: {}", envoy.log_end());
        }
    }
    replicas[1].stop();
    for number in 0..80 {
        let status = get(&replicas[1])?;
        ensure!(status.contains(" 503 "), "request {number} for a host that refuses: {status}");
        let status = get(&replicas[0])?;
        ensure!(status.contains(" 200 "), "request {number} for the other: {status}\n{}", envoy.log_end());
    }
    for replica in &replicas {
        let own = replica.address.port().to_string();
        let seen = replica.seen();
        let strange = seen.iter().flatten().find(|(name, value)| name == "x-for" && *value != own);
        ensure!(strange.is_none(), "{} got what was for {strange:?}\n{}", replica.address, envoy.log_end());
    }
    envoy.wait_for_log(&["cluster pods", "do not go where they are steered"])?;
    Ok(())
}
