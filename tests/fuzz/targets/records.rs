//! What lies in shared data: written by another worker, by another version, or by somebody else.

use super::choices::Choices;
use std::time::Duration;
use weir::account::Account;
use weir::budget::{Asker, Budget, BudgetPolicy};
use weir::detector::OutlierPolicy;
use weir::exchange::{Ejections, MOST_EJECTIONS, WorkerId, claim};
use weir::outlier::{EndedAttempt, Outliers};
use weir::percent::Percent;
use weir::signal::Signal;
use weir::time::Time;

/// A time near now, or any.
fn time(choices: &mut Choices<'_>) -> Time {
    const NOW: u64 = 1_800_000_000_000_000_000;
    Time::from_nanos(match choices.below(4) {
        0 => choices.u64(),
        _ => NOW.wrapping_add(u64::from(choices.u32()) << 4),
    })
}

/// The record of a retry budget: what is read is written back the same, and a charge never gives more than the policy.
pub fn budget(data: &[u8]) {
    let mut choices = Choices(data);
    let mut now = time(&mut choices);
    let policy = BudgetPolicy {
        percent: Percent::from_basis_points(choices.u32() % 10_001).unwrap_or_default(),
        interval: Duration::from_millis(u64::from(choices.u32()) % 4_000_000),
        ..BudgetPolicy::default()
    };
    let mut account = Account::new(policy);
    let foreign = choices.0;
    // The format's mark in front, so that the fuzzer need not find it.
    let mut sound = Vec::new();
    Budget::new(policy).encode(&mut sound);
    let marked = [sound.get(..4).unwrap_or_default(), foreign].concat();
    for record in [foreign, &marked] {
        if let Some(read) = Budget::decode(policy, record, now) {
            let mut written = Vec::new();
            read.encode(&mut written);
            assert!(written.len() <= Budget::ENCODED_BYTES);
            assert_eq!(Budget::decode(policy, &written, now), Some(read));
        }
        for _ in 0..8 {
            now = now.saturating_add(Duration::from_millis(u64::from(choices.byte()) << 4));
            match choices.below(4) {
                0 => account.arrive(now),
                1 => {
                    let asker = Asker { arrived: time(&mut choices), again: choices.below(2) == 0 };
                    drop(account.charge(Some(record), asker, now));
                }
                2 => drop(account.publish(Some(record), now)),
                _ => account.retried(u32::from(choices.byte()), now),
            }
        }
        // However wrong the record was, what is written over it is sound.
        let published = account.publish(Some(record), now);
        assert!(Budget::decode(policy, &published, now).is_some());
        account.published();
    }
}

/// The record of ejections, and that of the workers' numbers.
pub fn exchange(data: &[u8]) {
    let mut choices = Choices(data);
    let policy = OutlierPolicy::default();
    let now = time(&mut choices);
    let foreign = choices.0;
    let mut mark = Vec::new();
    Ejections::default().encode(&mut mark);
    let marked = [mark.get(..4).unwrap_or_default(), foreign].concat();
    for record in [foreign, &marked] {
        let (id, claimed) = claim(Some(record));
        assert_ne!(claim(Some(&claimed)).0, id);
        if let Some(read) = Ejections::decode(record, &policy, now) {
            assert!(read.out.len() <= MOST_EJECTIONS);
            // Nobody is out for longer than the longest ejection, and what was read is written back the same.
            let longest = policy.max_ejection_time + policy.max_ejection_time / 4;
            assert!(read.out.iter().all(|ejection| ejection.until.since(now) <= longest && ejection.since <= now));
            let mut written = Vec::new();
            read.encode(&mut written);
            assert_eq!(Ejections::decode(&written, &policy, now), Some(read));
        }
        let mut outliers = Outliers::new(policy, WorkerId(1));
        let mut now = now;
        for _ in 0..8 {
            now = now.saturating_add(Duration::from_millis(u64::from(choices.byte()) << 6));
            let host = choices.pick(&["10.0.0.1:80", "10.0.0.2:80", "[::1]:80"]);
            let ended = EndedAttempt {
                host: Some(host),
                signal: choices.pick(&Signal::ALL),
                began: time(&mut choices),
                weight: choices.u32(),
                picked: choices.below(2) == 0,
            };
            outliers.attempt_ended(&ended, now);
            if let Some(written) = outliers.exchange(Some(record), now) {
                assert!(Ejections::decode(&written, &policy, now).is_some());
            }
            outliers.published();
            let _ = outliers.take_events();
            if let Some(route) = outliers.route(now, choices.below(2) == 0, 2, Percent::MAX) {
                assert!(route.hosts.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", route.hosts);
                if let Some(probe) = route.probe {
                    outliers.probe_over(probe);
                }
            }
        }
        assert!(outliers.out() <= outliers.known(now));
    }
}
