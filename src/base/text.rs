//! Text of strangers, in names and lines.

/// A cluster's name as it stands in metrics and log lines: on one line, and within quotes, whatever it holds.
#[must_use]
pub fn printable(cluster: &str) -> String {
    cluster.chars().map(|c| if c.is_control() || matches!(c, '"' | '\\') { '_' } else { c }).collect()
}
