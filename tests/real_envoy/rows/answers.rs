//! What upstreams say of their own accord: HTTP statuses, gRPC statuses, and a sidecar's account of a failure behind it.

use crate::case::{Case, Outcome, Scene};
use crate::support::client::Request;
use crate::support::client_h2;
use crate::support::upstream::{Reply, answer, http1, http2, refuses};

type Headers = &'static [(&'static str, &'static str)];

pub fn rows() -> Vec<Case> {
    let statuses: [(&str, u16, Headers, &str); 15] = [
        ("status_200", 200, &[], "answered"),
        ("status_204", 204, &[], "answered"),
        ("status_301", 301, &[("location", "/")], "answered"),
        ("status_404", 404, &[], "answered"),
        ("status_429", 429, &[], "pushback"),
        ("status_500", 500, &[], "error"),
        ("status_501", 501, &[], "answered"),
        ("status_502", 502, &[], "error"),
        ("status_503", 503, &[], "error"),
        ("status_503_retry_after", 503, &[("retry-after", "1")], "pushback"),
        ("status_503_overloaded", 503, &[("x-envoy-overloaded", "true")], "pushback"),
        ("status_504", 504, &[], "error"),
        ("sidecar_refused", 503, &[("proxy-status", "sidecar; error=connection_refused")], "refused"),
        ("sidecar_reset", 503, &[("proxy-status", "sidecar; error=connection_terminated")], "reset"),
        ("sidecar_timeout", 503, &[("proxy-status", "sidecar; error=connection_timeout")], "unreachable"),
    ];
    let mut rows: Vec<Case> =
        statuses.into_iter().map(|(name, status, headers, signal)| http(name, status, headers, signal)).collect();
    let codes = [
        ("ok", 0, "answered"),
        ("cancelled", 1, "answered"),
        ("unknown", 2, "error"),
        ("deadline_exceeded", 4, "answered"),
        ("not_found", 5, "answered"),
        ("resource_exhausted", 8, "pushback"),
        ("internal", 13, "error"),
        ("unavailable", 14, "error"),
        ("data_loss", 15, "error"),
    ];
    for (name, code, signal) in codes {
        rows.push(grpc(format!("grpc_{name}").leak(), Reply::grpc(code), signal));
        rows.push(grpc(format!("grpc_{name}_alone").leak(), Reply::grpc_trailers_only(code), signal));
    }
    let pushback = Reply::grpc_trailers_only(14).header("grpc-retry-pushback-ms", "-1");
    rows.push(grpc("grpc_retry_pushback", pushback, "pushback"));
    // A wait is no refusal to be retried.
    let wait = Reply::grpc_trailers_only(14).header("grpc-retry-pushback-ms", "10");
    rows.push(grpc("grpc_retry_wait", wait, "error"));
    // A gRPC status that comes with no gRPC content is somebody's header.
    rows.push(http("grpc_status_of_no_grpc", 200, &[("grpc-status", "14")], "answered"));
    rows.push(
        Case::once("grpc_refused")
            .http2()
            .upstream(refuses)
            .visit(call)
            .then(Outcome::new("UF/-", "UF/200", "refused").details("Connection_refused")),
    );
    rows
}

fn http(name: &'static str, status: u16, headers: Headers, signal: &str) -> Case {
    let end = format!("-/{status}");
    Case::once(name)
        .upstream(move || http1(move |_| answer(status, headers, "")))
        .then(Outcome::new(&end, &end, signal).details("via_upstream").seen(&[1]))
}

fn grpc(name: &'static str, reply: Reply, signal: &str) -> Case {
    Case::once(name)
        .http2()
        .upstream(move || {
            let reply = reply.clone();
            http2(move |_| reply.clone())
        })
        .visit(call)
        .then(Outcome::new("-/200", "-/200", signal).details("via_upstream").seen(&[1]))
}

fn call(scene: &Scene<'_>) -> anyhow::Result<()> {
    let response = client_h2::exchange(scene.envoy, &Request::grpc(&scene.case.path()))?;
    anyhow::ensure!(response.header("grpc-status").is_some(), "no gRPC status: {response:?}");
    Ok(())
}
