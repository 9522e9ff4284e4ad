//! Which headers reach the upstream, and the client.

use super::{always, at_first};
use crate::case::{Case, Outcome};
use crate::support::client::Request;
use crate::support::upstream::{Seen, Step, answer};

pub fn cases() -> Vec<Case> {
    vec![
        // Clients shall not choose hosts.
        Case::under("default", "hosts_of_the_client")
            .upstream(always(answer(200, &[], "")))
            .visit(|scene| {
                let request =
                    Request::get(&scene.case.path()).header("X-Weir-Hosts", "127.0.0.1:1").header("x-other", "stays");
                scene.exchange(&request)?;
                let seen = scene.upstreams[0].seen().remove(0);
                anyhow::ensure!(seen.header("x-weir-hosts").is_none() && seen.header("x-other").is_some(), "{seen:?}");
                Ok(())
            })
            .then(Outcome::new("-/200", "-/200", "answered").seen(&[1])),
        Case::under("default", "hosts_of_the_client_on_retry")
            .upstream(at_first(vec![Step::Rst]))
            .visit(|scene| {
                scene.exchange(&Request::get(&scene.case.path()).header("x-weir-hosts", "127.0.0.1:1"))?;
                let leaked = scene.upstreams[0].seen().into_iter().find(|seen| seen.header("x-weir-hosts").is_some());
                anyhow::ensure!(leaked.is_none(), "{leaked:?}");
                Ok(())
            })
            .then(Outcome::new("UC/- -/200", "-/200", "reset answered").alone("answered").seen(&[2])),
        // What tells Envoy to retry is for Envoy.
        Case::under("default", "control_headers")
            .upstream(always(answer(200, &[], "")))
            .visit(|scene| {
                let response = scene.get()?;
                let seen = scene.upstreams[0].seen().remove(0);
                let control = |(name, _): &&(String, String)| {
                    let name = name.to_ascii_lowercase();
                    name.starts_with("x-weir") || name.starts_with("x-envoy-") && !ENVOYS_OWN.contains(&name.as_str())
                };
                let leaked: Vec<_> = seen.headers.iter().chain(&response.headers).filter(control).collect();
                anyhow::ensure!(leaked.is_empty(), "{leaked:?}");
                Ok(())
            })
            .then(Outcome::new("-/200", "-/200", "answered").seen(&[1])),
        // A client that Envoy does not trust cannot ask for retries.
        Case::under("default", "control_headers_of_the_client")
            .upstream(always(vec![Step::Rst]))
            .visit(|scene| {
                let request = Request::post(&scene.case.path())
                    .header("x-envoy-retry-on", "5xx,reset")
                    .header("x-envoy-max-retries", "5");
                scene.exchange(&request).map(drop)
            })
            .then(Outcome::new("UC/-", "UC/503", "reset").seen(&[1])),
        // The body goes with each attempt.
        Case::under("default", "body_on_retry")
            .upstream(at_first(vec![Step::Rst]))
            .visit(|scene| {
                let body = vec![b'x'; 100_000];
                let put = Request::new("PUT", &scene.case.path()).body(body.clone());
                scene.exchange(&put)?;
                let bodies: Vec<Seen> = scene.upstreams[0].seen();
                anyhow::ensure!(bodies.iter().all(|seen| seen.body == body), "another body");
                Ok(())
            })
            .then(Outcome::new("UC/- -/200", "-/200", "reset answered").alone("answered").seen(&[2])),
    ]
}

const ENVOYS_OWN: [&str; 3] =
    ["x-envoy-attempt-count", "x-envoy-expected-rq-timeout-ms", "x-envoy-upstream-service-time"];
