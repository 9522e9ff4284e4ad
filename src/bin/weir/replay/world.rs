//! The engine in virtual time: what the module would have known and done, told of the same events.
//!
//! One worker, whose records nobody else writes. The past does not change: requests went where they went, so what is out
//! here was sent requests all the same, and those that it got when it was due are taken as probes.

mod circuit;
mod remembered;
mod retries;

use std::collections::HashMap;
use std::rc::Rc;

use weir::base::time::Time;
use weir::circuit::Wish;
use weir::config::Policy;
use weir::engine::Engine;
use weir::engine::correlate::ClusterId;
use weir::incident::{Hint, State};
use weir::outlier::shared::WorkerId;
use weir::outlier::{self, EndedAttempt, Outliers};
use weir::signal::{Signal, Verdict};

use super::line::Record;
use super::order::{Event, Kind};
use super::tally::{MOST_KEPT, Tally, Told};
use remembered::Remembered;

/// The module's timer.
const TICK: u64 = 100_000_000;
/// After so long without an event, nothing more comes of it.
const LULL: u64 = 3_600_000_000_000;
/// How far an attempt's end may be from that of its request, if it is the last one: durations are in milliseconds.
const TOGETHER: u64 = 5_000_000;

/// One cluster.
struct Cluster {
    name: Box<str>,
    id: ClusterId,
    /// Its attempts have lines of their own.
    watched: bool,
    budget: Vec<u8>,
    ejections: Vec<u8>,
    circuit: Vec<u8>,
    incidents: Vec<u8>,
    tally: Tally,
}

/// All of it.
pub struct World {
    engine: Engine,
    clusters: Vec<Cluster>,
    by_name: HashMap<Box<str>, usize>,
    by_id: HashMap<ClusterId, usize>,
    now: u64,
    next_tick: u64,
    /// Failed attempts of requests that are not over.
    failed: Remembered<Vec<Signal>>,
    /// Ends of requests that may explain those of attempts.
    ends: Remembered<Rc<Record>>,
    /// Probes of circuits that are under way, and what will come of them.
    probes: Vec<(u64, usize, Wish)>,
    /// Events that came too late to be put in order.
    pub late: u64,
}

impl World {
    /// Nothing happened yet.
    pub fn new(policy: Policy) -> Self {
        Self {
            engine: Engine::new(policy),
            clusters: Vec::new(),
            by_name: HashMap::new(),
            by_id: HashMap::new(),
            now: 0,
            next_tick: 0,
            failed: Remembered::default(),
            ends: Remembered::default(),
            probes: Vec::new(),
            late: 0,
        }
    }

    /// The number of a cluster; `None` if there are too many.
    pub fn cluster(&mut self, name: &str) -> Option<usize> {
        if let Some(known) = self.by_name.get(name) {
            return Some(*known);
        }
        if self.clusters.len() >= weir::engine::clusters::MOST_CLUSTERS {
            return None;
        }
        let (id, number) = (self.engine.cluster_id(name), self.clusters.len());
        self.by_name.insert(name.into(), number);
        self.by_id.insert(id, number);
        self.clusters.push(Cluster {
            name: name.into(),
            id,
            watched: false,
            budget: Vec::new(),
            ejections: Vec::new(),
            circuit: Vec::new(),
            incidents: Vec::new(),
            tally: Tally::default(),
        });
        Some(number)
    }

    /// A line was read, and happens later.
    pub fn foresee(&mut self, cluster: usize, record: &Rc<Record>) {
        if let (true, Some(cluster)) = (record.is_attempt, self.clusters.get_mut(cluster)) {
            cluster.watched = true;
        }
        if record.id > 0 && record.explains() {
            self.ends.insert(record.id, Rc::clone(record));
        }
    }

    /// Something happens.
    pub fn happens(&mut self, event: &Event) {
        if event.at < self.now {
            self.late += 1;
        }
        self.advance(event.at);
        match event.kind {
            Kind::Arrived => self.arrives(event.cluster, &event.record),
            Kind::AttemptEnded => self.attempt_ends(event.cluster, &event.record),
            Kind::RequestEnded => self.request_ends(event.cluster, &event.record),
        }
    }

    /// All is over: what is still open is looked at once more.
    pub fn finish(&mut self) {
        self.advance(self.now.saturating_add(2_000_000_000));
    }

    /// The clusters by name, with what was counted and whether attempts were told.
    pub fn tallies(&self) -> impl Iterator<Item = (&str, bool, &Tally)> {
        self.clusters.iter().map(|cluster| (&*cluster.name, cluster.watched, &cluster.tally))
    }

    fn advance(&mut self, at: u64) {
        if self.now == 0 || at.saturating_sub(self.now) > LULL {
            // What is due at once after such a lull is due before it, too.
            for after in [0, TICK, 60_000_000_000, LULL / 2] {
                if self.now > 0 {
                    self.tick(self.now.saturating_add(after));
                }
            }
            self.next_tick = at.saturating_add(TICK);
        }
        while self.next_tick <= at {
            self.tick(self.next_tick);
            self.next_tick = self.next_tick.saturating_add(TICK);
        }
        self.now = self.now.max(at);
    }

    fn tick(&mut self, at: u64) {
        let now = Time::from_nanos(at);
        let over = self.probes.extract_if(.., |(end, _, _)| *end <= at).collect::<Vec<_>>();
        for (_, cluster, wish) in over {
            self.change_circuit(cluster, wish, now);
        }
        for id in self.engine.due_accounts(now) {
            let Some(cluster) = self.by_id.get(&id).and_then(|number| self.clusters.get_mut(*number)) else { continue };
            let Some(account) = self.engine.cluster_mut(id).and_then(|state| state.account.as_mut()) else { continue };
            cluster.budget = account.publish(record(&cluster.budget), now);
            account.published();
        }
        for id in self.engine.clusters_to_exchange(now) {
            if let Some(number) = self.by_id.get(&id) {
                self.exchange(*number, now);
            }
        }
        for id in self.engine.due_circuits(now) {
            if let Some(number) = self.by_id.get(&id).copied() {
                let wish = self.exchange_wish(id, now);
                self.change_circuit(number, wish, now);
                if let Some(state) = self.engine.cluster_mut(id) {
                    state.reported_open = state.is_open();
                }
            }
        }
        let Some(interval) = self.engine.incident_interval() else { return };
        for id in self.engine.clusters_with_incidents(now) {
            let Some(cluster) = self.by_id.get(&id).and_then(|number| self.clusters.get_mut(*number)) else { continue };
            let Some(state) = self.engine.cluster_mut(id) else { continue };
            let known = state.outliers.as_ref().map_or(0, |outliers| outliers.known(now));
            if let Some(changed) = state.incidents.exchange(record(&cluster.incidents), interval, known, now) {
                cluster.incidents = changed;
            }
            for event in state.incidents.published() {
                let (state, counts) = match event.state {
                    State::Open => ("open", true),
                    State::Update => ("update", false),
                    State::Over => ("over", event.pattern == weir::incident::Pattern::Restart),
                };
                let tally = &mut cluster.tally;
                tally.incidents += u64::from(counts);
                if tally.told.len() < MOST_KEPT {
                    let line = event.line(&cluster.name);
                    let line = line.strip_prefix("weir: incident ").unwrap_or(&line).to_owned();
                    tally.told.push(Told { at, pattern: event.pattern.name(), state, host: event.host, line });
                }
            }
        }
    }

    fn arrives(&mut self, number: usize, record: &Record) {
        let now = Time::from_nanos(self.now);
        let Some(cluster) = self.clusters.get_mut(number) else { return };
        let id = cluster.id;
        cluster.tally.requests += 1;
        cluster.tally.timeline.step(self.now, |step| step.requests += 1);
        self.equip(id, now);
        if !self.passes_circuit(number, record, now) {
            if let Some(cluster) = self.clusters.get_mut(number) {
                cluster.tally.shed += 1;
            }
            return;
        }
        let held = self.engine.admit(id, &record.request(), true, now, now).held;
        // Nobody waits for the end of a request to give it back: the retries that happen are charged.
        if let (Some(held), Some(state)) = (held, self.engine.cluster_mut(id)) {
            state.account.iter_mut().for_each(|account| account.release(held));
        }
    }

    /// What a cluster's first request makes.
    fn equip(&mut self, id: ClusterId, now: Time) {
        let policy = self.engine.outlier_policy(id);
        let Some(state) = self.engine.cluster_mut(id) else { return };
        if let Some(policy) = policy {
            state.outliers.get_or_insert_with(|| Outliers::new(policy, WorkerId(1))).requested(now);
        }
    }

    fn attempt_ends(&mut self, number: usize, record: &Record) {
        let signal = match record.classify() {
            Verdict::Certain(signal) => signal,
            Verdict::Open(open) => match self.ends.get(record.id) {
                // Only the last attempt of a request ends together with it.
                Some(end) if end.end <= record.end.saturating_add(TOGETHER) => open.resolve(&end.request_end()),
                _ => open.provisional(false),
            },
        };
        if signal.is_failure() && record.id > 0 {
            let failed = self.failed.entry(record.id);
            if failed.len() < 100 {
                failed.push(signal);
            }
        }
        self.judge(number, record, signal);
    }

    /// An attempt ended, and how.
    fn judge(&mut self, number: usize, line: &Record, signal: Signal) {
        let now = Time::from_nanos(self.now);
        let Some(cluster) = self.clusters.get_mut(number) else { return };
        let (id, host) = (cluster.id, line.host.as_deref());
        // The clock of the log may step; nothing began after it ended.
        let began = Time::from_nanos(line.start.min(self.now));
        let out = host.is_some_and(|host| cluster.tally.is_out_since(host, began.as_nanos()));
        cluster.tally.attempt(host, signal, out, self.now);
        self.equip(id, now);
        let interval = self.engine.incident_interval();
        let Some(state) = self.engine.cluster_mut(id) else { return };
        if let Some(circuit) = &mut state.circuit {
            circuit.requested(now);
            circuit.attempt_ended(signal, began, now);
        }
        let Some(host) = host else { return };
        if let Some(interval) = interval {
            let reset = signal == Signal::Reset;
            let hint = match line.connection.filter(|_| state.incidents.tracks(now, interval)) {
                _ if signal == Signal::Unreachable && line.connect_timeout() => Hint::ConnectTimeout,
                Some(connection) => state.incidents.used(connection, reset, began, now).map_or(Hint::None, Hint::Idle),
                None => Hint::None,
            };
            state.incidents.ended(host, signal, hint, began, now);
        }
        if let Some(outliers) = &mut state.outliers {
            let ended = EndedAttempt { host: Some(host), signal, began, weight: 1, picked: false };
            if outliers.attempt_ended(&ended, now) {
                self.exchange(number, now);
            }
        }
    }

    fn exchange(&mut self, number: usize, now: Time) {
        let Some(cluster) = self.clusters.get_mut(number) else { return };
        let Some(outliers) = self.engine.cluster_mut(cluster.id).and_then(|state| state.outliers.as_mut()) else {
            return;
        };
        if let Some(changed) = outliers.exchange(record(&cluster.ejections), now) {
            cluster.ejections = changed;
        }
        outliers.published();
        let (tally, at) = (&mut cluster.tally, now.as_nanos());
        for event in outliers.take_events() {
            match event {
                outlier::Event::Detected(..) => {}
                outlier::Event::Ejected(ejection) => tally.eject(&ejection.address, ejection.failure.name(), at),
                outlier::Event::Extended(ejection) => {
                    if let Some(ejected) = tally.out(&ejection.address) {
                        ejected.prolonged += 1;
                    }
                }
                outlier::Event::Unejected(host) => {
                    if let Some(ejected) = tally.out(&host) {
                        ejected.back = Some(at);
                    }
                }
                outlier::Event::AllUnejected => {
                    tally.ejected.iter_mut().for_each(|ejected| ejected.back = ejected.back.or(Some(at)));
                }
            }
        }
    }
}

/// A record, unless there is none yet.
fn record(bytes: &[u8]) -> Option<&[u8]> {
    (!bytes.is_empty()).then_some(bytes)
}
