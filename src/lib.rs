//! Weir: a WebAssembly filter for Envoy that watches how upstream attempts end, and retries only what is safe.
//!
//! One module, attached at up to three places that share one VM, so one state, in each Envoy worker:
//!
//! | role | place | module |
//! |---|---|---|
//! | `decide` | HTTP filter before the router | `filter/decide.rs` |
//! | `watch` | the router's `upstream_log` | `filter/watch.rs` |
//! | `guard` | the router's `upstream_http_filters` | `filter/guard.rs` |
//!
//! Dependencies point one way, `filter → host` and `filter → engine → the rest`:
//!
//! ```text
//!   filter ──► host          callbacks in, effects out; the only modules that know of Envoy's ABI
//!     ├──► contexts          what is kept for each of Envoy's context numbers
//!     │    heap              the module's memory
//!     │
//!     ▼
//!   engine                   decisions as values
//!     ├──► config            JSON → validated policy
//!     ├──► cluster           what is known of each cluster, bounded
//!     ├──► retry             the safety table, in Envoy's words
//!     ├──► account           this worker's side of a retry budget
//!     │      └──► budget     the budget, in a record that all workers share
//!     │           └──► trouble   whether retries help
//!     ├──► outlier           which hosts are worse than the others, out, probed, back
//!     │      ├──► detector   is it one?
//!     │      ├──► record     what a host's last attempts came to
//!     │      ├──► ejection   the state machine of a host
//!     │      ├──► exchange   what workers tell each other
//!     │      └──► steering   lists of hosts for requests
//!     ├──► breaker           when nothing is sent, and who finds out whether that is over
//!     ├──► latency           what attempts take, for adaptive timeouts
//!     │      └──► window     the one sliding window (budget, detector and breaker use it too)
//!     └──► attempt           two views of one attempt, joined
//!            └──► signal     what the end of an attempt says
//! ```
//!
//! All below `filter` and `host` is plain code: no clock, no host call, no global state; it runs and is tested natively.
#![deny(unsafe_code, missing_docs)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::disallowed_methods)]

pub mod account;
pub mod attempt;
pub mod breaker;
pub mod budget;
pub mod cluster;
pub mod config;
pub mod contexts;
pub mod detector;
pub mod ejection;
pub mod engine;
pub mod exchange;
mod filter;
pub mod heap;
mod host;
pub mod hosts;
pub mod incident;
pub mod latency;
pub mod metrics;
pub mod outlier;
pub mod percent;
pub mod proxy_status;
pub mod random;
pub mod record;
pub mod retry;
pub mod signal;
pub mod steering;
pub mod time;
pub mod trouble;
pub mod window;
