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
    /// Weir's callbacks, these two headers set, and which host calls more, a letter for each: `floor-filter/src/lib.rs`.
    Floor(&'static str),
    Decide,
    /// `watch` behind an access-log filter that passes failures only.
    Watch,
    Guard,
    /// The same with `guard` behind its matcher, as in envoy/calm.yaml: calm first attempts pass it by.
    Quiet,
    /// `watch` with no filter.
    WatchAll,
    /// One of Weir's with another module, to compare: `WEIR_BENCH_MODULE`.
    Before(&'static Self),
}

impl Filter {
    pub const ALL: [Self; 10] = [
        Self::None,
        Self::Native,
        Self::Empty,
        Self::Lua,
        Self::Floor(""),
        Self::Decide,
        Self::Watch,
        Self::Guard,
        Self::Quiet,
        Self::WatchAll,
    ];

    /// All, and Weir's once more with the other module, where there is one.
    pub fn all() -> Vec<Self> {
        const BEFORE: [Filter; 3] =
            [Filter::Before(&Filter::Decide), Filter::Before(&Filter::Watch), Filter::Before(&Filter::Guard)];
        let before = if Modules::from_environment().before.is_some() { &BEFORE[..] } else { &[] };
        [&Self::ALL, before].concat()
    }

    /// The floor, and what each of Weir's host calls adds to it.
    pub const STEPS: [Self; 11] = [
        Self::None,
        Self::Empty,
        Self::Floor("n"),
        Self::Floor(""),
        Self::Floor("x"),
        Self::Floor("p"),
        Self::Floor("v"),
        Self::Floor("t"),
        Self::Floor("m"),
        Self::Floor("f"),
        Self::Floor("s"),
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Before(Self::Decide) => "the other module: decide",
            Self::Before(Self::Watch) => "the other module: decide, watch (failures)",
            Self::Before(_) => "the other module: decide, watch (failures), guard",
            Self::None => "no filter",
            Self::Native => "Envoy's retry policy, retry_budget, outlier_detection",
            Self::Empty => "an empty filter (Rust SDK)",
            Self::Lua => "a Lua filter that sets two headers",
            Self::Floor("") => "the floor: Weir's callbacks, two headers set, nothing else",
            Self::Floor("n") => "without setting the headers",
            Self::Floor("x") => "reads `xds.cluster_name`",
            Self::Floor("p") => "reads all request headers at once",
            Self::Floor("v") => "reads six request headers one by one",
            Self::Floor("t") => "reads the clock",
            Self::Floor("m") => "counts two metrics",
            Self::Floor("f") => "reads `response.flags` at the end",
            Self::Floor(_) => "reads `response.code` at the end",
            Self::Decide => "Weir: decide",
            Self::Watch => "Weir: decide, watch (failures)",
            Self::Guard => "Weir: decide, watch (failures), guard",
            Self::Quiet => "the same, guard behind its matcher",
            Self::WatchAll => "Weir: decide, watch (everything)",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Floor("") => "floor",
            Self::Floor(letters) => letters,
            Self::None => "none",
            Self::Native => "native",
            Self::Empty => "empty",
            Self::Lua => "lua",
            Self::Decide => "decide",
            Self::Watch => "watch",
            Self::Guard => "guard",
            Self::Quiet => "quiet",
            Self::WatchAll => "watch-all",
            Self::Before(Self::Decide) => "decide-before",
            Self::Before(Self::Watch) => "watch-before",
            Self::Before(_) => "guard-before",
        }
    }

    const fn attach(self) -> Attach {
        match self {
            Self::Decide => Attach::DECIDE,
            Self::Watch | Self::WatchAll => Attach::WATCH,
            Self::Guard => Attach::GUARD,
            Self::Quiet => Attach::QUIET,
            Self::Before(filter) => filter.attach(),
            _ => Attach::NOWHERE,
        }
    }

    pub const fn is_weir(self) -> bool {
        matches!(self, Self::Decide | Self::Watch | Self::Guard | Self::Quiet | Self::WatchAll | Self::Before(_))
    }

    /// Whether it is measured with a host out, too.
    pub const fn is_measured_out(self) -> bool {
        matches!(self, Self::Native | Self::Decide | Self::Watch | Self::Guard | Self::Quiet | Self::Before(_))
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
    pub fn of(filters: &[Filter]) -> Vec<Self> {
        let calm = filters.iter().map(|filter| (*filter, false));
        let out = filters.iter().copied().filter(|filter| filter.is_measured_out()).map(|filter| (filter, true));
        let port = |(filter, out)| Self { filter, out, port: ports::free().port() };
        calm.chain(out).map(port).collect()
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
pub fn bootstrap(variants: &[Variant], hosts: &[SocketAddr], dead: SocketAddr, modules: &Modules) -> Value {
    let listeners: Vec<Value> = variants.iter().map(|variant| listener(variant, modules)).collect();
    let with_dead: Vec<SocketAddr> = hosts.iter().skip(1).copied().chain([dead]).collect();
    let clusters: Vec<Value> = variants
        .iter()
        .flat_map(|variant| [false, true].map(|http2| (variant, http2)))
        .map(|(variant, http2)| cluster(variant, http2, if variant.out { &with_dead } else { hosts }))
        .collect();
    bootstrap::bootstrap(&listeners, &clusters)
}

fn listener(variant: &Variant, modules: &Modules) -> Value {
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
        json!({
            "outlierDetection": {"baseEjectionTime": "1h", "maxEjectionTime": "1h"},
            // No request that is measured is one.
            "retry": {"alreadyRetried": "none"},
        })
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
    let failures = Filter::Before(&Filter::Watch);
    let guards = matches!(variant.filter, Filter::Guard | Filter::Quiet | Filter::Before(Filter::Guard));
    if (guards || matches!(variant.filter, Filter::Watch) || variant.filter == failures)
        && let Some(Value::Array(filters)) =
            listener.pointer_mut("/filter_chains/0/filters/0/typed_config/http_filters")
        && let Some(router) = filters.last_mut()
    {
        router["typed_config"]["upstream_log"] = json!([bootstrap::watch_log(true)]);
    }
    if let (Filter::Before(_), Some(before)) = (variant.filter, &modules.before) {
        set_module(&mut listener, before);
    }
    // Each variant has a VM of its own, and so knows nothing of the others' trouble.
    set_vm_id(&mut listener, &format!("weir-{name}"));
    let filter = match variant.filter {
        Filter::Empty => Some(wasm_filter("empty", &modules.empty, "")),
        Filter::Floor(letters) => Some(wasm_filter(&name, &modules.floor, letters)),
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

fn wasm_filter(name: &str, module: &Path, configuration: &str) -> Value {
    json!({
        "name": name,
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
            "config": {
                "name": name,
                "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": configuration},
                "vm_config": {
                    "vm_id": name,
                    "runtime": "envoy.wasm.runtime.v8",
                    "code": {"local": {"filename": module}},
                },
            },
        },
    })
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

fn set_module(value: &mut Value, module: &Path) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == "filename" { *value = json!(module) } else { set_module(value, module) }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| set_module(item, module)),
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
    if variant.filter.is_weir() || matches!(variant.filter, Filter::Floor(_)) {
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

/// The modules that Weir is compared with, where `build.sh` put them.
pub struct Modules {
    pub empty: PathBuf,
    pub floor: PathBuf,
    /// Another build of Weir's, if it is to be compared.
    pub before: Option<PathBuf>,
}

impl Modules {
    pub fn from_environment() -> Self {
        let module = |variable, file: &str| std::env::var_os(variable).map_or_else(|| file.into(), PathBuf::from);
        Self {
            empty: module("WEIR_EMPTY_FILTER", "target/empty-filter.wasm"),
            floor: module("WEIR_FLOOR_FILTER", "target/floor-filter.wasm"),
            before: std::env::var_os("WEIR_BENCH_MODULE").map(PathBuf::from),
        }
    }
}
