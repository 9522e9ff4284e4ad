use super::*;

const SECOND: u64 = 1_000_000_000;

#[test]
fn a_full_budget_covers_two_probes_and_each_request_a_three_hundredth_of_one() {
    let mut budget = ProbeBudget::new();
    assert_eq!((budget.take(false), budget.take(false), budget.take(false)), (COST, COST, 0));
    assert!(budget.is_exhausted(false) && budget.is_exhausted(true));
    (0..COST - 1).for_each(|_| budget.deposit());
    assert!(budget.is_exhausted(false) && !budget.is_exhausted(true));
    assert_eq!(budget.take(false), COST - 1, "what there is");
    budget.refund(u32::MAX);
    assert_eq!(budget.tokens, MAX_TOKENS);
}

#[test]
fn a_scheduled_probe_costs_more_the_more_hosts_are_ejected() {
    let mut budget = ProbeBudget::new();
    assert!(!budget.covers_scheduled(1));
    (0..2 * SCHEDULED_COST).for_each(|_| budget.deposit());
    assert!(budget.covers_scheduled(2) && !budget.covers_scheduled(3) && !budget.covers_scheduled(usize::MAX));
    budget.take_scheduled(2);
    assert!(!budget.covers_scheduled(1));
}

#[test]
fn probes_take_turns_with_the_share_of_the_ejected_hosts() {
    let mut budget = ProbeBudget::new();
    (0..MAX_TURNS / TURN).for_each(|_| budget.take_turn());
    assert!(budget.turns < TURN);
    // One of a hundred hosts and two more: about 33 requests for a probe.
    let requests = (1..).find(|_| budget.add_turns(1, 100));
    assert_eq!(requests, Some(34));
}

#[test]
fn the_chance_that_a_host_is_back() {
    // Hosts are typically back after two seconds: after one to three.
    let downtime = Downtime::new();
    for (tried, down, millionths) in [
        (0, 0, 0),
        (0, SECOND, 0),
        (0, 2 * SECOND, 500_000),
        (0, 3 * SECOND, CERTAIN),
        (2 * SECOND, 2 * SECOND, 0),
        (2 * SECOND, 5 * SECOND / 2, 500_000),
        // It took longer than any: half a chance after as long again.
        (4 * SECOND, 8 * SECOND, 500_000),
        (4 * SECOND, 4 * SECOND, 0),
        (0, u64::MAX, CERTAIN),
    ] {
        assert_eq!(downtime.chance_to_be_back(tried, down), millionths, "{tried} {down}");
    }
}

#[test]
fn the_typical_downtime_follows_what_is_seen() {
    let mut downtime = Downtime::new();
    assert_eq!(downtime.half(), None);
    let start = 1_800_000_000 * SECOND;
    let at = |seconds: u64| Time::from_nanos(start + seconds * SECOND);
    downtime.came_back(at(0), at(4), at(8));
    assert_eq!(downtime.half(), Some(7 * SECOND / 2), "three quarters between the last failure and the answer");
    downtime.came_back(at(0), at(3), at(3));
    assert_eq!(downtime.half(), Some(3 * SECOND), "a quarter of it is new");
}
