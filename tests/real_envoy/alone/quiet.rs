//! `guard` in its second form: calm first attempts pass it by, and all that it is there for still holds.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Test;
use crate::case::route_retries;
use crate::check::Tally;
use crate::stage::times;
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::{Request, Response, exchange};
use crate::support::envoy::Launch;
use crate::support::upstream::{Seen, Step, Upstream, answer, http1};
use crate::support::{ports, wait};

pub const TESTS: &[Test] = &[("quiet::guard_says_the_same_of_retries", says_the_same)];

/// Retries that the budget has, in all.
const RETRIES: usize = 3;
const FAILING: usize = 8;

fn upstream() -> Upstream {
    http1(|seen: &Seen| match seen.path.as_str() {
        "/busy" => answer(503, &[("retry-after", "1")], "busy"),
        "/reset" => vec![Step::Rst],
        "/gated" => vec![Step::Gate, Step::Rst],
        _ => answer(200, &[], ""),
    })
}

/// Longer than a failure is remembered.
fn calm_down() {
    std::thread::sleep(Duration::from_millis(1_200));
}

fn says_the_same() -> Result<()> {
    let upstream = upstream();
    let address = ports::free();
    let policy = json!({
        "role": "decide", "outlierDetection": null, "circuitBreaker": null,
        "retry": {
            "maxRetries": 1,
            "budget": {"percent": 0, "interval": "1h"},
            "minRetryRate": {"count": RETRIES, "interval": "1h"},
        },
    });
    // Its own conditions would repeat a POST, too.
    let mut route = bootstrap::route("/", "quiet");
    bootstrap::merge(&mut route, &route_retries("5xx,reset", 1));
    let listener = bootstrap::listener(Listener {
        name: "quiet",
        port: address.port(),
        attach: Attach::QUIET,
        policy: &policy,
        routes: vec![route],
        logs: None,
        manager: Value::Null,
    });
    let cluster = bootstrap::cluster("quiet", &[upstream.address]);
    let envoy = Launch::json(bootstrap::bootstrap(&[listener], &[cluster])).start()?;
    let send = |request: &Request| -> Result<(Response, usize)> {
        let before = upstream.count();
        let response = exchange(address, request)?;
        Ok((response, upstream.count() - before))
    };
    let vetoes = |wanted: &[&str]| {
        wait::until(wait::LIMIT, || {
            let found = Tally::read(envoy.admin, "quiet")?.vetoes;
            if found == wanted { Ok(()) } else { Err(format!("vetoes {found:?}, not {wanted:?}")) }
        })
        .map_err(anyhow::Error::msg)
    };
    // One is not calm: before it nobody knows that watch sees this cluster.
    for _ in 0..2 {
        ensure!(send(&Request::get("/"))?.0.status == 200, "an ordinary request");
    }

    // A host that pushes back on a calm attempt is not asked again, and guard, which would count it, was not there.
    let (response, asked) = send(&Request::get("/busy"))?;
    let marked = response.header("x-envoy-ratelimited").is_some();
    ensure!((response.status, asked, marked) == (503, 1, true), "asked {asked} times: {response:?}");
    ensure!(response.text() == "busy", "the answer is the upstream's: {response:?}");
    vetoes(&[])?;
    // Right after that, attempts pass it.
    let (response, asked) = send(&Request::get("/busy"))?;
    ensure!((response.status, asked) == (503, 1), "asked {asked} times: {response:?}");
    vetoes(&["pushback"])?;

    // What may not be repeated is not, though the route says so.
    calm_down();
    let (response, asked) = send(&Request::post("/reset"))?;
    ensure!(asked == 1 && response.text().contains("weir"), "a POST was sent {asked} times: {response:?}");
    vetoes(&["pushback", "unsafe"])?;

    // Calm attempts that fail all at once: the budget pays for as many retries as it has, and the others hear of it.
    calm_down();
    let before = upstream.count();
    let waiting: Vec<_> =
        (0..FAILING).map(|_| std::thread::spawn(move || exchange(address, &Request::get("/gated")))).collect();
    upstream.wait_for(before + FAILING).map_err(anyhow::Error::msg)?;
    (0..FAILING + RETRIES).for_each(|_| upstream.open_gate());
    for client in waiting {
        let response = client.join().map_err(|_| anyhow::anyhow!("a client ended"))??;
        ensure!(response.status == 503, "nobody answers here: {response:?}");
    }
    wait::until(wait::LIMIT, || {
        let tally = Tally::read(envoy.admin, "quiet")?;
        let (granted, denied) = (times(&tally.retries, "granted"), times(&tally.retries, "denied"));
        let whole = granted == RETRIES && denied == FAILING - RETRIES;
        if whole { Ok(()) } else { Err(format!("granted {granted}, denied {denied}")) }
    })
    .map_err(anyhow::Error::msg)?;
    let gated = upstream.seen().iter().filter(|seen| seen.path == "/gated").count();
    ensure!(gated == FAILING + RETRIES, "the upstream was asked {gated} times");
    Ok(())
}
