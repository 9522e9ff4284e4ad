//! Incidents in a real Envoy: each pattern provoked, and told once, with the right figures, and no other one beside it.

mod line;
mod loops;
mod mixed;
mod patterns;
mod race;

use std::time::Duration;

use serde_json::{Value, json};

use crate::alone::Test;
use crate::ejection::load::Load;
use crate::ejection::site::{Setup, Site};
use crate::level::Level;
use crate::support::client::Request;

pub fn all() -> Vec<Test> {
    patterns::TESTS.to_vec()
}

/// Those that are about time.
pub fn timed() -> Vec<Test> {
    [loops::TIMED, patterns::TIMED, race::TIMED].concat()
}

/// Those that are about time and mostly sleep, with the percentage of a core that one of them takes.
pub fn paced() -> Vec<(usize, &'static [Test])> {
    vec![(48, mixed::PACED), (45, loops::PACED), (21, race::PACED)]
}

/// A site whose patterns show within seconds: the times that they take scale with the interval.
fn setup(level: Level, workers: u32, interval: &str) -> Setup {
    Setup { workers, policy: policy(interval, &json!({})), ..Setup::new(level) }
}

fn policy(interval: &str, more: &Value) -> Value {
    let mut policy = json!({"role": "decide", "incidents": {"interval": interval}});
    crate::support::bootstrap::merge(&mut policy, more);
    policy
}

/// Some 450 requests a second.
fn load(site: &Site) -> Load {
    Load::start(site, 9, Duration::from_millis(15), &Request::get("/load"))
}
