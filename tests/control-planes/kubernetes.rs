//! The guides, from their first command to the last, on a cluster of Kubernetes.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::chart::Chart;
use crate::cluster::{Cluster, Following};
use crate::envoy_gateway::Edge;
use crate::shop::{DONE, ISTIO, WITHOUT_ISTIO_STATS};
use crate::support::admin::Admin;
use crate::support::client::{Request, exchange};
use crate::support::wait;
use crate::{Test, guide};

pub const TESTS: &[Test] = &[
    ("istio_guide", istio_guide),
    ("envoy_gateway_guide", envoy_gateway_guide),
    ("envoy_gateway_chart", envoy_gateway_chart),
];

const ORDERS: &str = "outbound|8080||orders.shop.svc.cluster.local";

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

pub const GATEWAY: &str = "envoy/gateway/README.md";
/// Where the guide forwards Envoy's admin port to.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 19000);

fn envoy_gateway_guide() -> Result<()> {
    let (cluster, log) = walk(|_, _| Ok(false))?;
    https(&cluster)?;
    consistent_hash(&cluster)?;
    drop(log);
    Ok(())
}

/// The Gateway gets a listener for HTTPS, and Weir's patches for it, as `weir generate` writes them: requests pass Weir there as well,
/// and few fail.
fn https(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let key = rcgen::generate_simple_self_signed(vec!["shop.example".to_owned()])?;
    std::fs::write(file("tls.crt"), key.cert.pem())?;
    std::fs::write(file("tls.key"), key.signing_key.serialize_pem())?;
    cluster.run(&format!(
        "kubectl -n shop create secret tls shop --cert {} --key {}",
        file("tls.crt"),
        file("tls.key")
    ))?;
    let listener = r#"{"name": "https", "protocol": "HTTPS", "port": 443,
        "tls": {"mode": "Terminate", "certificateRefs": [{"name": "shop"}]}}"#;
    cluster.run(&format!(
        "kubectl -n shop patch gateway eg --type json -p '[{{\"op\": \"add\", \"path\": \"/spec/listeners/-\", \"value\": {listener}}}]'"
    ))?;
    cluster.run(&format!(
        "{} generate envoy-gateway --route shop/orders --gateway eg --listener http:80 --listener https:443 | kubectl apply -f -",
        env!("CARGO_BIN_EXE_weir")
    ))?;
    wait::until_ok(|| {
        let dump = Admin { address: ADMIN }.get("/config_dump?resource=dynamic_listeners")?;
        let dump: Value = serde_json::from_str(&dump)?;
        let listeners = dump["configs"].as_array().context("no listeners")?;
        let https = listeners.iter().find(|listener| listener["name"] == "tcp-443").context("no listener for HTTPS")?;
        let active = https["active_state"].to_string();
        let all = ["weir.decide", "weir.session", "weir.watch", "weir.guard"].iter().all(|name| active.contains(name));
        ensure!(all, "the listener for HTTPS lacks some part of Weir");
        Ok(())
    })?;
    let pod = "kubectl -n envoy-gateway-system get pods -l gateway.envoyproxy.io/owning-gateway-name=eg";
    let address = cluster.run(&format!("{pod} -o jsonpath='{{.items[0].status.podIP}}'"))?;
    // Envoy Gateway has its Envoys listen 10000 above what only root may.
    let edge = Edge::start(8443, SocketAddr::new(address.trim().parse()?, 10443), false)?;
    // The replicas crash at random: now and then all of them are away at once.
    wait::until_ok(|| {
        let answered = || exchange(edge.address, &Request::get("/orders")).is_ok_and(|answer| answer.status == 200);
        let failed = (0..400).filter(|_| !answered()).count();
        ensure!(failed <= 4, "{failed} of 400 GETs by HTTPS failed: {}", cluster.story(""));
        Ok(())
    })
}

/// Balancing by hashes, which the file provider of Envoy Gateway 1.9 cannot read: on a cluster it can.
fn consistent_hash(cluster: &Cluster) -> Result<()> {
    let hash = r#"{"spec": {"loadBalancer": {"type": "ConsistentHash", "consistentHash": {"type": "SourceIP"}}}}"#;
    cluster.run(&format!("kubectl -n shop patch backendtrafficpolicy orders --type merge -p '{hash}'"))?;
    wait::until_ok(|| {
        let dump = Admin { address: ADMIN }.get("/config_dump?resource=dynamic_active_clusters")?;
        ensure!(dump.contains("maglev"), "no cluster is balanced by hashes");
        Ok(())
    })
}

/// The guide, with Weir by the Helm chart.
fn envoy_gateway_chart() -> Result<()> {
    let chart = Chart::stage("Envoy Gateway", |_| Ok(()))?;
    walk(|cluster, command| {
        let instead = if command.contains("configmap weir") {
            format!("{} --set mode=enforce", chart.install)
        } else if command.contains("envoy/gateway/envoypatchpolicy.yaml") {
            "kubectl apply -f envoy/gateway/gateway.yaml".to_owned()
        } else {
            return Ok(false);
        };
        cluster.run(&instead)?;
        Ok(true)
    })
    .map(drop)
}

/// Does what the guide for Envoy Gateway says before it looks, except for commands that are done `otherwise`. The cluster, and the
/// commands that look.
pub fn install(otherwise: impl Fn(&Cluster, &str) -> Result<bool>) -> Result<(Cluster, Vec<String>)> {
    let cluster = Cluster::start()?;
    let mut commands = guide::commands(GATEWAY, "Five minutes")?;
    // From there on they share a variable, and processes in the background.
    let looks = commands.iter().position(|command| command.starts_with("envoy=$(")).context("nobody looks")?;
    let rest = commands.split_off(looks);
    let mut done = 0;
    for command in &commands {
        // The chart is that of this version, from another place.
        let chart = env!("CARGO_MANIFEST_DIR").to_owned() + "/target/control-planes/gateway-helm";
        let command = command.replace("oci://docker.io/envoyproxy/gateway-helm --version v1.9.0", &chart);
        if DONE.contains(&command.as_str()) {
            done += 1;
        } else if !otherwise(&cluster, &command).with_context(|| cluster.story(""))? {
            cluster.run(&command).with_context(|| cluster.story(""))?;
        }
    }
    ensure!(done == DONE.len(), "the guide no longer has {DONE:?}");
    Ok((cluster, rest))
}

/// Does all that the guide says, except for commands that are done `otherwise`. The cluster, and what goes on in it.
fn walk(otherwise: impl Fn(&Cluster, &str) -> Result<bool>) -> Result<(Cluster, Following)> {
    let (cluster, looks) = install(otherwise)?;
    let mut log = cluster.follow(&looks.join("\n"))?;
    log.line(|line| line.contains(": roles decide, watch, guard; signals of every attempt; "))
        .with_context(|| cluster.story(""))?;
    let ejected = "weir: cluster httproute/shop/orders/rule/0: host 10.244.";
    log.line(|line| line.contains(ejected) && line.contains(" (refused, strike "))?;
    let metrics = Admin { address: ADMIN }.get("/stats/prometheus")?;
    let counted = r#"weir_ejections_total{weir_reason="refused",weir_cluster="httproute/shop/orders/rule/0"}"#;
    ensure!(metrics.contains(counted), "{metrics}");
    few_fail(&mut log)?;
    Ok((cluster, log))
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
        few_fail(&mut log)?;
    }
    Ok(())
}

/// The clients of the guides say now and then: "5000 GETs, 0 failed (0.00 %); 2000 POSTs, 0 failed (0.00 %)". Waits until of 3,000
/// GETs in a row at most one in a hundred failed, and of the POSTs among them one in fifty. The replicas crash at random: now and then
/// all of them are away at once, and nobody could answer.
fn few_fail(log: &mut Following) -> Result<()> {
    let mut said = vec![[0; 4]];
    log.line(|line| {
        let Some(now) = counts(line) else { return false };
        let well = said.iter().any(|before| {
            let [gets, gets_failed, posts, posts_failed] = std::array::from_fn(|place| now[place] - before[place]);
            gets > 3000 && gets_failed * 100 <= gets && posts_failed * 50 <= posts
        });
        said.push(now);
        well
    })
    .map(drop)
}

/// GETs, how many of them failed, POSTs, how many of them failed.
fn counts(line: &str) -> Option<[u64; 4]> {
    let (gets, posts) = line.split_once("; ")?;
    let failed = |part: &str| number(part.split(", ").nth(1)?, " failed");
    Some([number(gets, " GETs")?, failed(gets)?, number(posts, " POSTs")?, failed(posts)?])
}

/// The number before these words.
fn number(text: &str, words: &str) -> Option<u64> {
    text.split(words).next()?.parse().ok()
}

/// What `istioctl` says of so many EnvoyFilters, and of what else there is: that they are EnvoyFilters, and no more.
pub fn only_envoy_filters(command: &str, said: &str, count: usize) -> bool {
    let mark = if command.starts_with("istioctl validate") { "\t" } else { "[IST" };
    let findings: Vec<&str> = said.lines().filter(|line| line.contains(mark)).collect();
    let usual = |line: &&str| line.contains("EnvoyFilter exposes internal implementation details");
    findings.len() == count && findings.iter().all(usual)
}

/// What the commands say that look for a mistake, where there is none.
fn nothing_is_wrong(command: &str, said: &str) -> Result<bool> {
    Ok(if command.starts_with("istioctl validate") || command.starts_with("istioctl analyze") {
        only_envoy_filters(command, said, 3)
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
