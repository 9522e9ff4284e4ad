//! The rules of routes, each with a cluster of its own.

use super::steering::Steering;
use super::targets;
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::setup::{Plugin, Setup};

/// Tells what is odd about a route of that kind.
pub(super) fn check(setup: &Setup<'_>, route: &Node<'_>, kind: &str, steering: &Steering<'_>, out: &mut Vec<Finding>) {
    let prefix = format!("{}/{}/{}/rule/", kind.to_lowercase(), route.namespace(), route.name());
    let any = steering.clusters.iter().any(|(name, _)| name.starts_with(&prefix));
    for (position, node) in route.items("spec.rules").iter().enumerate() {
        let cluster = format!("{prefix}{position}");
        let backends = node.items("backend_refs");
        let rule = Rule { setup, steering, route, node, position, cluster, backends };
        if any && !steering.covers(route, &rule.cluster) {
            let text = format!(
                "rule {position} of {kind} {:?} has the cluster {:?}, which no patch steers",
                route.name(),
                rule.cluster
            );
            let todo = "add a patch of this cluster, and an entry in the policy's clusters";
            out.push(Finding::new("rule-without-steering", node, text, todo));
        }
        if setup.acts_on(&rule.cluster) {
            rule.renamed(out);
            rule.session(out);
            rule.weights(out);
            rule.filters(out);
            rule.retry(out);
        }
    }
    // Its mere presence switches it on, but not for routes with a traffic policy of their own.
    let own =
        setup.kind("BackendTrafficPolicy").iter().flat_map(targets).any(|target| target.text("name") == route.name());
    let merged =
        setup.kind("EnvoyProxy").into_iter().find_map(|proxy| proxy.at("spec.merge_backends")).filter(|_| !own);
    let named = !setup.plugins.is_empty() && setup.acts_on(&format!("{prefix}0"));
    if let Some(node) = merged.filter(|_| any || named) {
        let text = "with mergeBackends clusters are called service/NAMESPACE/NAME/PORT/http";
        out.push(Finding::new("cluster-renamed", &node, text, "name these clusters in patches and patterns"));
    }
}

/// A rule of a route, whose cluster Weir acts on.
struct Rule<'s, 'a> {
    setup: &'s Setup<'a>,
    steering: &'s Steering<'a>,
    route: &'s Node<'a>,
    node: &'s Node<'a>,
    position: usize,
    cluster: String,
    backends: Vec<Node<'a>>,
}

impl Rule<'_, '_> {
    fn renamed(&self, out: &mut Vec<Finding>) {
        let (setup, steering, cluster) = (self.setup, self.steering, &self.cluster);
        let renamed = format!("{cluster}/backend/0");
        if let Some(backend) = self.backends.iter().find(|backend| !backend.items("filters").is_empty())
            && (!setup.acts_on(&renamed)
                || steering.covers(self.route, cluster) && !steering.covers(self.route, &renamed))
        {
            let text = format!("filters of a backendRef: this rule's clusters are called {renamed}, …");
            let todo = "move the filters to the rule, or name these clusters";
            out.push(Finding::new("cluster-renamed", backend, text, todo));
        }
    }

    fn session(&self, out: &mut Vec<Finding>) {
        let moved = |session: &Node<'_>| {
            let steers = |(plugin, policy): (&Plugin<'_>, &weir::config::Policy)| {
                let own = policy.for_cluster(&self.cluster);
                plugin.by_session() && own.steered && own.outlier_detection.is_some()
            };
            !session.value.is_null() && self.setup.policies().any(steers)
        };
        if let Some(session) = self.node.get("session_persistence").filter(moved) {
            let text =
                "while a host is out, steering sends users elsewhere whose own host is fine, and they stay there";
            let todo = format!("give {:?} an entry of its own in clusters, with steering: \"off\"", self.cluster);
            out.push(Finding::new("steering-moves-users", &session, text, todo));
        }
    }

    fn weights(&self, out: &mut Vec<Finding>) {
        let (count, position) = (self.backends.len(), self.position);
        if count < 2 {
            return;
        }
        if let Some((_, patch)) = self.steering.clusters.iter().find(|(name, _)| *name == self.cluster)
            && !patch.objects().iter().any(|object| object.get("locality_weighted_lb_config").is_some())
        {
            let text = format!("the {count} backends of rule {position} lose their weights");
            let todo = "add locality_lb_config: { locality_weighted_lb_config: {} } to the fallback policy";
            out.push(Finding::new("weights-lost", patch, text, todo));
        }
        if self.steering.routes.iter().any(|name| name.is_empty() || *name == self.route.name()) {
            let text = format!("endpointOverride makes the {count} backends of rule {position} lose their weights");
            let todo = "steer by a patch of the cluster, as in envoypatchpolicy.yaml";
            out.push(Finding::new("weights-lost", self.node, text, todo));
        }
    }

    fn filters(&self, out: &mut Vec<Finding>) {
        let of_backends = self.backends.iter().flat_map(|backend| backend.items("filters"));
        let filters = self.node.items("filters").into_iter().chain(of_backends);
        for filter in filters.filter(|filter| filter.text("type") == "RequestHeaderModifier") {
            let odd = self.steering.sources.iter().find(|(_, header)| !header.is_empty() && filter.mentions(header));
            if let Some((_, header)) = odd {
                let text = format!("RequestHeaderModifier acts on {header} before the host is chosen");
                let todo = "leave it to guard, and for clients to ClientTrafficPolicy.headers.earlyRequestHeaders";
                out.push(Finding::new("steering-header-modified", &filter, text, todo));
            }
        }
    }

    fn retry(&self, out: &mut Vec<Finding>) {
        let Some(retry) = self.node.get("retry") else { return };
        if retry.get("codes").is_some() || self.setup.retries(&self.cluster) {
            let text = "the rule's retry is added to what Weir asks for, and comes before BackendTrafficPolicy's";
            let todo = "take retry out of the route; retryOn of a BackendTrafficPolicy with connect-failure and \
                        refused-stream is enough";
            out.push(Finding::new("route-retry-on", &retry, text, todo));
        }
    }
}
