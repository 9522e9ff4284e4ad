//! `guard` has the last word on a retry, even one that the route's own policy wants.

use super::fake_host::{End, Stream, flag::*};
use super::{Attached, Level, SHADOW, attempts, counts, of, vetoes};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const REFUSED: &str = "delayed connect error: Connection refused";

/// Sends an attempt past `guard`.
fn send(at: &Attached, request: &Stream, number: u32) -> Stream {
    at.host.attempt(at.guard.unwrap(), request, number).begin()
}

/// Ends an attempt without an answer.
fn fail(at: &Attached, request: &Stream, attempt: Stream, number: u32, end: impl FnOnce(End) -> End) {
    attempt.end();
    at.attempt_log(&end(End::of_attempt(request, number)));
}

#[test]
fn an_unsafe_retry_is_stopped() {
    let at = Attached::new(Level::Guard);
    for (flags, cluster) in [(UC, "unsafe reset"), (UT, "unsafe timeout")] {
        let request = at.host.request(at.decide).cluster(cluster).method("POST").begin();
        let first = send(&at, &request, 1);
        fail(&at, &request, first, 1, |end| end.flags(flags));
        at.host.advance(std::time::Duration::from_millis(20));
        let second = send(&at, &request, 2);
        let reply = second.local_reply().expect("a veto");
        assert_eq!((reply.status, reply.grpc_status), (503, 14));
        assert!(reply.body.contains("not retried"), "{}", reply.body);
        fail(&at, &request, second, 2, |end| end);
        request.response(503, []);
        request.end_with(&End::new().code(503));
        at.tick();
        assert_eq!(vetoes(&at.host, cluster), of([("unsafe", 1)]));
        let signal = if flags == UC { "reset" } else { "timeout" };
        assert_eq!(attempts(&at.host, cluster), of([("local", 1), (signal, 1)]), "{cluster}");
    }
}

#[test]
fn a_safe_retry_goes_on() {
    let at = Attached::new(Level::Guard);
    for (method, flags, reason) in [("GET", UC, ""), ("GET", UT, ""), ("POST", UF, REFUSED), ("POST", UF, "")] {
        // In one cluster, so many retries would be in vain.
        let cluster = &format!("safe {method} {flags} {reason}");
        let request = at.host.request(at.decide).cluster(cluster).method(method).begin();
        for number in 1..=3 {
            let attempt = send(&at, &request, number);
            assert!(attempt.continued(), "{method} {flags:#x} {number}");
            fail(&at, &request, attempt, number, |end| end.flags(flags).failure_reason(reason));
        }
        assert_eq!(vetoes(&at.host, cluster), of([]));
    }
}

#[test]
fn a_doubt_is_no_veto() {
    let at = Attached::new(Level::Guard);
    let cluster = "doubt";
    // A refused stream looks like any other reset one until the request ends.
    let request = at.host.request(at.decide).cluster(cluster).method("POST").begin();
    let first = send(&at, &request, 1);
    fail(&at, &request, first, 1, |end| end.flags(UR));
    at.tick();
    assert!(send(&at, &request, 2).continued());
    // Without `watch`, nobody knows how the attempt before ended.
    let without = Attached { watch: None, ..at };
    let request = without.host.request(without.decide).cluster(cluster).method("POST").begin();
    send(&without, &request, 1).end();
    assert!(send(&without, &request, 2).continued());
    assert_eq!(vetoes(&without.host, cluster), of([]));
}

#[test]
fn another_requests_failure_is_not_this_ones() {
    let at = Attached::new(Level::Guard);
    let request = |method| at.host.request(at.decide).cluster("two requests").method(method).begin();
    let (one, other) = (request("POST"), request("POST"));
    let (first_of_one, first_of_other) = (send(&at, &one, 1), send(&at, &other, 1));
    fail(&at, &one, first_of_one, 1, |end| end.flags(UC));
    fail(&at, &other, first_of_other, 1, |end| end.flags(UF).failure_reason(REFUSED));
    assert!(send(&at, &other, 2).continued());
    assert!(!send(&at, &one, 2).continued());
}

#[test]
fn a_pushback_ends_the_retries_with_the_upstreams_own_response() {
    let at = Attached::new(Level::Guard);
    let cluster = "pushback";
    let request = at.host.request(at.decide).cluster(cluster).begin();
    let attempt = send(&at, &request, 1);
    assert!(attempt.response(503, [("retry-after", "1")]));
    assert_eq!(attempt.response_header("x-envoy-ratelimited").as_deref(), Some("true"));
    // No hop above shall retry it either.
    assert!(request.response(503, [("retry-after", "1"), ("x-envoy-ratelimited", "true")]));
    assert_eq!(request.response_header("x-envoy-ratelimited").as_deref(), Some("true"));
    assert_eq!(vetoes(&at.host, cluster), of([("pushback", 1)]));
}

#[test]
fn an_answer_to_an_unsafe_request_is_not_retried_and_its_mark_stays_inside() {
    let at = Attached::new(Level::Guard);
    let request = at.host.request(at.decide).cluster("marked").method("POST").begin();
    let attempt = send(&at, &request, 1);
    assert!(attempt.response(503, []));
    assert_eq!(attempt.response_header("x-envoy-ratelimited").as_deref(), Some("true"));
    assert!(request.response(503, [("x-envoy-ratelimited", "true")]));
    assert_eq!(request.response_header("x-envoy-ratelimited"), None);
}

const MARK: &str = "x-weir-not-sent";
const NOT_SENT: [(&str, &str); 2] =
    [("proxy-status", "sidecar; error=connection_refused"), ("x-envoy-attempt-count", "1")];

#[test]
fn what_a_proxy_could_not_send_is_retried() {
    let at = Attached::new(Level::Guard);
    let cluster = "not sent";
    let request = at.host.request(at.decide).cluster(cluster).method("POST").begin();
    assert_eq!(request.request_header("x-envoy-retriable-header-names").as_deref(), Some(MARK));
    for number in 1..=2 {
        let attempt = send(&at, &request, number);
        assert!(attempt.continued());
        assert!(attempt.response(503, NOT_SENT));
        assert_eq!(attempt.response_header(MARK).as_deref(), Some("true"), "{number}");
        assert_eq!(attempt.response_header("x-envoy-ratelimited"), None);
        attempt.end();
        let [status, count] = NOT_SENT;
        let end = End::of_attempt(&request, number).code(503).header(status.0, status.1).header(count.0, count.1);
        at.attempt_log(&end);
    }
    // The last one is not retried, also by a policy of the route.
    let third = send(&at, &request, 3);
    assert!(third.continued());
    assert!(third.response(503, NOT_SENT));
    assert_eq!(third.response_header(MARK), None);
    assert_eq!(third.response_header("x-envoy-ratelimited").as_deref(), Some("true"));
    // Nor by a hop above: it would be retried once more, as a GET would.
    assert!(request.response(503, [("x-envoy-ratelimited", "true")]));
    assert_eq!(request.response_header("x-envoy-ratelimited").as_deref(), Some("true"));
    // Charged when it was allowed, and once.
    assert_eq!(counts(&at.host, "retries", "verdict", cluster), of([("granted", 2)]));
    assert_eq!(vetoes(&at.host, cluster), of([]));
    at.tick();
    assert_eq!(attempts(&at.host, cluster), of([("refused", 2)]));
}

/// Envoy did not retry it after all: its buffer was too small, say.
#[test]
fn the_mark_for_envoy_stays_inside() {
    let at = Attached::new(Level::Guard);
    let request = at.host.request(at.decide).cluster("mark inside").method("POST").begin();
    let attempt = send(&at, &request, 1);
    assert!(attempt.response(503, NOT_SENT));
    assert!(attempt.response_header(MARK).is_some());
    assert!(request.response(503, [NOT_SENT[0], NOT_SENT[1], (MARK, "true")]));
    assert_eq!(request.response_header(MARK), None);
}

#[test]
fn a_doubt_whether_it_was_sent_is_no_retry() {
    let at = Attached::new(Level::Guard);
    let [refused, once] = NOT_SENT;
    let rows: [&[(&str, &str)]; 8] = [
        &[refused],
        &[once],
        &[refused, ("x-envoy-attempt-count", "2")],
        &[refused, ("x-envoy-attempt-count", "1,1")],
        &[refused, once, ("x-envoy-upstream-service-time", "0")],
        &[("proxy-status", "sidecar; error=destination_unavailable"), once],
        &[("proxy-status", "a; error=connection_refused, b; error=connection_terminated"), once],
        &[(MARK, "true")],
    ];
    for method in ["POST", "PATCH"] {
        for headers in rows {
            let request = at.host.request(at.decide).cluster("doubt whether sent").method(method).begin();
            let attempt = send(&at, &request, 1);
            assert!(attempt.response(503, headers.iter().copied()));
            assert_eq!(attempt.response_header(MARK), None, "{method} {headers:?}");
            assert!(attempt.response_header("x-envoy-ratelimited").is_some(), "{method} {headers:?}");
        }
    }
    // Nor is any other answer, whatever it bears.
    for status in [200, 404] {
        let request = at.host.request(at.decide).cluster("doubt whether sent").method("POST").begin();
        let attempt = send(&at, &request, 1);
        assert!(attempt.response(status, [refused, once, (MARK, "true")]));
        assert_eq!(attempt.response_header(MARK), None, "{status}");
    }
}

#[test]
fn without_guard_no_answer_is_said_to_be_unsent() {
    for level in [Level::Decide, Level::Watch] {
        let at = Attached::new(level);
        let request = at.host.request(at.decide).cluster("unguarded, not sent").method("POST").begin();
        assert_eq!(request.request_header("x-envoy-retriable-header-names"), None, "{level:?}");
    }
}

#[test]
fn a_pushback_that_a_proxy_states_ends_the_retries() {
    let at = Attached::new(Level::Guard);
    let cluster = "proxy's pushback";
    for (error, stopped) in [("connection_limit_reached", true), ("connection_terminated", false)] {
        let request = at.host.request(at.decide).cluster(cluster).begin();
        let attempt = send(&at, &request, 1);
        assert!(attempt.response(503, [("proxy-status", &*format!("sidecar; error={error}"))]));
        assert_eq!(attempt.response_header("x-envoy-ratelimited").is_some(), stopped, "{error}");
    }
    assert_eq!(vetoes(&at.host, cluster), of([("pushback", 1)]));
}

#[test]
fn what_may_be_retried_is_not_marked() {
    let at = Attached::new(Level::Guard);
    for (method, code) in [("GET", 503), ("GET", 502), ("GET", 200), ("POST", 200), ("POST", 302)] {
        let request = at.host.request(at.decide).cluster("not marked").method(method).begin();
        let attempt = send(&at, &request, 1);
        assert!(attempt.response(code, []));
        // What may be removed is not an upstream's to send.
        let set: Vec<_> = attempt.edits().into_iter().filter(|edit| edit.value.is_some()).collect();
        assert_eq!(set, [], "{method} {code}");
    }
}

#[test]
fn the_upstreams_own_mark_stays() {
    let at = Attached::new(Level::Guard);
    let request = at.host.request(at.decide).cluster("own mark").method("POST").begin();
    let attempt = send(&at, &request, 1);
    assert!(attempt.response(503, [("x-envoy-ratelimited", "true")]));
    assert!(request.response(503, [("x-envoy-ratelimited", "true")]));
    assert_eq!(request.response_header("x-envoy-ratelimited").as_deref(), Some("true"));
}

#[test]
fn shadow_counts_vetoes_and_lets_the_retries_go() {
    let at = Attached::with(Level::Guard, SHADOW);
    let cluster = "shadow veto";
    let request = at.host.request(at.decide).cluster(cluster).method("POST").begin();
    let first = send(&at, &request, 1);
    fail(&at, &request, first, 1, |end| end.flags(UC));
    let second = send(&at, &request, 2);
    assert!(second.continued());
    assert_eq!(second.local_reply(), None);
    assert_eq!(vetoes(&at.host, cluster), of([]));
    // How the first attempt ended says nothing of the third.
    fail(&at, &request, second, 2, |end| end.flags(UR));
    at.tick();
    assert!(send(&at, &request, 3).continued());
    assert_eq!(counts(&at.host, "shadow_vetoes", "reason", cluster), of([("unsafe", 1)]));
}

#[test]
fn attempts_of_requests_unknown_to_decide_pass() {
    let at = Attached::new(Level::Guard);
    let request = at.host.request(at.decide).cluster("unknown").method("POST").begin();
    let attempt = send(&at, &request, 1);
    // The request is gone, its attempts are not.
    let log = End::of_attempt(&request, 1).flags(UC);
    let late = at.host.attempt(at.guard.unwrap(), &request, 2);
    request.end_with(&End::new().flags(DC));
    attempt.end();
    at.attempt_log(&log);
    assert!(late.begin().continued());
}

#[test]
fn a_veto_explains_only_the_next_log_entry() {
    let at = Attached::new(Level::Guard);
    let cluster = "veto and another";
    let request = || at.host.request(at.decide).cluster(cluster).method("POST").begin();
    let one = request();
    let first = send(&at, &one, 1);
    fail(&at, &one, first, 1, |end| end.flags(UC));
    // Its log entry does not come: the access log has a filter, say.
    send(&at, &one, 2).end();
    let other = request();
    at.attempt_log(&End::of_attempt(&other, 1).flags(UC));
    assert_eq!(attempts(&at.host, cluster), of([("reset", 2)]));
}

const STATED: &str = r#"{"retry": {"notProcessedHeaders": ["X-Not-Processed", "x-shed"]}}"#;
const NAMES: &str = "x-envoy-retriable-header-names";
const RATE_LIMITED: &str = "x-envoy-ratelimited";

#[test]
fn what_an_upstream_says_it_did_not_process_goes_elsewhere() {
    let at = Attached::with(Level::Guard, STATED);
    for (cluster, method, status) in
        [("shed POST", "POST", 503), ("shed PATCH", "PATCH", 404), ("shed GET", "GET", 500), ("shed PUT", "PUT", 409)]
    {
        let request = at.host.request(at.decide).cluster(cluster).method(method).begin();
        assert_eq!(
            request.request_header(NAMES).as_deref(),
            Some(MARK),
            "Envoy retries what guard marks, and that only"
        );
        for number in 1..=2 {
            let attempt = send(&at, &request, number);
            assert!(attempt.continued());
            assert!(attempt.response(status, [("x-shed", "")]));
            assert_eq!(attempt.response_header(MARK).as_deref(), Some("true"), "{cluster} {number}");
            assert_eq!(attempt.response_header(RATE_LIMITED), None);
            attempt.end();
            at.attempt_log(&End::of_attempt(&request, number).code(status).header("x-shed", ""));
        }
        // The last one is not retried, nor by a hop above.
        let third = send(&at, &request, 3);
        assert!(third.response(status, [("x-not-processed", "1")]));
        assert_eq!(third.response_header(MARK), None);
        assert_eq!(third.response_header(RATE_LIMITED).as_deref(), Some("true"));
        assert!(request.response(status, [("x-not-processed", "1"), (RATE_LIMITED, "true")]));
        assert_eq!(request.response_header(RATE_LIMITED).as_deref(), Some("true"), "{cluster}");
        assert_eq!(counts(&at.host, "retries", "verdict", cluster), of([("granted", 2)]), "{cluster}");
    }
}

#[test]
fn what_is_said_of_no_error_or_by_no_header_of_the_policy_is_nothing() {
    let at = Attached::with(Level::Guard, STATED);
    let refused: [(u32, &[(&str, &str)]); 6] = [
        (200, &[("x-shed", "1")]),
        (304, &[("x-shed", "1")]),
        (503, &[]),
        (503, &[("x-shedding", "1")]),
        // What a hop behind has retried is not retried here.
        (503, &[("x-shed", "1"), (RATE_LIMITED, "true")]),
        // No other host is known to take requests.
        (429, &[("x-shed", "1")]),
    ];
    for (status, headers) in refused {
        let request = at.host.request(at.decide).cluster("not stated").method("POST").begin();
        let attempt = send(&at, &request, 1);
        assert!(attempt.response(status, headers.iter().copied()));
        assert_eq!(attempt.response_header(MARK), None, "{status} {headers:?}");
    }
    let at = Attached::new(Level::Guard);
    let request = at.host.request(at.decide).cluster("stated by default").method("POST").begin();
    let attempt = send(&at, &request, 1);
    assert!(attempt.response(503, [("x-shed", "1")]));
    assert_eq!(attempt.response_header(MARK), None);
}

/// A service that sheds everywhere gets no more requests for it than the budget pays for.
#[test]
fn the_budget_pays_for_what_was_not_processed_by_an_upstreams_word() {
    let retry = r#""budget": {"percent": 0}, "minRetryRate": {"count": 1, "interval": "10s"}, "notProcessedHeaders": ["x-shed"]"#;
    let at = Attached::with(Level::Guard, &format!(r#"{{"retry": {{{retry}}}}}"#));
    let cluster = "stated and poor";
    let mut marked = 0;
    for number in 0..20 {
        // Answers in between: what was never sent would be retried for nothing.
        let request = at.host.request(at.decide).cluster(cluster).method("POST").begin();
        assert!(send(&at, &request, 1).response(200, []));
        request.response(200, []);
        request.end_with(&End::new().code(200));
        let request = at.host.request(at.decide).cluster(cluster).method("POST").begin();
        let attempt = send(&at, &request, 1);
        assert!(attempt.response(503, [("x-shed", "1")]));
        marked += u32::from(attempt.response_header(MARK).is_some());
        let denied = attempt.response_header(RATE_LIMITED).is_some();
        assert_eq!(denied, number > 0, "{number}");
    }
    assert_eq!(marked, 1);
    assert_eq!(counts(&at.host, "retries", "verdict", cluster), of([("denied", 19), ("granted", 1)]));
}

/// There Envoy looks for the headers itself.
#[test]
fn without_guard_envoy_is_told_the_names() {
    for level in [Level::Decide, Level::Watch] {
        let at = Attached::with(level, STATED);
        for method in ["POST", "GET"] {
            let request = at.host.request(at.decide).cluster("unguarded, stated").method(method).begin();
            assert_eq!(request.request_header(NAMES).as_deref(), Some("x-not-processed,x-shed"), "{level:?} {method}");
            let conditions = request.request_header("x-envoy-retry-on").unwrap();
            assert!(conditions.ends_with(",retriable-headers"), "{conditions}");
        }
        // Without a retry that is paid for, Envoy is not to have one.
        let poor = r#"{"retry": {"budget": {"percent": 0}, "minRetryRate": "off", "notProcessedHeaders": ["x-shed"]}}"#;
        let at = Attached::with(level, poor);
        let first = at.host.request(at.decide).cluster("stated, unguarded and poor").method("GET").begin();
        first.response(200, []);
        first.end_with(&End::new().code(200));
        let request = at.host.request(at.decide).cluster("stated, unguarded and poor").method("POST").begin();
        assert_eq!(request.request_header("x-envoy-max-retries").as_deref(), Some("0"), "{level:?}");
        assert_eq!(request.request_header(NAMES), None, "{level:?}");
    }
}
