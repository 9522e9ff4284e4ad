//! A route's own policy that retries what may have been processed. It takes `guard` to stop it.

use h2::Reason;
use serde_json::json;

use super::always;
use crate::case::{Case, Outcome, Scene, route_retries};
use crate::level::Level;
use crate::support::client::Request;
use crate::support::upstream::{Reply, Step, answer, http2};

pub fn cases() -> Vec<Case> {
    let conditions = "5xx,reset";
    vec![
        Case::under("default", "route_retries_reset_post")
            .upstream(always(vec![Step::Rst]))
            .route(route_retries(conditions, 2))
            .visit(|scene| {
                let response = scene.post()?;
                let explained = response.status == 503 && response.text().contains("weir");
                anyhow::ensure!(explained == (scene.level == Level::Guard), "{response:?}");
                Ok(())
            })
            .then(Outcome::new("UC/-*3", "UC/503", "reset*3").alone("reset").at(Level::UNGUARDED).seen(&[3]))
            .then(Outcome::new("UC/- -/-", "-/503", "reset local").vetoes("unsafe").at(&[Level::Guard]).seen(&[1])),
        // Safe to repeat: no veto.
        Case::under("default", "route_retries_reset_get")
            .upstream(always(vec![Step::Rst]))
            .route(route_retries(conditions, 2))
            .then(Outcome::new("UC/-*3", "UC/503", "reset*3").alone("reset").seen(&[3])),
        Case::under("default", "route_retries_timeout_post")
            .upstream(always(vec![Step::Hang]))
            .route(per_try(conditions))
            .visit(|scene| scene.post().map(drop))
            .then(Outcome::new("UT/-*3", "UT/504", "timeout*3").alone("timeout").at(Level::UNGUARDED).seen(&[3]))
            .then(Outcome::new("UT/- -/-", "-/503", "timeout local").vetoes("unsafe").at(&[Level::Guard]).seen(&[1])),
        Case::under("default", "route_retries_timeout_post_h2")
            .http2()
            .upstream(|| http2(|_| Reply::hang()))
            .route(per_try(conditions))
            .visit(|scene| scene.post().map(drop))
            .then(Outcome::new("UT/-*3", "UT/504", "timeout*3").alone("timeout").at(Level::UNGUARDED).seen(&[3]))
            .then(Outcome::new("UT/- -/-", "-/503", "timeout local").vetoes("unsafe").at(&[Level::Guard]).seen(&[1])),
        // The answer that the route would retry reaches the client as it is, without the mark that stopped the retry.
        Case::under("default", "route_retries_error_post")
            .upstream(always(answer(503, &[], "sorry")))
            .route(route_retries(conditions, 2))
            .visit(|scene| {
                let response = scene.post()?;
                let whole = response.status == 503 && response.text() == "sorry";
                anyhow::ensure!(whole, "not the upstream's: {response:?}");
                anyhow::ensure!(response.header("x-envoy-ratelimited").is_none(), "left the mark: {response:?}");
                Ok(())
            })
            .then(Outcome::new("-/503*3", "-/503", "error*3").alone("error").at(Level::UNGUARDED).seen(&[3]))
            .then(Outcome::new("-/503", "-/503", "error").at(&[Level::Guard]).seen(&[1])),
        // The hole that is left: nothing tells `guard` whether the stream was refused, and a refused one may be retried.
        Case::under("default", "route_retries_reset_stream_post")
            .http2()
            .upstream(|| http2(|_| Reply::reset(Reason::INTERNAL_ERROR)))
            .route(route_retries(conditions, 2))
            .visit(|scene| scene.post().map(drop))
            .then(Outcome::new("UR/-*3", "UR/503", "reset*3").alone("reset").seen(&[3])),
        Case::under("default", "route_retries_reset_stream_grpc")
            .http2()
            .upstream(|| http2(|_| Reply::reset(Reason::REFUSED_STREAM)))
            .route(route_retries(conditions, 2))
            .visit(|scene| visit_grpc(scene).map(drop))
            // Not processed: retried at all levels.
            .then(Outcome::new("UR/-*3", "UR/200", "reset*2 refused").alone("refused").seen(&[3])),
    ]
}

fn per_try(conditions: &str) -> serde_json::Value {
    let mut route = route_retries(conditions, 2);
    route["route"]["retry_policy"]["per_try_timeout"] = json!("0.4s");
    route
}

fn visit_grpc(scene: &Scene<'_>) -> anyhow::Result<crate::support::client::Response> {
    crate::support::client_h2::exchange(scene.envoy, &Request::grpc(&scene.case.path()))
}
