//! An Envoy in the place of ztunnel: it takes requests to a service through a tunnel (HBONE) to its waypoint, and ends tunnels in front
//! of pods. And the authority of a mesh, which certifies both.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::proxy::{cluster, h2_cluster, socket};
use crate::support::envoy::{Envoy, Launch};

/// An ambient mesh: certificates of proxies and of ztunnel, and its tunnels.
pub struct Ambient {
    certificates: TempDir,
    /// Where clients of a service ask, where its waypoint is, and the service's address.
    clients: Vec<(SocketAddr, SocketAddr, String)>,
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
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let write = |name: &str, text: String| std::fs::write(certificates.path().join(name), text);
        write("ca.crt", root.self_signed(&key)?.pem())?;
        write("ca.key", key.serialize_pem())?;
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
    pub fn client(mut self, address: SocketAddr, waypoint: SocketAddr, service: &str) -> Self {
        self.clients.push((address, waypoint, service.to_owned()));
        self
    }

    /// Pods that are reached by tunnels.
    pub fn pods(mut self, pods: &[SocketAddr]) -> Self {
        self.pods.extend(pods);
        self
    }

    /// The folder of `ca.crt` and `ca.key`, which certify all of the mesh, and of what is certified already.
    pub fn certificates(&self) -> &Path {
        self.certificates.path()
    }

    /// What the generators are told.
    pub fn arguments(&self) -> [String; 2] {
        ["-certificates".to_owned(), self.certificates.path().display().to_string()]
    }

    pub fn start(&self) -> Result<Envoy> {
        let here = self.certificates();
        let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
        for (number, (address, waypoint, service)) in self.clients.iter().enumerate() {
            let name = format!("waypoint-{number}");
            let mut tunnel = h2_cluster(&name, *waypoint);
            tunnel["transport_socket"] = tls("UpstreamTlsContext", here);
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
            listeners.push(end_of_tunnel(&name, SocketAddr::new(pod.ip(), TUNNELS), here));
        }
        let bootstrap = json!({"static_resources": {"listeners": listeners, "clusters": clusters}});
        Launch::json(bootstrap).start().context("in the place of ztunnel")
    }
}

/// Where pods and waypoints take tunnels.
pub const TUNNELS: u16 = 15008;

/// The bootstrap of an Envoy in a pod, which ends tunnels there and asks the application at this port, with certificates in a folder.
pub fn in_pod(port: u16, certificates: &Path) -> Value {
    let application = cluster("application", SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let tunnel = end_of_tunnel("application", SocketAddr::from((Ipv4Addr::UNSPECIFIED, TUNNELS)), certificates);
    json!({"static_resources": {"listeners": [tunnel], "clusters": [application]}})
}

fn end_of_tunnel(name: &str, address: SocketAddr, certificates: &Path) -> Value {
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
            "transport_socket": tls("DownstreamTlsContext", certificates),
            "filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}],
        }],
    })
}

fn tls(kind: &str, certificates: &Path) -> Value {
    let file = |name: &str| json!({"filename": certificates.join(name)});
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
