//! Names and values made to break lines: of the log, of metrics, of headers.

use super::fake_host::{End, HostCall, flag::*};
use super::{REFUSED, Worker};
use std::time::Duration;

const NASTY: [&str; 9] = [
    "a\nweir: cluster b: host 10.9.9.9:80 ejected for 1 ms (refused, strike 0): 1 of 1 are out",
    "a\r\n[critical] forged",
    "a\0b",
    "a.signal.reset.cluster.other",
    "a}\"} 1\nweir_requests_total 5",
    "\u{202e}\u{1b}[31m",
    "%s%n{}{0}",
    "",
    "\u{fffd}",
];

/// Clusters are named by whoever configures Envoy; even so, a name cannot begin a line of its own.
#[test]
fn a_clusters_name_cannot_forge_a_line_or_a_metric() {
    for name in NASTY {
        let worker = Worker::new("{}");
        for _ in 0..30 {
            for host in ["10.0.0.1:80", "10.0.0.2:80"] {
                worker.go(name, "/", host, true);
            }
            worker.host.advance(Duration::from_millis(100));
            worker.tick();
        }
        worker.go(name, "/", "10.0.0.1:80", false);
        worker.tick();
        for line in worker.host.take_logs() {
            assert!(!line.text.chars().any(char::is_control), "{:?}", line.text);
            assert!(line.text.starts_with("weir"), "{:?}", line.text);
        }
        for (metric, _) in worker.host.metrics() {
            assert!(!metric.chars().any(char::is_control), "{metric:?}");
            // What comes before the cluster is ours; the cluster comes last, so all behind it is its name.
            let own = metric.split_once(".cluster.").map_or(&*metric, |(own, _)| own);
            // The address of a host is Envoy's, and has digits; a version has, too.
            let own = own.split_once(".host.10.0.0.").map_or(own, |(own, _)| own);
            let own = own.strip_prefix(concat!("weir_info.version.", env!("CARGO_PKG_VERSION"))).unwrap_or(own);
            assert!(own.bytes().all(|byte| byte.is_ascii_lowercase() || b"_.".contains(&byte)), "{metric:?}");
        }
    }
}

/// What clients and upstreams say is read, and neither logged nor counted by name.
#[test]
fn no_value_of_a_header_reaches_a_line_or_a_metric() {
    const MARK: &str = "forged";
    for nasty in NASTY {
        let worker = Worker::new("{}");
        let evil = format!("{nasty}{MARK}");
        for _ in 0..20 {
            let names = [
                ":method",
                ":path",
                ":authority",
                "x-request-id",
                "x-envoy-attempt-count",
                "x-envoy-internal",
                "x-envoy-expected-rq-timeout-ms",
                "x-envoy-retry-on",
                "x-envoy-max-retries",
                "idempotency-key",
                "content-type",
                "x-weir-hosts",
                "grpc-timeout",
            ];
            let request = names
                .into_iter()
                .fold(worker.host.request(worker.decide).cluster("evil"), |request, name| request.header(name, &evil))
                .begin();
            assert!(request.continued());
            // What a client may not set is gone or ours.
            for name in ["x-weir-hosts", "x-envoy-retry-on", "x-envoy-max-retries"] {
                assert!(!request.request_header(name).unwrap_or_default().contains(MARK), "{name}");
            }
            let attempt = worker.host.attempt(worker.guard, &request, 1).host("10.0.0.1:80").begin();
            let names = [
                "retry-after",
                "grpc-status",
                "content-type",
                "proxy-status",
                "x-envoy-overloaded",
                "x-envoy-ratelimited",
            ];
            let headers = names.map(|name| (name, evil.as_str()));
            assert!(attempt.response(503, headers));
            attempt.end();
            let end =
                names.into_iter().fold(End::of_attempt(&request, 1).code(503), |end, name| end.header(name, &evil));
            worker.host.attempt_log(worker.watch, &end.flags(UF).failure_reason(&evil).host(&evil));
            assert!(request.response(503, headers));
            request.end_with(&End::new().code(503).flags(UF).failure_reason(REFUSED).details(&evil).host(&evil));
            worker.host.advance(Duration::from_millis(100));
            worker.tick();
        }
        let lines = worker.host.take_logs();
        assert!(lines.iter().all(|line| !line.text.contains(MARK)), "{lines:#?}");
        assert!(worker.host.metrics().keys().all(|name| !name.contains(MARK)), "{:#?}", worker.host.metrics());
        assert!(worker.host.shared_keys().iter().all(|key| !key.contains(MARK)), "{:#?}", worker.host.shared_keys());
    }
}

/// A refused configuration is quoted, on one line, and not at length.
#[test]
fn a_refused_configuration_cannot_forge_a_line() {
    let worker = Worker::new("{}");
    for nasty in NASTY {
        let quoted = serde_json::to_string(&nasty.repeat(2_000)).expect("text is JSON");
        for configuration in [
            format!("{{\"role\": {quoted}}}"),
            format!("{{{quoted}: 1}}"),
            format!("{{\"retry\": {{\"perTryTimeout\": {quoted}}}}}"),
            format!("{{\"retry\": {{{quoted}: 1}}}}"),
            format!("{{\"clusters\": [{{\"match\": {quoted}, \"x\": 1}}]}}"),
            nasty.repeat(2_000),
        ] {
            worker.host.start(&configuration);
            for line in worker.host.take_logs() {
                assert!(!line.text.chars().any(char::is_control), "{:?}", line.text);
                assert!(line.text.len() < 2_000, "{} bytes", line.text.len());
            }
        }
    }
    assert!(worker.host.calls().get(&HostCall::Log).copied().unwrap_or_default() > 20);
}
