//! A host goes and comes back.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::json;

use super::load::{Load, failed};
use super::replica::Mode;
use super::site::{Attempt, CLUSTER, Setup, Site};
use crate::alone::Test;
use crate::level::Level;
use crate::support::client::Request;
use crate::support::delay::Watch;
use crate::support::wait;

pub const TESTS: &[Test] = &[
    ("ejection::a_host_that_hangs_holds_no_probe", a_host_that_hangs_holds_no_probe),
    ("ejection::dead_from_the_start", dead_from_the_start),
];

pub const TIMED: &[Test] = &[
    ("ejection::watch::one_refusal", || one_refusal(Setup::new(Level::Watch))),
    ("ejection::guard::one_refusal", || one_refusal(Setup::new(Level::Guard))),
    ("ejection::decide::one_refusal", || one_refusal(Setup { policy: unretried(), ..Setup::new(Level::Decide) })),
    ("ejection::watch::one_of_two", || one_refusal(Setup { hosts: 2, ..Setup::new(Level::Watch) })),
    ("ejection::guard::one_of_two", || one_refusal(Setup { hosts: 2, ..Setup::new(Level::Guard) })),
    ("ejection::nobody_pays_for_probes", nobody_pays_for_probes),
    ("ejection::posts_only", posts_only),
];

/// `decide` alone sees the last attempt of each request, so a refusal that a retry mends is not seen.
pub fn unretried() -> serde_json::Value {
    json!({"role": "decide", "retry": null})
}

/// What met a replica that was dead throughout must have been a probe, or exploration, or the one that told.
fn only_probes_met(site: &Site, replica: usize, attempts: &[Attempt], lasted: Duration) -> anyhow::Result<()> {
    let address = site.replicas[replica].address.to_string();
    let met: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.host == address).collect();
    let (steered, unsteered): (Vec<_>, Vec<_>) = met.into_iter().partition(|attempt| attempt.steered());
    let probes = site.metric("probes_total");
    let is_probe = |attempt: &Attempt| attempt.list.split(',').next() == Some(&address);
    ensure!(steered.iter().all(|attempt| is_probe(attempt)), "led to a dead host: {steered:#?}");
    ensure!(steered.len() as u64 <= probes, "{} probes, but {probes} counted", steered.len());
    // Each host is explored every two seconds. Once it has refused for two seconds, up to one request in eight may meet it.
    let explored = 1 + (lasted.as_secs_f64() / 2.0).ceil() as usize;
    let cheap = if lasted > Duration::from_secs(2) { attempts.len() / 8 } else { 0 };
    ensure!(unsteered.len() <= 1 + explored + cheap, "{unsteered:#?} in {lasted:?}; {}", site.story());
    Ok(())
}

fn one_refusal(setup: Setup) -> anyhow::Result<()> {
    let (hosts, retried) = (setup.hosts, setup.level != Level::Decide);
    let site = setup.start()?;
    site.warm_up()?;
    ensure!(site.metric("ejections_total.reason.") == 0 && site.metric("probes_total") == 0, "{}", site.story());
    let (began, watch) = (Instant::now(), Watch::start());
    site.stop(0)?;
    let statuses = site.get("/out", 150)?;
    let failures = failed(&statuses).len();
    let attempts = site.attempts("/out", 150)?;
    let lasted = began.elapsed();
    if retried {
        ensure!(failures == 0, "{failures} of 150 failed; {}", site.story());
    } else {
        // Each attempt on the dead host is a failure.
        ensure!(failures == site.on(0, &attempts) && failures > 0, "{failures} of 150 failed");
    }
    only_probes_met(&site, 0, &attempts, lasted)?;
    site.wait_for("hosts_out", 1)?;
    ensure!(site.metric("ejections_total.reason.refused") >= 1, "{}", site.story());
    let address = site.replicas[0].address.to_string();
    site.envoy.wait_for_log(&[
        CLUSTER,
        &address,
        "ejected for",
        "refused, strike 0",
        &format!("1 of {hosts} are out"),
    ])?;
    labelled(&site)?;

    // Some strikes later it answers again.
    std::thread::sleep(Duration::from_millis(300).saturating_sub(began.elapsed()));
    site.get("/still-out", 30)?;
    let away = began.elapsed();
    site.replicas[0].start()?;
    // As long again as it was away, a quarter of jitter, and the ticks; without repeatable requests, a second for each wait.
    let patience = if retried { Duration::from_millis(700) } else { Duration::from_millis(2_500) };
    let limit = (away * 5 / 4).max(Duration::from_millis(320)) * 2 + patience;
    let (_, failed) =
        site.until_all_are_in(&Request::get("/back"), limit).with_context(|| format!("away for {away:?}"))?;
    ensure!(failed.is_empty() || !retried, "{failed:?}");
    ensure!(
        site.metric("readmissions_total") == 1,
        "{} readmissions; {}",
        site.metric("readmissions_total"),
        site.story()
    );
    ensure!(site.metric("probes_total") >= 2, "{} probes", site.metric("probes_total"));
    site.envoy.wait_for_log(&[CLUSTER, &address, "answers again", &format!("0 of {hosts} are out")])?;

    // Calm again: nothing is steered, and it has its share. Only where the machine keeps an answer waiting, the host of that looks
    // like one that hangs, and is left out for some seconds.
    let mut round = 0;
    let attempts = loop {
        let path = format!("/calm-{round}");
        ensure!(failed_free(&site.get(&path, 40 * hosts)?), "failures in a calm cluster");
        let attempts = site.attempts(&path, 40 * hosts)?;
        let steered: Vec<_> = attempts.iter().filter(|attempt| attempt.steered()).collect();
        let Some(first) = steered.first() else { break attempts };
        let taken = watch.read();
        let told = format!("{} of {} steered, such as {first:?}", steered.len(), attempts.len());
        let hangs = Duration::from_millis(50);
        ensure!(taken.delayed > hangs && taken.elapsed < wait::LIMIT, "{told}, after {taken}; {}", site.story());
        round += 1;
    };
    let share = site.on(0, &attempts);
    ensure!((35..=45).contains(&share), "{share} of {} attempts", attempts.len());
    ensure!(site.metric("steering_disobeyed_total") == 0, "{}", site.story());
    ensure!(site.metric("ejections_withheld_total.reason.") == 0, "{}", site.story());
    Ok(())
}

fn failed_free(statuses: &[u16]) -> bool {
    failed(statuses).is_empty()
}

/// Prometheus shows labels.
fn labelled(site: &Site) -> anyhow::Result<()> {
    let host = site.replicas[0].address.to_string();
    let expected = [
        format!(r#"weir_ejections_total{{weir_cluster="{CLUSTER}",weir_reason="refused"}}"#),
        format!(r#"weir_ejections_total{{weir_reason="refused",weir_cluster="{CLUSTER}"}}"#),
    ];
    let found = wait::until(wait::LIMIT, || {
        let text = site.envoy.admin.prometheus().map_err(|error| error.to_string())?;
        let has = |start: &str| text.lines().any(|line| line.starts_with(start));
        let gauge = format!(r#"weir_hosts_out{{weir_cluster="{CLUSTER}"}} 1"#);
        let gauge_type = "# TYPE weir_hosts_out gauge";
        let of_host = |line: &str| {
            let labels = [format!(r#"weir_host="{host}""#), format!(r#"weir_cluster="{CLUSTER}""#)];
            line.starts_with("weir_host_out{")
                && line.ends_with("} 1")
                && labels.iter().all(|label| line.contains(label))
        };
        if expected.iter().any(|line| has(line)) && has(&gauge) && has(gauge_type) && text.lines().any(of_host) {
            return Ok(());
        }
        Err(text.lines().filter(|line| line.contains("weir_")).collect::<Vec<_>>().join("\n"))
    });
    found.map_err(anyhow::Error::msg).context("labels")
}

/// Three workers, three connections each, GETs: a host that refuses for three seconds, and then comes back, costs nobody an
/// answer; nor does one that resets.
fn nobody_pays_for_probes() -> anyhow::Result<()> {
    let site = Setup { workers: 3, ..Setup::new(Level::Guard) }.start()?;
    site.warm_up()?;
    let request = Request::get("/load");
    let load = Load::start(&site, 9, Duration::from_millis(8), &request);
    std::thread::sleep(Duration::from_millis(200));
    let began = Instant::now();
    site.replicas[0].stop();
    let probed = wait::until(wait::LIMIT, || match site.metric("probes_total") {
        probes if probes >= 3 => Ok(probes),
        probes => Err(format!("{probes} probes; {}", site.story())),
    })
    .map_err(anyhow::Error::msg)?;
    let down = began.elapsed();
    let address = site.replicas[0].address.to_string();
    site.replicas[0].start()?;
    let started = Watch::start();
    wait::until(wait::LIMIT, || match site.metric("hosts_out") {
        0 => Ok(()),
        out => Err(format!("{out} are out; {}", site.story())),
    })
    .map_err(anyhow::Error::msg)?;
    let back = started.read();
    ensure!(
        back.is_within(down * 3 / 2 + Duration::from_secs(1)),
        "down {down:?}, back after {back}; {}",
        site.story()
    );
    let statuses = load.stop();
    let failed = failed(&statuses);
    ensure!(failed.is_empty(), "{failed:?} of {}, with {probed} probes; {}", statuses.len(), site.story());
    // Each worker may meet it before it hears of it.
    let attempts = site.attempts("/load", statuses.len())?;
    let refused: Vec<_> = attempts.iter().filter(|attempt| attempt.host == address && attempt.code == "0").collect();
    let probes = refused.iter().filter(|attempt| attempt.list.starts_with(&address)).count();
    let (others, seconds) = (refused.len() - probes, down.as_secs_f64());
    // Resets of what was under way, a refusal for each connection, and exploration by each worker.
    ensure!(others <= 9 + 9 + (3.0 * seconds).ceil() as usize, "{others} attempts besides probes: {refused:#?}");
    Ok(())
}

/// Without any timeout but the route's, which would fail what waits: a probe that is not answered is sent to another host, too.
fn a_host_that_hangs_holds_no_probe() -> anyhow::Result<()> {
    let route = json!({"route": {"timeout": "60s"}});
    let site = Setup { route, ..Setup::new(Level::Guard) }.start()?;
    site.warm_up()?;
    site.stop(0)?;
    let request = Request::get("/while");
    ensure!(failed_free(&site.send(&request, 40)?), "{}", site.story());
    site.wait_for("hosts_out", 1)?;
    site.replicas[0].set(Mode::Hang);
    let before = site.replicas[0].count();
    site.replicas[0].start()?;
    wait::until(wait::LIMIT, || {
        let statuses = site.send(&request, 20).map_err(|error| format!("{error:#}"))?;
        let met = site.replicas[0].count() - before;
        match (failed_free(&statuses), met) {
            (true, 3..) => Ok(()),
            _ => Err(format!("{statuses:?}, of which {met} met it; {}", site.story())),
        }
    })
    .map_err(anyhow::Error::msg)?;
    ensure!(site.metric("hosts_out") == 1, "it is in, and hangs; {}", site.story());
    let failures = site.stat("http.site.downstream_rq_5xx");
    ensure!(failures == 0, "{failures} requests failed; {}", site.story());
    site.replicas[0].set(Mode::Answer(200));
    let (_, statuses) = site.until_all_are_in(&request, wait::LIMIT)?;
    ensure!(failed_free(&statuses), "{statuses:?}; {}", site.story());
    Ok(())
}

/// POSTs alone: what is refused may be retried, so none fails, and the host comes back all the same.
fn posts_only() -> anyhow::Result<()> {
    let site = Setup::new(Level::Guard).start()?;
    let post = Request::post("/posts");
    ensure!(failed_free(&site.send(&post, 256)?), "failures in a calm cluster");
    site.stop(0)?;
    let statuses = site.send(&post, 150)?;
    ensure!(failed_free(&statuses), "{statuses:?}; {}", site.story());
    site.wait_for("hosts_out", 1)?;
    site.replicas[0].start()?;
    let (requests, failed) = site.until_all_are_in(&post, Duration::from_secs(5))?;
    ensure!(failed.is_empty(), "{failed:?} of {requests}");
    // None was processed twice: what the hosts saw is what was sent.
    let seen: usize = site.replicas.iter().map(super::replica::Replica::count).sum();
    ensure!(seen == 256 + 150 + requests, "{seen} POSTs processed of {}", 256 + 150 + requests);
    Ok(())
}

/// A host that refuses when Envoy starts: the three others share the requests, though they were never seen together.
fn dead_from_the_start() -> anyhow::Result<()> {
    let setup = Setup::new(Level::Guard);
    let site = setup.start()?;
    site.replicas[0].stop();
    let statuses = site.get("/", 300)?;
    ensure!(failed_free(&statuses), "{:?}; {}", failed(&statuses), site.story());
    site.wait_for("hosts_out", 1)?;
    let attempts = site.attempts("/", 300)?;
    let shares: Vec<usize> = (0..4).map(|replica| site.on(replica, &attempts)).collect();
    ensure!(shares[1..].iter().all(|share| *share >= 45), "{shares:?} of {}; {}", attempts.len(), site.story());
    Ok(())
}
