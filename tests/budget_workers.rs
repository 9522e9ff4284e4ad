//! One budget for many workers: each charges by compare-and-swap on one record, and their sum obeys the budget.

mod fake_host;
mod property;

use std::time::Duration;

use property::{Digits, for_all};
use weir::base::percent::Percent;
use weir::base::time::Time;
use weir::retry::budget::{Budget, BudgetPolicy, Charge, MinRetryRate, RetryRequest};
use weir::retry::outage::News;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const SECOND: u64 = 1_000_000_000;
/// Some day in 2026.
const START: u64 = 1_770_000_000 * SECOND;

fn policy(basis_points: u32, floor: u32) -> BudgetPolicy {
    BudgetPolicy {
        percent: Percent::from_basis_points(basis_points).unwrap(),
        interval: Duration::from_secs(10),
        min_retry_rate: MinRetryRate { count: floor, interval: Duration::from_secs(1) },
    }
}

/// Shared data: a record with its version.
#[derive(Default)]
struct Shared {
    record: Vec<u8>,
    version: u32,
}

impl Shared {
    /// Whether `version` was still the last.
    fn compare_and_swap(&mut self, record: &[u8], version: u32) -> bool {
        let same = self.version == version;
        if same {
            self.record = record.to_vec();
            self.version += 1;
        }
        same
    }
}

/// What a worker wants of the record.
#[derive(Clone, Copy, PartialEq)]
enum Want {
    Retry,
    Publish,
}

/// A worker, of which any other may run between any two steps.
struct Worker {
    policy: BudgetPolicy,
    news: News,
    wants: Option<Want>,
    /// What it read, computed and will try to write.
    attempt: Option<(u32, Vec<u8>, Option<Charge>, u64)>,
}

impl Worker {
    fn new(policy: BudgetPolicy) -> Self {
        Self { policy, news: News::default(), wants: None, attempt: None }
    }

    fn read(&mut self, shared: &Shared, now: u64) {
        let Some(wants) = self.wants else { return };
        let time = Time::from_nanos(now);
        let budget = Budget::decode(self.policy, &shared.record, time);
        let mut budget = budget.unwrap_or_else(|| Budget::new(self.policy));
        let charge = match wants {
            // Of a request that arrived before any trouble.
            Want::Retry => {
                Some(budget.charge(&self.news, RetryRequest { arrived: Time::default(), again: false }, time))
            }
            Want::Publish => {
                budget.merge(&self.news, time);
                None
            }
        };
        let mut record = Vec::new();
        budget.encode(&mut record);
        self.attempt = Some((shared.version, record, charge, now));
    }

    /// The charge and its time, once the record is written.
    fn write(&mut self, shared: &mut Shared) -> Option<(Charge, u64)> {
        let (version, record, charge, time) = self.attempt.take()?;
        if !shared.compare_and_swap(&record, version) {
            return None;
        }
        self.news.clear();
        self.wants = None;
        Some((charge?, time))
    }

    /// Reads and writes in one go.
    fn step(&mut self, wants: Want, shared: &mut Shared, now: u64) -> Option<Charge> {
        self.wants = Some(wants);
        self.read(shared, now);
        self.write(shared).map(|(charge, _)| charge)
    }
}

#[test]
fn the_sum_of_all_workers_obeys_the_budget() {
    for_all(400, 400, |numbers| {
        let mut digits = Digits(numbers[0]);
        let policy = policy(digits.pick(&[30, 2_000, 6_000, 7_500]), digits.pick(&[0, 0, 3]));
        let mut workers: Vec<Worker> = (0..=digits.below(7)).map(|_| Worker::new(policy)).collect();
        let (mut shared, mut now) = (Shared::default(), START);
        let (mut requests, mut granted) = (Vec::new(), Vec::new());
        for &number in numbers {
            let mut digits = Digits(number);
            now += digits.pick(&[0, 1, 1_000_000, SECOND / 4, SECOND]);
            let count = workers.len() as u64;
            let worker = &mut workers[digits.below(count) as usize];
            match digits.below(8) {
                0 | 1 => {
                    for _ in 0..=digits.below(10) {
                        worker.news.deposit(Time::from_nanos(now));
                        requests.push(now);
                    }
                }
                2 if worker.wants.is_none() => worker.wants = Some(Want::Publish),
                3 | 4 if worker.wants.is_none() => worker.wants = Some(Want::Retry),
                5 => worker.read(&shared, now),
                _ => {
                    if let Some((Charge::Granted, time)) = worker.write(&mut shared) {
                        let within = |times: &[u64], interval: u64| {
                            // Whatever happened after the clock was read counts for nobody.
                            times.iter().filter(|&&event| event <= time && event + interval > time).count() as u64
                        };
                        let share = policy.percent.of(within(&requests, 10 * SECOND));
                        let floor = u64::from(policy.min_retry_rate.count);
                        assert!(
                            within(&granted, 10 * SECOND) < share || within(&granted, SECOND) < floor,
                            "granted a retry too many"
                        );
                        granted.push(time);
                    }
                }
            }
        }
    });
}

/// `answered` requests were answered, `in_flight` more fail in the same millisecond on four workers, and each asks for a
/// retry: how many are granted.
fn herd(policy: BudgetPolicy, answered: usize, in_flight: usize, order: u64) -> usize {
    let mut workers: Vec<Worker> = (0..4).map(|_| Worker::new(policy)).collect();
    let (mut shared, mut order) = (Shared::default(), fake_host::Random::new(order));
    for request in 0..answered + in_flight {
        let now = START + request as u64 * 2_000_000;
        workers[order.below(4) as usize].news.deposit(Time::from_nanos(now));
        // Their ticks, ten times a second.
        if request % 50 == 0 {
            workers.iter_mut().for_each(|worker| _ = worker.step(Want::Publish, &mut shared, now));
        }
    }
    let now = START + 4 * SECOND;
    workers.iter_mut().for_each(|worker| _ = worker.step(Want::Publish, &mut shared, now));

    let (mut asked, mut granted) = (0, 0);
    while asked < in_flight || workers.iter().any(|worker| worker.wants.is_some()) {
        let worker = &mut workers[order.below(4) as usize];
        match worker.wants {
            None if asked < in_flight => {
                worker.wants = Some(Want::Retry);
                asked += 1;
            }
            // Between another worker's read and write: whoever writes first wins, the other reads again.
            _ if order.below(2) == 0 => worker.read(&shared, now + order.below(1_000_000)),
            _ => granted += usize::from(matches!(worker.write(&mut shared), Some((Charge::Granted, _)))),
        }
    }
    granted
}

#[test]
fn a_herd_gets_the_whole_budget_and_not_one_more() {
    for order in 0..20 {
        assert_eq!(herd(policy(2_000, 0), 500, 1_000, order), 300);
        // The floor is not on top: the 300 are more than it.
        assert_eq!(herd(policy(2_000, 10), 500, 1_000, order), 300);
        assert_eq!(herd(policy(2_000, 400), 500, 1_000, order), 400, "the floor is the larger one");
        assert_eq!(herd(policy(30, 0), 500, 1_000, order), 4);
        assert_eq!(herd(policy(7_500, 0), 500, 1_000, order), 1_000, "there are no more");
    }
}

#[test]
fn what_is_not_published_pays_for_nobody_else() {
    let policy = policy(1_000, 0);
    let (mut one, mut two, mut shared) = (Worker::new(policy), Worker::new(policy), Shared::default());
    (0..10).for_each(|_| one.news.deposit(Time::from_nanos(START)));
    assert_eq!(two.step(Want::Retry, &mut shared, START), Some(Charge::Denied));
    assert_eq!(one.step(Want::Retry, &mut shared, START), Some(Charge::Granted), "one's own need not be published");
    assert!(one.news.is_empty());
    (0..10).for_each(|_| one.news.deposit(Time::from_nanos(START)));
    one.step(Want::Publish, &mut shared, START);
    assert_eq!(two.step(Want::Retry, &mut shared, START), Some(Charge::Granted));
    assert_eq!(two.step(Want::Retry, &mut shared, START), Some(Charge::Denied), "nothing was published twice");
}

#[test]
fn arrivals_are_published_at_their_own_time() {
    let policy = policy(1_000, 0);
    let mut news = News::default();
    (0..10).for_each(|_| news.deposit(Time::from_nanos(START)));
    let mut budget = Budget::new(policy);
    let nine = Time::from_nanos(START + 9 * SECOND);
    budget.merge(&news, nine);
    assert_eq!(budget.balance(nine), 1);
    assert_eq!(budget.balance(Time::from_nanos(START + 10 * SECOND)), 0);

    let mut too_late = Budget::new(policy);
    let later = Time::from_nanos(START + 20 * SECOND);
    too_late.merge(&news, later);
    assert_eq!(too_late.balance(later), 0);
}

#[test]
fn an_hour_back_finds_all_workers_on_the_new_time() {
    let policy = policy(2_000, 0);
    let (mut one, mut two, mut shared) = (Worker::new(policy), Worker::new(policy), Shared::default());
    (0..100).for_each(|_| one.news.deposit(Time::from_nanos(START)));
    assert_eq!(one.step(Want::Retry, &mut shared, START), Some(Charge::Granted));
    let back = START - 3_600 * SECOND;
    // Arrivals from before the step, in a record that moved already: they count as of now.
    (0..100).for_each(|_| two.news.deposit(Time::from_nanos(START)));
    let mut retries = 0;
    for turn in 0..100 {
        let worker = if turn % 2 == 0 { &mut one } else { &mut two };
        retries += usize::from(worker.step(Want::Retry, &mut shared, back + turn) == Some(Charge::Granted));
    }
    assert_eq!(retries, 39, "of 40, with the one before the step");
    assert_eq!(
        one.step(Want::Retry, &mut shared, back + 30 * SECOND),
        Some(Charge::Denied),
        "all is forgotten in time"
    );
}
