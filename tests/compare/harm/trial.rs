//! Some situations at the same time, each in two Envoys beside each other: without Weir and with it. What happens to the replicas
//! of one happens to those of the other in the same moment, and the clients of both send the same.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::super::host::Host;
use super::super::support::envoy::{Envoy, Launch};
use super::super::support::{bootstrap, ports};
use super::client;
use super::measure::Record;
use super::replica::{Ledger, Replica};
use super::sentinel::Sentinel;
use super::setup::{Setup, Shipped, Side, publish};
use super::situation::{Act, Situation};

/// Threads of each Envoy: what one learns the other has to know.
const WORKERS: u32 = 2;

/// From the last preparation to the first request.
const LEAD: Duration = Duration::from_millis(300);

/// Everything in a script is later by less than this: each seed meets other moments.
const SHIFT: u64 = 250;

/// One side of a situation.
struct Stage {
    side: Side,
    situation: Arc<Situation>,
    seed: u64,
    listens: SocketAddr,
    directory: TempDir,
    hosts: Vec<Host<Replica>>,
    replicas: Vec<Arc<Replica>>,
    ledger: Arc<Ledger>,
}

/// What became of a situation.
pub struct Outcome {
    pub situation: Arc<Situation>,
    pub without: Record,
    pub with: Record,
    /// What Weir said of it in Envoy's log.
    pub log: Vec<String>,
    /// How many requests had to wait that had nothing to do with it.
    pub waited: usize,
}

/// Runs them all at once.
pub async fn run(shipped: Arc<Shipped>, situations: &[Arc<Situation>], seed: u64) -> Result<Vec<Outcome>> {
    let without = side(&shipped, Side::Without, situations, seed);
    let with = side(&shipped, Side::With, situations, seed);
    let (without, with) = tokio::try_join!(without, with)?;
    tokio::join!(without.sentinel.warm_up(), with.sentinel.warm_up());
    let start = Instant::now() + LEAD;
    let mut running = JoinSet::new();
    for (index, stage) in without.stages.into_iter().chain(with.stages).enumerate() {
        running.spawn(async move { Ok::<_, anyhow::Error>((index, stage.run(start).await?)) });
    }
    let seconds = situations.iter().map(|situation| situation.seconds).fold(0.0, f64::max);
    let watch = async { tokio::join!(without.sentinel.watch(start, seconds), with.sentinel.watch(start, seconds)) };
    let ended = async {
        let mut done = Vec::new();
        while let Some(ended) = running.join_next().await {
            done.push(ended??);
        }
        anyhow::Ok(done)
    };
    let (waited, done) = tokio::join!(watch, ended);
    let mut done = done?;
    done.sort_by_key(|(index, _)| *index);
    // Access logs are written with a delay.
    sleep(Duration::from_millis(200)).await;
    let envoys = [without.envoy, with.envoy];
    tokio::task::spawn_blocking(move || conclude(done, envoys, waited.0 + waited.1)).await?
}

fn conclude(done: Vec<(usize, Ended)>, mut envoys: [Envoy; 2], waited: usize) -> Result<Vec<Outcome>> {
    let mut records = Vec::new();
    for (_, ended) in done {
        let envoy = &mut envoys[usize::from(ended.side == Side::With)];
        ensure!(envoy.is_running(), "Envoy ended: {}", envoy.log_end());
        let name = ended.situation.name;
        let filter = format!("^cluster[.]{name}(--[^.]*)?[.]upstream_rq_pending_failure_eject$");
        let unconnected = envoy.admin.stats(&filter)?.values().sum();
        let unexplained = if ended.side == Side::With { unexplained(&ended.log)? } else { 0 };
        records.push((ended.situation, ended.side, Record { unconnected, unexplained, ..ended.record }));
    }
    let with = records.split_off(records.len() / 2);
    let log = envoys[1].log();
    let outcome = |((situation, _, without), (_, _, with)): ((Arc<Situation>, Side, Record), (_, _, Record))| {
        let said = log.lines().filter(|line| line.contains("weir: ") && line.contains(situation.name));
        Outcome { log: said.map(str::to_owned).collect(), waited, situation, without, with }
    };
    Ok(records.into_iter().zip(with).map(outcome).collect())
}

/// Failures that left with nothing to say why.
fn unexplained(log: &std::path::Path) -> Result<u64> {
    let text = std::fs::read_to_string(log).with_context(|| format!("cannot read {}", log.display()))?;
    let failed = text.lines().filter_map(|line| line.split_once(' ')).filter(|(code, _)| code.starts_with('5'));
    Ok(failed.filter(|(_, rest)| rest.starts_with("- ")).count() as u64)
}

/// An Envoy, and what is behind it.
struct Running {
    stages: Vec<Stage>,
    sentinel: Sentinel,
    envoy: Envoy,
}

/// The replicas of every situation, and the Envoy before them.
async fn side(shipped: &Arc<Shipped>, side: Side, situations: &[Arc<Situation>], seed: u64) -> Result<Running> {
    let (mut stages, mut setups) = (Vec::new(), Vec::new());
    for situation in situations {
        let stage = Stage::new(side, situation, seed).await?;
        setups.push(stage.setup(shipped)?);
        stages.push(stage);
    }
    let sentinel = Sentinel::new().await?;
    setups.push(sentinel.setup(shipped, side)?);
    let bootstrap = shipped.bootstrap(side, setups);
    let launch = Launch::json(bootstrap).concurrency(WORKERS).log_level("warning");
    let launch = launch.argument("--component-log-level").argument("wasm:info");
    let names: Vec<_> = situations.iter().map(|situation| situation.name).collect();
    let envoy = tokio::task::spawn_blocking(move || launch.start()).await?;
    let envoy = envoy.with_context(|| format!("{side:?} Weir: {}", names.join(", ")))?;
    Ok(Running { stages, sentinel, envoy })
}

struct Ended {
    side: Side,
    situation: Arc<Situation>,
    record: Record,
    log: PathBuf,
    _directory: TempDir,
}

impl Stage {
    async fn new(side: Side, situation: &Arc<Situation>, seed: u64) -> Result<Self> {
        let ledger = Arc::<Ledger>::default();
        let replica = |number| Arc::new(Replica::new(number, seed, situation.connections_last, &ledger));
        let replicas: Vec<_> = (0..situation.hosts).map(replica).collect();
        let mut hosts: Vec<_> = replicas.iter().map(Host::new).collect();
        for host in &mut hosts {
            back(host).await?;
        }
        Ok(Self {
            side,
            situation: Arc::clone(situation),
            seed,
            listens: ports::free(),
            directory: tempfile::Builder::new().prefix("weir-harm-").tempdir()?,
            hosts,
            replicas,
            ledger,
        })
    }

    fn addresses(&self) -> Vec<serde_json::Value> {
        self.hosts.iter().map(|host| bootstrap::address(host.address)).collect()
    }

    fn setup(&self, shipped: &Shipped) -> Result<Setup> {
        let name = self.situation.name;
        let mut setup = Setup::new(shipped, self.side, name, self.listens, self.addresses(), self.directory.path())?;
        (self.situation.setup)(&mut setup)?;
        Ok(setup)
    }

    async fn run(self, start: Instant) -> Result<Ended> {
        let Self { side, situation, seed, listens, directory, hosts, replicas, ledger } = self;
        let addresses: Vec<_> = hosts.iter().map(|host| bootstrap::address(host.address)).collect();
        let mut loads = JoinSet::new();
        for (index, load) in situation.loads.iter().enumerate() {
            loads.spawn(client::run(load.clone(), index, listens, start, situation.seconds));
        }
        let script = play(hosts, &replicas, &situation, seed, start, |members| {
            publish(directory.path(), situation.name, &addresses, members)
        });
        let (hosts, outcomes) = tokio::join!(script, loads.join_all());
        let hosts = hosts.map_err(|error| anyhow!("{}: {error:#}", situation.name))?;
        drop(hosts);
        let (arrivals, done, deaths) = (ledger.arrivals(), ledger.done(), ledger.deaths());
        let outcomes = outcomes.concat();
        let record = Record { start, outcomes, arrivals, done, deaths, unconnected: 0, unexplained: 0 };
        let log = directory.path().join("requests.log");
        Ok(Ended { side, situation, record, log, _directory: directory })
    }
}

/// Does what the script says, and returns the hosts, which end when they are dropped.
async fn play(
    mut hosts: Vec<Host<Replica>>,
    replicas: &[Arc<Replica>],
    situation: &Situation,
    seed: u64,
    start: Instant,
    members: impl Fn(&[(usize, &'static str)]) -> Result<()>,
) -> Result<Vec<Host<Replica>>> {
    let shift = Duration::from_millis(fastrand::Rng::with_seed(seed).u64(0..SHIFT));
    for (at, act) in &situation.script {
        sleep_until(start + *at + shift).await;
        match act {
            Act::Down(host) => {
                replicas[*host].die();
                hosts[*host].close().await;
            }
            Act::Up(host) => back(&mut hosts[*host]).await?,
            Act::Mood(host, mood) => drop(replicas[*host].mood.send_replace(*mood)),
            Act::EndSessions(host) => replicas[*host].ends.send_modify(|ends| *ends += 1),
            Act::Members(hosts) => members(hosts)?,
        }
    }
    Ok(hosts)
}

/// Its port again. While it was down, somebody's client socket may have taken it for a moment.
async fn back(host: &mut Host<Replica>) -> Result<()> {
    for _ in 0..50 {
        if host.open().await.is_ok() {
            return Ok(());
        }
        sleep(Duration::from_millis(10)).await;
    }
    host.open().await.with_context(|| format!("the port of {} is taken", host.address))
}
