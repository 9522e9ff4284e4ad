//! Where Weir's plugins are: each in its place, and all in one machine.

use std::collections::HashMap;

use serde_json::Value;
use weir::config::Role;

use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::setup::{Plugin, Setup, is_resource};

/// Where Weir's plugins are, together.
pub(super) fn check(setup: &Setup<'_>, objects: &[Node<'_>], out: &mut Vec<Finding>) {
    if setup.whole {
        missing(setup, out);
    }
    let by_place: HashMap<(&str, &str), &Node<'_>> =
        objects.iter().map(|object| ((object.file.name.as_str(), object.place.as_str()), object)).collect();
    // The machines of the plugins that Envoy is told about; of others, Istio and Envoy Gateway choose the machine.
    let mut machines: Vec<(Node<'_>, &Plugin<'_>)> = Vec::new();
    for plugin in &setup.plugins {
        let around = plugin.place.strip_suffix("configuration").map(|place| place.trim_end_matches('.'));
        let around = around.and_then(|place| by_place.get(&(plugin.file.name.as_str(), place)));
        let Some(around) = around else { continue };
        misplaced(plugin, &by_place, out);
        if let Some(machine) = around.get("vm_config") {
            let runtime = machine.text("runtime").strip_prefix("envoy.wasm.runtime.");
            if let Some(field) =
                machine.get("runtime").filter(|_| !matches!(runtime, Some("v8" | "wamr" | "wasmtime" | "null")))
            {
                let text = format!("{} is no runtime of Envoy's: it refuses the plugin", field.value);
                out.push(Finding::new("runtime-unknown", &field, text, "write envoy.wasm.runtime.v8"));
            }
            machines.push((machine, plugin));
        }
        let policy = around.text("failure_policy");
        let open = around.get("fail_open").is_some_and(|open| open.value == true);
        if !open && (policy.is_empty() || policy == "FAIL_CLOSED" || policy == "UNSPECIFIED") {
            let text = "a VM that fails once stays out, and its worker answers 500 to every request";
            out.push(Finding::new("fails-closed", &place_of(plugin), text, "set failure_policy: FAIL_RELOAD"));
        }
    }
    apart(&machines, out);
}

/// Where a plugin's configuration stands.
pub(super) fn place_of<'a>(plugin: &Plugin<'a>) -> Node<'a> {
    Node { file: plugin.file, place: plugin.place.clone(), value: &Value::Null }
}

/// Roles that lack another.
fn missing(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    let of = |role: Role| setup.of_role(role).next();
    if let (None, Some(other)) = (of(Role::Decide), of(Role::Guard).or(of(Role::Watch))) {
        let text = format!("role {} is attached, and no decide", other.config.role.name());
        out.push(Finding::new(
            "no-decide",
            &place_of(other),
            text,
            "add the HTTP filter with role decide, before the router",
        ));
    }
    if let (None, Some(guard)) = (of(Role::Watch), of(Role::Guard)) {
        let text = "guard is attached without watch: it cannot tell a reset from a refusal";
        out.push(Finding::new("guard-without-watch", &place_of(guard), text, "add watch to the router's upstream_log"));
    }
}

/// Roles that run in other machines than those that they share with.
fn apart(machines: &[(Node<'_>, &Plugin<'_>)], out: &mut Vec<Finding>) {
    for (position, (machine, plugin)) in machines.iter().enumerate() {
        let shares = |name: &str, other: &Node<'_>| {
            let of = |node: &Node<'_>| node.get(name).map(|value| value.value.clone()).filter(|value| value != "");
            of(machine) == of(other)
        };
        let same_proxies = |other: &Plugin<'_>| match (&plugin.root, &other.root) {
            (Some(own), Some(other)) => {
                std::ptr::eq(own.value, other.value)
                    || (own.text("kind") == other.text("kind")
                        && is_resource(own)
                        && own.namespace() == other.namespace())
            }
            _ => false,
        };
        let earlier = machines.iter().take(position).find(|(_, other)| same_proxies(other));
        let Some((first, other)) = earlier else { continue };
        // Istio pulls a module to a place of its own: whether it is the same, no path tells.
        let pulled = machine.mentions("/var/lib/istio/data/") || first.mentions("/var/lib/istio/data/");
        let names = ["vm_id", "runtime", "configuration", "code"];
        let differs = names.into_iter().find(|name| !shares(name, first) && (*name != "code" || !pulled));
        if let Some(name) = differs {
            let text = format!(
                "vm_config.{name} differs from that of role {}: they run in two VMs, and neither knows what the other sees",
                other.config.role.name()
            );
            out.push(Finding::new("roles-apart", machine, text, format!("give all roles the same vm_config.{name}")));
        }
    }
}

/// A role where another belongs: what it is told there is not what it is for.
fn misplaced(plugin: &Plugin<'_>, by_place: &HashMap<(&str, &str), &Node<'_>>, out: &mut Vec<Finding>) {
    let around = plugin.place.strip_suffix(".config.configuration");
    let Some(around) = around.and_then(|place| by_place.get(&(plugin.file.name.as_str(), place))) else { return };
    // A patch of Envoy Gateway's says in its path which list it adds to.
    let patch = around.place.find("jsonPatches[").and_then(|start| {
        let end = around.place.get(start..)?.find(']')? + start + 1;
        by_place.get(&(plugin.file.name.as_str(), around.place.get(..end)?))
    });
    let upstream = around.place.contains("pstream_http_filters")
        || around.place.contains("upstreamHttpFilters")
        || patch.is_some_and(|patch| patch.text("operation.path").contains("upstream_http_filters"));
    let (place, fits) = match around.kind() {
        "WasmAccessLog" => ("an access logger", Role::Watch),
        "Wasm" if upstream => ("upstream_http_filters", Role::Guard),
        "Wasm" => ("http_filters", Role::Decide),
        _ => return,
    };
    if plugin.config.role != fits {
        let text = format!("role {} stands in {place}, where only {} works", plugin.config.role.name(), fits.name());
        out.push(Finding::new(
            "role-misplaced",
            &place_of(plugin),
            text,
            format!("give it the role {}, or move it", fits.name()),
        ));
    }
}
