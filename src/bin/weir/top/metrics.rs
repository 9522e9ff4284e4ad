//! Weir's metrics, as Envoy writes them for Prometheus.

use std::collections::BTreeMap;

/// What one Envoy says.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// By the metric's name, then by labels.
    series: BTreeMap<Series, f64>,
    /// It has Weir's metrics without labels: `stats_tags` are missing.
    pub unlabelled: bool,
}

/// A time series.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    pub name: String,
    pub labels: BTreeMap<String, String>,
}

impl Series {
    /// A label, without its prefix `weir_`.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(&format!("weir_{name}")).map_or("", String::as_str)
    }
}

impl Samples {
    /// All series of a metric.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Series, f64)> {
        self.series.iter().filter(move |(series, _)| series.name == name).map(|(series, value)| (series, *value))
    }

    /// The value of a series, if it is there.
    pub fn get(&self, series: &Series) -> Option<f64> {
        self.series.get(series).copied()
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (&Series, f64)> {
        self.series.iter().map(|(series, value)| (series, *value))
    }
}

/// Reads the text format of Prometheus.
pub fn read(text: &str) -> Samples {
    let mut samples = Samples::default();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        samples.unlabelled |= line.starts_with("wasmcustom_weir_");
        if !line.starts_with("weir_") && !line.starts_with("envoy_weir_") {
            continue;
        }
        if let Some((series, value)) = sample(line) {
            *samples.series.entry(series).or_default() += value;
        }
    }
    samples
}

/// `weir_attempts_total{weir_signal="reset",weir_cluster="orders"} 12`
fn sample(line: &str) -> Option<(Series, f64)> {
    let (name, rest) = line.split_at(line.find(['{', ' '])?);
    let mut labels = BTreeMap::new();
    let mut rest = rest;
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.trim_start_matches([',', ' ']).split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after;
        }
        rest = rest.strip_prefix('}')?;
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((Series { name: name.to_owned(), labels }, value))
}

/// What stands before the closing quote, and what comes after it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}
