//! What clients, upstreams and Envoy put into headers and properties, for one request at all three roles.

use super::choices::Choices;
use super::in_a_vm;
use crate::fake_host::{End, Fault, Host, HostCall, Root};

const NAMES: [&str; 24] = [
    ":method",
    ":path",
    ":authority",
    ":status",
    "x-request-id",
    "x-envoy-attempt-count",
    "x-envoy-internal",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-ratelimited",
    "x-envoy-overloaded",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-retriable-status-codes",
    "x-weir-hosts",
    "idempotency-key",
    "content-type",
    "retry-after",
    "grpc-status",
    "grpc-retry-pushback-ms",
    "proxy-status",
    "x-other",
];

const PROPERTIES: [&str; 12] = [
    "xds.cluster_name",
    "xds.listener_direction",
    "upstream.address",
    "upstream.request_attempt_count",
    "upstream.transport_failure_reason",
    "response.flags",
    "response.code",
    "response.code_details",
    "response.backend_latency",
    "request.duration",
    "weir_request",
    "cluster_name",
];

const ROLES: [&str; 3] = [
    r#"{"retry": {"perTryTimeout": {"adaptive": {"quantile": 0.5}}}}"#,
    r#"{"role": "watch"}"#,
    r#"{"role": "guard"}"#,
];

/// Values of headers, and the encoding in which all headers come at once.
pub fn headers(data: &[u8]) {
    in_a_vm(|| {
        let mut choices = Choices(data);
        let host = Host::new();
        // One input in four is the encoding itself, as a broken host would send it.
        if choices.below(4) == 0 {
            let pairs = Fault::bytes(choices.0);
            host.fault(move |call| (call.call == HostCall::GetHeaderPairs).then(|| pairs.clone()));
        }
        let roots = ROLES.map(|role| host.start(role));
        requests(&host, roots, &mut choices);
        host.no_faults();
        unharmed(&host);
    });
}

/// Values of properties, as a host gives them.
pub fn properties(data: &[u8]) {
    in_a_vm(|| {
        let mut choices = Choices(data);
        let host = Host::new();
        let roots = ROLES.map(|role| host.start(role));
        let mut values: Vec<(&str, Vec<u8>)> = Vec::new();
        while values.len() < 8 && !choices.is_empty() {
            let name = choices.pick(&PROPERTIES);
            values.push((name, choices.bytes().to_vec()));
        }
        host.fault(move |call| {
            let value = values.iter().find(|(name, _)| call.call == HostCall::GetProperty && call.key == *name);
            value.map(|(_, value)| Fault::bytes(value))
        });
        requests(&host, roots, &mut choices);
        host.no_faults();
        unharmed(&host);
    });
}

fn requests(host: &Host, [decide, watch, guard]: [Root; 3], choices: &mut Choices<'_>) {
    for _ in 0..4 {
        let mut request = host.request(decide).cluster("fuzzed").property("upstream.request_attempt_count", 2);
        for _ in 0..choices.below(6) {
            let name = choices.pick(&NAMES);
            request = request.header(name, choices.bytes());
        }
        let request = request.begin();
        assert!(request.continued() || request.local_reply().is_some(), "stopped without a reply");
        let mut answers = Vec::new();
        for _ in 0..choices.below(4) {
            answers.push((choices.pick(&NAMES), String::from_utf8_lossy(choices.bytes()).into_owned()));
        }
        let status = u32::from(choices.byte()) * 3;
        let headers = || answers.iter().map(|(name, value)| (*name, value.as_str()));
        for number in 1..=3 {
            let attempt = host.attempt(guard, &request, number).begin();
            assert!(attempt.continued() || attempt.local_reply().is_some(), "stopped without a reply");
            if choices.below(2) == 0 {
                assert!(attempt.response(status, headers()));
            }
            attempt.end();
            let mut end = End::of_attempt(&request, number).flags(1 << (choices.byte() % 64)).host("10.0.0.1:80");
            if choices.below(2) == 0 {
                end = answers.iter().fold(end.code(status), |end, (name, value)| end.header(name, value));
            }
            host.attempt_log(watch, &end);
        }
        assert!(request.response(status, headers()));
        let end = answers.iter().fold(End::new().code(status), |end, (name, value)| end.trailer(name, value));
        request.end_with(&end.flags(1 << (choices.byte() % 64)).host("10.0.0.1:80"));
        host.tick(decide);
    }
}

/// The next request is treated as if nothing had been.
fn unharmed(host: &Host) {
    let decide = host.start("{}");
    let request = host.request(decide).cluster("after").header("x-weir-hosts", "a").begin();
    assert!(request.continued());
    assert_eq!(request.request_header("x-envoy-max-retries").as_deref(), Some("2"));
    assert_eq!(request.request_header("x-weir-hosts"), None);
}
