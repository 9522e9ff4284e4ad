//! A replica: does what requests ask for in their headers, in the mood that the situation puts it into.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::super::host::{Body, Idle, Reset, Serve};
use super::super::load::NUMBER;
use super::body::Drip;

/// What a request may ask for: milliseconds that it takes, the status of its answer, how many parts of a body come and how many
/// milliseconds apart, the gRPC status in the trailers, how many milliseconds a WebSocket session lasts. (A session that asks for parts ends
/// with a closing handshake.)
pub const TAKES: &str = "x-takes";
pub const ASKS: &str = "x-asks";
pub const PARTS: &str = "x-parts";
pub const APART: &str = "x-apart";
/// How many bytes each part has.
pub const BYTES: &str = "x-bytes";
pub const GRPC: &str = "x-grpc";
pub const LASTS: &str = "x-lasts";
/// The connection ends with the response.
pub const CLOSES: &str = "x-closes";
/// Where a redirect leads. There, the status is 200.
pub const LOCATION: &str = "x-location";

/// Tells the client which replica answered.
pub const HOST: &str = "x-host";

/// Health checks of Envoy go here.
pub const HEALTH: &str = "/healthz";

/// How a replica treats requests at the moment.
#[derive(Clone, Copy, Debug)]
pub enum Mood {
    Well,
    /// Takes requests, and goes on with them when it is well again.
    Hangs,
    /// Takes so much longer for each.
    Slow(Duration),
    /// Answers with this status, and a header, without doing anything.
    Says(u16, Option<(&'static str, &'static str)>),
    /// Resets the connection after it did what was asked, and before.
    ResetsAfter,
    ResetsBefore,
    /// Answers as if well, but fails Envoy's health checks.
    Unhealthy,
    /// A stream breaks after its first part.
    Cuts,
    /// Answers requests for this path with this status.
    SaysAt(&'static str, u16),
    /// Resets the connection before it did anything, for so many requests in a hundred.
    ResetsSome(u64),
    /// Closes, without doing anything, a connection that a request comes on after this long without one.
    ForgetsIdle(Duration),
}

/// What became of the requests of one side, as its replicas saw it.
#[derive(Default)]
pub struct Ledger {
    arrivals: Mutex<Vec<Arrival>>,
    done: Mutex<HashMap<u64, u32>>,
    deaths: Mutex<Vec<(usize, Instant)>>,
}

/// An attempt that reached a replica.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub at: Instant,
    pub number: u64,
    pub host: usize,
}

impl Ledger {
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often each request was processed.
    pub fn done(&self) -> HashMap<u64, u32> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Which replica died when.
    pub fn deaths(&self) -> Vec<(usize, Instant)> {
        self.deaths.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn arrive(&self, number: u64, host: usize) {
        let arrival = Arrival { at: Instant::now(), number, host };
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
    }

    fn finish(&self, number: u64) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner).entry(number).or_default() += 1;
    }
}

pub struct Replica {
    number: usize,
    seed: u64,
    lasts: Option<Duration>,
    ledger: Arc<Ledger>,
    pub mood: watch::Sender<Mood>,
    /// Counts orderly ends of all sessions, and deaths.
    pub ends: watch::Sender<u32>,
    deaths: watch::Sender<u32>,
}

impl Replica {
    pub fn new(number: usize, seed: u64, lasts: Option<Duration>, ledger: &Arc<Ledger>) -> Self {
        Self {
            number,
            seed,
            lasts,
            ledger: Arc::clone(ledger),
            mood: watch::Sender::new(Mood::Well),
            ends: watch::Sender::new(0),
            deaths: watch::Sender::new(0),
        }
    }

    /// Drops all that it does.
    pub fn die(&self) {
        let now = Instant::now();
        self.ledger.deaths.lock().unwrap_or_else(PoisonError::into_inner).push((self.number, now));
        self.deaths.send_modify(|deaths| *deaths += 1);
    }

    fn upgrade(&self, on: OnUpgrade, request: &Request<Incoming>) -> Response<Body> {
        let lasts = asked(request, LASTS).unwrap_or(u64::MAX >> 20);
        let ends = Instant::now() + Duration::from_millis(lasts);
        let goodbye: &[u8] = if request.headers().contains_key(PARTS) { b"goodbye" } else { b"" };
        let (mut orderly, mut death) = (self.ends.subscribe(), self.deaths.subscribe());
        let parting = async move { drop(timeout_at(ends, orderly.changed()).await) };
        tokio::spawn(async move {
            // Whoever dies drops its connection.
            tokio::select! {
                () = session(on, parting, goodbye) => {}
                _ = death.changed() => {}
            }
        });
        let mut response = Response::new(Full::default().map_err(|never| match never {}).boxed());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        response
    }

    fn answer(&self, head: &HeaderMap, parts: Option<u64>, cuts: bool) -> Response<Body> {
        let number = |name| head.get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let grpc = head.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let body = match (grpc, parts) {
            (false, None) => Full::from("done\n").map_err(|never| match never {}).boxed(),
            (_, parts) => {
                let part = match number(BYTES) {
                    Some(bytes) => Bytes::from(vec![b'x'; usize::try_from(bytes).unwrap_or_default()]),
                    None if grpc => Bytes::from_static(b"\0\0\0\0\0"),
                    None => Bytes::from_static(b"data: part\n\n"),
                };
                let trailers = grpc.then(|| number(GRPC).unwrap_or(0));
                let apart = Duration::from_millis(number(APART).unwrap_or(0));
                let drip = Drip::new(parts.unwrap_or(1), apart, part);
                let drip = if cuts { drip.cut_after(1) } else { drip };
                match trailers {
                    Some(status) => drip.trailer("grpc-status", status).boxed(),
                    None => drip.boxed(),
                }
            }
        };
        let mut response = Response::new(body);
        if grpc {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        } else if parts.is_some() && !head.contains_key(BYTES) {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        }
        response
    }
}

impl Serve for Replica {
    async fn respond(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Reset> {
        let mut mood = self.mood.subscribe();
        if request.uri().path() == HEALTH {
            let fails = matches!(*mood.borrow(), Mood::Unhealthy);
            return Ok(empty(if fails { 503 } else { 200 }));
        }
        if is_mirrored(&request) {
            return Ok(empty(200));
        }
        let number = asked(&request, NUMBER).unwrap_or(0);
        self.ledger.arrive(number, self.number);
        let idle = request.extensions().get::<Idle>().map_or(Duration::ZERO, |idle| idle.0);
        let now = *mood.borrow_and_update();
        // The same one on both sides.
        let mixed = (number ^ self.seed).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let slower = match now {
            Mood::SaysAt(path, status) if request.uri().path() == path => return Ok(self.signed(empty(status))),
            Mood::ResetsSome(percent) if (mixed / 4000 + 37 * self.number as u64) % 100 < percent => return Err(Reset),
            Mood::Says(status, header) => {
                let mut response = empty(status);
                if let Some((name, value)) = header {
                    response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
                }
                if let Some(kind) = request.headers().get(CONTENT_TYPE) {
                    response.headers_mut().insert(CONTENT_TYPE, kind.clone());
                }
                return Ok(self.signed(response));
            }
            Mood::ResetsBefore => return Err(Reset),
            Mood::ForgetsIdle(after) if idle > after => return Err(Reset),
            Mood::Hangs => {
                drop(mood.wait_for(|mood| !matches!(mood, Mood::Hangs)).await);
                Duration::ZERO
            }
            Mood::Slow(by) => by,
            _ => Duration::ZERO,
        };
        if request.headers().contains_key(UPGRADE) && !request.headers().contains_key(ASKS) {
            let on = hyper::upgrade::on(&mut request);
            return Ok(self.signed(self.upgrade(on, &request)));
        }
        let takes = Duration::from_millis(asked(&request, TAKES).unwrap_or(0)) + slower;
        let arrived = request
            .headers()
            .get(LOCATION)
            .is_some_and(|to| to.as_bytes().ends_with(request.uri().path().as_bytes()) && request.uri().path() != "/");
        let status = asked(&request, ASKS).filter(|_| !arrived).and_then(|status| u16::try_from(status).ok());
        let (parts, head) = (asked(&request, PARTS), request.headers().clone());
        if request.into_body().collect().await.is_err() {
            return Err(Reset);
        }
        // Every request takes a moment.
        sleep(takes + Duration::from_micros(1000 + mixed % 4000)).await;
        self.ledger.finish(number);
        if matches!(now, Mood::ResetsAfter) {
            return Err(Reset);
        }
        let mut response = self.answer(&head, parts, matches!(now, Mood::Cuts));
        // What asks for 1 is an application that breaks down on it.
        match status {
            Some(1) => return Err(Reset),
            Some(status) => *response.status_mut() = StatusCode::from_u16(status).map_err(|_| Reset)?,
            None => {}
        }
        if head.contains_key(CLOSES) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(location) = head.get(LOCATION) {
            response.headers_mut().insert("location", location.clone());
        }
        Ok(self.signed(response))
    }

    fn connections_last(&self) -> Option<Duration> {
        self.lasts
    }
}

impl Replica {
    fn signed(&self, mut response: Response<Body>) -> Response<Body> {
        response.headers_mut().insert(HOST, HeaderValue::from(self.number));
        response
    }
}

/// Envoy says so at the end of the authority, before its port.
fn is_mirrored(request: &Request<Incoming>) -> bool {
    request
        .headers()
        .get(http::header::HOST)
        .is_some_and(|host| String::from_utf8_lossy(host.as_bytes()).contains("-shadow"))
}

fn asked(request: &Request<Incoming>, name: &str) -> Option<u64> {
    request.headers().get(name)?.to_str().ok()?.parse().ok()
}

fn empty(status: u16) -> Response<Body> {
    let mut response = Response::new(Full::default().map_err(|never| match never {}).boxed());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    response
}

/// Echoes until it is time, and then ends in order: after a closing handshake, if there is something to say.
async fn session(on: OnUpgrade, parting: impl Future<Output = ()>, goodbye: &[u8]) {
    let Ok(upgraded) = on.await else { return };
    let mut stream = TokioIo::new(upgraded);
    let mut parting = std::pin::pin!(parting);
    let mut buffer = [0; 1024];
    loop {
        tokio::select! {
            () = &mut parting => break,
            read = stream.read(&mut buffer) => match read {
                Ok(length @ 1..) => if stream.write_all(&buffer[..length]).await.is_err() { return },
                _ => break,
            },
        }
    }
    let _ = stream.write_all(goodbye).await;
    if !goodbye.is_empty() {
        let closed = async { while matches!(stream.read(&mut buffer).await, Ok(1..)) {} };
        let _ = timeout(Duration::from_secs(5), closed).await;
    }
    // A connection with SO_LINGER of zero is reset if it is dropped before the other side has ended it, too.
    let _ = stream.shutdown().await;
    let drain = async { while matches!(stream.read(&mut buffer).await, Ok(1..)) {} };
    let _ = timeout(Duration::from_secs(5), drain).await;
}
