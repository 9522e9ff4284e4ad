//! What holds for all patterns: lines nobody can forge, bounds, clocks, records from elsewhere, and figures near the truth
//! when a host is hardly looked at.

use std::time::Duration;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::site::{INTERVAL, Site, number, time};
use super::{A, B, crash};
use weir::base::random::Random;
use weir::incident::{AttemptDetail, Event, Incidents, MOST_HOSTS_DOWN, Pattern, State};
use weir::signal::Signal;

#[test]
fn a_line_can_be_read_and_not_forged() {
    let event = Event {
        state: State::Open,
        pattern: Pattern::Restart,
        host: Some(A.into()),
        open: 0,
        numbers: vec![2, 61_007],
    };
    let line = event.line("or\"ders\\\nweir: \u{1b}");
    assert!(
        line.starts_with(
            r#"weir: incident state=open pattern=restart cluster="or_ders__weir: _" host="10.0.0.1:8080" restarts=2 down=61.007s look_at="the process"#
        ),
        "{line}"
    );
    assert!(line.ends_with('"'));
    for pattern in Pattern::ALL {
        assert!(!pattern.advice().contains(['"', '\\', '\n']), "{pattern:?}");
        assert!(pattern.name().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'));
    }
}

#[test]
fn a_loop_that_is_hardly_seen_is_told_near_the_truth() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let (up, down) = (5_000 + random.below(25_000), 1_000 + random.below(7_000));
        let workers = 1 + random.below(8);
        let mut site = Site::with_workers(4, workers as usize);
        let mut crashes = 0;
        while crashes < 6 {
            crashes += 1;
            site.ended(A, Signal::Reset, AttemptDetail::None);
            // Probes, each after twice the time, and each worker explores every two seconds or so.
            let began = site.now();
            let (mut probe, mut pause, mut explores) = (250, 250, random.below(2_000) / workers);
            loop {
                let next = probe.min(explores);
                site.pass((began + next).saturating_sub(site.now()));
                if site.now() - began >= down {
                    break;
                }
                site.ended(A, Signal::Refused, AttemptDetail::None);
                if next == explores {
                    explores += (1_000 + random.below(2_000)) / workers;
                } else {
                    pause = (pause * 2).min(30_000);
                    probe += pause + random.below(pause / 4);
                }
            }
            let rest = (down + up).saturating_sub(site.now() - began);
            site.serve(A, rest / 100 * 100);
            site.pass((began + down + up).saturating_sub(site.now()));
        }
        site.serve(A, 700);
        site.pass(INTERVAL * 70);
        let told = site.told(Pattern::CrashLoop);
        let over = told.last().expect("it was told");
        let near = |key: &str, most: u64, truth: u64| {
            let told = number(over, key);
            assert!(told.abs_diff(truth) <= most, "{key} of {truth} ms is told as {told} ms: {over:?}");
        };
        near("period", (up + down) / 100, up + down);
        // Nobody looked between these two, and what is told lies in the middle.
        let (least, most) = (number(over, "down_min"), number(over, "down_max"));
        assert!(least <= down + 20 && most + 20 >= down, "{over:?} of {down}");
        near("down", (down / 10).max((most - least) / 2 + 20), down);
    }
}

#[test]
fn each_is_told_once_however_many_workers() {
    for workers in [1, 2, 16] {
        let mut site = Site::with_workers(2, workers);
        for _ in 0..4 {
            crash(&mut site, A, 5, 2_000);
            site.serve(A, 10_000);
        }
        let told: Vec<_> = site.events.iter().map(|event| (event.pattern, event.state)).collect();
        let restart = (Pattern::Restart, State::Over);
        assert_eq!(told, [restart, restart, (Pattern::CrashLoop, State::Open)], "{workers} workers");
    }
}

#[test]
fn what_retries_hide_is_not_told_of() {
    let run = |hidden: bool| {
        let mut site = Site::new(2);
        for _ in 0..4 {
            crash(&mut site, A, 1, 1_000);
            site.serve(A, 10_000);
            if hidden {
                site.retried_unseen();
            }
        }
        (site.told(Pattern::CrashLoop).len(), site.told(Pattern::Restart).len())
    };
    assert_eq!((run(false), run(true)), ((1, 2), (0, 1)));
}

#[test]
fn hosts_are_bounded_and_the_told_ones_stay() {
    let mut site = Site::new(1);
    for _ in 0..3 {
        crash(&mut site, A, 2, 1_000);
        site.serve(A, 5_000);
    }
    assert_eq!(site.open(Pattern::CrashLoop), 1);
    for host in 0..5_000 {
        site.ended(&format!("10.1.{}.{}:80", host / 250, host % 250), Signal::Refused, AttemptDetail::None);
        if host % 50 == 0 {
            site.pass(100);
        }
    }
    site.pass(200);
    let record = site.record.clone().expect("they failed");
    assert!(record.len() < MOST_HOSTS_DOWN * 350, "{} bytes", record.len());
    assert_eq!(site.open(Pattern::CrashLoop), 1, "the one that was told is still known");
    // Names that are no addresses are no hosts.
    let mut site = Site::new(1);
    for host in ["", "nonsense", "a\nb:80", "x:99999999"] {
        site.ended(host, Signal::Refused, AttemptDetail::None);
    }
    site.pass(200);
    assert_eq!(site.record, None);
}

#[test]
fn another_clock_or_record_does_no_harm() {
    let mut site = Site::new(1);
    for _ in 0..3 {
        crash(&mut site, A, 2, 1_000);
        site.serve(A, 5_000);
    }
    site.step_back(3_600_000);
    assert_eq!(site.open(Pattern::CrashLoop), 1, "still read, an hour back");
    site.serve(A, 40_000);
    assert_eq!(site.open(Pattern::CrashLoop), 0, "and over in the end");
    let record = site.record.clone();
    assert_eq!(record, None);
    // Whatever is found under the key, the next write is a sound one.
    let mut site = Site::new(1);
    crash(&mut site, B, 2, 1_000);
    let good = site.record.clone().expect("a restart is remembered");
    for length in 0..good.len() {
        let mut incidents = Incidents::default();
        let cut = good[..length].to_vec();
        incidents.ended(A, Signal::Refused, AttemptDetail::None, time(5), time(5));
        drop(incidents.exchange(Some(&cut), INTERVAL, 4, time(6)));
        assert!(incidents.published().is_empty());
    }
    for position in 0..good.len() {
        let mut bad = good.clone();
        bad[position] ^= 0xff;
        let mut incidents = Incidents::default();
        incidents.ended(A, Signal::Refused, AttemptDetail::None, time(5), time(5));
        for second in 0..4 {
            drop(incidents.exchange(Some(&bad), INTERVAL, usize::MAX, time(1_000 * second)));
        }
    }
}

#[test]
fn connections_are_remembered_while_there_was_a_reset_of_late() {
    let mut incidents = Incidents::default();
    let at = |milliseconds| time(1_000_000 + milliseconds);
    assert!(!incidents.tracks(at(0), INTERVAL));
    incidents.ended(A, Signal::Reset, AttemptDetail::None, at(0), at(0));
    assert!(incidents.tracks(at(299_000), INTERVAL) && !incidents.tracks(at(300_000), INTERVAL));
    assert_eq!(incidents.used(1, false, at(10), at(20)), None);
    assert_eq!(incidents.used(1, false, at(1_020), at(1_030)), Some(1_000));
    assert_eq!(incidents.used(1, true, at(6_030), at(6_031)), Some(5_000));
    // It is gone; whoever has its port next is another.
    assert_eq!(incidents.used(1, false, at(7_000), at(7_001)), None);
    for connection in 10..10_000 {
        incidents.used(connection, false, at(connection), at(connection));
    }
    assert_eq!(incidents.used(10, false, at(20_000), at(20_000)), None, "there are only so many");
    assert!(incidents.used(9_999, false, at(20_000), at(20_000)).is_some());
    assert!(Duration::from_millis(INTERVAL) == Duration::from_secs(10));
}
