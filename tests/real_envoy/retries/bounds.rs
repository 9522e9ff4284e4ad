//! How often: `maxRetries` beats the route's own number in either direction, and nobody retries what is a retry.

use h2::Reason;

use super::always;
use crate::case::{Case, Outcome, Visit, route_retries};
use crate::support::client::Request;
use crate::support::upstream::{Reply, Step, answer, http2, refuses};

const AGAIN: Visit =
    |scene| scene.exchange(&Request::get(&scene.case.path()).header("x-envoy-attempt-count", "2")).map(drop);

pub fn cases() -> Vec<Case> {
    vec![
        failing("once", "zero_over_three", 1).route(route_retries("5xx", 3)).with_weir_only(),
        failing("one", "one_over_five", 2).route(route_retries("5xx", 5)),
        failing("four", "four_over_one", 5).route(route_retries("5xx", 1)),
        failing("default", "two_over_none", 3),
        failing("off", "off", 1),
        failing("off", "off_leaves_the_route", 3).route(route_retries("5xx", 2)),
        // The hop before retries already: here only what costs the upstream nothing.
        Case::under("default", "again_reset")
            .upstream(always(vec![Step::Rst]))
            .visit(AGAIN)
            .then(Outcome::new("UC/-", "UC/503", "reset").seen(&[1])),
        Case::under("default", "again_error")
            .upstream(always(answer(503, &[], "")))
            .visit(AGAIN)
            .then(Outcome::new("-/503", "-/503", "error").seen(&[1])),
        Case::under("default", "again_refused_stream")
            .http2()
            .upstream(|| http2(|_| Reply::reset(Reason::REFUSED_STREAM)))
            .visit(AGAIN)
            // All but the last: the end of a request tells how its last attempt was reset.
            .then(Outcome::new("UR/-*3", "UR/503", "reset*2 refused").alone("refused").seen(&[3])),
        Case::under("any", "again_reset_any")
            .upstream(always(vec![Step::Rst]))
            .visit(AGAIN)
            .then(Outcome::new("UC/-*3", "UC/503", "reset*3").alone("reset").seen(&[3])),
        Case::under("none", "again_refused_none")
            .upstream(refuses)
            .visit(AGAIN)
            .then(Outcome::new("UF/-", "UF/503", "refused")),
    ]
}

/// A GET that fails each time.
fn failing(policy: &'static str, name: &'static str, attempts: usize) -> Case {
    Case::under(policy, name).upstream(always(answer(503, &[], ""))).then(
        Outcome::new(&format!("-/503*{attempts}"), "-/503", &format!("error*{attempts}"))
            .alone("error")
            .seen(&[attempts]),
    )
}
