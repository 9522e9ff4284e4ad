//! Retries in the replay: those that happened, and those that Weir could have made.

use std::time::Duration;

use weir::base::time::Time;
use weir::engine::cluster::Cluster;
use weir::retry::Plan;
use weir::retry::budget::{Asker, Charge};
use weir::signal::Signal;

use super::super::line::Record;
use super::{World, record};

/// A host that answered within this time would have answered a retry, as far as that can be told.
const JUST: Duration = Duration::from_secs(1);

impl World {
    /// A request ended.
    pub(super) fn request_ends(&mut self, number: usize, line: &Record) {
        let now = Time::from_nanos(self.now);
        let failed = self.failed.remove(line.id).unwrap_or_default();
        let last = line.last_attempt();
        let Some(cluster) = self.clusters.get(number) else { return };
        let (id, watched) = (cluster.id, cluster.watched);
        let attempts = line.attempts.max(u32::from(last.is_some()));
        let retries = attempts.saturating_sub(1);
        if !watched {
            if retries > 0
                && let Some(state) = self.engine.cluster_mut(id)
            {
                state.incidents.retried_unseen(now);
            }
            if let Some(signal) = last {
                self.judge(number, line, signal);
            }
        }
        let seen = last.is_some_and(Signal::is_failure);
        if let (true, Some(cluster)) = (seen, self.clusters.get_mut(number)) {
            cluster.tally.failures += 1;
            cluster.tally.timeline.step(self.now, |step| step.failures += 1);
        }
        let Some(policy) = self.engine.retry_policy(id) else { return };
        let plan = Plan::of(policy, &line.request());
        let most = policy.max_retries;
        let known = watched && line.id > 0 && !failed.is_empty();
        let permits = |signal: Signal| plan.permits(policy, signal, &line.answer());
        // Each retry that happened followed a failure.
        let (mut asked, mut stopped, mut unclear) = (0, 0, 0_u64);
        for retry in 0..retries {
            match failed.get(retry as usize).filter(|_| known) {
                // Which status an attempt before the last one had is not kept: where one is retried, it is that one.
                Some(Signal::Error) if retry < most && plan.repeats() && !policy.status_codes.is_empty() => asked += 1,
                Some(Signal::Error) => stopped += 1,
                Some(signal) if retry < most && permits(*signal) => asked += 1,
                Some(_) => stopped += 1,
                None if retry < most => unclear += 1,
                None => stopped += 1,
            }
        }
        let open = self.engine.cluster(id).is_some_and(Cluster::is_open);
        let wanted = last.is_some_and(|signal| seen && retries < most && permits(signal));
        let arrived = Time::from_nanos(line.start.min(self.now));
        let (mut granted, mut denied) = (0, 0);
        for retry in 0..asked + unclear {
            match self.charge(number, Asker { arrived, again: retry > 0 }, now) {
                Charge::Granted => granted += 1,
                Charge::Denied => denied += 1,
            }
        }
        let charge = (wanted && !open).then(|| self.charge(number, Asker { arrived, again: retries > 0 }, now));
        let Some(state) = self.engine.cluster_mut(id) else { return };
        let hopeful = state.outliers.as_ref().is_some_and(|outliers| outliers.some_host_answers(JUST, now));
        if let Some(account) = &mut state.account {
            if last == Some(Signal::Answered) && retries > 0 {
                account.helped(now);
            } else if charge == Some(Charge::Granted) {
                // What would have come of it: an estimate.
                if hopeful { account.helped(now) } else { account.failed(true, now) }
            } else if last == Some(Signal::Answered) {
                account.answered(now);
            }
        }
        let Some(cluster) = self.clusters.get_mut(number) else { return };
        let tally = &mut cluster.tally;
        tally.granted += granted;
        tally.denied += denied;
        tally.stopped += stopped;
        tally.unclear += unclear;
        match charge {
            Some(Charge::Granted) => {
                tally.retriable += 1;
                tally.hopeful += u64::from(hopeful);
            }
            Some(Charge::Denied) => tally.unpaid += 1,
            None => {}
        }
    }

    fn charge(&mut self, number: usize, asker: Asker, now: Time) -> Charge {
        let Some(cluster) = self.clusters.get_mut(number) else { return Charge::Denied };
        let Some(account) = self.engine.cluster_mut(cluster.id).and_then(|state| state.account.as_mut()) else {
            // No budget.
            return Charge::Granted;
        };
        let (charge, changed) = account.charge(record(&cluster.budget), asker, now);
        if let Some(changed) = changed {
            cluster.budget = changed;
        }
        account.published();
        charge
    }
}
