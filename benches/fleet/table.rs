//! Runs all sizes with all policies, as many at once as there are cores, and prints what came of them.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;

use super::fleet::{HANG, Outcome, Policy, REFUSAL, Setup, run};
use super::{memory, plot};

pub struct Options {
    pub seed: u64,
    /// Without the sizes that take longest.
    pub quick: bool,
    /// One size alone.
    pub only: Option<Size>,
    pub picture: Option<PathBuf>,
}

/// How many proxies and hosts, and how many requests a second they get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub proxies: usize,
    pub hosts: usize,
    rate: u64,
}

const fn size(proxies: usize, hosts: usize, rate: u64) -> Size {
    Size { proxies, hosts, rate }
}

/// What the picture shows.
const PICTURED: Size = size(100, 100, 10_000);

impl std::str::FromStr for Size {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers: Vec<usize> = text.split('x').map(str::parse).collect::<Result<_, _>>()?;
        let [proxies, hosts, rate] = numbers[..] else { anyhow::bail!("not PROXIESxHOSTSxRATE: {text}") };
        anyhow::ensure!(proxies > 0 && hosts > 0 && rate > 0, "none of these may be 0: {text}");
        Ok(size(proxies, hosts, rate as u64))
    }
}

impl Size {
    pub const ALL: [Self; 9] = [
        size(1, 10, 10_000),
        size(1, 100, 10_000),
        size(1, 1_000, 10_000),
        size(1, 10_000, 20_000),
        PICTURED,
        size(100, 1_000, 10_000),
        size(10_000, 10, 10_000),
        size(10_000, 1_000, 10_000),
        size(10_000, 10_000, 20_000),
    ];

    /// A floor of ten retries a second matters where a proxy has hardly more requests than that.
    fn policies(self) -> impl Iterator<Item = Policy> {
        Policy::ALL.into_iter().filter(move |policy| *policy != Policy::WeirLowFloor || self.proxies > 1_000)
    }
}

struct Run {
    size: Size,
    policy: Policy,
    outcome: Outcome,
    /// Seconds of CPU.
    took: f64,
    /// All proxies together.
    bytes: usize,
}

pub fn print(options: &Options, sizes: &[Size]) -> Result<()> {
    let wanted = |size: &&Size| !options.quick || size.hosts.max(size.proxies) < 1_000;
    let sizes = match options.only {
        Some(only) => vec![only],
        None => sizes.iter().filter(wanted).copied().collect(),
    };
    let began = Instant::now();
    let runs = everything(options, &sizes);
    println!("seed {}, {} simulations of 80 s in {:.0?}\n", options.seed, runs.len(), began.elapsed());
    for size in sizes {
        let Size { proxies, hosts, rate } = size;
        println!("{proxies} proxies, {hosts} hosts, {rate} requests a second:\n\n{HEAD}");
        let runs: Vec<&Run> = runs.iter().filter(|run| run.size == size).collect();
        runs.iter().for_each(|run| println!("{}", row(run)));
        println!();
        if size == PICTURED
            && let Some(file) = &options.picture
        {
            let outcomes: Vec<_> = runs.iter().map(|run| (run.policy, &run.outcome)).collect();
            std::fs::write(file, plot::picture(&outcomes))?;
        }
    }
    Ok(())
}

fn everything(options: &Options, sizes: &[Size]) -> Vec<Run> {
    let mut jobs: Vec<(Size, Policy)> = Vec::new();
    for size in sizes {
        jobs.extend(size.policies().map(|policy| (*size, policy)));
    }
    // What takes longest first.
    jobs.sort_by_key(|(size, policy)| std::cmp::Reverse((policy.is_weir(), size.hosts.max(size.proxies))));
    let (next, runs) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((size, policy)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let run = one(options.seed, *size, *policy);
                    eprintln!("{} proxies, {} hosts, {}: {:.1} s", size.proxies, size.hosts, policy.name(), run.took);
                    runs.lock().expect("no run panics").push(run);
                }
            });
        }
    });
    let mut runs = runs.into_inner().expect("no run panics");
    runs.sort_by_key(|run| Policy::ALL.iter().position(|policy| *policy == run.policy));
    runs
}

fn one(seed: u64, size: Size, policy: Policy) -> Run {
    let setup = Setup { seed, proxies: size.proxies, hosts: size.hosts, rate: size.rate, policy };
    let before = cpu_seconds();
    let mut bytes = 0;
    let outcome = run(&setup, &mut |workers| bytes = memory::freed(workers));
    Run { size, policy, outcome, took: cpu_seconds() - before, bytes }
}

/// CPU time of this thread; 0 where the kernel does not tell.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or_default() / 1e9
}

const HEAD: &str = "\
| | incident: GETs, POSTs failed | attempts per request | on hosts that are down | all refuse: attempts per request | worst second | \
back after | all hang: attempts per request | worst second | worst load after it | back after | POSTs sent twice | KiB per \
proxy | µs |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

fn row(run: &Run) -> String {
    let outcome = &run.outcome;
    let (incident, refusal, hang) = (outcome.incident(), outcome.during(REFUSAL), outcome.during(HANG));
    let back = |outage| match outcome.back_after(outage) {
        Some(after) => format!("{:.1} s", after.as_secs_f64()),
        None => "never".to_owned(),
    };
    let (gets, posts) = incident.failed();
    let memory = match run.policy.is_weir() {
        true => format!("{:.0}", run.bytes as f64 / 1024.0 / run.size.proxies as f64),
        false => "-".to_owned(),
    };
    format!(
        "| {} | {gets:.2} %, {posts:.2} % | {:.3} | {:.2} % | {:.2} | {:.2} | {} | {:.2} | {:.2} | {:.0} % | {} | {} | {memory} | {:.1} |",
        run.policy.name(),
        incident.attempts_per_request(),
        incident.dead(),
        refusal.attempts_per_request(),
        outcome.worst_second(REFUSAL),
        back(REFUSAL),
        hang.attempts_per_request(),
        outcome.worst_second(HANG),
        outcome.worst_load_after(HANG.1),
        back(HANG),
        outcome.all().repeated(),
        run.took * 1e6 / outcome.all().requests() as f64,
    )
}
