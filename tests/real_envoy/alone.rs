//! Tests that need an Envoy of their own.

mod configuration;
mod crowd;
mod metrics;
mod own_policy;
mod quiet;
mod routes;
mod shadow;
mod update;
mod verdicts;

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::envoy::{Envoy, Launch};
use crate::support::ports;
use crate::support::upstream::Upstream;

/// A test by name.
pub type Test = (&'static str, fn() -> anyhow::Result<()>);

pub fn all() -> Vec<Test> {
    [
        configuration::TESTS,
        crowd::TESTS,
        metrics::TESTS,
        own_policy::TESTS,
        quiet::TESTS,
        routes::TESTS,
        shadow::TESTS,
        update::TESTS,
        verdicts::TESTS,
    ]
    .concat()
}

/// An Envoy with one listener, one route and one cluster, `upstream`.
struct Simple {
    /// It ends with this.
    envoy: Envoy,
    address: SocketAddr,
}

impl Simple {
    fn start(attach: Attach, policy: &Value, upstream: &Upstream) -> anyhow::Result<Self> {
        let address = ports::free();
        let listener = listener("simple", address.port(), attach, policy);
        let cluster = bootstrap::cluster("upstream", &[upstream.address]);
        let envoy = Launch::json(bootstrap::bootstrap(&[listener], &[cluster])).start()?;
        Ok(Self { envoy, address })
    }
}

/// A listener that sends everything to the cluster `upstream`.
fn listener(name: &str, port: u16, attach: Attach, policy: &Value) -> Value {
    let routes = vec![bootstrap::route("/", "upstream")];
    bootstrap::listener(Listener { name, port, attach, policy, routes, logs: None, manager: Value::Null })
}
