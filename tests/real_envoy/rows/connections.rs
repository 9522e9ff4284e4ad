//! Connections that are not made, break, or carry what is no HTTP.

use serde_json::json;

use super::tls;
use crate::case::{Case, Outcome, Scene};
use crate::support::client::Request;
use crate::support::upstream::{
    Seen, Step, Upstream, answer, full_backlog, http1, http1_on_headers, on_accept, refuses,
};

pub fn rows() -> Vec<Case> {
    vec![
        Case::once("refused")
            .upstream(refuses)
            .then(Outcome::new("UF/-", "UF/503", "refused").details("Connection_refused")),
        Case::once("connect_timeout")
            .upstream(full_backlog)
            .cluster(json!({"connect_timeout": "0.3s"}))
            .then(Outcome::new("UF/-", "UF/503", "unreachable").details("connection_timeout")),
        Case::once("local_bind_failure")
            .upstream(|| http1(|_| answer(200, &[], "")))
            // TEST-NET-1: no interface has this address.
            .cluster(json!({"upstream_bind_config":
                {"source_address": {"address": "192.0.2.1", "port_value": 0}}}))
            .then(Outcome::new("UF/-", "UF/503", "local").details("local_connection_failure").seen(&[0])),
        Case::once("tls_to_plaintext")
            .upstream(|| {
                on_accept(vec![Step::Read, Step::Send(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()), Step::Hang])
            })
            .cluster(tls::any())
            .then(Outcome::new("UF/-", "UF/503", "unreachable").details("TLS_error")),
        Case::once("tls_bad_certificate")
            .upstream(tls::server)
            .cluster(tls::client())
            .then(Outcome::new("UF/-", "UF/503", "unreachable").details("CERTIFICATE_VERIFY_FAILED")),
        Case::once("tls_to_silence")
            .upstream(|| on_accept(vec![Step::Hang]))
            .cluster(tls::any())
            .cluster(json!({"connect_timeout": "0.4s"}))
            .then(Outcome::new("UF/-", "UF/503", "unreachable").details("connection_timeout")),
        Case::once("tls_reset_on_accept")
            .upstream(|| on_accept(vec![Step::Rst]))
            .cluster(tls::any())
            .then(Outcome::new("UF/-", "UF/503", "unreachable")),
        Case::once("reset_on_accept")
            .upstream(|| on_accept(vec![Step::Rst]))
            // Which of the two depends on whether Envoy saw the connection before its reset.
            .then(Outcome::new("UC/-", "UC/503", "reset"))
            .then(Outcome::new("UF/-", "UF/503", "unreachable")),
        fresh("reset_fresh", Step::Rst),
        fresh("close_fresh", Step::Fin),
        reused("reset_reused", |_| vec![Step::Rst]),
        reused("close_reused", |_| vec![Step::Fin]),
        Case::once("error_while_uploading")
            .upstream(|| {
                http1_on_headers(|_| [answer(503, &[("connection", "close")], "no"), vec![Step::Close]].concat())
            })
            .visit(|scene| {
                let request = Request::post(&scene.case.path()).body(vec![b'x'; 1 << 20]);
                scene.exchange(&request).map(drop)
            })
            // Which of the two depends on whether Envoy read the answer before it wrote into the closed connection.
            .then(Outcome::new("-/503", "-/503", "error"))
            .then(Outcome::new("UC/-", "UC/503", "reset"))
            // The answer, but the upload broke before it was delivered.
            .then(Outcome::new("UC/503", "UC/503", "truncated")),
        Case::once("garbage")
            .upstream(|| http1(|_| vec![Step::Send(b"what is this?\r\n\r\n".to_vec()), Step::Hang]))
            .then(Outcome::new("UPE/-", "UPE/502", "reset").details("protocol_error")),
        cut("reset_in_body", LENGTH, Step::Rst),
        cut("close_in_body", LENGTH, Step::Fin),
        cut("reset_in_chunks", CHUNKS, Step::Rst),
        cut("close_in_chunks", CHUNKS, Step::Fin),
    ]
}

const LENGTH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart";
const CHUNKS: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n";

fn fresh(name: &'static str, end: Step) -> Case {
    Case::once(name)
        .upstream(move || {
            let end = end.clone();
            http1(move |_| vec![end.clone()])
        })
        .visit(|scene| scene.post().map(drop))
        .then(Outcome::new("UC/-", "UC/503", "reset").details("connection_termination").seen(&[1]))
}

fn reused(name: &'static str, end: fn(&Seen) -> Vec<Step>) -> Case {
    let upstream = move || http1(move |request| if request.number == 0 { answer(200, &[], "") } else { end(request) });
    Case::once(name)
        .upstream(upstream)
        .visit(|scene| {
            let mut connection = scene.connect()?;
            connection.exchange(&Request::post(&scene.case.path()))?;
            connection.exchange(&Request::post(&scene.case.path()))?;
            let connections = scene.upstreams[0].seen().iter().map(|request| request.connection).max();
            anyhow::ensure!(connections == Some(0), "the second request came on a connection of its own");
            Ok(())
        })
        .then(Outcome::new("-/200 UC/-", "-/200 UC/503", "answered reset").seen(&[2]))
}

/// Ends in the middle of a body, once the client has its headers: a reset may overtake what was sent before it.
fn cut(name: &'static str, head: &'static str, end: Step) -> Case {
    let upstream = move || -> Upstream {
        let steps = vec![Step::Send(head.into()), Step::Gate, end.clone()];
        http1(move |_| steps.clone())
    };
    Case::once(name)
        .upstream(upstream)
        .visit(visit_gate)
        .then(Outcome::new("UPE/200", "UPE/200", "truncated").details("after_response_started"))
}

/// Lets the upstream go on once the response's headers have arrived.
pub fn visit_gate(scene: &Scene<'_>) -> anyhow::Result<()> {
    let mut connection = scene.connect()?;
    connection.send(&Request::get(&scene.case.path()))?;
    let mut response = connection.read_head()?;
    scene.upstreams[0].open_gate();
    connection.read_body(&mut response)?;
    anyhow::ensure!(!response.complete, "the body was to be cut");
    Ok(())
}
