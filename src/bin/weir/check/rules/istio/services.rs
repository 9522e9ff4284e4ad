//! The services whose clusters are patched, as the files have them.

use super::envoy_filters::{Part, Patch};
use super::{full, is_patched};
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::setup::Setup;

/// Services whose clusters Envoy refuses with `override_host`.
pub(super) fn refused(setup: &Setup<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    for service in setup.kind("Service") {
        let host = full(service.name(), service.namespace());
        if !is_patched(patches, &host) {
            continue;
        }
        let annotations = service.at("metadata.annotations");
        let annotation = annotations.as_ref().and_then(|all| all.get("networking.istio.io/traffic-distribution"));
        if let Some(node) = service.at("spec.traffic_distribution").or(annotation) {
            let text = format!(
                "with trafficDistribution the clusters of {host:?} have locality weights, and Envoy refuses override_host"
            );
            out.push(Finding::new(
                "override-host-refused",
                &node,
                text,
                "take trafficDistribution out, or do without the CLUSTER patch",
            ));
        }
        if service.text("spec.cluster_ip") == "None" || service.text("spec.clusterIP") == "None" {
            let text =
                format!("{host:?} is headless: its cluster is of type ORIGINAL_DST, and Envoy refuses override_host");
            out.push(Finding::new("override-host-refused", &service, text, "leave the CLUSTER patch for it out"));
        }
    }
}

/// Patches of virtual hosts that are not there.
pub(super) fn unknown_hosts(setup: &Setup<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    for patch in patches.iter().filter(|patch| patch.part == Part::Session) {
        let name = patch.node.text("match.route_configuration.vhost.name");
        let Some((host, port)) = name.rsplit_once(':') else { continue };
        let unknown = if patch.context() == "GATEWAY" {
            let routes: Vec<Node<'_>> = outside(setup);
            // A route without hosts is for those of the listener.
            let any = routes.iter().any(|route| hosts(route).is_empty());
            let known = routes.iter().any(|route| hosts(route).contains(&host));
            (!routes.is_empty() && !any && !known).then(|| format!("no route of a gateway is for the host {host:?}"))
        } else {
            let services = setup.kind("Service");
            let service = services.iter().find(|service| full(service.name(), service.namespace()) == host);
            service
                .filter(|service| {
                    let ports = service.items("spec.ports");
                    !ports.is_empty()
                        && !ports.iter().any(|own| own.number("port").is_some_and(|own| own.to_string() == port))
                })
                .map(|_| format!("the Service {host:?} has no port {port}"))
        };
        if let Some(unknown) = unknown {
            let text = format!("the patch of the virtual host {name:?} finds nothing: {unknown}");
            out.push(Finding::new("patch-finds-nothing", &patch.node, text, "name the virtual host HOST:PORT"));
        }
    }
}

/// The routes of gateways.
fn outside<'a>(setup: &Setup<'a>) -> Vec<Node<'a>> {
    let services =
        setup.kind("VirtualService").into_iter().filter(|service| !service.items("spec.gateways").is_empty());
    services.chain(setup.kind("HTTPRoute")).collect()
}

/// The hosts of a VirtualService or an HTTPRoute.
fn hosts<'a>(route: &Node<'a>) -> Vec<&'a str> {
    let hosts = route.items("spec.hosts").into_iter().chain(route.items("spec.hostnames"));
    hosts.filter_map(|host| host.value.as_str()).collect()
}

/// Services whose requests go where clients say, so that nothing steers them.
pub(super) fn not_steered(setup: &Setup<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    let session = |host: &str| patches.iter().any(|patch| patch.context() != "GATEWAY" && patch.has_session_for(host));
    let mut unsteered = |node: &Node<'_>, host: &str, why: &str| {
        if session(host) {
            let text = format!("{host:?} {why}: its hosts are judged, and requests are not steered");
            let todo = "leave it out of the policy, or set an outlierDetection in its DestinationRule";
            out.push(Finding::new("not-steered", node, text, todo));
        }
    };
    for service in setup.kind("Service") {
        if service.text("spec.cluster_ip") == "None" || service.text("spec.clusterIP") == "None" {
            unsteered(&service, &full(service.name(), service.namespace()), "is headless");
        }
    }
    for rule in setup.kind("DestinationRule") {
        if rule.text("spec.traffic_policy.load_balancer.simple") == "PASSTHROUGH" {
            unsteered(&rule, &full(rule.text("spec.host"), rule.namespace()), "is balanced by PASSTHROUGH");
        }
    }
    for entry in setup.kind("ServiceEntry") {
        if matches!(entry.text("spec.resolution"), "NONE" | "DYNAMIC_DNS" | "") {
            for host in entry.items("spec.hosts").iter().filter_map(|host| host.value.as_str()) {
                unsteered(&entry, host, "is no list of hosts");
            }
        }
    }
}
