//! An HTTP/1.1 client that sends exactly the bytes it is told, on one connection, and reads as far as it is told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail};

use super::wait;

/// A request to send. The path decides which route, and so which cluster, it goes to.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn new(method: &'static str, path: &str) -> Self {
        let body = if matches!(method, "POST" | "PUT" | "PATCH") { b"body".to_vec() } else { Vec::new() };
        Self { method, path: path.to_owned(), headers: Vec::new(), body }
    }

    pub fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub fn post(path: &str) -> Self {
        Self::new("POST", path)
    }

    /// A gRPC call with an empty message.
    pub fn grpc(path: &str) -> Self {
        let request = Self { body: vec![0; 5], ..Self::post(path) };
        request.header("content-type", "application/grpc").header("te", "trailers")
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| name == "host") {
            text.push_str("host: weir.test\r\n");
        }
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() {
            text.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        [text.as_bytes(), &self.body].concat()
    }
}

/// A response, as far as it came.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Whether the body ended where it should.
    pub complete: bool,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection to Envoy. Dropping it is how a client gives up.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    method: &'static str,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, wait::LIMIT).context("connecting to Envoy")?;
        stream.set_read_timeout(Some(wait::LIMIT))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::new(), method: "" })
    }

    /// Sends a request and reads its whole response.
    pub fn exchange(&mut self, request: &Request) -> Result<Response> {
        self.send(request)?;
        let mut response = self.read_head()?;
        self.read_body(&mut response)?;
        Ok(response)
    }

    pub fn send(&mut self, request: &Request) -> Result<()> {
        self.method = request.method;
        match self.stream.write_all(&request.bytes()) {
            // Envoy may answer and close while a long body is still being sent; what it said can be read all the same.
            Err(error) if request.body.len() < 65_536 => Err(error).context("sending to Envoy"),
            _ => Ok(()),
        }
    }

    /// Whether something has come that was not read yet, or the end of the connection.
    pub fn is_answered(&self) -> bool {
        if !self.buffer.is_empty() {
            return true;
        }
        drop(self.stream.set_nonblocking(true));
        let peeked = self.stream.peek(&mut [0]);
        drop(self.stream.set_nonblocking(false));
        !matches!(peeked, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }

    /// Reads up to the end of the headers.
    pub fn read_head(&mut self) -> Result<Response> {
        let end = loop {
            if let Some(position) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break position + 4;
            }
            if !self.read_more()? {
                bail!("Envoy closed the connection without a response");
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let head = String::from_utf8_lossy(&head);
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(':'));
        Ok(Response {
            status: status.context("a response without a status")?,
            headers: headers.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect(),
            ..Response::default()
        })
    }

    /// Reads the body, as far as it comes.
    pub fn read_body(&mut self, response: &mut Response) -> Result<()> {
        let chunked = response.header("transfer-encoding").is_some_and(|coding| coding == "chunked");
        if self.method == "HEAD" || matches!(response.status, 204 | 304) {
            response.complete = true;
            return Ok(());
        }
        if chunked {
            return self.read_chunks(response);
        }
        let length: usize = response.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        response.complete = self.read_until(length)?;
        let length = length.min(self.buffer.len());
        response.body = self.buffer.drain(..length).collect();
        Ok(())
    }

    fn read_chunks(&mut self, response: &mut Response) -> Result<()> {
        loop {
            let line = loop {
                if let Some(position) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                    break position;
                }
                if !self.read_more()? {
                    return Ok(());
                }
            };
            let size = usize::from_str_radix(std::str::from_utf8(&self.buffer[..line])?.trim(), 16)?;
            if !self.read_until(line + 2 + size + 2)? {
                return Ok(());
            }
            response.body.extend_from_slice(&self.buffer[line + 2..line + 2 + size]);
            self.buffer.drain(..line + 2 + size + 2);
            if size == 0 {
                response.complete = true;
                return Ok(());
            }
        }
    }

    fn read_until(&mut self, length: usize) -> Result<bool> {
        while self.buffer.len() < length {
            if !self.read_more()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns whether anything came before the end of the connection.
    fn read_more(&mut self) -> Result<bool> {
        let mut chunk = [0; 16_384];
        match self.stream.read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.buffer.extend_from_slice(&chunk[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(error).context("waiting for Envoy"),
        }
    }
}

/// One request on a connection of its own.
pub fn exchange(address: SocketAddr, request: &Request) -> Result<Response> {
    Connection::open(address)?.exchange(request)
}
