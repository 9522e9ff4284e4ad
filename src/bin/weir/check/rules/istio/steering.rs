//! Whether what the policies steer by is there.

use super::envoy_filters::{Part, Patch};
use super::is_istio;
use crate::check::explain::patterns;
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::rules::override_headers;
use crate::check::setup::Setup;

/// Tells what of it is not.
pub(super) fn check(setup: &Setup<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    if setup.whole {
        open_headers(setup, patches, out);
        early_sessions(patches, out);
        unsteered(setup, patches, out);
    }
}

/// Clusters that read a header which no policy sets.
fn open_headers(setup: &Setup<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    for patch in patches.iter().filter(|patch| patch.part == Part::Cluster) {
        for (source, header) in override_headers(&patch.node) {
            if !setup.policies().any(|(plugin, _)| plugin.steers_by() == Some(header)) {
                let text = format!(
                    "the clusters of {:?} take their host from {header}, which clients may send",
                    patch.service()
                );
                let todo = "attach decide with this steering header (decide.yaml), or leave this patch out";
                out.push(Finding::new("steering-header-open", &source, text, todo));
            }
        }
    }
}

/// The filter that switches sessions on.
fn session_filter<'s, 'a>(patches: &'s [Patch<'a>]) -> Option<&'s Patch<'a>> {
    patches.iter().find(|patch| patch.part == Part::Session && patch.node.text("apply_to") == "HTTP_FILTER")
}

/// A session that may come before `decide`, and so reads its header too early.
fn early_sessions(patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    let session = session_filter(patches);
    let priority = |filter: &Node<'_>| filter.number("spec.priority").unwrap_or(0.0);
    let late = patches.iter().find(|patch| {
        let other = |session: &&Patch<'_>| !std::ptr::eq(session.filter.value, patch.filter.value);
        patch.part == Part::Decide
            && session.filter(other).is_some_and(|session| priority(&session.filter) <= priority(&patch.filter))
    });
    if let (Some(session), Some(decide)) = (session, late) {
        let text = format!(
            "EnvoyFilter {:?} has the priority {}, and {:?}, with decide, {}: stateful_session may come first",
            session.filter.name(),
            priority(&session.filter),
            decide.filter.name(),
            priority(&decide.filter)
        );
        let todo = "give the EnvoyFilter with stateful_session the higher priority";
        out.push(Finding::new("session-before-decide", &session.node, text, todo));
    }
}

/// Services that a policy steers, and that nothing leads to the hosts it says.
fn unsteered(setup: &Setup<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    for (plugin, policy) in setup.policies() {
        let Some(root) = plugin.root.as_ref().filter(|root| is_istio(root)) else { continue };
        if policy.steering.is_none() {
            continue;
        }
        let entries = patterns(&plugin.raw);
        for (pattern, cluster) in entries.iter().zip(policy.clusters()) {
            let service = pattern.rsplit('|').next().unwrap_or_default();
            if cluster.outlier_detection.is_none()
                || service.is_empty()
                || service.contains('*')
                || !pattern.contains('|')
            {
                continue;
            }
            let mut clusters = patches.iter().filter(|patch| patch.part == Part::Cluster);
            let node = Node { file: plugin.file, place: plugin.place.clone(), value: root.value };
            if plugin.by_session() {
                let header = policy.steering.as_ref().map_or("", |steering| steering.header.as_str());
                if session_filter(patches).is_none()
                    || !patches.iter().any(|patch| patch.has_session_by(service, header))
                {
                    let text = format!(
                        "the policy steers {service:?} by stateful_session, and no EnvoyFilter switches it on there, with the \
                         header {header}"
                    );
                    let todo = "add the HTTP filter, and the patch of the service's virtual host, as in attempts.yaml";
                    out.push(Finding::new("no-session", &node, text, todo));
                }
            } else if !clusters.any(|patch| patch.service() == service) {
                let text = format!("no EnvoyFilter gives the clusters of {service:?} the policy override_host");
                let todo = "add its CLUSTER patch, as in attempts.yaml, or set steering: \"off\" and an outlierDetection in its \
                            DestinationRule";
                out.push(Finding::new("no-override-host", &node, text, todo));
            }
        }
    }
}
