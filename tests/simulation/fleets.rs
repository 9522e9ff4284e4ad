//! The fleet that `./build.sh bench fleet` simulates, in small: it repeats, and what it is to show shows.

use std::time::Duration;

use super::fleet::{HANG, Outcome, Policy, REFUSAL, Setup, run};

fn small(policy: Policy, seed: u64) -> Outcome {
    run(&Setup { seed, proxies: 3, hosts: 10, rate: 500, policy }, &mut drop)
}

#[test]
fn the_same_seed_gives_the_same_fleet() {
    for policy in Policy::ALL {
        let outcome = small(policy, 7);
        assert_eq!(outcome, small(policy, 7), "{}", policy.name());
        assert_ne!(outcome, small(policy, 8), "{}", policy.name());
    }
}

#[test]
fn a_small_fleet() {
    let [none, istio, istio123, _, outliers, _, weir, low] = Policy::ALL.map(|policy| small(policy, 1));
    assert!(none.all().attempts_per_request() == 1.0);
    assert!(istio.during(REFUSAL).attempts_per_request() > 2.9);
    assert!(istio123.during(HANG).attempts_per_request() > istio.during(HANG).attempts_per_request());
    for weir in [&weir, &low] {
        assert!(weir.worst_second(REFUSAL) <= 1.21, "{}", weir.worst_second(REFUSAL));
        assert!(weir.back_after(REFUSAL).is_some_and(|after| after <= Duration::from_millis(1_500)));
        assert!(weir.back_after(HANG).is_some());
        assert_eq!(weir.all().repeated(), 0, "a POST was sent again that may have been processed");
        let (gets, posts) = weir.incident().failed();
        assert!(gets <= 0.1 && posts <= 1.0, "GETs {gets} %, POSTs {posts} %");
        assert!(weir.incident().dead() * 3.0 <= none.incident().dead());
        assert!(weir.incident().dead() * 3.0 <= outliers.incident().dead());
    }
}
