//! The YAML of docs/ is what a real Envoy runs.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::replica::Replica;
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::{Request, exchange};
use crate::support::envoy::{self, Launch};
use crate::support::ports;

/// Where the pages put the module.
const MODULE: &str = "/etc/envoy/weir.wasm";

const INSTALL: &str = "docs/install-envoy.md";
const METRICS: &str = "docs/metrics.md";

/// Each block of YAML on a page.
fn blocks(page: &str) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page))?;
    let blocks = text.split("```yaml\n").skip(1).filter_map(|block| block.split("```").next());
    blocks.map(|block| Ok(serde_yaml_ng::from_str(block)?)).collect()
}

/// The one block that has `field`, and a field `inside` somewhere, or not.
fn block(blocks: &[Value], field: &str, inside: &str, wanted: bool) -> Result<Value> {
    let fits = |block: &&Value| !block[field].is_null() && block.to_string().contains(inside) == wanted;
    let found: Vec<&Value> = blocks.iter().filter(fits).collect();
    ensure!(found.len() == 1, "want one block with {field}, found {}", found.len());
    Ok(found[0].clone())
}

/// Runs these filters in front of a host that answers and one that does not. Envoy's log, when requests have passed.
fn run(filters: &Value, cluster_parts: &[&Value], route_part: &Value, announced: &str) -> Result<()> {
    let (up, down) = (Replica::new()?, Replica::refusing()?);
    let address = ports::free();
    let mut route = bootstrap::route("/", "orders");
    bootstrap::merge(&mut route["route"], route_part);
    let listener = bootstrap::listener(Listener {
        name: "documented",
        port: address.port(),
        attach: Attach::NOWHERE,
        policy: &Value::Null,
        routes: vec![route],
        logs: None,
        manager: filters.clone(),
    });
    let mut cluster = bootstrap::cluster("orders", &[up.address, down.address]);
    for part in cluster_parts {
        bootstrap::merge(&mut cluster, part);
    }
    let mut config = bootstrap::bootstrap(&[listener], &[cluster]);
    config["stats_config"] = block(&blocks(METRICS)?, "stats_config", "", true)?["stats_config"].clone();
    ensure!(config["stats_config"] == crate::yaml("envoy.yaml")?["stats_config"], "the labels of {METRICS} differ");
    let module = serde_json::to_string(&std::path::absolute(envoy::module())?)?;
    let text = config.to_string();
    ensure!(text.contains(MODULE), "nothing loads {MODULE}");
    let envoy = Launch::json(serde_json::from_str(&text.replace(&format!("{MODULE:?}"), &module))?).start()?;
    envoy.wait_for_log(&[announced])?;
    for number in 0..10 {
        let response = exchange(address, &Request::post("/"))?;
        ensure!(response.status == 200, "POST {number}: {} {}", response.status, response.text());
    }
    ensure!(envoy.admin.prometheus()?.contains(r#"weir_requests_total{weir_retry="unsafe",weir_cluster="orders"} 10"#));
    Ok(())
}

/// Where retries go, as parts of a route and of a cluster: from Envoy 1.37 on in the cluster, before that in the route.
fn retries(blocks: &[Value]) -> Result<(Value, Value)> {
    let in_cluster = block(blocks, "typed_extension_protocol_options", "", true)?;
    let in_route = block(blocks, "retry_policy", "", true)?;
    let own = in_cluster.to_string();
    ensure!(own.contains(&in_route["retry_policy"].to_string()), "the two places have different policies: {own}");
    let version = envoy::version()?;
    let old = version.starts_with("1.36.");
    Ok(if old { (in_route, Value::Null) } else { (Value::Null, in_cluster) })
}

#[test]
fn decide_alone_runs_as_documented() -> Result<()> {
    let blocks = blocks(INSTALL)?;
    let filters = block(&blocks, "http_filters", "upstream_log", false)?;
    let ((route, own), limits) = (retries(&blocks)?, block(&blocks, "circuit_breakers", "", true)?);
    run(&filters, &[&limits, &own], &route, "roles decide;")
}

#[test]
fn all_three_roles_run_as_documented() -> Result<()> {
    let blocks = blocks(INSTALL)?;
    let filters = block(&blocks, "http_filters", "upstream_log", true)?;
    let ((route, own), limits) = (retries(&blocks)?, block(&blocks, "circuit_breakers", "", true)?);
    let steering = block(&blocks, "load_balancing_policy", "", true)?;
    let shipped = crate::yaml("envoy.yaml")?;
    let cluster = &shipped["static_resources"]["clusters"][0];
    let policy = &cluster["load_balancing_policy"];
    ensure!(steering["load_balancing_policy"] == *policy, "the policy of {INSTALL} differs from envoy.yaml's");
    let options = &block(&blocks, "typed_extension_protocol_options", "", true)?["typed_extension_protocol_options"];
    ensure!(*options == cluster["typed_extension_protocol_options"], "the retry policy of {INSTALL} differs");
    run(&filters, &[&limits, &own, &steering], &route, "roles decide, watch, guard")
}

/// With `watch` in its place behind an access-log filter.
#[test]
fn what_went_well_is_kept_from_watch_as_documented() -> Result<()> {
    let all = blocks(INSTALL)?;
    let mut filters = block(&all, "http_filters", "upstream_log", true)?;
    let ((route, own), limits) = (retries(&all)?, block(&all, "circuit_breakers", "", true)?);
    let failures = block(&all, "upstream_log", "failures", true)?;
    let logs = filters.pointer_mut("/http_filters/1/typed_config/upstream_log").context("the router's upstream_log")?;
    let config = logs[0]["typed_config"]["config"].clone();
    *logs = failures["upstream_log"].clone();
    for same in ["failure_policy", "vm_config"] {
        logs[0]["typed_config"]["config"][same] = config[same].clone();
    }
    run(&filters, &[&limits, &own], &route, "roles decide, watch")
}
