//! Time, as an argument.
//!
//! Nothing below the filter reads a clock. The host's clock is a wall clock and can step back; [`Clock`] is the one door
//! through which it enters, and what comes out never decreases.

use std::time::Duration;

/// A moment, in nanoseconds since the Unix epoch as the host's clock tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The moment `nanos` nanoseconds after the Unix epoch.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was; zero if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `after` later, or the last representable one.
    #[must_use]
    pub const fn saturating_add(self, after: Duration) -> Self {
        let nanos = after.as_nanos();
        if nanos > u64::MAX as u128 { Self(u64::MAX) } else { Self(self.0.saturating_add(nanos as u64)) }
    }
}
