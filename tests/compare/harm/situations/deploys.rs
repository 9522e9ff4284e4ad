//! Hosts that come and go, and what says so: the control plane, health checks, outlier detection, priorities.

use serde_json::json;

use super::super::measure::Measure;
use super::super::replica::Mood;
use super::super::situation::{Act, Load, Situation};

pub fn all() -> Vec<Situation> {
    vec![
        drains("draining-while-one-out", "EDS says that a replica is DRAINING, while another one refuses.", "DRAINING"),
        drains("unhealthy-while-one-out", "EDS says that a replica is UNHEALTHY, while another one refuses.", "UNHEALTHY"),
        discovered("removed-while-one-out", "EDS takes a replica away that still answers, while another one refuses.")
            .down(0, 1.0..20.0)
            .members(3.0, [0, 2, 3])
            .measure(Measure::Reached(1, 4.0)),
        (0..4)
            .fold(
                discovered("rolling-deploy-graceful", "Four replicas are replaced in turn; each is taken out of EDS before it ends."),
                |situation, turn| {
                    let at = 1.0 + 1.5 * turn as f64;
                    situation.members(at, turn + 1..turn + 5).at(at + 1.0, Act::Down(turn))
                },
            )
            .hosts(8)
            .members(0.0, 0..4)
            .seconds(8.0)
            .short(),
        (0..4)
            .fold(
                discovered("rolling-deploy-abrupt", "Four replicas are replaced in turn; each ends a second before EDS says so."),
                |situation, turn| {
                    let at = 1.0 + 1.5 * turn as f64;
                    situation.at(at, Act::Down(turn)).members(at + 1.0, turn + 1..turn + 5)
                },
            )
            .hosts(8)
            .members(0.0, 0..4)
            .seconds(8.0),
        come_and_go("hosts-come-and-go", "Each second EDS takes a replica out and brings another in; all are well.").short(),
        come_and_go("come-and-go-one-out", "The same, while one replica refuses.").down(0, 1.0..20.0),
        discovered("blue-green", "EDS replaces all four replicas at once, and the old ones end.")
            .hosts(8)
            .members(0.0, 0..4)
            .members(3.0, 4..8)
            .at(3.5, Act::Down(0))
            .at(3.5, Act::Down(1))
            .at(3.5, Act::Down(2))
            .at(3.5, Act::Down(3))
            .short(),
        discovered("blue-green-abrupt", "All four replicas end at once, and a second later EDS names four others.")
            .hosts(8)
            .members(0.0, 0..4)
            .at(3.0, Act::Down(0))
            .at(3.0, Act::Down(1))
            .at(3.0, Act::Down(2))
            .at(3.0, Act::Down(3))
            .members(4.0, 4..8),
        discovered("scaled-to-zero", "For 2 s EDS says that there are no replicas.").members(2.0, []).members(4.0, 0..4),
        discovered("scaled-up", "One replica becomes four.").members(0.0, [0]).members(3.0, 0..4).short(),
        Situation::new("health-checks-eject", "A replica fails Envoy's health checks and still answers, while another one refuses.")
            .load(Load::get(40))
            .down(0, 1.0..20.0)
            .at(2.0, Act::Mood(1, Mood::Unhealthy))
            .setup(|setup| {
                setup.health_checks();
                Ok(())
            })
            .measure(Measure::Reached(1, 3.5))
            .seconds(7.0),
        Situation::new("outlier-detection-beside", "Envoy's own outlier detection is on as well, and one of four replicas refuses.")
            .load(Load::get(30))
            .load(Load::post(10))
            .down(0, 2.0..5.0)
            .setup(|setup| {
                setup.cluster(&json!({"outlier_detection": {
                    "consecutive_5xx": 5, "interval": "1s", "base_ejection_time": "1s", "max_ejection_percent": 50,
                }}));
                Ok(())
            })
            .seconds(7.0),
        Situation::new("second-priority-unused", "Two replicas, and two of a lower priority; one of the first two refuses.")
            .load(Load::get(40))
            .down(0, 2.0..5.0)
            .setup(|setup| {
                setup.priorities(&[2, 2]);
                Ok(())
            })
            .measure(Measure::Reached(2, 0.0))
            .measure(Measure::Reached(3, 0.0))
            .seconds(7.0),
        Situation::new("second-priority-takes-over", "Both replicas are down, and health checks hand over to two of a lower priority.")
            .load(Load::get(40))
            .down(0, 2.0..5.0)
            .down(1, 2.0..5.0)
            .setup(|setup| {
                setup.priorities(&[2, 2]);
                setup.health_checks();
                Ok(())
            })
            .seconds(7.0),
        Situation::new("light-canary", "A canary has a weight of 1 beside three of 20, and one of the three refuses.")
            .load(Load::get(60))
            .down(0, 1.0..20.0)
            .setup(|setup| {
                for (host, weight) in [20, 20, 20, 1].into_iter().enumerate() {
                    setup.clusters[0]["load_assignment"]["endpoints"][0]["lb_endpoints"][host]["load_balancing_weight"] =
                        json!(weight);
                }
                Ok(())
            })
            .measure(Measure::Reached(3, 2.0)),
        Situation::new("canary-cluster", "A route sends one request in ten to a canary's cluster, where all is 500.")
            // Each tenth, and not one in ten by chance: both sides have as many.
            .load(Load::get(45))
            .load(Load::get(5).asks("x-canary", 1))
            .mood(3, Mood::Says(500, None), 1.0..20.0)
            .setup(|setup| {
                let canary_name = format!("{}--canary", setup.name);
                let mut canary = setup.clusters[0].clone();
                canary["name"] = json!(canary_name);
                canary["load_assignment"] = setup.assignment(vec![(3, "")]);
                setup.clusters[0]["load_assignment"] = setup.assignment(vec![(0, ""), (1, ""), (2, "")]);
                setup.clusters.push(canary);
                setup.first_route(&json!({
                    "match": {"prefix": "/", "headers": [{"name": "x-canary", "present_match": true}]},
                    "route": {"cluster": canary_name},
                }));
                Ok(())
            }),
    ]
}

/// Hosts come from EDS.
fn discovered(name: &'static str, about: &'static str) -> Situation {
    Situation::new(name, about).load(Load::get(30)).load(Load::post(10)).setup(|setup| setup.eds())
}

/// From the update on, next to nothing may reach the second replica.
fn drains(name: &'static str, about: &'static str, health: &'static str) -> Situation {
    discovered(name, about)
        .down(0, 1.0..20.0)
        .at(3.0, Act::Members(vec![(0, ""), (1, health), (2, ""), (3, "")]))
        .measure(Measure::Reached(1, 4.0))
        .seconds(8.0)
}

/// Three replicas of six, a different three each second.
fn come_and_go(name: &'static str, about: &'static str) -> Situation {
    let situation = discovered(name, about).hosts(6);
    (0..7).fold(situation, |situation, second| situation.members(second as f64, (0..3).map(|host| (second + host) % 6)))
}
