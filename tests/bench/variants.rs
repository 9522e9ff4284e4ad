//! What is compared: an Envoy with a listener for each variant, each with clusters of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::support::bootstrap::{self, Attach, Listener, merge};
use super::support::ports;

/// What stands before the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    None,
    /// Envoy's own retries, with a retry budget and outlier detection.
    Native,
    /// The SDK's filter that does nothing.
    Empty,
    /// A Lua filter that sets the two headers which ask for retries.
    Lua,
    Decide,
    /// `watch` behind an access-log filter that passes failures only.
    Watch,
    Guard,
    /// `watch` with no filter.
    WatchAll,
}

impl Filter {
    pub const ALL: [Self; 8] =
        [Self::None, Self::Native, Self::Empty, Self::Lua, Self::Decide, Self::Watch, Self::Guard, Self::WatchAll];

    pub const fn title(self) -> &'static str {
        match self {
            Self::None => "no filter",
            Self::Native => "Envoy's retry policy, retry_budget, outlier_detection",
            Self::Empty => "an empty filter (Rust SDK)",
            Self::Lua => "a Lua filter that sets two headers",
            Self::Decide => "Weir: decide",
            Self::Watch => "Weir: decide, watch (failures)",
            Self::Guard => "Weir: decide, watch (failures), guard",
            Self::WatchAll => "Weir: decide, watch (everything)",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Native => "native",
            Self::Empty => "empty",
            Self::Lua => "lua",
            Self::Decide => "decide",
            Self::Watch => "watch",
            Self::Guard => "guard",
            Self::WatchAll => "watch-all",
        }
    }

    const fn attach(self) -> Attach {
        match self {
            Self::Decide => Attach::DECIDE,
            Self::Watch | Self::WatchAll => Attach::WATCH,
            Self::Guard => Attach::GUARD,
            _ => Attach::NOWHERE,
        }
    }

    pub const fn is_weir(self) -> bool {
        matches!(self, Self::Decide | Self::Watch | Self::Guard | Self::WatchAll)
    }

    /// Whether it is measured with a host out, too.
    pub const fn is_measured_out(self) -> bool {
        matches!(self, Self::Native | Self::Decide | Self::Watch | Self::Guard)
    }
}

/// A filter, in calm or while one of four hosts is out.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    pub filter: Filter,
    pub out: bool,
    pub port: u16,
}

impl Variant {
    pub fn all() -> Vec<Self> {
        let calm = Filter::ALL.map(|filter| (filter, false));
        let out = Filter::ALL.into_iter().filter(|filter| filter.is_measured_out()).map(|filter| (filter, true));
        let port = |(filter, out)| Self { filter, out, port: ports::free().port() };
        calm.into_iter().chain(out).map(port).collect()
    }

    pub fn name(&self) -> String {
        let suffix = if self.out { "-out" } else { "" };
        format!("{}{suffix}", self.filter.name())
    }

    /// The gauge that says how many hosts are out.
    pub fn hosts_out(&self, http2: bool) -> String {
        let cluster = cluster_name(&self.name(), http2);
        if self.filter.is_weir() {
            format!("wasmcustom.weir_hosts_out.cluster.{cluster}")
        } else {
            format!("cluster.{cluster}.outlier_detection.ejections_active")
        }
    }
}

fn cluster_name(variant: &str, http2: bool) -> String {
    format!("{variant}-{}", if http2 { "h2" } else { "h1" })
}

/// The bootstrap with all variants. The hosts of a variant in which one is out are the first three, and `dead`.
pub fn bootstrap(variants: &[Variant], hosts: &[SocketAddr], dead: SocketAddr, empty: &Path) -> Value {
    let listeners: Vec<Value> = variants.iter().map(|variant| listener(variant, empty)).collect();
    let with_dead: Vec<SocketAddr> = hosts.iter().skip(1).copied().chain([dead]).collect();
    let clusters: Vec<Value> = variants
        .iter()
        .flat_map(|variant| [false, true].map(|http2| (variant, http2)))
        .map(|(variant, http2)| cluster(variant, http2, if variant.out { &with_dead } else { hosts }))
        .collect();
    bootstrap::bootstrap(&listeners, &clusters)
}

fn listener(variant: &Variant, empty: &Path) -> Value {
    let name = variant.name();
    let route = |prefix: &str, http2| {
        let mut route = bootstrap::route(prefix, &cluster_name(&name, http2));
        if variant.filter == Filter::Native || variant.filter.is_weir() {
            let previous_hosts = json!({
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type":
                    "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            });
            route["route"]["retry_policy"] =
                json!({"retry_host_predicate": [previous_hosts], "host_selection_retry_max_attempts": 5});
        }
        if variant.filter == Filter::Native {
            let policy = json!({"retry_on": "connect-failure,refused-stream,reset,gateway-error", "num_retries": 2});
            merge(&mut route["route"]["retry_policy"], &policy);
        }
        route
    };
    let policy = if variant.out {
        json!({"outlierDetection": {"baseEjectionTime": "1h", "maxEjectionTime": "1h"}})
    } else {
        Value::Null
    };
    let mut listener = bootstrap::listener(Listener {
        name: &name,
        port: variant.port,
        attach: variant.filter.attach(),
        policy: &policy,
        routes: vec![route("/h1", false), route("/h2", true)],
        logs: None,
        manager: json!({"use_remote_address": true}),
    });
    if matches!(variant.filter, Filter::Watch | Filter::Guard)
        && let Some(Value::Array(filters)) =
            listener.pointer_mut("/filter_chains/0/filters/0/typed_config/http_filters")
        && let Some(router) = filters.last_mut()
    {
        router["typed_config"]["upstream_log"] = json!([bootstrap::watch_log(true)]);
    }
    // Each variant has a VM of its own, and so knows nothing of the others' trouble.
    set_vm_id(&mut listener, &format!("weir-{name}"));
    let filter = match variant.filter {
        Filter::Empty => Some(json!({
            "name": "empty",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
                "config": {
                    "name": "empty",
                    "vm_config": {
                        "vm_id": "empty",
                        "runtime": "envoy.wasm.runtime.v8",
                        "code": {"local": {"filename": empty}},
                    },
                },
            },
        })),
        Filter::Lua => Some(json!({
            "name": "lua",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
                "default_source_code": {"inline_string": LUA},
            },
        })),
        _ => None,
    };
    if let Some(filter) = filter
        && let Some(Value::Array(filters)) =
            listener.pointer_mut("/filter_chains/0/filters/0/typed_config/http_filters")
    {
        filters.insert(0, filter);
    }
    listener
}

const LUA: &str = "\
function envoy_on_request(handle)
  local headers = handle:headers()
  headers:replace(\"x-envoy-retry-on\", \"connect-failure,refused-stream,reset,gateway-error\")
  headers:replace(\"x-envoy-max-retries\", \"2\")
end
";

fn set_vm_id(value: &mut Value, id: &str) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "vm_id" { *value = json!(id) } else { set_vm_id(value, id) }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| set_vm_id(item, id)),
        _ => {}
    }
}

fn cluster(variant: &Variant, http2: bool, hosts: &[SocketAddr]) -> Value {
    let mut cluster = bootstrap::cluster(&cluster_name(&variant.name(), http2), hosts);
    if http2 {
        merge(&mut cluster, &bootstrap::http2());
    }
    if variant.filter == Filter::Native {
        merge(
            &mut cluster,
            &json!({
                "circuit_breakers": {"thresholds": [{"retry_budget": {"budget_percent": {"value": 20.0}}}]},
                "outlier_detection": {
                    "split_external_local_origin_errors": true,
                    "consecutive_local_origin_failure": 1,
                    "base_ejection_time": "3600s",
                    "max_ejection_time": "3600s",
                    "max_ejection_percent": 50,
                },
            }),
        );
    }
    if variant.filter.is_weir() {
        merge(&mut cluster, &override_host());
    }
    cluster
}

/// The load balancing policy that Weir steers with; merged over a cluster.
pub fn override_host() -> Value {
    let policy = |name: &str, message: &str, config: Value| {
        let mut config = config;
        config["@type"] = json!(format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{message}"));
        json!({"policies": [{"typed_extension_config": {
            "name": format!("envoy.load_balancing_policies.{name}"), "typed_config": config,
        }}]})
    };
    let fallback = policy("round_robin", "round_robin.v3.RoundRobin", json!({}));
    let config = json!({"override_host_sources": [{"header": "x-weir-hosts"}], "fallback_policy": fallback});
    json!({"load_balancing_policy": policy("override_host", "override_host.v3.OverrideHost", config)})
}

/// A host that refuses connections.
pub fn dead() -> SocketAddr {
    ports::free()
}

/// Where the empty filter is, once it is built: `WEIR_EMPTY_FILTER`.
pub fn empty_filter() -> PathBuf {
    std::env::var_os("WEIR_EMPTY_FILTER").map_or_else(|| "target/empty-filter.wasm".into(), PathBuf::from)
}
