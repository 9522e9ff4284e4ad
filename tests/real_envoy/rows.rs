//! The table of failures: one case for each way in which an attempt can end in Envoy, never retried, so that the
//! numbers are exact. Each row names what Envoy logs of the attempt, what it logs of the request, and the signal.

mod answers;
mod connections;
mod http2;
mod inside;
mod timeouts;
mod tls;

use crate::case::Case;
pub use connections::visit_gate;

pub fn all() -> Vec<Case> {
    [connections::rows(), http2::rows(), timeouts::rows(), answers::rows(), inside::rows()]
        .into_iter()
        .flatten()
        .collect()
}
