//! Retry budgets: what they grant, to the last retry, and what happens when they are empty.

mod empty;
mod exact;
mod hedges;
mod pushback;
mod reload;
mod settings;
mod steady;
mod unguarded;

use serde_json::{Value, json};

use crate::alone::Test;
use crate::case::Case;
use crate::support::upstream::{Seen, Step, Upstream, answer, http1};

pub fn tests() -> Vec<Test> {
    [empty::TESTS, exact::TESTS, hedges::TESTS, reload::TESTS, settings::TESTS, steady::TESTS, unguarded::TESTS]
        .concat()
}

/// Those that are about time.
pub fn timed() -> Vec<Test> {
    exact::TIMED.to_vec()
}

pub fn cases() -> Vec<Case> {
    pushback::cases()
}

/// Which attempt of its request reached the upstream, from 1.
fn attempt(seen: &Seen) -> u32 {
    seen.header("x-envoy-attempt-count").and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// How many retries reached the upstream.
fn retries(upstream: &Upstream) -> usize {
    upstream.seen().iter().filter(|seen| attempt(seen) > 1).count()
}

/// An upstream that does what the path says: `/cluster/reset`. With `gated-`, first attempts wait for the gate, with `held-`
/// retries as well, for the later one; with `once-`, retries are answered, so that they help.
fn obedient() -> Upstream {
    http1(|seen| {
        let wish = seen.path.rsplit('/').next().unwrap_or_default();
        let (held, wish) = wish.strip_prefix("held-").map_or((false, wish), |wish| (true, wish));
        let (gated, wish) = wish.strip_prefix("gated-").map_or((held, wish), |wish| (true, wish));
        let (once, wish) = wish.strip_prefix("once-").map_or((false, wish), |wish| (true, wish));
        let wish = if once && attempt(seen) > 1 { "ok" } else { wish };
        let mut steps = match wish {
            "reset" => vec![Step::Rst],
            "hang" => vec![Step::Hang],
            "503" => answer(503, &[("x-upstream", "yes")], "sorry"),
            _ => answer(200, &[], ""),
        };
        match attempt(seen) {
            1 if gated => steps.insert(0, Step::Gate),
            2.. if held => steps.insert(0, Step::LaterGate),
            _ => {}
        }
        steps
    })
}

/// A retry section with this share over an hour, so that nothing is forgotten while a test runs, this floor, and one
/// retry per request.
fn share(percent: f64, floor: u32) -> Value {
    json!({
        "maxRetries": 1,
        "budget": {"percent": percent, "interval": "1h"},
        "minRetryRate": {"count": floor, "interval": "1h"},
    })
}
