//! Reads a `google.protobuf.Struct` in protobuf's wire format.
//!
//! Envoy hands a plugin configuration of type `StringValue` over as its text, but a `Struct`, the type that is convenient
//! in YAML, as serialized protobuf. The messages are few and fixed, so a library would bring more code than this is. From
//! [struct.proto](https://protobuf.dev/reference/protobuf/google.protobuf/#struct), with the tag of each field, which is
//! eight times its number plus how it is written (0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes):
//!
//! ```text
//! Struct      0a: an entry, repeated
//! entry       0a: key   12: Value
//! Value       one of   08: null (enum)   11: double   1a: string   20: bool   2a: Struct   32: ListValue
//! ListValue   0a: Value, repeated
//! ```

use super::json::Json;

/// Deepest nesting of values, as in JSON. The configuration needs six.
const MAX_DEPTH: u32 = 128;

/// The object that `bytes` are a `Struct` of; `None` if they are none, or are broken.
///
/// What this accepts is never text, so that broken JSON cannot pass for a `Struct` of unknown fields, which are skipped as
/// protobuf demands: there must be an entry, and the tag of its value, 12, is a control character.
pub(super) fn decode(bytes: &[u8]) -> Option<Json> {
    let entries = object(bytes, MAX_DEPTH)?;
    if entries.is_empty() { None } else { Some(Json::Object(entries)) }
}

fn object(mut message: &[u8], depth: u32) -> Option<Vec<(String, Json)>> {
    let mut entries = Vec::new();
    while !message.is_empty() {
        let field = Field::take(&mut message)?;
        if field.tag == 0x0a {
            // A key that occurs twice is kept twice, for the reader to refuse it.
            entries.push(entry(field.bytes, depth)?);
        }
    }
    Some(entries)
}

fn entry(mut message: &[u8], depth: u32) -> Option<(String, Json)> {
    let (mut key, mut json) = (None, None);
    while !message.is_empty() {
        let field = Field::take(&mut message)?;
        match field.tag {
            0x0a => key = Some(text(field.bytes)?),
            0x12 => json = Some(value(field.bytes, depth)?),
            _ => {}
        }
    }
    key.zip(json)
}

fn array(mut message: &[u8], depth: u32) -> Option<Vec<Json>> {
    let mut items = Vec::new();
    while !message.is_empty() {
        let field = Field::take(&mut message)?;
        if field.tag == 0x0a {
            items.push(value(field.bytes, depth)?);
        }
    }
    Some(items)
}

fn value(mut message: &[u8], depth: u32) -> Option<Json> {
    let depth = depth.checked_sub(1)?;
    let mut json = None;
    while !message.is_empty() {
        let field = Field::take(&mut message)?;
        json = Some(match field.tag {
            0x08 => Json::Null,
            0x11 => Json::Number(f64::from_bits(field.number)),
            0x1a => Json::Text(text(field.bytes)?),
            0x20 => Json::Bool(field.number != 0),
            0x2a => Json::Object(object(field.bytes, depth)?),
            0x32 => Json::Array(array(field.bytes, depth)?),
            _ => continue,
        });
    }
    json
}

fn text(bytes: &[u8]) -> Option<String> {
    Some(str::from_utf8(bytes).ok()?.to_owned())
}

/// A field: its tag, and its content as a number or as bytes. Of one that occurs twice, the last counts.
struct Field<'a> {
    tag: u64,
    number: u64,
    bytes: &'a [u8],
}

impl<'a> Field<'a> {
    /// Takes the next one off a message.
    fn take(message: &mut &'a [u8]) -> Option<Self> {
        let tag = varint(message)?;
        let (mut number, mut length) = (0, 0);
        match tag & 7 {
            0 => number = varint(message)?,
            1 => length = 8,
            2 => length = usize::try_from(varint(message)?).ok()?,
            5 => length = 4,
            // Groups, which proto3 does not have.
            _ => return None,
        }
        let (bytes, rest) = message.split_at_checked(length)?;
        *message = rest;
        if let Ok(bits) = bytes.try_into() {
            number = u64::from_le_bytes(bits);
        }
        Some(Self { tag, number, bytes })
    }
}

/// Seven bits a byte, the lowest first; the eighth says that more follow, up to ten bytes.
fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
