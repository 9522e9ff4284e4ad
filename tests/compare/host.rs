//! An upstream host: an HTTP server that can be down, and that runs an application which may break off instead of
//! answering.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::load::NUMBER;
use super::support::ports;

/// A body of a request or a response.
pub type Body = BoxBody<Bytes, Reset>;

/// How long before a request its connection had its last one; among the request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Idle(pub Duration);

/// What a host does with requests, over HTTP/1 or HTTP/2.
pub trait Serve: Send + Sync + 'static {
    /// The whole response, or `Err` to reset the connection.
    fn respond(&self, request: Request<Incoming>) -> impl Future<Output = Result<Response<Body>, Reset>> + Send;

    /// After which time a connection is ended in order: by GOAWAY, or after the response under way.
    fn connections_last(&self) -> Option<Duration> {
        None
    }
}

/// What an application does with requests that are alike, but for their number.
pub trait Application: Send + Sync + 'static {
    /// The status to answer with, or `Err` to reset the connection.
    fn answer(&self, number: u64, attempt: u64) -> impl Future<Output = Result<StatusCode, Reset>> + Send;
}

impl<A: Application> Serve for A {
    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Body>, Reset> {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()?.parse().ok());
        let (number, attempt) = (header(NUMBER).unwrap_or(0), header("x-envoy-attempt-count").unwrap_or(1));
        if request.into_body().collect().await.is_err() {
            return Err(Reset);
        }
        let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed());
        *response.status_mut() = self.answer(number, attempt).await?;
        Ok(response)
    }
}

/// The connection is reset: a RST, as when a process dies.
#[derive(Debug)]
pub struct Reset;

impl std::fmt::Display for Reset {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("reset")
    }
}

impl std::error::Error for Reset {}

pub struct Host<A> {
    pub address: SocketAddr,
    application: Arc<A>,
    arrived: Arc<AtomicU64>,
    serving: Option<JoinHandle<()>>,
}

impl<A: Serve> Host<A> {
    /// One that is down: refuses connections.
    pub fn new(application: &Arc<A>) -> Self {
        Self { address: ports::free(), application: Arc::clone(application), arrived: Arc::default(), serving: None }
    }

    /// Goes up.
    ///
    /// # Errors
    /// When its port is taken by somebody else.
    pub async fn open(&mut self) -> io::Result<()> {
        if self.serving.is_none() {
            let listener = TcpListener::bind(self.address).await?;
            self.serving =
                Some(tokio::spawn(accept(listener, Arc::clone(&self.application), Arc::clone(&self.arrived))));
        }
        Ok(())
    }

    /// Goes down: resets its connections, and refuses new ones.
    pub async fn close(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }

    /// Attempts that arrived so far.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }
}

impl<A> Drop for Host<A> {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

async fn accept<A: Serve>(listener: TcpListener, application: Arc<A>, arrived: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(serve(stream, Arc::clone(&application), Arc::clone(&arrived)));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, until either side ends it. Whenever this side does, it is with a RST: SO_LINGER of zero.
async fn serve<A: Serve>(stream: TcpStream, application: Arc<A>, arrived: Arc<AtomicU64>) {
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    let _ = stream.set_nodelay(true);
    let lasts = application.connections_last();
    let last = Mutex::new(None::<Instant>);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let application = Arc::clone(&application);
        let before = last.lock().unwrap_or_else(PoisonError::into_inner).replace(Instant::now());
        request.extensions_mut().insert(Idle(before.map_or(Duration::ZERO, |before| before.elapsed())));
        arrived.fetch_add(1, Ordering::Relaxed);
        // A service that fails makes hyper drop the connection without an answer.
        async move { application.respond(request).await }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connection = std::pin::pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    if let Some(lasts) = lasts {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = sleep(lasts) => connection.as_mut().graceful_shutdown(),
        }
    }
    let _ = connection.await;
}
