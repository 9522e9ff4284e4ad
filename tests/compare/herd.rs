//! A thousand requests fail in the same millisecond, under a budget that pays for three hundred retries: how many reach
//! the upstream? (The case of envoyproxy/envoy#30205: retries that wait in back-off are not counted.)

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use super::books::Books;
use super::finding::Finding;
use super::load::Load;
use super::policy::{self, Policy};
use super::proxy::Proxy;
use super::support::ports;

const ANSWERED: u64 = 500;
const HERD: u64 = 1000;
const WORKERS: u32 = 4;
/// What a budget of 20 percent pays for.
const BUDGET: u64 = (ANSWERED + HERD) / 5;

/// None of the three that retry no resets, and so have no herd.
const POLICIES: [(Policy, usize); 5] =
    [(Policy::RetryOn, 3), (Policy::Budget, 3), (Policy::BudgetInterval, 3), (Policy::Decide, 3), (Policy::Weir, 5)];

const CLUSTERS: [&str; 5] = ["herd0", "herd1", "herd2", "herd3", "herd4"];

/// Workers write down what arrived ten times a second.
const WRITTEN_DOWN: Duration = Duration::from_millis(500);
/// What came earlier may be out of the budget's interval when the herd fails: ten seconds, rounded down to nine.
const REMEMBERED: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(20);

pub fn run(runtime: &Runtime) -> Result<Finding> {
    let mut rows = Vec::new();
    let mut numbers = Vec::new();
    let mut broken = Vec::new();
    for (policy, repetitions) in POLICIES {
        let herds = runtime.block_on(herds(policy, repetitions))?;
        for herd in &herds {
            broken.extend(herd.books.mistakes(0));
            if policy.is_weir() && !herd.kept(policy) {
                broken.push(format!("{}: {} retries after a herd, not {BUDGET}", policy.name(), herd.retries()));
            }
        }
        let retries: Vec<String> = herds.iter().map(|herd| herd.retries().to_string()).collect();
        rows.push((policy, vec![retries.join(" ")]));
        numbers.push(json!({
            "policy": policy.name().trim(),
            "herds": herds.iter().map(Herd::to_json).collect::<Vec<_>>(),
        }));
    }
    Ok(Finding {
        title: "Herd: retries that reach the upstream",
        setting: format!(
            "{ANSWERED} GETs were answered; then {HERD} more wait for their answers, over {WORKERS} workers, and the upstream\n\
             resets them all at once (Envoy is stopped meanwhile, so that it meets all resets in the same moment), and\n\
             then every retry. 20 percent of {} are {BUDGET}. Each number is one repetition.",
            ANSWERED + HERD
        ),
        columns: vec!["retries"],
        rows,
        notes: vec![format!(
            "  Weir promises: {BUDGET}, all of it and not one more. decide alone gives retries out when requests arrive, each of\n\
                 \x20 the {WORKERS} workers from its own part: not one more, but for the floor, and up to one per worker less. (Istio's\n\
                 \x20 default retries no resets.)"
        )],
        broken,
        numbers: Value::Array(numbers),
    })
}

struct Herd {
    books: Books,
    /// From the resets until the last client had its answer.
    over_within: Duration,
}

impl Herd {
    fn retries(&self) -> u64 {
        self.books.retries()
    }

    /// The budget, to the last retry. Only where the herd takes longer than the floor's interval, on a machine that is too
    /// busy, the floor grants some more.
    fn kept(&self, policy: Policy) -> bool {
        let floor = policy::WEIR_FLOOR_PER_SECOND * self.over_within.as_secs();
        let least = if policy == Policy::Weir { BUDGET } else { 0 };
        (least..=BUDGET + floor).contains(&self.retries())
    }

    fn to_json(&self) -> Value {
        json!({
            "retries": self.retries(),
            "overWithinMilliseconds": self.over_within.as_millis() as u64,
            "books": self.books.to_json(),
        })
    }
}

/// Repetitions in one Envoy; each has a cluster, and so a budget, of its own.
async fn herds(policy: Policy, repetitions: usize) -> Result<Vec<Herd>> {
    let upstreams: Vec<_> = CLUSTERS.iter().take(repetitions).map(|cluster| (*cluster, Upstream::default())).collect();
    let mut serving = JoinSet::new();
    let mut clusters = Vec::new();
    for (cluster, upstream) in &upstreams {
        let address = ports::free();
        // Room for every connection that a herd can ask for at once; one that is turned away asks again after a second.
        let socket = TcpSocket::new_v4()?;
        socket.bind(address)?;
        serving.spawn(upstream.clone().serve(socket.listen(4096)?));
        clusters.push(((*cluster).to_owned(), vec![address]));
    }
    let proxy =
        tokio::task::spawn_blocking(move || Proxy::start(policy, WORKERS, &clusters, &json!({"timeout": "15s"})))
            .await??;
    let proxy = Arc::new(proxy);
    let mut herds = Vec::new();
    for (cluster, upstream) in upstreams {
        herds.push(herd(&proxy, cluster, &upstream).await?);
    }
    Ok(herds)
}

async fn herd(proxy: &Arc<Proxy>, cluster: &'static str, upstream: &Upstream) -> Result<Herd> {
    let calm = Load {
        target: proxy.listener,
        cluster,
        method: Method::GET,
        rate: 2 * ANSWERED,
        count: ANSWERED,
        patience: PATIENCE,
    };
    let first = Instant::now();
    let outcomes = calm.run(first).await;
    let answered = outcomes.iter().filter(|outcome| outcome.answered()).count() as u64;
    ensure!(answered == ANSWERED, "{answered} of {ANSWERED} requests were answered before the herd");

    upstream.hold.store(true, Ordering::Relaxed);
    let mut clients = JoinSet::new();
    // Not all connections at once: that would test the kernel's queues.
    let mut pace = interval(Duration::from_millis(5));
    for _ in 0..HERD / 10 {
        pace.tick().await;
        for _ in 0..10 {
            clients.spawn(timeout(PATIENCE, ask(proxy.listener, cluster)));
        }
    }
    let gathered = async {
        while upstream.held() < HERD {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, gathered)
        .await
        .with_context(|| format!("the upstream holds only {} of {HERD}", upstream.held()))?;
    sleep(WRITTEN_DOWN).await;

    let gathered = first.elapsed();
    ensure!(gathered < REMEMBERED, "this machine is too busy: it took {gathered:?} until the herd was there");
    // Envoy is stopped meanwhile, and so meets all resets at once, however long the kernel takes over them.
    signal(proxy, "-STOP")?;
    upstream.reset_all();
    signal(proxy, "-CONT")?;
    let began = Instant::now();
    for client in clients.join_all().await {
        client.context("a client of the herd waits for its answer")?.context("a client of the herd")?;
    }
    let over_within = began.elapsed();
    let (proxy, arrived) = (Arc::clone(proxy), upstream.arrived.load(Ordering::Relaxed));
    let books = tokio::task::spawn_blocking(move || Books::close(&proxy, cluster, ANSWERED + HERD, arrived)).await??;
    Ok(Herd { books, over_within })
}

fn signal(proxy: &Proxy, signal: &str) -> Result<()> {
    let sent = Command::new("sh").arg("-c").arg(format!("kill {signal} {}", proxy.envoy.pid())).status()?;
    ensure!(sent.success(), "kill {signal} failed");
    Ok(())
}

/// One request on a connection of its own, so that the kernel spreads them over the workers.
async fn ask(target: SocketAddr, cluster: &str) -> Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.write_all(format!("GET /{cluster}/ HTTP/1.1\r\nhost: herd\r\n\r\n").as_bytes()).await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 503"), "answered with {:?}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// Answers; or holds what arrives until it resets everything, and whatever arrives from then on.
#[derive(Clone, Default)]
struct Upstream(Arc<State>);

#[derive(Default)]
struct State {
    arrived: AtomicU64,
    hold: AtomicBool,
    reset: AtomicBool,
    held: Mutex<Vec<TcpStream>>,
}

impl std::ops::Deref for Upstream {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl Upstream {
    async fn serve(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            // Closing means a RST.
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            let _ = stream.set_nodelay(true);
            connections.spawn(self.clone().connection(stream));
            while connections.try_join_next().is_some() {}
        }
    }

    /// The requests have no bodies, and come one after the other.
    async fn connection(self, mut stream: TcpStream) {
        let mut request = Vec::new();
        while let Ok(1..) = stream.read_buf(&mut request).await {
            if !request.ends_with(b"\r\n\r\n") {
                continue;
            }
            request.clear();
            self.arrived.fetch_add(1, Ordering::Relaxed);
            if self.reset.load(Ordering::Relaxed) {
                return;
            }
            if self.hold.load(Ordering::Relaxed) {
                self.held.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
                return;
            }
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
                return;
            }
        }
    }

    fn held(&self) -> u64 {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    fn reset_all(&self) {
        self.reset.store(true, Ordering::Relaxed);
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
