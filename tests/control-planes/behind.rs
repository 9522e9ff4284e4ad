//! Pods with sidecars of their own, which refuse and reset on behalf of their applications.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::Test;
use crate::mesh::{Mesh, ORDERS, Setup, pod};
use crate::proxy::Proxy;
use crate::replica::Mode;
use crate::situations::{ALL_ROLES, TOLD, calm, failures, run, told};
use crate::support::client::Request;

pub const TESTS: &[Test] = &[
    ("refusal_behind_a_sidecar", refusal),
    ("reset_behind_a_sidecar", reset),
    ("without_proxy_status", without_proxy_status),
    ("proxy_headers_off", proxy_headers_off),
];

fn shop(weir: bool, proxy_status: bool) -> Result<Setup> {
    let mut setup = Setup::shop(weir)?;
    if weir && proxy_status {
        setup.ship("proxy-status")?;
    }
    with_sidecars(&mut setup)?;
    Ok(setup)
}

/// The pods listen at another port, and their sidecars in their place.
pub fn with_sidecars(setup: &mut Setup) -> Result<()> {
    setup.pods = vec![pod(21, 9080), pod(22, 9080)];
    for (number, last) in [(1, 21), (2, 22)] {
        let name = format!("orders-{number}");
        setup.find("Pod", &name)?["metadata"]["labels"]["pod"] = json!(name);
        setup.resources.push(json!({
            "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {
                "workloadSelector": {"labels": {"pod": name}},
                "ingress": [{
                    "port": {"number": 8080, "protocol": "HTTP", "name": "http"},
                    "bind": format!("127.0.0.{last}"),
                    "captureMode": "NONE",
                    // 0.0.0.0 stands for the pod's own address.
                    "defaultEndpoint": "0.0.0.0:9080",
                }],
                "egress": [{"hosts": ["~/*"]}],
            },
        }));
        setup.proxies.push(Proxy::sidecar("orders", name, last));
    }
    Ok(())
}

/// How many attempts ended so.
pub fn signals(mesh: &Mesh, signal: &str) -> Result<u64> {
    let attempts = mesh.metrics("attempts_total")?;
    let signal = format!(".signal.{signal}.");
    Ok(attempts.iter().filter(|(name, _)| name.contains(&signal)).map(|(_, value)| *value).sum())
}

/// GETs and POSTs go to the other pod, the latter on the sidecar's word that it was refused and tried only once.
fn refusal() -> Result<()> {
    let mesh = run(shop(true, true)?)?;
    mesh.envoy().wait_for_log(&ALL_ROLES)?;
    let failed = failures(&mesh)?;
    ensure!(failed == (0, 0), "{failed:?} GETs and POSTs failed: {}", mesh.story());
    ensure!(signals(&mesh, "refused")? > 0 && signals(&mesh, "error")? == 0, "{}", mesh.story());
    ensure!(mesh.metric("ejections_total")? > 0, "nothing was ejected: {}", mesh.story());
    let statuses = ORDERS.send(&Request::post("/").header(TOLD, "1"), 50)?;
    ensure!(statuses.iter().all(|status| *status == 200), "{statuses:?}: {}", mesh.story());
    let arrived = told(&mesh);
    ensure!(arrived == 50, "50 POSTs arrived {arrived} times: {}", mesh.story());
    mesh.nothing_leaks()
}

/// A reset is one, whoever tells of it: GETs are repeated, and POSTs are not.
fn reset() -> Result<()> {
    let mesh = run(shop(true, true)?)?;
    calm(&mesh)?;
    mesh.pods[0].set(Mode::Reset);
    let failed = ORDERS.failures(60, 0)?;
    ensure!(failed == 0, "{failed} GETs failed: {}", mesh.story());
    ensure!(signals(&mesh, "reset")? > 0, "{}", mesh.story());
    ORDERS.send(&Request::post("/").header(TOLD, "1"), 40)?;
    let arrived = told(&mesh);
    ensure!(arrived == 40, "40 POSTs arrived {arrived} times: {}", mesh.story());
    Ok(())
}

/// What `proxy-status.yaml` is for.
fn without_proxy_status() -> Result<()> {
    let mesh = run(shop(true, false)?)?;
    mesh.pods[0].stop();
    ORDERS.send(&Request::get("/"), 60)?;
    ensure!(signals(&mesh, "error")? > 0 && signals(&mesh, "refused")? == 0, "{}", mesh.story());
    Ok(())
}

/// Without the counts of attempts nothing proves that a POST was not processed: none is repeated, and none fails that would not
/// fail without Weir.
fn proxy_headers_off() -> Result<()> {
    let off = |weir| -> Result<Setup> {
        let mut setup = shop(weir, true)?;
        let off = json!({"disabled": true});
        setup.mesh = json!({"defaultConfig": {"proxyHeaders": {"attemptCount": off, "envoyDebugHeaders": off}}});
        Ok(setup)
    };
    let without = failures(&run(off(false)?)?)?;
    let mesh = run(off(true)?)?;
    let with = failures(&mesh)?;
    ensure!(with.0 == 0, "{} GETs failed: {}", with.0, mesh.story());
    // One may be the probe that finds out whether the pod is back.
    ensure!(with.1 <= without.1 + 1, "{} POSTs failed, and {} without Weir: {}", with.1, without.1, mesh.story());
    mesh.nothing_leaks()
}
