//! A replica: an HTTP server that crash-loops to a timeline, and remembers which requests it processed.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::load::ID_HEADER;
use super::schedule::{Outage, Phase, Timeline};

/// Bounds of the time that a request takes before it counts as processed, and of what it takes from there to the
/// answer, in microseconds. A crash between the two is what makes retries dangerous.
const WORK: std::ops::Range<u64> = 1000..8000;
const REPLY: std::ops::Range<u64> = 500..4000;

/// What became of the requests at the replicas, all together: how often each was processed.
#[derive(Default)]
pub struct Ledger {
    processed: Mutex<HashMap<u64, (Method, u32)>>,
    /// POSTs processed a second time so far, for the progress line.
    repeated_posts: AtomicU64,
}

impl Ledger {
    fn process(&self, id: u64, method: &Method) {
        let mut processed = self.processed.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, times) = processed.entry(id).or_insert((method.clone(), 0));
        *times += 1;
        if *times == 2 && method == Method::POST {
            self.repeated_posts.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests by this method that were processed more than once.
    pub fn repeated(&self, method: &Method) -> u64 {
        let processed = self.processed.lock().unwrap_or_else(PoisonError::into_inner);
        processed.values().filter(|(of, times)| of == method && *times > 1).count() as u64
    }

    pub fn repeated_posts(&self) -> u64 {
        self.repeated_posts.load(Ordering::Relaxed)
    }

    pub fn was_processed(&self, id: u64) -> bool {
        self.processed.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&id)
    }
}

/// What one replica counted.
#[derive(Default)]
pub struct Counts {
    /// Requests that arrived.
    pub requests: AtomicU64,
    /// Those of them that ended in a reset.
    pub resets: AtomicU64,
}

pub struct Replica {
    address: SocketAddr,
    timeline: Timeline,
    outage: Outage,
    random: Mutex<fastrand::Rng>,
    ledger: Arc<Ledger>,
    start: OnceLock<Instant>,
    pub counts: Counts,
}

impl Replica {
    pub fn new(address: SocketAddr, timeline: Timeline, outage: Outage, seed: u64, ledger: Arc<Ledger>) -> Arc<Self> {
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        Arc::new(Self { address, timeline, outage, random, ledger, start: OnceLock::new(), counts: Counts::default() })
    }

    /// Lives through its timeline, which begins at `start`; ends only with an error.
    ///
    /// # Errors
    /// When its port is taken by somebody else.
    pub async fn run(self: Arc<Self>, start: Instant) -> io::Result<()> {
        _ = self.start.set(start);
        for crash in &self.timeline.crashes {
            self.live(Some((start + crash.resets_from, start + crash.refuses_from, start + crash.back_at))).await?;
            sleep_until(start + crash.back_at).await;
        }
        self.live(None).await
    }

    /// Its port again. While it was down, somebody's client socket may have taken it for a moment.
    async fn listen(&self) -> io::Result<TcpListener> {
        for _ in 0..50 {
            match TcpListener::bind(self.address).await {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => sleep(Duration::from_millis(10)).await,
                result => return result,
            }
        }
        TcpListener::bind(self.address).await
    }

    /// From one restart to the next: answers, resets from the first time on, is gone at the second, or at the third if it
    /// hangs in between.
    async fn live(self: &Arc<Self>, crash: Option<(Instant, Instant, Instant)>) -> io::Result<()> {
        let listener = self.listen().await?;
        let (phase, heard) = watch::channel(Phase::Up);
        let mut connections = JoinSet::new();
        let serve = async {
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                        connections.spawn(Arc::clone(self).serve(stream, heard.clone()));
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        };
        let crash = async {
            let Some((resets_from, refuses_from, back_at)) = crash else { return std::future::pending().await };
            sleep_until(resets_from).await;
            if self.outage != Outage::Stalls {
                phase.send_replace(Phase::Resetting);
                sleep_until(refuses_from).await;
            }
            if matches!(self.outage, Outage::Hangs | Outage::Stalls) {
                phase.send_replace(Phase::Refusing);
                sleep_until(back_at).await;
            }
        };
        tokio::select! {
            () = serve => {}
            () = crash => {}
        }
        drop(listener);
        connections.shutdown().await;
        Ok(())
    }

    /// One connection, until either side ends it. Whenever this side does, it is with a RST, as it is when a process
    /// dies with requests unread: SO_LINGER of zero.
    async fn serve(self: Arc<Self>, stream: TcpStream, phase: watch::Receiver<Phase>) {
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| Arc::clone(&self).answer(request, phase.clone()));
        // A service that fails makes hyper drop the connection without an answer.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        mut phase: watch::Receiver<Phase>,
    ) -> Result<Response<Full<Bytes>>, Reset> {
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        let held = Held { counts: &self.counts, answered: false };
        let id = request.headers().get(ID_HEADER).and_then(|id| id.to_str().ok()?.parse().ok()).unwrap_or(0);
        let method = request.method().clone();
        if request.into_body().collect().await.is_err() {
            return Err(Reset);
        }
        let (work, reply, unlucky) = self.draw();
        let now = *phase.borrow_and_update();
        match now {
            Phase::Up => {}
            Phase::Resetting => {
                // It still takes requests, and gets half of them done, but no answer leaves any more.
                sleep(work).await;
                if unlucky {
                    self.ledger.process(id, &method);
                }
                return Err(Reset);
            }
            // Ends with the connection.
            Phase::Refusing => std::future::pending().await,
        }
        let work = async {
            while let Some(until) = self.stopped_until() {
                sleep_until(until).await;
            }
            sleep(work).await;
            self.ledger.process(id, &method);
            sleep(reply).await;
            while let Some(until) = self.stopped_until() {
                sleep_until(until).await;
            }
        };
        let stalls = self.outage == Outage::Stalls;
        tokio::select! {
            () = work => Ok(held.answer(id)),
            // Ends with the connection.
            _ = phase.changed() => if stalls { std::future::pending().await } else { Err(Reset) },
        }
    }

    fn stopped_until(&self) -> Option<Instant> {
        let start = *self.start.get().filter(|_| self.outage == Outage::Collects)?;
        self.timeline.collects_until(start.elapsed()).map(|until| start + until)
    }

    fn draw(&self) -> (Duration, Duration, bool) {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        (Duration::from_micros(random.u64(WORK)), Duration::from_micros(random.u64(REPLY)), random.bool())
    }
}

/// The replica crashed while it held the request.
#[derive(Debug)]
struct Reset;

impl std::fmt::Display for Reset {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("crashed")
    }
}

impl std::error::Error for Reset {}

/// A request that has arrived. If it goes away unanswered, by whatever path, that was a reset.
struct Held<'a> {
    counts: &'a Counts,
    answered: bool,
}

impl Held<'_> {
    fn answer(mut self, id: u64) -> Response<Full<Bytes>> {
        self.answered = true;
        Response::new(Full::from(format!("order {id}\n")))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.counts.resets.fetch_add(1, Ordering::Relaxed);
        }
    }
}
