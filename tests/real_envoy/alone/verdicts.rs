//! What the access log says that Weir did: `%FILTER_STATE(wasm.weir.verdict:PLAIN)%`. (What an empty budget and an open circuit
//! leave there, the tests of these show.)

use anyhow::ensure;
use serde_json::json;

use super::Test;
use crate::stage::Setup;
use crate::support::bootstrap::Attach;
use crate::support::client::Request;
use crate::support::upstream::{Step, answer, http1};

pub const TESTS: &[Test] = &[("verdicts::guard", || guard(Attach::GUARD)), ("verdicts::unguarded", unguarded)];

/// Path and method; what the upstream does; details and verdict in the log, with and without `guard`.
type Row = (&'static str, &'static str, [&'static str; 2], [&'static str; 2]);
const RESET: &str = "upstream_reset_before_response_started{connection_termination}";
const ROWS: [Row; 5] = [
    ("GET", "busy", ["via_upstream", "pushback"], ["via_upstream", "-"]),
    ("POST", "busy", ["via_upstream", "pushback"], ["via_upstream", "-"]),
    ("POST", "reset", ["weir_unsafe_retry", "unsafe_retry"], [RESET, "-"]),
    ("GET", "ok", ["via_upstream", "-"], ["via_upstream", "-"]),
    ("POST", "503", ["via_upstream", "-"], ["via_upstream", "-"]),
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
