//! Ordinary situations in which Weir must not be in the way: what it does to a service that is well, or that Envoy alone would carry.

mod busy;
mod halves;
mod hangs;
mod hashed;
mod left_out;
mod outages;
mod rate;
mod streams;

use crate::alone::Test;

pub fn all() -> Vec<Test> {
    [halves::TESTS, hashed::TESTS, streams::TESTS].concat()
}

/// Those that are about time.
pub fn timed() -> Vec<Test> {
    hangs::TIMED.to_vec()
}

/// Those that are about time and mostly sleep, with the percentage of a core that one of them takes.
pub fn paced() -> Vec<(usize, &'static [Test])> {
    vec![(13, outages::PACED), (23, busy::TESTS), (25, left_out::TESTS)]
}

/// A route's retry policy that says where retries go, and nothing of what is retried: as docs/install-envoy.md advises it.
pub fn previous_hosts() -> serde_json::Value {
    serde_json::json!({
        "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        }}],
        "host_selection_retry_max_attempts": 5,
        "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.1s"},
    })
}
