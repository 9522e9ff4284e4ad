//! What the binaries that run a real Envoy share: the launcher, ports, waiting, and upstreams that misbehave on purpose.

// Each binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

pub mod admin;
pub mod envoy;
pub mod ports;
pub mod wait;
