//! Which hosts Envoy's balancer still picks, as far as requests that explore tell: who is drained gets no more, and who is not keeps
//! its part.

use std::time::Duration;

use super::replica::{Replica, State};
use super::report::Report;
use super::world::{Setup, World};
use super::{seconds, setup};

/// One of some replicas refuses, and another may be drained.
fn one_refuses(seed: u64, hosts: usize, drained: Option<(Duration, usize)>) -> Report {
    let mut replicas = vec![Replica::always(State::Fine); hosts];
    replicas[0] = Replica::between(seconds(3), seconds(60), State::Refuses);
    World::run(Setup { rate: 100, drained, ..setup(seed, 16, replicas) })
}

/// A replica that is drained while another one is out gets next to nothing two seconds later.
#[test]
fn a_host_that_the_balancer_leaves_out_leaves_the_lists() {
    let mut late = 0;
    for seed in 0..20 {
        let report = one_refuses(seed, 4, Some((seconds(8), 1)));
        late += report.sent[1].iter().filter(|at| **at > seconds(10)).count();
    }
    println!("{late} requests reached a replica that is drained");
    // Of some three thousand without this.
    assert!(late <= 60, "{late}");
}

/// A replica that is not drained is not taken to be, though chance leaves it out for a while.
#[test]
fn a_host_that_the_balancer_picks_stays_in_the_lists() {
    let (mut idle, mut all) = (0, 0);
    for seed in 0..20 {
        let report = one_refuses(seed, 4, None);
        for sent in &report.sent[1..] {
            let later: Vec<_> = sent.iter().filter(|at| **at > seconds(5)).collect();
            let long = later.windows(2).map(|pair| *pair[1] - *pair[0]).filter(|gap| *gap > Duration::from_millis(400));
            idle += long.count();
            all += 1;
        }
    }
    println!("{idle} times a replica of {all} had nothing to do");
    assert!(idle <= all / 10, "{idle} of {all}");
}
