//! Outlier detection in Envoy: who is told what ended where, the record that workers share, and where requests are steered.

use std::time::Duration;

use super::{ATTEMPT_COUNT, ContextId, DURATION, Stream, UPSTREAM_ADDRESS, Vm};
use crate::base::random::{Random, hash};
use crate::base::time::{Time, millis};
use crate::config::Mode;
use crate::engine::correlate::{Attempt, ClusterId, RequestId};
use crate::host::{self, Level, Swap};
use crate::incident::Hint;
use crate::metrics::{Counter, Ejected};
use crate::outlier::shared::{WorkerId, claim};
use crate::outlier::{EndedAttempt, Event, Outliers, Probe};
use crate::retry::Plan;
use crate::signal::Signal;

/// How many ids were claimed so far.
const WORKERS: &str = "weir/workers";
/// How often a swap is tried; see `ledger.rs`.
const TRIES: u32 = 1_000;
/// For shared data that is written whatever is there.
const ANY_VERSION: u32 = 0;
/// Of a calm cluster's answered attempts, one in so many is read, by chance.
const SAMPLE: u32 = 8;
/// A cluster is taken not to obey the steering header when steered requests went elsewhere so often. Each that went where it
/// should takes back a quarter of one that did not: some go there by chance, with two hosts every other one.
const MOST_ASTRAY: u32 = 20 * ASTRAY;
const ASTRAY: u32 = 4;

/// What steering did to a request.
#[derive(Debug, Default)]
pub(super) struct Steered {
    /// The probe that its first attempt is.
    pub(super) probe: Option<Probe>,
    /// The hosts that its attempts should go to; empty where Envoy chooses.
    pub(super) hosts: Box<str>,
    /// After what time it is sent once more, beside the first, where one of its hosts may hang.
    pub(super) hedge: Option<Duration>,
}

impl Vm {
    /// A request arrives: where to send it. Returns what goes into the steering header. `circuit_probe`: it finds out for an
    /// open circuit whether the cluster is back.
    pub(super) fn steer(
        &mut self,
        cluster: ClusterId,
        plan: Option<Plan>,
        circuit_probe: bool,
    ) -> (Steered, Option<String>) {
        let unsteered = (Steered::default(), None);
        let now = self.wall_clock;
        let explore = self.engine.steering().map(|steering| steering.explore_percent);
        let (retries, hedges) = match (plan, self.engine.retry_policy(cluster)) {
            (Some(plan), Some(policy)) if plan != Plan::Nothing => {
                (policy.max_retries, policy.max_retries > 0 && policy.per_try_timeout.is_none())
            }
            _ => (0, false),
        };
        let Some(outliers) = self.outliers(cluster) else { return unsteered };
        outliers.requested(now);
        // Without steering, hosts are judged all the same, and somebody else may act on it.
        let Some(explore) = explore else { return unsteered };
        if outliers.is_stale(now) {
            self.exchange(cluster);
        }
        let Some(state) = self.engine.cluster_mut(cluster) else { return unsteered };
        let Some(outliers) = &mut state.outliers else { return unsteered };
        // Nobody pays for a probe if the request is retried whatever happens: its plan allows it, and so does the budget. In a
        // calm cluster there is nothing to probe, so the budget need not be asked.
        let repeatable = plan.is_some_and(Plan::repeats)
            && (outliers.is_calm(now) || state.account.as_mut().is_none_or(|account| account.affords(now)));
        let route = if circuit_probe {
            outliers.route_circuit_probe(now, retries)
        } else {
            outliers.route(now, repeatable, retries, explore)
        };
        let hedge = if repeatable && hedges { outliers.hedge_after(now) } else { None };
        let Some(route) = route else { return (Steered { hedge, ..Steered::default() }, None) };
        self.steered = true;
        if route.probe.is_some() {
            self.count(cluster, Counter::Probes);
        }
        (Steered { probe: route.probe, hosts: route.hosts.as_str().into(), hedge }, Some(route.hosts))
    }

    /// What a worker knows of a cluster's hosts; made when its first request arrives, and only where the policy asks for it.
    fn outliers(&mut self, cluster: ClusterId) -> Option<&mut Outliers> {
        if self.engine.cluster(cluster)?.outliers.is_some() {
            return self.engine.cluster_mut(cluster)?.outliers.as_mut();
        }
        let policy = self.engine.outlier_policy(cluster)?;
        let me = match self.worker {
            Some(me) => me,
            None => *self.worker.insert(claim_worker(self.wall_clock)),
        };
        let state = self.engine.cluster_mut(cluster)?;
        Some(state.outliers.get_or_insert_with(|| Outliers::new(policy, me)))
    }

    /// What is known of an attempt that ended; its host and when it began, where outlier detection wants to know. Called for
    /// an attempt's log entry, and at the end of a request for its last attempt, which then seems to have begun with the
    /// request: early rather than late.
    pub(super) fn attempt(
        &mut self,
        cluster: ClusterId,
        answered: bool,
        hint: Hint,
        request: Option<RequestId>,
    ) -> Attempt {
        if answered && self.is_passed_over(cluster) {
            return Attempt { cluster, host: None, began: self.wall_clock, weight: 1, request, hint };
        }
        let now = self.wall_clock();
        let host = self.host_of_attempt(cluster, answered, now);
        // When it began matters only after an ejection, and then nothing is sampled.
        let circuit = self.engine.cluster(cluster).and_then(|cluster| cluster.circuit.as_ref());
        let asks = !answered && circuit.is_some_and(|circuit| circuit.asks_when_begun(now));
        let lasted = match host {
            Some((_, 1)) => host::property_u64(DURATION).unwrap_or_default(),
            _ if asks => host::property_u64(DURATION).unwrap_or_default(),
            _ => 0,
        };
        let began = Time::from_nanos(now.as_nanos().saturating_sub(lasted));
        let weight = host.as_ref().map_or(1, |(_, weight)| *weight);
        Attempt { cluster, host: host.map(|(host, _)| host), began, weight, request, hint }
    }

    /// Whether an answered attempt is not in the sample of a calm cluster. By the time of the last event, which saves a
    /// reading of the clock: the timer sees to it that it is not long ago.
    fn is_passed_over(&mut self, cluster: ClusterId) -> bool {
        let now = self.wall_clock;
        let incidents = self.engine.incident_interval().is_some();
        let Some(state) = self.engine.cluster_mut(cluster) else { return true };
        let Some(outliers) = &state.outliers else { return !(incidents && state.incidents.is_watchful()) };
        if !outliers.is_calm(now) {
            return false;
        }
        state.attempts = state.attempts.wrapping_add(1);
        !is_sampled(state.attempts)
    }

    /// The current attempt's host, as far as that is worth its cost, and how many answered attempts it stands for.
    fn host_of_attempt(&mut self, cluster: ClusterId, answered: bool, now: Time) -> Option<(Box<str>, u32)> {
        let incidents = self.engine.incident_interval().is_some();
        let state = self.engine.cluster_mut(cluster)?;
        let calm = match &state.outliers {
            Some(outliers) => outliers.is_calm(now),
            // Where hosts are not judged, what goes wrong on them is told all the same.
            None if incidents => false,
            None => return None,
        };
        let weight = if answered && calm { SAMPLE } else { 1 };
        let address = host::property(UPSTREAM_ADDRESS)?;
        Some((std::str::from_utf8(&address).ok()?.into(), weight))
    }

    /// An attempt's signal is known.
    pub(super) fn judge(&mut self, attempt: &Attempt, signal: Signal) {
        if attempt.host.is_none() {
            return;
        }
        let now = self.wall_clock();
        let Some(state) = self.engine.cluster_mut(attempt.cluster) else { return };
        let Some(outliers) = &mut state.outliers else { return };
        let ended = EndedAttempt {
            host: attempt.host.as_deref(),
            signal,
            began: attempt.began,
            weight: attempt.weight,
            picked: false,
        };
        if outliers.attempt_ended(&ended, now) {
            self.exchange(attempt.cluster);
        }
    }

    /// A request is over: its probe gives its slot back, and what Envoy's balancer chose is learned.
    pub(super) fn steered_request_ends(&mut self, context: ContextId) {
        let Some(Stream::Decide(request)) = self.streams.get_mut(context) else { return };
        let Some(cluster) = request.cluster else { return };
        let steered = std::mem::take(&mut request.steered);
        let last = self.wall_clock;
        let Some(state) = self.engine.cluster_mut(cluster) else { return };
        let Some(outliers) = &mut state.outliers else { return };
        if let Some(probe) = steered.probe {
            outliers.probe_over(probe);
        }
        if self.engine.steering().is_none() {
            return;
        }
        let shadow = self.engine.mode() == Mode::Shadow;
        let Some(state) = self.engine.cluster_mut(cluster) else { return };
        let Some(outliers) = &mut state.outliers else { return };
        let steers = !steered.hosts.is_empty();
        if !steers && outliers.is_calm(last) && outliers.knows_shares() {
            state.requests = state.requests.wrapping_add(1);
            if !is_sampled(state.requests) {
                return;
            }
        }
        let attempts = if steers { host::property_u64(ATTEMPT_COUNT).unwrap_or_default() as usize } else { 1 };
        let Some(address) = host::property(UPSTREAM_ADDRESS) else { return };
        let Ok(address) = std::str::from_utf8(&address) else { return };
        let now = host::wall_clock().map_or(last, Time::from_nanos);
        // A retry of a request without a list is a pick, too: where the balancer takes turns, the host after a dead one gets
        // nothing else from it. In shadow mode, a list is made, and nobody sees it.
        if !steers || shadow {
            outliers.picked(address, now);
            return;
        }
        // The n-th attempt goes to the n-th host; beyond the list, Envoy chooses.
        let listed = steered.hosts.split(',').count();
        let skipped: Vec<&str> = steered.hosts.split(',').take_while(|host| *host != address).collect();
        if attempts == 0 || attempts > listed {
            return;
        }
        if skipped.len() + 1 == attempts {
            state.astray = state.astray.saturating_sub(1);
            return;
        }
        // Envoy skips what is not in the cluster any more. Where it seems to obey otherwise, that is it.
        let skips = attempts == 1 && skipped.len() < listed && !outliers.is_out(address);
        if skips && state.astray < ASTRAY {
            state.astray += 1;
            skipped.iter().for_each(|host| outliers.gone(host));
            return;
        }
        if attempts > 1 && skipped.len() >= attempts {
            return;
        }
        outliers.picked(address, now);
        state.astray = state.astray.saturating_add(ASTRAY);
        if (MOST_ASTRAY..2 * MOST_ASTRAY).contains(&state.astray) {
            // Told again only if it obeyed for a while meanwhile.
            state.astray = 10 * MOST_ASTRAY;
            self.warn_of_advisory(cluster);
        }
    }

    fn warn_of_advisory(&mut self, cluster: ClusterId) {
        let Some(name) = self.engine.cluster(cluster).map(|cluster| cluster.name.clone()) else { return };
        let line = "requests do not go where they are steered: give it the load balancing policy override_host with the \
                    steering header, or ejections are advisory";
        self.log_of_cluster(Level::Warn, &name, line);
        self.count(cluster, Counter::Astray);
    }

    /// Exchanges what is known about a cluster's hosts with the other workers.
    pub(super) fn exchange(&mut self, cluster: ClusterId) {
        let shadow = self.engine.mode() == Mode::Shadow;
        let last = self.wall_clock;
        let Some(state) = self.engine.cluster_mut(cluster) else { return };
        let Some(outliers) = &mut state.outliers else { return };
        let key = [if shadow { "weir/shadow-ejections/" } else { "weir/ejections/" }, &state.name].concat();
        let roster_key = || [if shadow { "weir/shadow-hosts/" } else { "weir/hosts/" }, &state.name].concat();
        for _ in 0..TRIES {
            let Some(shared) = host::shared(&key) else { break };
            let now = host::wall_clock().map_or(last, Time::from_nanos);
            let Some(record) = outliers.exchange(shared.value.as_deref(), now) else { break };
            if host::swap_shared(&key, &record, shared.version) != Swap::Conflict {
                break;
            }
        }
        outliers.published();
        if outliers.wants_roster()
            && let Some(roster) = host::shared(&roster_key()).and_then(|shared| shared.value)
        {
            outliers.learn(&roster, last);
        }
        let events = outliers.take_events();
        if events.is_empty() {
            return;
        }
        let now = host::wall_clock().map_or(last, Time::from_nanos);
        let keeps_out = events.iter().any(|event| matches!(event, Event::Ejected(_) | Event::Extended(_)));
        if keeps_out && let Some(roster) = outliers.roster(now) {
            host::swap_shared(&roster_key(), &roster, ANY_VERSION);
        }
        let (out, known) = (outliers.out(), outliers.known(now));
        for event in events {
            self.tell(cluster, &event, out, known, now);
        }
    }

    /// Ten times a second: all clusters that have something to say or to hear.
    pub(super) fn exchange_all(&mut self) {
        let now = self.wall_clock();
        for cluster in self.engine.clusters_to_exchange(now) {
            self.exchange(cluster);
        }
        self.gauge_counts();
    }

    /// Counts and logs what happened to a host.
    fn tell(&mut self, cluster: ClusterId, event: &Event, out: usize, known: usize, now: Time) {
        let Some(name) = self.engine.cluster(cluster).map(|cluster| cluster.name.clone()) else { return };
        let (counter, line) = match event {
            Event::Detected(host, failure) => (
                Counter::Detected(Ejected(*failure)),
                format!("host {host} is an outlier ({}), but {out} of {known} are out already", failure.name()),
            ),
            Event::Ejected(ejection) | Event::Extended(ejection) => (
                Counter::Ejections(Ejected(ejection.failure)),
                format!(
                    "host {} ejected for {} ms ({}, strike {}): {out} of {known} are out",
                    ejection.address,
                    millis(ejection.until.since(now)),
                    ejection.failure.name(),
                    ejection.strikes,
                ),
            ),
            Event::Readmitted(host) => {
                (Counter::Readmissions, format!("host {host} answers again: {out} of {known} are out"))
            }
            Event::AllReadmitted => (Counter::Readmissions, "all hosts fail alike, so none is out".to_owned()),
        };
        self.log_of_cluster(Level::Info, &name, &line);
        self.count(cluster, counter);
    }
}

/// Whether to look at the n-th. Not at each eighth: a balancer that takes turns among four hosts would show the same one
/// each time, and the other three would never be known.
fn is_sampled(n: u32) -> bool {
    Random::new(n.into()).number().is_multiple_of(SAMPLE.into())
}

/// Claims an id that no other worker has. Should shared data fail, one made of the time: it is another one in all likelihood.
fn claim_worker(now: Time) -> WorkerId {
    let by_time = WorkerId(hash(&now.as_nanos().to_le_bytes(), 0));
    for _ in 0..TRIES {
        let Some(shared) = host::shared(WORKERS) else { break };
        let (claimed, record) = claim(shared.value.as_deref());
        match host::swap_shared(WORKERS, &record, shared.version) {
            Swap::Done => return claimed,
            Swap::Conflict => {}
            Swap::Failed => break,
        }
    }
    by_time
}
