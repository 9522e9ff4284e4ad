//! A model of Envoy's router: which ends of an attempt its retry conditions take in. Whatever headers a plan writes, it
//! retries what the plan permits, and nothing else.

use super::retry_on::{Broke, RetryOn};
use super::{GRPC_CODES, PLANS, with_statuses};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::config::{GrpcCode, RetryPolicy};
use weir::engine::decision::Edits;
use weir::retry::{Header, Plan, RetryHeaders};
use weir::signal::Answer;
use weir::signal::Signal::{self, *};

/// What the router sees when an attempt ends before it has passed anything on to the client. (After that it retries
/// nothing.)
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// No connection, for whatever reason: the router does not tell them apart.
    ConnectFailure,
    /// An HTTP/2 stream refused.
    RefusedStream,
    /// Connection or stream broken once the request was on its way.
    Reset,
    /// The per-try timeout, which is a reset of its own.
    PerTryTimeout,
    /// A circuit breaker's overflow.
    Overflow,
    /// Response headers: `:status`, and `grpc-status` where there is nothing but headers.
    Headers(u16, Option<u32>),
}

/// What the router reads of the headers on a request. These are all the conditions that a plan may name.
fn router(headers: &[Header]) -> RetryOn {
    let known = "connect-failure refused-stream reset gateway-error retriable-status-codes retriable-headers";
    let conditions =
        headers.iter().filter(|(name, _)| *name == "x-envoy-retry-on").flat_map(|(_, value)| value.split(','));
    for condition in conditions.filter(|condition| !condition.is_empty()) {
        assert!(known.split(' ').any(|name| name == condition), "{condition}");
    }
    RetryOn::of(&Edits { retry: headers, ..Edits::default() })
}

fn retries(router: &RetryOn, end: End) -> bool {
    router.most > 0
        && match end {
            End::Overflow => false,
            End::Headers(status, grpc_status) => router.after_response(status, grpc_status, None),
            End::ConnectFailure => router.after_break(Broke::Connect),
            End::RefusedStream => router.after_break(Broke::RefusedStream),
            End::Reset | End::PerTryTimeout => router.after_break(Broke::Other),
        }
}

fn policies() -> Vec<RetryPolicy> {
    let statuses: [&[u16]; 7] =
        [&[], &[502, 503, 504], &[503], &[502, 503], &[500, 502, 503, 504], &[404, 502, 503, 504], &[400, 599]];
    let grpc: [&[GrpcCode]; 4] =
        [&[], &[GrpcCode::Unavailable], &[GrpcCode::Cancelled, GrpcCode::Internal], &GRPC_CODES];
    let policies = statuses.iter().flat_map(|codes| grpc.iter().map(|grpc| with_statuses(codes, grpc)));
    policies.flat_map(|policy| [1, 2, 10].map(|max_retries| RetryPolicy { max_retries, ..policy.clone() })).collect()
}

fn each_plan(mut check: impl FnMut(&RetryPolicy, Plan, &RetryOn)) {
    for policy in policies() {
        let headers = RetryHeaders::new(&policy);
        for plan in PLANS {
            for guarded in [false, true] {
                check(&policy, plan, &router(headers.of(plan, guarded, false)));
            }
        }
    }
}

#[test]
fn failures_without_an_answer_are_retried_just_where_permitted() {
    let ends: [(End, &[Signal]); 4] = [
        (End::ConnectFailure, &[Refused, Unreachable]),
        (End::RefusedStream, &[Refused]),
        (End::Reset, &[Reset]),
        (End::PerTryTimeout, &[Timeout]),
    ];
    each_plan(|policy, plan, router| {
        for (end, signals) in ends {
            for signal in signals {
                let permitted = plan.permits(policy, *signal, &Answer::default());
                assert_eq!(retries(router, end), permitted, "{plan:?}: {end:?}, {signal:?} under {policy:?}");
            }
        }
        assert!(!retries(router, End::Overflow));
    });
}

#[test]
fn answers_are_retried_just_where_permitted() {
    each_plan(|policy, plan, router| {
        let statuses = (100..600).map(|status| (status, None));
        let grpc = (0..=17).flat_map(|grpc| [200, 404, 429, 503].map(|status| (status, Some(grpc))));
        for (status, grpc_status) in statuses.chain(grpc) {
            // Only gRPC has a grpc-status, and only then does `signal` look at it.
            if grpc_status.is_some() && !matches!(plan, Plan::Grpc | Plan::GrpcRepeatable) {
                continue;
            }
            let answer = Answer { status: Some(status), grpc_status, ..Answer::default() };
            let signal = answer.signal().unwrap();
            let permitted = plan.permits(policy, signal, &answer);
            let retried = retries(router, End::Headers(status, grpc_status));
            // A 429 with a gRPC status that is retried: headers cannot say "but not then".
            let guards = signal == Pushback && grpc_status.is_some() && status == 429;
            assert!(retried == permitted || (guards && retried), "{plan:?}: {answer:?}, {signal:?} under {policy:?}");
        }
    });
}

/// What no header tells the router: the same status with a word against retries. These are what `guard` marks.
#[test]
fn pushbacks_that_only_guard_can_stop() {
    each_plan(|policy, plan, router| {
        for (status, grpc_status) in [(503, None), (502, None), (404, None), (200, Some(14)), (200, Some(8))] {
            if grpc_status.is_some() && !matches!(plan, Plan::Grpc | Plan::GrpcRepeatable) {
                continue;
            }
            let plain = Answer { status: Some(status), grpc_status, ..Answer::default() };
            let pushback = Answer { overloaded: true, ..plain };
            assert_eq!(pushback.signal(), Some(Pushback));
            assert!(!plan.permits(policy, Pushback, &pushback));
            // The router retries it as it does the plain one, which `guard` recognises by asking for an error's sake.
            let retried = retries(router, End::Headers(status, grpc_status));
            assert_eq!(retried, plan.permits(policy, Error, &pushback), "{plan:?}: {pushback:?} under {policy:?}");
        }
    });
}

#[test]
fn as_often_as_the_policy_says() {
    each_plan(|policy, plan, router| {
        let expected = if plan == Plan::Nothing { 0 } else { policy.max_retries };
        assert_eq!(router.most, expected, "{plan:?}");
    });
}

/// The model itself, where a wrong one would agree with anything.
#[test]
fn the_model_retries_what_envoy_does() {
    let headers = |retry_on: &str, max_retries: u32| -> Vec<Header> {
        vec![
            ("x-envoy-retry-on", retry_on.to_owned()),
            ("x-envoy-max-retries", max_retries.to_string()),
            ("x-envoy-retriable-status-codes", "500,404".to_owned()),
            ("x-envoy-retry-grpc-on", "unavailable".to_owned()),
        ]
    };
    let ends = [
        End::ConnectFailure,
        End::RefusedStream,
        End::Reset,
        End::PerTryTimeout,
        End::Overflow,
        End::Headers(503, None),
        End::Headers(500, None),
        End::Headers(200, Some(14)),
        End::Headers(200, Some(8)),
    ];
    let table = [
        ("", [false, false, false, false, false, false, false, true, false]),
        ("connect-failure", [true, false, false, false, false, false, false, true, false]),
        ("refused-stream", [false, true, false, false, false, false, false, true, false]),
        ("reset", [true, true, true, true, false, false, false, true, false]),
        ("gateway-error", [true, true, true, true, false, true, false, true, false]),
        ("retriable-status-codes", [false, false, false, false, false, false, true, true, false]),
    ];
    for (retry_on, expected) in table {
        let headers = headers(retry_on, 1);
        assert_eq!(ends.map(|end| retries(&router(&headers), end)), expected, "{retry_on:?}");
    }
    let none = headers("reset,gateway-error,connect-failure", 0);
    assert!(ends.iter().all(|end| !retries(&router(&none), *end)));
}
