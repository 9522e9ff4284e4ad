//! A plain Envoy in the place of Istio's proxy.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use crate::mesh::documents;
use crate::support::envoy::{Envoy, Launch};

/// A proxy as istiod knows it.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// `sidecar`, `router` or `waypoint`.
    pub kind: &'static str,
    pub name: String,
    /// The last part of its address, 127.0.0.x.
    pub last: u8,
    pub labels: Value,
    pub account: &'static str,
    /// Metadata that it has beside those of all.
    pub metadata: Value,
}

impl Proxy {
    pub fn sidecar(app: &str, name: String, last: u8) -> Self {
        let labels = json!({"app": app, "pod": name});
        Self { kind: "sidecar", name, last, labels, account: "default", metadata: json!({"INTERCEPTION_MODE": "NONE"}) }
    }

    /// The sidecar of the client's pod with this number.
    pub fn client(number: u8, last: u8) -> Self {
        Self::sidecar("storefront", format!("storefront-{number}"), last)
    }

    pub fn start(&self) -> Result<Envoy> {
        let mut bootstrap = documents(include_str!("sidecar.yaml"))?.remove(0);
        let address = format!("127.0.0.{}", self.last);
        let node = &mut bootstrap["node"];
        node["id"] = json!(format!("{}~{address}~{}.shop~shop.svc.cluster.local", self.kind, self.name));
        let metadata = &mut node["metadata"];
        metadata["NAME"] = json!(self.name);
        metadata["INSTANCE_IPS"] = json!(address);
        metadata["LABELS"] = self.labels.clone();
        metadata["SERVICE_ACCOUNT"] = json!(self.account);
        for (name, value) in self.metadata.as_object().into_iter().flatten() {
            metadata[name] = value.clone();
        }
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/istio/custom_bootstrap.json");
        let custom: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        bootstrap["stats_config"] = custom["stats_config"].clone();
        Launch::json(bootstrap).concurrency(1).start()
    }
}
