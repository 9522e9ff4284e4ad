//! What the end of an attempt says: one table per question. The rows are what an Envoy 1.40 shows for each failure, in the
//! router's `upstream_log` and at the end of the request. `signal/proxy_status.rs` has what a sidecar states.

use std::time::Duration;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::signal::Open::{self, Dropped, StreamReset};
use weir::signal::Signal::{self, *};
use weir::signal::Verdict::{self, Certain};
use weir::signal::{Answer, Attempt, Flags, RequestEnd, is_stream};

// The crate links only with a host beside it.
mod fake_host;
#[path = "signal/proxy_status.rs"]
mod proxy_status;

// Envoy's flags by their names in access logs, as bits of `response.flags`: written down once more, not taken from the crate.
const NO_FLAGS: u64 = 0;
const LH: u64 = 1 << 0;
const UH: u64 = 1 << 1;
const UT: u64 = 1 << 2;
const LR: u64 = 1 << 3;
const UR: u64 = 1 << 4;
const UF: u64 = 1 << 5;
const UC: u64 = 1 << 6;
const UO: u64 = 1 << 7;
const NR: u64 = 1 << 8;
const FI: u64 = 1 << 10;
const RL: u64 = 1 << 11;
const DC: u64 = 1 << 14;
const URX: u64 = 1 << 15;
const SI: u64 = 1 << 16;
const DPE: u64 = 1 << 18;
const UMSDR: u64 = 1 << 19;
const UPE: u64 = 1 << 23;
const NC: u64 = 1 << 24;
const OM: u64 = 1 << 25;
const DR: u64 = 1 << 28;
const UNKNOWN_FLAG: u64 = 1 << 63;

/// No response headers.
const NO_STATUS: u16 = 0;

fn answer(status: u16) -> Answer<'static> {
    Answer { status: (status != NO_STATUS).then_some(status), ..Answer::default() }
}

fn grpc(status: u32) -> Answer<'static> {
    Answer { grpc_status: Some(status), ..answer(200) }
}

fn classify(flags: u64, answer: Answer<'_>, failure_reason: &str) -> Verdict {
    Attempt { flags: Flags(flags), answer, failure_reason: failure_reason.as_bytes() }.classify()
}

fn open(signal: Signal) -> Verdict {
    Verdict::Open(Open::Answered(signal))
}

const DROPPED: Verdict = Verdict::Open(Dropped);
const STREAM_RESET: Verdict = Verdict::Open(StreamReset);

#[test]
fn an_attempts_own_flags_and_status() {
    let table = [
        // No connection. (Why comes with `transport_failure_reason`, see below.)
        ("connect timeout", UF, NO_STATUS, Certain(Unreachable)),
        ("max_pending or max_connections reached", UO, NO_STATUS, Certain(Local)),
        ("no healthy host", UH, NO_STATUS, Certain(Local)),
        // The connection or stream breaks.
        ("RST or FIN before headers", UC, NO_STATUS, Certain(Reset)),
        ("RST or FIN before headers, 503 seen first", UC, 503, Certain(Truncated)),
        ("GOAWAY that includes the stream, then close", UC, NO_STATUS, Certain(Reset)),
        ("close mid body, HTTP/1 until EOF", UC, 200, Certain(Truncated)),
        ("garbage instead of headers", UPE, NO_STATUS, Certain(Reset)),
        ("RST or FIN mid body", UPE, 200, Certain(Truncated)),
        ("HTTP/2 RST_STREAM(PROTOCOL_ERROR)", UPE, NO_STATUS, Certain(Reset)),
        ("HTTP/2 RST_STREAM, of any other sort", UR, NO_STATUS, STREAM_RESET),
        ("HTTP/2 RST_STREAM mid body", UR, 200, Certain(Truncated)),
        ("HTTP/2 RST_STREAM in the body of a 500", UR, 500, Certain(Truncated)),
        ("local reset", LR, NO_STATUS, Certain(Reset)),
        ("local reset mid body", LR, 200, Certain(Truncated)),
        // Too late.
        ("per-try timeout", UT, NO_STATUS, Certain(Timeout)),
        ("per-try timeout of a hedged attempt that answers later", UT, 200, Certain(Answered)),
        ("the same, and the answer is a failure", UT, 503, Certain(Error)),
        ("the same, and it is a pushback", UT, 429, Certain(Pushback)),
        ("per-try idle timeout", SI, NO_STATUS, Certain(Timeout)),
        ("per-try idle timeout mid body", SI, 200, Certain(Closed)),
        ("the upstream's max_stream_duration", UMSDR, NO_STATUS, Certain(Timeout)),
        ("the upstream's max_stream_duration mid body", UMSDR, 200, Certain(Timeout)),
        // Nothing but the request's end tells.
        ("global timeout, client gone, idle timeout, hedge lost, vetoed", NO_FLAGS, NO_STATUS, DROPPED),
        ("answered; or global timeout or client gone mid body", NO_FLAGS, 200, open(Answered)),
        ("GOAWAY, then answers", NO_FLAGS, 200, open(Answered)),
        ("404", NO_FLAGS, 404, open(Answered)),
        ("408", NO_FLAGS, 408, open(Answered)),
        ("429", NO_FLAGS, 429, open(Pushback)),
        ("500", NO_FLAGS, 500, open(Error)),
        ("503, then the connection closes during the upload", NO_FLAGS, 503, open(Error)),
        // The client went first, whatever else.
        ("client gone", DC, NO_STATUS, Certain(Cancelled)),
        ("client gone mid body", DC, 200, Certain(Cancelled)),
        ("client reset the stream", DR, NO_STATUS, Certain(Cancelled)),
        ("client reset the stream mid body", DR, 503, Certain(Cancelled)),
        ("client broke the protocol", DPE, NO_STATUS, Certain(Cancelled)),
        // Several.
        ("client gone, then the upstream too", DC | UC, NO_STATUS, Certain(Cancelled)),
        ("client gone while it took too long", DR | UT, NO_STATUS, Certain(Cancelled)),
        ("retries exhausted", UC | URX, NO_STATUS, Certain(Reset)),
        ("retry refused by max_retries", UO | UC, NO_STATUS, Certain(Local)),
        ("connect failure of a hedged attempt that had timed out", UF | UT, NO_STATUS, Certain(Unreachable)),
        ("reset of a hedged attempt that had timed out", UC | UT, NO_STATUS, Certain(Reset)),
        ("stream reset of a hedged attempt that had timed out", UR | UT, NO_STATUS, STREAM_RESET),
        ("reset mid body of a hedged attempt that had timed out", UPE | UT, 200, Certain(Truncated)),
        // Flags that say nothing of the upstream.
        ("retries exhausted, alone", URX, NO_STATUS, Certain(Local)),
        ("retries exhausted on a status", URX, 503, Certain(Error)),
        ("health check", LH, 200, Certain(Answered)),
        ("fault injected", FI, 503, Certain(Error)),
        ("rate limited", RL, 429, Certain(Pushback)),
        ("no route", NR, NO_STATUS, Certain(Local)),
        ("no cluster", NC, NO_STATUS, Certain(Local)),
        ("overload manager", OM, NO_STATUS, Certain(Local)),
        ("a flag of a later Envoy", UNKNOWN_FLAG, NO_STATUS, Certain(Local)),
        ("a flag of a later Envoy, and an answer", UNKNOWN_FLAG, 200, Certain(Answered)),
    ];
    for (name, flags, status, verdict) in table {
        assert_eq!(classify(flags, answer(status), ""), verdict, "{name}");
    }
}

/// What may end at any time is no failure when it does: its headers were an answer.
#[test]
fn what_comes_of_a_stream_later() {
    let stream = |flags: u64, status: u16| classify(flags, Answer { stream: true, ..answer(status) }, "");
    for flags in [UC, UPE, UR, LR, SI, UMSDR] {
        for status in [101, 200] {
            assert_eq!(stream(flags, status), Certain(Closed), "flags {flags:x}, status {status}");
        }
    }
    // Without an answer it was none; a client that leaves, leaves; and what missed its per-try timeout answered later.
    assert_eq!(stream(UC, NO_STATUS), Certain(Reset));
    assert_eq!(stream(DC, 101), Certain(Cancelled));
    assert_eq!(stream(UT, 200), Certain(Answered));
    assert_eq!(stream(NO_FLAGS, 101), open(Answered));

    let end = |flags: u64, status: u16, details: &'static str, stream: bool| RequestEnd {
        flags: Flags(flags),
        answer: Answer { stream, ..answer(status) },
        details: details.as_bytes(),
    };
    let table = [
        (UC, 101, "upstream_reset_after_response_started{connection_termination}", true, Closed),
        (UC, 200, "upstream_reset_after_response_started{connection_termination}", false, Truncated),
        (UT, 200, "response_timeout", true, Closed),
        (UT, 200, "response_timeout", false, Timeout),
        (UT, 504, "response_timeout", true, Timeout),
        (SI, 200, "stream_idle_timeout", false, Closed),
        (SI, 504, "stream_idle_timeout", false, Timeout),
        (NO_FLAGS, 200, "max_duration_timeout", true, Closed),
        (NO_FLAGS, 504, "max_duration_timeout", true, Timeout),
        (DC, 101, "downstream_remote_disconnect", true, Cancelled),
    ];
    for (flags, status, details, stream, signal) in table {
        let end = end(flags, status, details, stream);
        assert_eq!(end.last_attempt(), Some(signal), "{details}, {status}");
    }
    // The route's timeout leaves no mark on the attempt.
    assert_eq!(Open::Answered(Answered).resolve(&end(UT, 200, "response_timeout", true)), Closed);
    assert_eq!(Open::Answered(Answered).resolve(&end(SI, 200, "stream_idle_timeout", false)), Closed);
    assert_eq!(Open::Answered(Answered).resolve(&end(UT, 200, "response_timeout", false)), Timeout);
    assert_eq!(Open::Answered(Answered).resolve(&end(DC, 101, "downstream_remote_disconnect", true)), Answered);
    // Envoy's own answer to a gRPC call has its status in the headers.
    let late = |grpc_status| RequestEnd {
        flags: Flags(UT),
        answer: Answer { stream: true, grpc_status, ..answer(200) },
        details: b"response_timeout",
    };
    assert_eq!(late(Some(4)).last_attempt(), Some(Timeout));
    assert_eq!(late(None).last_attempt(), Some(Closed));
}

#[test]
fn what_a_stream_is() {
    const SECOND: Duration = Duration::from_secs(1);
    let soon = Duration::from_millis(999);
    for (status, connect, content_type, lasted, stream) in [
        (101, false, "", Duration::ZERO, true),
        (200, true, "", Duration::ZERO, true),
        (200, false, "text/event-stream", soon, true),
        (200, false, "Text/Event-Stream; charset=utf-8", soon, true),
        (200, false, "text/event", soon, false),
        (200, false, "application/grpc", soon, false),
        (200, false, "application/json", soon, false),
        (200, false, "application/json", SECOND, true),
        (200, false, "", SECOND, true),
    ] {
        assert_eq!(
            is_stream(Some(status), connect, content_type.as_bytes(), lasted),
            stream,
            "{status} {content_type}"
        );
    }
}

#[test]
fn why_there_was_no_connection() {
    let table = [
        ("", Unreachable),
        ("-", Unreachable),
        ("delayed connect error: Connection refused", Refused),
        ("delayed_connect_error:_Connection_refused", Refused),
        ("immediate connect error: Connection refused", Refused),
        ("connection refused", Refused),
        ("delayed connect error: No route to host", Unreachable),
        ("immediate connect error: Network is unreachable", Unreachable),
        ("delayed connect error: Connection reset by peer", Unreachable),
        ("delayed connect error: 111", Unreachable),
        ("TLS_error:|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end", Unreachable),
        ("TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end", Unreachable),
        ("failed to bind to 192.0.2.1:0: Cannot assign requested address", Local),
        ("failed_to_bind_to_192.0.2.1:0:_Cannot_assign_requested_address", Local),
        ("local_connection_failure", Local),
        ("\u{fffd}\0", Unreachable),
    ];
    for (reason, signal) in table {
        assert_eq!(classify(UF, answer(NO_STATUS), reason), Certain(signal), "{reason:?}");
    }
    // Without UF, the reason is that of an earlier connection or none at all.
    assert_eq!(classify(UC, answer(NO_STATUS), "delayed connect error: Connection refused"), Certain(Reset));
    assert_eq!(classify(NO_FLAGS, answer(200), "delayed connect error: Connection refused"), open(Answered));
}

#[test]
fn no_flag_is_forgotten() {
    let gone = DC | DR | DPE;
    for first in 0..64 {
        for second in first..64 {
            for status in [NO_STATUS, 200, 429, 503] {
                let flags = 1 << first | 1 << second;
                let verdict = classify(flags, answer(status), "");
                let case = format!("bits {first} and {second}, status {status}");
                if flags & gone != 0 {
                    assert_eq!(verdict, Certain(Cancelled), "{case}");
                } else if flags & (UO | UH) != 0 {
                    assert_eq!(verdict, Certain(Local), "{case}");
                } else if flags & UF == 0 && flags & UR != 0 && status == NO_STATUS {
                    assert_eq!(verdict, STREAM_RESET, "{case}");
                } else {
                    assert!(matches!(verdict, Certain(signal) if signal != Cancelled), "{case}: {verdict:?}");
                }
            }
        }
    }
}

#[test]
fn answers() {
    let plain = [
        (NO_STATUS, None),
        (100, Some(Answered)),
        (101, Some(Answered)),
        (200, Some(Answered)),
        (304, Some(Answered)),
        (400, Some(Answered)),
        (404, Some(Answered)),
        (408, Some(Answered)),
        (428, Some(Answered)),
        (429, Some(Pushback)),
        (430, Some(Answered)),
        (499, Some(Answered)),
        (500, Some(Error)),
        (501, Some(Answered)),
        (502, Some(Error)),
        (503, Some(Error)),
        (504, Some(Error)),
        (505, Some(Answered)),
        (599, Some(Answered)),
        (999, Some(Answered)),
    ];
    for (status, signal) in plain {
        assert_eq!(answer(status).signal(), signal, "{status}");
    }
    for status in [200, 404, 429, 500, 502, 503, 504] {
        let plain = answer(status).signal().unwrap();
        let retry_after = Answer { retry_after: true, ..answer(status) };
        let expected = if status == 503 { Pushback } else { plain };
        assert_eq!(retry_after.signal(), Some(expected), "{status} with retry-after");
        let overloaded = Answer { overloaded: true, ..answer(status) };
        assert_eq!(overloaded.signal(), Some(Pushback), "{status} with x-envoy-overloaded");
    }
    let nothing = Answer { retry_after: true, overloaded: true, grpc_status: Some(14), ..answer(NO_STATUS) };
    assert_eq!(nothing.signal(), None, "no headers, no answer");
}

#[test]
fn grpc_answers() {
    let names = "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED \
        RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS \
        UNAUTHENTICATED 17 18";
    for (name, status) in names.split_whitespace().zip(0..) {
        let signal = match name {
            "RESOURCE_EXHAUSTED" => Pushback,
            "UNKNOWN" | "INTERNAL" | "UNAVAILABLE" | "DATA_LOSS" => Error,
            _ => Answered,
        };
        assert_eq!(grpc(status).signal(), Some(signal), "{name}");
        assert_eq!(classify(NO_FLAGS, grpc(status), ""), open(signal), "{name} at the attempt's end");
        assert_eq!(classify(UT, grpc(status), ""), Certain(signal), "{name} of a hedged attempt");
        assert_eq!(classify(UPE, grpc(status), ""), Certain(Truncated), "{name}, then cut off");
        let overloaded = Answer { overloaded: true, ..grpc(status) };
        assert_eq!(overloaded.signal(), Some(Pushback), "{name} with a retry pushback of \"do not retry\"");
    }
    // The HTTP status counts first: what is in front of a gRPC server answers in HTTP.
    let table = [(503, 0, Error), (503, 8, Error), (429, 14, Pushback), (404, 14, Error), (404, 12, Answered)];
    for (status, grpc_status, signal) in table {
        let answer = Answer { grpc_status: Some(grpc_status), ..answer(status) };
        assert_eq!(answer.signal(), Some(signal), "{status} with gRPC {grpc_status}");
    }
    assert_eq!(Answer { retry_after: true, ..grpc(14) }.signal(), Some(Error), "retry-after is of 503 only");
}

fn end(flags: u64, status: u16, details: &str) -> RequestEnd<'_> {
    RequestEnd { flags: Flags(flags), answer: answer(status), details: details.as_bytes() }
}

/// The ends that decide about an attempt, and what each makes of one that was dropped.
const ENDS: [(&str, u64, u16, &str, Signal); 13] = [
    ("global timeout", UT, 504, "response_timeout", Timeout),
    ("global timeout mid body", UT, 200, "response_timeout", Timeout),
    ("per-try timeout", UT | URX, 504, "upstream_per_try_timeout", Timeout),
    ("idle timeout of the route", SI, 504, "stream_idle_timeout", Timeout),
    ("max_stream_duration of the route", NO_FLAGS, 504, "max_duration_timeout", Timeout),
    ("max_stream_duration of the cluster", UMSDR, 504, "upstream_max_stream_duration_reached", Timeout),
    ("client gone", DC, NO_STATUS, "downstream_remote_disconnect", Cancelled),
    ("client gone mid body", DC, 200, "downstream_remote_disconnect", Cancelled),
    ("client reset the stream", DR, NO_STATUS, "http2.remote_reset", Cancelled),
    ("hedge lost", NO_FLAGS, 200, "via_upstream", Cancelled),
    ("vetoed", NO_FLAGS, 503, "", Cancelled),
    ("another attempt's reset", UC, 503, "upstream_reset_before_response_started{connection_termination}", Cancelled),
    ("nothing known", NO_FLAGS, NO_STATUS, "", Cancelled),
];

#[test]
fn the_requests_end_explains_an_open_attempt() {
    for (name, flags, status, details, signal) in ENDS {
        let end = end(flags, status, details);
        assert_eq!(Dropped.resolve(&end), signal, "{name}");
        assert_eq!(StreamReset.resolve(&end), Reset, "a stream reset, and {name}");
        for said in Signal::ALL {
            let expected = match signal {
                Timeout if flags & SI != 0 => Closed,
                Timeout => Timeout,
                _ => said,
            };
            assert_eq!(Open::Answered(said).resolve(&end), expected, "{said:?}, and {name}");
        }
    }
    let resets = [
        ("upstream_reset_before_response_started{remote_refused_stream_reset}", Refused),
        ("upstream_reset_before_response_started{remote_reset}", Reset),
        ("upstream_reset_before_response_started{local_refused_stream_reset}", Reset),
        ("", Reset),
    ];
    for (details, signal) in resets {
        for flags in [UR, UR | URX] {
            assert_eq!(StreamReset.resolve(&end(flags, 503, details)), signal, "{details}");
            assert_eq!(Dropped.resolve(&end(flags, 503, details)), Cancelled, "{details}");
        }
    }
}

#[test]
fn without_the_requests_end_there_is_a_guess() {
    for expired in [false, true] {
        assert_eq!(Dropped.provisional(expired), if expired { Timeout } else { Cancelled });
        assert_eq!(StreamReset.provisional(expired), Reset);
        for said in Signal::ALL {
            assert_eq!(Open::Answered(said).provisional(expired), said);
        }
    }
}

/// `upstream_reset_before_response_started` and `upstream_reset_after_response_started`, as Envoy writes them.
fn before(reason: &str) -> String {
    format!("upstream_reset_before_response_started{{{reason}}}")
}

fn after(reason: &str) -> String {
    format!("upstream_reset_after_response_started{{{reason}}}")
}

#[test]
fn the_last_attempt_by_the_requests_end_alone() {
    let tls = "remote_connection_failure|TLS_error:|268435703:SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end";
    let table = [
        // No connection.
        (UF, 503, before("remote_connection_failure|delayed_connect_error:_Connection_refused"), Some(Refused)),
        (UF, 503, before("remote_connection_failure|immediate_connect_error:_Connection_refused"), Some(Refused)),
        (UF, 503, before("remote_connection_failure|delayed_connect_error:_No_route_to_host"), Some(Unreachable)),
        (UF, 503, before("remote_connection_failure"), Some(Unreachable)),
        (UF, 503, before("connection_timeout"), Some(Unreachable)),
        (UF, 503, before(tls), Some(Unreachable)),
        (UF, 503, before("local_connection_failure|failed_to_bind_to_192.0.2.1:0"), Some(Local)),
        (UF, 503, before("local_connection_failure"), Some(Local)),
        // The connection or stream breaks.
        (UC, 503, before("connection_termination"), Some(Reset)),
        (UPE, 502, before("protocol_error"), Some(Reset)),
        (UR, 503, before("remote_reset"), Some(Reset)),
        (UR, 503, before("remote_refused_stream_reset"), Some(Refused)),
        (LR, 503, before("local_reset"), Some(Reset)),
        (LR, 503, before("local_refused_stream_reset"), Some(Reset)),
        (UC | URX, 503, before("connection_termination"), Some(Reset)),
        (UO | UC, 503, before("connection_termination"), Some(Reset)),
        (UPE, 200, after("protocol_error"), Some(Truncated)),
        (UC, 200, after("connection_termination"), Some(Truncated)),
        (UR, 200, after("remote_reset"), Some(Truncated)),
        (UR, 200, after("remote_refused_stream_reset"), Some(Truncated)),
        (UR, 503, after("remote_reset"), Some(Truncated)),
        // Too late.
        (UT, 504, "response_timeout".to_owned(), Some(Timeout)),
        (UT, 200, "response_timeout".to_owned(), Some(Timeout)),
        (UT, 504, "upstream_per_try_timeout".to_owned(), Some(Timeout)),
        (UT | URX, 504, "upstream_per_try_timeout".to_owned(), Some(Timeout)),
        (UT | URX, 504, "upstream_per_try_idle_timeout".to_owned(), Some(Timeout)),
        (SI, 504, "stream_idle_timeout".to_owned(), Some(Timeout)),
        (NO_FLAGS, 504, "max_duration_timeout".to_owned(), Some(Timeout)),
        (UMSDR, 504, "upstream_max_stream_duration_reached".to_owned(), Some(Timeout)),
        // The client.
        (DC, NO_STATUS, "downstream_remote_disconnect".to_owned(), Some(Cancelled)),
        (DC, 200, "downstream_remote_disconnect".to_owned(), Some(Cancelled)),
        (DR, NO_STATUS, "http2.remote_reset".to_owned(), Some(Cancelled)),
        (DR, 200, "http2.remote_reset".to_owned(), Some(Cancelled)),
        (DC | UC, 503, before("connection_termination"), Some(Cancelled)),
        (DR | UT, 504, "response_timeout".to_owned(), Some(Cancelled)),
        // Answers.
        (NO_FLAGS, 200, "via_upstream".to_owned(), Some(Answered)),
        (NO_FLAGS, 404, "via_upstream".to_owned(), Some(Answered)),
        (NO_FLAGS, 429, "via_upstream".to_owned(), Some(Pushback)),
        (NO_FLAGS, 500, "via_upstream".to_owned(), Some(Error)),
        (NO_FLAGS, 503, "via_upstream".to_owned(), Some(Error)),
        (URX, 503, "via_upstream".to_owned(), Some(Error)),
        (UO, 503, "via_upstream".to_owned(), Some(Error)),
        (NO_FLAGS, 200, String::new(), Some(Answered)),
        (NO_FLAGS, 502, String::new(), Some(Error)),
        // Envoy itself.
        (UO, 503, before("overflow"), Some(Local)),
        (UH, 503, "no_healthy_upstream".to_owned(), None),
        (NC, 503, "cluster_not_found".to_owned(), None),
        (NR, 404, "route_not_found".to_owned(), None),
        (NO_FLAGS, 200, "direct_response".to_owned(), None),
        (FI, 503, "fault_filter_abort".to_owned(), None),
        (RL, 429, "local_rate_limited".to_owned(), None),
        (NO_FLAGS, 503, "weir_retry_budget_exhausted".to_owned(), None),
        (NO_FLAGS, 503, "weir_unsafe_retry".to_owned(), None),
        (NO_FLAGS, NO_STATUS, String::new(), None),
    ];
    for (flags, status, details, signal) in table {
        assert_eq!(end(flags, status, &details).last_attempt(), signal, "{status} {details:?}, flags {flags:#x}");
        // To gRPC, Envoy's own replies are 200 with a grpc-status; what happened is the same.
        let own_reply = !details.is_empty() && details != "via_upstream" && status >= 500;
        if own_reply {
            let grpc = RequestEnd { answer: grpc(14), ..end(flags, 200, &details) };
            assert_eq!(grpc.last_attempt(), signal, "gRPC: {details:?}, flags {flags:#x}");
        }
    }
}

#[test]
fn the_last_attempts_answer_counts_as_any() {
    let via = |answer| RequestEnd { flags: Flags(NO_FLAGS), answer, details: b"via_upstream" }.last_attempt();
    assert_eq!(via(grpc(0)), Some(Answered));
    assert_eq!(via(grpc(8)), Some(Pushback));
    assert_eq!(via(grpc(14)), Some(Error));
    assert_eq!(via(Answer { retry_after: true, ..answer(503) }), Some(Pushback));
    assert_eq!(via(Answer { overloaded: true, ..answer(503) }), Some(Pushback));
    assert_eq!(via(Answer { proxy_status: b"sidecar; error=connection_refused", ..answer(503) }), Some(Refused));
    // An overflow's reply bears x-envoy-overloaded; it is this Envoy's own.
    let overflow = before("overflow");
    let own = Answer { overloaded: true, ..answer(503) };
    let end = RequestEnd { answer: own, ..end(UO, 503, &overflow) };
    assert_eq!(end.last_attempt(), Some(Local));
}

#[test]
fn names_and_positions() {
    let names = Signal::ALL.map(Signal::name);
    let expected = "refused unreachable reset truncated timeout error pushback answered cancelled local closed";
    assert_eq!(names.join(" "), expected);
    for (position, signal) in Signal::ALL.into_iter().enumerate() {
        assert_eq!(signal.index(), position);
    }
}
