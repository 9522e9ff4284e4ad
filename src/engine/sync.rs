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
    /// Asks a cluster's budget for one retry. Without a budget, it is granted. Should the host refuse to keep the record, the
    /// answer is what it would have been on the last one; and should it refuse to show it, what this worker knows must do.
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

    /// Writes down what arrived here since the last time, so that it counts in all workers, and reports what is left: whenever
    /// the record was read, since another worker may have reported something else meanwhile.
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
                // Time alone changes nothing that others do not see by themselves.
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

    /// A policy is in force: what was reported of budgets that are no more shall not stand for ever, since Envoy forgets no
    /// gauge. Without retries there is nothing to grant; without a budget, no end to it.
    pub(super) fn close_budgets(&mut self) {
        for id in self.clusters.that(&|cluster| cluster.account.is_none() && cluster.reported_budget) {
            if let Some(cluster) = self.clusters.get_mut(id) {
                cluster.reported_budget = false;
            }
            let has_retries = self.retry_policy(Routed::to(id)).is_some();
            self.report(id, What::RetriesLeft(if has_retries { UNBOUNDED } else { 0 }));
        }
    }

    /// On each tick: all circuits that have something to say, or may have changed elsewhere, or changed and nobody was told.
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

    /// Reads the shared record of a circuit, and changes it if that is called for. What came of it, if anything.
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

    /// On each tick: the hosts of all clusters that have something to say to other workers, or to hear from them; and of those of
    /// which hosts are out, since that is over some time after the last request.
    pub(super) fn exchange_all_hosts<H: Host>(&mut self, view: &View<'_, H>) {
        let now = self.now(view);
        let due = |outliers: &Outliers| outliers.is_due(now);
        for cluster in self.clusters.that(&|cluster| cluster.outliers.as_ref().is_some_and(due)) {
            // A stranded host does no harm here: the timer names the stream in all that it asks for afterwards.
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

    /// On each tick: writes down what was noted of incidents, and reports what came of it.
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

    /// This worker among those that share records: claimed with the first request. Should shared data fail, the id is made of
    /// the time: it is another one than any that was claimed, in all likelihood.
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

/// A retry on a budget whose record nobody sees.
fn charge_unseen(account: &mut Account, now: Time) -> Charge {
    if !account.affords(now) {
        return Charge::Denied;
    }
    account.retried(1, now);
    Charge::Granted
}
