//! Medians, and how far they can be trusted.

use std::fmt;

/// A median over rounds, with the range that holds 95 percent of the medians of resampled rounds (the bootstrap).
#[derive(Clone, Copy, Debug)]
pub struct Estimate {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

impl Estimate {
    /// Of what `measure` makes of a choice of rounds, out of `rounds` of them.
    pub fn of(rounds: usize, measure: impl Fn(&[usize]) -> f64) -> Self {
        Self::resampled::<2_000>(rounds, measure)
    }

    /// The same with fewer resamples, for what takes long to compute.
    pub fn of_few(rounds: usize, measure: impl Fn(&[usize]) -> f64) -> Self {
        Self::resampled::<100>(rounds, measure)
    }

    fn resampled<const RESAMPLES: usize>(rounds: usize, measure: impl Fn(&[usize]) -> f64) -> Self {
        let all: Vec<usize> = (0..rounds).collect();
        let mut random = fastrand::Rng::with_seed(1);
        let mut medians: Vec<f64> =
            (0..RESAMPLES).map(|_| measure(&(0..rounds).map(|_| random.usize(..rounds)).collect::<Vec<_>>())).collect();
        medians.sort_by(f64::total_cmp);
        let at = |share: f64| medians.get((share * RESAMPLES as f64) as usize).copied().unwrap_or(f64::NAN);
        Self { value: measure(&all), low: at(0.025), high: at(0.975) }
    }

    /// A figure is one only if its spread is smaller than itself.
    pub fn is_distinguishable(&self) -> bool {
        self.high - self.low < self.value.abs() && (self.low > 0.0) == (self.high > 0.0)
    }

    /// `value (low to high)`, or that it is none.
    pub fn text(&self, decimals: usize) -> String {
        if self.is_distinguishable() {
            format!("{:.decimals$} ({:.decimals$} to {:.decimals$})", self.value, self.low, self.high)
        } else {
            format!("not distinguishable ({:.decimals$} to {:.decimals$})", self.low, self.high)
        }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text(1))
    }
}

/// The middle of the values at `rounds`.
pub fn median_at(values: &[f64], rounds: &[usize]) -> f64 {
    median(rounds.iter().filter_map(|round| values.get(*round).copied()).collect())
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.get(middle.wrapping_sub(1))) {
        (Some(upper), Some(lower)) if values.len().is_multiple_of(2) => (upper + lower) / 2.0,
        (Some(middle), _) => *middle,
        (None, _) => f64::NAN,
    }
}

/// The value that a share of all is not above. Sorts.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
