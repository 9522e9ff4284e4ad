//! The circuit breaker, from the attempts that open it to the probe that closes it.

use super::fake_host::{End, Fault, HostCall, Map, Stream, flag::*, status};
use super::{Attached, Level, attempts, of, requests};
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const CONFIG: &str = r#"{"circuitBreaker": {"minRequests": 20, "interval": "2s", "openTime": "1500ms"}}"#;
const RESET: &str = "upstream_reset_before_response_started{connection_termination}";

/// An Envoy with one cluster.
struct Site {
    at: Attached,
    cluster: &'static str,
}

impl Site {
    fn new(level: Level, cluster: &'static str) -> Self {
        Self::with(level, cluster, CONFIG)
    }

    fn with(level: Level, cluster: &'static str, config: &str) -> Self {
        let at = Attached::with(level, config);
        at.host.clear_shared();
        Self { at, cluster }
    }

    fn begin(&self, method: &str) -> Stream {
        self.at.host.request(self.at.decide).cluster(self.cluster).method(method).begin()
    }

    fn metric(&self, name: &str) -> u64 {
        self.at.host.metric(&format!("weir_{name}.cluster.{}", self.cluster))
    }

    /// Lets the request end with a reset of its only attempt.
    fn reset(&self, request: Stream) {
        self.at.attempt_log(&End::of_attempt(&request, 1).flags(UC));
        request.set("response.flags", UC).set("response.code_details", RESET).set("response.code", 503);
        request.response(503, []);
        request.end_with(&End::new().flags(UC).code(503).details(RESET));
    }

    fn answer(&self, request: Stream, code: u32) {
        request.set("response.code_details", "via_upstream").set("response.code", u64::from(code));
        request.response(code, []);
        self.at.attempt_log(&End::of_attempt(&request, 1).code(code));
        request.end_with(&End::new().code(code).details("via_upstream"));
    }

    fn pass(&self, millis: u64) {
        for _ in 0..millis / 100 {
            self.at.host.advance(Duration::from_millis(100));
            self.at.tick();
        }
        self.at.host.advance(Duration::from_millis(millis % 100));
    }

    /// Everything is reset, until the circuit is open.
    fn open(&self) {
        let either = |name: &str| self.metric(name) + self.metric(&format!("shadow_{name}"));
        let before = either("circuit_opened_total");
        for _ in 0..40 {
            (0..20).map(|_| self.begin("GET")).filter(Stream::continued).for_each(|request| self.reset(request));
            self.pass(100);
            if either("circuit_opened_total") > before {
                assert_eq!(either("circuit_open"), 1);
                return;
            }
        }
        panic!("not open after four seconds: {:?}", self.at.host.take_logs());
    }

    /// Waits for the next probe.
    fn probe(&self) -> Stream {
        let before = self.metric("circuit_probes_total");
        for _ in 0..20 {
            let request = self.begin("GET");
            if request.continued() {
                assert_eq!(self.metric("circuit_probes_total"), before + 1);
                return request;
            }
            request.end();
            self.pass(100);
        }
        panic!("no probe");
    }

    fn is_open(&self) -> bool {
        self.pass(100);
        let probes = self.metric("circuit_probes_total");
        let request = self.begin("GET");
        // A probe of it says nothing, and gives its slot back.
        let open = !request.continued() || self.metric("circuit_probes_total") > probes;
        request.end();
        assert_eq!(self.metric("circuit_open"), u64::from(open));
        open
    }
}

#[test]
fn what_is_shed_is_answered_at_once() {
    for (level, cluster) in
        [(Level::Decide, "shed, decide"), (Level::Watch, "shed, watch"), (Level::Guard, "shed, guard")]
    {
        let site = Site::new(level, cluster);
        site.open();
        let (sent, shed) = (requests(&site.at.host, cluster), site.metric("shed_total"));
        let before = attempts(&site.at.host, cluster);
        let budget = site.at.host.shared(&format!("weir/budget/{cluster}"));
        for method in ["GET", "POST"] {
            let request = site.begin(method);
            assert!(!request.continued());
            let reply = request.local_reply().unwrap();
            assert_eq!((reply.status, reply.grpc_status), (503, 14));
            assert_eq!(reply.details, "weir_circuit_open");
            assert_eq!(reply.body, "weir: not sent: the cluster's circuit is open");
            let headers = [("x-envoy-ratelimited", "true"), ("retry-after", "2")];
            assert_eq!(reply.headers, headers.into_iter().collect());
            assert_eq!(request.property("weir.verdict").as_deref(), Some(&b"circuit_open"[..]));
            assert!(request.edits().iter().all(|edit| edit.map != Map::Request), "{:?}", request.edits());
            // Envoy shows the reply to the filter that sent it.
            request.response(503, [("x-envoy-ratelimited", "true"), ("retry-after", "2")]);
            assert!(request.edits().is_empty(), "{:?}", request.edits());
            request.end_with(&End::new().code(503).details("weir_circuit_open"));
        }
        // Counted as requests and as shed, not as attempts; and the retry budget does not hear of them.
        let now = requests(&site.at.host, cluster);
        assert_eq!((now["idempotent"], now["unsafe"]), (sent["idempotent"] + 1, 1));
        assert_eq!(site.metric("shed_total"), shed + 2);
        site.at.tick();
        assert_eq!(attempts(&site.at.host, cluster), before);
        assert_eq!(site.at.host.shared(&format!("weir/budget/{cluster}")), budget);
    }
}

/// Whichever worker's probe finds the cluster back, the others send requests again at once, not on their next tick.
#[test]
fn what_another_worker_found_out_is_known_within_milliseconds() {
    let site = Site::new(Level::Decide, "found out elsewhere");
    site.open();
    let probe = site.probe();
    let shed = site.begin("GET");
    assert!(!shed.continued());
    shed.end();
    // Without a record, it is closed.
    site.at.host.clear_shared();
    let shed = site.begin("GET");
    assert!(!shed.continued(), "the record is not read for each request");
    shed.end();
    site.at.host.advance(Duration::from_millis(6));
    let sent = site.begin("GET");
    assert!(sent.continued(), "shed, though the circuit is closed");
    assert_eq!(site.metric("circuit_probes_total"), 1, "it is no probe");
    site.answer(sent, 200);
    site.answer(probe, 200);
}

#[test]
fn grpc_is_told_in_its_own_words() {
    let site = Site::new(Level::Decide, "shed, gRPC");
    site.open();
    let request = site.at.host.request(site.at.decide).cluster(site.cluster);
    let request = request.method("POST").header("content-type", "application/grpc+proto").begin();
    let reply = request.local_reply().unwrap();
    let headers = [("x-envoy-ratelimited", "true"), ("grpc-retry-pushback-ms", "-1")];
    assert_eq!((reply.grpc_status, reply.headers), (14, headers.into_iter().collect()));
    assert_eq!(requests(&site.at.host, site.cluster)["grpc"], 1);
}

#[test]
fn one_probe_goes_and_its_answer_closes() {
    for (level, cluster) in
        [(Level::Decide, "probed, decide"), (Level::Watch, "probed, watch"), (Level::Guard, "probed, guard")]
    {
        for (code, what) in [(200, "answer"), (503, "error"), (404, "answer")] {
            let site = Site::new(level, cluster);
            site.open();
            let probe = site.probe();
            assert_eq!(probe.request_header("x-envoy-max-retries").as_deref(), Some("2"), "a request like any other");
            assert!(!site.begin("GET").continued(), "one is enough");
            // It is reset, too.
            site.reset(probe);
            assert!(site.is_open());
            let probe = site.probe();
            site.answer(probe, code);
            assert!(!site.is_open(), "{cluster}: an {what} is no failure");
            assert!(site.begin("POST").continued());
            let logs: Vec<_> =
                site.at.host.take_logs().into_iter().filter(|line| line.text.contains("circuit")).collect();
            assert_eq!(logs.len(), 2, "{logs:?}");
            assert_eq!(logs[0].level, 3, "{logs:?}");
            assert!(logs[0].text.contains(&format!("cluster {cluster}: circuit open: ")), "{logs:?}");
            assert!(logs[1].text.contains("3 probes, one was processed") && logs[1].level == 2, "{logs:?}");
        }
    }
}

/// Headers decide, so that a response that takes long, or never ends, keeps nobody waiting.
#[test]
fn response_headers_are_enough() {
    let site = Site::new(Level::Guard, "probe headers");
    site.open();
    let probe = site.probe();
    probe.set("response.code_details", "via_upstream").set("response.code", 200);
    probe.response(200, []);
    assert!(!site.is_open());
    probe.end_with(&End::new().code(200).details("via_upstream"));
}

#[test]
fn a_probe_without_a_verdict_gives_its_slot_back() {
    let site = Site::new(Level::Guard, "probe, client left");
    site.open();
    let probe = site.probe();
    assert!(!site.begin("GET").continued());
    probe.end_with(&End::new().flags(DC).details("downstream_remote_disconnect"));
    let next = site.begin("GET");
    assert!(next.continued(), "the slot is free");
    // One that Envoy's own limits stopped says nothing either; one for which there is no host waits.
    let overflow = "upstream_reset_before_response_started{overflow}";
    next.end_with(&End::new().flags(UO).code(503).details(overflow));
    let next = site.begin("GET");
    assert!(next.continued(), "the slot is free");
    next.end_with(&End::new().flags(UH).code(503).details("no_healthy_upstream"));
    assert!(!site.begin("GET").continued());
}

#[test]
fn a_sidecar_that_states_the_cause_is_heard() {
    let site = Site::new(Level::Decide, "probe, sidecar");
    site.open();
    let probe = site.probe();
    probe.set("response.code_details", "via_upstream").set("response.code", 503);
    probe.response(503, [("proxy-status", "sidecar; error=connection_refused")]);
    probe.end_with(&End::new().code(503).details("via_upstream"));
    assert!(site.is_open());
}

/// What began before the circuit closed may end long after, and is not held against what answers now.
#[test]
fn what_began_before_does_not_open_it_again() {
    for (level, cluster) in [(Level::Decide, "began before, decide"), (Level::Guard, "began before, guard")] {
        let site = Site::with(
            level,
            cluster,
            r#"{"outlierDetection": null, "circuitBreaker": {"minRequests": 20, "interval": "2s", "openTime": "1500ms"}}"#,
        );
        let old: Vec<_> = (0..200).map(|_| site.begin("GET")).collect();
        site.open();
        site.answer(site.probe(), 200);
        assert!(!site.is_open());
        let late = |request: Stream, took: u64| {
            let took = Duration::from_millis(took);
            site.at.attempt_log(&End::of_attempt(&request, 1).flags(UT).duration(took));
            request.end_with(&End::new().flags(UT).code(504).details("response_timeout").duration(took));
        };
        old.into_iter().for_each(|request| late(request, 5_000));
        site.pass(1_000);
        assert!(!site.is_open(), "{cluster}");
        (0..100).map(|_| site.begin("GET")).for_each(|request| late(request, 10));
        site.pass(600);
        assert!(site.is_open(), "{cluster}: these began after it closed");
    }
}

#[test]
fn shadow_mode_counts_what_it_would_shed() {
    let config = CONFIG.replacen('{', r#"{"mode": "shadow", "#, 1);
    let site = Site::with(Level::Guard, "shadow circuit", &config);
    site.open();
    let (before, sent) = (site.metric("shadow_shed_total"), requests(&site.at.host, site.cluster)["idempotent"]);
    for _ in 0..10 {
        let request = site.begin("GET");
        assert!(request.continued() && request.edits().is_empty());
        assert_eq!(request.property("weir.verdict"), None);
        site.reset(request);
    }
    assert_eq!((site.metric("shadow_shed_total"), site.metric("shed_total")), (before + 10, 0));
    assert_eq!(requests(&site.at.host, site.cluster)["idempotent"], sent + 10);
    let keys = site.at.host.shared_keys();
    assert!(keys.iter().any(|key| key == "weir/shadow-circuit/shadow circuit"), "{keys:?}");
    assert!(!keys.iter().any(|key| key == "weir/circuit/shadow circuit"), "{keys:?}");
    site.pass(100);
    assert_eq!((site.metric("shadow_circuit_opened_total"), site.metric("circuit_opened_total")), (1, 0));
    assert_eq!((site.metric("shadow_circuit_open"), site.metric("circuit_open")), (1, 0));
    // The probe is one of them.
    site.pass(1_500);
    site.answer(site.begin("GET"), 200);
    site.pass(100);
    assert_eq!(site.metric("shadow_circuit_open"), 0);
}

#[test]
fn switched_off_it_sheds_nothing_and_a_fresh_vm_knows() {
    let mut site = Site::new(Level::Guard, "circuit off");
    site.open();
    let probe = site.probe();
    let record = site.at.host.shared("weir/circuit/circuit off").unwrap().0;
    probe.end();
    site.at.decide = site.at.host.start(r#"{"circuitBreaker": null}"#);
    let request = site.begin("GET");
    assert!(request.continued());
    request.end();
    site.pass(100);
    assert_eq!(site.metric("circuit_open"), 0);
    // Only that cluster.
    let config = CONFIG.replacen('{', r#"{"clusters": [{"match": "circuit off", "circuitBreaker": null}], "#, 1);
    site.at.decide = site.at.host.start(&config);
    assert!(site.begin("GET").continued());
    // Another cluster of the same record: what a VM sees that was loaded a moment ago.
    let other = Site { cluster: "circuit on", ..site };
    other.at.host.set_shared("weir/circuit/circuit on", &record);
    assert!(!other.begin("GET").continued(), "the first request already");
    assert_eq!(other.metric("shed_total"), 1);
    for strange in [&b"wrc\x02"[..], &record[..record.len() - 1], b"", b"\xff\xff\xff\xff\xff"] {
        other.at.host.set_shared("weir/circuit/circuit on", strange);
        other.pass(200);
        assert!(other.begin("GET").continued(), "{strange:?}");
    }
}

#[test]
fn when_the_host_refuses_requests_go_on() {
    let site = Site::new(Level::Guard, "circuit, no reply");
    site.open();
    let shed = site.metric("shed_total");
    site.at
        .host
        .fault(|call| (call.call == HostCall::SendLocalResponse).then_some(Fault::Status(status::INTERNAL_FAILURE)));
    let request = site.begin("GET");
    assert!(request.continued());
    assert_eq!(request.property("weir.verdict"), None);
    assert_eq!(site.metric("shed_total"), shed);
    site.at.host.no_faults();
    assert!(site.is_open());
}

/// What requests cost: nothing while the circuit is closed, and no look at the record for each while it is open.
#[test]
#[cfg_attr(
    target_arch = "wasm32",
    ignore = "its ticks read the circuits of all clusters, and in Node all tests share one VM"
)]
fn it_costs_next_to_nothing() {
    let calls = |site: &Site, run: &dyn Fn()| {
        let before = site.at.host.calls();
        run();
        let since = site.at.host.calls();
        move |call: HostCall| {
            since.get(&call).copied().unwrap_or_default() - before.get(&call).copied().unwrap_or_default()
        }
    };
    let total = |site: &Site| {
        (0..50).for_each(|_| site.answer(site.begin("GET"), 200));
        site.pass(100);
        let count = calls(site, &|| (0..100).for_each(|_| site.answer(site.begin("GET"), 200)));
        HostCall::ALL.into_iter().map(count).sum::<u64>()
    };
    for (level, on, off) in [
        (Level::Decide, "circuit cost, decide", "circuit cost, decide, off"),
        (Level::Guard, "circuit cost, guard", "circuit cost, guard, off"),
    ] {
        let with = total(&Site::new(level, on));
        let without = total(&Site::with(level, off, r#"{"circuitBreaker": null}"#));
        assert_eq!(with, without, "{level:?}, for 100 requests");
    }
    let site = Site::new(Level::Guard, "circuit cost, open");
    site.open();
    let count = calls(&site, &|| {
        for _ in 0..100 {
            let request = site.begin("GET");
            assert!(!request.continued());
            request.end_with(&End::new().code(503).details("weir_circuit_open"));
        }
    });
    assert_eq!((count(HostCall::GetSharedData), count(HostCall::SetSharedData)), (0, 0));
    assert_eq!(count(HostCall::SendLocalResponse), 100);
    let values = [HostCall::GetProperty, HostCall::GetHeader, HostCall::GetHeaderPairs].map(&count);
    assert!(values.iter().sum::<u64>() <= 300, "{values:?}");
    let count = calls(&site, &|| site.pass(1_000));
    assert!(count(HostCall::GetSharedData) <= 20, "{}", count(HostCall::GetSharedData));
}

/// A cluster that `decide` does not see has no circuit: it could shed nothing.
#[test]
fn watch_alone_opens_nothing() {
    let site = Site::new(Level::Watch, "watched only");
    for _ in 0..30 {
        (0..20).for_each(|_| site.at.attempt_log(&End::new().cluster(site.cluster).flags(UC)));
        site.pass(100);
    }
    assert_eq!(attempts(&site.at.host, site.cluster), of([("reset", 600)]));
    assert_eq!(site.metric("circuit_opened_total"), 0);
    assert_eq!(site.at.host.shared("weir/circuit/watched only"), None);
}

#[test]
fn the_gauge_does_not_outlive_the_circuit_breaker() {
    for (cluster, mode) in [("broken no more", ""), ("broken no more in shadow", r#""mode": "shadow", "#)] {
        let config = |circuit: &str| format!(r#"{{{mode}"circuitBreaker": {circuit}}}"#);
        let site = Site::with(Level::Guard, cluster, &config(r#"{"minRequests": 20, "interval": "2s"}"#));
        site.open();
        site.at.host.start(&config("null"));
        site.at.tick();
        assert_eq!((site.metric("circuit_open"), site.metric("shadow_circuit_open")), (0, 0), "{cluster}");
    }
}
