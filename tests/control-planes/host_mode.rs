//! A shop behind Envoy Gateway, which runs in host mode: it reads resources from files, and starts Envoy itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::mesh::{documents, yaml};
use crate::pod::{Arrived, Pod};
use crate::support::admin::Admin;
use crate::support::client::{Request, exchange};
use crate::support::{client_h2, envoy, wait};

/// Where the shipped resources expect the module in a proxy.
pub const MODULE: &str = "/etc/weir/weir.wasm";
/// Stands for the folder of Envoy Gateway's configuration.
const CONFIG: &str = "/the/folder/of/the/configuration";
/// Where Envoy Gateway reads resources: a file, since of folders it does not see every change.
const RESOURCES: &str = "resources/all.yaml";
/// The port of all pods.
const PORT: u16 = 8080;
/// The Gateway's port for HTTP.
pub const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 80);
/// What the guide switches on.
pub const NAMES: &str = "XDSNameSchemeV2";
/// The pods of the service orders: the ends of their addresses.
pub const ORDERS: [u8; 4] = [21, 22, 23, 24];

/// What Envoy Gateway is given.
#[derive(Clone, Debug)]
pub struct Setup {
    pub resources: Vec<Value>,
    /// The runtime flags that are on.
    pub flags: Vec<&'static str>,
}

impl Setup {
    /// The shop of the guide, with Weir as it is shipped.
    pub fn shop() -> Result<Self> {
        Self::with(&["envoypatchpolicy", "traffic"])
    }

    /// With these of the shipped files, and the Gateway and its Envoy.
    pub fn with(files: &[&str]) -> Result<Self> {
        let mut setup = Self { resources: Vec::new(), flags: vec![NAMES] };
        setup.add("{ apiVersion: v1, kind: Namespace, metadata: { name: shop } }")?;
        for file in ["gateway", "envoyproxy"].iter().chain(files) {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("envoy/gateway/{file}.yaml"));
            setup.add(&std::fs::read_to_string(path)?)?;
        }
        // Host mode differs in two things: Envoy is no Deployment, and there are no Services.
        let proxy = setup.find("EnvoyProxy", "weir")?;
        proxy["spec"]["provider"] = json!({"type": "Host", "host": {"envoyVersion": envoy::PINNED_VERSION}});
        setup.service("orders", &ORDERS)?;
        setup.find("HTTPRoute", "orders")?["spec"]["rules"][0]["backendRefs"] = json!([backend("orders")]);
        Ok(setup)
    }

    /// Adds a service with pods at the addresses that end so.
    pub fn service(&mut self, name: &str, pods: &[u8]) -> Result<()> {
        let endpoints: Vec<Value> =
            pods.iter().map(|pod| json!({"ip": {"address": address(*pod).ip(), "port": PORT}})).collect();
        self.resources.push(json!({
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "Backend",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"endpoints": endpoints},
        }));
        Ok(())
    }

    /// Adds resources.
    pub fn add(&mut self, yaml: &str) -> Result<()> {
        self.resources.extend(documents(yaml)?);
        Ok(())
    }

    /// The only resource of a kind with this name.
    pub fn find(&mut self, kind: &str, name: &str) -> Result<&mut Value> {
        let is = |resource: &&mut Value| resource["kind"] == kind && resource["metadata"]["name"] == name;
        self.resources.iter_mut().find(is).with_context(|| format!("there is no {kind} {name}"))
    }

    /// The patches of the shipped policy.
    fn patches(&mut self) -> Result<&mut Vec<Value>> {
        let policy = self.find("EnvoyPatchPolicy", "weir")?;
        policy["spec"]["jsonPatches"].as_array_mut().context("no jsonPatches")
    }

    /// Repeats the patches of the one listener, and of its routes, for another.
    pub fn listener(&mut self, listener: &str, routes: &str) -> Result<()> {
        let patches = self.patches()?;
        let mut more = Vec::new();
        for (shipped, own) in [("tcp-80", listener), ("http-80", routes)] {
            let of_it = patches.iter().filter(|patch| patch["name"] == shipped).cloned();
            more.extend(of_it.map(|mut patch| {
                patch["name"] = json!(own);
                patch
            }));
        }
        patches.extend(more);
        Ok(())
    }

    /// Puts one more entry before those of the policy's clusters.
    pub fn cluster(&mut self, entry: &Value) -> Result<()> {
        self.policy(|policy| {
            let clusters = policy["clusters"].as_array_mut().context("no clusters")?;
            clusters.insert(0, entry.clone());
            Ok(())
        })
    }

    /// Changes Weir's policy, wherever it stands.
    pub fn policy(&mut self, change: impl Fn(&mut Value) -> Result<()>) -> Result<()> {
        for patch in self.patches()? {
            let place = "/operation/value/typed_config/config/configuration/value";
            let Some(text) = patch.pointer_mut(place) else { continue };
            let Some(policy) = text.as_str().filter(|text| text.contains("\"decide\"")) else { continue };
            let mut policy: Value = serde_json::from_str(policy)?;
            change(&mut policy)?;
            *text = json!(policy.to_string());
        }
        Ok(())
    }

    /// Envoys pull modules from Envoy Gateway. In host mode that is not where it is in a cluster, and neither are the certificates.
    pub fn wasm_from_here(&mut self) {
        let file = |name: &str| json!({"filename": format!("{CONFIG}/certs/envoy/{name}")});
        let tls = json!({
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": file("tls.crt"), "private_key": file("tls.key")}],
            "validation_context": {"trusted_ca": file("ca.crt")},
        });
        let replace = |at: &str, path: &str, value: Value| {
            json!({
                "type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "name": "wasm_cluster",
                "operation": {"op": "replace", "jsonPath": at, "path": path, "value": value},
            })
        };
        self.resources.push(json!({
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "EnvoyPatchPolicy",
            "metadata": {"name": "host-mode", "namespace": "shop"},
            "spec": {
                "targetRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "eg"},
                "type": "JSONPatch",
                "jsonPatches": [
                    replace("$..common_tls_context", "", tls),
                    replace("$..socket_address", "/address", json!("127.0.0.1")),
                ],
            },
        }));
    }

    /// Starts it, and waits for Weir, if Weir is there.
    pub fn start(self) -> Result<Gateway> {
        let weir = self
            .resources
            .iter()
            .any(|resource| resource["metadata"]["name"] == "weir" && resource["kind"] != "EnvoyProxy");
        self.run(weir)
    }

    /// For resources that Envoy Gateway does nothing with.
    pub fn start_without_weir(self) -> Result<Gateway> {
        self.run(false)
    }

    fn run(self, weir: bool) -> Result<Gateway> {
        let pods: Vec<u8> = (21..29).collect();
        let pods = pods.iter().map(|pod| Pod::at(address(*pod))).collect::<Result<Vec<Pod>>>()?;
        let process = Process::start(&self)?;
        let gateway = Gateway { pods, admin: process.admin()?, process };
        gateway.ready(weir)?;
        Ok(gateway)
    }
}

/// A reference to a service of this name.
pub fn backend(name: &str) -> Value {
    json!({"group": "gateway.envoyproxy.io", "kind": "Backend", "name": name})
}

fn address(pod: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, pod], PORT))
}

/// Envoy Gateway, and with it the Envoy that it starts.
struct Process {
    child: Child,
    directory: TempDir,
}

impl Process {
    fn start(setup: &Setup) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("weir-gateway-").tempdir()?;
        let folder = |name: &str| -> Result<PathBuf> {
            let path = directory.path().join(name);
            std::fs::create_dir_all(&path)?;
            Ok(path)
        };
        // Where Envoy Gateway looks for an Envoy before it would download one.
        let version = envoy::PINNED_VERSION;
        let binary = folder(&format!("data/envoy-versions/{version}/bin"))?.join("envoy");
        std::os::unix::fs::symlink(std::path::absolute(envoy::binary())?, binary)?;
        for name in ["resources", "config"] {
            folder(name)?;
        }
        write(directory.path(), setup)?;
        let config = json!({
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "EnvoyGateway",
            "gateway": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
            "provider": {"type": "Custom", "custom": {
                "resource": {"type": "File", "file": {"paths": [directory.path().join(RESOURCES)]}},
                "infrastructure": {"type": "Host", "host": {
                    "configHome": folder("config")?,
                    "dataHome": folder("data")?,
                    "stateHome": folder("state")?,
                    "runtimeDir": folder("run")?,
                }},
            }},
            "extensionApis": {"enableBackend": true, "enableEnvoyPatchPolicy": true},
            "runtimeFlags": {"enabled": setup.flags},
        });
        let path = directory.path().join("envoy-gateway.yaml");
        std::fs::write(&path, config.to_string())?;
        let made = program(&directory)
            .args(["certgen", "--local", "--config-home"])
            .arg(folder("config")?)
            .output()
            .with_context(missing)?;
        ensure!(made.status.success(), "certgen: {}", String::from_utf8_lossy(&made.stderr));
        let log = std::fs::File::create(directory.path().join("log"))?;
        let child = program(&directory)
            .args(["server", "--config-path"])
            .arg(path)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(missing)?;
        Ok(Self { child, directory })
    }

    /// All that Envoy Gateway and Envoy logged so far.
    fn log(&self) -> String {
        std::fs::read(self.directory.path().join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The admin interface of the Envoy that it starts.
    fn admin(&self) -> Result<Admin> {
        let read = || -> Result<SocketAddr> {
            for run in std::fs::read_dir(self.directory.path().join("run"))? {
                if let Ok(text) = std::fs::read_to_string(run?.path().join("admin-address.txt")) {
                    return Ok(text.trim().parse()?);
                }
            }
            bail!("Envoy was not started: {}", self.log());
        };
        Ok(Admin { address: wait::until_ok(read)? })
    }
}

/// Puts the resources where Envoy Gateway reads them, all at once.
fn write(directory: &Path, setup: &Setup) -> Result<()> {
    let module = std::path::absolute(envoy::module())?;
    let text = yaml(&setup.resources).replace(MODULE, &module.to_string_lossy());
    let text = text.replace(CONFIG, &directory.join("config").to_string_lossy());
    std::fs::write(directory.join("all.yaml"), text)?;
    Ok(std::fs::rename(directory.join("all.yaml"), directory.join(RESOURCES))?)
}

impl Drop for Process {
    fn drop(&mut self) {
        // Told so, it ends its Envoy first.
        drop(Command::new("kill").arg(self.child.id().to_string()).status());
        let ended = wait::until(Duration::from_secs(20), || match self.child.try_wait() {
            Ok(None) => Err("it runs".to_owned()),
            _ => Ok(()),
        });
        if ended.is_err() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn program(directory: &TempDir) -> Command {
    let mut command = Command::new(path());
    command.env("HOME", directory.path()).current_dir(directory.path()).stdin(Stdio::null());
    command
}

/// Envoy Gateway, as it was built.
fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/control-planes/envoy-gateway")
}

fn missing() -> String {
    format!("cannot run {}: ./build.sh test control-planes builds it", path().display())
}

/// A shop that runs.
pub struct Gateway {
    pub admin: Admin,
    /// From the address that ends with 21 on.
    pods: Vec<Pod>,
    process: Process,
}

impl Gateway {
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Gives Envoy Gateway other resources, while all goes on.
    pub fn change(&self, setup: &Setup) -> Result<()> {
        write(self.process.directory.path(), setup)
    }

    /// What of the log says why something went wrong.
    pub fn story(&self) -> String {
        let odd = |line: &&str| {
            ["weir: ", "[warning]", "[error]", "[critical]", "\terror\t", "message: "]
                .iter()
                .any(|mark| line.contains(mark))
                && !line.contains("no status field")
                && !line.contains("Deprecated field")
        };
        let log = self.log();
        let lines: Vec<&str> = log.lines().filter(odd).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The pod whose address ends so.
    pub fn pod(&self, last: u8) -> Result<&Pod> {
        self.pods.iter().find(|pod| pod.address == address(last)).context("there is no such pod")
    }

    /// Waits until Envoy serves and has its listeners, with Weir in them.
    fn ready(&self, weir: bool) -> Result<()> {
        let serves = || -> Result<()> {
            self.admin.get("/ready")?;
            let response = exchange(HTTP, &Request::get("/is-anybody-there"))?;
            ensure!(response.status == 404, "{}", response.status);
            if weir {
                ensure!(self.log().contains("wasm log"), "Weir did not start");
            }
            Ok(())
        };
        wait::until_ok(serves).map_err(|error| anyhow::anyhow!("{error}: {}", self.story()))
    }

    /// Envoy refused nothing of what it was sent.
    pub fn nothing_is_refused(&self) -> Result<()> {
        for (name, value) in self.admin.stats("(update_rejected|config_reload_error)$")? {
            ensure!(value == 0, "{name} is {value}: {}", self.story());
        }
        let log = self.log();
        ensure!(!log.contains("rejected the last update"), "{}", self.story());
        Ok(())
    }

    /// What clients see of so many requests to a path: the HTTP status, or for gRPC 200 if its status is 0.
    pub fn send(&self, request: &Request, count: usize) -> Result<Vec<u16>> {
        self.send_to(HTTP, request, count)
    }

    pub fn send_to(&self, address: SocketAddr, request: &Request, count: usize) -> Result<Vec<u16>> {
        let grpc = request.headers.iter().any(|(_, value)| value.starts_with("application/grpc"));
        let once = || -> Result<u16> {
            if !grpc {
                return Ok(exchange(address, request)?.status);
            }
            let response = client_h2::exchange(address, request)?;
            let good = response.status == 200 && response.header("grpc-status") == Some("0");
            Ok(if good { 200 } else { 503 })
        };
        (0..count).map(|_| once()).collect()
    }

    /// The sum of Weir's metrics with this name, of clusters whose name contains the text.
    pub fn metric(&self, name: &str, cluster: &str) -> Result<u64> {
        let stats = self.admin.stats(&format!("^wasmcustom[.]weir_{name}([.]|$)"))?;
        Ok(stats.iter().filter(|(name, _)| name.contains(cluster)).map(|(_, value)| value).sum())
    }

    /// All requests that any pod has seen.
    pub fn arrived(&self) -> Vec<Arrived> {
        self.pods.iter().flat_map(Pod::arrived).collect()
    }

    /// Waits for a line of a log that holds all of `parts`.
    pub fn wait_for_log(&self, parts: &[&str]) -> Result<()> {
        let found = wait::until(wait::LIMIT, || {
            let log = self.log();
            let found = log.lines().any(|line| parts.iter().all(|part| line.contains(part)));
            if found { Ok(()) } else { Err(format!("no line holds {parts:?}: {}", self.story())) }
        });
        found.map_err(anyhow::Error::msg)
    }

    /// What Envoy Gateway last said of a resource.
    pub fn status(&self, kind: &str, key: &str) -> Result<String> {
        let (begin, end) = (format!("Got new status for {kind}\n"), format!("\"key\": \"{key}\""));
        let found = wait::until(wait::LIMIT, || {
            let log = self.log();
            let said = log.split(&begin).skip(1).filter_map(|rest| {
                let (status, rest) = rest.split_once("\n\t{")?;
                rest.lines().next()?.contains(&end).then(|| status.to_owned())
            });
            said.last().ok_or_else(|| format!("no status of {kind} {key}: {}", self.story()))
        });
        found.map_err(anyhow::Error::msg)
    }

    /// A policy is accepted and programmed.
    pub fn is_programmed(&self, kind: &str, key: &str) -> Result<()> {
        let status = self.status(kind, key)?;
        let status: Value = serde_yaml_ng::from_str(&status)?;
        let conditions = status["ancestors"][0]["conditions"].as_array().context("no conditions")?;
        for wanted in ["Accepted", "Programmed"] {
            let is = |condition: &Value| condition["type"] == wanted && condition["status"] == "True";
            ensure!(conditions.iter().any(is), "{kind} {key} is not {wanted}: {conditions:#?}");
        }
        Ok(())
    }
}
