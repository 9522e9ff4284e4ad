//! What everything else is built on: time, sliding windows, ratios, random numbers and records. It imports nothing of Weir.

pub mod bytes;
pub mod percent;
pub mod random;
pub mod time;
pub mod window;
