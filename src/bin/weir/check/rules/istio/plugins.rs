//! Plugins that Istio pulls itself: WasmPlugin and TrafficExtension.

use crate::check::explain::patterns;
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::setup::{Plugin, Setup};

/// The plugins that Istio pulls, and their resources.
pub(super) fn roots<'s, 'a>(setup: &'s Setup<'a>) -> impl Iterator<Item = (&'s Plugin<'a>, &'s Node<'a>)> {
    let plugins = setup.plugins.iter().filter_map(|plugin| Some((plugin, plugin.root.as_ref()?)));
    plugins.filter(|(_, root)| matches!(root.text("kind"), "WasmPlugin" | "TrafficExtension"))
}

pub(super) fn check(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    let has_filter =
        setup.plugins.iter().filter_map(|plugin| plugin.root.as_ref()).any(|root| root.text("kind") == "EnvoyFilter");
    for (plugin, root) in roots(setup) {
        let spec = root.at("spec.wasm").or_else(|| root.get("spec"));
        let Some(spec) = spec else { continue };
        let strategy = spec.text("fail_strategy");
        if strategy != "FAIL_OPEN" {
            let node = spec.get("fail_strategy");
            let text = "while the module cannot be pulled, Istio answers 403 to every request, also after the registry is back";
            let todo = "set failStrategy: FAIL_OPEN";
            out.push(Finding::new("fails-closed", node.as_ref().unwrap_or(&spec), text, todo));
        }
        if spec.text("url").starts_with("file:") && has_filter {
            let url = spec.get("url");
            let text = "with a file:// URL this plugin has a VM of its own, apart from watch and guard";
            let todo = "take the decide of an EnvoyFilter with the same code, or a registry";
            out.push(Finding::new("file-url", url.as_ref().unwrap_or(&spec), text, todo));
        }
        let targets = root.items("spec.target_refs").into_iter().chain(root.at("spec.target_ref"));
        let waypoint = targets.filter(|target| match target.text("kind") {
            "Service" => true,
            "Gateway" => setup.kind("Gateway").iter().any(|gateway| {
                gateway.name() == target.text("name") && gateway.text("spec.gateway_class_name") == "istio-waypoint"
            }),
            _ => false,
        });
        if waypoint.count() == 0 {
            continue;
        }
        for mode in root.items("spec.match").iter().filter(|item| item.text("mode") == "CLIENT") {
            let text = "match.mode CLIENT never matches at a waypoint: the plugin does nothing, and nothing says so";
            out.push(Finding::new("client-mode-at-waypoint", mode, text, "leave match out"));
        }
        for pattern in patterns(&plugin.raw).iter().filter(|pattern| pattern.starts_with("outbound|")) {
            let text = format!("the pattern {pattern:?} matches no cluster of a waypoint");
            out.push(Finding::new("pattern-at-waypoint", root, text, "write inbound-vip|*|SERVICE"));
        }
    }
}
