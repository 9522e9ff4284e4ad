//! What is the same for all situations: how a shop is started, and what is expected of it.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::mesh::{Mesh, ORDERS, Setup};
use crate::support::client::Request;

pub type Change = fn(&mut Setup) -> Result<()>;

/// What Weir says about itself where all roles are there.
pub const ALL_ROLES: [&str; 2] = ["roles decide, watch, guard", "stateful_session"];

/// Says how the service is balanced.
pub fn balance(setup: &mut Setup, balancer: serde_json::Value) -> Result<()> {
    setup.find("DestinationRule", "orders")?["spec"]["trafficPolicy"]["loadBalancer"] = balancer;
    Ok(())
}

/// The first rule of the service's VirtualService.
pub fn rule(setup: &mut Setup) -> Result<&mut serde_json::Value> {
    Ok(&mut setup.find("VirtualService", "orders")?["spec"]["http"][0])
}

/// A shop with Weir that runs, and of which Envoy refuses nothing.
pub fn run(setup: Setup) -> Result<Mesh> {
    let mesh = setup.start()?;
    mesh.nothing_is_refused()?;
    Ok(mesh)
}

pub fn start(weir: bool, change: Change) -> Result<Mesh> {
    let mut setup = Setup::shop(weir)?;
    change(&mut setup)?;
    let mesh = run(setup)?;
    if weir {
        for envoy in &mesh.envoys {
            envoy.wait_for_log(&ALL_ROLES)?;
        }
    }
    Ok(mesh)
}

pub fn nothing_refused(change: Change) -> Result<()> {
    start(true, change)?;
    Ok(())
}

pub fn calm(mesh: &Mesh) -> Result<()> {
    let calm = mesh.send(&Request::get("/"), 60)?;
    ensure!(calm.iter().all(|status| *status == 200), "in a calm cluster: {calm:?}\n{}", mesh.story());
    Ok(())
}

/// How many GETs and how many POSTs fail, while one of the pods is down.
pub fn failures(mesh: &Mesh) -> Result<(usize, usize)> {
    calm(mesh)?;
    mesh.pods[0].stop();
    let gets = ORDERS.failures(150, 0)?;
    let posts = ORDERS.failures(0, 60)?;
    Ok((gets + ORDERS.failures(50, 0)?, posts))
}

/// No request fails, the pod that is down is out and left alone, and the others see nothing of that.
pub fn survives(mesh: &Mesh) -> Result<()> {
    let failed = failures(mesh)?;
    ensure!(failed == (0, 0), "{failed:?} GETs and POSTs failed: {}", mesh.story());
    ensure!(mesh.metric("ejections_total")? > 0, "nothing was ejected: {}", mesh.story());
    ensure!(mesh.metric("steering_disobeyed_total")? == 0, "requests went astray: {}", mesh.story());
    mesh.nothing_leaks()?;
    mesh.send(&Request::post("/").header(TOLD, "1"), 100)?;
    let arrived = told(mesh);
    ensure!(arrived == 100, "100 POSTs arrived {arrived} times: {}", mesh.story());
    Ok(())
}

/// A header of requests that are counted. Others may arrive meanwhile: the second attempt of a GET that was hedged.
pub const TOLD: &str = "x-told";

/// How many of these arrived at any pod.
pub fn told(mesh: &Mesh) -> usize {
    let seen = mesh.pods.iter().flat_map(crate::replica::Replica::seen);
    seen.filter(|headers| headers.iter().any(|(name, _)| name == TOLD)).count()
}

/// Envoy refuses nothing, and the service survives.
pub fn one_pod_down(change: Change) -> Result<()> {
    survives(&start(true, change)?)
}

/// Envoy refuses nothing, and no more requests fail than without Weir.
pub fn no_worse(change: Change) -> Result<()> {
    let without = failures(&start(false, change)?)?;
    let mesh = start(true, change)?;
    let with = failures(&mesh)?;
    let story = mesh.story();
    ensure!(
        with.0 <= without.0 && with.1 <= without.1,
        "{with:?} GETs and POSTs fail with Weir, and {without:?} without it: {story}"
    );
    Ok(())
}

/// Puts pods of version v2 beside those of v1, and a subset for each.
pub fn two_versions(setup: &mut Setup) -> Result<()> {
    setup.another_pod(23, "v2")?;
    setup.another_pod(24, "v2")?;
    setup.find("DestinationRule", "orders")?["spec"]["subsets"] =
        json!([{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}]);
    Ok(())
}
