//! `weir generate`: with the names of the examples it is what is shipped; with others, `weir check` has nothing to say.

use serde::Deserialize as _;
use serde_json::Value;

use super::{Run, weir};

pub fn documents(text: &str) -> Vec<Value> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| {
            let mut value = serde_yaml_ng::Value::deserialize(document).expect("it is YAML");
            value.apply_merge().expect("it merges");
            serde_yaml_ng::from_value(value).expect("it is JSON, too")
        })
        .collect()
}

fn shipped(files: &[&str]) -> Vec<Value> {
    let read =
        |file: &&str| std::fs::read_to_string(format!("{}/envoy/{file}", env!("CARGO_MANIFEST_DIR"))).expect(file);
    files.iter().map(read).flat_map(|text| documents(&text)).collect()
}

pub fn generate(arguments: &[&str]) -> Run {
    let run = weir(&[&["generate"], arguments].concat(), b"");
    assert_eq!(run.status, 0, "{}", run.err);
    run
}

#[test]
fn with_the_names_of_the_examples_it_is_what_is_shipped() {
    let istio = ["istio", "--service", "orders.shop:8080", "--clients", "app=storefront"];
    let files = ["istio/decide.yaml", "istio/attempts.yaml", "istio/proxy-status.yaml", "istio/traffic.yaml"];
    assert_eq!(documents(&generate(&istio).out), shipped(&files));

    let image = ["--image", "oci://registry.example.com/weir:0.1.0"];
    let files = [&["istio/wasmplugin.yaml"], &files[1..]].concat();
    assert_eq!(documents(&generate(&[&istio[..], &image].concat()).out), shipped(&files));

    let files = ["gateway/envoypatchpolicy.yaml", "gateway/envoyproxy.yaml", "gateway/traffic.yaml"];
    let run = generate(&["envoy-gateway", "--route", "shop/orders", "--gateway", "eg"]);
    assert_eq!(documents(&run.out), shipped(&files));

    let hosts = "orders=127.0.0.1:8081,127.0.0.1:8082,127.0.0.1:8083,127.0.0.1:8084";
    let run = generate(&["envoy", "--service", hosts, "--module", "target/weir.wasm"]);
    assert_eq!(documents(&run.out), shipped(&["envoy.yaml"]));
}

/// Words of the examples that must not be left over.
fn left_over(text: &str) -> Vec<&str> {
    let code = text.lines().filter(|line| !line.starts_with('#'));
    let words = code.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-'));
    words.filter(|word| ["orders", "shop", "storefront", "eg"].contains(word)).collect()
}

fn clean(run: &Run, shadow: bool) {
    let checked = weir(&["check", "--format", "json", "--strict", "-"], run.out.as_bytes());
    let found: Vec<Value> =
        serde_json::from_str(&checked.out).unwrap_or_else(|_| panic!("{}{}", checked.out, checked.err));
    let ids: Vec<&str> = found.iter().filter_map(|finding| finding["id"].as_str()).collect();
    assert_eq!(
        (checked.status, ids),
        (0, if shadow { vec!["shadow-mode"] } else { vec![] }),
        "{}\n{}",
        checked.out,
        run.out
    );
}

#[test]
fn ones_own_services_are_all_in_it() {
    for shadow in [false, true] {
        let with = |arguments: &[&'static str]| {
            let run = generate(&[arguments, if shadow { &["--shadow"] } else { &[] }].concat());
            assert_eq!(left_over(&run.out), Vec::<&str>::new(), "{}", run.out);
            assert_eq!(run.out.contains("shadow"), shadow);
            clean(&run, shadow);
            run
        };
        let run = with(&[
            "istio",
            "--service",
            "carts.web:80",
            "--service",
            "users.auth:9090",
            "--clients",
            "team=front",
            "-n",
            "edge",
        ]);
        for text in [
            "outbound|*|carts.web.svc.cluster.local",
            "outbound|*|users.auth.svc.cluster.local",
            "team: front",
            "namespace: edge",
            "weir-proxy-status-users",
        ] {
            assert!(run.out.contains(text), "{text}: {}", run.out);
        }
        let count = |kind: &str| documents(&run.out).iter().filter(|document| document["kind"] == kind).count();
        // What takes effect whatever the mode is, and in place of what the service has, is no part of a first step.
        let native = if shadow { 0 } else { 2 };
        assert_eq!((count("VirtualService"), count("DestinationRule"), count("EnvoyFilter")), (native, native, 4));
        assert_eq!(run.out.contains("host: users.auth.svc.cluster.local"), !shadow);
        assert_eq!(run.out.contains("is overwritten"), !shadow, "{}", run.out);
        with(&["istio", "--service", "carts.web:80", "--clients", "team=front", "--image", "oci://example.com/weir:1"]);

        let run = with(&[
            "envoy-gateway",
            "--route",
            "web/carts",
            "--route",
            "web/users",
            "--gateway",
            "edge/public",
            "--listener",
            "http:8080",
            "--listener",
            "https:443:tls",
            "--listener",
            "http3:443:tls",
        ]);
        for text in [
            "httproute/web/carts/rule/*",
            "httproute/web/users/rule/*",
            "tcp-8080",
            "tcp-443",
            "udp-443",
            "http-8080",
            "edge/public/tls",
            "name: public",
        ] {
            assert!(run.out.contains(text), "{text}: {}", run.out);
        }
        let kinds: Vec<Value> = documents(&run.out).iter().map(|document| document["kind"].clone()).collect();
        let all = ["EnvoyPatchPolicy", "EnvoyProxy", "BackendTrafficPolicy", "BackendTrafficPolicy"];
        assert_eq!(kinds, if shadow { &all[..2] } else { &all });

        let run = with(&[
            "envoy",
            "--service",
            "carts=10.0.0.1:80",
            "--service",
            "users=a.example:90,b.example:90",
            "--module",
            "/m.wasm",
        ]);
        let document = documents(&run.out).remove(0);
        let clusters = document["static_resources"]["clusters"].as_array().expect("clusters").clone();
        assert_eq!(
            clusters.iter().map(|cluster| cluster["type"].clone()).collect::<Vec<_>>(),
            ["STATIC", "STRICT_DNS"]
        );
        assert_eq!(run.out.matches("/m.wasm").count(), 3);
    }
}

#[test]
fn what_is_no_name_is_refused() {
    let istio = |service| weir(&["generate", "istio", "--service", service, "--clients", "app=a"], b"");
    for service in ["orders", "orders.shop", "Orders.shop:80", "orders.shop:http", "a\nb.shop:80", ".:1"] {
        let run = istio(service);
        assert!(run.status == 2 && run.err.contains("orders.shop:8080"), "{service}: {}", run.err);
    }
    assert_eq!(weir(&["generate", "envoy-gateway", "--route", "orders", "--gateway", "eg"], b"").status, 2);
    assert_eq!(weir(&["generate", "envoy-gateway", "--route", "shop/orders:2", "--gateway", "eg"], b"").status, 2);
    assert_eq!(weir(&["generate", "envoy", "--service", "orders=host"], b"").status, 2);
}

/// Several kinds of pods call the same services: each gets its own filters, and the services theirs once.
#[test]
fn several_clients_have_filters_of_their_own() {
    let one = ["istio", "--service", "orders.shop:8080", "--service", "carts.web:80"];
    for image in [None, Some("oci://registry.example.com/weir:7")] {
        let image: Vec<&str> = image.into_iter().flat_map(|url| ["--image", url]).collect();
        let with = |clients: &[&'static str]| {
            let clients = clients.iter().flat_map(|label| ["--clients", label]);
            let arguments: Vec<&str> = one.into_iter().chain(image.iter().copied()).chain(clients).collect();
            generate(&arguments)
        };
        let both = with(&["app=storefront", "app.kubernetes.io/name=check_out.v2"]);
        clean(&both, false);
        let all = documents(&both.out);
        let names: std::collections::BTreeSet<String> =
            all.iter().map(|one| format!("{} {}", one["kind"], one["metadata"])).collect();
        assert_eq!(names.len(), all.len(), "each has a name of its own");
        // Each has what it would have alone.
        for (label, end) in
            [("app=storefront", "-storefront"), ("app.kubernetes.io/name=check_out.v2", "-check-out-v2")]
        {
            for mut alone in documents(&with(&[label]).out) {
                let name = alone["metadata"]["name"].as_str().expect("a name").to_owned();
                if !["weir", "weir-decide", "weir-attempts"].contains(&name.as_str()) {
                    assert!(all.contains(&alone), "{name}");
                    continue;
                }
                alone["metadata"]["name"] = format!("{name}{end}").into();
                assert!(all.contains(&alone), "{name} of {label}");
            }
        }
        assert_eq!(all.len(), documents(&with(&["app=storefront"]).out).len() + 2);
    }
    for wrong in ["app", "=a", "app=", "app=a,tier=b", "app=-a", "app=a b"] {
        let run = weir(&["generate", "istio", "--service", "orders.shop:80", "--clients", wrong], b"");
        assert!(run.status == 2 && run.err.contains("is not KEY=VALUE"), "{wrong}: {run:?}");
    }
}
