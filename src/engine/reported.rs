//! What was reported of clusters and stands until something else is reported, since Envoy forgets no gauge: which hosts are out, and
//! whether the circuit is open.

use std::collections::VecDeque;

use super::cluster::Cluster;
use super::correlate::ClusterId;
use super::event::{Event, MOST_NAMED, What};
use super::misrouted::Misrouted;
use super::worker::Worker;

impl Worker {
    /// Keeps the hosts of all clusters within bounds, and reports of the clusters of which other hosts are out, or another number is
    /// remembered, than when this was last reported.
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

    /// The mode is about to change: whatever was reported to be out or open is reported to be so no longer, since what was told of the
    /// former mode would stand for ever. What is out or open all the same is reported anew in the next one.
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

/// Reports which hosts are out that were not when this was last reported, and which no longer are. `out` has the addresses of those
/// that are, each with a space after it.
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

/// (Not inlined: it would be six times.)
#[inline(never)]
fn push(events: &mut VecDeque<Event>, cluster: ClusterId, what: What) {
    events.push_back(Event { cluster, what });
}
