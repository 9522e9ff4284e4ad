//! What fails wherever it is sent, while other requests are answered: a path, a method, a user. It says nothing of the replicas
//! that it meets.

use std::time::Duration;

use weir::signal::Signal;

use super::replica::{Replica, State};
use super::report::Report;
use super::world::{Setup, World};
use super::{seconds, setup};

const LASTS: u64 = 12;
const SEEDS: u64 = 10;

/// For which part of the time replicas were out, of all replicas and all the time: in percent.
fn out(report: &Report) -> f64 {
    let hosts = report.absences.iter().flatten();
    let time: Duration = hosts.clone().flatten().map(|(from, to)| to.unwrap_or(seconds(LASTS)) - *from).sum();
    100.0 * time.as_secs_f64() / (LASTS as usize * hosts.count()) as f64
}

#[test]
fn what_fails_everywhere_ejects_nobody() {
    for (signal, percent, most) in [
        (Signal::Error, 33, 0.5),
        (Signal::Reset, 5, 2.0),
        (Signal::Reset, 12, 2.0),
        (Signal::Reset, 33, 2.0),
        (Signal::Timeout, 5, 3.0),
        (Signal::Timeout, 12, 3.0),
        (Signal::Timeout, 33, 12.0),
    ] {
        for (rate, replicas) in [(40, 4), (100, 4), (400, 4), (50, 2), (100, 10)] {
            let run = |seed| {
                let all = vec![Replica::always(State::Fine); replicas];
                let setup = setup(seed, LASTS, all);
                out(&World::run(Setup { rate, evenly: true, gets: 75, fails: Some((signal, percent)), ..setup }))
            };
            let out = (0..SEEDS).map(run).sum::<f64>() / SEEDS as f64;
            let told = format!("{signal:?} {percent} percent, {replicas} replicas at {rate}/s: {out:.2} percent out");
            println!("{told}");
            assert!(out <= most, "{told}");
        }
    }
}
