//! RFC 9209 `proxy-status`: what a proxy in front of the upstream says of an answer that it made itself.
//!
//! A sidecar turns a refused or reset connection into a plain 503. Where it states the cause, the signal is regained.
//!
//! What an Envoy states (`proxy_status_config`; measured with 1.36.2 and 1.40.0, tests/real_envoy/mesh.rs):
//!
//! | at the sidecar | status | `error` | if it retried in vain |
//! |---|---|---|---|
//! | refused; connect timeout; TLS (UF) | 503 | `connection_refused` | the same, of the last attempt only |
//! | connection broke before headers (UC) | 503 | `connection_terminated` | the same, of the last attempt only |
//! | route or per-try timeout (UT) | 504 | `http_response_timeout` | the same |
//! | not HTTP (UPE) | 502 | `http_protocol_error` | `destination_unavailable` |
//! | circuit breaker (UO), with `x-envoy-overloaded` | 503 | `connection_limit_reached` | not retried |
//! | no host (UH), no cluster (NC) | 503 | `destination_unavailable` | not retried |
//! | the application's own 503 or 504 | that | none; the application's own `proxy-status` passes | `destination_unavailable`, appended |
//! | broke after headers | that | none | not retried |
//!
//! So `connection_refused` speaks of the last attempt. `destination_unavailable` says nothing: RFC 9209 means it for a next hop
//! that is taken to be down, but a sidecar that retried in vain says it of an application's own 503 as well, and one such
//! answer must neither eject a host as if nothing listened there, nor count towards the circuit. Its status speaks. That
//! nothing was sent is certain only with `connection_refused`, `x-envoy-attempt-count: 1` (`include_attempt_count_in_response`,
//! which overwrites what the application sends) and no `x-envoy-upstream-service-time`, which Envoy adds to all that the
//! application answers.

use crate::signal::Signal;

/// The signal behind the error that the nearest proxy states; `None` when it states none, or one that says nothing of the
/// upstream. Only the last member of the list counts: proxies append theirs, so an error further left happened behind a
/// proxy that then got an ordinary answer, for a request that was processed.
#[must_use]
pub fn signal(value: &[u8]) -> Option<Signal> {
    let nearest = outside_quotes(value, b',').last()?;
    let error = outside_quotes(nearest, b';')
        .skip(1)
        .find_map(|parameter| parameter.trim_ascii().strip_prefix(b"error="))?
        .trim_ascii();
    ERRORS.iter().find(|(name, _)| name.as_bytes() == error).map(|(_, signal)| *signal)
}

/// The error types of RFC 9209, section 2.3, that say how an attempt ended, and what each says of the request.
/// (As a `match`, they cost the module four kilobytes.)
const ERRORS: [(&str, Signal); 17] = [
    ("connection_refused", Signal::Refused),
    ("connection_timeout", Signal::Unreachable),
    ("dns_timeout", Signal::Unreachable),
    ("dns_error", Signal::Unreachable),
    ("destination_not_found", Signal::Unreachable),
    ("destination_ip_prohibited", Signal::Unreachable),
    ("destination_ip_unroutable", Signal::Unreachable),
    ("tls_protocol_error", Signal::Unreachable),
    ("tls_certificate_error", Signal::Unreachable),
    ("tls_alert_received", Signal::Unreachable),
    ("connection_terminated", Signal::Reset),
    ("http_protocol_error", Signal::Reset),
    ("connection_read_timeout", Signal::Timeout),
    ("connection_write_timeout", Signal::Timeout),
    ("http_response_timeout", Signal::Timeout),
    ("http_response_incomplete", Signal::Truncated),
    ("connection_limit_reached", Signal::Pushback),
];

/// The parts of a structured field between separators that stand outside of quoted strings.
fn outside_quotes(value: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    value.split(move |&byte| {
        if escaped {
            escaped = false;
            return false;
        }
        match byte {
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ => {}
        }
        byte == separator && !quoted
    })
}
