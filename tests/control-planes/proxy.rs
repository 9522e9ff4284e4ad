//! A plain Envoy in the place of Istio's proxy.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::mesh::documents;
use crate::support::envoy::{Envoy, Launch};

/// Where a proxy gets its certificates, if it wants any.
const SECRETS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15031);

/// A cluster of one host that speaks HTTP/2.
pub fn h2_cluster(name: &str, address: SocketAddr) -> Value {
    let mut cluster = cluster(name, address);
    cluster["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }});
    cluster
}

/// A cluster of one host.
pub fn cluster(name: &str, address: SocketAddr) -> Value {
    let host = json!({"endpoint": {"address": socket(address)}});
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [host]}]},
    })
}

pub fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// A proxy as istiod knows it.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// `sidecar`, `router` or `waypoint`.
    pub kind: &'static str,
    pub name: String,
    /// The last part of its address, 127.0.0.x.
    pub last: u8,
    pub labels: Value,
    pub namespace: &'static str,
    pub account: &'static str,
    /// Metadata that it has beside those of all.
    pub metadata: Value,
}

impl Proxy {
    pub fn sidecar(app: &str, name: String, last: u8) -> Self {
        let labels = json!({"app": app, "pod": name});
        let metadata = json!({"INTERCEPTION_MODE": "NONE"});
        Self { kind: "sidecar", name, last, labels, namespace: "shop", account: "default", metadata }
    }

    /// The sidecar of the client's pod with this number.
    pub fn client(number: u8, last: u8) -> Self {
        Self::sidecar("storefront", format!("storefront-{number}"), last)
    }

    pub fn gateway(name: &str, last: u8, labels: Value) -> Self {
        let metadata = json!({});
        Self { kind: "router", name: name.to_owned(), last, labels, namespace: "shop", account: "default", metadata }
    }

    pub fn start(&self) -> Result<Envoy> {
        let Self { kind, name, namespace, .. } = self;
        let mut bootstrap = documents(include_str!("sidecar.yaml"))?.remove(0);
        let address = format!("127.0.0.{}", self.last);
        let node = &mut bootstrap["node"];
        node["id"] = json!(format!("{kind}~{address}~{name}.{namespace}~{namespace}.svc.cluster.local"));
        let metadata = &mut node["metadata"];
        metadata["NAME"] = json!(self.name);
        metadata["NAMESPACE"] = json!(self.namespace);
        metadata["INSTANCE_IPS"] = json!(address);
        metadata["LABELS"] = self.labels.clone();
        metadata["SERVICE_ACCOUNT"] = json!(self.account);
        // What a gateway or a waypoint has none of.
        metadata.as_object_mut().map(|metadata| metadata.remove("INTERCEPTION_MODE"));
        for (name, value) in self.metadata.as_object().into_iter().flatten() {
            metadata[name] = value.clone();
        }
        let clusters = bootstrap["static_resources"]["clusters"].as_array_mut().context("no clusters")?;
        clusters.push(h2_cluster("sds-grpc", SECRETS));
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/istio/custom_bootstrap.json");
        let custom: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        bootstrap["stats_config"] = custom["stats_config"].clone();
        Launch::json(bootstrap).concurrency(1).start()
    }
}
