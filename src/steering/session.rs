//! The value that Envoy's filter `stateful_session` reads, with its state `envelope`.
//!
//! It is the host's address in base 64, then `;UV:`, then what the header is for the upstream, in base 64. The filter puts that in
//! the header's place. So a header that means something to Envoy's router can carry both.

/// The value that sends a request to this host, in a header that is to have this value, not an empty one, afterwards.
#[must_use]
pub fn envelope(host: &str, value: &str) -> String {
    let mut envelope = String::new();
    push_base64(&mut envelope, host);
    envelope.push_str(";UV:");
    push_base64(&mut envelope, value);
    envelope
}

/// What `out` has already are whole groups of four.
fn push_base64(out: &mut String, text: &str) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut push = |bits: u32| {
        let digit = DIGITS.get(bits as usize & 63).copied().unwrap_or_default();
        out.push(char::from(digit));
    };
    let (mut bits, mut count) = (0, 0);
    for byte in text.bytes() {
        (bits, count) = (bits << 8 | u32::from(byte), count + 8);
        while count >= 6 {
            count -= 6;
            push(bits >> count);
        }
    }
    if count > 0 {
        push(bits << (6 - count));
    }
    while !out.len().is_multiple_of(4) {
        out.push('=');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes() {
        assert_eq!(envelope("127.0.0.1:80", "-"), "MTI3LjAuMC4xOjgw;UV:LQ==");
        assert_eq!(envelope("10.244.0.17:8080", "unavailable"), "MTAuMjQ0LjAuMTc6ODA4MA==;UV:dW5hdmFpbGFibGU=");
        assert_eq!(envelope("[::1]:8080", "~?>"), "Wzo6MV06ODA4MA==;UV:fj8+");
    }
}
