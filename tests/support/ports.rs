//! Free ports on the loopback address, below the range from which the kernel serves outgoing connections: a port
//! that Envoy is told to listen on some milliseconds later cannot be taken by somebody's client socket meanwhile.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where ports are searched unless `WEIR_TEST_PORTS` says otherwise, as in `21000-23999`.
const DEFAULT_RANGE: (u16, u16) = (20000, 31999);

fn range() -> (u16, u16) {
    static RANGE: OnceLock<(u16, u16)> = OnceLock::new();
    *RANGE.get_or_init(|| {
        let Ok(text) = std::env::var("WEIR_TEST_PORTS") else { return DEFAULT_RANGE };
        let bounds = text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
        bounds
            .filter(|(low, high)| low < high)
            .unwrap_or_else(|| panic!("WEIR_TEST_PORTS: want LOW-HIGH, got {text:?}"))
    })
}

/// A listener on a free port. The port stays taken for as long as the listener lives.
///
/// # Panics
/// When no port of the range is free.
pub fn listen() -> TcpListener {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (low, high) = range();
    let size = u32::from(high - low) + 1;
    // Processes start at different places, and one process hands out each port once, so that two who look for a
    // port at the same time do not find the same one.
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..size {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % size;
        let port = u32::from(low) + offset;
        let port = u16::try_from(port).unwrap_or(high);
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener;
        }
    }
    panic!("no free port between {low} and {high}");
}

/// A port that was free a moment ago, for a process that can only be told a number.
pub fn free() -> SocketAddr {
    let port = listen().local_addr().map(|address| address.port()).unwrap_or_default();
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}
