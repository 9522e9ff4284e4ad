//! Clients that leave, and clients that ask for what is not theirs to ask for.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Site, generous};
use crate::alone::Test;
use crate::support::client::{Connection, Request, exchange};
use crate::support::upstream::{Step, answer, http1};

pub const TESTS: &[Test] = &[
    ("hostile::clients_that_cancel_everything", cancel_everything),
    ("hostile::clients_that_spoof_headers", spoof),
    ("hostile::values_that_break_lines", values),
];

/// How many requests are cancelled.
const CANCELLED: usize = 300;

/// Before its answer, in the middle of it, during a retry: each request is left by its client. Nothing stays behind.
fn cancel_everything() -> Result<()> {
    let upstream = http1(|request| match request.number % 3 {
        0 => vec![Step::Hang],
        1 => vec![Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec()), Step::Hang],
        _ => vec![Step::Wait(Duration::from_millis(5)), Step::Rst],
    });
    let site = Site::start(&upstream, &generous(), &Value::Null, &Value::Null)?;
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let address = site.address;
            scope.spawn(move || {
                for number in 0..CANCELLED / 6 {
                    let Ok(mut connection) = Connection::open(address) else { return };
                    let request = if number % 2 == 0 { Request::get("/") } else { Request::post("/") };
                    drop(connection.send(&request));
                    // Some at once, some after a while.
                    std::thread::sleep(Duration::from_millis((thread * 7 + number as u64 * 3) % 20));
                }
            });
        }
    });
    // A client that is gone before Envoy has read its request never was.
    wait_for_requests(&site)
}

/// Of cancelled requests, retries that never left their back-off are Envoy's to count: only what must hold is looked at.
fn wait_for_requests(site: &Site) -> Result<()> {
    crate::support::wait::until(crate::support::wait::LIMIT, || {
        let stats = site.envoy.admin.stats("(_active|downstream_rq_total)$").map_err(|error| error.to_string())?;
        let stat = |name: &str| stats.get(name).copied().unwrap_or_default();
        let active: Vec<_> = stats
            .iter()
            .filter(|(name, count)| {
                **count > 0
                    && name.ends_with("_active")
                    && (name.starts_with("cluster.upstream.upstream_rq") || name.starts_with("http.hostile.downstream"))
            })
            .collect();
        if !active.is_empty() {
            return Err(format!("{active:?}"));
        }
        let tally = crate::check::Tally::read(site.envoy.admin, "upstream")?;
        let requests = stat("http.hostile.downstream_rq_total") as usize;
        if tally.requests != requests || requests < CANCELLED / 2 {
            return Err(format!("{requests} requests, {} counted", tally.requests));
        }
        Ok(())
    })
    .map_err(anyhow::Error::msg)
}

/// Whatever a client says in our names or in Envoy's, a POST that was reset is sent once, and no upstream sees ours.
fn spoof() -> Result<()> {
    let upstream = http1(|_| vec![Step::Rst]);
    let policy = json!({"role": "decide", "outlierDetection": null, "circuitBreaker": null});
    // This client is trusted by Envoy: its x-envoy-* headers reach Weir.
    let manager = json!({
        "use_remote_address": true,
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]},
    });
    let site = Site::start(&upstream, &policy, &manager, &Value::Null)?;
    let mut request = Request::post("/");
    for (name, value) in [
        ("x-weir-hosts", "10.0.0.1:80,10.0.0.2:80"),
        ("x-envoy-retry-on", "5xx,reset,connect-failure,refused-stream,retriable-status-codes"),
        ("x-envoy-retry-grpc-on", "unavailable,internal"),
        ("x-envoy-max-retries", "10"),
        ("x-envoy-retriable-status-codes", "500,503"),
        ("x-envoy-hedge-on-per-try-timeout", "true"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
        ("x-envoy-attempt-count", "0"),
        ("x-envoy-overloaded", "true"),
        ("x-envoy-ratelimited", "true"),
        ("x-weir-verdict", "granted"),
        ("weir_request", "1"),
    ] {
        request = request.header(name, value);
    }
    for round in 1..=20 {
        let response = exchange(site.address, &request)?;
        // Its own per-try timeout is a trusted client's to set.
        ensure!(matches!(response.status, 503 | 504), "{response:?}");
        ensure!(upstream.count() <= round, "a POST was sent {} times", upstream.count());
    }
    for seen in upstream.seen() {
        for name in ["x-weir-hosts", "x-envoy-retry-on", "x-envoy-max-retries", "x-envoy-retry-grpc-on"] {
            ensure!(seen.header(name).is_none(), "the upstream saw {name}: {seen:?}");
        }
    }
    let tally = site.settled()?;
    ensure!(tally.requests == 20 && tally.retries.is_empty(), "{tally:?}");
    Ok(())
}

/// Values made to break lines of the log, and names of metrics, or the module.
fn values() -> Result<()> {
    let nasty: Vec<String> = [
        "a\tb: weir: cluster forged",
        "[critical] forged",
        "%s%n{}",
        "\u{fc}\u{1f4a9}",
        "\"}} 1 forged 2",
        "../../../forged",
        ";error=connection_refused,forged",
        "99999999999999999999999999999999",
        "-1",
        "",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain(["x".repeat(20_000)])
    .collect();
    let answers = nasty.clone();
    let upstream = http1(move |request| {
        let value = answers[request.number % answers.len()].as_str();
        let headers = ["retry-after", "proxy-status", "grpc-status", "x-envoy-overloaded", "content-type"];
        answer(503, &headers.map(|name| (name, value)), "")
    });
    let site = Site::start(&upstream, &generous(), &Value::Null, &Value::Null)?;
    for value in &nasty {
        let mut request = Request::get("/");
        for name in [
            "idempotency-key",
            "content-type",
            "x-request-id",
            "x-envoy-attempt-count",
            "x-weir-hosts",
            "grpc-timeout",
            "te",
        ] {
            request = request.header(name, value);
        }
        let response = exchange(site.address, &request)?;
        // Some are refused by Envoy itself: 400, 431.
        ensure!(matches!(response.status, 503 | 200 | 400 | 431), "{response:?}");
    }
    let log = site.envoy.log();
    let ours: Vec<&str> = log.lines().filter(|line| line.contains("weir")).collect();
    ensure!(ours.iter().all(|line| !line.contains("forged")), "{ours:#?}");
    let stats = site.envoy.admin.get("/stats")?;
    ensure!(!stats.contains("forged"), "a metric was forged");
    Ok(())
}
