//! Envoy's own configuration: a bootstrap, what a running Envoy dumps, and what resources of Istio and Envoy Gateway put there.

mod clusters;
mod filters;
mod guard;
mod plugins;
mod retries;
mod routes;

use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::setup::{Setup, is_resource};

pub use retries::replaces_those_of_routes;

/// Tells what is odd about it.
pub fn check(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    let roots = setup.roots();
    let objects: Vec<Node<'_>> = roots.iter().flat_map(Node::objects).collect();
    filters::routers(setup, &objects, out);
    plugins::check(setup, &objects, out);
    routes::conditions(setup, out);
    let own: Vec<Node<'_>> = roots.iter().filter(|root| !is_resource(root)).flat_map(Node::objects).collect();
    refused(&own, out);
    if own.is_empty() {
        return;
    }
    filters::chains(setup, &own, out);
    labels(setup, &roots, out);
    guard::behind_matcher(setup, &own, out);
    let clusters: Vec<&Node<'_>> = own.iter().filter(|object| is_cluster(object)).collect();
    let policies =
        clusters.iter().filter_map(|cluster| Some((cluster.text("name"), retries::of_cluster(cluster)?))).collect();
    let routed = routes::check(setup, &own, &policies, out);
    let knows = retries::knows_own_policy(&own);
    for cluster in clusters {
        clusters::check(setup, &own, cluster, &routed, out);
        if routed.contains(cluster.text("name")) {
            retries::check(setup, cluster, policies.get(cluster.text("name")), knows, out);
        }
    }
}

pub(super) fn is_cluster(object: &Node<'_>) -> bool {
    let has = |name| object.get(name).is_some();
    // A dump leaves out what is the default, such as the type STATIC.
    let kinds = ["type", "cluster_type", "load_assignment", "connect_timeout"];
    has("name") && kinds.into_iter().any(has) && !has("typed_config") && !has("filter_chains")
}

/// Bootstraps of Envoys that have Weir in them, and no tags for its metrics.
fn labels(setup: &Setup<'_>, roots: &[Node<'_>], out: &mut Vec<Finding>) {
    for root in roots.iter().filter(|root| setup.plugins.iter().any(|plugin| std::ptr::eq(plugin.file, root.file))) {
        let bootstrap = root.objects().into_iter().find(|object| object.get("static_resources").is_some());
        if let Some(bootstrap) = bootstrap.filter(|bootstrap| !is_resource(root) && !bootstrap.mentions("weir_cluster"))
        {
            let text = "stats_config has none of Weir's stats_tags: labels stand in the names of its metrics";
            let todo = "take over stats_config of envoy/envoy.yaml, or envoy/istio/custom_bootstrap.json for Istio";
            out.push(Finding::new("labels-missing", &bootstrap, text, todo));
        }
    }
}

/// Updates that the running Envoy refused.
fn refused(objects: &[Node<'_>], out: &mut Vec<Finding>) {
    for object in objects {
        if let Some(error) = object.get("error_state") {
            let details = error.text("details");
            let text = format!("Envoy refused the last update of {:?}: {details}", object.text("name"));
            out.push(Finding::new(
                "refused-by-envoy",
                &error,
                text,
                "put right what Envoy says; it still has what was before",
            ));
        }
    }
}
