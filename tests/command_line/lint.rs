//! `weir check` on whole set-ups: what is shipped is clean, and each rule finds what it is for.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::{Run, asked, weir};

const ISTIO: &[&str] = &["istio/decide.yaml", "istio/attempts.yaml", "istio/proxy-status.yaml", "istio/traffic.yaml"];
const PULLED: &[&str] = &["istio/wasmplugin.yaml", "istio/attempts.yaml", "istio/traffic.yaml"];
/// The same with steering by a patch of the cluster.
const OVERRIDE: &[&str] = &["istio/decide-override.yaml", "istio/cluster.yaml", "istio/traffic.yaml"];
const GATEWAY: &[&str] =
    &["gateway/envoypatchpolicy.yaml", "gateway/envoyproxy.yaml", "gateway/traffic.yaml", "gateway/gateway.yaml"];
/// The same with steering by patches of clusters.
const GATEWAY_OVERRIDE: &[&str] = &[
    "gateway/envoypatchpolicy-override.yaml",
    "gateway/envoyproxy.yaml",
    "gateway/traffic-override.yaml",
    "gateway/gateway.yaml",
];
const SERVED: &[&str] = &["gateway/envoyextensionpolicy.yaml", "gateway/gateway.yaml"];
const ENVOY: &[&str] = &["envoy.yaml"];

/// A patch of the cluster, as in an Istio where sessions will not do.
const CLUSTER: &str = "apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: { name: weir-steering, namespace: shop }
spec:
  workloadSelector:
    labels: { app: storefront }
  configPatches:
  - applyTo: CLUSTER
    match:
      context: SIDECAR_OUTBOUND
      cluster: { service: orders.shop.svc.cluster.local }
    patch:
      operation: MERGE
      value:
        load_balancing_policy:
          policies:
          - typed_extension_config:
              name: envoy.load_balancing_policies.override_host
              typed_config:
                '@type': type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost
                override_host_sources:
                - header: x-weir-hosts
                fallback_policy: {}
";

/// A patch of the one rule's cluster.
const RULE: &str = "  - type: type.googleapis.com/envoy.config.cluster.v3.Cluster
    name: httproute/shop/orders/rule/0
    operation:
      op: replace
      path: /load_balancing_policy
      value:
        policies:
        - typed_extension_config:
            name: envoy.load_balancing_policies.override_host
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.load_balancing_policies.override_host.v3.OverrideHost
              override_host_sources:
              - header: x-weir-hosts
              fallback_policy:
                policies:
                - typed_extension_config:
                    name: envoy.load_balancing_policies.round_robin
                    typed_config:
                      '@type': type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin
                      locality_lb_config: { locality_weighted_lb_config: {} }
";
/// What keeps clients from sending the header.
const EARLY: &str = "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata: { name: eg, namespace: shop }
spec:
  targetRefs: [{ group: gateway.networking.k8s.io, kind: Gateway, name: eg }]
  headers:
    earlyRequestHeaders:
      remove: [x-weir-hosts]
";

fn shipped(file: &str) -> String {
    match file {
        "gateway/envoypatchpolicy-override.yaml" => {
            let line = "                  \"steering\": { \"via\": \"stateful_session\" },\n";
            let shipped = without(&shipped("gateway/envoypatchpolicy.yaml"), line);
            return [shipped.as_str(), RULE].concat();
        }
        "gateway/traffic-override.yaml" => return [shipped("gateway/traffic.yaml").as_str(), EARLY].concat(),
        "istio/cluster.yaml" => return CLUSTER.to_owned(),
        "istio/service.yaml" => {
            let service = "apiVersion: v1\nkind: Service\nmetadata: { name: orders, namespace: shop }\n";
            return [service, "spec: { ports: [{ port: 8080 }] }\n"].concat();
        }
        "istio/decide-override.yaml" => {
            let line = "                  \"steering\": { \"via\": \"stateful_session\" },\n";
            return without(&shipped("istio/decide.yaml"), line);
        }
        "istio/wasmplugin-override.yaml" => {
            return without(&shipped("istio/wasmplugin.yaml"), "    steering:\n      via: stateful_session\n");
        }
        _ => {}
    }
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy").join(file)).expect(file)
}

fn without(text: &str, part: &str) -> String {
    assert!(text.contains(part), "no {part:?}");
    text.replace(part, "")
}

/// A folder with these files, one of them changed: what `from` stands for is `to`.
fn folder(files: &[&str], file: &str, from: &str, to: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a directory");
    for name in files {
        let mut text = shipped(name);
        if *name == file {
            assert!(from.is_empty() || text.contains(from), "{file}: no {from:?}");
            text = if from.is_empty() { [text.as_str(), to].concat() } else { text.replace(from, to) };
        }
        let path = folder.path().join(name.replace('/', "-"));
        std::fs::write(path, text).expect("it is written");
    }
    folder
}

fn check(folder: &Path, arguments: &[&str]) -> Run {
    let path = folder.to_str().expect("UTF-8");
    weir(&[&["check", path], arguments].concat(), b"")
}

fn findings(run: &Run) -> Vec<Value> {
    serde_json::from_str(&run.out).unwrap_or_else(|error| panic!("{error}: {}{}", run.out, run.err))
}

fn ids(findings: &[Value]) -> BTreeSet<&str> {
    findings.iter().filter_map(|finding| finding["id"].as_str()).collect()
}

#[test]
fn nothing_is_found_in_what_is_shipped() {
    let variants: [&[&str]; 3] = [&["istio/gateway.yaml"], &["istio/gateway-api.yaml"], &["istio/waypoint.yaml"]];
    for files in [ISTIO, PULLED, GATEWAY, GATEWAY_OVERRIDE, SERVED, ENVOY, &["calm.yaml"], &["compose/envoy.yaml"]]
        .into_iter()
        .chain(variants)
    {
        let folder = folder(files, "", "", "");
        let run = check(folder.path(), &["--strict"]);
        assert_eq!(run.status, 0, "{files:?}: {}{}", run.out, run.err);
        assert!(run.out.contains("0 errors, 0 warnings, 0 notes") || !run.out.contains("Findings"), "{}", run.out);
        for file in files {
            let run = weir(&["check", "--strict", "--format", "json", "-"], shipped(file).as_bytes());
            assert_eq!((run.status, ids(&findings(&run))), (0, BTreeSet::new()), "{file}");
        }
    }
    // The folder itself has three forms of decide, of which one is to be applied.
    let run = weir(&["check", "--format", "json", "envoy/istio", "envoy/gateway"], b"");
    assert_eq!((run.status, ids(&findings(&run))), (0, BTreeSet::from(["decide-twice"])), "{}", run.out);
}

/// Changes what is shipped: the files, one of them, what is replaced, by what, and the rules that must then be named.
type Case<'a> = (&'a [&'a str], &'a str, &'a str, &'a str, &'a [&'a str]);

fn try_cases(cases: &[Case<'_>]) {
    for (files, file, from, to, wanted) in cases {
        let folder = folder(files, file, from, to);
        let run = check(folder.path(), &["--format", "json", "--strict"]);
        let found = findings(&run);
        assert_eq!(ids(&found), wanted.iter().copied().collect(), "{file}: {from:?} -> {to:?}: {}", run.out);
        let graver = |level: &str| found.iter().any(|finding| finding["level"] == level);
        let status = if graver("error") {
            1
        } else if graver("warning") {
            3
        } else {
            0
        };
        assert_eq!(run.status, status, "{file}: {from:?} -> {to:?}");
        for finding in &found {
            assert!(finding["line"].as_u64().is_some_and(|line| line > 0), "{finding}");
            assert!(finding["do"].as_str().is_some_and(|todo| todo.len() > 10), "{finding}");
        }
    }
}

#[test]
fn rules_of_istio() {
    let plugin =
        "  selector:\n    matchLabels: { app: storefront }      # the clients; without it, all of the namespace\n";
    let waypoint = "  targetRefs: [{ kind: Service, name: orders }]\n";
    try_cases(&[
        (
            OVERRIDE,
            "istio/cluster.yaml",
            "      cluster: { service: orders.shop.svc.cluster.local }\n",
            "",
            &["no-override-host", "patch-of-all-clusters"],
        ),
        (ISTIO, "istio/decide.yaml", "      context: SIDECAR_OUTBOUND\n", "", &["context-missing"]),
        (ISTIO, "istio/decide.yaml", "context: SIDECAR_OUTBOUND", "context: GATEWAY", &["contexts-differ"]),
        (ISTIO, "istio/decide.yaml", "app: storefront", "app: store", &["selectors-differ"]),
        (ISTIO, "istio/decide.yaml", "namespace: shop", "namespace: cart", &["selectors-differ"]),
        (ISTIO, "istio/decide.yaml", "operation: INSERT_BEFORE", "operation: INSERT_AFTER", &["behind-router"]),
        (ISTIO, "istio/decide.yaml", "runtime.v8", "runtime.v9", &["roles-apart", "runtime-unknown"]),
        (
            ISTIO,
            "istio/attempts.yaml",
            r#"{ "role": "watch" }"#,
            r#"{ "role": "guard" }"#,
            &["guard-without-watch", "role-misplaced"],
        ),
        // What a plugin would be that cannot be read is not said to be missing.
        (ISTIO, "istio/decide.yaml", "\"role\": \"decide\"", "\"role\": \"decied\"", &["invalid-policy"]),
        (OVERRIDE, "istio/decide-override.yaml", "\"match\"", "\"macth\"", &["invalid-policy"]),
        (
            ISTIO,
            "istio/attempts.yaml",
            "                  runtime: envoy.wasm.runtime.v8",
            "                  vm_id: a\n                  runtime: envoy.wasm.runtime.v8",
            &["roles-apart"],
        ),
        (OVERRIDE, "istio/decide-override.yaml", "orders.shop", "carts.shop", &["no-override-host"]),
        // A cluster of one's own, and a waypoint, whose listeners are inbound and whose clusters are outbound.
        (
            OVERRIDE,
            "istio/cluster.yaml",
            "      cluster: { service: orders.shop.svc.cluster.local }\n    patch:\n      operation: MERGE\n",
            "    patch:\n      operation: ADD\n",
            &["no-override-host"],
        ),
        (
            OVERRIDE,
            "istio/cluster.yaml",
            "  workloadSelector:\n    labels: { app: storefront }\n  configPatches:\n  - applyTo: CLUSTER\n    match:\n      context: SIDECAR_OUTBOUND",
            "  targetRefs: [{ kind: Gateway, name: waypoint }]\n  configPatches:\n  - applyTo: CLUSTER\n    match:\n      context: SIDECAR_INBOUND",
            &["selectors-differ"],
        ),
        (
            OVERRIDE,
            "istio/decide-override.yaml",
            "\"role\": \"decide\"",
            "\"role\": \"decide\", \"steering\": \"off\"",
            &["steering-header-open"],
        ),
        (ISTIO, "istio/attempts.yaml", "failure_policy: FAIL_RELOAD", "failure_policy: FAIL_CLOSED", &["fails-closed"]),
        (
            ISTIO,
            "istio/attempts.yaml",
            "          - name: envoy.filters.http.upstream_codec\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec\n",
            "",
            &["codec-missing"],
        ),
        (&["istio/attempts.yaml", "istio/cluster.yaml"], "", "", "", &["no-decide", "steering-header-open"]),
        (&["istio/wasmplugin-override.yaml", "istio/traffic.yaml"], "", "", "", &["no-override-host"]),
        (PULLED, "istio/wasmplugin.yaml", "oci://registry.example.com/weir:0.1.0", "file:///weir.wasm", &["file-url"]),
        (PULLED, "istio/wasmplugin.yaml", "failStrategy: FAIL_OPEN", "failStrategy: FAIL_RELOAD", &["fails-closed"]),
        (
            PULLED,
            "istio/wasmplugin.yaml",
            plugin,
            waypoint,
            &["client-mode-at-waypoint", "pattern-at-waypoint", "selectors-differ"],
        ),
        (PULLED, "istio/wasmplugin.yaml", "retry: \"off\"", "retry: null", &["null-is-dropped"]),
        (ISTIO, "istio/traffic.yaml", "retryOn: connect-failure,refused-stream", "retryOn: 5xx", &["route-retry-on"]),
        (ISTIO, "istio/traffic.yaml", "      retryOn: connect-failure,refused-stream\n", "", &["default-retries"]),
        (ISTIO, "istio/traffic.yaml", "attempts: 2", "attempts: 0", &["retries-off"]),
        (ISTIO, "istio/traffic.yaml", "maxRetries: 10000", "maxRetries: 3", &["max-retries-low"]),
        (ISTIO, "istio/traffic.yaml", "connectTimeout: 500ms", "connectTimeout: 1m30s", &["connect-timeout-long"]),
        (ISTIO, "istio/traffic.yaml", "connectTimeout: 500ms", "tcpKeepalive: {}", &["connect-timeout-long"]),
        (ISTIO, "istio/traffic.yaml", "      consecutive5xxErrors: 0\n", "", &["native-outlier-detection"]),
        (
            ISTIO,
            "istio/traffic.yaml",
            "    outlierDetection:",
            "    retryBudget: { percent: 20 }\n    outlierDetection:",
            &["native-retry-budget"],
        ),
        (
            OVERRIDE,
            "istio/traffic.yaml",
            "    outlierDetection:",
            "    loadBalancer: { consistentHash: { httpHeaderName: a } }\n    outlierDetection:",
            &["hashing-lost"],
        ),
        (
            OVERRIDE,
            "istio/traffic.yaml",
            "    outlierDetection:",
            "    loadBalancer: { localityLbSetting: { distribute: [] } }\n    outlierDetection:",
            &["override-host-refused"],
        ),
        (
            OVERRIDE,
            "istio/traffic.yaml",
            "    outlierDetection:",
            "    loadBalancer: { simple: PASSTHROUGH }\n    outlierDetection:",
            &["override-host-refused"],
        ),
        (
            OVERRIDE,
            "istio/traffic.yaml",
            "",
            "---\n{apiVersion: v1, kind: Service, metadata: {name: orders, namespace: shop}, spec: {trafficDistribution: PreferClose}}\n",
            &["override-host-refused"],
        ),
        (
            OVERRIDE,
            "istio/traffic.yaml",
            "",
            "---\n{apiVersion: v1, kind: Service, metadata: {name: orders, namespace: shop}, spec: {clusterIP: None}}\n",
            &["override-host-refused"],
        ),
        (&["istio/decide.yaml", "istio/wasmplugin.yaml", "istio/attempts.yaml"], "", "", "", &["decide-twice"]),
        // What is not Weir's business stays unsaid: other services, and Services without a patch.
        (
            ISTIO,
            "istio/traffic.yaml",
            "",
            "---\n{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a, namespace: shop}, spec: {hosts: [a], http: [{route: [{destination: {host: a}}], retries: {attempts: 9, retryOn: 5xx}}]}}\n",
            &[],
        ),
        (
            ISTIO,
            "istio/traffic.yaml",
            "",
            "---\n{apiVersion: v1, kind: Service, metadata: {name: a, namespace: shop}, spec: {clusterIP: None}}\n",
            &[],
        ),
    ]);
    // For the whole mesh.
    let folder = folder(ISTIO, "istio/decide.yaml", "  workloadSelector:\n    labels: { app: storefront }\n", "");
    let path = folder.path().join("istio-decide.yaml");
    let text =
        std::fs::read_to_string(&path).expect("it is there").replace("namespace: shop", "namespace: istio-system");
    std::fs::write(path, text).expect("it is written");
    let run = check(folder.path(), &["--format", "json"]);
    assert_eq!(ids(&findings(&run)), BTreeSet::from(["no-selector", "selectors-differ"]), "{}", run.out);
}

/// Somebody else's EnvoyFilter for the same proxies, that adds an upstream filter.
fn upstream_filter(priority: i32, codec: bool) -> String {
    let codec = if codec {
        "
          - name: envoy.filters.http.upstream_codec
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec"
    } else {
        ""
    };
    format!(
        "---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{ name: somebody, namespace: shop }}
spec:
  workloadSelector: {{ labels: {{ app: storefront }} }}
  priority: {priority}
  configPatches:
  - applyTo: HTTP_FILTER
    match: {{ context: SIDECAR_OUTBOUND }}
    patch:
      operation: MERGE
      value:
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          upstream_http_filters:
          - name: somebody
            typed_config:
              '@type': type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation{codec}
"
    )
}

/// The lists of all EnvoyFilters for the same proxies are joined, by priority, and the codec belongs at the end of the whole.
#[test]
fn one_codec_for_several_filters() {
    let [before, twice, after] = [upstream_filter(50, false), upstream_filter(50, true), upstream_filter(120, false)];
    try_cases(&[
        (ISTIO, "istio/decide.yaml", "", &before, &[]),
        (ISTIO, "istio/decide.yaml", "", &twice, &["codec-twice"]),
        (ISTIO, "istio/decide.yaml", "", &after, &["codec-missing"]),
    ]);
}

/// Resources for many services hold for those of the policy that have none of their own.
#[test]
fn what_holds_for_many_services_holds_for_ours() {
    let rule = |name: &str, host: &str, policy: &str| {
        format!(
            "---\n{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: {name}, namespace: istio-system}}, \
             spec: {{host: '{host}', trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: 500ms}}, http: {{maxRetries: 3}}}}{policy}}}}}}}\n"
        )
    };
    let (all, others, few) = (
        rule("all", "*.local", ""),
        rule("others", "*.cart.svc.cluster.local", ""),
        rule("few", "*.shop.svc.cluster.local", ""),
    );
    let passthrough = rule("all", "*", ", loadBalancer: {simple: PASSTHROUGH}");
    let service: &[&str] = &["istio/decide.yaml", "istio/attempts.yaml", "istio/service.yaml"];
    let steered: &[&str] = &["istio/decide-override.yaml", "istio/cluster.yaml", "istio/service.yaml"];
    let both = [all.as_str(), &few].concat();
    try_cases(&[
        // The service has a DestinationRule of its own.
        (ISTIO, "istio/traffic.yaml", "", &all, &[]),
        (service, "istio/service.yaml", "", &all, &["max-retries-low"]),
        (service, "istio/service.yaml", "", &others, &[]),
        (service, "istio/service.yaml", "", &both, &["max-retries-low"]),
        (steered, "istio/service.yaml", "", &passthrough, &["max-retries-low", "override-host-refused"]),
        (
            ISTIO,
            "istio/traffic.yaml",
            "      attempts: 2\n",
            "      attempts: 2\n      retryIgnorePreviousHosts: false\n",
            &["retry-same-host"],
        ),
    ]);
    let folder = folder(service, "istio/service.yaml", "", &both);
    assert_eq!(findings(&check(folder.path(), &["--format", "json"])).len(), 1, "only the closest one holds");

    let gateway = "---\n{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: BackendTrafficPolicy, metadata: {name: all, namespace: shop}, \
        spec: {MERGE targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: eg}], loadBalancer: {type: RoundRobin}, \
        timeout: {tcp: {connectTimeout: 500ms}}, retry: {retryOn: {triggers: [5xx]}}}}\n";
    let (plain, merged) = (gateway.replace("MERGE", ""), gateway.replace("MERGE", "mergeType: StrategicMerge,"));
    let alone: &[&str] = &["gateway/envoypatchpolicy.yaml", "gateway/envoyproxy.yaml", "gateway/gateway.yaml"];
    try_cases(&[
        (GATEWAY, "gateway/gateway.yaml", "", &plain, &[]),
        (alone, "gateway/gateway.yaml", "", &plain, &["route-retry-on"]),
        (alone, "gateway/gateway.yaml", "", &merged, &["route-retry-on"]),
    ]);
}

/// Routes of the Gateway API that Istio takes, and those for gRPC of Envoy Gateway.
#[test]
fn routes_of_the_gateway_api_are_checked() {
    let route = |backend: &str, retry: &str| {
        format!(
            "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: o, namespace: shop}}, spec: \
             {{parentRefs: [{{kind: Service, group: '', name: orders}}], rules: [{{backendRefs: [{backend}]{retry}}}]}}}}\n"
        )
    };
    let codes = ", retry: {attempts: 2, codes: [500]}";
    let (ours, other, elsewhere) = (
        route("{name: orders, port: 8080}", codes),
        route("{name: orders, namespace: cart, port: 8080}", codes),
        route("{name: orders, port: 8080}", ""),
    );
    try_cases(&[
        (ISTIO, "istio/traffic.yaml", "", &ours, &["route-retry-on"]),
        (ISTIO, "istio/traffic.yaml", "", &other, &[]),
        (ISTIO, "istio/traffic.yaml", "", &elsewhere, &[]),
    ]);
    let grpc: &[&str] = &[
        "gateway/envoypatchpolicy-override.yaml",
        "gateway/envoyproxy.yaml",
        "gateway/traffic-override.yaml",
        "gateway/gateway.yaml",
    ];
    let folder = folder(grpc, "gateway/gateway.yaml", "kind: HTTPRoute", "kind: GRPCRoute");
    for name in ["gateway-envoypatchpolicy-override.yaml", "gateway-traffic-override.yaml"] {
        let path = folder.path().join(name);
        let text = std::fs::read_to_string(&path).expect("it is there");
        let text = text.replace("httproute/", "grpcroute/").replace("kind: HTTPRoute", "kind: GRPCRoute");
        std::fs::write(path, text).expect("it is written");
    }
    let run = check(folder.path(), &["--format", "json"]);
    assert_eq!(ids(&findings(&run)), BTreeSet::new(), "{}", run.out);
    let path = folder.path().join("gateway-gateway.yaml");
    let text = std::fs::read_to_string(&path).expect("it is there");
    let one = "    backendRefs: [{ name: orders, port: 8080 }]";
    assert!(text.contains(one));
    std::fs::write(path, text.replace(one, &format!("{one}\n  - backendRefs: [{{ name: b, port: 1 }}]")))
        .expect("it is written");
    let run = check(folder.path(), &["--format", "json"]);
    assert_eq!(ids(&findings(&run)), BTreeSet::from(["rule-without-steering"]), "{}", run.out);
}

/// As one reads a file.
#[test]
fn findings_of_a_file_are_in_the_order_of_its_lines() {
    let from = "maxRetries: 10000";
    let folder = folder(ISTIO, "istio/traffic.yaml", "retryOn: connect-failure,refused-stream", "retryOn: 5xx");
    let path = folder.path().join("istio-traffic.yaml");
    let text = std::fs::read_to_string(&path).expect("it is there");
    assert!(text.contains(from) && text.contains("connectTimeout: 500ms"));
    let text = text.replace(from, "maxRetries: 1").replace("connectTimeout: 500ms", "connectTimeout: 10s");
    // The resource that is looked at first stands last.
    let mut documents: Vec<&str> = text.split("---\n").collect();
    documents.reverse();
    for text in [text.clone(), documents.join("---\n")] {
        std::fs::write(&path, text).expect("it is written");
        let run = check(folder.path(), &["--format", "json"]);
        let lines: Vec<u64> = findings(&run).iter().filter_map(|finding| finding["line"].as_u64()).collect();
        assert!(lines.len() == 3 && lines.is_sorted(), "{lines:?}");
    }
}

/// What somebody wants as it is need not be told each time, by its name, for all files or for one.
#[test]
fn warnings_can_be_allowed_by_name() {
    let folder = folder(ISTIO, "istio/traffic.yaml", "retryOn: connect-failure,refused-stream", "retryOn: 5xx");
    assert_eq!(check(folder.path(), &["--strict"]).status, 3);
    let run = check(folder.path(), &["--strict", "--allow", "max-retries-low,route-retry-on"]);
    assert!(run.status == 0 && run.out.ends_with("4 files: 0 errors, 0 warnings, 0 notes, 1 allowed\n"), "{}", run.out);
    assert_eq!(check(folder.path(), &["--strict", "--allow", "max-retries-low"]).status, 3);
    for (rule, why) in [("route-retries-on", "there is no rule"), ("codec-missing", "is an error")] {
        let run = check(folder.path(), &["--allow", rule]);
        assert!(run.status == 2 && run.err.contains(rule) && run.err.contains(why), "{}", run.err);
    }
    let path = folder.path().join("istio-traffic.yaml");
    let text = std::fs::read_to_string(&path).expect("it is there");
    for (comment, other, status) in
        [("route-retry-on", "istio-traffic.yaml", 0), ("route-retry-on", "istio-decide.yaml", 3)]
    {
        std::fs::write(&path, &text).expect("it is written");
        let other = folder.path().join(other);
        let before = std::fs::read_to_string(&other).expect("it is there");
        std::fs::write(&other, format!("{before}\n# weir check: allow {comment}\n")).expect("it is written");
        assert_eq!(check(folder.path(), &["--strict"]).status, status, "{}", other.display());
        std::fs::write(&other, before).expect("it is written");
    }
    std::fs::write(&path, format!("# weir check: allow route-retries\n{text}")).expect("it is written");
    let run = check(folder.path(), &[]);
    assert!(
        run.status == 2 && run.err.contains("istio-traffic.yaml") && run.err.contains("route-retries"),
        "{}",
        run.err
    );

    // The examples are such a case.
    let run = weir(&["check", "--strict", "envoy/policies"], b"");
    assert!(
        run.status == 0 && run.out.ends_with("files: 0 errors, 0 warnings, 0 notes, 1 allowed\n"),
        "{}{}",
        run.out,
        run.err
    );
}

#[test]
fn metrics_that_nobody_will_find_are_told() {
    let matches = |value: &str| {
        format!("  telemetry: {{ metrics: {{ matches: [{{ type: Prefix, value: {value} }}] }} }}\n  logging:")
    };
    let (hidden, shown) = (matches("http."), matches("wasm"));
    try_cases(&[
        (ENVOY, "envoy.yaml", "tag_name: weir_cluster", "tag_name: cluster", &["labels-missing"]),
        (GATEWAY, "gateway/envoyproxy.yaml", "tag_name: weir_cluster", "tag_name: cluster", &["labels-missing"]),
        (GATEWAY, "gateway/envoyproxy.yaml", "  logging:", &hidden, &["metrics-hidden"]),
        (GATEWAY, "gateway/envoyproxy.yaml", "  logging:", &shown, &[]),
    ]);
}

/// What selects nothing, or finds nothing, says nothing where it runs.
#[test]
fn what_finds_nothing_in_istio() {
    let service = |more: &str, port: u16| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{ name: orders, namespace: shop }}\nspec:\n  {more}\n  ports: [{{ port: {port} }}]\n"
        )
    };
    let deployment = |app: &str| {
        format!(
            "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{ name: {app}, namespace: shop }}\nspec: {{ template: {{ metadata: {{ labels: {{ app: {app} }} }} }} }}\n"
        )
    };
    let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: { name: o, namespace: shop }\nspec: { hosts: [orders.shop.svc.cluster.local], resolution: NONE }\n";
    let (known, unknown, headless) =
        (service("type: ClusterIP", 8080), service("type: ClusterIP", 8081), service("clusterIP: None", 8080));
    let (clients, others) = (deployment("storefront"), deployment("reports"));
    let pool = "    connectionPool:\n";
    let passthrough = format!("    loadBalancer: {{ simple: PASSTHROUGH }}\n{pool}");
    let gateway: &[&str] = &["istio/gateway.yaml"];
    try_cases(&[
        (ISTIO, "istio/traffic.yaml", "", &known, &[]),
        (ISTIO, "istio/traffic.yaml", "", &unknown, &["patch-finds-nothing"]),
        // The policy names any port; this one names another than the Service has.
        (
            &["istio/decide.yaml", "istio/attempts.yaml", "istio/service.yaml"],
            "istio/decide.yaml",
            "outbound|*|orders",
            "outbound|8081|*|orders",
            &["matches-nothing"],
        ),
        (
            &["istio/decide.yaml", "istio/attempts.yaml", "istio/service.yaml"],
            "istio/decide.yaml",
            "outbound|*|orders.",
            "outbound|*|order.",
            &["matches-nothing", "no-session"],
        ),
        (
            gateway,
            "istio/gateway.yaml",
            "name: \"shop.example.com:80\"",
            "name: \"cart.example.com:80\"",
            &["patch-finds-nothing"],
        ),
        (ISTIO, "istio/traffic.yaml", "", &clients, &[]),
        (ISTIO, "istio/traffic.yaml", "", &others, &["selects-nothing"]),
        (ISTIO, "istio/traffic.yaml", "", &headless, &["not-steered"]),
        (ISTIO, "istio/traffic.yaml", pool, &passthrough, &["not-steered"]),
        (ISTIO, "istio/traffic.yaml", "", entry, &["not-steered"]),
    ]);
}

#[test]
fn rules_of_sessions_in_istio() {
    try_cases(&[
        (ISTIO, "istio/decide.yaml", "orders.shop", "carts.shop", &["no-session"]),
        (ISTIO, "istio/attempts.yaml", "cluster.local:8080", "cluster.example:8080", &["no-session"]),
        (
            ISTIO,
            "istio/attempts.yaml",
            "header: { name: x-envoy-retry-grpc-on }",
            "header: { name: x-other }",
            &["no-session"],
        ),
        (ISTIO, "istio/attempts.yaml", "priority: 110", "priority: 100", &["session-before-decide"]),
        (
            ISTIO,
            "istio/attempts.yaml",
            "      routeConfiguration: { vhost: { name: \"orders.shop.svc.cluster.local:8080\" } }\n",
            "",
            &["session-on-all-routes"],
        ),
        (&["istio/attempts.yaml", "istio/traffic.yaml"], "", "", "", &["no-decide"]),
        (&["istio/wasmplugin.yaml", "istio/traffic.yaml"], "", "", "", &["no-session"]),
        // Sessions change no cluster, so that all of these may be.
        (
            ISTIO,
            "istio/traffic.yaml",
            "    outlierDetection:",
            "    loadBalancer: { consistentHash: { httpHeaderName: a } }\n    outlierDetection:",
            &[],
        ),
        (
            ISTIO,
            "istio/traffic.yaml",
            "    outlierDetection:",
            "    loadBalancer: { localityLbSetting: { distribute: [] } }\n    outlierDetection:",
            &[],
        ),
        (
            ISTIO,
            "istio/traffic.yaml",
            "",
            "---\n{apiVersion: v1, kind: Service, metadata: {name: orders, namespace: shop}, spec: {trafficDistribution: PreferClose}}\n",
            &[],
        ),
    ]);
}

#[test]
fn rules_of_envoy_gateway() {
    let https = "  - { name: https, protocol: HTTPS, port: 443 }\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute";
    let route = "    backendRefs: [{ name: orders, port: 8080 }]";
    let two = "    backendRefs: [{ name: orders, port: 8080, weight: 95 }, { name: canary, port: 8080, weight: 5 }]";
    let locality = "                      locality_lb_config: { locality_weighted_lb_config: {} }\n";
    let two_rules = "    backendRefs: [{ name: orders, port: 8080 }]\n  - backendRefs: [{ name: b, port: 1 }]";
    let filtered = "    backendRefs: [{ name: orders, port: 8080, filters: [{ type: URLRewrite }] }]";
    let modified = "    filters: [{ type: RequestHeaderModifier, requestHeaderModifier: { remove: [x-weir-hosts] } }]\n    backendRefs: [{ name: orders, port: 8080 }]";
    fn gateway<'a>(from: &'a str, to: &'a str, wanted: &'a [&'a str]) -> Case<'a> {
        (GATEWAY, "gateway/gateway.yaml", from, to, wanted)
    }
    fn by_override<'a>(from: &'a str, to: &'a str, wanted: &'a [&'a str]) -> Case<'a> {
        (GATEWAY_OVERRIDE, "gateway/gateway.yaml", from, to, wanted)
    }
    fn traffic<'a>(from: &'a str, to: &'a str, wanted: &'a [&'a str]) -> Case<'a> {
        (GATEWAY, "gateway/traffic.yaml", from, to, wanted)
    }
    try_cases(&[
        gateway("---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute", https, &["listener-without-weir"]),
        gateway(route, two_rules, &[]),
        by_override(route, two_rules, &["rule-without-steering"]),
        gateway(route, two, &[]),
        by_override(route, two, &[]),
        gateway(route, filtered, &[]),
        by_override(route, filtered, &["cluster-renamed"]),
        gateway(route, modified, &[]),
        by_override(route, modified, &["steering-header-modified"]),
        gateway(
            route,
            "    sessionPersistence: { type: Cookie }\n    backendRefs: [{ name: orders, port: 8080 }]",
            &["steering-moves-users"],
        ),
        (
            GATEWAY,
            "gateway/envoypatchpolicy.yaml",
            "filters.http.stateful_session.v3.StatefulSession",
            "filters.http.fault.v3.HTTPFault",
            &["no-session"],
        ),
        (
            GATEWAY,
            "gateway/envoypatchpolicy.yaml",
            "                  \"steering\": { \"via\": \"stateful_session\" },\n",
            "",
            &["no-override-host"],
        ),
        gateway(
            route,
            "    retry: { codes: [500] }\n    backendRefs: [{ name: orders, port: 8080 }]",
            &["route-retry-on"],
        ),
        (GATEWAY, "gateway/envoypatchpolicy.yaml", "  namespace: shop", "  namespace: other", &["wrong-target"]),
        (
            GATEWAY,
            "gateway/envoypatchpolicy.yaml",
            "httproute/shop/orders",
            "httproute/shop/order",
            &["matches-nothing"],
        ),
        (GATEWAY, "gateway/envoypatchpolicy.yaml", "httproute/shop/orders", "grpcroute/shop/orders", &[]),
        (
            GATEWAY,
            "gateway/envoypatchpolicy.yaml",
            "\"clusters\": [",
            "\"clusters\": [{ \"match\": \"*\", \"route\": \"httproute/shop/orders/*\", \"retry\": \"off\" },",
            &[],
        ),
        // There is no such route.
        (
            GATEWAY,
            "gateway/envoypatchpolicy.yaml",
            "\"clusters\": [",
            "\"clusters\": [{ \"match\": \"*\", \"route\": \"httproute/shop/order/*\", \"retry\": \"off\" },",
            &["matches-nothing"],
        ),
        (GATEWAY, "gateway/envoypatchpolicy.yaml", "/upstream_log/-", "/upstream_log", &["access-log-replaced"]),
        (
            GATEWAY,
            "gateway/envoypatchpolicy.yaml",
            "    name: tcp-80\n    operation:\n      op: add\n      jsonPath: \"$..http_filters[?(@.name=='envoy.filters.http.router')]\"\n",
            "    name: tcp-8080\n    operation:\n      op: add\n      jsonPath: \"$..http_filters[?(@.name=='envoy.filters.http.router')]\"\n",
            &["listener-without-weir", "listeners-differ"],
        ),
        (
            GATEWAY_OVERRIDE,
            "gateway/envoypatchpolicy-override.yaml",
            "    name: httproute/shop/orders/rule/0",
            "    name: httproute/shop/order/rule/0",
            &["no-override-host"],
        ),
        (
            GATEWAY,
            "gateway/envoypatchpolicy.yaml",
            r#"{ "role": "guard" }"#,
            r#"{ "role": "watch" }"#,
            &["role-misplaced"],
        ),
        (
            GATEWAY,
            "gateway/envoypatchpolicy.yaml",
            "\"role\": \"decide\"",
            "\"rolle\": \"decide\"",
            &["invalid-policy"],
        ),
        (GATEWAY, "gateway/envoyproxy.yaml", "mountPath: /etc/weir", "mountPath: /etc/wasm", &["module-not-mounted"]),
        (GATEWAY, "gateway/envoyproxy.yaml", "  logging:", "  mergeGateways: true\n  logging:", &["wrong-target"]),
        traffic("triggers: [connect-failure, refused-stream]", "triggers: [gateway-error]", &["route-retry-on"]),
        traffic("maxParallelRetries: 10000", "maxParallelRetries: 10", &["max-retries-low"]),
        traffic(
            "    maxParallelRetries: 10000",
            "    retryBudget: { percent: { numerator: 20 } }",
            &["native-retry-budget"],
        ),
        traffic("connectTimeout: 500ms", "connectTimeout: 10s", &["connect-timeout-long"]),
        traffic("type: RoundRobin", "type: LeastRequest", &["least-request"]),
        (
            GATEWAY_OVERRIDE,
            "gateway/traffic-override.yaml",
            "remove: [x-weir-hosts]",
            "remove: [x-other]",
            &["header-not-removed-early"],
        ),
        traffic("  retry:\n", "  admissionControl: {}\n  retry:\n", &["guard-bypassed"]),
        traffic(
            "  retry:\n",
            "  healthCheck: { passive: { interval: 1s } }\n  retry:\n",
            &["native-outlier-detection"],
        ),
        (SERVED, "gateway/envoyextensionpolicy.yaml", "failOpen: true", "failOpen: false", &["fails-closed"]),
        (
            SERVED,
            "gateway/envoyextensionpolicy.yaml",
            "      steering: \"off\"       # the clusters do not know the policy override_host\n",
            "",
            &["no-override-host"],
        ),
    ]);
    // HTTP/3 beside HTTPS, and patches for HTTPS alone.
    let http3 = "---\n{apiVersion: gateway.envoyproxy.io/v1alpha1, kind: ClientTrafficPolicy, metadata: {name: eg, namespace: shop}, spec: {http3: {}}}\n";
    let with_http3 = folder(GATEWAY, "gateway/gateway.yaml", "protocol: HTTP,", "protocol: HTTPS,");
    let path = with_http3.path().join("more.yaml");
    std::fs::write(path, http3).expect("it is written");
    let run = check(with_http3.path(), &["--format", "json"]);
    assert_eq!(ids(&findings(&run)), BTreeSet::from(["listener-without-weir"]), "{}", run.out);
    assert!(run.out.contains("udp-80"), "{}", run.out);
    // A canary whose balancer does not heed weights.
    let folder = folder(GATEWAY_OVERRIDE, "gateway/gateway.yaml", route, two);
    let path = folder.path().join("gateway-envoypatchpolicy-override.yaml");
    let text = std::fs::read_to_string(&path).expect("it is there");
    assert!(text.contains(locality));
    std::fs::write(path, text.replace(locality, "")).expect("it is written");
    let run = check(folder.path(), &["--format", "json"]);
    assert_eq!(ids(&findings(&run)), BTreeSet::from(["weights-lost"]), "{}", run.out);
}

#[test]
fn rules_of_envoy() {
    fn case<'a>(from: &'a str, to: &'a str, wanted: &'a [&'a str]) -> Case<'a> {
        (ENVOY, "envoy.yaml", from, to, wanted)
    }
    let predicate = "          retry_host_predicate:\n          - name: envoy.retry_host_predicates.previous_hosts\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate\n";
    let header = "                override_host_sources:\n                - header: x-weir-hosts\n";
    let header = header
        .replace("                override", "            override")
        .replace("                - h", "            - h");
    let fault = "          - name: envoy.filters.http.router\n            typed_config:\n              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\n              # The";
    let with_fault = ["          - name: fault\n            typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault }\n", fault].concat();
    let action = "                  timeout: 15s\n";
    let with_conditions = [action, "                  retry_policy: { retry_on: 5xx }\n"].concat();
    try_cases(&[
        case("        max_retries: 10000\n", "", &["max-retries-low"]),
        case("        max_retries: 10000\n", "        retry_budget: {}\n", &["native-retry-budget"]),
        case("connect_timeout: 0.5s", "connect_timeout: 5s", &["connect-timeout-long"]),
        case(
            &header,
            "            override_host_sources: [{ header: x-other }]\n",
            &["no-override-host", "steering-header-open"],
        ),
        case(
            "\"steering\": { \"header\": \"x-weir-hosts\", \"explorePercent\": 5 },",
            "\"steering\": \"off\",",
            &["nobody-steers", "steering-header-open"],
        ),
        case(
            "    type: STATIC\n",
            "    type: STATIC\n    common_lb_config: { locality_weighted_lb_config: {} }\n",
            &["override-host-refused"],
        ),
        case(
            "    type: STATIC\n",
            "    type: STATIC\n    outlier_detection: { interval: 1s }\n",
            &["native-outlier-detection"],
        ),
        case("round_robin.v3.RoundRobin", "least_request.v3.LeastRequest", &["least-request"]),
        // Which Envoy ignores beside the load balancing policy.
        case("    type: STATIC\n", "    type: STATIC\n    lb_policy: LEAST_REQUEST\n", &[]),
        case(predicate, "", &["retry-same-host"]),
        case("          retry_back_off:", "          retry_on: 5xx\n          retry_back_off:", &["route-retry-on"]),
        // A route's conditions count for nothing beside the cluster's own policy, and count where it has none.
        case(action, &with_conditions, &[]),
        case("        explicit_http_config: { http_protocol_options: {} }\n", "", &["protocol-missing"]),
        case(fault, &with_fault, &["filter-after-decide"]),
        case("\"maxRetries\": 2,", "\"maxRetries\": 5,", &["many-retries"]),
        case(
            "socket_address: { address: 127.0.0.1, port_value: 8081 }",
            "pipe: { path: /run/orders }",
            &["host-not-judged"],
        ),
        case("\"clusters\": []", "\"clusters\": [{ \"match\": \"ord*\" }]", &[]),
        case(
            "\"clusters\": []",
            "\"clusters\": [{ \"match\": \"cart*\" }, { \"match\": \"*\" }]",
            &["matches-nothing"],
        ),
        case("\"mode\": \"enforce\"", "\"mode\": \"shadow\"", &["shadow-mode"]),
        case("\"maxRetries\": 2,", "\"maxRetries\": 99,", &["invalid-policy", "steering-header-open"]),
    ]);
    // As it is for Envoy 1.36: the route's policy is the one that counts, and a newer Envoy has a better place for it.
    let text = shipped("envoy.yaml");
    let (before, part) = text.split_once("    # >>> weir: where retries go\n").expect("the part");
    let after = part.split_once("    # <<< weir\n").expect("its end").1;
    let route = |policy: &str| [before, after].concat().replace(action, &[action, policy].concat());
    let predicate = "{ retry_host_predicate: [{ name: a, typed_config: { \"@type\": a.PreviousHostsPredicate } }] }";
    for (policy, wanted) in [
        (format!("                  retry_policy: {predicate}\n"), &["own-retry-policy"][..]),
        ("                  retry_policy: { num_retries: 2 }\n".to_owned(), &["own-retry-policy", "retry-same-host"]),
        (with_conditions.replace(action, ""), &["own-retry-policy", "retry-same-host", "route-retry-on"]),
    ] {
        let run = weir(&["check", "-", "--format", "json"], route(&policy).as_bytes());
        assert_eq!(ids(&findings(&run)), wanted.iter().copied().collect(), "{policy}: {}", run.out);
    }
    // Behind its matcher guard does not see every attempt, so that it takes a mutation to keep the header from upstreams.
    let calm = |from, to, wanted| -> Case<'_> { (&["calm.yaml"], "calm.yaml", from, to, wanted) };
    let remove = "                    - remove: x-weir-hosts\n";
    let other = "                    - remove: x-other\n";
    let exact = "{ exact: \"1\" }";
    let tag = "key: wasm.weir_request";
    let count = "include_request_attempt_count: true";
    let hedged = [action, "                  hedge_policy: { hedge_on_per_try_timeout: true }\n"].concat();
    let mark = "{ key: x-envoy-ratelimited, value: \"true\" }";
    try_cases(&[
        calm(remove, other, &["steering-header-leaks"]),
        calm(exact, "{ exact: \"1\", ignore_case: true }", &[]),
        calm(tag, "key: wasm.other", &["guard-passed-by"]),
        calm(count, "include_request_attempt_count: false", &["attempt-count-missing"]),
        calm("suppress_envoy_headers: false", "suppress_envoy_headers: true", &["attempt-count-missing"]),
        calm(action, &hedged, &["hedges-unseen"]),
        calm(mark, "{ key: x-other, value: \"true\" }", &["pushback-unseen"]),
    ]);
    // In the form without a matcher none of that matters, and guard removes the header.
    let mut plain: serde_yaml_ng::Value = serde_yaml_ng::from_str(&shipped("calm.yaml")).expect("it is YAML");
    plain.apply_merge().expect("it merges");
    let mut plain: Value = serde_yaml_ng::from_value(plain).expect("it is JSON");
    let manager = "/static_resources/listeners/0/filter_chains/0/filters/0/typed_config";
    let filters = format!("{manager}/http_filters/1/typed_config/upstream_http_filters");
    let filters = plain.pointer_mut(&filters).and_then(Value::as_array_mut).expect("the list");
    let guard = filters[0]["typed_config"]["extension_config"].take();
    *filters = vec![guard, filters.last().expect("the codec").clone()];
    let host = plain.pointer_mut(&format!("{manager}/route_config/virtual_hosts/0")).expect("the virtual host");
    host["include_request_attempt_count"] = json!(false);
    host["routes"][0]["route"]["hedge_policy"] = json!({"hedge_on_per_try_timeout": true});
    let run = weir(&["check", "-", "--format", "json", "--strict"], plain.to_string().as_bytes());
    assert_eq!((run.status, ids(&findings(&run))), (0, BTreeSet::new()), "{}", run.out);
    // Without guard and without the mutation the header goes on.
    let folder =
        folder(&["compose/envoy.yaml"], "compose/envoy.yaml", "'{ \"role\": \"guard\" }'", "'{ \"role\": \"watch\" }'");
    let run = check(folder.path(), &["--format", "json"]);
    assert_eq!(ids(&findings(&run)), BTreeSet::from(["role-misplaced", "steering-header-leaks"]), "{}", run.out);
    let folder = self::folder(
        &["compose/envoy.yaml"],
        "compose/envoy.yaml",
        "'{ \"role\": \"watch\" }'",
        "'{ \"role\": \"guard\" }'",
    );
    let run = check(folder.path(), &["--format", "json"]);
    assert_eq!(ids(&findings(&run)), BTreeSet::from(["guard-without-watch", "role-misplaced"]), "{}", run.out);
}

/// A second listener, whose router has `watch` and `guard`, and which lacks `decide`.
#[test]
fn a_listener_without_decide_is_found() {
    let mut bootstrap = dump()["configs"][0]["bootstrap"].take();
    let listeners = bootstrap["static_resources"]["listeners"].as_array_mut().expect("listeners");
    let mut second = listeners[0].clone();
    let filters = second.pointer_mut("/filter_chains/0/filters/0/typed_config/http_filters");
    filters.and_then(Value::as_array_mut).expect("filters").remove(0);
    listeners.push(second);
    let ids_of = |bootstrap: &Value| -> Vec<String> {
        let run = weir(&["check", "-", "--format", "json"], bootstrap.to_string().as_bytes());
        let found = findings(&run);
        found.iter().filter_map(|finding| Some(format!("{} {}", finding["id"].as_str()?, finding["place"]))).collect()
    };
    let found = ids_of(&bootstrap);
    assert!(found.len() == 1 && found[0].starts_with("no-decide \"static_resources.listeners[1]"), "{found:?}");
    // A listener that has no part of Weir is the user's business.
    let second = bootstrap.pointer_mut("/static_resources/listeners/1/filter_chains/0/filters/0/typed_config");
    let router = &mut second.expect("the manager")["http_filters"][0]["typed_config"];
    *router = json!({"@type": router["@type"]});
    assert_eq!(ids_of(&bootstrap), Vec::<String>::new());
}

/// What a running Envoy says of itself: its static part is there twice, and what it refused is told.
fn dump() -> Value {
    let bootstrap: Value = serde_yaml_ng::from_str(&shipped("compose/envoy.yaml"))
        .map(|mut value: serde_yaml_ng::Value| {
            value.apply_merge().expect("it merges");
            serde_json::to_value(value).expect("it is JSON")
        })
        .expect("it is YAML");
    let clusters: Vec<Value> = bootstrap["static_resources"]["clusters"].as_array().expect("clusters").clone();
    let listeners: Vec<Value> = bootstrap["static_resources"]["listeners"].as_array().expect("listeners").clone();
    let listener = json!({"name": "ingress", "active_state": {"listener": listeners[0]},
        "error_state": {"details": "no such filter"}});
    json!({"configs": [
        {"@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump", "bootstrap": bootstrap},
        {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "static_clusters": clusters.iter().map(|cluster| json!({"cluster": cluster})).collect::<Vec<_>>()},
        {"@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump", "dynamic_listeners": [listener]},
    ]})
}

#[test]
fn a_running_envoy_is_checked() {
    let mut dump = dump();
    let run = weir(&["check", "-", "--format", "json"], dump.to_string().as_bytes());
    assert_eq!((run.status, ids(&findings(&run))), (1, BTreeSet::from(["refused-by-envoy"])), "{}", run.out);
    assert!(run.out.contains("no such filter"), "{}", run.out);
    let cluster = dump["configs"][1]["static_clusters"][0]["cluster"].as_object_mut().expect("a cluster");
    let options = cluster.remove("typed_extension_protocol_options").expect("its options");
    for (minor, wanted) in [(36, BTreeSet::new()), (37, BTreeSet::from(["own-retry-policy"]))] {
        let version = json!({"user_agent_build_version": {"version": {"major_number": 1, "minor_number": minor}}});
        dump["configs"][0]["bootstrap"]["node"] = version;
        let run = weir(&["check", "-", "--format", "json"], dump.to_string().as_bytes());
        let found = findings(&run);
        let own = ids(&found).into_iter().filter(|id| *id == "own-retry-policy").collect::<BTreeSet<_>>();
        assert_eq!(own, wanted, "1.{minor}: {}", run.out);
    }
    dump["configs"][1]["static_clusters"][0]["cluster"]["typed_extension_protocol_options"] = options;
    dump["configs"][1]["static_clusters"][0]["cluster"]["connect_timeout"] = json!("5s");
    dump["configs"][2]["dynamic_listeners"][0]["error_state"] = Value::Null;
    // Defaults are left out.
    dump["configs"][1]["static_clusters"][0]["cluster"].as_object_mut().expect("a cluster").remove("type");
    // Istio's agent keeps a module that it pulled in a place of its own.
    let decide =
        "/configs/2/dynamic_listeners/0/active_state/listener/filter_chains/0/filters/0/typed_config/http_filters/0";
    let code = format!("{decide}/typed_config/config/vm_config/code/local/filename");
    *dump.pointer_mut(&code).expect("its code") = json!("/var/lib/istio/data/a/b.wasm");

    // Over HTTP, in pieces, as Envoy sends it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let server = std::thread::spawn(move || {
        use std::io::Write as _;
        let (mut stream, line) = asked(&listener);
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").expect("a response");
        for part in dump.to_string().as_bytes().chunks(1_000) {
            write!(stream, "{:x}\r\n", part.len()).expect("a chunk");
            stream.write_all(part).expect("a chunk");
            stream.write_all(b"\r\n").expect("a chunk");
        }
        stream.write_all(b"0\r\n\r\n").expect("the end");
        line
    });
    let run = weir(&["check", "--admin", &format!("http://{address}"), "--strict"], b"");
    assert_eq!(run.status, 3, "{}{}", run.out, run.err);
    assert!(run.out.contains("warning[connect-timeout-long]") && run.out.contains("Retries"), "{}", run.out);
    assert!(run.out.ends_with("1 file: 0 errors, 1 warning, 0 notes\n"), "{}", run.out);
    assert_eq!(server.join().expect("the server ends"), "GET /config_dump HTTP/1.1");
    let run = weir(&["check", "--admin", &format!("http://{address}")], b"");
    assert!(run.status == 2 && run.err.contains(&address.to_string()), "{}", run.err);
}

#[test]
fn findings_are_written_for_people_and_for_machines() {
    let from = "retryOn: connect-failure,refused-stream";
    let folder = folder(ISTIO, "istio/traffic.yaml", from, "retryOn: 5xx");
    let text = shipped("istio/traffic.yaml");
    let line = 1 + text.lines().position(|line| line.contains(from)).expect("the line");
    let file = folder.path().join("istio-traffic.yaml");
    let file = file.to_str().expect("UTF-8");

    let run = check(folder.path(), &[]);
    assert_eq!(run.status, 0, "{}", run.err);
    assert!(run.out.contains(&format!("{file}:{line}: warning[route-retry-on]\n")), "{}", run.out);
    assert!(
        run.flowing().contains("retryOn \"5xx\" is added")
            && run.out.contains("See docs/checks.md#route-retry-on, or run weir docs checks#route-retry-on\n"),
        "{}",
        run.out
    );
    assert!(run.out.ends_with("4 files: 0 errors, 1 warning, 0 notes\n"), "{}", run.out);
    assert!(!run.out.contains('\u{1b}'), "no colours where nobody looks");
    assert_eq!(check(folder.path(), &["--strict"]).status, 3);

    let run = check(folder.path(), &["--format", "github"]);
    assert!(
        run.out.starts_with(&format!("::warning file={file},line={line},title=weir route-retry-on::retryOn \"5xx\"")),
        "{}",
        run.out
    );
    assert_eq!(run.out.lines().count(), 1);

    let run = check(folder.path(), &["--format", "sarif"]);
    let sarif: Value = serde_json::from_str(&run.out).expect("it is JSON");
    let result = &sarif["runs"][0]["results"][0];
    assert_eq!(
        (&sarif["version"], &result["ruleId"], &result["level"]),
        (&json!("2.1.0"), &json!("route-retry-on"), &json!("warning"))
    );
    assert_eq!(
        result["locations"][0]["physicalLocation"],
        json!({"artifactLocation": {"uri": file}, "region": {"startLine": line}})
    );
    let odd = folder.path().join("a #1 %.yaml");
    std::fs::rename(folder.path().join("istio-traffic.yaml"), &odd).expect("another name");
    let run = check(folder.path(), &["--format", "sarif"]);
    let other: Value = serde_json::from_str(&run.out).expect("it is JSON");
    let uri = &other["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"];
    assert!(uri.as_str().is_some_and(|uri| uri.ends_with("/a%20%231%20%25.yaml")), "{uri}");
    let rule = &sarif["runs"][0]["tool"]["driver"]["rules"][0];
    assert_eq!(rule["id"], "route-retry-on");
    // SARIF's helpUri has to be a whole address, which only a published release has.
    assert!(
        rule["helpUri"].is_null()
            && rule["help"]["text"].as_str().is_some_and(|text| text.contains("weir docs checks#route-retry-on")),
        "{rule}"
    );
}

#[test]
fn a_folder_may_hold_other_things() {
    let folder = folder(ISTIO, "", "", "");
    std::fs::create_dir(folder.path().join("more")).expect("a directory");
    // Values of charts have words of a policy, among others.
    let values = "image: a\nmode: fast\nclusters: [a]\nreplicas: 3\nport: 80\n";
    for (name, text) in [("values.yaml", values), ("notes.txt", "retry: ["), ("more/empty.yaml", "")] {
        std::fs::write(folder.path().join(name), text).expect("it is written");
    }
    let run = check(folder.path(), &["--strict"]);
    assert_eq!(run.status, 0, "{}{}", run.out, run.err);
    // Somebody else's plugins.
    let other = "apiVersion: extensions.istio.io/v1alpha1\nkind: WasmPlugin\nmetadata: { name: waf }\n\
        spec: { url: \"oci://example.com/waf\", failStrategy: FAIL_CLOSE, pluginConfig: { rules: [a] } }\n";
    std::fs::write(folder.path().join("more/waf.yaml"), other).expect("it is written");
    let run = check(folder.path(), &["--strict"]);
    assert_eq!(run.status, 0, "{}{}", run.out, run.err);
    std::fs::remove_file(folder.path().join("more/waf.yaml")).expect("it is removed");
    // Those of a chart are told of once.
    let run = weir(&["check", "--strict", "--format", "json", "envoy/helm"], b"");
    let found = findings(&run);
    assert_eq!((run.status, found.len(), &found[0]["file"]), (0, 1, &json!("envoy/helm/templates")), "{}", run.out);
    // Templates are no YAML.
    std::fs::write(folder.path().join("more/template.yaml"), "{{- if .Values.weir }}\na: [\n").expect("it is written");
    let run = check(folder.path(), &["--strict", "--format", "json"]);
    assert_eq!((run.status, ids(&findings(&run))), (0, BTreeSet::from(["not-read"])), "{}{}", run.out, run.err);
    let run = check(&folder.path().join("more"), &[]);
    assert!(run.status == 2 && run.err.contains("nothing to check"), "{}{}", run.out, run.err);
    std::fs::write(folder.path().join("more/policy.yaml"), "retry: { maxRetries: 99 }\n").expect("it is written");
    let run = check(folder.path(), &[]);
    assert!(
        run.status == 1 && run.err.contains("more/policy.yaml: retry.maxRetries: 99 is out of range"),
        "{}",
        run.err
    );
}

/// What is refused hides nothing else that is wrong.
#[test]
fn a_refused_policy_is_told_with_its_line_and_beside_other_findings() {
    let (from, to) = ("\"role\": \"decide\"", "\"role\": \"decide\", \"incident\": {}");
    let folder = folder(ISTIO, "istio/decide.yaml", from, to);
    let traffic = shipped("istio/traffic.yaml").replace("retryOn: connect-failure,refused-stream", "retryOn: 5xx");
    std::fs::write(folder.path().join("istio-traffic.yaml"), traffic).expect("it is written");
    let text = shipped("istio/decide.yaml");
    let line = 1 + text.lines().position(|line| line.contains("configuration:")).expect("the line");
    let run = check(folder.path(), &[]);
    assert_eq!(run.status, 1, "{}{}", run.out, run.err);
    assert!(run.err.contains(&format!("istio-decide.yaml:{line}: spec.configPatches[0]")), "{}", run.err);
    assert!(run.err.ends_with("did you mean incidents?\n"), "{}", run.err);
    assert!(run.out.contains("warning[route-retry-on]") && !run.out.contains("invalid-policy"), "{}", run.out);
    assert!(run.out.ends_with("4 files: 1 error, 1 warning, 0 notes\n"), "{}", run.out);
    assert_eq!(check(folder.path(), &["-q"]).out, "");
    let run = check(folder.path(), &["--format", "github"]);
    assert!(run.out.contains("did you mean incidents? Put right what the module names. See"), "{}", run.out);
}

#[test]
fn triggers_and_statuses_of_envoy_gateway_are_both_told() {
    let from = "triggers: [connect-failure, refused-stream]";
    let to = "triggers: [5xx, reset], httpStatusCodes: [503]";
    let folder =
        folder(GATEWAY, "gateway/traffic.yaml", &format!("retryOn:\n      {from}"), &format!("retryOn: {{ {to} }}"));
    let run = check(folder.path(), &[]);
    assert!(run.flowing().contains("retryOn \"5xx,reset, httpStatusCodes [503]\" is added"), "{}", run.out);
}

/// The page of the documentation has what the program prints, so each finding's link leads somewhere.
#[test]
fn each_rule_is_documented() {
    let run = weir(&["check", "--rules"], b"");
    assert_eq!(run.status, 0);
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/checks.md")).expect("docs/checks.md");
    assert_eq!(page, run.out, "put it right with: target/weir check --rules >docs/checks.md");
    let anchors: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(anchors.len(), anchors.iter().collect::<BTreeSet<_>>().len(), "each has one");
}

/// What `kubectl get -A -o yaml` gives is one list.
#[test]
fn resources_of_a_cluster_are_checked_as_a_list() {
    let documents = |file: &str| -> Vec<Value> {
        let text = shipped(file).replace("retryOn: connect-failure,refused-stream", "retryOn: 5xx");
        let documents = serde_yaml_ng::Deserializer::from_str(&text);
        documents.map(|document| serde::Deserialize::deserialize(document).expect("it is YAML")).collect()
    };
    let items: Vec<Value> = ISTIO.iter().flat_map(|file| documents(file)).collect();
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    let list = serde_yaml_ng::to_string(&list).expect("it is YAML");
    let run = weir(&["check", "-", "--format", "json"], list.as_bytes());
    let found = findings(&run);
    assert_eq!((run.status, ids(&found)), (0, BTreeSet::from(["route-retry-on"])), "{}{}", run.out, run.err);
    let line = 1 + list.lines().position(|line| line.contains("retryOn: 5xx")).expect("the line");
    assert_eq!((&found[0]["line"], &found[0]["file"]), (&json!(line), &json!("standard input")), "{}", run.out);
}
