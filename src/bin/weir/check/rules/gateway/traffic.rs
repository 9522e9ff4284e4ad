//! What a BackendTrafficPolicy says of connections, retries and balancing, beside Weir.

use serde_json::Value;

use super::targets;
use crate::check::explain::patterns;
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::rules::{FEW_RETRIES, LONG_CONNECT, more_than_unsent};
use crate::check::setup::Setup;

/// Tells what is odd about one.
pub(super) fn check(setup: &Setup<'_>, policy: &Node<'_>, out: &mut Vec<Finding>) {
    let names: Vec<String> = targets(policy)
        .iter()
        .map(|target| match target.text("kind") {
            "HTTPRoute" => format!("httproute/{}/{}/rule/0", policy.namespace(), target.text("name")),
            "GRPCRoute" => format!("grpcroute/{}/{}/rule/0", policy.namespace(), target.text("name")),
            kind => kind.to_owned(),
        })
        .chain(targets(policy).iter().filter(|target| target.text("kind") == "Gateway").flat_map(|_| inheriting(setup)))
        .collect();
    if !names.iter().any(|name| setup.acts_on(name)) {
        return;
    }
    retries(policy, out);
    let connect = policy.seconds("spec.timeout.tcp.connect_timeout").unwrap_or(10.0);
    if connect > LONG_CONNECT {
        let node = policy.at("spec.timeout.tcp.connect_timeout");
        let text = format!("a host that does not even refuse is found out after {connect} s");
        let todo = "set timeout.tcp.connectTimeout: 500ms, or a few times a round trip to the hosts";
        out.push(Finding::new("connect-timeout-long", node.as_ref().unwrap_or(policy), text, todo));
    }
    if matches!(policy.text("spec.load_balancer.type"), "" | "LeastRequest") {
        let text = "least request, the default, sends most to a host that refuses, until it is out";
        out.push(Finding::new("least-request", policy, text, "set loadBalancer.type: RoundRobin"));
    }
    if let Some(passive) = policy.at("spec.health_check.passive") {
        let count = passive.value.get("consecutive5XxErrors").and_then(Value::as_f64);
        if count.is_none_or(|count| (1.0..=5.0).contains(&count)) {
            let text = "passive health checks also eject after five errors of requests in a row";
            out.push(Finding::new(
                "native-outlier-detection",
                &passive,
                text,
                "set healthCheck.passive.consecutive5XxErrors: 0",
            ));
        }
    }
}

/// What it says of retries, and how many there may be at a time.
fn retries(policy: &Node<'_>, out: &mut Vec<Finding>) {
    let triggers = policy.items("spec.retry.retry_on.triggers");
    let triggers: Vec<&str> = triggers.iter().filter_map(|trigger| trigger.value.as_str()).collect();
    let conditions = triggers.join(",");
    let codes = policy.at("spec.retry.retry_on.http_status_codes");
    if let Some(retry) =
        policy.at("spec.retry").filter(|_| more_than_unsent(&conditions) || codes.is_some() || triggers.is_empty())
    {
        let text = if triggers.is_empty() && codes.is_none() {
            "retry without retryOn.triggers has Envoy Gateway's own conditions, which Envoy adds to Weir's".to_owned()
        } else {
            let codes = codes.map(|codes| format!("httpStatusCodes {}", codes.value));
            let all: Vec<String> =
                Some(conditions).filter(|names| !names.is_empty()).into_iter().chain(codes).collect();
            format!("retryOn {:?} is added to what Weir asks for, whatever it says", all.join(", "))
        };
        out.push(Finding::new(
            "route-retry-on",
            &retry,
            text,
            "set retryOn.triggers: [connect-failure, refused-stream], and no status codes",
        ));
    }
    if let Some(most) = policy.at("spec.circuit_breaker.max_parallel_retries")
        && most.value.as_f64().is_some_and(|most| most < FEW_RETRIES)
    {
        let text =
            format!("no more than {} at a time may be retried; Envoy refuses more without asking Weir", most.value);
        out.push(Finding::new("max-retries-low", &most, text, "set circuitBreaker.maxParallelRetries: 10000"));
    }
    if let Some(budget) = policy.at("spec.circuit_breaker.retry_budget") {
        let text = "Envoy Gateway's retryBudget binds before Weir's, and says nothing";
        out.push(Finding::new("native-retry-budget", &budget, text, "leave circuitBreaker.retryBudget out"));
    }
}

/// Clusters that policies name, of routes that have no BackendTrafficPolicy of their own, so that the one of their Gateway holds.
fn inheriting(setup: &Setup<'_>) -> Vec<String> {
    let policies = setup.kind("BackendTrafficPolicy");
    let own = |route: &str| {
        let mut targets = policies.iter().filter(|policy| policy.at("spec.merge_type").is_none()).flat_map(targets);
        targets.any(|target| target.text("kind").ends_with("Route") && target.text("name") == route)
    };
    let named = setup.policies().flat_map(|(plugin, _)| patterns(&plugin.raw));
    let routes = named.filter(|pattern| pattern.starts_with("httproute/") || pattern.starts_with("grpcroute/"));
    routes
        .filter(|pattern| !pattern.split('/').nth(2).is_some_and(own))
        .map(|pattern| pattern.replace('*', "0"))
        .collect()
}
