//! Services as people have them, each with Weir and without it.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::Test;
use crate::mesh::{Mesh, Setup};
use crate::support::client::Request;

pub const TESTS: &[Test] = &[
    ("plain", || one_pod_down(|_| Ok(()))),
    ("traffic_distribution", || {
        one_pod_down(|setup| {
            setup.find("Service", "orders")?["spec"]["trafficDistribution"] = json!("PreferClose");
            Ok(())
        })
    }),
    ("locality_weights", || {
        one_pod_down(|setup| {
            let to = json!({"here/a/*": 80, "here/b/*": 20});
            balance(setup, json!({"localityLbSetting": {"distribute": [{"from": "here/a/*", "to": to}]}}))
        })
    }),
    ("locality_failover_of_the_mesh", || {
        one_pod_down(|setup| {
            setup.mesh =
                json!({"localityLbSetting": {"enabled": true, "failoverPriority": ["topology.istio.io/network"]}});
            Ok(())
        })
    }),
    ("round_robin", || one_pod_down(|setup| balance(setup, json!({"simple": "ROUND_ROBIN"})))),
    ("warm_up", || {
        one_pod_down(|setup| balance(setup, json!({"simple": "ROUND_ROBIN", "warmup": {"duration": "30s"}})))
    }),
    ("subset", || {
        one_pod_down(|setup| {
            setup.find("DestinationRule", "orders")?["spec"]["subsets"] =
                json!([{"name": "v1", "labels": {"version": "v1"}}]);
            setup.find("VirtualService", "orders")?["spec"]["http"][0]["route"][0]["destination"]["subset"] =
                json!("v1");
            Ok(())
        })
    }),
    ("another_filter", || one_pod_down(|setup| setup.add(ANOTHER_FILTER))),
    ("consistent_hash", || {
        no_worse(|setup| {
            // In one zone: with hashes, Envoy's retries do not leave it.
            setup.find("Pod", "orders-2")?["metadata"]["labels"]["istio-locality"] = json!("here.a");
            balance(setup, json!({"consistentHash": {"httpHeaderName": "x-user"}}))
        })
    }),
    ("headless", || {
        nothing_refused(|setup| {
            let spec = &mut setup.find("Service", "orders")?["spec"];
            spec["clusterIP"] = json!("None");
            spec["clusterIPs"] = json!(["None"]);
            Ok(())
        })
    }),
    ("passthrough", || nothing_refused(|setup| balance(setup, json!({"simple": "PASSTHROUGH"})))),
    ("service_entries", || one_pod_down(|setup| setup.add(SERVICE_ENTRIES))),
];

const ANOTHER_FILTER: &str = r#"
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: { name: somebody, namespace: shop }
spec:
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_OUTBOUND
      listener:
        filterChain:
          filter: { name: envoy.filters.network.http_connection_manager, subFilter: { name: envoy.filters.http.router } }
    patch:
      operation: INSERT_BEFORE
      value:
        name: somebody
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation
          mutations:
            request_mutations: [{ append: { header: { key: x-somebody, value: was-here } } }]
"#;

const SERVICE_ENTRIES: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: static, namespace: shop }
spec:
  hosts: [static.example]
  ports: [{ number: 8081, name: http, protocol: HTTP }]
  resolution: STATIC
  endpoints: [{ address: 127.0.0.31 }]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: dns, namespace: shop }
spec:
  hosts: [dns.example]
  ports: [{ number: 8081, name: http, protocol: HTTP }]
  resolution: DNS
  endpoints: [{ address: localhost }]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: none, namespace: shop }
spec:
  hosts: [none.example]
  addresses: [127.0.0.32]
  ports: [{ number: 8081, name: http, protocol: HTTP }]
  resolution: NONE
"#;

/// Says how the service is balanced.
fn balance(setup: &mut Setup, balancer: serde_json::Value) -> Result<()> {
    setup.find("DestinationRule", "orders")?["spec"]["trafficPolicy"]["loadBalancer"] = balancer;
    Ok(())
}

type Change = fn(&mut Setup) -> Result<()>;

fn start(weir: bool, change: Change) -> Result<Mesh> {
    let mut setup = Setup::shop(weir)?;
    change(&mut setup)?;
    let mesh = setup.start()?;
    mesh.nothing_is_refused()?;
    if weir {
        mesh.envoy.wait_for_log(&["roles decide, watch, guard", "stateful_session"])?;
    }
    Ok(mesh)
}

fn nothing_refused(change: Change) -> Result<()> {
    start(true, change)?;
    Ok(())
}

/// How many of so many GETs fail, and of so many POSTs, while one of two pods is down.
fn failures(mesh: &Mesh) -> Result<usize> {
    let calm = mesh.send(&Request::get("/"), 60)?;
    ensure!(calm.iter().all(|status| *status == 200), "in a calm cluster: {calm:?}\n{}", mesh.envoy.log_end());
    mesh.pods[0].stop();
    let mut statuses = mesh.send(&Request::get("/"), 150)?;
    statuses.extend(mesh.send(&Request::post("/"), 60)?);
    statuses.extend(mesh.send(&Request::get("/"), 50)?);
    Ok(statuses.iter().filter(|status| **status != 200).count())
}

/// Envoy refuses nothing, no request fails, the pod that is down is out and left alone, and the others see nothing of that.
fn one_pod_down(change: Change) -> Result<()> {
    let mesh = start(true, change)?;
    let failed = failures(&mesh)?;
    ensure!(failed == 0, "{failed} requests failed: {}", mesh.envoy.log_end());
    ensure!(mesh.metric("ejections_total")? > 0, "nothing was ejected: {}", mesh.envoy.log_end());
    ensure!(mesh.metric("steering_disobeyed_total")? == 0, "requests went astray: {}", mesh.envoy.log_end());
    let leaks = |(name, _): &&(String, String)| name.starts_with("x-weir") || name.starts_with("x-envoy-retr");
    let leak = mesh.pods.iter().flat_map(|pod| pod.seen()).flatten().find(|header| leaks(&header));
    ensure!(leak.is_none(), "a pod saw {leak:?}");
    // What explores may meet it, and be retried.
    let before = mesh.pods[1].count();
    mesh.send(&Request::get("/"), 100)?;
    ensure!(mesh.pods[1].count() - before == 100, "some requests were lost");
    Ok(())
}

/// Envoy refuses nothing, and no more requests fail than without Weir.
fn no_worse(change: Change) -> Result<()> {
    let without = failures(&start(false, change)?)?;
    let mesh = start(true, change)?;
    let with = failures(&mesh)?;
    let story = mesh.envoy.log_end();
    ensure!(with <= without, "{with} requests fail with Weir, and {without} without it: {story}");
    Ok(())
}
