//! Properties: no input panics or forges a log line; patterns and durations against naive models.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use weir::config::{Glob, duration, parse};

use super::structs;

/// Names and values that mean something, so that random configurations get past the first field.
const NAMES: [&str; 29] = [
    "role",
    "mode",
    "retry",
    "clusters",
    "match",
    "maxRetries",
    "budget",
    "percent",
    "interval",
    "minRetryRate",
    "count",
    "statusCodes",
    "idempotentMethods",
    "perTryTimeout",
    "adaptive",
    "quantile",
    "min",
    "factor",
    "outlierDetection",
    "reset",
    "error",
    "baseEjectionTime",
    "maxEjectionPercent",
    "probeSuccesses",
    "circuitBreaker",
    "minRequests",
    "openTime",
    "header",
    "steering",
];
const WORDS: [&str; 9] = ["decide", "watch", "shadow", "10s", "1h", "99999h", "*", "GET", "unavailable"];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-5_i64..700).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        prop::sample::select(&WORDS[..]).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    let name = prop_oneof![9 => prop::sample::select(&NAMES[..]).prop_map(String::from), 1 => any::<String>()];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..6).prop_map(|fields| Value::from(Map::from_iter(fields))),
        ]
    })
}

/// `json` with numbers that are read and printed alike whoever does it: doubles with two decimals.
fn with_plain_numbers(json: Value) -> Value {
    match json {
        Value::Number(number) => {
            json!((number.as_f64().unwrap_or_default() % 1e6 * 100.0).round() / 100.0)
        }
        Value::Array(items) => items.into_iter().map(with_plain_numbers).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, json)| (name, with_plain_numbers(json))).collect(),
        other => other,
    }
}

/// `json` as a protobuf `Value`.
fn value(json: &Value) -> Vec<u8> {
    match json {
        Value::Null => structs::null(),
        Value::Bool(value) => structs::bool(*value),
        Value::Number(number) => structs::number(number.as_f64().unwrap()),
        Value::String(text) => structs::text(text),
        Value::Array(items) => structs::list(&items.iter().map(value).collect::<Vec<_>>()),
        Value::Object(fields) => structs::object(&values(fields)),
    }
}

fn values(fields: &Map<String, Value>) -> Vec<(&String, Vec<u8>)> {
    fields.iter().map(|(name, json)| (name, value(json))).collect()
}

/// The obvious matcher, which tries every run that a star could stand for.
fn naive(pattern: &[char], name: &[char]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some(('*', rest)) => (0..=name.len()).any(|skip| naive(rest, &name[skip..])),
        Some((c, rest)) => name.first() == Some(c) && naive(rest, &name[1..]),
    }
}

fn check(bytes: &[u8]) {
    if let Err(error) = parse(bytes) {
        let message = error.to_string();
        assert!(message.bytes().all(|b| (b' '..=b'~').contains(&b)), "{message:?} is no line of printable ASCII");
        assert!(message.len() < 2_000, "{} bytes in {message}", message.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_json_panics(json in any_json()) {
        check(json.to_string().as_bytes());
        check(json!({ "retry": json }).to_string().as_bytes());
        check(json!({ "outlierDetection": json }).to_string().as_bytes());
        check(json!({ "circuitBreaker": json }).to_string().as_bytes());
        check(json!({ "clusters": [{ "match": "c", "retry": json }] }).to_string().as_bytes());
    }

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        check(&bytes);
    }

    #[test]
    fn a_struct_means_what_its_json_means(json in any_json(), near in any::<bool>()) {
        let json = with_plain_numbers(json);
        let json = if near { json!({ "retry": json }) } else { json!({ "clusters": [{ "match": "c", "retry": json }] }) };
        let message = structs::message(&values(json.as_object().unwrap()));
        prop_assert_eq!(parse(&message), parse(json.to_string().as_bytes()));
    }

    #[test]
    fn no_broken_struct_panics(json in any_json(), at: prop::sample::Index, byte: u8, length: prop::sample::Index) {
        let mut message = structs::message(&[("retry", value(&json))]);
        check(&message[..length.index(message.len())]);
        let at = at.index(message.len());
        message[at] = byte;
        check(&message);
    }

    #[test]
    fn a_role_and_numbers_as_doubles_mean_the_same(retries in 0_u32..=10, status in 430_u16..600) {
        let whole = json!({ "retry": { "maxRetries": retries, "statusCodes": [status] } });
        let double = json!({ "role": "decide",
            "retry": { "maxRetries": f64::from(retries), "statusCodes": [f64::from(status)] } });
        prop_assert_eq!(parse(whole.to_string().as_bytes()), parse(double.to_string().as_bytes()));
    }

    #[test]
    fn patterns_match_as_the_naive_matcher_does(pattern in "[ab*é]{0,8}", name in "[abé]{0,12}") {
        let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
        prop_assert_eq!(Glob::new(&pattern).matches(&name), naive(&p, &n));
    }

    #[test]
    fn durations_are_read_back(millis in 0_u64..99_999 * 3_600_000) {
        let given = std::time::Duration::from_millis(millis);
        prop_assert_eq!(duration::parse(&duration::text(given)), Some(given));
    }

    #[test]
    fn durations_are_what_gep_2257_says(text in "([0-9]{0,6}(h|m|s|ms|d| |-)?){0,5}") {
        prop_assert_eq!(duration::parse(&text).is_some(), is_gep_2257(&text), "{}", text);
    }
}

/// `^([0-9]{1,5}(h|m|s|ms)){1,4}$`, by trying every first part.
fn is_gep_2257(text: &str) -> bool {
    fn parts(text: &str, left: u32) -> bool {
        text.is_empty()
            || (left > 0
                && (1..=5).any(|digits| {
                    let Some((number, rest)) = text.split_at_checked(digits) else { return false };
                    let units = ["h", "m", "s", "ms"];
                    number.bytes().all(|b| b.is_ascii_digit())
                        && units.iter().any(|unit| rest.strip_prefix(unit).is_some_and(|rest| parts(rest, left - 1)))
                }))
    }
    !text.is_empty() && parts(text, 4)
}
