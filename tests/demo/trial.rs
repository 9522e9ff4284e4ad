//! One run: fresh replicas and a fresh Envoy, and the load on them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::bootstrap::{self, Variant};
use super::crash_loops::load::{self, Progress};
use super::crash_loops::replicas::{Ledger, Replica};
use super::crash_loops::schedule::{Outage, Timeline};
use super::crash_loops::weir_log;
use super::options::Options;
use super::progress;
use super::report::{ReplicaReport, Report};
use super::story::{Sampler, Story};
use super::support::envoy::{self, Launch};
use super::support::ports;

/// From the last preparation to the first request; the replicas' timelines begin there too.
const LEAD: Duration = Duration::from_millis(200);

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/envoy.yaml");

/// Two workers: enough to have what they tell each other in the picture.
const WORKERS: u32 = 2;

pub fn run(runtime: &Runtime, options: &Options, timelines: &[Timeline], variant: Variant) -> Result<Report> {
    let shipped = std::fs::read_to_string(SHIPPED).with_context(|| format!("cannot read {SHIPPED}"))?;
    let listener = ports::free();
    let upstreams: Vec<_> = timelines.iter().map(|_| ports::free()).collect();
    let module = std::path::absolute(envoy::module())?;
    let yaml = bootstrap::compose(&shipped, variant, &module, listener, &upstreams)?;
    let envoy = Launch::yaml(yaml).concurrency(WORKERS).argument("--log-format").argument(weir_log::FORMAT).start()?;

    let ledger = Arc::new(Ledger::default());
    let replicas: Vec<_> = upstreams
        .iter()
        .zip(timelines)
        .zip(1..)
        .map(|((address, timeline), number)| {
            let seed = options.seed.wrapping_add(number);
            Replica::new(*address, timeline.clone(), Outage::Refuses, seed, Arc::clone(&ledger))
        })
        .collect();
    let progress = Arc::new(Progress::default());
    let sampler = Arc::new(Sampler::default());
    let (outcomes, began) = runtime.block_on(async {
        let start = Instant::now() + LEAD;
        let began = UNIX_EPOCH.elapsed().context("the clock is before 1970")? + LEAD;
        let (sampling, admin) = (Arc::clone(&sampler), envoy.admin);
        tokio::task::spawn_blocking(move || sampling.run(admin, start));
        let mut running = tokio::task::JoinSet::new();
        for replica in &replicas {
            running.spawn(Arc::clone(replica).run(start));
        }
        let count = options.rate * options.seconds;
        tokio::select! {
            // Polled here, not spawned: it only sleeps and spawns.
            outcomes = load::run(listener, start, options.rate, count, options.seed, &progress) => Ok((outcomes, began)),
            never = progress::show(variant, options.length(), start, timelines, &progress, &ledger) => match never {},
            Some(ended) = running.join_next() => match ended? {
                Ok(()) => bail!("a replica ended"),
                Err(error) => bail!("a replica has no port: {error}"),
            },
        }
    })?;
    let mut story = Story::new(&outcomes, options.length(), sampler.stop());
    if variant == Variant::Weir {
        story = story.with_log(&envoy.log(), began, &upstreams, options.length());
    }
    progress::end(variant, options.length(), timelines, &progress, &ledger);
    let stats = envoy.admin.stats("^(cluster\\.orders\\.|wasmcustom\\.weir_)")?;
    let replicas = replicas
        .iter()
        .map(|replica| ReplicaReport {
            requests: replica.counts.requests.load(Ordering::Relaxed),
            resets: replica.counts.resets.load(Ordering::Relaxed),
        })
        .collect();
    Ok(Report::new(variant, &outcomes, &ledger, &stats, replicas, story))
}
