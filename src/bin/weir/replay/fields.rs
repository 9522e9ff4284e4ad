//! The fields of a line that are read, whatever type a format gives them.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What is read of a line; the rest is left.
#[derive(serde::Deserialize)]
#[serde(default)]
#[derive(Default)]
pub struct Fields<'a> {
    #[serde(borrow)]
    pub log: Word<'a>,
    pub start_time: Word<'a>,
    pub duration: Word<'a>,
    pub method: Word<'a>,
    pub route_name: Word<'a>,
    pub upstream_cluster: Word<'a>,
    pub upstream_host: Word<'a>,
    pub upstream_local_address: Word<'a>,
    pub response_code: Word<'a>,
    pub response_flags: Word<'a>,
    pub response_code_details: Word<'a>,
    pub upstream_transport_failure_reason: Word<'a>,
    #[serde(alias = "attempt_count")]
    pub upstream_request_attempt_count: Word<'a>,
    pub grpc_status: Word<'a>,
    pub grpc_trailer: Word<'a>,
    pub content_type: Word<'a>,
    pub idempotency_key: Word<'a>,
    pub retry_after: Word<'a>,
    pub overloaded: Word<'a>,
    pub grpc_pushback: Word<'a>,
    pub grpc_pushback_trailer: Word<'a>,
    pub proxy_status: Word<'a>,
    pub stream_id: Word<'a>,
    pub request_id: Word<'a>,
    /// The name that Envoy Gateway has for it.
    #[serde(rename = "x-request-id")]
    pub x_request_id: Word<'a>,
    /// What Weir said of it: `%FILTER_STATE(wasm.weir.verdict:PLAIN)%`.
    pub weir_verdict: Word<'a>,
}

/// A value of whatever type: operators of Envoy write numbers where there is one, and null or "-" where there is none.
#[derive(Default)]
pub enum Word<'a> {
    #[default]
    None,
    Number(f64),
    Text(Cow<'a, str>),
}

impl<'a> From<&'a str> for Word<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }
}

impl Word<'_> {
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) if &**text != "-" => text,
            _ => "",
        }
    }

    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
            Self::None => None,
        }
    }

    pub fn whole(&self) -> Option<u32> {
        self.number().filter(|number| *number >= 0.0).map(|number| number as u32)
    }

    /// Whether a gRPC retry pushback is there, and no number of milliseconds: then it says not to retry (gRFC A6).
    pub fn is_no_delay(&self) -> bool {
        match self {
            Self::Number(number) => *number < 0.0 || number.fract() != 0.0,
            _ => self.is_there() && self.text().trim().parse::<u32>().is_err(),
        }
    }

    pub fn is_there(&self) -> bool {
        matches!(self, Self::Number(_)) || !self.text().is_empty()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Word<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = Word<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Word<'de>, E> {
                Ok(Word::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Word<'de>, E> {
                Ok(Word::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Word<'de>, E> {
                Ok(Word::Number(number as f64))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Word<'de>, E> {
                Ok(Word::Number(number as f64))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Word<'de>, E> {
                Ok(Word::Number(number))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Word<'de>, E> {
                Ok(Word::None)
            }
            fn visit_unit<E>(self) -> Result<Word<'de>, E> {
                Ok(Word::None)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Word<'de>, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Word::None)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Word<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Word::None)
            }
        }
        deserializer.deserialize_any(Words)
    }
}
