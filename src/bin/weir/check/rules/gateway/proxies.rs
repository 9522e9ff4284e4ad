//! The proxies: whether they have the module's file, and show its metrics; and what keeps `guard` out of them.

use weir::config::Role;

use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::setup::Setup;

/// The module's file must be where the proxies look for it.
pub(super) fn mounted(setup: &Setup<'_>, ours: &[&Node<'_>], out: &mut Vec<Finding>) {
    let proxies = setup.kind("EnvoyProxy");
    let mounts: Vec<(Node<'_>, &str)> = proxies
        .iter()
        .flat_map(Node::objects)
        .flat_map(|object| object.items("volume_mounts"))
        .map(|mount| (mount.clone(), mount.text("mount_path").trim_end_matches('/')))
        .collect();
    let Some((mount, _)) = mounts.first() else { return };
    let files = ours.iter().flat_map(|policy| policy.objects()).filter_map(|object| object.at("code.local.filename"));
    let missing = files.filter(|file| {
        let name = file.value.as_str().unwrap_or_default();
        !mounts.iter().any(|(_, path)| name.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')))
    });
    for file in missing.take(1) {
        let text = format!("{} is in no folder that EnvoyProxy mounts: Envoy refuses the listener", file.value);
        let todo = format!("mount the module there, or name the file below {}", mount.text("mount_path"));
        out.push(Finding::new("module-not-mounted", &file, text, todo));
    }
}

/// Whether Weir's metrics come out of the proxies, and with labels.
pub(super) fn metrics(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    let proxies = setup.kind("EnvoyProxy");
    if !setup
        .plugins
        .iter()
        .filter_map(|plugin| plugin.root.as_ref())
        .any(|root| root.text("kind").starts_with("Envoy"))
    {
        return;
    }
    if let Some(proxy) = proxies.first().filter(|_| !proxies.iter().any(|proxy| proxy.mentions("weir_cluster"))) {
        let text = "no EnvoyProxy has Weir's stats_tags: labels stand in the names of its metrics";
        let todo = "take over spec.bootstrap of envoy/gateway/envoyproxy.yaml";
        out.push(Finding::new("labels-missing", proxy, text, todo));
    }
    for proxy in &proxies {
        let all = proxy.items("spec.telemetry.metrics.matches");
        let shows = |one: &Node<'_>| match (one.text("type"), one.text("value")) {
            (_, value) if value.contains("weir") => true,
            ("Prefix", value) => "wasmcustom.weir_".starts_with(value),
            ("RegularExpression", value) => value.contains("wasm") || value.starts_with(".*"),
            _ => false,
        };
        if let Some(first) = all.first().filter(|_| !all.iter().any(shows)) {
            let text = "telemetry.metrics.matches lets other metrics through, and none of Weir's";
            let todo = "add { type: Prefix, value: wasmcustom.weir_ } to telemetry.metrics.matches";
            out.push(Finding::new("metrics-hidden", first, text, todo));
        }
    }
}

/// What makes clusters use filters of their own, without `guard`.
pub(super) fn bypass(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    if setup.of_role(Role::Guard).next().is_none() {
        return;
    }
    let admission =
        setup.kind("BackendTrafficPolicy").into_iter().filter_map(|policy| policy.at("spec.admission_control"));
    let credentials =
        setup.kind("HTTPRouteFilter").into_iter().filter_map(|filter| filter.at("spec.credential_injection"));
    for node in admission.chain(credentials) {
        let text = "the cluster gets HTTP filters of its own, in place of the router's: guard is not among them";
        let todo = "do without it for routes that Weir acts on, or mind that retries are not counted as they begin";
        out.push(Finding::new("guard-bypassed", &node, text, todo));
    }
}
