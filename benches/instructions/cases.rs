//! What is counted: calls as the filter makes them, on a state that more calls do not change much.

#[path = "worker.rs"]
mod worker;

use std::cell::Cell;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use governor::clock::Clock;
use governor::nanos::Nanos;
use governor::{Quota, RateLimiter};
use tower::retry::budget::{Budget as _, TpsBudget};
use weir::base::percent::Percent;
use weir::base::time::Time;
use weir::outlier::detector::{Failure, OutlierPolicy, Peers, is_outlier};
use weir::outlier::host::AttemptHistory;
use weir::outlier::shared::{Change, Ejections, WorkerId};
use weir::outlier::{EndedAttempt, Outliers};
use weir::retry::budget::{Budget, BudgetPolicy, MinRetryRate, RetryRequest};
use weir::retry::reservations::Account;
use weir::signal::{Answer, Attempt, Flags, RequestEnd, Signal};

/// A case of ours, and those of others that do the same thing.
pub struct Row {
    pub ours: &'static str,
    pub tower: Option<&'static str>,
    pub governor: Option<&'static str>,
}

impl Row {
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        [Some(self.ours), self.tower, self.governor].into_iter().flatten()
    }
}

const fn row(ours: &'static str) -> Row {
    Row { ours, tower: None, governor: None }
}

const fn beside_tower(ours: &'static str, tower: &'static str) -> Row {
    Row { ours, tower: Some(tower), governor: None }
}

const fn beside_governor(ours: &'static str, governor: &'static str) -> Row {
    Row { ours, tower: None, governor: Some(governor) }
}

/// The loop alone.
pub const NOTHING: &str = "nothing";

pub const ALL: &[Row] = &[
    row("classify: answered"),
    row("classify: connection refused"),
    row("classify: the end of a request, reset"),
    beside_tower("budget: a request", "tower: a request"),
    beside_tower("budget: a request, in the worker's account", "tower: a request"),
    beside_tower("budget: a request and a retry, granted", "tower: granted"),
    beside_tower("budget: a retry, denied", "tower: denied"),
    beside_tower("budget: a request and a retry, on the record", "tower: granted"),
    beside_governor("budget: a floor alone, granted", "governor: granted"),
    beside_governor("budget: a floor alone, denied", "governor: denied"),
    row("detector: 4 hosts, one failed"),
    row("detector: 500 hosts, one failed"),
    row("request: in a calm cluster of 4 hosts, and its end"),
    row("request: in a calm cluster of 500 hosts, and its end"),
    row("request: of 4 hosts, 1 out, and its end"),
    row("request: of 500 hosts, 1 out, and its end"),
    row("request: of 1,000 hosts, 50 out, and its end"),
    row("timer: 1,000 hosts, none out"),
    row("timer: 1,000 hosts, 50 out"),
    row("hosts: an attempt answered, of 4 hosts"),
    row("hosts: an attempt answered, of 500 hosts"),
    row("steering: a list of 3 of 4 hosts"),
    row("steering: a list of 3 of 500 hosts"),
    row("exchange: encode, 1 host out"),
    row("exchange: encode, 50 hosts out"),
    row("exchange: merge, 4 hosts, 1 out"),
    row("exchange: merge, 500 hosts, 50 out"),
    row("config: the defaults"),
    row("config: all settings"),
];

const START: Time = Time::from_nanos(1_770_000_000_000_000_000);
/// How far time moves on from call to call.
const STEP: Duration = Duration::from_micros(10);
const INTERVAL: Duration = Duration::from_secs(10);

/// Makes so many calls of a case.
pub fn run(case: &str, calls: u64) -> Result<()> {
    let mut call = find(case).with_context(|| format!("there is no case {case}"))?;
    let mut now = START;
    for _ in 0..calls {
        now = now.saturating_add(STEP);
        call(now);
    }
    Ok(())
}

type Call = Box<dyn FnMut(Time)>;

fn find(case: &str) -> Option<Call> {
    Some(match case {
        NOTHING => Box::new(|now| _ = black_box(now)),
        "classify: answered" => classify(Flags::default(), Some(200), b""),
        "classify: connection refused" => classify(
            Flags::CONNECTION_FAILURE,
            None,
            b"delayed_connect_error:_Connection_refused|remote_address:10.0.0.1:80",
        ),
        "classify: the end of a request, reset" => {
            let details = b"upstream_reset_before_response_started{connection_termination}";
            let end = RequestEnd { flags: Flags::CONNECTION_TERMINATION, details, ..RequestEnd::default() };
            Box::new(move |_| _ = black_box(black_box(&end).last_attempt()))
        }
        "budget: a request" => {
            let mut budget = Budget::new(policy(2_000, 0));
            Box::new(move |now| black_box(&mut budget).deposit(now))
        }
        "tower: a request" => {
            let budget = tower_budget(0.2);
            Box::new(move |_| black_box(&budget).deposit())
        }
        "budget: a request, in the worker's account" => {
            let mut account = Account::new(policy(2_000, 10));
            Box::new(move |now| black_box(&mut account).arrive(now))
        }
        "budget: a request and a retry, granted" => {
            let mut budget = Budget::new(policy(10_000, 0));
            Box::new(move |now| {
                black_box(&mut budget).deposit(now);
                assert!(black_box(budget.try_withdraw(now)));
            })
        }
        "tower: granted" => {
            let budget = tower_budget(1.0);
            Box::new(move |_| {
                black_box(&budget).deposit();
                assert!(black_box(budget.withdraw()));
            })
        }
        "budget: a retry, denied" => {
            let mut budget = Budget::new(policy(2_000, 0));
            Box::new(move |now| assert!(!black_box(&mut budget).try_withdraw(now)))
        }
        "tower: denied" => {
            let budget = tower_budget(0.2);
            Box::new(move |_| assert!(!black_box(&budget).withdraw()))
        }
        "budget: a request and a retry, on the record" => on_the_record(),
        "budget: a floor alone, granted" => floor(1_000_000, true),
        "budget: a floor alone, denied" => floor(1, false),
        "governor: granted" => governor(1_000_000, true),
        "governor: denied" => governor(1, false),
        "detector: 4 hosts, one failed" => detector(4),
        "detector: 500 hosts, one failed" => detector(500),
        "request: in a calm cluster of 4 hosts, and its end" => worker::request(4, 0),
        "request: in a calm cluster of 500 hosts, and its end" => worker::request(500, 0),
        "request: of 4 hosts, 1 out, and its end" => worker::request(4, 1),
        "request: of 500 hosts, 1 out, and its end" => worker::request(500, 1),
        "request: of 1,000 hosts, 50 out, and its end" => worker::request(1_000, 50),
        "timer: 1,000 hosts, none out" => worker::timer(1_000, 0),
        "timer: 1,000 hosts, 50 out" => worker::timer(1_000, 50),
        "hosts: an attempt answered, of 4 hosts" => answered(4),
        "hosts: an attempt answered, of 500 hosts" => answered(500),
        "steering: a list of 3 of 4 hosts" => steer(4),
        "steering: a list of 3 of 500 hosts" => steer(500),
        "exchange: encode, 1 host out" => encode(4, 1),
        "exchange: encode, 50 hosts out" => encode(500, 50),
        "exchange: merge, 4 hosts, 1 out" => merge(4, 1),
        "exchange: merge, 500 hosts, 50 out" => merge(500, 50),
        "config: the defaults" => config(r#"{ "role": "decide", "mode": "enforce" }"#),
        "config: all settings" => config(EVERYTHING),
        _ => return None,
    })
}

fn classify(flags: Flags, status: Option<u16>, failure_reason: &'static [u8]) -> Call {
    let attempt = Attempt { flags, answer: Answer { status, ..Answer::default() }, failure_reason };
    Box::new(move |_| _ = black_box(black_box(&attempt).classify()))
}

fn policy(basis_points: u32, count: u32) -> BudgetPolicy {
    BudgetPolicy {
        percent: Percent::from_basis_points(basis_points).unwrap_or(Percent::MAX),
        interval: INTERVAL,
        min_retry_rate: MinRetryRate { count, interval: Duration::from_secs(1) },
    }
}

fn tower_budget(percent: f32) -> TpsBudget {
    TpsBudget::new(INTERVAL, 0, percent)
}

/// A budget that all workers share: the record is read, charged, and written again.
fn on_the_record() -> Call {
    let mut account = Account::new(policy(10_000, 0));
    let mut record = account.publish(None, START);
    Box::new(move |now| {
        account.arrive(now);
        let (charge, written) = account.charge(Some(&record), RetryRequest { arrived: now, again: false }, now);
        assert_eq!(charge, weir::retry::budget::Charge::Granted);
        if let Some(written) = written {
            record = written;
            account.published();
        }
    })
}

/// A budget that is nothing but a floor is a rate limit.
fn floor(count: u32, granted: bool) -> Call {
    let mut budget = Budget::new(policy(0, count));
    if !granted {
        budget.withdraw(START, count);
    }
    Box::new(move |now| assert_eq!(black_box(&mut budget).try_withdraw(now), granted))
}

/// Time as it is given.
#[derive(Clone)]
struct Given(Rc<Cell<u64>>);

impl Clock for Given {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(self.0.get())
    }
}

fn governor(count: u32, granted: bool) -> Call {
    let given = Given(Rc::new(Cell::new(START.as_nanos())));
    let limiter = RateLimiter::direct_with_clock(
        Quota::per_second(NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN)),
        given.clone(),
    );
    if !granted {
        assert!(limiter.check().is_ok());
    }
    Box::new(move |now| {
        given.0.set(now.as_nanos());
        assert_eq!(black_box(&limiter).check().is_ok(), granted);
    })
}

/// The record of a host that fails now and then among others that do not: what is judged whenever an attempt fails.
fn detector(hosts: usize) -> Call {
    let mut fine = AttemptHistory::new(INTERVAL);
    fine.answered(64);
    let (mut all, mut host) = (Peers::new(), fine.clone());
    (0..hosts).for_each(|_| all.add(&fine));
    host.failed(Failure::Reset, START);
    let outlier = OutlierPolicy::default();
    Box::new(move |now| {
        // Another one 20 attempts ago, so that all lengths are looked at.
        black_box(&mut host).failed(Failure::Reset, now);
        host.answered(19);
        all.remove(&fine);
        host.failed(Failure::Reset, now);
        all.add(&host);
        let mut others = all.clone();
        others.remove(&host);
        assert!(!black_box(is_outlier(&outlier, &host, Failure::Reset, &others, now)));
        all.remove(&host);
        all.add(&fine);
        host = AttemptHistory::new(INTERVAL);
        host.answered(64);
    })
}

fn address(host: usize) -> String {
    format!("10.0.{}.{}:8080", host / 250, host % 250)
}

/// What a worker knows of hosts of which it had 64 requests each, and the record, with the first `out` of them out.
fn cluster(hosts: usize, out: usize) -> (Outliers, Vec<u8>) {
    let mut outliers = Outliers::new(OutlierPolicy::default(), WorkerId(1));
    for turn in 0..64 * hosts {
        ended(&mut outliers, &address(turn % hosts), Signal::Answered, START);
    }
    let mut record = None;
    for host in 0..out {
        outliers.requested(START);
        ended(&mut outliers, &address(host), Signal::Refused, START);
        record = outliers.exchange(record.as_deref(), START).or(record);
        outliers.published();
    }
    assert_eq!(outliers.ejected(), out);
    (outliers, record.unwrap_or_default())
}

fn ended(outliers: &mut Outliers, host: &str, signal: Signal, now: Time) {
    outliers.attempt_ended(&EndedAttempt { host: Some(host), signal, began: now, weight: 1, picked: true }, now);
}

fn answered(hosts: usize) -> Call {
    let (mut outliers, _) = cluster(hosts, 0);
    let addresses: Vec<_> = (0..hosts).map(address).collect();
    let mut turn = 0;
    Box::new(move |now| {
        turn = (turn + 1) % hosts;
        ended(black_box(&mut outliers), &addresses[turn], Signal::Answered, now);
    })
}

/// For a request with two retries, while one host is out.
fn steer(hosts: usize) -> Call {
    let (mut outliers, _) = cluster(hosts, 1);
    Box::new(move |now| assert!(black_box(black_box(&mut outliers).route(now, true, 2, Percent::default())).is_some()))
}

fn shared(hosts: usize, out: usize) -> Ejections {
    let (_, record) = cluster(hosts, out);
    Ejections::decode(&record, &OutlierPolicy::default(), START).unwrap_or_default()
}

fn encode(hosts: usize, out: usize) -> Call {
    let (shared, mut record) = (shared(hosts, out), Vec::new());
    assert_eq!(shared.ejected.len(), out);
    Box::new(move |_| black_box(&shared).encode(black_box(&mut record)))
}

/// Reads the record, into which another worker wrote what it saw, and does as it says.
fn merge(hosts: usize, out: usize) -> Call {
    let (mut outliers, _) = cluster(hosts, out);
    let mut shared = shared(hosts, out);
    let seen = Change::ReportFailure(address(hosts - 1).into(), Failure::Reset, 30);
    shared.apply(&seen, WorkerId(2), START);
    let mut record = Vec::new();
    shared.encode(&mut record);
    Box::new(move |now| _ = black_box(black_box(&mut outliers).exchange(Some(&record), now)))
}

fn config(json: &'static str) -> Call {
    Box::new(move |_| assert!(black_box(weir::config::parse(black_box(json.as_bytes()))).is_ok()))
}

/// As in docs/cost.md.
const EVERYTHING: &str = r#"{
  "role": "decide",
  "mode": "enforce",
  "retry": {
    "maxRetries": 2,
    "budget": { "percent": 20, "interval": "10s" },
    "minRetryRate": { "count": 10, "interval": "1s" },
    "idempotentMethods": ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"],
    "idempotencyKeyHeaders": ["idempotency-key"],
    "statusCodes": [502, 503, 504],
    "grpcStatusCodes": [],
    "perTryTimeout": null,
    "alreadyRetried": "unprocessed"
  },
  "outlierDetection": {
    "interval": "10s",
    "refused": { "count": 1, "percent": 0 },
    "reset": { "count": 2, "percent": 10 },
    "timeout": { "count": 5, "percent": 30 },
    "error": { "count": 5, "percent": 50 },
    "baseEjectionTime": "250ms",
    "maxEjectionTime": "30s",
    "maxEjectionPercent": 100,
    "probeSuccesses": 2
  },
  "circuitBreaker": { "percent": 90, "minRequests": 50, "interval": "10s", "openTime": "1s" },
  "steering": { "header": "x-weir-hosts", "explorePercent": 5 },
  "clusters": []
}"#;
