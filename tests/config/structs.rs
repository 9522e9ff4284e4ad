//! The configuration as Envoy hands a `google.protobuf.Struct` over: in protobuf's wire format.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::config::{Config, Mode, Role, parse};

use super::{policy, refused};

/// `length` as a varint, then `content`, behind `tag`.
fn bytes(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    let mut length = content.len();
    while length > 0x7f {
        message.push(length as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    [&message, content].concat()
}

pub fn null() -> Vec<u8> {
    vec![0x08, 0]
}

pub fn number(value: f64) -> Vec<u8> {
    [&[0x11][..], &value.to_le_bytes()].concat()
}

pub fn text(value: &str) -> Vec<u8> {
    bytes(0x1a, value.as_bytes())
}

pub fn bool(value: bool) -> Vec<u8> {
    vec![0x20, value.into()]
}

pub fn list<V: AsRef<[u8]>>(items: &[V]) -> Vec<u8> {
    bytes(0x32, &items.iter().flat_map(|item| bytes(0x0a, item.as_ref())).collect::<Vec<_>>())
}

pub fn object<K: AsRef<str>>(fields: &[(K, Vec<u8>)]) -> Vec<u8> {
    bytes(0x2a, &message(fields))
}

/// A `Struct`, which as a value is an [`object`].
pub fn message<K: AsRef<str>>(fields: &[(K, Vec<u8>)]) -> Vec<u8> {
    fields.iter().flat_map(|(key, value)| entry(key.as_ref(), value)).collect()
}

fn entry(key: &str, value: &[u8]) -> Vec<u8> {
    bytes(0x0a, &[bytes(0x0a, key.as_bytes()), bytes(0x12, value)].concat())
}

#[track_caller]
fn means(message: &[u8], json: &str) {
    let expected = parse(json.as_bytes());
    assert!(expected.is_ok(), "{json}");
    assert_eq!(parse(message), expected, "for {}", message.escape_ascii());
}

#[track_caller]
fn refusal(message: &[u8]) -> String {
    match parse(message) {
        Err(error) => error.to_string(),
        Ok(config) => panic!("{} was accepted: {config:?}", message.escape_ascii()),
    }
}

/// The beginning of what is said of a `Struct` that is broken.
const NOT_JSON: &str = "configuration: not JSON: ";

#[test]
fn off() {
    let sections = ["retry", "outlierDetection", "circuitBreaker"];
    for off in [null(), bool(false), text("off")] {
        let all = sections.map(|name| (name, off.clone()));
        let entry = object(&[&[("match", text("*"))][..], &all].concat());
        let message = message(&[("steering", off.clone()), ("clusters", list(&[entry]))]);
        means(
            &message,
            r#"{"steering": null,
                "clusters": [{"match": "*", "retry": null, "outlierDetection": null, "circuitBreaker": null}]}"#,
        );
    }
}

#[test]
fn as_envoy_sends_it() {
    let watch = b"\x0a\x0f\x0a\x04role\x12\x07\x1a\x05watch";
    assert_eq!(parse(watch), Ok(Config { role: Role::Watch, policy: None, only_failures: false }));
    let decide = b"\x0a\x10\x0a\x04mode\x12\x08\x1a\x06shadow\x0a\x10\x0a\x04role\x12\x08\x1a\x06decide";
    means(decide, r#"{"mode": "shadow"}"#);
    assert_eq!(*decide, *message(&[("mode", text("shadow")), ("role", text("decide"))]));
    let retry =
        b"\x0a\x24\x0a\x05retry\x12\x1b\x2a\x19\x0a\x17\x0a\x0amaxRetries\x12\x09\x11\x00\x00\x00\x00\x00\x00\x08\x40";
    means(retry, r#"{"retry": {"maxRetries": 3}}"#);
}

#[test]
fn every_kind_of_value() {
    let budget = object(&[("percent", number(12.5)), ("interval", text("1m"))]);
    let retry = [
        ("maxRetries", number(3.0)),
        ("budget", budget),
        ("minRetryRate", null()),
        ("idempotentMethods", list(&[text("GET"), text("PROPFIND")])),
        ("statusCodes", list(&[number(503.0)])),
        ("grpcStatusCodes", list::<&[u8]>(&[])),
    ];
    let orders = object(&[("match", text("*||orders.*")), ("retry", null())]);
    let message = message(&[
        ("role", text("decide")),
        ("retry", object(&retry)),
        ("clusters", list(&[orders, object(&[("match", text("b\u{e9}"))])])),
        ("mode", text("shadow")),
    ]);
    let json = r#"{"role": "decide", "mode": "shadow",
        "retry": {"maxRetries": 3, "budget": {"percent": 12.5, "interval": "1m"}, "minRetryRate": null,
                  "idempotentMethods": ["GET", "PROPFIND"], "statusCodes": [503], "grpcStatusCodes": []},
        "clusters": [{"match": "*||orders.*", "retry": null}, {"match": "bé"}]}"#;
    means(&message, json);
    assert_eq!(policy(json).mode, Mode::Shadow);
}

#[test]
fn errors_are_those_of_json() {
    let retries = |value| message(&[("retry", object(&[("maxRetries", value)]))]);
    let table = [
        (retries(number(11.0)), "11 is out of range"),
        (retries(number(2.5)), "2.5 is not a whole number"),
        (retries(number(f64::NAN)), "NaN is not a whole number"),
        (retries(number(f64::INFINITY)), "a number of more than nine digits is out of range"),
        (retries(bool(true)), "true is not a whole number"),
        (retries(bool(false)), "false is not a whole number"),
        (retries(null()), "null is not a whole number"),
        (retries(list(&[number(1.0)])), "a list is not a whole number"),
        (retries(object::<&str>(&[])), "an object is not a whole number"),
        (retries(text("é\n")), r#""\u{e9}\u{a}" is not a whole number"#),
    ];
    for (message, problem) in table {
        assert_eq!(refusal(&message), format!("retry.maxRetries: {problem}: expected a whole number from 0 to 10"));
    }
    let share = |value| message(&[("retry", object(&[("budget", object(&[("percent", number(value))]))]))]);
    for (value, shown) in [(f64::NAN, "NaN"), (-0.5, "-0.5"), (f64::NEG_INFINITY, "a number of more than nine digits")]
    {
        let expected = format!("retry.budget.percent: {shown} is out of range: expected a number from 0 to 100");
        assert_eq!(refusal(&share(value)), expected);
    }
    let twice = message(&[("role", text("watch")), ("role", text("watch"))]);
    assert_eq!(refusal(&twice), "role: given twice");
    let unknown = message(&[("rety", null())]);
    assert!(refusal(&unknown).starts_with("rety: unknown field; "));
}

#[test]
fn numbers_with_decimals_arrive_as_text_from_yaml() {
    let adaptive = object(&[("quantile", text("0.95")), ("factor", text("2.50"))]);
    let share = object(&[("percent", text("12.5"))]);
    let retry = object(&[("budget", share), ("perTryTimeout", object(&[("adaptive", adaptive)]))]);
    let json =
        r#"{"retry": {"budget": {"percent": 12.5}, "perTryTimeout": {"adaptive": {"quantile": 0.95, "factor": 2.5}}}}"#;
    means(&message(&[("retry", retry)]), json);
    let refused = [
        ("20", r#""20" is not a number"#),
        ("1.2.3", r#""1.2.3" is not a number"#),
        (".5", r#"".5" is not a number"#),
        ("0.5%", r#""0.5%" is not a number"#),
        ("[0.5]", r#""[0.5]" is not a number"#),
        ("100.5", r#""100.5" is out of range"#),
        ("-0.5", r#""-0.5" is out of range"#),
        ("0.125", r#""0.125" has more than 2 decimals"#),
    ];
    for (given, problem) in refused {
        let message = message(&[("retry", object(&[("budget", object(&[("percent", text(given))]))]))]);
        let expected = format!("retry.budget.percent: {problem}: expected a number from 0 to 100");
        assert_eq!(refusal(&message), expected);
    }
    // Where text is expected, it stays text.
    let clusters = list(&[object(&[("match", text("1.5")), ("retry", null())])]);
    means(&message(&[("clusters", clusters)]), r#"{"clusters": [{"match": "1.5", "retry": null}]}"#);
}

#[test]
fn unknown_fields_of_the_messages_are_skipped() {
    // One of each wire type: numbers 15 (varint, fixed64, bytes, fixed32) and 1000 (varint).
    let others = b"\x78\xff\x01\x79........\x7a\x03...\x7d....\xc0\x3e\x01".to_vec();
    let role = [others.clone(), bytes(0x0a, b"role"), others.clone()];
    let watch = [others.clone(), text("watch"), others.clone()].concat();
    let entry = [role.concat(), bytes(0x12, &watch), others.clone()].concat();
    means(&[others.clone(), bytes(0x0a, &entry), others.clone()].concat(), r#"{"role": "watch"}"#);
    let items = [others.clone(), bytes(0x0a, &[others.clone(), number(500.0)].concat()), others].concat();
    means(
        &message(&[("retry", object(&[("statusCodes", bytes(0x32, &items))]))]),
        r#"{"retry": {"statusCodes": [500]}}"#,
    );
}

#[test]
fn the_first_byte_that_is_not_blank_may_be_a_brace() {
    // An entry of 0x7b bytes, and 0x7b is `{`.
    let pattern = "c".repeat(92);
    let clusters = list(&[object(&[("match", text(&pattern))])]);
    let message = message(&[("clusters", clusters)]);
    assert_eq!(message[..2], *b"\n{", "{}", message.escape_ascii());
    means(&message, &format!(r#"{{"clusters": [{{"match": "{pattern}"}}]}}"#));
}

#[test]
fn broken_json_is_not_taken_for_a_struct() {
    // All but the first are whole messages: of unknown fields, of an entry that is empty, or of one that holds such fields.
    for json in ["\n{\n  \"role\": \"watch\"", "\"\u{1}x", "*\u{1}x", "x\u{1}", "\n\u{0}", "\n\u{3}\"\u{1}x"] {
        let error = refused::refusal(json);
        assert!(error.starts_with(NOT_JSON), "{json:?}: {error}");
    }
    let expected = "configuration: not JSON: EOF while parsing an object at line 3 column 17";
    assert_eq!(refused::refusal("\n{\n  \"role\": \"watch\""), expected);
}

#[test]
fn broken_structs() {
    let whole = message(&[("role", text("watch")), ("mode", number(1.0))]);
    let first = message(&[("role", text("watch"))]).len();
    // One byte of it, a newline, is an empty configuration.
    for length in 2..whole.len() {
        if length == first {
            means(&whole[..length], r#"{"role": "watch"}"#);
        } else {
            let error = refusal(&whole[..length]);
            assert!(error.starts_with(NOT_JSON), "{length}: {error}");
        }
    }
    let broken = [
        bytes(0x0a, &bytes(0x0a, b"role")),        // an entry without a value
        bytes(0x0a, &bytes(0x12, &text("watch"))), // without a key
        entry("role", &[]),                        // a value of no kind
        entry("role", b"\x1a\x01\xff"),            // not UTF-8
        entry("role", b"\x1c"),                    // a group
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x12".to_vec(), // a length of eleven bytes
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x12".to_vec(), // a length of nearly 2^64
    ];
    for message in broken {
        let error = refusal(&message);
        assert!(error.starts_with(NOT_JSON), "{}: {error}", message.escape_ascii());
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |levels| message(&[("role", (1..levels).fold(null(), |value, _| list(&[value])))]);
    let expected = r#"role: a list is unknown: expected "decide" or "watch" or "guard""#;
    assert_eq!(refusal(&nested(128)), expected);
    let error = refusal(&nested(129));
    assert!(error.starts_with(NOT_JSON), "{error}");
    let error = refusal(&nested(1_000));
    assert!(error.starts_with(NOT_JSON), "{error}");
}
