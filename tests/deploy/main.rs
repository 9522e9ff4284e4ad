//! What is in `envoy/` beside the bootstrap, each tried with the real thing: the dashboard's queries and the alert rules in
//! a real Prometheus that scrapes a real Envoy; what Istio would make of its resources in a real Envoy.

// Not all of its upstreams are needed here.
#[allow(unused_imports)]
#[path = "../support/mod.rs"]
mod support;

mod compose;
mod image;
mod incident;
mod labels;
mod mesh;
mod observe;
mod prometheus;
// The suite of ejections asks it for more.
#[allow(dead_code)]
#[path = "../real_envoy/ejection/replica.rs"]
mod replica;
mod schemas;
mod snippets;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// A file or folder of `envoy/`.
fn shipped(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy").join(path)
}

fn text(path: &str) -> Result<String> {
    let path = shipped(path);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// A file of `envoy/` with one YAML document. JSON is YAML too.
fn yaml(path: &str) -> Result<Value> {
    serde_yaml_ng::from_str(&text(path)?).with_context(|| format!("envoy/{path}"))
}

/// All documents of a YAML file of `envoy/`.
fn documents(path: &str) -> Result<Vec<Value>> {
    let text = text(path)?;
    serde_yaml_ng::Deserializer::from_str(&text)
        .map(|document| serde::Deserialize::deserialize(document).with_context(|| format!("envoy/{path}")))
        .collect()
}
