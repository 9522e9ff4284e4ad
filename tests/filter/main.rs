//! The filter, driven through its exported functions by a fake host: natively, and through wasm-bindgen-test in Node.
//!
//! In Node all tests share one module. So each uses cluster names of its own, and configures what it relies on.

#[path = "../fake_host/mod.rs"]
mod fake_host;

mod budget;
#[path = "../fuzz/targets/callbacks.rs"]
mod callbacks;
#[path = "../fuzz/targets/choices.rs"]
mod choices;
mod circuit;
mod decide;
mod ejections;
mod faults;
mod hangs;
mod hedges;
mod host;
mod lifecycle;
mod metrics;
mod nonsense;
mod order;
#[cfg(not(target_arch = "wasm32"))]
#[path = "../property/mod.rs"]
mod property;
mod quiet;
#[cfg(not(target_arch = "wasm32"))]
mod same;
mod signals;
#[cfg(not(target_arch = "wasm32"))]
#[path = "../support/sim_host.rs"]
mod sim_host;
mod veto;

use fake_host::{End, Host, Root};
use std::collections::BTreeMap;

const DECIDE: &str = r#"{"role": "decide"}"#;
const SHADOW: &str = r#"{"role": "decide", "mode": "shadow"}"#;
const WATCH: &str = r#"{"role": "watch"}"#;
/// Behind an access-log filter.
const WATCH_FAILURES: &str = r#"{"role": "watch", "only": "failures"}"#;
const GUARD: &str = r#"{"role": "guard"}"#;

/// Which roles are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// `decide` alone.
    Decide,
    /// `decide` and `watch`.
    Watch,
    /// All three.
    Guard,
}

/// A host with the module attached.
struct Attached {
    host: Host,
    decide: Root,
    watch: Option<Root>,
    guard: Option<Root>,
    /// Whether an attempt's log entry has a context of its own.
    apart: bool,
    /// Whether an access-log filter stands before `watch`.
    watches_only_failures: bool,
}

impl Attached {
    fn new(level: Level) -> Self {
        Self::with(level, DECIDE)
    }

    fn with(level: Level, decide: &str) -> Self {
        let host = Host::new();
        let decide = host.start(decide);
        let watch = (level != Level::Decide).then(|| host.start(WATCH));
        let guard = (level == Level::Guard).then(|| host.start(GUARD));
        Self { host, decide, watch, guard, apart: false, watches_only_failures: false }
    }

    /// Where `watch` is told of failures only.
    fn only_failures(level: Level) -> Self {
        let host = Host::new();
        let decide = host.start(DECIDE);
        let watch = Some(host.start(WATCH_FAILURES));
        let guard = (level == Level::Guard).then(|| host.start(GUARD));
        Self { host, decide, watch, guard, apart: false, watches_only_failures: true }
    }

    /// The end of an attempt, where `watch` is attached.
    fn attempt_log(&self, end: &End) {
        match self.watch {
            Some(watch) if self.apart => self.host.attempt_log_apart(watch, end),
            Some(watch) => self.host.attempt_log(watch, end),
            None => {}
        }
    }

    /// Lets the turn of the event loop end.
    fn tick(&self) {
        self.host.tick(self.decide);
    }
}

/// The counters of one kind for a cluster that are not zero, by label.
fn counts(host: &Host, metric: &str, label: &str, cluster: &str) -> BTreeMap<String, u64> {
    let (prefix, suffix) = (format!("weir_{metric}_total.{label}."), format!(".cluster.{cluster}"));
    let strip = |name: String| Some(name.strip_prefix(&prefix)?.strip_suffix(&suffix)?.to_owned());
    let metrics = host.metrics().into_iter().filter(|(_, value)| *value > 0);
    metrics.filter_map(|(name, value)| Some((strip(name)?, value))).collect()
}

fn attempts(host: &Host, cluster: &str) -> BTreeMap<String, u64> {
    counts(host, "attempts", "signal", cluster)
}

fn requests(host: &Host, cluster: &str) -> BTreeMap<String, u64> {
    counts(host, "requests", "retry", cluster)
}

fn vetoes(host: &Host, cluster: &str) -> BTreeMap<String, u64> {
    counts(host, "vetoes", "reason", cluster)
}

/// What a set of counters should be.
fn of<const N: usize>(expected: [(&str, u64); N]) -> BTreeMap<String, u64> {
    expected.into_iter().map(|(label, value)| (label.to_owned(), value)).collect()
}
