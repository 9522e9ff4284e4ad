//! Pods that speak HTTP/2 alone, and gRPC.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpSocket;
use tokio::task::{JoinHandle, JoinSet};

use crate::pod::until_alone;
use crate::support::runtime;

/// A pod that answers every request with 200, and with `grpc-status: 0` in its trailers.
pub struct Http2Pod {
    task: JoinHandle<()>,
    count: Arc<AtomicUsize>,
}

impl Http2Pod {
    pub fn at(address: SocketAddr) -> Result<Self> {
        let _inside = runtime().enter();
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(address).with_context(|| address.to_string())?;
        let listener = socket.listen(128)?;
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let task = runtime().spawn(async move {
            // They end with this task.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let counted = Arc::clone(&counted);
                connections.spawn(async move {
                    let answer = service_fn(move |request| answer(request, Arc::clone(&counted)));
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    drop(server.serve_connection(TokioIo::new(stream), answer).await);
                });
            }
        });
        Ok(Self { task, count })
    }

    /// Breaks off what is open, and refuses what comes, from when this returns.
    pub fn stop(&self) {
        self.task.abort();
        until_alone(&self.count);
    }

    /// How many requests arrived so far.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Http2Pod {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn answer(
    request: Request<Incoming>,
    count: Arc<AtomicUsize>,
) -> Result<Response<impl hyper::body::Body<Data = Bytes, Error = Infallible> + use<>>, Infallible> {
    drop(request.into_body().collect().await);
    count.fetch_add(1, Ordering::Relaxed);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}
