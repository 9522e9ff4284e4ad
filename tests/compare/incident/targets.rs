//! What Weir promises for the incident, while one replica at least is up. Ratios only: how fast the machine is says nothing.

use std::time::Duration;

use super::measure::{Measured, quantile};

const GET_PERCENT: f64 = 99.9;
const POST_PERCENT: f64 = 99.0;
const ATTEMPTS_PER_REQUEST: f64 = 1.03;
const DEAD_PER_CRASH: f64 = 8.0;
const BACK: Duration = Duration::from_millis(1500);
const P99_OVER_CALM: u32 = 2;

/// The targets that were missed, in words. `plain` is what was measured beside it without any protection: since that fails
/// requests at once, its p99 tells how slow the machine was meanwhile.
pub fn missed(weir: &Measured, plain: &Measured) -> Vec<String> {
    let mut missed = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            missed.push(what);
        }
    };
    let (get, post) = (weir.get.percent(), weir.post.percent());
    must(get >= GET_PERCENT, format!("{get:.2} percent of the GETs were answered, not {GET_PERCENT}"));
    must(post >= POST_PERCENT, format!("{post:.2} percent of the POSTs were answered, not {POST_PERCENT}"));
    must(weir.posts_twice == 0, format!("{} POSTs were processed twice", weir.posts_twice));
    let attempts = weir.attempts_per_request();
    must(attempts <= ATTEMPTS_PER_REQUEST, format!("{attempts:.3} attempts per request, not {ATTEMPTS_PER_REQUEST}"));
    let dead = weir.dead_per_crash();
    must(dead <= DEAD_PER_CRASH, format!("{dead:.1} attempts were lost with each crash, not {DEAD_PER_CRASH}"));
    let back = quantile(&weir.back, 50);
    must(back <= BACK, format!("a replica that is back got traffic after {back:.1?}, not {BACK:.1?}"));
    let (p99, calm) = (weir.p99, weir.calm_p99.max(plain.p99));
    must(
        p99 <= calm * P99_OVER_CALM,
        format!("p99 {p99:.1?} is more than {P99_OVER_CALM} times that of calm, {calm:.1?}"),
    );
    missed
}
