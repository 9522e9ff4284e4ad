//! Hosts that hang for ten seconds and are well again, at a load that they can carry: how long until they do? Retries can
//! keep a service down that nothing ails any more ("Metastable Failures in the Wild", OSDI 2022).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::books;
use super::finding::Finding;
use super::host::{Application, Host, Reset};
use super::load::{Load, Outcome};
use super::policy::Policy;
use super::proxy::Proxy;

const HOSTS: usize = 4;
const WORKERS: u32 = 2;

/// What one host can do: so many requests at once, each for so long. All together 160 a second.
const THREADS: usize = 4;
const WORK: Duration = Duration::from_millis(100);
/// Requests that wait for a thread; more get 503. One second's work.
const QUEUE: usize = 40;
/// Nobody waits longer for an attempt; the host does not notice, and does its work all the same.
const PER_TRY: &str = "0.5s";
const PATIENCE: &str = "2s";

/// 80 percent of what the hosts can do.
const RATE: u64 = 128;
const CALM: u64 = 12;
const OUTAGE: u64 = 10;
const WATCHED: u64 = 40;

/// Goodput is back when so much of the load is answered, for so many seconds in a row.
const BACK_PERCENT: u64 = 95;
const BACK_SECONDS: usize = 3;

/// A queue, and threads that take from it. What is in it is worked on, whether or not somebody still waits.
struct Service {
    queue: mpsc::Sender<Job>,
}

struct Job {
    arrived: Instant,
    done: oneshot::Sender<()>,
}

impl Service {
    fn start(hangs: &watch::Receiver<Option<Instant>>) -> Arc<Self> {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let jobs = Arc::new(tokio::sync::Mutex::new(jobs));
        for _ in 0..THREADS {
            tokio::spawn(thread(Arc::clone(&jobs), hangs.clone()));
        }
        Arc::new(Self { queue })
    }
}

/// Takes a job as soon as it is free, by the clock: a machine that is late with everything has the same capacity.
async fn thread(jobs: Arc<tokio::sync::Mutex<mpsc::Receiver<Job>>>, mut hangs: watch::Receiver<Option<Instant>>) {
    let mut free = Instant::now();
    loop {
        let job = jobs.lock().await.recv().await;
        let Some(job) = job else { return };
        let Ok(hung_until) = hangs.wait_for(Option::is_some).await.map(|until| until.unwrap_or(free)) else { return };
        free = free.max(job.arrived).max(hung_until) + WORK;
        sleep_until(free).await;
        let _ = job.done.send(());
    }
}

impl Application for Service {
    async fn answer(&self, _: u64, _: u64) -> Result<StatusCode, Reset> {
        let (done, answer) = oneshot::channel();
        if self.queue.try_send(Job { arrived: Instant::now(), done }).is_err() {
            return Ok(StatusCode::SERVICE_UNAVAILABLE);
        }
        answer.await.map(|()| StatusCode::OK).map_err(|_| Reset)
    }
}

pub fn run(runtime: &Runtime) -> Result<Finding> {
    let mut rows = Vec::new();
    let mut numbers = Vec::new();
    let mut broken = Vec::new();
    for trial in runtime.block_on(everyone())? {
        let Outcomes { policy, goodput, arrived: attempts, mistake } = trial;
        broken.extend(mistake);
        let recovered = recovered(&goodput);
        let after = (CALM + OUTAGE) as usize;
        let answered = |seconds: usize| -> u64 {
            let answered: u64 = goodput[after..after + seconds].iter().sum();
            answered * 100 / (RATE * seconds as u64)
        };
        rows.push((
            policy,
            vec![
                recovered.map_or(format!("not in {WATCHED}"), |seconds| seconds.to_string()),
                format!("{} %", answered(10)),
                format!("{} %", answered(WATCHED as usize)),
                format!("{:.2}", attempts as f64 / (RATE * LENGTH) as f64),
            ],
        ));
        numbers.push(json!({
            "policy": policy.name().trim(),
            "recoveredAfterSeconds": recovered,
            "answeredPerSecond": goodput,
            "attemptsThatArrived": attempts,
        }));
    }
    Ok(Finding {
        title: "Recovery: seconds until the requests are answered again",
        setting: format!(
            "{HOSTS} hosts do {} requests a second, {RATE} GETs a second arrive. For {OUTAGE} s the hosts hang; then they are well.\n\
             An attempt times out after {PER_TRY}, but is worked on all the same; a host queues {QUEUE}, a second's work, and answers\n\
             503 to more. Back: {BACK_PERCENT} percent of the load answered in each of {BACK_SECONDS} seconds.",
            HOSTS * THREADS * 1000 / WORK.as_millis() as usize,
        ),
        columns: vec!["back after s", "answered in the first 10 s", "in 40 s", "attempts per request"],
        rows,
        notes: vec![format!(
            "  Nothing is promised here; it follows from the rest. At 80 percent of what the hosts can do, 20 percent more are\n\
                 \x20 96: the queues shorten, if slowly. Where retries are more than that, the queues stay full, whatever is\n\
                 \x20 answered comes after {PER_TRY}, and so is retried."
        )],
        broken,
        numbers: Value::Array(numbers),
    })
}

const LENGTH: u64 = CALM + OUTAGE + WATCHED;

/// Seconds from the end of the outage to the first of the good ones.
fn recovered(goodput: &[u64]) -> Option<usize> {
    let after = goodput.get((CALM + OUTAGE) as usize..)?;
    after.windows(BACK_SECONDS).position(|seconds| seconds.iter().all(|good| good * 100 >= RATE * BACK_PERCENT))
}

/// All policies at once, on the same schedule.
async fn everyone() -> Result<Vec<Outcomes>> {
    // Since when the hosts are well; `None` while they hang.
    let (switch, hangs) = watch::channel(Some(Instant::now()));
    let mut trials = Vec::new();
    for policy in Policy::OUTAGES {
        trials.push(prepare(policy, &hangs).await?);
    }
    let start = Instant::now() + Duration::from_millis(200);
    let trials: Vec<_> = trials.into_iter().map(|(proxy, hosts)| tokio::spawn(trial(proxy, hosts, start))).collect();
    sleep_until(start + Duration::from_secs(CALM)).await;
    switch.send_replace(None);
    sleep_until(start + Duration::from_secs(CALM + OUTAGE)).await;
    switch.send_replace(Some(Instant::now()));
    let mut done = Vec::new();
    for trial in trials {
        done.push(trial.await??);
    }
    Ok(done)
}

/// What came of one policy.
struct Outcomes {
    policy: Policy,
    /// Requests answered, by the second in which they were due.
    goodput: Vec<u64>,
    /// Attempts that the hosts saw.
    arrived: u64,
    mistake: Option<String>,
}

async fn trial(proxy: Proxy, hosts: Vec<Host<Service>>, start: Instant) -> Result<Outcomes> {
    let load = Load {
        target: proxy.listener,
        cluster: "orders",
        method: Method::GET,
        rate: RATE,
        count: RATE * LENGTH,
        patience: Duration::from_secs(5),
    };
    let outcomes = load.run(start).await;
    let policy = proxy.policy;
    let arrived = hosts.iter().map(Host::arrived).sum();
    let mistake = tokio::task::spawn_blocking(move || books::connected(&proxy, "orders", arrived)).await??;
    Ok(Outcomes { policy, goodput: goodput(&outcomes), arrived, mistake })
}

fn goodput(outcomes: &[Outcome]) -> Vec<u64> {
    let mut seconds = vec![0; LENGTH as usize];
    for outcome in outcomes.iter().filter(|outcome| outcome.answered()) {
        if let Some(second) = seconds.get_mut(outcome.due.as_secs() as usize) {
            *second += 1;
        }
    }
    seconds
}

async fn prepare(policy: Policy, hangs: &watch::Receiver<Option<Instant>>) -> Result<(Proxy, Vec<Host<Service>>)> {
    let mut hosts: Vec<_> = (0..HOSTS).map(|_| Host::new(&Service::start(hangs))).collect();
    for host in &mut hosts {
        host.open().await?;
    }
    let clusters = [("orders".to_owned(), hosts.iter().map(|host| host.address).collect())];
    let timeouts = json!({"timeout": PATIENCE, "retry_policy": {"per_try_timeout": PER_TRY}});
    let proxy = tokio::task::spawn_blocking(move || Proxy::start(policy, WORKERS, &clusters, &timeouts)).await??;
    Ok((proxy, hosts))
}
