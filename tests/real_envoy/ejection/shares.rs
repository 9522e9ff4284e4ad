//! While a host is out, the others get what Envoy's own balancer gave them: its weights, zones and policy stay in force.

use anyhow::ensure;
use serde_json::{Value, json};

use super::load::failed;
use super::site::Setup;
use crate::alone::Test;
use crate::level::Level;

pub const TESTS: &[Test] = &[
    ("ejection::shares_of_round_robin", || shares(Value::Null, &[])),
    ("ejection::shares_of_least_request", || {
        let family = "type.googleapis.com/envoy.extensions.load_balancing_policies";
        shares(json!({"@type": format!("{family}.least_request.v3.LeastRequest")}), &[])
    }),
    ("ejection::shares_of_zones", || {
        let by_zone = json!({"locality_lb_config": {"locality_weighted_lb_config": {}}});
        shares(by_zone, &["east", "east", "west", "west", "west"])
    }),
];

/// The last one goes.
const WEIGHTS: [u32; 5] = [1, 2, 3, 6, 4];
const REQUESTS: usize = 1_000;
/// The shares are learned from picks, of which at least 32 for each host are remembered.
const LEARNED: f64 = 32.0 * WEIGHTS.len() as f64;
/// Chi-square with three degrees of freedom is beyond this once in 2,000 times.
const LIMIT: f64 = 17.7;

fn shares(balancer: Value, zones: &[&'static str]) -> anyhow::Result<()> {
    let site = Setup {
        balancer,
        weights: WEIGHTS.to_vec(),
        zones: zones.to_vec(),
        hosts: WEIGHTS.len(),
        policy: json!({
            "role": "decide",
            "outlierDetection": {"baseEjectionTime": "1m", "maxEjectionTime": "1m"},
            // The lists are of interest, not what is left to the balancer meanwhile.
            "steering": {"explorePercent": 0},
        }),
        ..Setup::new(Level::Guard)
    }
    .start()?;
    // One request in eight is looked at: this fills what is remembered.
    ensure!(failed(&site.get("/calm", 3_000)?).is_empty(), "{}", site.story());
    let last = WEIGHTS.len() - 1;
    site.stop(last)?;
    ensure!(failed(&site.get("/out", 60)?).is_empty(), "{}", site.story());
    site.wait_for("hosts_out", 1)?;
    site.get("/shared", REQUESTS)?;
    let attempts = site.attempts("/shared", REQUESTS)?;
    let steered: Vec<_> = attempts.iter().filter(|attempt| attempt.steered()).cloned().collect();
    ensure!(steered.len() >= REQUESTS * 9 / 10, "{} of {} are steered", steered.len(), attempts.len());
    let counts: Vec<usize> = (0..last).map(|host| site.on(host, &steered)).collect();
    let total = counts.iter().sum::<usize>() as f64;
    let weights = f64::from(WEIGHTS[..last].iter().sum::<u32>());
    let deviation = |(count, weight): (&usize, u32)| {
        let expected = total * f64::from(weight) / weights;
        (*count as f64 - expected).powi(2) / expected
    };
    let chi_square: f64 = counts.iter().zip(WEIGHTS).map(deviation).sum();
    // What is drawn varies, and so does what was learned: the variances add up.
    let scaled = chi_square / (1.0 + total / LEARNED);
    ensure!(scaled <= LIMIT, "{counts:?} by weights {WEIGHTS:?}: chi-square {scaled:.1}");
    Ok(())
}
