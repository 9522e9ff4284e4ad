//! `envoy/gateway/` in a real Envoy: what Envoy Gateway writes for a route, with the shipped resources applied to it the way
//! Envoy Gateway applies them.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use serde_json_path::JsonPath;

use crate::replica::Replica;
use crate::support::client::{Request, exchange};
use crate::support::envoy::{Envoy, Launch};
use crate::support::{envoy, ports, wait};

const CLUSTER: &str = "httproute/shop/orders/rule/0";
/// Where the shipped resources mount the module.
const MODULE: &str = "/etc/weir/weir.wasm";

struct Gateway {
    envoy: Envoy,
    address: SocketAddr,
    hosts: Vec<Replica>,
}

impl Gateway {
    /// All three roles, as in the guide.
    fn start() -> Result<Self> {
        Self::with("gateway/traffic.yaml", patches)
    }

    /// With the policies for traffic of a file, and what `apply` does.
    fn with(policies: &str, apply: impl Fn(&mut Value) -> Result<()>) -> Result<Self> {
        let mut config: Value = serde_yaml_ng::from_str(include_str!("gateway/xds.yaml"))?;
        let proxy = crate::yaml("gateway/envoyproxy.yaml")?;
        ensure!(proxy["spec"]["bootstrap"]["type"] == "JSONPatch", "{proxy}");
        for operation in proxy["spec"]["bootstrap"]["jsonPatches"].as_array().context("no jsonPatches")? {
            patch(&mut config, operation)?;
        }
        for resource in crate::documents(policies)?.iter().filter(|it| it["kind"] != "EnvoyExtensionPolicy") {
            traffic(&mut config, resource)?;
        }
        apply(&mut config)?;
        let hosts = vec![Replica::new()?, Replica::new()?];
        let address = ports::free();
        crate::mesh::place(&mut config, &[address, hosts[0].address, hosts[1].address].map(|address| address.port()));
        let module = serde_json::to_string(Path::new(&std::path::absolute(envoy::module())?))?;
        let text = config.to_string();
        ensure!(text.contains(MODULE), "nothing loads {MODULE}: {text}");
        let envoy = Launch::json(serde_json::from_str(&text.replace(&format!("{MODULE:?}"), &module))?).start();
        Ok(Self { envoy: envoy.with_context(|| format!("with {config:#}"))?, address, hosts })
    }

    fn wait_for(&self, metric: &str) -> Result<()> {
        let found = wait::until(wait::LIMIT, || {
            exchange(self.address, &Request::get("/orders")).map_err(|error| error.to_string())?;
            let text = self.envoy.admin.prometheus().map_err(|error| error.to_string())?;
            let value: Option<u64> = text.lines().find_map(|line| line.strip_prefix(metric)?.trim().parse().ok());
            let ours: Vec<&str> = text.lines().filter(|line| line.starts_with("weir_")).collect();
            value.filter(|value| *value > 0).ok_or_else(|| format!("no {metric} in {ours:#?}"))
        });
        found.map_err(anyhow::Error::msg)?;
        Ok(())
    }
}

fn manager(config: &mut Value) -> &mut Value {
    &mut config["static_resources"]["listeners"][0]["default_filter_chain"]["filters"][0]["typed_config"]
}

/// `EnvoyPatchPolicy`: each patch must find what it patches.
fn patches(config: &mut Value) -> Result<()> {
    let policy = crate::yaml("gateway/envoypatchpolicy.yaml")?;
    for item in policy["spec"]["jsonPatches"].as_array().context("no jsonPatches")? {
        let resources = &mut config["static_resources"];
        let resource = match item["type"].as_str().and_then(|name| name.rsplit('.').next()) {
            Some("Listener") => named(&mut resources["listeners"], &item["name"])?,
            Some("RouteConfiguration") => {
                let routes = &mut manager(config)["route_config"];
                ensure!(routes["name"] == item["name"], "nothing is called {}", item["name"]);
                routes
            }
            Some("Cluster") => named(&mut resources["clusters"], &item["name"])?,
            other => bail!("nobody patches {other:?} here"),
        };
        patch(resource, &item["operation"])?;
    }
    Ok(())
}

fn named<'a>(list: &'a mut Value, name: &Value) -> Result<&'a mut Value> {
    let found = list.as_array_mut().into_iter().flatten().find(|resource| resource["name"] == *name);
    found.with_context(|| format!("nothing is called {name}"))
}

/// One operation, at `path` below each place that `jsonPath` finds. A list that is not there begins with what is added to its end.
fn patch(resource: &mut Value, operation: &Value) -> Result<()> {
    let path = operation["path"].as_str().unwrap_or_default();
    let places = match operation["jsonPath"].as_str() {
        None => vec![String::new()],
        Some(query) => {
            let found = JsonPath::parse(query)?.query_located(resource);
            found.locations().map(|location| location.to_json_pointer()).collect()
        }
    };
    ensure!(!places.is_empty(), "this patch finds nothing: {operation}");
    for place in places {
        let list = format!("{place}{}", path.strip_suffix("/-").unwrap_or_default());
        if operation["op"] == "add"
            && path.ends_with("/-")
            && resource.pointer(&list).is_none()
            && let Some((parent, name)) = list.rsplit_once('/')
        {
            resource.pointer_mut(parent).context("no parent")?[name] = json!([]);
        }
        let patch = json!([{"op": operation["op"], "path": format!("{place}{path}"), "value": operation["value"]}]);
        json_patch::patch(resource, &serde_json::from_value::<json_patch::Patch>(patch)?)?;
    }
    Ok(())
}

/// `BackendTrafficPolicy` and `ClientTrafficPolicy`: the fields that the shipped ones have.
fn traffic(config: &mut Value, resource: &Value) -> Result<()> {
    let spec = &resource["spec"];
    match resource["kind"].as_str() {
        Some("BackendTrafficPolicy") => {
            let cluster = named(&mut config["static_resources"]["clusters"], &json!(CLUSTER))?;
            ensure!(spec["timeout"]["tcp"]["connectTimeout"] == "500ms", "{spec}");
            cluster["connect_timeout"] = json!("0.5s");
            cluster["circuit_breakers"]["thresholds"][0]["max_retries"] =
                spec["circuitBreaker"]["maxParallelRetries"].clone();
            ensure!(spec["loadBalancer"]["type"] == "RoundRobin", "{spec}");
            cluster["load_balancing_policy"] = json!({"policies": [{"typed_extension_config": {
                "name": "envoy.load_balancing_policies.round_robin",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
                    "locality_lb_config": {"locality_weighted_lb_config": {}},
                },
            }}]});
            if let Some(passive) = spec["healthCheck"].get("passive") {
                let number = |name: &str| passive[name].clone();
                cluster["outlier_detection"] = json!({
                    "split_external_local_origin_errors": number("splitExternalLocalOriginErrors"),
                    "consecutive_local_origin_failure": number("consecutiveLocalOriginFailures"),
                    "consecutive_5xx": number("consecutive5XxErrors"),
                    "interval": number("interval"),
                    "base_ejection_time": number("baseEjectionTime"),
                    "max_ejection_percent": number("maxEjectionPercent"),
                });
            }
            let triggers = spec["retry"]["retryOn"]["triggers"].as_array().context("no triggers")?;
            let triggers: Vec<&str> = triggers.iter().filter_map(Value::as_str).collect();
            let routes = &mut manager(config)["route_config"]["virtual_hosts"][0]["routes"];
            routes[0]["route"]["retry_policy"] = json!({
                "retry_on": triggers.join(","),
                "num_retries": spec["retry"]["numRetries"],
                "retriable_status_codes": [],
                "retry_host_predicate": [{
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
                    },
                }],
                "host_selection_retry_max_attempts": "5",
            });
        }
        Some("ClientTrafficPolicy") => {
            let removed = spec["headers"]["earlyRequestHeaders"]["remove"].as_array().context("nothing is removed")?;
            let mutations: Value = removed.iter().map(|name| json!({"remove": name})).collect();
            manager(config)["early_header_mutation_extensions"] = json!([{
                "name": "envoy.http.early_header_mutation.header_mutation",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                    "mutations": mutations,
                },
            }]);
        }
        other => bail!("nobody applies {other:?} here"),
    }
    Ok(())
}

/// `EnvoyExtensionPolicy`: a filter that is off until a route switches it on. The module would come by HTTP.
fn extension(config: &mut Value) -> Result<()> {
    let documents = crate::documents("gateway/envoyextensionpolicy.yaml")?;
    let policy = documents.first().context("no document")?;
    ensure!(policy["kind"] == "EnvoyExtensionPolicy", "{policy}");
    let wasm = &policy["spec"]["wasm"][0];
    let name = "envoy.filters.http.wasm/envoyextensionpolicy/shop/weir/wasm/0";
    let manager = manager(config);
    let filters = manager["http_filters"].as_array_mut().context("no http_filters")?;
    filters.insert(
        filters.len() - 1,
        json!({
            "name": name,
            "disabled": true,
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
                "config": {
                    "name": wasm["name"],
                    "fail_open": wasm["failOpen"],
                    "configuration": {
                        "@type": "type.googleapis.com/google.protobuf.StringValue",
                        "value": wasm["config"].to_string(),
                    },
                    "vm_config": {
                        "vm_id": "envoyextensionpolicy/shop/weir/wasm/0",
                        "runtime": "envoy.wasm.runtime.v8",
                        "code": {"local": {"filename": MODULE}},
                    },
                },
            },
        }),
    );
    manager["route_config"]["virtual_hosts"][0]["routes"][0]["typed_per_filter_config"] = json!({
        name: {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}},
    });
    Ok(())
}

#[test]
fn all_three_roles_share_one_vm_and_steer_around_a_dead_host() -> Result<()> {
    let gateway = Gateway::start()?;
    gateway.envoy.wait_for_log(&["roles decide, watch, guard"])?;
    gateway.hosts[0].stop();
    for number in 0..30 {
        let response = exchange(gateway.address, &Request::post("/orders"))?;
        ensure!(response.status == 200, "POST {number}: {} {}", response.status, response.text());
    }
    gateway.wait_for(&format!("weir_ejections_total{{weir_reason=\"refused\",weir_cluster=\"{CLUSTER}\"}}"))?;
    for headers in gateway.hosts.iter().flat_map(Replica::seen) {
        ensure!(!headers.iter().any(|(name, _)| name == "x-weir-hosts"), "a host sees the header: {headers:?}");
    }
    Ok(())
}

/// Also where Weir is not in the listener.
#[test]
fn clients_do_not_choose_hosts() -> Result<()> {
    let without = |config: &mut Value| {
        patches(config)?;
        let filters = manager(config)["http_filters"].as_array_mut().context("no http_filters")?;
        filters.retain(|filter| filter["name"] != "weir.decide");
        Ok(())
    };
    for gateway in [Gateway::start()?, Gateway::with("gateway/traffic.yaml", without)?] {
        let request = Request::get("/orders").header("x-weir-hosts", &gateway.hosts[0].address.to_string());
        for _ in 0..20 {
            ensure!(exchange(gateway.address, &request)?.status == 200);
        }
        let reached: Vec<usize> = gateway.hosts.iter().map(|host| host.seen().len()).collect();
        ensure!(reached == [10, 10], "{reached:?}");
    }
    Ok(())
}

/// A canary keeps its share.
#[test]
fn backends_of_one_rule_keep_their_weights() -> Result<()> {
    let canary = |config: &mut Value| {
        patches(config)?;
        let cluster = named(&mut config["static_resources"]["clusters"], &json!(CLUSTER))?;
        let backends = cluster["load_assignment"]["endpoints"].as_array_mut().context("no endpoints")?;
        let mut second = backends[0].clone();
        backends[0]["lb_endpoints"].as_array_mut().context("no hosts")?.truncate(1);
        backends[0]["load_balancing_weight"] = json!(95);
        second["lb_endpoints"].as_array_mut().context("no hosts")?.remove(0);
        second["load_balancing_weight"] = json!(5);
        second["locality"]["region"] = json!("httproute/shop/orders/rule/0/backend/1");
        backends.push(second);
        Ok(())
    };
    let gateway = Gateway::with("gateway/traffic.yaml", canary)?;
    for _ in 0..200 {
        ensure!(exchange(gateway.address, &Request::get("/orders"))?.status == 200);
    }
    let canary = gateway.hosts[1].seen().len();
    ensure!((5..=15).contains(&canary), "{canary} of 200");
    Ok(())
}

#[test]
fn an_upstream_access_log_of_the_users_stays() -> Result<()> {
    let log = |config: &mut Value| {
        manager(config)["http_filters"][0]["typed_config"]["upstream_log"] = json!([{"name": "mine", "typed_config":
            {"@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"}}]);
        patches(config)?;
        let filters = manager(config)["http_filters"].as_array().context("no http_filters")?;
        let router = filters.last().context("no router")?;
        let names: Vec<&Value> =
            router["typed_config"]["upstream_log"].as_array().into_iter().flatten().map(|log| &log["name"]).collect();
        ensure!(names == ["mine", "weir.watch"], "{names:?}");
        Ok(())
    };
    Gateway::with("gateway/traffic.yaml", log)?.envoy.wait_for_log(&["roles decide, watch, guard"])?;
    Ok(())
}

#[test]
fn decide_alone_retries_what_is_safe() -> Result<()> {
    let gateway = Gateway::with("gateway/envoyextensionpolicy.yaml", extension)?;
    gateway.envoy.wait_for_log(&["roles decide;"])?;
    gateway.hosts[0].stop();
    // Each may need a retry, and the budget of a quiet cluster grants ten in a second.
    for number in 0..10 {
        let response = exchange(gateway.address, &Request::post("/orders"))?;
        ensure!(response.status == 200, "POST {number}: {} {}", response.status, response.text());
    }
    gateway.wait_for(&format!("weir_retries_total{{weir_verdict=\"granted\",weir_cluster=\"{CLUSTER}\"}}"))
}

#[test]
fn the_labels_are_those_of_the_plain_envoy() -> Result<()> {
    let proxy = crate::yaml("gateway/envoyproxy.yaml")?;
    let patches = proxy["spec"]["bootstrap"]["jsonPatches"].as_array().context("no jsonPatches")?;
    let labels: Value = patches.iter().map(|patch| patch["value"].clone()).collect();
    ensure!(labels == crate::yaml("envoy.yaml")?["stats_config"]["stats_tags"], "they differ: {labels:#}");
    Ok(())
}
