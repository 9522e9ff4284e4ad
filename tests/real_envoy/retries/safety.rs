//! The safety table: method and signal decide.

use h2::Reason;
use serde_json::json;

use super::{always, at_first};
use crate::case::{Case, Outcome, Scene, Visit};
use crate::support::client::Request;
use crate::support::upstream::{Frame, Reply, Step, answer, frames, http1, http2, refuses};

const GET: Visit = |scene| visit(scene, Request::get(&scene.case.path()));
const POST: Visit = |scene| visit(scene, Request::post(&scene.case.path()));
const KEYED: Visit = |scene| visit(scene, Request::post(&scene.case.path()).header("idempotency-key", "7"));

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(refused());
    cases.extend(reset());
    cases.extend(timed_out());
    cases.extend(answered());
    cases
}

fn visit(scene: &Scene<'_>, request: Request) -> anyhow::Result<()> {
    scene.exchange(&request).map(drop)
}

/// What was not processed is retried, whatever the method.
fn refused() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, visit) in [("refused_get", GET), ("refused_post", POST)] {
        cases.push(
            Case::under("default", name)
                .upstream(refuses)
                .visit(visit)
                .then(Outcome::new("UF/-*3", "UF/503", "refused*3").alone("refused")),
        );
    }
    // Round robin: every other pick is the host that refuses.
    let four_posts: Visit = |scene| {
        let mut connection = scene.connect()?;
        for _ in 0..4 {
            let response = connection.exchange(&Request::post(&scene.case.path()))?;
            anyhow::ensure!(response.status == 200, "a POST that a healthy host could have taken: {response:?}");
        }
        Ok(())
    };
    cases.push(
        Case::under("default", "refused_post_healthy_host")
            .upstream(refuses)
            .upstream(|| http1(|_| answer(200, &[], "")))
            .visit(four_posts)
            .then(Outcome::new("UF/-*4 -/200*4", "-/200*4", "refused*4 answered*4").alone("answered*4").seen(&[0, 4]))
            .then(Outcome::new("UF/-*3 -/200*4", "-/200*4", "refused*3 answered*4").alone("answered*4").seen(&[0, 4])),
    );
    for (name, visit) in [("refused_stream_get", GET), ("refused_stream_post", POST)] {
        cases.push(
            Case::under("default", name)
                .http2()
                .upstream(|| {
                    http2(|request| match request.number {
                        0 => Reply::reset(Reason::REFUSED_STREAM),
                        _ => Reply::status(200),
                    })
                })
                .visit(visit)
                .then(retried_stream()),
        );
    }
    for (name, visit) in [("goaway_excluding_get", GET), ("goaway_excluding_post", POST)] {
        cases.push(
            Case::under("default", name)
                .http2()
                .upstream(|| {
                    frames(|request| match request.number {
                        0 => vec![Frame::GoAwayExcluding],
                        _ => vec![Frame::Answer],
                    })
                })
                .visit(visit)
                .then(retried_stream()),
        );
    }
    cases
}

/// The log of an attempt does not tell a refused stream from any other reset. The end of its request would, but says
/// that of the last attempt only.
fn retried_stream() -> Outcome {
    Outcome::new("UR/- -/200", "-/200", "reset answered").alone("answered").seen(&[2])
}

/// What may have been processed is retried only if it is safe to repeat.
fn reset() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, method) in [
        ("reset_get", "GET"),
        ("reset_head", "HEAD"),
        ("reset_options", "OPTIONS"),
        ("reset_put", "PUT"),
        ("reset_delete", "DELETE"),
    ] {
        // The visit is a plain function: the method stands in the case's name.
        let visit: Visit = match method {
            "HEAD" => |scene| visit(scene, Request::new("HEAD", &scene.case.path())),
            "OPTIONS" => |scene| visit(scene, Request::new("OPTIONS", &scene.case.path())),
            "PUT" => |scene| visit(scene, Request::new("PUT", &scene.case.path())),
            "DELETE" => |scene| visit(scene, Request::new("DELETE", &scene.case.path())),
            _ => GET,
        };
        cases.push(retried(name, "UC/- -/200", "reset answered").upstream(at_first(vec![Step::Rst])).visit(visit));
    }
    let patch: Visit = |scene| visit(scene, Request::new("PATCH", &scene.case.path()));
    for (name, visit) in [("reset_post", POST), ("reset_patch", patch)] {
        cases.push(
            Case::under("default", name)
                .upstream(always(vec![Step::Rst]))
                .visit(visit)
                .then(Outcome::new("UC/-", "UC/503", "reset").seen(&[1])),
        );
    }
    cases.push(
        retried("reset_keyed_post", "UC/- -/200", "reset answered").upstream(at_first(vec![Step::Rst])).visit(KEYED),
    );
    cases.push(
        Case::under("default", "reset_stream_post")
            .http2()
            .upstream(|| http2(|_| Reply::reset(Reason::INTERNAL_ERROR)))
            .visit(POST)
            .then(Outcome::new("UR/-", "UR/503", "reset").seen(&[1])),
    );
    cases.push(
        Case::under("default", "truncated_get")
            .upstream(always(vec![
                Step::Send(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart".to_vec()),
                Step::Gate,
                Step::Rst,
            ]))
            .visit(crate::rows::visit_gate)
            .then(Outcome::new("UPE/200", "UPE/200", "truncated").seen(&[1])),
    );
    cases
}

fn timed_out() -> Vec<Case> {
    vec![
        Case::under("pertry", "timeout_get")
            .upstream(always(vec![Step::Hang]))
            .then(Outcome::new("UT/-*3", "UT/504", "timeout*3").alone("timeout").seen(&[3])),
        Case::under("pertry", "timeout_keyed_post")
            .upstream(at_first(vec![Step::Hang]))
            .visit(KEYED)
            .then(Outcome::new("UT/- -/200", "-/200", "timeout answered").alone("answered").seen(&[2])),
        // Not even ended early: it may only be slow, and nobody may repeat it.
        Case::under("pertry", "timeout_post")
            .upstream(always(vec![Step::Hang]))
            .visit(POST)
            .route(json!({"route": {"timeout": "3s"}}))
            .then(Outcome::new("-/-", "UT/504", "timeout").seen(&[1])),
    ]
}

/// Statuses, of which the configuration says which.
fn answered() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, status) in [("status_502_get", 502), ("status_503_get", 503), ("status_504_get", 504)] {
        let attempts = format!("-/{status} -/200");
        cases.push(retried(name, &attempts, "error answered").upstream(at_first(answer(status, &[], ""))));
    }
    cases.push(
        retried("status_503_keyed_post", "-/503 -/200", "error answered")
            .upstream(at_first(answer(503, &[], "")))
            .visit(KEYED),
    );
    cases.push(final_answer("status_500_get", "default", 500, GET));
    cases.push(final_answer("status_503_post", "default", 503, POST));
    cases.push(final_answer("status_503_get_not_configured", "codes", 503, GET));
    cases.push(
        Case::under("codes", "status_500_get_configured")
            .upstream(at_first(answer(500, &[], "")))
            .then(Outcome::new("-/500 -/200", "-/200", "error answered").alone("answered").seen(&[2])),
    );
    cases
}

fn final_answer(name: &'static str, policy: &'static str, status: u16, visit: Visit) -> Case {
    let end = format!("-/{status}");
    Case::under(policy, name)
        .upstream(always(answer(status, &[], "")))
        .visit(visit)
        .then(Outcome::new(&end, &end, "error").seen(&[1]))
}

/// One retry, which is answered.
fn retried(name: &'static str, attempts: &str, signals: &str) -> Case {
    Case::under("default", name).then(Outcome::new(attempts, "-/200", signals).alone("answered").seen(&[2]))
}
