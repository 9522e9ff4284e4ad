//! The shipped resources under a real control plane: what istiod and Envoy Gateway make of them, in a real Envoy, with requests.
//!
//! `./build.sh test control-planes` builds istiod's generators (`istiod/main.go`), Envoy Gateway, and what a cluster of Kubernetes with
//! Istio is made of. Each test runs in a network namespace of its own, as a process of its own, so that addresses and ports are those of
//! a real cluster, and nothing else is reached.

mod ambient;
mod balancing;
mod behind;
mod chart;
mod cluster;
mod envoy_gateway;
mod filters;
mod gateway_upgrades;
mod gateways;
mod guide;
mod host_mode;
mod image;
mod ingress;
mod kubernetes;
mod mesh;
mod pod;
mod pods;
mod proxy;
mod registry;
// Other suites ask it for more.
#[allow(dead_code)]
#[path = "../real_envoy/ejection/replica.rs"]
mod replica;
mod resources;
mod services;
mod shop;
mod sidecars;
mod situations;
// Not all of its upstreams are needed here.
#[allow(unused_imports)]
#[path = "../support/mod.rs"]
mod support;
mod waypoints;
mod ztunnel;

use std::os::unix::fs::MetadataExt;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Trial};

/// Names the test that a process is to run, inside its namespace.
const TEST: &str = "WEIR_CONTROL_PLANE_TEST";

type Test = (&'static str, fn() -> Result<()>);

fn main() -> ExitCode {
    if let Some(outcome) = image::main() {
        return exit_code(outcome);
    }
    let istiod =
        [balancing::TESTS, services::TESTS, filters::TESTS, behind::TESTS, gateways::TESTS, ambient::TESTS].concat();
    let kubernetes = [
        kubernetes::TESTS,
        sidecars::TESTS,
        ingress::TESTS,
        resources::TESTS,
        waypoints::TESTS,
        gateway_upgrades::TESTS,
    ]
    .concat();
    let tests = [("istiod", istiod), ("envoy_gateway", envoy_gateway::TESTS.to_vec()), ("kubernetes", kubernetes)];
    let tests = tests
        .iter()
        .flat_map(|(plane, tests)| tests.iter().map(move |(name, test)| (format!("{plane}::{name}"), test)));
    if let Ok(name) = std::env::var(TEST) {
        let found = tests.clone().find(|(known, _)| *known == name).context("there is no such test");
        let outcome = found.and_then(|(_, test)| {
            ensure!(Command::new("ip").args(["link", "set", "lo", "up"]).status()?.success(), "the loopback device");
            test()
        });
        return exit_code(outcome);
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(2);
    let trials = tests.map(|(name, _)| {
        Trial::test(name.clone(), move || in_namespace(&name).map_err(|error| format!("{error:#}").into()))
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn exit_code(outcome: Result<()>) -> ExitCode {
    if let Err(error) = outcome {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn in_namespace(test: &str) -> Result<()> {
    let mut unshare = Command::new("unshare");
    // Whoever is not root is it in a namespace of users.
    if std::fs::metadata("/proc/self")?.uid() != 0 {
        unshare.arg("--map-root-user");
    }
    if test.starts_with("kubernetes::") {
        // It mounts the files of containers, and all that it starts ends with it.
        unshare.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    }
    let output = unshare
        .arg("--net")
        .arg(std::env::current_exe()?)
        .env(TEST, test)
        .stdin(Stdio::null())
        .output()
        .context("cannot run unshare")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
