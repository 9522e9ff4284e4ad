//! Envoy's configuration for one side of a situation: that of `envoy/envoy.yaml` with Weir or without, and what the situation
//! changes in it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::policy::Policy;
use super::super::support::bootstrap::{self, merge};
use super::super::support::envoy;
use super::replica::HEALTH;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Without,
    With,
}

/// The shipped bootstrap, as data: whole, and without the parts that are there for Weir.
pub struct Shipped {
    with: Value,
    without: Value,
}

impl Shipped {
    /// # Errors
    /// When the file is not as it should be.
    pub fn read() -> Result<Self> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/envoy.yaml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let parse =
            |text: &str| serde_yaml_ng::from_str(text).with_context(|| format!("{} is no YAML", path.display()));
        Ok(Self { with: parse(&text)?, without: parse(&without_weir(&text)?)? })
    }

    fn of(&self, side: Side) -> &Value {
        match side {
            Side::Without => &self.without,
            Side::With => &self.with,
        }
    }

    /// The bootstrap of an Envoy for all these.
    pub fn bootstrap(&self, side: Side, setups: Vec<Setup>) -> Value {
        let mut whole = json!({
            "node": {"id": "harm", "cluster": "harm"},
            "stats_config": self.of(side)["stats_config"],
            "static_resources": {"listeners": [], "clusters": []},
        });
        let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
        for setup in setups {
            merge(&mut whole, &setup.bootstrap);
            listeners.extend(setup.listeners);
            clusters.extend(setup.clusters);
        }
        whole["static_resources"] = json!({"listeners": listeners, "clusters": clusters});
        whole
    }
}

/// The text without what stands between the marks.
fn without_weir(text: &str) -> Result<String> {
    const END: &str = "# <<< weir";
    let (mut rest, mut kept) = (text, String::new());
    while let Some(begin) = rest.find("# >>> weir: ") {
        let end = rest[begin..].find(END).with_context(|| format!("a part of {text:?} has no end"))?;
        kept.push_str(&rest[..begin]);
        rest = &rest[begin + end + END.len()..];
    }
    ensure!(!kept.is_empty(), "no part is marked as Weir's");
    Ok(kept + rest)
}

/// What a situation may change.
pub struct Setup {
    pub side: Side,
    /// The situation's name, which is that of its listener and of its first cluster.
    pub name: &'static str,
    /// Where its replicas listen.
    pub hosts: Vec<Value>,
    pub directory: PathBuf,
    /// The first leads to the first cluster.
    pub listeners: Vec<Value>,
    pub clusters: Vec<Value>,
    /// Merged over the bootstrap.
    pub bootstrap: Value,
}

impl Setup {
    pub fn new(
        shipped: &Shipped,
        side: Side,
        name: &'static str,
        listens: SocketAddr,
        hosts: Vec<Value>,
        directory: &Path,
    ) -> Result<Self> {
        let resource = |kind: &str| shipped.of(side).pointer(&format!("/static_resources/{kind}/0")).cloned();
        let mut listener = resource("listeners").context("envoy/envoy.yaml has no listener")?;
        listener["name"] = json!(name);
        listener["address"] = bootstrap::address(listens);
        let listener = match side {
            Side::With => load_module(&listener)?,
            Side::Without => listener,
        };
        let mut cluster = resource("clusters").context("envoy/envoy.yaml has no cluster")?;
        cluster["name"] = json!(name);
        let directory = directory.to_owned();
        let (listeners, clusters) = (vec![listener], vec![cluster]);
        let mut setup = Self { side, name, hosts, directory, listeners, clusters, bootstrap: json!({}) };
        setup.manager()["stat_prefix"] = json!(name);
        setup.manager()["access_log"] = json!([access_log(&setup.log())]);
        setup.route()["route"]["cluster"] = json!(name);
        if side == Side::Without {
            setup.route()["route"]["retry_policy"] = Policy::Istio.retry_policy();
        }
        let assignment = setup.assignment(setup.every_host());
        setup.clusters[0]["load_assignment"] = assignment;
        setup.balancer("round_robin", "RoundRobin");
        Ok(setup)
    }

    /// The access log of requests.
    pub fn log(&self) -> PathBuf {
        self.directory.join("requests.log")
    }

    pub fn manager(&mut self) -> &mut Value {
        &mut self.listeners[0]["filter_chains"][0]["filters"][0]["typed_config"]
    }

    pub fn virtual_host(&mut self) -> &mut Value {
        &mut self.manager()["route_config"]["virtual_hosts"][0]
    }

    pub fn route(&mut self) -> &mut Value {
        &mut self.virtual_host()["routes"][0]
    }

    /// Merged over the route's action.
    pub fn action(&mut self, over: &Value) {
        merge(&mut self.route()["route"], over);
    }

    /// A route before the others: the usual one, with this merged over it.
    pub fn first_route(&mut self, over: &Value) {
        let mut route = self.route().clone();
        merge(&mut route, over);
        if let Some(routes) = self.virtual_host()["routes"].as_array_mut() {
            routes.insert(0, route);
        }
    }

    /// Merged over the first cluster.
    pub fn cluster(&mut self, over: &Value) {
        merge(&mut self.clusters[0], over);
    }

    /// What retries Envoy makes without Weir, instead of Istio's default.
    pub fn without_weir(&mut self, retry: &Value) {
        if self.side == Side::Without {
            merge(&mut self.route()["route"]["retry_policy"], retry);
        }
    }

    /// A filter of the user's own directly before the router, and so after Weir's.
    pub fn filter(&mut self, filter: Value) {
        if let Some(filters) = self.manager()["http_filters"].as_array_mut() {
            let router = filters.len() - 1;
            filters.insert(router, filter);
        }
    }

    /// Envoy's `HttpProtocolOptions` of the first cluster, where it has them.
    pub fn protocol_options(&mut self) -> Option<&mut Value> {
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        self.clusters[0].get_mut("typed_extension_protocol_options")?.get_mut(options)
    }

    /// Weir where only an HTTP filter can be attached, and no cluster changed: what the cluster's own retry policy says stands
    /// in the route then.
    pub fn decide_alone(&mut self) {
        let own = self.protocol_options().map(|options| options["retry_policy"].take());
        if let Some(own) = own {
            merge(&mut self.route()["route"], &json!({"retry_policy": own}));
        }
        if let Some(cluster) = self.clusters[0].as_object_mut() {
            cluster.remove("typed_extension_protocol_options");
        }
        let Some(filters) = self.manager()["http_filters"].as_array_mut() else { return };
        if let Some(router) = filters.last_mut().and_then(|router| router["typed_config"].as_object_mut()) {
            router.remove("upstream_log");
            router.remove("upstream_http_filters");
        }
        let balancer = bare_balancer("round_robin", "RoundRobin");
        self.clusters[0]["load_balancing_policy"] = balancer;
    }

    /// Merged over what `decide` is told; in a VM of its own, since those that share one share their policy.
    pub fn policy(&mut self, over: &Value) {
        if self.side == Side::Without {
            return;
        }
        own_vm(&mut self.listeners[0], self.name);
        let value = self.manager().pointer_mut("/http_filters/0/typed_config/config/configuration/value");
        if let Some(Value::String(text)) = value
            && let Ok(mut policy) = serde_json::from_str::<Value>(text)
        {
            merge(&mut policy, over);
            *text = policy.to_string();
        }
    }

    /// How the cluster spreads requests: under Weir's steering, where there is one.
    pub fn balancer(&mut self, name: &str, kind: &str) {
        let own = bare_balancer(name, kind);
        let cluster = &mut self.clusters[0];
        let fallback = "/load_balancing_policy/policies/0/typed_extension_config/typed_config/fallback_policy";
        match (self.side, cluster.pointer_mut(fallback)) {
            (Side::With, Some(fallback)) => *fallback = own,
            _ => cluster["load_balancing_policy"] = own,
        }
    }

    /// The same by the hash of whose request it is. Under Istio such a route does not avoid the host that failed; Weir is told to
    /// steer nothing there, as its documentation says.
    pub fn hash_balancer(&mut self, name: &str, kind: &str) {
        self.balancer(name, kind);
        let cluster = self.name;
        self.policy(&json!({"clusters": [{"match": cluster, "steering": "off"}]}));
        self.action(&json!({"hash_policy": [{"header": {"header_name": super::client::USER}}]}));
        if self.side == Side::Without
            && let Some(retry) = self.route()["route"]["retry_policy"].as_object_mut()
        {
            retry.remove("retry_host_predicate");
        }
    }

    pub fn http2(&mut self) {
        if let Some(config) = self.protocol_options().and_then(|options| options.get_mut("explicit_http_config")) {
            *config = json!({});
        }
        self.cluster(&bootstrap::http2());
    }

    pub fn upgrades(&mut self, kind: &str) {
        self.manager()["upgrade_configs"] = json!([{"upgrade_type": kind}]);
    }

    /// Hosts come from a file that [`Self::publish`] writes.
    pub fn eds(&mut self) -> Result<()> {
        publish(&self.directory, self.name, &self.hosts, &self.every_host())?;
        if let Some(cluster) = self.clusters[0].as_object_mut() {
            cluster.remove("load_assignment");
        }
        let source = json!({"resource_api_version": "V3", "path_config_source": {
            "path": self.directory.join(HOSTS), "watched_directory": {"path": self.directory},
        }});
        self.cluster(&json!({"type": "EDS", "eds_cluster_config": {"eds_config": source}}));
        Ok(())
    }

    /// Envoy asks every replica for its health ten times a second.
    pub fn health_checks(&mut self) {
        self.cluster(&json!({"health_checks": [{
            "timeout": "1s", "interval": "0.1s", "no_traffic_interval": "0.1s", "unhealthy_threshold": 2, "healthy_threshold": 1,
            "http_health_check": {"path": HEALTH},
        }]}));
    }

    /// Envoy's own limits of what is under way at once; none of retries.
    pub fn limits(&mut self, limits: &Value) {
        let mut thresholds = json!({"max_retries": 100});
        merge(&mut thresholds, limits);
        self.cluster(&json!({"circuit_breakers": {"thresholds": [thresholds]}}));
    }

    pub fn every_host(&self) -> Vec<(usize, &'static str)> {
        (0..self.hosts.len()).map(|host| (host, "")).collect()
    }

    pub fn assignment(&self, members: Vec<(usize, &'static str)>) -> Value {
        assignment(self.name, &self.hosts, &members)
    }

    /// So many hosts of each priority, the highest first.
    pub fn priorities(&mut self, sizes: &[usize]) {
        let mut hosts = 0..self.hosts.len();
        let localities = sizes.iter().enumerate().map(|(priority, size)| {
            let members: Vec<_> = hosts.by_ref().take(*size).map(|host| (host, "")).collect();
            let mut endpoints = assignment(self.name, &self.hosts, &members)["endpoints"][0].take();
            endpoints["priority"] = json!(priority);
            endpoints
        });
        self.clusters[0]["load_assignment"] =
            json!({"cluster_name": self.name, "endpoints": localities.collect::<Vec<_>>()});
    }
}

const HOSTS: &str = "hosts.json";

/// What the control plane says that a cluster's hosts are.
pub fn publish(directory: &Path, name: &str, hosts: &[Value], members: &[(usize, &'static str)]) -> Result<()> {
    let mut assignment = assignment(name, hosts, members);
    assignment["@type"] = json!("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment");
    let draft = directory.join("draft.json");
    std::fs::write(&draft, json!({"resources": [assignment]}).to_string())?;
    // All at once.
    std::fs::rename(&draft, directory.join(HOSTS)).context("cannot replace the hosts")
}

fn assignment(name: &str, hosts: &[Value], members: &[(usize, &'static str)]) -> Value {
    let endpoint = |(host, health): &(usize, &'static str)| {
        let mut endpoint = json!({"endpoint": {"address": hosts[*host]}});
        if !health.is_empty() {
            endpoint["health_status"] = json!(health);
        }
        endpoint
    };
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": members.iter().map(endpoint).collect::<Vec<_>>()}]})
}

fn bare_balancer(name: &str, kind: &str) -> Value {
    let family = "type.googleapis.com/envoy.extensions.load_balancing_policies";
    json!({"policies": [{"typed_extension_config": {
        "name": format!("envoy.load_balancing_policies.{name}"),
        "typed_config": {"@type": format!("{family}.{name}.v3.{kind}")},
    }}]})
}

/// Gives all plugins in it a VM that no other situation has.
fn own_vm(value: &mut Value, name: &str) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| own_vm(item, name)),
        Value::Object(fields) => fields.iter_mut().for_each(|(key, field)| match key.as_str() {
            "vm_id" => *field = json!(format!("weir-{name}")),
            _ => own_vm(field, name),
        }),
        _ => {}
    }
}

/// The module that was built, wherever it is.
fn load_module(listener: &Value) -> Result<Value> {
    let text = listener.to_string();
    let shipped = "\"filename\":\"target/weir.wasm\"";
    ensure!(text.contains(shipped), "envoy/envoy.yaml does not load target/weir.wasm");
    let module = json!(envoy::module()).to_string();
    Ok(serde_json::from_str(&text.replace(shipped, &format!("\"filename\":{module}")))?)
}

/// The status of each request, and Weir's verdict.
fn access_log(path: &Path) -> Value {
    json!({"name": "file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": path,
        "log_format": {"text_format_source": {"inline_string":
            "%RESPONSE_CODE% %FILTER_STATE(wasm.weir.verdict:PLAIN)% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n"}},
    }})
}
