//! Without `guard`, a request gets permission for its retries when it arrives, and gives back what it did not use. So what
//! is granted is what the budget has, even of requests that fail all at once.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{obedient, retries, share};
use crate::alone::Test;
use crate::stage::{Setup, Stage, back_off, times};
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::{Connection, Request, Response};
use crate::support::client_h2;
use crate::support::envoy::Launch;
use crate::support::ports;
use crate::support::upstream::{Upstream, refuses};

pub const TESTS: &[Test] = &[
    ("budget::decide_in_turn", || both(in_turn)),
    ("budget::decide_at_once", || both(at_once)),
    ("budget::decide_workers", || both(workers)),
    ("budget::decide_beside_guard", beside_guard),
    ("budget::decide_grpc", || both(grpc)),
];

const ANSWERED: usize = 100;
const MAX_RETRIES: usize = 3;
/// Percent.
const SHARE: usize = 20;

fn both(test: fn(Attach) -> Result<()>) -> Result<()> {
    test(Attach::DECIDE).context("decide")?;
    test(Attach::WATCH).context("decide+watch")
}

fn start(attach: Attach, workers: u32) -> Result<(Stage, Upstream)> {
    let upstream = obedient();
    let mut retry = share(20.0, 0);
    bootstrap::merge(&mut retry, &json!({"maxRetries": MAX_RETRIES}));
    let setup = Setup::new(attach, json!({"retry": retry})).workers(workers);
    Ok((setup.cluster("orders", upstream.address).start()?, upstream))
}

fn send(client: &mut Connection, wish: &str, times: usize) -> Result<Vec<Response>> {
    (0..times).map(|_| client.exchange(&Request::get(&format!("/orders/{wish}")))).collect()
}

fn marked(responses: &[Response]) -> usize {
    responses.iter().filter(|response| response.header("x-envoy-ratelimited").is_some()).count()
}

/// Counters and the access log agree with what the upstream and the clients saw.
fn account(stage: &Stage, upstream: &Upstream, failed: usize, denied: usize) -> Result<()> {
    let granted = retries(upstream);
    stage.wait_tally("orders", &format!("{granted} granted, {denied} denied"), |tally| {
        times(&tally.retries, "granted") == granted && times(&tally.retries, "denied") == denied
    })?;
    for logged in stage.requests("/orders/", ANSWERED + failed)? {
        ensure!(matches!(logged.verdict.as_str(), "-" | "retries_used_up" | "retry_budget_exhausted"), "{logged:?}");
    }
    let logged = stage.requests("/orders/", ANSWERED + failed)?;
    let verdicts = logged.iter().filter(|request| request.verdict == "retry_budget_exhausted").count();
    ensure!(verdicts == denied, "{verdicts} of {denied} denials are in the access log");
    Ok(())
}

/// One after another.
fn in_turn(attach: Attach) -> Result<()> {
    const FAILING: usize = 100;
    let (stage, upstream) = start(attach, 1)?;
    let mut client = stage.connect()?;
    send(&mut client, "ok", ANSWERED)?;
    let mut responses = send(&mut client, "once-503", FAILING / 2)?;
    responses.extend(send(&mut client, "once-reset", FAILING / 2)?);
    let (budget, retries) = ((ANSWERED + FAILING) * SHARE / 100, retries(&upstream));
    ensure!(retries == budget, "{retries} retries, not {budget}");
    for response in &responses {
        let answered = response.text() == "sorry";
        let marked = response.header("x-envoy-ratelimited").is_some();
        ensure!(response.status == if marked { 503 } else { 200 }, "{response:?}");
        // Weir says when to come back only where the upstream did not speak for itself.
        ensure!(response.header("retry-after").is_some() == (marked && !answered), "{response:?}");
    }
    account(&stage, &upstream, FAILING, marked(&responses))
}

/// All at once: those that came first hold what there is, three retries each. Nobody gets less: what is left goes to one that came
/// later, once it is three.
fn at_once(attach: Attach) -> Result<()> {
    const AT_ONCE: usize = 40;
    let (stage, upstream) = start(attach, 1)?;
    let mut clients = Vec::new();
    for _ in 0..AT_ONCE {
        clients.push(stage.connect()?);
    }
    send(&mut clients[0], "ok", ANSWERED)?;
    for client in &mut clients {
        client.send(&Request::get("/orders/gated-503"))?;
    }
    upstream.wait_for(ANSWERED + AT_ONCE).map_err(anyhow::Error::msg)?;
    (0..AT_ONCE).for_each(|_| upstream.open_gate());
    let mut burst = Vec::new();
    for client in &mut clients {
        let mut response = client.read_head()?;
        client.read_body(&mut response)?;
        burst.push(response);
    }
    ensure!(marked(&burst) == burst.len(), "{} of {} are marked", marked(&burst), burst.len());
    let (mut held, mut denied) = (0, 0);
    for arrived in 1..=AT_ONCE {
        match (ANSWERED + arrived) * SHARE / 100 - held < MAX_RETRIES {
            true => denied += 1,
            false => held += MAX_RETRIES,
        }
    }
    let spent = retries(&upstream);
    ensure!(spent == held, "{spent} retries, not {held}");
    account(&stage, &upstream, AT_ONCE, denied)
}

/// What one worker spends, the others learn from the shared record.
fn workers(attach: Attach) -> Result<()> {
    let (stage, upstream) = start(attach, 2)?;
    // Connections go to the worker that has the fewest.
    let (mut one, mut other) = (stage.connect()?, stage.connect()?);
    send(&mut one, "ok", ANSWERED / 2)?;
    send(&mut other, "ok", ANSWERED / 2)?;
    let mut responses = Vec::new();
    let spend = |client: &mut Connection, responses: &mut Vec<Response>| {
        stage.wait_for("a worker stops", |_| {
            let response = send(client, "once-503", 1).map_err(|error| format!("{error:#}"))?;
            responses.extend(response);
            if marked(&responses[responses.len() - 1..]) == 1 { Ok(()) } else { Err("retried".to_owned()) }
        })
    };
    // Each spends what it knows of, at least its own share.
    spend(&mut one, &mut responses)?;
    spend(&mut other, &mut responses)?;
    for _ in 0..5 {
        for client in [&mut one, &mut other] {
            responses.extend(send(client, "once-503", 5)?);
        }
    }
    let (requests, retries) = (ANSWERED + responses.len(), retries(&upstream));
    // Each has the share of its own requests.
    let most = requests * SHARE / 100;
    ensure!((most - 1..=most).contains(&retries), "{retries} retries of {requests} requests, not {most}");
    account(&stage, &upstream, responses.len(), marked(&responses))
}

/// What tells an HTTP client not to come back at once, a gRPC client does not know.
fn grpc(attach: Attach) -> Result<()> {
    let upstream = refuses();
    let setup = Setup::new(attach, json!({"retry": share(0.0, 0)}));
    let stage =
        setup.cluster_with("orders", upstream.address, &bootstrap::http2(), &serde_json::Value::Null).start()?;
    let response = client_h2::exchange(stage.address, &Request::grpc("/orders/refused"))?;
    ensure!((response.status, response.header("grpc-status")) == (200, Some("14")), "{response:?}");
    ensure!(response.header("x-envoy-ratelimited").is_some(), "{response:?}");
    ensure!(response.header("grpc-retry-pushback-ms") == Some("-1"), "{response:?}");
    let logged = stage.requests("/orders/", 1)?.remove(0);
    ensure!(logged.verdict == "retry_budget_exhausted", "{logged:?}");
    Ok(())
}

/// One listener has `guard`, the other has not, and both send to the same cluster: one budget for both.
fn beside_guard() -> Result<()> {
    let upstream = obedient();
    let policy = json!({"retry": share(20.0, 0)});
    let (with, without) = (ports::free(), ports::free());
    let listener = |name, address: SocketAddr, attach| {
        let mut route = bootstrap::route("/", "orders");
        bootstrap::merge(&mut route, &back_off());
        let (port, policy) = (address.port(), &policy);
        bootstrap::listener(Listener {
            name,
            port,
            attach,
            policy,
            routes: vec![route],
            logs: None,
            manager: serde_json::Value::Null,
        })
    };
    let listeners = [listener("with", with, Attach::GUARD), listener("without", without, Attach::WATCH)];
    let clusters = [bootstrap::cluster("orders", &[upstream.address])];
    let _envoy = Launch::json(bootstrap::bootstrap(&listeners, &clusters)).start()?;
    let mut clients = [Connection::open(with)?, Connection::open(without)?];
    send(&mut clients[0], "ok", ANSWERED)?;
    let mut requests = ANSWERED;
    for turn in 0..4 {
        send(&mut clients[turn % 2], "once-503", 50)?;
        requests += 50;
        // With one retry per request, not even a permission is too much.
        let (retries, most) = (retries(&upstream), requests * SHARE / 100);
        ensure!(retries == most, "{retries} retries of {requests} requests, not {most}");
    }
    Ok(())
}
