//! What an EnvoyFilter has of Weir: its patches, each by itself, and in which contexts they are.

use std::collections::{BTreeMap, BTreeSet};

use weir::config::Role;

use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::rules::override_headers;
use crate::check::setup::Setup;

/// A patch of an EnvoyFilter that has a part of Weir in it.
pub(super) struct Patch<'a> {
    pub(super) filter: Node<'a>,
    pub(super) node: Node<'a>,
    pub(super) part: Part,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Decide,
    Attempts,
    Cluster,
    Session,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Decide => "decide",
            Self::Attempts => "watch and guard",
            Self::Cluster => "override_host",
            Self::Session => "stateful_session",
        }
    }
}

impl<'a> Patch<'a> {
    pub(super) fn context(&self) -> &'a str {
        match self.node.text("match.context") {
            "" => "ANY",
            context => context,
        }
    }

    /// The service whose cluster it patches.
    pub(super) fn service(&self) -> &'a str {
        self.node.text("match.cluster.service")
    }

    /// Whether it switches sessions on for the routes to a service.
    pub(super) fn has_session_for(&self, service: &str) -> bool {
        self.has_session_where(service, |object| object.get("session_state").is_some())
    }

    /// Whether it does so by this header.
    pub(super) fn has_session_by(&self, service: &str, header: &str) -> bool {
        self.has_session_where(service, |object| {
            object.kind() == "EnvelopeSessionState" && object.text("header.name") == header
        })
    }

    fn has_session_where(&self, service: &str, on: impl Fn(&Node<'_>) -> bool) -> bool {
        let host = self.node.text("match.route_configuration.vhost.name");
        self.part == Part::Session
            && self.node.objects().iter().any(on)
            // Those of a gateway are named after its own hosts.
            && (host.is_empty() || self.context() == "GATEWAY" || host.split(':').next() == Some(service))
    }
}

/// The HTTP filter `stateful_session`, or what it is for single routes.
fn is_session(object: &Node<'_>) -> bool {
    matches!(object.kind(), "StatefulSession" | "StatefulSessionPerRoute")
}

pub(super) fn patches<'a>(setup: &Setup<'a>) -> Vec<Patch<'a>> {
    let mut all = Vec::new();
    for filter in setup.kind("EnvoyFilter") {
        for node in filter.items("spec.config_patches") {
            let inside = setup.plugins.iter().filter(|plugin| plugin.is_below(&node));
            let roles: Vec<Role> = inside.map(|plugin| plugin.config.role).collect();
            let part = if roles.contains(&Role::Decide) {
                Part::Decide
            } else if !roles.is_empty() {
                Part::Attempts
            } else if node.text("apply_to") == "CLUSTER" && !override_headers(&node).is_empty() {
                Part::Cluster
            } else if node.objects().iter().any(is_session) {
                Part::Session
            } else {
                continue;
            };
            all.push(Patch { filter: filter.clone(), node, part });
        }
    }
    all
}

/// Each patch by itself.
pub(super) fn each(patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    for patch in patches {
        let cluster = |field: &str| patch.node.at(&format!("match.cluster.{field}")).is_some();
        let adds = patch.node.text("patch.operation") == "ADD";
        if patch.part == Part::Cluster && !adds && !cluster("service") && !cluster("name") {
            let text = "override_host is put into all clusters: Envoy refuses it in PassthroughCluster and others";
            out.push(Finding::new(
                "patch-of-all-clusters",
                &patch.node,
                text,
                "name the service in match.cluster.service",
            ));
        }
        if patch.node.text("apply_to") == "VIRTUAL_HOST"
            && patch.part == Part::Session
            && patch.node.text("match.route_configuration.vhost.name").is_empty()
        {
            let text = "sessions are switched on for all routes, also those to addresses that clients chose";
            let todo = "name the virtual host, such as orders.shop.svc.cluster.local:8080, in match.routeConfiguration.vhost.name";
            out.push(Finding::new("session-on-all-routes", &patch.node, text, todo));
        }
        if patch.node.text("patch.operation") == "INSERT_AFTER"
            && patch.node.text("match.listener.filter_chain.filter.sub_filter.name") == "envoy.filters.http.router"
        {
            let text = "the patch puts a filter behind the router, which must be the last: Envoy refuses the listener";
            out.push(Finding::new("behind-router", &patch.node, text, "write operation: INSERT_BEFORE"));
        }
        if patch.context() == "ANY" {
            let text = "the patch has no match.context: it reaches gateways and inbound listeners, too";
            let todo = "set match.context: SIDECAR_OUTBOUND, or GATEWAY for a gateway";
            out.push(Finding::new("context-missing", &patch.node, text, todo));
        }
    }
}

/// The contexts of each part: all parts must have the same.
pub(super) fn contexts(patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    let mut contexts: BTreeMap<Part, BTreeSet<&str>> = BTreeMap::new();
    // At a waypoint, what comes in goes out again: its listeners are inbound, and its clusters outbound.
    let at_proxies = |patch: &&Patch<'_>| patch.filter.at("spec.target_refs").is_none();
    for patch in patches.iter().filter(at_proxies).filter(|patch| patch.context() != "ANY") {
        contexts.entry(patch.part).or_default().insert(patch.context());
    }
    let Some((first, wanted)) = contexts.iter().next() else { return };
    for (part, own) in contexts.iter().skip(1).filter(|(_, own)| *own != wanted) {
        let Some(patch) = patches.iter().find(|patch| patch.part == *part) else { continue };
        let list = |contexts: &BTreeSet<&str>| contexts.iter().copied().collect::<Vec<_>>().join(" and ");
        let text = format!("{} is put into {}, and {} into {}", part.name(), list(own), first.name(), list(wanted));
        out.push(Finding::new("contexts-differ", &patch.node, text, "give all patches of Weir the same match.context"));
    }
}
