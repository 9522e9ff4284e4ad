//! What routes say of retries, and which clusters they go to.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::retries::same_host;
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::rules::more_than_unsent;
use crate::check::setup::Setup;

/// Routes, and which clusters they go to. What a route says of retries matters where its cluster has no policy of its own.
pub(super) fn check(
    setup: &Setup<'_>,
    objects: &[Node<'_>],
    own: &HashMap<&str, Node<'_>>,
    out: &mut Vec<Finding>,
) -> HashSet<String> {
    let mut routed = HashSet::new();
    for host in objects.iter().filter(|object| object.get("domains").is_some() && object.get("routes").is_some()) {
        for route in host.items("routes").iter().filter_map(|route| route.get("route")) {
            let weighted = route.items("weighted_clusters.clusters");
            let names = weighted.iter().map(|cluster| cluster.text("name")).chain([route.text("cluster")]);
            let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
            routed.extend(names.iter().map(|name| (*name).to_owned()));
            let by_route = |name: &&&str| !setup.plugins.is_empty() && setup.retries(name) && !own.contains_key(**name);
            let Some(name) = names.iter().find(by_route) else { continue };
            let policy = route.get("retry_policy").or_else(|| host.get("retry_policy"));
            let conditions = policy.as_ref().map(|policy| policy.text("retry_on")).unwrap_or_default();
            if more_than_unsent(conditions)
                && let Some(policy) = &policy
            {
                out.push(added(policy, conditions));
            }
            let elsewhere = policy.as_ref().is_some_and(|policy| policy.mentions("PreviousHosts"));
            if !elsewhere {
                out.push(same_host(name, policy.as_ref().unwrap_or(&route), "route"));
            }
        }
    }
    routed
}

/// Retry policies that stand alone, as in a patch; of those in routes it is known which cluster they are for.
pub(super) fn conditions(setup: &Setup<'_>, out: &mut Vec<Finding>) {
    for file in setup.files.iter().filter(|_| !setup.plugins.is_empty()) {
        for (place, conditions) in &file.document.route_policies {
            let in_route = ["virtual_hosts[", "virtualHosts["].iter().any(|list| place.contains(list));
            if !in_route && more_than_unsent(conditions) {
                let node = Node { file, place: place.clone(), value: &Value::Null };
                out.push(added(&node, conditions));
            }
        }
    }
}

fn added(policy: &Node<'_>, conditions: &str) -> Finding {
    let text = format!("retry_on {conditions:?} is added to what Weir asks for, whatever it says");
    Finding::new("route-retry-on", policy, text, "leave retry_on out of the route's retry policy")
}
