//! Hosts of finite capacity.

use std::time::Duration;

use weir::base::random::Random;
use weir::signal::Signal;

use super::super::replica::{Replica, State};
use super::{END, HANG, INCIDENT, REFUSAL, Setup};

/// Load, in percent of what the hosts can do,
const LOAD: u64 = 70;
/// unless hosts get so few requests that each would take longer than this: then it is less.
const MOST_WORK: Duration = Duration::from_millis(70);
/// So many percent of the hosts crash-loop, but at least one.
const CRASHING: usize = 20;
/// More than this much work is not queued.
const QUEUE: Duration = Duration::from_secs(2);
/// Nobody waits for longer.
const TIMEOUT: Duration = Duration::from_secs(1);
const HOP: Duration = Duration::from_micros(500);

/// How long a request takes.
fn work(setup: &Setup) -> Duration {
    Duration::from_nanos(10_000_000 * LOAD * setup.hosts as u64 / setup.rate).min(MOST_WORK)
}

/// How many requests a second all hosts together can do.
pub fn capacity(setup: &Setup) -> f64 {
    setup.hosts as f64 / work(setup).as_secs_f64()
}

struct Host {
    schedule: Replica,
    /// When all is done that was queued, and when something last was.
    done: Duration,
    queued: Duration,
}

pub struct Hosts {
    hosts: Vec<Host>,
    work: Duration,
}

impl Hosts {
    pub fn new(setup: &Setup) -> Self {
        let mut random = Random::new(setup.seed ^ 0x5eed);
        let crashing = (setup.hosts * CRASHING / 100).max(1);
        let host = |number: usize| {
            let mut phases = vec![(Duration::ZERO, State::Fine)];
            if number < crashing {
                let crashes = Replica::crash_loop(&mut random, END).0;
                let later =
                    crashes.into_iter().map(|(at, state)| (at + INCIDENT.0 - Duration::from_millis(500), state));
                phases.extend(later.filter(|(at, _)| *at > INCIDENT.0 && *at < INCIDENT.1));
                phases.push((INCIDENT.1, State::Fine));
            }
            phases.extend([(REFUSAL.0, State::Refuses), (REFUSAL.1, State::Fine)]);
            Host { schedule: Replica(phases), done: Duration::ZERO, queued: Duration::ZERO }
        };
        Self { hosts: (0..setup.hosts).map(host).collect(), work: work(setup) }
    }

    /// Whether the process is down or going down.
    pub fn is_down(&self, host: usize, at: Duration) -> bool {
        self.hosts[host].schedule.state(at) != State::Fine
    }

    /// An attempt: how it ends, and after which time.
    pub fn attempt(&mut self, host: usize, at: Duration, random: &mut Random) -> (Duration, Signal) {
        let work = self.work;
        let host = &mut self.hosts[host];
        match host.schedule.state(at) {
            State::Refuses => return (Duration::from_micros(100 + random.below(500)), Signal::Refused),
            State::Resets => return (Duration::from_micros(500 + random.below(3_500)), Signal::Reset),
            _ => {}
        }
        // A process that went down since has forgotten what was queued.
        if host.schedule.fine_since(at) > host.queued {
            host.done = at;
        }
        let hangs = at >= HANG.0 && at < HANG.1;
        if host.done.saturating_sub(if hangs { HANG.1 } else { at }) > QUEUE {
            return (2 * HOP, Signal::Error);
        }
        let begins = host.done.max(at + HOP);
        let mut done = begins + work;
        if begins < HANG.1 && done > HANG.0 {
            done = HANG.1 + work - HANG.0.saturating_sub(begins);
        }
        (host.done, host.queued) = (done, at);
        let takes = done + HOP - at;
        if let Some(after) = host.schedule.breaks_within(at, takes.min(TIMEOUT)) {
            return (after, Signal::Reset);
        }
        if takes >= TIMEOUT { (TIMEOUT, Signal::Timeout) } else { (takes, Signal::Answered) }
    }
}
