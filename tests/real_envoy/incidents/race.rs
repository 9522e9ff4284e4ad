//! The classic of Node.js: its server closes connections that were idle for some seconds, and Envoy uses them a moment later.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::line::{ensure_told, told, wait_for};
use super::{policy, setup};
use crate::alone::Test;
use crate::ejection::site::{Setup, Site};
use crate::level::Level;
use crate::support::client::{Connection, Request};
use crate::support::{ports, wait};

pub const PACED: &[Test] = &[("incidents::keep_alive_race", keep_alive_race)];

pub const TIMED: &[Test] = &[("incidents::a_node_that_crashes", node_that_crashes)];

/// How long the server is told to keep an idle connection. Node.js adds up to a second, depending on its version.
const KEEP_ALIVE: Duration = Duration::from_millis(300);

/// A real Node.js server, which ends with this value.
struct Node {
    address: SocketAddr,
    child: Child,
}

impl Node {
    fn start(address: SocketAddr) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real_envoy/incidents/server.js");
        let mut child = Command::new("node")
            .arg(script)
            .args([address.port().to_string(), KEEP_ALIVE.as_millis().to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("node")?;
        let mut line = String::new();
        let output = child.stdout.take().context("its output is a pipe")?;
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "node said {line:?}");
        Ok(Self { address, child })
    }

    /// How long it really keeps an idle connection.
    fn keeps_idle(&self) -> Result<Duration> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(wait::LIMIT))?;
        stream.write_all(b"GET /now HTTP/1.1\r\nhost: node\r\n\r\n")?;
        ensure!(stream.read(&mut [0; 1024])? > 0, "no answer");
        let answered = Instant::now();
        while stream.read(&mut [0; 1024])? > 0 {}
        Ok(answered.elapsed())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn send(client: &mut Connection, path: &str) -> Result<()> {
    client.send(&Request::get(path))
}

fn answered(client: &mut Connection) -> Result<()> {
    let mut response = client.read_head()?;
    client.read_body(&mut response)?;
    ensure!(response.status == 200, "{response:?}");
    Ok(())
}

/// Two connections get idle at once. Shortly before the server closes them, one is given work that keeps its only thread
/// busy, and a request goes out on the other: when the thread gets to it, the time to close that connection has come first.
/// Returns for how long that one had been idle.
fn race(site: &Site, keeps_idle: Duration) -> Result<Duration> {
    let (mut busy, mut late) = (site.connect()?, site.connect()?);
    send(&mut busy, "/later/50")?;
    send(&mut late, "/later/50")?;
    answered(&mut busy)?;
    answered(&mut late)?;
    let idle = Instant::now();
    std::thread::sleep((keeps_idle - Duration::from_millis(80)).saturating_sub(idle.elapsed()));
    send(&mut busy, "/busy/200")?;
    std::thread::sleep(Duration::from_millis(30));
    // Reset, and retried on a new connection.
    let idle = idle.elapsed();
    send(&mut late, "/now")?;
    answered(&mut busy)?;
    answered(&mut late)?;
    Ok(idle)
}

fn keep_alive_race() -> Result<()> {
    let node = Node::start(ports::free())?;
    let site = setup(Level::Watch, 1, "2s").start_with(Vec::new())?;
    site.update_hosts(&[node.address])?;
    let keeps_idle = node.keeps_idle()?;
    // A machine that is busy may send the request later than it should, and still before the server closes.
    let mut longest = keeps_idle;
    let line = wait::until(wait::LIMIT, || {
        longest = longest.max(race(&site, keeps_idle).map_err(|error| format!("{error:#}"))?);
        let lines = told(&site).map_err(|error| format!("{error:#}"))?;
        lines
            .first()
            .cloned()
            .ok_or_else(|| format!("nothing is told after {} resets", site.metric("attempts_total.signal.reset")))
    })
    .map_err(anyhow::Error::msg)?;
    ensure!(line.pattern == "keep_alive_race" && line.state == "open" && line.host == "*", "{line:?}");
    ensure!(line.count("resets")? >= 3, "{line:?}");
    let (least, most) = (line.seconds("idle_min")?, line.seconds("idle_max")?);
    let bounds = keeps_idle.as_secs_f64() - 0.2..=longest.as_secs_f64() + 0.2;
    ensure!(
        bounds.contains(&least) && bounds.contains(&most),
        "idle for {least} to {most} s, not {bounds:?}: {line:?}"
    );
    ensure!(line.advises("common_http_protocol_options.idle_timeout") && line.advises("keepAliveTimeout"), "{line:?}");
    ensure_told(&site, &["open keep_alive_race"])
}

/// The same server killed with requests under way, again and again, is no race.
fn node_that_crashes() -> Result<()> {
    let mut node = Node::start(ports::free())?;
    // While its circuit is open, the only host is hardly asked, and it takes Node.js a while to start.
    let policy = policy("2s", &json!({"circuitBreaker": null}));
    let site = Setup { policy, ..setup(Level::Watch, 1, "2s") }.start_with(Vec::new())?;
    site.update_hosts(&[node.address])?;
    for _ in 0..3 {
        let mut clients = [site.connect()?, site.connect()?, site.connect()?];
        // Connections that were all idle for as long, cut off at once.
        for path in ["/later/20", "/later/400"] {
            for client in &mut clients {
                send(client, path)?;
            }
            if path == "/later/20" {
                clients.iter_mut().try_for_each(answered)?;
                std::thread::sleep(Duration::from_millis(200));
            }
        }
        std::thread::sleep(Duration::from_millis(100));
        let address = node.address;
        drop(node);
        for _ in 0..3 {
            let response = site.connect()?.exchange(&Request::get("/refused"))?;
            ensure!(response.status == 503, "{response:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        // Requests go on until it is back, however long that takes: else nobody would know how long it was down.
        let ask = |path: &str| -> Result<u16> {
            let response = site.connect()?.exchange(&Request::get(path))?;
            std::thread::sleep(Duration::from_millis(20));
            Ok(response.status)
        };
        let starting = std::thread::spawn(move || Node::start(address));
        let back = Instant::now();
        while ask("/back")? != 200 {
            ensure!(back.elapsed() < wait::LIMIT, "it is not back");
        }
        node = starting.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        let until = Instant::now() + Duration::from_secs(1);
        while Instant::now() < until {
            ask("/now")?;
        }
    }
    wait_for(&site, "open", "crash_loop")?;
    ensure_told(&site, &["over restart", "over restart", "open crash_loop"])
}
