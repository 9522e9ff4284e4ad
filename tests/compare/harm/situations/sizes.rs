//! The same kinds at other loads and sizes, and what a cluster does by itself: hand over to other hosts, or spare one that is cold.

use std::time::Duration;

use serde_json::json;

use super::super::measure::Measure;
use super::super::replica::Mood;
use super::super::situation::{Act, Load, Situation};

pub fn all() -> Vec<Situation> {
    vec![
        Situation::new("five-a-second-half-down", "Five requests a second, and two of four replicas refuse.")
            .load(Load::get(3))
            .load(Load::post(2))
            .down(0, 2.0..8.0)
            .down(1, 3.0..9.0)
            .seconds(10.0),
        Situation::new("three-replicas-two-down", "Two of three replicas refuse.")
            .hosts(3)
            .load(Load::get(30))
            .load(Load::post(10))
            .down(0, 2.0..5.0)
            .down(1, 2.5..5.5)
            .seconds(7.0),
        (0..10)
            .fold(Situation::new("ten-of-thirty-down", "Ten of thirty replicas refuse."), |situation, host| {
                situation.down(3 * host, 2.0..5.0)
            })
            .hosts(30)
            .load(Load::get(40))
            .load(Load::post(20))
            .seconds(7.0),
        Situation::new("burst-after-quiet", "Forty requests at once every two seconds, and none between; one of four replicas dies meanwhile.")
            .load(Load::get(12).at_once(24))
            .load(Load::post(8).at_once(16))
            .down(0, 3.0..20.0)
            .seconds(9.0),
        Situation::new("very-cold-after-restart", "Two of four replicas restart, and take 2 s for each request of their first second.")
            .load(Load::get(30))
            .load(Load::post(10))
            .down(0, 1.0..2.0)
            .mood(0, Mood::Slow(Duration::from_secs(2)), 2.0..3.0)
            .down(1, 3.5..4.5)
            .mood(1, Mood::Slow(Duration::from_secs(2)), 4.5..5.5)
            .seconds(7.0),
        spills_to_second_priority(),
        (0..4)
            .fold(
                Situation::new("four-of-first-priority-down", "All four replicas are down, and health checks hand over to two of a lower priority."),
                |situation, host| situation.down(host, 2.0..20.0),
            )
            .hosts(6)
            .load(Load::get(40))
            .setup(|setup| {
                setup.priorities(&[4, 2]);
                setup.health_checks();
                Ok(())
            })
            .seconds(6.0),
        Situation::new("panic-at-100", "Envoy's panic threshold is 100 percent, so it asks replicas that fail health checks as well; two of four refuse.")
            .load(Load::get(30))
            .load(Load::post(10))
            .down(0, 2.0..5.0)
            .down(1, 2.0..5.0)
            .setup(|setup| {
                setup.health_checks();
                setup.cluster(&json!({"common_lb_config": {"healthy_panic_threshold": {"value": 100}}}));
                Ok(())
            })
            .seconds(7.0),
        Situation::new("panic-at-0", "Envoy's panic threshold is 0; one of four replicas refuses, and two fail health checks, but still answer.")
            .load(Load::get(40))
            .down(0, 1.0..20.0)
            .at(2.0, Act::Mood(1, Mood::Unhealthy))
            .at(2.0, Act::Mood(2, Mood::Unhealthy))
            .setup(|setup| {
                setup.health_checks();
                setup.cluster(&json!({"common_lb_config": {"healthy_panic_threshold": {"value": 0}}}));
                Ok(())
            })
            .measure(Measure::Reached(1, 3.5))
            .measure(Measure::Reached(2, 3.5))
            .seconds(6.0),
    ]
}

/// Envoy sends what the first priority cannot take to the second; the replica that is left there should get no more of it.
fn spills_to_second_priority() -> Situation {
    Situation::new(
        "spills-to-second-priority",
        "Two of three replicas refuse, and health checks send half of the load to two of a lower priority.",
    )
    .hosts(5)
    .load(Load::get(50))
    .down(0, 2.0..20.0)
    .down(1, 2.0..20.0)
    .setup(|setup| {
        setup.priorities(&[3, 2]);
        setup.health_checks();
        Ok(())
    })
    .measure(Measure::Reached(2, 3.5))
    .seconds(7.0)
}
