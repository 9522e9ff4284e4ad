//! What came of it.

use std::time::Duration;

use weir::circuit::Event;

use super::replica::{Replica, State};

/// When a host went out, and when it was back.
pub type Absence = (Duration, Option<Duration>);

/// What the circuit of one proxy did, and what it went by.
#[derive(Clone, Debug, Default)]
pub struct Circuits {
    /// `None` is a probe.
    pub events: Vec<(Duration, Option<Event>)>,
    /// Attempts that ended: when, and whether they broke.
    pub ended: Vec<(Duration, bool)>,
    /// Requests that were shed.
    pub shed: Vec<Duration>,
}

/// How it came that an attempt failed on a replica that was down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spent {
    /// It was there when the replica went down, or was the first that met it then: nobody could know better.
    Unknowable,
    /// The replica was not out yet, though something had failed on it.
    Evidence,
    /// It was out, and the worker did not know.
    Stale,
    Probe,
    /// It was left to the balancer, or the list had ended.
    Explored,
    /// The replica was listed though it was out: all others are worse.
    Listed,
    /// It came back too early.
    Readmitted,
}

impl Spent {
    pub const ALL: [Self; 7] =
        [Self::Unknowable, Self::Evidence, Self::Stale, Self::Probe, Self::Explored, Self::Listed, Self::Readmitted];
}

/// A request that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Each {
    pub get: bool,
    /// Whether it takes long, wherever it is sent.
    pub slow: bool,
    /// Whether it fails, wherever it is sent.
    pub fails: bool,
    pub arrived: Duration,
    /// How often a replica that was fine began it.
    pub started: u32,
    /// When the client had its answer, and whether it was a good one.
    pub over: Option<(Duration, bool)>,
}

impl Each {
    /// Whether it was answered well within this time.
    pub fn is_answered(&self, within: Duration) -> bool {
        self.over.is_some_and(|(at, answered)| answered && at - self.arrived <= within)
    }
}

/// Counts of one run, or of several added up.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// While some replica was fine: GETs and POSTs, all and answered.
    pub gets: (u64, u64),
    pub posts: (u64, u64),
    /// The same, requests and their attempts.
    pub requests: u64,
    pub attempts: u64,
    /// Requests and attempts in all.
    pub all: (u64, u64),
    /// For each outage that ended: attempts on the replica, from the first to the last moment of it.
    pub per_outage: Vec<u64>,
    /// For each: how long after it until the replica answered a request again that was no probe.
    pub back: Vec<Duration>,
    pub ejections: u64,
    /// Of replicas that were fine.
    pub wrong: u64,
    pub readmissions: u64,
    pub all_readmitted: u64,
    pub detected: u64,
    pub failed_probes: u64,
    pub probes: u64,
    pub most_out: usize,
    pub out_at_end: usize,
    /// GETs and POSTs that failed, by how many replicas were fine when they came.
    pub failed: [[u64; 5]; 2],
    /// Attempts on replicas that were down, while one was fine: where they came from.
    pub spent_on: [u64; Spent::ALL.len()],
    /// Each request that was sent.
    pub each: Vec<Each>,
    /// By host: when attempts were sent to it.
    pub sent: Vec<Vec<Duration>>,
    bad_attempts: Vec<Vec<Duration>>,
    answers: Vec<Vec<Duration>>,
    pub ejected_at: Vec<Vec<Duration>>,
    /// By proxy and host: when it went out, and when it was back.
    pub absences: Vec<Vec<Vec<Absence>>>,
    /// By proxy and host: attempts that failed, when they began and when they ended.
    pub failures: Vec<Vec<Vec<(Duration, Duration)>>>,
    /// By proxy: when requests came, and when the budget granted retries.
    pub spent: Vec<(Vec<Duration>, Vec<Duration>)>,
    /// By proxy, where there is a breaker.
    pub circuits: Vec<Circuits>,
}

impl Report {
    pub fn new(replicas: usize, proxies: usize) -> Self {
        let each = vec![Vec::new(); replicas];
        Self {
            bad_attempts: each.clone(),
            answers: each.clone(),
            ejected_at: each.clone(),
            sent: each,
            absences: vec![vec![Vec::new(); replicas]; proxies],
            failures: vec![vec![Vec::new(); replicas]; proxies],
            spent: vec![Default::default(); proxies],
            circuits: vec![Circuits::default(); proxies],
            ..Self::default()
        }
    }

    pub fn attempt(&mut self, host: usize, served: bool, probe: bool, state: State, at: Duration) {
        self.all.1 += 1;
        self.attempts += u64::from(served);
        self.probes += u64::from(probe);
        if state != State::Fine && served {
            self.bad_attempts[host].push(at);
        }
    }

    /// An attempt on a replica that is down, `from` then on; it is out by the record, or by what its worker knows; and whether it
    /// was a probe, and in a list.
    pub fn dead(
        &mut self,
        host: usize,
        from: Duration,
        (by_record, by_worker): (bool, bool),
        probe: bool,
        listed: bool,
    ) {
        let met = self.bad_attempts[host].iter().rev().take_while(|at| **at >= from).count();
        let was_out = self.ejected_at[host].iter().any(|at| *at >= from);
        self.spend(match (by_record, by_worker) {
            _ if met <= 1 => Spent::Unknowable,
            _ if probe => Spent::Probe,
            (_, true) if listed => Spent::Listed,
            (_, true) => Spent::Explored,
            (true, false) => Spent::Stale,
            (false, false) if was_out => Spent::Readmitted,
            (false, false) => Spent::Evidence,
        });
    }

    pub fn spend(&mut self, on: Spent) {
        self.spent_on[on as usize] += 1;
    }

    /// By replicas that went down, in words.
    pub fn spent_line(&self) -> String {
        let outages = self.per_outage.len().max(1) as f64;
        let each = Spent::ALL.iter().zip(self.spent_on);
        each.map(|(on, count)| format!("{on:?} {:.2}", count as f64 / outages)).collect::<Vec<_>>().join(", ")
    }

    pub fn request(&mut self, get: bool, fine: usize, answered: bool, host: usize, probe: bool, at: Duration) {
        self.all.0 += 1;
        if answered && !probe {
            self.answers[host].push(at);
        }
        if !answered {
            self.failed[usize::from(!get)][fine.min(4)] += 1;
        }
        if fine > 0 {
            self.requests += 1;
            let kind = if get { &mut self.gets } else { &mut self.posts };
            kind.0 += 1;
            kind.1 += u64::from(answered);
        }
    }

    pub fn ejected(&mut self, proxy: usize, host: usize, was_fine: bool, at: Duration) {
        self.ejections += 1;
        self.wrong += u64::from(was_fine);
        self.ejected_at[host].push(at);
        self.absences[proxy][host].push((at, None));
    }

    pub fn readmitted(&mut self, proxy: usize, host: usize, at: Duration) {
        self.readmissions += 1;
        self.is_back(proxy, host, at);
    }

    pub fn everybody(&mut self, proxy: usize, at: Duration) {
        self.all_readmitted += 1;
        (0..self.answers.len()).for_each(|host| self.is_back(proxy, host, at));
    }

    fn is_back(&mut self, proxy: usize, host: usize, at: Duration) {
        if let Some((_, back)) = self.absences[proxy][host].last_mut() {
            back.get_or_insert(at);
        }
    }

    /// Looks at what happened around each outage.
    pub fn outages(&mut self, replicas: &[Replica], lasts: Duration) {
        for (host, replica) in replicas.iter().enumerate() {
            for (from, to) in replica.outages(lasts) {
                let within = |at: &&Duration| **at >= from && **at < to;
                self.per_outage.push(self.bad_attempts[host].iter().filter(within).count() as u64);
                self.back.extend(self.answers[host].iter().find(|at| **at >= to).map(|at| *at - to));
            }
        }
    }

    pub fn add(&mut self, other: Self) {
        let pair = |sum: &mut (u64, u64), more: (u64, u64)| *sum = (sum.0 + more.0, sum.1 + more.1);
        pair(&mut self.gets, other.gets);
        pair(&mut self.posts, other.posts);
        pair(&mut self.all, other.all);
        self.requests += other.requests;
        self.spent_on.iter_mut().zip(other.spent_on).for_each(|(sum, more)| *sum += more);
        self.attempts += other.attempts;
        self.per_outage.extend(other.per_outage);
        self.back.extend(other.back);
        for (sum, more) in self.failed.iter_mut().flatten().zip(other.failed.iter().flatten()) {
            *sum += more;
        }
        self.ejections += other.ejections;
        self.wrong += other.wrong;
        self.readmissions += other.readmissions;
        self.all_readmitted += other.all_readmitted;
        self.detected += other.detected;
        self.failed_probes += other.failed_probes;
        self.probes += other.probes;
        self.most_out = self.most_out.max(other.most_out);
    }

    pub fn get_success(&self) -> f64 {
        share(self.gets)
    }

    pub fn post_success(&self) -> f64 {
        share(self.posts)
    }

    pub fn attempts_per_request(&self) -> f64 {
        self.attempts as f64 / self.requests.max(1) as f64
    }

    /// The quantiles of attempts per outage and of the time to be back.
    pub fn quantiles(&self, quantile: f64) -> (u64, Duration) {
        (at(&self.per_outage, quantile), at(&self.back, quantile))
    }

    pub fn mean_per_outage(&self) -> f64 {
        self.per_outage.iter().sum::<u64>() as f64 / self.per_outage.len().max(1) as f64
    }

    pub fn line(&self) -> String {
        let ((half, back), (most, late)) = (self.quantiles(0.5), self.quantiles(0.99));
        format!(
            "GET {:.3}% POST {:.3}% attempts/request {:.4}; per outage ({}): median {half}, mean {:.1}, p99 {most}; back \
             after {back:.1?}, p99 {late:.1?}; ejections {}, wrong {}, failed probes {}, probes {}, detected {}, all \
             readmitted {}; failed by fine {:?}",
            100.0 * self.get_success(),
            100.0 * self.post_success(),
            self.attempts_per_request(),
            self.per_outage.len(),
            self.mean_per_outage(),
            self.ejections,
            self.wrong,
            self.failed_probes,
            self.probes,
            self.detected,
            self.all_readmitted,
            self.failed,
        )
    }
}

fn share((all, answered): (u64, u64)) -> f64 {
    answered as f64 / all.max(1) as f64
}

fn at<T: Copy + Ord + Default>(values: &[T], quantile: f64) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get((quantile * sorted.len() as f64) as usize).or(sorted.last()).copied().unwrap_or_default()
}
