//! Time, as an argument.
//!
//! Nothing below the filter reads a clock. The host has a wall clock only, and a wall clock steps: back when it is
//! corrected, ahead when a machine wakes. There are two ways to deal with that, for two kinds of state:
//!
//! - **How long attempts take** (adaptive timeouts), which one worker keeps for itself, goes by that worker's [`Clock`], which never goes
//!   back.
//! - **What workers share** is stamped with the host's reading as it is, [`Time::from_nanos`]. All workers read the same
//!   wall clock, so their stamps compare; their `Clock`s do not, since each deals with every step by itself, and a worker that
//!   starts after the clock went back an hour would see all earlier records an hour in the future. A shared record is a
//!   [`Window`](crate::base::window::Window), which copes with steps itself. A worker reads such a record first and the clock after,
//!   so that no record is from the future unless the clock did step.

use std::time::Duration;

/// A moment, in nanoseconds since the Unix epoch by the host's clock.
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

    /// Whether `by` has passed since `earlier`. (Cheaper than to compare what [`since`](Self::since) returns, which divides.)
    #[must_use]
    pub const fn is_later(self, by: Duration, earlier: Self) -> bool {
        self.0.saturating_sub(earlier.0) >= nanos(by)
    }

    /// Whether less than `by` has passed since `earlier`, or `earlier` is yet to come.
    #[must_use]
    pub const fn is_within(self, by: Duration, earlier: Self) -> bool {
        !self.is_later(by, earlier)
    }

    /// Whether less than `by` has passed since `earlier`, which is not yet to come, as it may seem where the clock stepped back.
    #[must_use]
    pub const fn is_soon_after(self, by: Duration, earlier: Self) -> bool {
        earlier.0 <= self.0 && self.is_within(by, earlier)
    }

    /// The moment `after` later, or the last representable one.
    #[must_use]
    pub const fn saturating_add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(nanos(after)))
    }
}

/// A duration in nanoseconds, at most `u64::MAX`. (The standard library's 128 bits cost the module kilobytes.)
#[must_use]
pub const fn nanos(duration: Duration) -> u64 {
    units(duration, 1_000_000_000, duration.subsec_nanos())
}

/// A duration in a unit of which a second has `of_second`. `rest` is what the duration has beyond whole seconds, in
/// that unit. (One comparison instead of two checks for overflow, in each place where a duration is counted.)
const fn units(duration: Duration, of_second: u64, rest: u32) -> u64 {
    let seconds = duration.as_secs();
    if seconds >= u64::MAX / of_second { u64::MAX } else { seconds * of_second + rest as u64 }
}

/// How many nanoseconds ago a time was; zero if it is yet to come.
#[must_use]
pub const fn nanos_since(time: Time, now: Time) -> u64 {
    now.as_nanos().saturating_sub(time.as_nanos())
}

/// A duration in whole milliseconds, at most `u64::MAX`.
#[must_use]
pub const fn millis(duration: Duration) -> u64 {
    units(duration, 1_000, duration.subsec_millis())
}

/// The clock of a worker, which never goes back.
///
/// It adds up how far the host's clock goes ahead, and ignores how far that goes back. So when the host's clock goes back an
/// hour, this one does not stand still for an hour, as the maximum of all readings would: it goes on from where it was. A jump
/// ahead cannot be told from a pause and is taken as one. After a step, this clock differs from the host's for good.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    host: u64,
    now: Time,
}

impl Clock {
    /// The time when the host's clock reads `host_nanos` (nanoseconds since the Unix epoch). The first reading is taken
    /// as it is.
    pub const fn read(&mut self, host_nanos: u64) -> Time {
        let elapsed = host_nanos.saturating_sub(self.host);
        self.host = host_nanos;
        self.now = Time(self.now.0.saturating_add(elapsed));
        self.now
    }
}
