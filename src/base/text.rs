//! Text of strangers, in names and lines.

/// A cluster's name as it stands in metrics and log lines: on one line, and within quotes, whatever it holds.
#[must_use]
pub fn printable(cluster: &str) -> String {
    cluster.chars().map(|c| if c.is_control() || matches!(c, '"' | '\\') { '_' } else { c }).collect()
}

/// The items of a list, between commas.
#[must_use]
pub fn list(items: &[&str]) -> String {
    let mut list = String::with_capacity(items.iter().map(|item| item.len() + 1).sum());
    for item in items {
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(item);
    }
    list
}
