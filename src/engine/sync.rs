//! What workers share: each record is read, changed, and swapped in if no other worker was faster.
//!
//! [`Host::update`] is the one driver of all of them. A record is stamped with the host's wall clock, which all workers share
//! (see [`crate::base::time`]), read after the record: so nothing in a record is later than what a worker takes for now.

use super::cluster::Cluster;
use super::correlate::ClusterId;
use super::event::{HostEvent, What};
use super::host::{Host, Key, Record, Update};
use super::policies::Routed;
use super::view::View;
use super::worker::Worker;
use crate::base::random::hash;
use crate::base::time::Time;
use crate::circuit::{Circuit, Command, Event};
use crate::outlier::shared::{WorkerId, claim};
use crate::outlier::{self, Outliers};
use crate::retry::budget::{Charge, RetryRequest};
use crate::retry::reservations::Account;

/// What is reported as left where nothing bounds retries.
const UNBOUNDED: u64 = u32::MAX as u64;

impl Worker {
    /// Asks a cluster's budget for one retry. Without a budget, it is granted. If the record cannot be written, the
    /// answer is the one by the record that was read. If it cannot be read, the answer is by what this worker knows.
    pub(super) fn charge<H: Host>(&mut self, cluster: ClusterId, retry: RetryRequest, view: &View<'_, H>) -> Charge {
        let (last, shadow, host) = (self.wall_clock, !self.enforces(), view.host);
        let Some(Cluster { name, account: Some(account), .. }) = self.clusters.get_mut(cluster) else {
            return Charge::Granted;
        };
        let (mut charge, mut writes) = (Charge::Denied, false);
        let update = host.update(&Key { record: Record::Budget, cluster: name, shadow }, &mut |record| {
            let (answer, record) = account.charge(record, retry, host.now().unwrap_or(last));
            (charge, writes) = (answer, record.is_some());
            record
        });
        match update {
            Update::Done if writes => account.published(),
            Update::Unread => charge = charge_unseen(account, host.now().unwrap_or(last)),
            Update::Done | Update::Unwritten => {}
        }
        charge
    }

    /// Adds what arrived here since the last time to the record, so that it counts in all workers, and reports what is
    /// left. It reports whenever the record was read, since another worker may have reported another number meanwhile.
    pub(super) fn publish_budgets<H: Host>(&mut self, view: &View<'_, H>) {
        let (last, shadow, host) = (self.wall_clock, !self.enforces(), view.host);
        let due = |cluster: &Cluster| cluster.account.as_ref().is_some_and(|account| account.is_due(last));
        for id in self.clusters.that(&due) {
            let Some(cluster) = self.clusters.get_mut(id) else { continue };
            let Cluster { name, account: Some(account), reported_budget, .. } = cluster else { continue };
            let (pending, mut now) = (account.pending(), last);
            let update = host.update(&Key { record: Record::Budget, cluster: name, shadow }, &mut |record| {
                now = host.now().unwrap_or(last);
                let record = account.publish(record, now);
                // Without news, there is nothing to write: the other workers see by themselves what time changes.
                pending.then_some(record)
            });
            match update {
                Update::Done => account.published(),
                Update::Unwritten => {}
                Update::Unread => return,
            }
            *reported_budget = true;
            let left = account.left(now);
            self.report(id, What::RetriesLeft(left));
        }
    }

    /// A policy is in force. Gauges of budgets that no longer exist are set anew, since they would otherwise stay as
    /// they were. Without retries there is nothing to grant; without a budget, nothing bounds retries.
    pub(super) fn close_budgets(&mut self) {
        for id in self.clusters.that(&|cluster| cluster.account.is_none() && cluster.reported_budget) {
            if let Some(cluster) = self.clusters.get_mut(id) {
                cluster.reported_budget = false;
            }
            let has_retries = self.retry_policy(Routed::to(id)).is_some();
            self.report(id, What::RetriesLeft(if has_retries { UNBOUNDED } else { 0 }));
        }
    }

    /// On each tick, exchanges the circuits that are due, and reports each circuit that opened or closed since that was
    /// last reported.
    pub(super) fn exchange_circuits<H: Host>(&mut self, view: &View<'_, H>) {
        let now = self.wall_clock;
        let due = |cluster: &Cluster| {
            let circuit = cluster.circuit.as_ref();
            circuit.is_some_and(|circuit| circuit.is_due(now)) || cluster.reported_open != cluster.is_open()
        };
        for cluster in self.clusters.that(&due) {
            self.exchange_circuit(cluster, view);
            let Some(state) = self.clusters.get_mut(cluster) else { continue };
            let open = state.is_open();
            if std::mem::replace(&mut state.reported_open, open) != open {
                self.report(cluster, What::CircuitOpen(open));
            }
        }
    }

    pub(super) fn exchange_circuit<H: Host>(&mut self, cluster: ClusterId, view: &View<'_, H>) {
        let now = self.wall_clock;
        let Some(state) = self.clusters.get(cluster) else { return };
        let answering = match (&state.circuit, &state.outliers) {
            (Some(circuit), Some(outliers)) => {
                circuit.is_troubled() && outliers.some_host_answers(circuit.answering(), now)
            }
            _ => false,
        };
        self.change_circuit(cluster, Command::Exchange { answering }, view);
    }

    /// Reads the shared record of a circuit, and changes it if the command asks for it. Returns the event of that, if
    /// there is one.
    pub(super) fn change_circuit<H: Host>(
        &mut self,
        cluster: ClusterId,
        command: Command,
        view: &View<'_, H>,
    ) -> Option<Event> {
        let (last, shadow, host) = (self.wall_clock, !self.enforces(), view.host);
        let Some(Cluster { name, circuit: Some(circuit), .. }) = self.clusters.get_mut(cluster) else { return None };
        let update = host.update(&Key { record: Record::Circuit, cluster: name, shadow }, &mut |record| {
            circuit.exchange(record, command, host.now().unwrap_or(last))
        });
        if update != Update::Done {
            circuit.failed(last);
            return None;
        }
        let event = circuit.done()?;
        let open_time = circuit.open_time();
        if !matches!(event, Event::Probing(_)) {
            self.report(cluster, What::Circuit(event, open_time));
        }
        Some(event)
    }

    pub(super) fn circuit(&mut self, cluster: ClusterId) -> Option<&mut Circuit> {
        self.clusters.get_mut(cluster)?.circuit.as_deref_mut()
    }

    /// On each tick, exchanges the hosts of all clusters that are due: those with requests, with something to write, or
    /// with ejected hosts, whose ejection ends some time after the last request.
    pub(super) fn exchange_all_hosts<H: Host>(&mut self, view: &View<'_, H>) {
        let now = self.now(view);
        let due = |outliers: &Outliers| outliers.is_due(now);
        for cluster in self.clusters.that(&|cluster| cluster.outliers.as_ref().is_some_and(due)) {
            // `Stranded` does no harm here: the timer names the stream in all that it reads later.
            _ = self.count_overdue(cluster, view);
            self.exchange_hosts(cluster, view);
        }
        self.report_hosts();
    }

    /// Exchanges what is known about a cluster's hosts with the other workers.
    pub(super) fn exchange_hosts<H: Host>(&mut self, cluster: ClusterId, view: &View<'_, H>) {
        let (last, shadow, host) = (self.wall_clock, !self.enforces(), view.host);
        let Some(state) = self.clusters.get_mut(cluster) else { return };
        let Cluster { name, outliers: Some(outliers), .. } = state else { return };
        host.update(&Key { record: Record::Ejections, cluster: name, shadow }, &mut |record| {
            outliers.exchange(record, host.now().unwrap_or(last))
        });
        let events = outliers.published();
        let hosts = Key { record: Record::Hosts, cluster: name, shadow };
        if outliers.wants_host_list() {
            host.update(&hosts, &mut |record| {
                record.into_iter().for_each(|list| outliers.learn(list, last));
                None
            });
        }
        if events.is_empty() {
            return;
        }
        let now = host.now().unwrap_or(last);
        let ejects = |event: &outlier::Event| matches!(event, outlier::Event::Ejected(_) | outlier::Event::Extended(_));
        if events.iter().any(ejects)
            && let Some(list) = outliers.host_list(now)
        {
            host.put(&hosts, &list);
        }
        let (ejected, known) = (outliers.ejected(), outliers.known(now));
        for event in events {
            self.report(cluster, What::Host(Box::new(HostEvent { event, ejected, known, at: now })));
        }
    }

    /// On each tick, writes what was noted of incidents into their records, and reports what follows from that.
    pub(super) fn exchange_incidents<H: Host>(&mut self, view: &View<'_, H>) {
        let Some(interval) = self.policies.incident_interval() else { return };
        let (last, shadow, host) = (self.wall_clock, !self.enforces(), view.host);
        for cluster in self.clusters.that(&|cluster| cluster.incidents.is_due(last)) {
            let Some(Cluster { name, incidents, outliers, .. }) = self.clusters.get_mut(cluster) else { continue };
            let known = outliers.as_ref().map_or(0, |outliers| outliers.known(last));
            host.update(&Key { record: Record::Incidents, cluster: name, shadow }, &mut |record| {
                incidents.exchange(record, interval, known, host.now().unwrap_or(last))
            });
            let events = incidents.published();
            if let Some(outliers) = outliers {
                incidents.each_scheduled_probe(last, &mut |host, at| outliers.schedule_probe(host, at, last));
            }
            for event in events {
                self.report(cluster, What::Incident(Box::new(event)));
            }
        }
    }

    /// The id of this worker among those that share records. It is claimed with the first request. If shared data
    /// fails, the id is made of the time: in all likelihood, no other worker has it.
    pub(super) fn worker_id<H: Host>(&mut self, view: &View<'_, H>) -> WorkerId {
        if let Some(me) = self.id {
            return me;
        }
        let mut claimed = WorkerId::default();
        let key = Key { record: Record::Workers, cluster: "", shadow: false };
        let update = view.host.update(&key, &mut |record| {
            let (id, record) = claim(record);
            claimed = id;
            Some(record)
        });
        if update != Update::Done {
            claimed = WorkerId(hash(&self.wall_clock.as_nanos().to_le_bytes(), 0));
        }
        *self.id.insert(claimed)
    }
}

/// Charges a retry on a budget whose record cannot be read.
fn charge_unseen(account: &mut Account, now: Time) -> Charge {
    if !account.affords(now) {
        return Charge::Denied;
    }
    account.retried(1, now);
    Charge::Granted
}
