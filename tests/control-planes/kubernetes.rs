//! The guides, from their first command to the last, on a cluster of Kubernetes.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::cluster::{ADDRESS, Cluster};
use crate::guide;
use crate::image::{DOWN, PROGRAM};
use crate::mesh::{Setup, documents};
use crate::support::admin::Admin;
use crate::support::{envoy, wait};
use crate::{Test, registry};

pub const TESTS: &[Test] = &[
    ("istio_guide", istio_guide),
    ("envoy_gateway_guide", envoy_gateway_guide),
    ("replicas_crash", replicas_crash),
    ("registries", registries),
];

const ISTIO: &str = "envoy/istio/README.md";
const ORDERS: &str = "outbound|8080||orders.shop.svc.cluster.local";

/// Commands that find done what they do: there is a cluster, and the module is what the tests are about.
const DONE: [&str; 2] = ["kind create cluster", "./build.sh"];

/// A plain Envoy lacks one filter of Istio's build that is on unless somebody says otherwise.
const WITHOUT_ISTIO_STATS: &str = r#"
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: { name: default, namespace: istio-system }
spec: { metrics: [{ providers: [{ name: prometheus }], overrides: [{ disabled: true }] }] }
"#;

fn istio_guide() -> Result<()> {
    let cluster = Cluster::start()?;
    let mut done = 0;
    for command in guide::commands(ISTIO, "Five minutes")? {
        if DONE.contains(&command.as_str()) {
            done += 1;
        } else if command.contains(" logs ") {
            watch(&cluster, &command).with_context(|| cluster.story("shop"))?;
        } else {
            let said = cluster.run(&command).with_context(|| cluster.story("shop"))?;
            if command.starts_with("istioctl install") {
                cluster.apply(WITHOUT_ISTIO_STATS)?;
            }
            if command.contains("stats/prometheus") {
                let counted = format!("weir_ejections_total{{weir_reason=\"refused\",weir_cluster=\"{ORDERS}\"}}");
                ensure!(said.contains(&counted), "{command}: {said}");
            }
        }
    }
    ensure!(done == DONE.len(), "the guide no longer has {DONE:?}");
    for command in guide::commands(ISTIO, "When nothing happens")? {
        let said = cluster.run(&format!("{command} 2>&1"))?;
        ensure!(nothing_is_wrong(&command, &said)?, "{command}: {said}");
    }
    Ok(())
}

/// Whoever does not speak mutual TLS is refused.
const STRICT: &str = r#"
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: shop }
spec: { mtls: { mode: STRICT } }
"#;

const HOST: &str = "orders.shop.svc.cluster.local";
const PORTS: [(&str, &str); 3] = [("GET", "8080"), ("POST", "8080"), ("gRPC", "9090")];

/// The shop of the guide, with replicas that are down when they are told to be, and a port for gRPC.
struct Shop {
    cluster: Cluster,
    replicas: Vec<String>,
}

impl Shop {
    fn start(change: impl FnOnce(&mut Setup) -> Result<()>) -> Result<Self> {
        let cluster = Cluster::start()?;
        for command in guide::commands(ISTIO, "Five minutes")? {
            if command.starts_with("kubectl apply") {
                break;
            }
            if !DONE.contains(&command.as_str()) {
                cluster.run(&command)?;
            }
        }
        cluster.apply(WITHOUT_ISTIO_STATS)?;
        let mut setup =
            Setup { resources: documents(include_str!("../../envoy/compose/kubernetes.yaml"))?, ..Setup::bare()? };
        for file in ["decide", "attempts", "proxy-status", "traffic"] {
            setup.ship(file)?;
        }
        for name in ["orders", "storefront"] {
            let deployment = setup.find("Deployment", name)?;
            deployment["spec"]["template"]["spec"]["containers"][0]["command"] =
                json!([PROGRAM, "serve", "8080", "9090"]);
        }
        let ports = &mut setup.find("Service", "orders")?["spec"]["ports"];
        ports.as_array_mut().context("no ports")?.push(json!({"name": "grpc", "port": 9090, "targetPort": 9090}));
        setup.name_in_weir(HOST, 9090)?;
        change(&mut setup)?;
        let texts: Vec<String> = setup.resources.iter().map(ToString::to_string).collect();
        cluster.apply(&texts.join("\n---\n"))?;
        cluster
            .run("kubectl -n shop wait deployment --all --for=condition=Available --timeout=5m")
            .with_context(|| cluster.story("shop"))?;
        let replicas = cluster.run("kubectl -n shop get pods -l app=orders -o name")?;
        let replicas = replicas.lines().map(str::to_owned).collect();
        Ok(Self { cluster, replicas })
    }

    /// How many requests of each kind fail.
    fn failures(&self, counts: [usize; 3]) -> Result<[usize; 3]> {
        let mut failures = [0; 3];
        for (failed, ((kind, port), count)) in failures.iter_mut().zip(PORTS.iter().zip(counts)) {
            let send = format!("{PROGRAM} send {kind} {count} {HOST}:{port}");
            let said = self.cluster.run(&format!("kubectl -n shop exec deploy/storefront -c clients -- {send}"))?;
            *failed = said.trim().parse().with_context(|| said.clone())?;
        }
        Ok(failures)
    }

    /// Has a replica refuse connections from now on, or listen again.
    fn down(&self, replica: usize, down: bool) -> Result<()> {
        let (pod, change) = (&self.replicas[replica], if down { "touch" } else { "rm" });
        self.cluster.run(&format!("kubectl -n shop exec {pod} -c orders -- {change} {DOWN}")).map(drop)
    }

    /// Replaces the client's pod.
    fn restart_client(&self) -> Result<()> {
        for command in [
            "kubectl -n shop rollout restart deployment/storefront",
            "kubectl -n shop rollout status deployment/storefront --timeout=5m",
            "kubectl -n shop wait pod -l app=storefront --for=condition=Ready --timeout=5m",
        ] {
            self.cluster.run(command).with_context(|| self.story())?;
        }
        Ok(())
    }

    /// Waits until the client's sidecar has logged all of this, in any order.
    fn log(&self, parts: &[&str]) -> Result<()> {
        for part in parts {
            let mut log = self.cluster.follow("kubectl -n shop logs deploy/storefront -c istio-proxy -f")?;
            log.line(|line| line.contains(part)).with_context(|| self.story())?;
        }
        Ok(())
    }

    /// Weir's metrics with this name in the client's sidecar.
    fn metrics(&self, name: &str) -> Result<Vec<String>> {
        let metrics = self
            .cluster
            .run("kubectl -n shop exec deploy/storefront -c istio-proxy -- pilot-agent request GET stats/prometheus")?;
        Ok(metrics.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect())
    }

    fn story(&self) -> String {
        let log = self
            .cluster
            .run("kubectl -n shop logs deploy/storefront -c istio-proxy | grep -E 'weir:|warning|error' | tail -n 20");
        let metrics = self.metrics("weir_").unwrap_or_default().join("\n");
        format!("{}\n{metrics}\n{}", self.cluster.story("shop"), log.unwrap_or_else(|error| error.to_string()))
    }
}

/// A replica that is gone costs no request, of whatever kind: each stands behind its own sidecar, with mutual TLS between them.
fn replicas_crash() -> Result<()> {
    let shop = Shop::start(|setup| setup.add(STRICT))?;
    let calm = shop.failures([60, 60, 60])?;
    ensure!(calm == [0; 3], "{calm:?} of 60 fail in calm: {}", shop.story());
    for replica in [0, 1] {
        shop.down(replica, true)?;
        let failed = shop.failures([150, 60, 60])?;
        ensure!(failed == [0; 3], "{failed:?} of 150, 60 and 60 fail: {}", shop.story());
    }
    for port in ["8080", "9090"] {
        let ejections = shop.metrics("weir_ejections_total")?;
        ensure!(ejections.iter().any(|line| line.contains(&format!("|{port}||{HOST}"))), "{port}: {}", shop.story());
    }
    for replica in [0, 1] {
        shop.down(replica, false)?;
    }
    let all_are_back = || -> Result<()> {
        let failed = shop.failures([20, 20, 20])?;
        ensure!(failed == [0; 3], "{failed:?} of 20 fail");
        let out = shop.metrics("weir_hosts_out{")?;
        ensure!(out.len() == 2 && out.iter().all(|line| line.ends_with(" 0")), "{out:?}");
        Ok(())
    };
    wait::until(wait::LIMIT, || all_are_back().map_err(|error| format!("{error:#}")))
        .map_err(|error| anyhow::anyhow!("{error}: {}", shop.story()))
}

/// The plugin of the guide, with the module from a registry on the node.
fn plugin(port: u16) -> Result<Value> {
    let mut plugin = documents(include_str!("../../envoy/istio/wasmplugin.yaml"))?.remove(0);
    plugin["spec"]["url"] = json!(format!("oci://{ADDRESS}:{port}/weir:0.1.0"));
    Ok(plugin)
}

/// A registry that is down, slow or has another module costs Weir, and no request.
fn registries() -> Result<()> {
    let [good, slow, other, wrong] = [5000, 5001, 5002, 5003];
    let at = |port: u16| -> Result<SocketAddr> { Ok(format!("{ADDRESS}:{port}").parse()?) };
    // Down, while pods start.
    let shop = Shop::start(|setup| {
        setup.resources.retain(|resource| resource["metadata"]["name"] != "weir-decide");
        setup.resources.push(plugin(good)?);
        Ok(())
    })?;
    let failed = shop.failures([30; 3])?;
    ensure!(failed == [0; 3], "{failed:?} of 30 fail without the registry: {}", shop.story());
    ensure!(shop.metrics("weir_requests_total")?.is_empty(), "the registry was down: {}", shop.story());

    registry::serve(at(good)?)?;
    shop.restart_client()?;
    shop.log(&["roles decide, watch, guard"])?;
    shop.down(0, true)?;
    let failed = shop.failures([100, 60, 60])?;
    ensure!(failed == [0; 3], "{failed:?} of 100, 60 and 60 fail: {}", shop.story());
    ensure!(!shop.metrics("weir_ejections_total")?.is_empty(), "nothing was ejected: {}", shop.story());
    shop.down(0, false)?;

    let asked = registry::hang(at(slow)?)?;
    shop.cluster.apply(&plugin(slow)?.to_string())?;
    let begins = || if asked.load(Ordering::Relaxed) > 0 { Ok(()) } else { Err("nobody asks".to_owned()) };
    wait::until(wait::LIMIT, begins).map_err(anyhow::Error::msg)?;
    let failed = shop.failures([60; 3])?;
    ensure!(failed == [0; 3], "{failed:?} of 60 fail while the registry says nothing: {}", shop.story());
    // A new pod waits for it for half a minute, then does without.
    shop.restart_client()?;
    let failed = shop.failures([30; 3])?;
    ensure!(failed == [0; 3], "{failed:?} of 30 fail after the registry said nothing: {}", shop.story());

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("weir.wasm");
    let module = std::fs::read(envoy::module())?;
    // A custom section more: the bytes differ, so the roles are in two VMs.
    std::fs::write(&path, [module.as_slice(), b"\0\x02\x01x"].concat())?;
    registry::serve_module(at(other)?, &path)?;
    shop.cluster.apply(&plugin(other)?.to_string())?;
    shop.restart_client()?;
    shop.log(&["roles decide;", "roles watch, guard"])?;
    let failed = shop.failures([60; 3])?;
    ensure!(failed == [0; 3], "{failed:?} of 60 fail with another module: {}", shop.story());

    // What Envoy cannot load. Whoever has a module keeps it.
    std::fs::write(&path, &module[..8])?;
    registry::serve_module(at(wrong)?, &path)?;
    shop.cluster.apply(&plugin(wrong)?.to_string())?;
    shop.log(&["TypedExtensionConfig rejected"])?;
    let failed = shop.failures([60; 3])?;
    ensure!(failed == [0; 3], "{failed:?} of 60 fail with what is no module: {}", shop.story());
    Ok(())
}

const GATEWAY: &str = "envoy/gateway/README.md";
/// Where the guide forwards Envoy's admin port to.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 19000);

fn envoy_gateway_guide() -> Result<()> {
    let cluster = Cluster::start()?;
    let commands = guide::commands(GATEWAY, "Five minutes")?;
    // From there on they share a variable, and processes in the background.
    let looks = commands.iter().position(|command| command.starts_with("envoy=$(")).context("nobody looks")?;
    let mut done = 0;
    for command in &commands[..looks] {
        // The chart is that of this version, from another place.
        let chart = env!("CARGO_MANIFEST_DIR").to_owned() + "/target/control-planes/gateway-helm";
        let command = command.replace("oci://docker.io/envoyproxy/gateway-helm --version v1.9.0", &chart);
        if DONE.contains(&command.as_str()) {
            done += 1;
        } else {
            cluster.run(&command).with_context(|| cluster.story(""))?;
        }
    }
    ensure!(done == DONE.len(), "the guide no longer has {DONE:?}");
    let mut log = cluster.follow(&commands[looks..].join("\n"))?;
    log.line(|line| line.contains(": roles decide, watch, guard; signals of every attempt; "))
        .with_context(|| cluster.story(""))?;
    let ejected = "weir: cluster httproute/shop/orders/rule/0: host 10.244.";
    log.line(|line| line.contains(ejected) && line.contains(" (refused, strike "))?;
    let metrics = Admin { address: ADMIN }.get("/stats/prometheus")?;
    let counted = r#"weir_ejections_total{weir_reason="refused",weir_cluster="httproute/shop/orders/rule/0"}"#;
    ensure!(metrics.contains(counted), "{metrics}");
    few_fail(&log.line(|line| number(line, " GETs").is_some_and(|gets| gets > 3000))?)
}

/// Looks at a log as the guide does, until it says what the guide says.
fn watch(cluster: &Cluster, command: &str) -> Result<()> {
    let mut log = cluster.follow(command)?;
    if command.contains("-c istio-proxy") {
        log.line(|line| line.contains(": roles decide, watch, guard; signals of every attempt; "))?;
        let ejected = format!("weir: cluster {ORDERS}: host 10.244.");
        log.line(|line| line.contains(&ejected) && line.contains(":8080 ejected for "))?;
        // What is in the metrics afterwards, too.
        log.line(|line| line.contains(&ejected) && line.contains(" (refused, strike "))?;
    } else {
        few_fail(&log.line(|line| number(line, " GETs").is_some_and(|gets| gets > 3000))?)?;
    }
    Ok(())
}

/// The clients of the guides say: "5000 GETs, 0 failed (0.00 %); 2000 POSTs, 0 failed (0.00 %)".
fn few_fail(line: &str) -> Result<()> {
    let (gets, posts) = line.split_once("; ").context("no POSTs")?;
    for (part, name, limit) in [(gets, " GETs", 100), (posts, " POSTs", 50)] {
        let sent = number(part, name).context("no count")?;
        let failed = part.split(", ").nth(1).and_then(|failed| number(failed, " failed")).context("no failures")?;
        ensure!(failed * limit <= sent, "{line}");
    }
    Ok(())
}

/// The number before these words.
fn number(text: &str, words: &str) -> Option<u64> {
    text.split(words).next()?.parse().ok()
}

/// What the commands say that look for a mistake, where there is none.
fn nothing_is_wrong(command: &str, said: &str) -> Result<bool> {
    let about_envoy_filters = |line: &str| line.contains("EnvoyFilter exposes internal implementation details");
    Ok(if command.starts_with("istioctl validate") {
        let complaints = said.lines().filter(|line| line.starts_with('\t'));
        complaints.clone().count() == 3 && complaints.clone().all(about_envoy_filters)
    } else if command.starts_with("istioctl analyze") {
        let findings: Vec<&str> = said.lines().filter(|line| line.contains("[IST")).collect();
        findings.len() == 3 && findings.iter().all(|line| line.contains("IST0133") && about_envoy_filters(line))
    } else if command.starts_with("istioctl proxy-status") {
        ["Clusters Match", "Listeners Match", "Routes Match"].iter().all(|line| said.contains(line))
    } else if command.starts_with("istioctl proxy-config listeners") {
        ["weir.decide", "weir.watch", "weir.guard", "weir.session"].iter().all(|name| said.contains(name))
    } else if command.contains("update_rejected") {
        said.contains("listener_manager.lds.update_rejected: 0") && said.lines().all(|line| line.ends_with(": 0"))
    } else if command.contains("kube-inject") {
        said.contains("mountPath: /etc/istio/custom-bootstrap")
    } else {
        bail!("the guide has a command that nobody looks at: {command}")
    })
}
