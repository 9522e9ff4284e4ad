//! Detectors, ejections and probes, through what the filter calls.

use std::time::Duration;

use weir::base::percent::Percent;
use weir::base::time::Time;
use weir::outlier::detector::{Failure, OutlierPolicy};
use weir::outlier::shared::{WorkerId, encode_host_list};
use weir::outlier::{EndedAttempt, Event, Outliers, Overdue, Route};
use weir::signal::Signal;

// The crate links only with a host beside it.
mod fake_host;

/// Workers in front of hosts a:1, b:1, c:1, ...; time is in milliseconds.
#[derive(Clone)]
struct Bench {
    now: Time,
    record: Option<Vec<u8>>,
    roster: Option<Vec<u8>>,
    workers: Vec<Outliers>,
    events: Vec<Event>,
}

const HOSTS: [&str; 4] = ["a:1", "b:1", "c:1", "d:1"];

impl Bench {
    /// All hosts have answered a few requests of each worker.
    fn new(workers: u64, hosts: usize) -> Self {
        let worker = |id| Outliers::new(OutlierPolicy::default(), WorkerId(id + 1));
        let mut bench = Self {
            now: Time::from_nanos(1_800_000_000_000_000_000),
            record: None,
            roster: None,
            workers: (0..workers).map(worker).collect(),
            events: Vec::new(),
        };
        for worker in 0..workers as usize {
            bench.route(worker, true);
            for _ in 0..10 {
                HOSTS[..hosts].iter().for_each(|host| bench.ends(worker, host, Signal::Answered));
            }
        }
        bench
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now.saturating_add(Duration::from_millis(millis));
        (0..self.workers.len()).for_each(|worker| self.exchange(worker));
    }

    fn exchange(&mut self, worker: usize) {
        let worker = &mut self.workers[worker];
        if let Some(record) = worker.exchange(self.record.as_deref(), self.now) {
            self.record = Some(record);
        }
        let events = worker.published();
        if events.iter().any(|event| matches!(event, Event::Ejected(_) | Event::Extended(_))) {
            self.roster = worker.host_list(self.now).or(self.roster.take());
        }
        if worker.wants_host_list() {
            self.roster.iter().for_each(|roster| worker.learn(roster, self.now));
        }
        self.events.extend(events);
    }

    fn began(&mut self, worker: usize, host: &str, signal: Signal, began: Time) {
        let attempt = EndedAttempt { host: Some(host), signal, began, weight: 1, picked: true };
        if self.workers[worker].attempt_ended(&attempt, self.now) {
            self.exchange(worker);
        }
    }

    fn ends(&mut self, worker: usize, host: &str, signal: Signal) {
        self.began(worker, host, signal, self.now);
    }

    fn route(&mut self, worker: usize, repeatable: bool) -> Option<Route> {
        self.workers[worker].route(self.now, repeatable, 2, Percent::default())
    }

    /// The same, and what is no probe is answered.
    fn answered(&mut self, worker: usize, repeatable: bool) -> Option<Route> {
        let route = self.route(worker, repeatable)?;
        if route.probe.is_none() {
            let (host, began) = (route.hosts.split(',').next(), self.now);
            let attempt = EndedAttempt { host, signal: Signal::Answered, began, weight: 1, picked: false };
            self.workers[worker].attempt_ended(&attempt, self.now);
        }
        Some(route)
    }

    fn out(&self, worker: usize) -> Vec<&str> {
        HOSTS.into_iter().filter(|host| self.workers[worker].is_ejected(host)).collect()
    }

    /// Until a probe goes out.
    fn probe(&mut self, worker: usize) -> Route {
        for _ in 0..1_000 {
            if let Some(route) = self.answered(worker, true).filter(|route| route.probe.is_some()) {
                return route;
            }
            self.pass(50);
        }
        panic!("no probe");
    }
}

#[test]
fn one_refusal_ejects() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "a:1", Signal::Refused);
    assert_eq!(bench.out(0), ["a:1"]);
    assert!(matches!(&bench.events[..], [Event::Ejected(ejection)] if ejection.failure == Failure::Refused));
}

#[test]
fn a_stray_reset_among_answers_does_not() {
    let mut bench = Bench::new(1, 4);
    for _ in 0..50 {
        bench.ends(0, "a:1", Signal::Reset);
        for _ in 0..100 {
            HOSTS.iter().for_each(|host| bench.ends(0, host, Signal::Answered));
        }
    }
    assert_eq!(bench.events, []);
}

#[test]
fn the_last_host_stays() {
    let mut bench = Bench::new(1, 2);
    bench.ends(0, "a:1", Signal::Refused);
    bench.ends(0, "b:1", Signal::Refused);
    assert_eq!(bench.out(0), ["a:1"]);
    bench.ends(0, "b:1", Signal::Refused);
    assert_eq!(bench.out(0), [""; 0], "now all fail alike");
}

/// Those that are out are tried before all come back: one of them may be fine again.
#[test]
fn when_the_last_one_fails_those_that_are_out_are_tried_first() {
    let mut bench = Bench::new(2, 4);
    for host in ["c:1", "a:1", "b:1"] {
        bench.ends(0, host, Signal::Refused);
        bench.pass(200);
        bench.probe(0);
        bench.ends(0, host, Signal::Refused);
    }
    bench.pass(1_000);
    bench.ends(1, "d:1", Signal::Reset);
    bench.ends(1, "d:1", Signal::Reset);
    assert_eq!(bench.out(1), ["a:1", "b:1", "c:1"]);
    let route = bench.route(1, false).unwrap();
    assert_eq!((&*route.hosts, route.probe.is_some()), ("c:1,a:1,b:1", true), "the one that failed longest ago first");
    bench.ends(1, "c:1", Signal::Refused);
    assert_eq!(bench.route(1, true).unwrap().hosts, "a:1,b:1,c:1");
    bench.ends(1, "a:1", Signal::Answered);
    assert_eq!(bench.out(1), ["b:1", "c:1"], "one answer is enough");
    assert!(bench.route(1, false).unwrap().hosts.starts_with("a:1"), "the other one is suspect");
    bench.ends(1, "d:1", Signal::Reset);
    assert_eq!(bench.out(1), ["b:1", "c:1", "d:1"]);
}

/// It answered long before, and says nothing of its host when it ends.
#[test]
fn a_stream_that_a_host_that_is_out_answered_is_no_timeout_when_it_ends() {
    for end in [Signal::Closed, Signal::Cancelled] {
        let mut bench = Bench::new(1, 4);
        bench.ends(0, "a:1", Signal::Refused);
        bench.pass(300);
        assert!(bench.probe(0).hosts.starts_with("a:1"));
        let began = bench.now;
        let stream = EndedAttempt { host: Some("a:1"), signal: Signal::Answered, began, weight: 1, picked: false };
        bench.pass(10);
        bench.workers[0].stream_runs(&stream, bench.now, bench.now);
        bench.pass(500);
        bench.began(0, "a:1", end, began);
        bench.pass(10);
        assert_eq!(bench.events.len(), 1, "{end:?}: {:?}", bench.events);
    }
}

/// Health checks that hand over to hosts of a lower priority do so for all workers, of which one finds out first.
#[test]
fn while_all_are_down_they_take_turns_until_another_host_answers_some_worker() {
    let mut bench = Bench::new(2, 2);
    for worker in [0, 1] {
        for host in ["a:1", "b:1", "b:1", "a:1"] {
            bench.ends(worker, host, Signal::Refused);
            bench.pass(1);
        }
    }
    assert_eq!(bench.out(1), [""; 0]);
    let turns = |bench: &mut Bench| {
        let turn = |_| {
            bench.pass(80);
            let route = bench.route(1, true)?;
            bench.ends(1, &route.hosts, Signal::Refused);
            Some(route.hosts)
        };
        (0..6).filter_map(turn).collect::<Vec<_>>()
    };
    assert_eq!(turns(&mut bench), [""; 0], "the last answer is 480 ms old");
    assert!(turns(&mut bench).len() >= 5);
    bench.ends(0, "d:1", Signal::Answered);
    assert_eq!(turns(&mut bench), [""; 0]);
}

/// Nobody would have tried it then but for the others.
#[test]
fn to_fail_before_its_time_is_no_strike() {
    let mut bench = Bench::new(1, 3);
    bench.ends(0, "a:1", Signal::Refused);
    for _ in 0..3 {
        bench.probe(0);
        bench.ends(0, "a:1", Signal::Refused);
    }
    let Some(Event::Extended(before)) = bench.events.last().cloned() else { panic!("{:?}", bench.events) };
    bench.ends(0, "b:1", Signal::Refused);
    bench.pass(400);
    (0..2).for_each(|_| bench.ends(0, "c:1", Signal::Refused));
    assert!(bench.route(0, true).unwrap().hosts.starts_with("a:1,"), "all that are in fail");
    bench.ends(0, "a:1", Signal::Refused);
    let Some(Event::Extended(after)) = bench.events.last() else { panic!("{:?}", bench.events) };
    assert!(after.failed > before.failed && after.until > bench.now);
    assert_eq!((after.ejection_count, after.until, after.due), (before.ejection_count, before.until, before.until));
}

#[test]
fn where_half_are_out_none_waits_for_long() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "a:1", Signal::Refused);
    for _ in 0..4 {
        bench.probe(0);
        bench.ends(0, "a:1", Signal::Refused);
    }
    (0..1_000).for_each(|_| drop(bench.answered(0, true)));
    bench.pass(900);
    bench.ends(0, "b:1", Signal::Refused);
    assert!(bench.route(0, true).unwrap().probe.is_none());
    bench.pass(101);
    assert!(bench.probe(0).hosts.starts_with("a:1,"), "not after four seconds");
    bench.ends(0, "a:1", Signal::Refused);
    let Some(Event::Extended(ejection)) = bench.events.last() else { panic!("{:?}", bench.events) };
    assert_eq!(ejection.ejection_count, 4);
    // And what answers is back.
    bench.pass(1_001);
    for _ in 0..4 {
        let probed = bench.probe(0).hosts.split(',').next().unwrap().to_owned();
        bench.ends(0, &probed, Signal::Answered);
    }
    assert_eq!(bench.out(0), [""; 0]);
}

#[test]
fn probes_that_fail_are_paid_with_requests() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "a:1", Signal::Refused);
    let Some(Event::Ejected(mut ejection)) = bench.events.last().cloned() else { panic!("{:?}", bench.events) };
    for _ in 0..2 {
        bench.now = ejection.due;
        assert!(bench.route(0, true).unwrap().probe.is_some());
        bench.ends(0, "a:1", Signal::Refused);
        let Some(Event::Extended(extended)) = bench.events.last().cloned() else { panic!("{:?}", bench.events) };
        ejection = extended;
    }
    let due = ejection.due;
    // There were hardly any requests but the probes.
    bench.now = due;
    bench.pass(1_900);
    let first = bench.workers[0].clone();
    assert!(bench.route(0, true).unwrap().probe.is_none());
    bench.pass(200);
    assert!(bench.route(0, true).unwrap().probe.is_some(), "but not for ever");
    (bench.workers[0], bench.now) = (first, due);
    assert!((0..401).any(|_| bench.route(0, true).unwrap().probe.is_some()));
}

#[test]
fn what_cannot_be_repeated_goes_where_there_was_an_answer_just_now() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "d:1", Signal::Refused);
    bench.pass(1_100);
    // Each is over before the next one comes.
    let lists = |bench: &mut Bench, repeatable| -> Vec<String> {
        let mut route = || {
            bench.workers[0].route(bench.now, true, 2, Percent::default());
            let hosts = bench.route(0, repeatable)?.hosts;
            let first = hosts.split(',').next().unwrap().to_owned();
            let (host, began) = (Some(&*first), bench.now);
            let attempt = EndedAttempt { host, signal: Signal::Cancelled, began, weight: 1, picked: false };
            bench.workers[0].attempt_ended(&attempt, bench.now);
            Some(first)
        };
        (0..50).filter_map(|_| route()).collect()
    };
    assert!(["a:1", "b:1", "c:1"].iter().all(|host| lists(&mut bench, false).contains(&(*host).to_owned())));
    bench.ends(0, "b:1", Signal::Answered);
    assert!(lists(&mut bench, false).iter().all(|host| host == "b:1"));
    // What follows is not followed, and one at a time follows.
    bench.ends(0, "c:1", Signal::Answered);
    assert!(bench.route(0, false).unwrap().hosts.starts_with("c:1"));
    assert!(lists(&mut bench, false).iter().all(|host| host == "b:1"));
    bench.pass(1);
    bench.ends(0, "b:1", Signal::Answered);
    bench.pass(1);
    bench.ends(0, "c:1", Signal::Answered);
    assert!(lists(&mut bench, false).iter().all(|host| host == "b:1"));
    assert_eq!(bench.route(0, false).unwrap().hosts.split(',').count(), 3, "and others for its retries");
    assert!(lists(&mut bench, true).iter().any(|host| host != "b:1"));
    bench.ends(0, "b:1", Signal::Reset);
    assert!(lists(&mut bench, false).iter().all(|host| host != "b:1"));
}

/// Where nothing can be repeated, the host that answered last would get all that comes.
#[test]
fn without_others_to_follow_shares_decide() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "d:1", Signal::Refused);
    (0..20).for_each(|_| drop(bench.answered(0, false)));
    for host in ["a:1", "b:1", "c:1"] {
        assert!((0..50).any(|_| bench.answered(0, false).unwrap().hosts.starts_with(host)), "{host}");
    }
}

#[test]
fn what_cannot_be_repeated_follows_for_a_while_after_an_outage() {
    let mut bench = Bench::new(1, 2);
    assert_eq!(bench.route(0, false), None);
    bench.ends(0, "b:1", Signal::Refused);
    for _ in 0..2 {
        bench.probe(0);
        bench.ends(0, "b:1", Signal::Answered);
    }
    assert_eq!(bench.out(0), [""; 0]);
    for host in ["a:1", "b:1"] {
        bench.pass(1);
        bench.ends(0, host, Signal::Answered);
        assert_eq!(bench.route(0, true), None);
        assert!(bench.route(0, false).unwrap().hosts.starts_with(host));
    }
    bench.pass(10_000);
    assert_eq!((bench.route(0, true), bench.route(0, false)), (None, None));
}

#[test]
fn a_host_that_says_nothing_is_avoided() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "d:1", Signal::Refused);
    while !bench.route(0, true).unwrap().hosts.starts_with("a:1") {}
    for host in ["b:1", "c:1"] {
        bench.ends(0, host, Signal::Answered);
    }
    let asked = |bench: &mut Bench, repeatable| {
        (0..50).any(|_| bench.answered(0, repeatable).unwrap().hosts.starts_with("a:1"))
    };
    bench.pass(60);
    assert!(!asked(&mut bench, true) && !asked(&mut bench, false), "others answer within a few milliseconds");
    assert!(bench.route(0, true).unwrap().hosts.ends_with("a:1"), "better than none");
    let answers = bench.clone();
    bench.ends(0, "a:1", Signal::Answered);
    assert!(asked(&mut bench, true));
    bench = answers;
    bench.pass(1_000);
    assert!(asked(&mut bench, true), "once a second");
}

#[test]
fn a_host_that_says_nothing_again_is_avoided_for_longer() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "d:1", Signal::Refused);
    let meets = |bench: &mut Bench| {
        (0..50).any(|_| {
            let hosts = bench.route(0, true).unwrap().hosts;
            let first = hosts.split(',').next().unwrap();
            if ["b:1", "c:1"].contains(&first) {
                let (host, began) = (Some(first), bench.now);
                let attempt = EndedAttempt { host, signal: Signal::Answered, began, weight: 1, picked: false };
                bench.workers[0].attempt_ended(&attempt, bench.now);
            }
            first == "a:1"
        })
    };
    assert!(meets(&mut bench));
    for seconds in [1, 2, 4, 8, 8] {
        bench.pass(60);
        if seconds == 1 {
            // A hedge was due, or a timeout: still nothing was said.
            bench.ends(0, "a:1", Signal::Timeout);
        }
        assert!(!meets(&mut bench), "{seconds}");
        bench.pass(seconds * 1_000 - 50);
        assert!(!meets(&mut bench), "{seconds}");
        bench.pass(100);
        assert!(meets(&mut bench), "{seconds}");
    }
    bench.ends(0, "a:1", Signal::Answered);
    assert!(meets(&mut bench));
    bench.pass(60);
    assert!(!meets(&mut bench));
    bench.pass(1_000);
    assert!(meets(&mut bench), "an answer makes up for all");
}

/// All that are in hang: nothing fails, so nothing but silence tells.
#[test]
fn when_nobody_answers_those_that_are_out_are_tried() {
    let mut bench = Bench::new(1, 2);
    bench.ends(0, "b:1", Signal::Refused);
    for _ in 0..3 {
        let Some(Event::Ejected(ejection) | Event::Extended(ejection)) = bench.events.last().cloned() else {
            panic!("{:?}", bench.events)
        };
        bench.now = ejection.until;
        bench.probe(0);
        bench.ends(0, "b:1", Signal::Refused);
    }
    assert!(bench.route(0, true).unwrap().hosts.starts_with("a:1"));
    bench.pass(20);
    assert!(bench.route(0, true).unwrap().probe.is_none());
    bench.pass(40);
    let probed = (0..3).any(|_| {
        bench.pass(10);
        bench.route(0, true).unwrap().probe.is_some()
    });
    assert!(probed, "although it is not due for a second");
    bench.ends(0, "b:1", Signal::Answered);
    assert_eq!(bench.out(0), [""; 0], "one answer is enough");
}

#[test]
fn a_second_attempt_beside_the_first_only_where_others_answer() {
    let mut bench = Bench::new(1, 4);
    let after = |bench: &Bench| bench.workers[0].hedge_after(None, bench.now);
    assert_eq!(after(&bench), None, "no host is out");
    bench.ends(0, "d:1", Signal::Refused);
    assert_eq!(after(&bench), Some(Duration::from_millis(50)));
    let began = bench.now;
    bench.pass(20);
    bench.began(0, "a:1", Signal::Answered, began);
    assert_eq!(after(&bench), Some(Duration::from_millis(80)));
    bench.pass(200);
    assert_eq!(after(&bench), None, "all may just have become slow");
}

/// Ten hosts or more, `out` of them out and due for a probe.
fn many(hosts: usize, out: usize) -> Bench {
    let mut bench = Bench::new(1, 0);
    let hosts: Vec<String> = (0..hosts).map(|host| format!("10.0.0.{host}:80")).collect();
    for _ in 0..10 {
        hosts.iter().for_each(|host| bench.ends(0, host, Signal::Answered));
    }
    hosts[..out].iter().for_each(|host| bench.ends(0, host, Signal::Refused));
    assert_eq!(bench.workers[0].ejected(), out);
    bench.pass(400);
    bench
}

#[test]
fn probes_that_hang_are_paid_before_they_fail() {
    let mut bench = many(20, 5);
    let probes: Vec<_> = (0..20).filter_map(|_| bench.route(0, true)?.probe).collect();
    assert_eq!(probes.len(), 2);
    // What is over without a verdict cost nothing.
    bench.workers[0].probe_over(probes[0]);
    let probes = (0..20).filter_map(|_| bench.route(0, true)?.probe).count();
    assert_eq!(probes, 1);
}

#[test]
fn hosts_that_are_out_get_no_more_probes_than_they_would_get_requests() {
    let mut bench = many(200, 20);
    let mut probes = 0;
    for _ in 0..100 {
        if let Some(probe) = bench.route(0, true).unwrap().probe {
            probes += 1;
            bench.workers[0].probe_over(probe);
        }
    }
    // Four at once, and each tenth after.
    assert!((12..=15).contains(&probes), "{probes}");
}

#[test]
fn a_look_is_paid_with_requests() {
    let looked = |requests: usize| {
        let mut bench = many(20, 2);
        let address = "10.0.0.0:80";
        // Both are probed, and are not due again for half a second.
        assert_eq!((0..4).filter_map(|_| bench.route(0, true)?.probe).count(), 2);
        [address, "10.0.0.1:80"].iter().for_each(|host| bench.ends(0, host, Signal::Refused));
        (0..requests).for_each(|_| drop(bench.route(0, false)));
        let at = bench.now.saturating_add(Duration::from_millis(10));
        let now = bench.now;
        bench.workers[0].schedule_probe(address, at, now);
        bench.pass(20);
        (0..5).filter_map(|_| bench.route(0, true)).any(|route| route.hosts.starts_with(&[address, ","].concat()))
    };
    assert!(!looked(0) && looked(100));
}

#[test]
fn where_probes_fail_all_the_time_one_reset_is_enough_and_probes_wait() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "a:1", Signal::Refused);
    bench.pass(2_000);
    for _ in 0..2 {
        bench.probe(0);
        bench.ends(0, "a:1", Signal::Answered);
    }
    bench.ends(0, "a:1", Signal::Reset);
    assert_eq!(bench.out(0), [""; 0], "one is not");
    bench.ends(0, "a:1", Signal::Refused);
    for _ in 0..5 {
        let Some(Event::Ejected(ejection) | Event::Extended(ejection)) = bench.events.last().cloned() else {
            panic!("{:?}", bench.events)
        };
        bench.now = ejection.due;
        bench.probe(0);
        bench.ends(0, "a:1", Signal::Refused);
    }
    bench.ends(0, "b:1", Signal::Reset);
    assert_eq!(bench.out(0), ["a:1", "b:1"]);
    // It was out for two seconds, and was back at some time between.
    let probed = |bench: &mut Bench| bench.answered(0, true).unwrap().hosts.starts_with("b:1");
    bench.pass(2_100);
    assert!(!probed(&mut bench));
    bench.pass(200);
    assert!(probed(&mut bench));
}

/// Chance can keep Envoy's balancer from a host for long, and it may be the only one that is fine.
#[test]
fn a_host_that_seems_gone_is_better_than_one_that_failed() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "a:1", Signal::Refused);
    for _ in 0..20 {
        ["b:1", "c:1"].iter().for_each(|host| bench.ends(0, host, Signal::Answered));
    }
    let hosts = bench.route(0, true).unwrap().hosts;
    assert!(hosts.ends_with(",d:1"), "{hosts}");
    bench.workers[0].gone("d:1");
    let hosts = bench.route(0, true).unwrap().hosts;
    assert!(hosts.ends_with(",a:1"), "{hosts}");
}

/// While it was going down, it failed what Envoy's balancer sent there, and retries went to the others: twenty in flight at once
/// are not much.
#[test]
fn a_host_that_is_back_gets_its_share_at_once() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "a:1", Signal::Refused);
    (0..40).for_each(|number| bench.ends(0, HOSTS[1 + number % 3], Signal::Answered));
    for _ in 0..2 {
        assert!(bench.probe(0).hosts.starts_with("a:1,"));
        let probe =
            EndedAttempt { host: Some("a:1"), signal: Signal::Answered, began: bench.now, weight: 1, picked: false };
        bench.workers[0].attempt_ended(&probe, bench.now);
        bench.exchange(0);
    }
    assert_eq!(bench.out(0), [""; 0]);
    bench.ends(0, "b:1", Signal::Refused);
    let to_a = (0..300).filter(|_| bench.answered(0, true).unwrap().hosts.starts_with("a:1")).count();
    assert!((67..=133).contains(&to_a), "{to_a} of 300 among three hosts, not two thirds of its share");
}

/// Both failed a second ago; one is down for three times as long, and hosts are usually back by then.
#[test]
fn where_all_fail_the_one_that_is_likeliest_back_is_tried_first() {
    let mut bench = Bench::new(1, 3);
    bench.ends(0, "b:1", Signal::Refused);
    bench.pass(2_000);
    bench.ends(0, "a:1", Signal::Refused);
    bench.pass(10);
    bench.ends(0, "b:1", Signal::Refused);
    bench.pass(1_000);
    (0..2).for_each(|_| bench.ends(0, "c:1", Signal::Refused));
    assert_eq!(bench.out(0), ["a:1", "b:1"]);
    assert_eq!(bench.route(0, false).unwrap().hosts, "b:1,a:1,c:1");
}

/// The cost of a probe whose place is taken by another is never given back.
#[test]
fn where_all_fail_requests_at_once_are_one_probe() {
    let mut bench = Bench::new(1, 4);
    ["a:1", "b:1", "c:1"].iter().for_each(|host| bench.ends(0, host, Signal::Refused));
    bench.pass(1_000);
    (0..2).for_each(|_| bench.ends(0, "d:1", Signal::Refused));
    let mut routes: Vec<_> = (0..20).map(|_| bench.route(0, true).unwrap()).collect();
    let first = routes[0].hosts[..3].to_owned();
    assert!(routes.iter().all(|route| route.hosts.starts_with(&first)));
    routes.retain(|route| route.probe.is_some());
    assert_eq!(routes.len(), 1);
    bench.ends(0, &first, Signal::Answered);
    assert_eq!(bench.out(0).len(), 2, "{first} is back");
    bench.pass(2_000);
    assert!(bench.route(0, true).unwrap().probe.is_some(), "the others are paid for");
}

#[test]
fn hosts_that_hung_are_feared_no_longer_when_the_clock_steps_back() {
    let mut bench = Bench::new(1, 4);
    let usually = Some(20_000_000);
    for _ in 0..3 {
        let (began, overdue) = (bench.now, Overdue { rare: true, seen_before: true, enough_alike: true });
        bench.pass(300);
        let (worker, now) = (&mut bench.workers[0], bench.now);
        worker.overdue("a:1", began, overdue, now);
    }
    assert!(bench.workers[0].hedge_after(usually, bench.now).is_some());
    bench.now = Time::from_nanos(bench.now.as_nanos() - 3_600_000_000_000);
    bench.pass(0);
    assert!(bench.workers[0].hedge_after(usually, bench.now).is_some());
    bench.pass(61_000);
    assert_eq!(bench.workers[0].hedge_after(usually, bench.now), None);
}

/// The other failed two seconds ago, and was not tried since; this one a second ago, and it is down for a minute.
#[test]
fn what_is_down_for_long_is_hardly_back() {
    let mut bench = Bench::new(1, 3);
    bench.ends(0, "b:1", Signal::Refused);
    for _ in 0..58 {
        bench.pass(1_000);
        bench.ends(0, "b:1", Signal::Refused);
    }
    bench.ends(0, "a:1", Signal::Refused);
    bench.pass(1_000);
    bench.ends(0, "b:1", Signal::Refused);
    bench.pass(1_000);
    (0..2).for_each(|_| bench.ends(0, "c:1", Signal::Refused));
    assert_eq!(bench.out(0), ["a:1", "b:1"]);
    assert_eq!(bench.route(0, false).unwrap().hosts, "a:1,b:1,c:1");
}

#[test]
fn when_those_that_are_out_fail_as_well_all_come_back() {
    let mut bench = Bench::new(1, 4);
    for host in ["a:1", "b:1", "c:1"] {
        bench.ends(0, host, Signal::Refused);
    }
    bench.pass(300);
    (0..2).for_each(|_| bench.ends(0, "d:1", Signal::Refused));
    assert_eq!(bench.out(0).len(), 3);
    for host in ["a:1", "b:1", "c:1"] {
        bench.ends(0, host, Signal::Refused);
    }
    bench.ends(0, "d:1", Signal::Refused);
    assert_eq!(bench.out(0), [""; 0]);
}

#[test]
fn hosts_that_crash_together_do_not_excuse_each_other() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "c:1", Signal::Refused);
    for _ in 0..3 {
        ["a:1", "b:1"].iter().for_each(|host| bench.ends(0, host, Signal::Reset));
        bench.ends(0, "d:1", Signal::Answered);
    }
    assert_eq!(bench.out(0), ["a:1", "b:1", "c:1"]);
}

#[test]
fn what_says_nothing_counts_for_nothing() {
    let mut bench = Bench::new(1, 4);
    for signal in [Signal::Cancelled, Signal::Local, Signal::Pushback] {
        (0..100).for_each(|_| bench.ends(0, "a:1", signal));
    }
    assert_eq!(bench.events, []);
}

#[test]
fn others_follow_out_and_back_and_only_the_owner_probes() {
    let mut bench = Bench::new(2, 4);
    bench.ends(0, "a:1", Signal::Refused);
    bench.pass(100);
    assert_eq!(bench.out(1), ["a:1"]);
    let probe = bench.probe(0);
    assert!(probe.hosts.starts_with("a:1,") && probe.hosts.split(',').count() == 3, "{}", probe.hosts);
    assert!(bench.answered(1, true).unwrap().probe.is_none());
    assert!(bench.answered(0, true).unwrap().probe.is_none(), "one at a time");
    bench.ends(0, "a:1", Signal::Answered);
    assert_eq!(bench.out(0), ["a:1"], "two answers bring it back");
    assert!(bench.probe(0).hosts.starts_with("a:1,"));
    bench.ends(0, "a:1", Signal::Answered);
    assert_eq!(bench.out(0), [""; 0]);
    bench.pass(100);
    assert_eq!(bench.out(1), [""; 0]);
    assert_eq!(bench.route(0, true), None);
}

#[test]
fn a_failed_probe_doubles_the_time() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "a:1", Signal::Refused);
    for ejection_count in 1..5 {
        bench.probe(0);
        bench.ends(0, "a:1", Signal::Refused);
        let Some(Event::Extended(ejection)) = bench.events.last() else { panic!("{:?}", bench.events) };
        assert_eq!(ejection.ejection_count, ejection_count);
        let time = ejection.until.since(bench.now);
        let base = Duration::from_millis(250 << ejection_count);
        assert!(time >= base && time <= base * 5 / 4, "{time:?}");
    }
}

#[test]
fn what_began_before_decides_nothing() {
    let mut bench = Bench::new(1, 4);
    let before = bench.now;
    bench.pass(100);
    bench.ends(0, "a:1", Signal::Refused);
    bench.probe(0);
    for signal in [Signal::Answered, Signal::Answered, Signal::Reset] {
        bench.began(0, "a:1", signal, before);
    }
    assert_eq!(bench.out(0), ["a:1"]);
    assert_eq!(bench.events.len(), 1);
}

#[test]
fn a_probe_without_a_verdict_gives_its_slot_back() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "a:1", Signal::Refused);
    let probe = bench.probe(0).probe.unwrap();
    assert!(bench.route(0, true).unwrap().probe.is_none());
    bench.workers[0].probe_over(probe);
    assert!(bench.route(0, true).unwrap().probe.is_some());
    bench.ends(0, "a:1", Signal::Cancelled);
    assert!(bench.route(0, true).unwrap().probe.is_some());
    bench.pass(11_000);
    assert!(bench.route(0, true).unwrap().probe.is_some(), "and one that is lost, too");
}

#[test]
fn requests_that_cannot_be_repeated_probe_only_after_a_while() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "a:1", Signal::Refused);
    bench.pass(400);
    assert!(bench.route(0, false).unwrap().probe.is_none());
    bench.pass(1_000);
    assert!(bench.route(0, false).unwrap().probe.is_some());
}

#[test]
fn a_suspect_is_avoided_by_what_cannot_be_repeated() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "a:1", Signal::Reset);
    assert_eq!(bench.route(0, true), None);
    for _ in 0..100 {
        assert!(!bench.answered(0, false).unwrap().hosts.contains("a:1"));
    }
    bench.pass(900);
    assert!(!bench.route(0, false).unwrap().hosts.contains("a:1"));
    let answers = bench.workers[0].clone();
    bench.pass(200);
    assert_eq!(bench.route(0, false), None, "that was a while ago");
    bench.workers[0] = answers;
    bench.ends(0, "a:1", Signal::Answered);
    assert_eq!(bench.route(0, false), None);
}

/// Whether the next attempt fails as well decides whether it goes out: that takes one attempt, and no retry.
#[test]
fn one_request_at_a_time_finds_out_about_a_suspect() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "d:1", Signal::Refused);
    bench.ends(0, "a:1", Signal::Reset);
    let lists = |bench: &mut Bench| {
        let routes: Vec<_> =
            (0..100).filter_map(|_| bench.route(0, true)).filter(|route| route.probe.is_none()).collect();
        let at = |place| move |route: &&Route| route.hosts.split(',').nth(place) == Some("a:1");
        [0, 1].map(|place| routes.iter().filter(at(place)).count())
    };
    assert_eq!(lists(&mut bench), [1, 0]);
    bench.ends(0, "a:1", Signal::Answered);
    let [first, second] = lists(&mut bench);
    assert!(first > 20 && second > 20, "it has its share again, not {first} and {second} of 100");
}

#[test]
fn what_two_workers_saw_adds_up() {
    let mut bench = Bench::new(3, 4);
    bench.ends(0, "a:1", Signal::Reset);
    bench.exchange(2);
    assert!(!bench.route(2, false).unwrap().hosts.contains("a:1"), "a suspect of one is a suspect of all");
    bench.ends(1, "a:1", Signal::Reset);
    assert_eq!(bench.out(1), ["a:1"]);
    let ejected = bench.events.iter().filter(|event| matches!(event, Event::Ejected(_))).count();
    assert_eq!(ejected, 1);
}

#[test]
fn what_workers_saw_long_ago_or_between_answers_does_not() {
    let mut bench = Bench::new(2, 4);
    bench.ends(0, "a:1", Signal::Reset);
    (0..30).for_each(|_| bench.ends(0, "a:1", Signal::Answered));
    bench.pass(1_100);
    bench.ends(1, "a:1", Signal::Reset);
    // Evidence tells of the answers as well.
    for _ in 0..20 {
        bench.pass(10);
        (0..25).for_each(|_| bench.ends(0, "b:1", Signal::Answered));
        (0..25).for_each(|_| bench.ends(1, "b:1", Signal::Answered));
        bench.ends(0, "b:1", Signal::Reset);
    }
    assert_eq!(bench.events, []);
}

#[test]
fn what_one_worker_explores_all_know() {
    let mut bench = Bench::new(2, 4);
    bench.ends(0, "a:1", Signal::Refused);
    bench.pass(100);
    for _ in 0..20 {
        bench.ends(0, "new:1", Signal::Answered);
        bench.pass(100);
    }
    let listed = (0..50).filter(|_| bench.route(1, true).unwrap().hosts.contains("new:1")).count();
    assert!(listed > 0);
}

#[test]
fn another_worker_takes_over() {
    let mut bench = Bench::new(2, 4);
    bench.ends(0, "a:1", Signal::Refused);
    // The first worker gets no requests from now on.
    assert!(bench.probe(1).hosts.starts_with("a:1,"));
}

/// Three of four are out when it starts, so Envoy's balancer would send three of four requests to these.
#[test]
fn a_fresh_worker_learns_which_hosts_there_are() {
    let mut bench = Bench::new(1, 4);
    for host in &HOSTS[..3] {
        bench.ends(0, host, Signal::Refused);
    }
    let fresh = |bench: &Bench, roster: Option<&[u8]>| {
        let mut bench = Bench { roster: roster.map(Into::into), ..bench.clone() };
        bench.workers.push(Outliers::new(OutlierPolicy::default(), WorkerId(9)));
        bench.exchange(1);
        assert_eq!(bench.out(1), HOSTS[..3]);
        let percent = Percent::from_basis_points(500).unwrap();
        let routes: Vec<_> = (0..50).filter_map(|_| bench.workers[1].route(bench.now, true, 2, percent)).collect();
        routes.iter().filter(|route| route.hosts.starts_with("d:1")).count()
    };
    let roster = bench.roster.as_deref().unwrap();
    assert!(fresh(&bench, Some(roster)) > 45, "a few are left to the balancer");
    assert_eq!(fresh(&bench, None), 0, "nobody wrote one");
    let old = |seconds: u64| {
        let written = Time::from_nanos(bench.now.as_nanos() - seconds * 1_000_000_000);
        encode_host_list(HOSTS.into_iter().map(|host| (host, 10)), written)
    };
    assert!(fresh(&bench, Some(&old(119))) > 45);
    assert_eq!(fresh(&bench, Some(&old(121))), 0, "there may be others by now");
    (0..roster.len()).for_each(|length| assert!(fresh(&bench, Some(&roster[..length])) <= 50));
}

/// It has all of the shares at once, and its own picks count from then on.
#[test]
fn shares_that_were_learned_are_those_of_the_balancer() {
    let mut bench = Bench::new(1, 4);
    for _ in 0..100 {
        ["b:1", "c:1", "d:1", "d:1", "d:1", "d:1", "d:1", "d:1"]
            .iter()
            .for_each(|host| bench.ends(0, host, Signal::Answered));
    }
    bench.ends(0, "a:1", Signal::Refused);
    // Of this, it hears first.
    bench.ends(0, "b:1", Signal::Answered);
    bench.pass(1);
    bench.workers.push(Outliers::new(OutlierPolicy::default(), WorkerId(9)));
    bench.exchange(1);
    let to_d = |bench: &mut Bench| (0..800).filter(|_| bench.route(1, true).unwrap().hosts.starts_with("d:1")).count();
    let learned = to_d(&mut bench);
    assert!((520..=680).contains(&learned), "{learned} of 800, not six in eight");
    let b = (0..800).filter(|_| bench.route(1, true).unwrap().hosts.starts_with("b:1")).count();
    assert!((50..=160).contains(&b), "{b} of 800, not one in eight");
    // 1,024 are remembered.
    for _ in 0..400 {
        ["b:1", "c:1", "d:1"].iter().for_each(|host| bench.ends(1, host, Signal::Answered));
    }
    let own = to_d(&mut bench);
    let b = (0..800).filter(|_| bench.route(1, true).unwrap().hosts.starts_with("b:1")).count();
    assert!((200..=340).contains(&b), "{b} of 800, not one in three");
    assert!((200..=340).contains(&own), "{own} of 800, not one in three");
}

#[test]
fn a_fresh_worker_knows_of_every_ejection() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "a:1", Signal::Refused);
    bench.workers.push(Outliers::new(OutlierPolicy::default(), WorkerId(9)));
    bench.exchange(1);
    assert_eq!(bench.out(1), ["a:1"]);
}

/// What Envoy calls the hosts of Istio's ambient mode, and IPv6 ones.
#[test]
fn every_address_with_a_port_is_a_host() {
    let mut bench = Bench::new(1, 4);
    let long = "envoy://connect_originate/[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
    for address in ["envoy://connect_originate/10.0.0.7:8080", long, "[fe80::1%eth0]:80"] {
        bench.ends(0, address, Signal::Answered);
        bench.ends(0, address, Signal::Refused);
        assert!(bench.workers[0].is_ejected(address), "{address}");
    }
}

#[test]
fn nonsense_is_no_host() {
    let mut bench = Bench::new(1, 4);
    for address in
        ["", "a", "a,b:1", "a b:1", "a\r\n:1", ":1", "a:b", "a:99999", "/tmp/pipe", "a/,b:1", &"a".repeat(100)]
    {
        (0..10).for_each(|_| bench.ends(0, address, Signal::Refused));
    }
    assert_eq!((bench.workers[0].known(bench.now), bench.events.len()), (4, 0));
}

#[test]
fn hosts_that_come_and_go_leave_memory_flat() {
    let mut bench = Bench::new(1, 1);
    (0..10_000).for_each(|host| bench.ends(0, &format!("10.0.{}.{}:80", host / 256, host % 256), Signal::Answered));
    assert!(bench.workers[0].known(bench.now) <= weir::outlier::hosts::MOST_HOSTS);
}

#[test]
fn a_clock_that_steps_back_an_hour_keeps_nobody_out() {
    let mut bench = Bench::new(1, 4);
    bench.ends(0, "a:1", Signal::Refused);
    bench.now = Time::from_nanos(bench.now.as_nanos() - 3_600_000_000_000);
    bench.probe(0);
    bench.ends(0, "a:1", Signal::Answered);
    bench.probe(0);
    bench.ends(0, "a:1", Signal::Answered);
    assert_eq!(bench.out(0), [""; 0]);
}

/// What finds out whether a whole cluster is back goes where that is most likely: not to those that failed a moment ago.
#[test]
fn a_probe_for_the_circuit_goes_to_the_host_that_is_due_for_longest() {
    let mut bench = Bench::new(2, 4);
    let route = |bench: &mut Bench, worker: usize| {
        let now = bench.now;
        bench.workers[worker].route_circuit_probe(now, 2).map(|route| route.hosts)
    };
    assert_eq!(route(&mut bench, 0), None, "all are alike");
    bench.ends(0, "b:1", Signal::Refused);
    bench.pass(100);
    bench.ends(0, "c:1", Signal::Refused);
    bench.pass(0);
    assert_eq!(bench.out(1), ["b:1", "c:1"]);
    assert_eq!(route(&mut bench, 1), None, "it has had no time yet");
    bench.pass(600);
    // Whoever owns it.
    for worker in [0, 1] {
        let hosts = route(&mut bench, worker).unwrap();
        let list: Vec<_> = hosts.split(',').collect();
        assert_eq!((list[0], list.len()), ("b:1", 3), "{list:?}");
        assert!(list[1..].iter().all(|host| ["a:1", "d:1"].contains(host)), "{list:?}");
    }
}

/// What the breaker asks: is it one host, or the cluster?
#[test]
fn a_host_that_answered_a_moment_ago_is_known() {
    let mut bench = Bench::new(1, 2);
    let second = Duration::from_secs(1);
    let answers = |bench: &Bench| bench.workers[0].some_host_answers(second, bench.now);
    assert!(answers(&bench));
    bench.ends(0, "a:1", Signal::Timeout);
    assert!(answers(&bench), "the other one did");
    bench.ends(0, "b:1", Signal::Timeout);
    assert!(!answers(&bench));
    bench.ends(0, "b:1", Signal::Answered);
    bench.pass(999);
    assert!(answers(&bench));
    bench.pass(1);
    assert!(!answers(&bench), "that was a while ago");
}
