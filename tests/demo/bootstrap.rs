//! `envoy/envoy.yaml` as it is shipped, but on free ports; and the same without Weir, to compare.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Result, bail, ensure};

use super::crash_loops::tuned;

/// The ports in the file.
const LISTENER: u16 = 10000;
const ENDPOINTS: [u16; 4] = [8081, 8082, 8083, 8084];
const MODULE: &str = "filename: target/weir.wasm";

/// The parts of the file that are there for Weir stand between `# >>> weir: <name>` and this.
const END: &str = "# <<< weir";
const RETRIES: &str = "where retries go";
const DECIDE: &str = "decide";
const WATCH: &str = "watch";
const GUARD: &str = "guard";

/// What retries, in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// Nothing.
    NoRetries,
    /// Envoy, by the retry policy that is in most examples.
    RouteRetries,
    /// Envoy, with all that it brings along for this, tuned by hand.
    Tuned,
    /// Envoy, by Weir's leave.
    Weir,
}

impl Variant {
    pub const ALL: [Self; 4] = [Self::NoRetries, Self::RouteRetries, Self::Tuned, Self::Weir];

    pub fn name(self) -> &'static str {
        match self {
            Self::NoRetries => "no retries",
            Self::RouteRetries => "retry_on: 5xx",
            Self::Tuned => "tuned by hand",
            Self::Weir => "Weir",
        }
    }
}

/// The text of the bootstrap for a run.
///
/// # Errors
/// When `shipped` does not have what is to be replaced.
pub fn compose(
    shipped: &str,
    variant: Variant,
    module: &Path,
    listener: SocketAddr,
    upstreams: &[SocketAddr],
) -> Result<String> {
    let mut text = replace(shipped, &port(LISTENER), &port(listener.port()))?;
    // First to names, since a free port can be one of those in the file.
    for endpoint in ENDPOINTS {
        text = replace(&text, &port(endpoint), &format!("<{endpoint}>"))?;
    }
    for (endpoint, upstream) in ENDPOINTS.into_iter().zip(upstreams) {
        text = replace(&text, &format!("<{endpoint}>"), &port(upstream.port()))?;
    }
    text = replace(&text, MODULE, &format!("filename: {}", serde_json::to_string(module)?))?;
    Ok(match variant {
        Variant::Weir => text,
        Variant::NoRetries => without(&text, &[DECIDE, WATCH, GUARD, RETRIES])?,
        Variant::RouteRetries => retrying(&text, "5xx")?,
        Variant::Tuned => {
            let text = retrying(&text, tuned::RETRY_ON)?;
            let (budget, outliers) = (tuned::retry_budget(), tuned::outlier_detection());
            let text = replace(&text, "max_retries: 10000\n", &format!("retry_budget: {budget}\n"))?;
            replace(
                &text,
                "    circuit_breakers:\n",
                &format!("    outlier_detection: {outliers}\n    circuit_breakers:\n"),
            )?
        }
    })
}

/// Without Weir, and with two retries of Envoy's own. They go where Weir's go, and when, to be compared with them.
fn retrying(text: &str, retry_on: &str) -> Result<String> {
    let text = without(text, &[DECIDE, WATCH, GUARD])?;
    let policy = format!("        retry_policy:\n          retry_on: {retry_on}\n          num_retries: 2\n");
    replace(&text, "        retry_policy:\n", &policy)
}

fn port(number: u16) -> String {
    format!("port_value: {number} }}")
}

fn replace(text: &str, from: &str, to: &str) -> Result<String> {
    let found = text.matches(from).count();
    ensure!(found == 1, "envoy/envoy.yaml: want {from:?} once, found it {found} times");
    Ok(text.replace(from, to))
}

/// The text without what is between these marks.
fn without(text: &str, names: &[&str]) -> Result<String> {
    let mut text = text.to_owned();
    for name in names {
        let begin = text.find(&format!("# >>> weir: {name}\n"));
        let end = begin.and_then(|begin| Some(begin + text[begin..].find(END)? + END.len()));
        let (Some(begin), Some(end)) = (begin, end) else { bail!("envoy/envoy.yaml: no part is marked {name:?}") };
        text.replace_range(begin..end, "");
    }
    Ok(text)
}
