//! The patches of listeners: each listener needs all of them.

use weir::config::Role;

use super::{is_in, targets};
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::setup::Setup;

/// Listeners that no patch gives Weir.
pub(super) fn without_weir(setup: &Setup<'_>, ours: &[&Node<'_>], out: &mut Vec<Finding>) {
    let decides = |patch: &Node<'_>| setup.of_role(Role::Decide).any(|plugin| is_in(plugin, patch));
    let http3 = setup.kind("ClientTrafficPolicy").iter().any(|policy| policy.at("spec.http3").is_some());
    for gateway in setup.kind("Gateway") {
        let of_it = ours.iter().filter(|policy| {
            targets(policy)
                .iter()
                .any(|target| target.text("name") == gateway.name() || target.text("kind") == "GatewayClass")
        });
        let patches: Vec<Node<'_>> =
            of_it.flat_map(|policy| policy.items("spec.json_patches")).filter(decides).collect();
        if patches.is_empty() {
            continue;
        }
        for listener in gateway.items("spec.listeners") {
            if !matches!(listener.text("protocol"), "HTTP" | "HTTPS") {
                continue;
            }
            let port = listener.number("port").unwrap_or_default();
            let old = format!("{}/{}/{}", gateway.namespace(), gateway.name(), listener.text("name"));
            let mut names = vec![(format!("tcp-{port}"), old.clone(), "")];
            if http3 && listener.text("protocol") == "HTTPS" {
                names.push((format!("udp-{port}"), format!("{old}-quic"), ", for HTTP/3"));
            }
            for (name, old, what) in names {
                if patches.iter().any(|patch| patch.text("name") == name || patch.text("name") == old) {
                    continue;
                }
                let text = format!(
                    "no patch puts Weir into listener {:?} of Gateway {:?}{what}",
                    listener.text("name"),
                    gateway.name()
                );
                let todo = format!("add the listener's patches again, with name: {name}");
                out.push(Finding::new("listener-without-weir", &listener, text, todo));
            }
        }
    }
}

/// Listeners that have some of the roles: Envoy Gateway applies each patch by itself, also where another finds nothing.
pub(super) fn roles(setup: &Setup<'_>, ours: &[&Node<'_>], out: &mut Vec<Finding>) {
    let of = |role: Role| -> Vec<Node<'_>> {
        let patches = ours.iter().flat_map(|policy| policy.items("spec.json_patches"));
        let ours = |patch: &Node<'_>| {
            patch.text("type").ends_with(".Listener") && setup.of_role(role).any(|plugin| is_in(plugin, patch))
        };
        patches.filter(ours).collect()
    };
    let all = [Role::Decide, Role::Watch, Role::Guard].map(|role| (role, of(role)));
    for (role, patches) in &all {
        for (other, others) in all.iter().filter(|(other, others)| other != role && !others.is_empty()) {
            let lacks = patches.iter().find(|patch| !others.iter().any(|one| one.text("name") == patch.text("name")));
            if let Some(patch) = lacks {
                let text = format!(
                    "listener {:?} gets role {}, and no patch gives it {}, as {:?} has it",
                    patch.text("name"),
                    role.name(),
                    other.name(),
                    others.first().map(|patch| patch.text("name")).unwrap_or_default()
                );
                out.push(Finding::new("listeners-differ", patch, text, "give each listener the same patches"));
            }
        }
    }
}
