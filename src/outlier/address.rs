//! What counts as an address: it goes into a header, between commas.

/// The longest address: an IPv6 address with a zone, in brackets, and a port, or one without a zone behind the name of an internal
/// listener.
pub const LONGEST_ADDRESS: usize = 80;

/// Whether a text may stand in a list of addresses in a header: an address and a port, in letters, digits and `.:[]%-_/`. The
/// slash is in Envoy's addresses of internal listeners, by which Istio's ambient mode reaches a pod (HBONE):
/// `envoy://connect_originate/10.0.0.7:8080`.
#[must_use]
pub fn is_address(address: &str) -> bool {
    let (mut valid, mut host, mut port) = (address.len() <= LONGEST_ADDRESS, None, 0);
    for (position, byte) in address.bytes().enumerate() {
        let allowed = if byte < 64 { DIGITS >> byte } else { LETTERS >> (byte & 63) };
        valid &= allowed & 1 == 1 && byte < 128;
        let digit = byte.wrapping_sub(b'0');
        (host, port) = match byte {
            b':' => (Some(position), 0),
            // What is no number is too great for a port.
            _ if digit > 9 => (host, NO_PORT),
            _ => (host, (port * 10 + u32::from(digit)).min(NO_PORT)),
        };
    }
    valid && port < NO_PORT && host.is_some_and(|length| length > 0 && length + 1 < address.len())
}

const NO_PORT: u32 = 1 << u16::BITS;
/// The characters below 64 that an address may have, a bit for each.
const DIGITS: u64 = bits(b"0123456789.:%-/");
/// The characters from 64 on that an address may have, a bit for each.
const LETTERS: u64 = bits(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz[]_");

const fn bits(mut characters: &[u8]) -> u64 {
    let mut bits = 0;
    while let [first, rest @ ..] = characters {
        bits |= 1 << (*first & 63);
        characters = rest;
    }
    bits
}
