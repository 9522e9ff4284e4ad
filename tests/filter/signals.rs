//! Every row of Envoy's ways to end an attempt, at every level of attachment, in the orders in which Envoy tells them.

use super::fake_host::{End, HostCall, flag::*};
use super::{Attached, Level, attempts, of};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// How an attempt, and with it its request, ended.
struct Case {
    name: &'static str,
    /// The attempt's own flags.
    flags: u64,
    /// `upstream.transport_failure_reason`.
    reason: &'static str,
    /// The upstream's response.
    answer: Option<Answer>,
    /// The request's flags.
    end_flags: u64,
    /// What the client got, where it was not `answer`.
    end_code: Option<u32>,
    details: &'static str,
    /// `None`: nothing is counted.
    signal: Option<&'static str>,
}

struct Answer {
    code: u32,
    headers: &'static [(&'static str, &'static str)],
    trailers: &'static [(&'static str, &'static str)],
}

/// Before any response headers.
const fn failed(
    name: &'static str,
    flags: u64,
    end_flags: u64,
    end_code: u32,
    details: &'static str,
    signal: &'static str,
) -> Case {
    let (end_code, signal) = (Some(end_code), Some(signal));
    Case { name, flags, reason: "", answer: None, end_flags, end_code, details, signal }
}

/// After response headers.
const fn broken(name: &'static str, flags: u64, end_flags: u64, details: &'static str, signal: &'static str) -> Case {
    let answer = Some(Answer { code: 200, headers: &[], trailers: &[] });
    Case { name, flags, reason: "", answer, end_flags, end_code: None, details, signal: Some(signal) }
}

/// Complete.
const fn answered(
    name: &'static str,
    code: u32,
    headers: &'static [(&'static str, &'static str)],
    trailers: &'static [(&'static str, &'static str)],
    signal: &'static str,
) -> Case {
    let answer = Some(Answer { code, headers, trailers });
    let (details, signal) = ("via_upstream", Some(signal));
    Case { name, flags: 0, reason: "", answer, end_flags: 0, end_code: None, details, signal }
}

macro_rules! before {
    ($why:literal) => {
        concat!("upstream_reset_before_response_started{", $why, "}")
    };
}
macro_rules! after {
    ($why:literal) => {
        concat!("upstream_reset_after_response_started{", $why, "}")
    };
}

const GRPC: (&str, &str) = ("content-type", "application/grpc+proto");

const CASES: &[Case] = &[
    Case {
        reason: "delayed connect error: Connection refused",
        ..failed(
            "refused",
            UF,
            UF,
            503,
            before!("remote_connection_failure|delayed_connect_error:_Connection_refused"),
            "refused",
        )
    },
    failed("connect timeout", UF, UF, 503, before!("connection_timeout"), "unreachable"),
    Case {
        reason: "failed to bind to 192.0.2.1: Cannot assign requested address",
        ..failed("local bind", UF, UF, 503, before!("local_connection_failure|failed_to_bind_to_192.0.2.1"), "local")
    },
    Case {
        reason: "TLS_error:|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end",
        ..failed(
            "TLS to plaintext",
            UF,
            UF,
            503,
            before!("remote_connection_failure|TLS_error:|268435703"),
            "unreachable",
        )
    },
    failed("reset", UC, UC, 503, before!("connection_termination"), "reset"),
    failed("garbage", UPE, UPE, 502, before!("protocol_error"), "reset"),
    broken("cut body", UPE, UPE, after!("protocol_error"), "truncated"),
    failed("route timeout", 0, UT, 504, "response_timeout", "timeout"),
    broken("route timeout in the body", 0, UT, "response_timeout", "timeout"),
    failed("per-try timeout", UT, UT | URX, 504, "upstream_per_try_timeout", "timeout"),
    failed("per-try timeout, no retries", UT, UT, 504, "upstream_per_try_timeout", "timeout"),
    failed("per-try idle timeout", SI, UT | URX, 504, "upstream_per_try_idle_timeout", "timeout"),
    failed("client closes", 0, DC, 0, "downstream_remote_disconnect", "cancelled"),
    broken("client closes in the body", 0, DC, "downstream_remote_disconnect", "cancelled"),
    failed("client resets the stream", 0, DR, 0, "http2.remote_reset", "cancelled"),
    failed("route's idle timeout", 0, SI, 504, "stream_idle_timeout", "timeout"),
    failed("route's longest stream", 0, 0, 504, "max_duration_timeout", "timeout"),
    failed("cluster's longest stream", 0, UMSDR, 504, "upstream_max_stream_duration_reached", "timeout"),
    failed("refused stream", UR, UR, 503, before!("remote_refused_stream_reset"), "refused"),
    failed("reset stream", UR, UR, 503, before!("remote_reset"), "reset"),
    failed("protocol error", UPE, UPE, 502, before!("protocol_error"), "reset"),
    broken("stream reset in the body", UR, UR, after!("remote_reset"), "truncated"),
    broken("stream refused in the body", UR, UR, after!("remote_refused_stream_reset"), "truncated"),
    failed("last retry reset", UC, UC | URX, 503, before!("connection_termination"), "reset"),
    failed("no retry left in the circuit breaker", UC, UO | UC, 503, before!("connection_termination"), "reset"),
    failed("overflow", UO, UO, 503, before!("overflow"), "local"),
    answered("200", 200, &[], &[], "answered"),
    answered("404", 404, &[], &[], "answered"),
    answered("501", 501, &[], &[], "answered"),
    answered("500", 500, &[], &[], "error"),
    answered("502", 502, &[], &[], "error"),
    answered("503", 503, &[], &[], "error"),
    answered("504", 504, &[], &[], "error"),
    answered("429", 429, &[], &[], "pushback"),
    answered("503 retry-after", 503, &[("retry-after", "1")], &[], "pushback"),
    answered("500 retry-after", 500, &[("retry-after", "1")], &[], "error"),
    answered("503 overloaded", 503, &[("x-envoy-overloaded", "true")], &[], "pushback"),
    answered("sidecar: refused", 503, &[("proxy-status", "sidecar; error=connection_refused")], &[], "refused"),
    answered("sidecar: reset", 503, &[("proxy-status", "sidecar; error=connection_terminated")], &[], "reset"),
    answered("sidecar: unreachable", 503, &[("proxy-status", "sidecar; error=connection_timeout")], &[], "unreachable"),
    answered("gRPC OK", 200, &[GRPC], &[("grpc-status", "0")], "answered"),
    answered("gRPC UNAVAILABLE", 200, &[GRPC], &[("grpc-status", "14")], "error"),
    answered("gRPC UNAVAILABLE, trailers only", 200, &[GRPC, ("grpc-status", "14")], &[], "error"),
    answered("gRPC UNKNOWN", 200, &[GRPC], &[("grpc-status", "2")], "error"),
    answered("gRPC INTERNAL", 200, &[GRPC], &[("grpc-status", "13")], "error"),
    answered("gRPC DATA_LOSS", 200, &[GRPC], &[("grpc-status", "15")], "error"),
    answered("gRPC NOT_FOUND", 200, &[GRPC], &[("grpc-status", "5")], "answered"),
    answered("gRPC RESOURCE_EXHAUSTED", 200, &[GRPC], &[("grpc-status", "8")], "pushback"),
    answered("not gRPC, whatever it says", 200, &[("grpc-status", "14")], &[], "answered"),
];

/// The moments at which the module hears of an attempt and its request.
#[derive(Clone, Copy)]
enum Moment {
    AttemptAnswered,
    AttemptEnds,
    ResponseStarts,
    RequestEnds,
}
use Moment::*;

impl Case {
    /// The orders in which Envoy may tell.
    fn orders(&self) -> &'static [&'static [Moment]] {
        let client_gone = self.end_flags & (DC | DR) != 0;
        match &self.answer {
            None if client_gone => &[&[RequestEnds, AttemptEnds]],
            None => &[&[AttemptEnds, ResponseStarts, RequestEnds]],
            Some(_) if client_gone => &[&[AttemptAnswered, ResponseStarts, RequestEnds, AttemptEnds]],
            Some(_) if self.flags | self.end_flags != 0 => {
                &[&[AttemptAnswered, ResponseStarts, AttemptEnds, RequestEnds]]
            }
            // With a body, and without.
            Some(_) => &[
                &[AttemptAnswered, ResponseStarts, AttemptEnds, RequestEnds],
                &[AttemptAnswered, AttemptEnds, ResponseStarts, RequestEnds],
            ],
        }
    }

    fn with_answer(&self, mut end: End, answer: &Answer) -> End {
        end = end.code(answer.code);
        end = answer.headers.iter().fold(end, |end, (name, value)| end.header(name, value));
        answer.trailers.iter().fold(end, |end, (name, value)| end.trailer(name, value))
    }

    /// Whether the access-log filter of docs/install-envoy.md lets the attempt's entry through: `response_flag_filter`,
    /// `status_code_filter` (at least 400, or none), or `grpc_status_filter`.
    fn is_filtered_out(&self) -> bool {
        let grpc = |answer: &Answer| {
            let statuses = ["4", "8", "13", "14", "15"].map(|status| ("grpc-status", status));
            let has = |headers: &[(&str, &str)]| headers.iter().any(|header| statuses.contains(header));
            answer.headers.contains(&GRPC) && (has(answer.headers) || has(answer.trailers))
        };
        self.flags == 0 && self.answer.as_ref().is_some_and(|answer| answer.code < 400 && !grpc(answer))
    }

    /// One request for `cluster` with one attempt.
    fn play(&self, at: &Attached, order: &[Moment], cluster: &str) {
        let mut request = at.host.request(at.decide).cluster(cluster);
        if self.answer.as_ref().is_some_and(|answer| answer.headers.contains(&GRPC)) {
            request = request.header(GRPC.0, GRPC.1);
        }
        let request = request.begin();
        let mut attempt = at.guard.map(|guard| at.host.attempt(guard, &request, 1).begin());
        let mut log = End::of_attempt(&request, 1).flags(self.flags);
        if !self.reason.is_empty() {
            log = log.failure_reason(self.reason);
        }
        let mut end = End::new().flags(self.end_flags).details(self.details);
        let (mut code, mut headers) = (self.end_code.unwrap_or_default(), Vec::new());
        if let Some(answer) = &self.answer {
            log = self.with_answer(log, answer);
            end = self.with_answer(end, answer);
            (code, headers) = (answer.code, answer.headers.to_vec());
        } else if code > 0 {
            end = end.code(code);
        }
        let mut request = Some(request);
        for moment in order {
            match moment {
                AttemptAnswered => {
                    if let Some(attempt) = &attempt {
                        assert!(attempt.response(code, headers.clone()));
                    }
                }
                AttemptEnds => {
                    if let Some(attempt) = attempt.take() {
                        attempt.end();
                    }
                    if !(at.watches_only_failures && self.is_filtered_out()) {
                        at.attempt_log(&log);
                    }
                }
                ResponseStarts => assert!(request.as_ref().unwrap().response(code, headers.clone())),
                RequestEnds => request.take().unwrap().end_with(&end),
            }
        }
    }
}

#[test]
fn every_case_has_its_signal_at_every_level() {
    for level in [Level::Decide, Level::Watch, Level::Guard] {
        for apart in [false, true] {
            let at = Attached { apart, ..Attached::new(level) };
            for case in CASES {
                for (number, order) in case.orders().iter().enumerate() {
                    let cluster = format!("case {} {level:?} {apart} {number}", case.name);
                    // The first request of a cluster shows whether `watch` sees it.
                    CASES.iter().find(|case| case.name == "200").unwrap().play(
                        &at,
                        &[AttemptEnds, RequestEnds],
                        &cluster,
                    );
                    case.play(&at, order, &cluster);
                    at.tick();
                    let mut expected = of([("answered", 1)]);
                    if let Some(signal) = case.signal {
                        *expected.entry(signal.to_owned()).or_default() += 1;
                    }
                    assert_eq!(attempts(&at.host, &cluster), expected, "{cluster}");
                }
            }
        }
    }
}

#[test]
fn requests_without_an_attempt_count_none() {
    for level in [Level::Decide, Level::Watch, Level::Guard] {
        let at = Attached::new(level);
        let cluster = format!("no attempt {level:?}");
        for (flags, code, details) in [
            (UH, 503, "no_healthy_upstream"),
            (0, 403, "rbac_access_denied_matched_policy[none]"),
            (0, 503, "wasm_fail_stream"),
        ] {
            let request = at.host.request(at.decide).cluster(&cluster).begin();
            request.response(code, []);
            request.end_with(&End::new().flags(flags).code(code).details(details));
        }
        // Where there is no route to a cluster, there is no cluster.
        for (flags, code, details) in
            [(NC, 503, "cluster_not_found"), (NR, 404, "route_not_found"), (0, 200, "direct_response")]
        {
            let request = at.host.request(at.decide).begin();
            request.response(code, []);
            request.end_with(&End::new().flags(flags).code(code).details(details));
        }
        at.tick();
        assert_eq!(attempts(&at.host, &cluster), of([]), "{level:?}");
    }
}

#[test]
fn watch_alone_takes_what_the_attempt_tells() {
    let at = Attached::new(Level::Watch);
    let cluster = "watch alone";
    let attempt = || End::new().cluster(cluster).request_header(":authority", "upstream.test");
    let dropped = |ms: u64| {
        let duration = std::time::Duration::from_millis(ms);
        attempt().request_header("x-envoy-expected-rq-timeout-ms", "200").duration(duration)
    };
    for end in [
        attempt().flags(UC),
        attempt().flags(UF).failure_reason("delayed connect error: Connection refused"),
        attempt().code(200),
        attempt().code(503),
        attempt().flags(UR),
        // Envoy had announced that it would wait so long, and did; and here it did not.
        dropped(201),
        dropped(150),
        attempt(),
    ] {
        at.attempt_log(&end);
        at.tick();
    }
    let expected = of([("answered", 1), ("cancelled", 2), ("error", 1), ("refused", 1), ("reset", 2), ("timeout", 1)]);
    assert_eq!(attempts(&at.host, cluster), expected);
}

/// Whatever the filter keeps from `watch`, the end of the request tells `decide`.
#[test]
fn every_case_has_its_signal_where_a_filter_passes_only_failures() {
    for level in [Level::Watch, Level::Guard] {
        for first in ["200", "reset"] {
            let at = Attached::only_failures(level);
            for case in CASES {
                for (number, order) in case.orders().iter().enumerate() {
                    let cluster = format!("filtered {} {level:?} {first} {number}", case.name);
                    let before = CASES.iter().find(|case| case.name == first).unwrap();
                    before.play(&at, before.orders()[0], &cluster);
                    case.play(&at, order, &cluster);
                    at.tick();
                    let mut expected = of([(before.signal.unwrap(), 1)]);
                    if let Some(signal) = case.signal {
                        *expected.entry(signal.to_owned()).or_default() += 1;
                    }
                    assert_eq!(attempts(&at.host, &cluster), expected, "{cluster}");
                }
            }
        }
    }
}

#[test]
fn a_plain_request_costs_less_where_a_filter_passes_only_failures() {
    let calls = |at: &Attached| {
        let case = CASES.iter().find(|case| case.name == "200").unwrap();
        let play = || (0..100).for_each(|_| case.play(at, case.orders()[0], "plain and filtered"));
        play();
        let properties = || at.host.calls().get(&HostCall::GetProperty).copied().unwrap_or_default();
        let before = properties();
        play();
        properties() - before
    };
    // The cluster's name and the flags; one in eight attempts, and one in eight requests, tells its host.
    let read = calls(&Attached::only_failures(Level::Watch));
    assert!((200..250).contains(&read), "{read}");
}

#[test]
fn hedged_attempts_count_as_they_ended() {
    for level in [Level::Watch, Level::Guard] {
        let at = Attached::new(level);
        let cluster = format!("hedged {level:?}");
        let request = at.host.request(at.decide).cluster(&cluster).begin();
        let both = [1, 2].map(|number| at.guard.map(|guard| at.host.attempt(guard, &request, number).begin()));
        let [first, second] = [1, 2].map(|number| End::of_attempt(&request, number));
        request.response(200, []);
        for (attempt, end) in both.into_iter().zip([first.flags(UT).code(200), second]) {
            if let Some(attempt) = attempt {
                attempt.end();
            }
            at.attempt_log(&end);
        }
        request.end_with(&End::new().code(200).details("via_upstream"));
        at.tick();
        assert_eq!(attempts(&at.host, &cluster), of([("answered", 1), ("cancelled", 1)]), "{level:?}");
    }
}

#[test]
fn a_hedge_that_lost_did_not_time_out_with_the_winner() {
    let at = Attached::new(Level::Watch);
    let cluster = "hedged, then cut short";
    let request = at.host.request(at.decide).cluster(cluster).begin();
    at.attempt_log(&End::of_attempt(&request, 1));
    request.set("response.code_details", "via_upstream");
    request.response(200, []);
    at.host.advance(std::time::Duration::from_secs(1));
    at.attempt_log(&End::of_attempt(&request, 2).code(200));
    request.end_with(&End::new().flags(UT).code(200).details("response_timeout"));
    at.tick();
    assert_eq!(attempts(&at.host, cluster), of([("cancelled", 1), ("timeout", 1)]));
}

#[test]
fn mirrored_attempts_count_nowhere() {
    let at = Attached::new(Level::Guard);
    let cluster = "mirrored";
    for authority in ["upstream.test-shadow", "upstream.test-shadow:8080"] {
        let end = End::new().cluster(cluster).code(503).request_header(":authority", authority);
        at.attempt_log(&end.request_header("x-envoy-internal", "true"));
    }
    at.tick();
    assert_eq!(attempts(&at.host, cluster), of([]));
}

#[test]
fn what_came_through_no_listener_is_mirrored_where_envoy_tells_of_listeners() {
    let at = Attached::new(Level::Guard);
    let cluster = "internal";
    let end = || End::new().cluster(cluster).code(200).request_header(":authority", "upstream.test");
    let internal = || end().request_header("x-envoy-internal", "true");
    at.attempt_log(&internal().property("xds.listener_direction", 0));
    // From here on it is known that this Envoy tells.
    at.attempt_log(&internal());
    at.attempt_log(&end());
    at.tick();
    assert_eq!(attempts(&at.host, cluster), of([("answered", 2)]));
}
