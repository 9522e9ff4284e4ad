//! A host that can go and come back at the same address, in a test's hands.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::support::ports;

/// What a replica that listens does with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Answers with this status.
    Answer(u16),
    /// Takes it, and never answers.
    Hang,
    /// Takes it, and breaks off with a reset.
    Reset,
}

/// The headers of a request, in lower case.
pub type Headers = Vec<(String, String)>;

/// A replica. It listens until it is stopped, and again when it is started.
pub struct Replica {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// Shut down, it refuses connections and keeps its port.
    socket: Socket,
    ended: AtomicBool,
    mode: Mutex<Mode>,
    connections: Mutex<Vec<TcpStream>>,
    seen: Mutex<Vec<Headers>>,
    /// When it first broke off, since it was last told what to do.
    broke: Mutex<Option<Instant>>,
}

impl Replica {
    pub fn new() -> anyhow::Result<Self> {
        let replica = Self::refusing()?;
        replica.start()?;
        Ok(replica)
    }

    /// At this address, for tests in a network of their own.
    #[allow(dead_code)]
    pub fn at(address: SocketAddr) -> anyhow::Result<Self> {
        let replica = Self::with(bind(address)?, address);
        replica.start()?;
        Ok(replica)
    }

    /// One that does not listen yet.
    pub fn refusing() -> anyhow::Result<Self> {
        let (socket, address) = bound()?;
        Ok(Self::with(socket, address))
    }

    fn with(socket: Socket, address: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            socket,
            ended: AtomicBool::new(false),
            mode: Mutex::new(Mode::Answer(200)),
            connections: Mutex::default(),
            seen: Mutex::default(),
            broke: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accepting.accept());
        Self { address, shared }
    }

    /// Listens, again.
    pub fn start(&self) -> anyhow::Result<()> {
        Ok(self.shared.socket.listen(128)?)
    }

    /// Closes what is open, in order, and refuses what comes.
    pub fn stop(&self) {
        drop(self.shared.socket.shutdown(Shutdown::Both));
        for connection in lock(&self.shared.connections).drain(..) {
            drop(connection.shutdown(Shutdown::Both));
        }
    }

    pub fn set(&self, mode: Mode) {
        *lock(&self.shared.broke) = None;
        *lock(&self.shared.mode) = mode;
    }

    /// When it first broke off a request, since the mode was [set](Self::set).
    pub fn broke(&self) -> Option<Instant> {
        *lock(&self.shared.broke)
    }

    /// The requests that arrived so far.
    pub fn seen(&self) -> Vec<Headers> {
        lock(&self.shared.seen).clone()
    }

    /// How many requests arrived so far.
    pub fn count(&self) -> usize {
        lock(&self.shared.seen).len()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.stop();
    }
}

impl Shared {
    fn accept(self: Arc<Self>) {
        while !self.ended.load(Ordering::Acquire) {
            let Ok((socket, _)) = self.socket.accept() else {
                // It does not listen.
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            let stream = TcpStream::from(socket);
            if let Ok(copy) = stream.try_clone() {
                lock(&self.connections).push(copy);
            }
            let shared = Arc::clone(&self);
            std::thread::spawn(move || shared.serve(&stream));
        }
    }

    fn serve(&self, stream: &TcpStream) -> Option<()> {
        drop(stream.set_nodelay(true));
        let mut reader = BufReader::new(stream);
        loop {
            let headers = read_request(&mut reader)?;
            lock(&self.seen).push(headers);
            // Once it is told to do something else, no answer is under way any more: whoever dies does not answer afterwards.
            let told = lock(&self.mode);
            let mode = *told;
            if let Mode::Answer(status) = mode {
                write!(&mut &*stream, "HTTP/1.1 {status} Answer\r\ncontent-length: 0\r\n\r\n").ok()?;
            }
            drop(told);
            match mode {
                Mode::Answer(_) => {}
                Mode::Hang => {
                    // Until Envoy has enough.
                    drop(reader.read_to_end(&mut Vec::new()));
                    return None;
                }
                Mode::Reset => {
                    lock(&self.broke).get_or_insert_with(Instant::now);
                    let socket = socket2::SockRef::from(stream);
                    drop(socket.set_linger(Some(Duration::ZERO)));
                    // The copy must not keep it open.
                    let peer = stream.peer_addr().ok();
                    lock(&self.connections).retain(|copy| copy.peer_addr().ok() != peer);
                    return None;
                }
            }
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Headers> {
    let mut headers = Vec::new();
    let mut first = true;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let (false, Some((name, value))) = (first, line.split_once(':')) {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        first = false;
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, text)| text.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).ok()?;
    Some(headers)
}

fn bound() -> anyhow::Result<(Socket, SocketAddr)> {
    let mut refused = None;
    for _ in 0..100 {
        let address = ports::free();
        match bind(address) {
            Ok(socket) => return Ok((socket, address)),
            Err(error) => refused = Some(error),
        }
    }
    anyhow::bail!("no port could be bound: {refused:?}")
}

fn bind(address: SocketAddr) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
