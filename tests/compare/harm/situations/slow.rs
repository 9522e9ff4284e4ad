//! What takes long: by nature, since a replica hangs, or longer than clients wait.

use std::time::Duration;

use serde_json::json;

use super::super::measure::Measure;
use super::super::replica::{Mood, TAKES};
use super::super::situation::{Load, Situation};

pub fn all() -> Vec<Situation> {
    vec![
        by_nature("slow-by-nature", "One GET in twenty takes 1.5 s by nature; all is calm.", 57, 3).short(),
        by_nature(
            "slow-by-nature-one-out",
            "One GET in twenty takes 1.5 s by nature, and one of four replicas refuses.",
            57,
            3,
        )
        .down(0, 2.0..20.0),
        by_nature(
            "slow-fifth-one-out",
            "One GET in five takes 1.5 s by nature, and one of four replicas refuses.",
            40,
            10,
        )
        .down(0, 2.0..20.0),
        by_nature(
            "slow-fifth-one-restarts",
            "One GET in five takes 1.5 s by nature, and replicas restart in turn.",
            40,
            10,
        )
        .down(0, 2.0..3.0)
        .down(1, 4.0..5.0)
        .down(2, 6.0..7.0)
        // Whoever was with one that died begins again.
        .slow_after(3500),
        Situation::new("all-take-2s", "Every answer takes 2 s.")
            .load(Load::get(20).asks(TAKES, 2000))
            .load(Load::post(10).asks(TAKES, 2000))
            .measure(Measure::Repeated(0))
            .measure(Measure::Starved)
            .slow_after(3500)
            .short(),
        Situation::new("all-take-2s-one-out", "Every answer takes 2 s, and one of four replicas refuses.")
            .load(Load::get(20).asks(TAKES, 2000))
            .load(Load::post(10).asks(TAKES, 2000))
            .measure(Measure::Repeated(0))
            .down(0, 3.0..20.0)
            .seconds(8.0)
            .slow_after(3500),
        Situation::new(
            "becomes-slow",
            "Answers that took 3 ms take 0.8 s from one moment to the next, at all replicas.",
        )
        .load(Load::get(40))
        .load(Load::post(10))
        .all_in_mood(Mood::Slow(Duration::from_millis(800)), 3.0..20.0)
        .measure(Measure::Repeated(0))
        .measure(Measure::Starved)
        .slow_after(2000)
        .seconds(7.0),
        Situation::new("one-slows-down", "One of four replicas takes 0.4 s longer for 4 s.")
            .load(Load::get(40))
            .load(Load::post(10))
            .mood(0, Mood::Slow(Duration::from_millis(400)), 2.0..6.0)
            .seconds(7.0),
        Situation::new("one-hangs", "One of four replicas answers nothing for 4 s; the route's timeout is 3 s.")
            .load(Load::get(40))
            .load(Load::post(20))
            .mood(0, Mood::Hangs, 2.0..6.0)
            .seconds(8.0)
            .setup(|setup| {
                setup.action(&json!({"timeout": "3s"}));
                Ok(())
            }),
        Situation::new(
            "one-hangs-clients-leave",
            "One of four replicas answers nothing, and clients leave after a second.",
        )
        .load(Load::get(40).patience(1000))
        .load(Load::post(20).patience(1000))
        .mood(0, Mood::Hangs, 2.0..20.0)
        .seconds(8.0),
        Situation::new(
            "one-hangs-grpc-deadlines",
            "One of four gRPC replicas answers nothing, and calls are given up after a second.",
        )
        .load(Load::grpc(60).patience(1000))
        .mood(0, Mood::Hangs, 2.0..20.0)
        .setup(|setup| {
            setup.http2();
            Ok(())
        })
        .seconds(8.0),
        Situation::new(
            "one-hangs-decide-alone",
            "One of four replicas answers nothing, and only Weir's HTTP filter is attached.",
        )
        .load(Load::get(40).patience(1000))
        .load(Load::post(20).patience(1000))
        .mood(0, Mood::Hangs, 2.0..20.0)
        .setup(|setup| {
            setup.decide_alone();
            Ok(())
        })
        .seconds(8.0),
        Situation::new("all-time-out", "For 2 s nothing is answered within the route's timeout of a second.")
            .load(Load::get(30))
            .load(Load::post(10))
            .all_in_mood(Mood::Slow(Duration::from_secs(3)), 2.0..4.0)
            .setup(|setup| {
                setup.action(&json!({"timeout": "1s"}));
                Ok(())
            })
            .seconds(8.0)
            .slow_after(2000),
        Situation::new("one-path-times-out", "One path never answers within its timeout of 0.5 s; others are well.")
            .load(Load::get(6).path("/slow").asks(TAKES, 3000).not_judged())
            .load(Load::get(30))
            .load(Load::post(10))
            .setup(|setup| {
                setup.first_route(&json!({"match": {"prefix": "/slow"}, "route": {"timeout": "0.5s"}}));
                Ok(())
            })
            .measure(Measure::Starved)
            .seconds(8.0),
        Situation::new(
            "clients-leave-early",
            "Half of the clients leave after 50 ms of the 0.3 s that their answers take.",
        )
        .load(Load::get(30).asks(TAKES, 300).patience(50).not_judged())
        .load(Load::get(20).asks(TAKES, 300))
        .load(Load::post(10))
        .measure(Measure::Starved)
        .short(),
        Situation::new("clients-leave-one-restarts", "The same, while one of four replicas restarts.")
            .load(Load::get(30).asks(TAKES, 300).patience(50).not_judged())
            .load(Load::get(20).asks(TAKES, 300))
            .load(Load::post(10))
            .down(0, 2.0..3.5),
    ]
}

/// So many fast GETs a second, and so many that take long.
fn by_nature(name: &'static str, about: &'static str, fast: u64, slow: u64) -> Situation {
    Situation::new(name, about)
        .load(Load::get(fast))
        .load(Load::get(slow).path("/report").asks(TAKES, 1500))
        .measure(Measure::Repeated(1))
        .slow_after(2500)
        .seconds(10.0)
}
