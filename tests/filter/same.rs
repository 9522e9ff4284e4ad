//! The same traffic through the adapter, in front of a fake Envoy, and through a host of the simulator: the engine decides the
//! same, the same happens, and the same records are written. So what is simulated, replayed or benchmarked on the engine is what
//! the module does.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::fake_host::{End, Headers, Stream, flag::*};
use super::sim_host::{Facts, Records, SimHost};
use super::{Attached, Level};
use crate::property::{Digits, for_all};
use weir::config::{self, Mode};
use weir::engine::decision::{RATE_LIMITED, Reply, RequestDecision, ResponseDecision, Then};
use weir::engine::event::{Event, What};
use weir::engine::host::{HeaderMap, Property, Record, StreamId};
use weir::engine::worker::{Attachments, Worker};
use weir::metrics::{Counter, Ejected, Grant};
use weir::outlier;
use weir::retry;

const REFUSED: &str =
    "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}";
const CLUSTERS: [&str; 2] = ["orders", "payments"];
const HOSTS: [&str; 4] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"];

const CONFIGURATIONS: [&str; 6] = [
    r#"{"role": "decide"}"#,
    r#"{"role": "decide", "mode": "shadow"}"#,
    r#"{"circuitBreaker": {"minRequests": 3, "interval": "1s", "percent": 50, "openTime": "200ms"}}"#,
    r#"{"retry": {"budget": {"percent": 10}, "minRetryRate": null}}"#,
    r#"{"mode": "shadow", "circuitBreaker": {"minRequests": 3, "interval": "1s", "percent": 50},
        "retry": {"budget": {"percent": 10}, "minRetryRate": null}}"#,
    r#"{"retry": {"perTryTimeout": {"adaptive": {"quantile": 0.5, "min": "1ms"}}, "statusCodes": [502]},
        "clusters": [{"match": "pay*", "retry": null, "outlierDetection": null}]}"#,
];

/// What scripts have to come to, for their sameness to say anything.
const HAPPENS: [&str; 13] = [
    "requests_total.retry.grpc",
    "attempts_total.signal.cancelled",
    "retries_total.verdict.granted",
    "retries_total.verdict.denied",
    "retries_succeeded",
    "vetoes_total.reason.unsafe",
    "vetoes_total.reason.pushback",
    "weir_ejections_total",
    "weir_shadow_ejections_total",
    "circuit_opened",
    "circuit_probes",
    "weir_shed_total",
    "weir_shadow_shed_total",
];

/// Headers of responses that Weir reads or changes.
const WATCHED: [&str; 4] = [RATE_LIMITED, "retry-after", "grpc-retry-pushback-ms", retry::NOT_SENT];

/// Both sides.
struct Both {
    at: Attached,
    worker: Worker,
    host: SimHost,
    next: u32,
    /// What was counted on the simulator's side, by the names that the adapter gives it.
    counted: BTreeMap<String, u64>,
}

/// A request under way, or an attempt of one.
struct Live {
    fake: Stream,
    id: StreamId,
    facts: Facts,
}

struct Request {
    live: Live,
    cluster: &'static str,
    attempts: Vec<(u32, Option<Live>, &'static str)>,
    next: u32,
}

const fn path(property: Property) -> &'static str {
    match property {
        Property::Cluster => "xds.cluster_name",
        Property::RouteName => "xds.route_name",
        Property::AttemptCount => "upstream.request_attempt_count",
        Property::Flags => "response.flags",
        Property::Code => "response.code",
        Property::Details => "response.code_details",
        Property::UpstreamAddress => "upstream.address",
        Property::Destination => "destination.address",
        Property::LocalAddress => "upstream.local_address",
        Property::FailureReason => "upstream.transport_failure_reason",
        Property::Duration => "request.duration",
        Property::BackendLatency => "response.backend_latency",
        Property::ListenerDirection => "xds.listener_direction",
        Property::Request => "weir_request",
    }
}

impl Both {
    fn new(level: Level, only_failures: bool, configuration: &str) -> Self {
        let at = if only_failures {
            let host = super::fake_host::Host::new();
            let decide = host.start(configuration);
            let watch = Some(host.start(super::WATCH_FAILURES));
            let guard = (level == Level::Guard).then(|| host.start(super::GUARD));
            Attached { host, decide, watch, guard, apart: false, watches_only_failures: true }
        } else {
            Attached::with(level, configuration)
        };
        let host = SimHost::new(Records::default());
        host.set_time(at.host.now());
        let mut worker = Worker::default();
        let guard = level == Level::Guard;
        worker.attach(Attachments { decide: true, watch: level != Level::Decide, only_failures, guard });
        let policy = config::parse(configuration.as_bytes()).expect("it is valid").policy.expect("it is for decide");
        worker.configure(policy, &host);
        Self { at, worker, host, next: 0, counted: BTreeMap::new() }
    }

    fn id(&mut self) -> StreamId {
        self.next += 1;
        StreamId(self.next)
    }

    fn advance(&mut self, by: Duration) {
        self.at.host.advance(by);
        self.host.set_time(self.at.host.now());
    }

    fn tick(&mut self) {
        self.at.tick();
        self.host.show(&Facts::default());
        self.worker.on_tick(&self.host);
        for stream in self.worker.paused_alone() {
            self.worker.on_pause_over(stream, &self.host);
        }
        self.poll();
    }

    /// What happened, as the adapter counts it.
    fn poll(&mut self) {
        while let Some(Event { cluster, what }) = self.worker.poll_event() {
            let name = self.worker.cluster_name(cluster).expect("it is known").to_owned();
            let shadow = self.worker.mode() == Mode::Shadow;
            let counted = &mut self.counted;
            let mut count = |counter: Counter, by: u64| *counted.entry(counter.name(&name, shadow)).or_default() += by;
            match what {
                What::Forwarded(class) => count(Counter::Requests(class), 1),
                What::Shed(class) => {
                    count(Counter::Requests(class), 1);
                    count(Counter::Shed, 1);
                }
                What::WouldShed => count(Counter::Shed, 1),
                What::CircuitProbed => count(Counter::CircuitProbes, 1),
                What::Circuit(weir::circuit::Event::Opened { .. }, _) => count(Counter::CircuitsOpened, 1),
                What::HostProbed => count(Counter::Probes, 1),
                What::Misrouted => count(Counter::Misrouted, 1),
                What::Undecided => count(Counter::Undecided, 1),
                What::Unjudged => count(Counter::Unjudged, 1),
                What::AttemptEnded(signal) => count(Counter::Attempts(signal), 1),
                What::RetriesGranted(retries) => count(Counter::Retries(Grant::Granted), retries.into()),
                What::RetryDenied => count(Counter::Retries(Grant::Denied), 1),
                What::RetrySucceeded => count(Counter::RetriesSucceeded, 1),
                What::Vetoed(veto) => count(Counter::Vetoes(veto), 1),
                What::NotRetried(reason) => count(Counter::NotRetried(reason), 1),
                What::Host(event) => match event.event {
                    outlier::Event::Detected(_, failure) => count(Counter::Detected(Ejected(failure)), 1),
                    outlier::Event::Ejected(ejection) | outlier::Event::Extended(ejection) => {
                        count(Counter::Ejections(Ejected(ejection.failure)), 1);
                    }
                    outlier::Event::Unejected(_) | outlier::Event::AllUnejected => count(Counter::Readmissions, 1),
                },
                What::Circuit(..) | What::CircuitOpen(_) | What::RetriesLeft(_) | What::Incident(_) => {}
                What::Hosts { .. } | What::HostOut(..) => {}
            }
        }
    }

    /// A request arrives; `None` if it is answered at once.
    fn arrives(&mut self, digits: &mut Digits) -> Option<Request> {
        let cluster = digits.pick(&CLUSTERS);
        let mut headers: Vec<(&str, &str)> = vec![(":method", digits.pick(&["GET", "POST", "GET", "DELETE"]))];
        let more: &[(&str, &str)] = match digits.below(8) {
            0 => &[("content-type", "application/grpc")],
            1 => &[("idempotency-key", "1")],
            2 => &[("x-envoy-attempt-count", "2")],
            3 => &[("x-weir-hosts", "10.0.0.9:80")],
            4 => &[("x-envoy-internal", "true"), ("x-envoy-retry-grpc-on", "internal")],
            _ => &[],
        };
        headers.extend(more);
        let fake = self.at.host.request(self.at.decide).cluster(cluster).headers(headers.iter().copied()).begin();
        let (id, mut facts) = (self.id(), Facts::default());
        facts.set(Property::Cluster, cluster);
        headers.iter().for_each(|(name, value)| facts.set_header(HeaderMap::Request, name, value));
        self.host.show(&facts);
        let reply = match self.worker.on_request_headers(id, &self.host) {
            RequestDecision::Reply(reply) => Some(reply),
            RequestDecision::Forward(edits) => {
                for name in edits.remove_hosts.into_iter().chain(edits.remove_control.iter().copied()) {
                    facts.remove_header(HeaderMap::Request, name);
                }
                let mut set = |name: &str, value: &str| facts.set_header(HeaderMap::Request, name, value);
                edits.retry.iter().for_each(|(name, value)| set(name, value));
                let millis = |time: Duration| time.as_millis().max(1).to_string();
                edits.per_try_timeout.iter().for_each(|time| set(retry::PER_TRY_TIMEOUT, &millis(*time)));
                edits.max_retries.iter().for_each(|retries| set(retry::MAX_RETRIES, &retries.to_string()));
                edits.hosts.iter().for_each(|(name, list)| set(name, list));
                if let Some(after) = edits.hedge {
                    set(retry::PER_TRY_TIMEOUT, &millis(after));
                    set(retry::HEDGE, "true");
                }
                if edits.tag {
                    facts.set(Property::Request, id.0.to_le_bytes());
                }
                None
            }
        };
        self.poll();
        self.same_reply(&fake, reply);
        let of_fake: BTreeMap<_, _> = fake.request_headers().0.into_iter().collect();
        let of_sim: BTreeMap<_, _> = facts.request.iter().cloned().collect();
        let ours = |name: &str| !matches!(name, ":path" | ":scheme" | ":authority" | "x-request-id");
        if reply.is_none() {
            assert_eq!(of_fake.into_iter().filter(|(name, _)| ours(name)).collect::<BTreeMap<_, _>>(), of_sim);
        }
        let live = Live { fake, id, facts };
        if reply.is_some() {
            let end = [(Property::Flags, 0), (Property::Code, 503)];
            self.ends(live, &end, "weir_circuit_open");
            return None;
        }
        Some(Request { live, cluster, attempts: Vec::new(), next: 1 })
    }

    fn same_reply(&self, fake: &Stream, reply: Option<Reply>) {
        let of_fake = fake.local_reply();
        assert_eq!(of_fake.is_some(), reply.is_some(), "{of_fake:?} and {reply:?}");
        let (Some(of_fake), Some(reply)) = (of_fake, reply) else { return };
        let verdict = reply.verdict.name();
        assert_eq!((of_fake.status, of_fake.details), (503, format!("weir_{verdict}")));
        assert_eq!(of_fake.body, reply.body());
        let mut headers = Headers::default();
        if let Some((name, value)) = reply.later.map(|later| later.header()) {
            headers.add(RATE_LIMITED, "true");
            headers.add(name, &*value);
        }
        assert_eq!(of_fake.headers, headers);
        assert_eq!(fake.property("weir.verdict").as_deref(), Some(verdict.as_bytes()));
    }

    /// An attempt is about to be sent.
    fn begins(&mut self, request: &mut Request, digits: &mut Digits) {
        let (number, address) = (request.next, digits.pick(&HOSTS));
        request.next += 1;
        let Some(guard) = self.at.guard else {
            request.attempts.push((number, None, address));
            return;
        };
        let fake = self.at.host.attempt(guard, &request.live.fake, number).host(address).begin();
        let (id, mut facts) = (self.id(), request.live.facts.clone());
        facts.response.clear();
        facts.set_number(Property::AttemptCount, number.into());
        facts.set(Property::UpstreamAddress, address);
        self.host.show(&facts);
        self.host.keep(id, &facts);
        let decision = self.worker.on_attempt_headers(id, &self.host);
        let (removes, then) = (decision.remove_hosts.is_some(), decision.then);
        self.poll();
        if removes {
            facts.remove_header(HeaderMap::Request, "x-weir-hosts");
        }
        let hosts =
            facts.header(HeaderMap::Request, "x-weir-hosts").map(|list| String::from_utf8_lossy(list).into_owned());
        assert_eq!(fake.request_header("x-weir-hosts"), hosts);
        assert_eq!(fake.continued(), then == Then::Send, "{then:?}");
        let reply = if let Then::Reply(reply) = then { Some(reply) } else { None };
        self.same_reply(&fake, reply);
        request.attempts.push((number, Some(Live { fake, id, facts }), address));
    }

    /// Response headers of the latest attempt.
    fn answered(&mut self, request: &mut Request, digits: &mut Digits) {
        let Some((_, Some(attempt), _)) = request.attempts.last_mut() else { return };
        let (status, headers) = answer(digits);
        assert!(attempt.fake.response(status, headers.iter().copied()));
        self.response_headers(attempt, status, &headers);
        self.host.show(&attempt.facts);
        let decision = self.worker.on_attempt_response(attempt.id, &self.host, false);
        self.same_response(attempt, &decision);
    }

    fn response_headers(&self, live: &mut Live, status: u32, headers: &[(&str, &str)]) {
        live.facts.response.clear();
        live.facts.set_header(HeaderMap::Response, ":status", status.to_string());
        headers.iter().for_each(|(name, value)| live.facts.set_header(HeaderMap::Response, name, value));
    }

    fn same_response(&mut self, live: &mut Live, decision: &ResponseDecision) {
        self.poll();
        if let Some(name) = decision.remove {
            live.facts.remove_header(HeaderMap::Response, name);
        }
        if let Some(name) = decision.mark {
            live.facts.set_header(HeaderMap::Response, name, "true");
        }
        if let Some((name, value)) = decision.later.map(|later| later.header()) {
            live.facts.set_header(HeaderMap::Response, name, value.as_bytes());
        }
        for name in WATCHED {
            let of_sim = live.facts.header(HeaderMap::Response, name).map(<[u8]>::to_vec);
            assert_eq!(live.fake.response_header(name).map(String::into_bytes), of_sim, "{name}: {decision:?}");
        }
        if let Some(verdict) = decision.verdict {
            assert_eq!(live.fake.property("weir.verdict").as_deref(), Some(verdict.name().as_bytes()));
        }
    }

    /// The oldest attempt is over, and logged.
    fn attempt_over(&mut self, request: &mut Request, digits: &mut Digits) {
        if request.attempts.is_empty() {
            return;
        }
        let (number, attempt, address) = request.attempts.remove(0);
        if let Some(Live { fake, id, facts }) = attempt {
            fake.end();
            self.host.show(&facts);
            self.worker.on_attempt_end(id, &self.host);
            self.host.forget(id);
            self.poll();
        }
        let mut facts = Facts::default();
        facts.set(Property::Cluster, request.cluster);
        let (flags, status) = digits.pick(&[(0, 200), (UC, 0), (UF, 0), (UT, 0), (UR, 0), (0, 0), (0, 503), (UC, 200)]);
        let mut end = End::of_attempt(&request.live.fake, number).flags(flags).host(address);
        facts.set_number(Property::Flags, flags);
        facts.set(Property::UpstreamAddress, address);
        facts.request = end_headers(&request.live.fake, number);
        if status > 0 {
            end = end.code(status);
            facts.set_number(Property::Code, status.into());
            facts.set_header(HeaderMap::Response, ":status", status.to_string());
        }
        let reason = digits.pick(&["Connection refused", "", "TLS error"]);
        for (property, value) in [(Property::FailureReason, reason), (Property::LocalAddress, "10.0.0.7:4000")] {
            end = end.property(path(property), value);
            facts.set(property, value);
        }
        for property in [Property::Duration, Property::BackendLatency] {
            let took = 1_000_000 * (1 + digits.below(40));
            end = end.property(path(property), took);
            facts.set_number(property, took);
        }
        if self.at.watch.is_some() {
            self.at.attempt_log(&end);
            self.host.show(&facts);
            self.worker.on_attempt_log(&self.host);
            self.poll();
        }
    }

    /// Response headers pass on their way to the client.
    fn response(&mut self, request: &mut Request, digits: &mut Digits) {
        let (status, headers) = answer(digits);
        let details = digits.pick(&[
            "via_upstream",
            "response_timeout",
            "upstream_reset_before_response_started{overflow}",
            REFUSED,
        ]);
        let live = &mut request.live;
        for (property, value) in [
            (Property::Code, u64::from(status)),
            (Property::Flags, 0),
            (Property::AttemptCount, u64::from(request.next - 1)),
        ] {
            live.fake.set(path(property), value);
            live.facts.set_number(property, value);
        }
        live.fake.set(path(Property::Details), details);
        live.facts.set(Property::Details, details);
        live.fake.response(status, headers.iter().copied());
        self.response_headers(live, status, &headers);
        self.host.show(&live.facts);
        let decision = self.worker.on_response_headers(live.id, &self.host, false);
        self.same_response(live, &decision);
    }

    fn ends(&mut self, live: Live, numbers: &[(Property, u64)], details: &str) {
        let Live { fake, id, mut facts } = live;
        let mut end = End::new().details(details);
        facts.set(Property::Details, details);
        for (property, value) in numbers {
            end = end.property(path(*property), *value);
            facts.set_number(*property, *value);
        }
        fake.log(&end);
        self.host.show(&facts);
        self.worker.on_request_end(id, &self.host);
        self.poll();
        fake.end();
        self.worker.on_request_done(id);
        self.poll();
    }

    fn request_ends(&mut self, request: Request, digits: &mut Digits) {
        let (flags, status) = digits.pick(&[(0, 200), (0, 503), (UF, 503), (UC, 503), (UT, 504), (DC, 0), (UH, 503)]);
        let details =
            digits.pick(&["via_upstream", "upstream_reset_before_response_started{connection_termination}", ""]);
        let mut live = request.live;
        let address = digits.pick(&HOSTS);
        live.fake.set(path(Property::UpstreamAddress), address);
        live.facts.set(Property::UpstreamAddress, address);
        let numbers = [
            (Property::Flags, flags),
            (Property::Code, status),
            (Property::AttemptCount, u64::from(request.next.max(2) - 1)),
            (Property::BackendLatency, 1_000_000 * (1 + digits.below(40))),
        ];
        self.ends(live, &numbers, details);
    }

    /// What was counted, and what the records hold. Returns what was counted.
    fn finish(mut self) -> BTreeSet<&'static str> {
        for _ in 0..3 {
            self.advance(Duration::from_millis(100));
            self.tick();
        }
        let counts = |name: &str| {
            name.contains("_total.") && !name.starts_with("weir_incidents") && !name.contains("hosts_forgotten")
        };
        let of_fake: BTreeMap<_, _> =
            self.at.host.metrics().into_iter().filter(|(name, value)| counts(name) && *value > 0).collect();
        self.counted.retain(|_, value| *value > 0);
        assert_eq!(of_fake, self.counted);
        for cluster in CLUSTERS {
            for (prefix, record, shadow) in [
                ("weir/budget/2/", Record::Budget, None),
                ("weir/circuit/", Record::Circuit, Some(false)),
                ("weir/shadow-circuit/", Record::Circuit, Some(true)),
                ("weir/ejections/", Record::Ejections, Some(false)),
                ("weir/shadow-ejections/", Record::Ejections, Some(true)),
                ("weir/incidents/", Record::Incidents, None),
            ] {
                let shadow = shadow.unwrap_or(self.worker.mode() == Mode::Shadow);
                let of_sim = self.host.record(record, cluster, shadow).map(|record| record.to_vec());
                let of_fake = self.at.host.shared(&[prefix, cluster].concat()).map(|(value, _)| value);
                assert_eq!(of_fake, of_sim, "{prefix}{cluster}");
            }
        }
        let happened = |name: &&&str| self.counted.keys().any(|counted| counted.contains(**name));
        HAPPENS.iter().filter(happened).copied().collect()
    }
}

/// What an upstream or Envoy answers.
fn answer(digits: &mut Digits) -> (u32, Vec<(&'static str, &'static str)>) {
    let status = digits.pick(&[200, 503, 502, 404, 429, 200]);
    let headers: &[(&str, &str)] = match digits.below(8) {
        0 => &[("retry-after", "1")],
        1 => &[("x-envoy-overloaded", "true")],
        2 => &[("proxy-status", "sidecar; error=connection_refused"), ("x-envoy-attempt-count", "1")],
        3 => &[(RATE_LIMITED, "true")],
        4 => &[("grpc-status", "14"), ("content-type", "application/grpc")],
        5 => &[(retry::NOT_SENT, "true")],
        _ => &[],
    };
    (status, headers.to_vec())
}

/// The request headers of an attempt's log entry.
fn end_headers(of: &Stream, number: u32) -> Vec<(String, Vec<u8>)> {
    let mut headers = of.headers_towards_upstream();
    headers.set("x-envoy-attempt-count", number.to_string());
    headers.0
}

/// One script: numbers that say what happens next.
fn play(numbers: &[u64]) -> BTreeSet<&'static str> {
    let mut digits = Digits(numbers.first().copied().unwrap_or_default());
    let level = digits.pick(&[Level::Decide, Level::Watch, Level::Guard, Level::Guard]);
    let only_failures = level != Level::Decide && digits.below(4) == 0;
    let mut both = Both::new(level, only_failures, digits.pick(&CONFIGURATIONS));
    let mut running: Vec<Request> = Vec::new();
    for number in numbers {
        let mut digits = Digits(*number);
        let what = digits.below(16);
        both.advance(Duration::from_micros(digits.pick(&[0, 100, 5_000, 40_000, 300_000])));
        let which = digits.below(running.len().max(1) as u64) as usize;
        match what {
            0..4 => running.extend(both.arrives(&mut digits)),
            4 => both.tick(),
            _ if running.is_empty() => {}
            5..9 => both.begins(&mut running[which], &mut digits),
            9 => both.answered(&mut running[which], &mut digits),
            10..13 => both.attempt_over(&mut running[which], &mut digits),
            13 => both.response(&mut running[which], &mut digits),
            _ => {
                let mut request = running.swap_remove(which);
                while !request.attempts.is_empty() {
                    both.attempt_over(&mut request, &mut digits);
                }
                both.request_ends(request, &mut digits);
            }
        }
    }
    for mut request in running {
        let mut digits = Digits(0);
        while !request.attempts.is_empty() {
            both.attempt_over(&mut request, &mut digits);
        }
        both.request_ends(request, &mut digits);
    }
    both.finish()
}

/// A thread is a worker: each script has a module of its own, which knows nothing.
#[test]
fn adapter_and_simulator_decide_the_same() {
    let happened = RefCell::new(BTreeSet::new());
    for_all(2_000, 120, |numbers| {
        let script = numbers.to_vec();
        let Ok(counted) = std::thread::spawn(move || play(&script)).join() else { panic!("they differ") };
        happened.borrow_mut().extend(counted);
    });
    let missing: Vec<_> = HAPPENS.iter().filter(|name| !happened.borrow().contains(*name)).collect();
    assert!(missing.is_empty(), "no script comes to {missing:?}");
}
