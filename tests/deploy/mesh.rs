//! `envoy/istio/` in a real Envoy: a sidecar's configuration as istiod writes it, with the shipped resources applied to it
//! the way istiod applies them.

mod apply;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::replica::{Mode, Replica};
use crate::support::client::{Request, exchange};
use crate::support::envoy::{Envoy, Launch};
use crate::support::{envoy, ports, wait};

const SERVICE: &str = "outbound|8080||orders.shop.svc.cluster.local";
/// What a DestinationRule makes a cluster of its own.
const SUBSET: &str = "outbound|8080|v1|orders.shop.svc.cluster.local";
/// Where the shipped resources expect the module in a proxy.
const MODULE: &str = "/etc/istio/custom-bootstrap/weir.wasm";

/// What a test takes of `envoy/istio/`.
struct Resources {
    /// The `WasmPlugin`, if any.
    plugin: Option<Value>,
    filters: &'static [&'static str],
}

const FILTERS: &[&str] = &["istio/decide.yaml", "istio/attempts.yaml", "istio/proxy-status.yaml"];

/// As in the guide.
fn all() -> Resources {
    Resources { plugin: None, filters: FILTERS }
}

/// A sidecar of a client, two pods of the service with a sidecar each.
struct Mesh {
    envoy: Envoy,
    address: std::net::SocketAddr,
    pods: Vec<Replica>,
    _directory: TempDir,
}

impl Mesh {
    fn start(resources: &Resources) -> Result<Self> {
        Self::with_cluster(resources, SERVICE)
    }

    /// The cluster of the service has another name.
    fn with_cluster(resources: &Resources, cluster: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let sidecar = include_str!("mesh/sidecar.yaml").replace(SERVICE, cluster);
        let mut config: Value = serde_yaml_ng::from_str::<serde_yaml_ng::Value>(&sidecar).and_then(|mut file| {
            file.apply_merge()?;
            serde_yaml_ng::from_value(file)
        })?;
        for patch in resources.filters.iter().map(|file| crate::documents(file)).collect::<Result<Vec<_>>>()?.concat() {
            apply::envoy_filter(&mut config, &patch)?;
        }
        for resource in crate::documents("istio/traffic.yaml")? {
            apply::traffic(&mut config, &resource)?;
        }
        let discovered = directory.path().join("weir.json");
        if let Some(plugin) = &resources.plugin {
            // Another path, the same bytes.
            let fetched = directory.path().join("fetched.wasm");
            std::fs::copy(envoy::module(), &fetched)?;
            let ecds = apply::plugin(&mut config, plugin, &discovered, &fetched.to_string_lossy())?;
            std::fs::write(&discovered, with_module(&ecds)?)?;
        }
        // What the annotation sidecar.istio.io/bootstrapOverride adds.
        apply::merge(&mut config, &crate::yaml("istio/custom_bootstrap.json")?);

        let pods = vec![Replica::new()?, Replica::new()?];
        let address = ports::free();
        let numbers = [address, ports::free(), ports::free(), pods[0].address, pods[1].address];
        place(&mut config, &numbers.map(|address| address.port()));
        let envoy = Launch::json(serde_json::from_str(&with_module(&config)?)?).start();
        let envoy = envoy.with_context(|| format!("with {config:#}"))?;
        Ok(Self { envoy, address, pods, _directory: directory })
    }

    fn metric(&self, line: &str) -> Result<u64> {
        let text = self.envoy.admin.prometheus()?;
        let value = text.lines().find_map(|known| known.strip_prefix(line)?.trim().parse().ok());
        Ok(value.unwrap_or(0))
    }

    fn wait_for(&self, line: &str, request: &Request) -> Result<()> {
        let found = wait::until(wait::LIMIT, || {
            exchange(self.address, request).map_err(|error| error.to_string())?;
            match self.metric(line) {
                Ok(0) => Err(format!("no {line} in\n{}", self.story())),
                _ => Ok(()),
            }
        });
        found.map_err(anyhow::Error::msg)
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
fn all_three_roles_share_one_vm_and_steer_around_a_dead_pod() -> Result<()> {
    let mesh = Mesh::start(&all())?;
    mesh.envoy.wait_for_log(&["roles decide, watch, guard"])?;
    for _ in 0..20 {
        ensure!(exchange(mesh.address, &Request::get("/"))?.status == 200, "{}", mesh.story());
    }
    mesh.pods[0].stop();
    let ejections = format!("weir_ejections_total{{weir_reason=\"refused\",weir_cluster=\"{SERVICE}\"}}");
    mesh.wait_for(&ejections, &Request::get("/"))?;
    for pod in &mesh.pods {
        for headers in pod.seen() {
            let steered = headers.iter().any(|(name, _)| name == "x-envoy-retry-grpc-on");
            ensure!(!steered, "a pod sees the steering header: {headers:?}");
        }
    }
    Ok(())
}

#[test]
fn a_subset_is_judged_and_steered() -> Result<()> {
    let mesh = Mesh::with_cluster(&all(), SUBSET)?;
    mesh.pods[0].stop();
    for number in 0..200 {
        let response = exchange(mesh.address, &Request::get("/"))?;
        ensure!(response.status == 200, "GET {number}: {} {}\n{}", response.status, response.text(), mesh.story());
    }
    let ejections = format!("weir_ejections_total{{weir_reason=\"refused\",weir_cluster=\"{SUBSET}\"}}");
    ensure!(mesh.metric(&ejections)? > 0, "{}", mesh.story());
    Ok(())
}

#[test]
fn a_refusal_behind_the_pods_sidecar_is_a_refusal() -> Result<()> {
    let mesh = Mesh::start(&all())?;
    mesh.pods[0].stop();
    for number in 0..50 {
        let response = exchange(mesh.address, &Request::get("/"))?;
        ensure!(response.status == 200, "GET {number}: {} {}\n{}", response.status, response.text(), mesh.story());
    }
    let attempts = |signal| format!("weir_attempts_total{{weir_signal=\"{signal}\",weir_cluster=\"{SERVICE}\"}}");
    ensure!(mesh.metric(&attempts("refused"))? > 0, "{}", mesh.story());
    ensure!(mesh.metric(&attempts("error"))? == 0, "{}", mesh.story());
    Ok(())
}

/// Also beside the retries that Istio gives the sidecar in front of the pod.
#[test]
fn a_post_that_the_pods_sidecar_could_not_send_reaches_another() -> Result<()> {
    let mesh = Mesh::start(&all())?;
    mesh.pods[0].stop();
    for number in 0..50 {
        let response = exchange(mesh.address, &Request::post("/"))?;
        ensure!(response.status == 200, "POST {number}: {} {}\n{}", response.status, response.text(), mesh.story());
    }
    let refused = format!("weir_attempts_total{{weir_signal=\"refused\",weir_cluster=\"{SERVICE}\"}}");
    ensure!(mesh.metric(&refused)? > 0, "{}", mesh.story());
    ensure!(mesh.pods[1].seen().len() == 50, "{} POSTs arrived", mesh.pods[1].seen().len());
    Ok(())
}

#[test]
fn a_reset_behind_the_pods_sidecar_is_a_reset() -> Result<()> {
    let mesh = Mesh::start(&all())?;
    mesh.pods[0].set(Mode::Reset);
    let attempts = format!("weir_attempts_total{{weir_signal=\"reset\",weir_cluster=\"{SERVICE}\"}}");
    mesh.wait_for(&attempts, &Request::get("/"))
}

/// What proxy-status.yaml is for.
#[test]
fn without_proxy_status_a_refusal_behind_the_pods_sidecar_is_an_error() -> Result<()> {
    let mesh = Mesh::start(&Resources { filters: &["istio/decide.yaml", "istio/attempts.yaml"], ..all() })?;
    mesh.pods[0].stop();
    let attempts = format!("weir_attempts_total{{weir_signal=\"error\",weir_cluster=\"{SERVICE}\"}}");
    mesh.wait_for(&attempts, &Request::get("/"))
}

#[test]
fn a_wasm_plugin_shares_the_vm_of_the_other_roles() -> Result<()> {
    let plugin = crate::yaml("istio/wasmplugin.yaml")?;
    let mesh = Mesh::start(&Resources { plugin: Some(plugin), filters: &["istio/attempts.yaml"] })?;
    mesh.envoy.wait_for_log(&["roles decide, watch, guard"])?;
    ensure!(exchange(mesh.address, &Request::get("/"))?.status == 200, "{}", mesh.story());
    Ok(())
}

/// Which is why there is none in `envoy/istio/`.
#[test]
fn a_wasm_plugin_with_a_file_has_a_vm_of_its_own() -> Result<()> {
    let mut plugin = crate::yaml("istio/wasmplugin.yaml")?;
    plugin["spec"]["url"] = json!(format!("file://{MODULE}"));
    let mesh = Mesh::start(&Resources { plugin: Some(plugin), filters: &["istio/attempts.yaml"] })?;
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
    let mesh = Mesh::start(&Resources { plugin: Some(plugin), filters: &[] })?;
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
