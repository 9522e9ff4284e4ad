//! Another policy and another module in Envoy Gateway on a cluster, while requests come.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::cluster::Cluster;
use crate::envoy_gateway::under_load;
use crate::host_mode::{MODULE, Setup};
use crate::ingress::{service, set_down};
use crate::kubernetes::{GATEWAY, install};
use crate::mesh::{documents, yaml};
use crate::support::client::{Request, exchange};
use crate::support::{client_h2, wait};
use crate::{Test, guide, registry};

pub const TESTS: &[Test] = &[("envoy_gateway_upgrades", upgrades)];

/// The Envoy that Envoy Gateway runs.
struct Envoy<'a> {
    cluster: &'a Cluster,
    pod: String,
    address: SocketAddr,
}

impl<'a> Envoy<'a> {
    fn find(cluster: &'a Cluster) -> Result<Self> {
        let of = "kubectl -n envoy-gateway-system get pods -l gateway.envoyproxy.io/owning-gateway-name=eg -o";
        let pod = wait::until_ok(|| {
            let pods = cluster.run(&format!("{of} name"))?;
            ensure!(pods.lines().count() == 1, "its Envoys: {pods}");
            Ok(pods.trim().to_owned())
        })?;
        let ready = format!("kubectl -n envoy-gateway-system wait {pod} --for=condition=Ready --timeout=5m");
        cluster.run(&ready).with_context(|| cluster.story(""))?;
        let address = cluster.run(&format!("{of} jsonpath='{{.items[0].status.podIP}}'"))?;
        // Envoy Gateway has its Envoys listen 10000 above what only root may.
        Ok(Self { cluster, pod, address: SocketAddr::new(address.trim().parse()?, 10080) })
    }

    fn succeeds(&self, request: &Request) -> Result<bool> {
        if !request.headers.iter().any(|(_, value)| value.starts_with("application/grpc")) {
            return Ok(exchange(self.address, request)?.status == 200);
        }
        let response = client_h2::exchange(self.address, request)?;
        Ok(response.status == 200 && response.header("grpc-status") == Some("0"))
    }

    fn exec(&self, command: &str) -> Result<String> {
        self.cluster.run(&format!("kubectl -n envoy-gateway-system exec {} -c envoy -- {command}", self.pod))
    }

    /// What its admin interface says.
    fn admin(&self, path: &str) -> Result<String> {
        let get = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())";
        self.exec(&format!("python -c '{get}' 'http://127.0.0.1:19000/{path}'"))
    }

    /// Waits until Weir is in a mode.
    fn in_mode(&self, mode: &str) -> Result<()> {
        wait::until_ok(|| {
            let metrics = self.admin("stats/prometheus")?;
            let mut info = metrics.lines().filter(|line| line.starts_with("weir_info{") && line.ends_with(" 1"));
            let in_mode = info.all(|line| line.contains(&format!("weir_mode=\"{mode}\"")));
            ensure!(in_mode && metrics.contains("weir_info{"), "it is not in mode {mode}: {}", self.story());
            Ok(())
        })
    }

    fn story(&self) -> String {
        let log = format!("kubectl -n envoy-gateway-system logs {} -c envoy --tail=30", self.pod);
        format!("{}\n{}", self.cluster.story(""), self.cluster.run(&log).unwrap_or_else(|error| error.to_string()))
    }
}

/// Applies the policy of the guide, changed.
fn apply(cluster: &Cluster, change: impl FnOnce(&mut Setup) -> Result<()>) -> Result<()> {
    let shipped = include_str!("../../envoy/gateway/envoypatchpolicy.yaml");
    let mut setup = Setup { resources: documents(shipped)?, flags: Vec::new() };
    change(&mut setup)?;
    cluster.apply(&yaml(&setup.resources))
}

/// None fails, of whatever kind, and afterwards none fails while a replica is gone. As docs/upgrade.md says, the module comes under
/// another name, in the same ConfigMap, and all roles name it at once.
fn upgrades() -> Result<()> {
    let (cluster, _) = install(|cluster, command| {
        let shop = command.contains("envoy/compose/kubernetes.yaml");
        if shop {
            service(cluster, |_| ())?;
        }
        Ok(shop)
    })?;
    let envoy = Envoy::find(&cluster)?;
    envoy.in_mode("enforce")?;
    under_load(&|request| envoy.succeeds(request), || policy(&envoy)).with_context(|| envoy.story())?;
    under_load(&|request| envoy.succeeds(request), || module(&envoy)).with_context(|| envoy.story())?;
    let replicas = cluster.run("kubectl -n shop get pods -l app=orders -o name")?;
    set_down(&cluster, replicas.lines().next().context("no replicas")?, true)?;
    // As many as a test sends otherwise.
    under_load(&|request| envoy.succeeds(request), || Ok(())).with_context(|| envoy.story())?;
    ensure!(
        envoy.admin("stats/prometheus")?.contains("weir_ejections_total{"),
        "nothing was ejected: {}",
        envoy.story()
    );
    let refused = envoy.admin("stats?filter=update_rejected")?;
    ensure!(refused.lines().filter(|line| !line.is_empty()).all(|line| line.ends_with(": 0")), "{refused}");
    let commands = guide::commands(GATEWAY, "Five minutes")?;
    let waits =
        commands.iter().find(|command| command.contains("wait envoypatchpolicy/weir")).context("nobody waits")?;
    cluster.run(waits).map(drop)
}

fn policy(envoy: &Envoy<'_>) -> Result<()> {
    apply(envoy.cluster, |setup| {
        setup.policy(|policy| {
            policy["mode"] = json!("shadow");
            Ok(())
        })
    })?;
    envoy.in_mode("shadow")?;
    // Not the text of before: Envoy takes no notice of that until the listener of then is drained.
    apply(envoy.cluster, |setup| {
        setup.policy(|policy| {
            policy["clusters"][0]["retry"]["maxRetries"] = json!(4);
            Ok(())
        })
    })?;
    envoy.in_mode("enforce")
}

fn module(envoy: &Envoy<'_>) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("weir-2.wasm");
    registry::write_another_module(&path)?;
    envoy.cluster.run(&format!(
        "kubectl -n envoy-gateway-system create configmap weir --from-file=target/weir.wasm --from-file={} \
         --dry-run=client -o yaml | kubectl replace -f -",
        path.display()
    ))?;
    let module = "/etc/weir/weir-2.wasm";
    // It comes to pods that run.
    wait::until_ok(|| envoy.exec(&format!("ls {module}")))?;
    apply(envoy.cluster, |setup| {
        for resource in &mut setup.resources {
            *resource = serde_json::from_str(&resource.to_string().replace(MODULE, module))?;
        }
        Ok(())
    })?;
    wait::until_ok(|| {
        let dump = envoy.admin("config_dump?resource=dynamic_listeners")?;
        let loaded = dump.contains(module) && !dump.contains(MODULE) && !dump.contains("warming_state");
        ensure!(loaded, "the former module is there: {}", envoy.story());
        Ok(())
    })
}
