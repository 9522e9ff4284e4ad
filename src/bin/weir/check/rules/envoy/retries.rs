//! The cluster's own retry policy, which takes the place of its routes' from Envoy 1.37 on.

use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::setup::{Setup, is_resource};

use super::is_cluster;

/// The cluster's own retry policy, which takes the place of its routes' from Envoy 1.37 on.
pub(super) fn of_cluster<'a>(cluster: &Node<'a>) -> Option<Node<'a>> {
    let options = cluster.get("typed_extension_protocol_options")?;
    options.objects().iter().find(|object| object.kind() == "HttpProtocolOptions")?.get("retry_policy")
}

/// Whether all clusters have one, and so none of their routes' counts.
pub fn replaces_those_of_routes(setup: &Setup<'_>) -> bool {
    let own: Vec<Node<'_>> = setup.roots().iter().filter(|root| !is_resource(root)).flat_map(Node::objects).collect();
    let mut clusters = own.iter().filter(|object| is_cluster(object)).peekable();
    clusters.peek().is_some() && knows_own_policy(&own) && clusters.all(|cluster| of_cluster(cluster).is_some())
}

/// Whether a cluster may have a retry policy of its own; a running Envoy says which version it is.
pub(super) fn knows_own_policy(objects: &[Node<'_>]) -> bool {
    let version = objects.iter().find_map(|object| object.at("user_agent_build_version.version"));
    let number = |version: &Node<'_>, name| version.number(name).unwrap_or_default();
    version.is_none_or(|version| (number(&version, "major_number"), number(&version, "minor_number")) >= (1.0, 37.0))
}

/// Says where retries to a cluster may go, and that nothing but Weir may ask for them.
pub(super) fn check(
    setup: &Setup<'_>,
    cluster: &Node<'_>,
    own: Option<&Node<'_>>,
    knows: bool,
    out: &mut Vec<Finding>,
) {
    let name = cluster.text("name");
    if setup.plugins.is_empty() || !setup.retries(name) {
        return;
    }
    let Some(policy) = own else {
        if knows {
            let text = format!(
                "cluster {name:?} has no retry policy of its own: what its routes say is added to what Weir asks for"
            );
            let todo = "from Envoy 1.37 on, move the route's retry_policy, without retry_on, into the cluster's HttpProtocolOptions";
            out.push(Finding::new("own-retry-policy", cluster, text, todo));
        }
        return;
    };
    if !policy.mentions("PreviousHosts") {
        out.push(same_host(name, policy, "cluster"));
    }
    let protocols = ["explicit_http_config", "use_downstream_protocol_config", "auto_config"];
    let options = cluster.objects().into_iter().find(|object| object.kind() == "HttpProtocolOptions");
    if let Some(options) = options.filter(|options| protocols.iter().all(|protocol| options.get(protocol).is_none())) {
        let text =
            format!("cluster {name:?}: Envoy refuses HttpProtocolOptions that do not say which protocol to speak");
        let todo = "add explicit_http_config: { http_protocol_options: {} }, or http2_protocol_options for HTTP/2";
        out.push(Finding::new("protocol-missing", &options, text, todo));
    }
}

pub(super) fn same_host(cluster: &str, node: &Node<'_>, whose: &str) -> Finding {
    let text = format!("a retry to cluster {cluster:?} may meet the very host that just failed");
    let todo = format!(
        "add the predicate envoy.retry_host_predicates.previous_hosts and host_selection_retry_max_attempts: 5 to the \
         {whose}'s retry_policy"
    );
    Finding::new("retry-same-host", node, text, todo)
}
