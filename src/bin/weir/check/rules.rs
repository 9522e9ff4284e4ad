//! The rules of `weir check`: by what they look at.

mod entries;
pub mod envoy;
mod gateway;
mod istio;
pub mod policy;

use super::finding::Finding;
use super::node::Node;
use super::setup::Setup;

/// What there is to say about how Weir is attached, and about what is set up beside it.
pub fn of_setup(setup: &Setup<'_>) -> Vec<Finding> {
    let mut found = Vec::new();
    entries::check(setup, &mut found);
    envoy::check(setup, &mut found);
    istio::check(setup, &mut found);
    gateway::check(setup, &mut found);
    found
}

/// The request headers that choose hosts in a load balancing policy `override_host` below a value, and where they stand.
fn override_headers<'a>(node: &Node<'a>) -> Vec<(Node<'a>, &'a str)> {
    let sources = node.objects().into_iter().flat_map(|object| object.items("override_host_sources"));
    sources
        .filter(|source| !source.text("header").is_empty())
        .map(|source| (source.clone(), source.text("header")))
        .collect()
}

/// Conditions of retries that repeat what was perhaps processed, or what no host failed at.
fn more_than_unsent(conditions: &str) -> bool {
    let unsent = ["connect-failure", "refused-stream"];
    conditions.split(',').map(str::trim).any(|condition| !condition.is_empty() && !unsent.contains(&condition))
}

/// Requests a proxy should be able to repeat at a time, before a limit of Envoy's is in the way of Weir's budget.
const FEW_RETRIES: f64 = 100.0;
/// A connect timeout that is longer is felt.
const LONG_CONNECT: f64 = 1.0;
