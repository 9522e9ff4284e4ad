//! The clients: requests at a steady rate, whatever becomes of those before (an open loop). So a slow answer costs
//! only itself, and nothing holds back what an overloaded upstream gets.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Bears the number of a request, by which the upstream knows it again.
pub const NUMBER: &str = "x-request-number";

#[derive(Clone, Debug)]
pub struct Load {
    pub target: SocketAddr,
    /// The cluster, which is how paths begin.
    pub cluster: &'static str,
    pub method: Method,
    /// Per second.
    pub rate: u64,
    pub count: u64,
    /// How long a client waits.
    pub patience: Duration,
}

/// What a client saw.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// When it was due, since the start of the load.
    pub due: Duration,
    /// `None` if no whole answer came in time.
    pub status: Option<StatusCode>,
}

impl Outcome {
    pub fn answered(&self) -> bool {
        self.status == Some(StatusCode::OK)
    }
}

type HttpClient = Client<HttpConnector, Full<Bytes>>;

impl Load {
    /// Sends all requests, from `start` on, and waits for the last of them.
    pub async fn run(self, start: Instant) -> Vec<Outcome> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        // A client that repeats requests by itself would spoil every count.
        let client: HttpClient = Client::builder(TokioExecutor::new()).retry_canceled_requests(false).build(connector);
        let patience = self.patience;
        let send = |number, due| send(client.clone(), self.clone(), number, due, start + due + patience);
        open_loop(start, self.rate, 1, self.count, send).await
    }
}

/// Does `count` things, `rate` a second and so many of them `at_once`, each when it is due, and waits for the last of them. Each is told its number and when it is
/// due.
pub async fn open_loop<F>(
    start: Instant,
    rate: u64,
    at_once: u64,
    count: u64,
    mut one: impl FnMut(u64, Duration) -> F,
) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let mut running = JoinSet::new();
    let mut outcomes = Vec::new();
    for number in 0..count {
        let due = Duration::from_nanos(1_000_000_000 * (number - number % at_once) / rate);
        sleep_until(start + due).await;
        running.spawn(one(number, due));
        while let Some(done) = running.try_join_next() {
            outcomes.extend(done);
        }
    }
    outcomes.extend(running.join_all().await);
    outcomes
}

async fn send(client: HttpClient, load: Load, number: u64, due: Duration, deadline: Instant) -> Outcome {
    let status = timeout_at(deadline, exchange(&client, &load, number)).await.ok().flatten();
    Outcome { due, status }
}

async fn exchange(client: &HttpClient, load: &Load, number: u64) -> Option<StatusCode> {
    let body = if load.method == Method::POST { Full::from("one\n") } else { Full::default() };
    let uri = format!("http://{}/{}/{number}", load.target, load.cluster);
    let request = Request::builder().method(&load.method).uri(uri).header(NUMBER, number).body(body).ok()?;
    let (head, body) = client.request(request).await.ok()?.into_parts();
    body.collect().await.ok()?;
    Some(head.status)
}
