//! `weir replay` on logs that a real Envoy wrote, as envoy/access-log.yaml has it, in front of replicas that crash-loop.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::crash_loops::load::{self, Failure, Outcome, Progress};
use super::crash_loops::replicas::{Ledger, Replica};
use super::crash_loops::schedule::{Crash, Outage, Timeline};
use super::support::bootstrap::{self, Attach, Listener};
use super::support::client::Request;
use super::support::client_h2;
use super::support::envoy::{Envoy, Launch};
use super::support::upstream::{Reply, http2};
use super::support::{ports, runtime, wait};
use super::{Run, weir};

const RATE: u64 = 150;
const SECONDS: u64 = 10;

/// One host that never crashes, and two that do.
fn timelines() -> Vec<Timeline> {
    let crash = |at: u64| Crash {
        resets_from: Duration::from_millis(at),
        refuses_from: Duration::from_millis(at + 500),
        back_at: Duration::from_millis(at + 2_500),
    };
    let crashes = |at: &[u64]| Timeline { crashes: at.iter().map(|at| crash(*at)).collect() };
    vec![crashes(&[]), crashes(&[1_000, 6_500]), crashes(&[3_750])]
}

/// What came of an incident.
struct Incident {
    outcomes: Vec<Outcome>,
    addresses: Vec<SocketAddr>,
    replicas: Vec<Arc<Replica>>,
    ledger: Arc<Ledger>,
    requests: String,
    attempts: String,
}

/// The shipped access logs, below a directory.
fn logs(part: &str, directory: &Path) -> Value {
    let text = include_str!("../../envoy/access-log.yaml");
    let shipped: Value = serde_yaml_ng::from_str(text).expect("it is YAML");
    let mut log = shipped[part].clone();
    let path = log[0]["typed_config"]["path"].as_str().expect("a path").replace("/var/log/envoy", "");
    log[0]["typed_config"]["path"] = json!(format!("{}{path}", directory.display()));
    log
}

/// An Envoy that writes the shipped logs.
fn logging_envoy(directory: &Path, listener: SocketAddr, retry_policy: &Value, cluster: &Value) -> Envoy {
    let mut route = bootstrap::route("/", "orders");
    bootstrap::merge(&mut route, &json!({"route": {"retry_policy": retry_policy}}));
    let mut listener = bootstrap::listener(Listener {
        name: "ingress",
        port: listener.port(),
        attach: Attach::NOWHERE,
        policy: &Value::Null,
        routes: vec![route],
        logs: None,
        manager: json!({"access_log": logs("access_log", directory)}),
    });
    let router = "/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config/upstream_log";
    *listener.pointer_mut(router).expect("the router") = logs("upstream_log", directory);
    let bootstrap = bootstrap::bootstrap(&[listener], std::slice::from_ref(cluster));
    Launch::json(bootstrap).concurrency(2).start().expect("Envoy starts")
}

fn incident(retry_policy: &Value) -> Incident {
    let directory = tempfile::tempdir().expect("a directory");
    let listener = ports::free();
    let timelines = timelines();
    let addresses: Vec<SocketAddr> = timelines.iter().map(|_| ports::free()).collect();
    let envoy = logging_envoy(directory.path(), listener, retry_policy, &bootstrap::cluster("orders", &addresses));

    let ledger = Arc::new(Ledger::default());
    let replicas: Vec<_> = addresses
        .iter()
        .zip(&timelines)
        .zip(1..)
        .map(|((address, timeline), seed)| {
            Replica::new(*address, timeline.clone(), Outage::Refuses, seed, Arc::clone(&ledger))
        })
        .collect();
    let outcomes = runtime().block_on(async {
        let start = Instant::now() + Duration::from_millis(200);
        let mut running = tokio::task::JoinSet::new();
        for replica in &replicas {
            running.spawn(Arc::clone(replica).run(start));
        }
        for address in &addresses {
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        load::run(listener, start, RATE, RATE * SECONDS, 1, &Arc::new(Progress::default())).await
    });
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    // Envoy writes each of the two on its own: one may be whole before the other is.
    let written = wait::until(wait::LIMIT, || {
        let (requests, attempts) = (read("requests.json"), read("attempts.json"));
        let lines = (requests.lines().count(), attempts.lines().count());
        let whole = requests.ends_with('\n') && attempts.ends_with('\n');
        if whole && lines.0 >= outcomes.len() && lines.1 >= attempts_told(&requests) {
            Ok((requests, attempts))
        } else {
            Err(format!("the logs have {lines:?} lines, for {} requests and their attempts", outcomes.len()))
        }
    });
    let (requests, attempts) = written.expect("Envoy writes its log");
    drop(envoy);
    Incident { outcomes, addresses, replicas, ledger, requests, attempts }
}

/// How many attempts the log of requests tells of.
fn attempts_told(requests: &str) -> usize {
    let told = |line| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        number(&line["upstream_request_attempt_count"])
    };
    requests.lines().map(told).sum::<u64>() as usize
}

impl Incident {
    fn failures(&self) -> u64 {
        self.outcomes.iter().filter(|outcome| outcome.result.is_err()).count() as u64
    }

    /// What the program says of these logs.
    fn replay(&self, logs: &[(&str, &str)], arguments: &[&str]) -> Run {
        let directory = tempfile::tempdir().expect("a directory");
        let files: Vec<String> = logs
            .iter()
            .map(|(name, text)| {
                let path = directory.path().join(name);
                std::fs::write(&path, text).expect("the log is written");
                path.display().to_string()
            })
            .collect();
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let run = weir(&[&["replay"], arguments, &files].concat(), b"");
        assert_eq!(run.status, 0, "{}", run.err);
        run
    }

    fn report(&self, logs: &[(&str, &str)]) -> Value {
        let report: Value = serde_json::from_str(&self.replay(logs, &["--json"]).out).expect("JSON");
        let cluster = report["clusters"][0].clone();
        assert_eq!(cluster["cluster"], "orders", "{report:#}");
        assert_eq!(report["lines"]["notUsed"], json!([]), "{report:#}");
        cluster
    }

    fn both(&self) -> [(&str, &str); 2] {
        // In this order, since the program has to sort them itself.
        [("attempts.json", &self.attempts), ("requests.json", &self.requests)]
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

#[test]
fn with_envoy_an_incident_without_retries_is_told_as_the_replicas_know_it() {
    let incident = incident(&Value::Null);
    assert!(incident.failures() > 0, "there was an incident");
    let cluster = incident.report(&incident.both());
    assert_eq!(number(&cluster["requests"]), RATE * SECONDS, "{cluster:#}");
    assert_eq!(number(&cluster["attempts"]), RATE * SECONDS, "one for each: nothing was retried");
    assert_eq!(number(&cluster["failures"]["seenByClients"]), incident.failures(), "{cluster:#}");
    assert_eq!(number(&cluster["retries"]["granted"]), 0);
    let mut refused = 0;
    for (address, replica) in incident.addresses.iter().zip(&incident.replicas) {
        let signals = &cluster["hosts"][address.to_string()]["signals"];
        let (arrived, reset) =
            (replica.counts.requests.load(Ordering::Relaxed), replica.counts.resets.load(Ordering::Relaxed));
        assert_eq!(number(&signals["answered"]), arrived - reset, "{address}: {signals:#}");
        // What was still on its way to a replica that died, it never saw.
        assert!(number(&signals["reset"]) >= reset, "{address}: {reset} resets, {signals:#}");
        // A replica that dies between its handshake and Envoy's next look resets what was no connection yet.
        refused += number(&signals["refused"]) + number(&signals["unreachable"]);
    }
    let told = incident.outcomes.iter().filter(|outcome| outcome.result == Err(Failure::Refused)).count() as u64;
    assert_eq!(refused, told, "what clients were told of connections that there were not");
    // Each GET that failed, and each POST that was refused, would have been retried, as far as the budget goes.
    let safe = incident.outcomes.iter().filter(|outcome| match &outcome.result {
        Ok(()) => false,
        Err(Failure::Refused) => true,
        Err(_) => outcome.method == http::Method::GET,
    });
    let failures = &cluster["failures"];
    assert_eq!(
        number(&failures["retriable"]) + number(&failures["deniedByBudget"]),
        safe.count() as u64,
        "{failures:#}"
    );
    assert!(number(&failures["retriableAndSomeHostAnswered"]) > 0, "one replica is always up");
    // Each crash has its ejection; the host that never crashed has none, and was not out.
    let ejections = cluster["ejections"].as_array().expect("a list");
    let of = |host: usize| {
        let name = incident.addresses[host].to_string();
        ejections.iter().filter(|ejection| ejection["host"] == *name).count()
    };
    assert!(of(0) == 0 && of(1) >= 2 && of(2) >= 1, "{ejections:#?}");
    assert_eq!(number(&cluster["hosts"][incident.addresses[0].to_string()]["whileOut"]), 0);
    assert!(number(&cluster["hosts"][incident.addresses[1].to_string()]["whileOut"]) > 0);
    assert_eq!(number(&cluster["circuit"]["opened"]), 0, "one host always answers");

    // Requests alone tell the same here: no retry hid anything.
    let alone = incident.report(&[("requests.json", &incident.requests)]);
    assert_eq!(alone["attemptsSeen"], "last");
    assert_eq!(alone["signals"], cluster["signals"]);
    assert_eq!(alone["failures"]["seenByClients"], cluster["failures"]["seenByClients"]);
}

#[test]
fn with_envoy_retries_that_a_route_made_are_judged() {
    let incident = incident(&json!({"retry_on": "5xx", "num_retries": 2}));
    let cluster = incident.report(&incident.both());
    assert_eq!(number(&cluster["requests"]), RATE * SECONDS);
    let attempts = number(&cluster["attempts"]);
    assert_eq!(attempts, incident.attempts.lines().count() as u64);
    let retries = &cluster["retries"];
    let happened: u64 = ["granted", "denied", "stopped"].iter().map(|name| number(&retries[*name])).sum();
    assert_eq!(happened, attempts - RATE * SECONDS, "each attempt but the first is a retry: {cluster:#}");
    assert_eq!(number(&retries["unclear"]), 0, "the log tells what each followed");
    // POSTs that were reset and sent again, some of which were processed twice.
    let twice = incident.ledger.repeated(&http::Method::POST);
    assert!(number(&retries["stopped"]) >= twice.max(1), "{twice} POSTs were processed twice: {cluster:#}");
    assert!(number(&retries["granted"]) > 0);
    assert_eq!(number(&cluster["failures"]["seenByClients"]), incident.failures());

    // The text, the picture, and the same from gzip and from standard input.
    let plot = tempfile::NamedTempFile::new().expect("a file");
    let run = incident.replay(&incident.both(), &["--plot", &plot.path().display().to_string()]);
    assert!(run.flowing().contains(&format!("{attempts} attempts (by the lines of upstream_log)")), "{}", run.out);
    let picture = std::fs::read_to_string(plot.path()).expect("the picture");
    let picture = roxmltree::Document::parse(&picture).expect("it is well-formed");
    let lane = |host: &SocketAddr| picture.descendants().any(|node| node.text() == Some(&host.to_string()));
    assert!(!lane(&incident.addresses[0]) && lane(&incident.addresses[1]) && lane(&incident.addresses[2]));
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, incident.requests.as_bytes()).expect("packed");
    let packed = packed.finish().expect("packed");
    let plain = weir(&["replay", "--json", "-"], incident.requests.as_bytes());
    let unpacked = weir(&["replay", "--json", "-"], &packed);
    assert_eq!((plain.status, unpacked.status), (0, 0));
    assert_eq!(plain.out, unpacked.out);
}

/// Where a pushback stands, in headers or in trailers, it is read as the module reads it.
#[test]
fn with_envoy_a_pushback_of_grpc_is_logged_and_read() {
    let upstream = http2(|seen| match seen.path.as_str() {
        "/headers" => Reply::grpc_trailers_only(14).header("grpc-retry-pushback-ms", "-1"),
        "/trailers" => Reply::grpc(14).trailer("grpc-retry-pushback-ms", "-1"),
        _ => Reply::grpc(14).trailer("grpc-retry-pushback-ms", "20"),
    });
    let directory = tempfile::tempdir().expect("a directory");
    let listener = ports::free();
    let mut cluster = bootstrap::cluster("orders", &[upstream.address]);
    bootstrap::merge(&mut cluster, &bootstrap::http2());
    let envoy = logging_envoy(directory.path(), listener, &Value::Null, &cluster);
    for path in ["/headers", "/trailers", "/later"] {
        client_h2::exchange(listener, &Request::grpc(path)).expect("an answer");
    }
    for name in ["requests.json", "attempts.json"] {
        let path = directory.path().join(name);
        let log = wait::until(wait::LIMIT, || {
            let log = std::fs::read_to_string(&path).unwrap_or_default();
            if log.lines().count() == 3 && log.ends_with('\n') { Ok(log) } else { Err(format!("{name}: {log}")) }
        });
        let run = weir(&["replay", "--json", "-"], log.expect("Envoy writes its log").as_bytes());
        let report: Value = serde_json::from_str(&run.out).expect("JSON");
        let signals = &report["clusters"][0]["signals"];
        assert_eq!((number(&signals["pushback"]), number(&signals["error"])), (2, 1), "{name}: {signals:#}");
    }
    drop(envoy);
}
