//! What may be retried in a request that arrives, and what that costs the budget.

use std::time::Duration;

use super::policies::Routed;
use super::worker::Worker;
use crate::base::time::Time;
use crate::retry::{Class, Plan, Request};

/// What may be retried in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// How it counts.
    pub class: Class,
    /// What may be retried; `None` where the retry section is off.
    pub plan: Option<Plan>,
    /// What may be retried less often than the policy allows, since the budget has no more.
    pub denied: Option<Plan>,
    /// How many retries the policy allows.
    max_retries: u32,
    /// Whether the policy leaves it to Weir when a request is sent once more, beside its first attempt.
    pub(super) hedges: bool,
    /// Retries that it has permission for, where it needs one; they are to be released when it ends.
    pub held: Option<u32>,
    /// The timeout for each attempt, where it depends on what was observed. `None` in shadow mode.
    pub per_try_timeout: Option<Duration>,
    /// Whether each retry is charged when it happens.
    pub per_attempt: bool,
    /// Whether a host pushed back not long ago, and `guard` may ask another where one does.
    pub busy: bool,
}

impl Admission {
    const OFF: Self = Self {
        class: Class::Off,
        plan: None,
        denied: None,
        max_retries: 0,
        hedges: false,
        held: None,
        per_try_timeout: None,
        per_attempt: false,
        busy: false,
    };

    /// How many retries there may be.
    pub(super) fn retries(&self) -> u32 {
        if self.plan.is_some_and(|plan| plan != Plan::Nothing) { self.max_retries } else { 0 }
    }

    /// How often Envoy may retry, where that is less than the policy says, and not never.
    pub(super) fn fewer_retries(&self) -> Option<u32> {
        self.denied.and(self.held).filter(|held| *held > 0)
    }
}

impl Worker {
    /// A request for a cluster arrives. `now` is this worker's time; the budget's shared record goes by the host's own (see
    /// [`crate::base::time`]).
    ///
    /// Until a retry tells whether `guard` sees this cluster, one that is attached is trusted to charge each retry when it happens.
    /// Then no permission is needed; but where retries do not help, those that the budget cannot pay are not even begun, which
    /// saves the host a connection.
    pub(super) fn admit(&mut self, routed: Routed, request: &Request, now: Time) -> Admission {
        let (shadow, wall_clock) = (!self.enforces(), self.wall_clock);
        let Some(cluster) = self.clusters.get_mut(routed.cluster) else { return Admission::OFF };
        let Some(retry) = self.policies.retry(cluster, routed.by_route) else { return Admission::OFF };
        let plan = Plan::of(&retry.policy, request);
        let per_attempt = cluster.charging.is_per_attempt(self.attached.guard);
        // Without `guard`, Envoy cannot tell what an upstream says it did not process from what was never sent: all is paid for.
        let spares = per_attempt || retry.policy.not_processed_headers.is_empty();
        let mut spared = false;
        let held = cluster.account.as_mut().and_then(|account| {
            account.arrive(wall_clock);
            if plan == Plan::Unprocessed && spares && account.spares_unprocessed(wall_clock) {
                return None;
            }
            // In shadow mode `guard` sees the retries that are not begun otherwise.
            let begun = per_attempt && (shadow || !account.is_futile(wall_clock));
            let held = (plan != Plan::Nothing && !begun).then(|| account.hold(retry.policy.max_retries, wall_clock))?;
            // While hosts refuse, all retries in place of what was not processed are more than some in place of whatever failed: with
            // one of two, a request would fail that meets two such hosts.
            let scarce = held == 0 || (held < retry.policy.max_retries && account.is_refused(wall_clock));
            spared = scarce && spares && account.spares_unprocessed(wall_clock);
            if !spared {
                return Some(held);
            }
            account.release(held);
            Some(0)
        });
        let denied = held.filter(|held| *held < retry.policy.max_retries).map(|_| plan);
        let class = Class::of(request);
        let busy = per_attempt
            && plan.repeats()
            && cluster.outliers.as_ref().is_some_and(|outliers| outliers.expects_pushback(wall_clock));
        let max_retries = retry.policy.max_retries;
        let admission = Admission {
            class,
            plan: Some(plan),
            denied,
            max_retries,
            hedges: max_retries > 0 && retry.policy.per_try_timeout.is_none(),
            held,
            per_try_timeout: None,
            per_attempt,
            busy,
        };
        if shadow {
            return admission;
        }
        let plan = match held {
            // What was not processed may be sent again all the same.
            Some(0) if spared => Plan::Unprocessed,
            Some(0) => Plan::Nothing,
            _ => plan,
        };
        let observed = cluster.latency.as_mut().filter(|_| plan.repeats());
        let timeout = retry.adaptive.zip(observed).and_then(|(timeout, observed)| timeout.timeout(observed, now));
        Admission { plan: Some(plan), per_try_timeout: timeout, ..admission }
    }
}
