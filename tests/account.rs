//! One worker's side of a retry budget: what it keeps, what it writes into the record that all workers share.

use std::time::Duration;

use property::{Digits, for_all};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::base::percent::Percent;
use weir::base::time::Time;
use weir::retry::budget::Charge::{Denied, Granted};
use weir::retry::budget::{Budget, BudgetPolicy, Charge, MinRetryRate, RetryRequest};
use weir::retry::reservations::Account;
use weir::signal::Signal;

// The crate links only with a host beside it.
mod fake_host;
mod property;

/// Some moment in 2026, and seconds after it.
fn at(seconds: u64) -> Time {
    Time::from_nanos((1_770_000_000 + seconds) * 1_000_000_000)
}

const NOW: u64 = 0;

/// A request that arrived before any trouble.
const EARLY: RetryRequest = RetryRequest { arrived: Time::from_nanos(0), again: false };

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
        let (charge, record) = account.charge(self.record.as_deref(), EARLY, now);
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

/// How many retries the account would permit, one after the other, of requests that use them.
fn permissions(account: &mut Account, now: Time) -> u32 {
    let mut permitted = 0;
    while account.reserve(1, now) == 1 {
        account.retried(1, now);
        account.release(1);
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
    let (granted, lost) = one.charge(shared.record.as_deref(), EARLY, at(NOW));
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
    let (charge, record) = account.charge(None, EARLY, at(NOW));
    assert_eq!((charge, record.is_some()), (Denied, true), "the first sign of trouble");
    let charge =
        |after: u64| account.clone().charge(record.as_deref(), EARLY, Time::from_nanos(at(NOW).as_nanos() + after));
    assert_eq!(charge(99_999_999), (Denied, None), "a denial without news");
    assert!(charge(100_000_000).1.is_some(), "that the trouble lasts");
    account.arrive(at(NOW));
    assert!(account.pending());
    let (charge, record) = account.charge(None, EARLY, at(NOW));
    assert_eq!((charge, record.is_some()), (Denied, true), "a denial with arrivals");
    assert!(account.pending(), "until it is in the record");
    account.published();
    assert!(!account.pending());
    account.retried(1, at(NOW));
    assert!(account.pending());
    assert!(account.charge(None, EARLY, at(NOW)).1.is_some(), "a denial with retries that happened");
    account.published();
    account.retried(0, at(NOW));
    assert!(!account.pending(), "no retries are no news");
    let mut rich = Account::new(policy(0, 5));
    let (charge, record) = rich.charge(None, EARLY, at(NOW));
    assert_eq!((charge, record.is_some()), (Granted, true), "a grant");
}

#[test]
fn permissions_where_nobody_charges_each_retry() {
    let policy = policy(20, 0);
    let mut account = Account::new(policy);
    assert_eq!(account.reserve(2, at(NOW)), 0, "nothing arrived, nothing to spend");
    arrive(&mut account, 4, at(NOW));
    assert_eq!(account.reserve(2, at(NOW)), 0, "a fifth of four is none");
    arrive(&mut account, 1, at(NOW));
    assert_eq!((account.reserve(2, at(NOW)), account.reserve(2, at(NOW))), (1, 0), "what one holds, no other gets");
    arrive(&mut account, 45, at(NOW));
    assert_eq!([2; 6].map(|wanted| account.reserve(wanted, at(NOW))), [2, 2, 2, 2, 1, 0]);
    // What was not used is there again, what was used is not.
    account.release(2);
    assert_eq!(account.reserve(5, at(NOW)), 2);
    account.retried(2, at(NOW));
    account.release(2);
    assert_eq!(account.reserve(5, at(NOW)), 0);
    // Nor is it once it is written down; and then it is forgotten in time.
    Shared::default().publish(&mut account, at(NOW));
    assert_eq!(account.reserve(5, at(NOW)), 0);
    arrive(&mut account, 50, at(30));
    assert_eq!(account.reserve(5, at(30)), 2, "eight are still held");
    account.release(u32::MAX);
    assert_eq!(account.reserve(u32::MAX, at(30)), 10, "none is held twice");
}

#[test]
fn each_worker_gives_out_its_part() {
    let policy = policy(20, 0);
    let (mut one, mut other) = (Account::new(policy), Account::new(policy));
    let mut shared = Shared::default();
    arrive(&mut one, 150, at(NOW));
    arrive(&mut other, 50, at(NOW));
    for _ in 0..2 {
        shared.publish(&mut one, at(NOW));
        shared.publish(&mut other, at(NOW));
    }
    assert_eq!(permissions(&mut other, at(NOW)), 10, "of 40");
    assert_eq!((0..50).filter(|_| one.reserve(1, at(NOW)) == 1).count(), 30);
    // That the other has used its part takes nothing from this one's, and brings it nothing back.
    shared.publish(&mut other, at(NOW));
    shared.publish(&mut one, at(NOW));
    assert_eq!((other.reserve(9, at(NOW)), one.reserve(90, at(NOW))), (0, 0));
    one.release(30);
    assert_eq!((other.reserve(9, at(NOW)), one.reserve(90, at(NOW))), (0, 30));
    one.release(30);
    // Of the floor, too: rounded up.
    one.set_policy(self::policy(0, 10), at(NOW));
    other.set_policy(self::policy(0, 10), at(NOW));
    assert_eq!(one.reserve(90, at(NOW)), 0, "which the other has used up for all");
    assert_eq!((one.reserve(90, at(2)), other.reserve(90, at(2))), (8, 3));
}

/// Whatever workers do, and however late they tell each other: what was used and what is held is never more than the
/// share of all that arrived, and a retry of the floor for each other worker.
#[test]
fn what_workers_give_out_is_bounded() {
    for_all(300, 300, |numbers| {
        let mut digits = Digits(numbers[0]);
        let policy = policy(digits.below(101) as u32, digits.below(4) as u32);
        let count = 1 + digits.below(4);
        let mut workers: Vec<(Account, Vec<u32>)> = (0..count).map(|_| (Account::new(policy), Vec::new())).collect();
        let mut shared = Shared::default();
        let (mut arrived, mut used) = (0_u64, 0_u64);
        for &number in numbers {
            let mut digits = Digits(number);
            if digits.below(2) == 0 {
                let index = digits.below(count) as usize;
                shared.publish(&mut workers[index].0, at(NOW));
            }
            let index = digits.below(count) as usize;
            let (account, reserved) = &mut workers[index];
            let news = digits.below(4);
            for _ in 0..news {
                arrived += 1;
                account.arrive(at(NOW));
                reserved.push(account.reserve(digits.below(4) as u32, at(NOW)));
            }
            for _ in 0..digits.below(3) {
                if reserved.is_empty() {
                    break;
                }
                let given = reserved.swap_remove(digits.below(reserved.len() as u64) as usize);
                let retries = digits.below(u64::from(given) + 1);
                account.retried(retries as u32, at(NOW));
                account.release(given);
                used += retries;
            }
            let out: u64 = workers.iter().flat_map(|(_, reserved)| reserved).map(|reserved| u64::from(*reserved)).sum();
            let share = arrived * u64::from(policy.percent.basis_points()) / 10_000;
            let floor = u64::from(policy.min_retry_rate.count);
            // What a worker does not know of yet makes its part of the floor larger than it is.
            let most = if floor == 0 { share } else { share.max(floor) + (count - 1) * floor };
            assert!(used + out <= most, "{used} used and {out} held of {most}");
        }
    });
}

/// An account remembers what was left, so as not to add it all up for each request. One that adds up each time permits the same.
#[test]
fn permissions_do_not_depend_on_what_is_remembered() {
    for_all(200, 300, |numbers| {
        let mut digits = Digits(numbers[0]);
        let policy = policy(digits.below(101) as u32, digits.below(4) as u32);
        let mut accounts = [Account::new(policy), Account::new(policy)];
        let mut shared = [Shared::default(), Shared::default()];
        let (mut tenths, mut reserved) = (0, 0);
        for &number in numbers {
            let mut digits = Digits(number);
            // Mostly none or little time passes, now and then much.
            tenths += match digits.below(40) {
                0 => digits.below(200),
                passed => passed / 13,
            };
            let now = Time::from_nanos(at(NOW).as_nanos() + 100_000_000 * tenths);
            let (action, some) = (digits.below(12), digits.below(4) as u32);
            let mut forgets = false;
            let given = accounts.each_mut().map(|account| {
                match action {
                    0 => account.retried(some.min(reserved), now),
                    1 => account.failed(some > 0, now),
                    2 => account.helped(now),
                    3 => account.set_policy(policy, now),
                    _ => {}
                }
                arrive(account, 1 + 5 * some, now);
                account.release(some.min(reserved));
                if std::mem::replace(&mut forgets, true) {
                    // No retries: nothing but a reason to add up.
                    account.retried(0, now);
                }
                account.reserve(some, now)
            });
            assert_eq!(given[0], given[1]);
            reserved = reserved - some.min(reserved) + given[0];
            if action == 4 {
                accounts.iter_mut().zip(&mut shared).for_each(|(account, shared)| shared.publish(account, now));
            }
        }
    });
}

#[test]
fn a_floor_without_guard() {
    let policy = policy(0, 3);
    let mut account = Account::new(policy);
    assert_eq!(permissions(&mut account, at(NOW)), 0, "permissions are for requests that arrive");
    account.arrive(at(NOW));
    assert_eq!(permissions(&mut account, at(NOW)), 3);
    assert!(!account.affords(at(NOW)));
    account.arrive(at(2));
    assert_eq!(permissions(&mut account, at(2)), 3, "a second later");
    let mut shared = Shared::default();
    shared.publish(&mut account, at(2));
    let mut other = Account::new(policy);
    other.arrive(at(2));
    assert!(other.affords(at(2)), "it has not read the record");
    shared.publish(&mut other, at(2));
    assert!(!other.affords(at(2)));
    assert_eq!(permissions(&mut other, at(2)), 0);
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
        let (charge, record) = account.charge(Some(bytes), EARLY, at(NOW));
        assert_eq!(charge, Granted);
        account.published();
        assert_eq!(account.charge(record.as_deref(), EARLY, at(NOW)).0, Denied);
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
    assert!(late.affords(at(1)), "for a worker that brought no requests, others' are there to be charged");
    assert_eq!(permissions(&mut late, at(1)), 0, "but not to be given out");
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
                2 if digits.below(3) == 0 => drop(worker.charge(shared.record.as_deref(), EARLY, at(NOW))),
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

/// Half of the hosts take nothing, and the others answer.
#[test]
fn what_nobody_processed_is_retried_for_nothing_while_hosts_answer() {
    let mut account = Account::new(policy(20, 0));
    account.attempt_ended(Signal::Refused, at(NOW));
    assert!(!account.try_unprocessed(false, at(NOW)), "nobody knows whether any host answers");
    for second in 0..100 {
        account.attempt_ended(Signal::Answered, at(second));
        for again in [false, false, false, true] {
            account.attempt_ended(Signal::Refused, at(second));
            assert!(account.try_unprocessed(again, at(second)), "second {second}");
        }
        account.attempt_ended(Signal::Answered, at(second));
        account.helped(at(second));
    }
    // Errors and pushbacks come from hosts that are there; resets say nothing.
    for (signal, free) in
        [(Signal::Error, true), (Signal::Pushback, true), (Signal::Reset, false), (Signal::Closed, false)]
    {
        let mut account = Account::new(policy(20, 0));
        account.attempt_ended(signal, at(NOW));
        assert_eq!(account.try_unprocessed(false, at(NOW)), free, "{signal:?}");
        // An answer is forgotten with the interval.
        assert!(!account.try_unprocessed(false, at(NOW + 10)), "{signal:?}");
    }
}

/// Attempts in a row that end so, and are retried. How many of these retries are free.
fn unprocessed(account: &mut Account, signal: Signal, attempts: u32, now: Time) -> u32 {
    let mut free = 0;
    for _ in 0..attempts {
        account.attempt_ended(signal, now);
        free += u32::from(account.try_unprocessed(false, now));
    }
    free
}

/// All hosts are down: after some attempts that is plain, and what was free is paid.
#[test]
fn in_an_outage_of_all_hosts_what_nobody_processed_is_paid() {
    let policy = policy(20, 0);
    let (mut account, mut shared) = (Account::new(policy), Shared::default());
    arrive(&mut account, 100, at(NOW));
    account.attempt_ended(Signal::Answered, at(NOW));
    let free = unprocessed(&mut account, Signal::Unreachable, 50, at(NOW));
    assert_eq!(free, 8);
    shared.publish(&mut account, at(NOW));
    assert_eq!(shared.left(policy, at(NOW)), 20 - u64::from(free));
    // And where retries are in vain, sooner.
    let mut account = Account::new(policy);
    for _ in 0..8 {
        account.attempt_ended(Signal::Answered, at(NOW));
        assert!(account.try_unprocessed(true, at(NOW)));
    }
    assert!(!account.try_unprocessed(true, at(NOW)));
}

/// Requests that come all at once are refused by the hosts that are down before the others have answered any. Once that was seen, it
/// is no outage; and an outage is found all the same, and paid for.
#[test]
fn a_burst_of_requests_is_no_outage_if_the_one_before_was_none() {
    let policy = policy(20, 0);
    let (mut account, mut shared) = (Account::new(policy), Shared::default());
    arrive(&mut account, 1_000, at(NOW));
    account.attempt_ended(Signal::Answered, at(NOW));
    assert_eq!(unprocessed(&mut account, Signal::Refused, 12, at(1)), 8, "nobody knows yet");
    account.attempt_ended(Signal::Answered, at(1));
    for second in 2..20 {
        assert_eq!(unprocessed(&mut account, Signal::Refused, 20, at(second)), 20, "second {second}");
        account.attempt_ended(Signal::Answered, at(second));
        // One that meets a single host that is down says nothing of bursts.
        assert_eq!(unprocessed(&mut account, Signal::Refused, 1, at(second)), 1);
        account.attempt_ended(Signal::Answered, at(second));
    }
    arrive(&mut account, 1_000, at(20));
    shared.publish(&mut account, at(20));
    let before = shared.left(policy, at(20));
    let free = unprocessed(&mut account, Signal::Refused, 500, at(20));
    assert_eq!(free, 48, "twice as many as were refused in a row, and eight");
    assert_eq!(unprocessed(&mut account, Signal::Refused, 500, at(21)), 0, "it lasts");
    shared.publish(&mut account, at(21));
    assert_eq!(shared.left(policy, at(21)), before - u64::from(free), "they are paid for");
    // An outage that is over was no burst.
    account.attempt_ended(Signal::Answered, at(22));
    assert_eq!(unprocessed(&mut account, Signal::Refused, 100, at(22)), 48);
    // What is an interval ago is forgotten.
    account.attempt_ended(Signal::Answered, at(35));
    assert_eq!(unprocessed(&mut account, Signal::Refused, 100, at(35)), 8);
}

/// In bursts, retries are refused before others are answered, too. Elsewhere, eight of them are an outage.
#[test]
fn in_a_burst_retries_may_be_in_vain() {
    for (burst, expected) in [(4, 8), (12, 30)] {
        let mut account = Account::new(policy(20, 0));
        account.attempt_ended(Signal::Answered, at(NOW));
        unprocessed(&mut account, Signal::Refused, burst, at(NOW));
        account.attempt_ended(Signal::Answered, at(NOW));
        let mut free = 0;
        for _ in 0..30 {
            account.attempt_ended(Signal::Refused, at(NOW));
            free += u32::from(account.try_unprocessed(true, at(NOW)));
        }
        assert_eq!(free, expected, "after {burst} in a row");
    }
}
