//! Ends that come from inside Envoy: limits, nowhere to send to, several attempts at once, copies.

use serde_json::json;

use crate::case::{Case, Outcome, Scene, route_retries};
use crate::level::Level;
use crate::support::bootstrap;
use crate::support::client::Request;
use crate::support::upstream::{Step, Upstream, answer, http1};

pub fn rows() -> Vec<Case> {
    vec![
        Case::once("max_pending")
            .upstream(answers)
            .cluster(json!({"circuit_breakers": {"thresholds": [{"max_pending_requests": 0}]}}))
            .then(Outcome::new("UO/-", "UO/503", "local").details("overflow").seen(&[0])),
        Case::once("max_requests")
            .upstream(answers)
            .cluster(json!({"circuit_breakers": {"thresholds": [{"max_requests": 0}]}}))
            .then(Outcome::new("UO/-", "UO/503", "local").details("overflow").seen(&[0])),
        // Envoy adds its own flag to the failure that it did not retry. The failure is what counts.
        Case::under("default", "max_retries")
            .upstream(|| http1(|_| vec![Step::Rst]))
            .cluster(json!({"circuit_breakers": {"thresholds": [{"max_retries": 0}]}}))
            .then(Outcome::new("UC/-", "UC,UO/503", "reset").seen(&[1])),
        Case::under("default", "max_retries_error")
            .upstream(|| http1(|_| answer(503, &[], "")))
            .cluster(json!({"circuit_breakers": {"thresholds": [{"max_retries": 0}]}}))
            .then(Outcome::new("-/503", "UO/503", "error").at(Level::UNGUARDED).seen(&[1]))
            // Charged when the answer passed. That Envoy's own limit then forbade the retry, `guard` does not learn.
            // (A calm first attempt's answer passes `guard` by.)
            .then(
                Outcome::new("-/503", "UO/503", "error")
                    .budget(if bootstrap::is_quiet() { "" } else { "granted" })
                    .at(&[Level::Guard])
                    .seen(&[1]),
            ),
        Case::once("empty_cluster").then(Outcome::new("", "UH/503", "").details("no_healthy_upstream")),
        Case::once("unresolvable")
            .cluster(json!({
                "type": "STRICT_DNS",
                "wait_for_warm_on_init": false,
                "load_assignment": {"endpoints": [{"lb_endpoints": [{"endpoint": {"address":
                    {"socket_address": {"address": "nobody.invalid", "port_value": 80}}}}]}]},
                // A resolver that refuses, so that the question does not leave this machine.
                "typed_dns_resolver_config": {
                    "name": "envoy.network.dns_resolver.cares",
                    "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                        "resolvers": [{"socket_address": {"address": "127.0.0.1", "port_value": 1}}],
                    },
                },
            }))
            .then(Outcome::new("", "UH/503", "").details("no_healthy_upstream")),
        Case::once("no_cluster").clusterless().then(Outcome::new("", "NC/503", "").details("cluster_not_found")),
        Case::once("no_route")
            .clusterless()
            .route(json!({"match": {"prefix": "/somewhere-else/"}}))
            .then(Outcome::new("", "NR/404", "").details("route_not_found")),
        Case::once("direct_response")
            .clusterless()
            .route(json!({"direct_response": {"status": 200}}))
            .then(Outcome::new("", "-/200", "").details("direct_response")),
        Case::under("default", "retries_exhausted")
            .upstream(|| http1(|_| vec![Step::Rst]))
            .then(Outcome::new("UC/-*3", "UC/503", "reset*3").alone("reset").seen(&[3])),
        Case::under("one", "hedge_first_wins")
            .upstream(|| {
                http1(|request| match request.number {
                    0 => [vec![Step::Gate], answer(200, &[], "")].concat(),
                    _ => vec![Step::Hang],
                })
            })
            .route(hedge())
            .visit(hedged)
            // The one that won had missed its per-try timeout; it answered all the same. Nobody waited for the other.
            .then(Outcome::new("UT/200 -/-", "-/200", "answered cancelled").alone("answered").seen(&[2])),
        Case::under("one", "hedge_second_wins")
            .upstream(|| {
                http1(|request| match request.number {
                    0 => vec![Step::Hang],
                    _ => [vec![Step::Gate], answer(200, &[], "")].concat(),
                })
            })
            .route(hedge())
            .visit(hedged)
            // The loser had missed its per-try timeout; a second attempt may miss it as well before the gate opens.
            .then(Outcome::new("UT/- -/200", "-/200", "timeout answered").alone("answered").seen(&[2]))
            .then(Outcome::new("UT/- UT/200", "-/200", "timeout answered").alone("answered").seen(&[2])),
        Case::once("mirrored")
            .upstream(answers)
            .upstream(answers)
            .mirror()
            .visit(|scene| {
                scene.post()?;
                scene.upstreams[1].wait_for(1).map_err(anyhow::Error::msg)?;
                let copy = scene.upstreams[1].seen().remove(0);
                let authority = copy.header("host").unwrap_or_default();
                anyhow::ensure!(authority.contains("-shadow"), "the copy is no copy: {copy:?}");
                Ok(())
            })
            // Envoy logs the copy as an attempt of the same request. It is none.
            .then(Outcome::new("-/200 -/200", "-/200", "answered").seen(&[1, 1])),
    ]
}

fn answers() -> Upstream {
    http1(|_| answer(200, &[], ""))
}

fn hedge() -> serde_json::Value {
    let mut route = route_retries("5xx", 1);
    route["route"]["retry_policy"]["per_try_timeout"] = json!("1.5s");
    route["route"]["hedge_policy"] = json!({"hedge_on_per_try_timeout": true});
    route
}

/// Lets the upstream answer one attempt once both have arrived.
fn hedged(scene: &Scene<'_>) -> anyhow::Result<()> {
    let mut connection = scene.connect()?;
    connection.send(&Request::get(&scene.case.path()))?;
    scene.upstreams[0].wait_for(2).map_err(anyhow::Error::msg)?;
    scene.upstreams[0].open_gate();
    let response = connection.read_head()?;
    anyhow::ensure!(response.status == 200, "{response:?}");
    Ok(())
}
