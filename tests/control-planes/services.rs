//! Services of other kinds, several of them, and several clients.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use serde_json::json;

use crate::Test;
use crate::mesh::{Destination, Mesh, ORDERS, Setup, pod};
use crate::proxy::Proxy;
use crate::situations::{one_pod_down, rule, start, survives};
use crate::support::client::{Request, exchange};
use crate::support::{client_h2, wait};

pub const TESTS: &[Test] = &[
    ("service_entries_beside", || one_pod_down(|setup| setup.add(SERVICE_ENTRIES))),
    ("service_entry_static", || service_entry("static.example")),
    ("service_entry_dns", || service_entry("dns.example")),
    ("service_entries_named", service_entries_named),
    ("http2", || http2("http2")),
    ("grpc", || http2("grpc")),
    ("faults", faults),
    ("mirror", mirror),
    ("several_ports", several_ports),
    ("two_policies", two_policies),
    ("several_clients", several_clients),
];

const SERVICE_ENTRIES: &str = r#"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: static, namespace: shop }
spec:
  hosts: [static.example]
  ports: [{ number: 8081, name: http, protocol: HTTP }]
  resolution: STATIC
  endpoints: [{ address: 127.0.0.31 }, { address: 127.0.0.32 }]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: dns, namespace: shop }
spec:
  hosts: [dns.example]
  ports: [{ number: 8081, name: http, protocol: HTTP }]
  resolution: DNS
  endpoints: [{ address: 127.0.0.31 }, { address: 127.0.0.32 }]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: dns-round-robin, namespace: shop }
spec:
  hosts: [round-robin.example]
  ports: [{ number: 8081, name: http, protocol: HTTP }]
  resolution: DNS_ROUND_ROBIN
  endpoints: [{ address: localhost }]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: dynamic, namespace: shop }
spec:
  hosts: ["*.dynamic.example"]
  ports: [{ number: 8081, name: http, protocol: HTTP }]
  resolution: DYNAMIC_DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: none, namespace: shop }
spec:
  hosts: [none.example]
  addresses: [127.0.0.33]
  ports: [{ number: 8081, name: http, protocol: HTTP }]
  resolution: NONE
"#;

/// Those of clusters, less what is in the label of others.
fn of_cluster(mesh: &Mesh, metric: &str, cluster: &str) -> Result<u64> {
    let metrics = mesh.metrics(metric)?;
    Ok(metrics.iter().filter(|(name, _)| name.contains(cluster)).map(|(_, value)| *value).sum())
}

/// A service outside of the mesh, named in the policy.
fn service_entry(host: &'static str) -> Result<()> {
    let mut setup = Setup::shop(true)?;
    setup.add(SERVICE_ENTRIES)?;
    setup.name_in_weir(host, 8081)?;
    setup.pods.extend([pod(31, 8081), pod(32, 8081)]);
    let mesh = crate::situations::run(setup)?;
    let destination = Destination { address: pod(11, 8081), host };
    ensure!(destination.failures(60, 0)? == 0, "in calm: {}", mesh.story());
    mesh.pods[2].stop();
    let failed = destination.failures(150, 60)?;
    ensure!(failed == 0, "{failed} requests failed: {}", mesh.story());
    ensure!(of_cluster(&mesh, "ejections_total", host)? > 0, "nothing was ejected: {}", mesh.story());
    mesh.nothing_leaks()
}

/// Services outside of the mesh where Weir can choose no host: of one address, and of those that clients name. Envoy refuses nothing, and
/// one that was gone is there again with the first request that it takes.
fn service_entries_named() -> Result<()> {
    let mut setup = Setup::shop(true)?;
    setup.add(SERVICE_ENTRIES)?;
    for host in ["round-robin.example", "none.example"] {
        setup.name_in_weir(host, 8081)?;
    }
    setup.pods.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)));
    let mesh = crate::situations::run(setup)?;
    let destination = Destination { address: pod(11, 8081), host: "round-robin.example" };
    ensure!(destination.failures(60, 20)? == 0, "in calm: {}", mesh.story());
    mesh.pods[2].stop();
    // Too few for the circuit to open, which would shed some of those to come.
    let failed = destination.failures(12, 0)?;
    ensure!(failed == 12, "{failed} of 12 failed without a host");
    mesh.pods[2].start()?;
    let failed = destination.failures(60, 20)?;
    ensure!(failed == 0, "{failed} requests failed after that: {}", mesh.story());
    mesh.nothing_is_refused()?;
    survives(&mesh)
}

/// A service whose pods speak HTTP/2, called by HTTP/2.
fn http2(port: &'static str) -> Result<()> {
    let mut setup = Setup::shop(true)?;
    setup.find("Service", "orders")?["spec"]["ports"][0]["name"] = json!(port);
    setup.find("EndpointSlice", "orders-a")?["ports"][0]["name"] = json!(port);
    setup.http2_pods = std::mem::take(&mut setup.pods);
    let mesh = crate::situations::run(setup)?;
    let call = Request::grpc("/orders.Orders/Get").header("host", ORDERS.host);
    let failures = |count: usize| -> Result<usize> {
        let mut failed = 0;
        for _ in 0..count {
            let response = client_h2::exchange(ORDERS.address, &call)?;
            failed += usize::from(response.status != 200 || response.header("grpc-status") != Some("0"));
        }
        Ok(failed)
    };
    ensure!(failures(60)? == 0, "in calm: {}", mesh.story());
    mesh.http2_pods[0].stop();
    let failed = failures(150)?;
    ensure!(failed == 0, "{failed} calls failed: {}", mesh.story());
    // A host that failed once is spared for a second what may not be repeated, as calls may not; then one tries it again.
    let ejected = wait::until(wait::LIMIT, || {
        let failed = failures(1).map_err(|error| error.to_string());
        let ejections = mesh.metric("ejections_total").map_err(|error| error.to_string());
        match (failed?, ejections?) {
            (0, 0) => Err(format!("nothing was ejected: {}", mesh.story())),
            (failed, _) => Ok(failed),
        }
    });
    ensure!(ejected.map_err(anyhow::Error::msg)? == 0, "a call failed: {}", mesh.story());
    let before = mesh.http2_pods[1].count();
    ensure!(failures(50)? == 0 && mesh.http2_pods[1].count() - before == 50, "calls were lost: {}", mesh.story());
    Ok(())
}

/// What a VirtualService aborts or delays is no failure of a host.
fn faults() -> Result<()> {
    let mesh = start(true, |setup| {
        let rules = &mut setup.find("VirtualService", "orders")?["spec"]["http"];
        let normal = rules[0].clone();
        let with = |name: &str, fault: serde_json::Value| {
            let mut rule = normal.clone();
            rule["match"] = json!([{"headers": {name: {"exact": "yes"}}}]);
            rule["fault"] = fault;
            rule
        };
        let always = json!({"value": 100});
        *rules = json!([
            with("x-abort", json!({"abort": {"httpStatus": 503, "percentage": always}})),
            with("x-delay", json!({"delay": {"fixedDelay": "0.02s", "percentage": always}})),
            normal,
        ]);
        Ok(())
    })?;
    let aborted = mesh.send(&Request::get("/").header("x-abort", "yes"), 50)?;
    ensure!(aborted.iter().all(|status| *status == 503), "aborts are the user's wish: {aborted:?}");
    let arrived: usize = mesh.pods.iter().map(crate::replica::Replica::count).sum();
    ensure!(arrived == 0, "{arrived} aborted requests reached a pod");
    ensure!(mesh.metric("attempts_total")? == 0, "aborts were counted as attempts: {}", mesh.story());
    ensure!(mesh.metric("ejections_total")? == 0, "{}", mesh.story());
    let delayed = mesh.send(&Request::get("/").header("x-delay", "yes"), 20)?;
    ensure!(delayed.iter().all(|status| *status == 200), "{delayed:?}");
    survives(&mesh)
}

/// Mirrored requests go where they went, and what becomes of them is nobody's failure.
fn mirror() -> Result<()> {
    let mesh = start(true, |setup| {
        setup.service("audit", &[("http", 8080)], &[41, 42])?;
        setup.pods.extend([pod(41, 8080), pod(42, 8080)]);
        let rule = rule(setup)?;
        rule["mirror"] = json!({"host": "audit.shop.svc.cluster.local"});
        rule["mirrorPercentage"] = json!({"value": 100});
        Ok(())
    })?;
    let audits = || mesh.pods[2].count() + mesh.pods[3].count();
    let orders = || mesh.pods[0].count() + mesh.pods[1].count();
    crate::situations::calm(&mesh)?;
    let told = wait::until(wait::LIMIT, || match audits() {
        60 => Ok(()),
        count => Err(format!("{count} of 60 requests were mirrored")),
    });
    told.map_err(anyhow::Error::msg)?;
    // Nobody steers mirrored requests, so one of these two may fail as it likes.
    mesh.pods[2].stop();
    mesh.pods[0].stop();
    let before = orders();
    let failed = ORDERS.failures(150, 60)?;
    ensure!(failed == 0, "{failed} requests failed: {}", mesh.story());
    // A GET may be hedged.
    ensure!(orders() - before >= 210, "{} of 210 requests arrived", orders() - before);
    ensure!(of_cluster(&mesh, "ejections_total", "orders")? > 0, "nothing was ejected: {}", mesh.story());
    ensure!(of_cluster(&mesh, "ejections_total", "audit")? == 0, "the policy switches it off: {}", mesh.story());
    mesh.nothing_leaks()
}

/// Each port is a cluster, with a virtual host of its own.
fn several_ports() -> Result<()> {
    let mut setup = Setup::shop(true)?;
    for (kind, name) in [("Service", "orders"), ("EndpointSlice", "orders-a")] {
        let resource = setup.find(kind, name)?;
        let ports = if kind == "Service" { &mut resource["spec"]["ports"] } else { &mut resource["ports"] };
        let mut second = ports[0].clone();
        second["name"] = json!("http-admin");
        second["port"] = json!(9090);
        if kind == "Service" {
            second["targetPort"] = json!(9090);
        }
        *ports = json!([ports[0], second]);
    }
    setup.name_in_weir("orders.shop.svc.cluster.local", 9090)?;
    setup.pods.extend([pod(21, 9090), pod(22, 9090)]);
    let mesh = crate::situations::run(setup)?;
    let admin = Destination { address: pod(11, 9090), host: "orders.shop.svc.cluster.local:9090" };
    ensure!(ORDERS.failures(30, 0)? + admin.failures(30, 0)? == 0, "in calm: {}", mesh.story());
    // Both processes of the pod end.
    mesh.pods[0].stop();
    mesh.pods[2].stop();
    for destination in [ORDERS, admin] {
        let failed = destination.failures(150, 60)?;
        ensure!(failed == 0, "{failed} requests to {} failed: {}", destination.host, mesh.story());
    }
    for cluster in ["outbound|8080|", "outbound|9090|"] {
        ensure!(of_cluster(&mesh, "ejections_total", cluster)? > 0, "none of {cluster}: {}", mesh.story());
    }
    ensure!(mesh.metric("steering_disobeyed_total")? == 0, "requests went astray: {}", mesh.story());
    mesh.nothing_leaks()
}

/// What is off for one service is on for the other.
fn two_policies() -> Result<()> {
    let mut setup = Setup::shop(true)?;
    setup.service("payments", &[("http", 8080)], &[31, 32])?;
    setup.name_in_weir("payments.shop.svc.cluster.local", 8080)?;
    setup.change_policy(|policy| policy["clusters"][0]["retry"] = json!("off"))?;
    setup.pods.extend([pod(31, 8080), pod(32, 8080)]);
    let mesh = crate::situations::run(setup)?;
    let payments = Destination { host: "payments.shop.svc.cluster.local:8080", ..ORDERS };
    ensure!(payments.failures(60, 0)? == 0, "in calm: {}", mesh.story());
    mesh.pods[2].stop();
    // Istio's own retries are in this service's routes, so that nothing fails here either.
    let failed = payments.failures(150, 60)?;
    ensure!(failed == 0, "{failed} requests to payments failed: {}", mesh.story());
    ensure!(of_cluster(&mesh, "retries_total", "payments")? == 0, "its retries are off: {}", mesh.story());
    ensure!(of_cluster(&mesh, "ejections_total", "payments")? > 0, "nothing was ejected: {}", mesh.story());
    survives_beside(&mesh)
}

/// As [`survives`], where other services have pods of their own.
fn survives_beside(mesh: &Mesh) -> Result<()> {
    let failed = crate::situations::failures(mesh)?;
    ensure!(failed == (0, 0), "{failed:?} GETs and POSTs failed: {}", mesh.story());
    ensure!(of_cluster(mesh, "ejections_total", "orders")? > 0, "nothing was ejected: {}", mesh.story());
    ensure!(mesh.metric("steering_disobeyed_total")? == 0, "requests went astray: {}", mesh.story());
    mesh.nothing_leaks()
}

/// Each judges for itself.
fn several_clients() -> Result<()> {
    let mesh = start(true, |setup| {
        setup.pod("storefront-2", 12, &json!({"app": "storefront", "pod": "storefront-2"}));
        setup.proxies.push(Proxy::client(2, 12));
        let mut sidecar = setup.find("Sidecar", "storefront")?.clone();
        sidecar["metadata"]["name"] = json!("storefront-2");
        sidecar["spec"]["workloadSelector"]["labels"]["pod"] = json!("storefront-2");
        sidecar["spec"]["egress"][0]["bind"] = json!("127.0.0.12");
        setup.find("Sidecar", "storefront")?["spec"]["workloadSelector"]["labels"]["pod"] = json!("storefront-1");
        setup.resources.push(sidecar);
        Ok(())
    })?;
    let second = Destination { address: pod(12, 8080), ..ORDERS };
    ensure!(second.failures(60, 0)? == 0, "in calm: {}", mesh.envoys[1].log_end());
    survives(&mesh)?;
    let failed = second.failures(150, 60)?;
    ensure!(failed == 0, "{failed} requests of the second failed: {}", mesh.envoys[1].log_end());
    mesh.envoys[1].wait_for_log(&["127.0.0.21:8080 ejected"])?;
    let request = Request::get("/").header("host", ORDERS.host);
    ensure!(exchange(second.address, &request)?.status == 200);
    Ok(())
}
