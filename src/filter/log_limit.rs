//! Bounds how many lines about hosts a worker writes into Envoy's log.

use crate::base::time::Time;
use crate::host::{self as abi, Level};

/// The lines of a log about hosts are bounded: how many there are is up to the upstreams, and a log that is flooded hides the
/// rest. So many lines in a second, from each worker. What is left out is counted, and metrics have it.
const LINES: u32 = 20;
const SECOND: u64 = 1_000_000_000;

/// What was written in the current second of the host's clock.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    second: u64,
    written: u32,
    left_out: u32,
}

impl LogLimit {
    /// Begins a new second if there is one, and says how many lines the one before left out.
    pub(super) fn turn(&mut self, now: Time) {
        let second = now.as_nanos() / SECOND;
        if self.second == second {
            return;
        }
        let left_out = std::mem::replace(self, Self { second, ..Self::default() }).left_out;
        if left_out > 0 {
            let count = left_out.to_string();
            abi::log(Level::Warn, &["weir: ", &count, " more lines in one second were left out"].concat());
        }
    }

    /// Writes a line that names what upstreams are called, unless there were too many.
    pub(super) fn write(&mut self, level: Level, line: &str) {
        if self.written >= LINES {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        self.written += 1;
        abi::log(level, line);
    }
}
