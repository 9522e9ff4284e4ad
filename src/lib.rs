//! Weir: a WebAssembly filter for Envoy that watches how upstream attempts end, and retries only what is safe.
//!
//! One module, attached at up to three places that share one VM, so one state, in each Envoy worker:
//!
//! | role | place | module |
//! |---|---|---|
//! | `decide` | HTTP filter before the router | `engine/{arrival, response, end}.rs` |
//! | `watch` | the router's `upstream_log` | `engine/log.rs` |
//! | `guard` | the router's `upstream_http_filters` | `engine/{attempt, attempt_response}.rs` |
//!
//! From layer to layer, dependencies point one way, `filter → engine → the rules → signal → base`. The rules use each other, some in
//! both directions (`config` and `retry`, `outlier` and `steering`):
//!
//! ```text
//!   filter                   the adapter for Envoy: callbacks in, decisions and events out; it reads, applies, counts, logs
//!     ▼
//!   engine                   every rule, once: decisions and events as values, for whoever can answer `engine::host::Host`
//!     ├──► config            JSON, or a protobuf Struct → validated policy
//!     ├──► retry             the safety table, the retry budget, whether retries help, adaptive timeouts
//!     ├──► outlier           which hosts are worse than the others, ejected, probed, back
//!     ├──► steering          lists of hosts for requests
//!     ├──► circuit           when nothing is sent, and who finds out whether that is over
//!     └──► incident          what happened, told once
//!            └──► signal     what the end of an attempt says
//!                   └──► base    time, sliding windows, ratios, random numbers, bytes of records
//! ```
//!
//! All below `filter` is plain code: no clock, no host call but through that trait, no global state; it runs and is
//! tested natively.
#![deny(unsafe_code, missing_docs)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![deny(clippy::disallowed_methods)]
// What formats for debugging is not in the module (postlink/postlink.mjs).
#![cfg_attr(not(test), deny(clippy::use_debug))]

pub mod base;
pub mod circuit;
pub mod config;
pub mod engine;
mod filter;
pub mod incident;
pub mod outlier;
pub mod retry;
pub mod signal;
pub mod steering;

pub use filter::metrics;

/// The module's memory: blocks join when they are free, and each call takes the same time. (The standard library's allocator
/// for WebAssembly is 5 kB larger.) A test as WebAssembly may have one of its own.
#[cfg(weir_module)]
#[global_allocator]
static HEAP: rlsf::GlobalTlsf<Small> = rlsf::GlobalTlsf::new();

#[cfg(weir_module)]
struct Small;

#[cfg(weir_module)]
impl rlsf::GlobalTlsfOptions for Small {
    // A block that grows moves: what would find room behind it is larger than the rest of the allocator.
    const ENABLE_REALLOCATION: bool = false;
}
