use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::outlier::detector::OutlierPolicy;

const NOW: Time = Time::from_nanos(1_800_000_000_000_000_000);
const ONE: WorkerId = WorkerId(1);
const TWO: WorkerId = WorkerId(2);

fn after(millis: u64) -> Time {
    NOW.saturating_add(Duration::from_millis(millis))
}

fn ejection(address: &str, owner: WorkerId) -> Ejection {
    Ejection {
        address: address.into(),
        failure: Failure::Reset,
        unreachable: address.len().is_multiple_of(2),
        ejection_count: 3,
        since: NOW,
        failed: NOW,
        until: after(500),
        due: after(400),
        owner,
    }
}

fn two() -> Ejections {
    let mut all = Ejections {
        ejected: vec![ejection("10.0.0.1:80", ONE), ejection("[::1]:443", TWO)],
        all_failed: NOW,
        workers: vec![Worker { id: ONE, heartbeat: NOW }, Worker { id: TWO, heartbeat: NOW }],
        ..Ejections::default()
    };
    all.apply(&Change::ReportFailure("10.0.0.2:80".into(), Failure::Refused, 5), TWO, NOW);
    all
}

fn encoded(ejections: &Ejections) -> Vec<u8> {
    let mut record = Vec::new();
    ejections.encode(&mut record);
    record
}

fn decoded(record: &[u8], now: Time) -> Option<Ejections> {
    Ejections::decode(record, &OutlierPolicy::default(), now)
}

#[test]
fn a_record_comes_back_as_it_was() {
    assert_eq!(decoded(&encoded(&two()), NOW), Some(two()));
}

#[test]
fn after_a_step_back_nothing_is_ejected_for_longer_than_the_longest_ejection() {
    let earlier = Time::from_nanos(NOW.as_nanos() - 3_600_000_000_000);
    let mut ejections = decoded(&encoded(&two()), earlier).unwrap();
    for ejection in &ejections.ejected {
        assert!(ejection.until.since(earlier) <= Duration::from_secs(38) && ejection.since <= earlier);
    }
    // Without heartbeats of the owners, another worker takes over.
    ejections.maintain(WorkerId(3), true, earlier);
    assert!(ejections.ejected.iter().all(|ejection| ejection.owner == WorkerId(3)));
}

#[test]
fn an_ejection_applies_once_and_within_the_cap() {
    let mut all = Ejections::default();
    assert!(all.apply(&Change::Eject(ejection("a:1", ONE), 2), ONE, NOW).is_some());
    assert!(all.apply(&Change::Eject(ejection("a:1", TWO), 2), TWO, NOW).is_none(), "out already");
    assert!(all.apply(&Change::Eject(ejection("b:1", TWO), 2), TWO, NOW).is_some());
    assert!(all.apply(&Change::Eject(ejection("c:1", TWO), 2), TWO, NOW).is_none(), "too many");
    assert_eq!(all.of("a:1").unwrap().owner, ONE);
}

#[test]
fn only_the_owner_decides() {
    let mut all = two();
    assert!(all.apply(&Change::Uneject("10.0.0.1:80".into()), TWO, NOW).is_none());
    assert!(all.apply(&Change::Extend(ejection("10.0.0.1:80", TWO)), TWO, NOW).is_none());
    assert_eq!(all, two());
    assert!(all.apply(&Change::Uneject("10.0.0.1:80".into()), ONE, NOW).is_some());
    assert!(all.of("10.0.0.1:80").is_none());
}

#[test]
fn an_owner_without_heartbeats_is_replaced_by_one_with_requests() {
    let mut all = two();
    all.maintain(TWO, true, after(900));
    assert_eq!(all.of("10.0.0.1:80").unwrap().owner, ONE);
    all.maintain(TWO, false, after(5_000));
    assert_eq!(all.of("10.0.0.1:80").unwrap().owner, ONE);
    all.maintain(TWO, true, after(5_000));
    assert_eq!(all.of("10.0.0.1:80").unwrap().owner, TWO);
    all.maintain(ONE, true, after(5_100));
    assert_eq!(all.of("10.0.0.1:80").unwrap().owner, TWO);
}

#[test]
fn a_host_that_no_probe_reaches_is_forgotten() {
    let mut all = two();
    all.maintain(ONE, true, after(70_000));
    assert_eq!(all.ejected, []);
}

#[test]
fn each_worker_claims_another_id() {
    let (one, record) = claim(None);
    let (two, _) = claim(Some(&record));
    assert_ne!(one, two);
    assert_eq!(claim(Some(b"nonsense")).0, one);
}

#[test]
fn evidence_is_numbered_in_order_and_bounded() {
    let mut all = Ejections::default();
    let fail = |all: &mut Ejections, host: usize, now| {
        all.apply(&Change::ReportFailure(format!("10.0.0.{host}:80").into(), Failure::Reset, 0), ONE, now);
    };
    (0..100).for_each(|_| fail(&mut all, 1, NOW));
    assert_eq!((all.evidence.len(), all.reported), (8, 8));
    assert!(all.evidence.iter().zip(1..).all(|(evidence, number)| evidence.number == number));
    (0..200).for_each(|host| fail(&mut all, host, NOW));
    assert_eq!(all.evidence.len(), 128);
    assert_eq!(decoded(&encoded(&all), NOW), Some(all.clone()));
    fail(&mut all, 3, after(1_000));
    assert_eq!(all.evidence.len(), 1, "what is old makes room");
}

#[test]
fn evidence_against_an_ejected_host_is_dropped() {
    let mut all = Ejections::default();
    all.apply(&Change::ReportFailure("a:1".into(), Failure::Reset, 0), ONE, NOW);
    all.apply(&Change::ReportPick("b:1".into()), ONE, NOW);
    all.apply(&Change::Eject(ejection("a:1", ONE), 2), ONE, NOW);
    all.apply(&Change::ReportFailure("a:1".into(), Failure::Reset, 0), TWO, NOW);
    assert!(all.evidence.iter().map(|evidence| &*evidence.address).eq(["b:1"]));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(record: Vec<u8>, now: u64) {
        let _ = decoded(&record, Time::from_nanos(now));
        let _ = claim(Some(&record));
    }

    #[test]
    fn any_change_of_a_record_is_survived(at in 0..200usize, byte: u8, cut in 0..200usize) {
        let mut record = encoded(&two());
        let at = at % record.len();
        record[at] = byte;
        record.truncate(record.len().saturating_sub(cut));
        if let Some(ejections) = decoded(&record, NOW) {
            let again = decoded(&encoded(&ejections), NOW);
            prop_assert_eq!(again, Some(ejections));
        }
    }
}
