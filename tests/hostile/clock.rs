//! The host's clock is a wall clock: it can step back an hour, and ahead a year, and stand.

use super::Worker;
use super::fake_host::{End, flag::UC};
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3_600 * SECOND;
const YEAR: u64 = 365 * 24 * HOUR;
const HOSTS: [&str; 4] = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80"];

type Step = (&'static str, fn(u64) -> u64);

const STEPS: [Step; 6] = [
    ("an hour back", |now| now - HOUR),
    ("a year ahead", |now| now + YEAR),
    ("a second back", |now| now - SECOND),
    ("to the beginning", |_| 1),
    ("to the end", |_| u64::MAX),
    ("a day ahead", |now| now + 24 * HOUR),
];

fn calm(worker: &Worker, cluster: &str, rounds: u32) {
    for _ in 0..rounds {
        for host in HOSTS {
            worker.go(cluster, "/", host, true);
        }
        worker.host.advance(Duration::from_millis(50));
        worker.tick();
    }
}

/// A host that is out when the clock steps is back in time, and what is broken afterwards is found as before.
#[test]
fn ejections_survive_a_step_of_the_clock() {
    for (what, step) in STEPS {
        let worker = Worker::new("{}");
        let cluster = format!("step {what}");
        let out = || worker.host.metric(&format!("weir_hosts_out.cluster.{cluster}"));
        let ejected = || worker.host.metric(&format!("weir_ejections_total.reason.refused.cluster.{cluster}"));
        calm(&worker, &cluster, 60);
        worker.go(&cluster, "/", HOSTS[0], false);
        worker.tick();
        assert_eq!((out(), ejected()), (1, 1), "{what}");
        worker.host.set_time(step(worker.host.now()));
        // Its probes are answered: requests that are steered there first.
        let mut rounds = 0;
        while out() > 0 {
            rounds += 1;
            // The longest ejection takes 37.5 s, a lost host is dropped after a minute more.
            assert!(rounds < 2_400, "{what}: still out after two minutes");
            let request = worker.begin(&cluster, "GET", "/");
            let list = request.request_header("x-weir-hosts").unwrap_or_default();
            let first = list.split(',').next().filter(|host| !host.is_empty()).unwrap_or(HOSTS[1]).to_owned();
            worker.attempt(&request, &first, true);
            let end = End::new().host(&first).property("upstream.request_attempt_count", 1);
            request.end_with(&end.code(200).details("via_upstream"));
            worker.host.advance(Duration::from_millis(50));
            worker.tick();
        }
        if what == "to the end" {
            // There is no later; that nothing trapped is enough.
            continue;
        }
        calm(&worker, &cluster, 200);
        let before = ejected();
        worker.go(&cluster, "/", HOSTS[2], false);
        worker.tick();
        assert_eq!(ejected(), before + 1, "{what}: a host that breaks later");
    }
}

/// A budget that was full before is not empty for longer than its interval afterwards, and never gives more than it may.
#[test]
fn a_budget_survives_a_step_of_the_clock() {
    for (what, step) in STEPS {
        let policy = r#"{"outlierDetection": null,
            "retry": {"budget": {"percent": 0, "interval": "10s"}, "minRetryRate": {"count": 20, "interval": "10s"}}}"#;
        let worker = Worker::new(policy);
        let cluster = format!("budget {what}");
        // A request whose first attempt breaks off: whether its retry is let through.
        let retried = || {
            let request = worker.begin(&cluster, "GET", "/");
            let broke_off = End::of_attempt(&request, 1).host(HOSTS[0]).flags(UC);
            worker.attempt_that(&request, HOSTS[0], false, &broke_off);
            let retry = worker.host.attempt(worker.guard, &request, 2).host(HOSTS[1]).begin();
            let granted = retry.continued();
            // It is answered: a budget whose retries are in vain would be smaller.
            if granted {
                retry.response(200, []);
                request.set("response.code", 200).set("response.code_details", "via_upstream");
                request.response(200, []);
            }
            retry.end();
            let end = End::of_attempt(&request, 2);
            worker.host.attempt_log(worker.watch, &if granted { end.code(200) } else { end });
            request.end_with(&End::new().code(if granted { 200 } else { 503 }).details("via_upstream"));
            granted
        };
        let granted = |requests: u32| (0..requests).filter(|_| retried()).count();
        assert_eq!(granted(100), 20, "{what}: twenty in ten seconds");
        worker.host.set_time(step(worker.host.now()));
        // Whatever the clock says, little time has passed; a step ahead may look like an interval, a step back may not.
        let after = granted(100);
        assert!(after <= 20, "{what}: {after}");
        if what == "to the end" {
            continue;
        }
        // What was granted is forgotten an interval after the step, and a slot.
        worker.host.advance(Duration::from_secs(12));
        let later = granted(100);
        assert!((10..=20).contains(&later), "{what}: {later} of 20 an interval later");
    }
}
