//! Replicas that are away for a while, one or several or all.

use std::time::Duration;

use super::super::super::support::{bootstrap, upstream};
use super::super::measure::Measure;
use super::super::replica::Mood;
use super::super::situation::{Load, Situation};

pub fn all() -> Vec<Situation> {
    vec![
        Situation::new("one-replica-restarts", "The only replica is away for 2 s, twice, at 100 requests a second.")
            .hosts(1)
            .load(Load::get(70))
            .load(Load::post(30))
            .down(0, 2.0..4.0)
            .down(0, 6.0..8.0)
            .seconds(10.0),
        Situation::new("two-replicas-both-down", "Both replicas are down for a second.")
            .hosts(2)
            .load(Load::get(30))
            .load(Load::post(10))
            .all_down(2.0..3.0),
        Situation::new("four-replicas-all-down", "All four replicas are down for 2 s.")
            .load(Load::get(30))
            .load(Load::post(10))
            .all_down(2.0..4.0)
            .seconds(7.0),
        Situation::new("all-down-for-long", "All four replicas are down for 6 s.")
            .load(Load::get(30))
            .load(Load::post(10))
            .all_down(2.0..8.0)
            .seconds(11.0),
        Situation::new("one-replica-seldom-asked", "One request a second, and the only replica is away for 2 s.")
            .hosts(1)
            .load(Load::get(1))
            .down(0, 5.5..7.5)
            .seconds(16.0),
        Situation::new("seldom-asked-one-of-four", "One request a second, and one of four replicas refuses.")
            .load(Load::get(1))
            .down(0, 2.5..30.0)
            .seconds(16.0)
            .measure(Measure::Starved),
        Situation::new("one-replica-resets", "The only replica resets each request for a second, and is well again.")
            .hosts(1)
            .load(Load::get(30))
            .load(Load::post(10))
            .mood(0, Mood::ResetsBefore, 2.0..3.0),
        Situation::new("one-replica-hangs", "The only replica answers nothing for 2 s, and then all of it.")
            .hosts(1)
            .load(Load::get(30))
            .load(Load::post(10))
            .mood(0, Mood::Hangs, 2.0..4.0)
            .seconds(7.0),
        Situation::new("one-of-two-down", "One of two replicas refuses for 3 s.")
            .hosts(2)
            .load(Load::get(30))
            .load(Load::post(10))
            .down(0, 2.0..5.0)
            .seconds(7.0)
            .short(),
        Situation::new("one-of-four-down", "One of four replicas refuses for 3 s.")
            .load(Load::get(30))
            .load(Load::post(10))
            .down(0, 2.0..5.0)
            .seconds(7.0)
            .measure(Measure::Starved)
            .short(),
        (0..25)
            .fold(Situation::new("half-of-fifty-down", "25 of 50 replicas refuse for 3 s."), |situation, host| {
                situation.down(host, 2.0..5.0)
            })
            .hosts(50)
            .load(Load::get(50))
            .load(Load::post(20))
            .seconds(7.0),
        Situation::new("one-of-fifty-down", "One of 50 replicas refuses for 3 s.")
            .hosts(50)
            .load(Load::get(50))
            .load(Load::post(20))
            .down(7, 2.0..5.0)
            .seconds(7.0)
            .short(),
        (0..6)
            .fold(
                Situation::new("one-flaps", "One of four replicas is up for 0.4 s and down for 0.6 s, time and again."),
                |situation, turn| situation.down(0, 1.0 + turn as f64..1.6 + turn as f64),
            )
            .load(Load::get(30))
            .load(Load::post(10))
            .seconds(8.0)
            .short(),
        Situation::new("starts-before-its-service", "All four replicas are down for the first 2 s of Envoy's life.")
            .load(Load::get(30))
            .load(Load::post(10))
            .all_down(0.0..2.0),
        Situation::new(
            "one-unreachable",
            "Nothing comes back from one of four replicas, so that connecting to it times out.",
        )
        .load(Load::get(30))
        .load(Load::post(10))
        .setup(|setup| {
            // Until the end of the process.
            let unreachable = Box::leak(Box::new(upstream::full_backlog()));
            setup.hosts[0] = bootstrap::address(unreachable.address);
            let assignment = setup.assignment(setup.every_host());
            setup.clusters[0]["load_assignment"] = assignment;
            Ok(())
        })
        .seconds(7.0),
        Situation::new("restarts-in-turn", "Four replicas restart one after the other, each away for a second.")
            .load(Load::get(30))
            .load(Load::post(10))
            .down(0, 1.0..2.0)
            .down(1, 2.5..3.5)
            .down(2, 4.0..5.0)
            .down(3, 5.5..6.5)
            .seconds(8.0),
        Situation::new("cold-after-restart", "A replica restarts, and is slow by 0.4 s for 2 s thereafter.")
            .load(Load::get(30))
            .load(Load::post(10))
            .down(0, 1.0..2.0)
            .mood(0, Mood::Slow(Duration::from_millis(400)), 2.0..4.0)
            .seconds(7.0),
        Situation::new(
            "resets-after-work",
            "One of four replicas does what is asked and resets the connection, for 3 s.",
        )
        .load(Load::get(30))
        .load(Load::post(20))
        .mood(0, Mood::ResetsAfter, 2.0..5.0)
        .seconds(7.0),
    ]
}
