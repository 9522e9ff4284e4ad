//! Retries behind retries: with each hop retrying, attempts multiply. With Weir at each hop they hardly do.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::alone::Test;
use crate::case::{Case, Outcome, Visit, route_retries};
use crate::stage::{Setup, Stage};
use crate::support::bootstrap::Attach;
use crate::support::client::Request;
use crate::support::upstream::{Step, Upstream, answer, http1, refuses};

pub fn tests() -> Vec<Test> {
    vec![("chain::two", || amplification(2)), ("chain::three", || amplification(3))]
}

/// A client that is itself at its second attempt.
const AGAIN: Visit =
    |scene| scene.exchange(&Request::get(&scene.case.path()).header("x-envoy-attempt-count", "2")).map(drop);

pub fn cases() -> Vec<Case> {
    let retried = |attempts, signals| Outcome::new(attempts, "UF/503", signals).alone("refused");
    vec![
        Case::under("default", "again_refused").upstream(refuses).visit(AGAIN).then(retried("UF/-*3", "refused*3")),
        Case::under("default", "again_refused_post")
            .upstream(refuses)
            .visit(|scene| {
                let request = Request::post(&scene.case.path()).header("x-envoy-attempt-count", "2");
                scene.exchange(&request).map(drop)
            })
            .then(retried("UF/-*3", "refused*3")),
        Case::under("any", "again_refused_any").upstream(refuses).visit(AGAIN).then(retried("UF/-*3", "refused*3")),
        Case::under("any", "again_error_any")
            .upstream(|| http1(|_| answer(503, &[], "")))
            .visit(AGAIN)
            .then(Outcome::new("-/503*3", "-/503", "error*3").alone("error").seen(&[3])),
        Case::under("none", "again_error_none")
            .upstream(|| http1(|_| answer(503, &[], "")))
            .visit(AGAIN)
            .then(Outcome::new("-/503", "-/503", "error").seen(&[1])),
        Case::under("none", "again_reset_none")
            .upstream(|| http1(|_| vec![Step::Rst]))
            .visit(AGAIN)
            .then(Outcome::new("UC/-", "UC/503", "reset").seen(&[1])),
        // The first attempt of a hop before is no retry.
        Case::under("none", "first_error_none")
            .upstream(|| http1(|_| answer(503, &[], "")))
            .visit(|scene| {
                scene.exchange(&Request::get(&scene.case.path()).header("x-envoy-attempt-count", "1")).map(drop)
            })
            .then(Outcome::new("-/503*3", "-/503", "error*3").alone("error").seen(&[3])),
    ]
}

/// What Istio and Weir allow by default.
const MAX_RETRIES: usize = 2;
/// Weir's share of retries, percent.
const SHARE: usize = 20;

/// How the leaf fails.
struct Leaf {
    name: &'static str,
    start: fn() -> Upstream,
}

const LEAVES: [Leaf; 2] =
    [Leaf { name: "refused", start: refuses }, Leaf { name: "error", start: || http1(|_| answer(503, &[], "")) }];

/// Attempts of so many requests, where one hop sends on what it gets and `SHARE` percent more, at most.
fn affordable(requests: usize) -> usize {
    requests + requests * SHARE / 100
}

fn amplification(length: usize) -> Result<()> {
    const REQUESTS: usize = 60;
    const FEW: usize = 10;
    // A share over an hour and without a floor, so that the numbers depend on no clock.
    let retry = json!({
        "maxRetries": MAX_RETRIES,
        "budget": {"percent": SHARE, "interval": "1h"},
        "minRetryRate": {"count": 0, "interval": "1s"},
    });
    let policy =
        json!({"retry": retry, "circuitBreaker": null, "clusters": [{"match": "unpaid-*", "retry": {"budget": null}}]});
    let weir = Chain::start(length, Attach::GUARD, &policy, &["unpaid", "paid"])?;
    let alone = Chain::start(length, Attach::DECIDE, &policy, &["unpaid"])?;
    let native = Chain::start(length, Attach::NOWHERE, &Value::Null, &["native"])?;
    for leaf in &LEAVES {
        let power = (0..length).fold(FEW, |attempts, _| attempts * (MAX_RETRIES + 1));
        let attempts = native.send("native", leaf, FEW)?;
        ensure!(attempts == power, "{}: {attempts} attempts of {FEW} native requests, not {power}", leaf.name);

        // The hop before the leaf alone retries: it says that it did, and those above leave it at that.
        let unpaid = FEW * (MAX_RETRIES + 1);
        for weir in [&weir, &alone] {
            let attempts = weir.send("unpaid", leaf, FEW)?;
            ensure!(
                attempts == unpaid,
                "{}: {attempts} attempts of {FEW} requests without budget, not {unpaid}",
                leaf.name
            );
        }

        // The last hop has its share of the client's requests to spend. Some of it is left where requests come one by one:
        // what has failed is not worth retries that are not those of its own second.
        let (least, most) = (REQUESTS + 1, affordable(REQUESTS));
        let attempts = weir.send("paid", leaf, REQUESTS)?;
        ensure!(
            (least..=most).contains(&attempts),
            "{}: {attempts} attempts of {REQUESTS} requests, not {least} to {most}",
            leaf.name
        );
    }
    Ok(())
}

/// Envoys one behind the other, the first one first, with a cluster for each kind of retries and each leaf.
struct Chain {
    hops: Vec<Stage>,
    leaves: HashMap<String, Upstream>,
}

impl Chain {
    fn start(length: usize, attach: Attach, policy: &Value, kinds: &[&str]) -> Result<Self> {
        let clusters =
            kinds.iter().flat_map(|kind| LEAVES.map(|leaf| (format!("{kind}-{}", leaf.name), (leaf.start)())));
        let leaves: HashMap<String, Upstream> = clusters.collect();
        let route = match attach {
            Attach::NOWHERE => route_retries("connect-failure,refused-stream,reset,gateway-error", 2),
            _ => Value::Null,
        };
        let mut hops: Vec<Stage> = Vec::new();
        for _ in 0..length {
            let mut setup = Setup::new(attach, policy.clone());
            for (cluster, leaf) in &leaves {
                let next = hops.first().map_or(leaf.address, |hop| hop.address);
                setup = setup.cluster_with(cluster, next, &Value::Null, &route);
            }
            hops.insert(0, setup.start()?);
        }
        Ok(Self { hops, leaves })
    }

    /// Sends requests, ten at a time, which all fail. Returns how often they reached the leaf, or tried to.
    fn send(&self, kind: &str, leaf: &Leaf, requests: usize) -> Result<usize> {
        let cluster = format!("{kind}-{}", leaf.name);
        let path = format!("/{cluster}/");
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(self.hops[0].connect()?);
        }
        for _ in 0..requests / clients.len() {
            for client in &mut clients {
                client.send(&Request::get(&path))?;
            }
            for client in &mut clients {
                let mut response = client.read_head()?;
                client.read_body(&mut response)?;
                ensure!(response.status == 503, "{response:?}");
            }
        }
        // Whoever got an answer has none on the way below.
        let seen = self.leaves[&cluster].count();
        if seen > 0 {
            return Ok(seen);
        }
        // Where all are refused, only the last hop knows. Its log lags behind what Envoy counts.
        let last = self.hops.last().context("a chain has hops")?;
        let refused = last.stat(&format!("cluster.{cluster}.upstream_rq_pending_failure_eject"));
        last.wait_for("refusals are logged", |stage| {
            let logged = stage.attempts(&path).iter().filter(|entry| entry.end == "UF/-").count();
            if u64::try_from(logged) == Ok(refused) { Ok(logged) } else { Err(format!("{logged} of {refused}")) }
        })
    }
}
