//! RFC 9209 `proxy-status`: what a proxy in front of the upstream states.

use super::{NO_FLAGS, answer, classify, open};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::signal::Answer;
use weir::signal::Signal::{self, *};
use weir::signal::proxy_status::signal;

/// RFC 9209, section 2.3: all 32 error types.
const ERRORS: [(&str, Option<Signal>); 32] = [
    ("dns_timeout", Some(Unreachable)),
    ("dns_error", Some(Unreachable)),
    ("destination_not_found", Some(Unreachable)),
    // An Envoy that retried in vain says it of what the application answered.
    ("destination_unavailable", None),
    ("destination_ip_prohibited", Some(Unreachable)),
    ("destination_ip_unroutable", Some(Unreachable)),
    ("connection_refused", Some(Refused)),
    ("connection_terminated", Some(Reset)),
    ("connection_timeout", Some(Unreachable)),
    ("connection_read_timeout", Some(Timeout)),
    ("connection_write_timeout", Some(Timeout)),
    ("connection_limit_reached", Some(Pushback)),
    ("tls_protocol_error", Some(Unreachable)),
    ("tls_certificate_error", Some(Unreachable)),
    ("tls_alert_received", Some(Unreachable)),
    ("http_request_error", None),
    ("http_request_denied", None),
    ("http_response_incomplete", Some(Truncated)),
    ("http_response_header_section_size", None),
    ("http_response_header_size", None),
    ("http_response_body_size", None),
    ("http_response_trailer_section_size", None),
    ("http_response_trailer_size", None),
    ("http_response_transfer_coding", None),
    ("http_response_content_coding", None),
    ("http_response_timeout", Some(Timeout)),
    ("http_upgrade_failed", None),
    ("http_protocol_error", Some(Reset)),
    ("proxy_internal_response", None),
    ("proxy_internal_error", None),
    ("proxy_configuration_error", None),
    ("proxy_loop_detected", None),
];

#[test]
fn every_error_type() {
    for (error, expected) in ERRORS {
        let forms = [
            format!("envoy; error={error}"),
            format!("envoy;error={error}"),
            format!("\"envoy\" ;  error={error} ; details=\"x\""),
            format!("envoy; received-status=503; error={error}; next-hop=\"10.0.0.1:80\""),
            format!("  envoy; error={error}  "),
        ];
        for value in forms {
            assert_eq!(signal(value.as_bytes()), expected, "{value}");
        }
    }
}

#[test]
fn only_failures_are_explained() {
    let value = "istio-proxy; error=connection_refused; details=\"delayed connect error\"";
    let with = |status, grpc_status| Answer { grpc_status, proxy_status: value.as_bytes(), ..answer(status) };
    for status in [500, 502, 503, 504] {
        assert_eq!(classify(NO_FLAGS, with(status, None), ""), open(Refused), "{status}");
    }
    for status in [200, 404, 501, 505] {
        assert_eq!(classify(NO_FLAGS, with(status, None), ""), open(Answered), "{status}");
    }
    assert_eq!(with(429, None).signal(), Some(Pushback));
    let overloaded = Answer { overloaded: true, ..with(503, None) };
    assert_eq!(overloaded.signal(), Some(Pushback), "what says not now is not overruled");
    let retry_after = Answer { retry_after: true, ..with(503, None) };
    assert_eq!(retry_after.signal(), Some(Pushback), "what says not now is not overruled");
    for (grpc_status, expected) in [(0, Answered), (2, Refused), (8, Pushback), (12, Answered), (14, Refused)] {
        assert_eq!(with(200, Some(grpc_status)).signal(), Some(expected), "gRPC {grpc_status}");
    }
    for (error, expected) in ERRORS {
        let value = format!("envoy; error={error}");
        let answer = Answer { proxy_status: value.as_bytes(), ..answer(502) };
        assert_eq!(answer.signal(), Some(expected.unwrap_or(Error)), "{error}");
    }
}

#[test]
fn the_nearest_proxy_speaks() {
    let table = [
        ("far; error=connection_refused, near; error=connection_terminated", Some(Reset)),
        ("far; error=connection_refused,near;error=connection_timeout", Some(Unreachable)),
        // It got an ordinary answer, from a proxy that did not.
        ("far; error=connection_refused, near; received-status=503", None),
        ("far; error=connection_refused, near", None),
        ("far; error=connection_refused,", None),
        ("far, near; error=http_response_timeout", Some(Timeout)),
    ];
    for (value, expected) in table {
        assert_eq!(signal(value.as_bytes()), expected, "{value}");
    }
}

#[test]
fn separators_within_strings() {
    let table = [
        (r#"near; details="a, b"; error=connection_refused"#, Some(Refused)),
        (r#"near; details="a; error=connection_refused"; error=connection_terminated"#, Some(Reset)),
        (r#"near; details="; error=connection_refused""#, None),
        (r#"near; details=", x; error=connection_refused""#, None),
        (r#"near; details="\", x; error=connection_refused""#, None),
        (r#"near; details="\\", next; error=connection_refused"#, Some(Refused)),
        (r#"near; details="\\\"; error=connection_refused", next; error=dns_error"#, Some(Unreachable)),
        (r#""a, b; error=dns_error"; error=connection_refused"#, Some(Refused)),
        // A string that never ends takes the rest.
        (r#"far; error=dns_error, near; details="x, y; error=connection_refused"#, None),
        // Outside of a string a backslash is nothing but itself.
        (r#"near\; error=connection_refused"#, Some(Refused)),
        (r#"far\, near; error=connection_refused"#, Some(Refused)),
    ];
    for (value, expected) in table {
        assert_eq!(signal(value.as_bytes()), expected, "{value}");
    }
}

#[test]
fn what_is_no_error_says_nothing() {
    let table = [
        "",
        " ",
        ",",
        ";",
        ",;,;",
        "\"",
        "\\",
        "error=connection_refused",
        "near error=connection_refused",
        "near; error",
        "near; error=",
        "near; error=\"connection_refused\"",
        "near; error=connection_refused_by_me",
        "near; error=xconnection_refused",
        "near; error=CONNECTION_REFUSED",
        "near; Error=connection_refused",
        "near; xerror=connection_refused",
        "near; error = connection_refused",
        "near; error=200",
        "near; error=connection refused",
        "\u{e9}; error=\u{e9}",
    ];
    for value in table {
        assert_eq!(signal(value.as_bytes()), None, "{value:?}");
    }
    // Any bytes at all, and a very long value.
    for byte in 0..=255 {
        assert_eq!(signal(&[byte; 3]), None, "{byte}");
        let mut value = vec![byte, b';'];
        value.extend_from_slice(b"error=connection_refused");
        let expected = if byte == b'"' { None } else { Some(Refused) };
        assert_eq!(signal(&value), expected, "{byte} as the proxy's name");
    }
    let far = "far; details=\"\\\",;\"; error=dns_error, ".repeat(10_000);
    assert_eq!(signal(format!("{far}near; error=connection_refused").as_bytes()), Some(Refused));
    assert_eq!(signal("\\\",;=".repeat(100_000).as_bytes()), None);
}
