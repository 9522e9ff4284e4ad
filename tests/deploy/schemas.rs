//! The resources in `envoy/istio/` and `envoy/gateway/` against the schemas of Kubernetes and their CRDs, the dashboard against Grafana's
//! types. They are packages of npm, pinned by `schemas/package-lock.json` with hashes, and land in `target/schemas`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Left out is `trafficextension.yaml`, of which no package has a schema yet; `mesh` compares it with `wasmplugin.yaml`.
const RESOURCES: [&str; 15] = [
    "istio/wasmplugin.yaml",
    "istio/decide.yaml",
    "istio/attempts.yaml",
    "istio/proxy-status.yaml",
    "istio/traffic.yaml",
    "istio/gateway.yaml",
    "istio/gateway-api.yaml",
    "istio/waypoint.yaml",
    "gateway/gateway.yaml",
    "gateway/envoyextensionpolicy.yaml",
    "gateway/envoyproxy.yaml",
    "gateway/envoypatchpolicy.yaml",
    "gateway/traffic.yaml",
    "compose/kubernetes.yaml",
    "grafana/weir.json",
];

#[test]
fn resources_fit_their_schemas() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (source, target) = (root.join("tests/deploy/schemas"), root.join("target/schemas"));
    let lock = "package-lock.json";
    let installed = std::fs::read(target.join(lock))
        .is_ok_and(|text| std::fs::read(source.join(lock)).is_ok_and(|ours| ours == text));
    std::fs::create_dir_all(&target)?;
    for file in ["check.js", "package.json"] {
        std::fs::copy(source.join(file), target.join(file))?;
    }
    if !installed || !target.join("node_modules").exists() {
        std::fs::copy(source.join(lock), target.join(lock))?;
        let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"];
        let run = Command::new("npm").args(arguments).current_dir(&target).output();
        let run = run.context("cannot start npm; install it with: apt-get install -y nodejs npm")?;
        if !run.status.success() {
            // Next time again.
            drop(std::fs::remove_file(target.join(lock)));
        }
        ensure!(run.status.success(), "npm ci: {}", String::from_utf8_lossy(&run.stderr));
    }
    let mut check = Command::new("node");
    check.arg("check.js").current_dir(&target).args(RESOURCES.map(crate::shipped));
    let output = check.output().context("cannot start node; install it with: apt-get install -y nodejs")?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{text}");
    Ok(())
}
