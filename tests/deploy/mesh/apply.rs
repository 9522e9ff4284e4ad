//! What istiod does with the shipped resources: as much of it as they use, and errors for all else.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

/// Merges like protobuf: objects deeply, lists are appended, all else is replaced.
pub fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                merge(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(base), Value::Array(over)) => base.extend(over.iter().cloned()),
        (base, over) => *base = over.clone(),
    }
}

/// `EnvoyFilter`: its patches, each of which must find something.
pub fn envoy_filter(config: &mut Value, filter: &Value) -> Result<()> {
    ensure!(filter["kind"] == "EnvoyFilter", "not an EnvoyFilter: {filter}");
    for patch in filter["spec"]["configPatches"].as_array().context("no configPatches")? {
        let (find, value) = (&patch["match"], &patch["patch"]["value"]);
        let operation = patch["patch"]["operation"].as_str();
        let direction = match find["context"].as_str() {
            Some("SIDECAR_OUTBOUND") => "OUTBOUND",
            Some("SIDECAR_INBOUND") => "INBOUND",
            other => bail!("an unknown context: {other:?}"),
        };
        if operation == Some("INSERT_BEFORE") {
            ensure!(patch["applyTo"] == "HTTP_FILTER", "nothing else is inserted here: {patch}");
            insert_before(config, direction, &find["listener"], value)?;
            continue;
        }
        ensure!(operation == Some("MERGE"), "only MERGE and INSERT_BEFORE are known here: {patch}");
        let targets = match patch["applyTo"].as_str() {
            Some("CLUSTER") => clusters(config, direction, &find["cluster"]["service"]),
            Some("NETWORK_FILTER") => managers(config, direction, &find["listener"]),
            Some("HTTP_FILTER") => http_filters(config, direction, &find["listener"]),
            Some("VIRTUAL_HOST") => virtual_hosts(config, direction, &find["routeConfiguration"]["vhost"]["name"]),
            other => bail!("nobody patches {other:?} here"),
        };
        ensure!(!targets.is_empty(), "this patch finds nothing: {patch}");
        for target in targets {
            if let Some(name) = value["typed_config"]["@type"].as_str() {
                ensure!(target["typed_config"]["@type"] == name, "other types do not merge: {target}");
            }
            merge(target, value);
        }
    }
    Ok(())
}

fn list<'a>(config: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    config["static_resources"][name].as_array_mut().into_iter().flatten()
}

fn clusters<'a>(config: &'a mut Value, direction: &str, service: &Value) -> Vec<&'a mut Value> {
    let prefix = format!("{}|", direction.to_lowercase());
    let fits = |cluster: &Value| {
        let name = cluster["name"].as_str().unwrap_or_default();
        let host = name.rsplit('|').next();
        // Without a service, istiod patches whatever is there.
        service.is_null() || (name.starts_with(&prefix) && host == service.as_str())
    };
    list(config, "clusters").filter(|cluster| fits(cluster)).collect()
}

fn managers<'a>(config: &'a mut Value, direction: &str, find: &Value) -> Vec<&'a mut Value> {
    let name = find["filterChain"]["filter"]["name"].clone();
    list(config, "listeners")
        .filter(|listener| listener["traffic_direction"] == direction)
        .filter_map(|listener| listener["filter_chains"].as_array_mut())
        .flatten()
        .filter_map(|chain| chain["filters"].as_array_mut())
        .flatten()
        .filter(|filter| filter["name"] == name)
        .collect()
}

fn virtual_hosts<'a>(config: &'a mut Value, direction: &str, name: &Value) -> Vec<&'a mut Value> {
    let find = json!({"filterChain": {"filter": {"name": "envoy.filters.network.http_connection_manager"}}});
    managers(config, direction, &find)
        .into_iter()
        .filter_map(|manager| manager["typed_config"]["route_config"]["virtual_hosts"].as_array_mut())
        .flatten()
        .filter(|host| name.is_null() || host["name"] == *name)
        .collect()
}

fn http_filters<'a>(config: &'a mut Value, direction: &str, find: &Value) -> Vec<&'a mut Value> {
    let name = find["filterChain"]["filter"]["subFilter"]["name"].clone();
    managers(config, direction, find)
        .into_iter()
        .filter_map(|manager| manager["typed_config"]["http_filters"].as_array_mut())
        .flatten()
        .filter(|filter| filter["name"] == name)
        .collect()
}

fn insert_before(config: &mut Value, direction: &str, find: &Value, filter: &Value) -> Result<()> {
    let name = &find["filterChain"]["filter"]["subFilter"]["name"];
    for manager in managers(config, direction, find) {
        let filters = manager["typed_config"]["http_filters"].as_array_mut().context("no http_filters")?;
        let position = filters.iter().position(|filter| filter["name"] == *name).context("no such filter")?;
        filters.insert(position, filter.clone());
    }
    Ok(())
}

/// `WasmPlugin`: a filter before those of Istio's own (it has no phase), whose configuration comes by discovery. Returns that
/// configuration, which is expected in `file`; the module is in `fetched`.
pub fn plugin(config: &mut Value, plugin: &Value, file: &Path, fetched: &str) -> Result<Value> {
    let (metadata, spec) = (&plugin["metadata"], &plugin["spec"]);
    ensure!(spec["match"] == json!([{"mode": "CLIENT"}]), "{spec}");
    let full_name = format!(
        "{}.{}~istio-translated-wasmplugin",
        metadata["namespace"].as_str().context("no namespace")?,
        metadata["name"].as_str().context("no name")?
    );
    let name = format!("extensions.istio.io/trafficextension/{full_name}");
    let mut vm = json!({"runtime": "envoy.wasm.runtime.v8"});
    let url = spec["url"].as_str().context("no url")?;
    let module = if let Some(file) = url.strip_prefix("file://") {
        // The sidecar's agent does not touch it.
        vm["environment_variables"] = json!({"key_values": {"ISTIO_META_WASM_PLUGIN_RESOURCE_VERSION": "4711"}});
        file.to_owned()
    } else {
        // The agent fetches it into a file, and takes the variable away.
        ensure!(url.starts_with("oci://"), "{url}");
        fetched.to_owned()
    };
    vm["code"] = json!({"local": {"filename": module}});
    let wasm = json!({
        "@type": WASM,
        "config": {
            "name": full_name,
            "root_id": "",
            "configuration": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": spec["pluginConfig"].to_string(),
            },
            "vm_config": vm,
            "failure_policy": spec["failStrategy"],
        },
    });
    let find = json!({"filterChain": {"filter": {"name": "envoy.filters.network.http_connection_manager"}}});
    for manager in managers(config, "OUTBOUND", &find) {
        let filters = manager["typed_config"]["http_filters"].as_array_mut().context("no http_filters")?;
        let discovery = json!({
            "config_source": {"path_config_source": {"path": file}, "initial_fetch_timeout": "0s"},
            "type_urls": [WASM],
        });
        let first = ["envoy.filters.http.grpc_stats", "envoy.filters.http.router"];
        let position = filters.iter().position(|filter| first.iter().any(|name| filter["name"] == *name));
        filters.insert(position.context("no router")?, json!({"name": name, "config_discovery": discovery}));
    }
    Ok(json!({"resources": [{
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        "name": name,
        "typed_config": wasm,
    }]}))
}

/// `VirtualService` and `DestinationRule`: the fields that the shipped ones have.
pub fn traffic(config: &mut Value, resource: &Value) -> Result<()> {
    let spec = &resource["spec"];
    match resource["kind"].as_str() {
        Some("VirtualService") => {
            let (http, service) = (&spec["http"][0], &spec["hosts"][0]);
            ensure!(http["route"][0]["destination"]["host"] == *service, "{http}");
            let find = json!({"filterChain": {"filter": {"name": "envoy.filters.network.http_connection_manager"}}});
            for manager in managers(config, "OUTBOUND", &find) {
                let route = &mut manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"][0]["route"];
                route["timeout"] = http["timeout"].clone();
                route["retry_policy"] = json!({
                    "retry_on": http["retries"]["retryOn"],
                    "num_retries": http["retries"]["attempts"],
                    "retry_host_predicate": [{
                        "name": "envoy.retry_host_predicates.previous_hosts",
                        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
                    }],
                    "host_selection_retry_max_attempts": "5",
                });
                if http["retries"]["retryRemoteLocalities"] == true {
                    route["retry_policy"]["retry_priority"] = json!({
                        "name": "envoy.retry_priorities.previous_priorities",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                            "update_frequency": 2,
                        },
                    });
                }
            }
        }
        Some("DestinationRule") => {
            let policy = &spec["trafficPolicy"];
            let (pool, outliers) = (&policy["connectionPool"], &policy["outlierDetection"]);
            for cluster in clusters(config, "OUTBOUND", &spec["host"]) {
                cluster["connect_timeout"] = json!("0.5s");
                ensure!(pool["tcp"]["connectTimeout"] == "500ms", "{pool}");
                cluster["circuit_breakers"]["thresholds"][0]["max_retries"] = pool["http"]["maxRetries"].clone();
                // Istio switches off what it does not set.
                cluster["outlier_detection"] = json!({
                    "consecutive_5xx": outliers["consecutive5xxErrors"],
                    "enforcing_consecutive_5xx": 0,
                    "consecutive_gateway_failure": outliers["consecutiveGatewayErrors"],
                    "enforcing_consecutive_gateway_failure": 100,
                    "split_external_local_origin_errors": outliers["splitExternalLocalOriginErrors"],
                    "consecutive_local_origin_failure": outliers["consecutiveLocalOriginFailures"],
                    "enforcing_local_origin_success_rate": 0,
                    "enforcing_success_rate": 0,
                    "interval": outliers["interval"],
                    "base_ejection_time": outliers["baseEjectionTime"],
                    "max_ejection_percent": outliers["maxEjectionPercent"],
                });
            }
        }
        other => bail!("nobody applies {other:?} here"),
    }
    Ok(())
}
