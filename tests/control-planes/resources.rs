//! Every resource in `envoy/`, and those that `weir generate` writes, without what is null in them, as many tools pass them on: `istioctl`
//! has nothing to say of them, and an API server with the schemas of their platforms and the webhook of istiod takes them and keeps all
//! that they have.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::Test;
use crate::cluster::Cluster;
use crate::kubernetes::only_envoy_filters;
use crate::mesh::{documents, yaml};
use crate::shop;
use crate::support::without_nulls;

pub const TESTS: &[Test] = &[("resources", resources)];

/// The commands of docs/command-line.md, and others of their kind.
const GENERATED: [&str; 5] = [
    "istio --service orders.shop:8080 --service carts.shop:80 --clients app=storefront",
    "istio --service payments.bank:9000 --clients tier=web",
    "envoy-gateway --route shop/orders --gateway eg --listener http:80 --listener https:443",
    "envoy-gateway --route shop/orders --gateway eg --listener http:80 --listener https:443 --listener http3:443",
    "envoy-gateway --route bank/payments --gateway front",
];

fn resources() -> Result<()> {
    let cluster = Cluster::start()?;
    for command in shop::commands()?.iter().filter(|command| command.starts_with("istioctl")) {
        cluster.run(command)?;
    }
    let definitions = "target/control-planes/gateway-helm/charts/crds/crds";
    cluster.run(&format!(
        "kubectl apply --server-side -f {definitions}/gatewayapi-crds.yaml -f {definitions}/generated"
    ))?;
    cluster.run("kubectl wait crd --all --for=condition=Established --timeout=2m")?;
    let mut namespaces = BTreeSet::from(["default".to_owned(), "istio-system".to_owned()]);
    let mut count = 0;
    for folder in ["envoy/istio", "envoy/gateway"] {
        for file in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))? {
            let path = file?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                keeps(&cluster, &std::fs::read_to_string(&path)?, &mut namespaces)
                    .with_context(|| path.display().to_string())?;
                count += 1;
            }
        }
    }
    ensure!(count > 10, "there are {count} files only");
    for arguments in GENERATED {
        let text = cluster.run(&format!("{} generate {arguments}", env!("CARGO_BIN_EXE_weir")))?;
        keeps(&cluster, &text, &mut namespaces).with_context(|| arguments.to_owned())?;
    }
    Ok(())
}

/// `istioctl` finds nothing in resources.
fn nothing_is_found(cluster: &Cluster, resources: &[Value]) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("resources.yaml");
    std::fs::write(&path, yaml(resources))?;
    let filters = resources.iter().filter(|resource| resource["kind"] == "EnvoyFilter").count();
    for command in ["istioctl validate -f", "istioctl analyze --use-kube=false -A"] {
        let said = cluster.run(&format!("{command} {} 2>&1", path.display()))?;
        ensure!(only_envoy_filters(command, &said, filters), "{command}: {said}");
    }
    Ok(())
}

/// What `kubectl apply` makes of resources without nulls has all that they have.
fn keeps(cluster: &Cluster, text: &str, namespaces: &mut BTreeSet<String>) -> Result<()> {
    let given = documents(text)?;
    for resource in &given {
        let namespace = resource["metadata"]["namespace"].as_str().unwrap_or("default");
        if namespaces.insert(namespace.to_owned()) {
            cluster.run(&format!("kubectl create namespace {namespace}"))?;
        }
    }
    let passed_on: Vec<Value> = given.iter().map(without_nulls).collect();
    if given.iter().any(|resource| resource["apiVersion"].as_str().is_some_and(|version| version.contains("istio.io/")))
    {
        nothing_is_found(cluster, &passed_on)?;
    }
    cluster.apply(&yaml(&passed_on))?;
    for resource in &given {
        let text = |path: &str| resource.pointer(path).and_then(Value::as_str).context("a name is missing");
        let group = text("/apiVersion")?.split('/').next().filter(|group| group.contains('.'));
        let kind = group
            .map_or_else(|| text("/kind").map(str::to_owned), |group| Ok(format!("{}.{group}", text("/kind")?)))?;
        let namespace = text("/metadata/namespace").unwrap_or("default");
        let stored = cluster.run(&format!("kubectl -n {namespace} get {kind} {} -o json", text("/metadata/name")?))?;
        let stored: Value = serde_json::from_str(&stored)?;
        for part in ["spec", "data"].into_iter().filter(|part| !resource[*part].is_null()) {
            lost(&resource[part], &stored[part], part)?;
        }
    }
    Ok(())
}

/// What is given is stored as it is; the API server may add defaults.
fn lost(given: &Value, stored: &Value, path: &str) -> Result<()> {
    match (given, stored) {
        (Value::Object(given), Value::Object(stored)) => given.iter().try_for_each(|(name, value)| {
            lost(value, stored.get(name).with_context(|| format!("{path}.{name} is lost"))?, &format!("{path}.{name}"))
        }),
        (Value::Array(given), Value::Array(stored)) if given.len() == stored.len() => given
            .iter()
            .zip(stored)
            .enumerate()
            .try_for_each(|(place, (given, stored))| lost(given, stored, &format!("{path}[{place}]"))),
        _ => {
            ensure!(given == stored, "{path} is {stored}, and was {given}");
            Ok(())
        }
    }
}
