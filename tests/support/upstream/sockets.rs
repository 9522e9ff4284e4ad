//! Addresses that never serve.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::Upstream;
use crate::support::ports;

/// Every connection is refused: the port is taken, but nobody listens on it.
///
/// # Panics
/// When the machine has no socket left.
pub fn refuses() -> Upstream {
    let (socket, address) = bound();
    Upstream::elsewhere(address, socket)
}

/// Connections neither succeed nor fail: the queue of those to accept is full, so the kernel drops what asks.
///
/// # Panics
/// When the machine has no socket left.
pub fn full_backlog() -> Upstream {
    let (socket, address) = bound();
    socket.listen(0).expect("listen");
    let mut sockets = vec![socket];
    // The queue holds one or two, depending on the kernel: fill it until a connection is left waiting.
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        sockets.push(stream.into());
    }
    Upstream::elsewhere(address, sockets)
}

fn bound() -> (Socket, SocketAddr) {
    for _ in 0..100 {
        let address = ports::free();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("socket");
        let bound: io::Result<()> = socket.bind(&address.into());
        if bound.is_ok() {
            return (socket, address);
        }
    }
    panic!("no port could be bound");
}
