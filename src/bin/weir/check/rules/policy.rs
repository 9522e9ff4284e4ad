//! Combinations of settings that are valid, and hardly what anybody wants.

use weir::base::percent::Percent;
use weir::config::{AlreadyRetried, ClusterPolicy, Mode, Pattern, Policy, RetryPolicy};

use super::super::bounds::Around;
use super::super::finding::Finding;
use super::super::node::Node;
use super::super::setup::Plugin;

/// A combination of settings that a rule looks for.
struct Odd {
    rule: &'static str,
    /// Whether the policy has it.
    found: bool,
    text: &'static str,
    /// What to do about it.
    todo: &'static str,
}

/// `clusters "orders" with route "checkout-*"`.
fn named(pattern: &Pattern) -> String {
    let route = pattern.route.as_ref().map_or_else(String::new, |route| format!(" with route {:?}", route.as_str()));
    format!("clusters {:?}{route}", pattern.cluster.as_str())
}

/// Whether all that `later` is for goes by `earlier`. A pattern is taken as a name: whatever matches that matches all names that fit it.
fn hides(earlier: &Pattern, later: &Pattern) -> bool {
    let routes = match (&earlier.route, &later.route) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(earlier), Some(later)) => earlier.matches(later.as_str()),
    };
    routes && earlier.cluster.matches(later.cluster.as_str())
}

/// Tells it. `native`: Envoy's own outlier detection is set up somewhere.
pub fn check(plugin: &Plugin<'_>, policy: &Policy, around: &Around, native: bool, out: &mut Vec<Finding>) {
    let node = Node { file: plugin.file, place: plugin.place.clone(), value: &serde_json::Value::Null };
    let names = policy.patterns().iter().map(|pattern| format!("{}: ", named(pattern))).chain([String::new()]);
    let mut told: Vec<&str> = Vec::new();
    // The top level is the last one, and told first.
    let clusters: Vec<(String, &ClusterPolicy)> = names.zip(policy.clusters()).collect();
    for (name, cluster) in clusters.iter().rev() {
        for odd in of_cluster(cluster, policy, around, native) {
            if !told.contains(&odd.rule) {
                out.push(Finding::new(odd.rule, &node, [name.as_str(), odd.text].concat(), odd.todo));
                told.push(odd.rule);
            }
        }
    }
    for (position, pattern) in policy.patterns().iter().enumerate() {
        if let Some(earlier) = policy.patterns().iter().take(position).find(|earlier| hides(earlier, pattern)) {
            let before = named(earlier);
            let before = before.trim_start_matches("clusters ");
            let text = format!("{}: never used, since {before} stands before it and matches the same", named(pattern));
            out.push(Finding::new("override-unused", &node, text, "put the narrower pattern first"));
        }
    }
    if policy.mode == Mode::Shadow {
        let text = "mode is \"shadow\": nothing of this takes effect";
        out.push(Finding::new("shadow-mode", &node, text, "write \"enforce\" when its counters say what you want"));
    }
    for name in &plugin.file.document.open_clusters {
        let cluster = policy.for_cluster(name);
        if cluster.circuit_breaker.is_some() || cluster.outlier_detection.is_some() {
            let text = format!(
                "cluster {name:?}: requests say which host they want, so its hosts have nothing in common, and who asks for \
                 dead ones opens the circuit for all"
            );
            let todo = "switch circuitBreaker and outlierDetection off for it, in clusters";
            out.push(Finding::new("requests-choose-hosts", &node, text, todo));
        }
    }
    for name in &plugin.file.document.hashed_clusters {
        let cluster = policy.for_cluster(name);
        if cluster.steered && cluster.outlier_detection.is_some() && policy.steering.is_some() {
            let text = format!(
                "cluster {name:?}: it spreads requests by a hash, and while a host is out, steering moves whoever is on \
                 another one, too"
            );
            let todo = "switch steering off for it, in clusters: then only those move whose host is out";
            out.push(Finding::new("steering-moves-users", &node, text, todo));
        }
    }
}

/// Nulls that Kubernetes does not keep.
pub fn nulls(plugin: &Plugin<'_>, out: &mut Vec<Finding>) {
    let found = plugin.file.document.found.iter().filter(|found| found.place == plugin.place);
    for place in found.flat_map(|found| &found.nulls) {
        let node = Node { file: plugin.file, place: place.clone(), value: &serde_json::Value::Null };
        let text = format!("{place} is null, which kubectl apply drops, so that it stays on");
        out.push(Finding::new("null-is-dropped", &node, text, "write \"off\""));
    }
}

/// Returns what is odd about the settings for one cluster, in the order in which it is told.
fn of_cluster(cluster: &ClusterPolicy, policy: &Policy, around: &Around, native: bool) -> Vec<Odd> {
    let mut odd = Vec::new();
    match &cluster.retry {
        Some(retry) => {
            odd.extend(of_budget(retry));
            odd.extend(of_retries(retry));
        }
        None => odd.push(of_route(around)),
    }
    odd.extend(of_hosts(cluster, policy, native));
    odd.retain(|odd| odd.found);
    odd
}

/// Looks at the budget, which limits the load that retries add.
fn of_budget(retry: &RetryPolicy) -> [Odd; 4] {
    let retries = retry.max_retries > 0;
    let floorless = retry.budget.filter(|budget| budget.min_retry_rate.count == 0);
    let empty = retries && floorless.is_some_and(|budget| budget.percent == Percent::default());
    [
        Odd {
            rule: "budget-off",
            found: retries && retry.budget.is_none(),
            text: "budget is off: in an outage every request is sent 1 + maxRetries times",
            todo: "leave retry.budget out: 20 percent is the default",
        },
        Odd {
            rule: "budget-empty",
            found: empty,
            text: "the budget is 0 percent with no floor: nothing is ever retried",
            todo: "set maxRetries to 0, which says so more plainly",
        },
        Odd {
            rule: "budget-no-floor",
            found: floorless.is_some() && !empty,
            text: "minRetryRate 0: a cluster with few requests cannot retry at all",
            todo: "leave minRetryRate out",
        },
        Odd {
            rule: "budget-large",
            found: retry.budget.is_some_and(|budget| budget.percent.basis_points() > 5_000),
            text: "the budget is more than 50 percent: in an outage, the load grows by that much",
            todo: "lower retry.budget.percent",
        },
    ]
}

/// Looks at what is retried, and how often.
fn of_retries(retry: &RetryPolicy) -> [Odd; 5] {
    let unsafe_method = |method: &String| matches!(method.as_str(), "POST" | "PATCH" | "CONNECT");
    [
        Odd {
            rule: "unsafe-methods",
            found: retry.idempotent_methods.iter().any(unsafe_method),
            text: "idempotentMethods has POST, PATCH or CONNECT: requests are sent again that may have been processed",
            todo: "have clients send an idempotency-key, and leave these methods out",
        },
        Odd {
            rule: "client-errors-retried",
            found: retry.status_codes.iter().any(|status| *status < 500),
            text: "statusCodes has some below 500: what the client did wrong fails again",
            todo: "leave those below 500 out of statusCodes",
        },
        Odd {
            rule: "server-errors-retried",
            found: retry.status_codes.contains(&500) || retry.status_codes.contains(&501),
            text: "statusCodes has 500 or 501: these mostly fail again, and cost the budget",
            todo: "leave them out of statusCodes",
        },
        Odd {
            rule: "many-retries",
            found: retry.max_retries > 3,
            text: "maxRetries is more than 3: what failed so often mostly fails again, and each client waits for it",
            todo: "set maxRetries to 2",
        },
        Odd {
            rule: "retries-multiply",
            found: retry.already_retried == AlreadyRetried::Any,
            text: "alreadyRetried is \"any\": where several hops retry, attempts multiply",
            todo: "leave alreadyRetried at \"unprocessed\"",
        },
    ]
}

/// Looks at the route's own retries where Weir's are off.
fn of_route(around: &Around) -> Odd {
    Odd {
        rule: "retries-without-budget",
        found: around.route > 0,
        text: "retry is off, and the route's own policy retries, without any budget",
        todo: "take the route's retry policy out, or leave retry on",
    }
}

/// Looks at what is done about dead hosts and a dead cluster.
fn of_hosts(cluster: &ClusterPolicy, policy: &Policy, native: bool) -> [Odd; 3] {
    [
        Odd {
            rule: "nobody-steers",
            found: cluster.outlier_detection.is_some() && policy.steering.is_none() && !native,
            text: "steering is off: ejections are told, and nobody acts on them but Envoy's own outlier detection, if it is on",
            todo: "set up Envoy's outlier detection for the cluster, or steering",
        },
        Odd {
            rule: "breaker-without-outlier-detection",
            found: cluster.outlier_detection.is_none() && cluster.circuit_breaker.is_some(),
            text: "outlierDetection is off, so the circuit breaker cannot tell one dead host from a dead cluster",
            todo: "switch circuitBreaker off as well, or outlierDetection on",
        },
        Odd {
            rule: "breaker-percent-low",
            found: cluster.circuit_breaker.is_some_and(|breaker| breaker.percent.basis_points() < 5_000),
            text: "circuitBreaker.percent is less than 50: it opens while most attempts are answered, if no host answered just now",
            todo: "leave circuitBreaker.percent at its default",
        },
    ]
}
