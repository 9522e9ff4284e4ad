//! Resources of Istio: EnvoyFilter, WasmPlugin, TrafficExtension, VirtualService, DestinationRule, and the Services they name.

mod destination_rules;
mod envoy_filters;
mod plugins;
mod routes;
mod selectors;
mod services;
mod steering;

use crate::check::explain::patterns;
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::setup::Setup;
use envoy_filters::{Part, Patch};

/// Tells what is odd about them.
pub fn check(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    let patches = envoy_filters::patches(setup);
    envoy_filters::each(&patches, out);
    envoy_filters::contexts(&patches, out);
    selectors::for_all_proxies(setup, &patches, out);
    selectors::together(setup, &patches, out);
    plugins::check(setup, out);
    steering::check(setup, &patches, out);
    services::refused(setup, &patches, out);
    services::unknown_hosts(setup, &patches, out);
    selectors::selects_nothing(setup, &patches, out);
    services::not_steered(setup, &patches, out);
    setup.kind("DestinationRule").iter().for_each(|rule| destination_rules::check(setup, rule, &patches, out));
    setup.kind("VirtualService").iter().for_each(|service| routes::virtual_service(setup, service, out));
    setup.kind("HTTPRoute").iter().for_each(|route| routes::http_route(setup, route, out));
}

fn is_istio(root: &Node<'_>) -> bool {
    matches!(root.text("kind"), "EnvoyFilter" | "WasmPlugin" | "TrafficExtension")
}

fn is_patched(patches: &[Patch<'_>], host: &str) -> bool {
    patches.iter().any(|patch| patch.part == Part::Cluster && (patch.service() == host || patch.service().is_empty()))
}

/// A host as clusters have it.
fn full(host: &str, namespace: &str) -> String {
    if host.contains('.') { host.to_owned() } else { format!("{host}.{namespace}.svc.cluster.local") }
}

/// The names that its clusters may have.
fn clusters(setup: &Setup<'_>, host: &str) -> Vec<String> {
    let mut names = vec![format!("outbound|80||{host}"), format!("inbound-vip|80|http|{host}")];
    for (plugin, _) in setup.policies() {
        let own = patterns(&plugin.raw);
        names.extend(own.into_iter().filter(|pattern| pattern.rsplit('|').next() == Some(host)));
    }
    names
}
