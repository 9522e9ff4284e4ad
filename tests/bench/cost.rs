//! What a request costs: CPU time of the Envoy process, throughput at saturation, and latency at a fixed rate.
//!
//! In rounds: each sends the same requests through every variant, in an order drawn anew. What else the machine does meets
//! all variants alike, and what is compared is always of one round.

use anyhow::{Context, Result};

use super::load::{Load, Outcome, Shape};
use super::statistics::{Estimate, median, median_at, quantile};
use super::support::envoy::{Envoy, Launch};
use super::support::{ports, wait};
use super::upstream;
use super::variants::{self, Filter, Modules, Variant};

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds with small requests, and with large ones.
    pub rounds: usize,
    pub large_rounds: usize,
    pub latency_rounds: usize,
}

impl Effort {
    pub const FULL: Self = Self { rounds: 30, large_rounds: 12, latency_rounds: 10 };
    pub const QUICK: Self = Self { rounds: 8, large_rounds: 4, latency_rounds: 3 };
}

const SMALL_REQUESTS: u32 = 3_000;
const LARGE_REQUESTS: u32 = 150;
/// Requests per second at which latency is measured: far below what any variant can do.
const RATE: u32 = 2_000;

/// An Envoy with all variants, and the hosts behind it.
pub struct Bench {
    pub envoy: Envoy,
    pub variants: Vec<Variant>,
    seed: u64,
    // The hosts serve as long as this lives.
    _runtime: tokio::runtime::Runtime,
}

impl Bench {
    pub fn start(filters: &[Filter], launch: impl FnOnce(Launch) -> Launch) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let hosts = upstream::serve(&runtime, (0..4).map(|_| ports::listen()).collect())?;
        let variants = Variant::of(filters);
        let bootstrap = variants::bootstrap(&variants, &hosts, variants::dead(), &Modules::from_environment());
        let envoy = launch(Launch::json(bootstrap)).start()?;
        let bench = Self { envoy, variants, seed: 1, _runtime: runtime };
        Ok(bench)
    }

    pub fn send(&self, variant: &Variant, shape: Shape, requests: u32, rate: Option<u32>) -> Result<Outcome> {
        let load = Load { port: variant.port, shape, requests, rate, uris: None, header: None };
        let send = || load.run(self.envoy.pid(), self.envoy.directory()).with_context(|| variant.name());
        // One request of millions may fail on a machine that is busy otherwise: a run of many minutes goes on, and says so.
        send().or_else(|error| {
            eprintln!("bench: once more, since {error:#}");
            send()
        })
    }

    /// V8 has compiled what runs often, all connections are there, and where a host is dead it is known to be.
    pub fn warm_up(&self) -> Result<()> {
        for variant in &self.variants {
            for http2 in [false, true] {
                self.warm_up_variant(variant, Shape { http2, large: false }, 2_000)?;
            }
        }
        Ok(())
    }

    /// The same for one variant.
    pub fn warm_up_variant(&self, variant: &Variant, shape: Shape, requests: u32) -> Result<()> {
        let ready = wait::until(wait::LIMIT, || {
            if variant.out && matches!(variant.filter, Filter::Decide | Filter::Before(Filter::Decide)) {
                self.fail_where_refused(variant, shape);
            }
            self.send(variant, shape, requests, None).map_err(|error| format!("{error:#}"))?;
            if !variant.out {
                return Ok(());
            }
            let gauge = variant.hosts_out(shape.http2);
            let stats = self.envoy.admin.stats(&format!("^{gauge}$")).map_err(|error| error.to_string())?;
            if stats.get(&gauge) == Some(&1) { Ok(()) } else { Err(format!("{gauge} is not 1: {stats:?}")) }
        });
        ready.map_err(anyhow::Error::msg)
    }

    /// `decide` alone learns only where the last attempt of a request went. So it finds a host that refuses connections by requests
    /// that are not retried: those that arrive as retries, by the policy of these variants. Some of them fail, and are meant to.
    fn fail_where_refused(&self, variant: &Variant, shape: Shape) {
        let header = Some("x-envoy-attempt-count: 2");
        let load = Load { port: variant.port, shape, requests: 100, rate: None, uris: None, header };
        _ = load.run(self.envoy.pid(), self.envoy.directory());
    }

    /// Numbers of the variants, in an order that differs each time.
    fn shuffled(&mut self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.variants.len()).collect();
        self.seed += 1;
        fastrand::Rng::with_seed(self.seed).shuffle(&mut order);
        order
    }
}

/// What was measured of one variant, by round.
#[derive(Clone, Default)]
struct Series {
    cpu: Vec<f64>,
    throughput: Vec<f64>,
}

/// What was measured with one shape of requests.
pub struct Measured {
    shape: Shape,
    rounds: usize,
    variants: Vec<Variant>,
    series: Vec<Series>,
}

impl Measured {
    pub fn take(bench: &mut Bench, shape: Shape, effort: Effort) -> Result<Self> {
        let (rounds, requests) =
            if shape.large { (effort.large_rounds, LARGE_REQUESTS) } else { (effort.rounds, SMALL_REQUESTS) };
        let mut series = vec![Series::default(); bench.variants.len()];
        for _ in 0..rounds {
            for number in bench.shuffled() {
                // What a body costs does not depend on which hosts are out.
                if shape.large && bench.variants[number].out {
                    continue;
                }
                let outcome = bench.send(&bench.variants[number], shape, requests, None)?;
                series[number].cpu.push(outcome.cpu);
                series[number].throughput.push(outcome.throughput);
            }
        }
        Ok(Self { shape, rounds, variants: bench.variants.clone(), series })
    }

    fn series(&self, filter: Filter, out: bool) -> &Series {
        let number = self.variants.iter().position(|variant| (variant.filter, variant.out) == (filter, out));
        &self.series[number.expect("every filter is measured")]
    }

    /// CPU time per request that a variant adds to an Envoy without a filter: the median of the differences within rounds.
    fn added(&self, filter: Filter, out: bool, rounds: &[usize]) -> f64 {
        let (with, without) = (&self.series(filter, out).cpu, &self.series(Filter::None, false).cpu);
        let differences: Vec<f64> = with.iter().zip(without).map(|(with, without)| with - without).collect();
        median_at(&differences, rounds)
    }

    fn estimate(&self, measure: impl Fn(&[usize]) -> f64) -> Estimate {
        Estimate::of(self.rounds, measure)
    }

    /// What one adds, as a multiple of what another adds.
    fn ratio(&self, of: (Filter, bool), to: (Filter, bool)) -> Estimate {
        self.estimate(|rounds| self.added(of.0, of.1, rounds) / self.added(to.0, to.1, rounds))
    }

    pub fn table(&self) -> String {
        let cpu = |filter, out| self.estimate(|rounds| median_at(&self.series(filter, out).cpu, rounds));
        let mut text = format!(
            "{}: CPU time of Envoy in µs per request, medians of {} rounds (in brackets: 95 % of resampled ones)\n\n",
            self.shape.name(),
            self.rounds
        );
        text.push_str(
            "| | µs | added | times the floor | times what the empty filter adds | requests/s | one of four hosts out: added |\n",
        );
        text.push_str("|---|---|---|---|---|---|---|\n");
        for filter in Filter::all() {
            let (mut added, mut ratio, mut floor, mut out) =
                ("-".to_owned(), "-".to_owned(), "-".to_owned(), "-".to_owned());
            if filter != Filter::None {
                added = self.estimate(|rounds| self.added(filter, false, rounds)).to_string();
                ratio = self.ratio((filter, false), (Filter::Empty, false)).text(2);
                floor = self.ratio((filter, false), (Filter::Floor(""), false)).text(2);
            }
            if filter.is_measured_out() && !self.shape.large {
                out = self.estimate(|rounds| self.added(filter, true, rounds)).to_string();
            }
            let throughput = median(self.series(filter, false).throughput.clone());
            let (title, cpu) = (filter.title(), cpu(filter, false).value);
            text.push_str(&format!("| {title} | {cpu:.1} | {added} | {floor} | {ratio} | {throughput:.0} | {out} |\n"));
        }
        text
    }

    /// What each step adds to the floor.
    pub fn steps(&self) -> String {
        let floor = Filter::Floor("");
        let mut text = format!(
            "{}: CPU time of Envoy in µs per request that each step adds to the floor, medians of {} rounds\n\n| | µs |\n|---|---|\n",
            self.shape.name(),
            self.rounds
        );
        for variant in &self.variants {
            let cost = |rounds: &[usize]| {
                let added = |filter| self.added(filter, false, rounds);
                if matches!(variant.filter, Filter::Empty) || variant.filter == floor {
                    added(variant.filter)
                } else {
                    added(variant.filter) - added(floor)
                }
            };
            if variant.filter != Filter::None {
                text.push_str(&format!("| {} | {} |\n", variant.filter.title(), self.estimate(cost)));
            }
        }
        text
    }

    /// Whether Weir costs no more than it should. A line each, and whether one is broken beyond doubt.
    pub fn targets(&self) -> (String, bool) {
        let (decide, watch, guard) = (Filter::Decide, Filter::Watch, Filter::Guard);
        let mut lines = String::new();
        let mut broken = false;
        let mut line = |what: String, estimate: Estimate, limit: f64| {
            let verdict = match (estimate.low <= limit, estimate.high <= limit) {
                _ if limit.is_infinite() => String::new(),
                (_, true) => format!(", at most {limit}: kept"),
                (true, false) => format!(", at most {limit}: within the spread"),
                (false, false) => format!(", at most {limit}: NOT KEPT"),
            };
            broken |= estimate.low > limit;
            let Estimate { value, low, high } = estimate;
            lines.push_str(&format!("  {what}: {value:.2} ({low:.2} to {high:.2}){verdict}\n"));
        };
        let floor = Filter::Floor("");
        let quiet = Filter::Quiet;
        for (filter, limit) in [(decide, 2.0), (watch, 1.9), (guard, f64::INFINITY), (quiet, 2.2)] {
            line(format!("{} / the floor", filter.title()), self.ratio((filter, false), (floor, false)), limit);
        }
        for (filter, before) in [
            (decide, Filter::Before(&Filter::Decide)),
            (watch, Filter::Before(&Filter::Watch)),
            (guard, Filter::Before(&Filter::Guard)),
            (quiet, Filter::Before(&Filter::Guard)),
        ] {
            if self.variants.iter().any(|variant| variant.filter == before) {
                for (out, of) in [(false, ""), (true, ", one host out")] {
                    let ratio = self.ratio((filter, out), (before, out));
                    line(format!("{} / {}{of}", filter.title(), before.title()), ratio, f64::INFINITY);
                }
            }
        }
        line("the floor / empty".to_owned(), self.ratio((floor, false), (Filter::Empty, false)), f64::INFINITY);
        line("decide / Lua".to_owned(), self.ratio((decide, false), (Filter::Lua, false)), 1.0);
        line("decide, watch / empty".to_owned(), self.ratio((watch, false), (Filter::Empty, false)), 2.0);
        line("decide, watch, guard / empty".to_owned(), self.ratio((guard, false), (Filter::Empty, false)), 3.5);
        for filter in [decide, watch, guard, quiet] {
            let cost = |out, rounds: &[usize]| median_at(&self.series(filter, out).cpu, rounds);
            let whole = self.estimate(|rounds| cost(true, rounds) / cost(false, rounds));
            line(format!("{}, one host out / calm, whole request", filter.title()), whole, 1.3);
            let added = self.ratio((filter, true), (filter, false));
            line(format!("{}, one host out / calm, added", filter.title()), added, 1.3);
        }
        (lines, broken)
    }
}

/// Latencies at a fixed rate, in microseconds.
pub fn latency(bench: &mut Bench, effort: Effort) -> Result<String> {
    let shape = Shape { http2: false, large: false };
    let calm: Vec<usize> = (0..bench.variants.len()).filter(|number| !bench.variants[*number].out).collect();
    let mut latencies = vec![Vec::new(); bench.variants.len()];
    for _ in 0..effort.latency_rounds {
        for number in bench.shuffled().into_iter().filter(|number| calm.contains(number)) {
            latencies[number].push(bench.send(&bench.variants[number], shape, RATE, Some(RATE))?.latencies);
        }
    }
    let mut text = format!(
        "Latency in µs at {RATE} requests per second, {}, {} rounds of a second: what each adds to no filter\n\n",
        shape.name(),
        effort.latency_rounds
    );
    text.push_str("| | p50 | p99 | p99.9 |\n|---|---|---|---|\n");
    for number in &calm {
        let pooled = |number: usize, share: f64, rounds: &[usize]| {
            let mut all: Vec<f64> = rounds.iter().flat_map(|round| latencies[number][*round].iter().copied()).collect();
            quantile(&mut all, share)
        };
        let cells = [0.5, 0.99, 0.999].map(|share| {
            let all: Vec<usize> = (0..effort.latency_rounds).collect();
            if bench.variants[*number].filter == Filter::None {
                return format!("{:.0}", pooled(*number, share, &all));
            }
            let none = calm[0];
            let added = Estimate::of_few(effort.latency_rounds, |rounds| {
                pooled(*number, share, rounds) - pooled(none, share, rounds)
            });
            format!("+ {}", added.text(0))
        });
        text.push_str(&format!("| {} | {} |\n", bench.variants[*number].filter.title(), cells.join(" | ")));
    }
    Ok(text)
}
