//! What HTTP can do and what Envoy can be told, in calm weather and while a replica is out.

use std::time::Duration;

use http::Method;
use serde_json::json;

use super::super::measure::Measure;
use super::super::replica::{ASKS, CLOSES, GRPC, Mood, TAKES};
use super::super::setup::Setup;
use super::super::situation::{Load, Situation};

const MEGABYTE: usize = 1 << 20;

pub fn all() -> Vec<Situation> {
    vec![
        Situation::new("calm", "Nothing happens, at 100 requests a second.")
            .load(Load::get(70))
            .load(Load::post(30))
            .measure(Measure::Starved)
            .short(),
        Situation::new("methods-one-down", "HEAD, OPTIONS, PUT, PATCH and DELETE, and one of four replicas refuses.")
            .load(Load::method(8, Method::HEAD))
            .load(Load::method(8, Method::OPTIONS))
            .load(Load::method(8, Method::PUT).body(1000))
            .load(Load::method(8, Method::PATCH).body(1000))
            .load(Load::method(8, Method::DELETE))
            .down(0, 2.0..4.0)
            .short(),
        Situation::new("chunked-bodies-one-down", "POSTs and PUTs of 100 KB in chunks, and one of four replicas refuses.")
            .load(Load::post(15).chunked(100_000))
            .load(Load::method(15, Method::PUT).chunked(100_000))
            .down(0, 2.0..4.0)
            .short(),
        Situation::new("uploads", "POSTs of 2 MB.").load(Load::post(3).body(2 * MEGABYTE)).slow_after(2000).short(),
        Situation::new("uploads-one-down", "PUTs and POSTs of 2 MB, and one of four replicas refuses.")
            .load(Load::method(3, Method::PUT).body(2 * MEGABYTE))
            .load(Load::post(3).body(2 * MEGABYTE))
            .down(0, 2.0..5.0)
            .slow_after(2000),
        Situation::new("tunnels-one-down", "HTTP CONNECT, and one of four replicas refuses.")
            .load(Load::tunnels(15))
            .load(Load::get(20))
            .setup(tunnels)
            .down(0, 2.0..4.0),
        Situation::new("http2-one-down", "HTTP/2 to the replicas, of which one refuses.")
            .load(Load::get(40))
            .load(Load::post(20))
            .setup(http2)
            .down(0, 2.0..5.0)
            .seconds(7.0)
            .short(),
        Situation::new("http2-goaway", "HTTP/2 to replicas that end their connections in order after a second.")
            .load(Load::get(40))
            .load(Load::post(20))
            .setup(http2)
            .connections_last(1000)
            .short(),
        Situation::new("grpc-one-down", "Unary gRPC calls, and one of four replicas refuses.")
            .load(Load::grpc(50))
            .setup(http2)
            .down(0, 2.0..5.0)
            .seconds(7.0)
            .short(),
        Situation::new("grpc-one-restarts", "Unary gRPC calls of 0.2 s, and one of four replicas dies with those that it has.")
            .load(Load::grpc(50).asks(TAKES, 200))
            .setup(http2)
            .down(0, 2.0..3.0),
        Situation::new("grpc-errors", "A third of the gRPC calls is answered UNAVAILABLE, by whatever replica; the others are well.")
            .load(Load::grpc(15).asks(GRPC, 14).not_judged())
            .load(Load::grpc(30))
            .setup(http2)
            .measure(Measure::Starved),
        Situation::new("connections-close", "Replicas end the connection after each response.")
            .load(Load::get(40).asks(CLOSES, "yes"))
            .load(Load::post(20).asks(CLOSES, "yes"))
            .short(),
        Situation::new("keep-alive-race", "Replicas drop connections that were idle for 0.2 s, when a request comes.")
            .load(Load::get(4))
            .load(Load::post(4))
            .all_in_mood(Mood::ForgetsIdle(Duration::from_millis(200)), 0.5..20.0)
            .seconds(10.0),
        balanced("least-request-one-down", "Least request, and one of four replicas refuses.").setup(|setup| {
            setup.balancer("least_request", "LeastRequest");
            Ok(())
        }),
        balanced("random-one-down", "Random, and one of four replicas refuses.").setup(|setup| {
            setup.balancer("random", "Random");
            Ok(())
        }),
        Situation::new("envoy-limit-reached", "A third of the requests finds Envoy's own limit of parallel requests reached.")
            .load(Load::get(60).asks(TAKES, 150))
            .setup(|setup| {
                setup.limits(&json!({"max_requests": 6}));
                Ok(())
            })
            .seconds(8.0),
        Situation::new("faults-injected", "A fault filter answers 503 to a fifth of the requests, before any replica; others are well.")
            .load(Load::get(10).asks("x-fault", "yes").expects(503).not_judged())
            .load(Load::get(30))
            .load(Load::post(10))
            .setup(|setup| {
                setup.filter(json!({"name": "fault", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                    "headers": [{"name": "x-fault", "present_match": true}],
                    "abort": {"http_status": 503, "percentage": {"numerator": 100}},
                }}));
                Ok(())
            })
            .measure(Measure::Starved),
        Situation::new("session-cookies-one-out", "Envoy's stateful_session keeps users on their replica, and one of four refuses.")
            .load(Load::get(60).users(200))
            .measure(Measure::Moved(5.0))
            .down(0, 5.0..20.0)
            .seconds(10.0)
            .setup(|setup| {
                setup.filter(json!({"name": "sessions", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
                    "session_state": {"name": "envoy.http.stateful_session.cookie", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState",
                        "cookie": {"name": "session", "path": "/", "ttl": "120s"},
                    }},
                }}));
                Ok(())
            }),
        Situation::new("reasons", "What fails: POSTs that are reset, PUTs too big to repeat, a path over its timeout.")
            .load(Load::post(10).path("/reset").asks(ASKS, 1))
            .load(Load::method(3, Method::PUT).path("/reset").asks(ASKS, 1).body(2 * MEGABYTE))
            .load(Load::get(3).path("/slow").asks(TAKES, 2000))
            .load(Load::get(10))
            .setup(|setup| {
                setup.first_route(&json!({"match": {"prefix": "/slow"}, "route": {"timeout": "0.5s"}}));
                Ok(())
            })
            .measure(Measure::Unexplained)
            .slow_after(5000),
    ]
}

fn http2(setup: &mut Setup) -> anyhow::Result<()> {
    setup.http2();
    Ok(())
}

fn balanced(name: &'static str, about: &'static str) -> Situation {
    Situation::new(name, about).load(Load::get(30)).load(Load::post(10)).down(0, 2.0..5.0).seconds(7.0).short()
}

fn tunnels(setup: &mut Setup) -> anyhow::Result<()> {
    setup.upgrades("CONNECT");
    let mut route = json!({"route": {"upgrade_configs": [{"upgrade_type": "CONNECT", "connect_config": {}}]}});
    route["match"] = json!({"connect_matcher": {}});
    setup.first_route(&route);
    if let Some(first) = setup.route()["match"].as_object_mut() {
        first.remove("prefix");
    }
    Ok(())
}
