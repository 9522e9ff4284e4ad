//! A case: a way to fail, what Envoy makes of it, and what Weir must say.

use serde_json::{Value, json};

use crate::level::{Level, Version};
use crate::support::bootstrap;
use crate::support::client::{self, Connection, Request, Response};
use crate::support::upstream::Upstream;

/// What a case does as a client.
pub type Visit = fn(&Scene<'_>) -> anyhow::Result<()>;

/// A row of the table. Each case has its own upstreams, cluster and route, so that its numbers are its own.
pub struct Case {
    pub name: &'static str,
    /// The policy that its cluster has; see `level::policy`.
    policy: &'static str,
    /// The endpoints of its cluster.
    pub upstreams: Vec<Box<dyn Fn() -> Upstream + Send + Sync>>,
    /// Merged over its cluster, in this order.
    cluster: Vec<Value>,
    /// Merged over its route.
    route: Value,
    /// No cluster by its name exists.
    clusterless: bool,
    /// Its route sends copies to the second upstream.
    mirrored: bool,
    pub visit: Visit,
    pub outcomes: Vec<Outcome>,
    /// Whether it says something about Envoy without Weir.
    pub without: bool,
}

/// What a case puts into Envoy's configuration.
pub struct Parts {
    pub clusters: Vec<Value>,
    pub routes: Vec<Value>,
}

impl Case {
    /// A case that is never retried by Weir's doing, so that it is one attempt exactly.
    pub fn once(name: &'static str) -> Self {
        Self::under("once", name)
    }

    /// A case under one of the policies of `level::policy`; `default` is the policy of all other clusters.
    pub fn under(policy: &'static str, name: &'static str) -> Self {
        Self {
            name,
            policy,
            upstreams: Vec::new(),
            cluster: Vec::new(),
            route: Value::Null,
            clusterless: false,
            mirrored: false,
            visit: |scene| scene.get().map(drop),
            outcomes: Vec::new(),
            without: policy == "once",
        }
    }

    pub fn upstream(mut self, start: impl Fn() -> Upstream + Send + Sync + 'static) -> Self {
        self.upstreams.push(Box::new(start));
        self
    }

    pub fn cluster(mut self, over: Value) -> Self {
        self.cluster.push(over);
        self
    }

    pub fn http2(self) -> Self {
        self.cluster(bootstrap::http2())
    }

    pub fn route(mut self, over: Value) -> Self {
        bootstrap::merge(&mut self.route, &over);
        self
    }

    pub fn clusterless(mut self) -> Self {
        self.clusterless = true;
        self
    }

    /// Sends a copy of each request to a cluster of its own, which holds the second upstream.
    pub fn mirror(mut self) -> Self {
        self.mirrored = true;
        self.route(json!({"route": {"request_mirror_policies": [{"cluster": "copies"}]}}))
    }

    /// What the client does; a GET unless told.
    pub fn visit(mut self, visit: Visit) -> Self {
        self.visit = visit;
        self
    }

    /// Says nothing about Envoy without Weir.
    pub fn with_weir_only(mut self) -> Self {
        self.without = false;
        self
    }

    /// Adds a legal outcome.
    pub fn then(mut self, outcome: Outcome) -> Self {
        self.outcomes.push(outcome);
        self
    }

    /// Whether Weir has a say in its retries.
    pub fn has_retries(&self) -> bool {
        self.policy != "off"
    }

    pub fn cluster_name(&self) -> String {
        format!("{}-{}", self.policy, self.name)
    }

    pub fn path(&self) -> String {
        format!("/{}/", self.name)
    }

    pub fn parts(&self, upstreams: &[Upstream]) -> Parts {
        let name = self.cluster_name();
        let mut route = bootstrap::route(&self.path(), &name);
        bootstrap::merge(&mut route, &self.route);
        if route.get("direct_response").is_some()
            && let Some(route) = route.as_object_mut()
        {
            route.remove("route");
        }
        if self.clusterless {
            return Parts { clusters: Vec::new(), routes: vec![route] };
        }
        let endpoints: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
        let (endpoints, copies) = endpoints.split_at(if self.mirrored { 1 } else { endpoints.len() });
        let mut cluster = bootstrap::cluster(&name, endpoints);
        for over in &self.cluster {
            bootstrap::merge(&mut cluster, over);
        }
        let mut clusters = vec![cluster];
        if self.mirrored {
            clusters.push(bootstrap::cluster("copies", copies));
        }
        Parts { clusters, routes: vec![route] }
    }
}

/// What a client has at hand.
pub struct Scene<'a> {
    pub case: &'a Case,
    pub level: Level,
    pub envoy: std::net::SocketAddr,
    pub upstreams: &'a [Upstream],
}

impl Scene<'_> {
    pub fn get(&self) -> anyhow::Result<Response> {
        self.exchange(&Request::get(&self.case.path()))
    }

    pub fn post(&self) -> anyhow::Result<Response> {
        self.exchange(&Request::post(&self.case.path()))
    }

    pub fn exchange(&self, request: &Request) -> anyhow::Result<Response> {
        client::exchange(self.envoy, request)
    }

    pub fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.envoy)
    }
}

/// One way in which a case may end. Lists are words; `reset*3` is three of them.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The ends of the attempts as Envoy's upstream log has them, in any order.
    pub attempts: Vec<String>,
    /// The ends of the requests as Envoy's access log has them, in any order; flags in alphabetical order.
    pub requests: Vec<String>,
    /// The attempts that Weir counts, where it sees each.
    pub signals: Vec<String>,
    /// What `decide` alone counts: the last attempt of each request. The same as `signals` unless told.
    pub alone: Option<Vec<String>>,
    /// The retries that `guard` stops.
    pub vetoes: Vec<String>,
    /// What the budget says of retries, where it is not that it grants those that are seen.
    retries: Option<Vec<String>>,
    /// Part of the code details of each request; for Envoy without Weir only.
    pub details: &'static str,
    /// How many requests each upstream sees; unknown unless told.
    pub seen: Option<Vec<usize>>,
    levels: Option<&'static [Level]>,
    versions: fn(Version) -> bool,
}

impl Outcome {
    pub fn new(attempts: &str, requests: &str, signals: &str) -> Self {
        Self {
            attempts: words(attempts),
            requests: words(requests),
            signals: words(signals),
            alone: None,
            vetoes: Vec::new(),
            retries: None,
            details: "",
            seen: None,
            levels: None,
            versions: |_| true,
        }
    }

    pub fn alone(mut self, signals: &str) -> Self {
        self.alone = Some(words(signals));
        self
    }

    pub fn vetoes(mut self, reasons: &str) -> Self {
        self.vetoes = words(reasons);
        self
    }

    /// What the budget says, in words.
    pub fn budget(mut self, verdicts: &str) -> Self {
        self.retries = Some(words(verdicts));
        self
    }

    pub fn details(mut self, part: &'static str) -> Self {
        self.details = part;
        self
    }

    pub fn seen(mut self, counts: &[usize]) -> Self {
        self.seen = Some(counts.to_vec());
        self
    }

    /// Legal at these levels only.
    pub fn at(mut self, levels: &'static [Level]) -> Self {
        self.levels = Some(levels);
        self
    }

    /// Legal with these versions of Envoy only.
    pub fn with(mut self, versions: fn(Version) -> bool) -> Self {
        self.versions = versions;
        self
    }

    pub fn is_legal(&self, level: Level, version: Version) -> bool {
        self.levels.is_none_or(|levels| levels.contains(&level)) && (self.versions)(version)
    }

    /// What the budget is counted to say of retries.
    pub fn retries(&self, has_retries: bool, level: Level) -> Vec<String> {
        if let Some(retries) = &self.retries {
            return retries.clone();
        }
        // An attempt that `guard` stopped for safety was no retry.
        let stopped =
            if level == Level::Guard { self.vetoes.iter().filter(|veto| *veto == "unsafe").count() } else { 0 };
        let retries = self.signals.len().saturating_sub(self.requests.len() + stopped);
        vec!["granted".to_owned(); if has_retries { retries } else { 0 }]
    }

    /// The signals that are counted at a level.
    pub fn counted(&self, level: Level) -> &[String] {
        match level {
            Level::Without => &[],
            Level::Decide => self.alone.as_ref().unwrap_or(&self.signals),
            Level::Watch | Level::Guard => &self.signals,
        }
    }
}

/// Sorted, and with `word*3` written out.
pub fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = text
        .split_whitespace()
        .flat_map(|word| match word.split_once('*') {
            Some((word, times)) => vec![word.to_owned(); times.parse().expect("a number of times")],
            None => vec![word.to_owned()],
        })
        .collect();
    words.sort();
    words
}

/// `num_retries` and conditions as a route has them.
pub fn route_retries(conditions: &str, retries: u32) -> Value {
    json!({"route": {"retry_policy": {"retry_on": conditions, "num_retries": retries}}})
}
