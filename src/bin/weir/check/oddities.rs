//! Combinations that are valid, and hardly what anybody wants.

use std::fmt::Write as _;

use serde_json::Value;
use weir::base::percent::Percent;
use weir::config::{AlreadyRetried, ClusterPolicy, Mode, Policy};

use super::bounds::Around;
use super::explain::patterns;
use super::find::Document;
use super::words::paragraph;

/// Tells them.
pub fn tell(out: &mut String, policy: &Policy, raw: &Value, around: &Around, document: &Document) {
    let mut found: Vec<String> = Vec::new();
    let patterns = patterns(raw);
    let names = patterns.iter().map(|pattern| format!("clusters {pattern:?}: ")).chain([String::new()]);
    let mut told = Vec::new();
    // The top level is the last one, and told first.
    let clusters: Vec<(String, &ClusterPolicy)> = names.zip(policy.clusters()).collect();
    for (name, cluster) in clusters.iter().rev() {
        for text in of_cluster(cluster, policy, around, document) {
            if !told.contains(&text) {
                found.push([name.as_str(), text].concat());
                told.push(text);
            }
        }
    }
    for (position, pattern) in patterns.iter().enumerate() {
        // A pattern taken as a name: whatever matches that matches all names that fit it.
        if let Some(earlier) = patterns.get(policy.index_for(pattern)).filter(|_| policy.index_for(pattern) < position)
        {
            found.push(format!(
                "clusters {pattern:?}: never used, since {earlier:?} stands before it and matches the same"
            ));
        }
    }
    if policy.mode == Mode::Shadow {
        found.push("mode is \"shadow\": nothing of this takes effect".to_owned());
    }
    for name in &document.open_clusters {
        let cluster = policy.for_cluster(name);
        if cluster.circuit_breaker.is_some() || cluster.outlier_detection.is_some() {
            found.push(format!(
                "cluster {name:?}: requests say which host they want, so its hosts have nothing in common, and who asks for \
                 dead ones opens the circuit for all; switch circuitBreaker and outlierDetection off for it, in clusters"
            ));
        }
    }
    for place in document.found.iter().flat_map(|found| &found.nulls) {
        found.push(format!("{place} is null, which kubectl apply drops, so that it stays on: write off"));
    }
    for (place, conditions) in &document.route_policies {
        found.push(format!(
            "{place}: retry_on {conditions:?} is added to what Weir asks for, whatever it says; leave retry_on out"
        ));
    }
    if !found.is_empty() {
        let _ = writeln!(out, "\nWarnings");
        found.iter().for_each(|text| paragraph(out, 2, &format!("- {text}")));
    }
}

fn of_cluster(cluster: &ClusterPolicy, policy: &Policy, around: &Around, document: &Document) -> Vec<&'static str> {
    let mut found = Vec::new();
    let mut when = |odd: bool, text: &'static str| {
        if odd {
            found.push(text);
        }
    };
    if let Some(retry) = &cluster.retry {
        let unsafe_method = |method: &String| matches!(method.as_str(), "POST" | "PATCH" | "CONNECT");
        let broke = retry.budget.is_some_and(|budget| {
            budget.percent == Percent::default() && budget.min_retry_rate.count == 0 && retry.max_retries > 0
        });
        let floorless = retry.budget.is_some_and(|budget| budget.min_retry_rate.count == 0 && !broke);
        when(
            retry.max_retries > 0 && retry.budget.is_none(),
            "budget is off: in an outage every request is sent 1 + maxRetries times",
        );
        when(
            broke,
            "the budget is 0 percent with no floor: nothing is ever retried; maxRetries 0 says so more plainly",
        );
        when(floorless, "minRetryRate 0: a cluster with few requests cannot retry at all");
        when(
            retry.budget.is_some_and(|budget| budget.percent.basis_points() > 5_000),
            "the budget is more than 50 percent: in an outage, the load grows by that much",
        );
        when(
            retry.idempotent_methods.iter().any(unsafe_method),
            "idempotentMethods has POST, PATCH or CONNECT: requests are sent again that may have been processed",
        );
        when(
            retry.status_codes.iter().any(|status| *status < 500),
            "statusCodes has some below 500: what the client did wrong fails again",
        );
        when(
            retry.status_codes.contains(&500) || retry.status_codes.contains(&501),
            "statusCodes has 500 or 501: these mostly fail again, and cost the budget",
        );
        when(
            retry.max_retries > 3,
            "maxRetries is more than 3: what failed so often mostly fails again, and each client waits for it",
        );
        when(
            retry.already_retried == AlreadyRetried::Any,
            "alreadyRetried is \"any\": where several hops retry, attempts multiply",
        );
    } else {
        when(around.route > 0, "retry is off, and the route's own policy retries, without any budget");
    }
    when(
        cluster.outlier_detection.is_some() && policy.steering.is_none() && !document.outlier_detection,
        "steering is off: ejections are told, and nobody acts on them but Envoy's own outlier detection, if it is on",
    );
    when(
        cluster.outlier_detection.is_none() && cluster.circuit_breaker.is_some(),
        "outlierDetection is off, so the circuit breaker cannot tell one dead host from a dead cluster",
    );
    when(
        cluster.circuit_breaker.is_some_and(|breaker| breaker.percent.basis_points() < 5_000),
        "circuitBreaker.percent is less than 50: it opens while most attempts are answered, if no host answered just now",
    );
    found
}
