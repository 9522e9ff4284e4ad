//! What the binaries that run a real Envoy share: the launcher, ports, waiting, the composition of configurations, a
//! client that sends exactly what it is told, and upstreams that misbehave on purpose.

// Each binary compiles this module for itself and uses a part of it.
#![allow(dead_code)]

pub mod admin;
pub mod bootstrap;
pub mod client;
pub mod client_h2;
pub mod delay;
pub mod envoy;
pub mod ports;
pub mod upstream;
pub mod wait;

use std::process::ExitCode;
use std::sync::OnceLock;

use serde_json::Value;
use tokio::runtime::Runtime;

/// One runtime for all upstreams of this process. Tests themselves are plain threads.
///
/// # Panics
/// When the threads cannot be started.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("tokio runtime")
    })
}

/// What a figure was measured on.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let processor = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor =
        processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    match processor {
        Some(name) => format!("{cores} cores ({name})"),
        None => format!("{cores} cores"),
    }
}

/// How a program ends that tells whether Weir did well: 0 if it did, 1 if not, 2 if the program could not find out.
pub fn exit_code(program: &str, outcome: anyhow::Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{program}: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// A resource less all that is null, as `kubectl apply` and other tools pass it on.
#[must_use]
pub fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(_, field)| !field.is_null())
            .map(|(name, field)| (name.clone(), without_nulls(field)))
            .collect(),
        Value::Array(items) => items.iter().filter(|item| !item.is_null()).map(without_nulls).collect(),
        other => other.clone(),
    }
}
