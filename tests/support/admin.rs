//! A client for Envoy's admin interface: as much HTTP/1.1 as it needs, blocking, one connection per question.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail, ensure};

use super::wait;

/// Counters and gauges by name.
pub type Stats = BTreeMap<String, u64>;

#[derive(Clone, Copy, Debug)]
pub struct Admin {
    pub address: SocketAddr,
}

impl Admin {
    /// `GET path`; the body, if the answer is 200.
    pub fn get(&self, path: &str) -> Result<String> {
        self.request("GET", path)
    }

    /// `POST path`, for what changes Envoy (`/quitquitquit`, `/logging?...`, `/reset_counters`).
    pub fn post(&self, path: &str) -> Result<String> {
        self.request("POST", path)
    }

    /// Whether Envoy is live and its workers have started, so that its listeners accept.
    pub fn is_ready(&self) -> bool {
        self.get("/ready").is_ok()
            && self
                .stats("^listener_manager.workers_started$")
                .is_ok_and(|stats| stats.get("listener_manager.workers_started") == Some(&1))
    }

    /// The counters and gauges whose name matches `filter`, a regular expression.
    pub fn stats(&self, filter: &str) -> Result<Stats> {
        let text = self.get(&format!("/stats?filter={}", percent_encode(filter)))?;
        Ok(text
            .lines()
            .filter_map(|line| line.rsplit_once(": "))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }

    /// All that Prometheus would scrape.
    pub fn prometheus(&self) -> Result<String> {
        self.get("/stats/prometheus")
    }

    fn request(&self, method: &str, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, wait::LIMIT)?;
        stream.set_read_timeout(Some(wait::LIMIT))?;
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end =
            answer.windows(4).position(|window| window == b"\r\n\r\n").context("the answer has no end of headers")?;
        let (head, body) = answer.split_at(end + 4);
        let head = String::from_utf8_lossy(head).to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 200 "), "{method} {path}: {}", head.lines().next().unwrap_or_default());
        let body = if head.contains("transfer-encoding: chunked") { unchunk(body)? } else { body.to_vec() };
        Ok(String::from_utf8_lossy(&body).into_owned())
    }
}

fn unchunk(mut body: &[u8]) -> Result<Vec<u8>> {
    let mut whole = Vec::with_capacity(body.len());
    loop {
        let Some(line) = body.windows(2).position(|window| window == b"\r\n") else { bail!("a chunk without a size") };
        let size = usize::from_str_radix(std::str::from_utf8(&body[..line])?.trim(), 16)?;
        if size == 0 {
            return Ok(whole);
        }
        ensure!(body.len() >= line + 2 + size + 2, "the last chunk is cut");
        whole.extend_from_slice(&body[line + 2..line + 2 + size]);
        body = &body[line + 2 + size + 2..];
    }
}

fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
