//! The picture: one line a cluster, and below it hosts with incidents.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Instant;

use console::style;
use weir::retry::reason::Reason;
use weir::signal::Signal;

use super::metrics::{Samples, Series};
use crate::check::words::table;

/// What is known, from look to look.
#[derive(Default)]
pub struct View {
    envoys: Vec<Known>,
}

/// One Envoy.
#[derive(Default)]
struct Known {
    now: Samples,
    before: Option<Samples>,
    /// What it said at first: what happened since then is told apart from what happened long ago.
    first: Samples,
    at: Option<Instant>,
    /// Seconds between the two last looks.
    apart: f64,
    error: Option<String>,
}

impl Known {
    /// How much a counter grew since another look. One that is smaller began anew.
    fn growth(&self, then: Option<&Samples>, series: &Series, value: f64) -> f64 {
        let before = then.and_then(|then| then.get(series)).unwrap_or(0.0);
        if value < before { value } else { value - before }
    }
}

impl View {
    /// Takes a look at all Envoys; whether there was one before to compare it with.
    pub fn update(&mut self, answers: &[Result<Samples, String>], at: Instant) -> bool {
        self.envoys.resize_with(answers.len(), Known::default);
        let mut rated = false;
        for (known, answer) in self.envoys.iter_mut().zip(answers) {
            match answer {
                Ok(samples) => {
                    if let Some(before) = known.at {
                        known.apart = (at - before).as_secs_f64();
                        known.before = Some(std::mem::replace(&mut known.now, samples.clone()));
                        rated = true;
                    } else {
                        known.first = samples.clone();
                        known.now = samples.clone();
                    }
                    known.at = Some(at);
                    known.error = None;
                }
                Err(error) => known.error = Some(error.clone()),
            }
        }
        rated
    }

    /// Draws it, for a terminal of this width.
    pub fn text(&self, urls: &[String], width: usize) -> String {
        let answering = self.envoys.iter().filter(|known| known.error.is_none()).count();
        let mut out = format!("Envoys that answer: {answering} of {}\n", urls.len());
        for error in self.envoys.iter().filter_map(|known| known.error.as_ref()) {
            let _ = writeln!(out, "{}", style(error).red());
        }
        let clusters: BTreeSet<&str> = self
            .envoys
            .iter()
            .flat_map(|known| known.now.all())
            .map(|(series, _)| series.label("cluster"))
            .filter(|name| !name.is_empty())
            .collect();
        if clusters.is_empty() && answering == 0 {
            return out;
        }
        if clusters.is_empty() {
            let why = if self.envoys.iter().any(|known| known.now.unlabelled) {
                "Weir's metrics have no labels: give Envoy the stats_tags of envoy/envoy.yaml"
            } else {
                "there are no metrics of Weir: it is not attached, or has seen no request"
            };
            let _ = writeln!(out, "{why}");
            return out;
        }
        self.clusters(&mut out, &clusters, width);
        self.hosts(&mut out);
        out
    }

    fn clusters(&self, out: &mut String, clusters: &BTreeSet<&str>, width: usize) {
        let mut rows: Vec<(Mark, Vec<String>)> = clusters.iter().map(|cluster| self.row(cluster)).collect();
        // What is in trouble comes first.
        rows.sort_by_key(|(mark, _)| *mark);
        let head = HEAD.map(str::to_owned).to_vec();
        let cells: Vec<Vec<String>> = [head].into_iter().chain(rows.iter().map(|(_, row)| row.clone())).collect();
        let mut text = String::new();
        table(&mut text, &cells);
        out.push('\n');
        if text.lines().any(|line| line.chars().count() > width) {
            rows.iter().for_each(|(mark, row)| block(out, *mark, row, width));
            return;
        }
        // Colours last: they would be counted as columns.
        for (position, line) in text.lines().enumerate() {
            let line = match position.checked_sub(1).and_then(|row| rows.get(row)) {
                Some((mark, _)) => mark.paint(line),
                None => style(line).bold().to_string(),
            };
            let _ = writeln!(out, "{line}");
        }
    }

    fn row(&self, cluster: &str) -> (Mark, Vec<String>) {
        let rate = |name: &str, label: &str| self.rates(name, label, cluster);
        let sum = |rates: &BTreeMap<String, f64>| rates.values().sum::<f64>();
        let attempts = rate("weir_attempts_total", "signal");
        let failed: Vec<(&str, f64)> = Signal::ALL
            .iter()
            .filter(|signal| signal.is_failure() || **signal == Signal::Pushback)
            .filter_map(|signal| {
                Some((signal.name(), attempts.get(signal.name()).copied().filter(|rate| *rate > 0.0)?))
            })
            .collect();
        let mut failed = failed;
        failed.sort_by(|one, other| other.1.total_cmp(&one.1));
        let failed: Vec<String> =
            failed.iter().take(3).map(|(name, rate)| format!("{} {name}", number(*rate))).collect();
        let either = |name: &str| {
            let shadow = format!("weir_shadow_{name}");
            let name = format!("weir_{name}");
            let shadowed = !self.has(&name, cluster) && self.has(&shadow, cluster);
            (if shadowed { shadow } else { name }, shadowed)
        };
        let (retries, shadow) = either("retries_total");
        let retries = rate(&retries, "verdict");
        let (out_name, shadow_out) = either("hosts_out");
        let (circuit, _) = either("circuit_open");
        let (ejections, _) = either("ejections_total");
        let hosts_out = self.most(&out_name, cluster).unwrap_or(0.0);
        let known = self.most("weir_hosts_known", cluster);
        let mut hosts = number(hosts_out);
        known.iter().for_each(|known| hosts.push_str(&format!(" of {}", number(*known))));
        let reasons = self.since(&ejections, "reason", cluster);
        if !reasons.is_empty() && hosts_out > 0.0 {
            hosts.push_str(&format!(" ({})", reasons.join(", ")));
        }
        let open = self.most(&circuit, cluster).unwrap_or(0.0) > 0.0;
        let incidents = self.open("weir_incidents_open", cluster);
        let mark = if open {
            Mark::Open
        } else if hosts_out > 0.0 || !incidents.is_empty() {
            Mark::Out
        } else {
            Mark::None
        };
        let name = if shadow || shadow_out { format!("{} (shadow)", short(cluster)) } else { short(cluster) };
        let row = vec![
            name,
            number(sum(&rate("weir_requests_total", "retry"))),
            number(sum(&attempts)),
            if failed.is_empty() { "0".to_owned() } else { failed.join(", ") },
            number(retries.get("granted").copied().unwrap_or(0.0)),
            number(retries.get("denied").copied().unwrap_or(0.0)),
            self.least("weir_retry_budget_left", cluster).map_or("-".to_owned(), number),
            hosts,
            if open { "open" } else { "closed" }.to_owned(),
            if incidents.is_empty() { "-".to_owned() } else { incidents.join(", ") },
        ];
        (mark, row)
    }

    /// Hosts that are out or have an open incident, and failures that left, by why they were not retried.
    fn hosts(&self, out: &mut String) {
        let mut rows: BTreeMap<(String, &str), BTreeSet<&str>> = BTreeMap::new();
        let kinds = [("weir_host_out", "out"), ("weir_shadow_host_out", "would be out"), ("weir_host_incident", "")];
        for (metric, state) in kinds {
            for (series, value) in self.envoys.iter().flat_map(|known| known.now.of(metric)) {
                if value > 0.0 {
                    let host = rows.entry((short(series.label("cluster")), series.label("host"))).or_default();
                    host.insert(if state.is_empty() { series.label("pattern") } else { state });
                }
            }
        }
        if !rows.is_empty() {
            let _ = writeln!(out, "\nHosts that are out or have an incident");
            let row = |((cluster, host), states): ((String, &str), BTreeSet<&str>)| {
                vec![cluster, host.to_owned(), states.into_iter().collect::<Vec<_>>().join(", ")]
            };
            table(out, &rows.into_iter().map(row).collect::<Vec<_>>());
        }
        let mut left: Vec<(f64, String)> = Vec::new();
        let clusters: BTreeSet<&str> = self
            .envoys
            .iter()
            .flat_map(|known| known.now.of("weir_not_retried_total"))
            .map(|(series, _)| series.label("cluster"))
            .collect();
        for cluster in clusters {
            let rates = self.rates("weir_not_retried_total", "reason", cluster);
            for reason in Reason::ALL {
                if let Some(rate) = rates.get(reason.name()).filter(|rate| **rate > 0.0) {
                    left.push((*rate, format!("{}: {}/s {}", short(cluster), number(*rate), reason.name())));
                }
            }
        }
        left.sort_by(|one, other| other.0.total_cmp(&one.0));
        if !left.is_empty() {
            let _ = writeln!(out, "\nFailures that left, and why they were not retried");
            left.iter().take(10).for_each(|(_, text)| _ = writeln!(out, "  {text}"));
        }
    }

    fn has(&self, name: &str, cluster: &str) -> bool {
        self.values(name, cluster).next().is_some()
    }

    fn values<'a>(&'a self, name: &'a str, cluster: &'a str) -> impl Iterator<Item = f64> + 'a {
        let all = self.envoys.iter().filter(|known| known.error.is_none()).flat_map(move |known| known.now.of(name));
        all.filter(move |(series, _)| series.label("cluster") == cluster).map(|(_, value)| value)
    }

    /// Of a gauge that each Envoy has for itself: the one that says most.
    fn most(&self, name: &str, cluster: &str) -> Option<f64> {
        self.values(name, cluster).max_by(f64::total_cmp)
    }

    fn least(&self, name: &str, cluster: &str) -> Option<f64> {
        self.values(name, cluster).min_by(f64::total_cmp)
    }

    /// How much a counter grows in a second, by one of its labels.
    fn rates(&self, name: &str, label: &str, cluster: &str) -> BTreeMap<String, f64> {
        let mut rates = BTreeMap::new();
        for known in self.envoys.iter().filter(|known| known.error.is_none() && known.apart > 0.0) {
            for (series, value) in known.now.of(name).filter(|(series, _)| series.label("cluster") == cluster) {
                let growth = known.growth(known.before.as_ref(), series, value);
                *rates.entry(series.label(label).to_owned()).or_default() += growth / known.apart;
            }
        }
        rates
    }

    /// How much a counter has grown since the first look, else altogether: `refused 3, reset 1`.
    fn since(&self, name: &str, label: &str, cluster: &str) -> Vec<String> {
        let grown = |fresh: bool| {
            let mut counts: BTreeMap<String, f64> = BTreeMap::new();
            for known in &self.envoys {
                for (series, value) in known.now.of(name).filter(|(series, _)| series.label("cluster") == cluster) {
                    let growth = if fresh { known.growth(Some(&known.first), series, value) } else { value };
                    *counts.entry(series.label(label).to_owned()).or_default() += growth;
                }
            }
            counts.retain(|_, count| *count > 0.0);
            counts
        };
        let fresh = grown(true);
        let counts = if fresh.is_empty() { grown(false) } else { fresh };
        counts.iter().map(|(label, count)| format!("{label} {}", number(*count))).collect()
    }

    /// The patterns whose gauge is not 0.
    fn open(&self, name: &str, cluster: &str) -> Vec<String> {
        let mut open = BTreeSet::new();
        for (series, value) in self.envoys.iter().flat_map(|known| known.now.of(name)) {
            if value > 0.0 && series.label("cluster") == cluster {
                open.insert(series.label("pattern").to_owned());
            }
        }
        open.into_iter().collect()
    }
}

/// What is told of a cluster.
const HEAD: [&str; 10] = [
    "cluster",
    "requests/s",
    "attempts/s",
    "failed/s",
    "retries/s",
    "denied/s",
    "budget left",
    "hosts out",
    "circuit",
    "incidents",
];

/// A cluster where the table would be too wide: its name, and below it all else.
fn block(out: &mut String, mark: Mark, row: &[String], width: usize) {
    let mut named = HEAD.iter().zip(row);
    let _ = writeln!(out, "{}", named.next().map_or(String::new(), |(_, name)| mark.paint(name)));
    let mut line = String::new();
    for (name, value) in named {
        let cell = format!("   {name} {value}");
        if !line.is_empty() && line.chars().count() + cell.chars().count() > width {
            let _ = writeln!(out, "{line}");
            line.clear();
        }
        line.push_str(&cell);
    }
    let _ = writeln!(out, "{line}");
}

/// What people call a cluster: `orders.shop:8080` in place of Istio's `outbound|8080||orders.shop.svc.cluster.local`.
fn short(cluster: &str) -> String {
    let parts: Vec<&str> = cluster.split('|').collect();
    let ["outbound" | "inbound-vip", port, subset, host] = parts.as_slice() else { return cluster.to_owned() };
    let host = host.strip_suffix(".svc.cluster.local").unwrap_or(host);
    let subset = if subset.is_empty() || *subset == "http" { String::new() } else { format!("/{subset}") };
    format!("{host}:{port}{subset}")
}

/// What a line wants to be seen for; the gravest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Open,
    Out,
    None,
}

impl Mark {
    fn paint(self, line: &str) -> String {
        match self {
            Self::Open => style(line).red().to_string(),
            Self::Out => style(line).yellow().to_string(),
            Self::None => line.to_owned(),
        }
    }
}

/// `0`, `0.4`, `12`.
fn number(value: f64) -> String {
    // The sum of nothing is -0.
    let text = format!("{value:.1}").replace("-0.0", "0");
    if value >= 10.0 { format!("{value:.0}") } else { text.trim_end_matches(".0").to_owned() }
}
