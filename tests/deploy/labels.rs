//! What a real Envoy makes of Weir's metrics by the shipped `stats_config`: the names and labels of docs/metrics.md, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::incident::Incident;
use crate::support::wait;

/// The incident shows all of it within some ten seconds.
const LIMIT: Duration = Duration::from_secs(300);
/// Of these there is nothing to count without thousands of hosts or clusters, a role that lacks or a host at a pipe; and the last
/// comes later.
const NOT_HERE: [&str; 5] = [
    "weir_hosts_forgotten_total",
    "weir_clusters_forgotten_total",
    "weir_undecided_total",
    "weir_hosts_unjudged_total",
    "weir_entries_unused",
];

type Labels = BTreeMap<String, BTreeSet<String>>;

#[test]
fn every_documented_metric_has_the_documented_labels_and_no_others() -> Result<()> {
    let documented = documented()?;
    ensure!(documented.len() > 30, "the page's tables are no tables any more: {documented:#?}");
    let incident = Incident::begin()?;
    let complete = wait::until(LIMIT, || {
        let found = found(&incident.scrape().map_err(|error| error.to_string())?);
        let missing = |name: &&String| !found.contains_key(*name) && !NOT_HERE.contains(&name.as_str());
        match documented.keys().filter(missing).collect::<Vec<_>>() {
            missing if missing.is_empty() => Ok(found),
            missing => Err(format!("no {missing:?}")),
        }
    });
    for (name, labels) in complete.map_err(anyhow::Error::msg)? {
        let expected = documented.get(&name).with_context(|| format!("{name} is not in docs/metrics.md"))?;
        ensure!(*expected == labels, "{name}: docs/metrics.md says {expected:?}, Envoy {labels:?}");
    }
    Ok(())
}

#[test]
fn envoy_gateway_gives_metrics_the_labels_of_the_plain_envoy() -> Result<()> {
    let proxy = crate::yaml("gateway/envoyproxy.yaml")?;
    let patches = proxy["spec"]["bootstrap"]["jsonPatches"].as_array().context("no jsonPatches")?;
    let labels: serde_json::Value = patches.iter().map(|patch| patch["value"].clone()).collect();
    ensure!(labels == crate::yaml("envoy.yaml")?["stats_config"]["stats_tags"], "they differ: {labels:#}");
    Ok(())
}

/// The rows of the page's tables: `| `weir_a_total`, `weir_b` (a gauge) | `weir_label`: … | … |`.
fn documented() -> Result<Labels> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md"))?;
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let (mut documented, mut same) = (Labels::new(), BTreeSet::new());
    for row in page.lines().filter(|line| line.starts_with("| `weir_")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, names, labels, ..] = cells[..] else { continue };
        if labels != "the same" {
            same = quoted(labels).into_iter().filter(|word| word.starts_with("weir_")).collect();
            if labels != "no label" && !labels.contains("not by cluster") {
                same.insert("weir_cluster".to_owned());
            }
        }
        documented.extend(quoted(names).into_iter().map(|name| (name, same.clone())));
    }
    Ok(documented)
}

/// The names and labels of Weir's samples, and of what looks like one.
fn found(text: &str) -> Labels {
    let mut found = Labels::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap_or(line.len()));
        // Envoy names some of its own after the plugins.
        if !name.starts_with("weir_") && !name.contains("wasmcustom") {
            continue;
        }
        let labels = rest.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(labels, _)| labels);
        let labels = labels.split("\",").filter_map(|label| label.split_once('=').map(|(name, _)| name.to_owned()));
        // A series that lacks a label, or has one too many, must not hide behind another that is right.
        let labels: BTreeSet<String> = labels.collect();
        let known = found.entry(name.to_owned()).or_insert_with(|| labels.clone());
        if *known != labels {
            known.extend(labels.iter().cloned());
            known.insert(format!("not in all: {line}"));
        }
    }
    found
}
