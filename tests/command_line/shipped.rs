//! The resources in `envoy/istio/` and `envoy/gateway/`: they touch what they name and nothing else, whatever is done to them on their
//! way into Kubernetes.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};
use weir::config::{self, ClusterPolicy, Policy};

use super::support::without_nulls;
use super::weir;

/// Those with a policy, and the clusters that they are for.
const POLICIES: [(&str, &[&str]); 8] = [
    ("istio/gateway.yaml", SERVICE),
    ("istio/gateway-api.yaml", SERVICE),
    ("istio/waypoint.yaml", &["inbound-vip|8080|http|orders.shop.svc.cluster.local"]),
    ("istio/decide.yaml", SERVICE),
    ("istio/wasmplugin.yaml", SERVICE),
    ("istio/trafficextension.yaml", SERVICE),
    ("gateway/envoypatchpolicy.yaml", &["httproute/shop/orders/rule/0", "httproute/shop/orders/rule/1"]),
    ("gateway/envoyextensionpolicy.yaml", &["httproute/shop/orders/rule/0", "httproute/shop/orders/rule/1"]),
];
/// The service's cluster, and that of a subset.
const SERVICE: &[&str] =
    &["outbound|8080||orders.shop.svc.cluster.local", "outbound|8080|v1|orders.shop.svc.cluster.local"];

const OTHERS: [&str; 8] = [
    "PassthroughCluster",
    "InboundPassthroughCluster",
    "outbound|8080||payments.shop.svc.cluster.local",
    "outbound|8080||reorders.shop.svc.cluster.local",
    "outbound|8080||orders.other.svc.cluster.local",
    "inbound|8080||",
    "httproute/shop/payments/rule/0",
    "httproute/other/orders/rule/0",
];

fn documents(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    let documents = serde_yaml_ng::Deserializer::from_str(&text).map(|it| Value::deserialize(it).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy").join(file)
}

/// All resources of both folders.
fn resources() -> Vec<PathBuf> {
    let files = ["istio", "gateway"].iter().flat_map(|folder| std::fs::read_dir(shipped(folder)).unwrap());
    let files = files.map(|file| file.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|file| file.extension().is_some_and(|it| it == "yaml")).collect();
    files.sort();
    files
}

/// Also in text that is JSON.
fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().any(has_null),
        Value::Array(items) => items.iter().any(has_null),
        Value::String(text) if text.trim_start().starts_with('{') => has_null(&serde_json::from_str(text).unwrap()),
        _ => false,
    }
}

/// The policy in a resource.
fn policy(value: &Value) -> Option<Policy> {
    let given =
        ["pluginConfig", "config"].iter().find_map(|name| value.get(name)).filter(|it| it.get("role").is_some());
    let text = value.get("configuration").and_then(|any| any["value"].as_str()).map(str::to_owned);
    let text = text.or_else(|| given.map(Value::to_string));
    let parsed = text.map(|text| config::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}")));
    parsed.and_then(|config| config.policy).or_else(|| match value {
        Value::Object(fields) => fields.values().find_map(policy),
        Value::Array(items) => items.iter().find_map(policy),
        _ => None,
    })
}

#[test]
fn only_what_they_name_is_touched() {
    for (file, ours) in POLICIES {
        let policy = documents(&shipped(file)).iter().find_map(policy).unwrap_or_else(|| panic!("{file}: no policy"));
        for cluster in ours {
            let ClusterPolicy { retry, outlier_detection, circuit_breaker, .. } = policy.for_cluster(cluster);
            let on = retry.is_some() && outlier_detection.is_some() && circuit_breaker.is_some();
            assert!(on, "{file}: {cluster}: {:?}", policy.for_cluster(cluster));
        }
        for cluster in OTHERS {
            let own = policy.for_cluster(cluster).clone();
            let off =
                ClusterPolicy { retry: None, outlier_detection: None, circuit_breaker: None, steered: true, ..own };
            assert_eq!(*policy.for_cluster(cluster), off, "{file}: {cluster}");
        }
    }
}

#[test]
fn no_tool_changes_a_policy_by_dropping_nulls() {
    let files = resources();
    assert!(files.len() > 9, "{files:?}");
    for file in files {
        let documents = documents(&file);
        for document in &documents {
            assert!(!has_null(document), "{} has a null", file.display());
        }
        let apply = |documents: Vec<Value>| documents.iter().find_map(policy);
        assert_eq!(apply(documents.iter().map(without_nulls).collect()), apply(documents), "{}", file.display());
    }
}

/// The files for gateways and waypoints have the filters of `decide.yaml` and `attempts.yaml`, for other proxies.
#[test]
fn the_variants_say_what_the_files_for_sidecars_say() {
    let filters = |file: &str| -> Vec<Value> {
        let all = documents(&shipped(file));
        all.into_iter().filter(|document| document["kind"] == "EnvoyFilter").collect()
    };
    let sidecars = [filters("istio/decide.yaml"), filters("istio/attempts.yaml")].concat();
    let target = |name: &str| json!([{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name}]);
    for (file, namespace, kind, context, selector) in [
        ("istio/gateway.yaml", "istio-system", "gateway", "GATEWAY", json!({"istio": "ingressgateway"})),
        ("istio/gateway-api.yaml", "shop", "gateway", "GATEWAY", target("shop")),
        ("istio/waypoint.yaml", "shop", "waypoint", "SIDECAR_INBOUND", target("waypoint")),
    ] {
        let mut wanted = sidecars.clone();
        for filter in &mut wanted {
            let name = filter["metadata"]["name"].as_str().unwrap().replace("weir-", &format!("weir-{kind}-"));
            filter["metadata"] = json!({"name": name, "namespace": namespace});
            let spec = filter["spec"].as_object_mut().unwrap();
            spec.remove("workloadSelector");
            if selector.is_array() {
                spec.insert("targetRefs".to_owned(), selector.clone());
            } else {
                spec.insert("workloadSelector".to_owned(), json!({"labels": selector}));
            }
            for patch in spec["configPatches"].as_array_mut().unwrap() {
                patch["match"]["context"] = json!(context);
                if kind == "waypoint" {
                    patch["match"]["listener"]["name"] = json!("main_internal");
                }
            }
        }
        let patches = wanted[1]["spec"]["configPatches"].as_array_mut().unwrap();
        let host = patches.pop().unwrap();
        if kind == "gateway" {
            let mut host = host;
            host["match"]["routeConfiguration"]["vhost"]["name"] = json!("shop.example.com:80");
            patches.push(host);
        } else {
            // The session stands in the service's own filter chain, in place of the virtual host.
            let session = &mut patches[1];
            session["match"]["listener"]["filterChain"]["name"] =
                json!("inbound-vip|8080|http|orders.shop.svc.cluster.local");
            let filter = session["patch"]["value"].as_object_mut().unwrap();
            filter.remove("disabled");
            let on = &host["patch"]["value"]["typed_per_filter_config"]["weir.session"]["stateful_session"];
            filter["typed_config"]["session_state"] = on["session_state"].clone();
        }
        let mut wanted = json!(wanted).to_string();
        if kind == "waypoint" {
            wanted = wanted.replace("outbound|*|orders", "inbound-vip|*|orders");
        }
        let wanted: Value = serde_json::from_str(&wanted).unwrap();
        assert_eq!(json!(filters(file)), wanted, "{file}");
    }
}

#[test]
fn weir_check_has_no_warning() {
    let folder = shipped("");
    let bootstraps = ["envoy.yaml", "calm.yaml", "compose/envoy.yaml"].map(|file| folder.join(file));
    for file in resources().iter().chain(&bootstraps) {
        let run = weir(&["check", file.to_str().unwrap()], b"");
        let policies = !run.err.contains("no Wasm plugin");
        assert!(run.status == 0 || !policies, "{}: {}", file.display(), run.err);
        assert!(!run.out.contains("Warnings"), "{}: {}", file.display(), run.out);
    }
}
