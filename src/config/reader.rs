//! Reads a JSON value and always knows where it is: every refusal names path, expectation and the value given.

use std::time::Duration;

use super::excerpt::{excerpt, quote, similar};
use super::json::{self, Json};
use super::{ConfigError, duration};
use crate::base::percent::Percent;
use crate::base::time::millis;

/// Durations, in milliseconds.
pub(super) const SECOND: u32 = 1_000;
pub(super) const HOUR: u32 = 3_600_000;

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

    /// One of a few words, each of which stands for a value.
    pub(super) fn word<T: Copy, const N: usize>(&self, words: [(&str, T); N]) -> Result<T, ConfigError> {
        let place = self.place_in(&words.map(|(word, _)| word))?;
        // The place is within the array: the other branch is never taken.
        words.get(place).map(|(_, value)| *value).ok_or_else(|| self.error(""))
    }

    #[inline(never)]
    fn place_in(&self, words: &[&str]) -> Result<usize, ConfigError> {
        let place = if let Json::Text(text) = self.json { words.iter().position(|word| word == text) } else { None };
        place.ok_or_else(|| {
            let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
            self.expecting("is unknown", &words.join(" or "))
        })
    }

    /// A whole number between two others.
    #[inline(never)]
    pub(super) fn whole(&self, from: u32, to: u32) -> Result<u32, ConfigError> {
        let problem = match self.json {
            Json::Integer(value) => match u32::try_from(*value) {
                Ok(value) if (from..=to).contains(&value) => return Ok(value),
                _ => "is out of range",
            },
            _ => "is not a whole number",
        };
        Err(self.expecting(problem, &format!("a whole number from {from} to {to}")))
    }

    /// Replaces a setting by the whole number in the field `name`, if it is there.
    #[inline(never)]
    pub(super) fn set_whole(&self, name: &str, from: u32, to: u32, setting: &mut u32) -> Result<(), ConfigError> {
        if let Some(given) = self.field(name) {
            *setting = given.whole(from, to)?;
        }
        Ok(())
    }

    /// Replaces a setting by the number in the field `name`, if it is there: a number with at most `decimals` decimals, as a
    /// whole number of units of the last one. So are the least and the most, which `expected` says in words.
    ///
    /// Exact: a number with more decimals is refused, not rounded.
    #[inline(never)]
    pub(super) fn set_decimal(
        &self,
        name: &str,
        decimals: u32,
        (from, to): (u32, u32),
        expected: &str,
        setting: &mut u32,
    ) -> Result<(), ConfigError> {
        let Some(given) = self.field(name) else { return Ok(()) };
        let Some(number) = given.number() else { return Err(given.expecting("is not a number", expected)) };
        let scale = f64::from(10_u32.saturating_pow(decimals));
        let units = (number * scale).round();
        // NaN, which a `Struct` can hold, is outside of any range.
        if !(f64::from(from) / scale..=f64::from(to) / scale).contains(&number) {
            return Err(given.expecting("is out of range", expected));
        }
        // Both are the double nearest to the same decimal number, or else the decimal number had more digits.
        if units / scale != number {
            return Err(given.expecting(&format!("has more than {decimals} decimals"), expected));
        }
        *setting = units as u32;
        Ok(())
    }

    /// Replaces a setting by the percentage in the field `name`, if it is there, with at most two decimals.
    #[inline(never)]
    pub(super) fn set_percent(&self, name: &str, least: u32, setting: &mut Percent) -> Result<(), ConfigError> {
        let mut basis_points = setting.basis_points();
        let expected = if least == 0 { "a number from 0 to 100" } else { "a number from 1 to 100" };
        self.set_decimal(name, 2, (least * 100, 10_000), expected, &mut basis_points)?;
        *setting = percent(basis_points);
        Ok(())
    }

    /// A number; also one in a string if it has a decimal point, since that is what Envoy puts into a `Struct` where its YAML
    /// says 0.5 (it keeps whole numbers).
    fn number(&self) -> Option<f64> {
        let from_yaml;
        let json = match self.json {
            Json::Text(text) if text.contains('.') => {
                from_yaml = json::parse(text.as_bytes()).ok()?;
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

    /// A duration between two others, which are in milliseconds.
    #[inline(never)]
    pub(super) fn duration(&self, from: u32, to: u32, setting: &mut Duration) -> Result<(), ConfigError> {
        let parsed = if let Json::Text(text) = self.json { duration::parse(text) } else { None };
        let Some(parsed) = parsed else {
            return Err(self.expecting("is not a duration", "one like \"250ms\" or \"1m30s\""));
        };
        if !(u64::from(from)..=u64::from(to)).contains(&millis(parsed)) {
            let text = |millis: u32| duration::text(Duration::from_millis(u64::from(millis)));
            return Err(self.expecting("is out of range", &format!("a duration from {} to {}", text(from), text(to))));
        }
        *setting = parsed;
        Ok(())
    }

    /// Replaces a setting by the duration in the field `name`, if it is there.
    #[inline(never)]
    pub(super) fn set_duration(
        &self,
        name: &str,
        from: u32,
        to: u32,
        setting: &mut Duration,
    ) -> Result<(), ConfigError> {
        self.field(name).map_or(Ok(()), |given| given.duration(from, to, setting))
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

/// From basis points that were checked to be at most 10,000.
pub(super) fn percent(basis_points: u32) -> Percent {
    Percent::from_basis_points(basis_points).unwrap_or(Percent::MAX)
}
