//! A log that is flooded hides what matters: so many lines in a second, and then how many were left out.

use super::Worker;
use std::time::Duration;

/// As `src/filter/telemetry.rs` has it.
const LINES: usize = 20;

/// A hundred hosts of a cluster, which all answered for a while, are refused within one second.
#[test]
fn ejections_of_many_hosts_do_not_flood_the_log() {
    let policy = r#"{"outlierDetection": {"baseEjectionTime": "1m", "maxEjectionTime": "1m"}, "circuitBreaker": null}"#;
    let worker = Worker::new(policy);
    let host = |number: u32| format!("10.0.0.{number}:80");
    for _ in 0..40 {
        for number in 0..200 {
            worker.go("flood", "/", &host(number), true);
        }
        worker.host.advance(Duration::from_millis(100));
        worker.tick();
    }
    let told = |worker: &Worker| worker.host.take_logs().into_iter().map(|line| line.text).collect::<Vec<_>>();
    told(&worker);
    // The start of a second, so that all fall into one.
    let now = worker.host.now();
    worker.host.set_time(now - now % 1_000_000_000 + 1_000_000_000);
    for number in 0..100 {
        worker.go("flood", "/", &host(number), false);
    }
    let ejected = worker.host.metric("weir_ejections_total.reason.refused.cluster.flood");
    assert!(ejected > 50, "{ejected} were ejected");
    let lines = told(&worker);
    assert_eq!(lines.len(), LINES, "{lines:#?}");
    assert!(lines.iter().all(|line| line.contains("ejected for")), "{lines:#?}");
    // The counters have all of them, and the log says how many it has not.
    worker.host.advance(Duration::from_secs(1));
    worker.tick();
    let lines = told(&worker);
    let left_out = lines
        .iter()
        .find_map(|line| line.strip_prefix("weir: ")?.strip_suffix(" more lines in one second were left out"));
    let left_out: u64 = left_out.and_then(|count| count.parse().ok()).unwrap_or_default();
    assert!(left_out >= ejected - LINES as u64, "{ejected} were ejected: {lines:#?}");
    // Once is enough.
    worker.host.advance(Duration::from_secs(1));
    worker.tick();
    assert!(told(&worker).iter().all(|line| !line.contains("left out")));
    // And what comes later is told again.
    worker.go("flood", "/", &host(150), false);
    let lines = told(&worker);
    assert!(lines.iter().any(|line| line.contains("host 10.0.0.150:80 ejected")), "{lines:#?}");
}
