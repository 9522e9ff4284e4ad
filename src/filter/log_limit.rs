//! The log's lines about hosts, bounded: how many there are is up to the upstreams, and a log that is flooded hides the rest.

use super::Vm;
use crate::host::{self, Level};
use crate::metrics::printable;

/// So many lines in a second, from each worker. What is left out is counted, and metrics have it.
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
    /// Begins a new second if there is one: how many lines the one before left out.
    fn turn(&mut self, second: u64) -> u32 {
        if self.second == second {
            return 0;
        }
        std::mem::replace(self, Self { second, ..Self::default() }).left_out
    }
}

impl Vm {
    /// Writes `weir: cluster <name>: <line>`, unless there were too many.
    pub(super) fn log_of_cluster(&mut self, level: Level, cluster: &str, line: &str) {
        self.log_limited(level, &["weir: cluster ", &printable(cluster), ": ", line].concat());
    }

    /// Writes a line that names what upstreams are called, unless there were too many.
    pub(super) fn log_limited(&mut self, level: Level, line: &str) {
        self.log_what_was_left_out();
        let limit = &mut self.log_limit;
        if limit.written >= LINES {
            limit.left_out = limit.left_out.saturating_add(1);
            return;
        }
        limit.written += 1;
        host::log(level, line);
    }

    /// Says how many lines are missing, once the second in which they came is over.
    pub(super) fn log_what_was_left_out(&mut self) {
        let left_out = self.log_limit.turn(self.wall_clock.as_nanos() / SECOND);
        if left_out > 0 {
            let count = left_out.to_string();
            host::log(Level::Warn, &["weir: ", &count, " more lines in one second were left out"].concat());
        }
    }
}
