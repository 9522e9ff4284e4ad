//! The circuit breaker in the replay: a request that it lets through as a probe tells with its own end what a probe would have.

use weir::base::time::Time;
use weir::circuit::{Admission, Event, Wish};
use weir::engine::cluster::Cluster;
use weir::engine::correlate::ClusterId;
use weir::retry::Plan;

use super::super::line::Record;
use super::super::tally::{MOST_KEPT, Opening};
use super::{World, record};

impl World {
    /// A request arrives: whether it would have been sent.
    pub(super) fn passes_circuit(&mut self, number: usize, record: &Record, now: Time) -> bool {
        let Some(id) = self.clusters.get(number).map(|cluster| cluster.id) else { return true };
        let Some(circuit) = self.engine.cluster_mut(id).and_then(|state| state.circuit.as_mut()) else { return true };
        if circuit.requested(now) {
            let wish = self.exchange_wish(id, now);
            self.change_circuit(number, wish, now);
        }
        let policy = self.engine.retry_policy(id);
        let Some(circuit) = self.engine.cluster(id).and_then(|state| state.circuit.as_ref()) else { return true };
        let repeatable = || policy.is_some_and(|policy| Plan::of(policy, &record.request()).repeats());
        match circuit.admit(now, repeatable) {
            Admission::Pass => true,
            Admission::Shed => {
                self.shed(id);
                false
            }
            Admission::Due => match self.change_circuit(number, Wish::Probe, now) {
                Some(Event::Probing(ticket)) => {
                    self.probes.push((record.end, number, Wish::of_probe(ticket, record.last_attempt())));
                    true
                }
                _ if self.engine.cluster(id).is_some_and(Cluster::is_open) => {
                    self.shed(id);
                    false
                }
                _ => true,
            },
        }
    }

    fn shed(&mut self, id: ClusterId) {
        if let Some(circuit) = self.engine.cluster_mut(id).and_then(|state| state.circuit.as_mut()) {
            circuit.shed();
        }
    }

    pub(super) fn exchange_wish(&self, id: ClusterId, now: Time) -> Wish {
        let answering = self.engine.cluster(id).is_some_and(|state| match (&state.circuit, &state.outliers) {
            (Some(circuit), Some(outliers)) => {
                circuit.is_troubled() && outliers.some_host_answers(circuit.answering(), now)
            }
            _ => false,
        });
        Wish::Exchange { answering }
    }

    pub(super) fn change_circuit(&mut self, number: usize, wish: Wish, now: Time) -> Option<Event> {
        let cluster = self.clusters.get_mut(number)?;
        let circuit = self.engine.cluster_mut(cluster.id)?.circuit.as_mut()?;
        if let Some(changed) = circuit.exchange(record(&cluster.circuit), wish, now) {
            cluster.circuit = changed;
        }
        let event = circuit.done()?;
        let tally = &mut cluster.tally;
        match event {
            Event::Opened { broke, attempts, .. } => {
                tally.opened += 1;
                if tally.openings.len() < MOST_KEPT {
                    tally.openings.push(Opening { at: now.as_nanos(), broke, attempts, closed: None });
                }
            }
            Event::Closed { .. } => {
                if let Some(last) = tally.openings.last_mut() {
                    last.closed.get_or_insert(now.as_nanos());
                }
            }
            Event::Probing(_) => {}
        }
        Some(event)
    }
}
