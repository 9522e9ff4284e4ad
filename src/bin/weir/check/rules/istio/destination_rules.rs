//! What a DestinationRule says of connections, retries and balancing, beside Weir.

use super::envoy_filters::Patch;
use super::{clusters, full, is_patched};
use crate::check::explain::patterns;
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::rules::{FEW_RETRIES, LONG_CONNECT};
use crate::check::setup::Setup;

/// Tells what is odd about one.
pub(super) fn check(setup: &Setup<'_>, rule: &Node<'_>, patches: &[Patch<'_>], out: &mut Vec<Finding>) {
    let hosts = ruled(setup, rule);
    let Some(host) =
        hosts.iter().find(|host| clusters(setup, host).iter().any(|name| setup.acts_on(name))).or(hosts.first())
    else {
        return;
    };
    let subsets = rule.items("spec.subsets").into_iter().filter_map(|subset| subset.get("traffic_policy"));
    let ports = rule.items("spec.traffic_policy.port_level_settings");
    let policies: Vec<Node<'_>> = rule.at("spec.traffic_policy").into_iter().chain(subsets).chain(ports).collect();
    if is_patched(patches, host) {
        for policy in &policies {
            refused(policy, host, out);
        }
    }
    let names = clusters(setup, host);
    if !names.iter().any(|name| setup.acts_on(name)) {
        return;
    }
    for (position, policy) in policies.iter().enumerate() {
        settings(policy, host, position == 0, is_patched(patches, host), out);
    }
}

/// The settings for one service, its `whole` or a part of it; `patched` if its cluster has `override_host`.
fn settings(policy: &Node<'_>, host: &str, whole: bool, patched: bool, out: &mut Vec<Finding>) {
    if let Some(most) = policy.number("connection_pool.http.max_retries").filter(|most| *most < FEW_RETRIES) {
        let node = policy.at("connection_pool.http.max_retries");
        let text =
            format!("{host:?}: no more than {most} at a time may be retried; Envoy refuses more without asking Weir");
        let todo = "set connectionPool.http.maxRetries: 10000";
        out.push(Finding::new("max-retries-low", node.as_ref().unwrap_or(policy), text, todo));
    }
    if let Some(budget) = policy.get("retry_budget") {
        let text = format!("{host:?}: Istio's retryBudget binds before Weir's, and says nothing");
        out.push(Finding::new("native-retry-budget", &budget, text, "leave retryBudget out of the DestinationRule"));
    }
    let connect = policy.seconds("connection_pool.tcp.connect_timeout");
    // Subsets and ports have that of the whole, unless they say otherwise.
    if connect.or(whole.then_some(10.0)).is_some_and(|connect| connect > LONG_CONNECT) {
        let node = policy.at("connection_pool.tcp.connect_timeout");
        let text =
            format!("{host:?}: a host that does not even refuse is found out after {} s", connect.unwrap_or(10.0));
        let todo = "set connectionPool.tcp.connectTimeout: 500ms, or a few times a round trip to the hosts";
        out.push(Finding::new("connect-timeout-long", node.as_ref().unwrap_or(policy), text, todo));
    }
    if let Some(outlier) = policy.get("outlier_detection") {
        // `get` writes consecutive_5xx_errors otherwise than Istio does.
        let count = outlier.number("consecutive5xxErrors");
        if count.is_none_or(|count| (1.0..=5.0).contains(&count)) {
            let text =
                format!("{host:?}: Istio's outlier detection also ejects after five errors of requests in a row");
            let todo = "set outlierDetection.consecutive5xxErrors: 0, and consecutiveGatewayErrors: 50";
            out.push(Finding::new("native-outlier-detection", &outlier, text, todo));
        }
    }
    let simple = policy.text("load_balancer.simple");
    if matches!(simple, "LEAST_REQUEST" | "LEAST_CONN") && !patched {
        let node = policy.at("load_balancer.simple");
        let text = format!("{host:?}: least request sends most to a host that refuses, until it is out");
        out.push(Finding::new(
            "least-request",
            node.as_ref().unwrap_or(policy),
            text,
            "set loadBalancer.simple: ROUND_ROBIN",
        ));
    }
}

/// The hosts that a DestinationRule is for. With a wildcard, those are the services that policies name and that have no rule of
/// their own: Istio takes the most specific one, and joins nothing.
fn ruled(setup: &Setup<'_>, rule: &Node<'_>) -> Vec<String> {
    let host = rule.text("spec.host");
    let Some(end) = host.strip_prefix('*') else { return vec![full(host, rule.namespace())] };
    let rules = setup.kind("DestinationRule");
    let closer = |service: &str| {
        rules.iter().map(|other| full(other.text("spec.host"), other.namespace())).any(|other| {
            let ends = other.strip_prefix('*').map_or(other == service, |end| service.ends_with(end));
            ends && (!other.starts_with('*') || other.len() > host.len())
        })
    };
    let named = setup.policies().flat_map(|(plugin, _)| patterns(&plugin.raw));
    let services = named.filter_map(|pattern| pattern.rsplit_once('|').map(|(_, service)| service.to_owned()));
    services.filter(|service| !service.contains('*') && service.ends_with(end) && !closer(service)).collect()
}

/// What Envoy does not take beside `override_host`.
fn refused(policy: &Node<'_>, host: &str, out: &mut Vec<Finding>) {
    let Some(balancer) = policy.get("load_balancer") else { return };
    let locality = balancer.get("locality_lb_setting");
    let weighted = locality.filter(|setting| {
        let has = |name| setting.get(name).is_some();
        setting.get("enabled").is_none_or(|enabled| enabled.value != false)
            && (has("distribute") || has("failover") || has("failover_priority"))
    });
    if let Some(setting) = weighted.or_else(|| balancer.get("zone_aware_lb_setting")) {
        let text = format!("{host:?} has locality weights, beside which Envoy refuses override_host");
        out.push(Finding::new(
            "override-host-refused",
            &setting,
            text,
            "take this setting out, or do without the CLUSTER patch",
        ));
    }
    if balancer.text("simple") == "PASSTHROUGH" {
        let text =
            format!("{host:?}: with PASSTHROUGH its cluster is of type ORIGINAL_DST, and Envoy refuses override_host");
        out.push(Finding::new("override-host-refused", &balancer, text, "do without the CLUSTER patch for it"));
    }
    if let Some(hash) = balancer.get("consistent_hash") {
        let text = format!("{host:?}: override_host takes the place of consistentHash");
        out.push(Finding::new(
            "hashing-lost",
            &hash,
            text,
            "do without the CLUSTER patch for it, and set steering: \"off\"",
        ));
    }
}
