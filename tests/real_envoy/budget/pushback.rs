//! An upstream that says "not now" is not asked again, even where the route's own policy would. It takes `guard`: Envoy's
//! conditions know neither `retry-after` nor a gRPC pushback.

use serde_json::json;

use crate::case::{Case, Outcome, Scene, route_retries};
use crate::level::Level;
use crate::support::client::Request;
use crate::support::client_h2;
use crate::support::upstream::{Reply, answer, http1, http2};

pub fn cases() -> Vec<Case> {
    let busy = || http1(|_| answer(503, &[("retry-after", "7")], "busy"));
    let limit = ("proxy-status", "sidecar; error=connection_limit_reached");
    let full = move || http1(move |_| answer(503, &[limit], "busy"));
    let too_many = || http1(|_| answer(429, &[("retry-after", "7")], "busy"));
    let mut on_429 = route_retries("retriable-status-codes", 2);
    on_429["route"]["retry_policy"]["retriable_status_codes"] = json!([429]);
    vec![
        stopped("route_pushback_503_get", "503").upstream(busy).route(route_retries("5xx", 2)).visit(get),
        // Some proxy in between says that its upstream is full.
        stopped("route_pushback_limit_get", "503").upstream(full).route(route_retries("5xx", 2)).visit(|scene| {
            let response = scene.get()?;
            let marked = response.header("x-envoy-ratelimited").is_some();
            anyhow::ensure!(response.text() == "busy" && marked == (scene.level == Level::Guard), "{response:?}");
            Ok(())
        }),
        // Not one that Weir would have retried, so no veto of its own.
        stopped_silently("route_pushback_503_post", "503").upstream(busy).route(route_retries("5xx", 2)).visit(post),
        stopped_silently("route_pushback_429_get", "429").upstream(too_many).route(on_429.clone()).visit(get),
        stopped_silently("route_pushback_429_post", "429").upstream(too_many).route(on_429).visit(post),
        stopped_silently("route_pushback_exhausted", "200")
            .http2()
            .upstream(|| http2(|_| Reply::grpc_trailers_only(8)))
            .route(route_retries("resource-exhausted", 2))
            .visit(call),
        stopped_silently("route_pushback_grpc", "200")
            .http2()
            .upstream(|| http2(|_| Reply::grpc_trailers_only(14).header("grpc-retry-pushback-ms", "-1")))
            .route(route_retries("unavailable", 2))
            .visit(call),
        // A pushback that says when to come back is none.
        Case::under("unavailable", "grpc_pushback_with_a_time")
            .http2()
            .upstream(|| http2(|_| Reply::grpc_trailers_only(14).header("grpc-retry-pushback-ms", "5")))
            .visit(|scene| client_h2::exchange(scene.envoy, &Request::grpc(&scene.case.path())).map(drop))
            .then(Outcome::new("-/200*3", "-/200", "error*3").alone("error").seen(&[3])),
        // No say, no veto.
        Case::under("off", "route_pushback_off")
            .upstream(busy)
            .route(route_retries("5xx", 2))
            .then(Outcome::new("-/503*3", "-/503", "pushback*3").alone("pushback").seen(&[3])),
    ]
}

fn stopped(name: &'static str, code: &str) -> Case {
    case(name, code, "pushback")
}

fn stopped_silently(name: &'static str, code: &str) -> Case {
    case(name, code, "")
}

fn case(name: &'static str, code: &str, vetoes: &str) -> Case {
    let retried = Outcome::new(&format!("-/{code}*3"), &format!("-/{code}"), "pushback*3");
    let stopped = Outcome::new(&format!("-/{code}"), &format!("-/{code}"), "pushback");
    Case::under("default", name)
        .then(retried.alone("pushback").at(Level::UNGUARDED).seen(&[3]))
        .then(stopped.vetoes(vetoes).at(&[Level::Guard]).seen(&[1]))
}

fn get(scene: &Scene<'_>) -> anyhow::Result<()> {
    visit(scene, &Request::get(&scene.case.path()))
}

fn post(scene: &Scene<'_>) -> anyhow::Result<()> {
    visit(scene, &Request::post(&scene.case.path()))
}

fn visit(scene: &Scene<'_>, request: &Request) -> anyhow::Result<()> {
    let response = scene.exchange(request)?;
    let whole = response.text() == "busy" && response.header("retry-after") == Some("7");
    anyhow::ensure!(whole, "not the upstream's: {response:?}");
    let marked = response.header("x-envoy-ratelimited").is_some();
    anyhow::ensure!(marked == (scene.level == Level::Guard), "{response:?}");
    Ok(())
}

fn call(scene: &Scene<'_>) -> anyhow::Result<()> {
    let response = client_h2::exchange(scene.envoy, &Request::grpc(&scene.case.path()))?;
    let marked = response.header("x-envoy-ratelimited").is_some();
    anyhow::ensure!(marked == (scene.level == Level::Guard), "{response:?}");
    Ok(())
}
