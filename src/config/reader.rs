//! Reads a JSON value and always knows where it is: every refusal names path, expectation and the value given.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::ConfigError;
use super::duration;
use super::excerpt::{excerpt, quote, similar};
use super::json::Json;

/// One value of the configuration, and the path that leads to it.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    json: &'a Json,
    path: Path<'a>,
    /// It may be switched off, which its refusals say.
    switch: bool,
}

/// A path as the chain of calls that descended it: nothing is written out unless there is an error to report.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl<'a> Reader<'a> {
    pub(super) fn root(json: &'a Json) -> Self {
        Self { json, path: Path::Root, switch: false }
    }

    /// The field `name` of this object, if both are there.
    // Called in dozens of places, at start-up: here size counts (`inline(never)` and `cold` save 7 kB), not speed.
    #[inline(never)]
    pub(super) fn field(&'a self, name: &'a str) -> Option<Reader<'a>> {
        let Json::Object(fields) = self.json else { return None };
        let (_, json) = fields.iter().find(|(key, _)| key == name)?;
        Some(Reader { json, path: Path::Field(&self.path, name), switch: false })
    }

    /// As [`Self::field`], for a field that must be there.
    #[inline(never)]
    pub(super) fn required(&'a self, name: &'a str) -> Result<Reader<'a>, ConfigError> {
        self.field(name).ok_or_else(|| Path::Field(&self.path, name).error("missing"))
    }

    /// This value, unless it switches off what it stands for. `null` says so in JSON; the other two are for resources of
    /// Kubernetes, from which kubectl drops every `null`, and where YAML may take the word `off` for `false`.
    #[inline(never)]
    pub(super) fn unless_off(self) -> Option<Self> {
        let off = match self.json {
            Json::Null | Json::Bool(false) => true,
            Json::Text(text) => text == "off",
            _ => false,
        };
        if off { None } else { Some(Self { switch: true, ..self }) }
    }

    pub(super) fn is_object(&self) -> bool {
        matches!(self.json, Json::Object(_))
    }

    /// The names of this object's fields.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a str> {
        let fields = if let Json::Object(fields) = self.json { fields.as_slice() } else { &[] };
        fields.iter().map(|(key, _)| key.as_str())
    }

    /// This value must be an object with no other fields than `known`, and none of them twice.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), ConfigError> {
        if !self.is_object() {
            return Err(self.expecting("is not an object", "one in braces"));
        }
        let mut seen: Vec<&str> = Vec::new();
        for name in self.names() {
            let field = Path::Field(&self.path, name);
            if !known.contains(&name) {
                let hint = similar(name, known).map_or(String::new(), |it| format!("; did you mean {it}?"));
                return Err(field.error(&format!("unknown field; expected one of {}{hint}", known.join(", "))));
            }
            if seen.contains(&name) {
                return Err(field.error("given twice"));
            }
            seen.push(name);
        }
        Ok(())
    }

    /// The items of this array of at most `max`.
    pub(super) fn items(&'a self, max: usize) -> Result<impl Iterator<Item = Reader<'a>>, ConfigError> {
        let Json::Array(items) = self.json else {
            return Err(self.expecting("is not a list", "one in brackets"));
        };
        if items.len() > max {
            return Err(self.path.error(&format!("{} items are too many: expected at most {max}", items.len())));
        }
        let item = |(index, json)| Reader { json, path: Path::Item(&self.path, index), switch: false };
        Ok(items.iter().enumerate().map(item))
    }

    #[inline(never)]
    pub(super) fn text(&self) -> Result<&'a str, ConfigError> {
        match self.json {
            Json::Text(text) => Ok(text),
            _ => Err(self.expecting("is not a string", "one in quotes")),
        }
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let Json::Text(text) = self.json else { return Err(self.unknown(&mut words.iter().map(|(word, _)| *word))) };
        let found = words.iter().find(|(word, _)| word == text);
        found.map(|(_, value)| *value).ok_or_else(|| self.unknown(&mut words.iter().map(|(word, _)| *word)))
    }

    #[cold]
    fn unknown(&self, words: &mut dyn Iterator<Item = &str>) -> ConfigError {
        let words: Vec<String> = words.map(quote).collect();
        self.expecting("is unknown", &words.join(" or "))
    }

    /// A whole number within `range`.
    pub(super) fn whole(&self, range: RangeInclusive<u32>) -> Result<u32, ConfigError> {
        let problem = match self.json {
            Json::Integer(value) => match u32::try_from(*value) {
                Ok(value) if range.contains(&value) => return Ok(value),
                _ => "is out of range",
            },
            _ => "is not a whole number",
        };
        let (from, to) = (range.start(), range.end());
        Err(self.expecting(problem, &format!("a whole number from {from} to {to}")))
    }

    /// A number with at most `decimals` decimals, as a whole number of units of the last one. `range` is in such units, and
    /// `expected` says it in words.
    ///
    /// Exact: a number with more decimals is refused, not rounded.
    pub(super) fn decimal(
        &self,
        decimals: u32,
        range: RangeInclusive<u32>,
        expected: &str,
    ) -> Result<u32, ConfigError> {
        let Some(given) = self.number() else { return Err(self.expecting("is not a number", expected)) };
        let scale = f64::from(10_u32.saturating_pow(decimals));
        let units = (given * scale).round();
        // NaN, which a `Struct` can hold, is outside of any range.
        if !(f64::from(*range.start()) / scale..=f64::from(*range.end()) / scale).contains(&given) {
            return Err(self.expecting("is out of range", expected));
        }
        // Both are the double nearest to the same decimal number, or else the decimal number had more digits.
        if units / scale != given {
            return Err(self.expecting(&format!("has more than {decimals} decimals"), expected));
        }
        Ok(units as u32)
    }

    /// A number; also one in a string if it has a decimal point, since that is what Envoy puts into a `Struct` where its YAML
    /// says 0.5 (it keeps whole numbers).
    fn number(&self) -> Option<f64> {
        let from_yaml;
        let json = match self.json {
            Json::Text(text) if text.contains('.') => {
                from_yaml = serde_json::from_slice(text.as_bytes()).ok()?;
                &from_yaml
            }
            json => json,
        };
        match json {
            Json::Integer(value) => Some(*value as f64),
            Json::Number(value) => Some(*value),
            _ => None,
        }
    }

    /// A duration within `range`.
    pub(super) fn duration(&self, range: RangeInclusive<Duration>) -> Result<Duration, ConfigError> {
        let parsed = if let Json::Text(text) = self.json { duration::parse(text) } else { None };
        let Some(parsed) = parsed else {
            return Err(self.expecting("is not a duration", "one like \"250ms\" or \"1m30s\""));
        };
        if !range.contains(&parsed) {
            let (from, to) = (duration::text(*range.start()), duration::text(*range.end()));
            return Err(self.expecting("is out of range", &format!("a duration from {from} to {to}")));
        }
        Ok(parsed)
    }

    /// `path: reason`.
    #[cold]
    pub(super) fn error(&self, reason: &str) -> ConfigError {
        self.path.error(reason)
    }

    /// `path: value problem`.
    #[cold]
    pub(super) fn refuse(&self, problem: &str) -> ConfigError {
        self.path.error(&format!("{} {problem}", excerpt(self.json)))
    }

    /// `path: value problem: expected such a value`.
    #[cold]
    pub(super) fn expecting(&self, problem: &str, expected: &str) -> ConfigError {
        let off = if self.switch { "; \"off\", false or null switch it off" } else { "" };
        self.refuse(&format!("{problem}: expected {expected}{off}"))
    }
}

impl Path<'_> {
    #[cold]
    fn error(&self, reason: &str) -> ConfigError {
        let mut message = String::new();
        self.write(&mut message);
        if message.is_empty() {
            message.push_str("configuration");
        }
        message.push_str(": ");
        message.push_str(reason);
        ConfigError::new(message)
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Root => {}
            Self::Field(parent, name) => {
                parent.write(out);
                if !out.is_empty() {
                    out.push('.');
                }
                let plain =
                    name.len() <= 80 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
                if plain && !name.is_empty() { out.push_str(name) } else { out.push_str(&quote(name)) }
            }
            Self::Item(parent, index) => {
                parent.write(out);
                out.push_str(&format!("[{index}]"));
            }
        }
    }
}
