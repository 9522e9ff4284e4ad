//! What everything else is built on: time, sliding windows, ratios, random numbers, text, records, and a table by number.
//! It imports nothing of the rest of Weir.

pub mod bytes;
pub mod contexts;
pub mod percent;
pub mod random;
pub mod text;
pub mod time;
pub mod window;
