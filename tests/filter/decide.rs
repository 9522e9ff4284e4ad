//! What `decide` writes into a request, and what it counts.

use super::fake_host::{Edit, End, HostCall, Request, Stream};
use super::{Attached, Level, SHADOW, of, requests};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const UNPROCESSED: &[&str] = &["connect-failure", "refused-stream"];
const REPEATABLE: &[&str] = &["connect-failure", "refused-stream", "reset", "gateway-error"];
const GRPC: (&str, &str) = ("content-type", "application/grpc");
const KEY: (&str, &str) = ("idempotency-key", "7");

fn conditions(stream: &Stream) -> BTreeSet<String> {
    let header = stream.request_header("x-envoy-retry-on").unwrap_or_default();
    header.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn words(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn begin(at: &Attached, cluster: &str, request: impl FnOnce(Request) -> Request) -> Stream {
    let stream = request(at.host.request(at.decide).cluster(cluster)).begin();
    assert!(stream.continued());
    stream
}

#[test]
fn each_class_gets_its_conditions() {
    let at = Attached::new(Level::Decide);
    let cluster = "classes";
    type Row = (&'static str, &'static [(&'static str, &'static str)], &'static [&'static str]);
    let table: &[Row] = &[
        ("GET", &[], REPEATABLE),
        ("HEAD", &[], REPEATABLE),
        ("OPTIONS", &[], REPEATABLE),
        ("TRACE", &[], REPEATABLE),
        ("QUERY", &[], REPEATABLE),
        ("PUT", &[], REPEATABLE),
        ("DELETE", &[], REPEATABLE),
        ("POST", &[], UNPROCESSED),
        ("PATCH", &[], UNPROCESSED),
        ("CONNECT", &[], UNPROCESSED),
        ("get", &[], UNPROCESSED),
        ("POST", &[KEY], REPEATABLE),
        ("POST", &[("idempotency-key", "")], UNPROCESSED),
        ("POST", &[("x-idempotency-key", "7")], UNPROCESSED),
        ("POST", &[GRPC], UNPROCESSED),
        ("POST", &[("content-type", "application/grpc-web")], UNPROCESSED),
        ("POST", &[GRPC, KEY], &["connect-failure", "refused-stream", "reset"]),
    ];
    for (method, headers, expected) in table {
        let stream = begin(&at, cluster, |request| request.method(method).headers(headers.iter().copied()));
        assert_eq!(conditions(&stream), words(expected), "{method} {headers:?}");
        assert_eq!(stream.request_header("x-envoy-max-retries").as_deref(), Some("2"), "{method} {headers:?}");
        assert_eq!(stream.request_header("x-envoy-retry-grpc-on"), None, "{method} {headers:?}");
        // It gives back its permission to be retried.
        stream.end_with(&End::new().code(200));
    }
    assert_eq!(requests(&at.host, cluster), of([("grpc", 2), ("idempotent", 8), ("unsafe", 7)]));
}

#[test]
fn somebodys_retry_is_retried_only_if_unprocessed() {
    let at = Attached::new(Level::Decide);
    for (count, expected) in [("1", REPEATABLE), ("2", UNPROCESSED), ("3", UNPROCESSED)] {
        let stream = begin(&at, "again", |request| request.header("x-envoy-attempt-count", count));
        assert_eq!(conditions(&stream), words(expected), "attempt {count}");
    }
}

#[test]
fn the_configuration_is_obeyed() {
    let config = r#"{
        "retry": {
            "maxRetries": 5, "statusCodes": [500, 503], "minRetryRate": {"count": 100, "interval": "1s"}, "idempotentMethods": ["GET", "QUERY"],
            "idempotencyKeyHeaders": ["X-Key"], "perTryTimeout": "1s500ms", "grpcStatusCodes": ["unavailable"],
            "alreadyRetried": "any"
        },
        "clusters": [
            { "match": "configured-off*", "retry": null },
            { "match": "configured-zero", "retry": { "maxRetries": 0 } },
            { "match": "configured-*", "retry": { "maxRetries": 1, "statusCodes": [] } }
        ]
    }"#;
    let at = Attached::with(Level::Decide, config);

    let get = begin(&at, "other", |request| request.header("x-envoy-attempt-count", "2"));
    assert!(conditions(&get).is_superset(&words(&["reset", "retriable-status-codes"])), "{:?}", conditions(&get));
    assert_eq!(get.request_header("x-envoy-retriable-status-codes").as_deref(), Some("500,503"));
    assert_eq!(get.request_header("x-envoy-max-retries").as_deref(), Some("5"));
    assert_eq!(get.request_header("x-envoy-upstream-rq-per-try-timeout-ms").as_deref(), Some("1500"));

    let put = begin(&at, "other", |request| request.method("PUT"));
    assert_eq!(conditions(&put), words(UNPROCESSED));
    assert_eq!(put.request_header("x-envoy-upstream-rq-per-try-timeout-ms"), None, "not retried on a timeout");
    let post = begin(&at, "other", |request| request.method("POST").header("x-key", "7"));
    assert!(conditions(&post).contains("reset"));
    let grpc = begin(&at, "other", |request| request.method("POST").headers([GRPC]));
    assert_eq!(conditions(&grpc), words(UNPROCESSED));
    assert_eq!(grpc.request_header("x-envoy-retry-grpc-on").as_deref(), Some("unavailable"));

    let asked = [("x-envoy-internal", "true"), ("x-envoy-retry-grpc-on", "internal")];
    let first_match = begin(&at, "configured-off-1", |request| request.headers(asked));
    assert_eq!(first_match.edits(), [], "a cluster without retries is left to its route");
    let zero = begin(&at, "configured-zero", |request| request);
    assert_eq!(zero.request_header("x-envoy-max-retries").as_deref(), Some("0"));
    let one = begin(&at, "configured-1", |request| request);
    assert_eq!(one.request_header("x-envoy-max-retries").as_deref(), Some("1"));
    assert!(!conditions(&one).contains("gateway-error") && !conditions(&one).contains("retriable-status-codes"));
    assert_eq!(requests(&at.host, "configured-off-1"), of([("off", 1)]));
}

#[test]
fn a_route_has_its_own_retries() {
    let config = r#"{
        "retry": { "perTryTimeout": "1s", "minRetryRate": { "count": 100, "interval": "1s" } },
        "clusters": [
            { "match": "by-route*", "route": "checkout-*",
              "retry": { "idempotentMethods": ["GET", "POST"], "maxRetries": 1, "idempotencyKeyHeaders": ["x-key"] } },
            { "match": "by-route*", "route": "list", "retry": { "maxRetries": 0 } },
            { "match": "by-route*", "route": "off", "retry": "off" },
            { "match": "by-route-off", "retry": "off" }
        ]
    }"#;
    let at = Attached::with(Level::Decide, config);
    let begin = |cluster: &str, route: &str, method: &str| {
        begin(&at, cluster, |request| request.method(method).property("xds.route_name", route))
    };
    let most = |stream: &Stream| stream.request_header("x-envoy-max-retries");
    for cluster in ["by-route", "by-route-off"] {
        let post = begin(cluster, "checkout-7", "POST");
        assert_eq!((conditions(&post), most(&post).as_deref()), (words(REPEATABLE), Some("1")), "{cluster}");
        assert_eq!(post.request_header("x-envoy-upstream-rq-per-try-timeout-ms").as_deref(), Some("1000"));
        let list = begin(cluster, "list", "GET");
        assert_eq!(most(&list).as_deref(), Some("0"), "{cluster}");
        assert_eq!(begin(cluster, "off", "GET").edits(), [], "{cluster}");
    }
    for route in ["", "checkout", "list-2"] {
        let post = begin("by-route", route, "POST");
        assert_eq!((conditions(&post), most(&post).as_deref()), (words(UNPROCESSED), Some("2")), "{route:?}");
        assert_eq!(begin("by-route-off", route, "GET").edits(), [], "{route:?}");
    }
    // A route's own idea of a key, and a route that Envoy does not name.
    let keyed = begin("by-route", "checkout-7", "PATCH");
    assert_eq!(conditions(&keyed), words(UNPROCESSED));
    let keyed = |key| at.host.request(at.decide).cluster("by-route").method("PATCH").header(key, "7");
    let by_route = keyed("x-key").property("xds.route_name", "checkout-8").begin();
    assert_eq!(conditions(&by_route), words(REPEATABLE));
    assert_eq!(conditions(&keyed("x-key").begin()), words(UNPROCESSED));
    assert_eq!(conditions(&keyed("idempotency-key").begin()), words(REPEATABLE));
}

#[test]
fn the_route_is_asked_for_only_where_it_matters() {
    let config = r#"{"clusters": [{"match": "asked", "route": "a", "retry": "off"}, {"match": "plain", "retry": {}}]}"#;
    let at = Attached::with(Level::Decide, config);
    let asked = Rc::new(Cell::new(0));
    let count = Rc::clone(&asked);
    at.host.fault(move |call| {
        count.set(count.get() + u32::from(call.call == HostCall::GetProperty && call.key == "xds.route_name"));
        None
    });
    for (cluster, times) in [("plain", 0), ("unknown", 0), ("asked", 1)] {
        begin(&at, cluster, |request| request.property("xds.route_name", "a")).end_with(&End::new().code(200));
        assert_eq!(asked.get(), times, "{cluster}");
    }
    at.host.no_faults();
}

/// A request goes by the policy of its route to its end, in `guard` as well; and by its cluster's, once another is in force.
#[test]
fn a_requests_route_decides_to_its_end() {
    let of_500 = |of: &str| format!(r#"{{"clusters": [{{{of}, "retry": {{"statusCodes": [500]}}}}]}}"#);
    let at = Attached::with(Level::Guard, &of_500(r#""match": "to-the-end", "route": "checkout""#));
    let guard = at.guard.unwrap();
    let begin = |route| at.host.request(at.decide).cluster("to-the-end").property("xds.route_name", route).begin();
    // What is not to be retried is marked.
    let is_retried = |request: &Stream| {
        let attempt = at.host.attempt(guard, request, 1).begin();
        assert!(attempt.response(500, []));
        let marked = attempt.response_header("x-envoy-ratelimited").is_some();
        attempt.end();
        at.attempt_log(&End::of_attempt(request, 1).code(500));
        !marked
    };
    assert!(is_retried(&begin("checkout")));
    assert!(!is_retried(&begin("list")));
    let under_way: Vec<Stream> = (0..2).map(|_| begin("checkout")).collect();
    // Policies in which such an entry is missing, or another is in its place.
    for (config, request) in ["{}".to_owned(), of_500(r#""match": "other""#)].iter().zip(under_way) {
        let newer = at.host.start(config);
        assert!(!is_retried(&request), "{config}");
        at.host.stop(newer);
    }
}

#[test]
fn clients_do_not_steer_and_do_not_ask_for_retries() {
    let at = Attached::new(Level::Decide);
    let asked = [
        ("x-weir-hosts", "10.0.0.1:80"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-max-retries", "100"),
        ("x-envoy-retry-grpc-on", "internal"),
        ("x-envoy-retriable-status-codes", "404"),
        ("x-envoy-retriable-header-names", "x-again"),
        ("x-envoy-hedge-on-per-try-timeout", "true"),
    ];
    // Envoy lets such headers pass only from clients that it trusts, and marks these.
    let request = |request: Request| request.method("POST").headers(asked).header("x-envoy-internal", "true");
    let stream = begin(&at, "asked", request);
    assert_eq!(conditions(&stream), words(UNPROCESSED));
    assert_eq!(stream.request_header("x-envoy-max-retries").as_deref(), Some("2"));
    for name in [
        "x-weir-hosts",
        "x-envoy-retry-grpc-on",
        "x-envoy-retriable-status-codes",
        "x-envoy-retriable-header-names",
        "x-envoy-hedge-on-per-try-timeout",
    ] {
        assert_eq!(stream.request_header(name), None, "{name}");
    }
    // The steering header passes Envoy from anybody.
    let stream = begin(&at, "asked", |request| request.add_header("x-weir-hosts", "a").add_header("x-weir-hosts", "b"));
    assert_eq!(stream.request_header("x-weir-hosts"), None);
}

#[test]
#[cfg_attr(
    target_arch = "wasm32",
    ignore = "once a request asked for it, responses lose x-weir-not-sent, and in Node all tests share one VM"
)]
fn shadow_writes_nothing_and_counts_everything() {
    let at = Attached::with(Level::Guard, SHADOW);
    let cluster = "shadow";
    let asked = [("x-weir-hosts", "10.0.0.1:80"), ("x-envoy-retry-grpc-on", "internal"), ("x-envoy-internal", "true")];
    for method in ["GET", "POST"] {
        let stream = begin(&at, cluster, |request| request.method(method).headers(asked));
        let attempt = at.host.attempt(at.guard.unwrap(), &stream, 1).begin();
        assert!(attempt.continued());
        assert!(attempt.response(503, [("retry-after", "1")]));
        assert!(stream.response(503, [("retry-after", "1")]));
        // But for what would steer a cluster that obeys: it is not for clients to set, whatever the mode.
        let removed = Edit { map: super::fake_host::Map::Request, name: "x-weir-hosts".to_owned(), value: None };
        assert_eq!((stream.edits(), attempt.edits()), (vec![removed], vec![]), "{method}");
    }
    assert_eq!(requests(&at.host, cluster), of([("idempotent", 1), ("unsafe", 1)]));
}

#[test]
fn what_envoy_answers_itself_is_left_alone() {
    let at = Attached::new(Level::Decide);
    let stream = at.host.request(at.decide).header("x-weir-hosts", "a").begin();
    assert!(stream.continued());
    let removed = Edit { map: super::fake_host::Map::Request, name: "x-weir-hosts".to_owned(), value: None };
    assert_eq!(stream.edits(), [removed]);
}

#[test]
fn a_cluster_that_envoy_does_not_know_is_left_alone() {
    let at = Attached::new(Level::Decide);
    let routed = || at.host.request(at.decide).property("cluster_name", "heard of").begin();
    assert_eq!(routed().edits(), [], "the route alone has heard of it");
    assert!(begin(&at, "heard of", |request| request).request_header("x-envoy-retry-on").is_some());
    assert_eq!(routed().edits(), [], "it was there a moment ago");
    assert_eq!(requests(&at.host, "heard of").values().sum::<u64>(), 1);
}

#[test]
fn a_request_costs_few_host_calls() {
    let at = Attached::new(Level::Guard);
    begin(&at, "cost", |request| request);
    let before = at.host.calls();
    begin(&at, "cost", |request| request);
    let spent = |call| at.host.calls().get(&call).unwrap_or(&0) - before.get(&call).unwrap_or(&0);
    let returning = [HostCall::GetProperty, HostCall::GetHeader, HostCall::GetHeaderPairs, HostCall::GetSharedData];
    assert!(returning.into_iter().map(spent).sum::<u64>() <= 2, "values from the host cost the most");
    assert!(HostCall::ALL.into_iter().map(spent).sum::<u64>() <= 7);
}

#[test]
#[cfg_attr(
    target_arch = "wasm32",
    ignore = "durations are those of watch, once there is one, and in Node all tests share one VM"
)]
fn an_adaptive_timeout_follows_what_attempts_take() {
    let retry =
        r#""retry": {"perTryTimeout": {"adaptive": {"quantile": 0.9, "factor": 3, "min": "10ms", "max": "1s"}}}"#;
    for level in [Level::Decide, Level::Watch] {
        let at = Attached::with(level, &format!("{{{retry}}}"));
        let cluster = format!("adaptive {level:?}");
        let timeout = |method| {
            let stream = begin(&at, &cluster, |request| request.method(method));
            stream.request_header("x-envoy-upstream-rq-per-try-timeout-ms").map(|ms| ms.parse::<u32>().unwrap())
        };
        assert_eq!(timeout("GET"), None, "nothing is known yet");
        for _ in 0..200 {
            at.host.advance(Duration::from_millis(5));
            let stream = begin(&at, &cluster, |request| request);
            let took = |end: End| end.code(200).property("response.backend_latency", Duration::from_millis(20));
            stream.response(200, []);
            at.attempt_log(&took(End::of_attempt(&stream, 1)));
            stream.end_with(&took(End::new().details("via_upstream")));
        }
        assert!(timeout("GET").is_some_and(|ms| (60..=64).contains(&ms)), "{level:?}: {:?}", timeout("GET"));
        assert_eq!(timeout("POST"), None, "{level:?}: not retried on a timeout");
        let shadow = at.host.start(&format!(r#"{{"mode": "shadow", {retry}}}"#));
        assert_eq!(at.host.request(shadow).cluster(&cluster).begin().edits(), [], "{level:?}");
    }
}
