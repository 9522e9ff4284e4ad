//! The lines that tell incidents, read as a program would read them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::ejection::site::{CLUSTER, Site};
use crate::support::wait;

/// What a line says.
#[derive(Clone, Debug)]
pub struct Line {
    pub state: String,
    pub pattern: String,
    pub host: String,
    fields: BTreeMap<String, String>,
}

impl Line {
    /// Reads `key=value`, `key="value"` and so on; nothing else may stand there.
    fn parse(text: &str) -> Option<Self> {
        let mut rest = text.split_once("weir: incident ")?.1;
        let mut fields = BTreeMap::new();
        loop {
            let (key, value) = rest.split_once('=')?;
            if let Some(quoted) = value.strip_prefix('"') {
                let mut escaped = false;
                let end = quoted.char_indices().find_map(|(position, c)| {
                    let ends = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    ends.then_some(position)
                })?;
                fields.insert(key.to_owned(), quoted[..end].to_owned());
                rest = &quoted[end + 1..];
            } else {
                let end = value.find(' ').unwrap_or(value.len());
                fields.insert(key.to_owned(), value[..end].to_owned());
                rest = &value[end..];
            }
            match rest.strip_prefix(' ') {
                Some(more) => rest = more,
                None => break,
            }
        }
        let take = |key: &str| fields.get(key).cloned();
        Some(Self { state: take("state")?, pattern: take("pattern")?, host: take("host")?, fields })
    }

    /// A count.
    pub fn count(&self, key: &str) -> Result<u64> {
        let text = self.fields.get(key).with_context(|| format!("no {key} in {self:?}"))?;
        text.parse().with_context(|| format!("{key}={text}"))
    }

    /// Seconds.
    pub fn seconds(&self, key: &str) -> Result<f64> {
        let text = self.fields.get(key).with_context(|| format!("no {key} in {self:?}"))?;
        text.strip_suffix('s').and_then(|text| text.parse().ok()).with_context(|| format!("{key}={text}"))
    }

    pub fn advises(&self, part: &str) -> bool {
        self.fields.get("look_at").is_some_and(|advice| advice.contains(part))
    }

    fn is(&self, state: &str, pattern: &str) -> bool {
        self.state == state && self.pattern == pattern
    }
}

/// All that was told so far.
pub fn told(site: &Site) -> Result<Vec<Line>> {
    let log = site.envoy.log();
    let lines = log.lines().filter(|line| line.contains("weir: incident "));
    lines.map(|line| Line::parse(line).with_context(|| format!("not to be read: {line}"))).collect()
}

/// Waits until an incident is told.
pub fn wait_for(site: &Site, state: &str, pattern: &str) -> Result<Line> {
    let found = wait::until(wait::LIMIT, || {
        let lines = told(site).map_err(|error| format!("{error:#}"))?;
        lines.iter().find(|line| line.is(state, pattern)).cloned().ok_or_else(|| format!("{lines:#?}"))
    });
    found.map_err(|error| anyhow::anyhow!("no {state} {pattern}: {error}\n{}", site.story()))
}

/// Waits until a statistic is this. A line is written before what it tells of is counted.
pub fn wait_for_stat(site: &Site, name: &str, expected: u64) -> Result<()> {
    wait::until_ok(|| {
        let found = site.stat(name);
        ensure!(found == expected, "{name} is {found}, not {expected}");
        Ok(())
    })
}

/// What was told is this, in this order: `open crash_loop`, and so on; and the metrics say the same.
pub fn ensure_told(site: &Site, expected: &[&str]) -> Result<()> {
    let lines = told(site)?;
    let found: Vec<String> = lines.iter().map(|line| format!("{} {}", line.state, line.pattern)).collect();
    ensure!(found == expected, "told {found:?}, not {expected:?}:\n{lines:#?}\n{}", site.story());
    for pattern in
        ["crash_loop", "restart", "keep_alive_race", "not_listening", "unreachable", "slow_death", "everyone"]
    {
        let count = |state: &str| lines.iter().filter(|line| line.is(state, pattern)).count() as u64;
        let (opened, over) = (count("open"), count("over"));
        let (total, open) = if pattern == "restart" { (over, 0) } else { (opened, opened.saturating_sub(over)) };
        for (metric, expected) in [("total", total), ("open", open)] {
            let name = format!("wasmcustom.weir_incidents_{metric}.pattern.{pattern}.cluster.{CLUSTER}");
            wait_for_stat(site, &name, expected).with_context(|| format!("{lines:#?}"))?;
        }
    }
    Ok(())
}
