//! Gateways, of Istio's API and of the Gateway API, with the files that are shipped for them.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::Test;
use crate::behind::signals;
use crate::mesh::{Destination, Mesh, Setup};
use crate::proxy::Proxy;
use crate::situations::{ALL_ROLES, run};
use crate::support::client::{Request, exchange};

pub const TESTS: &[Test] = &[
    ("gateway", || one_pod_down(&run(gateway()?)?)),
    ("gateway_api", || one_pod_down(&run(gateway_api()?)?)),
    ("gateway_to_sidecars", gateway_to_sidecars),
    ("gateway_to_ambient_pods", gateway_to_ambient_pods),
];

/// What clients outside ask.
const OUTSIDE: Destination<'_> = Destination {
    address: std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 10)), 80),
    host: "shop.example.com",
};

/// The DestinationRule of the guide, which is for gateways as well.
fn destination_rule(setup: &mut Setup) -> Result<()> {
    setup.ship("traffic")?;
    setup.resources.retain(|resource| resource["kind"] != "VirtualService" || resource["metadata"]["name"] != "orders");
    Ok(())
}

fn gateway() -> Result<Setup> {
    let mut setup = Setup::bare()?;
    setup.ship("gateway")?;
    destination_rule(&mut setup)?;
    let labels = json!({"istio": "ingressgateway"});
    setup.proxies = vec![Proxy { namespace: "istio-system", ..Proxy::gateway("ingressgateway-1", 10, labels) }];
    Ok(setup)
}

/// What istiod makes of the Gateway resource in a cluster: a Service and a pod.
pub fn managed(setup: &mut Setup, name: &str, port: (&str, u16), last: u8, labels: &Value) -> Result<()> {
    setup.service(name, &[port], &[last])?;
    let service = setup.find("Service", name)?;
    service["metadata"]["labels"] = labels.clone();
    service["spec"]["selector"] = labels.clone();
    setup.find("Pod", &format!("{name}-{last}"))?["metadata"]["labels"] = labels.clone();
    Ok(())
}

fn gateway_api() -> Result<Setup> {
    let mut setup = Setup::bare()?;
    setup.ship("gateway-api")?;
    setup.add(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: istio }
spec: { controllerName: istio.io/gateway-controller }",
    )?;
    let labels = json!({
        "gateway.networking.k8s.io/gateway-name": "shop",
        "gateway.networking.k8s.io/gateway-class-name": "istio",
    });
    managed(&mut setup, "shop-istio", ("http", 80), 10, &labels)?;
    setup.proxies = vec![Proxy { account: "shop-istio", ..Proxy::gateway("shop-istio-10", 10, labels) }];
    Ok(setup)
}

/// No request fails with one of the two replicas down, and nothing of Weir's is seen outside or by the pods.
fn one_pod_down(mesh: &Mesh) -> Result<()> {
    mesh.envoy().wait_for_log(&ALL_ROLES)?;
    ensure!(OUTSIDE.failures(60, 0)? == 0, "in calm: {}", mesh.story());
    mesh.pods[0].stop();
    let failed = OUTSIDE.failures(120, 60)?;
    ensure!(failed == 0, "{failed} of 180 requests failed: {}", mesh.story());
    ensure!(mesh.metric("ejections_total")? > 0, "nothing was ejected: {}", mesh.story());
    ensure!(mesh.metric("steering_disobeyed_total")? == 0, "requests went astray: {}", mesh.story());
    mesh.nothing_leaks()?;
    // Clients choose no host, whatever they send.
    let chosen = format!("{};UV:LQ==", "MTI3LjAuMC4yMTo4MDgw");
    let request = Request::get("/").header("host", OUTSIDE.host).header("x-envoy-retry-grpc-on", &chosen);
    for _ in 0..20 {
        let response = exchange(OUTSIDE.address, &request)?;
        ensure!(response.status == 200, "a client chose the pod that is down: {}", mesh.story());
        let own = ["x-weir-hosts", "x-envoy-attempt-count", "proxy-status"];
        let leak = own.iter().find(|name| response.header(name).is_some());
        ensure!(leak.is_none(), "a client sees {leak:?}");
    }
    Ok(())
}

/// Pods behind sidecars, which tell the gateway of refusals: POSTs are repeated, and what they tell is not seen outside.
fn gateway_to_sidecars() -> Result<()> {
    let mut setup = gateway()?;
    setup.ship("proxy-status")?;
    crate::behind::with_sidecars(&mut setup)?;
    let mesh = run(setup)?;
    one_pod_down(&mesh)?;
    let (refused, errors) = (signals(&mesh, "refused")?, signals(&mesh, "error")?);
    ensure!(refused > 0 && errors == 0, "{refused} refused, {errors} errors: {}", mesh.story());
    Ok(())
}

/// Pods of an ambient mesh, which the gateway reaches by tunnels.
fn gateway_to_ambient_pods() -> Result<()> {
    let mut setup = gateway()?;
    crate::ambient::with_tunnels(&mut setup, &["orders-1", "orders-2"])?;
    let mesh = run(setup)?;
    mesh.envoy().wait_for_log(&ALL_ROLES)?;
    crate::ambient::survives(&mesh, OUTSIDE)
}
