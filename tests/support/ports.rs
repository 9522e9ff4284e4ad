//! Free ports on the loopback address, below the range from which the kernel serves outgoing connections: a port
//! that Envoy is told to listen on some milliseconds later cannot be taken by somebody's client socket meanwhile.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

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
    take().0
}

/// A free port for a process that can only be told a number. Whoever else asks this module, in whatever process, does
/// not get it as long as this process lives.
pub fn free() -> SocketAddr {
    static RESERVED: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let (listener, reservation) = take();
    RESERVED.lock().expect("no one panics with the lock held").push(reservation);
    listener.local_addr().expect("a listener has an address")
}

/// A free port, and the UDP port of the same number, which nobody here uses for anything else: while it is taken, the port
/// is reserved.
fn take() -> (TcpListener, UdpSocket) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let (low, high) = range();
    let size = u32::from(high - low) + 1;
    // Processes start at different places, so that they rarely meet.
    let start = std::process::id().wrapping_mul(97);
    for _ in 0..size {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % size;
        let port = u16::try_from(u32::from(low) + offset).unwrap_or(high);
        let Ok(reservation) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
        let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else { continue };
        return (listener, reservation);
    }
    panic!("no free port between {low} and {high}");
}
