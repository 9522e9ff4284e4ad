//! What is counted of one cluster: bounded, however long the log.

use std::collections::BTreeMap;
use std::rc::Rc;

use weir::circuit;
use weir::outlier;
use weir::signal::Signal;

/// Hosts that are told apart.
const MOST_HOSTS: usize = 500;
/// Ejections and incidents that are kept; more are only counted.
pub const MOST_KEPT: usize = 1_000;
/// A host that answered within this time, in nanoseconds, would have answered a retry, as far as that can be told.
const JUST: u64 = 1_000_000_000;
/// Steps of the timeline.
const MOST_STEPS: usize = 512;

/// Attempts by [`Signal::index`].
pub type Signals = [u64; Signal::ALL.len()];

/// What became of a cluster's requests, and what Weir would have done about them.
#[derive(Debug, Default)]
pub struct Tally {
    pub requests: u64,
    pub attempts: u64,
    pub signals: Signals,
    pub hosts: BTreeMap<Box<str>, Host>,
    /// Attempts on hosts beyond those.
    pub other_hosts: u64,
    /// Requests that a client saw fail.
    pub failures: u64,
    /// Of these, those that Weir could have retried safely, and the budget would have paid.
    pub retriable: u64,
    /// Of these, those where some host of the cluster answered just then.
    pub hopeful: u64,
    /// Those that might have been retried, had the budget not denied it.
    pub unpaid: u64,
    /// Retries that happened: that Weir would have made as well, had the budget not paid for, would have stopped.
    pub granted: u64,
    pub denied: u64,
    pub stopped: u64,
    /// Retries of which the log does not tell what they followed.
    pub unclear: u64,
    /// Requests of which the log does not tell how many attempts they had.
    pub uncounted: u64,
    /// Requests that an open circuit would have answered at once.
    pub shed: u64,
    pub ejections: u64,
    pub ejected: Vec<Ejected>,
    pub opened: u64,
    pub openings: Vec<Opening>,
    pub incidents: u64,
    pub told: Vec<Told>,
    pub timeline: Timeline,
}

/// One host.
#[derive(Debug, Default)]
pub struct Host {
    pub signals: Signals,
    /// Attempts that it got while it would have been out.
    pub while_out: u64,
    /// When it answered, if its latest attempt was answered.
    answered: Option<u64>,
}

/// A host was out.
#[derive(Clone, Debug)]
pub struct Ejected {
    pub host: Box<str>,
    pub why: &'static str,
    pub at: u64,
    /// When it would have been back; `None`: it is out at the end.
    pub back: Option<u64>,
    /// How often that was prolonged.
    pub prolonged: u32,
    /// Who saw it so, where several proxies are told apart.
    pub proxy: Option<Rc<str>>,
}

/// A circuit was open.
#[derive(Clone, Debug)]
pub struct Opening {
    pub at: u64,
    pub broke: u64,
    pub attempts: u64,
    pub closed: Option<u64>,
    pub proxy: Option<Rc<str>>,
}

/// An incident.
#[derive(Clone, Debug)]
pub struct Told {
    pub at: u64,
    pub pattern: &'static str,
    pub state: &'static str,
    pub host: Option<Box<str>>,
    pub line: String,
    pub proxy: Option<Rc<str>>,
}

impl Tally {
    /// Adds what another proxy had to do with the same cluster.
    pub fn add(&mut self, other: &Self, proxy: Option<&Rc<str>>) {
        self.requests += other.requests;
        self.attempts += other.attempts;
        self.other_hosts += other.other_hosts;
        self.failures += other.failures;
        self.retriable += other.retriable;
        self.hopeful += other.hopeful;
        self.unpaid += other.unpaid;
        self.granted += other.granted;
        self.denied += other.denied;
        self.stopped += other.stopped;
        self.unclear += other.unclear;
        self.uncounted += other.uncounted;
        self.shed += other.shed;
        self.ejections += other.ejections;
        self.opened += other.opened;
        self.incidents += other.incidents;
        add(&mut self.signals, &other.signals);
        for (name, host) in &other.hosts {
            if !self.hosts.contains_key(name) && self.hosts.len() >= MOST_HOSTS {
                self.other_hosts += host.signals.iter().sum::<u64>();
                continue;
            }
            let own = self.hosts.entry(name.clone()).or_default();
            add(&mut own.signals, &host.signals);
            own.while_out += host.while_out;
        }
        let proxy = || proxy.cloned();
        let ejected = other.ejected.iter().map(|ejected| Ejected { proxy: proxy(), ..ejected.clone() });
        merge(&mut self.ejected, ejected, |ejected| ejected.at);
        let openings = other.openings.iter().map(|opening| Opening { proxy: proxy(), ..opening.clone() });
        merge(&mut self.openings, openings, |opening| opening.at);
        let told = other.told.iter().map(|told| Told { proxy: proxy(), ..told.clone() });
        merge(&mut self.told, told, |told| told.at);
        self.timeline.add(&other.timeline);
    }

    /// An attempt ended.
    pub fn attempt(&mut self, host: Option<&str>, signal: Signal, out: bool, at: u64) {
        self.attempts += 1;
        bump(&mut self.signals, signal);
        self.timeline.step(at, |step| {
            step.attempts += 1;
            bump(&mut step.signals, signal);
        });
        let Some(host) = host else { return };
        if !self.hosts.contains_key(host) {
            if self.hosts.len() >= MOST_HOSTS {
                self.other_hosts += 1;
                return;
            }
            self.hosts.insert(host.into(), Host::default());
        }
        if let Some(host) = self.hosts.get_mut(host) {
            bump(&mut host.signals, signal);
            host.while_out += u64::from(out);
            host.answered = (signal == Signal::Answered).then_some(at);
        }
    }

    /// Whether some host that is not out answered its latest attempt, and did so just now.
    pub fn some_host_answers(&self, now: u64) -> bool {
        let answered = |host: &Host| host.answered.is_some_and(|at| now.saturating_sub(at) < JUST);
        self.hosts.iter().any(|(name, host)| answered(host) && !self.is_out_since(name, now))
    }

    /// A host went out, stays out, or is back.
    pub fn host(&mut self, event: &outlier::Event, at: u64) {
        match event {
            outlier::Event::Detected(..) => {}
            outlier::Event::Ejected(ejection) => {
                self.ejections += 1;
                if self.ejected.len() < MOST_KEPT {
                    let (host, why) = (ejection.address.clone(), ejection.failure.name());
                    self.ejected.push(Ejected { host, why, at, back: None, prolonged: 0, proxy: None });
                }
            }
            outlier::Event::Extended(ejection) => {
                self.out(&ejection.address).into_iter().for_each(|ejected| ejected.prolonged += 1);
            }
            outlier::Event::Unejected(host) => self.out(host).into_iter().for_each(|ejected| ejected.back = Some(at)),
            outlier::Event::AllUnejected => {
                self.ejected.iter_mut().for_each(|ejected| ejected.back = ejected.back.or(Some(at)));
            }
        }
    }

    /// The ejection of a host that is out, if it is kept.
    fn out(&mut self, host: &str) -> Option<&mut Ejected> {
        self.ejected.iter_mut().rev().find(|ejected| &*ejected.host == host && ejected.back.is_none())
    }

    /// A circuit opened or closed.
    pub fn circuit(&mut self, event: circuit::Event, at: u64) {
        match event {
            circuit::Event::Opened { broke, attempts, .. } => {
                self.opened += 1;
                if self.openings.len() < MOST_KEPT {
                    self.openings.push(Opening { at, broke, attempts, closed: None, proxy: None });
                }
            }
            circuit::Event::Closed { .. } => {
                self.openings.last_mut().into_iter().for_each(|last| _ = last.closed.get_or_insert(at));
            }
            circuit::Event::Probing(_) => {}
        }
    }

    /// Whether a host was out since then.
    pub fn is_out_since(&self, host: &str, began: u64) -> bool {
        let last = self.ejected.iter().rev().find(|ejected| &*ejected.host == host);
        last.is_some_and(|ejected| ejected.back.is_none() && ejected.at <= began)
    }
}

fn add(signals: &mut Signals, others: &Signals) {
    signals.iter_mut().zip(others).for_each(|(all, one)| *all += one);
}

/// Adds to a list, in the order of time, as far as there is room.
fn merge<T>(list: &mut Vec<T>, others: impl Iterator<Item = T>, at: impl Fn(&T) -> u64) {
    list.extend(others);
    list.sort_by_key(at);
    list.truncate(MOST_KEPT);
}

fn bump(signals: &mut Signals, signal: Signal) {
    if let Some(count) = signals.get_mut(signal.index()) {
        *count += 1;
    }
}

/// A stretch of time.
#[derive(Clone, Debug, Default)]
pub struct Step {
    pub requests: u64,
    pub failures: u64,
    pub attempts: u64,
    pub signals: Signals,
}

/// Steps of equal length, which grows with the log.
#[derive(Debug)]
pub struct Timeline {
    /// When it begins, and how long a step is, in nanoseconds.
    pub start: Option<u64>,
    pub length: u64,
    pub steps: Vec<Step>,
}

impl Default for Timeline {
    fn default() -> Self {
        Self { start: None, length: 100_000_000, steps: Vec::new() }
    }
}

impl Timeline {
    /// Adds another one, which may begin elsewhere and have longer steps.
    fn add(&mut self, other: &Self) {
        let Some(from) = other.start else { return };
        if let Some(own) = self.start.filter(|own| from < *own) {
            // It begins with the earlier one, in whole steps.
            let steps = usize::try_from((own - from).div_ceil(self.length)).unwrap_or(usize::MAX).min(MOST_STEPS);
            self.steps.splice(0..0, std::iter::repeat_n(Step::default(), steps));
            self.start = Some(own.saturating_sub(self.length.saturating_mul(steps as u64)));
        }
        for (position, step) in other.steps.iter().enumerate() {
            let at = from.saturating_add(other.length.saturating_mul(position as u64));
            self.step(at, |own| *own = sum(&[own.clone(), step.clone()]));
        }
    }

    /// Changes the step at a moment.
    pub fn step(&mut self, at: u64, change: impl FnOnce(&mut Step)) {
        let start = *self.start.get_or_insert(at);
        let after = at.saturating_sub(start);
        while after / self.length >= MOST_STEPS as u64 {
            self.length = self.length.saturating_mul(2);
            self.steps = self.steps.chunks(2).map(sum).collect();
        }
        let position = usize::try_from(after / self.length).unwrap_or(MOST_STEPS - 1);
        if self.steps.len() <= position {
            self.steps.resize(position + 1, Step::default());
        }
        if let Some(step) = self.steps.get_mut(position) {
            change(step);
        }
    }
}

fn sum(steps: &[Step]) -> Step {
    let mut all = Step::default();
    for step in steps {
        all.requests += step.requests;
        all.failures += step.failures;
        all.attempts += step.attempts;
        all.signals.iter_mut().zip(step.signals).for_each(|(all, one)| *all += one);
    }
    all
}
