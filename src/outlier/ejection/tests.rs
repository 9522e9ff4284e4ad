use super::*;
use crate::outlier::probing::Candidate;
use crate::outlier::shared::WorkerId;

const START: Time = Time::from_nanos(1_800_000_000_000_000_000);
const ME: WorkerId = WorkerId(1);

fn after(millis: u64) -> Time {
    START.saturating_add(Duration::from_millis(millis))
}

/// A host that was ejected at the start for a second.
fn ejected() -> HostState {
    let mut state = HostState::new();
    state.follow(&Ejection {
        address: "10.0.0.1:80".into(),
        failure: Failure::Refused,
        unreachable: false,
        ejection_count: 0,
        since: START,
        failed: START,
        until: after(1_000),
        due: after(1_000),
        owner: ME,
    });
    state
}

fn wants_probe(state: &HostState, repeatable: bool, millis: u64) -> bool {
    let request = Candidate { worker: ME, repeatable, others: false, mostly_ejected: false };
    state.wants_probe(request, false, &OutlierPolicy::default(), after(millis))
}

#[test]
fn a_host_is_ejected_probed_and_back() {
    let mut state = ejected();
    assert!(matches!(state, HostState::Ejected(_)));
    assert!(!wants_probe(&state, true, 999) && wants_probe(&state, true, 1_000));
    assert!(!wants_probe(&state, false, 1_999) && wants_probe(&state, false, 2_000), "a second later");
    state.start_probe(1, 300, after(1_000));
    assert!(matches!(state, HostState::Probing(..)) && !wants_probe(&state, true, 1_001), "one at a time");
    assert!(wants_probe(&state, true, 11_000), "its end was not reported");
    assert_eq!(state.answered(after(1_000), 2, after(1_010)), Verdict::None);
    state.start_probe(2, 300, after(1_010));
    assert_eq!(state.answered(after(1_010), 2, after(1_020)), Verdict::Unejected);
    state.uneject(after(1_020), Duration::from_secs(10), false);
    assert!(matches!(state, HostState::Healthy(_)) && !state.is_ejected());
}

#[test]
fn what_cannot_be_repeated_is_no_probe_of_a_host_that_hung_while_others_come() {
    let mut state = ejected();
    assert_eq!(
        state.failed(Failure::Timeout, after(500), &OutlierPolicy::default(), after(510)),
        Verdict::Extended,
        "it hung"
    );
    let wants = |state: &HostState, others, millis| {
        let request = Candidate { worker: ME, repeatable: false, others, mostly_ejected: false };
        state.wants_probe(request, false, &OutlierPolicy::default(), after(millis))
    };
    assert!(!wants(&state, false, 2_999) && wants(&state, false, 3_000), "two seconds after it is due");
    assert!(!wants(&state, true, 60_000));
    state.start_probe(1, 300, after(1_000));
    assert_eq!(state.answered(after(1_000), 2, after(1_010)), Verdict::None);
    assert!(!wants(&state, true, 1_259) && wants(&state, true, 1_260), "another one was answered");
}

#[test]
fn a_probe_without_a_verdict_gives_back_what_it_cost() {
    let mut state = ejected();
    state.start_probe(7, 300, after(1_000));
    assert_eq!(state.end_probe(6), 0, "another probe");
    assert_eq!(state.end_probe(7), 300);
    assert!(matches!(state, HostState::Ejected(_)));
    assert_eq!(state.end_probe(7), 0, "it is over");
    state.start_probe(8, 300, after(2_000));
    assert_eq!((state.probe_cost(after(1_990)), state.probe_cost(after(2_000))), (0, 300));
    assert_eq!(state.no_verdict(after(2_000)), Verdict::None);
    assert!(matches!(state, HostState::Ejected(_)));
}

#[test]
fn a_failed_probe_doubles_the_time_unless_it_was_early() {
    let policy = OutlierPolicy::default();
    let mut state = ejected();
    state.start_probe(1, 300, after(500));
    assert_eq!(state.failed(Failure::Reset, after(500), &policy, after(510)), Verdict::Extended);
    let ejection = |state: &HostState| state.ejected().unwrap().ejection.clone();
    assert_eq!((ejection(&state).ejection_count, ejection(&state).until), (0, after(1_000)));
    assert!(matches!(state, HostState::Ejected(_)));
    state.start_probe(2, 300, after(1_000));
    assert_eq!(state.failed(Failure::Reset, after(1_000), &policy, after(1_010)), Verdict::Extended);
    assert_eq!(ejection(&state).ejection_count, 1);
    assert!(ejection(&state).until >= after(1_510));
}

#[test]
fn only_the_owner_decides_and_only_by_what_began_late_enough() {
    let mut state = ejected();
    assert!(state.decides(after(1_000), ME) && state.decides(after(998), ME) && !state.decides(after(997), ME));
    assert!(!state.decides(after(1_000), WorkerId(2)));
    state.start_probe(1, 0, after(500));
    assert!(state.decides(after(500), ME) && !state.decides(after(497), ME), "an early probe decides as well");
    // Another worker took the ejection over: this one's probe is forgotten.
    let taken = Ejection { owner: WorkerId(2), ..state.ejected().unwrap().ejection.clone() };
    state.follow(&taken);
    assert!(matches!(state, HostState::Ejected(_)) && !state.decides(after(1_000), ME));
}

#[test]
fn a_scheduled_probe_is_sent_once_and_only_by_a_repeatable_request() {
    let mut state = ejected();
    state.schedule_probe(after(100), after(200));
    let scheduled = |state: &HostState, millis| state.ejected().unwrap().has_scheduled_probe(after(millis));
    assert!(!scheduled(&state, 300), "it is past");
    state.schedule_probe(after(400), after(300));
    assert!(!scheduled(&state, 399) && scheduled(&state, 400));
    let wants = |state: &HostState, repeatable| {
        let request = Candidate { worker: ME, repeatable, others: false, mostly_ejected: false };
        state.wants_probe(request, true, &OutlierPolicy::default(), after(400))
    };
    assert!(wants(&state, true) && !wants(&state, false));
    state.start_probe(1, 0, after(400));
    assert!(!scheduled(&state, 400));
}

const INTERVAL: Duration = Duration::from_secs(10);

#[test]
fn each_ejection_is_twice_as_long_and_none_longer_than_the_longest() {
    let policy = OutlierPolicy::default();
    for count in 0..=MAX_EJECTION_COUNT + 1 {
        let time = ejection_time(&policy, count, "10.0.0.1:80", WorkerId(1));
        let base =
            policy.base_ejection_time.saturating_mul(1 << count.min(MAX_EJECTION_COUNT)).min(policy.max_ejection_time);
        assert!(time >= base && time < base + base / 4 + Duration::from_nanos(1), "{count}: {time:?}");
    }
    let others = ["10.0.0.2:80", "10.0.0.3:80"].map(|host| ejection_time(&policy, 0, host, WorkerId(1)));
    assert_ne!(others[0], others[1], "hosts do not come back at once");
}

#[test]
fn the_count_is_halved_by_answers_and_not_by_time_or_failures() {
    let mut health = Health::after(u8::MAX, START, INTERVAL);
    assert_eq!(health.ejection_count, MAX_EJECTION_COUNT);
    health.answered(after(999), INTERVAL);
    assert_eq!(health.ejection_count, 24, "a tenth of the interval is not over");
    health.answered(after(60_000), INTERVAL);
    assert_eq!(health.ejection_count, 12, "a minute without answers halves nothing");
    health.failed(after(60_900), INTERVAL);
    health.answered(after(61_800), INTERVAL);
    assert_eq!(health.ejection_count, 12, "it failed less than a tenth of the interval ago");
    (0..9).for_each(|second| health.answered(after(62_000 + second * 1_000), INTERVAL));
    assert_eq!(health.ejection_count, 0);
}
