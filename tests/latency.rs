//! The quantile of latencies, and the adaptive timeout: that it follows, and that it does not run away.

mod fake_host;

use std::time::Duration;

use fake_host::Random;
use weir::base::percent::Percent;
use weir::base::time::Time;
use weir::retry::latency::{AdaptiveTimeout, Latency};

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const INTERVAL: Duration = Duration::from_secs(10);
const START: Time = Time::from_nanos(1_770_000_000_000_000_000);

fn percent(basis_points: u32) -> Percent {
    Percent::from_basis_points(basis_points).unwrap()
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn the_quantile_is_never_too_short_and_at_most_a_sixteenth_too_long() {
    let mut random = Random::new(1);
    for round in 0..300 {
        let mut latency = Latency::new(INTERVAL);
        let longest = [1_000_000, 50_000_000, 3_000_000_000, 130_000_000_000][round % 4];
        let mut all: Vec<u64> = (0..1_000 + random.below(2_000)).map(|_| random.below(longest)).collect();
        all.iter().for_each(|&nanos| latency.record(START, Duration::from_nanos(nanos)));
        all.sort_unstable();
        for basis_points in [5_000, 9_000, 9_900, 9_990] {
            let rank = (all.len() * basis_points).div_ceil(10_000);
            let exact = Duration::from_nanos(all[rank - 1]);
            let quantile = latency.quantile(START, percent(basis_points as u32)).unwrap();
            assert!(quantile >= exact, "{quantile:?} is less than {exact:?}");
            assert!(quantile <= exact + (exact / 16).max(Duration::from_nanos(1 << 18)), "{quantile:?} for {exact:?}");
        }
    }
}

#[test]
fn says_nothing_until_enough_was_observed() {
    for (basis_points, enough) in [(5_000, 100), (9_900, 100), (9_950, 200), (9_990, 1_000)] {
        let mut latency = Latency::new(INTERVAL);
        for _ in 0..enough {
            assert_eq!(latency.clone().quantile(START, percent(basis_points)), None);
            latency.record(START, millis(10));
        }
        assert!(latency.quantile(START, percent(basis_points)).is_some(), "of {enough}");
    }
    let mut latency = Latency::new(INTERVAL);
    (0..10_000).for_each(|_| latency.record(START, millis(10)));
    assert_eq!(latency.quantile(START, Percent::MAX), None, "nobody knows the longest");
}

#[test]
fn forgets_after_the_interval() {
    let mut latency = Latency::new(INTERVAL);
    (0..1_000).for_each(|_| latency.record(START, millis(10)));
    // Of a clone: an answer is kept for a hundredth of the interval.
    assert!(latency.clone().quantile(START.saturating_add(millis(9_999)), percent(9_900)).is_some());
    assert_eq!(latency.quantile(START.saturating_add(INTERVAL), percent(9_900)), None);
}

#[test]
fn the_shortest_and_the_longest_durations_are_counted() {
    for duration in [Duration::ZERO, Duration::from_secs(137), Duration::from_secs(3_600), Duration::MAX] {
        let mut latency = Latency::new(INTERVAL);
        (0..100).for_each(|_| latency.record(START, duration));
        let quantile = latency.quantile(START, percent(9_900)).unwrap();
        assert!(quantile > duration.min(Duration::from_secs(137)) && quantile < Duration::from_secs(138));
    }
}

#[test]
fn a_full_bucket_errs_towards_longer() {
    let mut latency = Latency::new(INTERVAL);
    (0..100_000).for_each(|_| latency.record(START, millis(10)));
    (0..900).for_each(|_| latency.record(START, millis(100)));
    assert!(latency.quantile(START, percent(9_900)).unwrap() > millis(100), "of 65,535 and 900");
}

/// An upstream at 100 attempts a second behind an adaptive timeout.
struct Upstream {
    policy: AdaptiveTimeout,
    latency: Latency,
    now: Time,
    random: Random,
}

const PER_SECOND: u64 = 100;
const PER_INTERVAL: u64 = PER_SECOND * INTERVAL.as_secs();

impl Upstream {
    fn new(factor_percent: u32) -> Self {
        let policy =
            AdaptiveTimeout { quantile: percent(9_900), factor_percent, min: millis(50), max: Duration::from_secs(10) };
        Self { policy, latency: Latency::new(INTERVAL), now: START, random: Random::new(7) }
    }

    fn timeout(&mut self) -> Option<Duration> {
        self.policy.timeout(&mut self.latency, self.now)
    }

    /// One interval in which attempts take what `takes` says; how many of them were cut off.
    fn interval(&mut self, mut takes: impl FnMut(&mut Random) -> Duration) -> u64 {
        let mut cut_off = 0;
        for _ in 0..PER_INTERVAL {
            self.now = self.now.saturating_add(Duration::from_secs(1) / PER_SECOND as u32);
            let duration = takes(&mut self.random);
            match self.timeout() {
                Some(timeout) if duration > timeout => {
                    self.latency.record_timeout(self.now, timeout);
                    cut_off += 1;
                }
                _ => self.latency.record(self.now, duration),
            }
        }
        cut_off
    }
}

/// 80 to 120 percent of `usual`.
fn about(usual: u64) -> impl FnMut(&mut Random) -> Duration {
    move |random| Duration::from_micros(usual * (800 + random.below(400)))
}

#[test]
fn follows_an_upstream_that_becomes_slower_for_good() {
    // (factor in percent, slower by, attempts that are cut off at most before it fits)
    for (factor, slower, at_most) in
        [(300, 3, 0), (200, 3, 15), (150, 3, 40), (110, 3, 160), (300, 30, 60), (100, 2, 300)]
    {
        let mut upstream = Upstream::new(factor);
        assert_eq!(upstream.interval(about(100)), 0);
        let settled = upstream.timeout().unwrap();
        let share = u64::from(factor);
        assert!(settled >= millis(118 * share / 100) && settled <= millis(128 * share / 100), "{settled:?}");

        let cut_off = upstream.interval(about(100 * slower));
        assert!(cut_off <= at_most, "{cut_off} attempts cut off, factor {factor}, slower by {slower}");
        // From the second interval on: none.
        for _ in 0..5 {
            assert_eq!(upstream.interval(about(100 * slower)), 0, "factor {factor}, slower by {slower}");
        }
        let (followed, expected) = (upstream.timeout().unwrap(), (settled * slower as u32).min(upstream.policy.max));
        assert!(followed >= expected * 93 / 100 && followed <= expected * 107 / 100, "{followed:?}, not {expected:?}");
        // And back, within an interval.
        upstream.interval(about(100));
        upstream.interval(about(100));
        let back = upstream.timeout().unwrap();
        assert!(back <= settled * 107 / 100, "{back:?}, was {settled:?}");
    }
}

#[test]
fn follows_where_only_a_few_became_slower() {
    // Five in a hundred take 20 times as long: more than the one in a hundred that the quantile leaves out.
    let mut upstream = Upstream::new(300);
    upstream.interval(about(100));
    let mut request = 0;
    let mut some_slow = |random: &mut Random| {
        request += 1;
        about(if request % 20 == 0 { 2_000 } else { 100 })(random)
    };
    // log(2,400 / 360) / log(3), rounded up: two intervals at the latest.
    upstream.interval(&mut some_slow);
    upstream.interval(&mut some_slow);
    assert_eq!(upstream.interval(&mut some_slow), 0);
}

#[test]
fn one_in_a_hundred_does_not_move_it() {
    let mut upstream = Upstream::new(300);
    upstream.interval(about(100));
    let settled = upstream.timeout().unwrap();
    let mut request = 0;
    let mut one_hangs = |random: &mut Random| {
        request += 1;
        if request % 100 == 99 { Duration::from_secs(60) } else { about(100)(random) }
    };
    for _ in 0..20 {
        assert_eq!(upstream.interval(&mut one_hangs), PER_INTERVAL / 100, "and each of them is cut off");
        assert!(upstream.timeout().unwrap() <= settled * 107 / 100);
    }
}

#[test]
fn what_hangs_widens_it_to_its_bound_and_no_longer_than_it_lasts() {
    let mut upstream = Upstream::new(300);
    upstream.interval(about(100));
    let settled = upstream.timeout().unwrap();
    let mut request = 0;
    let mut some_hang = |random: &mut Random| {
        request += 1;
        if request % 20 == 0 { Duration::from_secs(60) } else { about(100)(random) }
    };
    for _ in 0..20 {
        assert!(upstream.interval(&mut some_hang) >= PER_INTERVAL / 20);
        assert!(upstream.timeout().unwrap() <= upstream.policy.max);
    }
    upstream.interval(about(100));
    upstream.interval(about(100));
    assert!(upstream.timeout().unwrap() <= settled * 107 / 100);
}

#[test]
fn a_timeout_is_not_shorter_than_its_bound() {
    let mut upstream = Upstream::new(300);
    upstream.interval(|_| millis(1));
    assert_eq!(upstream.timeout(), Some(millis(50)));
    let none = AdaptiveTimeout { factor_percent: 0, min: Duration::MAX, max: millis(1), ..upstream.policy };
    assert_eq!(none.timeout(&mut upstream.latency, upstream.now), Some(millis(1)), "no settings break it");
}
