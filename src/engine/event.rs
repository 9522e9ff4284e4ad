//! What happened, as values: telemetry turns them into counters, gauges and lines of a log. And what was reported of clusters and
//! stands until something else is reported, since Envoy forgets no gauge: which hosts are out, and whether the circuit is open.

use std::collections::VecDeque;
use std::time::Duration;

use super::cluster::Cluster;
use super::correlate::ClusterId;
use super::misrouted::Misrouted;
use super::worker::Worker;
use crate::base::time::Time;
use crate::retry::Class;
use crate::retry::reason::Reason;
use crate::signal::Signal;
use crate::{circuit, incident, outlier};

/// Ejected hosts are reported by name until their names have this many bytes in all.
pub const MOST_NAMED: usize = 8_000;

/// Something that happened at a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The cluster at which it happened.
    pub cluster: ClusterId,
    /// What happened there.
    pub what: What,
}

/// What happened at a cluster. In shadow mode, what is decided would have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A request was sent on.
    Forwarded(Class),
    /// A request was answered at once, since the circuit is open.
    Shed(Class),
    /// A request would have been answered at once in enforce mode, and is sent on.
    WouldShed,
    /// A request was let through by an open circuit, to find out whether the cluster is back.
    CircuitProbed,
    /// The circuit opened or closed. The duration is its `open_time`: a probe that does not end holds up the next one
    /// for this long.
    Circuit(circuit::Event, Duration),
    /// Whether the circuit is open changed.
    CircuitOpen(bool),
    /// A request's first attempt is sent to a host that is ejected, to see whether it answers again.
    HostProbed,
    /// Requests that are steered were found to go elsewhere: reported again only after they obeyed for a while.
    Misrouted,
    /// Attempts end at the cluster, and `decide` saw no request for it: reported once.
    Undecided,
    /// A host of the cluster has no address with a port, so that it is not judged: reported once.
    Unjudged,
    /// An attempt ended.
    AttemptEnded(Signal),
    /// The budget paid for that many retries.
    RetriesGranted(u32),
    /// The budget could not pay for a retry that the safety table permits.
    RetryDenied,
    /// A request that was retried was answered well in the end.
    RetrySucceeded,
    /// A failure left, and this is why it was not retried, or not once more.
    NotRetried(Reason),
    /// A retry that Envoy would have made was stopped.
    Vetoed(Veto),
    /// How many more retries the budget would grant; `u64::from(u32::MAX)` where nothing bounds them.
    RetriesLeft(u64),
    /// Something happened to a host, or to all of them.
    Host(Box<HostEvent>),
    /// Other hosts are ejected than before, or another number is remembered, or some were forgotten to make room. Which are ejected
    /// [follows](Self::HostOut).
    Hosts {
        /// How many hosts are ejected.
        ejected: usize,
        /// How many are remembered, the ejected ones among them.
        remembered: usize,
        /// How many were forgotten since the last such event.
        forgotten: u32,
    },
    /// A host is ejected that was not when this was last reported, or no longer is: its address, and whether it is.
    HostOut(Box<str>, bool),
    /// An incident begins, goes on, or ends.
    Incident(Box<incident::Event>),
}

/// An ejection, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEvent {
    /// What happened.
    pub event: outlier::Event,
    /// How many hosts of the cluster are ejected now.
    pub ejected: usize,
    /// How many hosts the cluster has, as far as is known.
    pub known: usize,
    /// When this worker reported it, by the host's wall clock.
    pub at: Time,
}

/// Why `guard` stopped a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Veto {
    /// The upstream had said not to.
    Pushback,
    /// The request may have been processed, and is not safe to repeat.
    Unsafe,
}

impl Veto {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 2] = [Self::Pushback, Self::Unsafe];

    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pushback => "pushback",
            Self::Unsafe => "unsafe",
        }
    }
}

impl Worker {
    /// Keeps the number of remembered hosts within bounds. Then it reports each cluster of which other hosts are
    /// ejected, or another number is remembered, than when this was last reported.
    pub(super) fn report_hosts(&mut self) {
        self.clusters.bound_hosts();
        for (id, cluster) in self.clusters.iter_mut() {
            let (mut counts, mut forgotten) = ((0, 0), 0);
            let mut out = String::with_capacity(cluster.reported_out.len());
            if let Some(outliers) = &mut cluster.outliers {
                forgotten = outliers.take_forgotten();
                outliers.each_ejected(&mut |address| {
                    if out.len() < MOST_NAMED {
                        out.push_str(address);
                        out.push(' ');
                    }
                });
                counts = (outliers.ejected(), outliers.remembered());
                if outliers.take_unjudged() {
                    push(&mut self.events, id, What::Unjudged);
                }
            }
            if cluster.reported_hosts != counts || cluster.reported_out != out || forgotten > 0 {
                cluster.reported_hosts = counts;
                push(&mut self.events, id, What::Hosts { ejected: counts.0, remembered: counts.1, forgotten });
                report_out(id, cluster, out, &mut self.events);
            }
        }
    }

    /// The mode is about to change. Whatever was reported as ejected or open is reported as no longer so, since gauges
    /// of the former mode would otherwise stay. What is still ejected or open is reported anew in the next mode.
    pub(super) fn leave_mode(&mut self) {
        for (id, cluster) in self.clusters.iter_mut() {
            let (ejected, remembered) = std::mem::take(&mut cluster.reported_hosts);
            if ejected > 0 {
                push(&mut self.events, id, What::Hosts { ejected: 0, remembered, forgotten: 0 });
                report_out(id, cluster, String::new(), &mut self.events);
            }
            if std::mem::take(&mut cluster.reported_open) {
                push(&mut self.events, id, What::CircuitOpen(false));
            }
            // In shadow mode nothing goes where it is steered.
            cluster.misrouted = Misrouted::default();
        }
    }
}

/// Reports which hosts are ejected that were not when this was last reported, and which no longer are. `out` has the
/// addresses of the ejected hosts, each with a space after it.
fn report_out(id: ClusterId, cluster: &mut Cluster, out: String, events: &mut VecDeque<Event>) {
    for (hosts, others, is_out) in [(&*cluster.reported_out, &*out, false), (&*out, &*cluster.reported_out, true)] {
        for host in hosts.split(' ') {
            if !host.is_empty() && others.split(' ').all(|other| other != host) {
                push(events, id, What::HostOut(host.into(), is_out));
            }
        }
    }
    cluster.reported_out = out;
}

/// (Not inlined: the module would carry this code once for each of its five callers.)
#[inline(never)]
fn push(events: &mut VecDeque<Event>, cluster: ClusterId, what: What) {
    events.push_back(Event { cluster, what });
}
