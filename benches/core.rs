//! What the budget and the latency quantile cost, and what the budget grants, beside tower's `TpsBudget`.
//!
//! `cargo bench --bench core`, compiled for size as the module is. The two are measured in turns, a batch each, so that what
//! else the machine does meets both; the ratio is the median of the ratios of neighbouring batches. Tower's budget reads the
//! clock itself; ours is given the time, so it is shown with and without a reading of the same clock.
#![cfg_attr(target_arch = "wasm32", allow(unused))]

#[path = "../tests/fake_host/mod.rs"]
mod fake_host;

use std::hint::black_box;
use std::time::{Duration, Instant};

use weir::base::percent::Percent;
use weir::base::time::Time;
use weir::retry::budget::{Budget, BudgetPolicy, MinRetryRate, RetryRequest};
use weir::retry::latency::Latency;
use weir::retry::outage::News;

const BATCH: u32 = 1_000;
const BASIS_POINTS: [u32; 4] = [30, 3_000, 6_000, 7_500];
const START: u64 = 1_770_000_000_000_000_000;
const INTERVAL: Duration = Duration::from_secs(10);

fn policy(basis_points: u32) -> BudgetPolicy {
    BudgetPolicy {
        percent: Percent::from_basis_points(basis_points).unwrap_or(Percent::MAX),
        interval: INTERVAL,
        min_retry_rate: MinRetryRate { count: 0, interval: Duration::from_secs(1) },
    }
}

/// A host clock that moves on by a microsecond per reading.
struct Ticking(u64);

impl Ticking {
    fn now(&mut self) -> Time {
        self.0 += 1_000;
        Time::from_nanos(self.0)
    }
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn instant() -> Instant {
    Instant::now()
}

/// Nanoseconds per call, of a batch.
fn time(mut call: impl FnMut()) -> f64 {
    let start = instant();
    (0..BATCH).for_each(|_| call());
    start.elapsed().as_nanos() as f64 / f64::from(BATCH)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Measures ours, ours with a reading of the clock, and theirs in turns, and prints a line.
fn compare(what: &str, rounds: usize, mut ours: impl FnMut(Time), mut theirs: impl FnMut()) {
    let (mut ticking, epoch) = (Ticking(START), instant());
    let (mut given, mut read, mut tower, mut ratios) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let one = time(|| ours(ticking.now()));
        let two = time(|| ours(Time::from_nanos(START).saturating_add(epoch.elapsed())));
        let three = time(&mut theirs);
        given.push(one);
        read.push(two);
        tower.push(three);
        ratios.push(two / three);
    }
    println!(
        "{what:<34} {:>9.1} {:>14.1} {:>9.1} {:>12.2}",
        median(given),
        median(read),
        median(tower),
        median(ratios)
    );
}

/// Measures something of ours alone, and prints a line.
fn alone(what: &str, rounds: usize, mut ours: impl FnMut(Time)) {
    let mut ticking = Ticking(START);
    let nanos = median((0..rounds).map(|_| time(|| ours(ticking.now()))).collect());
    println!("{what:<34} {nanos:>9.1}");
}

#[cfg(target_arch = "wasm32")]
fn main() {}

#[cfg(not(target_arch = "wasm32"))]
fn main() {
    // `cargo test --all-targets` only sees whether it runs.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { 1_001 } else { 3 };
    grants();
    costs(rounds);
}

#[cfg(not(target_arch = "wasm32"))]
fn tower_budget(basis_points: u32) -> tower::retry::budget::TpsBudget {
    tower::retry::budget::TpsBudget::new(INTERVAL, 0, basis_points as f32 / 10_000.0)
}

/// Of 10,000 requests: all at once, then retries until there are no more; and a retry asked for after each. Ours also where
/// the requests are spread over 100 s: tower's reads the clock itself, which would take that long.
#[cfg(not(target_arch = "wasm32"))]
fn grants() {
    use tower::retry::budget::Budget as _;
    const REQUESTS: u32 = 10_000;
    println!("Retries granted of {REQUESTS} requests (no floor)");
    println!("percent       exact  burst: Weir  tower  in turn: Weir  tower  over 100 s: Weir");
    for basis_points in BASIS_POINTS {
        let now = Time::from_nanos(START);
        let (mut ours, theirs) = (Budget::new(policy(basis_points)), tower_budget(basis_points));
        (0..REQUESTS).for_each(|_| ours.deposit(now));
        (0..REQUESTS).for_each(|_| theirs.deposit());
        let burst = (0..2 * REQUESTS).filter(|_| ours.try_withdraw(now)).count();
        let burst_tower = (0..2 * REQUESTS).filter(|_| theirs.withdraw()).count();

        let (mut ours, theirs) = (Budget::new(policy(basis_points)), tower_budget(basis_points));
        let in_turn = (0..REQUESTS).filter(|_| {
            ours.deposit(now);
            ours.try_withdraw(now)
        });
        let in_turn_tower = (0..REQUESTS).filter(|_| {
            theirs.deposit();
            theirs.withdraw()
        });
        let mut ours = Budget::new(policy(basis_points));
        let spread = (0..u64::from(REQUESTS)).filter(|request| {
            let now = Time::from_nanos(START + request * 10_000_000);
            ours.deposit(now);
            ours.try_withdraw(now)
        });
        println!(
            "{:<10} {:>8} {burst:>12} {burst_tower:>6} {:>14} {:>6} {:>17}",
            f64::from(basis_points) / 100.0,
            u64::from(REQUESTS) * u64::from(basis_points) / 10_000,
            in_turn.count(),
            in_turn_tower.count(),
            spread.count()
        );
    }
}

#[cfg(not(target_arch = "wasm32"))]
fn costs(rounds: usize) {
    use tower::retry::budget::Budget as _;
    println!("\nNanoseconds per call, medians of {rounds} batches");
    println!("{:<34} {:>9} {:>14} {:>9} {:>12}", "", "Weir", "Weir + clock", "tower", "ratio");

    let (mut ours, theirs) = (Budget::new(policy(2_000)), tower_budget(2_000));
    compare("a request", rounds, |now| black_box(&mut ours).deposit(now), || theirs.deposit());
    let (mut ours, theirs) = (Budget::new(policy(2_000)), tower_budget(2_000));
    let deny = |now| _ = black_box(black_box(&mut ours).try_withdraw(now));
    compare("a retry, denied", rounds, deny, || _ = black_box(theirs.withdraw()));
    let (mut ours, theirs) = (Budget::new(policy(10_000)), tower_budget(10_000));
    let grant = |now| {
        black_box(&mut ours).deposit(now);
        black_box(ours.try_withdraw(now));
    };
    compare("a request and a retry, granted", rounds, grant, || {
        theirs.deposit();
        black_box(theirs.withdraw());
    });

    let (mut news, mut record) = (News::default(), Vec::new());
    Budget::new(policy(2_000)).encode(&mut record);
    alone("a charge on a record", rounds, |now| {
        news.deposit(now);
        if let Some(mut budget) = Budget::decode(policy(2_000), &record, now) {
            black_box(budget.charge(&news, RetryRequest { arrived: now, again: false }, now));
            budget.encode(&mut record);
        }
        news.clear();
    });

    let mut latency = Latency::new(INTERVAL);
    let (mut random, q99) = (fake_host::Random::new(1), Percent::from_basis_points(9_900).unwrap_or(Percent::MAX));
    alone("a latency recorded", rounds, |now| {
        black_box(&mut latency).record(now, Duration::from_nanos(random.below(1 << 30)))
    });
    alone("a quantile, kept", rounds, |now| _ = black_box(black_box(&mut latency).quantile(now, q99)));
    let mut turn = 0;
    alone("a quantile, computed", rounds, |now| {
        // Another one each time is never the one that was kept.
        turn += 1;
        black_box(latency.quantile(now, Percent::from_basis_points(9_900 + turn % 2).unwrap_or(q99)));
    });
    println!("\nBytes of a record: {}", record.len());
}
