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
//! Dependencies point one way, `filter → host` and `filter → engine → the rules → signal → base`:
//!
//! ```text
//!   filter ──► host          callbacks in, effects out; the only modules that know of Envoy's ABI
//!     ├──► contexts          what is kept for each of Envoy's context numbers
//!     │    heap              the module's memory
//!     │
//!     ▼
//!   engine                   decisions as values
//!     ├──► config            JSON → validated policy
//!     ├──► retry             the safety table, the retry budget, whether retries help
//!     ├──► outlier           which hosts are worse than the others, ejected, probed, back
//!     ├──► steering          lists of hosts for requests
//!     ├──► circuit           when nothing is sent, and who finds out whether that is over
//!     ├──► incident          what happened, told once
//!     └──► latency           what attempts take, for adaptive timeouts
//!            └──► signal     what the end of an attempt says
//!                   └──► base    time, sliding windows, ratios, random numbers
//! ```
//!
//! All below `filter` and `host` is plain code: no clock, no host call, no global state; it runs and is tested natively.
#![deny(unsafe_code, missing_docs)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::disallowed_methods)]

pub mod base;
pub mod circuit;
pub mod config;
pub mod contexts;
pub mod engine;
mod filter;
pub mod heap;
mod host;
pub mod incident;
pub mod latency;
pub mod metrics;
pub mod outlier;
pub mod retry;
pub mod signal;
pub mod steering;
