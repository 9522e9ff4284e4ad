//! The numbers of a run, each from whoever knows it: clients, replicas, Envoy, Weir.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::bootstrap::Variant;
use super::crash_loops::load::{Failure, Outcome};
use super::crash_loops::replicas::Ledger;
use super::options::Options;
use super::story::Story;
use super::support::admin::Stats;

pub struct Report {
    pub variant: Variant,
    pub get: MethodReport,
    pub post: MethodReport,
    /// Of the requests that were answered, in ascending order: from when each was due until its answer was complete.
    latencies: Vec<Duration>,
    pub envoy: EnvoyReport,
    pub weir: WeirReport,
    pub replicas: Vec<ReplicaReport>,
    pub story: Story,
}

/// What clients and replicas know about the requests of one method.
#[derive(Default)]
pub struct MethodReport {
    pub sent: u64,
    pub answered: u64,
    pub failures: BTreeMap<Failure, u64>,
    /// Processed by a replica, though the client was told that it failed.
    pub processed_but_failed: u64,
    /// Processed more than once, by the replicas' memory.
    pub repeated: u64,
}

/// What Envoy knows about its attempts.
pub struct EnvoyReport {
    pub retries: u64,
    /// Attempts for which no connection came about.
    pub refused: u64,
    /// Connections that ended with a request on them. One request each, with HTTP/1.1.
    pub resets: u64,
}

/// What Weir's counters say; empty without Weir.
pub struct WeirReport {
    /// Attempts, by how they ended.
    pub signals: BTreeMap<String, u64>,
    /// Retries that `guard` stopped, by the reason.
    pub vetoes: BTreeMap<String, u64>,
}

pub struct ReplicaReport {
    pub requests: u64,
    pub resets: u64,
}

impl Report {
    pub fn new(
        variant: Variant,
        outcomes: &[Outcome],
        ledger: &Ledger,
        stats: &Stats,
        replicas: Vec<ReplicaReport>,
        story: Story,
    ) -> Self {
        let mut latencies: Vec<_> = outcomes.iter().filter(|one| one.result.is_ok()).map(|one| one.latency).collect();
        latencies.sort_unstable();
        let envoy = |name: &str| stats.get(&format!("cluster.orders.{name}")).copied().unwrap_or(0);
        Self {
            variant,
            get: MethodReport::new(&Method::GET, outcomes, ledger),
            post: MethodReport::new(&Method::POST, outcomes, ledger),
            latencies,
            envoy: EnvoyReport {
                retries: envoy("upstream_rq_retry"),
                refused: envoy("upstream_rq_pending_failure_eject"),
                resets: envoy("upstream_cx_destroy_remote_with_active_rq"),
            },
            weir: WeirReport {
                signals: labelled(stats, "weir_attempts_total.signal."),
                vetoes: labelled(stats, "weir_vetoes_total.reason."),
            },
            replicas,
            story,
        }
    }

    pub fn sent(&self) -> u64 {
        self.get.sent + self.post.sent
    }

    pub fn answered(&self) -> u64 {
        self.get.answered + self.post.answered
    }

    pub fn failed(&self) -> u64 {
        self.sent() - self.answered()
    }

    /// Attempts that Envoy made: one for each request, and the retries but those that `guard` stopped.
    pub fn attempts(&self) -> u64 {
        self.sent() + self.envoy.retries - self.weir.vetoes.values().sum::<u64>()
    }

    /// The latency that this share of the answered requests did not exceed; zero if none was answered.
    pub fn latency(&self, percent: usize) -> Duration {
        let rank = (self.latencies.len() * percent).div_ceil(100);
        self.latencies.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

impl MethodReport {
    fn new(method: &Method, outcomes: &[Outcome], ledger: &Ledger) -> Self {
        let mut report = Self { repeated: ledger.repeated(method), ..Self::default() };
        for outcome in outcomes.iter().filter(|outcome| outcome.method == method) {
            report.sent += 1;
            match outcome.result {
                Ok(()) => report.answered += 1,
                Err(failure) => {
                    *report.failures.entry(failure).or_default() += 1;
                    report.processed_but_failed += u64::from(ledger.was_processed(outcome.id));
                }
            }
        }
        report
    }

    pub fn failed(&self) -> u64 {
        self.sent - self.answered
    }

    pub fn failed_by(&self, failure: Failure) -> u64 {
        self.failures.get(&failure).copied().unwrap_or(0)
    }

    fn to_json(&self) -> Value {
        let failures: BTreeMap<_, _> =
            self.failures.iter().map(|(failure, count)| (failure.to_string(), count)).collect();
        json!({
            "sent": self.sent,
            "answered": self.answered,
            "failed": failures,
            "processedButFailed": self.processed_but_failed,
            "processedMoreThanOnce": self.repeated,
        })
    }
}

/// The counters `wasmcustom.<family><label>.cluster.orders`, by their label.
fn labelled(stats: &Stats, family: &str) -> BTreeMap<String, u64> {
    let prefix = format!("wasmcustom.{family}");
    stats
        .iter()
        .filter_map(|(name, value)| {
            let (label, cluster) = name.strip_prefix(&prefix)?.split_once(".cluster.")?;
            (cluster == "orders").then(|| (label.to_owned(), *value))
        })
        .collect()
}

/// Weir's run, and of the others that in which the fewest requests failed.
pub fn with_rival(reports: &[Report]) -> Option<(&Report, &Report)> {
    let weir = reports.iter().find(|report| report.variant == Variant::Weir)?;
    let others = reports.iter().filter(|report| report.variant != Variant::Weir);
    Some((weir, others.min_by_key(|report| report.failed())?))
}

/// In which way Weir did not help; empty if it did.
pub fn shortcomings(reports: &[Report]) -> Vec<String> {
    let find = |variant| reports.iter().find(|report| report.variant == variant);
    let (Some(without), Some(with)) = (find(Variant::NoRetries), find(Variant::Weir)) else {
        return vec!["there is nothing to compare".to_owned()];
    };
    let mut shortcomings = Vec::new();
    if with.post.repeated > 0 {
        shortcomings.push(format!("{} POSTs were processed twice with Weir", with.post.repeated));
    }
    for (name, without, with) in [("GET", &without.get, &with.get), ("POST", &without.post, &with.post)] {
        if with.answered <= without.answered && without.failed() > 0 {
            shortcomings.push(format!("no more {name}s were answered with Weir than without"));
        }
    }
    if with.weir.signals.is_empty() {
        shortcomings.push("Weir counted no attempts".to_owned());
    }
    shortcomings
}

/// Everything, for whoever wants to compare runs.
pub fn to_json(options: &Options, reports: &[Report]) -> Value {
    let runs: Vec<Value> = reports.iter().map(run_to_json).collect();
    json!({ "seconds": options.seconds, "rate": options.rate, "seed": options.seed, "runs": runs })
}

fn run_to_json(report: &Report) -> Value {
    let milliseconds = |latency: Duration| latency.as_secs_f64() * 1e3;
    let replicas: Vec<Value> =
        report.replicas.iter().map(|one| json!({ "requests": one.requests, "resets": one.resets })).collect();
    json!({
        "name": report.variant.name(),
        "GET": report.get.to_json(),
        "POST": report.post.to_json(),
        "attempts": report.attempts(),
        "latencyOfAnsweredMs": {
            "p50": milliseconds(report.latency(50)),
            "p99": milliseconds(report.latency(99)),
            "max": milliseconds(report.latency(100)),
        },
        "envoy": { "retries": report.envoy.retries, "refused": report.envoy.refused, "resets": report.envoy.resets },
        "weir": { "attempts": report.weir.signals, "vetoes": report.weir.vetoes },
        "replicas": replicas,
    })
}
