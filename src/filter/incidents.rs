//! Incidents in Envoy: what is noted, the record that workers share, and what is told.

use super::{DURATION, Vm, record};
use crate::base::random::hash;
use crate::base::time::Time;
use crate::engine::correlate::{Attempt, ClusterId};
use crate::host::{self, Level, MetricKind, Path, Swap};
use crate::incident::{Event, Hint, Pattern, State};
use crate::metrics::{host_incident, incidents};
use crate::signal::{Signal, Verdict};

/// How often a swap is tried; see `ledger.rs`.
const TRIES: u32 = 1_000;
/// Which series of single hosts were made: hashes of their names.
const HOST_SERIES: &str = "weir/host-series";
/// There are never more of them, since Envoy forgets none.
const MOST_HOST_SERIES: usize = 200;
const LOCAL_ADDRESS: Path = Path("upstream\0local_address");

impl Vm {
    /// For how long the connection of the attempt that is being logged had been idle. Asked only where there was a reset of
    /// late, and each attempt is logged: without those that went well, a busy connection would seem to have been idle.
    pub(super) fn idle_of_attempt(&mut self, cluster: ClusterId, verdict: Verdict) -> Hint {
        let (Some(interval), last) = (self.engine.incident_interval(), self.wall_clock) else { return Hint::None };
        let tracks = self.engine.cluster(cluster).is_some_and(|state| state.incidents.tracks(last, interval));
        if !tracks || self.only_failures_watched() {
            return Hint::None;
        }
        let now = self.wall_clock();
        let Some(state) = self.engine.cluster_mut(cluster) else { return Hint::None };
        let Some(local) = host::property(LOCAL_ADDRESS) else { return Hint::None };
        let reset = verdict == Verdict::Certain(Signal::Reset);
        let lasted = if reset { host::property_u64(DURATION).unwrap_or_default() } else { 0 };
        let began = Time::from_nanos(now.as_nanos().saturating_sub(lasted));
        state.incidents.used(hash(&local, 0), reset, began, now).map_or(Hint::None, Hint::Idle)
    }

    /// An attempt's signal is known.
    pub(super) fn note_incident(&mut self, attempt: &Attempt, signal: Signal) {
        if self.engine.incident_interval().is_none() {
            return;
        }
        let now = self.wall_clock;
        let (Some(host), Some(state)) = (&attempt.host, self.engine.cluster_mut(attempt.cluster)) else { return };
        state.incidents.ended(host, signal, attempt.hint, attempt.began, now);
    }

    /// Ten times a second: writes down what was noted, and tells what came of it.
    pub(super) fn exchange_incidents(&mut self) {
        let Some(interval) = self.engine.incident_interval() else { return };
        let now = self.wall_clock;
        for cluster in self.engine.clusters_with_incidents(now) {
            let Some(state) = self.engine.cluster_mut(cluster) else { continue };
            let key = ["weir/incidents/", &state.name].concat();
            let known = state.outliers.as_ref().map_or(0, |outliers| outliers.known(now));
            for _ in 0..TRIES {
                let Some(shared) = host::shared(&key) else { break };
                let now = host::wall_clock().map_or(now, Time::from_nanos);
                let record = state.incidents.exchange(shared.value.as_deref(), interval, known, now);
                let Some(record) = record else { break };
                if host::swap_shared(&key, &record, shared.version) != Swap::Conflict {
                    break;
                }
            }
            let events = state.incidents.published();
            if let Some(outliers) = &mut state.outliers {
                state.incidents.each_look(now, &mut |host, at| outliers.look_at(host, at, now));
            }
            let name = state.name.clone();
            for event in events {
                self.tell_incident(&name, &event);
            }
        }
    }

    fn tell_incident(&mut self, cluster: &str, event: &Event) {
        let (open, pattern) = (event.state == State::Open, event.pattern);
        self.log_limited(if open { Level::Warn } else { Level::Info }, &event.line(cluster));
        // A restart is told when it is over.
        let restart = pattern == Pattern::Restart;
        if open || restart {
            let metric = host::define_metric(MetricKind::Counter, &incidents("total", pattern, cluster));
            metric.iter().for_each(|metric| host::increment(*metric, 1));
        }
        if restart {
            return;
        }
        record(&incidents("open", pattern, cluster), event.open);
        if let Some(host) = &event.host {
            let name = host_incident(pattern, host, cluster);
            if may_have_series(hash(name.as_bytes(), 0)) {
                record(&name, u64::from(event.state != State::Over));
            }
        }
    }
}

/// Whether a series of a single host was made before, or may be.
fn may_have_series(name: u64) -> bool {
    let name = name.to_le_bytes();
    for _ in 0..TRIES {
        let Some(shared) = host::shared(HOST_SERIES) else { return false };
        let made = shared.value.as_deref().unwrap_or_default();
        if made.chunks(name.len()).any(|known| known == name) {
            return true;
        }
        if made.len() >= MOST_HOST_SERIES * name.len() {
            return false;
        }
        let swap = host::swap_shared(HOST_SERIES, &[made, &name].concat(), shared.version);
        if swap != Swap::Conflict {
            return swap == Swap::Done;
        }
    }
    false
}
