//! Clusters: what leads requests to their hosts, and Envoy's own settings beside Weir's.

use std::collections::HashSet;

use super::guard;
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::rules::{FEW_RETRIES, LONG_CONNECT, override_headers};
use crate::check::setup::Setup;

pub(super) fn check(
    setup: &Setup<'_>,
    objects: &[Node<'_>],
    cluster: &Node<'_>,
    routed: &HashSet<String>,
    out: &mut Vec<Finding>,
) {
    let name = cluster.text("name");
    let overrides = override_headers(cluster);
    for (source, header) in &overrides {
        let removed = setup.policies().any(|(plugin, _)| plugin.steers_by() == Some(header));
        if !removed {
            let text = format!("cluster {name:?} takes its host from {header}, which clients may send");
            let todo = "attach decide with this steering header, or remove the header from what clients send";
            out.push(Finding::new("steering-header-open", source, text, todo));
        }
        let hidden = guard::sees_all(setup, objects)
            || *header == "x-envoy-retry-grpc-on"
            || objects.iter().any(|object| object.text("remove").eq_ignore_ascii_case(header));
        if removed && !hidden {
            let text = format!("{header} goes on to the upstreams of cluster {name:?}");
            let todo = format!("attach guard, or remove {header} with a header_mutation in upstream_http_filters");
            out.push(Finding::new("steering-header-leaks", source, text, todo));
        }
    }
    let judged = setup.policies().any(|(_, policy)| policy.for_cluster(name).outlier_detection.is_some());
    if let Some(pipe) = cluster.objects().iter().find_map(|object| object.get("pipe")).filter(|_| judged) {
        let text = format!("cluster {name:?} has a host at a pipe, which is not judged: it is never ejected");
        let todo = "give its hosts addresses with ports, or switch outlierDetection off for it, in clusters";
        out.push(Finding::new("host-not-judged", &pipe, text, todo));
    }
    native(setup, cluster, !overrides.is_empty(), routed.contains(name), out);
    let steering = setup.policies().find_map(|(plugin, _)| plugin.steers_by());
    if let Some(header) = steering
        && routed.contains(name)
        && setup.steers(name)
        && !overrides.iter().any(|(_, own)| *own == header)
    {
        let text = format!("cluster {name:?} does not take its host from {header}");
        let todo = "give it the load balancing policy override_host with this header, or set \"steering\": \"off\" where \
                    Envoy's own outlier detection leads requests elsewhere";
        out.push(Finding::new("no-override-host", cluster, text, todo));
    }
}

/// Envoy's own settings of a cluster.
fn native(setup: &Setup<'_>, cluster: &Node<'_>, overridden: bool, routed: bool, out: &mut Vec<Finding>) {
    let name = cluster.text("name");
    if overridden {
        refuses(cluster, out);
    }
    if !routed || setup.plugins.is_empty() || !setup.acts_on(name) {
        return;
    }
    if setup.retries(name) {
        limits(cluster, out);
    }
    let connect = cluster.seconds("connect_timeout").unwrap_or(5.0);
    if connect > LONG_CONNECT {
        let text = format!("cluster {name:?}: a host that does not even refuse is found out after {connect} s");
        let node = cluster.get("connect_timeout");
        let todo = "set connect_timeout: 0.5s, or a few times a round trip to the hosts";
        out.push(Finding::new("connect-timeout-long", node.as_ref().unwrap_or(cluster), text, todo));
    }
    // Envoy ignores the one where it has the other.
    let least = cluster.text("lb_policy") == "LEAST_REQUEST" && cluster.get("load_balancing_policy").is_none()
        || cluster.objects().iter().any(|object| object.kind() == "LeastRequest");
    if least {
        let text = format!("cluster {name:?}: least request sends most to a host that refuses, until it is out");
        out.push(Finding::new("least-request", cluster, text, "take round robin"));
    }
    if let Some(outlier) = cluster.get("outlier_detection")
        && outlier.number("consecutive_5xx") != Some(0.0)
        && outlier.number("enforcing_consecutive_5xx") != Some(0.0)
        && outlier.number("consecutive_5xx").is_none_or(|count| count <= 5.0)
    {
        let text =
            format!("cluster {name:?}: Envoy's outlier detection also ejects after five errors of requests in a row");
        let todo = "set consecutive_5xx: 0 or more than 5, or enforcing_consecutive_5xx: 0";
        out.push(Finding::new("native-outlier-detection", &outlier, text, todo));
    }
}

/// Envoy's own limits on retries at a time.
fn limits(cluster: &Node<'_>, out: &mut Vec<Finding>) {
    let name = cluster.text("name");
    let thresholds = cluster.items("circuit_breakers.thresholds");
    let default = thresholds.iter().find(|threshold| matches!(threshold.text("priority"), "" | "DEFAULT"));
    let budget = default.and_then(|default| default.get("retry_budget"));
    if let Some(budget) = &budget {
        let text = format!("cluster {name:?}: Envoy's retry_budget binds before Weir's, and says nothing");
        out.push(Finding::new(
            "native-retry-budget",
            budget,
            text,
            "leave retry_budget out, and set max_retries: 10000",
        ));
    } else {
        // Envoy's own default.
        let most = default.and_then(|default| default.number("max_retries")).unwrap_or(3.0);
        if most < FEW_RETRIES {
            let text = format!(
                "cluster {name:?}: no more than {most} at a time may be retried; Envoy refuses more without asking Weir"
            );
            let todo = "set max_retries: 10000 in circuit_breakers.thresholds";
            out.push(Finding::new("max-retries-low", default.unwrap_or(cluster), text, todo));
        }
    }
}

/// What Envoy does not take beside `override_host`.
fn refuses(cluster: &Node<'_>, out: &mut Vec<Finding>) {
    let name = cluster.text("name");
    let places = [
        "common_lb_config.locality_weighted_lb_config",
        "common_lb_config.zone_aware_lb_config",
        "common_lb_config.consistent_hashing_lb_config",
        "lb_subset_config",
    ];
    for place in places {
        if let Some(node) = cluster.at(place) {
            let text = format!("cluster {name:?}: Envoy refuses {place} beside override_host");
            out.push(Finding::new("override-host-refused", &node, text, "take one of the two out"));
        }
    }
    if cluster.text("type") == "ORIGINAL_DST" {
        let text = format!("cluster {name:?}: Envoy refuses override_host in a cluster of type ORIGINAL_DST");
        out.push(Finding::new("override-host-refused", cluster, text, "leave load_balancing_policy out"));
    }
}
