//! The names of what Weir counts.
//!
//! A name carries its labels, `weir_attempts_total.signal.reset.cluster.orders`, and Envoy's `stats_tags` (see
//! `envoy/envoy.yaml`) turn them into Prometheus' `weir_attempts_total{weir_signal="reset",weir_cluster="orders"}`. The
//! cluster comes last, so that it may contain dots. The values of all other labels are fixed sets.

use crate::retry::Class;
use crate::signal::Signal;

/// Why `guard` stopped a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Veto {
    /// The upstream had said not to.
    Pushback,
    /// The request may have been processed, and is not safe to repeat.
    Unsafe,
}

impl Veto {
    const ALL: [Self; 2] = [Self::Pushback, Self::Unsafe];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pushback => "pushback",
            Self::Unsafe => "unsafe",
        }
    }
}

/// Something counted per cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Requests that `decide` saw on their way to the cluster.
    Requests(Class),
    /// Upstream attempts that ended.
    Attempts(Signal),
    /// Retries that Envoy would have made and `guard` stopped.
    Vetoes(Veto),
    /// The same in shadow mode, where they went on.
    ShadowVetoes(Veto),
}

const CLASSES: usize = Class::ALL.len();
const SIGNALS: usize = Signal::ALL.len();
const VETOES: usize = Veto::ALL.len();

impl Counter {
    /// How many there are for each cluster.
    pub const COUNT: usize = CLASSES + SIGNALS + 2 * VETOES;

    /// Position among them, below [`Counter::COUNT`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Requests(class) => class as usize,
            Self::Attempts(signal) => CLASSES + signal.index(),
            Self::Vetoes(veto) => CLASSES + SIGNALS + veto as usize,
            Self::ShadowVetoes(veto) => CLASSES + SIGNALS + VETOES + veto as usize,
        }
    }

    /// The metric's name for a cluster.
    #[must_use]
    pub fn name(self, cluster: &str) -> String {
        let (metric, label, value) = match self {
            Self::Requests(class) => ("requests", "retry", class.name()),
            Self::Attempts(signal) => ("attempts", "signal", signal.name()),
            Self::Vetoes(veto) => ("vetoes", "reason", veto.name()),
            Self::ShadowVetoes(veto) => ("shadow_vetoes", "reason", veto.name()),
        };
        let cluster: String = cluster.chars().map(|c| if c.is_control() { '_' } else { c }).collect();
        ["weir_", metric, "_total.", label, ".", value, ".cluster.", &cluster].concat()
    }
}
