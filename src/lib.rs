//! Weir: a WebAssembly filter for Envoy.
#![deny(unsafe_code, missing_docs)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod percent;
pub mod time;
