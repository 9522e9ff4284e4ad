//! A value in a file, and what is found below it.

use serde_json::Value;

use super::file::File;

/// A value, and where it stands.
#[derive(Clone)]
pub struct Node<'a> {
    pub file: &'a File,
    pub place: String,
    pub value: &'a Value,
}

impl<'a> Node<'a> {
    /// A field, whose name may be written as Envoy writes it or as JSON does: `retry_on`, `retryOn`.
    pub fn get(&self, name: &str) -> Option<Self> {
        let camel = camel(name);
        let (name, value) = [name, &camel].into_iter().find_map(|name| Some((name, self.value.get(name)?)))?;
        if value.is_null() {
            return None;
        }
        let place = if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) };
        Some(Self { file: self.file, place, value })
    }

    /// A field of a field: `spec.workloadSelector`.
    pub fn at(&self, path: &str) -> Option<Self> {
        path.split('.').try_fold(self.clone(), |node, name| node.get(name))
    }

    /// The items of a list below it.
    pub fn items(&self, path: &str) -> Vec<Self> {
        let list = if path.is_empty() { Some(self.clone()) } else { self.at(path) };
        let Some(list) = list else { return Vec::new() };
        let items = list.value.as_array().into_iter().flatten().enumerate();
        items
            .map(|(position, value)| Self { file: list.file, place: format!("{}[{position}]", list.place), value })
            .collect()
    }

    /// A text below it, or none.
    pub fn text(&self, path: &str) -> &'a str {
        self.at(path).and_then(|node| node.value.as_str()).unwrap_or_default()
    }

    /// A number below it.
    pub fn number(&self, path: &str) -> Option<f64> {
        let value = self.at(path)?.value;
        value.as_f64().or_else(|| value.as_str()?.parse().ok())
    }

    /// Seconds of a duration: `0.5s`, `500ms`, `1m30s`.
    pub fn seconds(&self, path: &str) -> Option<f64> {
        seconds(self.at(path)?.value.as_str()?)
    }

    /// What kind of message it is: the end of its `@type`.
    pub fn kind(&self) -> &'a str {
        let kind = self.value.get("@type").and_then(Value::as_str).unwrap_or_default();
        kind.rsplit('.').next().unwrap_or_default()
    }

    /// All objects below it, and itself.
    pub fn objects(&self) -> Vec<Self> {
        let mut all = Vec::new();
        self.visit(&mut all);
        all
    }

    fn visit(&self, all: &mut Vec<Self>) {
        match self.value {
            Value::Array(_) => self.items("").iter().for_each(|item| item.visit(all)),
            Value::Object(fields) => {
                all.push(self.clone());
                fields.keys().filter_map(|name| self.get(name)).for_each(|field| field.visit(all));
            }
            _ => {}
        }
    }

    /// Whether a text stands anywhere in it.
    pub fn mentions(&self, text: &str) -> bool {
        match self.value {
            Value::String(own) => own.contains(text),
            Value::Array(_) => self.items("").iter().any(|item| item.mentions(text)),
            Value::Object(fields) => fields.keys().filter_map(|name| self.get(name)).any(|field| field.mentions(text)),
            _ => false,
        }
    }

    /// `metadata.name` and `metadata.namespace` of a resource of Kubernetes.
    pub fn name(&self) -> &'a str {
        self.text("metadata.name")
    }

    pub fn namespace(&self) -> &'a str {
        let namespace = self.text("metadata.namespace");
        if namespace.is_empty() { "default" } else { namespace }
    }
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let mut camel = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        camel.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        camel.push_str(letters.as_str());
    }
    camel
}

fn seconds(text: &str) -> Option<f64> {
    let (mut rest, mut sum) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let unit = match unit {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" => 1e-6,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * unit;
        rest = after;
    }
    Some(sum)
}
