//! Gateways as people have them, with Weir as it is shipped, and with a pod that dies.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::host_mode::{Gateway, HTTP, MODULE, ORDERS, Setup, backend};
use crate::mesh::documents;
use crate::pod::Arrived;
use crate::support::client::{Request, exchange};
use crate::support::envoy::{Envoy, Launch};
use crate::support::wait;
use crate::{Test, registry};

pub const TESTS: &[Test] = &[
    ("shipped", shipped),
    ("without_the_new_names", without_the_new_names),
    ("rules", rules),
    ("listeners", listeners),
    ("merged_gateways", merged_gateways),
    ("merged_backends", merged_backends),
    ("canary", canary),
    ("upgrades", upgrades),
    ("a_mistake_in_the_policy", a_mistake_in_the_policy),
    ("an_upstream_access_log_of_the_users", an_upstream_access_log),
    ("decide_alone", decide_alone),
    ("decide_alone_behind_a_rate_limit", decide_alone_behind_a_rate_limit),
    ("decide_alone_without_its_registry", decide_alone_without_its_registry),
];

/// The requests of a client to a path.
struct Load<'a> {
    gateway: &'a Gateway,
    address: SocketAddr,
    path: &'a str,
}

impl<'a> Load<'a> {
    fn to(gateway: &'a Gateway, path: &'a str) -> Self {
        Self { gateway, address: HTTP, path }
    }

    fn send(&self, request: &Request, count: usize) -> Result<Vec<u16>> {
        self.gateway.send_to(self.address, request, count)
    }

    /// With all pods up, nothing fails.
    fn calm(&self) -> Result<()> {
        let mut statuses = self.send(&Request::get(self.path), 40)?;
        statuses.extend(self.send(&Request::post(self.path), 20)?);
        ensure!(statuses.iter().all(|status| *status == 200), "{}, calm: {statuses:?}", self.path);
        Ok(())
    }

    /// How many GETs, POSTs and calls of gRPC fail, of 120, 60 and 40.
    fn failures(&self) -> Result<[usize; 3]> {
        let kinds = [Request::get(self.path), Request::post(self.path), Request::grpc(self.path)];
        let mut failed = [0; 3];
        for ((failed, request), count) in failed.iter_mut().zip(kinds).zip([120, 60, 40]) {
            *failed = self.send(&request, count)?.iter().filter(|status| **status != 200).count();
        }
        Ok(failed)
    }
}

/// The shop, in which something is different: Envoy refuses nothing, and statuses say that all is well.
fn start(change: fn(&mut Setup) -> Result<()>) -> Result<Gateway> {
    let mut setup = Setup::shop()?;
    change(&mut setup)?;
    let gateway = setup.start()?;
    gateway.nothing_is_refused()?;
    gateway.wait_for_log(&["roles decide, watch, guard", "stateful_session"])?;
    gateway.is_programmed("EnvoyPatchPolicy", "shop/weir")?;
    Ok(gateway)
}

/// A pod is down: no request to these paths fails, hosts are ejected in each cluster, and requests are led past them.
fn one_pod_down(gateway: &Gateway, address: SocketAddr, paths: &[(&str, &str)]) -> Result<()> {
    for (path, _) in paths {
        Load { address, ..Load::to(gateway, path) }.calm()?;
    }
    nobody_chooses_a_host(gateway, address, paths)?;
    gateway.pod(ORDERS[0])?.stop();
    for (path, cluster) in paths {
        let failed = Load { address, ..Load::to(gateway, path) }.failures()?;
        ensure!(failed == [0; 3], "{path}: of GETs, POSTs and calls {failed:?} failed: {}", gateway.story());
        ensure!(gateway.metric("ejections_total", cluster)? > 0, "{path}: nothing was ejected: {}", gateway.story());
    }
    ensure!(gateway.metric("steering_disobeyed_total", "")? == 0, "requests went astray: {}", gateway.story());
    nothing_leaks(gateway)
}

/// What a client sends in the headers that steer has no effect.
fn nobody_chooses_a_host(gateway: &Gateway, address: SocketAddr, paths: &[(&str, &str)]) -> Result<()> {
    let pod = gateway.pod(ORDERS[1])?;
    let host = pod.address.to_string();
    let envelope = weir::steering::session::envelope(&host, "-");
    for (path, _) in paths {
        let before = pod.arrived().len();
        let request = Request::get(path).header("x-weir-hosts", &host).header("x-envoy-retry-grpc-on", &envelope);
        ensure!(gateway.send_to(address, &request, 40)?.iter().all(|status| *status == 200), "{path}");
        let reached = pod.arrived().len() - before;
        ensure!(reached < 20, "{path}: {reached} of 40 requests were where a client wanted them");
    }
    Ok(())
}

/// No pod sees what Weir tells Envoy, and none sees what clients sent in its place.
fn nothing_leaks(gateway: &Gateway) -> Result<()> {
    let ours = |name: &&http::HeaderName| {
        name.as_str() != "x-weir-hosts" && name.as_str().starts_with("x-weir")
            || name.as_str().starts_with("x-envoy-retr")
            || name.as_str() == "x-envoy-max-retries"
    };
    for request in gateway.arrived() {
        let leak = request.headers.keys().find(ours);
        ensure!(leak.is_none(), "{} {}: a pod saw {leak:?}", request.method, request.path);
    }
    Ok(())
}

/// The files as they are.
fn shipped() -> Result<()> {
    let gateway = start(|_| Ok(()))?;
    one_pod_down(&gateway, HTTP, &[("/orders", "httproute/shop/orders/rule/0")])?;
    // Pods are told which requests are retries.
    let attempts = |count: &str| {
        let sees = |headers: &http::HeaderMap| headers.get("x-envoy-attempt-count").is_some_and(|own| own == count);
        gateway.arrived().iter().filter(|request| sees(&request.headers)).count()
    };
    ensure!(attempts("1") > 100 && attempts("2") > 0, "{} and {}", attempts("1"), attempts("2"));
    // Clients see nothing of it.
    let response = exchange(HTTP, &Request::get("/orders"))?;
    let ours = response.headers.iter().find(|(name, _)| name.starts_with("x-weir") || name.starts_with("x-envoy-retr"));
    ensure!(ours.is_none(), "a client sees {ours:?}");
    // It comes back.
    gateway.pod(ORDERS[0])?.start()?;
    let before = gateway.pod(ORDERS[0])?.arrived().len();
    let back = wait::until(wait::LIMIT, || {
        gateway.send(&Request::get("/orders"), 10).map_err(|error| format!("{error:#}"))?;
        let seen = gateway.pod(ORDERS[0]).map_or(0, |pod| pod.arrived().len()) - before;
        if seen > 10 { Ok(()) } else { Err(format!("the pod that is back saw {seen} requests")) }
    });
    back.map_err(anyhow::Error::msg)
}

/// Without the runtime flag of the guide the patches find nothing: requests pass as without Weir, and the status says why.
fn without_the_new_names() -> Result<()> {
    let mut setup = Setup::shop()?;
    setup.flags.clear();
    let gateway = setup.start_without_weir()?;
    Load::to(&gateway, "/orders").calm()?;
    let status = gateway.status("EnvoyPatchPolicy", "shop/weir")?;
    ensure!(status.contains("ResourceNotFound") && status.contains("tcp-80"), "{status}");
    ensure!(!gateway.log().contains("weir: "), "Weir runs");
    Ok(())
}

/// A rule more for the route, with what else it has, and with a traffic policy of its own, if that says anything.
fn rule(setup: &mut Setup, name: &str, more: &Value, traffic: &Value) -> Result<()> {
    let mut rule = json!({
        "name": name,
        "matches": [{"path": {"type": "PathPrefix", "value": format!("/{name}")}}],
        "backendRefs": [backend("orders")],
    });
    lay(&mut rule, more);
    let rules = setup.find("HTTPRoute", "orders")?["spec"]["rules"].as_array_mut().context("no rules")?;
    rules.push(rule);
    if traffic.is_null() {
        return Ok(());
    }
    let mut policy = setup.find("BackendTrafficPolicy", "orders")?.clone();
    policy["metadata"]["name"] = json!(name);
    policy["spec"]["targetRefs"][0]["sectionName"] = json!(name);
    lay(&mut policy["spec"], traffic);
    setup.resources.push(policy);
    Ok(())
}

/// Puts fields over those that there are.
fn lay(below: &mut Value, above: &Value) {
    for (name, value) in above.as_object().into_iter().flatten() {
        below[name] = value.clone();
    }
}

/// Rules of all kinds, beside the one that is shipped, and one policy for them.
fn rules() -> Result<()> {
    const CREDENTIAL: &str = "
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: HTTPRouteFilter
metadata: { name: credential, namespace: shop }
spec: { credentialInjection: { overwrite: true, credential: { valueRef: { name: credential } } } }
---
apiVersion: v1
kind: Secret
metadata: { name: credential, namespace: shop }
data: { credential: QmVhcmVyIHNlY3JldA== }
";
    const CALLS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: { name: calls, namespace: shop }
spec:
  parentRefs: [{ name: eg }]
  rules:
  - matches: [{ method: { service: shop.Calls } }]
    backendRefs: [{ group: gateway.envoyproxy.io, kind: Backend, name: orders }]
";
    let gateway = start(|setup| {
        rule(setup, "second", &Value::Null, &Value::Null)?;
        let zones = json!({"type": "RoundRobin", "zoneAware": {"preferLocal": {}}});
        rule(setup, "zone", &Value::Null, &json!({"loadBalancer": zones}))?;
        let own = json!({"type": "RoundRobin", "endpointOverride": {"extractFrom": [{"header": "x-pod"}]}});
        // Who chooses hosts, or has a session of the user's, is not steered; Envoy leads the others past hosts that are out.
        let served = documents(include_str!("../../envoy/gateway/envoyextensionpolicy.yaml"))?;
        let health = served.get(1).context("no traffic policy")?["spec"]["healthCheck"].clone();
        rule(setup, "override", &Value::Null, &json!({"loadBalancer": own, "healthCheck": health}))?;
        setup.cluster(&json!({"match": "httproute/shop/orders/rule/3", "steering": "off"}))?;
        rule(setup, "admission", &Value::Null, &json!({"admissionControl": {}}))?;
        rule(
            setup,
            "warm",
            &Value::Null,
            &json!({"loadBalancer": {"type": "LeastRequest", "slowStart": {"window": "30s"}}}),
        )?;
        let mut filtered = backend("orders");
        filtered["filters"] = json!([{"type": "RequestHeaderModifier",
            "requestHeaderModifier": {"add": [{"name": "x-somebody", "value": "was-here"}]}}]);
        rule(setup, "filtered", &json!({"backendRefs": [filtered]}), &Value::Null)?;
        let session = json!({"type": "Header", "sessionName": "x-session"});
        rule(setup, "session", &json!({"sessionPersistence": session}), &json!({"healthCheck": health}))?;
        setup.cluster(&json!({"match": "httproute/shop/orders/rule/7", "steering": "off"}))?;
        let reference = json!({"group": "gateway.envoyproxy.io", "kind": "HTTPRouteFilter", "name": "credential"});
        let injected = json!({"filters": [{"type": "ExtensionRef", "extensionRef": reference}]});
        rule(setup, "credential", &injected, &Value::Null)?;
        setup.add(CREDENTIAL)?;
        setup.add(CALLS)?;
        let mut calls = setup.find("BackendTrafficPolicy", "orders")?.clone();
        calls["metadata"]["name"] = json!("calls");
        calls["spec"]["targetRefs"][0] =
            json!({"group": "gateway.networking.k8s.io", "kind": "GRPCRoute", "name": "calls"});
        setup.resources.push(calls);
        setup.cluster(&json!({"match": "grpcroute/shop/calls/rule/*"}))
    })?;
    let paths: Vec<(&str, &str)> = [
        ("/orders", "rule/0"),
        ("/second", "rule/1"),
        ("/zone", "rule/2"),
        ("/override", "rule/3"),
        ("/admission", "rule/4"),
        ("/warm", "rule/5"),
        ("/filtered", "rule/6"),
        ("/session", "rule/7"),
        ("/credential", "rule/8"),
    ]
    .into();
    one_pod_down(&gateway, HTTP, &paths)?;
    let call = Request::grpc("/shop.Calls/Call");
    let failed = gateway.send(&call, 100)?.iter().filter(|status| **status != 200).count();
    ensure!(failed == 0, "of calls of the GRPCRoute {failed} failed: {}", gateway.story());
    let requests = gateway.metric("requests_total", "grpcroute/shop/calls/rule/0")?;
    ensure!(requests >= 100, "Weir saw {requests} calls of the GRPCRoute: {}", gateway.story());
    // After its first failure a host is suspect, and spared for a second all that may not be repeated, as calls may not. Then one of
    // them tries it again, and it is out.
    let ejected = wait::until(wait::LIMIT, || {
        let failed = gateway.send(&call, 1).map_err(|error| format!("{error:#}"))?.iter().any(|status| *status != 200);
        let ejections = gateway.metric("ejections_total", "grpcroute/").map_err(|error| format!("{error:#}"))?;
        if failed || ejections > 0 { Ok(failed) } else { Err(format!("nothing was ejected: {}", gateway.story())) }
    });
    ensure!(!ejected.map_err(anyhow::Error::msg)?, "a call of the GRPCRoute failed: {}", gateway.story());
    nothing_leaks(&gateway)?;
    let injected = |arrived: &Arrived| {
        arrived.path != "/credential" || arrived.headers.get("authorization").is_some_and(|own| own == "Bearer secret")
    };
    ensure!(gateway.arrived().iter().all(injected), "the credential is missing");
    // Who wants a host by the user's own header gets it.
    let pod = gateway.pod(ORDERS[2])?;
    let before = pod.arrived().len();
    gateway.send(&Request::get("/override").header("x-pod", &pod.address.to_string()), 30)?;
    let reached = pod.arrived().len() - before;
    ensure!(reached == 30, "{reached} of 30 requests were at the pod that the user's own header names");
    // And who has a session stays where it is.
    let session = exchange(HTTP, &Request::get("/session"))?;
    let session = session.header("x-session").context("no session")?.to_owned();
    let before: Vec<usize> = ORDERS.iter().map(|pod| gateway.pod(*pod).map_or(0, |pod| pod.arrived().len())).collect();
    gateway.send(&Request::get("/session").header("x-session", &session), 30)?;
    let after = ORDERS.iter().map(|pod| gateway.pod(*pod).map_or(0, |pod| pod.arrived().len()));
    let reached: Vec<usize> = after.zip(before).map(|(after, before)| after - before).collect();
    ensure!(reached.contains(&30), "of a session, {reached:?} requests were at the pods");
    Ok(())
}

/// HTTPS beside HTTP, and a listener that nobody gave Weir.
fn listeners() -> Result<()> {
    const OTHERS: &str = "
- { name: https, protocol: HTTPS, port: 443, tls: { mode: Terminate, certificateRefs: [{ name: shop }] } }
- { name: other, protocol: HTTP, port: 8888 }
";
    let gateway = start(|setup| {
        let listeners = setup.find("Gateway", "eg")?["spec"]["listeners"].as_array_mut().context("no listeners")?;
        listeners.extend(serde_yaml_ng::from_str::<Vec<Value>>(OTHERS)?);
        let key = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()])?;
        setup.resources.push(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "shop", "namespace": "shop"},
            "type": "kubernetes.io/tls",
            "data": {"tls.crt": base64(&key.cert.pem())?, "tls.key": base64(&key.signing_key.serialize_pem())?},
        }));
        setup.add(
            "
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata: { name: https, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: eg, sectionName: https }]
  http3: {}
",
        )?;
        setup.listener("tcp-443", "shop/eg/https")?;
        setup.listener("udp-443", "shop/eg/https")
    })?;
    let tls = SocketAddr::from((Ipv4Addr::LOCALHOST, 443));
    let (https, http3) = (Edge::start(8443, tls, false)?, Edge::start(8444, tls, true)?);
    let other = SocketAddr::from((Ipv4Addr::LOCALHOST, 8888));
    nobody_chooses_a_host(&gateway, other, &[("/orders", "")])?;
    ensure!(gateway.metric("requests_total", "")? == 0, "Weir is in a listener without patches");
    one_pod_down(&gateway, https.address, &[("/orders", "httproute/shop/orders/rule/0")])?;
    nobody_chooses_a_host(&gateway, http3.address, &[("/orders", "")])?;
    // What one listener has seen, all know.
    for address in [HTTP, http3.address] {
        let failed = Load { address, ..Load::to(&gateway, "/orders") }.failures()?;
        ensure!(failed == [0; 3], "{address}: of GETs, POSTs and calls {failed:?} failed: {}", gateway.story());
    }
    nobody_chooses_a_host(&gateway, other, &[("/orders", "")])?;
    nothing_leaks(&gateway)
}

fn base64(text: &str) -> Result<String> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    let output = Command::new("base64").arg("-w0").arg(file.path()).output().context("cannot run base64")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// An Envoy that speaks HTTPS or HTTP/3 to the Gateway, for clients that speak neither.
pub struct Edge {
    pub address: SocketAddr,
    _envoy: Envoy,
}

impl Edge {
    /// At this port, and where the Gateway is.
    pub fn start(port: u16, gateway: SocketAddr, http3: bool) -> Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let at = |address: SocketAddr, protocol: &str| {
            json!({"socket_address": {
                "protocol": protocol, "address": address.ip().to_string(), "port_value": address.port(),
            }})
        };
        let typed = |name: &str, config: Value| {
            let mut typed = json!({"@type": format!("type.googleapis.com/envoy.extensions.{name}")});
            lay(&mut typed, &config);
            json!({"name": format!("envoy.{name}"), "typed_config": typed})
        };
        let tls = json!({"sni": "shop.example"});
        let (filter, mut cluster, protocol) = if http3 {
            let router = typed("filters.http.router.v3.Router", json!({}));
            let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "gateway"}}]);
            let manager = json!({
                "stat_prefix": "edge",
                "http_filters": [router],
                "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            });
            let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
            let version = json!({
                "@type": format!("type.googleapis.com/{options}"),
                "explicit_http_config": {"http3_protocol_options": {}},
            });
            let mut quic =
                typed("transport_sockets.quic.v3.QuicUpstreamTransport", json!({"upstream_tls_context": tls}));
            quic["name"] = json!("envoy.transport_sockets.quic");
            let cluster = json!({"transport_socket": quic, "typed_extension_protocol_options": {options: version}});
            (typed("filters.network.http_connection_manager.v3.HttpConnectionManager", manager), cluster, "UDP")
        } else {
            // It passes on what clients send as it is.
            let proxy = json!({"stat_prefix": "edge", "cluster": "gateway"});
            let cluster = json!({"transport_socket": typed("transport_sockets.tls.v3.UpstreamTlsContext", tls)});
            (typed("filters.network.tcp_proxy.v3.TcpProxy", proxy), cluster, "TCP")
        };
        lay(
            &mut cluster,
            &json!({"name": "gateway", "type": "STATIC", "load_assignment": {
                "cluster_name": "gateway",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(gateway, protocol)}}]}],
            }}),
        );
        let listener =
            json!({"name": "plain", "address": at(address, "TCP"), "filter_chains": [{"filters": [filter]}]});
        let envoy =
            Launch::json(json!({"static_resources": {"listeners": [listener], "clusters": [cluster]}})).start()?;
        Ok(Self { address, _envoy: envoy })
    }
}

/// All Gateways of a class in one Envoy: then the policy is for the class.
fn merged_gateways() -> Result<()> {
    let gateway = start(|setup| {
        setup.find("EnvoyProxy", "weir")?["spec"]["mergeGateways"] = json!(true);
        let gateway = &mut setup.find("Gateway", "eg")?["spec"];
        let mut proxy = gateway["infrastructure"]["parametersRef"].take();
        gateway["infrastructure"] = Value::Null;
        proxy["namespace"] = json!("shop");
        setup.find("GatewayClass", "eg")?["spec"]["parametersRef"] = proxy;
        setup.find("EnvoyPatchPolicy", "weir")?["spec"]["targetRef"]["kind"] = json!("GatewayClass");
        setup.add(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: other, namespace: shop }
spec: { gatewayClassName: eg, listeners: [{ name: http, protocol: HTTP, port: 8888 }] }
",
        )?;
        let parents = &mut setup.find("HTTPRoute", "orders")?["spec"]["parentRefs"];
        *parents = json!([{"name": "eg"}, {"name": "other"}]);
        setup.listener("tcp-8888", "http-8888")
    })?;
    one_pod_down(&gateway, HTTP, &[("/orders", "httproute/shop/orders/rule/0")])?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8888));
    let failed = Load { address, ..Load::to(&gateway, "/orders") }.failures()?;
    ensure!(failed == [0; 3], "of GETs, POSTs and calls {failed:?} failed: {}", gateway.story());
    Ok(())
}

/// One cluster for all routes to a service: it has another name, for which there is an entry.
fn merged_backends() -> Result<()> {
    let gateway = start(|setup| {
        setup.find("EnvoyProxy", "weir")?["spec"]["mergeBackends"] = json!({});
        // A policy of the route's own keeps its cluster apart.
        let target = &mut setup.find("BackendTrafficPolicy", "orders")?["spec"]["targetRefs"][0];
        *target = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "eg"});
        setup.cluster(&json!({"match": "backend/shop/orders/*"}))
    })?;
    one_pod_down(&gateway, HTTP, &[("/orders", "backend/shop/orders/")])
}

/// A canary keeps its share to within two percent, while no host is out, and with a host out: each of the others then gets more in
/// proportion. No request fails.
fn canary() -> Result<()> {
    const CANARY: u8 = 25;
    const OTHERS: [u8; 7] = [21, 22, 23, 24, 26, 27, 28];
    let gateway = start(|setup| {
        setup.service("stable", &OTHERS)?;
        setup.service("canary", &[CANARY])?;
        let (mut most, mut few) = (backend("stable"), backend("canary"));
        (most["weight"], few["weight"]) = (json!(95), json!(5));
        setup.find("HTTPRoute", "orders")?["spec"]["rules"][0]["backendRefs"] = json!([most, few]);
        Ok(())
    })?;
    let share = |count: usize| -> Result<f64> {
        let before = gateway.pod(CANARY)?.arrived().len();
        let failed = gateway.send(&Request::get("/orders"), count)?.iter().filter(|status| **status != 200).count();
        ensure!(failed == 0, "{failed} of {count} failed: {}", gateway.story());
        Ok((gateway.pod(CANARY)?.arrived().len() - before) as f64 / count as f64)
    };
    let calm = share(4_000)?;
    ensure!((calm - 0.05).abs() < 0.02, "calm, the canary has {calm}");
    gateway.pod(OTHERS[0])?.stop();
    // Until it is out.
    share(100)?;
    ensure!(gateway.metric("ejections_total", "")? > 0, "{}", gateway.story());
    let right = 5.0 / (100.0 - 95.0 / 7.0);
    let out = share(2_000)?;
    println!("the canary has {calm} in calm, and {out} with a host out, where {right:.3} is right");
    ensure!((out - right).abs() < 0.02, "with a host out, the canary has {out}");
    Ok(())
}

/// Sends GETs, POSTs and calls while something changes. None of them fails.
pub fn under_load(
    succeeds: &(dyn Fn(&Request) -> Result<bool> + Sync),
    change: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let ended = AtomicBool::new(false);
    let (sent, failed) = std::thread::scope(|scope| {
        let load = scope.spawn(|| -> Result<(usize, usize)> {
            let (mut sent, mut failed) = (0, 0);
            while sent < 100 || !ended.load(Ordering::Acquire) {
                for request in [Request::get("/orders"), Request::post("/orders"), Request::grpc("/orders")] {
                    failed += usize::from(!succeeds(&request)?);
                    sent += 1;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok((sent, failed))
        });
        let changed = change();
        ended.store(true, Ordering::Release);
        let load = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?;
        changed.and(load)
    })?;
    ensure!(failed == 0, "{failed} of {sent} requests failed");
    Ok(())
}

/// Another policy, and another module, while requests come: none fails.
fn upgrades() -> Result<()> {
    let shipped = Setup::shop()?;
    let gateway = shipped.clone().start()?;
    gateway.wait_for_log(&["roles decide, watch, guard"])?;
    let folder = tempfile::tempdir()?;
    let module = folder.path().join("weir-2.wasm");
    registry::write_another_module(&module)?;
    let told = |parts: &[&str], count: usize| {
        let found = wait::until(wait::LIMIT, || {
            let log = gateway.log();
            let lines = log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count();
            if lines >= count { Ok(()) } else { Err(format!("{lines} lines hold {parts:?}: {}", gateway.story())) }
        });
        found.map_err(anyhow::Error::msg)
    };
    let change = || -> Result<()> {
        let mut shipped = shipped.clone();
        let mut shadow = shipped.clone();
        shadow.policy(|policy| {
            policy["mode"] = json!("shadow");
            Ok(())
        })?;
        gateway.change(&shadow)?;
        told(&["decided and counted, not carried out"], 1)?;
        // Not the text of before: Envoy takes no notice of that until the listener of then is drained.
        shipped.policy(|policy| {
            policy["clusters"][0]["retry"]["maxRetries"] = json!(4);
            Ok(())
        })?;
        gateway.change(&shipped)?;
        told(&["roles decide, watch, guard", "each charged to the budget"], 2)?;
        let mut new = shipped.clone();
        for resource in &mut new.resources {
            *resource = serde_json::from_str(&resource.to_string().replace(MODULE, &module.to_string_lossy()))?;
        }
        gateway.change(&new)?;
        let loaded = || -> Result<()> {
            let dump = gateway.admin.get("/config_dump?resource=dynamic_listeners")?;
            let new = dump.contains("weir-2.wasm") && !dump.contains("warming_state");
            ensure!(new, "the former module is there: {}", gateway.story());
            Ok(())
        };
        wait::until_ok(loaded)
    };
    under_load(&|request| gateway.send(request, 1).map(|statuses| statuses == [200]), change)
        .with_context(|| gateway.story())?;
    gateway.nothing_is_refused()?;
    one_pod_down(&gateway, HTTP, &[("/orders", "httproute/shop/orders/rule/0")])
}

/// Statuses say that all is well; Weir says what is wrong, and requests pass as without it.
fn a_mistake_in_the_policy() -> Result<()> {
    let mut setup = Setup::shop()?;
    setup.policy(|policy| {
        policy["clusters"][0]["retry"] = json!({"maxretries": 2});
        Ok(())
    })?;
    let gateway = setup.start()?;
    gateway.nothing_is_refused()?;
    gateway.wait_for_log(&["configuration refused", "clusters[0].retry.maxretries"])?;
    ensure!(gateway.metric("configuration_refused", "")? > 0, "{}", gateway.story());
    Load::to(&gateway, "/orders").calm()?;
    gateway.pod(ORDERS[0])?.stop();
    let failed = Load::to(&gateway, "/orders").failures()?;
    // Envoy Gateway's own retries are there.
    ensure!(failed == [0; 3], "of GETs, POSTs and calls {failed:?} failed: {}", gateway.story());
    nothing_leaks(&gateway)
}

/// It stays, and Weir's joins it.
fn an_upstream_access_log() -> Result<()> {
    let gateway = start(|setup| {
        let log = json!({"settings": [{
            "type": "Upstream",
            "format": {"type": "Text", "text": "SOMEBODY'S LOG %RESPONSE_CODE%\n"},
            "sinks": [{"type": "File", "file": {"path": "/dev/stdout"}}],
        }]});
        setup.find("EnvoyProxy", "weir")?["spec"]["telemetry"] = json!({"accessLog": log});
        Ok(())
    })?;
    Load::to(&gateway, "/orders").calm()?;
    gateway.wait_for_log(&["SOMEBODY'S LOG 200"])?;
    ensure!(gateway.metric("attempts_total", "")? >= 60, "Weir does not see the attempts");
    Ok(())
}

/// Role decide by EnvoyExtensionPolicy, with the module from a registry.
fn decide_alone() -> Result<()> {
    registry::serve(REGISTRY)?;
    let gateway = served(true)?.start()?;
    gateway.nothing_is_refused()?;
    gateway.wait_for_log(&["roles decide;"])?;
    let status = gateway.status("EnvoyExtensionPolicy", "shop/weir")?;
    ensure!(status.contains("Policy has been accepted"), "{status}");
    Load::to(&gateway, "/orders").calm()?;
    gateway.pod(ORDERS[0])?.stop();
    let failed = Load::to(&gateway, "/orders").failures()?;
    ensure!(failed == [0; 3], "of GETs, POSTs and calls {failed:?} failed: {}", gateway.story());
    ensure!(gateway.metric("retries_total", "httproute/shop/orders/rule/0")? > 0, "Weir retried nothing");
    nothing_leaks(&gateway)
}

/// With the `filterOrder` of the guide, what a local rate limit answers is no request of Weir's. The policy is given as text.
fn decide_alone_behind_a_rate_limit() -> Result<()> {
    registry::serve(REGISTRY)?;
    let mut setup = served(true)?;
    let config = &mut setup.find("EnvoyExtensionPolicy", "weir")?["spec"]["wasm"][0]["config"];
    *config = json!(config.to_string());
    let limit = json!({"requests": 10, "unit": "Hour"});
    setup.find("BackendTrafficPolicy", "orders")?["spec"]["rateLimit"] =
        json!({"type": "Local", "local": {"rules": [{"limit": limit}]}});
    let wasm = json!({"name": "envoy.filters.http.wasm", "after": "envoy.filters.http.local_ratelimit"});
    setup.find("EnvoyProxy", "weir")?["spec"]["filterOrder"] = json!([wasm]);
    let gateway = setup.start()?;
    gateway.nothing_is_refused()?;
    gateway.wait_for_log(&["roles decide;"])?;
    let statuses = gateway.send(&Request::get("/orders"), 40)?;
    let limited = statuses.iter().filter(|status| **status == 429).count();
    ensure!(limited == 30, "{limited} of 40 requests were limited: {statuses:?}");
    let requests = gateway.metric("requests_total", "httproute/shop/orders/rule/0")?;
    ensure!(requests == 10, "of 10 requests that were let through, {requests} were counted: {}", gateway.story());
    Ok(())
}

/// The registry is down: the status says so, and requests pass as without Weir.
fn decide_alone_without_its_registry() -> Result<()> {
    let gateway = served(false)?.start_without_weir()?;
    gateway.nothing_is_refused()?;
    Load::to(&gateway, "/orders").calm()?;
    gateway.pod(ORDERS[0])?.stop();
    let failed = Load::to(&gateway, "/orders").failures()?;
    ensure!(failed == [0; 3], "of GETs, POSTs and calls {failed:?} failed: {}", gateway.story());
    let status = gateway.status("EnvoyExtensionPolicy", "shop/weir")?;
    ensure!(status.contains("could not fetch Wasm OCI image"), "{status}");
    nothing_leaks(&gateway)
}

const REGISTRY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5000);

/// The shop with the EnvoyExtensionPolicy, and with a registry that is up or down.
fn served(up: bool) -> Result<Setup> {
    let mut setup = Setup::with(&["envoyextensionpolicy"])?;
    let policy = setup.find("EnvoyExtensionPolicy", "weir")?;
    policy["spec"]["wasm"][0]["code"]["image"]["url"] = json!(format!("{REGISTRY}/weir:0.1.0"));
    if up {
        setup.wasm_from_here();
    }
    Ok(setup)
}
