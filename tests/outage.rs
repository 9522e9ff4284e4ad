//! What a budget's savings are for: the requests that an outage caught under way, and none that came later.

use std::time::Duration;

use property::{Digits, for_all};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::base::bytes::{Reader, Writer};
use weir::base::percent::Percent;
use weir::base::time::Time;
use weir::retry::budget::{Budget, BudgetPolicy, Charge, MinRetryRate, RetryRequest};
use weir::retry::outage::{News, Outage};
use weir::retry::reservations::Account;

// The crate links only with a host beside it.
mod fake_host;
mod property;

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
/// Some day in 2026.
const START: u64 = 1_770_000_000 * SECOND;

fn at(after_start: u64) -> Time {
    Time::from_nanos(START + after_start)
}

fn policy(percent: u32, floor: u32) -> BudgetPolicy {
    BudgetPolicy {
        percent: Percent::from_basis_points(percent * 100).unwrap(),
        interval: Duration::from_secs(10),
        min_retry_rate: MinRetryRate { count: floor, interval: Duration::from_secs(1) },
    }
}

#[test]
fn it_begins_with_a_failure_and_retries_fail_with_the_first_of_them() {
    let mut outage = Outage::default();
    assert!(outage.predates(at(0)) && !outage.retries_fail() && !outage.is_news());
    outage.attempt_failed(at(10));
    assert!(outage.predates(at(20)) && !outage.retries_fail() && outage.is_news(), "who knows: a retry may help");
    outage.retry_failed(at(30));
    assert!(outage.retries_fail() && outage.predates(at(9)), "it was under way");
    assert!(!outage.predates(at(10)) && !outage.predates(at(20)), "it arrived in the trouble");
    outage.retry_answered(at(40));
    assert!(outage.predates(at(50)) && !outage.retries_fail());
    outage.retry_failed(at(60));
    assert!(outage.predates(at(59)) && !outage.predates(at(60)));
}

#[test]
fn it_is_over_after_a_quiet_second() {
    let mut outage = Outage::default();
    outage.retry_failed(at(0));
    for second in 1..=3 {
        outage.advance(at(second * SECOND));
        assert!(outage.retries_fail());
        outage.attempt_failed(at(second * SECOND));
    }
    outage.advance(at(4 * SECOND));
    assert!(!outage.predates(at(0)), "a second, and not more");
    outage.advance(at(4 * SECOND + 1));
    assert!(outage.predates(at(4 * SECOND)) && !outage.retries_fail());
    // The next one begins anew.
    outage.attempt_failed(at(5 * SECOND));
    outage.retry_failed(at(5 * SECOND + 5));
    assert!(outage.predates(at(5 * SECOND - 1)) && !outage.predates(at(5 * SECOND)));
}

/// One request in each tenth of a second, for so many seconds, each with two retries where the budget pays: how many it paid.
fn retries(budget: &mut Budget, seconds: std::ops::Range<u64>) -> Vec<usize> {
    let asks = |now: u64, budget: &mut Budget| {
        let arrived = at(now);
        let news = News::default();
        budget.deposit(arrived);
        let first = budget.charge(&news, RetryRequest { arrived, again: false }, arrived) == Charge::Granted;
        let again = first && budget.charge(&news, RetryRequest { arrived, again: true }, arrived) == Charge::Granted;
        if first {
            budget.outage(arrived).retry_failed(arrived);
        }
        usize::from(first) + usize::from(again)
    };
    let tenths = |second: u64| (0..10).map(move |tenth| second * SECOND + tenth * SECOND / 10);
    seconds.map(|second| tenths(second).map(|now| asks(now, budget)).sum()).collect()
}

#[test]
fn the_floor_is_lowered_while_retries_are_in_vain() {
    let mut budget = Budget::new(policy(0, 10));
    let paid = retries(&mut budget, 0..40);
    assert!((8..=10).contains(&paid[0]), "{paid:?}");
    assert_eq!(paid[1..10].iter().sum::<usize>(), 0, "{paid:?}");
    // One in ten seconds.
    assert!((3..=4).contains(&paid[10..].iter().sum::<usize>()), "{paid:?}");
    // Answers bring it back, whether to retries or not.
    let mut other = budget.clone();
    (0..3).for_each(|_| budget.outage(at(40 * SECOND)).retry_answered(at(40 * SECOND)));
    assert!(budget.balance(at(40 * SECOND)) >= 8);
    while other.outage(at(40 * SECOND)).failed_retries() >= 8 {
        assert!(other.balance(at(40 * SECOND)) < 8, "retries are still in vain");
        other.outage(at(40 * SECOND)).attempt_answered();
    }
    assert!(other.balance(at(40 * SECOND)) >= 8);
    // So do ten quiet seconds.
    let mut quiet = Budget::new(policy(0, 10));
    retries(&mut quiet, 0..10);
    assert!(quiet.balance(at(15 * SECOND)) < 8);
    assert_eq!(quiet.balance(at(20 * SECOND)), 10);
}

#[test]
fn that_retries_are_in_vain_is_shared() {
    let mut budget = Budget::new(policy(0, 10));
    retries(&mut budget, 0..3);
    let mut record = Vec::new();
    budget.encode(&mut record);
    let mut account = Account::new(policy(0, 10));
    let late = at(3 * SECOND);
    let asker = RetryRequest { arrived: late, again: false };
    assert_eq!(account.charge(Some(&record), asker, late).0, Charge::Denied);
    account.published();
    assert!(!account.pending(), "nothing to tell");
    (0..13).for_each(|_| account.answered(late));
    assert!(account.pending());
    let record = account.publish(Some(&record), late);
    assert_eq!(account.charge(Some(&record), asker, late).0, Charge::Granted);
}

#[test]
fn it_follows_a_clock_that_steps() {
    let mut outage = Outage::default();
    outage.retry_failed(at(3_600 * SECOND));
    outage.advance(at(0));
    assert!(!outage.predates(at(0)), "what arrives after the step is not from before the trouble");
    outage.advance(at(SECOND + 1));
    assert!(outage.predates(at(SECOND)), "and it does not last for an hour");
    outage.retry_failed(at(2 * SECOND));
    outage.advance(at(3_600 * SECOND));
    assert!(outage.predates(at(3_600 * SECOND)), "a step ahead is a pause");
}

#[test]
fn workers_tell_each_other() {
    let (mut record, mut one, mut other) = (Outage::default(), Outage::default(), Outage::default());
    one.attempt_failed(at(20));
    other.attempt_failed(at(10));
    other.retry_failed(at(30));
    record.merge(&one, at(40));
    assert!(record.predates(at(30)));
    record.merge(&other, at(40));
    assert!(record.retries_fail() && record.predates(at(9)) && !record.predates(at(10)), "since the first of them");
    // What was answered before is no news, however late it is told.
    let mut late = Outage::default();
    late.retry_answered(at(5));
    record.merge(&late, at(50));
    assert!(record.retries_fail());
    late.retry_answered(at(45));
    record.merge(&late, at(50));
    assert!(!record.retries_fail());
    // It failed again since.
    late.retry_failed(at(60));
    record.merge(&late, at(70));
    assert!(!record.predates(at(60)) && record.predates(at(59)));

    let mut bytes = Vec::new();
    record.encode(&mut Writer::from(&mut bytes));
    assert_eq!(bytes.len(), Outage::ENCODED_BYTES);
    let decode = |bytes: &[u8]| {
        let mut record = Reader::from(bytes);
        Outage::decode(&mut record).filter(|_| record.is_empty())
    };
    assert_eq!(decode(&bytes), Some(record));
    assert_eq!(decode(&bytes[1..]), None);
    for hostile in [[0xff; Outage::ENCODED_BYTES], [0; Outage::ENCODED_BYTES]] {
        let mut outage = decode(&hostile).unwrap();
        outage.advance(at(0));
        outage.advance(at(SECOND + 1));
        assert!(outage.predates(at(SECOND)), "neither breaks nor lasts");
    }
}

#[test]
fn savings_are_for_what_was_under_way() {
    let mut budget = Budget::new(policy(20, 0));
    (0..5_000).for_each(|request| budget.deposit(at(request * 2 * MS)));
    let now = 10 * SECOND;
    let mut ask = |arrived, again, after| {
        let asker = RetryRequest { arrived: at(arrived), again };
        budget.charge(&News::default(), asker, at(now + after)) == Charge::Granted
    };
    assert!(ask(now - MS, false, 0), "before anybody knows");
    assert!(ask(now + MS, false, 2 * MS), "no retry has failed yet");
    assert!(ask(now - MS, true, 3 * MS), "a retry has, of a request that was under way");
    // Of the last second, 20 percent are 100 at most; and 5,000 requests have saved 900.
    let later = (0..2_000).filter(|_| ask(now + 4 * MS, false, 5 * MS)).count();
    assert!((80..100).contains(&later), "{later}");
    let caught = (0..2_000).filter(|_| ask(now - MS, true, 6 * MS)).count();
    assert_eq!(caught, 900 - 3 - later, "to the last retry");
    assert!(!ask(now - MS, false, 7 * MS));
}

/// The rules, word for word, over the time of every event.
#[derive(Default)]
struct Naive {
    requests: Vec<u64>,
    retries: Vec<u64>,
    /// Failed attempts, whether they were retries, and answered retries.
    events: Vec<(u64, Event)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Failed,
    RetryFailed,
    RetryAnswered,
}

fn within(times: &[u64], interval: u64, now: u64) -> u64 {
    times.iter().filter(|&&time| time + interval > now).count() as u64
}

impl Naive {
    /// When the trouble began that is going on, if retries do not help.
    fn failing_since(&self, now: u64) -> Option<u64> {
        let mut first = self.events.len();
        let mut next = now;
        for (index, &(time, event)) in self.events.iter().enumerate().rev() {
            if event == Event::RetryAnswered || next - time > SECOND {
                break;
            }
            (first, next) = (index, time);
        }
        let outage = self.events.get(first..).unwrap_or_default();
        outage.iter().any(|(_, event)| *event == Event::RetryFailed).then(|| outage[0].0)
    }

    /// Whether one more retry is within the budget; `slots` as in the budget's own tests.
    fn allows(&self, policy: &BudgetPolicy, arrived: u64, now: u64, slots: u64) -> bool {
        let share = |interval: u64| {
            let requests = within(&self.requests, (10 - slots) * interval / 10, now);
            let retries = within(&self.retries, (10 + slots) * interval / 10, now);
            (retries + 1) * 10_000 <= requests * u64::from(policy.percent.basis_points())
        };
        let bound = self.failing_since(now).is_some_and(|since| arrived >= since);
        (share(policy.interval.as_nanos() as u64) && (!bound || share(SECOND)))
            || within(&self.retries, (10 + slots) * SECOND / 10, now) < u64::from(policy.min_retry_rate.count)
    }
}

#[test]
fn grants_what_one_with_every_time_stamp_grants_in_trouble() {
    for_all(1_500, 120, |numbers| {
        let mut digits = Digits(numbers[0]);
        let policy = policy(digits.pick(&[0, 10, 20, 75, 100]), digits.pick(&[0, 0, 3]));
        let (mut budget, mut naive, mut now) = (Budget::new(policy), Naive::default(), START);
        for &number in numbers {
            let mut digits = Digits(number);
            let gaps = [0, 1, MS, 40 * MS, 100 * MS - 1, 250 * MS, SECOND, SECOND + 1, 3 * SECOND, 1_209_600 * SECOND];
            now += digits.pick(&gaps) + digits.below(3) * digits.below(7 * MS);
            let time = Time::from_nanos(now);
            match digits.below(6) {
                0 | 1 => {
                    for _ in 0..digits.pick(&[1, 5, 50]) {
                        budget.deposit(time);
                        naive.requests.push(now);
                    }
                }
                2 => {
                    let mut news = News::default();
                    news.outage.retry_answered(time);
                    budget.merge(&news, time);
                    naive.events.push((now, Event::RetryAnswered));
                }
                _ => {
                    let again = digits.below(2) == 1;
                    let arrived = now - digits.pick(&[0, 1, 30 * MS, SECOND, 5 * SECOND]);
                    let asker = RetryRequest { arrived: Time::from_nanos(arrived), again };
                    naive.events.push((now, if again { Event::RetryFailed } else { Event::Failed }));
                    for _ in 0..digits.pick(&[1, 1, 30]) {
                        if budget.charge(&News::default(), asker, time) == Charge::Granted {
                            assert!(naive.allows(&policy, arrived, now, 0), "granted a retry too many");
                            naive.retries.push(now);
                        } else {
                            // It does not know of what was in vain.
                            let failed_retries = budget.outage(time).failed_retries() >= 8;
                            assert!(
                                failed_retries || !naive.allows(&policy, arrived, now, 1),
                                "denied what is within the budget"
                            );
                        }
                    }
                }
            }
        }
    });
}

/// A cluster whose hosts all fail from some moment on, as one worker after the other sees it.
struct Failing {
    workers: Vec<Account>,
    record: Option<Vec<u8>>,
    guarded: bool,
}

/// What happens next, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    Arrives,
    Fails { arrived: u64, attempts: u32, most: u32, reserved: u32 },
    Tick,
}

const MAX_RETRIES: u32 = 2;
/// The calm before.
const CALM: u64 = 12 * SECOND;

impl Failing {
    /// `rate` requests a second, answered after `latency`, until they fail after the same. Returns when requests arrived in
    /// the outage, and the retries, each with the arrival of its request.
    fn run(&mut self, rate: u64, latency: u64, random: &mut fake_host::Random) -> (Vec<u64>, Vec<(u64, u64)>) {
        let mut events = std::collections::BTreeSet::new();
        let count = self.workers.len() as u64;
        (0..count).for_each(|worker| _ = events.insert((worker * 7 * MS, Next::Tick, worker, 0)));
        for request in 0..rate * 20 {
            events.insert((request * SECOND / rate, Next::Arrives, random.below(count), request));
        }
        let (mut requests, mut retries) = (Vec::new(), Vec::new());
        while let Some((now, next, index, id)) = events.pop_first() {
            if now > CALM + 8 * SECOND {
                break;
            }
            let worker = &mut self.workers[index as usize];
            match next {
                Next::Tick => {
                    if worker.pending() {
                        self.record = Some(worker.publish(self.record.as_deref(), at(now)));
                        worker.published();
                    }
                    events.insert((now + 100 * MS, Next::Tick, index, 0));
                }
                Next::Arrives => {
                    worker.arrive(at(now));
                    requests.push(now);
                    let permission = !self.guarded || worker.retries_fail(at(now));
                    let reserved = if permission { worker.reserve(MAX_RETRIES, at(now)) } else { 0 };
                    let most = if permission { reserved } else { MAX_RETRIES };
                    let fails = Next::Fails { arrived: now, attempts: 1, most, reserved };
                    if now + latency >= CALM {
                        events.insert((now + latency, fails, index, id));
                    } else if permission {
                        // What is answered is long over when the next one arrives.
                        worker.release(reserved);
                    }
                }
                Next::Fails { arrived, attempts, most, reserved } => {
                    let asker = RetryRequest { arrived: at(arrived), again: attempts > 1 };
                    let more = attempts <= most
                        && (!self.guarded || {
                            let (charge, record) = worker.charge(self.record.as_deref(), asker, at(now));
                            if let Some(record) = record {
                                self.record = Some(record);
                                worker.published();
                            }
                            charge == Charge::Granted
                        });
                    if more {
                        retries.push((now, arrived));
                        let used = u32::from(self.guarded && reserved > 0);
                        worker.release(used);
                        let fails = Next::Fails { arrived, attempts: attempts + 1, most, reserved: reserved - used };
                        // The back-off before, and the attempt.
                        let back_off = 1 + random.below(25 * MS * (2 * u64::from(attempts) - 1));
                        events.insert((now + back_off + latency, fails, index, id));
                        continue;
                    }
                    worker.failed(attempts > 1, at(now));
                    if !self.guarded {
                        worker.retried(attempts - 1, at(now));
                    }
                    worker.release(reserved);
                }
            }
        }
        (requests, retries)
    }
}

/// With `guard`: in any second of an outage, retries are at most the share of that second's requests or the floor, those of
/// the requests that came before it was known excepted.
#[test]
fn each_second_of_an_outage_is_within_the_share() {
    for (rate, latency, workers) in
        [(250, 0, 2), (250, 0, 4), (1_000, 0, 4), (40, 0, 2), (20, 0, 1), (250, 20 * MS, 4), (100, 300 * MS, 2)]
    {
        for seed in 0..10 {
            let policy = policy(20, 10);
            let workers = vec![Account::new(policy); workers];
            let mut outage = Failing { workers, record: None, guarded: true };
            let (requests, retries) = outage.run(rate, latency, &mut fake_host::Random::new(seed));
            // Two attempts and a back-off after it began, a retry has failed.
            let known = CALM + 2 * latency + 25 * MS + SECOND / rate;
            for &(last, arrived) in retries.iter().filter(|(time, _)| *time >= CALM) {
                let second = last.saturating_sub(SECOND) + 1..=last;
                let requests = requests.iter().filter(|time| second.contains(time)).count();
                let retries = retries.iter().filter(|(time, _)| second.contains(time)).count();
                let most = (requests * 20 / 100).max(10);
                // Few arrive before it is known where attempts end at once, so there it holds for all of them.
                let bound = arrived > known || (latency == 0 && rate >= 100);
                assert!(
                    retries <= most || !bound,
                    "rate {rate}, seed {seed}: {retries} retries of {requests} requests within a second, {} ms after it began",
                    (last - CALM) / MS
                );
            }
            // And it is not left unused, but for the floor.
            if rate < 100 {
                continue;
            }
            let of_outage = retries.iter().filter(|(time, _)| *time >= CALM + SECOND).count() as u64;
            assert!(
                of_outage * 10 >= 7 * (rate / 5).max(10) * if latency == 0 { 8 } else { 6 },
                "rate {rate}: {of_outage} in 7 s"
            );
        }
    }
}

/// Without `guard`: the same, but for what workers round up and do not know of each other for a tenth of a second.
#[test]
fn permissions_of_an_outage_are_within_the_share() {
    for (rate, workers) in [(250, 1), (250, 2), (250, 4), (1_000, 4), (100, 8)] {
        let account = Account::new(policy(20, 10));
        let mut outage = Failing { workers: vec![account; workers], record: None, guarded: false };
        let (requests, retries) = outage.run(rate, 0, &mut fake_host::Random::new(1));
        for &(last, _) in retries.iter().filter(|(time, _)| *time >= CALM) {
            let second = last.saturating_sub(SECOND) + 1..=last;
            let requests = requests.iter().filter(|time| second.contains(time)).count();
            let retries = retries.iter().filter(|(time, _)| second.contains(time)).count();
            let most = (requests * 20 / 100).max(10);
            // A request's retries happen up to 100 ms after it was permitted to have them.
            assert!(retries <= most + most / 4 + workers, "rate {rate}: {retries} retries of {requests} requests");
        }
    }
}
