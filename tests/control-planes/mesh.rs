//! A shop under istiod: its generators, the proxies of its clients and services, and the pods of the services.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::pods::Http2Pod;
use crate::proxy::Proxy;
use crate::replica::Replica;
use crate::support::admin::Admin;
use crate::support::client::{Request, exchange};
use crate::support::envoy::{self, Envoy};
use crate::support::wait;
use crate::ztunnel::Ambient;

/// Where the shipped resources expect the module in a proxy.
pub const MODULE: &str = "/etc/istio/custom-bootstrap/weir.wasm";
/// Where istiod tells what Envoys refused.
const DEBUG: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15014);
/// The port of the service.
pub const PORT: u16 = 8080;

/// What istiod is given, and what runs beside it.
pub struct Setup {
    pub resources: Vec<Value>,
    pub mesh: Value,
    /// Variables of istiod.
    pub environment: Vec<(&'static str, &'static str)>,
    pub proxies: Vec<Proxy>,
    /// Where pods listen. The first is the one that goes down.
    pub pods: Vec<SocketAddr>,
    /// Those that speak HTTP/2 alone.
    pub http2_pods: Vec<SocketAddr>,
    /// Of an ambient mesh: certificates, and what stands in the place of ztunnel.
    pub ambient: Option<Ambient>,
}

impl Setup {
    /// The shop with its client and one service, without Weir.
    pub fn bare() -> Result<Self> {
        Ok(Self {
            resources: documents(include_str!("shop.yaml"))?,
            mesh: json!({}),
            environment: Vec::new(),
            proxies: vec![Proxy::client(1, 11)],
            pods: vec![pod(21, PORT), pod(22, PORT)],
            http2_pods: Vec::new(),
            ambient: None,
        })
    }

    /// The shop, with Weir as it is shipped; or without it, but with what belongs beside it.
    pub fn shop(weir: bool) -> Result<Self> {
        let mut setup = Self::bare()?;
        let files: &[&str] = if weir { &["decide", "attempts", "traffic"] } else { &["traffic"] };
        for file in files {
            setup.ship(file)?;
        }
        Ok(setup)
    }

    /// Adds a file of `envoy/istio`.
    pub fn ship(&mut self, file: &str) -> Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("envoy/istio/{file}.yaml"));
        self.add(&std::fs::read_to_string(&path).with_context(|| path.display().to_string())?)
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

    /// Adds a service with a pod at each of these addresses of the loopback network. Something must listen there.
    pub fn service(&mut self, name: &str, ports: &[(&str, u16)], pods: &[u8]) -> Result<()> {
        let list = |target: bool| -> Vec<Value> {
            let one = |(name, number): &(&str, u16)| {
                let mut port = json!({"name": name, "port": number, "protocol": "TCP"});
                if target {
                    port["targetPort"] = json!(number);
                }
                port
            };
            ports.iter().map(one).collect()
        };
        let own = self.resources.iter().filter(|resource| resource["kind"] == "Service").count();
        let address = format!("10.96.1.{own}");
        self.resources.push(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"clusterIP": address, "clusterIPs": [address], "selector": {"app": name}, "ports": list(true)},
        }));
        let endpoint = |last: &u8| {
            json!({
                "addresses": [format!("127.0.0.{last}")],
                "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": format!("{name}-{last}"), "namespace": "shop"},
            })
        };
        self.resources.push(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{name}-a"), "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
            "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": list(false),
        }));
        for last in pods {
            self.pod(&format!("{name}-{last}"), *last, &json!({"app": name}));
        }
        Ok(())
    }

    /// Adds a pod's record.
    pub fn pod(&mut self, name: &str, last: u8, labels: &Value) {
        let address = format!("127.0.0.{last}");
        self.resources.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "labels": labels},
            "spec": {"serviceAccountName": "default", "nodeName": "one", "containers": [{"name": "app", "image": "none"}]},
            "status": {
                "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }));
    }

    /// Adds a pod of the service `orders`, of this version.
    pub fn another_pod(&mut self, last: u8, version: &str) -> Result<()> {
        let name = format!("orders-{last}");
        self.pod(&name, last, &json!({"app": "orders", "version": version}));
        let endpoints = self.find("EndpointSlice", "orders-a")?["endpoints"].as_array_mut().context("no endpoints")?;
        endpoints.push(json!({
            "addresses": [format!("127.0.0.{last}")],
            "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": name, "namespace": "shop"},
        }));
        self.pods.push(pod(last, PORT));
        Ok(())
    }

    /// The policy in `decide.yaml`.
    pub fn change_policy(&mut self, change: impl FnOnce(&mut Value)) -> Result<()> {
        let decide = self.find("EnvoyFilter", "weir-decide")?;
        let place =
            &mut decide["spec"]["configPatches"][0]["patch"]["value"]["typed_config"]["config"]["configuration"];
        let mut policy: Value = serde_json::from_str(place["value"].as_str().context("no policy")?)?;
        change(&mut policy);
        place["value"] = json!(policy.to_string());
        Ok(())
    }

    /// Names one more host and port in the policy and in the patches, as the guide says. Nothing, where there is no Weir.
    pub fn name_in_weir(&mut self, host: &str, port: u16) -> Result<()> {
        if self.find("EnvoyFilter", "weir-decide").is_err() {
            return Ok(());
        }
        self.change_policy(|policy| {
            if let Some(clusters) = policy["clusters"].as_array_mut() {
                let mut entry = clusters[0].clone();
                entry["match"] = json!(format!("outbound|{port}|*|{host}"));
                clusters.insert(0, entry);
            }
        })?;
        let patches = &mut self.find("EnvoyFilter", "weir-attempts")?["spec"]["configPatches"];
        let patches = patches.as_array_mut().context("no patches")?;
        let mut patch = patches.last().context("no patch")?.clone();
        patch["match"]["routeConfiguration"]["vhost"]["name"] = json!(format!("{host}:{port}"));
        patches.push(patch);
        Ok(())
    }

    pub fn start(self) -> Result<Mesh> {
        let istiod = Istiod::start(&self)?;
        // Those of a shop before this one may be about to end.
        let listen = |address: &SocketAddr| {
            wait::until(wait::LIMIT, || Replica::at(*address).map_err(|error| error.to_string()))
                .map_err(anyhow::Error::msg)
        };
        let pods = self.pods.iter().map(listen).collect::<Result<_>>()?;
        let http2_pods = self.http2_pods.iter().map(|address| Http2Pod::at(*address)).collect::<Result<_>>()?;
        let ztunnel = self.ambient.as_ref().map(Ambient::start).transpose()?;
        let envoys = self.proxies.iter().map(Proxy::start).collect::<Result<_>>()?;
        Ok(Mesh { envoys, pods, http2_pods, _ztunnel: ztunnel, istiod, setup: self })
    }
}

/// A pod's address.
pub fn pod(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, last], port))
}

/// All documents of a YAML file.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| serde::Deserialize::deserialize(document).context("YAML"))
        .filter(|document: &Result<Value>| !document.as_ref().is_ok_and(Value::is_null))
        .collect()
}

/// Istiod's generators, as they were built.
fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/control-planes/istiod")
}

/// Kinds that come from Kubernetes' own registry of services, beside those of the Gateway API.
const OBJECTS: [&str; 5] = ["Namespace", "Service", "EndpointSlice", "Pod", "ConfigMap"];

struct Istiod {
    child: Child,
    directory: TempDir,
}

impl Istiod {
    fn start(setup: &Setup) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let log = directory.path().join("istiod.log");
        let output = std::fs::File::create(&log)?;
        write(directory.path(), &setup.resources)?;
        let mesh = directory.path().join("mesh.yaml");
        std::fs::write(&mesh, setup.mesh.to_string())?;
        let program = program();
        let child = Command::new(&program)
            .arg("-configs")
            .arg(directory.path().join("configs.yaml"))
            .arg("-objects")
            .arg(directory.path().join("objects.yaml"))
            .arg("-mesh")
            .arg(mesh)
            // Filters of Istio's own proxy, which a plain Envoy does not have.
            .env("PILOT_ENABLE_ALPN_FILTER", "false")
            .env("PILOT_ENABLE_METADATA_EXCHANGE", "false")
            .env("PILOT_DISABLE_MX_ALPN", "true")
            .envs(setup.environment.iter().copied())
            .args(setup.ambient.iter().flat_map(Ambient::arguments))
            // A line there has it read the resources again. It ends with this pipe.
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot run {}: ./build.sh test control-planes builds it", program.display()))?;
        let mut istiod = Self { child, directory };
        let admin = Admin { address: DEBUG };
        wait::until(wait::LIMIT, || match istiod.child.try_wait() {
            Ok(None) => admin.get("/debug/syncz").map(drop).map_err(|error| error.to_string()),
            _ => Ok(()),
        })
        .map_err(anyhow::Error::msg)?;
        ensure!(
            matches!(istiod.child.try_wait(), Ok(None)),
            "istiod ended: {}",
            std::fs::read_to_string(&log).unwrap_or_default()
        );
        Ok(istiod)
    }

    fn reload(&mut self, resources: &[Value]) -> Result<()> {
        write(self.directory.path(), resources)?;
        self.child.stdin.as_mut().context("no input")?.write_all(b"again\n")?;
        Ok(())
    }
}

/// Resources in one text, as YAML takes JSON, too.
pub fn yaml<'a>(resources: impl IntoIterator<Item = &'a Value>) -> String {
    resources.into_iter().map(ToString::to_string).collect::<Vec<_>>().join("\n---\n")
}

fn write(directory: &Path, resources: &[Value]) -> Result<()> {
    let module = std::path::absolute(envoy::module())?;
    let is_object = |resource: &&Value| {
        OBJECTS.iter().any(|kind| resource["kind"] == *kind)
            || resource["apiVersion"].as_str().is_some_and(|version| version.starts_with("gateway.networking.k8s.io"))
    };
    let (objects, configs): (Vec<&Value>, Vec<&Value>) = resources.iter().partition(is_object);
    for (name, resources) in [("objects.yaml", objects), ("configs.yaml", configs)] {
        std::fs::write(directory.join(name), yaml(resources).replace(MODULE, &module.to_string_lossy()))?;
    }
    Ok(())
}

impl Drop for Istiod {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where a client sends its requests to, and whom they are for.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    pub address: SocketAddr,
    pub host: &'a str,
}

impl Destination<'_> {
    /// The statuses of so many requests, of ten users in turn.
    pub fn send(&self, request: &Request, count: usize) -> Result<Vec<u16>> {
        let request = request.clone().header("host", self.host);
        let of = |user: usize| request.clone().header("x-user", &(user % 10).to_string());
        (0..count).map(|number| Ok(exchange(self.address, &of(number))?.status)).collect()
    }

    /// How many of so many GETs and POSTs are not answered with 200.
    pub fn failures(&self, gets: usize, posts: usize) -> Result<usize> {
        let mut statuses = self.send(&Request::get("/"), gets)?;
        statuses.extend(self.send(&Request::post("/"), posts)?);
        Ok(statuses.iter().filter(|status| **status != 200).count())
    }
}

/// The service, by the client's sidecar.
pub const ORDERS: Destination<'_> = Destination {
    address: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), PORT),
    host: "orders.shop.svc.cluster.local:8080",
};

/// A shop that runs.
pub struct Mesh {
    pub envoys: Vec<Envoy>,
    pub pods: Vec<Replica>,
    pub http2_pods: Vec<Http2Pod>,
    _ztunnel: Option<Envoy>,
    istiod: Istiod,
    pub setup: Setup,
}

impl Mesh {
    /// The client's sidecar, or whatever proxy comes first.
    pub fn envoy(&self) -> &Envoy {
        &self.envoys[0]
    }

    /// Envoys refused nothing of what istiod sent.
    pub fn nothing_is_refused(&self) -> Result<()> {
        let told = wait::until(wait::LIMIT, || {
            let text = Admin { address: DEBUG }.get("/debug/syncz").map_err(|error| error.to_string())?;
            let proxies: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let proxies = proxies.as_array().filter(|proxies| proxies.len() >= self.envoys.len());
            let proxies = proxies.ok_or_else(|| format!("not all have asked: {text}"))?;
            let resources = proxies.iter().filter_map(|proxy| proxy["resources"].as_object());
            let behind = resources.flat_map(serde_json::Map::values).any(|kind| kind["sent"] != kind["acked"]);
            if behind { Err(text) } else { Ok(()) }
        });
        for envoy in &self.envoys {
            for (name, value) in envoy.admin.stats("update_rejected$")? {
                ensure!(value == 0, "{name} is {value}: {}", envoy.log_end());
            }
        }
        told.map_err(anyhow::Error::msg)
    }

    /// Changes resources while all goes on.
    pub fn change(&mut self, change: impl FnOnce(&mut Setup) -> Result<()>) -> Result<()> {
        change(&mut self.setup)?;
        self.istiod.reload(&self.setup.resources)
    }

    /// The statuses of so many requests to the service.
    pub fn send(&self, request: &Request, count: usize) -> Result<Vec<u16>> {
        ORDERS.send(request, count)
    }

    /// Weir's metrics with this name in the first proxy, by what comes after it.
    pub fn metrics(&self, name: &str) -> Result<BTreeMap<String, u64>> {
        self.envoy().admin.stats(&format!("^wasmcustom[.]weir_{name}([.]|$)"))
    }

    /// The sum of Weir's metrics with this name, whatever the cluster.
    pub fn metric(&self, name: &str) -> Result<u64> {
        Ok(self.metrics(name)?.values().sum())
    }

    /// What the first proxy did, for messages.
    pub fn story(&self) -> String {
        let metrics = self.envoy().admin.stats("^wasmcustom[.]weir_").unwrap_or_default();
        let metrics: Vec<String> =
            metrics.iter().filter(|(_, value)| **value > 0).map(|(name, value)| format!("{name} {value}")).collect();
        let hosts = self.envoy().admin.get("/clusters").unwrap_or_default();
        let hosts: Vec<&str> =
            hosts.lines().filter(|line| line.contains("orders") && line.contains("::127.")).collect();
        format!("{}\n{}\n{}", metrics.join("\n"), hosts.join("\n"), self.envoy().log_end())
    }

    /// No pod saw a header that is Weir's own.
    pub fn nothing_leaks(&self) -> Result<()> {
        let leaks = |(name, _): &&(String, String)| name.starts_with("x-weir") || name.starts_with("x-envoy-retr");
        let leak = self.pods.iter().flat_map(|pod| pod.seen()).flatten().find(|header| leaks(&header));
        ensure!(leak.is_none(), "a pod saw {leak:?}");
        Ok(())
    }
}
