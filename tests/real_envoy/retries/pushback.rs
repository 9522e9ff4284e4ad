//! An upstream that says "not now" is not asked again.

use super::{always, at_first};
use crate::case::{Case, Outcome, route_retries};
use crate::level::Level;
use crate::support::client::Request;
use crate::support::upstream::answer;

pub fn cases() -> Vec<Case> {
    vec![
        Case::under("default", "pushback_429")
            .upstream(always(answer(429, &[], "")))
            .then(Outcome::new("-/429", "-/429", "pushback").seen(&[1])),
        // Whatever the route would.
        Case::under("default", "pushback_429_route")
            .upstream(always(answer(429, &[], "")))
            .route({
                let mut route = route_retries("retriable-status-codes", 2);
                route["route"]["retry_policy"]["retriable_status_codes"] = serde_json::json!([429]);
                route
            })
            .then(Outcome::new("-/429*3", "-/429", "pushback*3").alone("pushback").at(Level::UNGUARDED).seen(&[3]))
            .then(Outcome::new("-/429", "-/429", "pushback").at(&[Level::Guard]).seen(&[1])),
        // Envoy's conditions know the status only. It takes `guard` to look at the header before Envoy retries.
        Case::under("default", "pushback_503")
            .upstream(always(answer(503, &[("retry-after", "1")], "full")))
            .visit(|scene| {
                let response = scene.get()?;
                anyhow::ensure!(
                    response.status == 503 && response.text() == "full",
                    "not the upstream's: {response:?}"
                );
                anyhow::ensure!(response.header("retry-after") == Some("1"), "not the upstream's: {response:?}");
                // No hop above shall retry it either.
                let marked = response.header("x-envoy-ratelimited").is_some();
                anyhow::ensure!(marked == (scene.level == Level::Guard), "{response:?}");
                Ok(())
            })
            .then(Outcome::new("-/503*3", "-/503", "pushback*3").alone("pushback").at(Level::UNGUARDED).seen(&[3]))
            .then(Outcome::new("-/503", "-/503", "pushback").vetoes("pushback").at(&[Level::Guard]).seen(&[1])),
        Case::under("default", "pushback_503_post")
            .upstream(always(answer(503, &[("retry-after", "1")], "")))
            .visit(|scene| scene.exchange(&Request::post(&scene.case.path())).map(drop))
            .then(Outcome::new("-/503", "-/503", "pushback").seen(&[1])),
        // It says so itself, by a header of the policy's: then another host may be asked, and here the same one is.
        Case::under("stated", "not_processed_post")
            .upstream(at_first(answer(503, &[("x-not-processed", "1")], "")))
            .visit(|scene| {
                let response = scene.exchange(&Request::post(&scene.case.path()))?;
                anyhow::ensure!(response.status == 200, "{response:?}");
                anyhow::ensure!(response.header("x-weir-not-sent").is_none(), "{response:?}");
                Ok(())
            })
            .then(Outcome::new("-/503 -/200", "-/200", "error answered").alone("answered").seen(&[2])),
        Case::under("stated", "not_processed_always")
            .upstream(always(answer(404, &[("x-not-processed", "")], "")))
            .visit(|scene| {
                let response = scene.exchange(&Request::post(&scene.case.path()))?;
                anyhow::ensure!(response.header("x-envoy-ratelimited") == Some("true"), "{response:?}");
                Ok(())
            })
            .then(Outcome::new("-/404*3", "-/404", "answered*3").alone("answered").seen(&[3])),
        Case::under("stated", "not_processed_unstated")
            .upstream(always(answer(503, &[("x-processed", "1")], "")))
            .visit(|scene| scene.exchange(&Request::post(&scene.case.path())).map(drop))
            .then(Outcome::new("-/503", "-/503", "error").seen(&[1])),
        // By itself, this header does not keep Envoy from retrying.
        Case::under("default", "pushback_overloaded")
            .upstream(always(answer(503, &[("x-envoy-overloaded", "true")], "")))
            .then(Outcome::new("-/503*3", "-/503", "pushback*3").alone("pushback").at(Level::UNGUARDED).seen(&[3]))
            .then(Outcome::new("-/503", "-/503", "pushback").vetoes("pushback").at(&[Level::Guard]).seen(&[1])),
    ]
}
