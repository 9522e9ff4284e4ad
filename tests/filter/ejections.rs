//! Hosts that go and come back, through the callbacks: what `decide` asks of Envoy then, and that it asks nothing otherwise.

use super::fake_host::{Edit, End, Host, HostCall, Map, Stream, flag::*};
use super::{Attached, DECIDE, Level, SHADOW, counts};
use std::collections::BTreeMap;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const HEADER: &str = "x-weir-hosts";
const HOSTS: [&str; 4] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"];
const REFUSED: &str = "delayed connect error: Connection refused";

/// An Envoy that takes turns among four hosts, unless it is told where to go.
struct Balancer {
    at: Attached,
    cluster: &'static str,
    /// This one refuses.
    dead: Option<&'static str>,
    obeys: bool,
    /// So many of [`HOSTS`] there are, but for this one.
    hosts: usize,
    gone: Option<&'static str>,
    next: usize,
}

/// What became of a request.
#[derive(Debug, Default)]
struct Seen {
    list: Vec<String>,
    hosts: Vec<String>,
    answered: bool,
}

impl Balancer {
    fn new(at: Attached, cluster: &'static str) -> Self {
        at.host.clear_shared();
        Self { at, cluster, dead: None, obeys: true, hosts: HOSTS.len(), gone: None, next: 0 }
    }

    fn begin(&self, method: &str) -> Stream {
        self.at.host.request(self.at.decide).cluster(self.cluster).method(method).begin()
    }

    /// Where the n-th attempt goes.
    fn pick(&mut self, list: &[String], number: usize) -> String {
        let gone = self.gone;
        if let (true, Some(listed)) =
            (self.obeys, list.iter().filter(|host| gone != Some(host.as_str())).nth(number - 1))
        {
            return listed.clone();
        }
        self.next += 1;
        if gone == Some(HOSTS[self.next % self.hosts]) {
            self.next += 1;
        }
        HOSTS[self.next % self.hosts].to_owned()
    }

    /// A request from its first callback to its last, as Envoy orders them.
    fn go(&mut self, method: &str) -> Seen {
        self.at.host.advance(Duration::from_millis(5));
        if self.at.host.now() / 1_000_000 % 100 < 5 {
            self.at.tick();
        }
        let request = self.begin(method);
        self.finish(request)
    }

    fn finish(&mut self, request: Stream) -> Seen {
        let mut seen = Seen { list: list(&request), ..Seen::default() };
        let most: usize = request.request_header("x-envoy-max-retries").map_or(0, |text| text.parse().unwrap());
        for number in 1..=1 + most {
            let host = self.pick(&seen.list, number);
            let refused = self.dead == Some(&host);
            seen.hosts.push(host.clone());
            let attempt = self.at.guard.map(|guard| {
                let attempt = self.at.host.attempt(guard, &request, number as u32).host(&host).begin();
                assert_eq!(attempt.request_header(HEADER), None, "an upstream would see it");
                attempt
            });
            let end = End::of_attempt(&request, number as u32).host(&host);
            if !refused {
                attempt.iter().for_each(|attempt| assert!(attempt.response(200, [])));
                request.response(200, []);
            }
            if let Some(attempt) = attempt {
                attempt.end();
            }
            if refused {
                self.at.attempt_log(&end.flags(UF).failure_reason(REFUSED));
            } else if !self.at.watches_only_failures {
                self.at.attempt_log(&end.code(200));
            }
            if !refused {
                seen.answered = true;
                break;
            }
        }
        let host = seen.hosts.last().cloned().unwrap_or_default();
        let end = End::new().host(&host).property("upstream.request_attempt_count", seen.hosts.len() as u64);
        let end = if seen.answered {
            end.code(200)
        } else {
            request.response(503, []);
            end.code(503).flags(UF).details("upstream_reset_before_response_started{remote_connection_failure}")
        };
        request.end_with(&end);
        seen
    }

    fn warm_up(&mut self) {
        for _ in 0..400 {
            let seen = self.go("GET");
            assert!(seen.answered && seen.list.is_empty(), "{seen:?}");
        }
    }

    /// Kills a host, and goes on until it is out.
    fn kill(&mut self, host: &'static str) {
        self.dead = Some(host);
        for _ in 0..8 {
            let seen = self.go("GET");
            assert!(seen.answered, "{seen:?}");
        }
        assert_eq!(self.metric("ejections_total.reason.refused"), 1);
    }

    fn metric(&self, name: &str) -> u64 {
        self.at.host.metric(&format!("weir_{name}.cluster.{}", self.cluster))
    }

    fn out(&self, host: &str) -> u64 {
        self.metric(&format!("host_out.host.{host}"))
    }
}

fn list(request: &Stream) -> Vec<String> {
    request.request_header(HEADER).map_or_else(Vec::new, |list| list.split(',').map(str::to_owned).collect())
}

/// One that hangs must cost nobody: what can be repeated is sent once more, beside the first attempt, while a host is out.
#[test]
fn only_what_can_be_repeated_is_hedged_and_only_while_a_host_is_out() {
    const HEDGED: [&str; 2] = ["x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-hedge-on-per-try-timeout"];
    let hedged = |envoy: &mut Balancer, method| {
        let request = envoy.begin(method);
        let headers = HEDGED.map(|name| request.request_header(name).is_some());
        envoy.finish(request);
        assert_eq!(headers[0], headers[1]);
        headers[0]
    };
    let mut envoy = Balancer::new(Attached::new(Level::Guard), "hedged");
    envoy.warm_up();
    assert!(!hedged(&mut envoy, "GET"));
    envoy.kill(HOSTS[1]);
    for _ in 0..20 {
        envoy.go("GET");
    }
    assert!(hedged(&mut envoy, "GET"));
    assert!(!hedged(&mut envoy, "POST"));
    envoy.dead = None;
    (0..400).for_each(|_| drop(envoy.go("GET")));
    envoy.at.tick();
    assert_eq!(envoy.metric("hosts_out"), 0);
    assert!(!hedged(&mut envoy, "GET"));

    // Whoever sets a timeout has the last word; in shadow mode nothing is set.
    let timeout = r#"{ "role": "decide", "retry": { "perTryTimeout": "5s" } }"#;
    for (cluster, policy, ejections) in [("timed", timeout, "ejections"), ("shadowed", SHADOW, "shadow_ejections")] {
        let mut envoy = Balancer::new(Attached::with(Level::Guard, policy), cluster);
        envoy.warm_up();
        envoy.dead = Some(HOSTS[1]);
        for _ in 0..40 {
            let request = envoy.begin("GET");
            assert_eq!(request.request_header(HEDGED[1]), None, "{cluster}");
            envoy.finish(request);
        }
        assert_eq!(envoy.metric(&format!("{ejections}_total.reason.refused")), 1, "{cluster}");
    }
}

#[test]
fn requests_are_steered_only_while_a_host_is_out() {
    for (level, cluster) in [(Level::Watch, "steered, watched"), (Level::Guard, "steered, guarded")] {
        let mut envoy = Balancer::new(Attached::new(level), cluster);
        envoy.warm_up();
        envoy.kill(HOSTS[1]);
        let mut probes = 0;
        let mut unsteered = 0;
        let mut shares = BTreeMap::<String, u32>::new();
        for _ in 0..400 {
            let seen = envoy.go("GET");
            assert!(seen.answered, "{seen:?}");
            *shares.entry(seen.hosts.last().unwrap().clone()).or_default() += 1;
            let Some(first) = seen.list.first() else {
                unsteered += 1;
                continue;
            };
            probes += u64::from(first == HOSTS[1]);
            let mut distinct = seen.list.clone();
            distinct.sort();
            distinct.dedup();
            assert_eq!(distinct.len(), seen.list.len(), "{:?}", seen.list);
            assert!(seen.list.len() >= 3 && seen.list[1..].iter().all(|host| host != HOSTS[1]), "{:?}", seen.list);
        }
        envoy.at.tick();
        assert_eq!((envoy.metric("hosts_out"), envoy.out(HOSTS[1]), envoy.out(HOSTS[0])), (1, 1, 0));
        assert!(probes >= 1 && envoy.metric("probes_total") == probes, "{probes} probes");
        assert!(unsteered <= 20, "{unsteered} of 400 were not steered");
        assert!(HOSTS.iter().filter(|host| **host != HOSTS[1]).all(|host| shares[*host] > 80), "{shares:?}");
        envoy.dead = None;
        let back = (0..800).find(|_| envoy.go("GET").answered && envoy.metric("readmissions_total") == 1);
        assert!(back.is_some(), "not back after four seconds");
        envoy.at.tick();
        assert_eq!((envoy.metric("hosts_out"), envoy.out(HOSTS[1])), (0, 0));
        for _ in 0..100 {
            assert_eq!(envoy.go("GET").list, Vec::<String>::new());
        }
        let lines: Vec<_> = envoy.at.host.take_logs().into_iter().map(|line| line.text).collect();
        assert!(lines.iter().any(|line| line.contains(cluster) && line.contains("ejected for")), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains(cluster) && line.contains("answers again")), "{lines:?}");
    }
}

#[test]
fn what_a_client_sends_is_removed() {
    let mut envoy = Balancer::new(Attached::new(Level::Watch), "spoofed");
    let spoof = |envoy: &Balancer| {
        let request = envoy.at.host.request(envoy.at.decide).cluster(envoy.cluster);
        let request = request.add_header(HEADER, HOSTS[3]).add_header(HEADER, HOSTS[3]).begin();
        let list = list(&request);
        request.end();
        list
    };
    assert_eq!(spoof(&envoy), Vec::<String>::new());
    envoy.warm_up();
    envoy.kill(HOSTS[3]);
    for _ in 0..30 {
        let list = spoof(&envoy);
        assert!(list.get(1..).is_none_or(|rest| rest.iter().all(|host| host != HOSTS[3])), "{list:?}");
    }
    // Also where the route has no cluster.
    let request = envoy.at.host.request(envoy.at.decide).header(HEADER, HOSTS[0]).begin();
    assert_eq!(list(&request), Vec::<String>::new());
}

#[test]
fn one_probe_at_a_time_and_none_is_lost() {
    let mut envoy = Balancer::new(Attached::with(Level::Guard, r#"{"steering": {"explorePercent": 0}}"#), "one probe");
    envoy.warm_up();
    envoy.kill(HOSTS[2]);
    envoy.at.host.advance(Duration::from_millis(400));
    let is_probe = |request: &Stream| list(request).first().is_some_and(|first| first == HOSTS[2]);
    let begin =
        |envoy: &Balancer| (0..3).map(|_| envoy.begin("GET")).find_map(|request| is_probe(&request).then_some(request));
    let probe = begin(&envoy).expect("the host is due");
    let before = envoy.metric("probes_total");
    assert_eq!(before, 1);
    for _ in 0..20 {
        let seen = envoy.go("GET");
        assert!(seen.list.first().is_none_or(|first| first != HOSTS[2]), "a second probe: {seen:?}");
    }
    // Its client goes away: no verdict, and the slot is free.
    probe.end_with(&End::new().flags(DC));
    assert_eq!(envoy.metric("ejections_total.reason.refused"), 1);
    let probe = begin(&envoy).expect("the slot is free");
    assert_eq!(envoy.metric("probes_total"), 2);
    let seen = envoy.finish(probe);
    assert!(seen.answered && seen.hosts.len() == 2, "healthy hosts stand behind a probe: {seen:?}");
    assert_eq!(envoy.metric("ejections_total.reason.refused"), 2, "out for longer");
    // POSTs wait, and then go as probes as well.
    envoy.at.host.advance(Duration::from_millis(900));
    assert!(!is_probe(&envoy.begin("POST")), "a POST is no probe so soon");
    envoy.at.host.advance(Duration::from_millis(1_200));
    let request = (0..3).map(|_| envoy.begin("POST")).find(is_probe).expect("a POST is better than none");
    let seen = envoy.finish(request);
    assert!(seen.answered, "{seen:?}");
}

#[test]
fn shadow_mode_judges_and_leads_nobody() {
    let mut envoy = Balancer::new(Attached::with(Level::Guard, SHADOW), "shadow ejections");
    for _ in 0..400 {
        envoy.go("GET");
    }
    envoy.dead = Some(HOSTS[0]);
    for _ in 0..100 {
        let request = envoy.begin("GET");
        assert!(request.edits().iter().all(|edit| edit.name != HEADER), "{:?}", request.edits());
        envoy.at.host.advance(Duration::from_millis(5));
        envoy.finish(request);
    }
    assert!(envoy.metric("shadow_ejections_total.reason.refused") >= 1);
    assert_eq!(envoy.metric("ejections_total.reason.refused"), 0);
    envoy.at.tick();
    assert_eq!((envoy.metric("shadow_hosts_out"), envoy.metric("hosts_out")), (1, 0));
    let would_be_out = format!("shadow_host_out.host.{}", HOSTS[0]);
    assert_eq!((envoy.metric(&would_be_out), envoy.out(HOSTS[0])), (1, 0));
    let keys = envoy.at.host.shared_keys();
    assert!(keys.iter().any(|key| key == "weir/shadow-ejections/shadow ejections"), "{keys:?}");
    assert!(!keys.iter().any(|key| key == "weir/ejections/shadow ejections"), "{keys:?}");
    assert_eq!(envoy.metric("steering_disobeyed_total"), 0);
    // What is no longer decided is not told any more as if it were.
    envoy.at.host.start(DECIDE);
    assert_eq!((envoy.metric("shadow_hosts_out"), envoy.metric(&would_be_out)), (0, 0));
    let shadow = envoy.metric("shadow_ejections_total.reason.refused");
    for _ in 0..100 {
        envoy.at.host.advance(Duration::from_millis(5));
        envoy.go("GET");
    }
    assert!(envoy.metric("ejections_total.reason.refused") >= 1);
    assert_eq!(envoy.metric("shadow_ejections_total.reason.refused"), shadow);
}

#[test]
fn the_gauges_of_hosts_do_not_outlive_outlier_detection() {
    let mut envoy = Balancer::new(Attached::new(Level::Guard), "judged no more");
    envoy.warm_up();
    envoy.kill(HOSTS[1]);
    envoy.at.tick();
    assert_eq!((envoy.metric("hosts_out"), envoy.metric("hosts_known"), envoy.out(HOSTS[1])), (1, 4, 1));
    envoy.at.host.start(r#"{"outlierDetection": null}"#);
    envoy.at.tick();
    assert_eq!((envoy.metric("hosts_out"), envoy.metric("hosts_known"), envoy.out(HOSTS[1])), (0, 0, 0));
}

#[test]
fn a_cluster_that_does_not_obey_is_told_of_once() {
    let config = r#"{"outlierDetection": {"baseEjectionTime": "1m", "maxEjectionTime": "1m"}}"#;
    let mut envoy = Balancer::new(Attached::with(Level::Guard, config), "disobeying");
    envoy.obeys = false;
    for _ in 0..400 {
        envoy.go("GET");
    }
    assert_eq!(envoy.metric("steering_disobeyed_total"), 0);
    envoy.dead = Some(HOSTS[0]);
    for _ in 0..600 {
        envoy.go("GET");
    }
    assert_eq!(envoy.metric("steering_disobeyed_total"), 1);
    let logs = envoy.at.host.take_logs();
    let warnings: Vec<_> = logs.iter().filter(|line| line.level == 3).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].text.contains("override_host") && warnings[0].text.contains("disobeying"), "{warnings:?}");
}

/// With two hosts, every other request goes right by chance.
#[test]
fn two_hosts_that_do_not_obey_are_told_of() {
    let config = r#"{"outlierDetection": {"baseEjectionTime": "1m", "maxEjectionTime": "1m"}}"#;
    for obeys in [false, true] {
        let cluster = if obeys { "two that obey" } else { "two that do not" };
        let mut envoy = Balancer::new(Attached::with(Level::Guard, config), cluster);
        (envoy.obeys, envoy.hosts) = (obeys, 2);
        (0..200).for_each(|_| drop(envoy.go("GET")));
        envoy.dead = Some(HOSTS[0]);
        (0..300).for_each(|_| drop(envoy.go("GET")));
        assert_eq!(envoy.metric("hosts_out"), 1);
        assert_eq!(envoy.metric("steering_disobeyed_total"), u64::from(!obeys), "{cluster}");
    }
}

/// Of nearly all requests that are steered and answered Envoy need not be asked where they went, and how often they were sent. Still it
/// is seen if they go elsewhere from now on.
#[test]
#[cfg_attr(target_arch = "wasm32", ignore = "in Node all tests share one VM, and others have steered")]
fn what_obeys_is_hardly_asked_where_it_went() {
    let config = r#"{"outlierDetection": {"baseEjectionTime": "1m", "maxEjectionTime": "1m"}}"#;
    for (level, cluster, most) in [(Level::Watch, "obeying, watch", 2.3), (Level::Guard, "obeying, guard", 3.3)] {
        let at = Attached::only_failures(level);
        at.host.start(&format!(r#"{{"role": "decide", {}"#, &config[1..]));
        let mut envoy = Balancer::new(at, cluster);
        envoy.warm_up();
        envoy.kill(HOSTS[0]);
        (0..100).for_each(|_| drop(envoy.go("GET")));
        let asked = |envoy: &Balancer| envoy.at.host.calls().get(&HostCall::GetProperty).copied().unwrap_or_default();
        let (before, mut steered) = (asked(&envoy), 0);
        for _ in 0..400 {
            steered += usize::from(!envoy.go("GET").list.is_empty());
        }
        let each = (asked(&envoy) - before) as f64 / 400.0;
        assert!(steered > 300, "{level:?}: {steered} of 400");
        assert!(each < most, "{level:?}: {each} properties for each request");
        assert_eq!(envoy.metric("steering_disobeyed_total"), 0);
        envoy.dead = None;
        envoy.obeys = false;
        (0..200).for_each(|_| drop(envoy.go("GET")));
        assert_eq!(envoy.metric("steering_disobeyed_total"), 1, "{level:?}");
    }
}

/// Envoy skips what is not in the cluster any more, and that is seen at once.
#[test]
fn a_host_that_is_skipped_is_listed_no_longer() {
    let config = r#"{"outlierDetection": {"baseEjectionTime": "1m", "maxEjectionTime": "1m"}}"#;
    let mut envoy = Balancer::new(Attached::with(Level::Guard, config), "skipped");
    envoy.warm_up();
    envoy.kill(HOSTS[0]);
    envoy.gone = Some(HOSTS[1]);
    let listed = |envoy: &mut Balancer| (0..40).filter(|_| envoy.go("GET").list.iter().any(|h| h == HOSTS[1])).count();
    assert!(listed(&mut envoy) <= 20);
    assert_eq!(listed(&mut envoy), 0);
    assert_eq!(envoy.metric("steering_disobeyed_total"), 0);
}

/// Without steering, hosts are judged and nothing is done about it.
#[test]
fn without_steering_ejections_are_reported() {
    let mut envoy = Balancer::new(Attached::with(Level::Guard, r#"{"steering": null}"#), "reported");
    (0..200).for_each(|_| assert_eq!(envoy.go("GET").list, Vec::<String>::new()));
    envoy.dead = Some(HOSTS[2]);
    for _ in 0..100 {
        let request = envoy.begin("GET");
        assert!(request.edits().iter().all(|edit| edit.name != HEADER), "{:?}", request.edits());
        envoy.finish(request);
    }
    envoy.at.tick();
    assert!(envoy.metric("ejections_total.reason.refused") >= 1);
    assert_eq!((envoy.metric("hosts_out"), envoy.metric("hosts_known")), (1, 4));
    envoy.dead = None;
    let back = (0..800).find(|_| envoy.go("GET").answered && envoy.metric("readmissions_total") == 1);
    assert!(back.is_some(), "not back after four seconds");
    assert_eq!(envoy.metric("probes_total"), 0);
}

/// Hosts that come and go: so many are remembered, and it shows.
#[test]
fn hosts_are_bounded_and_counted() {
    let at = Attached::new(Level::Guard);
    at.host.clear_shared();
    for host in 0..5_000 {
        let request = at.host.request(at.decide).cluster("bounded").begin();
        let address = format!("10.1.{}.{}:80", host / 256, host % 256);
        // A failure each, so that each is looked at.
        at.attempt_log(&End::of_attempt(&request, 1).host(&address).code(500));
        request.response(500, []);
        request.end_with(&End::new().host(&address).code(500));
    }
    at.tick();
    let metric = |name: &str| at.host.metric(&format!("weir_{name}.cluster.bounded"));
    assert_eq!((metric("hosts_known"), metric("hosts_forgotten_total")), (1_000, 4_000));
    assert!(at.host.metric("weir_clusters_known") >= 1);
    for cluster in 0..1_100 {
        at.host.request(at.decide).cluster(&format!("one of many {cluster}")).begin().end();
    }
    at.tick();
    assert_eq!(at.host.metric("weir_clusters_known"), 1_000);
    assert!(at.host.metric("weir_clusters_forgotten_total") >= 100);
    let long = "l".repeat(513);
    at.host.request(at.decide).cluster(&long).begin().end();
    assert_eq!(at.host.metric(&format!("weir_requests_total.retry.idempotent.cluster.{long}")), 0);
}

#[test]
fn a_new_policy_forgets_no_ejection() {
    let mut envoy = Balancer::new(Attached::new(Level::Guard), "policy while out");
    envoy.warm_up();
    envoy.kill(HOSTS[1]);
    let old = envoy.at.decide;
    envoy.at.decide = envoy.at.host.start(r#"{"retry": {"maxRetries": 1}}"#);
    envoy.at.host.stop(old);
    let steered = (0..20).filter(|_| !envoy.go("GET").list.is_empty()).count();
    assert!(steered >= 16, "{steered} of 20");
    // Without the section nothing is steered, whoever is out.
    envoy.at.decide = envoy.at.host.start(r#"{"outlierDetection": null}"#);
    for _ in 0..20 {
        assert_eq!(envoy.go("GET").list, Vec::<String>::new());
    }
}

/// The calls of the host that one calm request costs, on average, by kind.
fn cost(level: Level, cluster: &'static str, config: &str) -> BTreeMap<HostCall, f64> {
    const REQUESTS: u32 = 800;
    let mut envoy = Balancer::new(Attached::with(level, config), cluster);
    for _ in 0..400 {
        envoy.go("GET");
    }
    let calls = |host: &Host| host.calls();
    let before = calls(&envoy.at.host);
    for _ in 0..REQUESTS {
        let request = envoy.begin("GET");
        envoy.finish(request);
    }
    let since = |(call, count): (HostCall, u64)| {
        (call, (count - before.get(&call).copied().unwrap_or_default()) as f64 / f64::from(REQUESTS))
    };
    calls(&envoy.at.host).into_iter().map(since).filter(|(_, count)| *count > 0.0).collect()
}

#[test]
#[cfg_attr(target_arch = "wasm32", ignore = "in Node all tests share one VM, and others have steered")]
fn a_calm_cluster_costs_little() {
    let off = r#"{"outlierDetection": null}"#;
    let rows = [
        (Level::Decide, "cost, decide", "cost, decide, off", 10.8),
        (Level::Watch, "cost, watch", "cost, watch, off", 14.8),
        (Level::Guard, "cost, guard", "cost, guard, off", 17.8),
    ];
    for (level, cluster, without, most) in rows {
        let (on, off) = (cost(level, cluster, "{}"), cost(level, without, off));
        let total = |cost: &BTreeMap<HostCall, f64>| cost.values().sum::<f64>();
        println!("{level:?}: {:.2} calls {on:?}\n  without outlier detection {:.2} {off:?}", total(&on), total(&off));
        assert!(total(&on) <= most, "{level:?}: {} calls for each request: {on:?}", total(&on));
        assert!(total(&on) - total(&off) <= 0.75, "{level:?}: {on:?}, and without outlier detection {off:?}");
        // Nothing is said to Envoy that it would act on, and no record is read for a request.
        let no_more =
            |call: HostCall| on.get(&call).copied().unwrap_or_default() - off.get(&call).copied().unwrap_or_default();
        for call in [HostCall::ReplaceHeader, HostCall::RemoveHeader, HostCall::GetHeaderPairs, HostCall::GetHeader] {
            assert!(no_more(call).abs() < 1e-9, "{level:?}: {call:?} {}", no_more(call));
        }
        assert!(no_more(HostCall::GetSharedData) < 0.01, "{level:?}: {on:?}");
    }
}

#[test]
#[cfg_attr(target_arch = "wasm32", ignore = "in Node all tests share one VM, and others have steered")]
fn a_calm_guard_removes_nothing() {
    let at = Attached::new(Level::Guard);
    let request = at.host.request(at.decide).cluster("calm guard").begin();
    let attempt = at.host.attempt(at.guard.unwrap(), &request, 1).begin();
    let edits: Vec<Edit> = attempt.edits().into_iter().filter(|edit| edit.map == Map::Request).collect();
    assert_eq!(edits, []);
    assert_eq!(counts(&at.host, "ejections", "reason", "calm guard"), BTreeMap::new());
}

/// Envoy forgets no gauge: what was told of a host that was out when the last request came must not stand for ever, nor when a
/// thousand other clusters make Weir forget its own.
#[test]
fn a_gauge_does_not_outlive_an_ejection_without_requests() {
    for others in [0, 1_100] {
        let cluster = ["abandoned", "abandoned and forgotten"][usize::from(others > 0)];
        let mut envoy = Balancer::new(Attached::new(Level::Guard), cluster);
        envoy.warm_up();
        envoy.kill(HOSTS[0]);
        envoy.at.tick();
        assert_eq!((envoy.metric("hosts_out"), envoy.out(HOSTS[0])), (1, 1), "{cluster}");
        for other in 0..others {
            envoy.at.host.request(envoy.at.decide).cluster(&format!("other {other}")).begin().end();
        }
        for _ in 0..700 {
            envoy.at.host.advance(Duration::from_millis(100));
            envoy.at.tick();
        }
        assert_eq!((envoy.metric("hosts_out"), envoy.out(HOSTS[0])), (0, 0), "{cluster}");
    }
}

/// Envoy asks another host in place of one that pushes back only where it was told so when the request arrived: what it will not
/// send is not paid, and no hop above shall send it.
#[test]
fn the_first_pushback_pays_for_no_retry() {
    let mut envoy = Balancer::new(Attached::new(Level::Guard), "first pushback");
    envoy.warm_up();
    // It is told of the next requests for a minute, since the host may push back each time that it is asked again.
    for (later, told, granted) in [(0, false, 0), (0, true, 1), (50, true, 2), (70, false, 2)] {
        envoy.at.host.advance(Duration::from_secs(later));
        let request = envoy.begin("GET");
        assert_eq!(request.request_header("x-envoy-retriable-header-names").is_some(), told);
        let attempt = envoy.at.host.attempt(envoy.at.guard.unwrap(), &request, 1).host(HOSTS[0]).begin();
        assert!(attempt.response(429, []));
        assert_eq!(attempt.response_header("x-weir-not-sent").is_some(), told);
        assert_eq!(attempt.response_header("x-envoy-ratelimited").is_some(), !told);
        assert_eq!(envoy.metric("retries_total.verdict.granted"), granted, "told: {told}");
        attempt.end();
        envoy.at.attempt_log(&End::of_attempt(&request, 1).host(HOSTS[0]).code(429));
        request.response(429, []);
        request.end_with(&End::new().host(HOSTS[0]).property("upstream.request_attempt_count", 1).code(429));
    }
}
