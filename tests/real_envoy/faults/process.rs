//! What happens to Envoy's process: another takes over, it stalls, it is overloaded, it drains. (Its clock is turned in
//! `tests/hostile/clock.rs`: Envoy does not start under libfaketime.)

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::alone::Test;
use crate::check::Tally;
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::{Connection, Request, exchange};
use crate::support::envoy::{Envoy, Launch};
use crate::support::upstream::{Step, Upstream, answer, http1};
use crate::support::{ports, wait};

pub const TESTS: &[Test] = &[
    ("faults::hot_restart", hot_restart),
    ("faults::stalled", stalled),
    ("faults::overload", overload),
    ("faults::drain", drain),
];

/// A bootstrap with all roles, one listener and a cluster of one upstream.
fn config(port: u16, upstream: &Upstream, over: &Value) -> Value {
    let listener = bootstrap::listener(Listener {
        name: "process",
        port,
        attach: Attach::GUARD,
        policy: &json!({"role": "decide"}),
        routes: vec![bootstrap::route("/", "upstream")],
        logs: None,
        manager: Value::Null,
    });
    let mut config = bootstrap::bootstrap(&[listener], &[bootstrap::cluster("upstream", &[upstream.address])]);
    bootstrap::merge(&mut config, over);
    config
}

fn ok() -> Upstream {
    http1(|_| answer(200, &[], ""))
}

/// The second Envoy takes the first one's listener: no request fails, and Weir works in both.
fn hot_restart() -> Result<()> {
    const MORE: usize = 8;
    let upstream = http1(|request| {
        if request.header("x-envoy-attempt-count") == Some("1") { vec![Step::Rst] } else { answer(200, &[], "") }
    });
    let address = ports::free();
    let id = 20_000 + std::process::id() % 10_000;
    let launch = |epoch| {
        Launch::json(config(address.port(), &upstream, &Value::Null))
            .concurrency(2)
            .hot_restart(id, epoch)
            .argument("--drain-time-s")
            .argument("2")
            // Whatever is under way when the other takes over has ended long before that.
            .argument("--parent-shutdown-time-s")
            .argument("12")
            .start()
    };
    let mut first = launch(0)?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Each request has a connection of its own, and needs a retry.
        let load = |_| {
            scope.spawn(|| {
                let mut failed = Vec::new();
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    count += 1;
                    match exchange(address, &Request::get("/")) {
                        Ok(response) if response.status == 200 => {}
                        other => failed.push(format!("{other:?}")),
                    }
                    // Few enough for the budget's floor of ten a second.
                    std::thread::sleep(Duration::from_millis(250));
                }
                (count, failed)
            })
        };
        let loads: Vec<_> = (0..2).map(load).collect();
        let more = || upstream.wait_for(upstream.count() + 12);
        let before = more();
        let second = launch(1);
        let gone =
            wait::until(
                wait::LIMIT,
                || if first.is_running() { Err("the first one stays".to_owned()) } else { Ok(()) },
            );
        let after = more();
        over.store(true, Ordering::Relaxed);
        let results: Vec<(usize, Vec<String>)> = loads.into_iter().filter_map(|load| load.join().ok()).collect();
        let second = second?;
        for waited in [before, gone, after] {
            waited.map_err(anyhow::Error::msg)?;
        }
        let failed: Vec<_> = results.iter().flat_map(|(_, failed)| failed).collect();
        let count: usize = results.iter().map(|(count, _)| count).sum();
        println!("{count} requests during a hot restart");
        ensure!(failed.is_empty() && count > 10, "{failed:?} of {count}\n{}", second.log_end());
        second.wait_for_log(&["weir", "roles decide, watch, guard"])?;
        // What the first one counted in its last moments, Envoy may lose. What the second counts from now on is exact.
        let granted = |tally: &Tally| tally.retries.iter().filter(|verdict| *verdict == "granted").count();
        let before = wait::until(wait::LIMIT, || {
            let before = Tally::read(second.admin, "upstream")?;
            std::thread::sleep(Duration::from_millis(500));
            let after = Tally::read(second.admin, "upstream")?;
            if before == after { Ok(after) } else { Err("it still counts what came before".to_owned()) }
        })
        .map_err(anyhow::Error::msg)?;
        for _ in 0..MORE {
            let response = exchange(address, &Request::get("/"))?;
            ensure!(response.status == 200, "{response:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        wait::until(wait::LIMIT, || {
            let tally = Tally::read(second.admin, "upstream")?;
            let more = [
                tally.requests - before.requests,
                granted(&tally) - granted(&before),
                tally.attempts.len() - before.attempts.len(),
            ];
            if more == [MORE, MORE, 2 * MORE] {
                Ok(())
            } else {
                Err(format!("requests, retries, attempts after {MORE} more: {more:?}"))
            }
        })
        .map_err(anyhow::Error::msg)
    })
}

/// A process that stands still for longer than anything is valid, and goes on.
fn stalled() -> Result<()> {
    let upstream = ok();
    let address = ports::free();
    let envoy = Launch::json(config(address.port(), &upstream, &Value::Null)).concurrency(2).start()?;
    let signal = |name: &str| -> Result<()> {
        let status =
            Command::new("sh").arg("-c").arg(format!("kill {name} {}", envoy.pid())).status().context("kill")?;
        ensure!(status.success(), "kill {name}");
        Ok(())
    };
    let send = |count| -> Result<()> {
        let mut connection = Connection::open(address)?;
        for _ in 0..count {
            let response = connection.exchange(&Request::get("/"))?;
            ensure!(response.status == 200, "{response:?}");
        }
        Ok(())
    };
    send(100)?;
    signal("-STOP")?;
    std::thread::sleep(Duration::from_secs(3));
    signal("-CONT")?;
    send(100)?;
    requests(&envoy, 200)
}

/// Waits until Weir has counted so many requests, and as many answers.
fn requests(envoy: &Envoy, count: usize) -> Result<()> {
    wait::until(wait::LIMIT, || {
        let tally = Tally::read(envoy.admin, "upstream")?;
        let answered = tally.attempts.iter().filter(|signal| *signal == "answered").count();
        if tally.requests == count && answered == count { Ok(()) } else { Err(format!("{tally:?}")) }
    })
    .map_err(anyhow::Error::msg)
}

/// The overload manager refuses requests before they reach Weir, and Weir counts none of them.
fn overload() -> Result<()> {
    let upstream = ok();
    let address = ports::free();
    let directory = tempfile::tempdir()?;
    let pressure = directory.path().join("pressure");
    let press = |value: &str| -> Result<()> {
        let draft = directory.path().join("draft");
        std::fs::write(&draft, value)?;
        std::fs::rename(&draft, &pressure).context("the pressure")
    };
    press("0.1")?;
    let over = json!({"overload_manager": {
        "refresh_interval": "0.05s",
        "resource_monitors": [{"name": "envoy.resource_monitors.injected_resource", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.injected_resource.v3.InjectedResourceConfig",
            "filename": pressure,
        }}],
        "actions": [{
            "name": "envoy.overload_actions.stop_accepting_requests",
            "triggers": [{"name": "envoy.resource_monitors.injected_resource", "threshold": {"value": 0.9}}],
        }],
    }});
    let envoy = Launch::json(config(address.port(), &upstream, &over)).start()?;
    let until = |status: u16| {
        let mut answered = 0;
        wait::until(wait::LIMIT, || {
            let response = exchange(address, &Request::get("/")).map_err(|error| format!("{error:#}"))?;
            answered += usize::from(response.status == 200);
            if response.status == status { Ok(answered) } else { Err(format!("{}", response.status)) }
        })
        .map_err(anyhow::Error::msg)
    };
    let mut answered = until(200)?;
    press("0.95")?;
    answered += until(503)?;
    for _ in 0..20 {
        let response = exchange(address, &Request::get("/"))?;
        ensure!(response.status == 503, "{response:?}");
    }
    press("0.1")?;
    answered += until(200)?;
    requests(&envoy, answered)
}

/// Listeners drain while answers are awaited: those still come, and Weir counts them.
fn drain() -> Result<()> {
    let upstream = http1(|request| match request.path.as_str() {
        "/slow" => vec![Step::Gate, answer(200, &[], "").remove(0)],
        _ => answer(200, &[], ""),
    });
    let address = ports::free();
    let envoy = Launch::json(config(address.port(), &upstream, &Value::Null)).concurrency(2).start()?;
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut connection = Connection::open(address)?;
        connection.send(&Request::get("/slow"))?;
        slow.push(connection);
    }
    upstream.wait_for(4).map_err(anyhow::Error::msg)?;
    envoy.admin.post("/healthcheck/fail")?;
    envoy.admin.post("/drain_listeners")?;
    slow.iter().for_each(|_| upstream.open_gate());
    for connection in &mut slow {
        let response = connection.read_head()?;
        ensure!(response.status == 200, "{response:?}");
    }
    requests(&envoy, 4)
}
