//! Replicas that crash-loop, each on its own schedule: what clients get through, and what it costs, under each policy. All
//! policies run beside each other, so whatever else the machine does hits all alike.

pub mod measure;
pub mod targets;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::attempts::{self, Attempt};
use super::crash_loops::load::{self, Outcome, Progress};
use super::crash_loops::picture::{self, Band, Picture};
use super::crash_loops::replicas::{Ledger, Replica};
use super::crash_loops::schedule::{Outage, Timeline};
use super::crash_loops::{tuned, weir_log};
use super::finding::Finding;
use super::policy::Policy;
use super::proxy::Proxy;
use super::support::{bootstrap, ports, wait};

use measure::Measured;

/// Before the first crash, all replicas are well for this long: what is measured then is what "calm" means.
const CALM: Duration = Duration::from_secs(5);

/// From the last preparation to the first request; the replicas' timelines begin there too.
const LEAD: Duration = Duration::from_millis(300);

/// What is tried.
#[derive(Clone, Debug)]
pub struct Setting {
    pub seed: u64,
    /// Requests a second, for each policy.
    pub rate: u64,
    pub replicas: usize,
    pub workers: u32,
    /// How long replicas crash, after the calm.
    pub seconds: u64,
    pub outage: Outage,
    /// Weir's configuration, where it is not at its defaults.
    pub weir: Value,
    /// Where to draw it.
    pub picture: Option<PathBuf>,
    /// Where each policy's log of attempts is left, to find out what became of a request.
    pub logs: Option<PathBuf>,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            seed: 1,
            rate: 250,
            replicas: 4,
            workers: 2,
            seconds: 20,
            outage: Outage::Refuses,
            weir: json!({}),
            picture: None,
            logs: None,
        }
    }
}

impl Setting {
    /// Whether Weir's targets are about this setting, whatever the seed.
    fn has_targets(&self) -> bool {
        let usual = Self::default();
        (self.rate, self.replicas, self.workers, self.outage, &self.weir)
            == (usual.rate, usual.replicas, usual.workers, usual.outage, &usual.weir)
            && self.seconds >= usual.seconds
    }

    fn length(&self) -> Duration {
        CALM + Duration::from_secs(self.seconds)
    }
}

pub fn run(runtime: &Runtime, setting: &Setting) -> Result<Finding> {
    let crashes = Timeline::crash_loops(setting.seed, setting.replicas, Duration::from_secs(setting.seconds));
    let timelines: Vec<Timeline> = crashes.into_iter().map(|timeline| timeline.delayed(CALM)).collect();
    let trials = runtime.block_on(everyone(setting, &timelines))?;
    let measured: Vec<Measured> =
        trials.iter().map(|trial| Measured::new(trial, &timelines, CALM, setting.length())).collect();
    let row = |policy| measured.iter().find(|row| row.policy == policy);
    let missed = match (row(Policy::Weir), row(Policy::None)) {
        (Some(weir), Some(plain)) => targets::missed(weir, plain),
        _ => Vec::new(),
    };
    let mut notes = vec![format!(
        "  dead: attempts that failed, for each crash of a replica; at least: those of them that began before the first had\n\
         \x20 failed. back: from the moment when it listens again until it\n\
         \x20 answers the first request, in the median. Latencies are those of all requests, failed ones too; calm is the\n\
         \x20 p99 of the {} s before the first crash.",
        CALM.as_secs()
    )];
    if let Some(weir) = row(Policy::Weir) {
        let (attempts, posts) = weir.unknowable;
        let lost = weir.post.whole - weir.post.part;
        notes.push(format!(
            "  Of the {} attempts that failed with Weir, {attempts} began before the first of their crash had failed: nobody\n\
             \x20 could know better. {posts} of the {lost} POSTs that were lost went with them. So a policy that knows of a crash from\n\
             \x20 its first failure on lost {:.1} attempts with each, had {:.3} attempts per request and {:.2} % of the POSTs answered.\n\
             \x20 {:.1} attempts with each crash were under way when it came.",
            weir.dead.part,
            weir.least_per_crash(),
            1.0 + attempts as f64 / weir.attempts.whole.max(1) as f64,
            100.0 - posts as f64 * 100.0 / weir.post.whole.max(1) as f64,
            weir.under_way_per_crash(),
        ));
    }
    let broken = if setting.has_targets() {
        missed
    } else {
        notes.extend(missed.iter().map(|missed| format!("  Not in the setting of the targets, but: {missed}")));
        Vec::new()
    };
    if let Some(path) = &setting.picture {
        let picture = draw(setting, &timelines, &trials, &measured);
        std::fs::write(path, picture).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let crashes: usize = timelines.iter().map(|timeline| timeline.crashes.len()).sum();
    let does = match setting.outage {
        Outage::Refuses => "resets what it holds for 0.3 to 0.8 s, refuses connections for 1 to 3 s",
        Outage::Hangs => "resets what it holds for 0.3 to 0.8 s, hangs for 1 to 3 s",
        Outage::Stalls => "hangs for 1.3 to 3.8 s",
        Outage::Collects => {
            "stops once a second for 0.15 to 0.9 s, resets what it holds for 0.3 to 0.8 s, refuses connections for 1 to 3 s"
        }
    };
    Ok(Finding {
        title: "Incident: replicas that crash-loop",
        setting: format!(
            "{} replicas, {} requests a second (70 percent GET, 30 percent POST), {} workers, {} s with {crashes} crashes, seed {}.\n\
             A replica {does}, and is fine for 5 to 9 s; one at least is\n\
             always up.\n  {}: {}",
            setting.replicas,
            setting.rate,
            setting.workers,
            setting.seconds,
            setting.seed,
            Policy::Tuned.name(),
            Policy::Tuned.explained(),
        ),
        columns: measure::COLUMNS.to_vec(),
        rows: measured.iter().map(|row| (row.policy, row.cells())).collect(),
        notes,
        broken,
        numbers: Value::Array(measured.iter().map(Measured::to_json).collect()),
    })
}

/// The picture of it.
fn draw(setting: &Setting, timelines: &[Timeline], trials: &[Trial], measured: &[Measured]) -> String {
    let length = setting.length();
    let bands = trials.iter().zip(measured).map(|(trial, row)| {
        let failed = row.get.whole + row.post.whole - row.get.part - row.post.part;
        Band {
            name: trial.policy.name().to_owned(),
            class: trial.policy.class(),
            columns: picture::columns(&trial.outcomes, length),
            summary: format!("{} failed", picture::thousands(failed)),
        }
    });
    let bands: Vec<Band> = bands.collect();
    let seen: Vec<String> = bands.iter().map(|band| format!("{}: {}", band.name, band.summary)).collect();
    let weir = trials.iter().find(|trial| trial.policy == Policy::Weir);
    let views = weir.map(|weir| weir_log::marks(&weir.log, weir.began, &weir.replicas, length)).unwrap_or_default();
    let description = format!("{} replicas crash-loop. Of the requests since, {}.", setting.replicas, seen.join("; "));
    let picture = Picture { description, length, replicas: timelines, views: &views, bands };
    // As narrow as a phone, so that it can be read on one.
    picture::draw(&picture, "incident", 500, true)
}

/// What came of one policy, from whoever knows it.
pub struct Trial {
    pub policy: Policy,
    /// Its clients.
    pub outcomes: Vec<Outcome>,
    /// Its replicas, all together.
    pub ledger: Arc<Ledger>,
    pub replicas: Vec<std::net::SocketAddr>,
    /// Its Envoy.
    pub attempts: Vec<Attempt>,
    pub log: String,
    /// When the load began, since the Unix epoch.
    pub began: Duration,
}

async fn everyone(setting: &Setting, timelines: &[Timeline]) -> Result<Vec<Trial>> {
    let mut prepared = Vec::new();
    for policy in Policy::INCIDENT {
        let addresses: Vec<_> = timelines.iter().map(|_| ports::free()).collect();
        let clusters = [("orders".to_owned(), addresses.clone())];
        let (workers, timeouts) = (setting.workers, json!({"timeout": "15s"}));
        let decide = setting.weir.clone();
        let start = move || Proxy::start_with(policy, workers, &clusters, &timeouts, &cluster(policy), &decide);
        prepared.push((tokio::task::spawn_blocking(start).await??, addresses));
    }
    let start = Instant::now() + LEAD;
    let began = UNIX_EPOCH.elapsed().context("the clock is before 1970")? + LEAD;
    let mut trials = Vec::new();
    for (proxy, addresses) in prepared {
        let trial = trial(setting.clone(), proxy, addresses, timelines.to_vec(), start, began);
        trials.push(tokio::spawn(trial));
    }
    let mut done = Vec::new();
    for trial in trials {
        done.push(trial.await??);
    }
    Ok(done)
}

/// What the policy has beside its retries.
fn cluster(policy: Policy) -> Value {
    let mut over = match policy {
        Policy::Weir => bootstrap::override_host("x-weir-hosts"),
        Policy::Tuned => json!({"outlier_detection": tuned::outlier_detection()}),
        _ => json!({}),
    };
    over["connect_timeout"] = json!("0.5s");
    over
}

async fn trial(
    setting: Setting,
    proxy: Proxy,
    addresses: Vec<std::net::SocketAddr>,
    timelines: Vec<Timeline>,
    start: Instant,
    began: Duration,
) -> Result<Trial> {
    let ledger = Arc::<Ledger>::default();
    let mut running = JoinSet::new();
    for ((address, timeline), number) in addresses.iter().zip(timelines).zip(1..) {
        let seed = setting.seed.wrapping_add(number);
        let replica = Replica::new(*address, timeline, setting.outage, seed, Arc::clone(&ledger));
        running.spawn(replica.run(start));
    }
    let progress = Arc::<Progress>::default();
    let count = setting.rate * setting.length().as_secs();

    let outcomes = tokio::select! {
        outcomes = load::run(proxy.listener, start, setting.rate, count, setting.seed, &progress) => outcomes,
        Some(ended) = running.join_next() => match ended? {
            Ok(()) => bail!("a replica ended"),
            Err(error) => bail!("a replica has no port: {error}"),
        },
    };
    running.shutdown().await;
    let policy = proxy.policy;
    let logged = move || logged(&proxy, count, setting.logs.as_deref()).map(|attempts| (attempts, proxy.envoy.log()));
    let (attempts, log) = tokio::task::spawn_blocking(logged).await??;
    Ok(Trial { policy, outcomes, ledger, replicas: addresses, attempts, log, began })
}

/// Envoy writes its log within ten seconds; what is not there after twelve is no attempt. A hedge is a retry that Envoy counts when
/// it is due and sends after a pause: where the first attempt is answered meanwhile, as on a machine that stood still, never.
const LOGGED: Duration = Duration::from_secs(12);

/// All attempts.
fn logged(proxy: &Proxy, requests: u64, keep: Option<&std::path::Path>) -> Result<Vec<Attempt>> {
    let retries = proxy.envoy.admin.stats("^cluster[.]orders[.]upstream_rq_retry$")?;
    // Where the machine is too busy, some requests do not reach Envoy.
    let expected = requests.min(proxy.requests()?) + retries.values().sum::<u64>();
    let (mut last, mut since) = (0, Instant::now());
    let attempts = wait::until(2 * wait::LIMIT, || match attempts::read(&proxy.log(), "orders") {
        Ok(attempts) if attempts.len() as u64 >= expected => Ok(attempts),
        Ok(attempts) => {
            if std::mem::replace(&mut last, attempts.len()) != attempts.len() {
                since = Instant::now();
            }
            if attempts.len() as u64 >= requests.min(expected) && since.elapsed() >= LOGGED {
                let unsent = expected - attempts.len() as u64;
                println!("{}: {unsent} retries were due and not sent: they were answered before", proxy.policy.name());
                return Ok(attempts);
            }
            Err(format!("Envoy logged {} attempts, not {expected}", attempts.len()))
        }
        Err(error) => Err(format!("{error:#}")),
    });
    let attempts = attempts.map_err(|reason| anyhow!("{}: {reason}", proxy.policy.name()))?;
    if let Some(directory) = keep {
        std::fs::create_dir_all(directory)?;
        let name = proxy.policy.name().replace([' ', '(', ')', '\'', ','], "-");
        std::fs::copy(proxy.log(), directory.join(format!("{name}.attempts")))?;
        std::fs::write(directory.join(format!("{name}.envoy")), proxy.envoy.log())?;
    }
    Ok(attempts)
}
