//! What a policy says of single routes: several of them lead to one cluster.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Test;
use crate::stage::Setup;
use crate::support::bootstrap::{self, Attach};
use crate::support::client::Request;
use crate::support::upstream::{Step, answer, http1};

pub const TESTS: &[Test] = &[
    ("routes::decide", || routes(Attach::DECIDE)),
    ("routes::watch", || routes(Attach::WATCH)),
    ("routes::guard", || routes(Attach::GUARD)),
];

/// A route by path to the cluster `shop`, before its own.
fn to_shop(setup: Setup, prefix: &str, name: &Value) -> Setup {
    let mut route = bootstrap::route(prefix, "shop");
    bootstrap::merge(&mut route, &crate::stage::back_off());
    route["name"] = name.clone();
    setup.route_before(route)
}

/// Each first attempt fails, by what the path says. How often a request is sent depends on its route.
fn routes(attach: Attach) -> Result<()> {
    let upstream = http1(|seen| match seen.path.rsplit('/').next() {
        _ if seen.header("x-envoy-attempt-count") != Some("1") => answer(200, &[], ""),
        Some("reset") => vec![Step::Rst],
        _ => answer(503, &[], "sorry"),
    });
    let policy = json!({
        "outlierDetection": "off",
        "clusters": [
            {"match": "shop", "route": "checkout-*", "retry": {"idempotentMethods": ["GET", "POST"]}},
            {"match": "*", "route": "list", "retry": {"maxRetries": 0}},
            {"match": "shop", "route": "unused", "retry": "off"},
        ],
    });
    let setup = Setup::new(attach, policy).cluster("shop", upstream.address);
    let setup = to_shop(setup, "/shop/checkout/", &json!("checkout-7"));
    let setup = to_shop(setup, "/shop/list/", &json!("list"));
    let stage = to_shop(setup, "/shop/unnamed/", &Value::Null).start()?;
    // The path, the method, the status that the client gets, and how often it was sent.
    let rows = [
        ("checkout/reset", "POST", 200, 2),
        ("checkout/503", "POST", 200, 2),
        ("checkout/reset", "GET", 200, 2),
        // Its list of methods takes the place of the usual one.
        ("checkout/reset", "PUT", 503, 1),
        ("list/503", "GET", 503, 1),
        ("list/reset", "GET", 503, 1),
        ("unnamed/reset", "POST", 503, 1),
        ("unnamed/503", "GET", 200, 2),
        ("by-the-clusters-own/reset", "POST", 503, 1),
        ("by-the-clusters-own/reset", "GET", 200, 2),
    ];
    for (path, method, status, times) in rows {
        let before = upstream.count();
        let response = stage.connect()?.exchange(&Request::new(method, &format!("/shop/{path}")))?;
        let sent = upstream.count() - before;
        ensure!((response.status, sent) == (status, times), "{method} {path}: {} after {sent}", response.status);
    }
    Ok(())
}
