//! A JSON value that keeps what a map loses: a key that occurs twice.
//!
//! Of two equal keys a map keeps one, and which of the two settings then counts is luck. Here objects are lists, so that
//! [`super::reader`] can refuse the second and name its path.

use hifijson::num::Lex as _;
use hifijson::str::{self, LexAlloc as _};
use hifijson::token::Lex as _;
use hifijson::{Error, Expect, Read as _, SliceLexer};

/// Deepest nesting of values. The configuration needs six.
const MAX_DEPTH: u32 = 128;

/// A JSON value; objects keep their order and their duplicates.
#[derive(Debug)]
pub(super) enum Json {
    Null,
    Bool(bool),
    /// A whole number, however it was written: Envoy's `Struct` knows doubles only, so 3 may arrive as `3.0`.
    Integer(i64),
    /// Any other number.
    Number(f64),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub(super) fn number(value: f64) -> Self {
        // Up to here a double holds every whole number exactly.
        const EXACT: f64 = (1_u64 << 53) as f64;
        let whole = value.abs() <= EXACT && value == value.trunc();
        if whole { Self::Integer(value as i64) } else { Self::Number(value) }
    }
}

/// Reads a JSON text. The error says what is wrong, and where.
///
/// The grammar is `hifijson`'s, whose objects are lists. (serde_json costs the module 9 kB more, a quarter of it a table of the
/// powers of ten.)
pub(super) fn parse(text: &[u8]) -> Result<Json, String> {
    let mut lexer = SliceLexer::new(text);
    lexer.exactly_one(SliceLexer::ws_peek, |next, lexer| value(next, lexer, MAX_DEPTH)).map_err(|error: Error| {
        let read = text.len() - lexer.as_slice().len().min(text.len());
        let read = text.get(..read).unwrap_or_default();
        let line = 1 + read.iter().filter(|byte| **byte == b'\n').count();
        let column = 1 + read.iter().rev().take_while(|byte| **byte != b'\n').count();
        let problem = problem(&error);
        format!("{problem} at line {line} column {column}")
    })
}

/// The value that begins with `next`.
fn value(next: u8, lexer: &mut SliceLexer<'_>, depth: u32) -> Result<Json, Error> {
    let depth = depth.checked_sub(1).ok_or(Error::Depth)?;
    Ok(match next {
        b'a'..=b'z' => lexer.null_or_bool().ok_or(Expect::Value)?.map_or(Json::Null, Json::Bool),
        b'-' | b'0'..=b'9' => {
            let negative = next == b'-';
            if negative {
                lexer.take_next();
            }
            let mut number = Decimal::default();
            lexer.num_foreach(|byte| number.push(byte))?;
            number.json(negative)
        }
        b'"' => Json::Text(string(lexer)?),
        b'[' => {
            let mut items = Vec::new();
            lexer.discarded().seq(b']', SliceLexer::ws_peek, |next, lexer| {
                items.push(value(next, lexer, depth)?);
                Ok::<_, Error>(())
            })?;
            Json::Array(items)
        }
        b'{' => {
            let mut fields = Vec::new();
            lexer.discarded().seq(b'}', SliceLexer::ws_peek, |next, lexer| {
                if next != b'"' {
                    return Err(Error::Token(Expect::String));
                }
                let key = string(lexer)?;
                lexer.expect(SliceLexer::ws_peek, b':').ok_or(Expect::Colon)?;
                let next = lexer.ws_peek().ok_or(Expect::Value)?;
                fields.push((key, value(next, lexer, depth)?));
                Ok(())
            })?;
            Json::Object(fields)
        }
        _ => return Err(Expect::Value.into()),
    })
}

fn string(lexer: &mut SliceLexer<'_>) -> Result<String, Error> {
    Ok(lexer.discarded().str_string()?.into_owned())
}

fn problem(error: &Error) -> &'static str {
    match error {
        Error::Depth => "nested too deeply",
        Error::Num(_) => "expected a digit",
        Error::Str(str::Error::Control) => "a control character in a string",
        Error::Str(str::Error::Escape(_)) => "an invalid escape in a string",
        Error::Str(str::Error::Eof) => "a string does not end",
        Error::Str(str::Error::Utf8(_)) => "a string is not UTF-8",
        Error::Token(Expect::Value) => "expected a value",
        Error::Token(Expect::ValueOrEnd) => "expected a value or the end",
        Error::Token(Expect::CommaOrEnd) => "expected a comma or the end",
        Error::Token(Expect::String) => "expected a field's name in quotes",
        Error::Token(Expect::Colon) => "expected a colon",
        Error::Token(Expect::Eof) => "expected nothing more",
    }
}

/// A number while its text is read: exact up to 15 digits, and far more than 15 are in no configuration.
#[derive(Default)]
struct Decimal {
    /// The digits as a whole number.
    digits: f64,
    /// How many of them are decimals, once there was a point.
    decimals: Option<i32>,
    /// The exponent, once there was an `e`, and whether it is negative.
    exponent: Option<i32>,
    negative: bool,
}

impl Decimal {
    fn push(&mut self, byte: u8) {
        match (byte, &mut self.exponent) {
            (b'0'..=b'9', Some(exponent)) => *exponent = (*exponent * 10 + i32::from(byte - b'0')).min(1_000),
            (b'0'..=b'9', None) => {
                self.digits = self.digits * 10.0 + f64::from(byte - b'0');
                self.decimals.iter_mut().for_each(|decimals| *decimals = decimals.saturating_add(1));
            }
            (b'.', _) => self.decimals = Some(0),
            (b'-', _) => self.negative = true,
            (b'+', _) => {}
            _ => self.exponent = Some(0),
        }
    }

    fn json(&self, negative: bool) -> Json {
        let exponent = self.exponent.unwrap_or(0);
        let exponent = if self.negative { -exponent } else { exponent }.saturating_sub(self.decimals.unwrap_or(0));
        // A power of ten is exact up to 22, so there is one rounding: the double nearest to what was written.
        let power = (0..exponent.unsigned_abs().min(308)).fold(1.0, |power, _| power * 10.0);
        let value = if exponent < 0 { self.digits / power } else { self.digits * power };
        Json::number(if negative { -value } else { value })
    }
}
