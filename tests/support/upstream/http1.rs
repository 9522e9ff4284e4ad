//! HTTP/1.1 by hand, so that every byte, and where it stops, is the script's choice.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Record, Seen, Upstream};

/// What an upstream does next on a connection.
#[derive(Clone, Debug)]
pub enum Step {
    Send(Vec<u8>),
    /// Waits until something arrives, and drops it.
    Read,
    /// Waits until the test opens the gate.
    Gate,
    /// Waits at another gate: what comes later passes none that was opened for what came before.
    LaterGate,
    /// Takes so long.
    Wait(Duration),
    /// Neither reads nor writes any more. The peer has to end it.
    Hang,
    /// Ends the connection in order.
    Fin,
    /// Ends the connection and does not care what is still on its way: a reset, if anything is.
    Close,
    /// Ends the connection with a reset.
    Rst,
}

/// Answers each request, once it is complete, with the steps that `script` returns.
pub fn http1(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Upstream {
    serve(script, false)
}

/// The same, without waiting for the body of the request.
pub fn http1_on_headers(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Upstream {
    serve(script, true)
}

/// Runs `steps` on each connection as soon as it is accepted.
pub fn on_accept(steps: Vec<Step>) -> Upstream {
    let steps = Arc::new(steps);
    Upstream::serving(move |mut stream, _, record| {
        let steps = Arc::clone(&steps);
        async move {
            run(&mut stream, &steps, &record).await;
        }
    })
}

/// A whole response that leaves the connection open.
pub fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<Step> {
    vec![Step::Send(response(status, headers, body))]
}

fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

fn serve(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static, early: bool) -> Upstream {
    let script = Arc::new(script);
    Upstream::serving(move |mut stream, connection, record| {
        let script = Arc::clone(&script);
        async move {
            let mut buffer = Vec::new();
            while let Some(mut request) = read_request(&mut stream, &mut buffer, early).await {
                request.connection = connection;
                let request = record.note(request);
                if !run(&mut stream, &script(&request), &record).await {
                    return;
                }
            }
        }
    })
}

/// Returns whether the connection is still of use.
async fn run(stream: &mut TcpStream, steps: &[Step], record: &Record) -> bool {
    for step in steps {
        match step {
            Step::Send(bytes) => {
                if stream.write_all(bytes).await.is_err() {
                    return false;
                }
            }
            Step::Read => {
                let mut ignored = [0; 4096];
                if !matches!(stream.read(&mut ignored).await, Ok(1..)) {
                    return false;
                }
            }
            Step::Gate => record.gate.pass().await,
            Step::LaterGate => record.later_gate.pass().await,
            Step::Wait(duration) => tokio::time::sleep(*duration).await,
            Step::Hang => {
                // Envoy's end of the connection tells when nobody waits any more.
                let mut ignored = [0; 4096];
                while matches!(stream.read(&mut ignored).await, Ok(1..)) {}
                return false;
            }
            Step::Fin => {
                drop(stream.shutdown().await);
                // Closing with unread bytes would send a reset after all.
                let mut ignored = [0; 4096];
                let drain = async { while matches!(stream.read(&mut ignored).await, Ok(1..)) {} };
                drop(tokio::time::timeout(Duration::from_secs(5), drain).await);
                return false;
            }
            Step::Close => return false,
            Step::Rst => {
                drop(socket2::SockRef::from(&*stream).set_linger(Some(Duration::ZERO)));
                return false;
            }
        }
    }
    true
}

/// The next request, or nothing when the connection ends.
async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>, early: bool) -> Option<Seen> {
    let head_end = loop {
        if let Some(position) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break position + 4;
        }
        read_more(stream, buffer).await?;
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let mut request = Seen {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        headers: lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect(),
        ..Seen::default()
    };
    let end = if early { head_end } else { read_body(stream, buffer, head_end, &mut request).await? };
    request.raw = buffer.drain(..end).collect();
    Some(request)
}

/// Reads the body into `request`; where in `buffer` it ends.
async fn read_body(stream: &mut TcpStream, buffer: &mut Vec<u8>, start: usize, request: &mut Seen) -> Option<usize> {
    if request.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        let mut position = start;
        loop {
            let line = loop {
                if let Some(length) = buffer[position..].windows(2).position(|window| window == b"\r\n") {
                    break length;
                }
                read_more(stream, buffer).await?;
            };
            let size = std::str::from_utf8(&buffer[position..position + line]).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let data = position + line + 2;
            while buffer.len() < data + size + 2 {
                read_more(stream, buffer).await?;
            }
            request.body.extend_from_slice(&buffer[data..data + size]);
            position = data + size + 2;
            if size == 0 {
                return Some(position);
            }
        }
    }
    let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    while buffer.len() < start + length {
        read_more(stream, buffer).await?;
    }
    request.body = buffer[start..start + length].to_vec();
    Some(start + length)
}

async fn read_more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    match stream.read_buf(buffer).await {
        Ok(1..) => Some(()),
        _ => None,
    }
}
