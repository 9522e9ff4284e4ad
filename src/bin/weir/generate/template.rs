//! A shipped file as a template.
//!
//! What is about the example service is the smallest thing that names it: a line of the policy's text, an item of a list, else the
//! whole document. That is repeated for each service. Everything else is there once.

use serde::Deserialize as _;
use serde_json::{Map, Value};

/// What names of the example become; longer ones first.
#[derive(Clone, Debug, Default)]
pub struct Names(Vec<(&'static str, String)>);

impl Names {
    pub fn new<const N: usize>(names: [(&'static str, String); N]) -> Self {
        Self(names.to_vec())
    }

    /// These, and where they say nothing, those.
    fn and(&self, others: &Self) -> Self {
        Self(self.0.iter().chain(&others.0).cloned().collect())
    }

    /// A text with one's own names in it. A name counts where it stands as a word.
    fn put(&self, text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        'text: while let Some(letter) = rest.chars().next() {
            for (example, own) in &self.0 {
                let before = out.chars().next_back().is_none_or(|before| !is_part(before));
                if let Some(after) = rest.strip_prefix(example).filter(|_| before)
                    && after.chars().next().is_none_or(|after| !is_part(after))
                {
                    out.push_str(own);
                    rest = after;
                    continue 'text;
                }
            }
            out.push(letter);
            rest = rest.split_at(letter.len_utf8()).1;
        }
        out
    }

    fn put_everywhere(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.put(text).into(),
            Value::Array(items) => items.iter().map(|item| self.put_everywhere(item)).collect(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, field)| (name.clone(), self.put_everywhere(field)))
                .collect::<Map<_, _>>()
                .into(),
            other => other.clone(),
        }
    }
}

fn is_part(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '-' || letter == '_'
}

/// The documents of a shipped file.
pub fn documents(text: &str) -> Result<Vec<Value>, String> {
    serde_yaml_ng::Deserializer::from_str(text)
        .map(|document| {
            let mut value = serde_yaml_ng::Value::deserialize(document)?;
            value.apply_merge()?;
            serde_yaml_ng::from_value(value)
        })
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

/// The documents with one's own names: what is about `example` for each of `each`, the rest with the names `around` it.
pub fn expand(documents: &[Value], example: &str, around: &Names, each: &[Names]) -> Vec<Value> {
    items(documents, example, around, each)
}

fn items(values: &[Value], example: &str, around: &Names, each: &[Names]) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::new();
    for value in values {
        if !by_itself(value, example) {
            out.push(inside(value, example, around, each));
            continue;
        }
        let from = out.len();
        for names in each {
            let own = names.and(around).put_everywhere(value);
            // Two rules of a route have one traffic policy.
            if !out.get(from..).is_some_and(|made| made.contains(&own)) {
                out.push(own);
            }
        }
    }
    out
}

/// What lies deeper.
fn inside(value: &Value, example: &str, around: &Names, each: &[Names]) -> Value {
    match value {
        Value::Array(values) => items(values, example, around, each).into(),
        Value::Object(fields) => {
            let inside = |(name, field): (&String, &Value)| (name.clone(), inside(field, example, around, each));
            fields.iter().map(inside).collect::<Map<_, _>>().into()
        }
        Value::String(text) if text.contains('\n') => {
            let mut out = String::new();
            for line in text.split_inclusive('\n') {
                if mentions(line, example) {
                    each.iter().for_each(|names| out.push_str(&names.and(around).put(line)));
                } else {
                    out.push_str(&around.put(line));
                }
            }
            out.into()
        }
        Value::String(text) => around.put(text).into(),
        other => other.clone(),
    }
}

/// Whether it names the example itself, and not in a list or a line of a text.
fn by_itself(value: &Value, example: &str) -> bool {
    match value {
        Value::String(text) => !text.contains('\n') && mentions(text, example),
        Value::Object(fields) => fields.values().any(|field| by_itself(field, example)),
        _ => false,
    }
}

/// Whether it stands there as a word, or as the first part of a host's name or a path.
fn mentions(text: &str, example: &str) -> bool {
    text.match_indices(example).any(|(at, _)| {
        let (before, rest) = text.split_at(at);
        let after = rest.split_at(example.len()).1;
        before.chars().next_back().is_none_or(|before| !is_part(before))
            && after.chars().next().is_none_or(|after| !is_part(after))
    })
}

/// Changes every object.
pub fn each_object(value: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| each_object(item, change)),
        Value::Object(fields) => {
            change(fields);
            fields.values_mut().for_each(|field| each_object(field, change));
        }
        _ => {}
    }
}

/// Leaves out the resources for native retries, timeouts and outlier detection: they take effect whatever Weir's mode is, and in
/// place of those that the service has.
pub fn leave_traffic(all: &mut Vec<Value>) {
    let native = ["VirtualService", "DestinationRule", "BackendTrafficPolicy"];
    all.retain(|document| !document.get("kind").and_then(Value::as_str).is_some_and(|kind| native.contains(&kind)));
}

/// Sets the policy's mode, in text or as an object.
pub fn shadow(value: &mut Value) {
    match value {
        Value::String(text) if text.contains("\"role\": \"decide\"") => {
            *text = if text.contains("\"mode\": \"enforce\"") {
                text.replace("\"mode\": \"enforce\"", "\"mode\": \"shadow\"")
            } else {
                text.replace("\"role\": \"decide\"", "\"role\": \"decide\", \"mode\": \"shadow\"")
            };
        }
        Value::Array(items) => items.iter_mut().for_each(shadow),
        Value::Object(fields) => {
            if fields.get("role").and_then(Value::as_str) == Some("decide") {
                fields.insert("mode".to_owned(), "shadow".into());
            }
            fields.values_mut().for_each(shadow);
        }
        _ => {}
    }
}

/// As YAML.
pub fn write(intro: &str, documents: &[Value]) -> Result<String, String> {
    let mut out = intro.to_owned();
    for (position, document) in documents.iter().enumerate() {
        if position > 0 {
            out.push_str("---\n");
        }
        out.push_str(&serde_yaml_ng::to_string(document).map_err(|error| error.to_string())?);
    }
    Ok(out)
}
