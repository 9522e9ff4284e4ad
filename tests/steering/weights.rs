//! Groups of hosts with weights, as Envoy balances them: the backends of a rule of Envoy Gateway, in localities with weights.

use std::time::Duration;

use weir::base::percent::Percent;
use weir::base::random::Random;
use weir::base::time::Time;
use weir::outlier::detector::OutlierPolicy;
use weir::outlier::shared::WorkerId;
use weir::outlier::{EndedAttempt, Outliers};
use weir::signal::Signal;

use super::NOW;

/// A worker's balancer, as Envoy's are: the group by turns, as the weights say, and of its hosts any, as the policy `LEAST_REQUEST` has it
/// where all are idle.
struct Balancer {
    groups: Vec<(f64, Vec<usize>)>,
    deadlines: Vec<f64>,
    random: Random,
}

impl Balancer {
    fn new(groups: &[(f64, Vec<usize>)], seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut begins = |weight: f64| random.below(1_000) as f64 / 1_000.0 / weight;
        let deadlines = groups.iter().map(|(weight, _)| begins(*weight)).collect();
        Self { groups: groups.to_vec(), deadlines, random }
    }

    fn pick(&mut self) -> usize {
        let deadlines = self.deadlines.iter().copied().enumerate();
        let (group, deadline) = deadlines.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        self.deadlines[group] = deadline + 1.0 / self.groups[group].0;
        let hosts = &self.groups[group].1;
        hosts[self.random.below(hosts.len() as u64) as usize]
    }

    fn pick_another(&mut self, out: usize) -> usize {
        loop {
            let host = self.pick();
            if host != out {
                return host;
            }
        }
    }
}

/// A cluster of two groups, and what happens to it.
#[derive(Clone, Copy, Debug)]
struct Case {
    canary: f64,
    stable_hosts: usize,
    canary_hosts: usize,
    canary_out: bool,
    rate: u64,
    workers: usize,
    calm: usize,
    requests: usize,
}

impl Case {
    /// The canary's share of the requests from the hundredth on that comes after a host went out.
    fn run(self, seed: u64) -> f64 {
        let hosts = self.stable_hosts + self.canary_hosts;
        let name = |host: usize| format!("10.0.0.{host}:80");
        let is_canary = |host: usize| host >= self.stable_hosts;
        let out = if self.canary_out { hosts - 1 } else { 0 };
        let groups = [
            (1.0 - self.canary, (0..self.stable_hosts).collect::<Vec<_>>()),
            (self.canary, (self.stable_hosts..hosts).collect()),
        ];
        let mut random = Random::new(seed ^ 0x5eed);
        let mut workers: Vec<(Outliers, Balancer)> = (0..self.workers)
            .map(|worker| {
                let seed = seed * 64 + worker as u64 + 1;
                let balancer = Balancer::new(&groups, seed << 20);
                (Outliers::new(OutlierPolicy::default(), WorkerId(seed)), balancer)
            })
            .collect();
        let mut record: Option<Vec<u8>> = None;
        let exchange = |outliers: &mut Outliers, record: &mut Option<Vec<u8>>, now| {
            if let Some(new) = outliers.exchange(record.as_deref(), now) {
                *record = Some(new);
            }
            outliers.published();
        };
        let (mut canary, mut counted) = (0, 0);
        let mut exchanged = NOW;
        let settling = 100;
        for request in 0..self.calm + settling + self.requests {
            let now = NOW.saturating_add(Duration::from_nanos(request as u64 * 1_000_000_000 / self.rate));
            if now.since(exchanged) > Duration::from_millis(100) {
                exchanged = now;
                workers.iter_mut().for_each(|worker| exchange(&mut worker.0, &mut record, now));
            }
            let (outliers, balancer) = &mut workers[random.below(self.workers as u64) as usize];
            if outliers.is_stale(now) {
                exchange(outliers, &mut record, now);
            }
            let ended = |outliers: &mut Outliers, record: &mut Option<Vec<u8>>, host: usize, signal, now: Time| {
                let name = name(host);
                let attempt = EndedAttempt { host: Some(&name), signal, began: now, weight: 1, picked: false };
                if outliers.attempt_ended(&attempt, now) {
                    exchange(outliers, record, now);
                }
            };
            let down = request >= self.calm;
            let route = outliers.route(now, true, 2, Percent::from_basis_points(500).unwrap());
            let steered = route.is_some();
            let mut host = match &route {
                Some(route) => {
                    let first = route.hosts.split(',').next().unwrap();
                    (0..hosts).find(|host| name(*host) == first).unwrap()
                }
                None => balancer.pick(),
            };
            if down && host == out {
                ended(outliers, &mut record, host, Signal::Refused, now);
                host = balancer.pick_another(out);
            }
            ended(outliers, &mut record, host, Signal::Answered, now);
            if let Some(probe) = route.and_then(|route| route.probe) {
                outliers.probe_over(probe);
            }
            if !steered && outliers.wants_pick(outliers.is_calm(now), now) {
                outliers.picked(&name(host), now);
            }
            if request >= self.calm + settling {
                counted += 1;
                canary += usize::from(is_canary(host));
            }
        }
        canary as f64 / f64::from(counted)
    }

    /// What it should be: each of the others gets more in proportion to what it had, as it would by retries of what meets the host that
    /// is out.
    fn right(self) -> f64 {
        let (mut stable, mut canary) = (1.0 - self.canary, self.canary);
        if self.canary_out {
            canary *= 1.0 - 1.0 / self.canary_hosts as f64;
        } else {
            stable *= 1.0 - 1.0 / self.stable_hosts as f64;
        }
        canary / (stable + canary)
    }
}

/// Any canary of 1 to 50 percent, of up to four hosts beside up to four others or seven, one of which is out: with what Envoy's balancer
/// has shown in calm, the canary gets what is left of its weight beside what is left of the others', to within two percent of all
/// requests.
#[test]
fn a_canary_has_its_weight_while_a_host_is_out() {
    let mut far = Vec::new();
    let (mut squares, mut worst) = (0.0, 0.0_f64);
    for seed in 0..200 {
        let mut random = Random::new(seed);
        let mut of = |count: usize| random.below(count as u64) as usize;
        let canary_hosts = 1 + of(4);
        let case = Case {
            canary: [0.01, 0.05, 0.2, 0.5][of(4)],
            stable_hosts: [1, 2, 3, 4, 7][of(5)],
            canary_hosts,
            canary_out: canary_hosts > 1 && of(2) == 0,
            rate: [20, 100, 400, 1_000][of(4)],
            workers: 1 + of(4),
            calm: 2_000 + of(6_000),
            requests: 2_000,
        };
        let off = case.run(seed) - case.right();
        squares += off * off;
        worst = worst.max(off.abs());
        if off.abs() > 0.02 {
            far.push((case, off));
        }
    }
    println!(
        "standard deviation {:.4}, worst {worst:.4}; {} of 200 are too far: {far:.3?}",
        (squares / 200.0).sqrt(),
        far.len()
    );
    assert!(far.len() <= 1, "{far:.3?}");
}
