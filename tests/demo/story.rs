//! What happened when, in one run: what the page shows beside the totals.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::crash_loops::load::Outcome;
use super::crash_loops::picture::{self, Column, Mark};
use super::crash_loops::weir_log::{self, Incident};
use super::support::admin::Admin;

/// Envoy's counters are read so often.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, Default)]
pub struct Story {
    pub columns: Vec<Column>,
    pub samples: Vec<Sample>,
    /// What Weir did with each replica; empty without Weir.
    pub marks: Vec<Vec<Mark>>,
    pub incidents: Vec<Incident>,
}

/// Envoy's counters at some time since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    pub at: Duration,
    pub requests: u64,
    /// Those that were sent.
    pub retries: u64,
}

impl Story {
    pub fn new(outcomes: &[Outcome], length: Duration, samples: Vec<Sample>) -> Self {
        Self { columns: picture::columns(outcomes, length), samples, ..Self::default() }
    }

    /// Adds what Weir said, `began` being when the load did, since the Unix epoch.
    pub fn with_log(mut self, log: &str, began: Duration, replicas: &[SocketAddr], length: Duration) -> Self {
        self.marks = weir_log::marks(log, began, replicas, length);
        self.incidents = weir_log::incidents(log, began);
        // By the names that the page has for them.
        for incident in &mut self.incidents {
            let address = incident.host.parse().ok();
            let number = replicas.iter().position(|replica| Some(*replica) == address);
            if let Some(number) = number {
                incident.host = format!("replica {}", number + 1);
            }
        }
        self
    }

    /// At each sample: retries of the last ten seconds, in percent of the requests of these.
    pub fn retry_share(&self) -> Vec<(Duration, f64)> {
        const INTERVAL: Duration = Duration::from_secs(10);
        let share = |now: &Sample| {
            let since = now.at.saturating_sub(INTERVAL);
            let before = self.samples.iter().rev().find(|sample| sample.at <= since).copied().unwrap_or_default();
            let requests = now.requests.saturating_sub(before.requests).max(1);
            (now.at, now.retries.saturating_sub(before.retries) as f64 * 100.0 / requests as f64)
        };
        self.samples.iter().map(share).collect()
    }

    /// Retries a second, over half seconds.
    pub fn retry_rate(&self) -> Vec<(Duration, f64)> {
        let every = self.samples.iter().step_by(2).collect::<Vec<_>>();
        let rate = |pair: &[&Sample]| {
            let seconds = (pair[1].at - pair[0].at).as_secs_f64().max(0.001);
            (pair[1].at, pair[1].retries.saturating_sub(pair[0].retries) as f64 / seconds)
        };
        every.windows(2).map(rate).collect()
    }
}

/// Reads Envoy's counters until told to stop.
#[derive(Default)]
pub struct Sampler {
    samples: Mutex<Vec<Sample>>,
    stopped: AtomicBool,
}

impl Sampler {
    pub fn run(&self, admin: Admin, start: Instant) {
        const STATS: &str = "^(http[.]ingress[.]downstream_rq_total|cluster[.]orders[.]upstream_rq_retry|wasmcustom[.]weir_vetoes_total.*)$";
        let mut due = start;
        while !self.stopped.load(Ordering::Relaxed) {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due += PAUSE;
            let at = start.elapsed();
            // A busy Envoy may not answer in time; the next sample has it all.
            let Ok(stats) = admin.stats(STATS) else { continue };
            let of = |name: &str| stats.get(name).copied().unwrap_or(0);
            let vetoes: u64 =
                stats.iter().filter(|(name, _)| name.contains("weir_vetoes")).map(|(_, count)| count).sum();
            let retries = of("cluster.orders.upstream_rq_retry").saturating_sub(vetoes);
            let sample = Sample { at, requests: of("http.ingress.downstream_rq_total"), retries };
            self.samples.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
        }
    }

    pub fn stop(&self) -> Vec<Sample> {
        self.stopped.store(true, Ordering::Relaxed);
        std::mem::take(&mut self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
