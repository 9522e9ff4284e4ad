//! The ambient mesh: waypoints, and proxies that reach pods by tunnels (HBONE).

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::Test;
use crate::gateways::managed;
use crate::mesh::{Destination, Mesh, ORDERS, PORT, Setup, pod};
use crate::proxy::Proxy;
use crate::situations::{ALL_ROLES, run};
use crate::support::client::Request;
use crate::ztunnel::Ambient;

pub const TESTS: &[Test] = &[
    ("waypoint", || waypoint(false, false)),
    ("waypoint_with_a_route", || waypoint(false, true)),
    ("waypoint_to_ambient_pods", || waypoint(true, false)),
    ("sidecar_to_ambient_pods", || sidecar(&["orders-1", "orders-2"])),
    ("sidecar_to_pods_of_both_kinds", || sidecar(&["orders-1"])),
];

const HTTPROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: orders, namespace: shop }
spec:
  parentRefs: [{ group: '', kind: Service, name: orders, port: 8080 }]
  rules:
  - backendRefs: [{ name: orders, port: 8080 }]
    timeouts: { request: 15s }
";

/// A plain Envoy lacks filters of Istio's proxy, so they are taken out.
pub const PLAIN_ENVOY: &str = "
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: { name: plain-envoy, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: waypoint }]
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      listener:
        name: connect_terminate
        filterChain:
          filter: { name: envoy.filters.network.http_connection_manager, subFilter: { name: waypoint_downstream_peer_metadata } }
    patch: { operation: REMOVE }
  - applyTo: HTTP_FILTER
    match:
      listener:
        name: main_internal
        filterChain:
          filter: { name: envoy.filters.network.http_connection_manager, subFilter: { name: waypoint_upstream_peer_metadata } }
    patch: { operation: REMOVE }
  - applyTo: LISTENER
    match: { listener: { name: inner_connect_originate } }
    patch: { operation: REMOVE }
";

const WAYPOINT: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: istio-waypoint }
spec: { controllerName: istio.io/mesh-controller }
";

/// Istiod runs for an ambient mesh, and these pods of `orders`, from the first on, are in it.
pub fn with_tunnels(setup: &mut Setup, pods: &[&str]) -> Result<()> {
    setup.environment.push(("PILOT_ENABLE_AMBIENT", "true"));
    for name in pods {
        setup.find("Pod", name)?["metadata"]["annotations"] = json!({"ambient.istio.io/redirection": "enabled"});
    }
    let ambient = setup.ambient.take().map_or_else(Ambient::new, Ok)?;
    setup.ambient = Some(ambient.pods(&setup.pods[..pods.len()]));
    Ok(())
}

/// GETs do not fail with one of two replicas down. POSTs do until it is out: a refusal behind a tunnel looks like a reset, and they
/// may have been processed.
pub fn survives(mesh: &Mesh, destination: Destination<'_>) -> Result<()> {
    ensure!(destination.failures(60, 20)? == 0, "in calm: {}", mesh.story());
    mesh.pods[0].stop();
    let failed = destination.failures(180, 0)?;
    ensure!(failed == 0, "{failed} of 180 requests failed: {}", mesh.story());
    let ejections = mesh.metrics("ejections_total")?;
    ensure!(ejections.values().sum::<u64>() > 0, "nothing was ejected: {}", mesh.story());
    ensure!(mesh.metric("steering_disobeyed_total")? == 0, "requests went astray: {}", mesh.story());
    ensure!(destination.failures(0, 40)? <= 1, "POSTs are steered, too: {}", mesh.story());
    mesh.envoy().wait_for_log(&["host envoy://connect_originate/127.0.0.21:8080 ejected"])?;
    mesh.nothing_leaks()
}

fn waypoint(tunnels: bool, route: bool) -> Result<()> {
    let mut setup = Setup::bare()?;
    setup.ship("waypoint")?;
    setup.add(WAYPOINT)?;
    setup.add(PLAIN_ENVOY)?;
    if route {
        setup.add(HTTPROUTE)?;
    }
    setup.find("Gateway", "waypoint")?["status"] =
        json!({"addresses": [{"type": "Hostname", "value": "waypoint.shop.svc.cluster.local"}]});
    let labels = json!({
        "gateway.istio.io/managed": "istio.io-mesh-controller",
        "gateway.networking.k8s.io/gateway-name": "waypoint",
        "istio.io/gateway-name": "waypoint",
    });
    managed(&mut setup, "waypoint", ("mesh", 15008), 30, &labels)?;
    setup.find("Service", "waypoint")?["spec"]["ports"][0]["appProtocol"] = json!("hbone");
    let metadata = json!({"ISTIO_VERSION": "1.28.0"});
    setup.proxies =
        vec![Proxy { kind: "waypoint", account: "waypoint", metadata, ..Proxy::gateway("waypoint-30", 30, labels) }];
    let client = pod(50, PORT);
    setup.environment.push(("PILOT_ENABLE_AMBIENT", "true"));
    setup.ambient = Some(Ambient::new()?.client(client, SocketAddr::from(([127, 0, 0, 30], 15008)), "10.96.0.10:8080"));
    if tunnels {
        setup.environment.clear();
        with_tunnels(&mut setup, &["orders-1", "orders-2"])?;
    }
    let mesh = run(setup)?;
    mesh.envoy().wait_for_log(&ALL_ROLES)?;
    let orders = Destination { address: client, host: ORDERS.host };
    if tunnels {
        return survives(&mesh, orders);
    }
    ensure!(orders.failures(60, 20)? == 0, "in calm: {}", mesh.story());
    mesh.pods[0].stop();
    let failed = orders.failures(120, 60)?;
    ensure!(failed == 0, "{failed} of 180 requests failed: {}", mesh.story());
    ensure!(mesh.metric("ejections_total")? > 0, "nothing was ejected: {}", mesh.story());
    ensure!(mesh.metric("steering_disobeyed_total")? == 0, "requests went astray: {}", mesh.story());
    // Counted once, though a request passes several listeners.
    let requests = mesh.metric("requests_total")?;
    ensure!(requests == 260, "{requests} of 260 requests were counted: {}", mesh.story());
    mesh.nothing_leaks()
}

/// Endpoints of an ambient mesh beside sidecars.
fn sidecar(pods: &[&str]) -> Result<()> {
    let mut setup = Setup::shop(true)?;
    with_tunnels(&mut setup, pods)?;
    let mesh = run(setup)?;
    mesh.envoy().wait_for_log(&ALL_ROLES)?;
    let first = mesh.send(&Request::get("/"), 1)?;
    ensure!(first.first().context("one was sent")? == &200, "{}", mesh.story());
    survives(&mesh, ORDERS)
}
