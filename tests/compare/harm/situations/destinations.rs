//! Clusters that are not one service of alike hosts, and hosts that are not an address and a port.

use serde_json::{Value, json};

use super::super::super::support::bootstrap::{self, merge};
use super::super::replica::{ASKS, LOCATION};
use super::super::setup::Setup;
use super::super::situation::{Load, Situation};

pub fn all() -> Vec<Situation> {
    vec![
        unrelated(
            "passthrough-one-dead",
            "Unrelated destinations behind one ORIGINAL_DST cluster, and one of them is dead.",
        )
        .setup(passthrough),
        unrelated("passthrough-istio-policy", "The same with the policy that is shipped for Istio.").setup(|setup| {
            passthrough(setup)?;
            setup.policy(&json!({"clusters": shipped_for_istio()?}));
            Ok(())
        }),
        unrelated(
            "forward-proxy-one-dead",
            "Unrelated destinations behind a dynamic forward proxy, and one of them is dead.",
        )
        .setup(forward_proxy),
        (1..20)
            .fold(
                Situation::new(
                    "tenants-one-dead",
                    "A cluster per tenant, twenty of them, and the one host of one is dead.",
                )
                .load(tenant(0).not_judged()),
                |situation, number| situation.load(tenant(number)),
            )
            .hosts(5)
            .down(0, 1.0..5.0)
            .setup(tenants)
            .short(),
        Situation::new("mirror-is-dead", "Requests are mirrored to a cluster whose only host refuses.")
            .load(Load::get(30))
            .load(Load::post(10))
            .hosts(5)
            .down(4, 0.0..20.0)
            .setup(mirror)
            .short(),
        Situation::new(
            "mirrored-one-out",
            "Requests are mirrored to another cluster, and one of four replicas refuses.",
        )
        .load(Load::get(30))
        .load(Load::post(10))
        .hosts(5)
        .down(0, 1.0..4.0)
        .setup(mirror),
        Situation::new("internal-redirects", "Envoy follows redirects by itself, and one of four replicas refuses.")
            .load(Load::get(30).asks(ASKS, 302).asks(LOCATION, "http://there/there"))
            .setup(|setup| {
                setup.action(&json!({"internal_redirect_policy": {"max_internal_redirects": 1}}));
                Ok(())
            })
            .down(0, 2.0..4.0),
        Situation::new(
            "hbone-one-down",
            "Addresses are those of ambient Istio (envoy://…/…), and one of four replicas refuses.",
        )
        .load(Load::get(30))
        .load(Load::post(10))
        .setup(hbone)
        .down(0, 2.0..5.0)
        .seconds(7.0),
        Situation::new("dns-one-down", "Hosts have names that DNS resolves, and one of four replicas refuses.")
            .load(Load::get(30))
            .load(Load::post(10))
            .setup(|setup| {
                let hosts = setup.hosts.iter().map(|host| {
                    let port = host.pointer("/socket_address/port_value").cloned().unwrap_or_default();
                    json!({"socket_address": {"address": "localhost", "port_value": port}})
                });
                setup.hosts = hosts.collect();
                let assignment = setup.assignment(setup.every_host());
                setup.cluster(&json!({"type": "STRICT_DNS", "dns_lookup_family": "V4_ONLY"}));
                setup.clusters[0]["load_assignment"] = assignment;
                Ok(())
            })
            .down(0, 2.0..5.0)
            .seconds(7.0),
    ]
}

/// The first destination is dead, and nobody else's.
fn unrelated(name: &'static str, about: &'static str) -> Situation {
    Situation::new(name, about)
        .hosts(3)
        .load(Load::get(20).path("/dead").not_judged())
        .load(Load::get(20))
        .load(Load::get(20).path("/other"))
        .down(0, 1.0..20.0)
}

/// One route for each destination, which `rewrite` leads there.
fn by_destination(setup: &mut Setup, rewrite: impl Fn(&str) -> Value) {
    let hosts = setup.hosts.iter().map(|host| {
        let port = host.pointer("/socket_address/port_value").and_then(Value::as_u64).unwrap_or_default();
        format!("127.0.0.1:{port}")
    });
    let hosts: Vec<String> = hosts.collect();
    for (path, host) in [("/dead", 0), ("/other", 2)] {
        let mut route = rewrite(&hosts[host]);
        route["match"] = json!({"prefix": path});
        setup.first_route(&route);
    }
    if let Some(last) = setup.virtual_host()["routes"].as_array_mut().and_then(|routes| routes.last_mut()) {
        merge(last, &rewrite(&hosts[1]));
    }
}

fn passthrough(setup: &mut Setup) -> anyhow::Result<()> {
    by_destination(setup, |host| {
        let header = json!({"key": "x-envoy-original-dst-host", "value": host});
        json!({"request_headers_to_add": [{"header": header}]})
    });
    let cluster = &mut setup.clusters[0];
    if let Some(fields) = cluster.as_object_mut() {
        fields.remove("load_assignment");
        fields.remove("load_balancing_policy");
    }
    merge(
        cluster,
        &json!({
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "original_dst_lb_config": {"use_http_header": true},
        }),
    );
    Ok(())
}

/// `clusters` of `envoy/istio/wasmplugin.yaml`.
fn shipped_for_istio() -> anyhow::Result<Value> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/istio/wasmplugin.yaml");
    let resource: Value = serde_yaml_ng::from_str(&std::fs::read_to_string(path)?)?;
    Ok(resource["spec"]["pluginConfig"]["clusters"].clone())
}

fn forward_proxy(setup: &mut Setup) -> anyhow::Result<()> {
    by_destination(setup, |host| json!({"route": {"host_rewrite_literal": host}}));
    let cache = json!({"name": "forward_proxy", "dns_lookup_family": "V4_ONLY"});
    setup.filter(json!({"name": "forward_proxy", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
        "dns_cache_config": cache,
    }}));
    // Envoy refuses options of the protocol without these in such a cluster.
    if let Some(options) = setup.protocol_options() {
        let verified = json!({"auto_sni": true, "auto_san_validation": true});
        merge(options, &json!({"upstream_http_protocol_options": verified}));
    }
    let cluster = &mut setup.clusters[0];
    if let Some(fields) = cluster.as_object_mut() {
        for field in ["load_assignment", "load_balancing_policy", "type"] {
            fields.remove(field);
        }
    }
    merge(
        cluster,
        &json!({
            "lb_policy": "CLUSTER_PROVIDED",
            "cluster_type": {"name": "dynamic_forward_proxy", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig",
                "dns_cache_config": cache,
            }},
        }),
    );
    Ok(())
}

fn tenant(number: usize) -> Load {
    Load::get(2).asks("x-tenant", format!("tenants-one-dead--{number}"))
}

fn tenants(setup: &mut Setup) -> anyhow::Result<()> {
    for number in 0..20 {
        let mut cluster = setup.clusters[0].clone();
        cluster["name"] = json!(format!("{}--{number}", setup.name));
        let host = if number == 0 { 0 } else { 1 + number % 4 };
        cluster["load_assignment"] = setup.assignment(vec![(host, "")]);
        setup.clusters.push(cluster);
    }
    if let Some(action) = setup.route()["route"].as_object_mut() {
        action.remove("cluster");
    }
    setup.action(&json!({"cluster_header": "x-tenant"}));
    Ok(())
}

/// The fifth host is the mirror.
fn mirror(setup: &mut Setup) -> anyhow::Result<()> {
    let name = format!("{}--mirror", setup.name);
    let mut mirror = setup.clusters[0].clone();
    mirror["name"] = json!(name);
    mirror["load_assignment"] = setup.assignment(vec![(4, "")]);
    setup.clusters[0]["load_assignment"] = setup.assignment((0..4).map(|host| (host, "")).collect());
    setup.clusters.push(mirror);
    setup.action(&json!({"request_mirror_policies": [{"cluster": name}]}));
    Ok(())
}

/// Each host behind an internal listener, as what carries HBONE is.
fn hbone(setup: &mut Setup) -> anyhow::Result<()> {
    let mut endpoints = Vec::new();
    for (number, host) in setup.hosts.clone().into_iter().enumerate() {
        let name = format!("{}--{number}", setup.name);
        let port = host.pointer("/socket_address/port_value").and_then(Value::as_u64).unwrap_or_default();
        let address = json!({"server_listener_name": name, "endpoint_id": format!("127.0.0.1:{port}")});
        endpoints.push(json!({"endpoint": {"address": {"envoy_internal_address": address}}}));
        setup.listeners.push(json!({
            "name": name,
            "internal_listener": {},
            "filter_chains": [{"filters": [{"name": "tcp", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": name, "cluster": name,
            }}]}],
        }));
        let mut tunnel = bootstrap::cluster(&name, &[]);
        tunnel["load_assignment"]["endpoints"] = json!([{"lb_endpoints": [{"endpoint": {"address": host}}]}]);
        setup.clusters.push(tunnel);
    }
    setup.clusters[0]["load_assignment"]["endpoints"] = json!([{"lb_endpoints": endpoints}]);
    setup.bootstrap = json!({"bootstrap_extensions": [{"name": "envoy.bootstrap.internal_listener", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.bootstrap.internal_listener.v3.InternalListener"}}]});
    Ok(())
}
