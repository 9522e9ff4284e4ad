//! The dashboard and the alert rules: each query and each rule finds data in the incident.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::incident::Incident;
use crate::prometheus::{Prometheus, promtool};
use crate::support::wait;

/// The incident shows all within some fifteen seconds.
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn with_prometheus_every_panel_and_every_rule_finds_data_in_an_incident() -> Result<()> {
    let mut incident = Incident::begin()?;
    let prometheus = Prometheus::start(&incident.targets())?;
    let mut open = queries()?;
    ensure!(open.len() > 20, "only {} queries were found: {open:?}", open.len());
    // There is no mistake in the policy here: tests/real_envoy/alone/configuration.rs has one, and looks at the metric.
    open.remove("rule WeirConfigurationRefused").context("no rule WeirConfigurationRefused")?;
    // Holds when the incident is over, and Weir has nothing more to count.
    let last: BTreeMap<_, _> = [open.remove_entry("rule WeirSilent").context("no rule WeirSilent")?].into();

    all_find_data(&prometheus, open)?;
    incident.end();
    all_find_data(&prometheus, last)?;

    let held = prometheus.rules()?;
    let held: Vec<&Value> = held["data"]["groups"].as_array().into_iter().flatten().collect();
    ensure!(held.len() == 1, "Prometheus has these groups of rules: {held:?}");
    for rule in held[0]["rules"].as_array().into_iter().flatten() {
        ensure!(rule["health"] == "ok", "{rule}");
    }
    Ok(())
}

#[test]
fn with_prometheus_promtool_accepts_the_rules_and_their_unit_tests() -> Result<()> {
    let folder = crate::shipped("prometheus");
    for arguments in [
        ["check", "config", "prometheus.yaml"],
        ["check", "rules", "weir-alerts.yaml"],
        ["test", "rules", "weir-alerts-test.yaml"],
    ] {
        let output = promtool(&folder, &arguments)?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "promtool {arguments:?}: {text}");
    }
    Ok(())
}

/// A rule that no unit test expects to fire is not tested.
#[test]
fn every_rule_is_expected_to_fire_in_a_unit_test() -> Result<()> {
    let tests = crate::yaml("prometheus/weir-alerts-test.yaml")?;
    let cases: Vec<&Value> = tests["tests"].as_array().into_iter().flatten().collect();
    let expected: Vec<&Value> = cases.iter().filter_map(|case| case["alert_rule_test"].as_array()).flatten().collect();
    for (name, _) in rules()? {
        let fires = expected.iter().any(|test| test["alertname"] == *name && test["exp_alerts"].is_array());
        let rests = expected.iter().any(|test| test["alertname"] == *name && test["exp_alerts"].is_null());
        ensure!(fires && rests, "{name}: fires in a test: {fires}; stays silent in one: {rests}");
    }
    Ok(())
}

fn all_find_data(prometheus: &Prometheus, mut open: BTreeMap<String, String>) -> Result<()> {
    let found = wait::until(LIMIT, || {
        let mut refused = None;
        open.retain(|name, query| match prometheus.query(query) {
            Ok(series) => !series.iter().any(has_number),
            Err(error) => {
                refused = Some(format!("{name}: {error:#}"));
                true
            }
        });
        match refused {
            Some(error) => Ok(Err(error)),
            None if open.is_empty() => Ok(Ok(())),
            None => Err(format!("these find nothing: {open:#?}")),
        }
    });
    found.map_err(anyhow::Error::msg)?.map_err(anyhow::Error::msg)
}

fn has_number(series: &Value) -> bool {
    series["value"][1].as_str().and_then(|text| text.parse::<f64>().ok()).is_some_and(f64::is_finite)
}

/// All queries of panels and rules, over times that a test has.
fn queries() -> Result<BTreeMap<String, String>> {
    let mut queries = BTreeMap::new();
    for panel in panels()? {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().with_context(|| format!("no expr in {target}"))?;
            let query = query.replace("$__rate_interval", "10s");
            let query = ["$namespace", "$instance", "$cluster"].iter().fold(query, |query, it| query.replace(it, ".*"));
            ensure!(!query.contains('$'), "an unknown variable: {query}");
            queries.insert(format!("panel {} {} {}", panel["id"], panel["title"], target["refId"]), query);
        }
        ensure!(panel["type"] == "row" || panel["targets"][0].is_object(), "{} has no query", panel["title"]);
    }
    for (name, expression) in rules()? {
        let expression = expression.replace("[5m]", "[10s]").replace("15m", "60s");
        queries.insert(format!("rule {name}"), expression);
    }
    Ok(queries)
}

/// Rows, and the panels in them, whether they are shown at first or not.
fn panels() -> Result<Vec<Value>> {
    let board = crate::yaml("grafana/weir.json")?;
    let rows = board["panels"].as_array().context("the dashboard has no panels")?;
    Ok(rows
        .iter()
        .flat_map(|row| std::iter::once(row).chain(row["panels"].as_array().into_iter().flatten()))
        .cloned()
        .collect())
}

/// Of a thousand sidecars one looks at a few, at first at two rows, and a service that is well shows 0.
#[test]
fn the_dashboard_suits_a_fleet() -> Result<()> {
    let board = crate::yaml("grafana/weir.json")?;
    let variables = board["templating"]["list"].as_array().context("no variables")?;
    let names: Vec<&str> = variables.iter().filter_map(|variable| variable["name"].as_str()).collect();
    ensure!(names == ["datasource", "namespace", "instance", "cluster"], "{names:?}");
    let panels = panels()?;
    let rows: Vec<&Value> = panels.iter().filter(|panel| panel["type"] == "row").collect();
    ensure!(rows.len() > 5 && panels.len() > 30, "{} rows, {} panels", rows.len(), panels.len());
    for (number, row) in rows.iter().enumerate() {
        ensure!(row["collapsed"] == (number >= 2), "row {}", row["title"]);
    }
    let annotation = board["annotations"]["list"][0]["target"]["expr"].as_str().context("no annotation")?;
    ensure!(
        annotation.contains("(weir_incidents_open{namespace=~\"$namespace\",instance=~\"$instance\","),
        "{annotation}"
    );
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        ensure!(panel["fieldConfig"]["defaults"]["noValue"].is_string(), "{} has no noValue", panel["title"]);
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().context("no expr")?;
            for selector in query.split('{').skip(1) {
                let chosen = "namespace=~\"$namespace\",instance=~\"$instance\",";
                ensure!(selector.starts_with(chosen), "{}: {query}", panel["title"]);
            }
            // Two hundred clusters are no two hundred curves.
            let many = query.contains("by (weir_cluster") || query.contains("by (envoy_cluster");
            if panel["type"] == "timeseries" && many {
                ensure!(
                    query.starts_with("topk(20, ") || query.starts_with("bottomk(20, "),
                    "{}: {query}",
                    panel["title"]
                );
            }
        }
    }
    Ok(())
}

/// Name and expression of each alert.
fn rules() -> Result<Vec<(String, String)>> {
    let file = crate::yaml("prometheus/weir-alerts.yaml")?;
    let groups = file["groups"].as_array().context("no groups")?;
    let rules = groups.iter().filter_map(|group| group["rules"].as_array()).flatten();
    rules
        .map(|rule| {
            let text = |name: &str| rule[name].as_str().map(str::to_owned);
            text("alert").zip(text("expr")).with_context(|| format!("not an alert: {rule}"))
        })
        .collect()
}
