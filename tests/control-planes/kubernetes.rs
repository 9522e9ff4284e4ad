//! The guides, from their first command to the last, on a cluster of Kubernetes.

use anyhow::{Context, Result, bail, ensure};

use crate::Test;
use crate::cluster::Cluster;
use crate::guide;

pub const TESTS: &[Test] = &[("istio_guide", istio_guide)];

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
        // "5000 GETs, 0 failed (0.00 %); 2000 POSTs, 0 failed (0.00 %)"
        let line = log.line(|line| number(line, " GETs").is_some_and(|gets| gets > 3000))?;
        let (gets, posts) = line.split_once("; ").context("no POSTs")?;
        for (part, name, limit) in [(gets, " GETs", 100), (posts, " POSTs", 50)] {
            let sent = number(part, name).context("no count")?;
            let failed = part.split(", ").nth(1).and_then(|failed| number(failed, " failed")).context("no failures")?;
            ensure!(failed * limit <= sent, "{line}");
        }
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
