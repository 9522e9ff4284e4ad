//! Why a configuration was refused: where, what was given, and what was expected. What a user wrote stands there short, on one line, and
//! unable to forge another.

use std::{fmt, mem};

use super::json::Json;
use super::reader::push_all;
use super::table::Field;

/// Why a configuration was refused.
///
/// One line of printable ASCII: the path, the value given where there is one, and what was expected. Safe to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(
    // One word, which a function returns in a register: it saves the module kilobytes.
    Box<Mistake>,
);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mistake {
    /// Where it is, as far as it is known: within which object or list is added from the inside out.
    path: String,
    reason: String,
    in_policy: bool,
}

impl ConfigError {
    #[cold]
    #[inline(never)]
    pub(super) fn new(reason: &[&str]) -> Self {
        let mut mistake = Mistake { path: String::new(), reason: String::new(), in_policy: false };
        push_all(&mut mistake.reason, reason);
        Self(Box::new(mistake))
    }

    /// Whether the role was understood, [`Role::Decide`](super::Role::Decide), and the mistake is in its policy.
    #[must_use]
    pub fn is_in_policy(&self) -> bool {
        self.0.in_policy
    }

    pub(super) fn in_policy(mut self) -> Self {
        self.0.in_policy = true;
        self
    }

    /// The path so far is within this field.
    #[cold]
    #[inline(never)]
    pub(super) fn in_field(self, name: &str) -> Self {
        let plain = name.len() <= 80 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if plain && !name.is_empty() { self.within(&[name]) } else { self.within(&[&quote(name)]) }
    }

    /// The path so far is within this place.
    #[cold]
    #[inline(never)]
    pub(super) fn within(mut self, place: &[&str]) -> Self {
        let inner = mem::take(&mut self.0.path);
        push_all(&mut self.0.path, place);
        let dot = if inner.is_empty() || inner.starts_with('[') { "" } else { "." };
        push_all(&mut self.0.path, &[dot, &inner]);
        self
    }

    /// The mistake is in what may be switched off: if it is that value itself, and not in it, this is said, too.
    #[cold]
    #[inline(never)]
    pub(super) fn of_switch(mut self) -> Self {
        if self.0.path.is_empty() {
            self.0.reason.push_str("; \"off\", false or null switch it off");
        }
        self
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mistake { path, reason, .. } = &*self.0;
        f.write_str(if path.is_empty() { "configuration" } else { path })?;
        f.write_str(": ")?;
        f.write_str(reason)
    }
}

impl std::error::Error for ConfigError {}

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
    // By bytes: by characters costs the module 300 bytes more.
    let name = name.as_bytes().to_vec();
    let edits = |candidate: &&str| strsim::generic_levenshtein(&name, &candidate.as_bytes().to_vec());
    known.iter().map(|field| field.name).min_by_key(edits).filter(|best| edits(best) * 3 <= best.len())
}
