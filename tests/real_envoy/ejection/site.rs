//! An Envoy with one cluster of replicas under `override_host`, and what a test sees of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::replica::Replica;
use crate::level::Level;
use crate::support::bootstrap::{self, Listener};
use crate::support::client::{Connection, Request};
use crate::support::delay::Watch;
use crate::support::envoy::{Envoy, Launch};
use crate::support::{envoy, ports, wait};

/// The cluster's name.
pub const CLUSTER: &str = "orders";
/// The header that steers.
pub const HEADER: &str = "x-weir-hosts";
/// The one for the filter `stateful_session`.
pub const SESSION: &str = "x-envoy-retry-grpc-on";
/// A copy of it, as `decide` left it, for the access log: it comes too late to steer anything.
const SPY: &str = "x-spy";
/// The path that stalls a worker, and the pipe that it waits at.
pub const STALL: &str = "/stall";
const GATE: &str = "gate";

/// How to set up a site.
pub struct Setup {
    pub level: Level,
    pub hosts: usize,
    pub workers: u32,
    /// What `decide` is told.
    pub policy: Value,
    /// Merged over the route.
    pub route: Value,
    /// How long a connection to a host may take.
    pub connect_timeout: &'static str,
    /// Merged over Envoy's own balancer, which is round robin unless this says otherwise.
    pub balancer: Value,
    /// The hosts' weights, as far as they are not 1; and the zone of each, where they are in several.
    pub weights: Vec<u32>,
    pub zones: Vec<&'static str>,
    /// Whether the cluster reads the steering header.
    pub obeys: bool,
    /// Whether the filter `stateful_session` reads it instead.
    pub session: bool,
    /// Merged over the cluster.
    pub cluster: Value,
    /// Whether Envoy's `header_mutation` removes the steering header behind the router.
    pub strips: bool,
    /// Whether a request for [`STALL`] makes its worker stand still, until [`Site::go_on`].
    pub stalls: bool,
}

impl Setup {
    pub fn new(level: Level) -> Self {
        Self {
            level,
            hosts: 4,
            workers: 1,
            policy: json!({"role": "decide"}),
            route: Value::Null,
            connect_timeout: "30s",
            balancer: Value::Null,
            weights: Vec::new(),
            zones: Vec::new(),
            obeys: true,
            session: false,
            cluster: Value::Null,
            strips: false,
            stalls: false,
        }
    }

    /// Its listener and its hosts come from files in `directory`.
    fn listener(&self, port: u16, directory: &Path, module: Option<&Path>) -> Value {
        let mut route = bootstrap::route("/", CLUSTER);
        bootstrap::merge(&mut route, &self.route);
        let mut listener = bootstrap::listener(Listener {
            name: "site",
            port,
            attach: self.level.attach(),
            policy: &self.policy,
            routes: vec![route],
            logs: None,
            manager: Value::Null,
        });
        listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
        // Connections go to the workers in turn.
        listener["connection_balance_config"] = json!({"exact_balance": {}});
        let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        manager["route_config"]["virtual_hosts"][0]["include_attempt_count_in_response"] = json!(true);
        manager["access_log"] = json!([file_log(&directory.join("requests.log"))]);
        let Some(filters) = manager["http_filters"].as_array_mut() else { return listener };
        let position = filters.len() - 1;
        let router = &mut filters[position]["typed_config"];
        if let Some(logs) = router["upstream_log"].as_array_mut() {
            logs.push(file_log(&directory.join("attempts.log")));
        }
        if self.strips {
            let strip = mutation(&json!([{"remove": HEADER}]));
            let codec = json!({"name": "codec", "typed_config":
                {"@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"}});
            match router["upstream_http_filters"].as_array_mut() {
                Some(filters) => filters.insert(filters.len() - 1, strip),
                None => router["upstream_http_filters"] = json!([strip, codec]),
            }
        }
        let spy = json!([{"append": {
            "header": {"key": SPY, "value": format!("%REQ({})%", if self.session { SESSION } else { HEADER })},
            "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
        }}]);
        filters.insert(position, mutation(&spy));
        if self.session {
            filters.insert(position + 1, bootstrap::session(SESSION));
        }
        if self.stalls {
            filters.insert(0, stall(&directory.join(GATE)));
        }
        match module {
            Some(module) => with_module(listener, module),
            None => listener,
        }
    }

    fn endpoints(&self, hosts: &[SocketAddr]) -> Value {
        let mut zones = std::collections::BTreeMap::<&str, (u32, Vec<Value>)>::new();
        for (number, host) in hosts.iter().enumerate() {
            let weight = self.weights.get(number).copied().unwrap_or(1);
            let (sum, endpoints) = zones.entry(self.zones.get(number).copied().unwrap_or_default()).or_default();
            *sum += weight;
            let address = bootstrap::address(*host);
            endpoints.push(json!({"endpoint": {"address": address}, "load_balancing_weight": weight}));
        }
        let zone = |(zone, (weight, endpoints)): (&str, (u32, Vec<Value>))| json!({"locality": {"zone": zone}, "load_balancing_weight": weight, "lb_endpoints": endpoints});
        json!({
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": CLUSTER,
            "endpoints": zones.into_iter().map(zone).collect::<Vec<_>>(),
        })
    }

    fn cluster(&self, directory: &Path) -> Value {
        let mut cluster = json!({
            "name": CLUSTER,
            "type": "EDS",
            "connect_timeout": self.connect_timeout,
            "eds_cluster_config": {"eds_config": bootstrap::watched(directory, "hosts.json")},
            "circuit_breakers": {"thresholds": [{"max_retries": 1000}]},
        });
        bootstrap::merge(&mut cluster, &self.cluster);
        if self.obeys {
            bootstrap::merge(&mut cluster, &bootstrap::override_host(HEADER));
            let own = "/load_balancing_policy/policies/0/typed_extension_config/typed_config/fallback_policy/policies/0\
                       /typed_extension_config/typed_config";
            if let Some(own) = cluster.pointer_mut(own) {
                bootstrap::merge(own, &self.balancer);
            }
        }
        cluster
    }

    pub fn start(self) -> anyhow::Result<Site> {
        let replicas = (0..self.hosts).map(|_| Replica::new()).collect::<anyhow::Result<Vec<_>>>()?;
        self.start_with(replicas)
    }

    pub fn start_with(self, replicas: Vec<Replica>) -> anyhow::Result<Site> {
        let directory = tempfile::Builder::new().prefix("weir-ejection-").tempdir()?;
        let address = ports::free();
        let path = directory.path();
        publish(
            path,
            "hosts.json",
            &self.endpoints(&replicas.iter().map(|replica| replica.address).collect::<Vec<_>>()),
        )?;
        publish(path, "listeners.json", &self.listener(address.port(), path, None))?;
        let mut config = bootstrap::bootstrap(&[], &[self.cluster(path)]);
        config["node"] = json!({"id": "test", "cluster": "test"});
        config["dynamic_resources"] = json!({"lds_config": bootstrap::watched(path, "listeners.json")});
        if self.stalls {
            let status = Command::new("mkfifo").arg(path.join(GATE)).status().context("mkfifo")?;
            ensure!(status.success(), "mkfifo: {status}");
        }
        let envoy = Launch::json(config).concurrency(self.workers).start()?;
        Ok(Site { setup: self, envoy, address, replicas, directory })
    }
}

/// A site that runs.
pub struct Site {
    setup: Setup,
    pub envoy: Envoy,
    pub address: SocketAddr,
    pub replicas: Vec<Replica>,
    directory: TempDir,
}

/// An attempt, from Envoy's own log.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub host: String,
    pub code: String,
    /// What the steering header said; `-` if there was none.
    pub list: String,
}

impl Attempt {
    pub fn steered(&self) -> bool {
        self.list != "-"
    }
}

impl Site {
    pub fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.address)
    }

    /// Sends so many GETs under a path, one after the other. Their statuses.
    pub fn get(&self, path: &str, count: usize) -> anyhow::Result<Vec<u16>> {
        self.send(&Request::get(path), count)
    }

    pub fn send(&self, request: &Request, count: usize) -> anyhow::Result<Vec<u16>> {
        let mut connection = self.connect()?;
        (0..count).map(|_| Ok(connection.exchange(request)?.status)).collect()
    }

    /// Sends enough for each worker to know all hosts.
    pub fn warm_up(&self) -> anyhow::Result<()> {
        let mut connections = Vec::new();
        for _ in 0..self.setup.workers {
            connections.push(self.connect()?);
        }
        for connection in &mut connections {
            // Of the requests of a calm cluster, one in eight is looked at; so each host is picked some times.
            for _ in 0..64 * self.replicas.len() {
                let response = connection.exchange(&Request::get("/warm-up"))?;
                ensure!(response.status == 200, "warming up: {}", response.status);
            }
        }
        Ok(())
    }

    /// Stops a replica, and waits until Envoy knows that its connections are gone: the next attempt is refused.
    pub fn stop(&self, replica: usize) -> anyhow::Result<()> {
        self.replicas[replica].stop();
        self.envoy.wait_for_disconnect(self.replicas[replica].address)
    }

    /// The attempts of the first `requests` requests under a path, in the order in which they ended.
    pub fn attempts(&self, path: &str, requests: usize) -> anyhow::Result<Vec<Attempt>> {
        let read = |file: &str| {
            let text = std::fs::read_to_string(self.directory.path().join(file)).unwrap_or_default();
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let lines = whole.lines().filter_map(|line| line.strip_prefix(path)?.strip_prefix(' '));
            lines.map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        wait::until(wait::LIMIT, || {
            let ended = read("requests.log");
            let expected: usize = ended.iter().filter_map(|words| words.get(4)?.parse::<usize>().ok()).sum();
            let attempts = read("attempts.log");
            if ended.len() < requests || attempts.len() < expected {
                return Err(format!(
                    "{} of {requests} requests, {} attempts of {expected}",
                    ended.len(),
                    attempts.len()
                ));
            }
            let attempt = |words: Vec<String>| {
                let [host, _, code, list, ..] = <[String; 5]>::try_from(words).ok()?;
                Some(Attempt { host, code, list })
            };
            Ok(attempts.into_iter().filter_map(attempt).collect())
        })
        .map_err(anyhow::Error::msg)
    }

    /// How often each worker may have tried a host that is out since then, only to see whether it still fails: once in two
    /// seconds.
    pub fn explored(since: Instant) -> usize {
        since.elapsed().as_secs() as usize / 2
    }

    /// How many of these attempts went to a replica.
    pub fn on(&self, replica: usize, attempts: &[Attempt]) -> usize {
        let address = self.replicas[replica].address.to_string();
        attempts.iter().filter(|attempt| attempt.host == address).count()
    }

    /// A counter or gauge of Weir's by its name, such as `probes_total` or `ejections_total.reason.refused`; their sum if
    /// it ends with `.`.
    pub fn metric(&self, name: &str) -> u64 {
        let rest = if name.ends_with('.') { format!("{name}[a-z]+") } else { name.to_owned() };
        let filter = format!("^wasmcustom[.]weir_{rest}[.]cluster[.]{CLUSTER}$");
        self.envoy.admin.stats(&filter).map(|stats| stats.values().sum()).unwrap_or_default()
    }

    /// Waits until a metric has this value.
    pub fn wait_for(&self, metric: &str, value: u64) -> anyhow::Result<()> {
        wait::until(wait::LIMIT, || match self.metric(metric) {
            found if found == value => Ok(()),
            found => Err(format!("{metric} is {found}, not {value}; {}", self.story())),
        })
        .map_err(anyhow::Error::msg)
    }

    /// Waits until a metric has this value, or is past it.
    pub fn wait_for_at_least(&self, metric: &str, least: u64) -> anyhow::Result<()> {
        wait::until_ok(|| {
            let found = self.metric(metric);
            ensure!(found >= least, "{metric} is {found}, not yet {least}; {}", self.story());
            Ok(())
        })
    }

    /// Sends requests until no host is out, which takes no longer than the limit. How many it took, and what did not get a 200.
    pub fn until_all_are_in(&self, request: &Request, limit: Duration) -> anyhow::Result<(usize, Vec<u16>)> {
        let mut connection = self.connect()?;
        let (mut count, mut failed) = (0, Vec::new());
        let watch = Watch::start();
        wait::until(wait::LIMIT, || {
            let response = connection.exchange(request).map_err(|error| format!("{error:#}"))?;
            count += 1;
            if response.status != 200 {
                failed.push(response.status);
            }
            match self.metric("hosts_out") + self.metric("shadow_hosts_out") {
                0 => Ok(()),
                out => Err(format!("{out} are out after {count} requests; {}", self.story())),
            }
        })
        .map_err(anyhow::Error::msg)?;
        let took = watch.read();
        ensure!(took.is_within(limit), "all are in after {took}; {}", self.story());
        Ok((count, failed))
    }

    /// What Weir has logged of hosts.
    pub fn story(&self) -> String {
        let log = self.envoy.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("weir: cluster")).collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Lets the worker go on that stands still.
    pub fn go_on(&self) -> anyhow::Result<()> {
        std::fs::write(self.directory.path().join(GATE), "go on").context("the pipe")
    }

    pub fn stat(&self, name: &str) -> u64 {
        self.envoy.admin.stats(&format!("^{name}$")).ok().and_then(|stats| stats.get(name).copied()).unwrap_or_default()
    }

    /// Puts another policy in force, and waits until Envoy has drained what was before.
    pub fn update_policy(&mut self, policy: Value) -> anyhow::Result<()> {
        self.setup.policy = policy;
        self.update(None)
    }

    /// Loads another module: the same code in other bytes, so that all VMs are new.
    pub fn update_module(&self) -> anyhow::Result<()> {
        let mut module = std::fs::read(envoy::module())?;
        // A custom section of four bytes whose name is "new".
        module.extend_from_slice(b"\x00\x04\x03new");
        let path = self.directory.path().join("new.wasm");
        std::fs::write(&path, module)?;
        self.update(Some(&path))
    }

    fn update(&self, module: Option<&Path>) -> anyhow::Result<()> {
        let before = self.stat("listener_manager.lds.update_success");
        let directory = self.directory.path();
        publish(directory, "listeners.json", &self.setup.listener(self.address.port(), directory, module))?;
        wait::until(wait::LIMIT, || {
            let taken = self.stat("listener_manager.lds.update_success") > before
                && self.stat("listener_manager.total_listeners_warming") == 0
                && self.stat("listener_manager.total_listeners_active") == 1;
            if taken { Ok(()) } else { Err(format!("the listener was not taken:\n{}", self.envoy.log_end())) }
        })
        .map_err(anyhow::Error::msg)
    }

    /// Tells Envoy which hosts the cluster has.
    pub fn update_hosts(&self, hosts: &[SocketAddr]) -> anyhow::Result<()> {
        publish(self.directory.path(), "hosts.json", &self.setup.endpoints(hosts))?;
        let mut expected: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        expected.sort();
        wait::until(wait::LIMIT, || {
            let text = self.envoy.admin.get("/clusters").map_err(|error| error.to_string())?;
            let lines = text.lines().filter_map(|line| line.split_once("::")?.1.strip_suffix("::weight::1"));
            let mut known: Vec<String> = lines.map(str::to_owned).collect();
            known.sort();
            if known == expected { Ok(()) } else { Err(format!("{known:?}, not {expected:?}")) }
        })
        .map_err(anyhow::Error::msg)
    }

    /// Tells Envoy that a host has this `health_status`.
    pub fn update_health(&self, replica: usize, health: &str) -> anyhow::Result<()> {
        let addresses: Vec<_> = self.replicas.iter().map(|replica| replica.address).collect();
        let mut endpoints = self.setup.endpoints(&addresses);
        endpoints["endpoints"][0]["lb_endpoints"][replica]["health_status"] = json!(health);
        publish(self.directory.path(), "hosts.json", &endpoints)?;
        let healthy = format!("::{}::health_flags::healthy", addresses[replica]);
        wait::until(wait::LIMIT, || {
            let text = self.envoy.admin.get("/clusters").map_err(|error| error.to_string())?;
            if text.contains(&healthy) { Err(healthy.clone()) } else { Ok(()) }
        })
        .map_err(anyhow::Error::msg)
    }
}

/// Reads the pipe, as no filter should: nothing else happens on its thread until somebody writes.
fn stall(gate: &Path) -> Value {
    json!({"name": "stall", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": format!(
            "function envoy_on_request(handle)
               if handle:headers():get(':path') == '{STALL}' then
                 local gate = io.open('{}', 'r')
                 gate:read('*a')
                 gate:close()
               end
             end",
            gate.display(),
        )},
    }})
}

fn mutation(mutations: &Value) -> Value {
    json!({"name": "mutation", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
        "mutations": {"request_mutations": mutations},
    }})
}

fn file_log(path: &Path) -> Value {
    json!({"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": path,
        "log_format": {"text_format_source": {"inline_string": format!(
            "%REQ(:PATH)% %UPSTREAM_HOST% %RESPONSE_FLAGS% %RESPONSE_CODE% %REQ({SPY})% %UPSTREAM_REQUEST_ATTEMPT_COUNT%\n"
        )}},
    }})
}

/// Writes a resource for Envoy to find, all at once.
fn publish(directory: &Path, file: &str, resource: &Value) -> anyhow::Result<()> {
    let draft: PathBuf = directory.join(format!("{file}.draft"));
    std::fs::write(&draft, json!({"resources": [resource]}).to_string())?;
    std::fs::rename(&draft, directory.join(file)).context("replacing a resource")
}

fn with_module(listener: Value, module: &Path) -> Value {
    let (old, new) = (json!(envoy::module()).to_string(), json!(module).to_string());
    serde_json::from_str(&listener.to_string().replace(&old, &new)).unwrap_or(listener)
}
