//! The retry budget, from the requests that pay in to the retries that are not sent.

use super::fake_host::{End, Fault, Host, HostCall, Stream, flag::*, status, write_shared};
use super::{Attached, Level, counts, of};
use std::collections::BTreeMap;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// One retry for five requests, and no floor.
const FIFTH: &str = r#"{"retry": {"maxRetries": 5,
    "budget": {"percent": 20, "interval": "10s"}, "minRetryRate": {"count": 0, "interval": "1s"}}}"#;
/// The same, without a circuit breaker, which would not let an outage last.
const FIFTH_UNBROKEN: &str = r#"{"circuitBreaker": null, "retry": {"maxRetries": 5,
    "budget": {"percent": 20, "interval": "10s"}, "minRetryRate": {"count": 0, "interval": "1s"}}}"#;
const SHADOW_FIFTH: &str = r#"{"mode": "shadow", "retry": {"maxRetries": 5,
    "budget": {"percent": 20, "interval": "10s"}, "minRetryRate": {"count": 0, "interval": "1s"}}}"#;

fn retries(host: &Host, cluster: &str) -> BTreeMap<String, u64> {
    counts(host, "retries", "verdict", cluster)
}

fn arrive(at: &Attached, cluster: &str, requests: u32) -> Vec<Stream> {
    (0..requests).map(|_| at.host.request(at.decide).cluster(cluster).begin()).collect()
}

/// Lets an attempt of a request be refused, and Envoy try again. Whether `guard` lets it.
fn retry(at: &Attached, request: &Stream, number: u32) -> bool {
    at.host.attempt(at.guard.unwrap(), request, number).begin().end();
    at.attempt_log(&End::of_attempt(request, number).flags(UF).failure_reason("Connection refused"));
    let next = at.host.attempt(at.guard.unwrap(), request, number + 1).begin();
    if let Some(reply) = next.local_reply() {
        assert_eq!((reply.status, reply.grpc_status), (503, 14));
        assert!(reply.body.contains("budget"), "{}", reply.body);
        assert_eq!(reply.headers.text("x-envoy-ratelimited").as_deref(), Some("true"), "no hop above shall retry it");
    }
    let continued = next.continued();
    next.end();
    continued
}

#[test]
fn guard_stops_the_retry_that_cannot_be_paid() {
    let at = Attached::with(Level::Guard, FIFTH);
    let cluster = "budget";
    let requests = arrive(&at, cluster, 10);
    let granted: Vec<bool> = requests.iter().map(|request| retry(&at, request, 1)).collect();
    assert_eq!(granted.iter().filter(|granted| **granted).count(), 2);
    assert!(granted[0] && granted[1], "the first come");
    assert_eq!(retries(&at.host, cluster), of([("denied", 8), ("granted", 2)]));
    // Where each retry is charged, a permission costs nothing, and what was charged is not charged again at the end.
    let more = &arrive(&at, cluster, 1)[0];
    assert_eq!(more.request_header("x-envoy-max-retries").as_deref(), Some("5"));
    for request in requests {
        request.end_with(&End::new().code(503).details("via_upstream").property("upstream.request_attempt_count", 2));
    }
    assert_eq!(retries(&at.host, cluster), of([("denied", 8), ("granted", 2)]));
    // Five more requests pay for one more retry; time gives nothing without requests.
    let more = arrive(&at, cluster, 4);
    assert!(retry(&at, &more[0], 1) && !retry(&at, &more[0], 2));
    at.host.advance(Duration::from_secs(30));
    assert!(!retry(&at, &more[1], 1));
}

#[test]
fn a_floor_pays_where_requests_are_few() {
    let config =
        r#"{"retry": {"budget": {"percent": 0, "interval": "10s"}, "minRetryRate": {"count": 3, "interval": "1s"}}}"#;
    let at = Attached::with(Level::Guard, config);
    let requests = arrive(&at, "floor", 4);
    let second = |at: &Attached| requests.iter().filter(|request| retry(at, request, 1)).count();
    assert_eq!(second(&at), 3);
    at.host.advance(Duration::from_secs(2));
    assert_eq!(second(&at), 3);
}

#[test]
fn an_answer_that_cannot_be_retried_for_money_reaches_the_client_as_it_is() {
    let at = Attached::with(Level::Guard, FIFTH);
    let cluster = "budget answered";
    let requests = arrive(&at, cluster, 5);
    let answered = |request: &Stream, number| {
        let attempt = at.host.attempt(at.guard.unwrap(), request, number).begin();
        assert!(attempt.continued() && attempt.response(503, []));
        let mark = attempt.response_header("x-envoy-ratelimited");
        attempt.end();
        mark
    };
    assert_eq!(answered(&requests[0], 1), None);
    // Its retry is paid for already.
    assert_eq!(answered(&requests[0], 2).as_deref(), Some("true"), "the retry of the retry is not");
    assert_eq!(answered(&requests[1], 1).as_deref(), Some("true"));
    assert!(requests[1].response(503, [("x-envoy-ratelimited", "true")]));
    assert_eq!(requests[1].response_header("x-envoy-ratelimited").as_deref(), Some("true"));
    assert_eq!(requests[1].property("weir.verdict").as_deref(), Some(&b"retry_budget_exhausted"[..]));
    assert_eq!(retries(&at.host, cluster), of([("denied", 2), ("granted", 1)]));
}

#[test]
fn without_guard_no_permission_is_given_on_an_empty_budget() {
    permissions("budget of permissions", 0);
}

#[test]
fn permissions_do_not_depend_on_the_clock() {
    permissions("budget of permissions, clock ahead", 1);
    permissions("budget of permissions, clock back", -1);
}

/// `decide` alone, after the host's clock has stepped so many hours.
fn permissions(cluster: &str, hours: i64) {
    let at = Attached::with(Level::Decide, FIFTH);
    arrive(&at, "before the step", 1);
    at.host.set_time(at.host.now().wrapping_add_signed(hours * 3_600_000_000_000));
    let requests = arrive(&at, cluster, 6);
    let permission = |request: &Stream| request.request_header("x-envoy-max-retries");
    let permissions: Vec<_> = requests.iter().map(|request| permission(request).unwrap()).collect();
    assert_eq!(permissions, ["0", "0", "0", "0", "1", "0"], "a fifth of four requests is less than one");
    // What the fifth request does not use, the next one gets.
    let mut requests = requests.into_iter();
    let mut end = |attempts: u64| {
        let request = requests.next().unwrap();
        request.response(200, []);
        request.end_with(&End::new().code(200).property("upstream.request_attempt_count", attempts));
    };
    (0..5).for_each(|_| end(1));
    let next = arrive(&at, cluster, 1).remove(0);
    assert_eq!(permission(&next).as_deref(), Some("1"));
    let refuse = |request: &Stream, attempts: u64| {
        request.set("response.flags", UF).set("response.code", 503).set(
            "response.code_details",
            "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
        );
        request.set("upstream.request_attempt_count", attempts);
        request.response(503, []);
    };
    let mark = |request: &Stream| request.response_header("x-envoy-ratelimited");
    // Its one retry fails as well; the policy would allow more, the budget does not.
    refuse(&next, 2);
    assert_eq!(mark(&next).as_deref(), Some("true"), "no hop above shall retry it");
    next.end_with(&End::new().code(503).flags(UF).property("upstream.request_attempt_count", 2));
    assert_eq!(retries(&at.host, cluster), of([("denied", 1), ("granted", 1)]));
    // Since hosts answered, what is not processed may be sent again all the same, and nothing else.
    let request = &arrive(&at, cluster, 1)[0];
    assert_eq!(permission(request).as_deref(), Some("5"));
    assert_eq!(request.request_header("x-envoy-retry-on").as_deref(), Some("connect-failure,refused-stream"));
    refuse(request, 1);
    assert_eq!(mark(request).as_deref(), Some("true"), "no hop above shall retry it");
    assert_eq!(request.response_header("retry-after").as_deref(), Some("1"));
    assert_eq!(retries(&at.host, cluster), of([("denied", 2), ("granted", 1)]));
    // What would not have been retried anyway is not marked.
    let request = &arrive(&at, cluster, 1)[0];
    request.set("response.code", 200).set("response.code_details", "via_upstream");
    request.response(200, []);
    assert_eq!(mark(request), None);
    at.host.advance(Duration::from_secs(30));
    assert_eq!(permission(&arrive(&at, cluster, 5)[4]).as_deref(), Some("1"));
}

/// One retry of two is not enough where half of the hosts are down: while hosts refuse, a request that the budget cannot give all of
/// its retries has them in place of what was not processed, for nothing.
#[test]
fn while_hosts_refuse_scarce_permissions_are_for_what_was_not_processed() {
    const UNPROCESSED: &str = "connect-failure,refused-stream";
    let at = Attached::with(Level::Decide, FIFTH);
    let cluster = "budget of scarce permissions";
    let begin = |method: &str| {
        let request = at.host.request(at.decide).cluster(cluster).method(method).begin();
        let header = |name: &str| request.request_header(name).unwrap();
        let (retry_on, most) = (header("x-envoy-retry-on"), header("x-envoy-max-retries"));
        (request, retry_on, most)
    };
    let end = |request: Stream, attempts: u64| {
        request.set("upstream.request_attempt_count", attempts);
        request.response(200, []);
        request.end_with(&End::new().code(200).property("upstream.request_attempt_count", attempts));
    };
    arrive(&at, cluster, 9).into_iter().for_each(|request| end(request, 1));
    // Nothing was refused: two retries in place of whatever fails.
    let (request, retry_on, most) = begin("GET");
    assert!(retry_on != UNPROCESSED && most == "2", "{retry_on} {most}");
    end(request, 1);
    // A POST is retried only in place of what was not processed.
    let (request, retry_on, most) = begin("POST");
    assert_eq!((retry_on.as_str(), most.as_str()), (UNPROCESSED, "5"));
    end(request, 2);
    let (request, retry_on, most) = begin("GET");
    assert_eq!((retry_on.as_str(), most.as_str()), (UNPROCESSED, "5"));
    end(request, 3);
    // The permission was not used up: once the budget has all that a request may need, it is for whatever fails.
    arrive(&at, cluster, 12).into_iter().for_each(|request| end(request, 1));
    let (request, retry_on, most) = begin("GET");
    assert!(retry_on != UNPROCESSED && most == "5", "{retry_on} {most}");
    end(request, 1);
    // And so it is where nothing was refused for an interval.
    at.host.advance(Duration::from_secs(11));
    arrive(&at, cluster, 9).into_iter().for_each(|request| end(request, 1));
    let (_, retry_on, most) = begin("GET");
    assert!(retry_on != UNPROCESSED && most == "2", "{retry_on} {most}");
}

#[test]
fn who_gives_up_after_retries_says_so() {
    for level in [Level::Decide, Level::Watch, Level::Guard] {
        let at = Attached::new(level);
        let cluster = format!("gave up {level:?}");
        let gives_up = |method: &str, statuses: [u32; 3]| {
            let request = at.host.request(at.decide).cluster(&cluster).method(method).begin();
            for (number, status) in (1..).zip(statuses) {
                if let Some(guard) = at.guard {
                    let attempt = at.host.attempt(guard, &request, number).begin();
                    assert!(attempt.continued() && attempt.response(status, []));
                    attempt.end();
                }
                at.attempt_log(&End::of_attempt(&request, number).code(status));
            }
            let [.., last] = statuses;
            request.set("response.code", u64::from(last)).set("response.code_details", "via_upstream");
            request.set("upstream.request_attempt_count", 3);
            request.response(last, []);
            let mark = request.response_header("x-envoy-ratelimited");
            request.end_with(&End::new().code(last).property("upstream.request_attempt_count", 3));
            mark
        };
        assert_eq!(gives_up("GET", [503, 503, 503]).as_deref(), Some("true"), "{level:?}");
        assert_eq!(gives_up("GET", [503, 503, 200]), None, "{level:?}: it was answered");
        assert_eq!(gives_up("GET", [503, 503, 404]), None, "{level:?}: nobody would retry that");
    }
}

#[test]
#[cfg_attr(
    target_arch = "wasm32",
    ignore = "once a request asked for it, responses lose x-weir-not-sent, and in Node all tests share one VM"
)]
fn no_retry_is_paid_for_that_envoy_does_not_make() {
    let at = Attached::with(Level::Guard, FIFTH);
    let cluster = "budget at the end";
    let request = &arrive(&at, cluster, 5)[0];
    let last = at.host.attempt(at.guard.unwrap(), request, 6).header("x-envoy-attempt-count", "6").begin();
    let counted = retries(&at.host, cluster);
    assert!(last.response(503, []));
    assert_eq!(last.edits(), []);
    assert_eq!(retries(&at.host, cluster), counted);
}

#[test]
fn grpc_clients_learn_of_an_empty_budget_in_their_own_words() {
    let at = Attached::with(Level::Guard, FIFTH);
    let request = at.host.request(at.decide).cluster("budget of gRPC").method("POST");
    let request = request.header("content-type", "application/grpc").begin();
    let reply = at.host.attempt(at.guard.unwrap(), &request, 2).begin().local_reply().expect("a veto");
    assert_eq!(reply.grpc_status, 14);
    assert_eq!(reply.headers.text("grpc-retry-pushback-ms").as_deref(), Some("-1"));
}

#[test]
fn the_first_record_of_another_worker_is_not_overwritten() {
    let at = Attached::with(Level::Guard, FIFTH);
    let cluster = "budget of two firsts";
    let requests = arrive(&at, cluster, 5);
    let mut written = false;
    at.host.fault(move |made| {
        if made.call == HostCall::SetSharedData && !std::mem::replace(&mut written, true) {
            write_shared(&made.key, b"another worker's");
        }
        None
    });
    let swaps = || at.host.calls().get(&HostCall::SetSharedData).copied().unwrap_or_default();
    let before = swaps();
    assert!(retry(&at, &requests[0], 1));
    assert_eq!(swaps() - before, 2, "one that loses, and one that wins");
}

#[test]
fn shadow_counts_what_it_would_deny() {
    let at = Attached::with(Level::Guard, SHADOW_FIFTH);
    let cluster = "budget in shadow";
    let requests = arrive(&at, cluster, 5);
    assert!(requests.iter().all(|request| retry(&at, request, 1)));
    assert_eq!(retries(&at.host, cluster), of([]));
    assert_eq!(counts(&at.host, "shadow_retries", "verdict", cluster), of([("denied", 4), ("granted", 1)]));
    // An answer that is retried counts once, too: when it is.
    let attempt = at.host.attempt(at.guard.unwrap(), &requests[0], 2).begin();
    assert!(attempt.response(503, []));
    attempt.end();
    assert_eq!(counts(&at.host, "shadow_retries", "verdict", cluster), of([("denied", 5), ("granted", 1)]));
}

#[test]
fn requests_of_the_last_interval_pay_whatever_the_clock_does() {
    let at = Attached::with(Level::Guard, FIFTH);
    for (cluster, hours) in [("clock ahead", 1_i64), ("clock back", -1), ("clock back again", -5)] {
        arrive(&at, cluster, 5);
        at.host.set_time(at.host.now().wrapping_add_signed(hours * 3_600_000_000_000));
        let requests = arrive(&at, cluster, 10);
        let granted = requests.iter().filter(|request| retry(&at, request, 1)).count();
        assert!((2..=3).contains(&granted), "{cluster}: {granted}");
    }
}

#[test]
fn a_faster_worker_only_delays() {
    let at = Attached::with(Level::Guard, FIFTH);
    let cluster = "budget contended";
    let requests = arrive(&at, cluster, 10);
    let mut swaps = 0;
    at.host.fault(move |made| {
        swaps += u32::from(made.call == HostCall::SetSharedData);
        let slower = made.call == HostCall::SetSharedData && swaps % 4 != 0;
        slower.then_some(Fault::Status(status::CAS_MISMATCH))
    });
    assert_eq!(requests.iter().filter(|request| retry(&at, request, 1)).count(), 2);
    assert_eq!(retries(&at.host, cluster), of([("denied", 8), ("granted", 2)]));
}

#[test]
fn a_record_that_is_none_is_replaced() {
    let at = Attached::with(Level::Guard, FIFTH);
    let cluster = "budget garbled";
    for garbage in [&b""[..], b"?", &[0xff; 4096]] {
        let requests = arrive(&at, cluster, 10);
        at.tick();
        let before = at.host.shared_keys();
        let key = before.iter().find(|key| key.contains(cluster)).expect("a record");
        at.host.set_shared(key, garbage);
        assert!(!retry(&at, &requests[0], 1), "nobody remembers the requests");
        let requests = arrive(&at, cluster, 5);
        assert!(retry(&at, &requests[0], 1) && !retry(&at, &requests[1], 1));
        at.host.advance(Duration::from_secs(60));
    }
}

/// Threads are workers: each has its own module, and here its own shared data, which this test carries from one to the other.
#[cfg(not(target_arch = "wasm32"))]
#[test]
fn workers_pay_from_one_budget() {
    let cluster = "budget of all";
    let records = |host: &Host| -> Vec<_> {
        let keys = host.shared_keys();
        keys.into_iter().map(|key| (host.shared(&key).unwrap().0, key)).map(|(value, key)| (key, value)).collect()
    };
    let at = Attached::with(Level::Guard, FIFTH);
    let requests = arrive(&at, cluster, 10);
    at.tick();
    let (there, time) = (records(&at.host), at.host.now());
    let back = std::thread::spawn(move || {
        let at = Attached::with(Level::Guard, FIFTH);
        at.host.set_time(time);
        there.iter().for_each(|(key, value)| at.host.set_shared(key, value));
        let request = &arrive(&at, cluster, 1)[0];
        assert!(retry(&at, request, 1), "paid for by the other worker's requests");
        records(&at.host)
    });
    for (key, value) in back.join().unwrap() {
        at.host.set_shared(&key, &value);
    }
    let granted = requests.iter().filter(|request| retry(&at, request, 1)).count();
    assert_eq!(granted, 1, "eleven requests pay for two retries");
}

/// Of requests that come all at once, the one that gets the rest of the budget is no worse off than those that get none.
#[test]
fn what_a_crowd_leaves_of_the_budget_is_for_nobody_in_it() {
    let at = Attached::with(Level::Decide, FIFTH);
    let cluster = "budget of a crowd";
    for request in arrive(&at, cluster, 39) {
        request.response(200, []);
        request.end_with(&End::new().code(200).property("upstream.request_attempt_count", 1));
    }
    let crowd = arrive(&at, cluster, 3);
    let header = |name| crowd.iter().map(|request| request.request_header(name).unwrap()).collect::<Vec<_>>();
    // A fifth of forty requests: five for the first, and three are left.
    assert_eq!(header("x-envoy-max-retries"), ["5", "5", "5"]);
    let unprocessed: Vec<_> =
        header("x-envoy-retry-on").iter().map(|conditions| conditions == "connect-failure,refused-stream").collect();
    assert_eq!(unprocessed, [false, true, true]);
}

/// While retries do not help, those that the last second cannot pay are not begun; once one is answered, all are again.
#[test]
#[cfg_attr(
    target_arch = "wasm32",
    ignore = "once a request asked for it, responses lose x-weir-not-sent, and in Node all tests share one VM"
)]
fn in_an_outage_what_cannot_be_paid_is_not_begun() {
    let at = Attached::with(Level::Guard, FIFTH_UNBROKEN);
    let (cluster, guard) = ("budget in an outage", at.guard.unwrap());
    let permission = |request: &Stream| request.request_header("x-envoy-max-retries").unwrap();
    let begin = |request: &Stream, number: u32| at.host.attempt(guard, request, number).begin();
    let refused = |request: &Stream, number: u32, attempt: Stream| {
        attempt.end();
        at.attempt_log(&End::of_attempt(request, number).flags(UF).failure_reason("Connection refused"));
    };
    let respond = |request: &Stream, status: u32, attempts: u64| {
        request.set("response.code", u64::from(status)).set("response.code_details", "via_upstream");
        request.set("upstream.request_attempt_count", attempts);
        request.response(status, []);
    };
    // Savings, but none of the last second.
    arrive(&at, cluster, 50);
    at.host.advance(Duration::from_secs(5));
    let caught = arrive(&at, cluster, 1).remove(0);
    assert_eq!(permission(&caught), "5", "charged when they happen");
    at.host.advance(Duration::from_millis(1));
    refused(&caught, 1, begin(&caught, 1));
    let second = begin(&caught, 2);
    assert!(second.continued());
    assert_eq!(permission(&arrive(&at, cluster, 1)[0]), "5", "a retry may help");
    refused(&caught, 2, second);
    let late = arrive(&at, cluster, 1).remove(0);
    assert_eq!(permission(&late), "0", "it did not, as the log of its attempt told");
    assert!(begin(&caught, 3).continued(), "the savings are for what was under way");
    respond(&late, 503, 1);
    assert_eq!(late.response_header("x-envoy-ratelimited").as_deref(), Some("true"));
    assert_eq!(late.property("weir.verdict").as_deref(), Some(&b"retry_budget_exhausted"[..]));
    assert_eq!(retries(&at.host, cluster), of([("denied", 1), ("granted", 2)]));
    // A fifth of the second's 15 requests, less two.
    let requests = arrive(&at, cluster, 12);
    let permissions: Vec<String> = requests.iter().map(permission).collect();
    assert_eq!((permissions.join("").trim_start_matches('0'), permissions.len()), ("1", 12), "{permissions:?}");
    let last = &requests[11];
    for number in [1, 2] {
        let attempt = begin(last, number);
        assert!(attempt.continued() && attempt.response(503, []));
        assert_eq!(attempt.edits(), [], "a retry that Envoy will not make is not asked for");
        attempt.end();
    }
    respond(last, 503, 2);
    assert_eq!(retries(&at.host, cluster), of([("denied", 2), ("granted", 3)]), "it had one, and would have had more");
    // Others may have spent what it has permission for: then `guard` says no, and that counts once.
    let requests = arrive(&at, cluster, 5);
    assert_eq!(permission(&requests[4]), "1");
    assert!(begin(&caught, 4).continued());
    let attempt = begin(&requests[4], 1);
    assert!(attempt.response(503, []));
    assert_eq!(attempt.response_header("x-envoy-ratelimited").as_deref(), Some("true"));
    attempt.end();
    respond(&requests[4], 503, 1);
    assert_eq!(retries(&at.host, cluster), of([("denied", 3), ("granted", 4)]));
    // The first retry that is answered.
    respond(&caught, 200, 3);
    assert_eq!(permission(&arrive(&at, cluster, 1)[0]), "5");
}

/// What is answered with 503 tells `guard` by itself, also where there is no `watch`.
#[test]
fn a_retry_that_asks_again_did_not_help() {
    let at = Attached::with(Level::Guard, FIFTH_UNBROKEN);
    let cluster = "budget asked again";
    arrive(&at, cluster, 50);
    at.host.advance(Duration::from_secs(5));
    let caught = arrive(&at, cluster, 1).remove(0);
    at.host.advance(Duration::from_millis(1));
    let answered = |number| {
        let attempt = at.host.attempt(at.guard.unwrap(), &caught, number).begin();
        assert!(attempt.continued() && attempt.response(503, []));
        attempt.end();
    };
    let permission = || arrive(&at, cluster, 1)[0].request_header("x-envoy-max-retries").unwrap();
    answered(1);
    assert_eq!(permission(), "5");
    answered(2);
    assert_eq!(permission(), "0");
}
