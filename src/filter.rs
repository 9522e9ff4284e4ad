//! The filter: Envoy's callbacks in, the engine's decisions out.
//!
//! Envoy runs one VM per worker thread, and all three roles in it. So there is one [`Vm`] per thread, with one engine; a
//! context, which is Envoy's word for a plugin's root, a request or an attempt, is a number that it hands out.
//!
//! Nothing here may panic, and whatever cannot be known is left alone: the request goes on as if Weir were not there.

mod circuit;
mod decide;
mod ejections;
mod exports;
mod guard;
mod incidents;
mod ledger;
mod log_limit;
mod roots;
mod startup;
mod watch;

use std::cell::RefCell;

use crate::base::time::{Clock, Time};
use crate::config::{Mode, Role};
use crate::contexts::Contexts;
use crate::engine::Engine;
use crate::engine::cluster::LONGEST_NAME;
use crate::engine::correlate::{ClusterId, Ended, RequestId};
use crate::host::{self, Metric, MetricKind, Path};
use crate::metrics::{CLUSTERS_FORGOTTEN, CLUSTERS_KNOWN, Counter, Gauge, Grant};
use crate::outlier::shared::WorkerId;

/// A context's number.
type ContextId = u32;

/// What the VM keeps for a stream context.
enum Stream {
    Decide(decide::Request),
    Guard(guard::Attempt),
    /// Envoy makes a context for each access-log entry.
    Watch,
}

/// All that one worker holds.
#[derive(Default)]
struct Vm {
    /// One for each plugin: a handful.
    roots: Vec<(ContextId, roots::Root)>,
    streams: Contexts<Stream>,
    engine: Engine,
    clock: Clock,
    /// What the host's clock told last.
    wall_clock: Time,
    startup: startup::Line,
    log_limit: log_limit::LogLimit,
    /// The attempt that `guard` saw end last; its log entry is the next event of this worker.
    last_attempt: Option<guard::AttemptEnd>,
    /// The request that `decide` saw arrive last: most likely, that of the next attempt that is a first one.
    arrived: Option<ContextId>,
    /// Attempts that `guard` does not let go, while others of their requests may still be answered.
    held_back: Vec<ContextId>,
    /// Whether this Envoy tells `watch` which listener an attempt came through.
    listeners_told: bool,
    /// This worker among those that share records; claimed with the first request.
    worker: Option<WorkerId>,
    /// How many clusters were known and forgotten when that was last told.
    told_clusters: (usize, u64),
    /// Whether any request was steered, so that attempts may carry the steering header.
    steered: bool,
    /// Whether any request told Envoy to retry what bears [`crate::retry::NOT_SENT`].
    marks: bool,
    /// Attempts whose signal became known in the current callback.
    ended: Vec<Ended>,
}

thread_local! {
    static VM: RefCell<Vm> = RefCell::default();
}

/// Runs a callback on this worker's VM. Should Envoy ever call back while a callback runs, the inner one does nothing.
fn with_vm<R: Default>(callback: impl FnOnce(&mut Vm) -> R) -> R {
    VM.with(|vm| vm.try_borrow_mut().map(|mut vm| callback(&mut vm)).unwrap_or_default())
}

impl Vm {
    /// The role of the root that a new context belongs to.
    fn role_of(&self, root: ContextId) -> Option<Role> {
        self.roots.iter().find(|(id, _)| *id == root).and_then(|(_, root)| root.role)
    }

    fn has_role(&self, role: Role) -> bool {
        self.roots.iter().any(|(_, root)| root.role == Some(role))
    }

    /// Whether an access-log filter keeps from `watch` what went well.
    fn only_failures_watched(&self) -> bool {
        self.roots.iter().any(|(_, root)| root.only_failures)
    }

    fn create_context(&mut self, context: ContextId, parent: ContextId) {
        if parent == 0 {
            self.roots.push((context, roots::Root::default()));
            return;
        }
        let stream = match self.role_of(parent) {
            Some(Role::Decide) => Stream::Decide(decide::Request::default()),
            Some(Role::Guard) => Stream::Guard(guard::Attempt::default()),
            Some(Role::Watch) => Stream::Watch,
            None => return,
        };
        self.streams.insert(context, stream);
    }

    fn delete_context(&mut self, context: ContextId) {
        match self.streams.remove(context) {
            Some(Stream::Decide(request)) => {
                if let (Some(cluster), held @ 1..) = (request.cluster, request.holds()) {
                    self.release(cluster, held);
                }
            }
            Some(_) => {}
            None => self.roots.retain(|(id, _)| *id != context),
        }
    }

    /// What `decide` knows about a request, while it lives.
    fn request(&mut self, id: RequestId) -> Option<&mut decide::Request> {
        match self.streams.get_mut(id.0) {
            Some(Stream::Decide(request)) => Some(request),
            _ => None,
        }
    }

    /// The cluster that the current stream is routed to, if Envoy knows it.
    fn routed_cluster(&mut self) -> Option<ClusterId> {
        let name = host::property(CLUSTER_NAME)?;
        if let Some(id) = self.engine.same_cluster(&name) {
            return Some(id);
        }
        let name = std::str::from_utf8(&name).ok().filter(|name| (1..=LONGEST_NAME).contains(&name.len()))?;
        Some(self.engine.cluster_id(name))
    }

    /// The time, for what this worker keeps to itself.
    fn now(&mut self) -> Time {
        let wall = self.wall_clock();
        self.clock.read(wall.as_nanos())
    }

    /// The host's own time, for what workers share; the last it told, should it ever not tell. Zero instead would look like
    /// a step back of many years, and the next reading like a step ahead.
    fn wall_clock(&mut self) -> Time {
        self.wall_clock = host::wall_clock().map_or(self.wall_clock, Time::from_nanos);
        self.wall_clock
    }

    fn count(&mut self, cluster: ClusterId, counter: Counter) {
        self.count_by(cluster, counter, 1);
    }

    fn count_by(&mut self, cluster: ClusterId, counter: Counter, by: i64) {
        let shadow = self.engine.mode() == Mode::Shadow;
        let Some(cluster) = self.engine.cluster_mut(cluster) else { return };
        let Some(metric) = cluster.metrics.get_mut(counter.index()) else { return };
        if metric.is_none() {
            let name = counter.name(&cluster.name, shadow);
            *metric = host::define_metric(MetricKind::Counter, &name).map(|metric| metric.0);
        }
        if let Some(metric) = *metric {
            host::increment(Metric(metric), by);
        }
    }

    /// The mode changes: other names are in force, and gauges of the old one shall not say for ever what was so last.
    fn leave_mode(&mut self) {
        let (hosts_out, circuit_open) = decided(self.engine.mode());
        for cluster in self.engine.clusters_mut() {
            cluster.metrics = [None; Counter::COUNT];
            if std::mem::take(&mut cluster.told).0 > 0 {
                gauge(hosts_out, &cluster.name, 0);
            }
            if std::mem::take(&mut cluster.told_open) {
                gauge(circuit_open, &cluster.name, 0);
            }
        }
    }

    fn gauge_circuit(&mut self, cluster: ClusterId) {
        let (_, circuit_open) = decided(self.engine.mode());
        let Some(cluster) = self.engine.cluster_mut(cluster) else { return };
        let open = cluster.is_open();
        if cluster.told_open != open {
            cluster.told_open = open;
            gauge(circuit_open, &cluster.name, u64::from(open));
        }
    }

    /// How many clusters and hosts there are, where that is another number than before.
    fn gauge_counts(&mut self) {
        let (hosts_out, _) = decided(self.engine.mode());
        for (id, (out, known), forgotten) in self.engine.changed_host_counts() {
            if let Some(cluster) = self.engine.cluster(id) {
                gauge(hosts_out, &cluster.name, out as u64);
                gauge(Gauge::HOSTS_KNOWN, &cluster.name, known as u64);
            }
            if forgotten > 0 {
                self.count_by(id, Counter::HostsForgotten, i64::from(forgotten));
            }
        }
        let counts = self.engine.cluster_counts();
        let (known, forgotten) = std::mem::replace(&mut self.told_clusters, counts);
        if known != counts.0 {
            record(CLUSTERS_KNOWN, counts.0 as u64);
        }
        if forgotten < counts.1
            && let Some(metric) = host::define_metric(MetricKind::Counter, CLUSTERS_FORGOTTEN)
        {
            host::increment(metric, i64::try_from(counts.1 - forgotten).unwrap_or(i64::MAX));
        }
    }

    fn count_grant(&mut self, cluster: ClusterId, grant: Grant, by: u32) {
        self.count_by(cluster, Counter::Retries(grant), i64::from(by));
    }

    /// Counts the attempts that became known, and tells their requests.
    fn count_ended(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let mut ended = std::mem::take(&mut self.ended);
        for Ended { attempt, signal } in ended.drain(..) {
            self.count(attempt.cluster, Counter::Attempts(signal));
            if let Some(request) = attempt.request.and_then(|id| self.request(id)) {
                request.last_signal = Some(signal);
                // The sooner this is known, the fewer requests spend what the budget has saved.
                if request.charged > 0 && signal.is_failure() {
                    let now = self.wall_clock();
                    let cluster = self.engine.cluster_mut(attempt.cluster);
                    cluster
                        .and_then(|cluster| cluster.account.as_mut())
                        .into_iter()
                        .for_each(|it| it.failed(true, now));
                }
            }
            let now = self.wall_clock;
            if let Some(circuit) = self.engine.cluster_mut(attempt.cluster).and_then(|it| it.circuit.as_mut()) {
                circuit.attempt_ended(signal, attempt.began, now);
            }
            self.note_incident(&attempt, signal);
            self.judge(&attempt, signal);
        }
        self.ended = ended;
    }
}

/// The gauges of what is decided have names of their own in shadow mode.
fn decided(mode: Mode) -> (Gauge, Gauge) {
    match mode {
        Mode::Enforce => (Gauge::HOSTS_OUT, Gauge::CIRCUIT_OPEN),
        Mode::Shadow => (Gauge::SHADOW_HOSTS_OUT, Gauge::SHADOW_CIRCUIT_OPEN),
    }
}

fn gauge(gauge: Gauge, cluster: &str, value: u64) {
    record(&gauge.name(cluster), value);
}

fn record(name: &str, value: u64) {
    if let Some(metric) = host::define_metric(MetricKind::Gauge, name) {
        host::record(metric, value);
    }
}

/// The cluster of the route, if there is such a cluster. (Envoy finds nothing under `cluster_name` before a host is chosen.)
const CLUSTER_NAME: Path = Path("xds\0cluster_name");
const UPSTREAM_ADDRESS: Path = Path("upstream\0address");
const RESPONSE_FLAGS: Path = Path("response\0flags");
const RESPONSE_CODE: Path = Path("response\0code");
const RESPONSE_DETAILS: Path = Path("response\0code_details");
const DURATION: Path = Path("request\0duration");
const BACKEND_LATENCY: Path = Path("response\0backend_latency");
const ATTEMPT_COUNT: Path = Path("upstream\0request_attempt_count");

/// What Weir did to a request, for access logs: `%FILTER_STATE(wasm.weir.verdict:PLAIN)%`.
const VERDICT: Path = Path("weir.verdict");

/// Set by `decide` for `guard`: which request an attempt belongs to.
const REQUEST: Path = Path("weir_request");

/// Stops Envoy, and any hop above, from retrying the response that bears it.
const RATE_LIMITED: &str = "x-envoy-ratelimited";

fn response_code() -> Option<u16> {
    host::property_u64(RESPONSE_CODE).and_then(|code| u16::try_from(code).ok()).filter(|code| *code > 0)
}

/// Whether a gRPC response asks not to be retried: a pushback that is not a number of milliseconds to wait, as in gRPC's A6.
fn grpc_pushback(value: Option<&[u8]>) -> bool {
    value.is_some_and(|value| parse_u32(value).is_none())
}

fn parse_u32(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text.trim_ascii()).ok()?.parse().ok()
}

fn is_grpc(content_type: &[u8]) -> bool {
    content_type
        .strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}
