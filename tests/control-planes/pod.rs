//! A pod of a service, in a test's hands: it speaks HTTP/1.1 and HTTP/2, can crash, and come back at the same address.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::support::{runtime, wait};

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub method: http::Method,
    pub path: String,
    pub headers: http::HeaderMap,
}

/// It listens until it is stopped, and again when it is started.
pub struct Pod {
    pub address: SocketAddr,
    arrived: Arc<Mutex<Vec<Arrived>>>,
    listening: Mutex<Option<JoinHandle<()>>>,
}

impl Pod {
    pub fn at(address: SocketAddr) -> Result<Self> {
        let pod = Self { address, arrived: Arc::default(), listening: Mutex::default() };
        pod.start()?;
        Ok(pod)
    }

    /// Listens, again.
    pub fn start(&self) -> Result<()> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&self.address.into())?;
        socket.listen(128)?;
        let _entered = runtime().enter();
        let listener = TcpListener::from_std(socket.into())?;
        let arrived = Arc::clone(&self.arrived);
        let task = runtime().spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(serve(stream, Arc::clone(&arrived)));
                }
            }
        });
        *lock(&self.listening) = Some(task);
        Ok(())
    }

    /// Closes what is open, and refuses what comes.
    pub fn stop(&self) {
        if let Some(task) = lock(&self.listening).take() {
            task.abort();
        }
        until_alone(&self.arrived);
    }

    /// The requests that arrived so far.
    pub fn arrived(&self) -> Vec<Arrived> {
        lock(&self.arrived).clone()
    }
}

/// Waits until all else that holds this is gone: each connection does, and so does what accepts them.
pub fn until_alone<T>(held: &Arc<T>) {
    let ended = wait::until(wait::LIMIT, || match Arc::strong_count(held) {
        1 => Ok(()),
        left => Err(format!("{left} left")),
    });
    drop(ended);
}

async fn serve(stream: TcpStream, arrived: Arc<Mutex<Vec<Arrived>>>) {
    let answer = service_fn(move |request: http::Request<Incoming>| {
        let arrived = Arc::clone(&arrived);
        async move {
            let (head, body) = request.into_parts();
            let grpc =
                head.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
            lock(&arrived).push(Arrived {
                method: head.method,
                path: head.uri.path().to_owned(),
                headers: head.headers,
            });
            drop(body.collect().await);
            let mut response = http::Response::new(Empty::<Bytes>::new());
            if grpc {
                let headers = response.headers_mut();
                headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
                headers.insert("grpc-status", http::HeaderValue::from_static("0"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    drop(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
