//! The circuit breaker in Envoy: which requests are answered at once, which one finds out, and the record that workers share.

use super::{ContextId, RATE_LIMITED, RESPONSE_DETAILS, RESPONSE_FLAGS, Stream, VERDICT, Vm, response_code};
use crate::base::time::{Time, millis};
use crate::circuit::{Admission, Circuit, Event, Ticket, Wish};
use crate::config::Mode;
use crate::engine::cluster::Cluster;
use crate::engine::correlate::ClusterId;
use crate::host::{self, Level, LocalReply, Map, Swap};
use crate::metrics::Counter;
use crate::retry::{Class, Plan, Request};
use crate::signal::{Answer, Flags, RequestEnd, Signal};

/// How often a swap is tried; see `ledger.rs`.
const TRIES: u32 = 1_000;
/// gRPC's UNAVAILABLE.
const UNAVAILABLE: i32 = 14;

const SHED: &str = "weir: not sent: the cluster's circuit is open";

/// What the circuit says of a request.
pub(super) enum Passage {
    /// It goes on.
    On,
    /// It goes on as a probe.
    Probe(Ticket),
    /// It was answered.
    Shed,
}

impl Vm {
    /// A request arrives.
    pub(super) fn pass_circuit(&mut self, cluster: ClusterId, request: &Request<'_>) -> Passage {
        let now = self.wall_clock;
        let Some(circuit) = self.circuit(cluster) else { return Passage::On };
        if circuit.requested(now) {
            self.exchange_circuit(cluster);
        }
        match self.admit_to_circuit(cluster, request, now) {
            Admission::Pass => Passage::On,
            Admission::Shed => self.shed(cluster, request),
            Admission::Due => match self.change_circuit(cluster, Wish::Probe) {
                Some(Event::Probing(ticket)) => {
                    self.count(cluster, Counter::CircuitProbes);
                    Passage::Probe(ticket)
                }
                // Another worker was faster: with a probe, or with what it found out.
                _ if self.engine.cluster(cluster).is_some_and(Cluster::is_open) => self.shed(cluster, request),
                _ => Passage::On,
            },
        }
    }

    fn admit_to_circuit(&self, cluster: ClusterId, request: &Request<'_>, now: Time) -> Admission {
        let Some(circuit) = self.engine.cluster(cluster).and_then(|cluster| cluster.circuit.as_ref()) else {
            return Admission::Pass;
        };
        let policy = || self.engine.retry_policy(cluster);
        circuit.admit(now, || policy().is_some_and(|policy| Plan::of(policy, request).repeats()))
    }

    /// Answers a request that the upstream shall not see. If the host refuses, it goes on.
    fn shed(&mut self, cluster: ClusterId, request: &Request<'_>) -> Passage {
        let Some(circuit) = self.circuit(cluster) else { return Passage::On };
        circuit.shed();
        let seconds = millis(circuit.open_time()).div_ceil(1_000);
        if self.engine.mode() == Mode::Shadow {
            self.count(cluster, Counter::Shed);
            return Passage::On;
        }
        let wait = seconds.to_string();
        let later = if request.grpc { ("grpc-retry-pushback-ms", "-1") } else { ("retry-after", wait.as_str()) };
        // No hop above shall retry it either.
        let headers = [(RATE_LIMITED, "true"), later];
        let details = "weir_circuit_open";
        let reply = LocalReply { status: 503, details, body: SHED, headers: &headers, grpc_status: UNAVAILABLE };
        if !host::send_local_reply(&reply) {
            return Passage::On;
        }
        host::set_property(VERDICT, b"circuit_open");
        let class = self.engine.retry_policy(cluster).map_or(Class::Off, |policy| Class::of(policy, request));
        self.count(cluster, Counter::Requests(class));
        self.count(cluster, Counter::Shed);
        Passage::Shed
    }

    /// Response headers of a probe pass, or it ended without: what does it say?
    pub(super) fn probe_tells(&mut self, context: ContextId) {
        let Some(Stream::Decide(request)) = self.streams.get_mut(context) else { return };
        let (Some(ticket), Some(cluster)) = (request.circuit_probe.take(), request.cluster) else { return };
        let stopped = request.guarded.then_some(request.failed_before.unwrap_or(Signal::Reset));
        let (details, status) = (host::property(RESPONSE_DETAILS), response_code());
        let proxy_status = if status >= Some(500) { host::header(Map::Response, "proxy-status") } else { None };
        let end = RequestEnd {
            flags: Flags(host::property_u64(RESPONSE_FLAGS).unwrap_or_default()),
            answer: Answer { status, proxy_status: proxy_status.as_deref().unwrap_or_default(), ..Answer::default() },
            details: details.as_deref().unwrap_or_default(),
        };
        // There is no host to send it to, which costs nobody anything; or `guard` stopped its retry.
        let no_host = end.flags.any(Flags::NO_HEALTHY_UPSTREAM).then_some(Signal::Unreachable);
        let wish = Wish::of_probe(ticket, end.last_attempt().or(no_host).or(stopped));
        self.change_circuit(cluster, wish);
    }

    /// On each tick: all circuits that have something to say, or may have changed elsewhere.
    pub(super) fn exchange_circuits(&mut self) {
        for cluster in self.engine.due_circuits(self.wall_clock) {
            self.exchange_circuit(cluster);
            self.gauge_circuit(cluster);
        }
    }

    fn exchange_circuit(&mut self, cluster: ClusterId) {
        let now = self.wall_clock;
        let Some(state) = self.engine.cluster(cluster) else { return };
        let answering = match (&state.circuit, &state.outliers) {
            (Some(circuit), Some(outliers)) => {
                circuit.is_troubled() && outliers.some_host_answers(circuit.answering(), now)
            }
            _ => false,
        };
        self.change_circuit(cluster, Wish::Exchange { answering });
    }

    fn circuit(&mut self, cluster: ClusterId) -> Option<&mut Circuit> {
        self.engine.cluster_mut(cluster)?.circuit.as_deref_mut()
    }

    /// Reads the shared record, and changes it if that is called for.
    fn change_circuit(&mut self, cluster: ClusterId, wish: Wish) -> Option<Event> {
        let shadow = self.engine.mode() == Mode::Shadow;
        let last = self.wall_clock;
        let state = self.engine.cluster_mut(cluster)?;
        let circuit = state.circuit.as_mut()?;
        let key = [if shadow { "weir/shadow-circuit/" } else { "weir/circuit/" }, &state.name].concat();
        for _ in 0..TRIES {
            let Some(shared) = host::shared(&key) else { break };
            let now = host::wall_clock().map_or(last, Time::from_nanos);
            let record = circuit.exchange(shared.value.as_deref(), wish, now);
            match record.map_or(Swap::Done, |record| host::swap_shared(&key, &record, shared.version)) {
                Swap::Done => {
                    let event = circuit.done();
                    self.tell_of_circuit(cluster, event?);
                    return event;
                }
                Swap::Conflict => {}
                Swap::Failed => break,
            }
        }
        circuit.failed(last);
        None
    }

    /// Counts and logs what happened to a circuit.
    fn tell_of_circuit(&mut self, cluster: ClusterId, event: Event) {
        let Some(state) = self.engine.cluster(cluster) else { return };
        let name = state.name.clone();
        match event {
            Event::Probing(_) => {}
            Event::Opened { broke, attempts, within } => {
                let every = state.circuit.as_ref().map_or(0, |circuit| millis(circuit.open_time()));
                let line = format!(
                    "circuit open: {broke} of {attempts} attempts within {} ms were refused, broke off or timed out; one request \
                     each {every} ms goes on, and more where they fail at once",
                    millis(within),
                );
                self.log_of_cluster(Level::Warn, &name, &line);
                self.count(cluster, Counter::CircuitsOpened);
            }
            Event::Closed { after, probes, shed, processed } => {
                let why = if processed { "one was processed" } else { "no request for long" };
                let line = format!(
                    "circuit closed after {} ms: {probes} probes, {why}; {shed} requests were shed",
                    millis(after),
                );
                self.log_of_cluster(Level::Info, &name, &line);
            }
        }
    }
}
