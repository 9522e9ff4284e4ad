//! Which proxies resources are for: all that belongs together must select the same.

use serde_json::Value;
use weir::config::Role;

use super::envoy_filters::{Part, Patch};
use super::{is_istio, plugins};
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::setup::Setup;

/// What a resource selects.
fn selects<'a>(root: &Node<'a>) -> (&'a str, Option<&'a Value>, Option<&'a Value>) {
    let labels = root.at("spec.workload_selector.labels").or_else(|| root.at("spec.selector.match_labels"));
    let targets = root.at("spec.target_refs").or_else(|| root.at("spec.target_ref"));
    (root.namespace(), labels.map(|labels| labels.value), targets.map(|targets| targets.value))
}

/// Resources that are for all proxies of the mesh.
pub(super) fn for_all_proxies(setup: &Setup<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    let mut roots: Vec<&Node<'_>> = patches.iter().map(|patch| &patch.filter).collect();
    roots.extend(plugins::roots(setup).map(|(_, root)| root));
    let mut told: Vec<&Value> = Vec::new();
    for root in &roots {
        let (namespace, labels, targets) = selects(root);
        let by_proxy = root.items("spec.config_patches").iter().any(|patch| patch.at("match.proxy").is_some());
        if namespace == "istio-system"
            && labels.is_none()
            && targets.is_none()
            && !by_proxy
            && !told.contains(&root.value)
        {
            told.push(root.value);
            let text = format!("{} {:?} is for all proxies of the mesh", root.text("kind"), root.name());
            let todo = "put it into the clients' namespace with a selector, or match proxies by metadata";
            out.push(Finding::new("no-selector", root, text, todo));
        }
    }
}

/// Resources that belong together: for the same proxies, and one alone that decides.
pub(super) fn together(setup: &Setup<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    let deciding: Vec<&Node<'_>> = setup.of_role(Role::Decide).filter_map(|plugin| plugin.root.as_ref()).collect();
    let deciding: Vec<&Node<'_>> = deciding.into_iter().filter(|root| is_istio(root)).collect();
    for (position, root) in deciding.iter().enumerate() {
        let same = |other: &&&Node<'_>| selects(other) == selects(root) && !std::ptr::eq(other.value, root.value);
        if let Some(other) = deciding.iter().take(position).find(same) {
            let text = format!(
                "{} {:?} decides for the same proxies as {} {:?} ({})",
                root.text("kind"),
                root.name(),
                other.text("kind"),
                other.name(),
                other.file.name
            );
            out.push(Finding::new("decide-twice", root, text, "apply one of the two"));
        }
    }
    let mut told: Vec<&Value> = Vec::new();
    for patch in patches.iter().filter(|patch| patch.part != Part::Decide) {
        if !told_of(&patch.filter, &told)
            && !deciding.is_empty()
            && !deciding.iter().any(|root| selects(root) == selects(&patch.filter))
        {
            told.push(patch.filter.value);
            let text = format!(
                "EnvoyFilter {:?} and what decides select different proxies (namespace, labels or targetRefs)",
                patch.filter.name()
            );
            out.push(Finding::new(
                "selectors-differ",
                &patch.filter,
                text,
                "give them the same namespace and selector",
            ));
        }
    }
}

fn told_of(root: &Node<'_>, told: &[&Value]) -> bool {
    told.iter().any(|value| std::ptr::eq(*value, root.value))
}

/// Selectors that no pod's labels fit.
pub(super) fn selects_nothing(setup: &Setup<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    let mut told: Vec<&Value> = Vec::new();
    for patch in patches {
        let (namespace, labels, _) = selects(&patch.filter);
        let Some(Value::Object(labels)) = labels.filter(|_| namespace != "istio-system") else { continue };
        let deployments = setup.kind("Deployment");
        let mut own = deployments.iter().filter(|deployment| deployment.namespace() == namespace).peekable();
        let fits = |deployment: &Node<'_>| {
            let pods = deployment.at("spec.template.metadata.labels");
            pods.is_some_and(|pods| labels.iter().all(|(name, value)| pods.value.get(name) == Some(value)))
        };
        if own.peek().is_some() && !own.any(fits) && !told_of(&patch.filter, &told) {
            told.push(patch.filter.value);
            let text = format!("EnvoyFilter {:?} selects the pods of no Deployment that is given", patch.filter.name());
            out.push(Finding::new("selects-nothing", &patch.filter, text, "select labels of the pods' template"));
        }
    }
}
