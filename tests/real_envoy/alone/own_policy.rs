//! The cluster's own retry policy, in Envoy 1.37 and newer: what routes say of retries counts no more, whatever is attached.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Test;
use crate::case::route_retries;
use crate::check::Tally;
use crate::level::Version;
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::{Request, exchange};
use crate::support::envoy::Launch;
use crate::support::ports;
use crate::support::upstream::{Step, Upstream, answer, http1};

pub const TESTS: &[Test] = &[("own_policy::routes_repeat_nothing", routes_repeat_nothing)];

/// How often the upstream is asked for a path by one request.
fn asked(upstream: &Upstream, listener: std::net::SocketAddr, request: &Request) -> Result<usize> {
    let before = upstream.count();
    exchange(listener, request)?;
    Ok(upstream.count() - before)
}

fn failing() -> Upstream {
    http1(|seen| if seen.path.ends_with("reset") { vec![Step::Rst] } else { answer(503, &[], "sorry") })
}

fn routes_repeat_nothing() -> Result<()> {
    let attachments = [
        ("no Weir", Attach::NOWHERE),
        ("decide", Attach::DECIDE),
        ("decide, watch", Attach::WATCH),
        ("all", Attach::GUARD),
    ];
    let policy = json!({"role": "decide", "outlierDetection": null, "circuitBreaker": null});
    for (name, attach) in attachments {
        let (own, others) = (failing(), failing());
        let address = ports::free();
        let route = |prefix: &str, cluster: &str| {
            let mut route = bootstrap::route(prefix, cluster);
            bootstrap::merge(&mut route, &route_retries("5xx,reset,retriable-status-codes", 3));
            route
        };
        let listener = bootstrap::listener(Listener {
            name: "own",
            port: address.port(),
            attach,
            policy: &policy,
            routes: vec![route("/own/", "own"), route("/others/", "others")],
            logs: None,
            manager: Value::Null,
        });
        let mut cluster = bootstrap::cluster("own", &[own.address]);
        bootstrap::merge(&mut cluster, &bootstrap::own_retry_policy());
        let plain = bootstrap::cluster("others", &[others.address]);
        let launch = Launch::json(bootstrap::bootstrap(&[listener], &[cluster, plain]));
        if Version::detect()? < Version(1, 37) {
            ensure!(
                launch.start().is_err(),
                "this Envoy takes a cluster's own retry policy: the guides say that it does not"
            );
            return Ok(());
        }
        let envoy = launch.start().context(name)?;
        for end in ["reset", "503"] {
            let (post, get) = (Request::post(&format!("/own/{end}")), Request::get(&format!("/own/{end}")));
            let posts = asked(&own, address, &post)?;
            ensure!(posts == 1, "{name}: a POST was sent {posts} times, {end}");
            // What Weir asks for, it gets: two retries.
            let (gets, wanted) = (asked(&own, address, &get)?, if attach.decide { 3 } else { 1 });
            ensure!(gets == wanted, "{name}: a GET was sent {gets} times, not {wanted}, {end}");
            // The same route in front of a cluster without such a policy repeats it, but for guard.
            let repeated = asked(&others, address, &Request::post(&format!("/others/{end}")))?;
            let wanted = if attach.guard {
                1
            } else if attach.decide {
                3
            } else {
                4
            };
            ensure!(
                repeated == wanted,
                "{name}: without the policy a POST was sent {repeated} times, not {wanted}, {end}"
            );
        }
        if attach.guard {
            let vetoes = Tally::read(envoy.admin, "own").map_err(anyhow::Error::msg)?.vetoes;
            ensure!(vetoes.is_empty(), "guard had something to stop: {vetoes:?}");
        }
    }
    Ok(())
}
