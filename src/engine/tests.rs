//! The clusters that a worker knows: never more than a thousand, and what was learned of them outlives a new policy.

use std::time::Duration;

use super::arrival::Admission;
use super::cluster::{Charging, Clusters, MOST_CLUSTERS, MOST_HOSTS_IN_ALL};
use super::correlate::ClusterId;
use super::log::Visibility;
use super::policies::{ByRoute, Routed};
use super::worker::Worker;
use crate::base::percent::Percent;
use crate::base::time::Time;
use crate::config::{Config, Mode, Policy, parse};
use crate::outlier::detector::OutlierPolicy;
use crate::outlier::shared::WorkerId;
use crate::outlier::{EndedAttempt, Outliers};
use crate::retry::{Class, Header, Plan, Request};
use crate::signal::Signal;
use property::{Digits, for_all};

#[path = "../../tests/property/mod.rs"]
mod property;

/// Some moment in 2026.
const NOW: Time = Time::from_nanos(1_770_000_000_000_000_000);

#[test]
fn a_cluster_is_found_by_its_name() {
    let mut clusters = Clusters::default();
    assert_eq!(clusters.find("orders"), None);
    let orders = clusters.add("orders");
    let payments = clusters.add("payments");
    assert_ne!(orders, payments);
    assert_eq!(clusters.find("orders"), Some(orders));
    assert_eq!(clusters.find("payments"), Some(payments));
    assert_eq!(clusters.find("Orders"), None);
    let cluster = clusters.get(orders).unwrap();
    assert_eq!(&*cluster.name, "orders");
    assert_eq!((cluster.visibility, cluster.charging), (Visibility::LastOnly, Charging::Unknown));
    assert!(cluster.account.is_none() && cluster.latency.is_none() && cluster.outliers.is_none());
    let watched = Visibility::All { failures: 0 };
    clusters.get_mut(payments).unwrap().visibility = watched;
    assert_eq!(clusters.get(payments).unwrap().visibility, watched);
    assert_eq!(clusters.get(orders).unwrap().visibility, Visibility::LastOnly);
    clusters.iter_mut().for_each(|(_, cluster)| cluster.charging = Charging::PerAttempt);
    let mut all: Vec<_> = clusters.iter().map(|(id, cluster)| (id, &*cluster.name, cluster.charging)).collect();
    all.sort_by_key(|(id, ..)| id.0);
    assert_eq!(all, [(orders, "orders", Charging::PerAttempt), (payments, "payments", Charging::PerAttempt)]);
}

#[test]
fn a_thousand_and_the_least_recently_used_goes() {
    assert_eq!(MOST_CLUSTERS, 1_000);
    let mut clusters = Clusters::default();
    let first: Vec<_> = (0..1_000).map(|number| clusters.add(&format!("first {number}"))).collect();
    assert_eq!(clusters.iter().count(), 1_000);
    // All but every tenth are used again; to look at one is no use.
    for (number, id) in first.iter().enumerate() {
        if number % 10 == 0 {
            assert!(clusters.get(*id).is_some() && clusters.get_mut(*id).is_some());
        } else {
            assert_eq!(clusters.find(&format!("first {number}")), Some(*id));
        }
    }
    for number in 0..100 {
        clusters.add(&format!("second {number}"));
        assert_eq!(clusters.iter().count(), 1_000);
        // In the order of their last use.
        let known: Vec<_> = first.iter().map(|id| clusters.get(*id).is_some()).collect();
        let expected: Vec<_> = (0..1_000).map(|first| first % 10 != 0 || first / 10 > number).collect();
        assert_eq!(known, expected, "after {number} more");
    }
    assert_eq!(clusters.find("first 0"), None);
    assert_eq!(clusters.find("first 1"), Some(first[1]));
}

#[test]
fn a_forgotten_id_never_comes_back() {
    let mut clusters = Clusters::default();
    let orders = clusters.add("orders");
    let mut ids = vec![orders];
    for number in 0..5_000 {
        ids.push(clusters.add(&format!("another {number}")));
    }
    assert_eq!(clusters.find("orders"), None);
    let again = clusters.add("orders");
    assert_ne!(again, orders);
    assert!(clusters.get(orders).is_none() && clusters.get_mut(orders).is_none());
    assert_eq!(&*clusters.get(again).unwrap().name, "orders");
    ids.push(again);
    ids.sort_unstable_by_key(|id| id.0);
    ids.dedup();
    assert_eq!(ids.len(), 5_002, "each was given once");
}

/// Against a list in the order of use.
#[test]
fn any_order_of_uses() {
    for_all(10, 200, |numbers| {
        let mut clusters = Clusters::default();
        let mut known: Vec<(String, ClusterId)> = Vec::new();
        let mut forgotten: Vec<ClusterId> = Vec::new();
        let mut next = 0;
        for digits in numbers {
            let mut digits = Digits(*digits);
            // Many new ones, then some that may be known.
            for _ in 0..digits.below(40) {
                next += 1;
                let name = format!("cluster {next}");
                assert_eq!(clusters.find(&name), None);
                known.push((name.clone(), clusters.add(&name)));
                if known.len() > MOST_CLUSTERS {
                    forgotten.push(known.remove(0).1);
                }
            }
            for _ in 0..digits.below(20) {
                let name = format!("cluster {}", digits.below(next + 2));
                let position = known.iter().position(|(known, _)| *known == name);
                assert_eq!(clusters.find(&name), position.map(|position| known[position].1), "{name}");
                if let Some(position) = position {
                    let used = known.remove(position);
                    known.push(used);
                }
            }
            assert_eq!(clusters.iter().count(), known.len());
            assert!(forgotten.iter().rev().take(50).all(|id| clusters.get(*id).is_none()));
        }
        for (name, id) in &known {
            assert_eq!(clusters.get(*id).map(|cluster| &*cluster.name), Some(name.as_str()));
        }
        assert!(forgotten.iter().all(|id| clusters.get(*id).is_none()));
    });
}

fn policy(json: &str) -> Policy {
    match parse(json.as_bytes()) {
        Ok(Config { policy: Some(policy), .. }) => policy,
        other => panic!("{json}: {other:?}"),
    }
}

fn with_policy(json: &str) -> Worker {
    let mut worker = Worker::default();
    worker.put_in_force(policy(json), NOW);
    worker.wall_clock = NOW;
    worker
}

/// The clusters whose budgets have something to write into the shared record.
fn with_news(worker: &Worker) -> Vec<ClusterId> {
    worker.clusters.that(&|cluster| cluster.account.as_ref().is_some_and(|account| account.is_due(NOW)))
}

/// The headers that tell Envoy's router what may be retried.
fn headers<'w>(worker: &'w Worker, id: ClusterId, admission: &Admission) -> &'w [Header] {
    worker.policies.retry_headers(worker.clusters.get(id).unwrap(), ByRoute::default(), admission)
}

const GET: Request = Request { repeatable: true, grpc: false, attempt: 1 };

#[test]
fn a_worker_forgets_too() {
    let mut worker = with_policy("{}");
    let orders = worker.cluster_id("orders");
    assert_eq!(worker.cluster_id("orders"), orders);
    assert_eq!(worker.admit(Routed::to(orders), &GET, NOW).class, Class::Idempotent);
    for number in 0..1_000 {
        worker.cluster_id(&format!("another {number}"));
    }
    // A request that was under way since before is left alone.
    assert!(worker.clusters.get(orders).is_none() && worker.clusters.get_mut(orders).is_none());
    assert!(worker.retry_policy(Routed::to(orders)).is_none());
    let admission = worker.admit(Routed::to(orders), &GET, NOW);
    assert_eq!((admission.class, admission.plan, admission.denied), (Class::Off, None, None));
    assert!(admission.per_try_timeout.is_none());
    assert!(!with_news(&worker).contains(&orders), "what it had not published is gone with it");
    let again = worker.cluster_id("orders");
    assert_ne!(again, orders);
    assert!(!worker.clusters.get(again).unwrap().account.as_ref().unwrap().pending());
}

/// A budget of which one retry is left for each ten requests, and an adaptive timeout.
const LEARNING: &str = r#"{"retry": {
    "budget": {"percent": 10}, "minRetryRate": null, "perTryTimeout": {"adaptive": {"quantile": 0.9, "min": "1ms"}}
}}"#;

/// A worker that has learned that: of 200 requests for "orders", 5 retries are left; its attempts take 40 ms.
fn learned() -> (Worker, ClusterId) {
    let mut worker = with_policy(LEARNING);
    let orders = worker.cluster_id("orders");
    // First, since admission keeps what it found for a while.
    let latency = worker.clusters.get_mut(orders).unwrap().latency.as_mut().unwrap();
    (0..200).for_each(|_| latency.record(NOW, Duration::from_millis(40)));
    for _ in 0..200 {
        worker.admit(Routed::to(orders), &GET, NOW);
    }
    let cluster = worker.clusters.get_mut(orders).unwrap();
    cluster.visibility = Visibility::All { failures: 0 };
    cluster.charging = Charging::PerAttempt;
    cluster.account.as_mut().unwrap().retried(15, NOW);
    (worker, orders)
}

/// How many retries the cluster's budget still has.
fn left(worker: &mut Worker, id: ClusterId) -> u32 {
    let account = worker.clusters.get_mut(id).unwrap().account.as_mut().unwrap();
    let mut account = account.clone();
    let mut left = 0;
    while account.affords(NOW) {
        account.retried(1, NOW);
        left += 1;
    }
    left
}

fn quantile(worker: &mut Worker, id: ClusterId) -> Option<Duration> {
    worker
        .clusters
        .get_mut(id)
        .unwrap()
        .latency
        .as_mut()
        .unwrap()
        .quantile(NOW, Percent::from_basis_points(9_000).unwrap())
}

#[test]
fn a_new_policy_keeps_what_was_learned() {
    let (mut worker, orders) = learned();
    assert_eq!(left(&mut worker, orders), 5);
    let observed = quantile(&mut worker, orders).unwrap();
    let timeout = worker.admit(Routed::to(orders), &GET, NOW).per_try_timeout;
    assert_eq!(timeout, Some(observed * 3));

    let others = [
        LEARNING.replace("\"retry\"", "\"mode\": \"shadow\", \"retry\""),
        LEARNING.replace("0.9", "0.9, \"factor\": 5"),
        // Another entry of the list, so another index.
        LEARNING.replace("{\"retry\"", r#"{"clusters": [{"match": "x*", "retry": null}, {"match": "ord*"}], "retry""#),
    ];
    for json in others {
        let (mut worker, orders) = learned();
        worker.put_in_force(policy(&json), NOW);
        assert_eq!(worker.cluster_id("orders"), orders, "{json}");
        let cluster = worker.clusters.get(orders).unwrap();
        let attached = (cluster.visibility, cluster.charging);
        assert_eq!(attached, (Visibility::All { failures: 0 }, Charging::PerAttempt), "{json}");
        assert!(cluster.account.as_ref().unwrap().pending(), "what is not published yet still will be: {json}");
        assert_eq!(with_news(&worker), [orders]);
        assert_eq!(left(&mut worker, orders), 5, "{json}");
        assert_eq!(quantile(&mut worker, orders), Some(observed), "{json}");
    }
}

#[test]
fn a_new_policy_is_in_force_at_once() {
    let (mut worker, orders) = learned();
    worker.put_in_force(policy(&LEARNING.replace("10}", "20}")), NOW);
    assert_eq!(left(&mut worker, orders), 25, "20 percent of the requests already counted");
    worker.put_in_force(policy(&LEARNING.replace("0.9,", "0.9, \"factor\": 5,")), NOW);
    let observed = quantile(&mut worker, orders).unwrap();
    assert_eq!(worker.admit(Routed::to(orders), &GET, NOW).per_try_timeout, Some(observed * 5));

    let entries = r#"{"clusters": [{"match": "pay*", "retry": {"maxRetries": 0}}, {"match": "ord*", "retry": null}]}"#;
    worker.put_in_force(policy(entries), NOW);
    let payments = worker.cluster_id("payments");
    let other = worker.cluster_id("other");
    assert_eq!(worker.admit(Routed::to(payments), &GET, NOW).plan, Some(Plan::Nothing));
    assert_eq!(worker.admit(Routed::to(other), &GET, NOW).plan, Some(Plan::Repeatable));
    let off = worker.admit(Routed::to(orders), &GET, NOW);
    assert_eq!((off.class, off.plan, headers(&worker, orders, &off).len()), (Class::Off, None, 0));
    assert!(
        worker.retry_policy(Routed::to(orders)).is_none() && worker.clusters.get(orders).unwrap().account.is_none()
    );
    // What was switched off is not kept for later.
    worker.put_in_force(policy(LEARNING), NOW);
    assert_eq!(left(&mut worker, orders), 0);
    assert_eq!(quantile(&mut worker, orders), None);
    let visibility = worker.clusters.get(orders).unwrap().visibility;
    assert_eq!(visibility, Visibility::All { failures: 0 }, "but the attachments are as they were");
}

#[test]
fn shadow_mode_permits_the_same_and_bounds_no_attempt() {
    let (mut worker, orders) = learned();
    let enforced = worker.admit(Routed::to(orders), &GET, NOW);
    assert!(enforced.per_try_timeout.is_some());
    worker.put_in_force(policy(&LEARNING.replace("\"retry\"", "\"mode\": \"shadow\", \"retry\"")), NOW);
    assert_eq!(worker.mode(), Mode::Shadow);
    let shadow = worker.admit(Routed::to(orders), &GET, NOW);
    assert_eq!((shadow.plan, shadow.per_try_timeout), (enforced.plan, None));
}

/// Forty clusters of a thousand hosts each: those used last keep theirs.
#[test]
fn the_hosts_of_all_clusters_are_bounded() {
    let mut worker = with_policy("{}");
    let ids: Vec<_> = (0..40).map(|number| worker.cluster_id(&format!("cluster {number}"))).collect();
    let remembered = |worker: &Worker, id: ClusterId| {
        worker.clusters.get(id).and_then(|cluster| cluster.outliers.as_ref()).map_or(0, Outliers::remembered)
    };
    let meet = |worker: &mut Worker, id: ClusterId| {
        let cluster = worker.clusters.get_mut(id).unwrap();
        let outliers = cluster.outliers.get_or_insert_with(|| Outliers::new(OutlierPolicy::default(), WorkerId(1)));
        for host in 0..1_000 {
            let host = format!("10.0.{}.{}:80", host / 250, host % 250);
            let ended =
                EndedAttempt { host: Some(&host), signal: Signal::Answered, began: NOW, weight: 1, picked: true };
            outliers.attempt_ended(&ended, NOW);
        }
    };
    for id in &ids {
        meet(&mut worker, *id);
    }
    // The first is used again.
    assert_eq!(worker.cluster_id("cluster 0"), ids[0]);
    let all = |worker: &Worker| ids.iter().map(|id| remembered(worker, *id)).sum::<usize>();
    assert_eq!(all(&worker), 40_000);
    worker.report_hosts();
    assert_eq!(all(&worker), MOST_HOSTS_IN_ALL);
    assert_eq!(remembered(&worker, ids[0]), 1_000);
    assert_eq!(remembered(&worker, ids[1]), 0);
    assert_eq!(remembered(&worker, ids[39]), 1_000);
    // What was forgotten is learned anew.
    meet(&mut worker, ids[1]);
    assert_eq!(remembered(&worker, ids[1]), 1_000);
}
