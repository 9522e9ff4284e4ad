//! gRPC says nothing about idempotency: only what was not processed is retried, and what the configuration opts in to.

use h2::Reason;

use crate::case::{Case, Outcome, Scene};
use crate::level::Level;
use crate::support::client::{Request, Response};
use crate::support::client_h2;
use crate::support::upstream::{Reply, Seen, Upstream, http2, refuses};

const UNAVAILABLE: u32 = 14;

pub fn cases() -> Vec<Case> {
    vec![
        Case::under("default", "grpc_refused_retried")
            .http2()
            .upstream(refuses)
            .visit(|scene| call(scene).map(drop))
            .then(Outcome::new("UF/-*3", "UF/200", "refused*3").alone("refused")),
        grpc("default", "grpc_refused_stream_retried", first(Reply::reset(Reason::REFUSED_STREAM)))
            .then(Outcome::new("UR/- -/200", "-/200", "reset answered").alone("answered").seen(&[2])),
        grpc("default", "grpc_reset", all(Reply::reset(Reason::INTERNAL_ERROR)))
            .then(Outcome::new("UR/-", "UR/200", "reset").seen(&[1])),
        grpc("default", "grpc_reset_keyed", first(Reply::reset(Reason::INTERNAL_ERROR)))
            .visit(|scene| {
                let request = Request::grpc(&scene.case.path()).header("idempotency-key", "7");
                client_h2::exchange(scene.envoy, &request).map(drop)
            })
            .then(Outcome::new("UR/- -/200", "-/200", "reset answered").alone("answered").seen(&[2])),
        grpc("default", "grpc_unavailable_final", all(Reply::grpc_trailers_only(UNAVAILABLE)))
            .then(Outcome::new("-/200", "-/200", "error").seen(&[1])),
        grpc("unavailable", "grpc_unavailable_retried", first(Reply::grpc_trailers_only(UNAVAILABLE)))
            .then(Outcome::new("-/200*2", "-/200", "error answered").alone("answered").seen(&[2])),
        // Envoy looks at statuses in headers only: by the trailers, the response is on its way.
        grpc("unavailable", "grpc_unavailable_in_trailers", all(Reply::grpc(UNAVAILABLE)))
            .then(Outcome::new("-/200", "-/200", "error").seen(&[1])),
        grpc("unavailable", "grpc_other_status", all(Reply::grpc_trailers_only(13)))
            .then(Outcome::new("-/200", "-/200", "error").seen(&[1])),
        grpc("unavailable", "grpc_exhausted", all(Reply::grpc_trailers_only(8)))
            .then(Outcome::new("-/200", "-/200", "pushback").seen(&[1])),
        // It takes `guard` to look at the header before Envoy retries.
        grpc("unavailable", "grpc_pushback_header", all(pushback()))
            .then(Outcome::new("-/200*3", "-/200", "pushback*3").alone("pushback").at(Level::UNGUARDED).seen(&[3]))
            .then(Outcome::new("-/200", "-/200", "pushback").vetoes("pushback").at(&[Level::Guard]).seen(&[1])),
    ]
}

fn pushback() -> Reply {
    Reply::grpc_trailers_only(UNAVAILABLE).header("grpc-retry-pushback-ms", "-1")
}

fn grpc(policy: &'static str, name: &'static str, upstream: impl Fn() -> Upstream + Send + Sync + 'static) -> Case {
    Case::under(policy, name).http2().upstream(upstream).visit(|scene| call(scene).map(drop))
}

fn call(scene: &Scene<'_>) -> anyhow::Result<Response> {
    client_h2::exchange(scene.envoy, &Request::grpc(&scene.case.path()))
}

fn first(reply: Reply) -> impl Fn() -> Upstream + Send + Sync + 'static {
    move || {
        let reply = reply.clone();
        http2(move |request: &Seen| if request.number == 0 { reply.clone() } else { Reply::grpc(0) })
    }
}

fn all(reply: Reply) -> impl Fn() -> Upstream + Send + Sync + 'static {
    move || {
        let reply = reply.clone();
        http2(move |_| reply.clone())
    }
}
