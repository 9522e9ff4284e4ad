//! Composes Envoy bootstraps: as little as a test needs, with Weir attached where the test wants it.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::envoy;

/// The places at which Weir is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attach {
    pub decide: bool,
    pub watch: bool,
    pub guard: bool,
    /// Calm first attempts pass `guard` by; so they do in all trials where `WEIR_TEST_GUARD` is `quiet`.
    pub quiet: bool,
}

impl Attach {
    pub const NOWHERE: Self = Self { decide: false, watch: false, guard: false, quiet: false };
    pub const DECIDE: Self = Self { decide: true, watch: false, guard: false, quiet: false };
    pub const WATCH: Self = Self { decide: true, watch: true, guard: false, quiet: false };
    pub const GUARD: Self = Self { decide: true, watch: true, guard: true, quiet: false };
    pub const QUIET: Self = Self { quiet: true, ..Self::GUARD };
}

/// A listener with one virtual host.
pub struct Listener<'a> {
    pub name: &'a str,
    pub port: u16,
    pub attach: Attach,
    /// Plugin configuration of `decide`.
    pub policy: &'a Value,
    pub routes: Vec<Value>,
    /// Where the access logs of requests (`requests.log`) and of attempts (`attempts.log`) go.
    pub logs: Option<&'a Path>,
    /// Merged over the connection manager's configuration.
    pub manager: Value,
}

pub fn bootstrap(listeners: &[Value], clusters: &[Value]) -> Value {
    json!({
        "static_resources": {"listeners": listeners, "clusters": clusters},
        "stats_config": stats_config(),
    })
}

/// A file of resources that Envoy reads, and reads again when another takes its place.
pub fn watched(directory: &Path, file: &str) -> Value {
    json!({"resource_api_version": "V3", "path_config_source": {
        "path": directory.join(file),
        "watched_directory": {"path": directory},
    }})
}

/// Makes labels of the parts of our stats' names, as the shipped bootstrap does.
pub fn stats_config() -> Value {
    let shipped: Value = serde_yaml_ng::from_str(include_str!("../../envoy/envoy.yaml")).expect("it is YAML");
    shipped["stats_config"].clone()
}

/// A Wasm plugin in one of the three roles.
pub fn plugin(role: &str, configuration: &Value) -> Value {
    let text = if configuration.is_null() { String::new() } else { configuration.to_string() };
    json!({
        "name": format!("weir_{role}"),
        "root_id": format!("weir_{role}"),
        "failure_policy": "FAIL_RELOAD",
        "vm_config": {
            "vm_id": "weir",
            "runtime": "envoy.wasm.runtime.v8",
            "code": {"local": {"filename": envoy::module()}},
        },
        "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text},
    })
}

/// `watch`, in a router's `upstream_log`; with or without the access-log filter that keeps from it what went well.
pub fn watch_log(only_failures: bool) -> Value {
    let log = |configuration: Value| {
        json!({
            "name": "weir_watch",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.wasm.v3.WasmAccessLog",
                "config": plugin("watch", &configuration),
            },
        })
    };
    if !only_failures {
        return log(json!({"role": "watch"}));
    }
    let status = |op: &str, value: u32| {
        let value = json!({"default_value": value, "runtime_key": "weir.unused"});
        json!({"status_code_filter": {"comparison": {"op": op, "value": value}}})
    };
    let grpc = ["DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"];
    let filters = json!([
        {"response_flag_filter": {}},
        status("GE", 400),
        status("LE", 199),
        {"grpc_status_filter": {"statuses": grpc}},
    ]);
    let mut log = log(json!({"role": "watch", "only": "failures"}));
    log["filter"] = json!({"or_filter": {"filters": filters}});
    log
}

/// The second form of `guard`: Envoy asks it about retries, and about first attempts that `decide` did not call calm. The list
/// of upstream filters, around the filter itself.
pub fn quiet_guard(guard: &Value) -> Vec<Value> {
    let family = "type.googleapis.com/envoy";
    let matcher = format!("{family}.extensions.common.matching.v3.ExtensionWithMatcher");
    let single = |name: &str, input: Value, value: Value| json!({"single_predicate": {"input": {"name": name, "typed_config": input}, "value_match": value}});
    let request = |header: &str| json!({"@type": format!("{family}.type.matcher.v3.HttpRequestHeaderMatchInput"), "header_name": header});
    let response = |header: &str| json!({"@type": format!("{family}.type.matcher.v3.HttpResponseHeaderMatchInput"), "header_name": header});
    let tag = json!({
        "@type": format!("{family}.extensions.matching.common_inputs.network.v3.FilterStateInput"),
        "key": "wasm.weir_request",
    });
    let all = |predicates: Vec<Value>| json!({"and_matcher": {"predicate": predicates}});
    let calm = || {
        vec![
            single("attempt", request("x-envoy-attempt-count"), json!({"exact": "1"})),
            single("weir", tag.clone(), json!({"suffix": "calm"})),
        ]
    };
    let there = || json!({"safe_regex": {"google_re2": {}, "regex": ".+"}});
    let on = |predicate: Value, action: Value| json!({"matcher_list": {"matchers": [{"predicate": predicate, "on_match": {"action": action}}]}});
    let skip = json!({"name": "skip", "typed_config":
        {"@type": format!("{family}.extensions.filters.common.matcher.action.v3.SkipFilter")}});
    let full = json!({"safe_regex": {"google_re2": {}, "regex": r"(?:.*,)?[^,]*; *error=connection_limit_reached(?:;[^,]*)?"}});
    let pushed_back = json!({"or_matcher": {"predicate": [
        single("status", response(":status"), json!({"exact": "429"})),
        all(vec![
            single("status", response(":status"), json!({"exact": "503"})),
            json!({"or_matcher": {"predicate": [
                single("later", response("retry-after"), there()),
                // The nearest proxy says that it is full.
                single("cause", response("proxy-status"), full),
            ]}}),
        ]),
        single("overloaded", response("x-envoy-overloaded"), there()),
    ]}});
    let mark = json!({"name": "mark", "typed_config": {
        "@type": format!("{family}.extensions.filters.http.composite.v3.ExecuteFilterAction"),
        "typed_config": {"name": "mark", "typed_config": {
            "@type": format!("{family}.extensions.filters.http.header_mutation.v3.HeaderMutation"),
            "mutations": {"response_mutations": [{"append": {
                "header": {"key": "x-envoy-ratelimited", "value": "true"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
            }}]},
        }},
    }});
    vec![
        json!({"name": guard["name"], "typed_config": {
            "@type": matcher,
            "extension_config": guard,
            "xds_matcher": on(all(calm()), skip),
        }}),
        json!({"name": "weir.pushback", "typed_config": {
            "@type": matcher,
            "extension_config": {"name": "composite", "typed_config":
                {"@type": format!("{family}.extensions.filters.http.composite.v3.Composite")}},
            "xds_matcher": on(all([calm(), vec![pushed_back]].concat()), mark),
        }}),
        json!({"name": "envoy.filters.http.header_mutation", "typed_config": {
            "@type": format!("{family}.extensions.filters.http.header_mutation.v3.HeaderMutation"),
            "mutations": {"request_mutations": [{"remove": "x-weir-hosts"}]},
        }}),
    ]
}

/// Whether trials attach `guard` in its second form.
pub fn is_quiet() -> bool {
    std::env::var("WEIR_TEST_GUARD").is_ok_and(|form| form == "quiet")
}

pub fn listener(listener: Listener<'_>) -> Value {
    let Attach { decide, watch, guard, quiet } = listener.attach;
    let filter = |role: &str, configuration: &Value| {
        json!({
            "name": format!("weir_{role}"),
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm",
                "config": plugin(role, configuration),
            },
        })
    };
    let mut upstream_log = Vec::new();
    if watch {
        let filtered = std::env::var("WEIR_TEST_WATCH").is_ok_and(|only| only == "failures");
        upstream_log.push(watch_log(filtered));
    }
    let mut access_log = Vec::new();
    if let Some(directory) = listener.logs {
        upstream_log.push(file_log(&directory.join("attempts.log")));
        access_log.push(file_log(&directory.join("requests.log")));
    }
    let mut router = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        "upstream_log": upstream_log,
    });
    if guard {
        let guard = filter("guard", &json!({"role": "guard"}));
        let codec = json!({"name": "codec", "typed_config":
            {"@type": "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"}});
        let filters = if quiet || is_quiet() { quiet_guard(&guard) } else { vec![guard] };
        router["upstream_http_filters"] = [filters, vec![codec]].concat().into();
    }
    let mut http_filters = Vec::new();
    if decide {
        http_filters.push(filter("decide", listener.policy));
    }
    http_filters.push(json!({"name": "envoy.filters.http.router", "typed_config": router}));
    let mut manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": listener.name,
        "access_log": access_log,
        "http_filters": http_filters,
        "route_config": {
            "name": listener.name,
            "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "include_request_attempt_count": true,
                "routes": listener.routes,
            }],
        },
    });
    merge(&mut manager, &listener.manager);
    json!({
        "name": listener.name,
        "address": address(SocketAddr::from(([127, 0, 0, 1], listener.port))),
        // A port that somebody else has is an error, not shared.
        "enable_reuse_port": false,
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    })
}

/// The path, flags, code, code details and gRPC status of each request or attempt.
fn file_log(path: &Path) -> Value {
    json!({
        "name": "file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": path,
            "log_format": {"text_format_source": {"inline_string":
                "%REQ(:PATH)% %RESPONSE_FLAGS% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS%\n"}},
        },
    })
}

/// A cluster whose circuit breaker does not bind before Weir's budget.
pub fn cluster(name: &str, endpoints: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> =
        endpoints.iter().map(|endpoint| json!({"endpoint": {"address": address(*endpoint)}})).collect();
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "30s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "circuit_breakers": {"thresholds": [{"max_retries": 1000}]},
    })
}

/// What makes a cluster speak HTTP/2; merged over it.
pub fn http2() -> Value {
    protocol(&json!({"explicit_http_config": {"http2_protocol_options": {}}}))
}

/// Hosts are taken from this header where it is set, else in turns; merged over a cluster.
pub fn override_host(header: &str) -> Value {
    let policies = |name: &str, config: Value| json!({"policies": [{"typed_extension_config": {"name": name, "typed_config": config}}]});
    let family = "type.googleapis.com/envoy.extensions.load_balancing_policies";
    let round_robin = policies("round_robin", json!({"@type": format!("{family}.round_robin.v3.RoundRobin")}));
    let override_host = json!({
        "@type": format!("{family}.override_host.v3.OverrideHost"),
        "override_host_sources": [{"header": header}],
        "fallback_policy": round_robin,
    });
    json!({"load_balancing_policy": policies("override_host", override_host)})
}

/// The filter that sends a request to the host that this header names, in an envelope.
pub fn session(header: &str) -> Value {
    json!({"name": "session", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.stateful_session.v3.StatefulSession",
        "session_state": {"name": "envoy.http.stateful_session.envelope", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.http.stateful_session.envelope.v3.EnvelopeSessionState",
            "header": {"name": header},
        }},
    }})
}

/// `HttpProtocolOptions`; merged over a cluster.
pub fn protocol(options: &Value) -> Value {
    let mut options = options.clone();
    options["@type"] = json!("type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions");
    json!({"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options}})
}

/// A cluster's own retry policy, which takes the place of its routes': nothing is retried of its own accord, and what is goes to
/// another host. Merged over a cluster; Envoy 1.36 refuses it.
pub fn own_retry_policy() -> Value {
    let previous_hosts = "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";
    protocol(&json!({
        "explicit_http_config": {"http_protocol_options": {}},
        "retry_policy": {
            "retry_host_predicate":
                [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": previous_hosts}}],
            "host_selection_retry_max_attempts": 5,
        },
    }))
}

/// A route from a path prefix to a cluster, with no timeout of its own.
pub fn route(prefix: &str, cluster: &str) -> Value {
    json!({"match": {"prefix": prefix}, "name": cluster, "route": {"cluster": cluster, "timeout": "0s"}})
}

pub fn address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}

/// Merges objects deeply; everything else is replaced.
pub fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (name, value) in over {
                merge(base.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (base, over) => *base = over.clone(),
    }
}
