//! The configuration that is shipped, as it is but for its ports: it loads, works, and labels Weir's metrics.

use anyhow::{Context, ensure};

use super::Test;
use crate::level::Version;
use crate::support::client::{Request, exchange};
use crate::support::envoy::{self, Launch};
use crate::support::upstream::{Step, answer, http1};
use crate::support::{ports, wait};

pub const TESTS: &[Test] = &[("metrics::shipped_configuration", shipped_configuration)];

fn shipped_configuration() -> anyhow::Result<()> {
    let upstream = http1(|request| match request.path.as_str() {
        "/busy" => answer(503, &[("retry-after", "1")], ""),
        _ if request.number == 0 => vec![Step::Rst],
        _ => answer(200, &[], ""),
    });
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/envoy.yaml");
    let mut text = std::fs::read_to_string(path).context(path)?;
    if Version::detect()? < Version(1, 37) {
        text = without_own_policy(&text)?;
    }
    let address = ports::free();
    for (shipped, here) in
        [
            ("port_value: 10000", format!("port_value: {}", address.port())),
            ("target/weir.wasm }", format!("{} }}", envoy::module().display())),
        ]
        .into_iter()
        .chain((8081..=8084).map(|port| {
            (format!("port_value: {port}").leak() as &str, format!("port_value: {}", upstream.address.port()))
        }))
    {
        ensure!(text.contains(shipped), "{path} does not say {shipped:?} any more");
        text = text.replace(shipped, &here);
    }
    let envoy = Launch::yaml(text).start()?;
    for path in ["/", "/busy"] {
        exchange(address, &Request::get(path))?;
    }
    let expected = [
        r#"weir_requests_total{weir_retry="idempotent",weir_cluster="orders"} 2"#,
        r#"weir_attempts_total{weir_signal="reset",weir_cluster="orders"} 1"#,
        r#"weir_attempts_total{weir_signal="answered",weir_cluster="orders"} 1"#,
        r#"weir_attempts_total{weir_signal="pushback",weir_cluster="orders"} 1"#,
        r#"weir_vetoes_total{weir_reason="pushback",weir_cluster="orders"} 1"#,
        r#"weir_retries_total{weir_verdict="granted",weir_cluster="orders"} 1"#,
    ];
    let complete = wait::until(wait::LIMIT, || {
        let text = envoy.admin.prometheus().map_err(|error| error.to_string())?;
        let ours: Vec<&str> = text.lines().filter(|line| line.starts_with("weir") || line.contains("_weir_")).collect();
        // The order of labels is Envoy's.
        let found = |line: &str| ours.iter().any(|known| labels(known) == labels(line));
        match expected.iter().find(|line| !found(line)) {
            None => Ok(()),
            Some(missing) => Err(format!("no {missing} in\n{}", ours.join("\n"))),
        }
    });
    complete.map_err(anyhow::Error::msg)
}

/// The bootstrap for an Envoy that knows no retry policy of a cluster.
fn without_own_policy(text: &str) -> anyhow::Result<String> {
    let (before, part) = text.split_once("# >>> weir: where retries go\n").context("where retries go")?;
    let (_, after) = part.split_once("# <<< weir\n").context("the part's end")?;
    Ok([before, "\n", after].concat())
}

/// A sample, its labels in alphabetical order.
fn labels(line: &str) -> Vec<&str> {
    let mut parts: Vec<&str> = line.split(['{', ',', '}', ' ']).filter(|part| !part.is_empty()).collect();
    parts.sort_unstable();
    parts
}
