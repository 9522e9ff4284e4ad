//! Every host fails, in three ways one after the other: what does each request cost the upstream?

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep_until};

use super::attempts::{Attempt, End};
use super::books::Books;
use super::finding::{self, Finding};
use super::host::{Application, Host, Reset};
use super::load::Load;
use super::policy::{self, Policy};
use super::proxy::Proxy;

const RATE: u64 = 250;
const HOSTS: usize = 4;
const WORKERS: u32 = 2;

/// Longer than any budget remembers, so that each outage meets full budgets.
const CALM: u64 = 12;
const OUTAGE: u64 = 8;
const LENGTH: u64 = 3 * (CALM + OUTAGE) + 1;

/// How the hosts fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Refuse = 1,
    Reset = 2,
    Error = 3,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Refuse, Self::Reset, Self::Error];

    fn name(self) -> &'static str {
        match self {
            Self::Refuse => "refused",
            Self::Reset => "reset",
            Self::Error => "503",
        }
    }

    /// Its steps, of those that time is cut into.
    fn steps(self) -> std::ops::Range<usize> {
        let first = self.begins() as usize * STEPS_PER_SECOND;
        first..first + OUTAGE as usize * STEPS_PER_SECOND
    }

    /// In seconds since the start.
    fn begins(self) -> u64 {
        CALM + (self as u64 - 1) * (CALM + OUTAGE)
    }
}

/// Answers at once, if it answers.
#[derive(Default)]
struct Service {
    /// A [`Phase`], or 0.
    phase: AtomicU8,
}

impl Application for Service {
    async fn answer(&self, _: u64, _: u64) -> Result<StatusCode, Reset> {
        match self.phase.load(Ordering::Relaxed) {
            phase if phase == Phase::Reset as u8 => Err(Reset),
            phase if phase == Phase::Error as u8 => Ok(StatusCode::SERVICE_UNAVAILABLE),
            _ => Ok(StatusCode::OK),
        }
    }
}

/// Attempts per request.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    mean: f64,
    /// In the worst second, counted from the start of the outage.
    second: f64,
    /// In the worst stretch as long as Weir's interval, wherever it ends.
    interval: f64,
}

pub fn run(runtime: &Runtime) -> Result<Finding> {
    let mut rows = Vec::new();
    let mut numbers = Vec::new();
    let mut broken = Vec::new();
    let mut unsent = Vec::new();
    for (policy, books, began) in runtime.block_on(everyone())? {
        let arrivals = arrivals(&books.attempts, began);
        let mut steps = steps(&books.attempts, began);
        if policy == Policy::Breaker {
            // Those that were shed are requests, too.
            steps.iter_mut().for_each(|step| step.requests = RATE / STEPS_PER_SECOND as u64);
        }
        let costs = Phase::ALL.map(|phase| cost(&steps, phase));
        unsent.extend(finding::unsent(policy, RATE * LENGTH, books.requests));
        // One connection per host and worker may be in use when the hosts go down.
        broken.extend(books.mistakes(u64::from(WORKERS) * HOSTS as u64 * 4));
        if policy == Policy::Weir {
            broken.extend(Phase::ALL.into_iter().flat_map(|phase| promises(phase, &steps, &arrivals)));
        }
        let connects = books.refused_connections() as f64 / (RATE * OUTAGE) as f64;
        let cells = costs.iter().flat_map(|cost| [cost.mean, cost.second, cost.interval]).chain([connects]);
        rows.push((policy, cells.map(|number| format!("{number:.2}")).collect()));
        numbers.push(json!({
            "policy": policy.name().trim(),
            "attemptsPerRequest": Phase::ALL.iter().zip(costs).map(|(phase, cost)| to_json(*phase, cost)).collect::<Vec<_>>(),
            "connectsPerRequestWhileRefused": connects,
            "perSecond": per_second(&steps),
            "books": books.to_json(),
        }));
    }
    let mut notes = vec![format!(
        "  Weir promises: in each second, retries are at most {} percent of the requests, or {} where that is more: at this\n\
             \x20 load {:.2} attempts per request. (A second of the table begins whenever it is full; a retry may belong to requests\n\
             \x20 that came up to 0.1 s before it.)",
        policy::WEIR_PERCENT,
        policy::WEIR_FLOOR_PER_SECOND,
        1.0 + policy::WEIR_PERCENT as f64 / 100.0,
    )];
    notes.extend(unsent);
    Ok(Finding {
        title: "Outage: attempts per request",
        setting: format!(
            "{RATE} GETs a second, {HOSTS} hosts. All hosts refuse connections for {OUTAGE} s, later all reset them, later all\n\
             answer 503; {CALM} s of calm before each. mean: over the {OUTAGE} s; 1 s: the worst second; 10 s: the worst ten,\n\
             wherever they begin; connects: TCP connections tried for each request while all hosts refuse.",
        ),
        columns: vec![
            "refused mean",
            "1 s",
            "10 s",
            "reset mean",
            "1 s",
            "10 s",
            "503 mean",
            "1 s",
            "10 s",
            "connects",
        ],
        rows,
        notes,
        broken,
        numbers: Value::Array(numbers),
    })
}

fn to_json(phase: Phase, cost: Cost) -> Value {
    json!({
        "outage": phase.name(), "mean": cost.mean, "worstSecond": cost.second,
        "worstInterval": cost.interval,
    })
}

/// Weir's promises, where they do not hold somewhere in an outage: retries are at most the share of the requests, in any
/// interval and in any second, or the floor where that is more. (In an interval, the floor comes on top: a retry is granted
/// if either allows it, so after the share went at once, the floor goes on.)
fn promises(phase: Phase, steps: &[Step], arrivals: &[Arrival]) -> Vec<String> {
    // After a response, a retry is charged before its back-off; so it belongs to an interval that ended before. A second is
    // more than the longest back-off, with a busy machine on top.
    let early = if phase == Phase::Error { STEPS_PER_SECOND } else { 1 };
    let floor = policy::WEIR_FLOOR_PER_SECOND;
    let interval = breach(phase, steps, arrivals, policy::WEIR_INTERVAL_SECONDS, early, |requests, seconds| {
        requests * policy::WEIR_PERCENT / 100 + seconds * floor
    });
    // Where there is no back-off in between, to a tenth of a second.
    let second = breach(phase, steps, arrivals, 1, if phase == Phase::Error { 2 } else { 1 }, |requests, _| {
        (requests * policy::WEIR_PERCENT / 100).max(floor)
    });
    interval.into_iter().chain(second).collect()
}

/// So many `seconds` of an outage, after which there were more retries than the requests of that time, and those `early`,
/// pay for. A worker that stood still meanwhile tells the others of its requests when it goes on, as late as it was itself:
/// so those that came as much earlier pay as well.
fn breach(
    phase: Phase,
    steps: &[Step],
    arrivals: &[Arrival],
    seconds: usize,
    early: usize,
    bound: impl Fn(u64, u64) -> u64,
) -> Option<String> {
    let length = seconds * STEPS_PER_SECOND;
    let mut stalled = 0;
    let breach = phase.steps().find_map(|end| {
        let retries: u64 = steps[end + 1 - length..=end].iter().map(|step| step.attempts - step.requests).sum();
        let from = STEP * (end + 1 - length - early) as u32;
        let during = |from: Duration| {
            let first = arrivals.partition_point(|arrival| arrival.at < from);
            let last = arrivals.partition_point(|arrival| arrival.at < STEP * (end + 1) as u32);
            &arrivals[first..last]
        };
        let late = during(from).iter().map(|arrival| arrival.late).max().unwrap_or_default();
        let requests = during(from.saturating_sub(late)).len() as u64;
        // Where the machine stood still, the log has neither requests nor retries when they were due.
        let due = RATE * (length + early) as u64 / STEPS_PER_SECOND as u64;
        if during(from).len() as u64 * 10 < due * 9 {
            stalled += 1;
            return None;
        }
        let bound = bound(requests, (length + early).div_ceil(STEPS_PER_SECOND) as u64);
        (retries > bound).then(|| {
            format!("{}: {retries} retries in {seconds} s after {requests} requests, not {bound}", phase.name())
        })
    });
    // What was not looked at is not kept.
    let all = phase.steps().len();
    breach.or_else(|| {
        (stalled * 2 > all).then(|| {
            format!(
                "{}: the machine stood still in {stalled} of {all} stretches of {seconds} s: nothing can be said",
                phase.name()
            )
        })
    })
}

/// All policies at once, on the same schedule.
async fn everyone() -> Result<Vec<(Policy, Books, Duration)>> {
    let mut runs = Vec::new();
    for policy in Policy::OUTAGES {
        runs.push(Trial::prepare(policy).await?);
    }
    let start = Instant::now() + Duration::from_millis(200);
    let began = UNIX_EPOCH.elapsed().context("the clock is before 1970")? + Duration::from_millis(200);
    let runs: Vec<_> = runs.into_iter().map(|trial| tokio::spawn(trial.run(start))).collect();
    let mut done = Vec::new();
    for run in runs {
        let (policy, books) = run.await??;
        done.push((policy, books, began));
    }
    Ok(done)
}

struct Trial {
    proxy: Proxy,
    service: Arc<Service>,
    hosts: Vec<Host<Service>>,
}

impl Trial {
    async fn prepare(policy: Policy) -> Result<Self> {
        let service = Arc::<Service>::default();
        let mut hosts: Vec<_> = (0..HOSTS).map(|_| Host::new(&service)).collect();
        for host in &mut hosts {
            host.open().await?;
        }
        let endpoints = hosts.iter().map(|host| host.address).collect();
        let clusters = [("orders".to_owned(), endpoints)];
        let proxy =
            tokio::task::spawn_blocking(move || Proxy::start(policy, WORKERS, &clusters, &json!({"timeout": "15s"})))
                .await??;
        Ok(Self { proxy, service, hosts })
    }

    async fn run(mut self, start: Instant) -> Result<(Policy, Books)> {
        let load = Load {
            target: self.proxy.listener,
            cluster: "orders",
            method: Method::GET,
            rate: RATE,
            count: RATE * LENGTH,
            patience: Duration::from_secs(60),
        };
        let load = tokio::spawn(load.run(start));
        for phase in Phase::ALL {
            sleep_until(start + Duration::from_secs(phase.begins())).await;
            self.service.phase.store(phase as u8, Ordering::Relaxed);
            if phase == Phase::Refuse {
                for host in &mut self.hosts {
                    host.close().await;
                }
            }
            sleep_until(start + Duration::from_secs(phase.begins() + OUTAGE)).await;
            self.service.phase.store(0, Ordering::Relaxed);
            for host in &mut self.hosts {
                host.open().await?;
            }
        }
        load.await?;
        let arrived = self.hosts.iter().map(Host::arrived).sum();
        let books = tokio::task::spawn_blocking(move || {
            let books = Books::close(&self.proxy, "orders", self.proxy.requests()?, arrived)?;
            Ok((self.proxy.policy, books))
        });
        books.await?
    }
}

/// Steps in which time is cut for the sliding sums.
const STEPS_PER_SECOND: usize = 10;
const STEP: Duration = Duration::from_millis(1_000 / STEPS_PER_SECOND as u64);

/// A request reached Envoy.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    /// Since the start.
    at: Duration,
    /// By how much later than its client meant to send it.
    late: Duration,
}

/// All of them, the earliest first.
fn arrivals(attempts: &[Attempt], began: Duration) -> Vec<Arrival> {
    let requests = attempts.iter().filter(|attempt| !attempt.is_retry() && attempt.end != End::Vetoed);
    let mut arrivals: Vec<Arrival> = requests
        .map(|attempt| {
            let at = attempt.began.saturating_sub(began);
            let due = attempt.request.map(|number| Duration::from_nanos(1_000_000_000 * number / RATE));
            Arrival { at, late: at.saturating_sub(due.unwrap_or(at)) }
        })
        .collect();
    arrivals.sort_by_key(|arrival| arrival.at);
    arrivals
}

/// What happened in one step.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    requests: u64,
    attempts: u64,
}

fn steps(attempts: &[Attempt], began: Duration) -> Vec<Step> {
    let mut steps = vec![Step::default(); (LENGTH as usize + 1) * STEPS_PER_SECOND];
    for attempt in attempts.iter().filter(|attempt| attempt.end != End::Vetoed) {
        let at = attempt.began.saturating_sub(began).as_micros() as usize * STEPS_PER_SECOND / 1_000_000;
        if let Some(step) = steps.get_mut(at) {
            step.requests += u64::from(!attempt.is_retry());
            step.attempts += 1;
        }
    }
    steps
}

fn ratio(steps: &[Step]) -> f64 {
    let requests: u64 = steps.iter().map(|step| step.requests).sum();
    let attempts: u64 = steps.iter().map(|step| step.attempts).sum();
    if requests == 0 { 0.0 } else { attempts as f64 / requests as f64 }
}

fn cost(steps: &[Step], phase: Phase) -> Cost {
    let interval = policy::WEIR_INTERVAL_SECONDS * STEPS_PER_SECOND;
    let outage = &steps[phase.steps()];
    let seconds: Vec<f64> = outage.chunks(STEPS_PER_SECOND).map(ratio).collect();
    Cost {
        mean: ratio(outage),
        second: seconds.iter().copied().fold(0.0, f64::max),
        interval: phase.steps().map(|end| ratio(&steps[end + 1 - interval..=end])).fold(0.0, f64::max),
    }
}

fn per_second(steps: &[Step]) -> Vec<f64> {
    steps.chunks(STEPS_PER_SECOND).map(|second| (ratio(second) * 1000.0).round() / 1000.0).collect()
}
