//! A JSON value that keeps what a map loses: a key that occurs twice.
//!
//! Of two equal keys a map keeps one, and which of the two settings then counts is luck. Here objects are lists, so that
//! [`super::reader`] can refuse the second and name its path.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JSON value; objects keep their order and their duplicates.
#[derive(Debug)]
pub(super) enum Json {
    Null,
    Bool(bool),
    /// A number, however it was written: Envoy's `Struct` knows doubles only, so 3 may arrive as `3.0`.
    Number(f64),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// Reads a JSON text. The error says what is wrong, and where.
pub(super) fn parse(text: &[u8]) -> Result<Json, serde_json::Error> {
    let mut json = Json::Null;
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    Place(&mut json).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(json)
}

/// Where a value is put, once it is read.
struct Place<'a>(&'a mut Json);

impl<'de> DeserializeSeed<'de> for Place<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Place<'_> {
    type Value = ();

    /// For an error about a value of another kind, which there is not.
    fn expecting(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        *self.0 = Json::Bool(value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        *self.0 = Json::Number(value as f64);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        *self.0 = Json::Number(value as f64);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        *self.0 = Json::Number(value);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        *self.0 = Json::Text(value.to_owned());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let mut items = Vec::new();
        loop {
            let mut item = Json::Null;
            if sequence.next_element_seed(Place(&mut item))?.is_none() {
                break;
            }
            items.push(item);
        }
        *self.0 = Json::Array(items);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut fields = Vec::new();
        loop {
            let (mut key, mut value) = (Json::Null, Json::Null);
            if map.next_key_seed(Place(&mut key))?.is_none() {
                break;
            }
            map.next_value_seed(Place(&mut value))?;
            if let Json::Text(key) = key {
                fields.push((key, value));
            }
        }
        *self.0 = Json::Object(fields);
        Ok(())
    }
}
