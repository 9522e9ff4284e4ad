//! Clients and replicas behind real sidecars, on a cluster with Istio.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::chart::Chart;
use crate::cluster::ADDRESS;
use crate::mesh::{MODULE, Setup, documents, yaml};
use crate::shop::{HOST, Shop};
use crate::situations::rule;
use crate::support::{envoy, wait};
use crate::{Test, registry};

pub const TESTS: &[Test] = &[
    ("replicas_crash_and_upgrades", replicas_crash_and_upgrades),
    ("hosts_that_clients_choose", hosts_that_clients_choose),
    ("registries", registries),
    ("istio_chart", istio_chart),
];

/// Whoever does not speak mutual TLS is refused.
const STRICT: &str = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
"#;

/// The client's mode, and that the others were.
fn in_mode(shop: &Shop, mode: &str) -> Result<()> {
    let told = || -> Result<()> {
        let info = shop.metrics("weir_info{")?;
        let (now, before): (Vec<&String>, Vec<&String>) =
            info.iter().partition(|line| line.contains(&format!("weir_mode=\"{mode}\"")));
        let all = |lines: &[&String], end: &str| lines.iter().all(|line| line.ends_with(end));
        ensure!(!now.is_empty() && all(&now, " 1") && all(&before, " 0"), "it is not in mode {mode}: {info:?}");
        Ok(())
    };
    wait::until_ok(told)
}

/// Applies the files of the guide that have a part of Weir in them, changed.
fn apply(shop: &Shop, change: impl FnOnce(&mut Setup) -> Result<()>) -> Result<()> {
    let mut setup = Setup { resources: Vec::new(), ..Setup::bare()? };
    setup.ship("decide")?;
    setup.ship("attempts")?;
    setup.name_in_weir(HOST, 9090)?;
    change(&mut setup)?;
    shop.cluster.apply(&yaml(&setup.resources))
}

/// Another policy, and another module, while requests come: none fails. As docs/upgrade.md says, the module comes under another
/// name, in the same ConfigMap, and all roles name it at once.
fn upgrades(shop: &Shop) -> Result<()> {
    in_mode(shop, "enforce")?;
    shop.under_load(|| {
        apply(shop, |setup| setup.change_policy(|policy| policy["mode"] = json!("shadow")))?;
        in_mode(shop, "shadow")?;
        // Not the text of before: Envoy takes no notice of that until the listeners of then are drained.
        apply(shop, |setup| setup.change_policy(|policy| policy["clusters"][0]["retry"]["maxRetries"] = json!(4)))?;
        in_mode(shop, "enforce")
    })?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("weir-2.wasm");
    registry::write_another_module(&path)?;
    let module = "/etc/istio/custom-bootstrap/weir-2.wasm";
    shop.under_load(|| {
        shop.cluster.run(&format!(
            "kubectl -n shop create configmap weir --from-file=target/weir.wasm --from-file={} \
             --from-file=envoy/istio/custom_bootstrap.json --dry-run=client -o yaml | kubectl replace -f -",
            path.display()
        ))?;
        let ls = format!("kubectl -n shop exec deploy/storefront -c istio-proxy -- ls {module}");
        wait::until_ok(|| shop.cluster.run(&ls))?;
        apply(shop, |setup| {
            for resource in &mut setup.resources {
                *resource = serde_json::from_str(&resource.to_string().replace(MODULE, module))?;
            }
            Ok(())
        })?;
        let dump = "kubectl -n shop exec deploy/storefront -c istio-proxy -- \
                    pilot-agent request GET config_dump?resource=dynamic_listeners";
        let loaded = || -> Result<()> {
            let dump = shop.cluster.run(dump)?;
            let loaded = dump.contains(module) && !dump.contains(MODULE) && !dump.contains("warming_state");
            ensure!(loaded, "the sidecar has the former module: {}", shop.story());
            Ok(())
        };
        wait::until_ok(loaded)
    })?;
    shop.down(0, true)?;
    let failed = shop.failures([150, 60, 60])?;
    ensure!(failed == [0; 3], "after the upgrade {failed:?} of 150, 60 and 60 fail: {}", shop.story());
    shop.down(0, false)
}

/// A replica that is gone costs no request, of whatever kind: each stands behind its own sidecar, with mutual TLS between them. Nor
/// do upgrades of Weir. And of an entry for a port that nobody asks the log tells.
fn replicas_crash_and_upgrades() -> Result<()> {
    let shop = Shop::start(|setup| {
        setup.name_in_weir(HOST, 9999)?;
        setup.add(STRICT)
    })?;
    let calm = shop.failures([60, 60, 60])?;
    ensure!(calm == [0; 3], "{calm:?} of 60 fail in calm: {}", shop.story());
    for replica in [0, 1] {
        shop.down(replica, true)?;
        let failed = shop.failures([150, 60, 60])?;
        ensure!(failed == [0; 3], "{failed:?} of 150, 60 and 60 fail: {}", shop.story());
    }
    for port in ["8080", "9090"] {
        let ejections = shop.metrics("weir_ejections_total")?;
        ensure!(ejections.iter().any(|line| line.contains(&format!("|{port}||{HOST}"))), "{port}: {}", shop.story());
    }
    for replica in [0, 1] {
        shop.down(replica, false)?;
    }
    let all_are_back = || -> Result<()> {
        let failed = shop.failures([20, 20, 20])?;
        ensure!(failed == [0; 3], "{failed:?} of 20 fail");
        let out = shop.metrics("weir_hosts_out{")?;
        ensure!(out.len() == 2 && out.iter().all(|line| line.ends_with(" 0")), "{out:?}");
        Ok(())
    };
    wait::until_ok(all_are_back).map_err(|error| anyhow::anyhow!("{error}: {}", shop.story()))?;
    shop.log(&[&format!("no request went to a cluster that \"match\": \"outbound|9999|*|{HOST}\" is for")])?;
    let unused = shop.metrics("weir_entries_unused")?;
    ensure!(unused.iter().any(|line| line.ends_with(" 1")), "{unused:?}: {}", shop.story());
    upgrades(&shop)
}

/// A service beside `orders`, of the same pods: requests to its one address go there, whatever it leads to.
const PASSTHROUGH: &str = r#"
apiVersion: v1
kind: Service
metadata: { name: carts, namespace: shop }
spec: { selector: { app: orders }, ports: [{ name: http, port: 8080 }] }
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: carts, namespace: shop }
spec: { host: carts.shop.svc.cluster.local, trafficPolicy: { loadBalancer: { simple: PASSTHROUGH } } }
"#;
const CARTS: &str = "carts.shop.svc.cluster.local";

/// A headless service, and one with `PASSTHROUGH`: Envoy refuses nothing, and whoever asks for a pod that is well gets it, even while
/// others ask for one that is gone.
fn hosts_that_clients_choose() -> Result<()> {
    let shop = Shop::start(|setup| {
        setup.find("Service", "orders")?["spec"]["clusterIP"] = json!("None");
        setup.name_in_weir(CARTS, 8080)?;
        setup.add(PASSTHROUGH)
    })?;
    let to = |replica: usize| -> Result<String> { Ok(format!("{HOST}:8080@{}:8080", shop.address(replica)?)) };
    let (gone, well) = (to(0)?, to(1)?);
    for to in [&gone, &well, &format!("{CARTS}:8080")] {
        for kind in ["GET", "POST"] {
            let failed = shop.failures_to(to, kind, 60)?;
            ensure!(failed == 0, "{failed} of 60 {kind} to {to} fail in calm: {}", shop.story());
        }
    }
    shop.down(0, true)?;
    for _ in 0..5 {
        let failed = shop.failures_to(&gone, "GET", 60)?;
        ensure!(failed == 60, "{failed} of 60 fail that want the pod that is gone: {}", shop.story());
        let failed = [shop.failures_to(&well, "GET", 30)?, shop.failures_to(&well, "POST", 30)?];
        ensure!(failed == [0; 2], "{failed:?} of 30 fail that want the pod that is well: {}", shop.story());
    }
    shop.log(&["requests do not go where they are steered"])?;
    let refused = shop.cluster.run(
        "kubectl -n shop exec deploy/storefront -c istio-proxy -- pilot-agent request GET stats | grep update_rejected",
    )?;
    ensure!(refused.lines().all(|line| line.ends_with(": 0")), "{refused}");
    Ok(())
}

/// How the image is named where it is not by its digest.
const VERSION: &str = ":0.1.0";

/// The plugin of the guide, with the module from a registry on the node.
fn plugin(port: u16, version: &str) -> Result<Value> {
    let mut plugin = documents(include_str!("../../envoy/istio/wasmplugin.yaml"))?.remove(0);
    plugin["spec"]["url"] = json!(format!("oci://{ADDRESS}:{port}/weir{version}"));
    Ok(plugin)
}

/// What a VirtualService aborts is no attempt, though such a plugin stands before the filter that aborts.
fn aborts(shop: &Shop) -> Result<()> {
    let abort = json!({"abort": {"httpStatus": 503, "percentage": {"value": 100}}});
    let apply = |fault: Option<Value>| -> Result<()> {
        let mut setup = Setup { resources: Vec::new(), ..Setup::bare()? };
        setup.ship("traffic")?;
        if let Some(fault) = fault {
            rule(&mut setup)?["fault"] = fault;
        }
        shop.cluster.apply(&yaml(&setup.resources))
    };
    let fail = |wanted: usize| {
        wait::until_ok(|| {
            let failed = shop.failures([5, 0, 0])?;
            ensure!(failed == [wanted, 0, 0], "{failed:?} of 5 fail: {}", shop.story());
            Ok(())
        })
    };
    let attempts = || shop.metrics("weir_attempts_total");
    apply(Some(abort))?;
    fail(5)?;
    let before = attempts()?;
    let failed = shop.failures([60, 0, 0])?;
    ensure!(failed == [60, 0, 0] && before == attempts()?, "{failed:?} of 60 were aborted: {}", shop.story());
    apply(None)?;
    fail(0)
}

/// A registry that is down, slow or has another module costs Weir, and no request.
fn registries() -> Result<()> {
    let [good, slow, other, wrong] = [5000, 5001, 5002, 5003];
    let at = |port: u16| -> Result<SocketAddr> { Ok(format!("{ADDRESS}:{port}").parse()?) };
    // Down, while pods start.
    let shop = Shop::start(|setup| {
        setup.resources.retain(|resource| resource["metadata"]["name"] != "weir-decide");
        setup.resources.push(plugin(good, VERSION)?);
        Ok(())
    })?;
    let failed = shop.failures([30; 3])?;
    ensure!(failed == [0; 3], "{failed:?} of 30 fail without the registry: {}", shop.story());
    ensure!(shop.metrics("weir_requests_total")?.is_empty(), "the registry was down: {}", shop.story());

    let digest = registry::serve(at(good)?)?;
    shop.cluster.apply(&plugin(good, &format!("@{digest}"))?.to_string())?;
    shop.restart_client()?;
    shop.log(&["roles decide, watch, guard"])?;
    shop.down(0, true)?;
    let failed = shop.failures([100, 60, 60])?;
    ensure!(failed == [0; 3], "{failed:?} of 100, 60 and 60 fail: {}", shop.story());
    ensure!(!shop.metrics("weir_ejections_total")?.is_empty(), "nothing was ejected: {}", shop.story());
    shop.down(0, false)?;
    aborts(&shop)?;

    let asked = registry::hang(at(slow)?)?;
    shop.cluster.apply(&plugin(slow, VERSION)?.to_string())?;
    let begins = || if asked.load(Ordering::Relaxed) > 0 { Ok(()) } else { Err("nobody asks".to_owned()) };
    wait::until(wait::LIMIT, begins).map_err(anyhow::Error::msg)?;
    let failed = shop.failures([60; 3])?;
    ensure!(failed == [0; 3], "{failed:?} of 60 fail while the registry says nothing: {}", shop.story());
    // A new pod waits for it for half a minute, then does without.
    shop.restart_client()?;
    let failed = shop.failures([30; 3])?;
    ensure!(failed == [0; 3], "{failed:?} of 30 fail after the registry said nothing: {}", shop.story());

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("weir.wasm");
    // The roles are in two VMs then.
    registry::write_another_module(&path)?;
    registry::serve_module(at(other)?, &path)?;
    shop.cluster.apply(&plugin(other, VERSION)?.to_string())?;
    shop.restart_client()?;
    shop.log(&["roles decide;", "roles watch, guard"])?;
    let failed = shop.failures([60; 3])?;
    ensure!(failed == [0; 3], "{failed:?} of 60 fail with another module: {}", shop.story());

    // What Envoy cannot load. Whoever has a module keeps it.
    std::fs::write(&path, &std::fs::read(envoy::module())?[..8])?;
    registry::serve_module(at(wrong)?, &path)?;
    shop.cluster.apply(&plugin(wrong, VERSION)?.to_string())?;
    shop.log(&["TypedExtensionConfig rejected"])?;
    let failed = shop.failures([60; 3])?;
    ensure!(failed == [0; 3], "{failed:?} of 60 fail with what is no module: {}", shop.story());
    Ok(())
}

/// The Helm chart: installed in shadow mode, switched to enforce while requests come, and taken away again.
fn istio_chart() -> Result<()> {
    let chart = Chart::stage("Istio", |values| {
        let mut grpc = values["services"][0].clone();
        grpc["port"] = json!(9090);
        values["services"].as_array_mut().context("no services")?.push(grpc);
        Ok(())
    })?;
    let shop = Shop::with(|cluster, _| cluster.run(&chart.install).map(drop))?;
    shop.log(&["roles decide, watch, guard"])?;
    shop.down(0, true)?;
    let mode = |mode: &str, counts: [usize; 3], metric: &str| -> Result<()> {
        shop.failures(counts)?;
        let info = shop.metrics("weir_info{")?;
        ensure!(info.iter().any(|line| line.contains(&format!("weir_mode=\"{mode}\""))), "{info:?}");
        ensure!(!shop.metrics(metric)?.is_empty(), "there is no {metric}: {}", shop.story());
        Ok(())
    };
    let reaches = |wanted: &str, metric: &str| wait::until_ok(|| mode(wanted, [20; 3], metric));
    reaches("shadow", "weir_shadow_ejections_total")?;
    shop.cluster.run(&format!("{} --set mode=enforce", chart.install.replace("helm install", "helm upgrade")))?;
    reaches("enforce", "weir_ejections_total")?;
    let failed = shop.failures([150, 60, 60])?;
    ensure!(failed == [0; 3], "{failed:?} of 150, 60 and 60 fail: {}", shop.story());
    shop.down(0, false)?;
    shop.cluster.run("helm uninstall weir --namespace shop")?;
    let gone = || -> Result<()> {
        let listeners = shop.cluster.run("istioctl proxy-config listeners deploy/storefront -n shop -o json")?;
        ensure!(!listeners.contains("weir."), "Weir is still there");
        Ok(())
    };
    wait::until_ok(gone)?;
    let failed = shop.failures([60; 3])?;
    ensure!(failed == [0; 3], "{failed:?} of 60 fail without Weir: {}", shop.story());
    Ok(())
}
