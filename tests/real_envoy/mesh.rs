//! A sidecar in front of the upstream: an Envoy that answers 503 in the place of a connection refused or reset, and says in
//! `proxy-status` what it met.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::alone::Test;
use crate::case::route_retries;
use crate::stage::{Setup, Stage, summary, times};
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::{Request, Response};
use crate::support::client_h2;
use crate::support::envoy::{Envoy, Launch};
use crate::support::ports;
use crate::support::upstream::{Step, Upstream, answer, http1, refuses};

pub fn tests() -> Vec<Test> {
    vec![
        ("mesh::same_signals", || signals(Attach::GUARD)),
        ("mesh::same_signals_alone", || signals(Attach::DECIDE)),
        ("mesh::post_after_refusal", post_after_refusal),
        ("mesh::grpc_after_refusal", grpc_after_refusal),
        ("mesh::post_after_refusals_only", post_after_refusals_only),
        ("mesh::post_without_budget", post_without_budget),
        ("mesh::post_where_it_may_have_been_sent", post_where_it_may_have_been_sent),
        ("mesh::hostile_application", hostile_application),
    ]
}

/// What the header is that `guard` sets for Envoy.
const MARK: &str = "x-weir-not-sent";

/// What a sidecar tells.
#[derive(Clone, Copy)]
struct Tells {
    cause: bool,
    attempts: bool,
}

const ALL: Tells = Tells { cause: true, attempts: true };

/// The upstream's Envoy: a cluster and route for each path.
struct Sidecar {
    _envoy: Envoy,
    address: SocketAddr,
}

/// A cluster's name, its endpoints, and what is merged over its route.
type Served<'a> = (&'a str, Vec<SocketAddr>, Value);

impl Sidecar {
    fn start(tells: Tells, clusters: &[Served<'_>]) -> Result<Self> {
        let address = ports::free();
        let routes = clusters.iter().map(|(name, _, over)| {
            let mut route = bootstrap::route(&format!("/{name}/"), name);
            bootstrap::merge(&mut route, over);
            route
        });
        let mut listener = bootstrap::listener(Listener {
            name: "sidecar",
            port: address.port(),
            attach: Attach::NOWHERE,
            policy: &Value::Null,
            routes: routes.collect(),
            logs: None,
            manager: if tells.cause { json!({"proxy_status_config": {"remove_details": true}}) } else { Value::Null },
        });
        let hosts = listener.pointer_mut("/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0");
        if let Some(host) = hosts {
            host["include_attempt_count_in_response"] = json!(tells.attempts);
        }
        let clusters: Vec<Value> =
            clusters.iter().map(|(name, endpoints, _)| bootstrap::cluster(name, endpoints)).collect();
        let envoy = Launch::json(bootstrap::bootstrap(&[listener], &clusters)).concurrency(1).start()?;
        Ok(Self { _envoy: envoy, address })
    }
}

/// The Envoy with Weir in front of it.
fn front(attach: Attach, retry: &Value, sidecar: SocketAddr, clusters: &[Served<'_>]) -> Result<Stage> {
    let setup = Setup::new(attach, json!({"retry": retry, "outlierDetection": null}));
    clusters.iter().fold(setup, |setup, (name, ..)| setup.cluster(name, sidecar)).start()
}

/// As many retries as anybody wants.
fn rich() -> Value {
    json!({"maxRetries": 2, "minRetryRate": {"count": 1_000_000, "interval": "1s"}})
}

fn post(stage: &Stage, cluster: &str) -> Result<Response> {
    let response = stage.connect()?.exchange(&Request::post(&format!("/{cluster}/")))?;
    ensure!(response.header(MARK).is_none(), "{cluster}: the client sees the mark: {response:?}");
    Ok(response)
}

fn attempts(stage: &Stage, cluster: &str, count: usize) -> Result<Vec<String>> {
    let fits = |attempts: &[String]| attempts.len() == count;
    let tally = stage.wait_tally(cluster, &format!("{count} attempts"), |tally| fits(&tally.attempts))?;
    Ok(tally.attempts)
}

fn fine() -> Upstream {
    http1(|_| answer(200, &[], "fine"))
}

/// The same signals as without the sidecar; and plain errors where it does not tell.
fn signals(attach: Attach) -> Result<()> {
    let timeout = || json!({"route": {"timeout": "0.3s"}});
    let upstreams = [
        ("refused", refuses(), Value::Null),
        ("reset", http1(|_| vec![Step::Rst]), Value::Null),
        ("timeout", http1(|_| vec![Step::Hang]), timeout()),
        ("error", http1(|_| answer(503, &[], "")), Value::Null),
        ("answered", fine(), Value::Null),
    ];
    let served: Vec<Served<'_>> =
        upstreams.iter().map(|(name, upstream, over)| (*name, vec![upstream.address], over.clone())).collect();
    let silent = Tells { cause: false, attempts: false };
    let (telling, silent) = (Sidecar::start(ALL, &served)?, Sidecar::start(silent, &served)?);
    let once = json!({"maxRetries": 0});
    let direct = upstreams
        .iter()
        .fold(Setup::new(attach, json!({"retry": once, "outlierDetection": null})), |setup, (name, upstream, over)| {
            setup.cluster_with(name, upstream.address, &Value::Null, over)
        });
    let stages = [
        (direct.start()?, false),
        (front(attach, &once, telling.address, &served)?, false),
        (front(attach, &once, silent.address, &served)?, true),
    ];
    for (stage, silent) in &stages {
        for (name, ..) in &upstreams {
            stage.get(&format!("/{name}/"))?;
            let signals = attempts(stage, name, 1)?;
            let expected = if *silent && *name != "answered" { "error" } else { name };
            ensure!(signals == [expected], "{name}: {}, silent {silent}", summary(&signals));
        }
    }
    Ok(())
}

/// A POST of which the sidecar says that it was not sent reaches a replica that is up. Without `guard` it is not retried.
fn post_after_refusal() -> Result<()> {
    const REQUESTS: usize = 10;
    let (dead, up) = (refuses(), fine());
    let served: [Served<'_>; 1] = [("half", vec![dead.address, up.address], Value::Null)];
    let sidecar = Sidecar::start(ALL, &served)?;
    for (attach, survives) in [(Attach::GUARD, true), (Attach::WATCH, false)] {
        let stage = front(attach, &rich(), sidecar.address, &served)?;
        let before = up.count();
        for _ in 0..REQUESTS {
            let response = post(&stage, "half")?;
            ensure!(!survives || response.status == 200, "{response:?}");
        }
        let reached = up.count() - before;
        ensure!(survives == (reached == REQUESTS), "guard {survives}: {reached} of {REQUESTS} POSTs arrived");
        if survives {
            let what = "a retry for each refusal";
            stage.wait_tally("half", what, |tally| {
                let refused = times(&tally.attempts, "refused");
                refused > 0 && times(&tally.retries, "granted") == refused && tally.vetoes.is_empty()
            })?;
        }
    }
    for request in up.seen() {
        let told = request.headers.iter().any(|(name, _)| name.contains("x-weir") || name.contains("retr"));
        ensure!(!told, "the application sees {:?}", request.headers);
    }
    Ok(())
}

fn grpc_after_refusal() -> Result<()> {
    const REQUESTS: usize = 10;
    let (dead, up) = (refuses(), fine());
    let served: [Served<'_>; 1] = [("half", vec![dead.address, up.address], Value::Null)];
    let sidecar = Sidecar::start(ALL, &served)?;
    let stage = front(Attach::GUARD, &rich(), sidecar.address, &served)?;
    for _ in 0..REQUESTS {
        let response = client_h2::exchange(stage.address, &Request::grpc("/half/"))?;
        ensure!(response.text() == "fine", "{response:?}");
    }
    ensure!(up.count() == REQUESTS, "{} arrived", up.count());
    Ok(())
}

/// Where all replicas are down, the client gets what the sidecar said last, and no hop above repeats it.
fn post_after_refusals_only() -> Result<()> {
    let dead = refuses();
    let served: [Served<'_>; 1] = [("dead", vec![dead.address], Value::Null)];
    let sidecar = Sidecar::start(ALL, &served)?;
    let stage = front(Attach::GUARD, &rich(), sidecar.address, &served)?;
    let response = post(&stage, "dead")?;
    let whole = response.status == 503 && response.text().contains("upstream connect error");
    ensure!(whole && response.header("x-envoy-ratelimited").is_some(), "{response:?}");
    let signals = attempts(&stage, "dead", 3)?;
    ensure!(times(&signals, "refused") == 3, "{}", summary(&signals));
    Ok(())
}

fn post_without_budget() -> Result<()> {
    let dead = refuses();
    let served: [Served<'_>; 1] = [("dead", vec![dead.address], Value::Null)];
    let sidecar = Sidecar::start(ALL, &served)?;
    let poor = json!({"budget": {"percent": 0, "interval": "1h"}, "minRetryRate": {"count": 1, "interval": "1h"}});
    let stage = front(Attach::GUARD, &poor, sidecar.address, &served)?;
    // The second attempt cannot be paid for.
    let response = post(&stage, "dead")?;
    ensure!(response.status == 503 && response.header("x-envoy-ratelimited").is_some(), "{response:?}");
    let signals = attempts(&stage, "dead", 2)?;
    ensure!(times(&signals, "refused") == 2, "{}", summary(&signals));
    Ok(())
}

/// A sidecar speaks of its last attempt. Where that was not the only one, or nobody knows, it proves nothing.
fn post_where_it_may_have_been_sent() -> Result<()> {
    const REQUESTS: usize = 6;
    let (dead, breaks) = (refuses(), http1(|_| vec![Step::Rst]));
    let hangs = http1(|_| vec![Step::Hang]);
    let error = http1(|_| answer(503, &[], ""));
    // In turns, two for each request.
    let two_dead = |other: &Upstream| vec![dead.address, dead.address, other.address];
    let per_try = json!({"route": {"timeout": "5s", "retry_policy": {"per_try_timeout": "0.2s"}}});
    let mut late = route_retries("gateway-error", 1);
    bootstrap::merge(&mut late, &per_try);
    let served: [Served<'_>; 6] = [
        ("repeats", two_dead(&breaks), route_retries("reset", 1)),
        ("repeats-late", two_dead(&hangs), late),
        ("repeats-error", two_dead(&error), route_retries("gateway-error", 1)),
        ("reset", vec![breaks.address], Value::Null),
        ("late", vec![hangs.address], json!({"route": {"timeout": "0.2s"}})),
        ("error", vec![error.address], Value::Null),
    ];
    let sidecar = Sidecar::start(ALL, &served)?;
    let stage = front(Attach::GUARD, &rich(), sidecar.address, &served)?;
    for (name, ..) in &served {
        for _ in 0..REQUESTS {
            post(&stage, name)?;
        }
        let signals = attempts(&stage, name, REQUESTS)?;
        // Of three in a row, one is sent before it is refused, one is refused twice.
        let refused = if name.starts_with("repeats") { REQUESTS * 2 / 3 } else { 0 };
        ensure!(times(&signals, "refused") == refused, "{name}: {}", summary(&signals));
    }
    // Nor where it does not tell how many there were.
    let sidecar = Sidecar::start(Tells { attempts: false, ..ALL }, &served)?;
    let stage = front(Attach::GUARD, &rich(), sidecar.address, &served)?;
    for _ in 0..REQUESTS {
        post(&stage, "repeats")?;
    }
    attempts(&stage, "repeats", REQUESTS)?;
    Ok(())
}

/// What an application says itself does not count: the sidecar marks all that it passes on.
fn hostile_application() -> Result<()> {
    const FORGED: [(&str, &str); 3] =
        [("proxy-status", "sidecar; error=connection_refused"), ("x-envoy-attempt-count", "1"), (MARK, "true")];
    let upstreams = [
        ("forged-200", http1(|_| answer(200, &FORGED, ""))),
        ("forged-404", http1(|_| answer(404, &FORGED, ""))),
        ("forged-503", http1(|_| answer(503, &FORGED, ""))),
    ];
    let served: Vec<Served<'_>> =
        upstreams.iter().map(|(name, upstream)| (*name, vec![upstream.address], Value::Null)).collect();
    let sidecar = Sidecar::start(ALL, &served)?;
    let stage = front(Attach::GUARD, &rich(), sidecar.address, &served)?;
    for (name, upstream) in &upstreams {
        post(&stage, name)?;
        ensure!(upstream.count() == 1, "{name}: processed {} times", upstream.count());
    }
    // Without a sidecar, a success is one.
    let upstream = http1(|_| answer(200, &FORGED, ""));
    let served: [Served<'_>; 1] = [("direct", vec![upstream.address], Value::Null)];
    let stage = front(Attach::GUARD, &rich(), upstream.address, &served)?;
    post(&stage, "direct")?;
    ensure!(upstream.count() == 1, "processed {} times", upstream.count());
    Ok(())
}
