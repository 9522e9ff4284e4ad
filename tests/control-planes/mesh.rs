//! A shop under istiod: its generators, the sidecar of a client, and the pods of a service.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::replica::Replica;
use crate::support::admin::Admin;
use crate::support::client::{Request, exchange};
use crate::support::envoy::{self, Envoy, Launch};
use crate::support::wait;

/// Where the shipped resources expect the module in a proxy.
const MODULE: &str = "/etc/istio/custom-bootstrap/weir.wasm";
/// Where istiod tells what Envoys refused.
const DEBUG: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15014);
/// The port of the service.
const PORT: u16 = 8080;

/// What istiod is given.
pub struct Setup {
    pub resources: Vec<Value>,
    pub mesh: Value,
}

impl Setup {
    /// The shop, with Weir as it is shipped; or without it, but with what belongs beside it.
    pub fn shop(weir: bool) -> Result<Self> {
        let mut resources = documents(include_str!("shop.yaml"))?;
        let files: &[&str] = if weir { &["decide", "attempts", "traffic"] } else { &["traffic"] };
        for file in files {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("envoy/istio/{file}.yaml"));
            resources.extend(documents(&std::fs::read_to_string(path)?)?);
        }
        Ok(Self { resources, mesh: json!({}) })
    }

    /// The only resource of a kind with this name.
    pub fn find(&mut self, kind: &str, name: &str) -> Result<&mut Value> {
        let is = |resource: &&mut Value| resource["kind"] == kind && resource["metadata"]["name"] == name;
        self.resources.iter_mut().find(is).with_context(|| format!("there is no {kind} {name}"))
    }

    /// Adds resources.
    pub fn add(&mut self, yaml: &str) -> Result<()> {
        self.resources.extend(documents(yaml)?);
        Ok(())
    }

    pub fn start(self) -> Result<Mesh> {
        let directory = tempfile::tempdir()?;
        let module = std::path::absolute(envoy::module())?;
        let (objects, configs): (Vec<Value>, Vec<Value>) = self
            .resources
            .into_iter()
            .partition(|resource| matches!(resource["kind"].as_str(), Some("Service" | "EndpointSlice" | "Pod")));
        let write = |name: &str, resources: &[Value]| -> Result<PathBuf> {
            let texts: Vec<String> = resources.iter().map(ToString::to_string).collect();
            let path = directory.path().join(name);
            std::fs::write(&path, texts.join("\n---\n").replace(MODULE, &module.to_string_lossy()))?;
            Ok(path)
        };
        let log = directory.path().join("istiod.log");
        let output = std::fs::File::create(&log)?;
        let program = program();
        let istiod = Command::new(&program)
            .arg("-configs")
            .arg(write("configs.yaml", &configs)?)
            .arg("-objects")
            .arg(write("objects.yaml", &objects)?)
            .arg("-mesh")
            .arg(write("mesh.yaml", &[self.mesh])?)
            // Filters of Istio's own proxy, which a plain Envoy does not have.
            .env("PILOT_ENABLE_ALPN_FILTER", "false")
            .env("PILOT_ENABLE_METADATA_EXCHANGE", "false")
            .env("PILOT_DISABLE_MX_ALPN", "true")
            // It ends with this pipe.
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot run {}: ./build.sh test control-planes builds it", program.display()))?;
        let mut mesh = Unstarted { istiod, directory };
        let admin = Admin { address: DEBUG };
        wait::until(wait::LIMIT, || match mesh.istiod.try_wait() {
            Ok(None) => admin.get("/debug/syncz").map(drop).map_err(|error| error.to_string()),
            _ => Ok(()),
        })
        .map_err(anyhow::Error::msg)?;
        ensure!(
            matches!(mesh.istiod.try_wait(), Ok(None)),
            "istiod ended: {}",
            std::fs::read_to_string(&log).unwrap_or_default()
        );
        // Those of a shop before this one may be about to end.
        let pod = |last: u8| {
            let address = SocketAddr::from(([127, 0, 0, last], PORT));
            wait::until(wait::LIMIT, || Replica::at(address).map_err(|error| error.to_string()))
                .map_err(anyhow::Error::msg)
        };
        let pods = vec![pod(21)?, pod(22)?];
        let mut bootstrap = documents(include_str!("sidecar.yaml"))?.remove(0);
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/istio/custom_bootstrap.json");
        let custom: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        bootstrap["stats_config"] = custom["stats_config"].clone();
        let envoy = Launch::json(bootstrap).concurrency(1).start()?;
        Ok(Mesh { envoy, pods, _istiod: mesh })
    }
}

/// Istiod's generators, as they were built.
fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/control-planes/istiod")
}

/// All documents of a YAML file.
fn documents(text: &str) -> Result<Vec<Value>> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| serde::Deserialize::deserialize(document).context("YAML"))
        .filter(|document: &Result<Value>| !document.as_ref().is_ok_and(Value::is_null))
        .collect()
}

struct Unstarted {
    istiod: Child,
    directory: TempDir,
}

impl Drop for Unstarted {
    fn drop(&mut self) {
        drop(self.istiod.kill());
        drop(self.istiod.wait());
        let _ = &self.directory;
    }
}

/// A shop that runs.
pub struct Mesh {
    pub envoy: Envoy,
    pub pods: Vec<Replica>,
    _istiod: Unstarted,
}

impl Mesh {
    /// Envoy refused nothing of what istiod sent.
    pub fn nothing_is_refused(&self) -> Result<()> {
        for (name, value) in self.envoy.admin.stats("update_rejected$")? {
            ensure!(value == 0, "{name} is {value}: {}", self.envoy.log_end());
        }
        let told = wait::until(wait::LIMIT, || {
            let text = Admin { address: DEBUG }.get("/debug/syncz").map_err(|error| error.to_string())?;
            let proxies: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let resources = proxies[0]["resources"].as_object().ok_or_else(|| format!("nobody asked: {text}"))?;
            let behind = resources.values().any(|kind| kind["sent"] != kind["acked"]);
            if behind { Err(text) } else { Ok(()) }
        });
        told.map_err(anyhow::Error::msg)
    }

    /// The statuses of so many requests to the service.
    pub fn send(&self, request: &Request, count: usize) -> Result<Vec<u16>> {
        let address = SocketAddr::from(([127, 0, 0, 11], PORT));
        let request = request.clone().header("host", "orders.shop.svc.cluster.local:8080");
        (0..count).map(|_| Ok(exchange(address, &request)?.status)).collect()
    }

    /// The sum of Weir's metrics with this name, whatever the cluster.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let stats = self.envoy.admin.stats(&format!("^wasmcustom[.]weir_{name}[.]"))?;
        Ok(stats.values().sum())
    }
}
