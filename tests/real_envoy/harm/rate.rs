//! Clients that send at a rate, whatever becomes of their requests.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::support::client::{Connection, Request};

/// What became of a request.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// When it was to be sent. A busy machine sends it later.
    pub due: Instant,
    pub at: Instant,
    pub ended: Instant,
    /// 0 if there was no response.
    pub status: u16,
}

impl Sent {
    pub fn answered(&self) -> bool {
        self.status == 200
    }
}

/// Requests that go on until they are stopped.
pub struct Rate {
    stop: Arc<AtomicBool>,
    /// What the slowest answer took, in milliseconds.
    slowest: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    last_answer: Arc<Mutex<Option<Instant>>>,
    clients: Vec<JoinHandle<Vec<Sent>>>,
}

impl Rate {
    /// So many requests a second, by several clients in turn. What a client sends late, since its latest request took long, it
    /// sends at once.
    pub fn start(address: SocketAddr, per_second: u32, request: &Request) -> Self {
        const CLIENTS: u32 = 8;
        let due = move |turn, client| Duration::from_secs(1) * (turn * CLIENTS + client) / per_second;
        Self::of(CLIENTS, due, address, request)
    }

    /// So many requests at once, of one client each, and again and again after a pause.
    pub fn bursts(address: SocketAddr, at_once: u32, pause: Duration, request: &Request) -> Self {
        Self::of(at_once, move |turn, _| pause * turn, address, request)
    }

    /// Each of the clients sends its request of each turn as long after the start as `due` says of turn and client.
    fn of(
        clients: u32,
        due: impl Fn(u32, u32) -> Duration + Copy + Send + 'static,
        address: SocketAddr,
        request: &Request,
    ) -> Self {
        let (stop, slowest, began) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default(), Instant::now());
        let last_answer = Arc::<Mutex<Option<Instant>>>::default();
        let count = Arc::<AtomicU64>::default();
        let client = |number: u32| {
            let (stop, slowest, request) = (Arc::clone(&stop), Arc::clone(&slowest), request.clone());
            let (last_answer, count) = (Arc::clone(&last_answer), Arc::clone(&count));
            std::thread::spawn(move || {
                let mut sent = Vec::new();
                let mut connection = None;
                for turn in 0.. {
                    let due = began + due(turn, number);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let at = Instant::now();
                    let exchange = |connection: &mut Option<Connection>| -> Result<u16> {
                        let known = match connection.take() {
                            Some(known) => known,
                            None => Connection::open(address)?,
                        };
                        let response = connection.insert(known).exchange(&request)?;
                        // Envoy does not wait for the body of a request that is answered at once.
                        if response.header("connection") == Some("close") {
                            *connection = None;
                        }
                        Ok(response.status)
                    };
                    let status = exchange(&mut connection).unwrap_or_default();
                    if status == 0 {
                        connection = None;
                    }
                    let ended = Instant::now();
                    slowest.fetch_max(u64::try_from((ended - at).as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
                    let one = Sent { due, at, ended, status };
                    if one.answered() {
                        *last_answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
                    }
                    sent.push(one);
                    count.fetch_add(1, Ordering::SeqCst);
                }
                sent
            })
        };
        Self { clients: (0..clients).map(client).collect(), stop, slowest, sent: count, last_answer }
    }

    /// How many requests have ended so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Whether a request was answered after that moment.
    pub fn answered_after(&self, moment: Instant) -> bool {
        self.last_answer.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|last| last >= moment)
    }

    /// What the slowest answer took since this was asked last.
    pub fn take_slowest(&self) -> Duration {
        Duration::from_millis(self.slowest.swap(0, Ordering::SeqCst))
    }

    /// All requests, in the order in which they were sent.
    pub fn stop(self) -> Vec<Sent> {
        self.stop.store(true, Ordering::SeqCst);
        let mut sent: Vec<_> = self.clients.into_iter().flat_map(|client| client.join().unwrap_or_default()).collect();
        sent.sort_by_key(|sent| sent.at);
        sent
    }
}
