//! What happened, told: counters, gauges and lines of Envoy's log.

use super::abi::{self, Level, Metric, MetricType};
use super::metrics::{
    CLUSTERS_FORGOTTEN, CLUSTERS_KNOWN, Counter, Ejected, Gauge, Grant, host_incident, host_out, incidents,
};
use crate::base::random::hash;
use crate::base::text::printable;
use crate::base::time::{Time, millis};
use crate::circuit;
use crate::config::Mode;
use crate::engine::correlate::ClusterId;
use crate::engine::event::{Event, HostEvent, What};
use crate::engine::host::Update;
use crate::engine::worker::Worker;
use crate::incident::{self, Pattern, State};
use crate::outlier;

/// Which series of single hosts were made: hashes of their names.
const HOST_SERIES: &str = "weir/host-series";
/// At most 200 series of single hosts are made, since Envoy forgets none.
const MOST_HOST_SERIES: usize = 200;
/// A worker writes at most 20 lines about hosts in a second. How many there are to write is up to the upstreams, and a log that is
/// flooded hides the rest. The lines that are left out are counted, and metrics have what they would have said.
const MOST_LINES: u32 = 20;
const SECOND: u64 = 1_000_000_000;

/// What was logged and counted so far.
#[derive(Debug, Default)]
pub(super) struct Telemetry {
    /// By the slots of their clusters.
    series: Vec<Option<Box<Series>>>,
    /// How many clusters were known and forgotten when that was last told.
    clusters: (usize, u64),
    /// The mode in which the events that it reports happened.
    mode: Mode,
    pub(super) log: LogLimit,
}

/// The series of one cluster.
#[derive(Debug)]
struct Series {
    cluster: ClusterId,
    /// The numbers under which Envoy knows its counters, by [`Counter::index`]; `None` until one is counted.
    counters: [Option<Metric>; Counter::COUNT],
    /// The gauge of what its budget has left.
    budget: Option<Metric>,
}

/// A cluster, while something is told about it.
struct About<'a> {
    id: ClusterId,
    name: &'a str,
    mode: Mode,
}

impl Telemetry {
    /// Reports all that happened since the last time.
    pub(super) fn report(&mut self, worker: &mut Worker) {
        while let Some(Event { cluster: id, what }) = worker.poll_event() {
            self.log.turn(worker.last_time());
            if let Some(name) = worker.cluster_name(id) {
                self.report_event(&About { id, name, mode: self.mode }, &what);
            }
        }
    }

    fn report_event(&mut self, cluster: &About<'_>, what: &What) {
        match what {
            What::Forwarded(class) => self.count(cluster, Counter::Requests(*class), 1),
            What::Shed(class) => {
                self.count(cluster, Counter::Requests(*class), 1);
                self.count(cluster, Counter::Shed, 1);
            }
            What::WouldShed => self.count(cluster, Counter::Shed, 1),
            What::CircuitProbed => self.count(cluster, Counter::CircuitProbes, 1),
            What::Circuit(event, open_time) => self.report_circuit(cluster, *event, millis(*open_time)),
            What::CircuitOpen(open) => record(&decided(cluster.mode).1.name(cluster.name), u64::from(*open)),
            What::HostProbed => self.count(cluster, Counter::Probes, 1),
            What::Misrouted => {
                self.log_of(Level::Warn, cluster, MISROUTED);
                self.count(cluster, Counter::Misrouted, 1);
            }
            What::Undecided => self.warn(cluster, UNDECIDED, Counter::Undecided),
            What::Unjudged => self.warn(cluster, UNJUDGED, Counter::Unjudged),
            What::AttemptEnded(signal) => self.count(cluster, Counter::Attempts(*signal), 1),
            What::RetriesGranted(retries) => {
                self.count(cluster, Counter::Retries(Grant::Granted), i64::from(*retries));
            }
            What::RetryDenied => self.count(cluster, Counter::Retries(Grant::Denied), 1),
            What::RetrySucceeded => self.count(cluster, Counter::RetriesSucceeded, 1),
            What::NotRetried(reason) => self.count(cluster, Counter::NotRetried(*reason), 1),
            What::Vetoed(veto) => self.count(cluster, Counter::Vetoes(*veto), 1),
            What::RetriesLeft(left) => self.gauge_budget(cluster, *left),
            What::Host(event) => self.report_host(cluster, event),
            What::HostOut(host, out) => {
                record_of_host(&host_out(host, cluster.name, cluster.mode == Mode::Shadow), u64::from(*out));
            }
            What::Hosts { ejected, remembered, forgotten } => {
                record(&decided(cluster.mode).0.name(cluster.name), *ejected as u64);
                record(&Gauge::HOSTS_KNOWN.name(cluster.name), *remembered as u64);
                if *forgotten > 0 {
                    self.count(cluster, Counter::HostsForgotten, i64::from(*forgotten));
                }
            }
            What::Incident(event) => self.report_incident(cluster.name, event),
        }
    }

    /// Writes a warning that holds in both modes, and counts it.
    fn warn(&mut self, cluster: &About<'_>, what: &str, counter: Counter) {
        self.log.write(Level::Warn, &["weir: cluster ", &printable(cluster.name), what].concat());
        self.count(cluster, counter, 1);
    }

    fn count(&mut self, cluster: &About<'_>, counter: Counter, by: i64) {
        let series = self.series(cluster.id);
        let Some(metric) = series.and_then(|series| series.counters.get_mut(counter.index())) else { return };
        if metric.is_none() {
            let name = counter.name(cluster.name, cluster.mode == Mode::Shadow);
            *metric = abi::define_metric(MetricType::Counter, &name);
        }
        metric.iter().for_each(|metric| abi::increment(*metric, by));
    }

    /// The series of a cluster; those of one that had its slot before are forgotten.
    fn series(&mut self, cluster: ClusterId) -> Option<&mut Series> {
        let slot = cluster.slot();
        if slot >= self.series.len() {
            self.series.resize_with(slot + 1, || None);
        }
        let series = self.series.get_mut(slot)?;
        if series.as_ref().is_none_or(|series| series.cluster != cluster) {
            *series = Some(Box::new(Series { cluster, counters: [None; Counter::COUNT], budget: None }));
        }
        series.as_deref_mut()
    }

    fn gauge_budget(&mut self, cluster: &About<'_>, left: u64) {
        let Some(Series { budget: metric, .. }) = self.series(cluster.id) else { return };
        if metric.is_none() {
            *metric = abi::define_metric(MetricType::Gauge, &Gauge::BUDGET_LEFT.name(cluster.name));
        }
        metric.iter().for_each(|metric| abi::record(*metric, left));
    }

    fn report_circuit(&mut self, cluster: &About<'_>, event: circuit::Event, every: u64) {
        match event {
            circuit::Event::Probing(_) => {}
            circuit::Event::Opened { broke, attempts, within } => {
                let line = format!(
                    "circuit open: {broke} of {attempts} attempts within {} ms were refused, broke off or timed out; one request \
                     each {every} ms goes on",
                    millis(within),
                );
                self.log_of(Level::Warn, cluster, &line);
                self.count(cluster, Counter::CircuitsOpened, 1);
            }
            circuit::Event::Closed { after, probes, shed, processed } => {
                let why = if processed { "one was processed" } else { "no request for long" };
                let line = format!(
                    "circuit closed after {} ms: {probes} probes, {why}; {shed} requests were shed",
                    millis(after),
                );
                self.log_of(Level::Info, cluster, &line);
            }
        }
    }

    fn report_host(&mut self, cluster: &About<'_>, event: &HostEvent) {
        let HostEvent { event, ejected, known, at } = event;
        let (counter, line) = match event {
            outlier::Event::Detected(host, failure) => (
                Counter::Detected(Ejected(*failure)),
                format!("host {host} is an outlier ({}), but {ejected} of {known} are out already", failure.name()),
            ),
            outlier::Event::Ejected(ejection) | outlier::Event::Extended(ejection) => (
                Counter::Ejections(Ejected(ejection.failure)),
                format!(
                    "host {} ejected for {} ms ({}, strike {}): {ejected} of {known} are out",
                    ejection.address,
                    millis(ejection.until.since(*at)),
                    ejection.failure.name(),
                    ejection.ejection_count,
                ),
            ),
            outlier::Event::Unejected(host) => {
                (Counter::Readmissions, format!("host {host} answers again: {ejected} of {known} are out"))
            }
            outlier::Event::AllUnejected => (Counter::Readmissions, "all hosts fail alike, so none is out".to_owned()),
        };
        self.log_of(Level::Info, cluster, &line);
        self.count(cluster, counter, 1);
    }

    fn report_incident(&mut self, cluster: &str, event: &incident::Event) {
        let (open, pattern) = (event.state == State::Open, event.pattern);
        self.log.write(if open { Level::Warn } else { Level::Info }, &event.line(cluster));
        // A restart is told when it is over.
        let restart = pattern == Pattern::Restart;
        if open || restart {
            let metric = abi::define_metric(MetricType::Counter, &incidents("total", pattern, cluster));
            metric.iter().for_each(|metric| abi::increment(*metric, 1));
        }
        if restart {
            return;
        }
        record(&incidents("open", pattern, cluster), event.open);
        if let Some(host) = &event.host {
            record_of_host(&host_incident(pattern, host, cluster), u64::from(event.state != State::Over));
        }
    }

    /// Writes `weir: cluster <name>: <line>`, unless there were too many. In shadow mode it says that nothing of it was done.
    fn log_of(&mut self, level: Level, cluster: &About<'_>, line: &str) {
        let done = if cluster.mode == Mode::Shadow { ": would be (mode shadow): " } else { ": " };
        self.log.write(level, &["weir: cluster ", &printable(cluster.name), done, line].concat());
    }

    /// On each tick: what concerns no single cluster, where it is another than when it was last told.
    pub(super) fn report_totals(&mut self, worker: &Worker) {
        self.log.turn(worker.last_time());
        let counts = worker.cluster_counts();
        let (known, forgotten) = std::mem::replace(&mut self.clusters, counts);
        if known != counts.0 {
            record(CLUSTERS_KNOWN, counts.0 as u64);
        }
        if forgotten < counts.1
            && let Some(metric) = abi::define_metric(MetricType::Counter, CLUSTERS_FORGOTTEN)
        {
            abi::increment(metric, i64::try_from(counts.1 - forgotten).unwrap_or(i64::MAX));
        }
    }

    /// A policy is in force: what happened until now is of the former mode, in which counters have other names.
    pub(super) fn enter_mode(&mut self, worker: &mut Worker) {
        self.report(worker);
        if self.mode != worker.mode() {
            self.mode = worker.mode();
            self.series.iter_mut().flatten().for_each(|series| series.counters = [None; Counter::COUNT]);
        }
    }
}

/// Bounds how many lines about hosts are written into Envoy's log: it counts those of the current second of the host's clock.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    second: u64,
    written: u32,
    left_out: u32,
}

impl LogLimit {
    /// Begins a new second if there is one, and says how many lines the one before left out.
    pub(super) fn turn(&mut self, now: Time) {
        let second = now.as_nanos() / SECOND;
        if self.second == second {
            return;
        }
        let left_out = std::mem::replace(self, Self { second, ..Self::default() }).left_out;
        if left_out > 0 {
            let count = left_out.to_string();
            abi::log(Level::Warn, &["weir: ", &count, " more lines in one second were left out"].concat());
        }
    }

    /// Writes a line that names what upstreams are called, unless there were too many.
    pub(super) fn write(&mut self, level: Level, line: &str) {
        if self.written >= MOST_LINES {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        self.written += 1;
        abi::log(level, line);
    }
}

const UNDECIDED: &str = ": nobody decides on its requests: role decide is not attached where they pass";

const UNJUDGED: &str = ": a host without IP address and port (a pipe, perhaps) is not judged, and so never ejected";

const MISROUTED: &str = "requests do not go where they are steered, so ejections are advisory: it lacks \
                         override_host, its routes lack stateful_session or have one of their own";

/// The gauges of what is decided have names of their own in shadow mode.
const fn decided(mode: Mode) -> (Gauge, Gauge) {
    match mode {
        Mode::Enforce => (Gauge::HOSTS_OUT, Gauge::CIRCUIT_OPEN),
        Mode::Shadow => (Gauge::SHADOW_HOSTS_OUT, Gauge::SHADOW_CIRCUIT_OPEN),
    }
}

pub(super) fn record(name: &str, value: u64) {
    if let Some(metric) = abi::define_metric(MetricType::Gauge, name) {
        abi::record(metric, value);
    }
}

/// Sets a gauge of a single host, if it was made before or may be.
fn record_of_host(name: &str, value: u64) {
    let hash = hash(name.as_bytes(), 0).to_le_bytes();
    let (mut made, mut full) = (false, false);
    let update = abi::update(HOST_SERIES, &mut |record| {
        let record = record.unwrap_or_default();
        made = record.chunks(hash.len()).any(|known| known == hash);
        full = record.len() >= MOST_HOST_SERIES * hash.len();
        (!made && !full).then(|| [record, &hash].concat())
    });
    if made || (!full && update == Update::Done) {
        self::record(name, value);
    }
}
