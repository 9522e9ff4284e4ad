//! Shadow mode decides and counts. The upstream receives what it would receive without Weir, to the byte.

use std::net::SocketAddr;

use anyhow::{Context, ensure};
use serde_json::json;

use super::{Test, listener};
use crate::case::route_retries;
use crate::check::Tally;
use crate::support::bootstrap::{self, Attach};
use crate::support::client::{Request, exchange};
use crate::support::envoy::{Envoy, Launch};
use crate::support::upstream::{Seen, Step, Upstream, answer, http1};
use crate::support::{ports, wait};

pub const TESTS: &[Test] = &[("shadow::same_bytes", same_bytes), ("shadow::route_policy_stays", route_policy_stays)];

/// Two listeners to the same upstream.
struct Pair {
    envoy: Envoy,
    without: SocketAddr,
    shadow: SocketAddr,
}

impl Pair {
    fn start(upstream: &Upstream, retries: bool) -> anyhow::Result<Self> {
        let policy = json!({"mode": "shadow"});
        let (without, shadow) = (ports::free(), ports::free());
        let mut listeners = [
            listener("without", without.port(), Attach::NOWHERE, &policy),
            listener("shadow", shadow.port(), Attach::GUARD, &policy),
        ];
        if retries {
            for listener in &mut listeners {
                let route = listener
                    .pointer_mut("/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes/0")
                    .context("a route")?;
                bootstrap::merge(route, &route_retries("5xx,reset", 2));
            }
        }
        let cluster = bootstrap::cluster("upstream", &[upstream.address]);
        let envoy = Launch::json(bootstrap::bootstrap(&listeners, &[cluster])).start()?;
        Ok(Self { envoy, without, shadow })
    }

    /// Sends the request both ways, and compares what arrived. Returns what arrived one way.
    fn compare(&self, upstream: &Upstream, request: &Request) -> anyhow::Result<Vec<Seen>> {
        let request = request.clone().header("x-request-id", "11111111-2222-4333-8444-555555555555");
        let mut arrived = Vec::new();
        let mut responses = Vec::new();
        for address in [self.without, self.shadow] {
            let before = upstream.count();
            let response = exchange(address, &request)?;
            // What differs from one response to the next, Weir or not.
            let varies = |name: &str| matches!(name, "date" | "x-envoy-upstream-service-time");
            let headers: Vec<_> = response.headers.into_iter().filter(|(name, _)| !varies(name)).collect();
            responses.push((response.status, headers, response.body));
            arrived.push(upstream.seen().split_off(before));
        }
        ensure!(
            responses[0] == responses[1],
            "the client got\n{:#?}\nbut in shadow mode\n{:#?}",
            responses[0],
            responses[1]
        );
        let raw = |seen: &[Seen]| -> Vec<String> {
            seen.iter().map(|seen| String::from_utf8_lossy(&seen.raw).into_owned()).collect()
        };
        let (without, shadow) = (raw(&arrived[0]), raw(&arrived[1]));
        ensure!(without == shadow, "the upstream got\n{without:#?}\nbut in shadow mode\n{shadow:#?}");
        Ok(arrived.swap_remove(0))
    }

    fn wait_tally(&self, what: &str, fits: impl Fn(&Tally) -> bool) -> anyhow::Result<()> {
        let counted = wait::until(wait::LIMIT, || {
            let tally = Tally::read(self.envoy.admin, "upstream")?;
            if fits(&tally) { Ok(()) } else { Err(format!("expected {what}, counted {tally:?}")) }
        });
        counted.map_err(anyhow::Error::msg)
    }
}

fn same_bytes() -> anyhow::Result<()> {
    let upstream = http1(|request| match request.path.as_str() {
        "/reset" => vec![Step::Rst],
        "/error" => answer(503, &[("retry-after", "1")], "busy"),
        _ => answer(200, &[("x-answer", "yes")], "fine"),
    });
    let pair = Pair::start(&upstream, false)?;
    let requests = [
        Request::get("/"),
        Request::new("HEAD", "/"),
        Request::post("/"),
        Request::new("PUT", "/").body(vec![b'x'; 200_000]),
        Request::post("/").header("idempotency-key", "7"),
        Request::get("/").header("x-envoy-attempt-count", "2"),
        Request::get("/").header("x-envoy-retry-on", "5xx").header("x-envoy-max-retries", "3"),
        Request::grpc("/"),
        Request::get("/error"),
        Request::post("/error"),
        Request::get("/reset"),
        Request::post("/reset"),
    ];
    for request in &requests {
        let arrived = pair.compare(&upstream, request)?;
        ensure!(arrived.len() == 1, "{request:?} arrived {} times", arrived.len());
    }
    pair.wait_tally("one attempt of each request", |tally| {
        let count = |signal: &str| tally.attempts.iter().filter(|counted| *counted == signal).count();
        tally.requests == requests.len()
            && tally.attempts.len() == requests.len()
            && (count("reset"), count("pushback"), count("answered")) == (2, 2, 8)
            && tally.vetoes.is_empty()
            && tally.retries.is_empty()
    })
}

/// A route's own policy goes on as it was, even where Weir would stop it.
fn route_policy_stays() -> anyhow::Result<()> {
    let upstream = http1(|_| vec![Step::Rst]);
    let pair = Pair::start(&upstream, true)?;
    let arrived = pair.compare(&upstream, &Request::post("/"))?;
    ensure!(arrived.len() == 3, "the POST arrived {} times", arrived.len());
    pair.wait_tally("three attempts, two of which guard would have stopped", |tally| {
        tally.attempts == ["reset", "reset", "reset"]
            && tally.requests == 1
            && tally.vetoes.is_empty()
            && tally.shadow_vetoes == ["unsafe", "unsafe"]
    })
}
