//! Incidents, in virtual time: each pattern at the boundary of its evidence, told once over all workers.

// The crate links only with a host beside it.
mod fake_host;
#[path = "incident/life.rs"]
mod life;
#[path = "incident/site.rs"]
mod site;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use site::{Site, number};
use weir::incident::{AttemptDetail, MANY_CRASHES, Pattern, State};
use weir::signal::Signal;

const A: &str = "10.0.0.1:8080";
const B: &str = "10.0.0.2:8080";

/// A host that crashes: cut-off requests, refusals, answers.
fn crash(site: &mut Site, host: &str, resets: u64, down: u64) {
    for _ in 0..resets {
        site.ended(host, Signal::Reset, AttemptDetail::None);
    }
    for _ in 0..down / 100 {
        site.pass(100);
        site.ended(host, Signal::Refused, AttemptDetail::None);
    }
    site.serve(host, 1_000);
}

/// Nobody asked the host between its first refusal and its first answer, so it is down for anything between.
#[test]
fn a_loop_of_which_little_is_known_takes_five_crashes() {
    for crashes in 1..=6 {
        let mut site = Site::new(1);
        for _ in 0..crashes {
            site.ended(A, Signal::Reset, AttemptDetail::None);
            site.pass(500);
            site.ended(A, Signal::Refused, AttemptDetail::None);
            site.pass(2_000);
            site.serve(A, 8_000);
        }
        let (loops, restarts) = (site.told(Pattern::CrashLoop).len(), site.told(Pattern::Restart).len());
        assert_eq!((loops, restarts), (usize::from(crashes >= MANY_CRASHES), crashes.min(2) as usize), "{crashes}");
    }
}

/// A host in a loop is looked at in the middle of its time down, if nothing was refused until then; later between what is
/// known to be too early and to be late enough.
#[test]
fn a_look_for_a_refusal_comes_first() {
    let mut site = Site::new(1);
    crash(&mut site, A, 1, 3_000);
    site.serve(A, 6_000);
    assert_eq!(site.look_at(A), None, "it is up");
    let died = site.now();
    site.ended(A, Signal::Reset, AttemptDetail::None);
    site.pass(200);
    let half = site.look_at(A).expect("a look") - died;
    assert!((1_400..=1_600).contains(&half), "{half}");
    site.pass(half);
    site.ended(A, Signal::Refused, AttemptDetail::None);
    site.pass(200);
    let next = site.look_at(A).map(|at| at - died);
    assert!(next.is_none_or(|next| next >= 2_900), "{next:?}");
}

#[test]
fn a_crash_loop_takes_three_crashes() {
    for crashes in 1..=4 {
        let mut site = Site::new(1);
        for _ in 0..crashes {
            crash(&mut site, A, 2, 2_000);
            site.serve(A, 7_000);
        }
        let loops = site.told(Pattern::CrashLoop).len();
        assert_eq!((loops, site.told(Pattern::Restart).len()), (usize::from(crashes >= 3), crashes.min(2)));
    }
}

#[test]
fn restarts_that_cut_nothing_off_are_no_crash_loop() {
    let mut site = Site::new(1);
    for _ in 0..8 {
        crash(&mut site, A, 0, 2_000);
        site.serve(A, 7_000);
    }
    assert!(site.told(Pattern::CrashLoop).is_empty());
    // Not each of them, once there are many.
    assert_eq!(site.told(Pattern::Restart).len(), 2, "{:#?}", site.events);
    // Resets alone, and whatever follows them but refusals, are no restart.
    let mut site = Site::new(1);
    for _ in 0..8 {
        site.ended(A, Signal::Reset, AttemptDetail::None);
        site.serve(A, 7_000);
        site.ended(A, Signal::Error, AttemptDetail::None);
        site.ended(A, Signal::Timeout, AttemptDetail::None);
        site.serve(A, 7_000);
    }
    assert!(site.events.is_empty(), "{:#?}", site.events);
}

#[test]
fn the_figures_of_a_crash_loop_are_true() {
    let mut site = Site::new(1);
    for _ in 0..3 {
        crash(&mut site, A, 2, 3_000);
        site.serve(A, 26_000);
    }
    let event = site.told(Pattern::CrashLoop)[0].clone();
    assert_eq!(event.state, State::Open);
    assert_eq!((number(&event, "crashes"), number(&event, "restarts")), (3, 3));
    assert_eq!((number(&event, "reset"), number(&event, "refused")), (6, 90));
    for key in ["period", "period_min", "period_max"] {
        assert_eq!(number(&event, key), 30_000, "{key}");
    }
    assert!((3_000..=3_100).contains(&number(&event, "down")), "{event:?}");
    assert!((3_000..=3_100).contains(&number(&event, "down_min")), "{event:?}");
    assert!((3_000..=3_100).contains(&number(&event, "down_max")), "{event:?}");
}

/// Nobody looks any more whether it refuses; and a reset that comes alone is no crash.
#[test]
fn once_a_loop_is_told_a_crash_needs_no_refusal() {
    let mut site = Site::new(1);
    for _ in 0..3 {
        crash(&mut site, A, 2, 3_000);
        site.serve(A, 26_000);
    }
    assert_eq!(site.told(Pattern::CrashLoop).len(), 1);
    for _ in 0..21 {
        site.ended(A, Signal::Reset, AttemptDetail::None);
        site.pass(200);
        assert_eq!(site.look_at(A), None);
        site.pass(2_800);
        site.serve(A, 12_000);
        site.ended(A, Signal::Reset, AttemptDetail::None);
        site.pass(30);
        site.serve(A, 14_970);
    }
    let events = site.told(Pattern::CrashLoop);
    assert_eq!(events.len(), 2, "{events:#?}");
    let (restarts, crashes) = (number(&events[1], "restarts"), number(&events[1], "crashes"));
    assert!((21..=24).contains(&restarts) && crashes == restarts, "{restarts} {crashes}");
    assert!((29_900..=30_100).contains(&number(&events[1], "period")));
}

#[test]
fn a_loop_that_goes_on_is_told_again_each_ten_minutes_and_once_more_when_it_ends() {
    let mut site = Site::new(1);
    for _ in 0..60 {
        crash(&mut site, A, 2, 3_000);
        site.serve(A, 26_000);
    }
    // Half an hour, less the time until it was known.
    let states: Vec<State> = site.told(Pattern::CrashLoop).iter().map(|event| event.state).collect();
    assert_eq!(states, [State::Open, State::Update, State::Update], "{:#?}", site.events);
    assert_eq!(site.open(Pattern::CrashLoop), 1);
    site.serve(A, 55_000);
    assert_eq!(site.told(Pattern::CrashLoop).len(), 3, "three periods have to pass");
    site.serve(A, 12_000);
    let told = site.told(Pattern::CrashLoop);
    assert_eq!((told.len(), told[3].state), (4, State::Over));
    assert_eq!(site.open(Pattern::CrashLoop), 0);
    assert_eq!(site.record, None, "all is forgotten");
}

#[test]
fn flapping_while_a_process_drains_is_one_restart() {
    // It takes no new connections, and goes on answering on those that it has.
    let mut site = Site::new(1);
    site.serve(A, 1_000);
    for _ in 0..40 {
        site.ended(A, Signal::Refused, AttemptDetail::None);
        site.pass(60);
        site.ended(A, Signal::Answered, AttemptDetail::None);
        site.pass(60);
    }
    site.serve(A, 2_000);
    assert_eq!(site.told(Pattern::Restart).len(), 1, "{:#?}", site.events);
    let event = &site.told(Pattern::Restart)[0];
    assert!((4_600..=4_900).contains(&number(event, "down")), "{event:?}");
    // What began before the host went says nothing about its coming back.
    let mut site = Site::new(1);
    site.ended(A, Signal::Refused, AttemptDetail::None);
    for _ in 0..20 {
        site.pass(50);
        site.ended_since(A, Signal::Answered, AttemptDetail::None, 2_000);
    }
    assert!(site.events.is_empty(), "{:#?}", site.events);
}

#[test]
fn a_host_does_not_listen_after_five_refusals_over_three_intervals() {
    let refuse = |times: u64, each: u64| {
        let mut site = Site::new(1);
        for _ in 0..times {
            site.ended(A, Signal::Refused, AttemptDetail::None);
            site.pass(each);
        }
        site.told(Pattern::NotListening).len()
    };
    assert_eq!(refuse(5, 7_500), 1);
    assert_eq!(refuse(4, 10_100), 0, "too few");
    assert_eq!(refuse(100, 290), 0, "too short");
    // Not a host of which is known that it comes back, nor one that broke off first.
    for first in [Signal::Reset, Signal::Timeout, Signal::Error] {
        let mut site = Site::new(1);
        site.ended(A, first, AttemptDetail::None);
        for _ in 0..50 {
            site.ended(A, Signal::Refused, AttemptDetail::None);
            site.pass(1_000);
        }
        assert!(site.told(Pattern::NotListening).is_empty(), "{first:?}");
    }
    let mut site = Site::new(1);
    crash(&mut site, A, 1, 1_000);
    for _ in 0..50 {
        site.ended(A, Signal::Refused, AttemptDetail::None);
        site.pass(1_000);
    }
    assert!(site.told(Pattern::NotListening).is_empty());
}

#[test]
fn it_listens_after_all() {
    let mut site = Site::new(1);
    for _ in 0..40 {
        site.ended(A, Signal::Refused, AttemptDetail::None);
        site.pass(1_000);
    }
    assert_eq!(site.open(Pattern::NotListening), 1);
    site.serve(A, 2_000);
    let told = site.told(Pattern::NotListening);
    assert_eq!(told.iter().map(|event| event.state).collect::<Vec<_>>(), [State::Open, State::Over]);
    assert!(number(&told[1], "down") >= 39_000 && number(&told[1], "lasted") <= 12_500, "{told:?}");
    assert_eq!(site.events.len(), 2, "told once: {:#?}", site.events);
}

#[test]
fn a_host_is_unreachable_after_three_connect_timeouts_over_an_interval() {
    let timeouts = |times: u64, each: u64, also: Option<Signal>, detail: AttemptDetail| {
        let mut site = Site::new(1);
        for number in 0..times {
            site.ended(A, Signal::Unreachable, detail);
            if let (Some(signal), 1) = (also, number) {
                site.ended(A, signal, AttemptDetail::None);
            }
            site.pass(each);
        }
        site.told(Pattern::Unreachable).len()
    };
    assert_eq!(timeouts(3, 5_000, None, AttemptDetail::ConnectTimeout), 1);
    assert_eq!(timeouts(2, 20_000, None, AttemptDetail::ConnectTimeout), 0, "too few");
    assert_eq!(timeouts(20, 499, None, AttemptDetail::ConnectTimeout), 0, "too short");
    // A TLS failure is none, and neither is one of many kinds.
    assert_eq!(timeouts(9, 5_000, None, AttemptDetail::None), 0);
    for also in [Signal::Refused, Signal::Reset, Signal::Timeout, Signal::Error, Signal::Unreachable] {
        assert_eq!(timeouts(9, 5_000, Some(also), AttemptDetail::ConnectTimeout), 0, "{also:?}");
    }
}

#[test]
fn a_slow_death_takes_three_timeouts_and_then_a_refusal_or_two_resets() {
    let dies = |timeouts: u64, then: &[Signal]| {
        let mut site = Site::new(1);
        for _ in 0..timeouts {
            site.ended(A, Signal::Timeout, AttemptDetail::None);
            site.pass(300);
        }
        for signal in then {
            site.ended(A, *signal, AttemptDetail::None);
            site.pass(300);
        }
        site.told(Pattern::SlowDeath).len()
    };
    assert_eq!(dies(3, &[Signal::Refused]), 1);
    assert_eq!(dies(3, &[Signal::Reset, Signal::Reset]), 1);
    assert_eq!(dies(3, &[Signal::Reset]), 0);
    assert_eq!(dies(2, &[Signal::Refused, Signal::Refused]), 0);
    assert_eq!(dies(9, &[]), 0);
    // It answered in between: slow, and not dead of it.
    assert_eq!(dies(3, &[Signal::Answered, Signal::Refused]), 0);
    // The other way round, it hangs after its start.
    let mut site = Site::new(1);
    site.ended(A, Signal::Refused, AttemptDetail::None);
    for _ in 0..5 {
        site.ended(A, Signal::Timeout, AttemptDetail::None);
        site.pass(300);
    }
    assert!(site.events.is_empty());
}

/// Resets of connections that had been idle for so long, each with the host fine after it.
fn resets(site: &mut Site, host: &str, idle: &[u64]) {
    for idle in idle {
        site.ended(host, Signal::Reset, AttemptDetail::Idle(*idle));
        site.serve(host, 2_000);
    }
}

#[test]
fn a_keep_alive_race_takes_three_resets_after_idle_times_that_are_alike() {
    let race = |idle: &[u64]| {
        let mut site = Site::new(1);
        resets(&mut site, A, idle);
        let told = site.told(Pattern::KeepAliveRace);
        told.first().map(|event| (number(event, "resets"), number(event, "idle_min"), number(event, "idle_max")))
    };
    assert_eq!(race(&[4_990, 5_000, 5_010]), Some((3, 4_990, 5_010)));
    assert_eq!(race(&[4_990, 5_000]), None, "too few");
    assert_eq!(race(&[1_000, 1_200, 1_500]), Some((3, 1_000, 1_500)));
    assert_eq!(race(&[1_000, 1_200, 1_501]), None, "not alike");
    assert_eq!(race(&[99, 99, 99, 99]), None, "not idle");
    assert_eq!(race(&[20, 5_000, 5_010, 5_005]), Some((3, 5_000, 5_010)), "what came before does not count");
    // Over several hosts, too: they have the same settings.
    let mut site = Site::new(1);
    resets(&mut site, A, &[5_000, 5_010]);
    resets(&mut site, B, &[5_005]);
    assert_eq!(site.told(Pattern::KeepAliveRace).len(), 1);
    // It is over when there was none for thirty intervals.
    assert_eq!(site.open(Pattern::KeepAliveRace), 1);
    site.serve(A, 305_000);
    let told = site.told(Pattern::KeepAliveRace);
    assert_eq!((told.len(), told[1].state, site.open(Pattern::KeepAliveRace)), (2, State::Over, 0));
    assert_eq!(site.record, None);
}

#[test]
fn a_crash_is_no_keep_alive_race() {
    // It cuts off connections that were all idle before for as long, and then refuses.
    let mut site = Site::new(1);
    for _ in 0..5 {
        for _ in 0..3 {
            site.ended(A, Signal::Reset, AttemptDetail::Idle(200));
        }
        site.pass(200);
        site.ended(A, Signal::Refused, AttemptDetail::None);
        site.serve(A, 5_000);
    }
    assert!(site.told(Pattern::KeepAliveRace).is_empty(), "{:#?}", site.events);
    assert_eq!(site.told(Pattern::CrashLoop).len(), 1);
    // Resets on connections that were in use, or that nothing is known of, speak against it as well.
    for other in [AttemptDetail::None, AttemptDetail::Idle(3)] {
        let mut site = Site::new(1);
        for _ in 0..5 {
            resets(&mut site, A, &[5_000, 5_000]);
            site.ended(A, Signal::Reset, other);
            site.serve(A, 2_000);
        }
        assert!(site.events.is_empty(), "{other:?}: {:#?}", site.events);
    }
    // And several at one moment are one, on one host or on several.
    for hosts in [[A; 3], [A, B, "10.0.0.3:8080"]] {
        let mut site = Site::new(1);
        for host in [hosts, hosts].concat() {
            site.ended(host, Signal::Reset, AttemptDetail::Idle(5_000));
        }
        hosts.iter().for_each(|host| site.ended(host, Signal::Answered, AttemptDetail::None));
        site.serve(A, 5_000);
        assert!(site.events.is_empty(), "{:#?}", site.events);
    }
}

#[test]
fn everyone_is_more_than_half_of_the_hosts_within_a_tenth_of_an_interval() {
    let fail = |known: usize, failing: usize, apart: u64, failures: usize| {
        let mut site = Site::new(known);
        for host in 0..failing {
            for _ in 0..failures {
                site.ended(&format!("10.0.1.{host}:80"), Signal::Timeout, AttemptDetail::None);
            }
            site.pass(apart);
        }
        site.pass(2_000);
        site.told(Pattern::Everyone).len()
    };
    assert_eq!(fail(4, 3, 100, 3), 1);
    assert_eq!(fail(4, 2, 100, 3), 0, "half");
    assert_eq!(fail(4, 3, 600, 3), 0, "one by one");
    assert_eq!(fail(4, 3, 100, 2), 0, "too few failures");
    assert_eq!(fail(2, 2, 100, 3), 1);
    assert_eq!(fail(1, 1, 100, 3), 0, "a cluster of one host");
    assert_eq!(fail(0, 1, 100, 3), 0, "nobody knows how many there are");
}

#[test]
fn what_everyone_shares_is_told_of_nobody() {
    let mut site = Site::new(3);
    for _ in 0..500 {
        for host in [A, B, "10.0.0.3:8080"] {
            site.ended(host, Signal::Refused, AttemptDetail::None);
        }
        site.pass(100);
    }
    for _ in 0..30 {
        for host in [A, B, "10.0.0.3:8080"] {
            site.ended(host, Signal::Answered, AttemptDetail::None);
        }
        site.pass(100);
    }
    let told: Vec<_> = site.events.iter().map(|event| (event.pattern, event.state)).collect();
    assert_eq!(told, [(Pattern::Everyone, State::Open), (Pattern::Everyone, State::Over)], "{:#?}", site.events);
    assert_eq!(number(&site.events[1], "hosts"), 3);
    assert!((45_000..=51_000).contains(&number(&site.events[1], "lasted")), "{:?}", site.events[1]);
}
