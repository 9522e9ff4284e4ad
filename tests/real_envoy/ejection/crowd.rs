//! Ten thousand hosts that come and go: what is remembered of them stays within bounds, and each is judged by what it did.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::replica::Replica;
use super::site::{Setup, Site};
use crate::alone::Test;
use crate::check::Tally;
use crate::level::Level;
use crate::stage::{summary, times};
use crate::support::client::{Connection, Request};
use crate::support::{runtime, wait};

pub const TESTS: &[Test] = &[("ejection::hosts_that_come_and_go", come_and_go)];

const BATCHES: usize = 40;
const BATCH: usize = 250;
const REQUESTS: usize = 500;
/// More than this in the second half of the test would be a leak: 5,000 hosts at 400 bytes are 2 MB in each worker.
const MOST_GROWTH: u64 = 6 << 20;

/// Whether a host of a batch does not listen. No two in a row: the balancer takes turns, and a request has three attempts.
fn is_dead(host: usize) -> bool {
    host % 100 == 50
}

/// A loopback address of its own for each host.
fn address(batch: usize, host: usize, port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 40, batch as u8, host as u8 + 1), port))
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut bytes = [0; 4096];
    // A request without a body is in one piece here.
    while stream.read(&mut bytes).await? > 0 {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    }
    Ok(())
}

/// The hosts of a batch that listen, until this is dropped.
fn listen(addresses: &[SocketAddr]) -> anyhow::Result<JoinSet<()>> {
    let _entered = runtime().enter();
    let mut serving = JoinSet::new();
    for address in addresses {
        let listener = std::net::TcpListener::bind(address).with_context(|| address.to_string())?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream));
            }
        });
    }
    Ok(serving)
}

/// Bytes that the Envoy process holds.
fn resident(site: &Site) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/statm", site.envoy.pid()))?;
    let pages: u64 = text.split(' ').nth(1).context("statm")?.parse()?;
    Ok(pages * 4096)
}

fn come_and_go() -> anyhow::Result<()> {
    let first = Replica::new()?;
    let port = first.address.port();
    let site = Setup::new(Level::Guard).start_with(vec![first])?;
    let mut half = 0;
    // A worker may hear later than Envoy's main thread that other hosts are there, so those of the batch before still answer.
    let mut before = None;
    for batch in 0..BATCHES {
        let all: Vec<_> = (0..BATCH).map(|host| address(batch, host, port)).collect();
        let alive: Vec<_> = (0..BATCH).filter(|host| !is_dead(*host)).map(|host| address(batch, host, port)).collect();
        let serving = listen(&alive)?;
        site.update_hosts(&all)?;
        let path = format!("/batch-{batch}");
        let mut connection = Connection::open(site.address)?;
        for _ in 0..REQUESTS {
            let status = connection.exchange(&Request::get(&path))?.status;
            ensure!(status == 200, "batch {batch}: {status}; {}", site.story());
        }
        before.replace(serving);
        if batch == BATCHES / 2 {
            half = resident(&site)?;
        }
    }
    let grown = resident(&site)?.saturating_sub(half);
    ensure!(grown <= MOST_GROWTH, "{grown} bytes more");
    wait::until(wait::LIMIT, || match (site.metric("hosts_known"), site.metric("hosts_forgotten_total")) {
        (1_000, forgotten) if forgotten > 1_000 => Ok(()),
        found => Err(format!("known and forgotten: {found:?}")),
    })
    .map_err(anyhow::Error::msg)?;
    // Each attempt that Envoy could not connect was told, and of no other host.
    let refused = site.stat(&format!("cluster.{}.upstream_cx_connect_fail", super::site::CLUSTER));
    let told = site.metric("attempts_total.signal.refused");
    ensure!(told == refused && told >= BATCHES as u64, "{told} refused by Weir, {refused} by Envoy");
    let signals = Tally::read(site.envoy.admin, super::site::CLUSTER).map_err(anyhow::Error::msg)?.attempts;
    // A probe that is slow is sent to another host as well, so on a busy machine there may be an attempt more than it takes.
    let mut attempts = 0;
    for batch in 0..BATCHES {
        attempts += site.attempts(&format!("/batch-{batch}"), REQUESTS)?.len();
    }
    let answered = times(&signals, "answered");
    ensure!(
        signals.len() == attempts && answered == BATCHES * REQUESTS,
        "Envoy logged {attempts} attempts: {}",
        summary(&signals)
    );
    let log = site.envoy.log();
    let ejected: Vec<_> = log.lines().filter_map(|line| line.split_once("host ")?.1.split_once(" ejected")).collect();
    let dead: Vec<_> = (0..BATCHES)
        .flat_map(|batch| {
            (0..BATCH).filter(|host| is_dead(*host)).map(move |host| address(batch, host, port).to_string())
        })
        .collect();
    ensure!(!ejected.is_empty() && ejected.iter().all(|(host, _)| dead.iter().any(|dead| dead == host)), "{ejected:?}");
    Ok(())
}
