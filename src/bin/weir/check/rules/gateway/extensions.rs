//! Plugins that Envoy Gateway serves itself: EnvoyExtensionPolicy.

use weir::config::Role;

use super::is_in;
use super::steering::Steering;
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::setup::Setup;

/// Plugins that Envoy Gateway serves.
pub(super) fn check(setup: &Setup<'_>, ours: &[&Node<'_>], steering: &Steering<'_>, out: &mut Vec<Finding>) {
    let patched = ours.iter().find(|policy| setup.of_role(Role::Decide).any(|plugin| is_in(plugin, policy)));
    for (plugin, policy) in setup.policies() {
        let Some(root) = plugin.root.as_ref().filter(|root| root.text("kind") == "EnvoyExtensionPolicy") else {
            continue;
        };
        let own = root.items("spec.wasm").into_iter().find(|wasm| is_in(plugin, wasm));
        let node = own.as_ref().unwrap_or(root);
        if node.get("fail_open").is_none_or(|open| open.value != true) {
            let text = "while the module cannot be pulled, or if it fails, requests get a 5xx";
            out.push(Finding::new("fails-closed", node, text, "set failOpen: true"));
        }
        if let Some(other) = patched {
            let text = format!("EnvoyPatchPolicy {:?} ({}) attaches decide as well", other.name(), other.file.name);
            out.push(Finding::new("decide-twice", root, text, "apply one of the two"));
        }
        let judged =
            policy.steering.is_some() && policy.clusters().iter().any(|cluster| cluster.outlier_detection.is_some());
        let header = plugin.steers_by().unwrap_or_default();
        if setup.whole && judged && !plugin.by_session() && !steering.sources.iter().any(|(_, own)| *own == header) {
            let text = "the policy steers, and no cluster reads its header";
            let todo = "set steering: \"off\", and healthCheck.passive in a BackendTrafficPolicy";
            out.push(Finding::new("no-override-host", node, text, todo));
        }
    }
}
