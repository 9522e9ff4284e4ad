//! `weir check`: the module's own verdict and words, what a policy means, and the bounds.

use serde_json::json;
use weir::config;

use super::{Run, weir};

fn check(policy: &str, arguments: &[&str]) -> Run {
    let run = weir(&[&["check", "-"], arguments].concat(), policy.as_bytes());
    assert_eq!(run.status, 0, "{}", run.err);
    run
}

#[test]
fn every_configuration_that_is_shipped_is_found_and_valid() {
    let cases: [(&str, &[&str]); 8] = [
        ("envoy/envoy.yaml", &["decide", "watch", "guard"]),
        ("envoy/compose/envoy.yaml", &["decide", "watch", "guard"]),
        ("envoy/istio/attempts.yaml", &["watch", "guard"]),
        ("envoy/istio/decide.yaml", &["decide"]),
        ("envoy/istio/wasmplugin.yaml", &["decide"]),
        ("envoy/istio/trafficextension.yaml", &["decide"]),
        ("envoy/gateway/envoypatchpolicy.yaml", &["decide", "watch", "guard"]),
        ("envoy/gateway/envoyextensionpolicy.yaml", &["decide"]),
    ];
    for (file, roles) in cases {
        let run = weir(&["check", "--quiet", file], b"");
        assert_eq!(run.status, 0, "{file}: {}", run.err);
        let found: Vec<&str> = run.out.lines().filter_map(|line| line.split(": valid, role ").nth(1)).collect();
        let found: Vec<&str> = found.iter().map(|role| role.split(',').next().unwrap_or_default()).collect();
        assert_eq!(found, roles, "{file}");
    }
    let run = weir(&["check", "envoy/gateway/traffic.yaml"], b"");
    assert!(run.status == 0 && run.out.contains("there is no Wasm plugin in it"), "{}{}", run.out, run.err);
}

#[test]
fn what_the_module_refuses_is_refused_in_the_same_words() {
    for policy in [
        r#"{"retry": {"maxRetries": 99}}"#,
        r#"{"retry": {"maxRetries": 1, "maxRetries": 2}}"#,
        r#"{"retry": {"maxRetrys": 1}}"#,
        r#"{"role": "watch", "retry": {}}"#,
        r#"{"retry": "#,
        r#"{"clusters": [{"match": ""}]}"#,
        "[]",
    ] {
        let error = config::parse(policy.as_bytes()).expect_err(policy).to_string();
        let run = weir(&["check", "-"], policy.as_bytes());
        assert_eq!(run.status, 1, "{policy}");
        assert_eq!(run.err, format!("weir: standard input: {error}\n"));
        assert_eq!(run.out, "");
    }
    // As YAML, and inside of something.
    let run = weir(&["check", "-"], b"retry:\n  maxRetries: 99\n");
    assert!(run.status == 1 && run.err.contains("retry.maxRetries: 99 is out of range"), "{}", run.err);
    let plugin = r#"{"http_filters": [{"vm_config": {}, "configuration":
        {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"mode": "off"}}}]}"#;
    let run = weir(&["check", "-"], plugin.as_bytes());
    assert!(run.status == 1 && run.err.contains("http_filters[0].configuration: mode: "), "{}", run.err);
}

#[test]
fn a_wrong_command_line_is_not_a_wrong_policy() {
    assert_eq!(weir(&["check"], b"").status, 2);
    assert_eq!(weir(&["check", "-", "--roles", "watcher"], b"").status, 2);
    assert_eq!(weir(&["check", "no/such/file"], b"").status, 2);
}

/// Mostly a command before the pipe has failed.
#[test]
fn nothing_is_no_policy() {
    for input in ["", "\n \n"] {
        let run = weir(&["check", "-"], input.as_bytes());
        assert_eq!((run.status, run.out.as_str()), (2, ""), "{}", run.err);
        assert!(run.err.contains("standard input is empty"), "{}", run.err);
    }
    assert!(check("{}", &[]).out.contains("valid, role decide, all settings at their defaults"));
}

#[test]
fn what_is_no_text_is_refused_and_nothing_worse() {
    let deep = "[".repeat(100_000);
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\n\
                g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]\ni: [*h,*h,*h,*h,*h,*h,*h,*h]\n";
    for input in [&[0xff, 0xfe, 0x00][..], b"a: [", b"? [1]\n: 2\n", deep.as_bytes(), bomb.as_bytes(), b"retry"] {
        let run = weir(&["check", "-"], input);
        assert_eq!(run.status, 1, "{:?}: {}", &input[..input.len().min(20)], run.err);
        assert!(!run.err.contains("panicked"), "{}", run.err);
    }
}

#[test]
fn retries_are_told_by_the_safety_table() {
    let run = check("{}", &[]);
    assert!(run.has_row("may be repeated * retry retry retry retry 502 503 504 no no"), "{}", run.out);
    assert!(run.has_row("any other retry retry no no no no no"), "{}", run.out);
    let run =
        check(r#"{"retry": {"grpcStatusCodes": ["unavailable"], "statusCodes": [], "alreadyRetried": "none"}}"#, &[]);
    assert!(run.has_row("gRPC retry retry no no unavailable no no"), "{}", run.out);
    assert!(run.has_row("may be repeated * retry retry retry retry no no no"), "{}", run.out);
    assert!(run.has_row("arrives as a retry no no no no no no no"), "{}", run.out);
}

/// The bounds of tests/compare: two Envoys, and what a client's own retries do.
#[test]
fn the_worst_case_is_told_with_and_without_weir() {
    let run = check("{}", &["--client-retries", "2", "--route-retries", "2", "--rates", "1,100"]);
    assert!(run.has_row("one request fails each time 9 9"), "{}", run.out);
    assert!(run.has_row("the same, the client being an Envoy * 9 3"), "{}", run.out);
    // The floor, 10 retries a second, is worth more than two retries of each of three requests.
    assert!(run.has_row("all fail, 3 requests/s with the client's retries 9 9"), "{}", run.out);
    assert!(run.has_row("all fail, 300 requests/s with the client's retries 9 3.6"), "{}", run.out);

    // Between the two: 20 requests a second, 10 retries.
    assert!(check("{}", &["--rates", "20"]).has_row("all fail, 20 requests/s 1 1.5"));
    // Nothing limits them, nothing is retried, Weir has no say, Weir changes nothing.
    let route = ["--route-retries", "3", "--rates", "100"];
    let cases = [
        (r#"{"retry": {"budget": null}}"#, "3", "3"),
        (r#"{"retry": {"maxRetries": 0}}"#, "1", "1"),
        (r#"{"retry": null}"#, "4", "4"),
        (r#"{"mode": "shadow"}"#, "4", "4"),
        (r#"{"retry": {"budget": {"percent": 0}, "minRetryRate": null}}"#, "3", "1"),
    ];
    for (policy, single, outage) in cases {
        let run = check(policy, &route);
        assert!(run.has_row(&format!("one request fails each time 4 {single}")), "{policy}: {}", run.out);
        assert!(run.has_row(&format!("all fail, 100 requests/s 4 {outage}")), "{policy}: {}", run.out);
    }
    let run = check("{}", &[&route[..], &["--roles", "watch"]].concat());
    assert!(run.has_row("one request fails each time 4 4"), "{}", run.out);
}

#[test]
fn a_route_of_its_own_is_found_and_what_guard_does_about_it() {
    let bootstrap = r#"{"static_resources": {"route": {"retry_policy": {"retry_on": "5xx", "num_retries": 4}},
        "plugin": {"vm_config": {"vm_id": "weir"}, "configuration": null}}}"#;
    let run = check(bootstrap, &[]);
    assert!(run.flowing().contains("the route's own policy 4 times; Weir is attached as decide."), "{}", run.out);
    assert!(run.flowing().contains("retry_on \"5xx\" is added"), "{}", run.out);
    assert!(run.flowing().contains("Without guard, a POST that was perhaps processed is sent again"), "{}", run.out);
    assert!(run.has_row("one request fails each time 5 3"), "{}", run.out);
    let run = check(bootstrap, &["--roles", "decide,watch,guard"]);
    assert!(run.flowing().contains("guard stops what contradicts the safety table"), "{}", run.out);
    // The cluster's own policy takes its place.
    let replaced = r#"{"static_resources": {"clusters": [{"name": "orders", "type": "STATIC", "typed_extension_protocol_options":
        {"http": {"@type": "x.HttpProtocolOptions", "auto_config": {}, "retry_policy": {}}}}],
        "route": {"retry_policy": {"retry_on": "5xx", "num_retries": 4}},
        "plugin": {"vm_config": {"vm_id": "weir"}, "configuration": null}}}"#;
    let flowing = check(replaced, &["--roles", "decide"]).flowing();
    assert!(flowing.contains("the cluster has a retry policy of its own, which takes its place"), "{flowing}");
    assert!(!flowing.contains("sent again if the route says so"), "{flowing}");
    let older = r#"{"user_agent_build_version": {"version": {"major_number": 1, "minor_number": 36}}, "#;
    let flowing = check(&replaced.replacen('{', older, 1), &["--roles", "decide"]).flowing();
    assert!(flowing.contains("sent again if the route says so"), "{flowing}");
    // Somebody else's plugin is not Weir's.
    let others = r#"[{"vm_config": {"vm_id": "a"}, "configuration": {"@type": "x", "value": 1}},
        {"vm_config": {"vm_id": "weir"}}]"#;
    assert!(check(others, &["-q"]).out.starts_with("[1].configuration: valid, role decide"));
}

/// What docs/command-line.md shows of it is what it says.
#[test]
fn the_documented_example_is_true() {
    let page = include_str!("../../docs/command-line.md");
    let (_, example) = page.split_once("```text\n$ target/weir ").expect("the example");
    let (command, shown) = example.split("```").next().unwrap_or_default().split_once('\n').expect("its output");
    let run = weir(&command.split(' ').collect::<Vec<_>>(), b"");
    assert_eq!(run.status, 0, "{}", run.err);
    let said: Vec<&str> = run.out.lines().collect();
    for line in shown.lines().filter(|line| !line.is_empty() && *line != "…") {
        assert!(said.contains(&line), "{line}\n{}", run.out);
    }
}

#[test]
fn what_is_valid_and_odd_is_told() {
    let warnings = |policy: &str| {
        let flowing = check(policy, &[]).flowing();
        flowing.split_once("Findings").map(|(_, warnings)| warnings.to_owned()).unwrap_or_default()
    };
    let calm = r#"{"retry": {"maxRetries": 2}}"#;
    assert_eq!(warnings(calm), "", "nothing is odd about it");
    let cases = [
        (r#"{"retry": {"budget": null}}"#, "budget is off"),
        (r#"{"retry": {"idempotentMethods": ["GET", "POST"]}}"#, "idempotentMethods has POST"),
        (r#"{"retry": {"alreadyRetried": "any"}}"#, "attempts multiply"),
        (r#"{"steering": null}"#, "nobody acts on them"),
        (r#"{"outlierDetection": null}"#, "cannot tell one dead host"),
        (r#"{"mode": "shadow"}"#, "nothing of this takes effect"),
        (r#"{"clusters": [{"match": "a*"}, {"match": "ab*"}]}"#, "\"ab*\": never used"),
        (r#"{"clusters": [{"match": "a", "retry": {"budget": null}}]}"#, "clusters \"a\": budget is off"),
        (
            r#"{"clusters": [{"match": "a", "route": "r", "retry": {"idempotentMethods": ["POST"]}}]}"#,
            "clusters \"a\" with route \"r\": idempotentMethods has POST",
        ),
        (
            r#"{"clusters": [{"match": "*", "route": "r*"}, {"match": "a", "route": "r1"}]}"#,
            "clusters \"a\" with route \"r1\": never used, since \"*\" with route \"r*\" stands before it",
        ),
        (
            r#"{"clusters": [{"match": "a*"}, {"match": "ab", "route": "r"}]}"#,
            "clusters \"ab\" with route \"r\": never used, since \"a*\" stands before it",
        ),
    ];
    for (policy, text) in cases {
        assert!(warnings(policy).contains(text), "{policy}: {}", warnings(policy));
    }
    // Kubernetes keeps no null of an object; a policy in text stays as it is.
    let plugin = |policy: &str| {
        format!(
            r#"{{"apiVersion": "v1", "kind": "WasmPlugin", "spec": {{"failStrategy": "FAIL_OPEN", "pluginConfig": {policy}}}}}"#
        )
    };
    let nulls = r#"{"steering": "off", "outlierDetection": "off", "circuitBreaker": null,
        "clusters": [{"match": "a", "retry": {"budget": null}}]}"#;
    let told = warnings(&plugin(nulls));
    for place in ["circuitBreaker", "clusters[0].retry.budget"] {
        assert!(told.contains(&format!("spec.pluginConfig.{place} is null, which kubectl apply drops")), "{told}");
    }
    let other =
        r#"{"apiVersion": "v1", "spec": [{"pluginConfig": {"a": null}}, {"name": "weir", "pluginConfig": {}}]}"#;
    assert_eq!(warnings(other), "", "another plugin's null is its own");
    let text = serde_json::Value::from(r#"{"outlierDetection": null, "circuitBreaker": null}"#).to_string();
    assert_eq!(warnings(&plugin(&text)), "");
    assert_eq!(warnings(r#"{"outlierDetection": null, "circuitBreaker": null}"#), "");
    // Who acts on ejections where Weir does not steer.
    let unsteered = plugin(r#"{"steering": "off"}"#);
    let native = "\n---\nspec: {trafficPolicy: {outlierDetection: {interval: 1s}}}\n";
    assert!(warnings(&unsteered).contains("nobody acts on them"));
    assert_eq!(warnings(&[&unsteered, native].concat()), "");
    // A cluster of which clients name the hosts.
    let bootstrap = |policy: &str| {
        let proxy = "type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig";
        let wasm = json!({"name": "weir", "vm_config": {"vm_id": "weir"}, "configuration":
            {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": policy}});
        let clusters = json!([
            {"name": "anywhere", "cluster_type": {"typed_config": {"@type": proxy}}},
            {"name": "original", "type": "ORIGINAL_DST", "original_dst_lb_config": {"use_http_header": true}},
            {"name": "orders", "type": "STATIC"},
        ]);
        json!({"static_resources": {"listeners": [{"config": wasm}], "clusters": clusters}}).to_string()
    };
    let told = warnings(&bootstrap(calm));
    assert!(told.contains("\"anywhere\": requests say") && told.contains("\"original\": requests say"), "{told}");
    assert!(!told.contains("orders"), "{told}");
    let apart = r#"{"clusters": [{"match": "*", "circuitBreaker": "off", "outlierDetection": "off"}]}"#;
    assert!(!warnings(&bootstrap(apart)).contains("requests say"), "{}", warnings(&bootstrap(apart)));
    // A cluster that hashes, under steering.
    let hashed = |policy: &str| {
        let family = "type.googleapis.com/envoy.extensions.load_balancing_policies";
        let typed = |kind: &str| json!({"@type": format!("{family}.{kind}")});
        let (mut ring, mut steered) = (typed("ring_hash.v3.RingHash"), typed("override_host.v3.OverrideHost"));
        ring = json!({"policies": [{"typed_extension_config": {"name": "ring", "typed_config": ring}}]});
        steered["fallback_policy"] = ring;
        let balancer = json!({"policies": [{"typed_extension_config": {"name": "own", "typed_config": steered}}]});
        let clusters = json!([{"name": "carts", "load_balancing_policy": balancer}, {"name": "orders"}]);
        let mut whole: serde_json::Value = serde_json::from_str(&bootstrap(policy)).unwrap();
        whole["static_resources"]["clusters"] = clusters;
        whole.to_string()
    };
    let told = warnings(&hashed(calm));
    assert!(told.contains("\"carts\": it spreads") && !told.contains("orders"), "{told}");
    let apart = r#"{"clusters": [{"match": "carts", "steering": "off"}]}"#;
    assert!(!warnings(&hashed(apart)).contains("it spreads"), "{}", warnings(&hashed(apart)));
    for apart in [
        r#"{"clusters": [{"match": "ab*"}, {"match": "a*"}]}"#,
        r#"{"clusters": [{"match": "a", "route": "r"}, {"match": "a"}]}"#,
        r#"{"clusters": [{"match": "*", "route": "r"}, {"match": "a", "route": "s"}, {"match": "a"}]}"#,
    ] {
        assert!(!warnings(apart).contains("never used"), "{}", warnings(apart));
    }
    // Which routes there are, a file tells that gets none elsewhere.
    let routed = |name: &str, elsewhere: bool| {
        let policy = r#"{"clusters": [{"match": "*", "route": "check*", "retry": "off"}]}"#;
        let mut whole: serde_json::Value = serde_json::from_str(&bootstrap(policy)).unwrap();
        let routes = json!({"virtual_hosts": [{"domains": ["*"], "routes": [{"name": name}, {}]}]});
        whole["routed"] = if elsewhere { json!({"rds": {}, "route_config": routes}) } else { routes };
        warnings(&whole.to_string())
    };
    assert!(routed("list", false).contains("route \"check*\" matches nothing: there is no route of such a name"));
    assert!(!routed("checkout", false).contains("matches nothing"));
    assert!(!routed("list", true).contains("matches nothing"));
}
