//! HTTP/2 and gRPC, by the `h2` crate.

use std::sync::Arc;

use bytes::Bytes;
use h2::server::{self, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{Record, Seen, Upstream};

/// How a stream is answered.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    head: Option<(u16, Vec<(String, String)>)>,
    body: &'static str,
    trailers: Option<Vec<(String, String)>>,
    gate: bool,
    end: End,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum End {
    #[default]
    Complete,
    Reset(Reason),
    Hang,
}

impl Reply {
    /// A response without a body.
    pub fn status(status: u16) -> Self {
        Self { head: Some((status, Vec::new())), ..Self::default() }
    }

    /// `RST_STREAM` before any response.
    pub fn reset(reason: Reason) -> Self {
        Self { end: End::Reset(reason), ..Self::default() }
    }

    /// No response, ever.
    pub fn hang() -> Self {
        Self { end: End::Hang, ..Self::default() }
    }

    /// A gRPC response with its status in the trailers, after a message.
    pub fn grpc(status: u32) -> Self {
        // An empty message: not compressed, of length 0.
        let reply = Self::status(200).header("content-type", "application/grpc").body("\0\0\0\0\0");
        Self { trailers: Some(vec![("grpc-status".to_owned(), status.to_string())]), ..reply }
    }

    /// A gRPC response whose only headers are its trailers.
    pub fn grpc_trailers_only(status: u32) -> Self {
        Self::status(200).header("content-type", "application/grpc").header("grpc-status", &status.to_string())
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Some((_, headers)) = &mut self.head {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    /// Adds to the trailers, where there are some.
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        if let Some(trailers) = &mut self.trailers {
            trailers.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    pub fn body(mut self, body: &'static str) -> Self {
        self.body = body;
        self
    }

    /// After headers and body, waits until the test opens the gate.
    pub fn gate(mut self) -> Self {
        self.gate = true;
        self
    }

    /// Ends with `RST_STREAM` after what was sent so far.
    pub fn then_reset(mut self, reason: Reason) -> Self {
        self.end = End::Reset(reason);
        self
    }
}

/// Answers each stream, once its request is complete, as `script` says.
pub fn http2(script: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Upstream {
    let script = Arc::new(script);
    Upstream::serving(move |stream, number, record| {
        let script = Arc::clone(&script);
        async move {
            drop(serve(stream, number, record, script).await);
        }
    })
}

async fn serve<S>(stream: TcpStream, number: usize, record: Arc<Record>, script: Arc<S>) -> Result<(), h2::Error>
where
    S: Fn(&Seen) -> Reply + Send + Sync + 'static,
{
    let mut connection = server::handshake(stream).await?;
    let mut streams = JoinSet::new();
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let (record, script) = (Arc::clone(&record), Arc::clone(&script));
        streams.spawn(async move {
            let request = receive(request, number).await?;
            let request = record.note(request);
            let reply = script(&request);
            send(respond, reply, &record).await
        });
    }
    Ok(())
}

async fn receive(request: Request<RecvStream>, connection: usize) -> Result<Seen, h2::Error> {
    let (head, mut stream) = request.into_parts();
    let mut body = Vec::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        body.extend_from_slice(&chunk);
    }
    Ok(Seen {
        connection,
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        headers: std::iter::once((
            ":authority".to_owned(),
            head.uri.authority().map(ToString::to_string).unwrap_or_default(),
        ))
        .chain(
            head.headers
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())),
        )
        .collect(),
        body,
        ..Seen::default()
    })
}

async fn send(mut respond: SendResponse<Bytes>, reply: Reply, record: &Record) -> Result<(), h2::Error> {
    let Some((status, headers)) = reply.head else {
        match reply.end {
            End::Reset(reason) => respond.send_reset(reason),
            End::Hang | End::Complete => drop(std::future::poll_fn(|context| respond.poll_reset(context)).await),
        }
        return Ok(());
    };
    let mut response = Response::builder().status(status);
    if let Some(known) = response.headers_mut() {
        *known = header_map(&headers);
    }
    let Ok(response) = response.body(()) else { return Ok(()) };
    let alone = reply.body.is_empty() && reply.trailers.is_none() && reply.end == End::Complete && !reply.gate;
    let mut stream = respond.send_response(response, alone)?;
    if alone {
        return Ok(());
    }
    let last = reply.trailers.is_none() && reply.end == End::Complete && !reply.gate;
    stream.send_data(Bytes::from_static(reply.body.as_bytes()), last)?;
    if reply.gate {
        record.gate.pass().await;
    }
    match (reply.end, reply.trailers) {
        (End::Reset(reason), _) => stream.send_reset(reason),
        (End::Hang, _) => drop(std::future::poll_fn(|context| stream.poll_reset(context)).await),
        (End::Complete, Some(trailers)) => stream.send_trailers(header_map(&trailers))?,
        (End::Complete, None) if last => {}
        (End::Complete, None) => stream.send_data(Bytes::new(), true)?,
    }
    Ok(())
}

/// # Panics
/// When a script holds what is no header.
pub(crate) fn header_map(headers: &[(String, String)]) -> HeaderMap {
    let parse = |(name, value): &(String, String)| {
        (HeaderName::try_from(name).expect("a header name"), HeaderValue::try_from(value).expect("a header value"))
    };
    headers.iter().map(parse).collect()
}
