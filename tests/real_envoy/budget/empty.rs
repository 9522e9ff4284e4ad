//! What the client, the hop above and the operator get when the budget cannot pay for a retry.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use h2::Reason;
use serde_json::{Value, json};

use super::{attempt, obedient, share};
use crate::alone::Test;
use crate::check::Tally;
use crate::stage::{Logged, Setup, Stage, times};
use crate::support::bootstrap::{self, Attach};
use crate::support::client::{self, Request, Response};
use crate::support::client_h2;
use crate::support::upstream::{Reply, Upstream, http2, refuses};

pub const TESTS: &[Test] = &[
    ("budget::empty_answer", answer),
    ("budget::empty_failure", failure),
    ("budget::empty_failure_in_an_outage", failure_in_an_outage),
    ("budget::empty_grpc", grpc),
    // By a client or a hop that is itself at its second attempt.
    ("budget::empty_unlike_upstream_failure", unlike_upstream_failure),
    ("budget::nothing", nothing),
];

const VERDICT: &str = "retry_budget_exhausted";
const DETAILS: &str = "weir_retry_budget_exhausted";

/// One Envoy, and a cluster whose budget is one retry, which is spent. So `guard` is the one to say no.
struct Spent {
    stage: Stage,
    upstream: Upstream,
}

impl Spent {
    fn start(upstream: Upstream, http2: bool, prime: &Request) -> Result<Self> {
        let mut retry = share(0.0, 1);
        bootstrap::merge(&mut retry, &json!({"grpcStatusCodes": ["unavailable"], "perTryTimeout": "1500ms"}));
        let protocol = if http2 { bootstrap::http2() } else { Value::Null };
        let setup = Setup::new(Attach::GUARD, json!({"retry": retry}));
        let stage = setup.cluster_with("spent", upstream.address, &protocol, &Value::Null).start()?;
        let before = upstream.count();
        exchange(stage.address, prime)?;
        stage.wait_tally("spent", "a granted retry", |tally| tally.retries == ["granted"])?;
        stage.requests(&prime.path, 1)?;
        ensure!(matches!(upstream.count() - before, 0 | 2), "the upstream saw {}", upstream.count() - before);
        Ok(Self { stage, upstream })
    }

    /// Makes a request that fails once. Returns what the client and the access log got.
    fn fail(&self, request: &Request) -> Result<(Response, Logged)> {
        let (seen, denied) = (self.upstream.count(), self.denied()?);
        let logged = self.stage.all_requests(&request.path).len();
        let response = exchange(self.stage.address, request)?;
        let entry = self.stage.requests(&request.path, logged + 1)?.pop().context("an entry")?;
        self.stage.wait_tally("spent", "one more denied", |tally| times(&tally.retries, "denied") == denied + 1)?;
        // Nothing at all, where connections are refused.
        let seen = self.upstream.count() - seen;
        ensure!(seen <= 1, "the upstream saw {seen} attempts");
        Ok((response, entry))
    }

    /// Attempts to connect.
    fn connects(&self) -> u64 {
        self.stage.stat("cluster.spent.upstream_cx_connect_fail")
    }

    fn denied(&self) -> Result<usize> {
        let tally = Tally::read(self.stage.envoy().admin, "spent").map_err(anyhow::Error::msg)?;
        Ok(times(&tally.retries, "denied"))
    }
}

fn exchange(envoy: SocketAddr, request: &Request) -> Result<Response> {
    let grpc = request.headers.iter().any(|(_, value)| value == "application/grpc");
    if grpc { client_h2::exchange(envoy, request) } else { client::exchange(envoy, request) }
}

fn get(path: &str) -> Request {
    Request::get(&format!("/spent/{path}"))
}

/// A response that would have been retried reaches the client as it is, but for the mark.
fn answer() -> Result<()> {
    let spent = Spent::start(obedient(), false, &get("once-503"))?;
    for method in ["GET", "HEAD", "PUT"] {
        let (response, logged) = spent.fail(&Request::new(method, "/spent/503"))?;
        let whole = response.status == 503
            && response.header("x-upstream") == Some("yes")
            && (method == "HEAD" || response.text() == "sorry");
        ensure!(whole, "{method}: not the upstream's: {response:?}");
        ensure!(response.header("x-envoy-ratelimited").is_some(), "{method}: not marked: {response:?}");
        ensure!(response.header("retry-after").is_none(), "{method}: the upstream said no such thing: {response:?}");
        ensure!((logged.code, logged.details.as_str()) == (503, "via_upstream"), "{method}: {logged:?}");
        ensure!(logged.verdict == VERDICT, "{method}: {logged:?}");
    }
    // What is not to be retried anyway has nothing to do with the budget.
    let denied = spent.denied()?;
    for request in [Request::post("/spent/503"), get("ok")] {
        let response = spent.stage.connect()?.exchange(&request)?;
        ensure!(response.header("x-envoy-ratelimited").is_none(), "{} is marked: {response:?}", request.method);
    }
    ensure!(spent.denied()? == denied, "counted as denied");
    Ok(())
}

/// Where there was no response, Weir gives one, and says why.
fn failure() -> Result<()> {
    let check = |(response, logged): (Response, Logged), what: &str| -> Result<()> {
        ensure!(response.status == 503, "{what}: {response:?}");
        let text = response.text();
        let explained = what == "HEAD" || (text.contains("retry budget") && text.lines().count() == 1);
        ensure!(explained, "{what}: {response:?}");
        ensure!(response.header("retry-after") == Some("1"), "{what}: {response:?}");
        ensure!(response.header("x-envoy-ratelimited").is_some(), "{what}: {response:?}");
        ensure!((logged.code, logged.details.as_str()) == (503, DETAILS), "{what}: {logged:?}");
        ensure!(logged.verdict == VERDICT, "{what}: {logged:?}");
        Ok(())
    };
    let spent = Spent::start(obedient(), false, &get("once-reset"))?;
    check(spent.fail(&get("reset"))?, "GET, reset")?;
    check(spent.fail(&Request::new("HEAD", "/spent/reset"))?, "HEAD")?;
    check(spent.fail(&Request::post("/spent/reset").header("idempotency-key", "7"))?, "keyed POST, reset")?;
    check(spent.fail(&get("hang"))?, "GET, timeout")?;
    Ok(())
}

/// While all that is retried fails, a retry that nobody can pay for is not even begun, so that the host sees no attempt to
/// connect. Then it is Envoy that answers; Weir says the rest.
fn failure_in_an_outage() -> Result<()> {
    let upstream = refuses();
    let spent = Spent::start(upstream, false, &get("refused"))?;
    for request in [get("refused"), Request::post("/spent/refused"), Request::new("HEAD", "/spent/refused")] {
        let before = spent.connects();
        let (response, logged) = spent.fail(&request)?;
        let method = request.method;
        ensure!(response.status == 503, "{method}: {response:?}");
        ensure!(response.header("retry-after") == Some("1"), "{method}: {response:?}");
        ensure!(response.header("x-envoy-ratelimited").is_some(), "{method}: {response:?}");
        ensure!(method == "HEAD" || response.text().contains("upstream connect error"), "{method}: {response:?}");
        ensure!(logged.code == 503 && logged.details.contains("connection_failure"), "{method}: {logged:?}");
        ensure!(logged.verdict == VERDICT, "{method}: {logged:?}");
        let connects = spent.connects() - before;
        ensure!(connects == 1, "{method}: {connects} attempts to connect");
    }
    Ok(())
}

/// gRPC knows no `retry-after`; a negative pushback says the same.
fn grpc() -> Result<()> {
    let upstream = http2(|seen| {
        let unavailable = Reply::grpc_trailers_only(14).header("grpc-message", "sorry");
        match seen.path.rsplit('/').next() {
            Some("once-reset") if attempt(seen) > 1 => Reply::grpc_trailers_only(0),
            Some("reset" | "once-reset") => Reply::reset(Reason::INTERNAL_ERROR),
            _ => unavailable,
        }
    });
    let call = |path: &str| Request::grpc(&format!("/spent/{path}")).header("idempotency-key", "7");
    let spent = Spent::start(upstream, true, &call("once-reset"))?;
    let check = |(response, logged): (Response, Logged), what: &str| -> Result<()> {
        ensure!((response.status, response.header("grpc-status")) == (200, Some("14")), "{what}: {response:?}");
        let message = response.header("grpc-message").unwrap_or_default();
        ensure!(message.contains("retry budget"), "{what}: {response:?}");
        ensure!(response.header("grpc-retry-pushback-ms") == Some("-1"), "{what}: {response:?}");
        ensure!(response.header("x-envoy-ratelimited").is_some(), "{what}: {response:?}");
        ensure!(response.header("content-type") == Some("application/grpc"), "{what}: {response:?}");
        ensure!((logged.code, logged.grpc_status.as_str()) == (200, "14"), "{what}: {logged:?}");
        ensure!((logged.details.as_str(), logged.verdict.as_str()) == (DETAILS, VERDICT), "{what}: {logged:?}");
        Ok(())
    };
    check(spent.fail(&call("reset"))?, "reset")?;

    let (response, logged) = spent.fail(&call("unavailable"))?;
    let whole = (response.status, response.header("grpc-status"), response.header("grpc-message"));
    ensure!(whole == (200, Some("14"), Some("sorry")), "not the upstream's: {response:?}");
    ensure!(response.header("x-envoy-ratelimited").is_some(), "not marked: {response:?}");
    ensure!((logged.details.as_str(), logged.verdict.as_str()) == ("via_upstream", VERDICT), "{logged:?}");
    Ok(())
}

/// The access log tells apart what the upstream did alone.
fn unlike_upstream_failure() -> Result<()> {
    let upstream = obedient();
    let policy = json!({"retry": share(100.0, 100)});
    let stage = Setup::new(Attach::GUARD, policy).cluster("rich", upstream.address).start()?;
    for (path, details, verdict) in [
        // Retried in vain: no hop above shall retry it.
        ("/rich/503", "via_upstream", "retries_used_up"),
        ("/rich/reset", "upstream_reset_before_response_started{connection_termination}", "retries_used_up"),
        ("/rich/ok", "via_upstream", "-"),
    ] {
        let response = stage.get(path)?;
        ensure!(response.header("x-envoy-ratelimited").is_some() == (verdict != "-"), "{path}: {response:?}");
        ensure!(response.header("retry-after").is_none(), "{path}: {response:?}");
        let logged = stage.requests(path, 1)?.remove(0);
        ensure!((logged.details.as_str(), logged.verdict.as_str()) == (details, verdict), "{path}: {logged:?}");
    }
    ensure!(upstream.count() == 5, "the upstream saw {} requests", upstream.count());
    Ok(())
}

/// Of a budget of nothing, `decide` knows before `guard` has seen a single retry. What the client gets is much the same,
/// and it is counted once.
fn nothing() -> Result<()> {
    let upstream = obedient();
    let policy = json!({"retry": share(0.0, 0)});
    let stage = Setup::new(Attach::GUARD, policy).cluster("none", upstream.address).start()?;
    for (count, path) in (1..).zip(["/none/503", "/none/reset"]) {
        let response = stage.get(path)?;
        ensure!(response.status == 503, "{path}: {response:?}");
        ensure!(response.header("x-envoy-ratelimited").is_some(), "{path}: not marked: {response:?}");
        let retry_after = response.header("retry-after");
        ensure!(retry_after == (path == "/none/reset").then_some("1"), "{path}: {response:?}");
        ensure!(upstream.count() == count, "{path}: the upstream saw {} attempts", upstream.count());
        let logged = stage.requests(path, 1)?.remove(0);
        ensure!(logged.verdict == VERDICT, "{path}: {logged:?}");
        stage.wait_tally("none", "as many denied", |tally| tally.retries == vec!["denied"; count])?;
    }
    Ok(())
}
