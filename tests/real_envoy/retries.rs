//! What is retried, what is not, and who says so.

mod bounds;
mod budget;
mod grpc;
mod headers;
mod pushback;
mod safety;
mod vetoes;

use crate::case::Case;
use crate::support::upstream::{Seen, Step, Upstream, answer, http1};

pub fn all() -> Vec<Case> {
    [
        safety::cases(),
        pushback::cases(),
        grpc::cases(),
        bounds::cases(),
        budget::cases(),
        vetoes::cases(),
        headers::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Fails the first request so; answers all others.
fn at_first(failure: Vec<Step>) -> impl Fn() -> Upstream + Send + Sync + 'static {
    move || {
        let failure = failure.clone();
        http1(move |request: &Seen| if request.number == 0 { failure.clone() } else { answer(200, &[], "") })
    }
}

/// Fails every request so.
fn always(failure: Vec<Step>) -> impl Fn() -> Upstream + Send + Sync + 'static {
    move || {
        let failure = failure.clone();
        http1(move |_| failure.clone())
    }
}
