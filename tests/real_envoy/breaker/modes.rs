//! What clients get, gRPC, shadow mode, and what is updated while the circuit is open.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::site::{
    Load, Mode, PATH, Switch, TIMEOUT, is_shed, metric, open, policy, stage, stage_with, story, wait_until,
};
use crate::alone::Test;
use crate::support::bootstrap::Attach;
use crate::support::client::Request;
use crate::support::envoy;

pub const TESTS: &[Test] = &[
    ("breaker::replies", replies),
    ("breaker::grpc", grpc),
    ("breaker::shadow", shadow),
    ("breaker::policy_update", policy_update),
    ("breaker::module_update", module_update),
    ("breaker::labels", labels),
];

/// What is shed says so: to the client, to every hop above, and in the access log.
fn replies() -> Result<()> {
    let upstream = Switch::new();
    let stage = stage_with(Attach::GUARD, policy("59500ms"), 1, &upstream, TIMEOUT)?;
    open(&stage, &upstream, Mode::Hang, &Request::get(PATH))?;
    let before = upstream.upstream.count();
    let path = "/orders/replies";
    let response = stage.get(path)?;
    ensure!(is_shed(&response)?, "{response:?}");
    ensure!(response.header("retry-after") == Some("60"), "{response:?}");
    ensure!(response.header("x-envoy-attempt-count").is_none(), "{response:?}");
    let post = stage.connect()?.exchange(&Request::post(path).body(vec![b'x'; 100_000]))?;
    ensure!(is_shed(&post)?, "{post:?}");
    ensure!(upstream.upstream.count() == before, "it was sent");
    for logged in stage.requests(path, 2)? {
        ensure!(logged.verdict == "circuit_open" && logged.details == "weir_circuit_open", "{logged:?}");
        ensure!(logged.code == 503 && logged.flags == "-", "{logged:?}");
    }
    ensure!(stage.attempts(path).is_empty(), "{:?}", stage.attempts(path));
    Ok(())
}

fn grpc() -> Result<()> {
    let upstream = Switch::new();
    let stage = stage_with(Attach::GUARD, policy("60s"), 1, &upstream, TIMEOUT)?;
    open(&stage, &upstream, Mode::Hang, &Request::get(PATH))?;
    let path = "/orders/grpc";
    let response = stage.connect()?.exchange(&Request::grpc(path))?;
    ensure!(response.status == 200 && response.header("grpc-status") == Some("14"), "{response:?}");
    ensure!(response.header("grpc-retry-pushback-ms") == Some("-1"), "{response:?}");
    ensure!(response.header("x-envoy-ratelimited") == Some("true"), "{response:?}");
    ensure!(response.header("retry-after").is_none(), "{response:?}");
    ensure!(response.header("grpc-message").is_some_and(|text| text.contains("circuit is open")), "{response:?}");
    let logged = stage.requests(path, 1)?;
    ensure!(logged.iter().all(|logged| logged.verdict == "circuit_open"), "{logged:?}");
    ensure!(metric(&stage, "requests_total.retry.grpc") == 1, "counted as what it is");
    Ok(())
}

/// In shadow mode everything is decided and counted, and all requests go on.
fn shadow() -> Result<()> {
    let upstream = Switch::new();
    let mut policy = policy("400ms");
    policy["mode"] = json!("shadow");
    let stage = stage(Attach::GUARD, policy, 2, &upstream)?;
    upstream.set(Mode::Reset);
    let load = Load::start(stage.address, 8, Duration::from_millis(5), &Request::get(PATH));
    wait_until(&stage, true)?;
    stage.wait_for("what would be shed", |stage| match metric(stage, "shadow_shed_total") {
        0..=100 => Err(story(stage)),
        _ => Ok(()),
    })?;
    upstream.set(Mode::Answer);
    wait_until(&stage, false)?;
    let outcome = load.stop()?;
    ensure!(outcome.shed == 0 && metric(&stage, "shed_total") == 0, "{outcome:?}");
    ensure!(upstream.upstream.count() as u64 == outcome.sent, "{outcome:?}");
    ensure!(metric(&stage, "shadow_circuit_opened_total") == 1 && metric(&stage, "shadow_circuit_probes_total") >= 1);
    ensure!(metric(&stage, "circuit_opened_total") == 0 && metric(&stage, "circuit_probes_total") == 0);
    let requests = metric(&stage, "requests_total.retry.");
    ensure!(requests == outcome.sent, "{requests} counted, {outcome:?}");
    Ok(())
}

/// Switched off while it is open, requests flow at once; switched on again, it begins anew or goes on.
fn policy_update() -> Result<()> {
    let upstream = Switch::new();
    let mut stage = stage(Attach::GUARD, policy("60s"), 1, &upstream)?;
    open(&stage, &upstream, Mode::Reset, &Request::get(PATH))?;
    stage.update_policy(json!({"retry": {"maxRetries": 0}, "circuitBreaker": null}))?;
    upstream.set(Mode::Answer);
    let response = stage.get(PATH)?;
    ensure!(response.status == 200, "{response:?}");
    wait_until(&stage, false)?;
    // Another `openTime`: the record says that it is open, and the next probe is never further away than that.
    stage.update_policy(policy("100ms"))?;
    stage.wait_for("it closes", |stage| {
        let response = stage.get(PATH).map_err(|error| error.to_string())?;
        if response.status == 200 { Ok(()) } else { Err(format!("{response:?}")) }
    })?;
    // And opens again.
    open(&stage, &upstream, Mode::Reset, &Request::get(PATH))
}

/// All VMs are new, and shed from their first request on.
fn module_update() -> Result<()> {
    let upstream = Switch::new();
    // The second probe is due a quarter of that after the first: long after the module is compiled.
    let mut stage = stage_with(Attach::GUARD, policy("5m"), 2, &upstream, TIMEOUT)?;
    open(&stage, &upstream, Mode::Hang, &Request::get(PATH))?;
    let mut module = std::fs::read(envoy::module())?;
    // A custom section of four bytes whose name is "new".
    module.extend_from_slice(b"\x00\x04\x03new");
    let path = stage.envoy().directory().join("new.wasm");
    std::fs::write(&path, module)?;
    stage.update_module(path)?;
    let before = upstream.upstream.count();
    for _ in 0..10 {
        let response = stage.get(PATH)?;
        ensure!(is_shed(&response)?, "{response:?}; {}", story(&stage));
    }
    ensure!(upstream.upstream.count() == before, "{}", story(&stage));
    // Envoy's counters begin anew with the module, the log does not.
    let opened = story(&stage).lines().filter(|line| line.contains("circuit open:")).count();
    ensure!(opened == 1, "{}", story(&stage));
    wait_until(&stage, true)?;
    Ok(())
}

/// Prometheus shows the cluster as a label.
fn labels() -> Result<()> {
    let upstream = Switch::new();
    let stage = stage(Attach::DECIDE, policy("300ms"), 1, &upstream)?;
    upstream.set(Mode::Reset);
    let load = Load::start(stage.address, 4, Duration::from_millis(5), &Request::get(PATH));
    wait_until(&stage, true)?;
    let found = stage.wait_for("metrics", |stage| {
        let text = stage.envoy().admin.prometheus().map_err(|error| error.to_string())?;
        for (name, kind) in [
            ("weir_shed_total", "counter"),
            ("weir_circuit_opened_total", "counter"),
            ("weir_circuit_probes_total", "counter"),
            ("weir_circuit_open", "gauge"),
        ] {
            if !text.contains(&format!("# TYPE {name} {kind}"))
                || !text.contains(&format!("\n{name}{{weir_cluster=\"orders\"}} "))
            {
                return Err(format!("{name} is not a {kind} of a cluster"));
            }
        }
        Ok(())
    });
    load.stop()?;
    found
}
