//! RFC 9209 `proxy-status`: what a proxy in front of the upstream says of an answer that it made itself.
//!
//! A sidecar turns a refused or reset connection into a plain 503. Where it states the cause, the signal is regained.

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
    // The error types of RFC 9209 section 2.3, and what each says of the request.
    Some(match error {
        b"connection_refused" => Signal::Refused,
        b"connection_timeout"
        | b"dns_timeout"
        | b"dns_error"
        | b"destination_not_found"
        | b"destination_unavailable"
        | b"destination_ip_prohibited"
        | b"destination_ip_unroutable"
        | b"tls_protocol_error"
        | b"tls_certificate_error"
        | b"tls_alert_received" => Signal::Unreachable,
        b"connection_terminated" | b"http_protocol_error" => Signal::Reset,
        b"connection_read_timeout" | b"connection_write_timeout" | b"http_response_timeout" => Signal::Timeout,
        b"http_response_incomplete" => Signal::Truncated,
        b"connection_limit_reached" => Signal::Pushback,
        _ => return None,
    })
}

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
