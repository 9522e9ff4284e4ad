//! The hosts behind the Envoy that is measured: they answer at once, with a few bytes or with a large body in pieces.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// A large body, in bytes, and the pieces in which an upstream writes it.
pub const LARGE: usize = 256 * 1024;
const PIECE: usize = 16 * 1024;
const SMALL: usize = 128;

/// Serves on every listener for as long as the runtime lives: HTTP/1.1 or HTTP/2, whichever is spoken.
pub fn serve(runtime: &Runtime, listeners: Vec<std::net::TcpListener>) -> std::io::Result<Vec<SocketAddr>> {
    let _inside = runtime.enter();
    let mut addresses = Vec::new();
    for listener in listeners {
        addresses.push(listener.local_addr()?);
        listener.set_nonblocking(true)?;
        runtime.spawn(accept(TcpListener::from_std(listener)?));
    }
    Ok(addresses)
}

async fn accept(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Pieces>, hyper::Error> {
    let large = request.uri().path().ends_with("/large");
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(Response::new(Pieces { left: if large { LARGE } else { SMALL } }))
}

/// So many bytes, all of them ready.
struct Pieces {
    left: usize,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static BYTES: [u8; PIECE] = [b'.'; PIECE];
        let size = self.left.min(PIECE);
        self.left -= size;
        Poll::Ready((size > 0).then(|| Ok(Frame::data(Bytes::from_static(BYTES.get(..size).unwrap_or_default())))))
    }
}
