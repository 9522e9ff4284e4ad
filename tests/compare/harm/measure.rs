//! What is counted on each side of a situation, and how much more of it may be chance.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use super::client::Outcome;
use super::replica::Arrival;
use super::situation::Situation;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Measure {
    /// Requests that a client got no right answer to.
    Failed,
    /// POSTs that were processed more than once.
    Twice,
    /// Requests that took longer than this.
    Slow(Duration),
    /// Requests of users whose own replica is always well, that went to another one from this second on. A user's own replica is the
    /// one that it had most often before.
    Moved(f64),
    /// Requests that reached this replica from this second on.
    Reached(usize, f64),
    /// Requests of one load that were started once more, while the replica that had them went on.
    Repeated(usize),
    /// What replicas that are always well got less than their fair share of the load, in any two seconds.
    Starved,
    /// Attempts of all requests.
    Attempts,
    /// Failures whose line in the access log has no verdict of Weir.
    Unexplained,
}

/// How often, of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub number: u64,
    pub of: u64,
}

/// All that is known of one side when it is over.
pub struct Record {
    pub start: Instant,
    pub outcomes: Vec<Outcome>,
    pub arrivals: Vec<Arrival>,
    pub done: HashMap<u64, u32>,
    pub deaths: Vec<(usize, Instant)>,
    /// Attempts that got no connection.
    pub unconnected: u64,
    pub unexplained: u64,
}

impl fmt::Display for Measure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed => formatter.write_str("failed"),
            Self::Twice => formatter.write_str("POSTs done twice"),
            Self::Slow(limit) => write!(formatter, "over {} s", limit.as_secs_f64()),
            Self::Moved(_) => formatter.write_str("moved off their own replica"),
            Self::Reached(..) => formatter.write_str("reached the wrong replica"),
            Self::Repeated(_) => formatter.write_str("started twice"),
            Self::Starved => formatter.write_str("kept from healthy replicas"),
            Self::Attempts => formatter.write_str("attempts per request"),
            Self::Unexplained => formatter.write_str("failed without a reason"),
        }
    }
}

impl Measure {
    pub fn count(self, situation: &Situation, record: &Record) -> Count {
        let judged = |outcome: &&Outcome| situation.loads[outcome.load].judged;
        let outcomes = record.outcomes.iter();
        match self {
            Self::Failed => share(outcomes.filter(judged), |outcome| !outcome.ok),
            Self::Slow(limit) => share(outcomes.filter(judged), |outcome| outcome.took > limit),
            Self::Twice => {
                let posts = outcomes.filter(|outcome| situation.loads[outcome.load].method == Method::POST);
                share(posts, |outcome| record.done.get(&outcome.number).is_some_and(|times| *times > 1))
            }
            Self::Moved(from) => moved(situation, record, Duration::from_secs_f64(from)),
            Self::Reached(host, from) => {
                let from = record.start + Duration::from_secs_f64(from);
                share(record.arrivals.iter().filter(|arrival| arrival.at >= from), |arrival| arrival.host == host)
            }
            Self::Repeated(load) => {
                let mut arrived = HashMap::<u64, Vec<Arrival>>::new();
                for arrival in &record.arrivals {
                    arrived.entry(arrival.number).or_default().push(*arrival);
                }
                // Whoever lost what it began with a replica that died begins again.
                let lost = |first: &Arrival, next: &Arrival| {
                    record.deaths.iter().any(|(host, at)| *host == first.host && (first.at..=next.at).contains(at))
                };
                let twice = |all: &Vec<Arrival>| all.windows(2).any(|two| !lost(&two[0], &two[1]));
                let of_load = outcomes.filter(|outcome| outcome.load == load);
                share(of_load, |outcome| arrived.get(&outcome.number).is_some_and(twice))
            }
            Self::Starved => starved(situation, record),
            Self::Attempts => {
                Count { number: record.arrivals.len() as u64 + record.unconnected, of: record.outcomes.len() as u64 }
            }
            Self::Unexplained => {
                let failed = outcomes.filter(|outcome| !outcome.ok).count() as u64;
                Count { number: record.unexplained, of: failed }
            }
        }
    }

    /// How much more it may be with Weir: what differs between two runs of the same thing, and for attempts the budget.
    pub fn allowance(self, situation: &Situation, without: Count) -> u64 {
        let percent = |percent: u64| (without.of * percent).div_ceil(100);
        match self {
            Self::Twice => 0,
            Self::Failed => percent(1).max(2).max((without.number * 2).div_ceil(100)),
            Self::Slow(_) | Self::Moved(_) => percent(1).max(2),
            Self::Reached(..) => percent(2).max(3),
            Self::Repeated(_) | Self::Starved => percent(5).max(2),
            Self::Attempts => percent(20).max((situation.seconds * 10.0) as u64),
            Self::Unexplained => 0,
        }
    }

    /// What is allowed, in words.
    pub const ALLOWANCES: &str = "\
| what is counted | how much more it may be with Weir |
|---|---|
| failed | 1 percent of the requests, or 2 requests, or 2 percent of those that fail without Weir: whichever is most |
| slow answers, and requests that moved off their own replica | 1 percent, or 2 |
| requests that reached the wrong replica | 2 percent, or 3 |
| started twice, or kept from healthy replicas | 5 percent, or 2 |
| attempts | Weir's budget: 20 percent of the requests, or 10 a second |
| POSTs done twice, and failures without a reason | none |
";
}

fn share<'a, T: 'a>(all: impl Iterator<Item = &'a T>, which: impl Fn(&T) -> bool) -> Count {
    all.fold(Count::default(), |count, one| Count { number: count.number + u64::from(which(one)), of: count.of + 1 })
}

fn moved(situation: &Situation, record: &Record, from: Duration) -> Count {
    let mut visits = HashMap::<u64, BTreeMap<usize, u64>>::new();
    let answered = || record.outcomes.iter().filter_map(|outcome| Some((outcome.user?, outcome.host?, outcome.due)));
    for (user, host, _) in answered().filter(|(_, _, due)| *due < from) {
        *visits.entry(user).or_default().entry(host).or_default() += 1;
    }
    let own = |user| visits.get(&user)?.iter().max_by_key(|(_, times)| **times).map(|(host, _)| *host);
    let later = answered().filter(|(_, _, due)| *due >= from);
    let mut count = Count::default();
    for (own, host) in later.filter_map(|(user, host, _)| Some((own(user)?, host))) {
        if situation.is_well(own) {
            count.of += 1;
            count.number += u64::from(own != host);
        }
    }
    count
}

/// Two seconds, in which each replica that is well should get what it would get if all got the same.
fn starved(situation: &Situation, record: &Record) -> Count {
    let mut windows = BTreeMap::<u64, HashMap<usize, u64>>::new();
    for arrival in &record.arrivals {
        let window = (arrival.at - record.start).as_secs() / 2;
        *windows.entry(window).or_default().entry(arrival.host).or_default() += 1;
    }
    let mut count = Count::default();
    for hosts in windows.values() {
        let all: u64 = hosts.values().sum();
        let fair = all / situation.hosts as u64;
        count.of += all;
        for host in (0..situation.hosts).filter(|host| situation.is_well(*host)) {
            count.number += fair.saturating_sub(hosts.get(&host).copied().unwrap_or(0));
        }
    }
    count
}
