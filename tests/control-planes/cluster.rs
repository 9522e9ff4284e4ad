//! A cluster of Kubernetes of one node, in the namespaces that a test has for itself: etcd and the API server as they are, and a node
//! that runs pods (`node/main.go`).

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rcgen::KeyPair;
use tempfile::TempDir;

use crate::image;
use crate::support::{envoy, wait};

/// The address of the node, and of the API server.
pub const ADDRESS: &str = "10.244.0.1";

/// It ends with the namespace of processes that it is in.
pub struct Cluster {
    directory: TempDir,
}

impl Cluster {
    /// Starts it, with nothing in it.
    pub fn start() -> Result<Self> {
        let cluster = Self { directory: tempfile::Builder::new().prefix("weir-cluster-").tempdir()? };
        // Containers have users of their own.
        shell(&format!("chmod 755 {}", cluster.directory.path().display()))?;
        shell(&format!("ip link add br0 type bridge && ip address add {ADDRESS}/16 dev br0 && ip link set br0 up"))?;
        cluster.start_etcd()?;
        cluster.start_api_server()?;
        cluster.start_node()?;
        Ok(cluster)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts one of the programs, which logs into a file of its name.
    fn spawn(&self, name: &str, arguments: &[String]) -> Result<Child> {
        let log = File::create(self.file(&format!("{name}.log")))?;
        Command::new(program(name))
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {name}: ./build.sh test control-planes builds it"))
    }

    fn start_etcd(&self) -> Result<()> {
        let (clients, peers) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
        let arguments = [
            format!("--listen-client-urls={clients}"),
            format!("--advertise-client-urls={clients}"),
            format!("--listen-peer-urls={peers}"),
            format!("--initial-advertise-peer-urls={peers}"),
            format!("--initial-cluster=default={peers}"),
            "--data-dir=etcd".to_owned(),
            "--unsafe-no-fsync".to_owned(),
        ];
        self.spawn("etcd", &arguments).map(drop)
    }

    fn start_api_server(&self) -> Result<()> {
        let key = KeyPair::generate()?;
        std::fs::write(self.file("accounts.key"), key.serialize_pem())?;
        std::fs::write(self.file("accounts.pem"), key.public_key_pem())?;
        std::fs::write(self.file("tokens.csv"), "secret,admin,1,system:masters\n")?;
        let arguments = [
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            format!("--bind-address={ADDRESS}"),
            format!("--advertise-address={ADDRESS}"),
            "--cert-dir=certificates".to_owned(),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            "--endpoint-reconciler-type=none".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--service-account-key-file=accounts.pem".to_owned(),
            "--service-account-signing-key-file=accounts.key".to_owned(),
            "--token-auth-file=tokens.csv".to_owned(),
            "--authorization-mode=RBAC".to_owned(),
            "--allow-privileged=true".to_owned(),
        ];
        let mut server = self.spawn("kube-apiserver", &arguments)?;
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "one", "cluster": {
                "server": format!("https://{ADDRESS}:6443"),
                "certificate-authority": self.file("certificates/apiserver.crt"),
            }}],
            "users": [{"name": "admin", "user": {"token": "secret"}}],
            "contexts": [{"name": "one", "context": {"cluster": "one", "user": "admin"}}],
            "current-context": "one",
        });
        std::fs::write(self.file("kubeconfig"), config.to_string())?;
        let ready = wait::until(wait::LIMIT, || match server.try_wait() {
            Ok(None) => self.run("kubectl get --raw /readyz").map(drop).map_err(|error| format!("{error:#}")),
            _ => Ok(()),
        });
        ready.map_err(anyhow::Error::msg)?;
        ensure!(matches!(server.try_wait(), Ok(None)), "the API server ended: {}", self.log("kube-apiserver"));
        Ok(())
    }

    fn start_node(&self) -> Result<()> {
        let images = self.file("images");
        std::fs::create_dir(&images)?;
        let link = |name: &str, path: PathBuf| std::os::unix::fs::symlink(path, images.join(name));
        for name in ["pilot-agent", "pilot-discovery", "envoy-gateway"] {
            link(name, program(name))?;
        }
        link("envoy", std::path::absolute(envoy::binary())?)?;
        link(image::PROGRAM, std::env::current_exe()?)?;
        // A plain Envoy lacks an extension that Istio's bootstrap has for waypoints.
        let template = std::fs::read_to_string(program("envoy_bootstrap.json"))?;
        std::fs::write(
            self.file("template.json"),
            template.replace("{{- if .metadata_discovery }}", "{{- if false }}"),
        )?;
        let of = |name: &str| self.file(name).display().to_string();
        let arguments = [
            "-kubeconfig".to_owned(),
            of("kubeconfig"),
            "-authority".to_owned(),
            of("certificates/apiserver.crt"),
            "-address".to_owned(),
            ADDRESS.to_owned(),
            "-programs".to_owned(),
            images.display().to_string(),
            "-template".to_owned(),
            of("template.json"),
            "-work".to_owned(),
            of("pods"),
        ];
        self.spawn("node", &arguments)?;
        // As in a real cluster, each namespace gets an account by itself.
        let account =
            || self.run("kubectl -n default get serviceaccount default").map_err(|error| format!("{error:#}"));
        wait::until(wait::LIMIT, account).map(drop).map_err(|error| anyhow::anyhow!("{error}: {}", self.log("node")))
    }

    /// The end of what a program logged.
    pub fn log(&self, name: &str) -> String {
        let bytes = std::fs::read(self.file(&format!("{name}.log"))).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// A command as a user types it in the root of the repository.
    fn command(&self, line: &str) -> Command {
        // What is in a pipe is to write its lines as they come, as it does on a terminal.
        let mut command = Command::new("stdbuf");
        let path = std::env::var("PATH").unwrap_or_default();
        // Helm, where the machine has none.
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin");
        command
            .args(["-oL", "bash", "-euo", "pipefail", "-c", line])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("PATH", format!("{}:{}:{path}", program("").display(), tools.display()))
            .env("KUBECONFIG", self.file("kubeconfig"))
            .env("HOME", self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// What a command prints. It succeeds, or what it says is the error.
    pub fn run(&self, line: &str) -> Result<String> {
        let output = self.command(line).output().context("cannot run stdbuf")?;
        let (said, complaints) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{line}: {}\n{said}\n{complaints}", output.status);
        Ok(said.into_owned())
    }

    /// Applies resources that are no file.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        let path = self.file("apply.yaml");
        std::fs::write(&path, yaml)?;
        self.run(&format!("kubectl apply -f {}", path.display())).map(drop)
    }

    /// Where things stand in a namespace, or in all, for messages.
    pub fn story(&self, namespace: &str) -> String {
        let of = if namespace.is_empty() { "-A".to_owned() } else { format!("-n {namespace}") };
        let pods = self.run(&format!("kubectl get pods {of} -o wide"));
        format!(
            "{}
node: {}",
            pods.unwrap_or_else(|error| format!("{error:#}")),
            self.log("node")
        )
    }

    /// A command that goes on until it is told to end.
    pub fn follow(&self, line: &str) -> Result<Following> {
        let mut child = self.command(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (sender, lines) = channel();
        let read = |from: Box<dyn Read + Send>| {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(from).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        };
        read(Box::new(child.stdout.take().context("no output")?));
        read(Box::new(child.stderr.take().context("no errors")?));
        Ok(Following { child, lines, said: Vec::new() })
    }
}

/// What a command says while it runs.
pub struct Following {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Following {
    /// Waits for a line that fits, for ten minutes: the command may itself wait for five at first. The line.
    pub fn line(&mut self, mut fits: impl FnMut(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + Duration::from_secs(600);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else { bail!("no such line: {}", self.said.join("\n")) };
            self.said.push(line.clone());
            if fits(&line) {
                return Ok(line);
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where what `build.sh` built lies.
fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/control-planes").join(name)
}

/// Runs a script, which must succeed.
pub fn shell(script: &str) -> Result<()> {
    let output = Command::new("sh").args(["-euc", script]).output()?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
