//! First attempts that `guard` has nothing to say about: which ones `decide` calls calm, and that all holds where Envoy's matcher
//! keeps these from `guard`.

use std::time::Duration;

use super::fake_host::{End, Stream, flag::*};
use super::{Attached, Level, counts, of};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn arrive(at: &Attached, cluster: &str, method: &str) -> Stream {
    at.host.request(at.decide).cluster(cluster).method(method).begin()
}

/// What the matcher asks for.
fn is_calm(request: &Stream) -> bool {
    request.property("weir_request").is_some_and(|tag| tag.ends_with(b"calm"))
}

/// A first attempt that `guard` does not see ends so.
fn unseen(at: &Attached, request: &Stream, end: impl FnOnce(End) -> End) {
    at.attempt_log(&end(End::of_attempt(request, 1)));
}

/// One request that is answered, so that `watch` is known to see the cluster.
fn calm_down(at: &Attached, cluster: &str) {
    let request = arrive(at, cluster, "GET");
    unseen(at, &request, |end| end.code(200));
    request.response(200, []);
    request.end_with(&End::new().code(200));
}

#[test]
fn a_first_attempt_is_calm_where_nothing_failed_and_it_may_be_repeated() {
    let at = Attached::new(Level::Guard);
    let cluster = "calm";
    assert!(!is_calm(&arrive(&at, cluster, "GET")), "nobody knows yet whether watch sees this cluster");
    calm_down(&at, cluster);
    assert!(is_calm(&arrive(&at, cluster, "GET")));
    // What may not be repeated is guard's to stop, and what its answer says, guard's to read.
    assert!(!is_calm(&arrive(&at, cluster, "POST")));
    // What pushes back once will do so again, and `guard` is to say that another host may be asked.
    for (name, end, seconds) in [
        ("reset", End::new().flags(UC), 1),
        ("refused", End::new().flags(UF).failure_reason("Connection refused"), 1),
        ("pushback", End::new().code(429), 60),
    ] {
        let request = arrive(&at, cluster, "GET");
        assert!(is_calm(&request), "before the {name}");
        at.attempt_log(&end.host("10.0.0.1:80").cluster(cluster));
        assert!(!is_calm(&arrive(&at, cluster, "GET")), "{name}");
        at.host.advance(Duration::from_millis(1_000 * seconds - 100));
        assert!(!is_calm(&arrive(&at, cluster, "GET")), "{name}");
        at.host.advance(Duration::from_millis(200));
        assert!(is_calm(&arrive(&at, cluster, "GET")), "{seconds} s after the {name}");
        assert!(is_calm(&arrive(&at, cluster, "GET")), "{seconds} s after the {name}");
    }
    // A client that leaves is no failure.
    let request = arrive(&at, cluster, "GET");
    let dropped = End::of_attempt(&request, 1);
    request.end_with(&End::new().flags(DC));
    at.attempt_log(&dropped);
    at.tick();
    assert!(is_calm(&arrive(&at, cluster, "GET")));
}

#[test]
fn nothing_is_calm_where_guard_reads_answers_or_nobody_tells_of_failures() {
    let cluster = "never";
    for (config, why) in [
        (r#"{"mode": "shadow"}"#, "shadow mode changes nothing"),
        (r#"{"retry": {"statusCodes": [502]}}"#, "guard tells Envoy which 503 to retry"),
        (r#"{"retry": {"maxRetries": 0}}"#, "nothing is repeated"),
        (r#"{"retry": null}"#, "Weir has no say"),
        (r#"{"retry": {"budget": {"percent": 0}, "minRetryRate": null}}"#, "the budget is empty"),
    ] {
        let at = Attached::with(Level::Guard, config);
        calm_down(&at, cluster);
        assert!(!is_calm(&arrive(&at, cluster, "GET")), "{why}");
    }
    let at = Attached::new(Level::Watch);
    calm_down(&at, cluster);
    assert_eq!(arrive(&at, cluster, "GET").property("weir_request"), None, "there is no guard");
    // Behind an access-log filter, silence says that nothing failed.
    let at = Attached::only_failures(Level::Guard);
    assert!(is_calm(&arrive(&at, cluster, "GET")));
}

#[test]
fn the_budget_is_exact_where_first_attempts_pass_guard_by() {
    let config = r#"{"retry": {"budget": {"percent": 20, "interval": "10s"}, "minRetryRate": null}, "circuitBreaker": null,
        "outlierDetection": null}"#;
    let at = Attached::with(Level::Guard, config);
    let cluster = "exact";
    calm_down(&at, cluster);
    // One of nine and the one before; the budget has something from the fifth on.
    let requests: Vec<Stream> = (0..9).map(|_| arrive(&at, cluster, "GET")).collect();
    assert!(requests.iter().skip(4).all(is_calm));
    requests.iter().for_each(|request| unseen(&at, request, |end| end.flags(UC)));
    let again: Vec<Stream> =
        requests.iter().map(|request| at.host.attempt(at.guard.unwrap(), request, 2).begin()).collect();
    let sent = again.iter().filter(|attempt| attempt.continued()).count();
    assert_eq!(sent, 2, "a fifth of ten requests");
    let told = again.iter().filter(|attempt| attempt.local_reply().is_some()).count();
    assert_eq!(told, 7, "the clients hear of it");
    assert_eq!(counts(&at.host, "retries", "verdict", cluster), of([("denied", 7), ("granted", 2)]));
    for (request, attempt) in requests.into_iter().zip(again) {
        let sent = attempt.continued();
        attempt.end();
        at.attempt_log(&End::of_attempt(&request, 2).code(if sent { 200 } else { 0 }));
        let end = End::new().code(if sent { 200 } else { 503 });
        request.end_with(&end.property("upstream.request_attempt_count", 2));
    }
    assert_eq!(counts(&at.host, "retries", "verdict", cluster), of([("denied", 7), ("granted", 2)]));
}
