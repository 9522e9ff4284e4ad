//! Traffic, clocks and neighbours that mean harm, or look as if they did, at all three roles: nothing grows without bound, no
//! log line or metric is forged, nothing is stopped that would have gone on without Weir. What a real Envoy makes of such
//! clients and upstreams is in `tests/real_envoy/hostile`.
#![cfg(not(target_arch = "wasm32"))]

mod clock;
#[path = "../fake_host/mod.rs"]
mod fake_host;
mod flood;
mod growth;
mod names;
mod strangers;

use fake_host::{End, Host, Root, Stream, flag::*};

/// Why a connection was refused, in Envoy's words.
const REFUSED: &str = "delayed connect error: Connection refused";

/// A worker with all three roles.
struct Worker {
    host: Host,
    decide: Root,
    watch: Root,
    guard: Root,
}

impl Worker {
    fn new(policy: &str) -> Self {
        let host = Host::new();
        let decide = host.start(policy);
        let [watch, guard] = [r#"{"role": "watch"}"#, r#"{"role": "guard"}"#].map(|role| host.start(role));
        Self { host, decide, watch, guard }
    }

    fn begin(&self, cluster: &str, method: &str, path: &str) -> Stream {
        self.host.request(self.decide).cluster(cluster).method(method).header(":path", path).begin()
    }

    /// A request of one attempt on that host, from its first callback to its last: answered with 200, or refused.
    fn go(&self, cluster: &str, path: &str, host: &str, answered: bool) {
        let request = self.begin(cluster, "GET", path);
        assert!(request.continued(), "a request was stopped");
        self.attempt(&request, host, answered);
        let end = End::new().host(host).property("upstream.request_attempt_count", 1);
        if answered {
            assert!(request.response(200, []));
            request.end_with(&end.code(200).details("via_upstream"));
        } else {
            assert!(request.response(503, []));
            request.end_with(
                &end.code(503).flags(UF).details("upstream_reset_before_response_started{connection_failure}"),
            );
        }
    }

    /// A first attempt that is answered, or refused.
    fn attempt(&self, request: &Stream, host: &str, answered: bool) {
        let end = End::of_attempt(request, 1).host(host);
        let end = if answered { end.code(200) } else { end.flags(UF).failure_reason(REFUSED) };
        self.attempt_that(request, host, answered, &end);
    }

    /// A first attempt that ends so.
    fn attempt_that(&self, request: &Stream, host: &str, answered: bool, end: &End) {
        let attempt = self.host.attempt(self.guard, request, 1).host(host).begin();
        assert!(attempt.continued(), "a first attempt was stopped");
        if answered {
            assert!(attempt.response(200, []));
        }
        attempt.end();
        self.host.attempt_log(self.watch, end);
    }

    fn tick(&self) {
        [self.decide, self.watch, self.guard].into_iter().for_each(|root| self.host.tick(root));
    }
}
