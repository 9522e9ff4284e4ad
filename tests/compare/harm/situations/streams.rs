//! Responses that go on: WebSockets, server-sent events, gRPC streams.

use serde_json::json;

use super::super::measure::Measure;
use super::super::replica::{APART, ASKS, LASTS, Mood, PARTS, TAKES};
use super::super::situation::{Act, Load, Situation};

pub fn all() -> Vec<Situation> {
    vec![
        Situation::new("websockets-short", "WebSocket sessions of 0.3 s that healthy servers close, 25 a second.")
            .load(Load::web_sockets(25).asks(LASTS, 300))
            .setup(|setup| {
                setup.upgrades("websocket");
                Ok(())
            })
            .seconds(8.0)
            .slow_after(3000),
        Situation::new(
            "websockets-close-handshake",
            "WebSocket sessions of 0.3 s that end with a closing handshake, 25 a second.",
        )
        .load(Load::web_sockets(25).asks(LASTS, 300).asks(PARTS, 1))
        .setup(|setup| {
            setup.upgrades("websocket");
            Ok(())
        })
        .seconds(8.0)
        .slow_after(3000),
        Situation::new("websockets-idle", "WebSocket sessions that reach the idle timeout of a second, among GETs.")
            .load(Load::web_sockets(20))
            .load(Load::get(40))
            .setup(|setup| {
                setup.upgrades("websocket");
                setup.manager()["stream_idle_timeout"] = json!("1s");
                Ok(())
            })
            .seconds(8.0)
            .slow_after(2500),
        bursts(),
        Situation::new(
            "websockets-one-refuses",
            "Nothing but WebSocket sessions of a second, and one of four replicas refuses.",
        )
        .load(Load::web_sockets(20).asks(LASTS, 1000))
        .setup(|setup| {
            setup.upgrades("websocket");
            Ok(())
        })
        .down(0, 2.0..6.0)
        .seconds(8.0)
        .slow_after(2500),
        Situation::new(
            "websockets-one-restarts",
            "One of four replicas dies with its long WebSocket sessions, and comes back.",
        )
        .load(Load::web_sockets(20).asks(LASTS, 3000))
        .setup(|setup| {
            setup.upgrades("websocket");
            Ok(())
        })
        .down(0, 3.0..4.0)
        .down(1, 5.0..6.0)
        .seconds(8.0)
        .slow_after(4500),
        Situation::new("events-one-dies", "60 clients of nothing but server-sent events; one of four replicas dies.")
            .load(Load::watchers(60).asks(PARTS, 1000).asks(APART, 200))
            .setup(no_timeout)
            .down(0, 4.0..20.0)
            .seconds(9.0),
        Situation::new("events-servers-end", "60 clients of event streams that healthy servers end after 0.6 s.")
            .load(Load::watchers(60).asks(PARTS, 3).asks(APART, 200))
            .setup(no_timeout),
        Situation::new("events-break", "Event streams of which one of four replicas breaks each after its first part.")
            .load(Load::watchers(30).asks(PARTS, 20).asks(APART, 100))
            .load(Load::get(40))
            .setup(no_timeout)
            .mood(0, Mood::Cuts, 1.0..5.0),
        Situation::new(
            "events-idle",
            "Event streams that fall silent and reach the idle timeout of a second, among GETs.",
        )
        .load(Load::watchers(30).asks(PARTS, 3).asks(APART, 5000))
        .load(Load::get(40))
        .setup(|setup| {
            setup.manager()["stream_idle_timeout"] = json!("1s");
            no_timeout(setup)
        })
        .measure(Measure::Starved),
        Situation::new(
            "events-max-duration",
            "Event streams that Envoy ends after a second (max_stream_duration), among GETs.",
        )
        .load(Load::watchers(30).asks(PARTS, 50).asks(APART, 100))
        .load(Load::get(40))
        .setup(|setup| {
            setup.action(&json!({"timeout": "0s", "max_stream_duration": {"max_stream_duration": "1s"}}));
            Ok(())
        })
        .measure(Measure::Starved),
        Situation::new("events-clients-leave", "Clients leave event streams after 0.3 s, among GETs.")
            .load(Load::get(30).asks(PARTS, 50).asks(APART, 100).patience(300).not_judged())
            .load(Load::get(30))
            .setup(no_timeout)
            .measure(Measure::Starved)
            .short(),
        Situation::new("websockets-denied", "Every second upgrade to WebSocket is answered 403.")
            .load(Load::web_sockets(15).asks(LASTS, 300).asks(PARTS, 1))
            .load(Load::web_sockets(15).asks(ASKS, 403).expects(403))
            .setup(|setup| {
                setup.upgrades("websocket");
                Ok(())
            })
            .slow_after(3000),
        Situation::new(
            "grpc-streams-one-dies",
            "gRPC server streams of 3 s over HTTP/2, 15 a second; one of four replicas dies.",
        )
        .load(Load::grpc(15).asks(PARTS, 15).asks(APART, 200))
        .setup(|setup| {
            setup.http2();
            no_timeout(setup)
        })
        .down(0, 4.0..6.0)
        .seconds(8.0)
        .slow_after(5000),
        Situation::new(
            "grpc-streams-goaway",
            "gRPC streams of 0.5 s over connections that servers end in order after a second.",
        )
        .load(Load::grpc(20).asks(PARTS, 5).asks(APART, 100))
        .setup(|setup| {
            setup.http2();
            no_timeout(setup)
        })
        .connections_last(1000)
        .slow_after(2500),
        Situation::new("long-polls", "Long polls, each answered after 5 s, and one of four replicas restarts.")
            .load(Load::get(20).asks(TAKES, 5000).patience(12_000))
            .down(0, 4.0..5.0)
            .seconds(8.0)
            .slow_after(11_500),
    ]
}

fn no_timeout(setup: &mut super::super::setup::Setup) -> anyhow::Result<()> {
    setup.action(&json!({"timeout": "0s"}));
    Ok(())
}

/// Fifteen sessions and more, for each burst.
fn bursts() -> Situation {
    let situation = Situation::new(
        "websockets-end-in-bursts",
        "Among GETs, a healthy server ends all its WebSocket sessions at once, in order, five times.",
    );
    let situation = situation
        .load(Load::web_sockets(30).asks(LASTS, 30_000).patience(20_000))
        .load(Load::get(40))
        .setup(|setup| {
            setup.upgrades("websocket");
            Ok(())
        })
        .measure(Measure::Starved)
        .seconds(12.0)
        .at(12.3, Act::EndSessions(1))
        .at(12.4, Act::EndSessions(2))
        .at(12.5, Act::EndSessions(3))
        .slow_after(13_500);
    [2.0, 4.0, 6.0, 8.0, 10.0, 12.2].into_iter().fold(situation, |situation, at| situation.at(at, Act::EndSessions(0)))
}
