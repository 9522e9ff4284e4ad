//! Where Weir is attached, and the one Envoy per such level that all cases share.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::ensure;
use serde_json::json;

use crate::case::Case;
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::{self, Request};
use crate::support::envoy::{Envoy, Launch};
use crate::support::upstream::{Upstream, answer, http1};
use crate::support::{envoy, ports};

/// How much of Weir is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Not at all: shows that upstreams and routes provoke what the case says, and that this Envoy does what we know.
    Without,
    Decide,
    Watch,
    Guard,
}

impl Level {
    pub const ALL: [Self; 4] = [Self::Without, Self::Decide, Self::Watch, Self::Guard];
    pub const WITH_WEIR: &'static [Self] = &[Self::Decide, Self::Watch, Self::Guard];
    /// Those at which nothing looks at an attempt before it is retried.
    pub const UNGUARDED: &'static [Self] = &[Self::Decide, Self::Watch];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Without => "without",
            Self::Decide => "decide",
            Self::Watch => "decide+watch",
            Self::Guard => "decide+watch+guard",
        }
    }

    pub const fn attach(self) -> Attach {
        match self {
            Self::Without => Attach::NOWHERE,
            Self::Decide => Attach::DECIDE,
            Self::Watch => Attach::WATCH,
            Self::Guard => Attach::GUARD,
        }
    }
}

/// The version of the Envoy under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    pub fn detect() -> anyhow::Result<Self> {
        let text = envoy::version()?;
        let mut numbers = text.split('.').filter_map(|part| part.parse().ok());
        match (numbers.next(), numbers.next()) {
            (Some(major), Some(minor)) => Ok(Self(major, minor)),
            _ => anyhow::bail!("not a version: {text}"),
        }
    }
}

/// The Envoy of a level, with the upstreams of all cases.
pub struct Site {
    pub level: Level,
    pub version: Version,
    pub envoy: Mutex<Envoy>,
    pub admin: crate::support::admin::Admin,
    pub port: u16,
    upstreams: HashMap<&'static str, Vec<Upstream>>,
    logs: tempfile::TempDir,
}

impl Site {
    fn start(level: Level, version: Version, cases: &[Case]) -> anyhow::Result<Self> {
        let logs = tempfile::Builder::new().prefix("weir-logs-").tempdir()?;
        let upstreams: HashMap<_, Vec<Upstream>> =
            cases.iter().map(|case| (case.name, case.upstreams.iter().map(|start| start()).collect())).collect();
        let mut clusters = Vec::new();
        let mut routes = Vec::new();
        for case in cases {
            let parts = case.parts(&upstreams[case.name]);
            clusters.extend(parts.clusters);
            routes.extend(parts.routes);
        }
        // Weir warns of entries that no request went by within a minute, which is not enough for all cases on a busy machine: so
        // one goes by each at once.
        let answers = http1(|_| answer(200, &[], ""));
        let first = |entry: String| (format!("/first/{entry}/"), entry);
        let first: Vec<_> = entries().into_iter().map(first).collect();
        for (path, cluster) in &first {
            clusters.push(bootstrap::cluster(cluster, &[answers.address]));
            routes.push(bootstrap::route(path, cluster));
        }
        let port = ports::free().port();
        let listener = bootstrap::listener(Listener {
            name: "cases",
            port,
            attach: level.attach(),
            policy: &policy(),
            routes,
            logs: Some(logs.path()),
            manager: json!({"stream_idle_timeout": "0s", "route_config": {"validate_clusters": false}}),
        });
        let envoy = Launch::json(bootstrap::bootstrap(&[listener], &clusters)).concurrency(2).start()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        for (path, _) in &first {
            let response = client::exchange(address, &Request::get(path))?;
            ensure!(response.status == 200, "{path}: {response:?}");
        }
        Ok(Self { level, version, admin: envoy.admin, envoy: Mutex::new(envoy), port, upstreams, logs })
    }

    pub fn upstreams(&self, case: &str) -> &[Upstream] {
        &self.upstreams[case]
    }

    /// `requests.log` or `attempts.log`: the entries whose path starts so, as `flags/code` and details.
    pub fn log(&self, file: &str, path: &str) -> Vec<Entry> {
        read_log(&self.logs.path().join(file), path)
    }
}

/// An entry of an access log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Such as `UF,URX/503`; `-/200` and `-/-` where Envoy has no flag, and no code. Flags stand in alphabetical order.
    pub end: String,
    pub details: String,
}

pub fn read_log(file: &Path, path: &str) -> Vec<Entry> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    // A line that is still being written has no end.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().filter(|line| line.starts_with(path));
    lines
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (flags, code) = (words.next()?, words.next()?);
            let code = if code == "0" { "-" } else { code };
            let mut flags: Vec<&str> = flags.split(',').collect();
            flags.sort_unstable();
            Some(Entry {
                end: format!("{}/{code}", flags.join(",")),
                details: words.next().unwrap_or_default().to_owned(),
            })
        })
        .collect()
}

/// What `decide` is told. Cases choose among these by the name of their cluster.
fn policy() -> serde_json::Value {
    json!({
        "role": "decide",
        // Each case shall see all of its failures.
        "outlierDetection": null,
        "clusters": [
            {"match": "once-*", "retry": {"maxRetries": 0}},
            {"match": "one-*", "retry": {"maxRetries": 1}},
            {"match": "four-*", "retry": {"maxRetries": 4}},
            // One retry an hour.
            {"match": "scarce-*", "retry": {
                "budget": {"percent": 0, "interval": "1h"}, "minRetryRate": {"count": 1, "interval": "1h"},
            }},
            {"match": "off-*", "retry": null},
            {"match": "pertry-*", "retry": {"perTryTimeout": "1500ms"}},
            {"match": "codes-*", "retry": {"statusCodes": [500, 418]}},
            {"match": "unavailable-*", "retry": {"grpcStatusCodes": ["unavailable"]}},
            {"match": "stated-*", "retry": {"notProcessedHeaders": ["x-not-processed"]}},
            {"match": "any-*", "retry": {"alreadyRetried": "any"}},
            {"match": "none-*", "retry": {"alreadyRetried": "none"}},
        ],
    })
}

/// A cluster for each entry of the policy.
fn entries() -> Vec<String> {
    let policy = policy();
    let entries = policy["clusters"].as_array().into_iter().flatten();
    entries.filter_map(|entry| Some(entry["match"].as_str()?.replace('*', "first"))).collect()
}

/// The Envoys that run, one per level, each started by the first case that needs it.
pub struct Sites {
    version: Version,
    cases: Arc<Vec<Case>>,
    slots: [Mutex<Option<Started>>; 4],
}

/// What became of starting an Envoy.
type Started = Result<Arc<Site>, String>;

impl Sites {
    pub fn new(version: Version, cases: Arc<Vec<Case>>) -> Self {
        Self { version, cases, slots: Default::default() }
    }

    pub fn get(&self, level: Level) -> Result<Arc<Site>, String> {
        let mut slot = self.slots[level as usize].lock().expect("no one panics while an Envoy starts");
        slot.get_or_insert_with(|| {
            let site = Site::start(level, self.version, &self.cases);
            site.map(Arc::new).map_err(|error| format!("no Envoy for {}: {error:#}", level.name()))
        })
        .clone()
    }

    /// Those that were started.
    pub fn started(&self) -> Vec<Arc<Site>> {
        let slots = self.slots.iter().filter_map(|slot| slot.lock().ok()?.clone());
        slots.filter_map(Result::ok).collect()
    }
}
