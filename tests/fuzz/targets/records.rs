//! What lies in shared data: written by another worker, by another version, or by somebody else.

use super::choices::Choices;
use std::time::Duration;
use weir::base::percent::Percent;
use weir::base::time::Time;
use weir::circuit::{self, BreakerPolicy, Circuit, Command, Event, Permission};
use weir::incident::{AttemptDetail, Incidents, MOST_HOSTS_DOWN};
use weir::outlier::detector::OutlierPolicy;
use weir::outlier::hosts::MOST_HOSTS;
use weir::outlier::shared::{Ejections, MOST_EJECTIONS, WorkerId, claim, decode_host_list, encode_host_list};
use weir::outlier::{EndedAttempt, Outliers};
use weir::retry::budget::{Budget, BudgetPolicy, RetryRequest};
use weir::retry::reservations::Account;
use weir::signal::Signal;

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
                    let asker = RetryRequest { arrived: time(&mut choices), again: choices.below(2) == 0 };
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
            assert!(read.ejected.len() <= MOST_EJECTIONS);
            // Nobody is out for longer than the longest ejection, and what was read is written back the same.
            let longest = policy.max_ejection_time + policy.max_ejection_time / 4;
            assert!(read.ejected.iter().all(|ejection| ejection.until.since(now) <= longest && ejection.since <= now));
            let mut written = Vec::new();
            read.encode(&mut written);
            assert_eq!(Ejections::decode(&written, &policy, now), Some(read));
        }
        let mut outliers = Outliers::new(policy, WorkerId(1));
        let mut now = now;
        let mut roster = encode_host_list(std::iter::empty(), now);
        roster.extend_from_slice(record);
        for roster in [record, &roster] {
            assert!(decode_host_list(roster, now).is_none_or(|hosts| hosts.len() <= MOST_HOSTS));
            outliers.learn(roster, now);
        }
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
            let known = outliers.host_list(now).map(|roster| decode_host_list(&roster, now));
            assert_ne!(known, Some(None), "what was written is read");
            if let Some(route) = outliers.route(now, choices.below(2) == 0, 2, Percent::MAX) {
                assert!(route.hosts.bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", route.hosts);
                if let Some(probe) = route.probe {
                    outliers.probe_over(probe);
                }
            }
        }
        assert!(outliers.ejected() <= outliers.known(now));
    }
}

/// The record of a circuit: however wrong, what is written over it is sound, the next probe is near, and what is shed is
/// shed because the record says that it is open.
pub fn circuit(data: &[u8]) {
    let mut choices = Choices(data);
    let mut now = time(&mut choices);
    let policy = BreakerPolicy {
        percent: Percent::from_basis_points(100 + choices.u32() % 9_901).unwrap_or_default(),
        min_requests: choices.u32() % 1_000,
        interval: Duration::from_millis(1_000 + u64::from(choices.u32()) % 3_600_000),
        open_time: Duration::from_millis(100 + u64::from(choices.u32()) % 300_000),
    };
    let foreign = choices.0;
    let sound = circuit::Record::new(&policy).encode();
    let marked = [sound.get(..4).unwrap_or_default(), foreign].concat();
    for record in [foreign, &marked] {
        if let Some(read) = circuit::Record::decode(record, &policy, now) {
            assert!(read.opened.is_none_or(|opened| opened <= now) && read.closed <= now);
            assert!(read.next <= now.saturating_add(policy.open_time));
            let again = circuit::Record::decode(&read.encode(), &policy, now).expect("what was written");
            assert_eq!(circuit::Record::decode(&again.encode(), &policy, now), Some(again));
        }
        let mut circuit = Circuit::new(policy);
        let mut shared = record.to_vec();
        let mut ticket = None;
        for _ in 0..16 {
            now = now.saturating_add(Duration::from_millis(u64::from(choices.byte()) << 6));
            for _ in 0..choices.below(8) {
                circuit.attempt_ended(choices.pick(&Signal::ALL), time(&mut choices), now);
            }
            circuit.requested(now);
            if circuit.admit(now, || choices.below(2) == 0) == Permission::Shed {
                circuit.shed();
            }
            let wish = match (choices.below(5), ticket) {
                (0, _) => Command::Probe,
                (1, Some(ticket)) => Command::Close(ticket),
                (2, Some(ticket)) => Command::of_probe(ticket, Some(choices.pick(&Signal::ALL))),
                (other, _) => Command::Exchange { answering: other == 3 },
            };
            if let Some(written) = circuit.exchange(Some(&shared), wish, now) {
                assert!(circuit::Record::decode(&written, &policy, now).is_some());
                if choices.below(4) == 0 {
                    // Another worker was faster, or the host refused it.
                    circuit.failed(now);
                    continue;
                }
                shared = written;
            }
            match circuit.done() {
                Some(Event::Probing(granted)) => ticket = Some(granted),
                Some(Event::Opened { broke, attempts, .. }) => {
                    let whole = u64::from(Percent::MAX.basis_points());
                    assert!(broke <= attempts || record == marked, "{broke} of {attempts}");
                    assert!(attempts >= u64::from(policy.min_requests), "{attempts}");
                    assert!(broke * whole >= attempts * u64::from(policy.percent.basis_points()));
                }
                _ => {}
            }
        }
        // Nobody asks any more: hours later it is closed, whatever it said. Once for what is not possible to be corrected.
        let later = now.saturating_add(Duration::from_secs(8 * 3_600));
        for at in [now, later] {
            if let Some(written) = circuit.exchange(Some(&shared), Command::Exchange { answering: true }, at) {
                shared = written;
            }
            let _ = circuit.done();
        }
        let read = circuit::Record::decode(&shared, &policy, later);
        assert!(read.is_none_or(|read| read.opened.is_none()) || later == Time::from_nanos(u64::MAX), "open for good");
    }
}

/// The record of incidents: foreign bytes are forgotten, a line is one line, and all that is open is over after a while of
/// calm.
pub fn incident(data: &[u8]) {
    const HOSTS: [&str; 3] = ["10.0.0.1:80", "10.0.0.2:80", "[::1]:80"];
    let mut choices = Choices(data);
    let mut now = time(&mut choices);
    let interval = u64::from(choices.u32()) % 3_600_000;
    let foreign = choices.0;
    let marked = [b"wri\x01".as_slice(), foreign].concat();
    for record in [foreign, &marked] {
        let mut incidents = Incidents::default();
        let mut shared = record.to_vec();
        for _ in 0..16 {
            now = now.saturating_add(Duration::from_millis(u64::from(choices.byte()) << 6));
            for _ in 0..choices.below(8) {
                let began = time(&mut choices);
                let detail = match choices.below(3) {
                    0 => AttemptDetail::None,
                    1 => AttemptDetail::ConnectTimeout,
                    _ => incidents
                        .used(u64::from(choices.byte()), choices.below(2) == 0, began, now)
                        .map_or(AttemptDetail::None, AttemptDetail::Idle),
                };
                incidents.ended(choices.pick(&HOSTS), choices.pick(&Signal::ALL), detail, began, now);
            }
            if choices.below(8) == 0 {
                incidents.retried_unseen(now);
            }
            if let Some(written) = incidents.exchange(Some(&shared), interval, choices.below(256), now) {
                // Another worker may have been faster: then it is done again with what that one wrote.
                if choices.below(4) > 0 {
                    shared = written;
                }
            }
            for event in incidents.published() {
                let line = event.line("orders");
                assert!(line.chars().all(|character| !character.is_control()) && line.len() < 1_000, "{line:?}");
            }
            let mut looked_at = 0;
            incidents.each_scheduled_probe(now, &mut |host, _| {
                assert!(host.bytes().all(|byte| byte.is_ascii_graphic()), "{host:?}");
                looked_at += 1;
            });
            assert!(looked_at <= MOST_HOSTS_DOWN);
        }
    }
}
