//! What routes say of retries: those of a VirtualService, and of an HTTPRoute, of which Istio makes the same.

use super::{clusters, full, is_istio};
use crate::check::finding::Finding;
use crate::check::node::Node;
use crate::check::rules::more_than_unsent;
use crate::check::setup::Setup;

pub(super) fn virtual_service(setup: &Setup<'_>, service: &Node<'_>, out: &mut Vec<Finding>) {
    for route in service.items("spec.http") {
        let destinations = route.items("route");
        let hosts = destinations.iter().map(|to| full(to.text("destination.host"), service.namespace()));
        let Some(host) = hosts.into_iter().find(|host| clusters(setup, host).iter().any(|name| setup.retries(name)))
        else {
            continue;
        };
        let Some(retries) = route.get("retries") else {
            let text = format!("the route to {host:?} has Istio's default retries, which Envoy adds to Weir's");
            let todo = "set retries: { attempts: 2, retryOn: \"connect-failure,refused-stream\" }";
            out.push(Finding::new("default-retries", &route, text, todo));
            continue;
        };
        if let Some(node) = retries.get("retry_ignore_previous_hosts").filter(|node| node.value == false) {
            let text = format!("a retry to {host:?} may meet the very host that just failed");
            out.push(Finding::new(
                "retry-same-host",
                &node,
                text,
                "leave retryIgnorePreviousHosts out, or set it to true",
            ));
        }
        let conditions = retries.text("retry_on");
        if retries.number("attempts") == Some(0.0) {
            let text = format!("attempts: 0 on the route to {host:?}: retries may meet the host that just failed");
            let todo = "set attempts: 2, retryOn: \"connect-failure,refused-stream\"";
            out.push(Finding::new("retries-off", &retries, text, todo));
        } else if conditions.is_empty() {
            let text =
                format!("the route to {host:?} retries on Istio's default conditions, which Envoy adds to Weir's");
            let todo = "set retryOn: \"connect-failure,refused-stream\"";
            out.push(Finding::new("default-retries", &retries, text, todo));
        } else if more_than_unsent(conditions) {
            let node = retries.get("retry_on");
            let text = format!("retryOn {conditions:?} is added to what Weir asks for, whatever it says");
            let todo = "name connect-failure and refused-stream only, in retries.retryOn of the VirtualService";
            out.push(Finding::new("route-retry-on", node.as_ref().unwrap_or(&retries), text, todo));
        }
    }
}

/// A route of the Gateway API, which Istio makes the same of as of a VirtualService.
pub(super) fn http_route(setup: &Setup<'_>, route: &Node<'_>, out: &mut Vec<Finding>) {
    if !setup.policies().any(|(plugin, _)| plugin.root.as_ref().is_some_and(is_istio)) {
        return;
    }
    for rule in route.items("spec.rules") {
        let Some(retry) = rule.get("retry").filter(|retry| retry.get("codes").is_some()) else { continue };
        let host = |backend: &Node<'_>| {
            let namespace = backend.text("namespace");
            full(backend.text("name"), if namespace.is_empty() { route.namespace() } else { namespace })
        };
        let hosts: Vec<String> = rule.items("backend_refs").iter().map(host).collect();
        if let Some(host) = hosts.iter().find(|host| clusters(setup, host).iter().any(|name| setup.retries(name))) {
            let text = format!("the retry of the route to {host:?} names codes, which are added to what Weir asks for");
            let todo = "take retry.codes out of the HTTPRoute, and set retry.statusCodes in Weir's policy";
            out.push(Finding::new("route-retry-on", &retry, text, todo));
        }
    }
}
