//! The names of what Weir counts.
//!
//! A name carries its labels, `weir_attempts_total.signal.reset.cluster.orders`, and Envoy's `stats_tags` (see
//! `envoy/envoy.yaml`) turn them into Prometheus' `weir_attempts_total{weir_signal="reset",weir_cluster="orders"}`. The
//! cluster comes last, so that it may contain dots. The values of all other labels are fixed sets.

use crate::base::text::printable;
use crate::engine::event::Veto;
use crate::incident::Pattern;
use crate::outlier::detector::Failure;
use crate::retry::Class;
use crate::retry::reason::Reason;
use crate::signal::Signal;

/// What became of a retry that the safety table permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The budget paid for it.
    Granted,
    /// The budget could not pay for it.
    Denied,
}

impl Grant {
    const ALL: [Self; 2] = [Self::Granted, Self::Denied];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Denied => "denied",
        }
    }
}

/// A host went out, or should have, for this failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejected(pub Failure);

/// A gauge per cluster: what its name begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge(&'static str);

impl Gauge {
    /// How many hosts of a cluster are out now.
    pub const HOSTS_OUT: Self = Self("weir_hosts_out");
    /// How many would be, in shadow mode.
    pub const SHADOW_HOSTS_OUT: Self = Self("weir_shadow_hosts_out");
    /// How many hosts of a cluster are remembered.
    pub const HOSTS_KNOWN: Self = Self("weir_hosts_known");
    /// Whether a cluster's circuit is open, 0 or 1.
    pub const CIRCUIT_OPEN: Self = Self("weir_circuit_open");
    /// Whether it would be, in shadow mode.
    pub const SHADOW_CIRCUIT_OPEN: Self = Self("weir_shadow_circuit_open");
    /// How many retries a cluster's budget would grant now.
    pub const BUDGET_LEFT: Self = Self("weir_retry_budget_left");

    /// The metric's name for a cluster.
    #[must_use]
    pub fn name(self, cluster: &str) -> String {
        [self.0, ".cluster.", &printable(cluster)].concat()
    }
}

/// How many clusters are remembered: a gauge's name.
pub const CLUSTERS_KNOWN: &str = "weir_clusters_known";

/// Whether the configuration of a plugin was refused, 0 or 1: a gauge's name.
pub const CONFIGURATION_REFUSED: &str = "weir_configuration_refused";

/// How many entries of `clusters` in the policy no cluster goes by that requests went to: a gauge's name.
pub const ENTRIES_UNUSED: &str = "weir_entries_unused";

/// How many clusters were forgotten to make room for others: a counter's name.
pub const CLUSTERS_FORGOTTEN: &str = "weir_clusters_forgotten_total";

/// Incidents of a pattern, `total` or `open`: a name.
#[must_use]
pub fn incidents(which: &str, pattern: Pattern, cluster: &str) -> String {
    ["weir_incidents_", which, ".pattern.", pattern.name(), ".cluster.", &printable(cluster)].concat()
}

/// Whether an incident is open on a host: a gauge's name.
#[must_use]
pub fn host_incident(pattern: Pattern, host: &str, cluster: &str) -> String {
    ["weir_host_incident.pattern.", pattern.name(), ".host.", host, ".cluster.", &printable(cluster)].concat()
}

/// Whether a host is out, or would be in shadow mode: a gauge's name.
#[must_use]
pub fn host_out(host: &str, cluster: &str, shadow: bool) -> String {
    let shadow = if shadow { "shadow_" } else { "" };
    ["weir_", shadow, "host_out.host.", host, ".cluster.", &printable(cluster)].concat()
}

/// Something counted per cluster. What Weir decides has another name in shadow mode, see [`Counter::name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Requests that `decide` saw on their way to the cluster.
    Requests(Class),
    /// Upstream attempts that ended.
    Attempts(Signal),
    /// Retries that the safety table permits, by what the budget said.
    Retries(Grant),
    /// Retries of these that were answered well.
    RetriesSucceeded,
    /// Failures that left, by why they were not retried.
    NotRetried(Reason),
    /// Ejections, those after a failed probe included.
    Ejections(Ejected),
    /// Outliers that stayed in, since too many hosts were out.
    Detected(Ejected),
    /// Hosts that came back.
    Readmissions,
    /// Requests that were sent to a host that is out, to see whether it answers again.
    Probes,
    /// 1 for each time that steered requests were found not to obey.
    Misrouted,
    /// 1 where attempts were found to end at a cluster for which `decide` sees no requests.
    Undecided,
    /// 1 where a host was met that has no address with a port, so that it is not judged.
    Unjudged,
    /// Requests that were answered at once, since the circuit was open.
    Shed,
    /// Circuits that opened.
    CircuitsOpened,
    /// Requests that an open circuit let through.
    CircuitProbes,
    /// Hosts that were forgotten to make room for others.
    HostsForgotten,
    /// Retries that Envoy would have made and `guard` stopped.
    Vetoes(Veto),
}

const CLASSES: usize = Class::ALL.len();
const SIGNALS: usize = Signal::ALL.len();
const VETOES: usize = Veto::ALL.len();
const GRANTS: usize = Grant::ALL.len();
const EJECTIONS: usize = CLASSES + SIGNALS + VETOES + GRANTS;
const FAILURES: usize = Failure::ALL.len();
const CIRCUITS: usize = EJECTIONS + 2 * FAILURES + 6;

impl Counter {
    /// How many there are for each cluster.
    pub const COUNT: usize = CIRCUITS + 4 + Reason::ALL.len();

    /// Position among them, below [`Counter::COUNT`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Requests(class) => class as usize,
            Self::Attempts(signal) => CLASSES + signal.index(),
            Self::Vetoes(veto) => CLASSES + SIGNALS + veto as usize,
            Self::Retries(grant) => CLASSES + SIGNALS + VETOES + grant as usize,
            Self::Ejections(Ejected(failure)) => EJECTIONS + failure as usize,
            Self::Detected(Ejected(failure)) => EJECTIONS + FAILURES + failure as usize,
            Self::Readmissions => EJECTIONS + 2 * FAILURES,
            Self::Probes => EJECTIONS + 2 * FAILURES + 1,
            Self::Misrouted => EJECTIONS + 2 * FAILURES + 2,
            Self::Shed => CIRCUITS,
            Self::RetriesSucceeded => CIRCUITS + 1,
            Self::CircuitsOpened => CIRCUITS + 2,
            Self::CircuitProbes => CIRCUITS + 3,
            Self::HostsForgotten => EJECTIONS + 2 * FAILURES + 3,
            Self::Undecided => EJECTIONS + 2 * FAILURES + 4,
            Self::Unjudged => EJECTIONS + 2 * FAILURES + 5,
            Self::NotRetried(reason) => CIRCUITS + 4 + reason as usize,
        }
    }

    /// The metric's name for a cluster. In shadow mode, what Weir would have done is `weir_shadow_…`; what happened, and what
    /// it knows, has one name in both.
    #[must_use]
    pub fn name(self, cluster: &str, shadow: bool) -> String {
        let (metric, label) = match self {
            Self::Requests(class) => ("requests", Some(("retry", class.name()))),
            Self::Attempts(signal) => ("attempts", Some(("signal", signal.name()))),
            Self::Retries(grant) => ("retries", Some(("verdict", grant.name()))),
            Self::RetriesSucceeded => ("retries_succeeded", None),
            Self::NotRetried(reason) => ("not_retried", Some(("reason", reason.name()))),
            Self::Ejections(Ejected(failure)) => ("ejections", Some(("reason", failure.name()))),
            Self::Detected(Ejected(failure)) => ("ejections_withheld", Some(("reason", failure.name()))),
            Self::Readmissions => ("readmissions", None),
            Self::Probes => ("probes", None),
            Self::Misrouted => ("steering_disobeyed", None),
            Self::Undecided => ("undecided", None),
            Self::Unjudged => ("hosts_unjudged", None),
            Self::Shed => ("shed", None),
            Self::CircuitsOpened => ("circuit_opened", None),
            Self::CircuitProbes => ("circuit_probes", None),
            Self::HostsForgotten => ("hosts_forgotten", None),
            Self::Vetoes(veto) => ("vetoes", Some(("reason", veto.name()))),
        };
        let happened = matches!(
            self,
            Self::Requests(_) | Self::Attempts(_) | Self::HostsForgotten | Self::Undecided | Self::Unjudged
        );
        let shadow = if shadow && !happened { "shadow_" } else { "" };
        let mut name = ["weir_", shadow, metric, "_total"].concat();
        if let Some((label, value)) = label {
            [".", label, ".", value].iter().for_each(|part| name.push_str(part));
        }
        name.push_str(".cluster.");
        name.push_str(&printable(cluster));
        name
    }
}
