//! Lists of hosts: different ones, in the shares that Envoy's balancer gave them.

use std::collections::BTreeMap;
use std::time::Duration;

use weir::base::percent::Percent;
use weir::base::random::Random;
use weir::base::time::Time;
use weir::outlier::detector::OutlierPolicy;
use weir::outlier::shared::WorkerId;
use weir::outlier::{EndedAttempt, Outliers};
use weir::signal::Signal;

// The crate links only with a host beside it.
mod fake_host;
#[path = "steering/weights.rs"]
mod weights;

const NOW: Time = Time::from_nanos(1_800_000_000_000_000_000);

fn after(millis: u64) -> Time {
    NOW.saturating_add(Duration::from_millis(millis))
}

fn pick(outliers: &mut Outliers, host: &str, signal: Signal, now: Time) {
    let attempt = EndedAttempt { host: Some(host), signal, began: now, weight: 1, picked: true };
    outliers.attempt_ended(&attempt, now);
}

/// Hosts with these weights, and one more that is out, since it refuses.
fn outliers(seed: u64, weights: &[(&str, u64)], random: &mut Random) -> Outliers {
    outliers_that_fail(seed, weights, Signal::Refused, random)
}

/// The same, and why it is out.
fn outliers_that_fail(seed: u64, weights: &[(&str, u64)], signal: Signal, random: &mut Random) -> Outliers {
    let mut outliers = Outliers::new(OutlierPolicy::default(), WorkerId(seed));
    let total = weights.iter().map(|(_, weight)| weight).sum();
    for _ in 0..5_000 {
        let mut ticket = random.below(total);
        let chosen = weights.iter().find(|(_, weight)| {
            let found = ticket < *weight;
            ticket = ticket.saturating_sub(*weight);
            found
        });
        pick(&mut outliers, chosen.unwrap().0, Signal::Answered, NOW);
    }
    outliers.route(NOW, true, 2, Percent::default());
    pick(&mut outliers, "out:1", signal, NOW);
    outliers.exchange(None, NOW);
    outliers.published();
    assert!(outliers.is_ejected("out:1"));
    outliers
}

#[test]
fn shares_survive() {
    let weights = [("a:1", 1), ("b:1", 2), ("c:1", 3), ("d:1", 10)];
    let (seeds, draws) = (400, 25);
    let mut random = Random::new(7);
    let mut drawn: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..seeds {
        let mut outliers = outliers(seed, &weights, &mut random);
        for _ in 0..draws {
            let route = outliers.route(NOW, true, 2, Percent::default()).unwrap();
            let list: Vec<_> = route.hosts.split(',').collect();
            assert_eq!(list.len(), 3);
            assert!(list[0] != list[1] && list[1] != list[2] && list[0] != list[2]);
            assert!(!list.contains(&"out:1"), "as long as there are others");
            *drawn.entry(list[0].to_owned()).or_default() += 1;
        }
    }
    let total = (seeds * draws) as f64;
    for (host, weight) in weights {
        let (share, expected) = (drawn[host] as f64 / total, weight as f64 / 16.0);
        assert!((share - expected).abs() < 0.02, "{host}: {share} instead of {expected}");
    }
}

/// Of ordered lists: each with the probability that it has when hosts are drawn one after the other, each from those left.
#[test]
fn each_host_of_a_list_has_its_share_of_what_is_left() {
    let hosts = [("a:1", 10), ("b:1", 20), ("c:1", 30), ("d:1", 100)];
    let mut outliers = Outliers::new(OutlierPolicy::default(), WorkerId(3));
    for _ in 0..10 {
        hosts.iter().for_each(|(host, picks)| {
            (0..picks / 10).for_each(|_| pick(&mut outliers, host, Signal::Answered, NOW));
        });
    }
    outliers.requested(NOW);
    pick(&mut outliers, "out:1", Signal::Refused, NOW);
    outliers.exchange(None, NOW);
    outliers.published();
    let draws = 20_000;
    let mut drawn: BTreeMap<String, f64> = BTreeMap::new();
    for _ in 0..draws {
        *drawn.entry(outliers.route(NOW, true, 2, Percent::default()).unwrap().hosts).or_default() += 1.0;
    }
    let (mut chi_square, mut lists) = (0.0, 0);
    for (first, a) in hosts {
        for (second, b) in hosts.into_iter().filter(|(host, _)| *host != first) {
            for (third, c) in hosts.into_iter().filter(|(host, _)| *host != first && *host != second) {
                let (a, b, c) = (f64::from(a), f64::from(b), f64::from(c));
                let expected = f64::from(draws) * (a / 160.0) * (b / (160.0 - a)) * (c / (160.0 - a - b));
                let count = drawn.get(&[first, second, third].join(",")).copied().unwrap_or_default();
                chi_square += (count - expected).powi(2) / expected;
                lists += 1;
            }
        }
    }
    assert_eq!((lists, drawn.len()), (24, 24));
    // 23 degrees of freedom: above that in one of 10,000.
    assert!(chi_square < 59.0, "{chi_square}");
    println!("chi-square, 23 degrees of freedom: {chi_square:.1}");
}

/// Seven hosts share 95 requests of 100, and a canary has five. When one of the seven is out, the canary has 5.8 of 100, and not what
/// all hosts have on the average: whatever was seen of so small a share, and however long ago some of it was forgotten.
#[test]
fn a_canary_keeps_its_share_while_another_host_is_out() {
    const RIGHT: f64 = 5.0 / (100.0 - 95.0 / 7.0);
    let others: Vec<String> = (1..7).map(|host| format!("h{host}:1")).collect();
    let mut random = Random::new(11);
    let (mut sum, mut far, mut runs) = (0.0, Vec::new(), 0.0);
    for seed in 0..200 {
        let mut outliers = Outliers::new(OutlierPolicy::default(), WorkerId(seed));
        for _ in 0..600 + 7 * seed {
            let host = match random.below(140) {
                0..7 => "canary:1",
                7..26 => "out:1",
                ticket => &others[(ticket - 26) as usize / 19],
            };
            pick(&mut outliers, host, Signal::Answered, NOW);
        }
        outliers.requested(NOW);
        pick(&mut outliers, "out:1", Signal::Refused, NOW);
        outliers.exchange(None, NOW);
        outliers.published();
        let first = |_| outliers.route(NOW, true, 2, Percent::default()).unwrap().hosts.starts_with("canary:1,");
        let share = (0..2_000).map(first).filter(|canary| *canary).count() as f64 / 2_000.0;
        sum += share;
        runs += 1.0;
        if (share - RIGHT).abs() > 0.02 {
            far.push(share);
        }
    }
    let mean = sum / runs;
    println!("mean {mean:.4}, right {RIGHT:.4}; {} of {runs} are further away than two percent: {far:.3?}", far.len());
    assert!((mean - RIGHT).abs() < 0.005, "{mean}");
    assert!(far.len() <= 8, "{far:.3?}");
}

/// A host that is new in calm has its share soon after, however long the others were there before.
#[test]
fn a_host_that_is_new_has_its_share_soon() {
    let mut random = Random::new(3);
    let mut outliers = Outliers::new(OutlierPolicy::default(), WorkerId(1));
    for number in 0..1_500 {
        pick(&mut outliers, ["a:1", "out:1"][number % 2], Signal::Answered, NOW);
    }
    for _ in 0..600 {
        pick(&mut outliers, ["a:1", "out:1", "new:1"][random.below(3) as usize], Signal::Answered, NOW);
    }
    outliers.requested(NOW);
    pick(&mut outliers, "out:1", Signal::Refused, NOW);
    outliers.exchange(None, NOW);
    outliers.published();
    let first = |_: &u32| outliers.route(NOW, true, 2, Percent::default()).unwrap().hosts.starts_with("new:1,");
    let share = (0..1_000).filter(first).count();
    assert!((350..=550).contains(&share), "{share} of 1,000, and 500 are right");
}

/// A balancer that goes by chance now and then misses a host for as long as it would take to see, in an ejection, that it is gone.
#[test]
fn what_was_missed_by_chance_before_is_no_sign_that_a_host_left() {
    let listed = |missed: usize| {
        let mut outliers = Outliers::new(OutlierPolicy::default(), WorkerId(1));
        (0..600)
            .for_each(|number| pick(&mut outliers, ["a:1", "b:1", "c:1", "out:1"][number % 4], Signal::Answered, NOW));
        (0..missed).for_each(|number| pick(&mut outliers, ["a:1", "b:1", "out:1"][number % 3], Signal::Answered, NOW));
        outliers.requested(NOW);
        pick(&mut outliers, "out:1", Signal::Refused, NOW);
        outliers.exchange(None, NOW);
        outliers.published();
        let first = |_: &usize| outliers.route(NOW, true, 2, Percent::default()).unwrap().hosts.starts_with("c:1,");
        (0..300).filter(first).count()
    };
    assert!((90..110).contains(&listed(24)), "six times: {} of 300", listed(24));
    assert_eq!(listed(60), 0, "fifteen times: it has left");
}

/// What a balancer did by chance is not repeated: of 100 equal hosts, none gets half as many requests more than another does in
/// the long run.
#[test]
fn chance_is_no_share() {
    let names: Vec<String> = (0..100).map(|host| format!("h{host}:1")).collect();
    let weights: Vec<(&str, u64)> = names.iter().map(|name| (&**name, 1)).collect();
    let mut outliers = outliers(1, &weights, &mut Random::new(5));
    let mut drawn: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..100_000 {
        let route = outliers.route(NOW, true, 0, Percent::default()).unwrap();
        *drawn.entry(route.hosts).or_default() += 1;
    }
    let (least, most) = (drawn.values().min().unwrap(), drawn.values().max().unwrap());
    // A host that the balancer missed for long by chance is taken to have left.
    assert!(drawn.len() > 90 && most * 2 < least * 3, "{} hosts got {least} to {most}", drawn.len());
}

#[test]
fn hosts_that_the_balancer_leaves_leave_the_list_and_new_ones_enter() {
    let mut random = Random::new(1);
    let mut outliers = outliers(1, &[("a:1", 1), ("b:1", 1), ("c:1", 1)], &mut random);
    for number in 0..60 {
        pick(&mut outliers, ["a:1", "b:1", "new:1"][number % 3], Signal::Answered, after(10));
    }
    let lists: String =
        (0..100).filter_map(|_| outliers.route(after(20), true, 2, Percent::default())).map(|r| r.hosts).collect();
    assert!(lists.contains("new:1") && !lists.contains("c:1"));
}

#[test]
fn a_share_is_left_to_the_balancer_but_no_more_than_needed() {
    let percent = Percent::from_basis_points(500).unwrap();
    let unsteered = |signal, repeatable: bool, retries| {
        let mut random = Random::new(1);
        let mut outliers = outliers_that_fail(1, &[("a:1", 1), ("b:1", 1), ("c:1", 1)], signal, &mut random);
        // The balancer leaves no host out: what it is tried with is retried.
        let mut turn = 0;
        let mut count = |from: u64, to: u64| {
            let left = |millis: &u64| {
                let left = outliers.route(after(*millis), repeatable, retries, percent).is_none();
                if left && outliers.tries_balancer() {
                    turn += 1;
                    outliers.left_to_balancer(["a:1", "b:1", "c:1"][turn % 3], false, after(*millis));
                }
                left
            };
            (from..to).filter(left).count()
        };
        (count(0, 2_000), count(2_000, 5_000), count(5_000, 15_000))
    };
    let (first, early, late) = unsteered(Signal::Unreachable, true, 2);
    assert!((2..=6).contains(&(first + early)) && (10..=21).contains(&late), "{first} {early} {late}");
    // What meets a host that refuses loses next to nothing: from the third second on, each host is picked several times a second. Until
    // then the balancer is tried twice.
    let (first, early, late) = unsteered(Signal::Refused, true, 2);
    assert!(first <= 5 && (45..=75).contains(&early) && (150..=250).contains(&late), "{first} {early} {late}");
    // Not where it may be the last attempt, or may not be repeated.
    let (first, early, late) = unsteered(Signal::Refused, true, 0);
    assert!(first + early <= 6 && late <= 21, "{first} {early} {late}");
    let (first, early, late) = unsteered(Signal::Refused, false, 2);
    assert!(first + early <= 6 && late <= 21, "{first} {early} {late}");
}

#[test]
fn as_many_hosts_as_there_are() {
    let mut random = Random::new(1);
    let mut outliers = outliers(1, &[("a:1", 1), ("b:1", 1)], &mut random);
    assert_eq!(outliers.route(NOW, true, 9, Percent::default()).unwrap().hosts.len(), "a:1,b:1,out:1".len());
    assert!(outliers.route(NOW, true, 9, Percent::default()).unwrap().hosts.ends_with(",out:1"));
    assert_eq!(outliers.route(NOW, true, 0, Percent::default()).unwrap().hosts.len(), "a:1".len());
}

/// In a quiet cluster, too: 20 hosts, ten requests a second, one host out, and one drained.
#[test]
fn a_host_that_is_drained_leaves_within_half_a_minute() {
    let hosts: Vec<String> = (0..20).map(|host| format!("10.0.0.{host}:80")).collect();
    let weights: Vec<_> = hosts.iter().map(|host| (&**host, 1)).collect();
    let percent = Percent::from_basis_points(500).unwrap();
    let mut late: Vec<u64> = (0..21)
        .map(|seed| {
            let mut random = Random::new(seed);
            let mut outliers = outliers(seed, &weights, &mut random);
            let mut last = 0;
            for request in 0..1_200 {
                let now = after(request * 100);
                let route = outliers.route(now, request % 3 > 0, 2, percent);
                if let Some(probe) = route.as_ref().and_then(|route| route.probe) {
                    outliers.probe_over(probe);
                }
                match route {
                    Some(route) if route.hosts.starts_with("10.0.0.19:80") => last = request / 10,
                    Some(_) => {}
                    None => pick(&mut outliers, &hosts[random.below(19) as usize], Signal::Answered, now),
                }
            }
            last
        })
        .collect();
    late.sort_unstable();
    assert!(late[10] <= 30, "{late:?}");
}

/// Of 1,000 hosts, 500 picks at random leave six in ten that were never met.
#[test]
fn hosts_that_were_never_met_get_their_share() {
    let hosts: Vec<String> = (0..1_000).map(|host| format!("10.0.{}.{}:80", host / 256, host % 256)).collect();
    let mut random = Random::new(1);
    let mut outliers = Outliers::new(OutlierPolicy::default(), WorkerId(1));
    outliers.route(NOW, true, 2, Percent::default());
    for _ in 0..500 {
        pick(&mut outliers, &hosts[random.below(1_000) as usize], Signal::Answered, NOW);
    }
    pick(&mut outliers, &hosts[0], Signal::Refused, NOW);
    outliers.exchange(None, NOW);
    outliers.published();
    assert_eq!(outliers.ejected(), 1);
    let left = (0..1_000).filter(|_| outliers.route(NOW, true, 2, Percent::default()).is_none()).count();
    assert!((540..=660).contains(&left), "{left}");
}
