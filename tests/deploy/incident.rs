//! An Envoy in which everything goes wrong that Weir counts, each in a cluster of its own, and one in shadow mode.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::replica::{Mode, Replica};
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::{Request, exchange};
use crate::support::envoy::{Envoy, Launch};
use crate::support::ports;
use crate::support::upstream::{Step, Upstream, http1};

/// A pause between two requests of one client.
const PAUSE: Duration = Duration::from_millis(10);

pub struct Incident {
    enforcing: Envoy,
    shadow: Envoy,
    /// Load and crashes go on until this is set.
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Where requests pass that concern no cluster.
    direct: Vec<SocketAddr>,
    /// What only has to live.
    _hosts: Vec<Arc<Replica>>,
    _pushing_back: Upstream,
}

impl Incident {
    /// # Errors
    /// When Envoy does not start.
    pub fn begin() -> Result<Self> {
        let up = || Ok::<_, anyhow::Error>(Arc::new(Replica::new()?));
        let down = || Ok::<_, anyhow::Error>(Arc::new(Replica::refusing()?));
        let orders = [up()?, up()?, up()?, up()?];
        let outage = [down()?, down()?, down()?];
        let stale = [up()?, up()?, up()?, down()?];
        let capped = [up()?, down()?, down()?, down()?];
        let resetting = [up()?];
        resetting[0].set(Mode::Reset);
        let failing = [up()?];
        failing[0].set(Mode::Answer(503));
        let pushing_back =
            http1(|_| vec![Step::Send(b"HTTP/1.1 503 Busy\r\nretry-after: 5\r\ncontent-length: 0\r\n\r\n".to_vec())]);

        let mut impatient = cluster("limited", &failing, true);
        impatient["circuit_breakers"] = json!({"thresholds": [{"max_retries": 0}]});
        let clusters = [
            cluster("orders", &orders, true),
            cluster("outage", &outage, true),
            cluster("broken", &outage, true),
            cluster("stale", &stale, false),
            cluster("capped", &capped, true),
            cluster("unsafe", &resetting, true),
            bootstrap::cluster("pushback", &[pushing_back.address]),
            impatient,
        ];
        let policy = json!({
            "role": "decide",
            "clusters": [
                {"match": "capped", "outlierDetection": {"maxEjectionPercent": 50}},
                // Where the circuit opens, nothing else happens.
                {"match": "outage", "circuitBreaker": null},
                {"match": "unsafe", "circuitBreaker": null},
            ],
        });
        let retried = |prefix: &str, cluster: &str| {
            let mut route = bootstrap::route(prefix, cluster);
            route["route"]["retry_policy"] = json!({"retry_on": "5xx", "num_retries": 2});
            route
        };
        let routes = vec![
            bootstrap::route("/orders", "orders"),
            bootstrap::route("/outage", "outage"),
            bootstrap::route("/broken", "broken"),
            bootstrap::route("/stale", "stale"),
            bootstrap::route("/capped", "capped"),
            retried("/unsafe", "unsafe"),
            retried("/pushback", "pushback"),
            bootstrap::route("/limited", "limited"),
        ];
        let (enforcing, address) = envoy(&policy, routes, &clusters)?;

        let policy = json!({
            "role": "decide",
            "mode": "shadow",
            "clusters": [{"match": "capped", "circuitBreaker": null, "outlierDetection": {"maxEjectionPercent": 50}}],
        });
        let routes = vec![
            retried("/outage", "outage"),
            retried("/unsafe", "unsafe"),
            retried("/orders", "orders"),
            retried("/capped", "capped"),
            retried("/pushback", "pushback"),
        ];
        let clusters = [
            cluster("outage", &outage, true),
            cluster("unsafe", &resetting, true),
            cluster("orders", &orders, true),
            cluster("capped", &capped, true),
            bootstrap::cluster("pushback", &[pushing_back.address]),
        ];
        let (shadow, shadow_address) = envoy(&policy, routes, &clusters)?;

        let over = Arc::new(AtomicBool::new(false));
        let mut threads = vec![crash_loop(orders.to_vec(), &over)];
        let load = |address, request| client(address, request, &over);
        for path in
            ["/orders", "/orders", "/outage", "/outage", "/broken", "/stale", "/capped", "/pushback", "/limited"]
        {
            threads.push(load(address, Request::get(path)));
        }
        threads.push(load(address, Request::post("/orders")));
        threads.push(load(address, Request::post("/unsafe")));
        for path in ["/outage", "/outage", "/orders", "/orders", "/capped", "/pushback"] {
            threads.push(load(shadow_address, Request::get(path)));
        }
        threads.push(load(shadow_address, Request::post("/unsafe")));
        let hosts = [&orders[..], &outage, &stale, &capped, &resetting, &failing].concat();
        let direct = vec![address, shadow_address];
        Ok(Self { enforcing, shadow, over, threads, direct, _hosts: hosts, _pushing_back: pushing_back })
    }

    /// Where Prometheus scrapes.
    pub fn targets(&self) -> [SocketAddr; 2] {
        [self.enforcing.admin.address, self.shadow.admin.address]
    }

    /// What Prometheus would scrape now, of both Envoys.
    ///
    /// # Errors
    /// When one of them does not answer.
    pub fn scrape(&self) -> Result<String> {
        Ok(self.enforcing.admin.prometheus()? + &self.shadow.admin.prometheus()?)
    }

    /// No request reaches a cluster any more; those that Envoy answers by itself go on.
    pub fn end(&mut self) {
        self.stop();
        self.over.store(false, Ordering::Release);
        for address in &self.direct {
            self.threads.push(client(*address, Request::get("/direct"), &self.over));
        }
    }

    fn stop(&mut self) {
        self.over.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

impl Drop for Incident {
    fn drop(&mut self) {
        self.stop();
    }
}

/// With the shipped `stats_config`. Routes are tried in order; the last one answers without a cluster.
fn envoy(policy: &Value, mut routes: Vec<Value>, clusters: &[Value]) -> Result<(Envoy, SocketAddr)> {
    let address = ports::free();
    routes.push(json!({"match": {"prefix": "/direct"}, "direct_response": {"status": 200}}));
    let listener = bootstrap::listener(Listener {
        name: "ingress",
        port: address.port(),
        attach: Attach::GUARD,
        policy,
        routes,
        logs: None,
        manager: Value::Null,
    });
    let mut config = bootstrap::bootstrap(&[listener], clusters);
    config["stats_config"] = crate::yaml("envoy.yaml")?["stats_config"].clone();
    Ok((Launch::json(config).start()?, address))
}

/// A cluster, with Weir's steering if it `obeys`.
fn cluster(name: &str, hosts: &[Arc<Replica>], obeys: bool) -> Value {
    let addresses: Vec<SocketAddr> = hosts.iter().map(|host| host.address).collect();
    let mut cluster = bootstrap::cluster(name, &addresses);
    if obeys {
        let policy = crate::yaml("envoy.yaml").map(|file| file["static_resources"]["clusters"][0].clone());
        cluster["load_balancing_policy"] = policy.unwrap_or_default()["load_balancing_policy"].clone();
    }
    cluster
}

/// One client: request after request, whatever becomes of them.
fn client(address: SocketAddr, request: Request, over: &Arc<AtomicBool>) -> JoinHandle<()> {
    let over = Arc::clone(over);
    std::thread::spawn(move || {
        while !over.load(Ordering::Acquire) {
            drop(exchange(address, &request));
            sleep(PAUSE);
        }
    })
}

/// One replica after the other resets, refuses, and is back.
fn crash_loop(replicas: Vec<Arc<Replica>>, over: &Arc<AtomicBool>) -> JoinHandle<()> {
    let over = Arc::clone(over);
    std::thread::spawn(move || {
        for replica in replicas.iter().cycle() {
            if over.load(Ordering::Acquire) {
                break;
            }
            replica.set(Mode::Reset);
            sleep(Duration::from_millis(200));
            replica.stop();
            sleep(Duration::from_millis(600));
            replica.set(Mode::Answer(200));
            drop(replica.start());
            sleep(Duration::from_millis(300));
        }
    })
}
