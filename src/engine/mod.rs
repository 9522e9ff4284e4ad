//! The engine: every rule of the product, once, for Envoy, replay, simulations and tests alike.
//!
//! ```text
//!   callback ──► worker ──► decision    what is to be done
//!                │ asks  └─► event      what happened
//!                ▼
//!               host                    Envoy; or a replayed log, a simulation, a test
//! ```
//!
//! | | |
//! |---|---|
//! | [`worker`] | all that one worker knows; the timer; the end of an attempt |
//! | `policies`, `cluster`, `request` | what it knows: the policy in force, each cluster, each request |
//! | `arrival`, `response`, `end` | role `decide`: a request arrives, and what of it may be retried; it is answered, ends |
//! | `attempt`, `attempt_response` | role `guard`: an attempt is sent, is answered, ends |
//! | `log` | role `watch`: an attempt's log entry |
//! | `waiting` | requests that are overdue speak against their hosts |
//! | `route` | what an open circuit and ejected hosts do to a request |
//! | `misrouted` | whether requests went where they are steered |
//! | `sync` | the records that workers share |
//! | [`decision`], [`event`] | what is returned; what happened, and what stands in gauges until it is another |
//! | [`correlate`] | an attempt's log entry and the end of its request, joined |
//! | [`host`], `view` | what is asked, and what one callback has learned |
//!
//! Decisions are values, and so is what happened. Nothing here calls out but through [`host::Host`].

mod arrival;
mod attempt;
mod attempt_response;
mod cluster;
pub mod correlate;
pub mod decision;
mod end;
pub mod event;
pub mod host;
mod log;
mod misrouted;
mod policies;
mod request;
mod response;
mod route;
mod sync;
#[cfg(test)]
mod tests;
mod view;
mod waiting;
pub mod worker;

pub use cluster::{LONGEST_NAME, MOST_CLUSTERS};
