//! The retry budget against one that keeps every time stamp.

mod fake_host;
mod property;

use std::time::Duration;

use property::{Digits, for_all};
use weir::base::percent::Percent;
use weir::base::time::Time;
use weir::retry::budget::{Budget, BudgetPolicy, MinRetryRate, RetryRequest};
use weir::retry::outage::News;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const SECOND: u64 = 1_000_000_000;
/// Some day in 2026.
const START: u64 = 1_770_000_000 * SECOND;

fn at(after_start: u64) -> Time {
    Time::from_nanos(START + after_start)
}

fn policy(basis_points: u32, seconds: u64, floor: u32, floor_seconds: u64) -> BudgetPolicy {
    BudgetPolicy {
        percent: Percent::from_basis_points(basis_points).unwrap(),
        interval: Duration::from_secs(seconds),
        min_retry_rate: MinRetryRate { count: floor, interval: Duration::from_secs(floor_seconds) },
    }
}

fn any_policy(digits: &mut Digits) -> BudgetPolicy {
    let basis_points = digits.pick(&[0, 30, 1_000, 2_000, 3_000, 6_000, 7_500, 10_000]);
    let seconds = digits.pick(&[1, 10, 3_600]);
    policy(basis_points, seconds, digits.pick(&[0, 0, 1, 10]), digits.pick(&[1, seconds]))
}

/// The rule, word for word, over the time of every request and retry.
#[derive(Default)]
struct Naive {
    requests: Vec<u64>,
    retries: Vec<u64>,
}

impl Naive {
    /// Whether one more retry is within the budget, if requests are remembered for a tenth of the interval less, and
    /// retries for a tenth more, as often as `slots` says.
    fn allows(&self, policy: &BudgetPolicy, now: u64, slots: u64) -> bool {
        // In `(now - interval, now]`.
        let within = |times: &[u64], interval: u64| times.iter().filter(|&&time| time + interval > now).count() as u64;
        let slot = policy.interval.as_nanos() as u64 / 10;
        let requests = within(&self.requests, (10 - slots) * slot);
        let retries = within(&self.retries, (10 + slots) * slot);
        let floor_slot = policy.min_retry_rate.interval.as_nanos() as u64 / 10;
        let retries_on_floor = within(&self.retries, (10 + slots) * floor_slot);
        (retries + 1) * 10_000 <= requests * u64::from(policy.percent.basis_points())
            || retries_on_floor < u64::from(policy.min_retry_rate.count)
    }
}

/// Asks for a retry, and compares the answer with the naive ones.
fn ask(budget: &mut Budget, naive: &mut Naive, policy: &BudgetPolicy, now: u64) -> bool {
    let granted = budget.try_withdraw(Time::from_nanos(now));
    if granted {
        assert!(naive.allows(policy, now, 0), "granted a retry too many");
        naive.retries.push(now);
    } else {
        assert!(!naive.allows(policy, now, 1), "denied what a budget with slots can afford");
    }
    granted
}

#[test]
fn grants_what_one_with_every_time_stamp_grants_to_a_slot() {
    for_all(1_500, 60, |numbers| {
        let policy = any_policy(&mut Digits(numbers[0]));
        let slot = policy.interval.as_nanos() as u64 / 10;
        let (mut budget, mut naive, mut now) = (Budget::new(policy), Naive::default(), START);
        for &number in numbers {
            let mut digits = Digits(number);
            now += digits.gap(slot);
            for _ in 0..digits.pick(&[0, 1, 2, 10, 40]) {
                budget.deposit(Time::from_nanos(now));
                naive.requests.push(now);
            }
            now += digits.gap(slot) * digits.below(2);
            let balance = budget.balance(Time::from_nanos(now));
            let asked = digits.pick(&[0, 1, 3, 50]);
            let granted = (0..asked).filter(|_| ask(&mut budget, &mut naive, &policy, now)).count() as u64;
            assert_eq!(granted, balance.min(asked), "the balance is what can be withdrawn");
        }
    });
}

#[test]
fn grants_the_share_to_the_last_retry() {
    for (basis_points, granted) in [(0, 0), (30, 30), (3_000, 3_000), (6_000, 6_000), (7_500, 7_500), (10_000, 10_000)]
    {
        let mut budget = Budget::new(policy(basis_points, 10, 0, 1));
        // All in one burst, and then one by one.
        (0..10_000).for_each(|_| budget.deposit(at(0)));
        assert_eq!((0..20_000).filter(|_| budget.try_withdraw(at(0))).count(), granted);
        let one_by_one = (0..10_000).filter(|_| {
            budget.deposit(at(1));
            budget.try_withdraw(at(1))
        });
        assert_eq!(one_by_one.count(), granted);
    }
}

#[test]
fn grants_ten_elevenths_of_the_share_where_every_request_asks() {
    for basis_points in [30, 3_000, 6_000, 7_500, 10_000] {
        let mut budget = Budget::new(policy(basis_points, 10, 0, 1));
        let (mut requests, mut retries) = (0u64, 0u64);
        for millisecond in 0..200_000 {
            budget.deposit(at(millisecond * 1_000_000));
            requests += 1;
            retries += u64::from(budget.try_withdraw(at(millisecond * 1_000_000)));
        }
        let share = requests * u64::from(basis_points) / 10_000;
        assert!(retries <= share && retries * 11 >= share * 10 - share / 10, "{retries} of {share}");
    }
}

#[test]
fn the_floor_is_part_of_the_budget() {
    let mut budget = Budget::new(policy(2_000, 10, 10, 1));
    assert_eq!(budget.balance(at(0)), 10, "without any request");
    (0..100).for_each(|_| budget.deposit(at(0)));
    assert_eq!(budget.balance(at(0)), 20, "the share is more: no floor on top");
    budget.withdraw(at(0), 20);
    assert_eq!(budget.balance(at(SECOND)), 0, "they count on the floor too, for a second and a slot of it");
    assert_eq!(budget.balance(at(SECOND + SECOND / 10)), 10);
    budget.withdraw(at(0), 1_000);
    assert_eq!(budget.balance(at(0)), 0, "what happened anyway is counted, and below nothing is nothing");
}

#[test]
fn percent_of_requests_at_the_boundary() {
    let mut budget = Budget::new(policy(1_000, 10, 0, 1));
    (0..10).for_each(|_| budget.deposit(at(0)));
    assert_eq!(budget.balance(at(10 * SECOND - 1)), 1, "within the interval");
    assert_eq!(budget.balance(at(10 * SECOND)), 0, "the interval is over");
    (0..10).for_each(|_| budget.deposit(at(10 * SECOND)));
    assert!(budget.try_withdraw(at(10 * SECOND)));
    (0..10).for_each(|_| budget.deposit(at(20 * SECOND)));
    assert!(!budget.try_withdraw(at(21 * SECOND - 1)), "the slot of the retry is not over");
    assert!(budget.try_withdraw(at(21 * SECOND)));
}

#[test]
fn holds_when_time_steps_back() {
    for_all(1_000, 80, |numbers| {
        let policy = any_policy(&mut Digits(numbers[0]));
        let interval = policy.interval.as_nanos() as u64;
        let slot = interval / 10;
        let (mut budget, mut naive) = (Budget::new(policy), Naive::default());
        // What really passed, how far the clock is behind, and for how long at most it can have stood still for the budget.
        let (mut passed, mut behind, mut still) = (START, 0, 0);
        for &number in numbers {
            let mut digits = Digits(number);
            let gap = digits.gap(slot).min(20 * interval);
            passed += gap;
            if digits.below(4) == 0 {
                let back = digits.pick(&[1, slot, interval, interval + slot, interval + slot + 1, 400 * interval]);
                behind += back;
                // Of a gap that ends in a step back, nobody can tell how long it was.
                still += gap + back.min(interval + slot) + 2 * slot;
            }
            let now = Time::from_nanos(passed - behind);
            for _ in 0..digits.pick(&[0, 1, 2, 10, 40]) {
                budget.deposit(now);
                naive.requests.push(passed);
            }
            while budget.try_withdraw(now) {
                // No retry is forgotten too soon; requests may be remembered for as long as the clock stood still.
                let retries = naive.retries.iter().filter(|&&time| time + interval > passed).count() as u64;
                let requests = naive.requests.iter().filter(|&&time| time + interval + still > passed).count() as u64;
                let floor_interval = policy.min_retry_rate.interval.as_nanos() as u64;
                let on_floor = naive.retries.iter().filter(|&&time| time + floor_interval > passed).count() as u64;
                assert!(
                    retries < policy.percent.of(requests) || on_floor < u64::from(policy.min_retry_rate.count),
                    "granted a retry too many"
                );
                naive.retries.push(passed);
            }
        }
        // However far it went back, once that was noticed: an interval to catch up, another to forget, and all is as new.
        let _ = budget.balance(Time::from_nanos(passed - behind));
        let later = Time::from_nanos(passed - behind + 2 * interval + 2 * slot);
        let floor = u64::from(policy.min_retry_rate.count);
        assert_eq!(budget.balance(later), floor);
        (0..1_000).for_each(|_| budget.deposit(later));
        assert_eq!(budget.balance(later), policy.percent.of(1_000).max(floor));
    });
}

#[test]
fn holds_when_the_policy_changes() {
    let intervals = [1, 2, 10, 60, 3_600];
    for_all(500, 60, |numbers| {
        let mut now = START;
        let mut current = any_policy(&mut Digits(numbers[0]));
        let mut budget = Budget::new(current);
        let (mut naive, mut shortest, mut shortest_floor) =
            (Naive::default(), current.interval, current.min_retry_rate.interval);
        let mut record = Vec::new();
        for &number in numbers {
            let mut digits = Digits(number);
            now += digits.gap(current.interval.as_nanos() as u64 / 10);
            let time = Time::from_nanos(now);
            if digits.below(4) == 0 {
                current = any_policy(&mut digits);
                current.interval = Duration::from_secs(digits.pick(&intervals));
                shortest = shortest.min(current.interval);
                shortest_floor = shortest_floor.min(current.min_retry_rate.interval);
            }
            budget.encode(&mut record);
            budget = Budget::decode(current, &record, time).expect("one's own record");
            for _ in 0..digits.pick(&[0, 1, 10, 40]) {
                budget.deposit(time);
                naive.requests.push(now);
            }
            while budget.try_withdraw(time) {
                let within = |times: &[u64], interval: Duration| {
                    times.iter().filter(|&&time| time + interval.as_nanos() as u64 > now).count() as u64
                };
                // A retry that the shorter of the intervals forgot is gone.
                let share = current.percent.of(within(&naive.requests, current.interval));
                let floor = u64::from(current.min_retry_rate.count);
                assert!(
                    within(&naive.retries, shortest) < share || within(&naive.retries, shortest_floor) < floor,
                    "granted a retry too many"
                );
                naive.retries.push(now);
            }
        }
    });
}

#[test]
fn keeps_its_counts_when_the_interval_changes() {
    let (short, long) = (policy(2_000, 10, 0, 1), policy(2_000, 60, 0, 1));
    let mut budget = Budget::new(short);
    (0..100).for_each(|_| budget.deposit(at(30 * SECOND)));
    budget.withdraw(at(30 * SECOND), 15);
    let mut record = Vec::new();
    budget.encode(&mut record);
    let mut longer = Budget::decode(long, &record, at(31 * SECOND)).unwrap();
    assert_eq!(longer.balance(at(31 * SECOND)), 5);
    assert_eq!(longer.balance(at(80 * SECOND)), 5, "for the new interval");
    longer.encode(&mut record);
    let mut back = Budget::decode(short, &record, at(35 * SECOND)).unwrap();
    assert_eq!(back.balance(at(35 * SECOND)), 5, "and back");
}

#[test]
fn a_record_is_read_back_or_refused() {
    let policy = BudgetPolicy::default();
    let mut budget = Budget::new(policy);
    (0..50).for_each(|second| budget.deposit(at(second * SECOND)));
    budget.withdraw(at(50 * SECOND), 3);
    let mut record = b"what was there before".to_vec();
    budget.encode(&mut record);
    assert_eq!(record.len(), Budget::ENCODED_BYTES);
    let decode = |record: &[u8]| Budget::decode(policy, record, at(50 * SECOND));
    assert_eq!(decode(&record), Some(budget));

    assert_eq!(decode(b""), None);
    assert_eq!(decode(b"somebody else's"), None);
    assert_eq!(decode(&record[..record.len() - 1]), None, "too short");
    assert_eq!(decode(&[record.as_slice(), b"0"].concat()), None, "too long");
    assert_eq!(decode(&[b"wrb\x01", &record[4..]].concat()), None, "another version");
    let with_slot = |nanos: u64| [&record[..4], &nanos.to_le_bytes(), &record[12..]].concat();
    assert!(decode(&with_slot(SECOND / 10)).is_some());
    for nanos in [0, SECOND / 10 - 1, 360 * SECOND + 1, u64::MAX] {
        assert_eq!(decode(&with_slot(nanos)), None, "an interval out of range");
    }
}

#[test]
fn a_hostile_record_neither_breaks_nor_lasts() {
    for_all(500, 30, |numbers| {
        let policy = policy(2_000, 10, 10, 1);
        let mut record = Vec::new();
        Budget::new(policy).encode(&mut record);
        // Counts and slot numbers at will; the lengths of the slots are checked.
        let starts = [4, 64, 124, 184, 244];
        let slots = starts.map(|start| record[start..start + 8].to_vec());
        for (at, byte) in record.iter_mut().enumerate().skip(4) {
            *byte = (numbers[at % numbers.len()] >> (at % 57)) as u8;
        }
        for (start, slot) in starts.into_iter().zip(slots) {
            record[start..start + 8].copy_from_slice(&slot);
        }
        let mut budget = Budget::decode(policy, &record, at(0)).unwrap();
        for now in [at(0), Time::from_nanos(u64::MAX), Time::default()] {
            budget.charge(&News::default(), RetryRequest { arrived: now, again: true }, now);
        }
        let mut budget = Budget::decode(policy, &record, at(0)).unwrap();
        budget.deposit(at(0));
        budget.withdraw(at(0), 1);
        assert_eq!(budget.balance(at(30 * SECOND)), 10);
    });
}
