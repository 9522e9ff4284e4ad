//! One worker: what it knows, and what it decides. Each callback of the driver is a method here, or in the module of its role.
//!
//! ```text
//!   a request   on_request_headers ───────────────► on_response_headers ─► on_request_end ─► on_request_done   role decide
//!   an attempt       on_attempt_headers ─► on_attempt_response ─► on_attempt_end                               role guard
//!                                                                     on_attempt_log                           role watch
//!   the timer   on_tick, ten times a second
//! ```
//!
//! A driver calls what its attachments let it see, in this order: the log entry of an attempt directly follows its end, and all
//! of it happens in one thread. What a callback returns is to be done, if the driver can do anything at all, and
//! [`Worker::poll_event`] says what happened meanwhile. Nothing here fails, and whatever cannot be known is left alone.

use std::collections::VecDeque;

use super::attempt::{Attempt, AttemptEnd};
use super::cluster::{Clusters, LONGEST_NAME};
use super::correlate::{Attempts, ClusterId, Ended};
use super::event::{Event, What};
use super::host::{Host, Property, StreamId};
use super::log::Visibility;
use super::policies::{Policies, Routed};
use super::request::{Request, Retries};
use super::view::{Phase, View};
use crate::base::contexts::Contexts;
use crate::base::time::{Clock, Time};
use crate::config::{Mode, Policy, RetryPolicy, Via};
use crate::outlier::EndedAttempt;
use crate::outlier::shared::WorkerId;
use crate::retry::reservations::Account;
use crate::signal::Signal;

/// Which of the roles are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attachments {
    /// Whether `decide` is attached.
    pub decide: bool,
    /// Whether `watch` is attached.
    pub watch: bool,
    /// Whether an access-log filter keeps from `watch` what went well.
    pub only_failures: bool,
    /// Whether `guard` is attached.
    pub guard: bool,
}

/// All that one worker knows.
#[derive(Debug, Default)]
pub struct Worker {
    pub(super) policies: Policies,
    pub(super) clusters: Clusters,
    pub(super) attached: Attachments,
    pub(super) requests: Contexts<Request>,
    pub(super) attempts: Contexts<Attempt>,
    /// Attempts that `guard` holds back while other attempts of their requests may still be answered.
    pub(super) paused: Vec<StreamId>,
    /// The attempt that `guard` saw end last; its log entry is the next event of this worker.
    pub(super) last_attempt: Option<AttemptEnd>,
    /// The latest request. Envoy usually sends its first attempt next, so `guard` takes the next first attempt to be this
    /// request's.
    pub(super) latest_request: Option<StreamId>,
    /// Attempts that ended, and whose signals are open until more is known.
    pub(super) unresolved: Attempts,
    /// Attempts whose signal became known in the current callback.
    pub(super) ended: Vec<Ended>,
    /// The host's wall clock when it was last read.
    pub(super) wall_clock: Time,
    clock: Clock,
    /// This worker among those that share records, once it claimed an id.
    pub(super) id: Option<WorkerId>,
    /// Whether any request was steered, so that attempts may carry the steering header.
    pub(super) steered: bool,
    /// Whether some request made Envoy retry responses that bear [`crate::retry::NOT_SENT`].
    pub(super) uses_retriable_header: bool,
    /// Whether this Envoy names the direction of the listener that an attempt came through.
    pub(super) names_listeners: bool,
    /// Requests that were answered and go on, in the order in which that began.
    pub(super) running: VecDeque<StreamId>,
    pub(super) events: VecDeque<Event>,
}

impl Worker {
    /// Puts a policy in force; what was learned stays. The events until then are of the former policy's mode.
    pub fn configure<H: Host>(&mut self, policy: Policy, host: &H) {
        let now = self.now(&View::new(host, Phase::Headers));
        self.put_in_force(policy, now);
    }

    /// Puts a policy in force at that time.
    pub(super) fn put_in_force(&mut self, policy: Policy, now: Time) {
        if policy.mode != self.mode() {
            self.leave_mode();
        }
        self.policies.replace(policy);
        for (_, cluster) in self.clusters.iter_mut() {
            self.policies.apply_to(cluster, now);
        }
        self.close_budgets();
    }

    /// Says which roles are attached.
    pub fn attach(&mut self, attached: Attachments) {
        self.attached = attached;
    }

    /// The timer, ten times a second: exchanges with other workers what is due, and settles what no further event explains.
    pub fn on_tick<H: Host>(&mut self, host: &H) {
        let view = &View::new(host, Phase::Headers);
        self.last_attempt = None;
        self.settle_attempts(view);
        self.publish_budgets(view);
        self.exchange_all_hosts(view);
        self.exchange_circuits(view);
        self.exchange_incidents(view);
        self.running_streams_speak(view);
    }

    /// Takes the next event, in the order in which they happened; `None` when there is no more. The caller asks after
    /// each callback.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether decisions are carried out or only reported.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.policies.mode()
    }

    /// The part of Envoy that steers requests; `None` if they are not steered.
    #[must_use]
    pub fn steers_via(&self) -> Option<Via> {
        self.policies.steering().map(|steering| steering.via)
    }

    /// The host's wall clock when it was last read.
    #[must_use]
    pub const fn last_time(&self) -> Time {
        self.wall_clock
    }

    /// The name of a cluster that is known.
    #[must_use]
    pub fn cluster_name(&self, id: ClusterId) -> Option<&str> {
        self.clusters.get(id).map(|cluster| &*cluster.name)
    }

    /// How many clusters are known, and how many were forgotten to make room.
    #[must_use]
    pub fn cluster_counts(&self) -> (usize, u64) {
        self.clusters.counts()
    }

    /// Calls `visit` with what each entry of `clusters` in the policy is for, and whether requests went by it, to a cluster that is
    /// known.
    pub fn each_entry(&self, visit: &mut dyn FnMut(&str, bool)) {
        self.policies.each_entry(&mut |pattern, place| {
            visit(pattern, self.clusters.iter().any(|(_, cluster)| cluster.goes_by(place)));
        });
    }

    pub(super) fn enforces(&self) -> bool {
        self.mode() == Mode::Enforce
    }

    pub(super) fn report(&mut self, cluster: ClusterId, what: What) {
        self.events.push_back(Event { cluster, what });
    }

    /// The host's wall clock, for what workers share; where it cannot be read, its last reading. Zero instead would look like a step
    /// back of many years, and the next reading like a step ahead.
    pub(super) fn now<H: Host>(&mut self, view: &View<'_, H>) -> Time {
        self.wall_clock = view.now().unwrap_or(self.wall_clock);
        self.wall_clock
    }

    /// The time by this worker's [`Clock`], for what it keeps to itself: it never goes back.
    pub(super) fn worker_time<H: Host>(&mut self, view: &View<'_, H>) -> Time {
        let now = self.now(view);
        self.clock.read(now.as_nanos())
    }

    /// The cluster that the current stream is routed to, if the host knows it.
    pub(super) fn routed_cluster<H: Host>(&mut self, view: &View<'_, H>) -> Option<ClusterId> {
        let name = view.host.property(Property::Cluster)?;
        if let Some(id) = self.clusters.same(&name) {
            return Some(id);
        }
        let name = std::str::from_utf8(&name).ok().filter(|name| (1..=LONGEST_NAME).contains(&name.len()))?;
        Some(self.cluster_id(name))
    }

    /// The cluster of that name, known from now on.
    pub(super) fn cluster_id(&mut self, name: &str) -> ClusterId {
        self.clusters.find(name).unwrap_or_else(|| {
            let id = self.clusters.add(name);
            if let Some(cluster) = self.clusters.get_mut(id) {
                self.policies.apply_to(cluster, Time::default());
            }
            id
        })
    }

    /// The retry policy for a request; `None` where it is off or the cluster was forgotten.
    pub(super) fn retry_policy(&self, routed: Routed) -> Option<&RetryPolicy> {
        self.policies.retry(self.clusters.get(routed.cluster)?, routed.by_route).map(|retry| &retry.policy)
    }

    /// Which of a cluster's attempts `watch` sees.
    pub(super) fn visibility(&self, cluster: ClusterId) -> Visibility {
        let seen = self.clusters.get(cluster).map(|cluster| cluster.visibility).unwrap_or_default();
        if self.attached.only_failures { seen.filtered() } else { seen }
    }

    /// A cluster's retry budget, where there is one.
    pub(super) fn account(&mut self, cluster: ClusterId) -> Option<&mut Account> {
        self.clusters.get_mut(cluster)?.account.as_mut()
    }

    /// The turn of the event loop is over: no further event explains the attempts that ended in it.
    pub(super) fn settle_attempts<H: Host>(&mut self, view: &View<'_, H>) {
        self.unresolved.settle(&mut self.ended);
        self.attempts_ended(view);
    }

    /// Everything that follows from the attempts whose signals became known in this callback.
    pub(super) fn attempts_ended<H: Host>(&mut self, view: &View<'_, H>) {
        if self.ended.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.ended);
        for ended in all.drain(..) {
            self.attempt_ended(&ended, view);
        }
        self.ended = all;
    }

    /// An attempt ended. That is passed to its request, the circuit, the budget, incidents and outlier detection, in
    /// this order. (One thing comes before the circuit: the budget learns that a request failed for which `guard`
    /// charged a retry.)
    fn attempt_ended<H: Host>(&mut self, ended: &Ended, view: &View<'_, H>) {
        let Ended { attempt, signal } = ended;
        self.report(attempt.cluster, What::AttemptEnded(*signal));
        if let Some(request) = attempt.request.and_then(|id| self.requests.get_mut(id.0)) {
            request.last_signal = Some(*signal);
            // The sooner this is known, the fewer requests spend what the budget has saved.
            if matches!(request.retries, Retries::Charged { charged: 1.., .. }) && signal.is_failure() {
                let now = self.now(view);
                self.account(attempt.cluster).into_iter().for_each(|account| account.failed(true, now));
            }
        }
        let now = self.wall_clock;
        let incidents = self.policies.incident_interval().is_some();
        let Some(cluster) = self.clusters.get_mut(attempt.cluster) else { return };
        if signal.is_failure() || *signal == Signal::Pushback {
            cluster.failed = now;
        }
        if let Some(circuit) = &mut cluster.circuit {
            circuit.attempt_ended(*signal, attempt.began, now);
        }
        if let Some(account) = &mut cluster.account {
            account.attempt_ended(*signal, now);
        }
        let Some(host) = &attempt.host else { return };
        if incidents {
            cluster.incidents.ended(host, *signal, attempt.detail, attempt.began, now);
        }
        let now = self.now(view);
        let cluster = self.clusters.get_mut(attempt.cluster);
        let Some(outliers) = cluster.and_then(|cluster| cluster.outliers.as_mut()) else { return };
        let (began, weight) = (attempt.began, attempt.weight);
        let attempt_ended = EndedAttempt { host: Some(host), signal: *signal, began, weight, picked: false };
        if outliers.attempt_ended(&attempt_ended, now) {
            self.exchange_hosts(attempt.cluster, view);
        }
    }
}
