//! What a user wrote, as an error message may show it: short, on one line, and unable to forge another.

use super::json::Json;
use super::table::Field;

/// Longer strings are cut here, in characters.
const MAX_CHARS: usize = 80;

/// `json` in a few words.
pub(super) fn excerpt(json: &Json) -> String {
    let word = match json {
        Json::Null => "null",
        Json::Bool(true) => "true",
        Json::Bool(false) => "false",
        Json::Number(value) => return number(*value),
        Json::Text(text) => return quote(text),
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    };
    word.to_owned()
}

/// `value` with as many decimals as it has, but at most nine. (The standard library does this for all doubles, and costs the
/// module 20 kB.)
fn number(value: f64) -> String {
    const UNIT: u32 = 1_000_000_000;
    // From here on a double has no decimals.
    const LARGE: f64 = (1_u64 << 53) as f64;
    if value.is_nan() {
        return "NaN".to_owned();
    }
    let size = value.abs();
    if size >= LARGE {
        return "a number of more than nine digits".to_owned();
    }
    let whole = size.trunc();
    let units = (size - whole) * f64::from(UNIT);
    let exact = whole + units.round() / f64::from(UNIT) == size;
    let units = if exact { units.round() } else { units };
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    push_decimal(&mut text, whole as u64, units as u32, UNIT, exact);
    if !exact {
        text.push_str("...");
    }
    text
}

/// Writes `whole` and behind it the decimals that `units` is, `unit` of which are 1: a power of ten. Zeros at the end stay only
/// if the number is not exact.
pub(super) fn push_decimal(out: &mut String, whole: u64, mut units: u32, mut unit: u32, exact: bool) {
    out.push_str(&whole.to_string());
    if units > 0 || !exact {
        out.push('.');
    }
    while units > 0 || (!exact && unit > 1) {
        unit /= 10;
        let digit = units.checked_div(unit).unwrap_or_default();
        units -= digit * unit;
        out.push(char::from(b'0' + digit as u8));
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
pub(super) fn similar(name: &str, known: &[Field]) -> Option<&'static str> {
    // The names are short; more than a few edits apart, another name was meant.
    if name.len() > MAX_CHARS {
        return None;
    }
    let edits = |candidate: &&str| edit_distance(name, candidate);
    known.iter().map(|field| field.name).min_by_key(edits).filter(|best| edits(best) * 3 <= best.len())
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
