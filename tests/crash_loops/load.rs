//! The clients: requests at a steady rate, whatever becomes of those before (an open loop). So a slow answer costs
//! only itself, and is counted with all the time that its client waited.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Bears the number of a request, by which the replicas know it again.
pub const ID_HEADER: &str = "x-request-number";

const PERCENT_GET: u64 = 70;

/// A client gives up after this long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Envoy's own replies are short; so are the replicas'.
const MAX_BODY: usize = 64 * 1024;

/// What the client saw of one request.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub id: u64,
    pub method: Method,
    /// When it was due, since the start of the load.
    pub due: Duration,
    pub result: Result<(), Failure>,
    /// From the moment it was due until its answer was complete.
    pub latency: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Envoy's reply says that the connection was reset under the last attempt.
    Reset,
    /// Envoy's reply says that it could not connect for the last attempt.
    Refused,
    /// Any other reply with this status.
    Status(u16),
    /// No answer, or half of one.
    NoAnswer,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset => formatter.write_str("reset"),
            Self::Refused => formatter.write_str("refused"),
            Self::Status(status) => write!(formatter, "status {status}"),
            Self::NoAnswer => formatter.write_str("no answer"),
        }
    }
}

/// For the progress line.
#[derive(Default)]
pub struct Progress {
    pub ended: AtomicU64,
    pub answered: AtomicU64,
}

type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// Sends `count` requests to `target`, `rate` per second from `start` on, and waits for the last of them.
pub async fn run(
    target: SocketAddr,
    start: Instant,
    rate: u64,
    count: u64,
    seed: u64,
    progress: &Arc<Progress>,
) -> Vec<Outcome> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    // A client that repeats requests by itself would spoil the count of those sent twice.
    let client = Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build(connector);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut requests = JoinSet::new();
    for id in 0..count {
        let method = if random.u64(0..100) < PERCENT_GET { Method::GET } else { Method::POST };
        let due = Duration::from_nanos(1_000_000_000 * id / rate);
        sleep_until(start + due).await;
        requests.spawn(send(client.clone(), target, id, method, start, due, Arc::clone(progress)));
    }
    requests.join_all().await
}

async fn send(
    client: HttpClient,
    target: SocketAddr,
    id: u64,
    method: Method,
    start: Instant,
    due: Duration,
    progress: Arc<Progress>,
) -> Outcome {
    let result = match timeout_at(start + due + PATIENCE, exchange(&client, target, id, &method)).await {
        Ok(Some((StatusCode::OK, _))) => Ok(()),
        Ok(Some((status, body))) => Err(classify(status, &body)),
        Ok(None) | Err(_) => Err(Failure::NoAnswer),
    };
    progress.ended.fetch_add(1, Ordering::Relaxed);
    progress.answered.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
    Outcome { id, method, due, result, latency: (start + due).elapsed() }
}

/// The whole answer; `None` if there was none.
async fn exchange(client: &HttpClient, target: SocketAddr, id: u64, method: &Method) -> Option<(StatusCode, Bytes)> {
    let body = if method == Method::POST { Full::from(format!("one of order {id}\n")) } else { Full::default() };
    let uri = format!("http://{target}/orders/{id}");
    let request = Request::builder().method(method).uri(uri).header(ID_HEADER, id).body(body).ok()?;
    let (head, body) = client.request(request).await.ok()?.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.ok()?.to_bytes();
    Some((head.status, body))
}

/// By the text of Envoy's replies, which is the same in all supported versions.
fn classify(status: StatusCode, body: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(body);
    if text.contains("reset reason: connection termination") {
        Failure::Reset
    } else if text.contains("reset reason: remote connection failure") {
        Failure::Refused
    } else {
        Failure::Status(status.as_u16())
    }
}
