//! Text of strangers, in names and lines.

/// A cluster's name as it stands in metrics and log lines: on one line, and within quotes, whatever it holds.
#[must_use]
pub fn printable(cluster: &str) -> String {
    cluster.chars().map(|c| if c.is_control() || matches!(c, '"' | '\\') { '_' } else { c }).collect()
}

/// The items of a list, with commas between them.
#[must_use]
pub fn list<T: AsRef<str>>(items: &[T]) -> String {
    let mut list = String::with_capacity(items.iter().map(|item| item.as_ref().len() + 1).sum());
    for item in items {
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(item.as_ref());
    }
    list
}
