//! Where `guard` stands behind a matcher, so that calm first attempts pass it by.

use weir::config::Role;

use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::setup::Setup;

/// The filter state in which `decide` says which request it is, and whether its first attempt is calm.
const TAG: &str = "wasm.weir_request";

/// `guard` behind a matcher, so that calm first attempts pass it by: what the rest of the configuration has to say then.
pub(super) fn behind_matcher(setup: &Setup<'_>, objects: &[Node<'_>], out: &mut Vec<Finding>) {
    let is_around = |object: &Node<'_>| setup.of_role(Role::Guard).any(|guard| guard.is_below(object));
    let mut matched =
        objects.iter().filter(|object| object.get("xds_matcher").is_some() && is_around(object)).peekable();
    let Some(first) = matched.peek().copied() else { return };
    for matcher in matched {
        let knows = matcher.get("xds_matcher").is_some_and(|tree| tree.mentions(TAG));
        if !knows {
            let text = "the matcher keeps attempts from guard that decide did not call calm";
            let todo = format!("match the filter state {TAG} with the suffix calm, beside x-envoy-attempt-count");
            out.push(Finding::new("guard-passed-by", matcher, text, todo));
        }
    }
    for host in objects.iter().filter(|object| object.get("domains").is_some() && object.get("routes").is_some()) {
        if host.get("include_request_attempt_count").is_none_or(|flag| flag.value != true) {
            let text = format!("virtual host {:?} does not tell which attempt it is", host.text("name"));
            let todo = "set include_request_attempt_count: true";
            out.push(Finding::new("attempt-count-missing", host, text, todo));
        }
    }
    for router in objects.iter().filter(|object| object.kind() == "Router") {
        if let Some(flag) = router.get("suppress_envoy_headers").filter(|flag| flag.value == true) {
            let text = "suppress_envoy_headers takes x-envoy-attempt-count away";
            out.push(Finding::new("attempt-count-missing", &flag, text, "leave suppress_envoy_headers out"));
        }
    }
    for route in objects.iter().filter(|object| object.get("hedge_policy").is_some()) {
        let text = "requests are hedged by a hedge_policy, and guard does not see their first attempts";
        let todo = "leave hedge_policy out, or attach guard without a matcher";
        out.push(Finding::new("hedges-unseen", route, text, todo));
    }
    let marks = |object: &&Node<'_>| {
        object.get("xds_matcher").is_some() && !is_around(object) && object.mentions("x-envoy-ratelimited")
    };
    if !objects.iter().any(|object| marks(&object)) {
        let text = "nothing ends the retries where a host pushes back on a calm first attempt";
        let todo = "add the filter weir.pushback of envoy/calm.yaml behind guard";
        out.push(Finding::new("pushback-unseen", first, text, todo));
    }
}

/// Whether each attempt passes `guard`, so that it takes the steering header away.
pub(super) fn sees_all(setup: &Setup<'_>, objects: &[Node<'_>]) -> bool {
    setup
        .of_role(Role::Guard)
        .any(|guard| !objects.iter().any(|object| object.get("xds_matcher").is_some() && guard.is_below(object)))
}
