//! One worker's side of a retry budget: what it keeps, what it writes into the record that all workers share.

use std::time::Duration;

use property::{Digits, for_all};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::account::Account;
use weir::budget::Charge::{Denied, Granted};
use weir::budget::{Budget, BudgetPolicy, Charge, MinRetryRate};
use weir::percent::Percent;
use weir::time::Time;

// The crate links only with a host beside it.
mod fake_host;
mod property;

/// Some moment in 2026, and seconds after it.
fn at(seconds: u64) -> Time {
    Time::from_nanos((1_770_000_000 + seconds) * 1_000_000_000)
}

const NOW: u64 = 0;

fn policy(percent: u32, floor: u32) -> BudgetPolicy {
    BudgetPolicy {
        percent: Percent::from_basis_points(percent * 100).unwrap(),
        interval: Duration::from_secs(10),
        min_retry_rate: MinRetryRate { count: floor, interval: Duration::from_secs(1) },
    }
}

/// The record that workers share; a swap fails for whoever read an older version.
#[derive(Default)]
struct Shared {
    record: Option<Vec<u8>>,
    writes: u32,
}

impl Shared {
    fn publish(&mut self, account: &mut Account, now: Time) {
        self.record = Some(account.publish(self.record.as_deref(), now));
        self.writes += 1;
        account.published();
    }

    fn charge(&mut self, account: &mut Account, now: Time) -> Charge {
        let (charge, record) = account.charge(self.record.as_deref(), now);
        if let Some(record) = record {
            self.record = Some(record);
            self.writes += 1;
            account.published();
        }
        charge
    }

    /// How many retries the record has left.
    fn left(&self, policy: BudgetPolicy, now: Time) -> u64 {
        Budget::decode(policy, self.record.as_deref().unwrap(), now).unwrap().balance(now)
    }
}

fn arrive(account: &mut Account, requests: u32, now: Time) {
    (0..requests).for_each(|_| account.arrive(now));
}

/// How many retries the account would permit, one after the other.
fn permissions(account: &mut Account, now: Time) -> u32 {
    let mut permitted = 0;
    while account.affords(now) {
        account.retried(1, now);
        permitted += 1;
    }
    permitted
}

#[test]
fn two_workers_pay_from_one_record() {
    let policy = policy(10, 0);
    let (mut one, mut other) = (Account::new(policy), Account::new(policy));
    let mut shared = Shared::default();
    arrive(&mut one, 60, at(NOW));
    arrive(&mut other, 40, at(NOW));
    // What the other has not published pays for nothing here.
    let charges: Vec<_> = (0..7).map(|_| shared.charge(&mut one, at(NOW))).collect();
    assert_eq!(charges, [Granted, Granted, Granted, Granted, Granted, Granted, Denied]);
    shared.publish(&mut other, at(NOW));
    let charges: Vec<_> = (0..3).map(|_| shared.charge(&mut one, at(NOW))).collect();
    assert_eq!(charges, [Granted; 3]);
    assert_eq!(shared.charge(&mut other, at(NOW)), Granted);
    assert_eq!(shared.charge(&mut other, at(NOW)), Denied);
    assert_eq!(shared.charge(&mut one, at(NOW)), Denied);
    // An interval later all of it is over.
    arrive(&mut other, 10, at(11));
    assert_eq!(shared.charge(&mut one, at(11)), Denied);
    assert_eq!(shared.charge(&mut other, at(11)), Granted);
    assert_eq!(shared.charge(&mut other, at(11)), Denied);
}

#[test]
fn a_swap_that_failed_is_tried_again_and_counts_once() {
    let policy = policy(10, 0);
    let (mut one, mut other) = (Account::new(policy), Account::new(policy));
    let mut shared = Shared::default();
    arrive(&mut one, 50, at(NOW));
    arrive(&mut other, 50, at(NOW));
    one.retried(2, at(NOW));
    // Both read the record; the other is faster.
    let (granted, lost) = one.charge(shared.record.as_deref(), at(NOW));
    assert_eq!((granted, lost.is_some()), (Granted, true));
    assert_eq!(shared.charge(&mut other, at(NOW)), Granted);
    assert!(one.pending());
    assert_eq!(shared.charge(&mut one, at(NOW)), Granted);
    assert!(!one.pending());
    assert_eq!(shared.left(policy, at(NOW)), 10 - 1 - 2 - 1);
    // The same with a publication.
    arrive(&mut one, 20, at(NOW));
    one.retried(1, at(NOW));
    let _lost = one.publish(shared.record.as_deref(), at(NOW));
    assert_eq!(shared.charge(&mut other, at(NOW)), Granted);
    shared.publish(&mut one, at(NOW));
    assert_eq!(shared.left(policy, at(NOW)), 12 - 6);
}

#[test]
fn what_needs_to_be_written() {
    let mut account = Account::new(policy(10, 0));
    assert!(!account.pending());
    let (charge, record) = account.charge(None, at(NOW));
    assert_eq!((charge, record), (Denied, None), "a denial without news");
    account.arrive(at(NOW));
    assert!(account.pending());
    let (charge, record) = account.charge(None, at(NOW));
    assert_eq!((charge, record.is_some()), (Denied, true), "a denial with arrivals");
    assert!(account.pending(), "until it is in the record");
    account.published();
    assert!(!account.pending());
    account.retried(1, at(NOW));
    assert!(account.pending());
    assert!(account.charge(None, at(NOW)).1.is_some(), "a denial with retries that happened");
    account.published();
    account.retried(0, at(NOW));
    assert!(!account.pending(), "no retries are no news");
    let mut rich = Account::new(policy(0, 5));
    let (charge, record) = rich.charge(None, at(NOW));
    assert_eq!((charge, record.is_some()), (Granted, true), "a grant");
}

#[test]
fn permissions_where_nobody_charges_each_retry() {
    let policy = policy(20, 0);
    let (mut one, mut other) = (Account::new(policy), Account::new(policy));
    let mut shared = Shared::default();
    assert!(!one.affords(at(NOW)), "nothing arrived, nothing to spend");
    arrive(&mut one, 4, at(NOW));
    assert!(!one.affords(at(NOW)), "a fifth of four is none");
    arrive(&mut one, 1, at(NOW));
    assert!(one.affords(at(NOW)) && one.affords(at(NOW)), "asking costs nothing");
    arrive(&mut one, 45, at(NOW));
    assert_eq!(permissions(&mut one, at(NOW)), 10);
    shared.publish(&mut one, at(NOW));
    // The other sees that all is spent, once it reads the record; and spends what itself brings.
    arrive(&mut other, 50, at(NOW));
    shared.publish(&mut other, at(NOW));
    assert_eq!(permissions(&mut other, at(NOW)), 10);
    // Both spend the same share, as neither knows of the other yet.
    arrive(&mut one, 50, at(NOW));
    shared.publish(&mut other, at(NOW));
    shared.publish(&mut one, at(NOW));
    shared.publish(&mut other, at(NOW));
    assert_eq!(permissions(&mut one.clone(), at(NOW)), 10);
    assert_eq!(permissions(&mut one, at(NOW)), 10);
    assert_eq!(permissions(&mut other, at(NOW)), 10);
    shared.publish(&mut one, at(NOW));
    shared.publish(&mut other, at(NOW));
    assert_eq!(shared.left(policy, at(NOW)), 0);
    // That is a debt: of 40 retries, 30 were due. It is paid back by the requests that follow.
    arrive(&mut one, 50, at(NOW));
    shared.publish(&mut one, at(NOW));
    assert!(!one.affords(at(NOW)));
    arrive(&mut one, 5, at(NOW));
    assert!(one.affords(at(NOW)));
}

#[test]
fn a_floor_without_guard() {
    let policy = policy(0, 3);
    let mut account = Account::new(policy);
    assert_eq!(permissions(&mut account, at(NOW)), 3);
    assert!(!account.affords(at(NOW)));
    assert_eq!(permissions(&mut account, at(2)), 3, "a second later");
    let mut shared = Shared::default();
    shared.publish(&mut account, at(2));
    let mut other = Account::new(policy);
    assert!(other.affords(at(2)), "it has not read the record");
    shared.publish(&mut other, at(2));
    assert!(!other.affords(at(2)));
}

#[test]
fn retries_without_end_do_not_overflow() {
    let mut account = Account::new(policy(100, 10));
    account.retried(u32::MAX, at(NOW));
    account.retried(u32::MAX, at(NOW));
    assert!(!account.affords(at(NOW)));
    let mut shared = Shared::default();
    shared.publish(&mut account, at(NOW));
    account.retried(1, at(NOW));
    assert_eq!(shared.charge(&mut account, at(NOW)), Denied);
    assert_eq!(shared.charge(&mut account, at(20)), Granted, "the floor, once that is over");
}

#[test]
fn a_record_that_is_none() {
    let policy = policy(10, 0);
    for bytes in [&b""[..], b"nonsense", &[0xff; 1_000]] {
        let mut account = Account::new(policy);
        arrive(&mut account, 10, at(NOW));
        let (charge, record) = account.charge(Some(bytes), at(NOW));
        assert_eq!(charge, Granted);
        account.published();
        assert_eq!(account.charge(record.as_deref(), at(NOW)).0, Denied);
    }
}

#[test]
fn another_policy_keeps_the_counts() {
    let mut account = Account::new(policy(10, 0));
    arrive(&mut account, 100, at(NOW));
    account.retried(4, at(NOW));
    for (percent, expected) in [(10, 6), (50, 46), (4, 0), (5, 1), (100, 96), (0, 0)] {
        account.set_policy(policy(percent, 0), at(NOW));
        assert_eq!(permissions(&mut account.clone(), at(NOW)), expected, "{percent} percent");
    }
    account.set_policy(policy(0, 5), at(NOW));
    assert_eq!(permissions(&mut account.clone(), at(NOW)), 1, "a floor of 5, less the 4 that happened");
    // What is not in the record yet will be, and there the new policy holds too.
    assert!(account.pending());
    let mut shared = Shared::default();
    account.set_policy(policy(20, 0), at(NOW));
    shared.publish(&mut account, at(NOW));
    assert_eq!(shared.left(policy(20, 0), at(NOW)), 16);
    assert_eq!(permissions(&mut account, at(NOW)), 16);
}

#[test]
fn another_interval_keeps_the_counts() {
    let long = BudgetPolicy { interval: Duration::from_secs(60), ..policy(10, 0) };
    let mut account = Account::new(policy(10, 0));
    let mut shared = Shared::default();
    arrive(&mut account, 100, at(NOW));
    account.retried(4, at(NOW));
    account.set_policy(long, at(1));
    assert_eq!(permissions(&mut account.clone(), at(1)), 6);
    shared.publish(&mut account, at(1));
    assert_eq!(shared.left(long, at(1)), 6);
    assert_eq!(shared.left(long, at(30)), 6, "longer than the old interval");
    // A worker that still has the old policy reads it its own way.
    assert_eq!(shared.left(policy(10, 0), at(1)), 6);
    let mut late = Account::new(policy(10, 0));
    shared.publish(&mut late, at(1));
    assert_eq!(permissions(&mut late, at(1)), 6);
}

/// Many workers, in any order: where each retry is charged, retries are never more than their share of what arrived.
#[test]
fn the_sum_of_all_workers_obeys_the_budget() {
    for_all(200, 200, |numbers| {
        let mut digits = Digits(numbers[0]);
        let (percent, floor) = (digits.below(101) as u32, digits.below(4) as u32);
        let policy = policy(percent, floor);
        let mut workers = vec![Account::new(policy); 3];
        let mut shared = Shared::default();
        let (mut arrived, mut granted) = (0, 0);
        for digits in numbers {
            let mut digits = Digits(*digits);
            let index = digits.below(3) as usize;
            let worker = &mut workers[index];
            match digits.below(4) {
                0 => {
                    let requests = digits.below(30) as u32;
                    arrive(worker, requests, at(NOW));
                    arrived += u64::from(requests);
                }
                1 => shared.publish(worker, at(NOW)),
                // Read, but not swapped in: another was faster.
                2 if digits.below(3) == 0 => drop(worker.charge(shared.record.as_deref(), at(NOW))),
                _ => granted += u64::from(shared.charge(worker, at(NOW)) == Granted),
            }
            let most = (arrived * u64::from(percent) / 100).max(u64::from(floor));
            assert!(granted <= most, "{granted} retries of {arrived} requests");
        }
        // And nothing is lost: once all have published, the rest is granted.
        workers.iter_mut().for_each(|worker| shared.publish(worker, at(NOW)));
        while shared.charge(&mut workers[0], at(NOW)) == Granted {
            granted += 1;
        }
        assert_eq!(granted, (arrived * u64::from(percent) / 100).max(u64::from(floor)));
    });
}
