//! The load, the incidents, and the sums. Used by `./build.sh soak`, and for a few seconds by the real-Envoy suite.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::envoy::{Envoy, Launch};
use crate::support::{ports, runtime, wait};

const REPLICAS: usize = 4;
/// Each replica is well for so long, breaks off what it gets, refuses, and is well again; one after the other.
const WELL: Duration = Duration::from_millis(3_000);
const BREAKS: Duration = Duration::from_millis(150);
const REFUSES: Duration = Duration::from_millis(700);

/// What a replica does now.
const ANSWERS: u8 = 0;
const RESETS: u8 = 1;

/// Runs for `lasting`, tells how it goes, and checks the sums.
pub fn soak(lasting: Duration, connections: u64, mut tell: impl FnMut(&str)) -> Result<String> {
    let replicas: Vec<SocketAddr> = (0..REPLICAS).map(|_| ports::free()).collect();
    let over = Arc::new(AtomicBool::new(false));
    let crashing: Vec<_> = replicas
        .iter()
        .enumerate()
        .map(|(number, address)| runtime().spawn(replica(*address, number, Arc::clone(&over))))
        .collect();
    let address = ports::free();
    let envoy = start(address, &replicas)?;
    let books = Arc::new(Clients::default());
    let clients: Vec<_> = (0..connections)
        .map(|number| runtime().spawn(client(address, number, Arc::clone(&over), Arc::clone(&books))))
        .collect();

    let began = Instant::now();
    let mut memory = Vec::new();
    let every = (lasting / 60).max(Duration::from_secs(1));
    while began.elapsed() < lasting {
        std::thread::sleep(every.min(lasting.saturating_sub(began.elapsed())));
        memory.push(Memory::read(&envoy)?);
        let Memory { resident, allocated } = memory[memory.len() - 1];
        let sent = books.sent.load(Ordering::Relaxed);
        tell(&format!(
            "{:5.0} s: {sent} requests, {resident} MiB resident, {allocated} MiB allocated",
            began.elapsed().as_secs_f64()
        ));
    }
    over.store(true, Ordering::Relaxed);
    let seconds = began.elapsed().as_secs_f64();
    runtime().block_on(async {
        for task in clients.into_iter().chain(crashing) {
            drop(task.await);
        }
    });
    let sums = settled(&envoy, &books)?;
    let story = format!(
        "{:.0} s, {:.0} requests/s: {sums}\nresident MiB: {:?}\nallocated MiB: {:?}",
        seconds,
        books.sent.load(Ordering::Relaxed) as f64 / seconds,
        memory.iter().map(|memory| memory.resident).collect::<Vec<_>>(),
        memory.iter().map(|memory| memory.allocated).collect::<Vec<_>>(),
    );
    flat(&memory).with_context(|| story.clone())?;
    Ok(story)
}

/// Of at least twenty readings, the last half has no more than the second quarter, but for what allocators keep.
fn flat(memory: &[Memory]) -> Result<()> {
    if memory.len() < 20 {
        return Ok(());
    }
    let (early, late) = (&memory[memory.len() / 4..memory.len() / 2], &memory[memory.len() / 2..]);
    for of in [|memory: &Memory| memory.resident, |memory: &Memory| memory.allocated] {
        let (early, late) =
            (early.iter().map(of).max().unwrap_or_default(), late.iter().map(of).max().unwrap_or_default());
        ensure!(late <= early + early / 20 + 4, "memory grows: {early} MiB, later {late} MiB");
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
struct Memory {
    resident: u64,
    allocated: u64,
}

impl Memory {
    fn read(envoy: &Envoy) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", envoy.pid())).unwrap_or_default();
        let kib = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let stats = envoy.admin.stats("^server[.]memory_allocated$")?;
        let allocated = stats.values().next().copied().unwrap_or_default();
        Ok(Self { resident: kib.unwrap_or_default() >> 10, allocated: allocated >> 20 })
    }
}

fn start(address: SocketAddr, replicas: &[SocketAddr]) -> Result<Envoy> {
    let mut route = bootstrap::route("/", "orders");
    let back_off =
        json!({"route": {"retry_policy": {"retry_back_off": {"base_interval": "0.001s", "max_interval": "0.005s"}}}});
    bootstrap::merge(&mut route, &back_off);
    let mut listener = bootstrap::listener(Listener {
        name: "soak",
        port: address.port(),
        attach: Attach::GUARD,
        policy: &json!({"role": "decide"}),
        routes: vec![route],
        logs: None,
        manager: Value::Null,
    });
    listener["connection_balance_config"] = json!({"exact_balance": {}});
    let mut cluster = bootstrap::cluster("orders", replicas);
    bootstrap::merge(&mut cluster, &bootstrap::override_host("x-weir-hosts"));
    Launch::json(bootstrap::bootstrap(&[listener], &[cluster])).concurrency(4).start()
}

/// What the clients saw.
#[derive(Default)]
struct Clients {
    sent: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    /// No answer at all.
    lost: AtomicU64,
}

/// One request after the other, GETs and POSTs in turn.
async fn client(address: SocketAddr, number: u64, over: Arc<AtomicBool>, books: Arc<Clients>) {
    let mut stream = None;
    let mut count = number;
    while !over.load(Ordering::Relaxed) {
        count += 1;
        let open = match stream.take() {
            Some(open) => Ok(open),
            None => TcpStream::connect(address).await,
        };
        let Ok(mut open) = open else { continue };
        books.sent.fetch_add(1, Ordering::Relaxed);
        let request: &[u8] = if count.is_multiple_of(2) {
            b"GET / HTTP/1.1\r\nhost: soak\r\n\r\n"
        } else {
            b"POST / HTTP/1.1\r\nhost: soak\r\ncontent-length: 4\r\n\r\nbody"
        };
        match exchange(&mut open, request).await {
            Some((status, stays)) => {
                let of = if status == 200 { &books.answered } else { &books.failed };
                of.fetch_add(1, Ordering::Relaxed);
                if stays {
                    stream = Some(open);
                }
            }
            None => _ = books.lost.fetch_add(1, Ordering::Relaxed),
        }
    }
}

/// The status, and whether the connection may be used again.
async fn exchange(stream: &mut TcpStream, request: &[u8]) -> Option<(u16, bool)> {
    stream.write_all(request).await.ok()?;
    let mut buffer = Vec::with_capacity(1_024);
    loop {
        if stream.read_buf(&mut buffer).await.ok()? == 0 {
            return None;
        }
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length: usize =
            head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        while buffer.len() < end + 4 + length {
            if stream.read_buf(&mut buffer).await.ok()? == 0 {
                return None;
            }
        }
        return Some((status, !head.contains("connection: close")));
    }
}

/// A replica that leaks memory: it answers, breaks off what it gets, refuses, and starts again.
async fn replica(address: SocketAddr, number: usize, over: Arc<AtomicBool>) {
    // They are not in step.
    let mut well = WELL / 4 * (number as u32 + 1);
    while !over.load(Ordering::Relaxed) {
        let Ok(listener) = TcpListener::bind(address).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mode = Arc::new(AtomicU8::new(ANSWERS));
        let mut serving = JoinSet::new();
        let of_connections = Arc::clone(&mode);
        let accepting = async {
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    serving.spawn(serve(stream, Arc::clone(&of_connections)));
                }
                while serving.try_join_next().is_some() {}
            }
        };
        let crashing = async {
            tokio::time::sleep(well).await;
            mode.store(RESETS, Ordering::Relaxed);
            tokio::time::sleep(BREAKS).await;
        };
        tokio::select! { () = accepting => {}, () = crashing => {} }
        drop(listener);
        serving.shutdown().await;
        well = WELL;
        tokio::time::sleep(REFUSES).await;
    }
}

async fn serve(mut stream: TcpStream, mode: Arc<AtomicU8>) {
    drop(stream.set_nodelay(true));
    // Whenever this end closes, it is with a reset.
    drop(socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)));
    let mut buffer = Vec::with_capacity(2_048);
    loop {
        match stream.read_buf(&mut buffer).await {
            Ok(1..) => {}
            _ => return,
        }
        let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let posted = buffer.starts_with(b"POST");
        while posted && buffer.len() < end + 8 {
            match stream.read_buf(&mut buffer).await {
                Ok(1..) => {}
                _ => return,
            }
        }
        buffer.clear();
        if mode.load(Ordering::Relaxed) == RESETS {
            return;
        }
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
            return;
        }
    }
}

/// Waits until nothing is active, and all books say the same: what clients sent, Envoy received and Weir counted; attempts
/// are the requests that were not shed and the retries that Envoy made; each retry was paid for, or stopped.
fn settled(envoy: &Envoy, books: &Clients) -> Result<String> {
    let all = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let (sent, answered, failed, lost) = (all(&books.sent), all(&books.answered), all(&books.failed), all(&books.lost));
    ensure!(sent == answered + failed + lost, "clients: {sent} sent, {answered} + {failed} + {lost} ended");
    ensure!(lost == 0, "{lost} requests were not answered at all");
    wait::until(wait::LIMIT, || {
        let stats = envoy
            .admin
            .stats("^(http[.]soak[.]|cluster[.]orders[.]|wasmcustom[.]weir_)")
            .map_err(|error| error.to_string())?;
        let stat = |name: &str| stats.get(name).copied().unwrap_or_default();
        let active: Vec<_> = stats
            .iter()
            .filter(|(name, count)| **count > 0 && name.ends_with("_active") && !name.starts_with("wasmcustom"))
            .collect();
        if !active.is_empty() {
            return Err(format!("still active: {active:?}"));
        }
        let weir = |name: &str| -> u64 {
            let prefix = format!("wasmcustom.weir_{name}.");
            stats.iter().filter(|(known, _)| known.starts_with(&prefix)).map(|(_, count)| count).sum()
        };
        let received = stat("http.soak.downstream_rq_total");
        let retries = stat("cluster.orders.upstream_rq_retry");
        let (requests, attempts) = (weir("requests_total"), weir("attempts_total"));
        let (granted, local) = (weir("retries_total.verdict.granted"), weir("attempts_total.signal.local"));
        let shed = weir("shed_total");
        let sums: BTreeMap<&str, u64> = [
            ("sent", sent),
            ("answered", answered),
            ("failed", failed),
            ("shed", shed),
            ("attempts", attempts),
            ("retries", retries),
            ("granted", granted),
            ("stopped", local),
            ("ejections", weir("ejections_total")),
            ("probes", weir("probes_total")),
        ]
        .into();
        let agree = sent == received
            && received == requests
            && attempts == requests - shed.min(requests) + retries
            && retries == granted + local;
        if agree {
            Ok(format!("{sums:?}"))
        } else {
            Err(format!("the books differ: received {received}, requests {requests}, {sums:?}"))
        }
    })
    .map_err(|error| anyhow::anyhow!("{error}\n{}", envoy.log_end()))
}
