//! Four workers, one circuit: who finds out, and that the books agree.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::site::{
    Load, Mode, PATH, Switch, TIMEOUT, is_shed, metric, open, policy, stage, stage_with, story, wait_until,
};
use crate::alone::Test;
use crate::support::bootstrap::Attach;
use crate::support::client::Request;
use crate::support::delay::{self, Watch};
use crate::support::wait;

pub const TESTS: &[Test] = &[
    ("breaker::probes::given_back", given_back),
    ("breaker::decide::books", || books(Attach::DECIDE)),
    ("breaker::guard::books", || books(Attach::GUARD)),
];

pub const TIMED: &[Test] = &[
    ("breaker::probes::gets", || in_turn(&Request::get(PATH), Mode::Reset, [25, 70])),
    ("breaker::probes::posts", || in_turn(&Request::post(PATH), Mode::Reset, [75, 150])),
    ("breaker::probes::hang", || in_turn(&Request::get(PATH), Mode::Hang, [225, 400])),
    ("breaker::workers_act_together", workers_act_together),
];

const WORKERS: u32 = 4;

/// Probes reach the upstream one after the other, whatever the load on all workers: each so many milliseconds, at least and at
/// most. Those that are reset go on after a twentieth of `openTime`, and wait for a tenth more if they may not be repeated; those
/// that time out, here after 100 ms, after a quarter.
fn in_turn(request: &Request, mode: Mode, [least, most]: [u128; 2]) -> Result<()> {
    let upstream = Switch::new();
    let stage = stage_with(Attach::GUARD, policy("500ms"), WORKERS, &upstream, "0.1s")?;
    upstream.set(mode);
    let load = Load::start(stage.address, 16, Duration::from_millis(2), request);
    wait_until(&stage, true)?;
    // What was under way is over, and all workers know.
    upstream.upstream.wait_for(1).map_err(anyhow::Error::msg)?;
    delay::sleep(Duration::from_millis(250));
    let (watch, before) = (Watch::start(), upstream.upstream.count());
    std::thread::sleep(Duration::from_millis(3_200));
    let (seen, lasted) = ((upstream.upstream.count() - before) as u128, watch.read());
    load.stop()?;
    // A machine may be late.
    let fewest = (lasted.elapsed - lasted.delayed).as_millis() / most;
    let bounds = fewest..=lasted.elapsed.as_millis() / least + 1;
    ensure!(bounds.contains(&seen), "{seen} probes in {lasted}; {}", story(&stage));
    Ok(())
}

/// A probe whose client leaves says nothing: the next request is one.
fn given_back() -> Result<()> {
    let upstream = Switch::new();
    // Nothing but its client ends the probe.
    let stage = stage_with(Attach::GUARD, policy("15s"), 1, &upstream, "0s")?;
    open(&stage, &upstream, Mode::Reset, &Request::get(PATH))?;
    upstream.set(Mode::Hang);
    // Asks until one is let through, and leaves.
    let before = upstream.upstream.count();
    let mut client = stage.connect()?;
    stage.wait_for("a probe", |_| {
        client.send(&Request::get(PATH)).map_err(|error| error.to_string())?;
        let went = wait::until(wait::LIMIT, || match (upstream.upstream.count() > before, client.is_answered()) {
            (true, _) => Ok(true),
            (_, true) => Ok(false),
            _ => Err("neither let through nor shed".to_owned()),
        });
        if went? {
            return Ok(());
        }
        client.read_head().and_then(|mut head| client.read_body(&mut head)).map_err(|error| error.to_string())?;
        Err("shed".to_owned())
    })?;
    drop(client);
    upstream.set(Mode::Answer);
    let left = Watch::start();
    stage.wait_for("the next probe", |stage| {
        let response = stage.get(PATH).map_err(|error| error.to_string())?;
        if response.status == 200 { Ok(()) } else { Err(format!("{response:?}")) }
    })?;
    // Else it would be due 15 seconds after the first.
    let left = left.read();
    ensure!(left.is_within(Duration::from_secs(3)), "after {left}; {}", story(&stage));
    wait_until(&stage, false).map(drop)
}

/// What one worker found out, all act on.
fn workers_act_together() -> Result<()> {
    let upstream = Switch::new();
    // So that the first probe is due long after all have asked.
    let stage = stage(Attach::GUARD, policy("1h"), WORKERS, &upstream)?;
    let mut clients = (0..WORKERS).map(|_| stage.connect()).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        ensure!(client.exchange(&Request::get(PATH))?.status == 200);
    }
    upstream.set(Mode::Reset);
    // One worker meets the outage alone.
    let (first, others) = clients.split_first_mut().ok_or_else(|| anyhow::anyhow!("no client"))?;
    let mut met = false;
    for _ in 0..2_000 {
        if is_shed(&first.exchange(&Request::get(PATH))?)? {
            met = true;
            break;
        }
        std::thread::sleep(Duration::from_millis(4));
    }
    ensure!(met, "never shed; {}", story(&stage));
    delay::sleep(Duration::from_millis(200));
    for client in others {
        let response = client.exchange(&Request::get(PATH))?;
        ensure!(is_shed(&response)?, "{response:?}; {}", story(&stage));
    }
    ensure!(metric(&stage, "circuit_opened_total") == 1, "{}", story(&stage));
    Ok(())
}

/// Under load on four workers, through two outages: each request was either shed or reached the upstream, and what Weir
/// counts, what clients saw and what the upstream saw is the same.
fn books(attach: Attach) -> Result<()> {
    let upstream = Switch::new();
    let stage = stage_with(attach, policy("200ms"), WORKERS, &upstream, TIMEOUT)?;
    let load = Load::start(stage.address, 16, Duration::from_millis(2), &Request::post(PATH));
    let flows = || {
        let before = upstream.upstream.count();
        upstream.upstream.wait_for(before + 50).map_err(anyhow::Error::msg)
    };
    flows()?;
    for mode in [Mode::Reset, Mode::Hang] {
        upstream.set(mode);
        wait_until(&stage, true)?;
        let before = metric(&stage, "shed_total");
        stage.wait_for("what is shed", |stage| match metric(stage, "shed_total") - before {
            shed if shed > 100 => Ok(()),
            shed => Err(format!("{shed} were shed")),
        })?;
        upstream.set(Mode::Answer);
        wait_until(&stage, false)?;
        flows()?;
    }
    let outcome = load.stop()?;
    let (requests, shed) = (metric(&stage, "requests_total.retry."), metric(&stage, "shed_total"));
    let arrived = upstream.upstream.count() as u64;
    ensure!(outcome.shed > 200 && outcome.answered > 100, "{outcome:?}");
    ensure!(requests == outcome.sent, "{requests} requests counted, {outcome:?}");
    ensure!(shed == outcome.shed, "{shed} shed, {outcome:?}");
    let admitted = stage.stat(&format!("cluster.{}.upstream_rq_total", super::site::CLUSTER));
    ensure!(requests == shed + admitted, "{requests} requests, {shed} shed, {admitted} admitted");
    ensure!(arrived == admitted, "{arrived} arrived of {admitted}");
    ensure!(metric(&stage, "circuit_opened_total") == 2, "{}", story(&stage));
    Ok(())
}
