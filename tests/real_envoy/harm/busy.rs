//! Hosts that push back: one of them is busy, or all are.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::rate::Rate;
use crate::alone::Test;
use crate::breaker::metric;
use crate::stage::{Setup, Stage};
use crate::support::bootstrap::{self, Attach};
use crate::support::client::Request;
use crate::support::upstream::{Seen, Step, Upstream, answer, http1};

pub const TESTS: &[Test] = &[
    ("harm::busy::one_of_four", || one_of_four(503, &[("retry-after", "1")], &Request::get(PATH), 3)),
    ("harm::busy::one_of_four_overloaded", || {
        one_of_four(503, &[("x-envoy-overloaded", "true")], &Request::get(PATH), 3)
    }),
    ("harm::busy::one_of_four_429", || one_of_four(429, &[], &Request::get(PATH), 2)),
    ("harm::busy::one_of_four_posts", || one_of_four(503, &[("retry-after", "1")], &Request::post(PATH), 16)),
    ("harm::busy::all_of_them", all_of_them),
    ("harm::slow::by_nature_20_percent", || by_nature(5)),
    ("harm::slow::by_nature_5_percent", || by_nature(20)),
    ("harm::slow::by_nature_1_percent", || by_nature(100)),
];

const CLUSTER: &str = "orders";
const PATH: &str = "/orders/1";
/// For so long one of the hosts is busy. It is asked again each second.
const BUSY: Duration = Duration::from_secs(6);

pub fn stage(attach: Attach, hosts: &[Upstream]) -> Result<Stage> {
    let endpoint = |host: &Upstream| json!({"endpoint": {"address": bootstrap::address(host.address)}});
    let endpoints: Vec<_> = hosts.iter().map(endpoint).collect();
    let mut cluster = bootstrap::override_host("x-weir-hosts");
    cluster["load_assignment"] = json!({"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": endpoints}]});
    let route = json!({"route": {"retry_policy": super::previous_hosts()}});
    Setup::new(attach, Value::Null).cluster_with(CLUSTER, hosts[0].address, &cluster, &route).start()
}

/// Hosts that answer, and from a word on push back, so many of them.
fn hosts(
    busy: usize,
    status: u16,
    headers: &'static [(&'static str, &'static str)],
) -> (Arc<AtomicBool>, Vec<Upstream>) {
    let word = Arc::<AtomicBool>::default();
    let host = |number| {
        let word = Arc::clone(&word);
        http1(move |_| match number < busy && word.load(Ordering::SeqCst) {
            true => answer(status, headers, "later"),
            false => answer(200, &[], ""),
        })
    };
    let hosts = (0..4).map(host).collect();
    (word, hosts)
}

fn one_of_four(
    status: u16,
    headers: &'static [(&'static str, &'static str)],
    request: &Request,
    most: usize,
) -> Result<()> {
    let (word, hosts) = hosts(1, status, headers);
    let stage = stage(Attach::GUARD, &hosts)?;
    let rate = Rate::start(stage.address, 60, request);
    std::thread::sleep(Duration::from_secs(2));
    let from = Instant::now();
    word.store(true, Ordering::SeqCst);
    let before = hosts[0].count();
    std::thread::sleep(BUSY);
    let busy = hosts[0].count() - before;
    let sent = rate.stop();
    let in_time = sent.iter().filter(|sent| sent.at < from + BUSY);
    let failed: Vec<_> = in_time.filter(|sent| !sent.answered()).collect();
    let told = format!("{} of {} failed, {busy} reached the busy host", failed.len(), sent.len());
    // A quarter of 360 without Weir, but where Envoy retries whatever fails.
    ensure!(failed.len() <= most && busy <= 40, "{told}; {failed:?}; {}", stage.envoy().log_end());
    ensure!(metric(&stage, "ejections_total.reason.error") == 0, "{told}");
    Ok(())
}

/// Where all push back, nothing is repeated.
fn all_of_them() -> Result<()> {
    let (word, hosts) = hosts(4, 503, &[("retry-after", "1")]);
    let stage = stage(Attach::GUARD, &hosts)?;
    let rate = Rate::start(stage.address, 60, &Request::get(PATH));
    std::thread::sleep(Duration::from_secs(2));
    word.store(true, Ordering::SeqCst);
    std::thread::sleep(Duration::from_secs(5));
    let sent = rate.stop();
    let attempts: usize = hosts.iter().map(Upstream::count).sum();
    ensure!(attempts <= sent.len() + 8, "{attempts} attempts of {} requests", sent.len());
    Ok(())
}

/// One request in so many rightly takes long, by what others take, while a host is out. The first of them teach that it helps nobody
/// to start such a one twice. Where the machine keeps ordinary answers waiting, a second and a half is not long: there they all
/// take longer, and come as much more rarely, so that no more of them are sent before the first can teach.
fn by_nature(one_in: u32) -> Result<()> {
    const ROUNDS: u32 = 5;
    let host = |_| {
        http1(move |seen| match long(seen) {
            Some(millis) => [vec![Step::Wait(Duration::from_millis(millis))], answer(200, &[], "")].concat(),
            None => answer(200, &[], ""),
        })
    };
    let hosts: Vec<_> = (0..4).map(host).collect();
    let stage = stage(Attach::GUARD, &hosts)?;
    let rate = Rate::start(stage.address, PER_SECOND, &Request::get(PATH));
    let answered = |many: usize| {
        let count = || hosts.iter().map(Upstream::count).sum::<usize>();
        let before = count();
        stage.wait_for("answers", |_| match count() - before {
            some if some < many => Err(format!("{some} of {many}")),
            _ => Ok(()),
        })
    };
    answered(100)?;
    hosts[3].stop();
    stage.wait_for("it is out", |stage| match metric(stage, "hosts_out") {
        1 => Ok(()),
        out => Err(format!("{out} are out")),
    })?;
    answered(100)?;
    for _ in 0..ROUNDS {
        let takes = LONG.max(rate.take_slowest() * 30);
        let (sent, started, failed) = slow_requests(&stage, &hosts, takes, one_in)?;
        let slowest = rate.take_slowest();
        // Where the machine stood still, others took about as long, and nothing was long by nature: that says nothing.
        if slowest * 3 > takes {
            continue;
        }
        let again = started.saturating_sub(sent);
        ensure!(
            failed == 0 && again <= (sent / 20).max(2),
            "{sent} sent, {started} started, {failed} failed; each took {takes:?}, the slowest of the others {slowest:?}"
        );
        return Ok(());
    }
    bail!("in {ROUNDS} rounds, others took as long as what takes long by nature")
}

/// How long what takes long by nature takes, at least.
const LONG: Duration = Duration::from_millis(1_500);
const PER_SECOND: u32 = 80;

/// The path says how long a request takes, in milliseconds.
fn long(seen: &Seen) -> Option<u64> {
    seen.path.strip_prefix("/orders/slow/").and_then(|millis| millis.parse().ok())
}

/// Sends requests that take so long, one in so many. How many were sent, started by hosts, and failed.
fn slow_requests(stage: &Stage, hosts: &[Upstream], takes: Duration, one_in: u32) -> Result<(usize, usize, usize)> {
    let started =
        || hosts.iter().map(|host| host.seen().iter().filter(|seen| long(seen).is_some()).count()).sum::<usize>();
    let before = started();
    let pause = takes * one_in / PER_SECOND * 1_000 / u32::try_from(LONG.as_millis())?;
    let slow: Vec<_> = (0..12 * PER_SECOND / one_in)
        .map(|_| {
            let address = stage.address;
            std::thread::sleep(pause);
            let path = format!("/orders/slow/{}", takes.as_millis());
            std::thread::spawn(move || {
                crate::support::client::exchange(address, &Request::get(&path)).map(|response| response.status)
            })
        })
        .collect();
    let sent = slow.len();
    let statuses: Vec<_> = slow.into_iter().map(|slow| slow.join().ok().and_then(Result::ok)).collect();
    let failed = statuses.iter().filter(|status| **status != Some(200)).count();
    Ok((sent, started() - before, failed))
}
