//! The Helm chart: what it makes of its values is what `weir generate` makes of the same services, and Helm's linter has nothing to say.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::{generate, weir};

const MODULE: &[u8] = b"\0asmweir";
const MODULE_IN_BASE64: &str = "AGFzbXdlaXI=";

fn helm(arguments: &[&str], chart: &Path, values: &Value) -> Output {
    let own = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/bin/helm");
    let program = if Path::new(own).exists() { own } else { "helm" };
    let file = chart.join("../values.json");
    std::fs::write(&file, values.to_string()).expect("the values are written");
    let mut command = Command::new(program);
    command.args(arguments).arg(chart).arg("--values").arg(&file);
    command.output().unwrap_or_else(|error| panic!("{program}: {error}; ./build.sh test installs it, where Go is"))
}

/// The chart, of the files in this tree.
fn staged() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let module = folder.path().join("weir.wasm");
    std::fs::write(&module, MODULE).expect("a module");
    let stage = concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/helm/stage.sh");
    let status = Command::new(stage).arg(&module).arg("1.2.3").arg(folder.path()).status().expect("stage.sh starts");
    assert!(status.success());
    let chart = folder.path().join("weir");
    (folder, chart)
}

fn render(chart: &Path, values: &Value) -> Vec<Value> {
    let output = helm(&["template", "weir", "--namespace", "ops"], chart, values);
    assert!(output.status.success(), "{values}: {}", String::from_utf8_lossy(&output.stderr));
    let mut made = generate::documents(&String::from_utf8_lossy(&output.stdout));
    made.retain(|document| !document.is_null());
    made
}

fn lint(chart: &Path, values: &Value) {
    let output = helm(&["lint", "--strict"], chart, values);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !text.contains("[WARNING]") && !text.contains("[ERROR]"), "{values}: {text}");
}

fn of_kind<'a>(documents: &'a [Value], kind: &str, name: &str) -> Option<&'a Value> {
    documents.iter().find(|document| document["kind"] == kind && document["metadata"]["name"] == name)
}

/// In one order, with policies as what they say: Helm sorts documents, and spaces of a policy mean nothing.
fn comparable(mut documents: Vec<Value>) -> Vec<Value> {
    fn parse(value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Ok(policy @ Value::Object(_)) = serde_json::from_str(text) {
                    *value = policy;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(parse),
            Value::Object(fields) => fields.values_mut().for_each(parse),
            _ => {}
        }
    }
    documents.iter_mut().for_each(parse);
    documents.sort_by_cached_key(|document| {
        format!("{} {} {}", document["kind"], document["metadata"]["name"], document["metadata"]["namespace"])
    });
    documents
}

/// Services and all else, and what `weir generate` is told for the same.
fn settings() -> Vec<(Value, Vec<&'static str>)> {
    let orders = json!([{"name": "orders", "namespace": "shop", "port": 8080}]);
    let two =
        json!([{"name": "carts", "namespace": "web", "port": 80}, {"name": "shop", "namespace": "auth", "port": 9090}]);
    let routes = json!([{"name": "carts", "namespace": "web"}, {"name": "orders", "namespace": "users"}]);
    let listeners = json!([{"protocol": "http", "port": 8080}, {"protocol": "https", "port": 443}, {"protocol": "http3", "port": 443}, {"protocol": "https", "port": 444, "name": "tls"}]);
    let image = "oci://registry.example.com/weir:7";
    vec![
        (
            json!({"services": orders, "clients": {"label": "app=storefront"}}),
            vec!["istio", "--service", "orders.shop:8080", "--clients", "app=storefront"],
        ),
        (
            json!({"services": two, "mode": "shadow", "clients": {"label": "team=front", "namespace": "orders"}}),
            "istio --service carts.web:80 --service shop.auth:9090 --clients team=front -n orders --shadow"
                .split(' ')
                .collect(),
        ),
        (
            json!({"services": two, "mode": "shadow", "clients": {"label": "team=front"}, "module": {"image": image}}),
            [
                "istio --service carts.web:80 --service shop.auth:9090 --clients team=front --shadow --image"
                    .split(' ')
                    .collect(),
                vec![image],
            ]
            .concat(),
        ),
        (
            json!({"services": two, "clients": {"labels": ["app=storefront", "app.kubernetes.io/name=Check_out.v2"], "namespace": "ops"}}),
            "istio --service carts.web:80 --service shop.auth:9090 -n ops --clients app=storefront \
             --clients app.kubernetes.io/name=Check_out.v2"
                .split_whitespace()
                .collect(),
        ),
        (
            json!({"platform": "envoy-gateway", "services": [{"name": "orders", "namespace": "shop"}], "gateway": {"name": "eg"}}),
            vec!["envoy-gateway", "--route", "shop/orders", "--gateway", "eg"],
        ),
        (
            json!({"platform": "envoy-gateway", "mode": "shadow", "services": routes,
                "gateway": {"name": "public", "namespace": "edge", "listeners": listeners}}),
            "envoy-gateway --route web/carts --route users/orders --gateway edge/public --shadow \
             --listener http:8080 --listener https:443 --listener http3:443 --listener https:444:tls"
                .split_whitespace()
                .collect(),
        ),
    ]
}

#[test]
fn with_helm_the_chart_renders_to_what_weir_generate_gives() {
    let (_folder, chart) = staged();
    for (values, arguments) in settings() {
        let expected = comparable(generate::documents(&generate::generate(&arguments).out));
        let rendered = render(&chart, &values);
        let module = of_kind(&rendered, "ConfigMap", "weir").expect("the module");
        assert_eq!(module["binaryData"]["weir.wasm"], MODULE_IN_BASE64);
        let istio = arguments.first() == Some(&"istio");
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/istio/custom_bootstrap.json");
        let bootstrap = std::fs::read_to_string(shipped).expect(shipped);
        assert_eq!(module["data"]["custom_bootstrap.json"], if istio { json!(bootstrap) } else { json!(null) });
        let of_clients = expected.iter().find(|document| document["kind"] == "EnvoyFilter");
        let namespace = of_clients.map_or(json!("envoy-gateway-system"), |it| it["metadata"]["namespace"].clone());
        assert_eq!(module["metadata"]["namespace"], namespace, "where the proxies are");

        let others = rendered.into_iter().filter(|document| document["kind"] != "ConfigMap").collect();
        let rendered = comparable(others);
        for (ours, wanted) in rendered.iter().zip(&expected) {
            assert_eq!(ours, wanted, "{values}");
        }
        assert_eq!(rendered.len(), expected.len(), "{values}");
    }
}

#[test]
fn with_helm_its_linter_has_nothing_to_say() {
    let (_folder, chart) = staged();
    for (mut values, _) in settings() {
        lint(&chart, &values);
        values["dashboard"] = json!({"enabled": true});
        values["alerts"] = json!({"enabled": true});
        lint(&chart, &values);
    }
}

#[test]
fn with_helm_policy_dashboard_and_alerts_are_switched_on_by_values() {
    let (_folder, chart) = staged();
    for (mut values, arguments) in settings() {
        values["policy"] = json!({"retry": {"budget": {"percent": 7}, "maxRetries": 1}});
        values["module"]["configMap"] = json!(false);
        values["dashboard"] = json!({"enabled": true, "namespace": "grafana", "labels": {"find": "me"}});
        values["alerts"] =
            json!({"enabled": true, "labels": {"release": "prom"}, "runbooks": "https://docs.test/weir/alerts"});
        let rendered = render(&chart, &values);
        let mut without = rendered.clone();
        without.retain(|document| document["kind"] != "ConfigMap" && document["kind"] != "PrometheusRule");
        let said = json!(comparable(without.clone())).to_string();
        assert!(said.contains(r#""retry":{"budget":{"percent":7},"maxRetries":1}"#), "{said}");
        assert!(!said.contains(r#""maxRetries":3"#), "an entry for a service says otherwise: {said}");
        let all: Vec<String> = without.iter().map(Value::to_string).collect();
        let checked = weir(&["check", "--format", "json", "-"], all.join("\n---\n").as_bytes());
        let found: Vec<Value> = serde_json::from_str(&checked.out).expect("findings");
        let bad: Vec<&Value> = found.iter().filter(|finding| finding["id"] != "shadow-mode").collect();
        assert!(bad.is_empty(), "{arguments:?}: {bad:?}");

        assert!(of_kind(&rendered, "ConfigMap", "weir").is_none());
        let dashboard = of_kind(&rendered, "ConfigMap", "weir-dashboard").expect("the dashboard");
        assert_eq!(
            // Helm lays values over the defaults, labels too.
            dashboard["metadata"],
            json!({"name": "weir-dashboard", "namespace": "grafana", "labels": {"find": "me", "grafana_dashboard": "1"}})
        );
        let envoy = Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy");
        let shipped = std::fs::read_to_string(envoy.join("grafana/weir.json")).expect("the shipped one");
        assert_eq!(dashboard["data"]["weir.json"], shipped);
        let rule = of_kind(&rendered, "PrometheusRule", "weir").expect("the alerts");
        let shipped = std::fs::read_to_string(envoy.join("prometheus/weir-alerts.yaml")).expect("the shipped ones");
        let shipped = shipped.replace("runbook_url: docs/alerts.md", "runbook_url: https://docs.test/weir/alerts");
        assert_eq!(rule["spec"], generate::documents(&shipped)[0]);
        assert!(shipped.contains("https://docs.test/weir/alerts#weircrashloop"));
        assert_eq!(
            (&rule["metadata"]["labels"], &rule["metadata"]["namespace"]),
            (&json!({"release": "prom"}), &json!("ops"))
        );

        // Where nobody said where the documentation is, no alert has a link, which nobody could follow there.
        values["alerts"] = json!({"enabled": true});
        let rendered = render(&chart, &values);
        let mut rules = of_kind(&rendered, "PrometheusRule", "weir").expect("the alerts")["spec"].clone();
        assert!(!rules.to_string().contains("runbook_url"), "{rules}");
        let mut shipped = generate::documents(&shipped)[0].clone();
        for spec in [&mut rules, &mut shipped] {
            for rule in
                spec["groups"].as_array_mut().unwrap().iter_mut().flat_map(|it| it["rules"].as_array_mut().unwrap())
            {
                if let Some(annotations) = rule["annotations"].as_object_mut() {
                    annotations.remove("runbook_url");
                }
            }
        }
        assert_eq!(rules, shipped);
    }
}

#[test]
fn with_helm_values_that_are_missing_or_unknown_are_named() {
    let (_folder, chart) = staged();
    let orders = json!([{"name": "orders", "namespace": "shop"}]);
    for (values, named) in [
        (json!({}), "services is empty"),
        (json!({"services": orders}), "clients.label is empty"),
        (json!({"services": orders, "clients": {"label": "app=a"}}), "orders has no port"),
        (json!({"services": orders, "platform": "envoy-gateway"}), "gateway.name is empty"),
        (json!({"services": orders, "mode": "shadows"}), "/mode"),
        (json!({"services": orders, "service": []}), "service"),
        (json!({"services": [{"name": "Orders", "namespace": "shop"}]}), "/services/0/name"),
        (json!({"services": orders, "policy": {"mode": "shadow"}}), "/policy"),
    ] {
        let output = helm(&["template", "weir"], &chart, &values);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(named), "{values}: {error}");
    }
}
