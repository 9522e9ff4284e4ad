//! From one proxy to ten thousand, and from ten hosts to ten thousand: what an incident and two outages come to with Weir, with
//! what Envoy, Istio and Linkerd do by their published rules, and with nothing. Simulated: `tests/simulation/fleet` says what,
//! and what is left out.
//!
//! `./build.sh bench fleet`, or `cargo bench --bench fleet -- [quick] [only=PROXIESxHOSTSxRATE] [seed=N] [picture=FILE]`. The same seed gives the same tables on
//! every machine, but for the columns of time and memory.
#![cfg_attr(target_arch = "wasm32", allow(unused))]

#[path = "../tests/fake_host/mod.rs"]
mod fake_host;
#[cfg(not(target_arch = "wasm32"))]
#[path = "../tests/simulation/fleet/mod.rs"]
mod fleet;
#[cfg(not(target_arch = "wasm32"))]
#[path = "fleet/memory.rs"]
mod memory;
#[cfg(not(target_arch = "wasm32"))]
#[path = "fleet/plot.rs"]
mod plot;
#[allow(dead_code, reason = "the incidents in tests/simulation use more of it")]
#[path = "../tests/simulation/replica.rs"]
mod replica;
#[allow(dead_code, reason = "weir replay uses more of it")]
#[cfg(not(target_arch = "wasm32"))]
#[path = "../src/bin/weir/replay/retry_on.rs"]
mod retry_on;
#[cfg(not(target_arch = "wasm32"))]
#[path = "../tests/support/router.rs"]
mod router;
#[cfg(not(target_arch = "wasm32"))]
#[path = "../tests/support/sim_host.rs"]
mod sim_host;
#[allow(dead_code, reason = "the demo uses more of it")]
#[cfg(not(target_arch = "wasm32"))]
#[path = "../src/bin/weir/replay/svg.rs"]
mod svg;
#[cfg(not(target_arch = "wasm32"))]
#[path = "fleet/table.rs"]
mod table;

#[cfg(target_arch = "wasm32")]
fn main() {}

#[cfg(not(target_arch = "wasm32"))]
fn main() -> anyhow::Result<()> {
    let mut options = table::Options { seed: 1, quick: false, only: None, picture: None };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for argument in arguments.iter().filter(|argument| *argument != "--bench") {
        match argument.split_once('=') {
            None if argument == "quick" => options.quick = true,
            Some(("seed", seed)) => options.seed = seed.parse()?,
            Some(("only", size)) => options.only = Some(size.parse()?),
            Some(("picture", file)) => options.picture = Some(file.into()),
            _ => anyhow::bail!("nothing, quick, only=PROXIESxHOSTSxRATE, seed=N, picture=FILE; not {argument}"),
        }
    }
    // `cargo test --all-targets` only sees whether it runs.
    let bench = arguments.iter().any(|argument| argument == "--bench");
    table::print(&options, if bench { &table::Size::ALL } else { &[] })
}
