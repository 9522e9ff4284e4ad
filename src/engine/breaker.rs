//! What an open circuit does to requests: which are answered at once, which one finds out, and what that one's end says.

use super::cluster::Cluster;
use super::decision::{Later, Reply, Verdict};
use super::event::What;
use super::host::{Host, StreamId};
use super::policies::Routed;
use super::view::View;
use super::worker::Worker;
use crate::base::time::millis;
use crate::circuit::{Event, Permission, Ticket, Wish};
use crate::retry::{Class, Plan, Request};
use crate::signal::{Answer, Flags, Signal};

/// What the circuit says of a request.
pub(super) enum Passage {
    /// It goes on.
    Forward,
    /// It goes on, and finds out whether the cluster is back.
    Probe(Ticket),
    /// It is answered at once.
    Shed(Reply),
}

impl Worker {
    /// A request arrives.
    pub(super) fn pass_circuit<H: Host>(&mut self, routed: Routed, request: &Request, view: &View<'_, H>) -> Passage {
        let (cluster, now) = (routed.cluster, self.wall_clock);
        let Some(circuit) = self.circuit(cluster) else { return Passage::Forward };
        if circuit.requested(now) {
            self.exchange_circuit(cluster, view);
        }
        let mut asked = false;
        let permission = loop {
            let Some(circuit) = self.clusters.get(cluster).and_then(|cluster| cluster.circuit.as_ref()) else {
                return Passage::Forward;
            };
            let repeats = || self.retry_policy(routed).is_some_and(|policy| Plan::of(policy, request).repeats());
            let permission = circuit.admit(now, repeats);
            if permission != Permission::Shed || asked || !circuit.may_have_closed(now) {
                break permission;
            }
            // Another worker may have found the cluster back a moment ago: to ask costs less than to shed for nothing.
            self.exchange_circuit(cluster, view);
            asked = true;
        };
        match permission {
            Permission::Pass => Passage::Forward,
            Permission::Shed => self.shed(routed, request),
            Permission::Due => match self.change_circuit(cluster, Wish::Probe, view) {
                Some(Event::Probing(ticket)) => {
                    self.report(cluster, What::CircuitProbed);
                    Passage::Probe(ticket)
                }
                // Another worker was faster: with a probe, or with what it found out.
                _ if self.clusters.get(cluster).is_some_and(Cluster::is_open) => self.shed(routed, request),
                _ => Passage::Forward,
            },
        }
    }

    fn shed(&mut self, routed: Routed, request: &Request) -> Passage {
        let (cluster, enforces) = (routed.cluster, self.enforces());
        let Some(circuit) = self.circuit(cluster) else { return Passage::Forward };
        circuit.shed();
        let seconds = millis(circuit.open_time()).div_ceil(1_000);
        if !enforces {
            self.report(cluster, What::WouldShed);
            return Passage::Forward;
        }
        let class = self.retry_policy(routed).map_or(Class::Off, |_| Class::of(request));
        self.report(cluster, What::Shed(class));
        // No hop above shall retry it either.
        Passage::Shed(Reply { verdict: Verdict::CircuitOpen, later: Some(Later::after(seconds, request.grpc)) })
    }

    /// Response headers of a probe pass, or it ended without: what does it say?
    pub(super) fn circuit_probe_ended<H: Host>(&mut self, id: StreamId, view: &View<'_, H>) {
        let Some(request) = self.requests.get_mut(id.0) else { return };
        let (Some(ticket), Some(cluster)) = (request.circuit_probe.take(), request.cluster) else { return };
        let stopped = request.retries.is_seen().then_some(request.failed_before.unwrap_or(Signal::Reset));
        let status = view.status();
        let proxy_status = if status >= Some(500) { view.proxy_status() } else { &[] };
        let end = view.request_end(Answer { status, proxy_status, ..Answer::default() });
        // There is no host to send it to, which costs nobody anything; or `guard` stopped its retry.
        let no_host = end.flags.any(Flags::NO_HEALTHY_UPSTREAM).then_some(Signal::Unreachable);
        let wish = Wish::of_probe(ticket, end.last_attempt().or(no_host).or(stopped));
        self.change_circuit(cluster, wish, view);
    }
}
