//! The shared records of retry budgets: read, changed, and swapped in if no other worker was faster.

use super::Vm;
use crate::base::time::Time;
use crate::engine::correlate::ClusterId;
use crate::host::{self, Metric, MetricKind, Swap};
use crate::metrics::Gauge;
use crate::retry::budget::{Asker, Charge};
use crate::retry::reservations::Account;

/// How often a swap is tried. Each conflict means that another worker's swap succeeded, so with any sane number of workers
/// this is never reached.
const TRIES: u32 = 1_000;

/// What the keys of the records begin with. The number is that of their format: while a VM with another version of the
/// module drains, each has records of its own, instead of taking the other's for none.
const RECORDS: &str = "weir/budget/2/";

/// What the gauge says where nothing bounds retries.
const NO_END: u64 = u32::MAX as u64;

impl Vm {
    /// Asks a cluster's budget for one retry. Without a budget, it is granted. Should the host refuse to keep the record, the
    /// answer is what it would have been on the last one; and should it refuse to show it, what this worker knows must do.
    pub(super) fn charge(&mut self, cluster: ClusterId, asker: Asker) -> Charge {
        let last = self.wall_clock;
        let Some((key, account)) = self.account(cluster) else { return Charge::Granted };
        let mut charge = Charge::Denied;
        for _ in 0..TRIES {
            let Some(shared) = host::shared(&key) else { return charge_unseen(account, now(last)) };
            let (answer, record) = account.charge(shared.value.as_deref(), asker, now(last));
            charge = answer;
            let Some(record) = record else { return charge };
            match host::swap_shared(&key, &record, shared.version) {
                Swap::Done => {
                    account.published();
                    return charge;
                }
                Swap::Conflict => {}
                Swap::Failed => return charge,
            }
        }
        charge
    }

    /// Writes down what arrived here since the last time, so that it counts in all workers, and tells what is left. Told
    /// whenever the record was read, since another worker may have told something else meanwhile.
    pub(super) fn publish_accounts(&mut self) {
        let last = self.wall_clock;
        for id in self.engine.due_accounts(last) {
            let Some(cluster) = self.engine.cluster_mut(id) else { continue };
            let key = [RECORDS, &cluster.name].concat();
            let Some(account) = &mut cluster.account else { continue };
            let pending = account.pending();
            for _ in 0..TRIES {
                let Some(shared) = host::shared(&key) else { return };
                let now = now(last);
                let record = account.publish(shared.value.as_deref(), now);
                // Time alone changes nothing that others do not see by themselves.
                let swap = if pending { host::swap_shared(&key, &record, shared.version) } else { Swap::Done };
                match swap {
                    Swap::Done => account.published(),
                    Swap::Conflict => continue,
                    Swap::Failed => {}
                }
                let left = account.left(now);
                if cluster.budget_left.is_none() {
                    let name = Gauge::BUDGET_LEFT.name(&cluster.name);
                    cluster.budget_left = host::define_metric(MetricKind::Gauge, &name).map(|metric| metric.0);
                }
                cluster.budget_left.into_iter().for_each(|metric| host::record(Metric(metric), left));
                break;
            }
        }
    }

    /// A policy is in force: what was told of budgets that are no more shall not stand for ever, since Envoy forgets no gauge.
    /// Without retries there is nothing to grant; without a budget, no end to it.
    pub(super) fn close_accounts(&mut self) {
        for (cluster, retries) in self.engine.unbudgeted_clusters() {
            let left = if retries { NO_END } else { 0 };
            cluster.budget_left.take().into_iter().for_each(|metric| host::record(Metric(metric), left));
        }
    }

    fn account(&mut self, cluster: ClusterId) -> Option<(String, &mut Account)> {
        let cluster = self.engine.cluster_mut(cluster)?;
        let key = [RECORDS, &cluster.name].concat();
        Some((key, cluster.account.as_mut()?))
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

/// Records are stamped with the host's own time, which all workers share (see [`crate::base::time`]); it is read after the record.
/// `last` is what to take if the host does not tell.
fn now(last: Time) -> Time {
    host::wall_clock().map_or(last, Time::from_nanos)
}
