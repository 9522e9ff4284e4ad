//! The JSON Schema that editors use (`envoy/policy.schema.json`) says what the module's parser says, where a schema can.
//!
//! No crate checks it: those that know JSON Schema bring second versions of what is here already, which `./build.sh deny` refuses.
//! What the schema uses is little, and a keyword that is not known here fails the tests.

use std::sync::LazyLock;
use std::time::Duration;

use regex::Regex;
use serde_json::{Map, Value, json};
use weir::config::{duration, parse};

static SCHEMA: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../envoy/policy.schema.json")).unwrap());

/// What a schema cannot say, in the parser's words.
const BEYOND: [&str; 6] = [
    "is out of range: expected a duration",
    "decimals: expected",
    "is longer than",
    "given twice",
    "stands in an earlier entry",
    "are too many: expected at most",
];

/// The schema agrees with the parser about `policy`.
#[track_caller]
pub fn agrees(policy: &str) {
    let Ok(value) = serde_json::from_str::<Value>(policy) else { return };
    if value.is_string() {
        return; // which holds the policy
    }
    match (parse(policy.as_bytes()), complaint(&SCHEMA, &value)) {
        (Ok(_), Some(complaint)) => panic!("the schema refuses {policy}: {complaint}"),
        (Err(error), None) => {
            let error = error.to_string();
            assert!(BEYOND.iter().any(|beyond| error.contains(beyond)), "the schema accepts {policy}: {error}");
        }
        _ => {}
    }
}

fn resolved(schema: &'static Value) -> &'static Value {
    match schema["$ref"].as_str() {
        Some(place) => SCHEMA.pointer(place.trim_start_matches('#')).expect(place),
        None => schema,
    }
}

/// Why `value` does not fit `schema`.
fn complaint(schema: &'static Value, value: &Value) -> Option<String> {
    let rules = match resolved(schema) {
        Value::Bool(true) => return None,
        Value::Bool(false) => return Some(format!("{value} may not be there")),
        schema => schema.as_object().expect("a schema is an object"),
    };
    let fits = |schema: &'static Value| complaint(schema, value).is_none();
    let list = |name: &str| rules[name].as_array().unwrap().iter();
    let empty = Map::new();
    let fields = value.as_object().unwrap_or(&empty);
    for (name, rule) in rules {
        let holds = match name.as_str() {
            "$schema" | "title" | "description" | "default" | "definitions" | "x-weir-range" | "then" | "else" => true,
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "number" => value.is_number(),
                "integer" => value.as_f64().is_some_and(|number| number.fract() == 0.0),
                other => panic!("type {other}"),
            },
            "enum" => list(name).any(|one| one == value),
            "const" => rule == value,
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().unwrap()),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 >= rule.as_u64().unwrap()),
            "maxItems" => value.as_array().is_none_or(|items| items.len() as u64 <= rule.as_u64().unwrap()),
            "pattern" => {
                let pattern = Regex::new(rule.as_str().unwrap()).unwrap();
                value.as_str().is_none_or(|text| pattern.is_match(text))
            }
            "required" => !value.is_object() || list(name).all(|name| fields.contains_key(name.as_str().unwrap())),
            "anyOf" => list(name).any(fits),
            "allOf" => list(name).all(fits),
            "not" => !fits(rule),
            "if" => fits(if fits(rule) { &rules["then"] } else { rules.get("else").unwrap_or(&Value::Bool(true)) }),
            "items" => value.as_array().is_none_or(|items| items.iter().all(|item| complaint(rule, item).is_none())),
            "properties" => {
                let known = rule.as_object().unwrap().iter();
                known
                    .filter_map(|(name, rule)| Some((rule, fields.get(name)?)))
                    .all(|(rule, it)| complaint(rule, it).is_none())
            }
            "additionalProperties" => {
                assert_eq!(*rule, Value::Bool(false));
                fields.keys().all(|name| !rules["properties"][name].is_null())
            }
            "propertyNames" => fields.keys().all(|name| complaint(rule, &Value::from(name.as_str())).is_none()),
            other => panic!("the schema has {other}, which is not known here"),
        };
        if !holds {
            return Some(format!("{value} against {name} {rule}"));
        }
    }
    None
}

/// A place in a policy: its path as in docs/settings.md, its schema, and a policy that has a value there.
struct Place {
    path: String,
    schema: &'static Value,
    put: Box<dyn Fn(Value) -> Value>,
}

/// All places below, objects and what is in them.
fn places(path: &str, schema: &'static Value, put: std::rc::Rc<dyn Fn(Value) -> Value>, all: &mut Vec<Place>) {
    let schema = resolved(schema);
    let own = put.clone();
    all.push(Place { path: path.to_owned(), schema, put: Box::new(move |value| own(value)) });
    for one in schema["anyOf"].as_array().into_iter().flatten().map(resolved) {
        if one["enum"].is_null() {
            places(path, one, put.clone(), all);
        }
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        // What must be there beside it.
        let others: Map<String, Value> = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|name| name.as_str().unwrap())
            .map(|name| (name.to_owned(), schema["properties"][name].get("default").cloned().unwrap_or(json!("a"))))
            .collect();
        let (put, key) = (put.clone(), name.clone());
        let put = move |value| {
            let mut object = others.clone();
            object.insert(key.clone(), value);
            put(Value::Object(object))
        };
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        places(&path, field, std::rc::Rc::new(put), all);
    }
    if !schema["items"].is_null() {
        places(&format!("{path}[]"), &schema["items"], std::rc::Rc::new(move |value| put(json!([value]))), all);
    }
}

fn all_places() -> Vec<Place> {
    let mut all = Vec::new();
    places("", &SCHEMA, std::rc::Rc::new(|value| value), &mut all);
    assert!(all.len() > 80, "{} places", all.len());
    all
}

fn refusal(policy: &Value) -> Option<String> {
    parse(policy.to_string().as_bytes()).err().map(|error| error.to_string())
}

#[test]
fn ranges_are_those_of_the_parser() {
    let mut seen = 0;
    for Place { path, schema, put } in all_places() {
        let number = schema["minimum"].as_f64().zip(schema["maximum"].as_f64());
        let (inside, outside): (Vec<Value>, Vec<Value>) = if let Some((from, to)) = number {
            let step = if schema["type"] == "integer" { 1.0 } else { 0.0001 };
            let exact = |number: f64| if step == 1.0 { json!(number as i64) } else { json!(number) };
            (vec![exact(from), exact(to)], vec![exact(from - step), exact(to + step)])
        } else if let Some(range) = schema["x-weir-range"].as_array() {
            let [from, to] = [0, 1].map(|end| duration::parse(range[end].as_str().unwrap()).unwrap());
            let ms = Duration::from_millis(1);
            let words = |time| Value::from(duration::text(time));
            (range.clone(), vec![words(from - ms), words(to + ms)])
        } else {
            continue;
        };
        seen += 1;
        for value in inside {
            // How it gets along with others, such as a minimum with its maximum, is another matter.
            let error = refusal(&put(value.clone())).filter(|error| !error.contains("is longer than"));
            assert_eq!(error, None, "{path}: {value}");
            assert_eq!(complaint(&SCHEMA, &put(value)), None, "{path}");
        }
        for value in outside {
            let error = refusal(&put(value.clone())).unwrap_or_else(|| panic!("{path}: {value} is accepted"));
            assert!(error.contains("is out of range"), "{path}: {value}: {error}");
            agrees(&put(value).to_string());
        }
    }
    assert!(seen > 50, "{seen} ranges");
}

/// Of each object the parser itself names the fields that it knows.
#[test]
fn fields_are_those_of_the_parser() {
    let mut seen = 0;
    for Place { path, schema, put } in all_places() {
        let Some(fields) = schema["properties"].as_object() else { continue };
        let mut known: Vec<&str> = fields.keys().map(String::as_str).filter(|name| *name != "only").collect();
        known.sort_unstable();
        let error = refusal(&put(json!({"nobody": 1, "match": "a"}))).unwrap();
        let told = error.split("expected one of ").nth(1).unwrap_or_else(|| panic!("{path}: {error}"));
        let told = told.split(';').next().unwrap();
        assert_eq!(told, known.join(", "), "{path}");
        seen += 1;
    }
    assert!(seen > 15, "{seen} objects");
}

#[test]
fn what_may_be_off_is_what_the_parser_switches_off() {
    for Place { path, schema, put } in all_places().into_iter().filter(|place| !place.path.contains("[]")) {
        for off in [json!("off"), json!(false), json!(null)] {
            let policy = put(off);
            let allowed = complaint(&SCHEMA, &policy).is_none();
            assert_eq!(refusal(&policy).is_none(), allowed, "{path}: {policy}; {schema}");
        }
    }
}

#[test]
fn defaults_are_those_of_the_documented_block() {
    let page = include_str!("../../docs/settings.md");
    let block = page.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let defaults: Value = serde_json::from_str(block).unwrap();
    let mut seen = 0;
    for Place { path, schema, .. } in all_places() {
        if let Some(default) = schema.get("default")
            && let Some(documented) = defaults.pointer(&format!("/{}", path.replace('.', "/")))
        {
            assert_eq!(default, documented, "{path}");
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen} defaults");
}

#[test]
fn every_documented_setting_is_in_the_schema_and_no_other() {
    let page = include_str!("../../docs/settings.md");
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let names: Vec<&str> = rows
        .iter()
        .filter_map(|row| row.split(" | ").next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    let ends_alike = |path: &str, name: &str| {
        let name = name.trim_start_matches('…');
        path == name || (name.starts_with('.') && path.ends_with(name))
    };
    let paths: Vec<String> = all_places().into_iter().map(|place| place.path).collect();
    for name in &names {
        assert!(paths.iter().any(|path| ends_alike(path, name)), "{name} is not in the schema");
    }
    for path in paths.iter().filter(|path| !path.is_empty() && !path.contains("[]") && !path.ends_with(".adaptive")) {
        assert!(names.iter().any(|name| ends_alike(path, name)), "{path} is not in docs/settings.md");
    }
}

#[test]
fn example_policies_are_valid_and_say_more_than_the_defaults() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/envoy/policies");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("# yaml-language-server: $schema=../policy.schema.json\n"), "{}", path.display());
        let policy: Value = serde_yaml_ng::from_str(&text).unwrap();
        assert_eq!(refusal(&policy), None, "{}", path.display());
        assert_eq!(complaint(&SCHEMA, &policy), None, "{}", path.display());
        assert_ne!(parse(policy.to_string().as_bytes()), parse(b""), "{}", path.display());
        let page = include_str!("../../docs/policies.md");
        assert!(page.contains(&format!("../envoy/policies/{}", path.file_name().unwrap().to_string_lossy())));
        seen += 1;
    }
    assert!(seen >= 4, "{seen} policies");
}

/// What fuzzing found worth keeping.
#[test]
fn the_schema_and_the_parser_agree_about_the_kept_corpus() {
    let (mut accepted, mut refused) = (0, 0);
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz/corpus/configuration")).unwrap() {
        let Ok(text) = String::from_utf8(std::fs::read(entry.unwrap().path()).unwrap()) else { continue };
        if serde_json::from_str::<Value>(&text).is_ok() {
            if parse(text.as_bytes()).is_ok() {
                accepted += 1
            } else {
                refused += 1
            }
            agrees(&text);
        }
    }
    assert!(accepted > 5 && refused > 20, "{accepted} accepted, {refused} refused");
}
