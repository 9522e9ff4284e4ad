//! Upstreams that do what a script says, and remember what reached them.

mod frames;
mod http1;
mod http2;
mod sockets;

use std::any::Any;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};

pub use frames::{Frame, frames};
pub use http1::{Step, answer, http1, http1_on_headers, on_accept};
pub use http2::{Reply, http2};
pub use sockets::{full_backlog, refuses};

use super::{ports, runtime, wait};

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How many requests this upstream had seen before, over all connections.
    pub number: usize,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// All bytes of it (HTTP/1 only).
    pub raw: Vec<u8>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// An upstream. It serves until this is dropped.
pub struct Upstream {
    pub address: SocketAddr,
    record: Arc<Record>,
    serving: Option<AbortHandle>,
    /// What only has to exist.
    _keep: Box<dyn Any + Send + Sync>,
}

#[derive(Default)]
struct Record {
    seen: Mutex<Vec<Seen>>,
    gate: Gate,
    later_gate: Gate,
}

/// Where a script waits for the test: the test says that it has seen what has to come first.
struct Gate(Semaphore);

impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

impl Gate {
    async fn pass(&self) {
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

impl Record {
    /// Notes a request and gives it its number.
    fn note(&self, mut request: Seen) -> Seen {
        let mut seen = self.seen.lock().expect("no one panics with the lock held");
        request.number = seen.len();
        seen.push(request.clone());
        request
    }
}

impl Upstream {
    /// Serves each connection with `serve`, which gets the number of the connection.
    fn serving<F, S>(serve: S) -> Self
    where
        S: Fn(tokio::net::TcpStream, usize, Arc<Record>) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = ports::listen();
        listener.set_nonblocking(true).expect("a listener can be made non-blocking");
        let address = listener.local_addr().expect("a listener has an address");
        let record = Arc::<Record>::default();
        let shared = Arc::clone(&record);
        let serving = runtime().spawn(async move {
            let listener = TcpListener::from_std(listener).expect("inside the runtime");
            let mut connections = JoinSet::new();
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else { break };
                drop(stream.set_nodelay(true));
                connections.spawn(serve(stream, number, Arc::clone(&shared)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, record, serving: Some(serving.abort_handle()), _keep: Box::new(()) }
    }

    /// An address at which something else does what is to be done, for as long as `keep` lives. It records nothing.
    pub fn elsewhere(address: SocketAddr, keep: impl Any + Send + Sync) -> Self {
        Self { address, record: Arc::default(), serving: None, _keep: Box::new(keep) }
    }

    /// The requests that have arrived so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.record.seen.lock().expect("no one panics with the lock held").clone()
    }

    /// How many requests have arrived so far.
    pub fn count(&self) -> usize {
        self.record.seen.lock().expect("no one panics with the lock held").len()
    }

    /// Waits until `count` requests have arrived.
    pub fn wait_for(&self, count: usize) -> Result<(), String> {
        wait::until(wait::LIMIT, || {
            let seen = self.count();
            if seen >= count { Ok(()) } else { Err(format!("the upstream saw {seen} of {count} requests")) }
        })
    }

    /// Serves no longer, and closes all connections. What it saw stays known.
    pub fn stop(&self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }

    /// Lets one script go on that waits at [`Step::Gate`] or [`Reply::gate`].
    pub fn open_gate(&self) {
        self.record.gate.0.add_permits(1);
    }

    /// The same for one that waits at [`Step::LaterGate`].
    pub fn open_later_gate(&self) {
        self.record.later_gate.0.add_permits(1);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
    }
}
