//! Resources of Envoy Gateway and of the Gateway API.

mod extensions;
mod listeners;
mod proxies;
mod routes;
mod steering;
mod traffic;

use super::override_headers;
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::setup::{Plugin, Setup};
use steering::Steering;

/// Tells what is odd about them.
pub fn check(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    let policies: Vec<Node<'_>> = setup.kind("EnvoyPatchPolicy");
    let ours: Vec<&Node<'_>> = policies.iter().filter(|policy| is_ours(setup, policy)).collect();
    for policy in &ours {
        target(setup, policy, out);
        for patch in policy.items("spec.json_patches") {
            if patch.text("operation.path") == "/upstream_log" && patch.text("operation.op") != "remove" {
                let node = patch.at("operation.path");
                let text = "the patch replaces the upstream access logs that EnvoyProxy set up";
                out.push(Finding::new(
                    "access-log-replaced",
                    node.as_ref().unwrap_or(&patch),
                    text,
                    "write the path /upstream_log/-",
                ));
            }
        }
    }
    listeners::without_weir(setup, &ours, out);
    listeners::roles(setup, &ours, out);
    proxies::mounted(setup, &ours, out);
    let steering = Steering::of(setup, &ours);
    steering::sessions(setup, &ours, &steering, out);
    steering::steered(setup, &steering, out);
    for kind in ["HTTPRoute", "GRPCRoute"] {
        setup.kind(kind).iter().for_each(|route| routes::check(setup, route, kind, &steering, out));
    }
    extensions::check(setup, &ours, &steering, out);
    steering::header(setup, &ours, &steering, out);
    setup.kind("BackendTrafficPolicy").iter().for_each(|policy| traffic::check(setup, policy, out));
    proxies::metrics(setup, out);
    proxies::bypass(setup, out);
}

fn is_ours(setup: &Setup<'_>, policy: &Node<'_>) -> bool {
    !override_headers(policy).is_empty() || setup.plugins.iter().any(|plugin| is_in(plugin, policy))
}

fn is_in(plugin: &Plugin<'_>, node: &Node<'_>) -> bool {
    plugin.is_below(node) || (node.place.is_empty() && std::ptr::eq(plugin.file, node.file))
}

fn targets<'a>(policy: &Node<'a>) -> Vec<Node<'a>> {
    policy.items("spec.target_refs").into_iter().chain(policy.at("spec.target_ref")).collect()
}

/// Whether Envoy Gateway applies a patch policy at all.
fn target(setup: &Setup<'_>, policy: &Node<'_>, out: &mut Vec<Finding>) {
    let merged = setup
        .kind("EnvoyProxy")
        .into_iter()
        .find(|proxy| proxy.at("spec.merge_gateways").is_some_and(|flag| flag.value == true));
    for target in targets(policy).iter().filter(|target| target.text("kind") == "Gateway") {
        if merged.is_some() {
            let text = "Gateways are merged (EnvoyProxy.mergeGateways), and the policy targets one of them";
            out.push(Finding::new("wrong-target", target, text, "target the GatewayClass"));
        }
        let gateways = setup.kind("Gateway");
        let mut named = gateways.iter().filter(|gateway| gateway.name() == target.text("name")).peekable();
        if let Some(gateway) = named.peek().copied()
            && named.all(|gateway| gateway.namespace() != policy.namespace())
        {
            let text = format!(
                "the policy is in namespace {:?}, and Gateway {:?} in {:?}: it does nothing, and has no status",
                policy.namespace(),
                gateway.name(),
                gateway.namespace()
            );
            out.push(Finding::new("wrong-target", policy, text, "put it into the Gateway's namespace"));
        }
    }
}
