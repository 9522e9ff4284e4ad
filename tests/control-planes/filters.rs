//! Other people's EnvoyFilters, Weir for a whole mesh, its upgrades, and mistakes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::Test;
use crate::mesh::{Destination, MODULE, Mesh, ORDERS, Setup, pod};
use crate::proxy::Proxy;
use crate::situations::{ALL_ROLES, one_pod_down, run, start, survives};
use crate::support::client::Request;
use crate::support::{envoy, wait};

pub const TESTS: &[Test] = &[
    ("another_filter", || one_pod_down(another_filter)),
    ("another_upstream_filter", another_upstream_filter),
    ("whole_mesh", whole_mesh),
    ("policy_upgraded", policy_upgraded),
    ("module_upgraded", module_upgraded),
    ("mistake_at_start", mistake_at_start),
    ("mistake_later", mistake_later),
];

/// Somebody else's patch of the sidecars' router filter.
fn at_router(operation: &str, value: &Value) -> Value {
    let filter = json!({
        "name": "envoy.filters.network.http_connection_manager",
        "subFilter": {"name": "envoy.filters.http.router"},
    });
    json!({
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "somebody", "namespace": "shop"},
        "spec": {"configPatches": [{
            "applyTo": "HTTP_FILTER",
            "match": {"context": "SIDECAR_OUTBOUND", "listener": {"filterChain": {"filter": filter}}},
            "patch": {"operation": operation, "value": value},
        }]},
    })
}

/// A filter that marks requests.
fn somebody() -> Value {
    json!({
        "name": "somebody",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {"request_mutations": [{"append": {"header": {"key": "x-somebody", "value": "was-here"}}}]},
        },
    })
}

fn another_filter(setup: &mut Setup) -> Result<()> {
    setup.resources.push(at_router("INSERT_BEFORE", &somebody()));
    Ok(())
}

/// Without the codec, as the guide says: `attempts.yaml` ends the list with it.
fn upstream_filter(setup: &mut Setup) -> Result<()> {
    let router = json!({"typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        "upstream_http_filters": [somebody()],
    }});
    setup.resources.push(at_router("MERGE", &router));
    Ok(())
}

fn another_upstream_filter() -> Result<()> {
    let mesh = start(true, upstream_filter)?;
    survives(&mesh)?;
    let marked = |headers: &Vec<(String, String)>| headers.iter().any(|(name, _)| name == "x-somebody");
    ensure!(mesh.pods[1].seen().iter().all(marked), "the other filter is missing");
    Ok(())
}

/// In the root namespace, for pods with a label: a pod without it, that lacks the module, is left alone.
fn whole_mesh() -> Result<()> {
    let mut setup = Setup::shop(true)?;
    for name in ["weir-decide", "weir-attempts"] {
        let filter = setup.find("EnvoyFilter", name)?;
        filter["metadata"]["namespace"] = json!("istio-system");
        filter["spec"]["workloadSelector"] = json!({"labels": {"weir": "enabled"}});
    }
    setup.find("Pod", "storefront-1")?["metadata"]["labels"]["weir"] = json!("enabled");
    setup.proxies[0].labels["weir"] = json!("enabled");
    setup.pod("reports-1", 12, &json!({"app": "reports", "pod": "reports-1"}));
    setup.proxies.push(Proxy::sidecar("reports", "reports-1".to_owned(), 12));
    let mut sidecar = setup.find("Sidecar", "storefront")?.clone();
    sidecar["metadata"]["name"] = json!("reports");
    sidecar["spec"]["workloadSelector"]["labels"] = json!({"app": "reports"});
    sidecar["spec"]["egress"][0]["bind"] = json!("127.0.0.12");
    setup.resources.push(sidecar);
    let mesh = run(setup)?;
    mesh.envoy().wait_for_log(&ALL_ROLES)?;
    let reports = Destination { address: pod(12, 8080), ..ORDERS };
    ensure!(reports.failures(60, 20)? == 0, "{}", mesh.envoys[1].log_end());
    let own = mesh.envoys[1].admin.get("/config_dump")?;
    ensure!(!own.contains("weir.decide") && !own.contains("weir.guard"), "a pod without the label has Weir");
    survives(&mesh)
}

/// Sends requests all the while, and tells how many failed.
fn under_load(mesh: &mut Mesh, change: impl FnOnce(&mut Mesh) -> Result<()>) -> Result<()> {
    let ended = AtomicBool::new(false);
    let (failed, sent) = std::thread::scope(|scope| {
        let load = scope.spawn(|| -> Result<(usize, usize)> {
            let (mut failed, mut sent) = (0, 0);
            while sent < 50 || !ended.load(Ordering::Acquire) {
                failed += ORDERS.failures(4, 1)?;
                sent += 5;
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok((failed, sent))
        });
        let changed = change(mesh);
        ended.store(true, Ordering::Release);
        let load = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))?;
        changed.and(load)
    })?;
    ensure!(failed == 0, "{failed} of {sent} requests failed: {}", mesh.story());
    Ok(())
}

fn policy_upgraded() -> Result<()> {
    let mut mesh = start(true, |_| Ok(()))?;
    under_load(&mut mesh, |mesh| {
        mesh.change(|setup| setup.change_policy(|policy| policy["mode"] = json!("shadow")))?;
        mesh.envoy().wait_for_log(&["decided and counted, not carried out"])?;
        mesh.change(|setup| {
            setup.change_policy(|policy| {
                policy.as_object_mut().map(|policy| policy.remove("mode"));
                policy["clusters"][0]["retry"]["maxRetries"] = json!(4);
            })
        })?;
        let lines = || mesh.envoy().log().lines().filter(|line| line.contains("signals of every attempt")).count();
        let told = wait::until(wait::LIMIT, || match lines() {
            0..3 => Err(mesh.envoy().log_end()),
            _ => Ok(()),
        });
        told.map_err(anyhow::Error::msg)
    })?;
    mesh.nothing_is_refused()?;
    survives(&mesh)
}

/// All roles get the new module at once: as a file of another name, in one change of the listener.
fn module_upgraded() -> Result<()> {
    let mut mesh = start(true, |_| Ok(()))?;
    let directory = tempfile::tempdir()?;
    let new = directory.path().join("weir-2.wasm");
    let mut bytes = std::fs::read(envoy::module())?;
    // A custom section, called "n".
    bytes.extend([0, 2, 1, b'n']);
    std::fs::write(&new, bytes)?;
    let new = new.to_str().context("a path in UTF-8")?;
    under_load(&mut mesh, |mesh| {
        mesh.change(|setup| {
            for resource in &mut setup.resources {
                *resource = serde_json::from_str(&resource.to_string().replace(MODULE, new))?;
            }
            Ok(())
        })?;
        // The start-up line would say nothing new, and so does not come again.
        let told = wait::until(wait::LIMIT, || {
            let dump = mesh.envoy().admin.get("/config_dump?resource=dynamic_listeners");
            let dump = dump.map_err(|error| error.to_string())?;
            let new = dump.contains("weir-2.wasm") && !dump.contains("warming_state");
            if new { Ok(()) } else { Err(mesh.envoy().log_end()) }
        });
        told.map_err(anyhow::Error::msg)
    })?;
    mesh.nothing_is_refused()?;
    survives(&mesh)
}

const MISTAKE: u64 = 50;

fn mistaken(setup: &mut Setup) -> Result<()> {
    setup.change_policy(|policy| policy["clusters"][0]["retry"]["maxRetries"] = json!(MISTAKE))
}

/// Requests pass as if Weir were not there, and it says so.
fn mistake_at_start() -> Result<()> {
    let failures = |weir: bool| -> Result<(Mesh, (usize, usize))> {
        let mut setup = Setup::shop(weir)?;
        if weir {
            mistaken(&mut setup)?;
        }
        let mesh = run(setup)?;
        let failed = crate::situations::failures(&mesh)?;
        Ok((mesh, failed))
    };
    let (_, without) = failures(false)?;
    let (mesh, with) = failures(true)?;
    ensure!(with <= without, "{with:?} fail, and {without:?} without Weir: {}", mesh.story());
    mesh.envoy().wait_for_log(&["error", "maxRetries: 50 is out of range"])?;
    ensure!(mesh.metric("configuration_refused")? > 0, "no metric tells: {}", mesh.story());
    mesh.nothing_leaks()
}

/// The policy in force stays.
fn mistake_later() -> Result<()> {
    let mut mesh = start(true, |_| Ok(()))?;
    under_load(&mut mesh, |mesh| {
        mesh.change(mistaken)?;
        mesh.envoy().wait_for_log(&["error", "maxRetries: 50 is out of range"]).map(drop)
    })?;
    ensure!(mesh.metric("configuration_refused")? > 0, "no metric tells: {}", mesh.story());
    ensure!(mesh.send(&Request::get("/"), 20)?.iter().all(|status| *status == 200));
    survives(&mesh)
}
