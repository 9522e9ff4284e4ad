//! The clients: what one of them sends, and what it saw.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, COOKIE, HeaderValue, SET_COOKIE, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::super::host::Body;
use super::super::load::{NUMBER, open_loop};
use super::body::Drip;
use super::replica::HOST;
use super::situation::{Kind, Load};

/// Says whose request it is, where there are users.
pub const USER: &str = "x-user";

/// Numbers of requests say which load they are of.
const LOAD: u64 = 1_000_000;

/// After it lost its response, a client waits this long before it asks again.
const COMES_BACK: Duration = Duration::from_millis(200);

/// What a client saw.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub load: usize,
    pub number: u64,
    /// Since the start.
    pub due: Duration,
    pub took: Duration,
    pub ok: bool,
    /// The replica that answered.
    pub host: Option<usize>,
    pub user: Option<u64>,
}

/// What came back: whether it was right, and from whom.
type Answer = (bool, Option<usize>);

#[derive(Clone)]
struct Sender {
    client: Client<HttpConnector, Body>,
    target: SocketAddr,
    index: usize,
    load: Load,
    start: Instant,
    cookies: Arc<Mutex<HashMap<u64, HeaderValue>>>,
}

/// Sends all that a load is, and waits for the last of it.
pub async fn run(load: Load, index: usize, target: SocketAddr, start: Instant, seconds: f64) -> Vec<Outcome> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let mut builder = Client::builder(TokioExecutor::new());
    // A client that repeats requests by itself would spoil every count.
    builder.retry_canceled_requests(false).http2_only(load.kind == Kind::Grpc);
    let until = Duration::from_secs_f64(seconds);
    let kind = load.kind;
    let count = (seconds * load.rate as f64) as u64;
    let (rate, at_once) = (load.rate, load.at_once);
    let sender = Sender { client: builder.build(connector), target, index, load, start, cookies: Arc::default() };
    if let Kind::Watchers(clients) = kind {
        let mut watchers = JoinSet::new();
        for client in 0..clients as u64 {
            watchers.spawn(sender.clone().watch(client, until));
        }
        return watchers.join_all().await.concat();
    }
    open_loop(start, rate, at_once, count, |number, due| sender.clone().send(number, due)).await
}

impl Sender {
    async fn send(self, number: u64, due: Duration) -> Outcome {
        let whole = self.index as u64 * LOAD + number;
        let user = (self.load.users > 0).then(|| number % self.load.users);
        let due_at = self.start + due;
        let answer = async {
            match self.load.kind {
                Kind::Plain | Kind::Grpc => self.exchange(whole, user).await,
                Kind::WebSocket => self.session(whole).await,
                Kind::Tunnel => tunnel(self.target).await,
                Kind::Watchers(_) => self.begin(whole).await.map(|response| (true, host(&response))),
            }
        };
        let answer = timeout_at(due_at + self.load.patience, answer).await.ok().flatten();
        let (ok, host) = answer.unwrap_or_default();
        Outcome { load: self.index, number: whole, due, took: due_at.elapsed(), ok, host, user }
    }

    /// Asks for a response that goes on, and again whenever it has ended.
    async fn watch(self, client: u64, until: Duration) -> Vec<Outcome> {
        // Not all at once.
        let begin = Duration::from_millis(client * 20);
        let mut outcomes = Vec::new();
        sleep_until(self.start + begin).await;
        while self.start.elapsed() < until {
            let number = self.index as u64 * LOAD + client * 1000 + outcomes.len() as u64;
            let due = self.start.elapsed();
            let response = timeout_at(Instant::now() + self.load.patience, self.begin(number)).await.ok().flatten();
            let took = self.start.elapsed() - due;
            let (ok, host) = (response.is_some(), response.as_ref().and_then(host));
            outcomes.push(Outcome { load: self.index, number, due, took, ok, host, user: None });
            if let Some(response) = response {
                let mut body = response.into_body();
                let read = async { while let Some(Ok(_)) = body.frame().await {} };
                let _ = timeout_at(self.start + until, read).await;
            }
            sleep(COMES_BACK).await;
        }
        outcomes
    }

    fn request(&self, number: u64, user: Option<u64>) -> Option<Request<Body>> {
        let load = &self.load;
        let mut request = Request::builder()
            .method(&load.method)
            .uri(format!("http://{}{}", self.target, load.path))
            .header(NUMBER, number);
        for (name, value) in &load.headers {
            request = request.header(*name, value);
        }
        if let Some(user) = user {
            request = request.header(USER, user);
            if let Some(cookie) = self.cookies.lock().unwrap_or_else(PoisonError::into_inner).get(&user) {
                request = request.header(COOKIE, cookie);
            }
        }
        match load.kind {
            Kind::WebSocket => {
                request = request
                    .header(CONNECTION, "Upgrade")
                    .header(UPGRADE, "websocket")
                    .header("sec-websocket-version", "13")
                    .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
            }
            Kind::Grpc => request = request.header("content-type", "application/grpc").header("te", "trailers"),
            _ => {}
        }
        let part = 16_384;
        let body = match load.body {
            _ if load.kind == Kind::Grpc => whole(vec![0; 5]),
            bytes if load.chunked => {
                let part = Bytes::from(vec![b'x'; part.min(bytes)]);
                Drip::new(bytes.div_ceil(part.len()) as u64, Duration::ZERO, part).boxed()
            }
            bytes => whole(vec![b'x'; bytes]),
        };
        request.body(body).ok()
    }

    /// A response that has begun, and well.
    async fn begin(&self, number: u64) -> Option<Response<Incoming>> {
        let response = self.client.request(self.request(number, None)?).await.ok()?;
        (response.status().as_u16() == self.load.expects).then_some(response)
    }

    async fn exchange(&self, number: u64, user: Option<u64>) -> Option<Answer> {
        let response = self.client.request(self.request(number, user)?).await.ok()?;
        let host = host(&response);
        if let (Some(user), Some(cookie)) = (user, response.headers().get(SET_COOKIE)) {
            self.cookies.lock().unwrap_or_else(PoisonError::into_inner).insert(user, cookie.clone());
        }
        let (head, body) = response.into_parts();
        let body = body.collect().await.ok()?;
        let grpc = |headers: &HeaderMap| headers.get("grpc-status").map(|status| status.as_bytes() == b"0");
        let right = match self.load.kind {
            Kind::Grpc => body.trailers().and_then(grpc).or_else(|| grpc(&head.headers)).unwrap_or(false),
            _ => true,
        };
        Some((right && head.status.as_u16() == self.load.expects, host))
    }

    async fn session(&self, number: u64) -> Option<Answer> {
        let response = self.begin(number).await?;
        let host = host(&response);
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Some((true, host));
        }
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.ok()?);
        stream.write_all(b"hello").await.ok()?;
        let mut echo = [0; 5];
        stream.read_exact(&mut echo).await.ok()?;
        // Until the other side ends it, or says that it will.
        let mut rest = [0; 64];
        let _ = stream.read(&mut rest).await;
        Some((&echo == b"hello", host))
    }
}

fn host(response: &Response<Incoming>) -> Option<usize> {
    response.headers().get(HOST)?.to_str().ok()?.parse().ok()
}

fn whole(bytes: Vec<u8>) -> Body {
    Full::from(bytes).map_err(|never| match never {}).boxed()
}

/// A tunnel, and a request through it.
async fn tunnel(target: SocketAddr) -> Option<Answer> {
    let mut stream = TcpStream::connect(target).await.ok()?;
    stream.write_all(b"CONNECT there:80 HTTP/1.1\r\nhost: there:80\r\n\r\n").await.ok()?;
    if !head(&mut stream).await?.starts_with("HTTP/1.1 200") {
        return Some((false, None));
    }
    stream.write_all(b"GET / HTTP/1.1\r\nhost: there\r\n\r\n").await.ok()?;
    let answered = head(&mut stream).await?.starts_with("HTTP/1.1 200");
    Some((answered, None))
}

async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(text).ok()
}
