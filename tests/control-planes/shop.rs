//! The shop of the guide for Istio on a cluster, with replicas in a test's hands.

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;

use crate::cluster::Cluster;
use crate::guide;
use crate::image::{ENOUGH, PROGRAM};
use crate::ingress;
use crate::mesh::{Setup, documents, yaml};
use crate::support::wait;

pub const ISTIO: &str = "envoy/istio/README.md";
/// Commands that find done what they do: there is a cluster, and the module is what the tests are about.
pub const DONE: [&str; 2] = ["kind create cluster", "./build.sh"];

/// A plain Envoy lacks one filter of Istio's build that is on unless somebody says otherwise.
pub const WITHOUT_ISTIO_STATS: &str = r#"
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: { name: default, namespace: istio-system }
spec: { metrics: [{ providers: [{ name: prometheus }], overrides: [{ disabled: true }] }] }
"#;

pub const HOST: &str = "orders.shop.svc.cluster.local";
const PORTS: [(&str, &str); 3] = [("GET", "8080"), ("POST", "8080"), ("gRPC", "9090")];

/// What the guide has before it applies resources.
pub fn commands() -> Result<Vec<String>> {
    let commands = guide::commands(ISTIO, "Five minutes")?.into_iter();
    let commands = commands.take_while(|command| !command.starts_with("kubectl apply"));
    Ok(commands.filter(|command| !DONE.contains(&command.as_str())).collect())
}

/// The command that brings the module has this.
const MODULE: &str = "configmap weir";

/// The shop of the guide, with replicas that are down when they are told to be, and a port for gRPC.
pub struct Shop {
    pub cluster: Cluster,
    replicas: Vec<String>,
}

impl Shop {
    /// With Weir as in the guide.
    pub fn start(change: impl FnOnce(&mut Setup) -> Result<()>) -> Result<Self> {
        Self::with(|cluster, setup| {
            for command in commands()?.iter().filter(|command| command.contains(MODULE)) {
                cluster.run(command)?;
            }
            for file in ["decide", "attempts", "proxy-status", "traffic"] {
                setup.ship(file)?;
            }
            setup.name_in_weir(HOST, 9090)?;
            change(setup)
        })
    }

    /// With Weir as somebody else has it.
    pub fn with(weir: impl FnOnce(&Cluster, &mut Setup) -> Result<()>) -> Result<Self> {
        let cluster = Cluster::start()?;
        for command in commands()?.iter().filter(|command| !command.contains(MODULE)) {
            cluster.run(command)?;
        }
        cluster.apply(WITHOUT_ISTIO_STATS)?;
        let mut setup =
            Setup { resources: documents(include_str!("../../envoy/compose/kubernetes.yaml"))?, ..Setup::bare()? };
        for name in ["orders", "storefront"] {
            let deployment = setup.find("Deployment", name)?;
            deployment["spec"]["template"]["spec"]["containers"][0]["command"] =
                json!([PROGRAM, "serve", "8080", "9090"]);
        }
        let ports = &mut setup.find("Service", "orders")?["spec"]["ports"];
        ports.as_array_mut().context("no ports")?.push(json!({"name": "grpc", "port": 9090, "targetPort": 9090}));
        weir(&cluster, &mut setup)?;
        cluster.apply(&yaml(&setup.resources))?;
        cluster
            .run("kubectl -n shop wait deployment --all --for=condition=Available --timeout=5m")
            .with_context(|| cluster.story("shop"))?;
        let replicas = cluster.run("kubectl -n shop get pods -l app=orders -o name")?;
        let replicas = replicas.lines().map(str::to_owned).collect();
        Ok(Self { cluster, replicas })
    }

    /// How many requests of each kind fail.
    pub fn failures(&self, counts: [usize; 3]) -> Result<[usize; 3]> {
        let mut failures = [0; 3];
        for (failed, ((kind, port), count)) in failures.iter_mut().zip(PORTS.iter().zip(counts)) {
            *failed = self.failures_to(&format!("{HOST}:{port}"), kind, count)?;
        }
        Ok(failures)
    }

    /// How many of so many requests of a kind fail, to `HOST:PORT` or to `HOST:PORT@ADDRESS:PORT`.
    pub fn failures_to(&self, to: &str, kind: &str, count: usize) -> Result<usize> {
        let send = format!("{PROGRAM} send {kind} {count} {to}");
        let said = self.cluster.run(&format!("kubectl -n shop exec deploy/storefront -c clients -- {send}"))?;
        said.trim().parse().with_context(|| said.clone())
    }

    /// The address of a replica's pod.
    pub fn address(&self, replica: usize) -> Result<String> {
        let ip = format!("kubectl -n shop get {} -o jsonpath='{{.status.podIP}}'", self.replicas[replica]);
        Ok(self.cluster.run(&ip)?.trim().to_owned())
    }

    /// Sends requests of all kinds while something changes. None of them fails.
    pub fn under_load(&self, change: impl FnOnce() -> Result<()>) -> Result<()> {
        let exec = format!("kubectl -n shop exec {} -c clients --", self.client()?);
        let kinds: Vec<String> = PORTS.iter().map(|(kind, port)| format!("{kind}={HOST}:{port}")).collect();
        let (changed, said) = std::thread::scope(|scope| {
            let load = scope.spawn(|| self.cluster.run(&format!("{exec} {PROGRAM} load {}", kinds.join(" "))));
            let changed = change();
            let ended = self.cluster.run(&format!("{exec} touch {ENOUGH}"));
            let said = load.join().unwrap_or_else(|_| Err(anyhow::anyhow!("the load panicked")));
            (changed, ended.and(said))
        });
        changed?;
        let said = said?;
        self.cluster.run(&format!("{exec} rm {ENOUGH}"))?;
        let (sent, failed) = said.trim().split_once(' ').with_context(|| said.clone())?;
        ensure!(failed == "0", "{failed} of {sent} requests failed: {}", self.story());
        Ok(())
    }

    /// The client's pod.
    fn client(&self) -> Result<String> {
        Ok(self.cluster.run("kubectl -n shop get pods -l app=storefront -o name")?.trim().to_owned())
    }

    /// Has a replica refuse connections from now on, or listen again.
    pub fn down(&self, replica: usize, down: bool) -> Result<()> {
        ingress::set_down(&self.cluster, &self.replicas[replica], down)
    }

    /// Replaces the client's pod, and waits until the old one is gone: `deploy/storefront` may mean either.
    pub fn restart_client(&self) -> Result<()> {
        for command in [
            "kubectl -n shop rollout restart deployment/storefront",
            "kubectl -n shop rollout status deployment/storefront --timeout=5m",
        ] {
            self.cluster.run(command).with_context(|| self.story())?;
        }
        wait::until_ok(|| {
            // Not `kubectl wait`, which fails where a pod goes away meanwhile.
            let pods = self.client()?;
            ensure!(pods.lines().count() == 1, "still there: {pods}");
            Ok(())
        })
        .map_err(|error| anyhow!("{error}: {}", self.story()))
    }

    /// Waits until the client's sidecar has logged all of this, in any order.
    pub fn log(&self, parts: &[&str]) -> Result<()> {
        for part in parts {
            let mut log = self.cluster.follow("kubectl -n shop logs deploy/storefront -c istio-proxy -f")?;
            log.line(|line| line.contains(part)).with_context(|| self.story())?;
        }
        Ok(())
    }

    /// Weir's metrics with this name in the client's sidecar.
    pub fn metrics(&self, name: &str) -> Result<Vec<String>> {
        let metrics = self
            .cluster
            .run("kubectl -n shop exec deploy/storefront -c istio-proxy -- pilot-agent request GET stats/prometheus")?;
        Ok(metrics.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect())
    }

    pub fn story(&self) -> String {
        let log = self
            .cluster
            .run("kubectl -n shop logs deploy/storefront -c istio-proxy | grep -E 'weir:|warning|error' | tail -n 20");
        let metrics = self.metrics("weir_").unwrap_or_default().join("\n");
        format!("{}\n{metrics}\n{}", self.cluster.story("shop"), log.unwrap_or_else(|error| error.to_string()))
    }
}
