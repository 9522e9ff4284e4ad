//! The safety table: what may be retried, and that Envoy, told so, retries just that. `retry/envoy.rs` is its side.

use std::time::Duration;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::base::percent::Percent;
use weir::config::{AlreadyRetried, GrpcCode, PerTryTimeout, RetryPolicy};
use weir::retry::latency::AdaptiveTimeout;
use weir::retry::{CONTROL_HEADERS, Class, Header, Plan, Request, RetryHeaders};
use weir::signal::Answer;
use weir::signal::Signal::{self, *};

// The crate links only with a host beside it.
#[path = "retry/envoy.rs"]
mod envoy;
mod fake_host;
#[allow(dead_code, reason = "weir replay uses more of it")]
#[path = "../src/bin/weir/replay/retry_on.rs"]
mod retry_on;

const PLANS: [Plan; 5] = [Plan::Nothing, Plan::Unprocessed, Plan::Repeatable, Plan::Grpc, Plan::GrpcRepeatable];
const GRPC_CODES: [GrpcCode; 4] =
    [GrpcCode::Cancelled, GrpcCode::DeadlineExceeded, GrpcCode::Internal, GrpcCode::Unavailable];

fn with_statuses(status_codes: &[u16], grpc_status_codes: &[GrpcCode]) -> RetryPolicy {
    let (status_codes, grpc_status_codes) = (status_codes.to_vec(), grpc_status_codes.to_vec());
    RetryPolicy { status_codes, grpc_status_codes, ..RetryPolicy::default() }
}

#[test]
fn which_plan() {
    use AlreadyRetried::{Any, None, Unprocessed};
    use Plan::{Grpc, GrpcRepeatable, Nothing, Repeatable};
    // Somebody's retry, `alreadyRetried`; then: unsafe, idempotent, gRPC, gRPC with an idempotency key.
    let table = [
        (false, Unprocessed, [Plan::Unprocessed, Repeatable, Grpc, GrpcRepeatable]),
        (false, Any, [Plan::Unprocessed, Repeatable, Grpc, GrpcRepeatable]),
        (false, None, [Plan::Unprocessed, Repeatable, Grpc, GrpcRepeatable]),
        (true, Unprocessed, [Plan::Unprocessed; 4]),
        (true, Any, [Plan::Unprocessed, Repeatable, Grpc, GrpcRepeatable]),
        (true, None, [Nothing; 4]),
    ];
    // Method, idempotency key: may it be repeated?
    let requests = [
        ("GET", false, true),
        ("HEAD", false, true),
        ("OPTIONS", false, true),
        ("TRACE", false, true),
        ("QUERY", false, true),
        ("PUT", false, true),
        ("DELETE", false, true),
        ("POST", false, false),
        ("PATCH", false, false),
        ("CONNECT", false, false),
        ("PROPFIND", false, false),
        ("get", false, false),
        ("GETS", false, false),
        ("GE", false, false),
        ("", false, false),
        ("GET", true, true),
        ("POST", true, true),
        ("PATCH", true, true),
        ("", true, true),
    ];
    for (retried, already_retried, [unsafe_plan, idempotent, grpc_plan, grpc_repeatable]) in table {
        for (method, idempotency_key, repeatable) in requests {
            for (grpc, max_retries) in [(false, 0), (false, 1), (false, 10), (true, 0), (true, 1), (true, 10)] {
                for attempt in if retried { [2, 3, u32::MAX] } else { [0, 1, 1] } {
                    let policy = RetryPolicy { max_retries, already_retried, ..RetryPolicy::default() };
                    let repeats = idempotency_key || policy.is_idempotent(method.as_bytes());
                    let request = Request { repeatable: repeats, grpc, attempt };
                    let expected = match (max_retries, grpc, repeatable) {
                        (0, ..) => Nothing,
                        (_, false, false) => unsafe_plan,
                        (_, false, true) => idempotent,
                        (_, true, false) => grpc_plan,
                        (_, true, true) => grpc_repeatable,
                    };
                    assert_eq!(Plan::of(&policy, &request), expected, "{request:?} under {policy:?}");
                    let class = match (grpc, repeatable) {
                        (true, _) => Class::Grpc,
                        (false, true) => Class::Idempotent,
                        (false, false) => Class::Unsafe,
                    };
                    assert_eq!(Class::of(&request), class, "{request:?}");
                }
            }
        }
    }
}

#[test]
fn the_configuration_says_which_methods_are_idempotent() {
    let idempotent_methods = ["POST", "get"].map(String::from).to_vec();
    let policy = RetryPolicy { idempotent_methods, ..RetryPolicy::default() };
    let plan = |method: &str| {
        let repeatable = policy.is_idempotent(method.as_bytes());
        Plan::of(&policy, &Request { repeatable, grpc: false, attempt: 1 })
    };
    for (method, expected) in [
        ("POST", Plan::Repeatable),
        ("get", Plan::Repeatable),
        ("GET", Plan::Unprocessed),
        ("PUT", Plan::Unprocessed),
        ("post", Plan::Unprocessed),
    ] {
        assert_eq!(plan(method), expected, "{method}");
    }
}

#[test]
fn what_a_plan_permits() {
    let policy = with_statuses(&[404, 503], &[GrpcCode::DeadlineExceeded, GrpcCode::Unavailable]);
    let none = Answer::default();
    let http = |status| Answer { status: Some(status), ..none };
    let grpc = |grpc_status| Answer { grpc_status: Some(grpc_status), ..http(200) };
    // In the order of `PLANS`: nothing, unprocessed, repeatable, gRPC, gRPC repeatable.
    let table = [
        (Refused, none, [false, true, true, true, true]),
        (Unreachable, none, [false, true, true, true, true]),
        (Reset, none, [false, false, true, false, true]),
        (Timeout, none, [false, false, true, false, true]),
        (Truncated, http(200), [false; 5]),
        (Truncated, http(503), [false; 5]),
        (Truncated, grpc(14), [false; 5]),
        (Pushback, http(429), [false; 5]),
        (Pushback, http(503), [false; 5]),
        (Pushback, grpc(8), [false; 5]),
        (Pushback, grpc(14), [false; 5]),
        (Error, http(503), [false, false, true, false, false]),
        (Error, http(502), [false; 5]),
        (Error, http(500), [false; 5]),
        (Answered, http(404), [false, false, true, false, false]),
        (Answered, http(200), [false; 5]),
        (Answered, http(0), [false; 5]),
        (Answered, none, [false; 5]),
        (Error, none, [false; 5]),
        (Answered, grpc(0), [false; 5]),
        (Answered, grpc(4), [false, false, false, true, true]),
        (Error, grpc(14), [false, false, false, true, true]),
        (Error, grpc(13), [false; 5]),
        (Error, grpc(2), [false; 5]),
        // Envoy decides.
        (Cancelled, none, [false, true, true, true, true]),
        (Local, none, [false, true, true, true, true]),
        (Closed, http(200), [false; 5]),
    ];
    for (signal, answer, expected) in table {
        let permitted = PLANS.map(|plan| plan.permits(&policy, signal, &answer));
        assert_eq!(permitted, expected, "{signal:?} {answer:?}");
    }
    assert!(
        Signal::ALL.iter().all(|signal| table.iter().any(|(listed, ..)| listed == signal)),
        "each signal has a row"
    );
    // A reset before headers has no status to look up, and a status that slipped in changes nothing.
    for signal in [Reset, Timeout, Refused, Unreachable] {
        for plan in PLANS {
            assert_eq!(plan.permits(&policy, signal, &http(200)), plan.permits(&policy, signal, &none), "{signal:?}");
        }
    }
}

#[test]
fn what_a_plan_says_of_itself() {
    assert_eq!(PLANS.map(Plan::repeats), [false, false, true, false, true]);
    let names = Class::ALL.map(|class| (class as usize, class.name()));
    assert_eq!(names, [(0, "idempotent"), (1, "unsafe"), (2, "grpc"), (3, "off")]);
}

const RETRY_ON: &str = "x-envoy-retry-on";
const MAX_RETRIES: &str = "x-envoy-max-retries";
const STATUS_CODES: &str = "x-envoy-retriable-status-codes";
const GRPC_ON: &str = "x-envoy-retry-grpc-on";
const PER_TRY_TIMEOUT: &str = "x-envoy-upstream-rq-per-try-timeout-ms";

const UNPROCESSED: &str = "connect-failure,refused-stream";
const RESET: &str = "connect-failure,refused-stream,reset";

fn assert_headers(policy: &RetryPolicy, plan: Plan, expected: &[(&str, &str)]) {
    let headers = RetryHeaders::new(policy);
    let headers: Vec<_> = headers.of(plan, false, false).iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(headers, expected, "{plan:?} under {policy:?}");
}

#[test]
fn headers_of_the_default_policy() {
    let policy = RetryPolicy::default();
    let repeatable = [RESET, ",gateway-error"].concat();
    assert_headers(&policy, Plan::Nothing, &[(MAX_RETRIES, "0")]);
    assert_headers(&policy, Plan::Unprocessed, &[(RETRY_ON, UNPROCESSED), (MAX_RETRIES, "2")]);
    assert_headers(&policy, Plan::Repeatable, &[(RETRY_ON, &repeatable), (MAX_RETRIES, "2")]);
    assert_headers(&policy, Plan::Grpc, &[(RETRY_ON, UNPROCESSED), (MAX_RETRIES, "2")]);
    assert_headers(&policy, Plan::GrpcRepeatable, &[(RETRY_ON, RESET), (MAX_RETRIES, "2")]);
}

/// What `guard` says of an answer takes a condition more, where no other takes in the 503 of a sidecar.
#[test]
fn headers_where_there_is_a_guard() {
    let names = ("x-envoy-retriable-header-names", "x-weir-not-sent");
    assert_eq!(names, (weir::retry::RETRIABLE_HEADER_NAMES, weir::retry::NOT_SENT));
    for codes in [&[502, 503, 504][..], &[500, 503], &[502, 504], &[]] {
        let headers = RetryHeaders::new(&with_statuses(codes, &[]));
        for plan in PLANS {
            let (alone, guarded) = (headers.of(plan, false, false), headers.of(plan, true, false));
            assert!(alone.iter().all(|(name, value)| *name != names.0 && !value.contains("retriable-headers")));
            let more = plan != Plan::Nothing && (plan != Plan::Repeatable || !codes.contains(&503));
            let mut expected = alone.to_vec();
            if more {
                expected[0].1.push_str(",retriable-headers");
                expected.push((names.0, names.1.to_owned()));
            }
            assert_eq!(guarded, expected, "{plan:?} {codes:?}");
        }
    }
}

/// What an upstream says is looked for by Envoy itself, unless there is a guard, and then by that under every plan.
#[test]
fn headers_where_upstreams_say_what_they_did_not_process() {
    let stated = ["x-shed", "x-other"].map(String::from).to_vec();
    let policy = RetryPolicy { not_processed_headers: stated, ..RetryPolicy::default() };
    let (headers, without) = (RetryHeaders::new(&policy), RetryHeaders::new(&RetryPolicy::default()));
    for plan in PLANS {
        for (guarded, names) in [(false, "x-shed,x-other"), (true, weir::retry::NOT_SENT)] {
            let mut expected = without.of(plan, false, false).to_vec();
            if plan != Plan::Nothing {
                expected[0].1.push_str(",retriable-headers");
                expected.push((weir::retry::RETRIABLE_HEADER_NAMES, names.to_owned()));
            }
            assert_eq!(headers.of(plan, guarded, false), expected, "{plan:?} {guarded}");
        }
    }
}

#[test]
fn headers_of_other_policies() {
    let by_code = [RESET, ",retriable-status-codes"].concat();
    for (codes, value) in [
        (&[503][..], "503"),
        (&[502, 503], "502,503"),
        (&[500, 502, 503, 504], "500,502,503,504"),
        (&[502, 503, 505], "502,503,505"),
        (&[400, 404, 599], "400,404,599"),
    ] {
        let policy = with_statuses(codes, &[]);
        let expected = [(RETRY_ON, by_code.as_str()), (MAX_RETRIES, "2"), (STATUS_CODES, value)];
        assert_headers(&policy, Plan::Repeatable, &expected);
        assert_headers(&policy, Plan::Unprocessed, &[(RETRY_ON, UNPROCESSED), (MAX_RETRIES, "2")]);
    }
    assert_headers(&with_statuses(&[], &[]), Plan::Repeatable, &[(RETRY_ON, RESET), (MAX_RETRIES, "2")]);

    let grpc = RetryPolicy { max_retries: 10, ..with_statuses(&[503], &GRPC_CODES) };
    let all = (GRPC_ON, "cancelled,deadline-exceeded,internal,unavailable");
    assert_headers(&grpc, Plan::Nothing, &[(MAX_RETRIES, "0")]);
    assert_headers(&grpc, Plan::Unprocessed, &[(RETRY_ON, UNPROCESSED), (MAX_RETRIES, "10")]);
    assert_headers(&grpc, Plan::Repeatable, &[(RETRY_ON, &by_code), (MAX_RETRIES, "10"), (STATUS_CODES, "503")]);
    assert_headers(&grpc, Plan::Grpc, &[(RETRY_ON, UNPROCESSED), (MAX_RETRIES, "10"), all]);
    assert_headers(&grpc, Plan::GrpcRepeatable, &[(RETRY_ON, RESET), (MAX_RETRIES, "10"), all]);
    let one = [(RETRY_ON, UNPROCESSED), (MAX_RETRIES, "2"), (GRPC_ON, "unavailable")];
    assert_headers(&with_statuses(&[], &[GrpcCode::Unavailable]), Plan::Grpc, &one);
}

#[test]
fn a_per_try_timeout_only_where_a_timeout_is_retried() {
    let fixed =
        |timeout| RetryPolicy { per_try_timeout: Some(PerTryTimeout::Fixed(timeout)), ..RetryPolicy::default() };
    for (timeout, value) in [
        (Duration::from_millis(1), "1"),
        (Duration::from_millis(250), "250"),
        (Duration::from_secs(90), "90000"),
        (Duration::from_secs(3_600), "3600000"),
    ] {
        let headers = RetryHeaders::new(&fixed(timeout));
        for plan in PLANS {
            let header = headers.of(plan, false, false).iter().find(|(name, _)| *name == PER_TRY_TIMEOUT);
            let expected = plan.repeats().then_some(value);
            assert_eq!(header.map(|(_, value)| value.as_str()), expected, "{plan:?} {timeout:?}");
        }
    }
    // An adaptive one is written for each request.
    let adaptive = AdaptiveTimeout {
        quantile: Percent::from_basis_points(9_900).unwrap(),
        factor_percent: 300,
        min: Duration::from_millis(50),
        max: Duration::from_secs(10),
    };
    let per_try_timeout = Some(PerTryTimeout::Adaptive(adaptive));
    let adaptive = RetryPolicy { per_try_timeout, ..RetryPolicy::default() };
    assert_eq!(RetryHeaders::new(&adaptive), RetryHeaders::new(&RetryPolicy::default()));
    assert_eq!(weir::retry::PER_TRY_TIMEOUT, PER_TRY_TIMEOUT);
}

#[test]
fn a_clients_own_wishes() {
    // All of Envoy's headers that ask for retries are either written by every plan or taken away.
    let policy = with_statuses(&[500], &GRPC_CODES);
    let headers = RetryHeaders::new(&policy);
    for asked in [RETRY_ON, STATUS_CODES, GRPC_ON, "x-envoy-retriable-header-names", "x-envoy-hedge-on-per-try-timeout"]
    {
        // With no retries allowed, conditions for them mean nothing.
        let plans = PLANS.iter().filter(|plan| **plan != Plan::Nothing);
        let always_written =
            plans.clone().all(|plan| headers.of(*plan, false, false).iter().any(|(name, _)| *name == asked));
        assert!(always_written || CONTROL_HEADERS.contains(&asked), "{asked}");
    }
    for plan in PLANS {
        let limit: Vec<&Header> =
            headers.of(plan, false, false).iter().filter(|(name, _)| *name == MAX_RETRIES).collect();
        assert_eq!(limit.len(), 1, "{plan:?} sets the one limit");
        let mut names: Vec<_> = headers.of(plan, false, false).iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), headers.of(plan, false, false).len(), "{plan:?} says nothing twice");
    }
}
