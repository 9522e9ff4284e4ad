//! How hosts are chosen by a header: who reads it, who sets it, and who else may.

use weir::config::Role;

use super::{is_in, targets};
use crate::check::explain::patterns;
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::rules::override_headers;
use crate::check::setup::Setup;

/// How hosts are chosen by a header.
pub(super) struct Steering<'a> {
    /// The header, and what reads it.
    pub(super) sources: Vec<(Node<'a>, &'a str)>,
    /// The patches of clusters, by the names of these.
    pub(super) clusters: Vec<(&'a str, Node<'a>)>,
    /// The routes whose BackendTrafficPolicy does it for all their rules; an empty name is a Gateway, and so all.
    pub(super) routes: Vec<&'a str>,
}

impl<'a> Steering<'a> {
    pub(super) fn of(setup: &Setup<'a>, ours: &[&Node<'a>]) -> Self {
        let (mut sources, mut clusters, mut routes) = (Vec::new(), Vec::new(), Vec::new());
        for patch in ours.iter().flat_map(|policy| policy.items("spec.json_patches")) {
            if patch.text("type").ends_with(".Cluster") && !override_headers(&patch).is_empty() {
                sources.extend(override_headers(&patch));
                clusters.push((patch.text("name"), patch));
            }
        }
        for policy in setup.kind("BackendTrafficPolicy") {
            for source in policy.items("spec.load_balancer.endpoint_override.extract_from") {
                sources.push((source.clone(), source.text("header")));
                routes.extend(targets(&policy).iter().map(|target| match target.text("kind") {
                    "HTTPRoute" | "GRPCRoute" => target.text("name"),
                    _ => "",
                }));
            }
        }
        Self { sources, clusters, routes }
    }

    pub(super) fn covers(&self, route: &Node<'_>, cluster: &str) -> bool {
        self.routes.iter().any(|name| name.is_empty() || *name == route.name())
            || self.clusters.iter().any(|(name, _)| *name == cluster)
    }
}

/// Listeners whose requests are steered by a session, and have none, or have it too early.
pub(super) fn sessions(setup: &Setup<'_>, ours: &[&Node<'_>], steering: &Steering<'_>, out: &mut Vec<Finding>) {
    for policy in ours {
        let patches = policy.items("spec.json_patches");
        for (position, patch) in patches.iter().enumerate() {
            let own = setup.policies().find(|(plugin, policy)| policy.steering.is_some() && is_in(plugin, patch));
            let Some((plugin, own)) = own else { continue };
            if let Some(header) = plugin.steers_by() {
                let judged = own.clusters().iter().any(|cluster| cluster.outlier_detection.is_some());
                if setup.whole && judged && !steering.sources.iter().any(|(_, source)| *source == header) {
                    let text = "the policy steers, and no cluster reads its header";
                    let todo = "set steering.via: stateful_session, and add the patch of weir.session, as in \
                                envoypatchpolicy.yaml";
                    out.push(Finding::new("no-override-host", patch, text, todo));
                }
                continue;
            }
            let listener = patch.text("name");
            let is_session = |other: &Node<'_>| {
                other.text("name") == listener
                    && other.objects().iter().any(|object| object.kind() == "StatefulSession")
            };
            let (before, after) = patches.split_at(position);
            if after.iter().any(is_session) {
                continue;
            }
            if let Some(session) = before.iter().find(|other| is_session(other)) {
                let text = "stateful_session is put before the router first, and decide after it";
                out.push(Finding::new("session-before-decide", session, text, "put this patch after that of decide"));
            } else {
                let text = format!("the policy steers by stateful_session, and no patch puts that into {listener:?}");
                let todo = "add the patch of weir.session, as in envoypatchpolicy.yaml";
                out.push(Finding::new("no-session", patch, text, todo));
            }
        }
    }
}

/// Clusters that the policy names and nothing steers.
pub(super) fn steered(setup: &Setup<'_>, steering: &Steering<'_>, out: &mut Vec<Finding>) {
    if steering.clusters.is_empty() {
        return;
    }
    for (plugin, policy) in setup.policies() {
        let Some(root) = plugin.root.as_ref().filter(|root| root.text("kind") == "EnvoyPatchPolicy") else { continue };
        let entries = patterns(&plugin.raw);
        for (pattern, cluster) in entries.iter().zip(policy.clusters()) {
            let named = pattern.starts_with("httproute/") || pattern.starts_with("grpcroute/");
            let all = steering.routes.iter().any(|name| name.is_empty() || pattern.split('/').nth(2) == Some(name));
            let matches = |name: &str| match pattern.split_once('*') {
                Some((before, _)) => name.starts_with(before),
                None => name == pattern,
            };
            let patched = all || steering.clusters.iter().any(|(name, _)| matches(name));
            let judged = policy.steering.is_some() && cluster.outlier_detection.is_some();
            if named && judged && !patched && !plugin.by_session() {
                let node = Node { file: plugin.file, place: plugin.place.clone(), value: root.value };
                let text = format!("no patch gives a cluster {pattern:?} the policy override_host");
                let todo = "add its patch, as in envoypatchpolicy.yaml, or write the name that the patch has";
                out.push(Finding::new("no-override-host", &node, text, todo));
            }
        }
    }
}

/// Whether clients can choose hosts.
pub(super) fn header(setup: &Setup<'_>, ours: &[&Node<'_>], steering: &Steering<'_>, out: &mut Vec<Finding>) {
    let Some((source, header)) = steering.sources.first().filter(|_| setup.whole) else { return };
    if header.starts_with("x-envoy-") {
        // Envoy drops what clients send under such a name.
        return;
    }
    let removed = setup.kind("ClientTrafficPolicy").iter().any(|policy| {
        let names = policy.items("spec.headers.early_request_headers.remove");
        names.iter().any(|name| name.value.as_str().is_some_and(|name| name.eq_ignore_ascii_case(header)))
    });
    if removed {
        return;
    }
    let decides = setup.policies().any(|(plugin, _)| plugin.steers_by() == Some(header));
    let (rule, text) = if decides || !ours.is_empty() && setup.of_role(Role::Decide).next().is_some() {
        (
            "header-not-removed-early",
            format!("no ClientTrafficPolicy removes {header}: listeners without Weir let clients choose hosts"),
        )
    } else {
        ("steering-header-open", format!("{header} chooses hosts, and nothing removes it from what clients send"))
    };
    let todo = format!("set headers.earlyRequestHeaders.remove: [{header}] in a ClientTrafficPolicy of the Gateway");
    out.push(Finding::new(rule, source, text, todo));
}
