//! What everything else is built on: time, sliding windows, ratios and random numbers. It imports nothing of Weir.

pub mod percent;
pub mod random;
pub mod time;
pub mod window;
