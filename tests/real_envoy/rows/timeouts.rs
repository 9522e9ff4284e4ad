//! Those who lose patience: the route, the attempt, the cluster, the client.

use serde_json::json;

use crate::case::{Case, Outcome, Scene};
use crate::support::bootstrap;
use crate::support::client::Request;
use crate::support::client_h2;
use crate::support::upstream::{Reply, Step, Upstream, http1, http2};

const PART: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart";

pub fn rows() -> Vec<Case> {
    vec![
        Case::once("route_timeout")
            .upstream(hangs)
            .route(json!({"route": {"timeout": "0.5s"}}))
            .then(Outcome::new("-/-", "UT/504", "timeout").details("response_timeout")),
        Case::once("route_timeout_in_body")
            .upstream(hangs_in_body)
            .route(json!({"route": {"timeout": "3s"}}))
            .then(Outcome::new("-/200", "UT/200", "closed").details("response_timeout")),
        Case::once("per_try_timeout")
            .upstream(hangs)
            .route(json!({"route": {"retry_policy": {"per_try_timeout": "0.5s"}}}))
            .then(Outcome::new("UT/-", "UT/504", "timeout").details("upstream_per_try_timeout")),
        Case::once("per_try_timeout_of_policy")
            .upstream(hangs)
            .route(json!({"route": {"retry_policy": {"retry_on": "5xx", "num_retries": 0, "per_try_timeout": "0.5s"}}}))
            .then(Outcome::new("UT/-", "URX,UT/504", "timeout").details("upstream_per_try_timeout")),
        Case::once("per_try_idle_timeout")
            .upstream(hangs)
            .route(json!({"route": {"retry_policy":
                {"retry_on": "5xx", "num_retries": 0, "per_try_idle_timeout": "0.5s"}}}))
            .then(Outcome::new("SI/-", "URX,UT/504", "timeout").details("upstream_per_try_idle_timeout")),
        Case::once("route_idle_timeout")
            .upstream(hangs)
            .route(json!({"route": {"idle_timeout": "0.5s"}}))
            .then(Outcome::new("-/-", "SI/504", "timeout").details("stream_idle_timeout")),
        Case::once("route_max_stream_duration")
            .upstream(hangs)
            .route(json!({"route": {"max_stream_duration": {"max_stream_duration": "0.5s"}}}))
            .then(Outcome::new("-/-", "-/504", "timeout").details("max_duration_timeout")),
        Case::once("cluster_max_stream_duration")
            .upstream(hangs)
            .cluster(bootstrap::protocol(&json!({
                "common_http_protocol_options": {"max_stream_duration": "0.5s"},
                "explicit_http_config": {"http_protocol_options": {}},
            })))
            .then(Outcome::new("-/-", "UMSDR/504", "timeout").details("upstream_max_stream_duration_reached")),
        Case::once("client_closes")
            .upstream(hangs)
            .visit(give_up)
            .then(Outcome::new("-/-", "DC/-", "cancelled").details("downstream_remote_disconnect")),
        Case::once("client_closes_in_body")
            .upstream(hangs_in_body)
            .visit(|scene| {
                let mut connection = scene.connect()?;
                connection.send(&Request::get(&scene.case.path()))?;
                connection.read_head().map(drop)
            })
            .then(Outcome::new("-/200", "DC/200", "cancelled").details("downstream_remote_disconnect")),
        Case::once("client_resets")
            .http2()
            .upstream(|| http2(|_| Reply::hang()))
            .visit(|scene| client_h2::cancel(scene.envoy, &Request::get(&scene.case.path()), &scene.upstreams[0]))
            .then(Outcome::new("-/-", "DR/-", "cancelled").details("remote_reset")),
        // Both leave an attempt without flag and status.
        Case::once("client_closes_and_route_timeout")
            .upstream(hangs)
            .route(json!({"route": {"timeout": "4s"}}))
            .visit(|scene| {
                let mut patient = scene.connect()?;
                patient.send(&Request::get(&scene.case.path()))?;
                scene.upstreams[0].wait_for(1).map_err(anyhow::Error::msg)?;
                for count in 2..5 {
                    let mut hasty = scene.connect()?;
                    hasty.send(&Request::get(&scene.case.path()))?;
                    scene.upstreams[0].wait_for(count).map_err(anyhow::Error::msg)?;
                }
                patient.read_head().map(drop)
            })
            .then(Outcome::new("-/-*4", "UT/504 DC/-*3", "timeout cancelled*3").seen(&[4])),
    ]
}

fn hangs() -> Upstream {
    http1(|_| vec![Step::Hang])
}

fn hangs_in_body() -> Upstream {
    http1(|_| vec![Step::Send(PART.to_vec()), Step::Hang])
}

/// Sends, waits until it has reached the upstream, and goes away.
fn give_up(scene: &Scene<'_>) -> anyhow::Result<()> {
    let mut connection = scene.connect()?;
    connection.send(&Request::get(&scene.case.path()))?;
    scene.upstreams[0].wait_for(1).map_err(anyhow::Error::msg)
}
