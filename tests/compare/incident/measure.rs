//! What one policy made of the incident, in numbers.

use std::collections::HashSet;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::super::attempts::{Attempt, End};
use super::super::crash_loops::load::Outcome;
use super::super::crash_loops::schedule::Timeline;
use super::super::policy::Policy;
use super::Trial;

pub const COLUMNS: [&str; 11] = [
    "GETs answered",
    "POSTs answered",
    "POSTs twice",
    "attempts/request",
    "dead",
    "at least",
    "back",
    "half share",
    "p50",
    "p99",
    "calm p99",
];

/// Replicas that are back for less than this before the end, or before they crash again, are not asked when they got
/// traffic.
const WATCHED: Duration = Duration::from_millis(2000);

/// A count, and of how many.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    pub part: u64,
    pub whole: u64,
}

impl Share {
    fn of<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Self {
        outcomes.fold(Self::default(), |share, outcome| Self {
            part: share.part + u64::from(outcome.result.is_ok()),
            whole: share.whole + 1,
        })
    }

    pub fn percent(self) -> f64 {
        self.part as f64 * 100.0 / self.whole.max(1) as f64
    }
}

pub struct Measured {
    pub policy: Policy,
    pub get: Share,
    pub post: Share,
    pub posts_twice: u64,
    /// Attempts that left, and requests.
    pub attempts: Share,
    /// Attempts that failed at a replica, and crashes of replicas.
    pub dead: Share,
    /// Of the attempts that failed, those that nobody could know better: they began before the first of their crash had failed;
    /// and the POSTs that ended with one of them.
    pub unknowable: (u64, u64),
    /// Of the attempts that failed, those that were under way when their replica went down.
    pub under_way: u64,
    /// From when a replica was back until it answered; in ascending order.
    pub back: Vec<Duration>,
    /// From when a replica was back until it got half its share; in ascending order.
    pub half_share: Vec<Duration>,
    pub p50: Duration,
    pub p99: Duration,
    pub calm_p99: Duration,
    /// By the second in which they were due: requests answered, requests.
    pub answered: Vec<Share>,
}

impl Measured {
    pub fn new(trial: &Trial, timelines: &[Timeline], calm: Duration, length: Duration) -> Self {
        let crashing: Vec<&Outcome> = trial.outcomes.iter().filter(|outcome| outcome.due >= calm).collect();
        let by = |method: Method| Share::of(crashing.iter().copied().filter(|outcome| outcome.method == method));
        let since = |attempt: &Attempt| attempt.began.saturating_sub(trial.began);
        let sent: Vec<&Attempt> = trial.attempts.iter().filter(|attempt| attempt.end != End::Vetoed).collect();
        let crashes =
            timelines.iter().flat_map(|timeline| &timeline.crashes).filter(|crash| crash.resets_from < length);
        let (mut back, mut half_share) = (Vec::new(), Vec::new());
        for (timeline, address) in timelines.iter().zip(&trial.replicas) {
            let answers: Vec<Duration> = sent
                .iter()
                .filter(|attempt| attempt.answered && attempt.host == Some(*address))
                .map(|attempt| since(attempt))
                .collect();
            for (number, crash) in timeline.crashes.iter().enumerate() {
                let until = timeline.crashes.get(number + 1).map_or(length, |next| next.resets_from).min(length);
                if until >= crash.back_at + WATCHED {
                    let waited = |at: Option<Duration>| at.unwrap_or(until).saturating_sub(crash.back_at);
                    let after: Vec<Duration> =
                        answers.iter().copied().filter(|at| *at >= crash.back_at && *at < until).collect();
                    back.push(waited(after.iter().min().copied()));
                    half_share.push(waited(half(after, &crashing, timelines.len(), length - calm)));
                }
            }
        }
        back.sort_unstable();
        half_share.sort_unstable();
        let latencies = |calm_ones: bool| {
            // The first second is that of connections being opened.
            let since = if calm_ones { Duration::from_secs(1) } else { calm };
            let outcomes = trial.outcomes.iter().filter(|one| one.due >= since && (one.due < calm) == calm_ones);
            let mut latencies: Vec<Duration> = outcomes.map(|outcome| outcome.latency).collect();
            latencies.sort_unstable();
            latencies
        };
        let latency = latencies(false);
        let unknowable = unknowable(trial, timelines, length);
        Self {
            policy: trial.policy,
            get: by(Method::GET),
            post: by(Method::POST),
            posts_twice: trial.ledger.repeated(&Method::POST),
            attempts: Share {
                part: sent.iter().filter(|attempt| since(attempt) >= calm).count() as u64,
                whole: crashing.len() as u64,
            },
            dead: Share {
                part: sent.iter().filter(|attempt| !attempt.answered).count() as u64,
                whole: crashes.count() as u64,
            },
            unknowable: (unknowable.0, unknowable.1),
            under_way: unknowable.2,
            back,
            half_share,
            p50: quantile(&latency, 50),
            p99: quantile(&latency, 99),
            calm_p99: quantile(&latencies(true), 99),
            answered: per_second(&trial.outcomes, length),
        }
    }

    pub fn attempts_per_request(&self) -> f64 {
        self.attempts.part as f64 / self.attempts.whole.max(1) as f64
    }

    pub fn dead_per_crash(&self) -> f64 {
        self.dead.part as f64 / self.dead.whole.max(1) as f64
    }

    /// The same, of those that no policy can avoid that learns of a crash from its first failure.
    pub fn least_per_crash(&self) -> f64 {
        self.unknowable.0 as f64 / self.dead.whole.max(1) as f64
    }

    /// The same, of those that were under way when their replica went down: the others were spent on a dead one.
    pub fn under_way_per_crash(&self) -> f64 {
        self.under_way as f64 / self.dead.whole.max(1) as f64
    }

    pub fn cells(&self) -> Vec<String> {
        let seconds = |sorted: &[Duration]| format!("{:.2} s", quantile(sorted, 50).as_secs_f64());
        let milliseconds = |latency: Duration| format!("{} ms", latency.as_millis());
        vec![
            cut(self.get),
            cut(self.post),
            self.posts_twice.to_string(),
            format!("{:.3}", self.attempts_per_request()),
            format!("{:.1}", self.dead_per_crash()),
            format!("{:.1}", self.least_per_crash()),
            seconds(&self.back),
            seconds(&self.half_share),
            milliseconds(self.p50),
            milliseconds(self.p99),
            milliseconds(self.calm_p99),
        ]
    }

    pub fn to_json(&self) -> Value {
        let share = |share: &Share| json!({"answered": share.part, "sent": share.whole});
        let milliseconds = |latency: Duration| latency.as_secs_f64() * 1e3;
        let seconds = |sorted: &[Duration]| {
            json!({
                "median": quantile(sorted, 50).as_secs_f64(), "worst": quantile(sorted, 100).as_secs_f64(),
                "of": sorted.len(),
            })
        };
        json!({
            "policy": self.policy.name(),
            "GET": share(&self.get),
            "POST": share(&self.post),
            "postsProcessedTwice": self.posts_twice,
            "attempts": self.attempts.part,
            "requests": self.attempts.whole,
            "failedAttempts": self.dead.part,
            "crashes": self.dead.whole,
            "unknowableAttempts": self.unknowable.0,
            "unknowablePosts": self.unknowable.1,
            "attemptsUnderWay": self.under_way,
            "secondsUntilFirstAnswer": seconds(&self.back),
            "secondsUntilHalfItsShare": seconds(&self.half_share),
            "latencyMs": {
                "p50": milliseconds(self.p50), "p99": milliseconds(self.p99), "calmP99": milliseconds(self.calm_p99),
            },
            "answeredPerSecond": self.answered.iter().map(|share| share.part).collect::<Vec<_>>(),
        })
    }
}

/// Attempts that failed although nobody could know better, and POSTs that were lost with them; and attempts that were under way
/// when their replica went down.
fn unknowable(trial: &Trial, timelines: &[Timeline], length: Duration) -> (u64, u64, u64) {
    /// The longest that a replica works on a request, and a bit.
    const HELD: Duration = Duration::from_millis(50);
    let mut attempts: Vec<&Attempt> = Vec::new();
    let mut under_way = 0;
    for (timeline, address) in timelines.iter().zip(&trial.replicas) {
        let mut failed: Vec<(Duration, &Attempt)> = trial
            .attempts
            .iter()
            .filter(|attempt| attempt.host == Some(*address) && !attempt.answered && attempt.end != End::Vetoed)
            .map(|attempt| (attempt.began.saturating_sub(trial.began), attempt))
            .collect();
        failed.sort_unstable_by_key(|(began, _)| *began);
        for crash in timeline.crashes.iter().filter(|crash| crash.resets_from < length) {
            let during = crash.resets_from.saturating_sub(HELD)..crash.back_at;
            let during = || failed.iter().filter(|(began, _)| during.contains(began));
            under_way += during().filter(|(began, _)| *began < crash.resets_from).count() as u64;
            let seen = during().map(|(began, attempt)| *began + attempt.lasted).min();
            attempts.extend(
                during().filter(|(began, _)| seen.is_some_and(|seen| *began <= seen)).map(|(_, attempt)| *attempt),
            );
        }
    }
    let lost: HashSet<u64> = trial
        .outcomes
        .iter()
        .filter(|outcome| outcome.method == Method::POST && outcome.result.is_err())
        .map(|outcome| outcome.id)
        .collect();
    let posts = attempts.iter().filter(|attempt| attempt.request.is_some_and(|id| lost.contains(&id))).count();
    (attempts.len() as u64, posts as u64, under_way)
}

/// Percent with two decimals, cut, not rounded: 100.00 % is said only of all.
fn cut(share: Share) -> String {
    let hundredths = (share.part * 10_000).checked_div(share.whole).unwrap_or(0);
    format!("{}.{:02} %", hundredths / 100, hundredths % 100)
}

/// When a replica that answers at these times has half as many requests as if all replicas shared them evenly, over the
/// time in which that would be ten.
fn half(mut answers: Vec<Duration>, requests: &[&Outcome], replicas: usize, length: Duration) -> Option<Duration> {
    const TEN: usize = 10;
    answers.sort_unstable();
    let window = length * (TEN * replicas) as u32 / (requests.len().max(1) as u32);
    answers.windows(TEN / 2).find(|some| some[TEN / 2 - 1] - some[0] <= window).map(|some| some[0])
}

/// Zero if there is none.
pub fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn per_second(outcomes: &[Outcome], length: Duration) -> Vec<Share> {
    let mut seconds = vec![Share::default(); length.as_secs() as usize];
    for outcome in outcomes {
        if let Some(second) = seconds.get_mut(outcome.due.as_secs() as usize) {
            second.part += u64::from(outcome.result.is_ok());
            second.whole += 1;
        }
    }
    seconds
}
