//! What the end of a probe means: whether the circuit closes, and when the next probe goes if it stays open.
//!
//! | the probe's last attempt | the circuit | the next probe |
//! |---|---|---|
//! | answered, error, pushback, closed | closes: somebody processed it | none |
//! | refused, unreachable | stays open | after an eightieth of `open_time`, and any request will do: none pays for it |
//! | reset, truncated | stays open | after a twentieth |
//! | timeout | stays open | after a quarter, since a client waited in vain |
//! | cancelled, local, or none at all | stays open: nobody knows | at once |
//! | has not ended | stays open | `open_time` after it began |
//!
//! The first probe goes an eightieth of `open_time` after the circuit opened, or at once if the attempt that broke last was not
//! processed.

use std::time::Duration;

use super::{BreakerPolicy, Ticket, Wish};
use crate::base::time::nanos;
use crate::signal::Signal;

/// After a probe that was not processed, or after the circuit opened, the next probe goes after this part of `open_time`.
const NOT_PROCESSED: u64 = 80;
/// After a probe that broke off, the next one goes after this part of `open_time`.
const BROKE_OFF: u64 = 20;
/// After a probe that timed out, the next one goes after this part of `open_time`.
const TIMED_OUT: u64 = 4;

impl Wish {
    /// What a probe wants of the record once its last attempt ended so, as far as is known.
    #[must_use]
    pub const fn of_probe(ticket: Ticket, last_attempt: Option<Signal>) -> Self {
        match last_attempt {
            Some(Signal::Answered | Signal::Error | Signal::Pushback | Signal::Closed) => Self::Close(ticket),
            Some(Signal::Cancelled | Signal::Local) | None => Self::GiveBack(ticket),
            Some(signal) => Self::Fail(ticket, signal),
        }
    }
}

impl BreakerPolicy {
    /// How long after a probe that ended so the next one goes.
    pub(super) fn pause(&self, signal: Signal) -> Duration {
        let parts = match signal {
            signal if is_not_processed(signal) => NOT_PROCESSED,
            Signal::Reset | Signal::Truncated => BROKE_OFF,
            _ => TIMED_OUT,
        };
        Duration::from_nanos(nanos(self.open_time) / parts)
    }
}

/// Whether what ended so reached nobody, which costs no client anything.
pub(super) const fn is_not_processed(signal: Signal) -> bool {
    matches!(signal, Signal::Refused | Signal::Unreachable)
}
