//! Users are spread by a hash: while a host is out, whoever is on another one stays there.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::alone::Test;
use crate::stage::Setup;
use crate::support::bootstrap::{self, Attach};
use crate::support::client::{Connection, Request};
use crate::support::upstream::{Upstream, answer, http1};

pub const TESTS: &[Test] = &[
    ("harm::hashed::ring_hash_gets", || stay("ring_hash", "RingHash", 1, &Request::get(PATH))),
    ("harm::hashed::maglev_posts", || stay("maglev", "Maglev", 1, &Request::post(PATH))),
    ("harm::hashed::half_of_them_down", || stay("ring_hash", "RingHash", 2, &Request::get(PATH))),
];

const CLUSTER: &str = "orders";
const PATH: &str = "/orders/1";
const USER: &str = "x-user";
const USERS: usize = 80;

/// Each user asks in calm, and four times while the first hosts refuse.
fn stay(name: &str, kind: &str, down: usize, request: &Request) -> Result<()> {
    let hosts: Vec<_> =
        (0..4).map(|number| http1(move |_| answer(200, &[("x-host", &number.to_string())], ""))).collect();
    let endpoint = |host: &Upstream| json!({"endpoint": {"address": bootstrap::address(host.address)}});
    let endpoints: Vec<_> = hosts.iter().map(endpoint).collect();
    let mut cluster = bootstrap::override_host("x-weir-hosts");
    let fallback = cluster
        .pointer_mut("/load_balancing_policy/policies/0/typed_extension_config/typed_config/fallback_policy")
        .context("override_host has a fallback")?;
    *fallback = json!({"policies": [{"typed_extension_config": {"name": name, "typed_config": {
        "@type": format!("type.googleapis.com/envoy.extensions.load_balancing_policies.{name}.v3.{kind}")}}}]});
    cluster["load_assignment"] = json!({"cluster_name": CLUSTER, "endpoints": [{"lb_endpoints": endpoints}]});
    let mut retries = super::previous_hosts();
    // The next places of a ring may be those of the same host.
    retries["host_selection_retry_max_attempts"] = json!(30);
    let route = json!({"route": {"retry_policy": retries, "hash_policy": [{"header": {"header_name": USER}}]}});
    let policy = json!({"role": "decide", "clusters": [{"match": CLUSTER, "steering": "off"}]});
    let stage = Setup::new(Attach::GUARD, policy).cluster_with(CLUSTER, hosts[0].address, &cluster, &route).start()?;
    let mut connection = Connection::open(stage.address)?;
    let mut ask = |user: usize| -> Result<Option<usize>> {
        let response = connection.exchange(&request.clone().header(USER, &user.to_string()))?;
        Ok(response.header("x-host").filter(|_| response.status == 200).and_then(|host| host.parse().ok()))
    };
    let own = (0..USERS).map(&mut ask).collect::<Result<Vec<_>>>()?;
    ensure!((0..4).all(|host| own.contains(&Some(host))), "{own:?}");
    hosts.iter().take(down).for_each(Upstream::stop);
    // A POST on a connection that just went would not be repeated.
    hosts.iter().take(down).try_for_each(|host| stage.envoy().wait_for_disconnect(host.address))?;
    let (mut moved, mut failed) = (0, 0);
    for _ in 0..4 {
        for (user, own) in own.iter().enumerate() {
            let now = ask(user)?;
            failed += usize::from(now.is_none());
            moved += usize::from(*own >= Some(down) && now != *own);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    ensure!(moved == 0 && failed == 0, "{moved} moved and {failed} failed of {}", 4 * USERS);
    Ok(())
}
