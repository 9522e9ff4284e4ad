//! How long a cluster's attempts take: a quantile of their durations over a sliding interval, for adaptive per-try timeouts.
//!
//! Durations are counted in 256 buckets, sixteen to an octave, per slot of a [`Window`]. What comes out is the upper end of
//! the bucket that the quantile is in: never less than the true quantile, and more by at most 1/16 (6.25 percent) or, below
//! 4.2 ms, by at most 0.27 ms. Above 137 s it is 137 s.
//!
//! **Attempts that were cut off** at a timeout took longer than it; it is not known how much longer. If they were not counted, the
//! timeout of a cluster that became slow could not grow. So they are counted in the bucket of the timeout `t`, whose upper end is
//! longer than `t`. Hence, for a
//! timeout of `factor` times the quantile `q`:
//!
//! - As long as more than `1 - q` of an interval's attempts are cut off at `t`, the quantile is longer than `t`, so the next
//!   timeout is longer than `factor` x `t`. So from `t` it reaches what the cluster's true `q`-quantile `Q` is now within
//!   log(`Q` / `t`) / log(`factor`) intervals, rounded up. Usually much sooner: of a burst of timeouts, the first few that
//!   make up `1 - q` of the interval's attempts move it.
//! - Then less than `1 - q` are cut off, so the quantile becomes `Q`, and the timeout `factor` x `Q`. There it stays.
//! - If more than `1 - q` of the attempts hang for good, no timeout fits; it grows to its bound and stays there, and comes
//!   back an interval after they cease. A share of up to `1 - q` never moves it.

use std::time::Duration;

use crate::base::percent::Percent;
use crate::base::time::{Time, nanos, nanos_since};
use crate::base::window::Window;

/// A timeout for attempts: a multiple of what attempts take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdaptiveTimeout {
    /// The timeout is a multiple of the duration that this share of the attempts does not exceed: 50 to 99.9 percent.
    pub quantile: Percent,
    /// The multiple, in percent: 100 to 10,000.
    pub factor_percent: u32,
    /// The timeout is never less than this.
    pub min: Duration,
    /// The timeout is never more than this, which is at least `min`.
    pub max: Duration,
}

impl AdaptiveTimeout {
    /// The timeout for an attempt that starts now; `None` while too little was observed to set one.
    pub fn timeout(&self, observed: &mut Latency, now: Time) -> Option<Duration> {
        let quantile = observed.quantile(now, self.quantile)?;
        let timeout = Duration::from_nanos(nanos(quantile).saturating_mul(u64::from(self.factor_percent)) / 100);
        Some(timeout.max(self.min).min(self.max))
    }
}

/// How long the recent attempts of one cluster took. About 6 KB.
#[derive(Clone, Debug)]
pub struct Latency {
    window: Box<Window<Histogram>>,
    cached: Option<Cached>,
}

impl Latency {
    /// The least number of attempts in the interval that a quantile is taken of. A high quantile needs more: one attempt must be
    /// expected beyond it, so 1,000 for 99.9 percent.
    pub const MIN_ATTEMPTS: u64 = 100;

    /// The durations over a sliding `interval`, without any attempt yet.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { window: Box::new(Window::new(interval)), cached: None }
    }

    /// Records an attempt that was answered after `duration`. Other attempts do not count: how fast a connection is refused
    /// says nothing about answers.
    pub fn record(&mut self, now: Time, duration: Duration) {
        self.window.current(now).add(bucket(duration));
    }

    /// Records an attempt that was cut off after `timeout`, whichever timeout it was.
    pub fn record_timeout(&mut self, now: Time, timeout: Duration) {
        // The same bucket on purpose: that its upper end is beyond `timeout` is all that is known, and all it takes.
        self.record(now, timeout);
    }

    /// The duration that the share `quantile` of the attempts does not exceed. `None` until enough were observed within the
    /// interval, see [`MIN_ATTEMPTS`](Self::MIN_ATTEMPTS); always `None` for 100 percent.
    ///
    /// Computed at most a hundred times per interval, and kept in between.
    pub fn quantile(&mut self, now: Time, quantile: Percent) -> Option<Duration> {
        let lifetime = nanos(self.window.interval()) / 100;
        if let Some(cached) = self.cached
            && cached.quantile == quantile
            && nanos_since(cached.at, now) < lifetime
        {
            return cached.value;
        }
        let value = self.compute(now, quantile);
        self.cached = Some(Cached { at: now, quantile, value });
        value
    }

    fn compute(&self, now: Time, quantile: Percent) -> Option<Duration> {
        let mut counts = [0u32; BUCKETS];
        for histogram in self.window.inside(now) {
            counts.iter_mut().zip(&histogram.0).for_each(|(sum, &count)| *sum += u32::from(count));
        }
        let attempts: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        let beyond = quantile.rest().of(attempts);
        if attempts < Self::MIN_ATTEMPTS || beyond == 0 {
            return None;
        }
        let mut seen = 0;
        let bucket = counts.iter().position(|&count| {
            seen += u64::from(count);
            seen >= attempts - beyond
        })?;
        Some(upper_end(bucket))
    }
}

#[derive(Clone, Copy, Debug)]
struct Cached {
    at: Time,
    quantile: Percent,
    value: Option<Duration>,
}

/// Attempts per bucket. A bucket holds at most 65,535 in a slot; beyond that, the quantile errs towards longer.
#[derive(Clone, Debug)]
struct Histogram([u16; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Histogram {
    fn add(&mut self, bucket: usize) {
        if let Some(count) = self.0.get_mut(bucket) {
            *count = count.saturating_add(1);
        }
    }
}

/// Durations are counted in units of 2^18 ns, 0.26 ms.
const UNIT_BITS: u32 = 18;
/// An octave has 2^4 buckets; the first one starts at 2^4 units, and below each unit is a bucket.
const OCTAVE_BITS: u32 = 4;
const OCTAVE: u32 = 1 << OCTAVE_BITS;
/// The buckets below the first octave, and fifteen octaves, up to 2^19 units.
const BUCKETS: usize = 256;

fn bucket(duration: Duration) -> usize {
    let units = u32::try_from(nanos(duration) >> UNIT_BITS).unwrap_or(u32::MAX);
    let bucket = match units.checked_ilog2() {
        Some(log) if log >= OCTAVE_BITS => {
            let octave = log - OCTAVE_BITS;
            // The leading bit of what is left after the shift counts one octave, the other four are the bucket within it.
            octave * OCTAVE + (units >> octave)
        }
        _ => units,
    };
    (bucket as usize).min(BUCKETS - 1)
}

/// The shortest duration that is too long for the bucket.
fn upper_end(bucket: usize) -> Duration {
    let next = bucket as u64 + 1;
    let (octave, within) = (next / u64::from(OCTAVE), next % u64::from(OCTAVE));
    let units = match octave.checked_sub(1) {
        None => within,
        Some(octave) => (u64::from(OCTAVE) + within) << octave,
    };
    Duration::from_nanos(units << UNIT_BITS)
}
