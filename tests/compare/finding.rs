//! What a comparison found: a table, what it means, and which of Weir's promises did not hold.

use std::fmt;

use serde_json::{Value, json};

use super::policy::Policy;

pub struct Finding {
    pub title: &'static str,
    /// What was done.
    pub setting: String,
    pub columns: Vec<&'static str>,
    pub rows: Vec<(Policy, Vec<String>)>,
    /// What to know when reading it.
    pub notes: Vec<String>,
    /// Promises of Weir that did not hold, and counts that do not add up.
    pub broken: Vec<String>,
    /// The numbers.
    pub numbers: Value,
}

impl Finding {
    pub fn to_json(&self) -> Value {
        json!({"title": self.title, "setting": self.setting, "rows": self.numbers, "broken": self.broken})
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "== {} ==\n{}\n", self.title, self.setting)?;
        let label = self.rows.iter().map(|(policy, _)| policy.name().len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| {
                let cells =
                    self.rows.iter().filter_map(|(_, cells)| cells.get(column)).map(|cell| cell.chars().count());
                cells.chain([self.columns[column].chars().count()]).max().unwrap_or(0)
            })
            .collect();
        write!(formatter, "  {:<label$}", "")?;
        for (column, width) in self.columns.iter().zip(&widths) {
            write!(formatter, "  {column:>width$}")?;
        }
        for (policy, cells) in &self.rows {
            write!(formatter, "\n  {:<label$}", policy.name())?;
            for (cell, width) in cells.iter().zip(&widths) {
                write!(formatter, "  {cell:>width$}")?;
            }
        }
        writeln!(formatter)?;
        for note in &self.notes {
            write!(formatter, "\n{note}")?;
        }
        for broken in &self.broken {
            write!(formatter, "\nNOT KEPT: {broken}")?;
        }
        Ok(())
    }
}

/// The rows' names, spelled out.
pub fn legend() -> String {
    let width = Policy::OUTAGES.iter().map(|policy| policy.name().len()).max().unwrap_or(0);
    let explained = Policy::OUTAGES.iter().filter(|policy| !policy.explained().is_empty());
    explained
        .map(|policy| format!("  {:<width$}  {}", policy.name(), policy.explained()))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A note where the machine was too busy for all requests to reach Envoy.
pub fn unsent(policy: Policy, sent: u64, arrived: u64) -> Option<String> {
    (arrived < sent).then(|| {
        format!(
            "  (This machine is too busy: {} of {sent} requests did not reach {}.)",
            sent - arrived,
            policy.name().trim()
        )
    })
}
