//! All hosts are away for a while: clients are answered again as soon as one of them listens.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;

use super::rate::{Rate, Sent};
use crate::alone::Test;
use crate::ejection::site::{Setup, Site};
use crate::level::Level;
use crate::support::client::Request;
use crate::support::delay::Watch;
use crate::support::wait;

/// The longest comes first.
pub const PACED: &[Test] = &[
    ("harm::outages::four_replicas_20_a_second", || {
        outages(Level::Guard, 4, 20, &Request::get("/"), &[LENGTHS, LENGTHS].concat())
    }),
    ("harm::outages::one_replica_100_a_second", || outages(Level::Guard, 1, 100, &Request::get("/"), &LENGTHS)),
    ("harm::outages::one_replica_posts", || outages(Level::Guard, 1, 100, &Request::post("/"), &LENGTHS)),
    ("harm::outages::one_replica_20_a_second", || outages(Level::Guard, 1, 20, &Request::get("/"), &LENGTHS)),
    ("harm::outages::decide::one_replica", || outages(Level::Decide, 1, 100, &Request::get("/"), &LENGTHS)),
    ("harm::outages::three_replicas_100_a_second", || outages(Level::Guard, 3, 100, &Request::get("/"), &LENGTHS)),
];

/// How long all hosts are away, in milliseconds. Circuits open one to two seconds after everything began to fail.
const LENGTHS: [u64; 8] = [1_000, 2_000, 2_300, 2_900, 3_500, 1_600, 2_600, 5_000];

/// No outage lasts longer than this for clients, once a host listens.
const WORST: Duration = Duration::from_millis(250);

/// What came of one outage.
#[derive(Clone, Copy, Debug)]
struct Outage {
    lasted: Duration,
    /// From the first host that listens to the first request that is answered, less what the machine was away meanwhile.
    found: Duration,
    /// Requests that failed.
    _failed: usize,
}

fn outages(level: Level, hosts: usize, per_second: u32, request: &Request, lengths: &[u64]) -> Result<()> {
    let mut setup = Setup::new(level);
    setup.hosts = hosts;
    setup.workers = 2;
    setup.route = json!({"route": {"retry_policy": crate::harm::previous_hosts()}});
    if level == Level::Without {
        setup.route["route"]["retry_policy"]["retry_on"] = json!("connect-failure,refused-stream");
        setup.route["route"]["retry_policy"]["num_retries"] = json!(2);
    }
    let site = setup.start()?;
    site.warm_up()?;
    let rate = Rate::start(site.address, per_second, request);
    // Requests that fail though a host listens, since the machine is away.
    let mut away = 0.0;
    let mut spans = Vec::new();
    let before = attempts(&site);
    for length in lengths {
        std::thread::sleep(Duration::from_millis(3_000));
        let from = Instant::now();
        site.replicas.iter().for_each(|replica| replica.stop());
        std::thread::sleep(Duration::from_millis(*length));
        site.replicas.first().map(|replica| replica.start()).transpose()?;
        let (listens, watch) = (Instant::now(), Watch::start());
        wait::until(wait::LIMIT, || match rate.answered_after(listens) {
            true => Ok(()),
            false => Err(format!("no answer; {}", site.story())),
        })
        .map_err(anyhow::Error::msg)?;
        let delayed = watch.read().delayed;
        // The others are half a second later.
        std::thread::sleep(Duration::from_millis(500).saturating_sub(listens.elapsed()));
        spans.push((from, listens, delayed));
        away += watch.read().delayed.as_secs_f64() * f64::from(per_second);
        site.replicas.iter().skip(1).try_for_each(|replica| replica.start())?;
    }
    std::thread::sleep(Duration::from_millis(1_500));
    let sent = rate.stop();
    let spent = attempts(&site) - before;
    let outages: Vec<_> =
        spans.iter().map(|(from, listens, delayed)| outage(&sent, *from, *listens, *delayed)).collect();
    // Each outage has the requests of its time, and those that its end finds on their way: all of these fail without Weir, too.
    let least: f64 = outages.iter().map(|outage| outage.lasted.as_secs_f64() * f64::from(per_second)).sum();
    // And those that a machine which stood still kept until then.
    let kept = |sent: &&Sent| spans.iter().any(|(from, ..)| sent.due < *from && sent.at >= *from && !sent.answered());
    let least = least + sent.iter().filter(kept).count() as f64;
    let failed = sent.iter().filter(|sent| !sent.answered()).count();
    let mut found: Vec<_> = outages.iter().map(|outage| outage.found).collect();
    found.sort();
    let (median, worst) = (found[found.len() / 2], found[found.len() - 1]);
    let per_request = spent as f64 / sent.len() as f64;
    let told = format!(
        "{} failed, {least:.0} arrived while no host listened; {per_request:.2} attempts per request; median {median:?}, worst \
         {worst:?}; {outages:?}\n{}",
        failed,
        site.story()
    );
    println!("{told}");
    // Each request is one attempt, or hardly more: in half of the outages the first host that is back is met before all others were
    // tried once more, and one in fifty is luckier or less so by half a round.
    let round = Duration::from_secs(1) * hosts as u32 / per_second;
    ensure!(median <= Duration::from_millis(100).max(round * 3 / 4) && worst <= WORST.max(round * 7 / 5), "{told}");
    // Where several hosts are away, the first of them that is back must be met, too.
    let more = if hosts == 1 { 1.02 } else { 1.05 };
    ensure!(
        failed as f64 <= more * least + 2.0 * outages.len() as f64 + away,
        "{away:.0} while the machine was away; {told}"
    );
    ensure!(per_request < 1.2, "{told}");
    Ok(())
}

fn outage(sent: &[Sent], from: Instant, listens: Instant, delayed: Duration) -> Outage {
    let first = sent.iter().filter(|sent| sent.answered() && sent.ended >= listens).map(|sent| sent.ended).min();
    let around = |sent: &&Sent| sent.at >= from && sent.at < listens + Duration::from_millis(1_500);
    Outage {
        lasted: listens - from,
        found: first.map_or(Duration::MAX, |first| (first - listens).saturating_sub(delayed)),
        _failed: sent.iter().filter(around).filter(|sent| !sent.answered()).count(),
    }
}

/// What Envoy sent, or tried to.
fn attempts(site: &Site) -> u64 {
    site.stat("cluster.orders.upstream_rq_total") + site.stat("cluster.orders.upstream_rq_pending_failure_eject")
}
