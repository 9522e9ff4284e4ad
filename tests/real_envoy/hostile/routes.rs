//! What a request can be beside one question and one answer: upgraded, hinted at, redirected inside of Envoy, without `decide`,
//! on its way to where nothing is, or with thousands of headers.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Site, generous};
use crate::alone::Test;
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::{Connection, Request, Response, exchange};
use crate::support::envoy::Launch;
use crate::support::upstream::{Seen, Step, Upstream, answer, http1};
use crate::support::{ports, wait};

pub const TESTS: &[Test] = &[
    ("hostile::upgrades_and_hints", upgrades_and_hints),
    ("hostile::redirects_inside", redirects),
    ("hostile::routes_without_decide", without_decide),
    ("hostile::clusters_that_clients_name", named_clusters),
    ("hostile::hosts_that_clients_name", named_hosts),
    ("hostile::thousands_of_headers", headers),
];

/// First attempts are reset at once, or where `then` says so; later ones get `then`.
fn second_time(then: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Upstream {
    http1(move |request| match request.header("x-envoy-attempt-count") {
        Some("1") if !request.path.contains("at-once") => vec![Step::Rst],
        _ => then(request),
    })
}

fn send(text: &str) -> Step {
    Step::Send(text.as_bytes().to_vec())
}

/// An upgrade is a GET that can be tried again until it is one; what comes before an answer is none.
fn upgrades_and_hints() -> Result<()> {
    let upstream = second_time(|request| match request.path.as_str() {
        "/socket" => {
            vec![send("HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello"), Step::Hang]
        }
        _ => [vec![send("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")], answer(200, &[], "late")].concat(),
    });
    let manager = json!({"upgrade_configs": [{"upgrade_type": "websocket"}], "proxy_100_continue": true});
    let site = Site::start(&upstream, &generous(), &manager, &Value::Null)?;
    let mut socket = Connection::open(site.address)?;
    socket.send(&Request::get("/socket").header("connection", "upgrade").header("upgrade", "websocket"))?;
    ensure!(socket.read_head()?.status == 101, "no upgrade");
    drop(socket);
    for path in ["/hinted", "/hinted-at-once"] {
        let mut client = Connection::open(site.address)?;
        client.send(&Request::get(path))?;
        let hint = client.read_head()?;
        ensure!(hint.status == 103, "{path}: {hint:?}");
        let mut response = client.read_head()?;
        client.read_body(&mut response)?;
        ensure!((response.status, response.text().as_str()) == (200, "late"), "{path}: {response:?}");
    }
    let tally = site.settled()?;
    ensure!(tally.retries == ["granted"; 2], "{:?}", tally.retries);
    let resets = tally.attempts.iter().filter(|signal| *signal == "reset").count();
    ensure!(resets == 2, "{:?}", tally.attempts);
    Ok(())
}

/// Envoy follows a redirect by itself: the request comes a second time, with what it bore the first time.
fn redirects() -> Result<()> {
    let upstream = second_time(|request| match request.path.as_str() {
        "/here" | "/here-at-once" => answer(302, &[("location", "http://weir.test/there")], ""),
        "/around-at-once" => answer(302, &[("location", "http://weir.test/around-at-once")], ""),
        _ => answer(200, &[], "there"),
    });
    let policy =
        json!({"max_internal_redirects": 3, "redirect_response_codes": [302], "allow_cross_scheme_redirect": true});
    let route = json!({"route": {"internal_redirect_policy": policy}});
    let site = Site::start(&upstream, &generous(), &Value::Null, &route)?;
    let response = exchange(site.address, &Request::get("/here-at-once"))?;
    ensure!(response.status == 200 && response.text() == "there", "{response:?}");
    // A second attempt that is redirected arrives as a second attempt. What may have been processed is not repeated then.
    let response = exchange(site.address, &Request::get("/here"))?;
    ensure!(response.status == 503, "{response:?}");
    let response = exchange(site.address, &Request::get("/around-at-once"))?;
    ensure!(response.status == 302, "{response:?}");
    for seen in upstream.seen() {
        for name in ["x-weir-hosts", "x-envoy-retry-on", "x-envoy-max-retries"] {
            ensure!(seen.header(name).is_none(), "the upstream sees {name}: {seen:?}");
        }
    }
    Ok(())
}

/// Where a route switches `decide` off, the other two have nothing to say.
fn without_decide() -> Result<()> {
    let upstream = http1(|_| answer(503, &[("retry-after", "7")], "busy"));
    let off = json!({"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true});
    let route = json!({
        "route": {"retry_policy": {"retry_on": "5xx", "num_retries": 2}},
        "typed_per_filter_config": {"weir_decide": off},
    });
    let site = Site::start(&upstream, &generous(), &Value::Null, &route)?;
    let response = exchange(site.address, &Request::get("/"))?;
    ensure!(response.text() == "busy" && response.header("x-envoy-ratelimited").is_none(), "{response:?}");
    ensure!(upstream.count() == 3, "the route's own policy makes {} attempts, not 3", upstream.count());
    Ok(())
}

/// Names of clusters come from clients, and most of these are nowhere: nothing is kept for those.
fn named_clusters() -> Result<()> {
    let upstream = second_time(|_| answer(200, &[], "there"));
    let site = Site::start_with(&upstream, &generous(), &Value::Null, &Value::Null, |listener| {
        let route = "/filter_chains/0/filters/0/typed_config/route_config/virtual_hosts/0/routes/0/route";
        let Some(route) = listener.pointer_mut(route).and_then(Value::as_object_mut) else { return };
        route.remove("cluster");
        route.insert("cluster_header".to_owned(), json!("x-cluster"));
    })?;
    let mut client = Connection::open(site.address)?;
    for number in 0..2_000 {
        let response = client.exchange(&Request::get("/").header("x-cluster", &format!("nowhere-{number}")))?;
        ensure!(response.status == 503, "{response:?}");
    }
    let response = client.exchange(&Request::get("/").header("x-cluster", "upstream"))?;
    ensure!(response.status == 200, "{response:?}");
    wait::until(wait::LIMIT, || {
        let known = site.envoy.admin.stats("weir_clusters_known").map_err(|error| error.to_string())?;
        if known.values().eq(&[1]) { Ok(()) } else { Err(format!("clusters are known: {known:?}")) }
    })
    .map_err(anyhow::Error::msg)?;
    let names = site.envoy.admin.get("/stats?filter=weir")?;
    ensure!(!names.contains("nowhere"), "metrics of clusters that are nowhere");
    Ok(())
}

/// Clients say where to go, and mostly ask for what is dead. Where outlier detection and circuit breaker are off, as
/// docs/limits.md says for such clusters, that costs nobody but who asks.
fn named_hosts() -> Result<()> {
    const CACHE: &str = "dynamic";
    let cache = json!({"name": CACHE, "dns_lookup_family": "V4_ONLY", "typed_dns_resolver_config": {
        "name": "envoy.network.dns_resolver.getaddrinfo",
        "typed_config": {"@type":
            "type.googleapis.com/envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig"},
    }});
    let family = "type.googleapis.com/envoy.extensions";
    let upstream = http1(|_| answer(200, &[], "there"));
    for (apart, shed) in [(false, true), (true, false)] {
        let mut policy = json!({"role": "decide", "circuitBreaker": {"minRequests": 20, "interval": "2s"}});
        if apart {
            policy["clusters"] = json!([{"match": "any*", "circuitBreaker": null, "outlierDetection": null}]);
        }
        let filter = json!({"name": "dynamic", "typed_config":
            {"@type": format!("{family}.filters.http.dynamic_forward_proxy.v3.FilterConfig"), "dns_cache_config": cache}});
        let cluster = json!({"name": "anywhere", "connect_timeout": "1s", "lb_policy": "CLUSTER_PROVIDED", "cluster_type": {
            "name": "envoy.clusters.dynamic_forward_proxy",
            "typed_config": {"@type": format!("{family}.clusters.dynamic_forward_proxy.v3.ClusterConfig"), "dns_cache_config": cache},
        }});
        let address = ports::free();
        let mut listener = bootstrap::listener(Listener {
            name: "hostile",
            port: address.port(),
            attach: Attach::GUARD,
            policy: &policy,
            routes: vec![bootstrap::route("/", "anywhere")],
            logs: None,
            manager: Value::Null,
        });
        let filters = listener.pointer_mut("/filter_chains/0/filters/0/typed_config/http_filters");
        filters.and_then(Value::as_array_mut).context("filters")?.insert(0, filter);
        let envoy = Launch::json(bootstrap::bootstrap(&[listener], &[cluster])).start()?;
        let ask = |host: &str| -> Result<Response> {
            let mut stream = TcpStream::connect(address)?;
            stream.set_read_timeout(Some(wait::LIMIT))?;
            stream.write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes())?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            let status = text.split(' ').nth(1).and_then(|code| code.parse().ok()).context("a status")?;
            Ok(Response { status, body: text.into_bytes(), ..Response::default() })
        };
        let mut sheds = false;
        let began = std::time::Instant::now();
        for number in 0.. {
            // Nothing listens at any of these.
            let response = ask(&format!("127.9.{}.{}:1", number / 250, number % 250 + 1))?;
            sheds |= response.text().contains("circuit is open");
            if sheds || (!shed && number > 300) || began.elapsed() > wait::LIMIT {
                break;
            }
        }
        ensure!(sheds == shed, "apart: {apart}: {:?}", envoy.admin.stats("weir_")?);
        if apart {
            let response = ask(&format!("localhost:{}", upstream.address.port()))?;
            ensure!(response.status == 200, "{}", response.text());
        }
        drop(envoy);
    }
    Ok(())
}

fn headers() -> Result<()> {
    let upstream = second_time(|_| answer(200, &[], "there"));
    let manager =
        json!({"max_request_headers_kb": 8192, "common_http_protocol_options": {"max_headers_count": 10_000}});
    let site = Site::start(&upstream, &generous(), &manager, &Value::Null)?;
    let mut request = Request::get("/").header("x-large", &"y".repeat(2_000_000));
    for number in 0..3_000 {
        request = request.header(&format!("x-{number}"), "\u{e4}\u{f6}");
    }
    let response = exchange(site.address, &request.header("idempotency-key", "\u{fc}"))?;
    ensure!(response.status == 200, "{response:?}");
    let tally = site.settled()?;
    ensure!(
        (tally.attempts.as_slice(), tally.retries.as_slice())
            == (&["answered".to_owned(), "reset".to_owned()], &["granted".to_owned()]),
        "{tally:?}"
    );
    Ok(())
}
