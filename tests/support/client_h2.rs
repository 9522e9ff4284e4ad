//! An HTTP/2 client, for gRPC with its trailers and for a client that resets its stream.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::Reason;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::client::{Request, Response};
use super::upstream::Upstream;
use super::{runtime, wait};

/// One request on a connection of its own; what the trailers say is added to the headers.
pub fn exchange(address: SocketAddr, request: &Request) -> Result<Response> {
    let whole = async {
        let (response, _stream, connection) = send(address, request).await?;
        let response = response.await.context("the response")?;
        let (head, mut body) = response.into_parts();
        let mut response = Response { status: head.status.as_u16(), ..Response::default() };
        let mut headers = head.headers;
        let mut complete = true;
        while let Some(chunk) = body.data().await {
            let Ok(chunk) = chunk else {
                complete = false;
                break;
            };
            body.flow_control().release_capacity(chunk.len())?;
            response.body.extend_from_slice(&chunk);
        }
        if complete && let Some(trailers) = body.trailers().await? {
            headers.extend(trailers);
        }
        response.complete = complete;
        response.headers = headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        connection.abort();
        Ok(response)
    };
    runtime().block_on(async { tokio::time::timeout(wait::LIMIT, whole).await.context("waiting for Envoy")? })
}

/// Sends a request and resets its stream when it has reached the upstream.
pub fn cancel(address: SocketAddr, request: &Request, upstream: &Upstream) -> Result<()> {
    let (response, mut stream, connection) = runtime().block_on(send(address, request))?;
    upstream.wait_for(1).map_err(anyhow::Error::msg)?;
    stream.send_reset(Reason::CANCEL);
    drop((response, stream));
    // With nothing left to do, the connection sends what it has, the reset first, and ends.
    drop(runtime().block_on(connection));
    Ok(())
}

type Sent = (h2::client::ResponseFuture, h2::SendStream<Bytes>, JoinHandle<()>);

async fn send(address: SocketAddr, request: &Request) -> Result<Sent> {
    let stream = TcpStream::connect(address).await.context("connecting to Envoy")?;
    let (sender, connection) = h2::client::handshake(stream).await?;
    let connection = tokio::spawn(async move { drop(connection.await) });
    let mut sender = sender.ready().await?;
    let host = request.headers.iter().find(|(name, _)| name == "host").map_or("weir.test", |(_, host)| host);
    let uri = format!("http://{host}{}", request.path);
    let mut builder = http::Request::builder().method(request.method).uri(uri);
    for (name, value) in request.headers.iter().filter(|(name, _)| name != "host") {
        builder = builder.header(name, value);
    }
    let (response, mut stream) = sender.send_request(builder.body(())?, request.body.is_empty())?;
    if !request.body.is_empty() {
        // Envoy may have answered already, and then wants no body.
        drop(stream.send_data(Bytes::from(request.body.clone()), true));
    }
    Ok((response, stream, connection))
}
