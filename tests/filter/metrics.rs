//! What is counted beside what other tests count on their way: retries that helped, what the budget has left, and the names of
//! shadow mode.

use super::fake_host::{End, Host, HostCall, Stream, flag::*};
use super::{Attached, Level, SHADOW, counts, of};
use std::{cell::Cell, rc::Rc, time::Duration};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// A fifth, and one each second whatever comes.
const FIFTH: &str = r#"{"retry": {"maxRetries": 2,
    "budget": {"percent": 20, "interval": "10s"}, "minRetryRate": {"count": 1, "interval": "1s"}}}"#;

fn succeeded(host: &Host, shadow: &str, cluster: &str) -> u64 {
    host.metric(&format!("weir_{shadow}retries_succeeded_total.cluster.{cluster}"))
}

/// Lets the first attempt of a request be refused, and its retry end like this.
fn retried(at: &Attached, request: Stream, last: &End) {
    let first = End::of_attempt(&request, 1).flags(UF).failure_reason("Connection refused");
    retried_after(at, request, first, last);
}

fn retried_after(at: &Attached, request: Stream, first: End, last: &End) {
    let ends = [first, last.clone()];
    for (number, end) in (1..).zip(ends) {
        if let Some(guard) = at.guard {
            at.host.attempt(guard, &request, number).begin().end();
        }
        at.attempt_log(&end.cluster(&String::from_utf8_lossy(&request.property("xds.cluster_name").unwrap())));
    }
    request.end_with(&last.clone().property("upstream.request_attempt_count", 2));
}

#[test]
fn a_retry_that_is_answered_well_has_succeeded() {
    for level in [Level::Decide, Level::Watch, Level::Guard] {
        let at = Attached::new(level);
        let cluster = format!("succeeded {level:?}");
        let begin = || at.host.request(at.decide).cluster(&cluster).begin();
        let answer = |code| End::new().code(code).details("via_upstream");
        let broken = End::new().flags(UC).code(503).details("upstream_reset_before_response_started{…}");
        let cut_off = End::new().flags(UC).code(200).details("upstream_reset_after_response_started{…}");
        let steps = [
            (answer(200), 1, "an answer"),
            (answer(404), 2, "an answer as good as the upstream has"),
            (answer(503), 2, "a failure"),
            (broken, 2, "no answer"),
            (cut_off, 2, "half an answer"),
            (End::new().flags(DC).details("downstream_remote_disconnect"), 2, "nobody there to be answered"),
        ];
        for (end, expected, what) in steps {
            retried(&at, begin(), &end);
            assert_eq!(succeeded(&at.host, "", &cluster), expected, "{level:?}: {what}");
        }
        let plain = begin();
        plain.response(200, []);
        plain.end_with(&answer(200).property("upstream.request_attempt_count", 1));
        assert_eq!(succeeded(&at.host, "", &cluster), 2, "{level:?}: no retry");
        let granted = counts(&at.host, "retries", "verdict", &cluster);
        assert_eq!(granted, of([("granted", 6)]), "{level:?}");
    }
}

#[test]
fn what_grpc_says_in_its_trailers_counts() {
    let at = Attached::new(Level::Guard);
    let cluster = "succeeded gRPC";
    for (status, expected) in [("0", 1), ("14", 1), ("5", 2)] {
        let request = at.host.request(at.decide).cluster(cluster).method("POST");
        let request = request.header("content-type", "application/grpc").begin();
        let end = End::new().code(200).details("via_upstream").header("content-type", "application/grpc");
        retried(&at, request, &end.trailer("grpc-status", status));
        assert_eq!(succeeded(&at.host, "", cluster), expected, "grpc-status {status}");
    }
}

#[test]
fn in_shadow_mode_retries_that_happened_count_apart() {
    let at = Attached::with(Level::Guard, SHADOW);
    let cluster = "succeeded in shadow";
    let request = at.host.request(at.decide).cluster(cluster).begin();
    retried(&at, request, &End::new().code(200).details("via_upstream"));
    assert_eq!((succeeded(&at.host, "shadow_", cluster), succeeded(&at.host, "", cluster)), (1, 0));
}

#[test]
fn in_shadow_mode_what_would_be_retried_has_no_reason_against_it() {
    for level in [Level::Decide, Level::Watch, Level::Guard] {
        let at = Attached::with(level, SHADOW);
        let cluster = format!("not retried in shadow {level:?}");
        for method in ["GET", "POST"] {
            let request = at.host.request(at.decide).cluster(&cluster).method(method).begin();
            if let Some(guard) = at.guard {
                at.host.attempt(guard, &request, 1).begin().end();
            }
            at.attempt_log(&End::of_attempt(&request, 1).flags(UC).cluster(&cluster));
            request.response(503, []);
            let end = End::new().flags(UC).code(503).details("upstream_reset_before_response_started{…}");
            request.end_with(&end.property("upstream.request_attempt_count", 1));
        }
        let reasons = counts(&at.host, "shadow_not_retried", "reason", &cluster);
        assert_eq!(reasons, of([("method", 1)]), "{level:?}: the GET would have been retried");
    }
}

fn left(host: &Host, cluster: &str) -> Option<u64> {
    host.metrics().get(&format!("weir_retry_budget_left.cluster.{cluster}")).copied()
}

#[test]
fn the_gauge_says_what_the_budget_would_grant_now() {
    let at = Attached::with(Level::Guard, FIFTH);
    let cluster = "left";
    let seconds = |seconds: u64| {
        for _ in 0..10 * seconds {
            at.host.advance(Duration::from_millis(100));
            at.tick();
        }
    };
    let mut requests: Vec<Stream> = (0..50).map(|_| at.host.request(at.decide).cluster(cluster).begin()).collect();
    assert_eq!(left(&at.host, cluster), None, "not before the tick");
    at.tick();
    assert_eq!(left(&at.host, cluster), Some(10), "a fifth of fifty");
    for _ in 0..3 {
        let request = requests.remove(0);
        let first = End::of_attempt(&request, 1).flags(UC);
        retried_after(&at, request, first, &End::new().code(200).details("via_upstream"));
    }
    seconds(2);
    assert_eq!(left(&at.host, cluster), Some(7));
    seconds(15);
    assert_eq!(left(&at.host, cluster), Some(1), "of requests that are long ago, nothing but the floor is left");
    // Then there is nothing more to tell, and nothing is asked of Envoy for it.
    let asked = Rc::new(Cell::new(0));
    let counter = Rc::clone(&asked);
    at.host.fault(move |made| {
        // In Node, other tests' clusters are known as well.
        let budget = made.call == HostCall::GetSharedData && made.key.ends_with(&format!("/budget/2/{cluster}"));
        counter.set(counter.get() + u32::from(budget));
        None
    });
    seconds(5);
    assert_eq!(asked.get(), 0);
    // Until the next request.
    requests.push(at.host.request(at.decide).cluster(cluster).begin());
    seconds(1);
    assert_eq!(asked.get(), 1);
}

#[test]
fn the_gauge_does_not_outlive_the_budget() {
    for (cluster, policy, then) in [
        ("left without retries", r#"{"retry": null}"#, 0),
        ("left without a budget", r#"{"retry": {"budget": null}}"#, u64::from(u32::MAX)),
        ("left to others by name", r#"{"clusters": [{"match": "left to others by*", "retry": null}]}"#, 0),
    ] {
        let at = Attached::with(Level::Guard, FIFTH);
        let requests: Vec<Stream> = (0..50).map(|_| at.host.request(at.decide).cluster(cluster).begin()).collect();
        at.tick();
        assert_eq!(left(&at.host, cluster), Some(10));
        drop(requests);
        at.host.start(policy);
        at.tick();
        assert_eq!(left(&at.host, cluster), Some(then), "{cluster}");
        // And it comes back with the budget.
        at.host.start(FIFTH);
        let _request = at.host.request(at.decide).cluster(cluster).begin();
        at.tick();
        assert!(matches!(left(&at.host, cluster), Some(1..=10)), "{cluster}: {:?}", left(&at.host, cluster));
    }
}

#[test]
fn a_worker_that_has_nothing_to_write_tells_what_others_left() {
    let at = Attached::with(Level::Guard, FIFTH);
    let cluster = "left to others";
    let requests: Vec<Stream> = (0..50).map(|_| at.host.request(at.decide).cluster(cluster).begin()).collect();
    at.tick();
    let key = at.host.shared_keys().into_iter().find(|key| key.ends_with(cluster)).unwrap();
    let (record, _) = at.host.shared(&key).unwrap();
    // Another worker spends nearly all of it.
    let spent = {
        for request in requests.iter().take(8) {
            let attempt = at.host.attempt(at.guard.unwrap(), request, 2).begin();
            assert!(attempt.continued());
            attempt.end();
        }
        at.host.shared(&key).unwrap().0
    };
    at.host.set_shared(&key, &record);
    at.tick();
    at.host.advance(Duration::from_millis(1_100));
    at.tick();
    assert_eq!(left(&at.host, cluster), Some(10));
    at.host.set_shared(&key, &spent);
    at.host.advance(Duration::from_millis(1_100));
    at.tick();
    assert_eq!(left(&at.host, cluster), Some(2));
    let (now, _) = at.host.shared(&key).unwrap();
    assert_eq!(now, spent, "who only reads writes nothing");
}

#[test]
fn a_host_that_is_not_judged_is_told_of_once() {
    for level in [Level::Decide, Level::Guard] {
        let at = Attached::new(level);
        at.host.clear_shared();
        let send = |cluster: &str, host: &str| {
            let request = at.host.request(at.decide).cluster(cluster).begin();
            let end = End::new().host(host).code(500).details("via_upstream").cluster(cluster);
            if level == Level::Guard {
                at.attempt_log(&end);
            }
            request.response(500, []);
            request.end_with(&end);
        };
        let told = |cluster: &str| at.host.metric(&format!("weir_hosts_unjudged_total.cluster.{cluster}"));
        let [sockets, tunnels] = ["sockets", "tunnels"].map(|name| format!("{name} {level:?}"));
        for _ in 0..50 {
            send(&sockets, "/run/orders.sock");
            send(&tunnels, "envoy://connect_originate/10.0.0.1:80");
            at.tick();
        }
        assert_eq!((told(&sockets), told(&tunnels)), (1, 0), "{level:?}");
        let lines = at.host.take_logs();
        let lines: Vec<_> = lines.into_iter().filter(|line| line.text.contains("is not judged")).collect();
        assert!(lines.len() == 1 && lines[0].level == 3 && lines[0].text.contains("sockets"), "{lines:?}");
    }
}

#[test]
fn attempts_that_nobody_decided_on_are_told_of_once() {
    let at = Attached::new(Level::Watch);
    let attempt = |cluster: &str| at.attempt_log(&End::new().code(200).details("via_upstream").cluster(cluster));
    let told = |cluster: &str| at.host.metric(&format!("weir_undecided_total.cluster.{cluster}"));
    (0..19).for_each(|_| attempt("elsewhere"));
    assert_eq!(told("elsewhere"), 0);
    (0..300).for_each(|_| attempt("elsewhere"));
    assert_eq!(told("elsewhere"), 1);
    let lines: Vec<_> = at.host.take_logs().into_iter().filter(|line| line.text.contains("nobody decides")).collect();
    assert!(lines.len() == 1 && lines[0].level == 3 && lines[0].text.contains("elsewhere"), "{lines:?}");
    // One request is enough to show that `decide` is there.
    at.host.request(at.decide).cluster("decided").begin().end_with(&End::new().code(200).details("via_upstream"));
    (0..300).for_each(|_| attempt("decided"));
    assert_eq!(told("decided"), 0);
}
