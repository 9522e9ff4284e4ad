//! Ways to attach role `decide` in Istio, in a real Envoy: a sidecar's configuration as istiod writes it, with the shipped resources
//! applied to it the way istiod and the sidecar's agent apply them. All else is tried under istiod's own generators, in
//! `tests/control-planes`, which have no agent that fetches modules.

mod apply;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::replica::Replica;
use crate::support::client::{Request, exchange};
use crate::support::envoy::{Envoy, Launch};
use crate::support::{envoy, ports};

/// Where the shipped resources expect the module in a proxy.
const MODULE: &str = "/etc/istio/custom-bootstrap/weir.wasm";

/// A sidecar of a client, two pods of the service with a sidecar each.
struct Mesh {
    envoy: Envoy,
    address: std::net::SocketAddr,
    _pods: Vec<Replica>,
    _directory: TempDir,
}

impl Mesh {
    fn start(plugin: &Value, filters: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let sidecar = include_str!("mesh/sidecar.yaml");
        let mut config: Value = serde_yaml_ng::from_str::<serde_yaml_ng::Value>(sidecar).and_then(|mut file| {
            file.apply_merge()?;
            serde_yaml_ng::from_value(file)
        })?;
        for patch in filters.iter().map(|file| crate::documents(file)).collect::<Result<Vec<_>>>()?.concat() {
            apply::envoy_filter(&mut config, &patch)?;
        }
        for resource in crate::documents("istio/traffic.yaml")? {
            apply::traffic(&mut config, &resource)?;
        }
        let discovered = directory.path().join("weir.json");
        // Another path, the same bytes.
        let fetched = directory.path().join("fetched.wasm");
        std::fs::copy(envoy::module(), &fetched)?;
        let ecds = apply::plugin(&mut config, plugin, &discovered, &fetched.to_string_lossy())?;
        std::fs::write(&discovered, with_module(&ecds)?)?;
        // What the annotation sidecar.istio.io/bootstrapOverride adds.
        apply::merge(&mut config, &crate::yaml("istio/custom_bootstrap.json")?);

        let pods = vec![Replica::new()?, Replica::new()?];
        let address = ports::free();
        let numbers = [address, ports::free(), ports::free(), pods[0].address, pods[1].address];
        place(&mut config, &numbers.map(|address| address.port()));
        let envoy = Launch::json(serde_json::from_str(&with_module(&config)?)?).start();
        let envoy = envoy.with_context(|| format!("with {config:#}"))?;
        Ok(Self { envoy, address, _pods: pods, _directory: directory })
    }

    fn story(&self) -> String {
        let metrics = self.envoy.admin.prometheus().unwrap_or_default();
        let metrics: Vec<&str> = metrics.lines().filter(|line| line.starts_with("weir_")).collect();
        format!("{}\n{}", metrics.join("\n"), self.envoy.log_end())
    }
}

/// The ports of the file are numbers of places.
pub fn place(config: &mut Value, ports: &[u16]) {
    match config {
        Value::Object(fields) => {
            if let Some(port) = fields.get_mut("port_value")
                && let Some(number) = port.as_u64().and_then(|place| ports.get(usize::try_from(place).ok()? - 1))
            {
                *port = json!(number);
            }
            fields.values_mut().for_each(|value| place(value, ports));
        }
        Value::Array(items) => items.iter_mut().for_each(|value| place(value, ports)),
        _ => {}
    }
}

fn with_module(config: &Value) -> Result<String> {
    let module = serde_json::to_string(Path::new(&std::path::absolute(envoy::module())?))?;
    let text = config.to_string();
    Ok(text.replace(&format!("{MODULE:?}"), &module))
}

#[test]
fn a_wasm_plugin_shares_the_vm_of_the_other_roles() -> Result<()> {
    let plugin = crate::yaml("istio/wasmplugin.yaml")?;
    let mesh = Mesh::start(&plugin, &["istio/attempts.yaml"])?;
    mesh.envoy.wait_for_log(&["roles decide, watch, guard"])?;
    ensure!(exchange(mesh.address, &Request::get("/"))?.status == 200, "{}", mesh.story());
    Ok(())
}

/// Which is why there is none in `envoy/istio/`.
#[test]
fn a_wasm_plugin_with_a_file_has_a_vm_of_its_own() -> Result<()> {
    let mut plugin = crate::yaml("istio/wasmplugin.yaml")?;
    plugin["spec"]["url"] = json!(format!("file://{MODULE}"));
    let mesh = Mesh::start(&plugin, &["istio/attempts.yaml"])?;
    if envoy::version()?.starts_with("1.36.") {
        // Environment variables did not tell VMs apart then.
        mesh.envoy.wait_for_log(&["roles decide, watch, guard"])?;
    } else {
        mesh.envoy.wait_for_log(&["roles watch, guard;"])?;
        mesh.envoy.wait_for_log(&["roles decide;"])?;
    }
    Ok(())
}

#[test]
fn decide_alone_loads_and_says_so() -> Result<()> {
    let plugin = crate::yaml("istio/wasmplugin.yaml")?;
    let mesh = Mesh::start(&plugin, &[])?;
    mesh.envoy.wait_for_log(&["roles decide;"])?;
    ensure!(exchange(mesh.address, &Request::get("/"))?.status == 200, "{}", mesh.story());
    Ok(())
}

#[test]
fn one_policy_in_all_ways_to_attach_decide() -> Result<()> {
    let plugin = crate::yaml("istio/wasmplugin.yaml")?;
    let filter = crate::yaml("istio/decide.yaml")?;
    let policy = &filter["spec"]["configPatches"][0]["patch"]["value"]["typed_config"]["config"]["configuration"];
    let policy: Value = serde_json::from_str(policy["value"].as_str().context("no policy")?)?;
    ensure!(policy == plugin["spec"]["pluginConfig"], "{policy} {}", plugin["spec"]["pluginConfig"]);
    let bootstrap = crate::yaml("istio/custom_bootstrap.json")?;
    ensure!(bootstrap["stats_config"] == crate::yaml("envoy.yaml")?["stats_config"], "the labels differ");
    Ok(())
}

/// Istio has no schema of `TrafficExtension` in a package yet, but it makes one of each `WasmPlugin`, field by field.
#[test]
fn the_traffic_extension_says_what_the_wasm_plugin_says() -> Result<()> {
    let mut plugin = crate::yaml("istio/wasmplugin.yaml")?;
    let mut extension = crate::yaml("istio/trafficextension.yaml")?;
    ensure!(extension["kind"] == "TrafficExtension" && extension["apiVersion"] == plugin["apiVersion"]);
    let wasm = extension["spec"]["wasm"].take();
    extension["spec"].as_object_mut().context("no spec")?.remove("wasm");
    extension["kind"] = json!("WasmPlugin");
    for (name, value) in wasm.as_object().context("no wasm")? {
        extension["spec"][name] = value.clone();
    }
    plugin.sort_all_objects();
    extension.sort_all_objects();
    ensure!(plugin == extension, "{plugin:#} {extension:#}");
    Ok(())
}
