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
        // Exponents, so that 1e300 stays short.
        Json::Number(value) => format!("{value:?}"),
        Json::Text(text) => quote(text),
        Json::Array(_) => "a list".to_owned(),
        Json::Object(_) => "an object".to_owned(),
    }
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
    let mut row: Vec<usize> = (0..=to.len()).collect();
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
