//! An Envoy in the place of ztunnel: it takes requests to a service through a tunnel (HBONE) to its waypoint, and ends tunnels in front
//! of pods.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::proxy::{cluster, h2_cluster, socket};
use crate::support::envoy::{Envoy, Launch};

/// An ambient mesh: certificates of proxies and of ztunnel, and its tunnels.
pub struct Ambient {
    certificates: TempDir,
    /// Where clients of a service ask, where its waypoint is, and the service's address.
    clients: Vec<(SocketAddr, SocketAddr, &'static str)>,
    /// Pods that are reached by tunnels.
    pods: Vec<SocketAddr>,
}

impl Ambient {
    pub fn new() -> Result<Self> {
        let certificates = tempfile::tempdir()?;
        let key = KeyPair::generate()?;
        let mut root = CertificateParams::new(Vec::new())?;
        // Were it named as the others, these would be taken for signed by themselves.
        root.distinguished_name.push(DnType::CommonName, "root");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let write = |name: &str, text: String| std::fs::write(certificates.path().join(name), text);
        write("ca.crt", root.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(root, key);
        for (name, account) in [("proxy", "waypoint"), ("ztunnel", "default")] {
            let key = KeyPair::generate()?;
            let mut own = CertificateParams::new(Vec::new())?;
            let uri = format!("spiffe://cluster.local/ns/shop/sa/{account}");
            own.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
            write(&format!("{name}.crt"), own.signed_by(&key, &issuer)?.pem())?;
            write(&format!("{name}.key"), key.serialize_pem())?;
        }
        Ok(Self { certificates, clients: Vec::new(), pods: Vec::new() })
    }

    /// Clients of a service, that ask at this address and reach it by its waypoint.
    pub fn client(mut self, address: SocketAddr, waypoint: SocketAddr, service: &'static str) -> Self {
        self.clients.push((address, waypoint, service));
        self
    }

    /// Pods that are reached by tunnels.
    pub fn pods(mut self, pods: &[SocketAddr]) -> Self {
        self.pods.extend(pods);
        self
    }

    /// What the generators are told.
    pub fn arguments(&self) -> [String; 2] {
        ["-certificates".to_owned(), self.certificates.path().display().to_string()]
    }

    pub fn start(&self) -> Result<Envoy> {
        let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
        for (number, (address, waypoint, service)) in self.clients.iter().enumerate() {
            let name = format!("waypoint-{number}");
            let mut tunnel = h2_cluster(&name, *waypoint);
            tunnel["transport_socket"] = self.tls("UpstreamTlsContext");
            clusters.push(tunnel);
            listeners.push(json!({
                "name": name, "address": socket(*address),
                "filter_chains": [{"filters": [{"name": "tcp", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                    "stat_prefix": name, "cluster": name, "tunneling_config": {"hostname": service},
                }}]}],
            }));
        }
        for pod in &self.pods {
            let name = pod.to_string();
            clusters.push(cluster(&name, *pod));
            listeners.push(self.end_of_tunnel(&name, SocketAddr::new(pod.ip(), 15008)));
        }
        let bootstrap = json!({"static_resources": {"listeners": listeners, "clusters": clusters}});
        Launch::json(bootstrap).start().context("in the place of ztunnel")
    }

    fn end_of_tunnel(&self, name: &str, address: SocketAddr) -> Value {
        let connect = json!({
            "match": {"connect_matcher": {}},
            "route": {
                "cluster": name, "timeout": "0s",
                "upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}],
            },
        });
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": name,
            "http2_protocol_options": {"allow_connect": true},
            "upgrade_configs": [{"upgrade_type": "CONNECT"}],
            "route_config": {"virtual_hosts": [{"name": name, "domains": ["*"], "routes": [connect]}]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
        });
        json!({
            "name": name, "address": socket(address),
            "filter_chains": [{
                "transport_socket": self.tls("DownstreamTlsContext"),
                "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
            }],
        })
    }

    fn tls(&self, kind: &str) -> Value {
        let file = |name: &str| json!({"filename": self.certificates.path().join(name)});
        json!({"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}"),
            "common_tls_context": {
                "tls_certificates": [{"certificate_chain": file("ztunnel.crt"), "private_key": file("ztunnel.key")}],
                "validation_context": {"trusted_ca": file("ca.crt")},
                "alpn_protocols": ["h2"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            },
        }})
    }
}
