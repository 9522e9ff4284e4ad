//! What the access log says that Weir did: `%FILTER_STATE(wasm.weir.verdict:PLAIN)%`. (What an empty budget and an open circuit
//! leave there, the tests of these show.)

use anyhow::ensure;
use serde_json::json;

use super::Test;
use crate::stage::Setup;
use crate::support::bootstrap::Attach;
use crate::support::client::Request;
use crate::support::upstream::{Step, answer, http1, refuses};

pub const TESTS: &[Test] = &[
    ("verdicts::guard", || guard(Attach::GUARD)),
    ("verdicts::unguarded", unguarded),
    ("verdicts::reasons::decide", || reasons(Attach::DECIDE)),
    ("verdicts::reasons::watch", || reasons(Attach::WATCH)),
    ("verdicts::reasons::guard", || reasons(Attach::GUARD)),
];

/// Path and method; what the upstream does; details and verdict in the log, with and without `guard`.
type Row = (&'static str, &'static str, [&'static str; 2], [&'static str; 2]);
const RESET: &str = "upstream_reset_before_response_started{connection_termination}";
const ROWS: [Row; 5] = [
    ("GET", "busy", ["via_upstream", "pushback"], ["via_upstream", "retries_used_up"]),
    ("POST", "busy", ["via_upstream", "pushback"], ["via_upstream", "retries_used_up"]),
    ("POST", "reset", ["weir_unsafe_retry", "unsafe_retry"], [RESET, "retries_used_up"]),
    ("GET", "ok", ["via_upstream", "-"], ["via_upstream", "-"]),
    ("POST", "503", ["via_upstream", "method"], ["via_upstream", "retries_used_up"]),
];

/// Behind a route that retries whatever fails.
fn guard(attach: Attach) -> anyhow::Result<()> {
    let upstream = http1(|seen| match seen.path.rsplit('/').next().unwrap_or_default() {
        "busy" => answer(503, &[("retry-after", "7")], "busy"),
        "reset" => vec![Step::Rst],
        "503" => answer(503, &[], "sorry"),
        _ => answer(200, &[], ""),
    });
    let route = json!({"route": {"retry_policy": {"retry_on": "5xx,reset", "num_retries": 1}}});
    let policy = json!({"retry": {"maxRetries": 1}, "outlierDetection": null});
    let stage = Setup::new(attach, policy).cluster_with("logged", upstream.address, &json!({}), &route).start()?;
    for (method, wish, guarded, unguarded) in ROWS {
        let expected = if attach.guard { guarded } else { unguarded };
        let path = format!("/logged/{method}/{wish}");
        stage.connect()?.exchange(&Request::new(method, &path))?;
        let logged = stage.requests(&path, 1)?.remove(0);
        ensure!([logged.details.as_str(), &logged.verdict] == expected, "{method} {wish}: {logged:?}");
    }
    Ok(())
}

fn unguarded() -> anyhow::Result<()> {
    guard(Attach::DECIDE)?;
    guard(Attach::WATCH)
}

/// Why each failure was not retried, or not once more: in the log, and as a metric.
fn reasons(attach: Attach) -> anyhow::Result<()> {
    let upstream = http1(|seen| match seen.path.rsplit('/').next().unwrap_or_default() {
        "busy" => answer(503, &[("retry-after", "7")], "busy"),
        "reset" => vec![Step::Rst],
        "hang" => vec![Step::Hang],
        "cut" => vec![Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart".to_vec()), Step::Rst],
        "500" => answer(500, &[], "sorry"),
        "503" => answer(503, &[], "sorry"),
        "404" => answer(404, &[], "nothing"),
        _ => answer(200, &[], ""),
    });
    let down = refuses();
    let policy = json!({
        "retry": {"minRetryRate": {"count": 1000, "interval": "1s"}},
        "outlierDetection": "off",
        "circuitBreaker": "off",
        "clusters": [{"match": "off", "retry": "off"}],
    });
    // A busy machine may take longer for any of the others.
    let timeout = json!({"route": {"timeout": "0.5s"}});
    let stage = Setup::new(attach, policy)
        .cluster("up", upstream.address)
        .cluster_with("late", upstream.address, &json!({}), &timeout)
        .cluster("down", down.address)
        .cluster("off", upstream.address)
        .start()?;
    let busy = if attach.guard { "pushback" } else { "retries_used_up" };
    let big = Request::new("PUT", "").body(vec![b'x'; 3_000_000]);
    let rows = [
        ("up", "ok", Request::get(""), "-"),
        ("up", "404", Request::get(""), "-"),
        ("up", "reset", Request::post(""), "method"),
        ("up", "503", Request::post(""), "method"),
        ("up", "500", Request::get(""), "status"),
        ("up", "busy", Request::get(""), busy),
        ("up", "cut", Request::get(""), "answer_begun"),
        ("late", "hang", Request::get(""), "no_time_left"),
        ("up", "503", Request::get(""), "retries_used_up"),
        ("up", "reset", Request::get("").header("x-envoy-attempt-count", "2"), "already_retried"),
        ("down", "refused", Request::post(""), "retries_used_up"),
        ("up", "reset", big, "body_not_kept"),
        ("off", "reset", Request::get(""), "off"),
    ];
    let mut counts = std::collections::BTreeMap::new();
    for (number, (cluster, wish, request, reason)) in rows.into_iter().enumerate() {
        let path = format!("/{cluster}/{number}/{wish}");
        let request = Request { path: path.clone(), ..request };
        let response = stage.connect().and_then(|mut connection| connection.exchange(&request));
        ensure!(response.is_ok() || wish == "cut", "{path}: {response:?}");
        let logged = stage.requests(&path, 1)?.remove(0);
        ensure!(logged.verdict == reason, "{} {path}: {reason} expected, {logged:?}", request.method);
        if reason != "-" {
            *counts.entry((cluster, reason)).or_insert(0) += 1;
        }
    }
    stage.wait_for("metrics", |stage| {
        for ((cluster, reason), count) in &counts {
            let found = stage.stat(&format!("wasmcustom.weir_not_retried_total.reason.{reason}.cluster.{cluster}"));
            if found != *count {
                return Err(format!("{reason} of {cluster}: {found}, not {count}"));
            }
        }
        Ok(())
    })
}
