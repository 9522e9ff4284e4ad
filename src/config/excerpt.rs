//! What a user wrote, as an error message may show it: short, on one line, and unable to forge another.

use super::json::Json;

/// Longer strings are cut here, in characters.
const MAX_CHARS: usize = 80;

/// `json` in a few words.
pub(super) fn excerpt(json: &Json) -> String {
    match json {
        Json::Null => "null".to_owned(),
        Json::Bool(value) => value.to_string(),
        Json::Integer(value) => value.to_string(),
        Json::Number(value) => fraction(*value),
        Json::Text(text) => quote(text),
        Json::Array(_) => "a list".to_owned(),
        Json::Object(_) => "an object".to_owned(),
    }
}

/// `value`, not whole, with as many decimals as it has, but at most nine. (The standard library does this for all doubles,
/// and costs the module 20 kB.)
fn fraction(value: f64) -> String {
    const DECIMALS: usize = 9;
    const UNITS: f64 = 1e9;
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.abs() >= 1e9 {
        return "a number of more than nine digits".to_owned();
    }
    let sign = if value < 0.0 { "-" } else { "" };
    let units = value.abs() * UNITS;
    let exact = units.round() / UNITS == value.abs();
    let units = if exact { units.round() } else { units } as u64;
    let (whole, decimals) = (units / 1_000_000_000, units % 1_000_000_000);
    let digits = format!("{decimals:0DECIMALS$}");
    let digits = if exact { digits.trim_end_matches('0') } else { &digits };
    let cut = if exact { "" } else { "..." };
    format!("{sign}{whole}.{digits}{cut}")
}

/// `text` in quotes, all but printable ASCII escaped, and cut if it is long.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    let mut chars = text.chars();
    for c in chars.by_ref().take(MAX_CHARS) {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            ' '..='~' => quoted.push(c),
            _ => quoted.extend(c.escape_unicode()),
        }
    }
    quoted.push_str(if chars.next().is_some() { "\"..." } else { "\"" });
    quoted
}

/// The one of `known` that `name` is probably a misspelling of.
pub(super) fn similar<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    // The names are short; more than a few edits apart, another name was meant.
    if name.len() > MAX_CHARS {
        return None;
    }
    let edits = |candidate: &&str| edit_distance(name, candidate);
    known.iter().copied().min_by_key(edits).filter(|best| edits(best) * 3 <= best.len())
}

/// How many bytes must be inserted, removed or replaced to turn `from` into `to` (Levenshtein's distance).
fn edit_distance(from: &str, to: &str) -> usize {
    // `row` holds the distances between what was seen of `from` and each prefix of `to`.
    let mut row: Vec<usize> = (0..to.len() + 1).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut cells = row.iter_mut();
        if let Some(first) = cells.next() {
            *first = left;
        }
        for (cell, b) in cells.zip(to.bytes()) {
            let replaced = diagonal + usize::from(a != b);
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or_default()
}
