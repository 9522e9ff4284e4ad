//! Replicas that fail in part, connections that are few or short, requests that come in bursts, and clusters made of clusters.

use serde_json::{Value, json};

use super::super::super::support::bootstrap;
use super::super::measure::Measure;
use super::super::replica::{APART, BYTES, Mood, PARTS, TAKES};
use super::super::setup::Setup;
use super::super::situation::{Act, Load, Situation};

pub fn all() -> Vec<Situation> {
    vec![
        Situation::new(
            "bursts-all-down",
            "A hundred requests at once every three seconds, and none between; all four replicas are down for one of them.",
        )
        .load(Load::get(33).at_once(99))
        .all_down(2.0..4.0)
        .seconds(8.0)
        .slow_after(2000),
        Situation::new(
            "graceful-restart-seldom-asked",
            "Five requests a second, and each of two replicas restarts in turn, out of EDS meanwhile.",
        )
        .hosts(2)
        .load(Load::get(3))
        .load(Load::post(2))
        .setup(|setup| setup.eds())
        .members(1.0, [1])
        .at(1.5, Act::Down(0))
        .at(2.5, Act::Up(0))
        .members(3.0, 0..2)
        .members(4.0, [0])
        .at(4.5, Act::Down(1))
        .at(5.5, Act::Up(1))
        .members(6.0, 0..2)
        .seconds(8.0),
        Situation::new("one-says-503-on-a-path", "One of four replicas answers 503 on one path of ten.")
            .load(Load::get(4).path("/broken"))
            .load(Load::get(26))
            .load(Load::post(10))
            .mood(0, Mood::SaysAt("/broken", 503), 1.0..20.0)
            .measure(Measure::Starved)
            .seconds(7.0),
        Situation::new("one-resets-half", "One of four replicas resets the connection for half of its requests.")
            .load(Load::get(30))
            .load(Load::post(10))
            .mood(0, Mood::ResetsSome(50), 1.0..20.0)
            .seconds(7.0),
        Situation::new("all-reset-some", "Each replica resets one request in ten, and not the same ones as another.")
            .load(Load::get(30))
            .load(Load::post(10))
            .all_in_mood(Mood::ResetsSome(10), 1.0..20.0)
            .measure(Measure::Starved)
            .seconds(7.0),
        Situation::new("grpc-one-internal", "One of four gRPC replicas answers INTERNAL.")
            .load(Load::grpc(40))
            .mood(0, Mood::Says(200, Some(("grpc-status", "13"))), 1.0..20.0)
            .setup(|setup| {
                setup.http2();
                Ok(())
            })
            .seconds(7.0),
        Situation::new("big-answers-break", "One of four replicas breaks off what it answers, after a tenth of 200 KB.")
            .load(Load::get(20).asks(PARTS, 10).asks(APART, 5).asks(BYTES, 20_000))
            .load(Load::get(20))
            .mood(0, Mood::Cuts, 1.0..20.0)
            .seconds(7.0),
        Situation::new("connections-short", "Replicas end their HTTP/1 connections in order after 0.1 s, and one of four refuses.")
            .load(Load::get(40))
            .load(Load::post(20))
            .connections_last(100)
            .down(0, 2.0..4.0)
            .seconds(7.0),
        Situation::new("connections-few", "Envoy allows eight connections and four requests in wait, and one of four replicas refuses.")
            .load(Load::get(30).asks(TAKES, 100))
            .setup(|setup| {
                setup.limits(&json!({"max_connections": 8, "max_pending_requests": 4}));
                Ok(())
            })
            .down(0, 2.0..4.0)
            .seconds(7.0),
        Situation::new("requests-in-wait-overflow", "Forty requests a second of 0.2 s find four connections and one place to wait.")
            .load(Load::get(40).asks(TAKES, 200))
            .setup(|setup| {
                setup.limits(&json!({"max_connections": 4, "max_pending_requests": 1}));
                Ok(())
            })
            .seconds(7.0),
        Situation::new("tls-one-fails", "With one of four replicas no TLS handshake succeeds.")
            .load(Load::get(30))
            .load(Load::post(10))
            .setup(tls_to_the_first),
        Situation::new("added-cold", "EDS adds two replicas to four, which reset what comes in their first 2 s.")
            .hosts(6)
            .load(Load::get(30))
            .load(Load::post(10))
            .setup(|setup| setup.eds())
            .members(0.0, 0..4)
            .members(2.0, 0..6)
            .mood(4, Mood::ResetsBefore, 1.0..4.0)
            .mood(5, Mood::ResetsBefore, 1.0..4.0)
            .seconds(7.0),
        Situation::new("clusters-share-a-host", "Two clusters of three replicas share one that refuses.")
            .hosts(5)
            .load(Load::get(20).path("/other"))
            .load(Load::get(20))
            .load(Load::post(10))
            .down(0, 2.0..5.0)
            .setup(|setup| {
                let name = format!("{}--other", setup.name);
                let mut other = setup.clusters[0].clone();
                other["name"] = json!(name);
                other["load_assignment"] = setup.assignment(vec![(0, ""), (1, ""), (2, "")]);
                setup.clusters[0]["load_assignment"] = setup.assignment(vec![(0, ""), (3, ""), (4, "")]);
                setup.clusters.push(other);
                setup.first_route(&json!({"match": {"prefix": "/other"}, "route": {"cluster": name}}));
                Ok(())
            })
            .seconds(7.0),
        Situation::new("aggregate-one-down", "An aggregate cluster of two clusters, and one of two replicas of the first refuses.")
            .load(Load::get(30))
            .load(Load::post(10))
            .setup(aggregate)
            .down(0, 2.0..4.0)
            .seconds(6.0),
    ]
}

/// The replicas speak no TLS, and Envoy does with the first of them.
fn tls_to_the_first(setup: &mut Setup) -> anyhow::Result<()> {
    let socket = |name: &str, kind: &str, matched: Value| {
        json!({"name": name, "match": matched, "transport_socket": {
            "name": format!("envoy.transport_sockets.{name}"),
            "typed_config": {"@type": format!("type.googleapis.com/envoy.extensions.transport_sockets.{name}.v3.{kind}")},
        }})
    };
    let tls = socket("tls", "UpstreamTlsContext", json!({"tls": "yes"}));
    setup.cluster(&json!({"transport_socket_matches": [tls, socket("raw_buffer", "RawBuffer", json!({}))]}));
    setup.clusters[0]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["metadata"] =
        json!({"filter_metadata": {"envoy.transport_socket_match": {"tls": "yes"}}});
    Ok(())
}

/// The first half of the replicas, and the second where health checks find none of the first.
fn aggregate(setup: &mut Setup) -> anyhow::Result<()> {
    setup.health_checks();
    let half = setup.hosts.len() / 2;
    let names = ["first", "second"].map(|part| format!("{}--{part}", setup.name));
    for (number, name) in names.iter().enumerate() {
        let mut part = setup.clusters[0].clone();
        part["name"] = json!(name);
        part["load_assignment"] =
            setup.assignment((number * half..(number + 1) * half).map(|host| (host, "")).collect());
        setup.clusters.push(part);
    }
    let mut whole = json!({"name": setup.name, "connect_timeout": "0.5s", "lb_policy": "CLUSTER_PROVIDED", "cluster_type": {
        "name": "envoy.clusters.aggregate",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig",
            "clusters": names,
        },
    }});
    if let Some(options) = setup.clusters[0].get("typed_extension_protocol_options") {
        bootstrap::merge(&mut whole, &json!({"typed_extension_protocol_options": options}));
    }
    setup.clusters[0] = whole;
    Ok(())
}
