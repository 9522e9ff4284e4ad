//! The incident that Weir exists for: replicas that crash-loop, each on its own seeded schedule, and clients that send
//! GETs and POSTs all the while. The demo shows it; the comparison `incident` puts policies beside each other in it.

// Each binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

pub mod load;
pub mod picture;
pub mod replicas;
pub mod schedule;
#[path = "../../src/bin/weir/replay/svg.rs"]
pub mod svg;
pub mod tuned;
pub mod weir_log;
