//! An Envoy of a test's own: clusters behind one listener, which can be replaced while Envoy runs, and a log of requests
//! that tells what Weir did to them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::check::Tally;
use crate::level::{self, Entry};
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::{Connection, Request, Response};
use crate::support::envoy::{self, Envoy, Launch};
use crate::support::{ports, wait};

/// What stands on the stage. Each cluster is reached by paths that start with its name: `/orders/...`.
pub struct Setup {
    pub attach: Attach,
    pub workers: u32,
    pub policy: Value,
    clusters: Vec<Value>,
    routes: Vec<Value>,
    module: PathBuf,
}

impl Setup {
    pub fn new(attach: Attach, policy: Value) -> Self {
        let module = envoy::module();
        Self { attach, workers: 1, policy, clusters: Vec::new(), routes: Vec::new(), module }
    }

    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    pub fn cluster(self, name: &str, upstream: SocketAddr) -> Self {
        self.cluster_with(name, upstream, &Value::Null, &Value::Null)
    }

    /// A cluster with these fields merged over it, and these over its route.
    pub fn cluster_with(mut self, name: &str, upstream: SocketAddr, cluster: &Value, route: &Value) -> Self {
        let mut whole = bootstrap::cluster(name, &[upstream]);
        bootstrap::merge(&mut whole, cluster);
        self.clusters.push(whole);
        let mut whole = bootstrap::route(&format!("/{name}/"), name);
        // Envoy's own back-off is of no interest here, and takes long.
        bootstrap::merge(&mut whole, &back_off());
        bootstrap::merge(&mut whole, route);
        self.routes.push(whole);
        self
    }

    /// A route that is tried before all that are there.
    pub fn route_before(mut self, route: Value) -> Self {
        self.routes.insert(0, route);
        self
    }

    pub fn start(self) -> Result<Stage> {
        let directory = tempfile::Builder::new().prefix("weir-stage-").tempdir()?;
        let address = ports::free();
        let mut config = bootstrap::bootstrap(&[], &self.clusters);
        config["node"] = json!({"id": "test", "cluster": "test"});
        config["dynamic_resources"] = json!({"lds_config": bootstrap::watched(directory.path(), "listeners.json")});
        let mut stage = Stage { envoy: None, address, directory, setup: self, generation: 0 };
        stage.publish()?;
        // What nobody uses any more goes soon.
        let launch = Launch::json(config).concurrency(stage.setup.workers).argument("--drain-time-s").argument("1");
        let envoy = launch.start()?;
        let bound = envoy.admin.stats("listener_manager.lds.update_success")?.values().sum::<u64>();
        ensure!(bound > 0, "Envoy does not serve:\n{}", envoy.log_end());
        stage.envoy = Some(envoy);
        Ok(stage)
    }
}

/// A back-off of a millisecond or two; merged over a route.
pub fn back_off() -> Value {
    json!({"route": {"retry_policy": {"retry_back_off": {"base_interval": "0.001s", "max_interval": "0.002s"}}}})
}

/// The running Envoy.
pub struct Stage {
    envoy: Option<Envoy>,
    pub address: SocketAddr,
    directory: TempDir,
    setup: Setup,
    generation: u32,
}

impl Stage {
    pub fn envoy(&self) -> &Envoy {
        self.envoy.as_ref().expect("it was started")
    }

    /// Puts another policy in force, and waits until it is.
    pub fn update_policy(&mut self, policy: Value) -> Result<()> {
        self.setup.policy = policy;
        self.publish()?;
        self.wait_for_generation()
    }

    /// The same with another module, and waits until nothing of the old one is left.
    pub fn update_module(&mut self, module: PathBuf) -> Result<()> {
        self.setup.module = module;
        self.publish()?;
        self.wait_for_generation()?;
        self.wait_for("the old listener is gone", |stage| {
            let draining = stage.stat("listener_manager.total_filter_chains_draining")
                + stage.stat("listener_manager.total_listeners_draining");
            if draining == 0 { Ok(()) } else { Err(format!("{draining} still drain")) }
        })
    }

    /// Puts a policy with a mistake in, which leaves the old one in force. Returns what Envoy logged.
    pub fn mistaken_policy(&mut self, policy: Value) -> Result<String> {
        let before = self.envoy().log().len();
        let old = std::mem::replace(&mut self.setup.policy, policy);
        self.publish()?;
        self.setup.policy = old;
        self.wait_for_generation()?;
        self.wait_for("the mistake is told", |stage| {
            let told = stage.envoy().log().get(before..).is_some_and(|log| log.contains("the policy in force stays"));
            if told { Ok(()) } else { Err("it was not".to_owned()) }
        })?;
        Ok(self.envoy().log().split_off(before))
    }

    /// Writes the listener for Envoy to find, all at once.
    fn publish(&mut self) -> Result<()> {
        self.generation += 1;
        let setup = &self.setup;
        let path = self.directory.path().join("requests.log");
        // By this the client knows which listener serves it.
        let generation = json!({"match": {"path": "/generation"}, "direct_response": {
            "status": 200, "body": {"inline_string": self.generation.to_string()},
        }});
        let mut listener = bootstrap::listener(Listener {
            name: "stage",
            port: self.address.port(),
            attach: setup.attach,
            policy: &setup.policy,
            routes: [&setup.routes[..], &[generation]].concat(),
            logs: Some(self.directory.path()),
            manager: json!({
                "access_log": [request_log(&path)],
                "stream_idle_timeout": "0s",
            }),
        });
        listener["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
        // Each worker gets its share of connections.
        listener["connection_balance_config"] = json!({"exact_balance": {}});
        let text = json!({"resources": [listener]}).to_string();
        let module = |path: &Path| path.display().to_string();
        let text = text.replace(&module(&envoy::module()), &module(&setup.module));
        let (draft, path) = (self.directory.path().join("draft"), self.directory.path().join("listeners.json"));
        std::fs::write(&draft, text)?;
        std::fs::rename(&draft, &path).context("replacing the listener")
    }

    fn wait_for_generation(&self) -> Result<()> {
        let expected = self.generation.to_string();
        self.wait_for("the new listener serves", |stage| {
            let response = stage.get("/generation").map_err(|error| format!("{error:#}"))?;
            let generation = response.text();
            if generation == expected { Ok(()) } else { Err(format!("generation {generation}, not {expected}")) }
        })
    }

    /// Waits for a condition; what is not so, and the end of Envoy's log, are the error.
    pub fn wait_for<T>(&self, what: &str, mut probe: impl FnMut(&Self) -> Result<T, String>) -> Result<T> {
        let found = wait::until(wait::LIMIT, || probe(self));
        found.map_err(|error| anyhow::anyhow!("{what}: {error}\n{}", self.envoy().log_end()))
    }

    pub fn stat(&self, name: &str) -> u64 {
        let filter = format!("^{}$", name.replace('.', "[.]"));
        self.envoy().admin.stats(&filter).ok().and_then(|stats| stats.get(name).copied()).unwrap_or_default()
    }

    pub fn connect(&self) -> Result<Connection> {
        Connection::open(self.address)
    }

    pub fn get(&self, path: &str) -> Result<Response> {
        self.connect()?.exchange(&Request::get(path))
    }

    /// How the attempts ended of which the path starts so.
    pub fn attempts(&self, path: &str) -> Vec<Entry> {
        level::read_log(&self.directory.path().join("attempts.log"), path)
    }

    /// How requests ended of which the path starts so: once `count` of them have.
    pub fn requests(&self, path: &str, count: usize) -> Result<Vec<Logged>> {
        self.wait_for("requests", |stage| {
            let logged = stage.all_requests(path);
            if logged.len() == count { Ok(logged) } else { Err(format!("{} of {count} logged", logged.len())) }
        })
    }

    /// The same, those that are logged by now.
    pub fn all_requests(&self, path: &str) -> Vec<Logged> {
        let text = std::fs::read_to_string(self.directory.path().join("requests.log")).unwrap_or_default();
        // A line that is still being written has no end.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().filter(|line| line.starts_with(path)).filter_map(Logged::parse).collect()
    }

    /// Waits until Weir's counters for a cluster are so.
    pub fn wait_tally(&self, cluster: &str, what: &str, fits: impl Fn(&Tally) -> bool) -> Result<Tally> {
        self.wait_for("Weir's counters", |stage| {
            let tally = Tally::read(stage.envoy().admin, cluster)?;
            if fits(&tally) { Ok(tally) } else { Err(format!("expected {what}, counted {}", counts(&tally))) }
        })
    }
}

/// What the access log tells of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub flags: String,
    pub code: u16,
    pub details: String,
    /// What Weir did to it; `-` where it did nothing.
    pub verdict: String,
    pub grpc_status: String,
}

impl Logged {
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ').skip(1).map(str::to_owned);
        Some(Self {
            flags: words.next()?,
            code: words.next()?.parse().ok()?,
            details: words.next()?,
            verdict: words.next()?,
            grpc_status: words.next()?,
        })
    }
}

fn request_log(path: &Path) -> Value {
    json!({
        "name": "file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"text_format_source": {"inline_string":
                "%REQ(:PATH)% %RESPONSE_FLAGS% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% \
                 %FILTER_STATE(wasm.weir.verdict:PLAIN)% %GRPC_STATUS_NUMBER%\n"}},
        },
    })
}

/// Words and how often each occurs.
pub fn summary(words: &[String]) -> String {
    let mut counted = std::collections::BTreeMap::<&str, usize>::new();
    for word in words {
        *counted.entry(word).or_default() += 1;
    }
    format!("{counted:?}")
}

pub fn counts(tally: &Tally) -> String {
    let Tally { attempts, vetoes, retries, requests, .. } = tally;
    format!(
        "{requests} requests, attempts {}, vetoes {}, retries {}",
        summary(attempts),
        summary(vetoes),
        summary(retries)
    )
}

/// How many of the words are this one.
pub fn times(words: &[String], word: &str) -> usize {
    words.iter().filter(|known| *known == word).count()
}
