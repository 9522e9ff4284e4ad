//! Reads single values of a configuration. Every refusal names the value given and what was expected; whoever reads an object or a
//! list adds the path, from the inside out, so that nothing is written down unless there is an error to report.

use super::error::{excerpt, push_decimal, similar};
use super::json::{self, Json};
use super::table::{Field, Token, Unit};
use super::{ConfigError, duration};

/// Most bytes in the name of a method or header.
const MAX_NAME_BYTES: usize = 128;

/// At start-up size counts (`inline(never)` and `cold` save kilobytes), not speed.
impl Json {
    /// The field `name` of this object, if both are there.
    #[inline(never)]
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        let Self::Object(fields) = self else { return None };
        fields.iter().find(|(key, _)| key == name).map(|(_, json)| json)
    }

    /// Whether this value switches off what it stands for. `null` says so in JSON; the other two are for resources of
    /// Kubernetes, from which kubectl drops every `null`, and where YAML may take the word `off` for `false`.
    #[inline(never)]
    pub(super) fn is_off(&self) -> bool {
        match self {
            Self::Null | Self::Bool(false) => true,
            Self::Text(text) => text == "off",
            _ => false,
        }
    }

    /// None of these fields may be in this object.
    #[inline(never)]
    pub(super) fn without(&self, names: &[&str], why: &str) -> Result<(), ConfigError> {
        match names.iter().find(|name| self.field(name).is_some()) {
            Some(name) => Err(ConfigError::new(&[why]).in_field(name)),
            None => Ok(()),
        }
    }

    /// This value must be an object with no other fields than `known`, and none of them twice.
    #[inline(never)]
    pub(super) fn only(&self, known: &[Field]) -> Result<(), ConfigError> {
        let Self::Object(fields) = self else { return Err(self.expecting("is not an object", "one in braces")) };
        let mut seen = 0_u32;
        for (name, _) in fields {
            let Some(place) = known.iter().position(|field| field.name == name) else {
                let mut reason = String::from("unknown field; expected one of ");
                push_joined(&mut reason, known.iter().map(|field| field.name), ", ");
                if let Some(similar) = similar(name, known) {
                    push_all(&mut reason, &["; did you mean ", similar, "?"]);
                }
                return Err(ConfigError::new(&[&reason]).in_field(name));
            };
            let bit = 1 << place;
            if seen & bit != 0 {
                return Err(ConfigError::new(&["given twice"]).in_field(name));
            }
            seen |= bit;
        }
        Ok(())
    }

    /// Reads each item of this array of at most `max`.
    #[inline(never)]
    pub(super) fn each(
        &self,
        max: usize,
        read: &mut dyn FnMut(&Self) -> Result<(), ConfigError>,
    ) -> Result<(), ConfigError> {
        let Self::Array(items) = self else { return Err(self.expecting("is not a list", "one in brackets")) };
        if items.len() > max {
            let [length, max] = [items.len(), max].map(|number| number.to_string());
            return Err(ConfigError::new(&[&length, " items are too many: expected at most ", &max]));
        }
        items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| read(item).map_err(|error| error.within(&["[", &index.to_string(), "]"])))
    }

    #[inline(never)]
    pub(super) fn text(&self) -> Result<&str, ConfigError> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err(self.expecting("is not a string", "one in quotes")),
        }
    }

    /// One of a few words: its place among them.
    #[inline(never)]
    pub(super) fn word(&self, words: &[&str]) -> Result<u32, ConfigError> {
        if let Self::Text(text) = self
            && let Some(place) = words.iter().position(|word| word == text)
        {
            return Ok(place as u32);
        }
        let mut expected = String::from("\"");
        push_joined(&mut expected, words.iter().copied(), "\" or \"");
        expected.push('"');
        Err(self.expecting("is unknown", &expected))
    }

    /// A token as in RFC 9110, section 5.6.2: what methods and names of header fields are made of.
    #[inline(never)]
    pub(super) fn name(&self, token: Token) -> Result<String, ConfigError> {
        let text = self.text()?;
        let header = token == Token::Header;
        if header && text.starts_with(':') {
            return Err(self.expecting("is a pseudo-header", "the name of a header field"));
        }
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if text.is_empty() || text.len() > MAX_NAME_BYTES || !text.bytes().all(valid) {
            let problem = if header { "is not the name of a header field" } else { "is not a method" };
            return Err(self.expecting(problem, "1 to 128 letters, digits or !#$%&'*+-.^_`|~"));
        }
        let mut name = text.to_owned();
        if header {
            // As in HTTP/2, and as Envoy has them.
            name.make_ascii_lowercase();
        }
        Ok(name)
    }

    /// A number of units between two others.
    ///
    /// Exact: a number with more decimals than the unit has is refused, not rounded.
    #[inline(never)]
    pub(super) fn number(&self, unit: Unit, from: u32, to: u32) -> Result<u32, ConfigError> {
        let (noun, not_exact) = match unit {
            Unit::One => ("a whole number from ", "is not a whole number"),
            Unit::Hundredth => ("a number from ", "has more than 2 decimals"),
            Unit::TenThousandth => ("a number from ", "has more than 4 decimals"),
            Unit::Millisecond => ("a duration from ", ""),
        };
        let problem = match self.value(unit) {
            Some(value) => {
                let scale = f64::from(unit.scale());
                let units = (value * scale).round();
                // Both are the double nearest to the same decimal number, or else the decimal number had more digits.
                let exact = units / scale == value;
                // NaN, which a `Struct` can hold, is outside of any range.
                let within = (f64::from(from) / scale..=f64::from(to) / scale).contains(&value);
                if exact && within {
                    return Ok(units as u32);
                }
                if within || (unit == Unit::One && !exact) { not_exact } else { "is out of range" }
            }
            None if unit == Unit::Millisecond => {
                return Err(self.expecting("is not a duration", "one like \"250ms\" or \"1m30s\""));
            }
            None if unit == Unit::One => not_exact,
            None => "is not a number",
        };
        let mut expected = String::from(noun);
        push_units(&mut expected, from, unit);
        expected.push_str(" to ");
        push_units(&mut expected, to, unit);
        Err(self.expecting(problem, &expected))
    }

    /// The number that this value is, of a duration its milliseconds.
    fn value(&self, unit: Unit) -> Option<f64> {
        match self {
            Self::Text(text) if unit == Unit::Millisecond => duration::millis_of(text).map(|millis| millis as f64),
            // Envoy puts a string into a `Struct` where its YAML says 0.5. (It keeps whole numbers.)
            Self::Text(text) if unit != Unit::One && text.contains('.') => match json::parse(text.as_bytes()) {
                Ok(Self::Number(number)) => Some(number),
                _ => None,
            },
            Self::Number(number) if unit != Unit::Millisecond => Some(*number),
            _ => None,
        }
    }

    /// The error `value problem`.
    #[cold]
    #[inline(never)]
    pub(super) fn refuse(&self, problem: &[&str]) -> ConfigError {
        let mut reason = excerpt(self);
        reason.push(' ');
        push_all(&mut reason, problem);
        ConfigError::new(&[&reason])
    }

    /// The error `value problem: expected such a value`.
    #[cold]
    #[inline(never)]
    pub(super) fn expecting(&self, problem: &str, expected: &str) -> ConfigError {
        self.refuse(&[problem, ": expected ", expected])
    }
}

fn push_units(out: &mut String, units: u32, unit: Unit) {
    if unit == Unit::Millisecond {
        out.push_str(&duration::text_of_millis(units.into()));
    } else {
        let one = unit.scale();
        push_decimal(out, (units / one).into(), units % one, one, true);
    }
}

#[inline(never)]
pub(super) fn push_all(out: &mut String, pieces: &[&str]) {
    for piece in pieces {
        out.push_str(piece);
    }
}

fn push_joined<'t>(out: &mut String, words: impl Iterator<Item = &'t str>, between: &str) {
    for (number, word) in words.enumerate() {
        push_all(out, &[if number > 0 { between } else { "" }, word]);
    }
}
