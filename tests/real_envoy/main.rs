//! Weir in a real Envoy, against upstreams that misbehave on purpose.

#[path = "../support/mod.rs"]
mod support;

fn main() {}
