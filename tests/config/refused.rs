//! What is refused, and with which words.

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::config::{MAX_BYTES, MAX_CLUSTERS, Policy, parse};

use super::{budget, policy, retry};

pub fn refusal(json: &str) -> String {
    #[cfg(not(target_arch = "wasm32"))]
    super::schema::agrees(json);
    match parse(json.as_bytes()) {
        Err(error) => error.to_string(),
        Ok(config) => panic!("{json} was accepted: {config:?}"),
    }
}

#[track_caller]
pub fn refuses(table: &[(&str, &str)]) {
    for (json, expected) in table {
        assert_eq!(refusal(json), *expected, "for {json}");
    }
}

/// As [`refuses`], for what stands in the `retry` section.
#[track_caller]
fn refuses_retry(table: &[(&str, &str)]) {
    for (retry, expected) in table {
        assert_eq!(refusal(&format!(r#"{{"retry": {retry}}}"#)), *expected, "for {retry}");
    }
}

#[test]
fn roles() {
    refuses(&[
        (r#"{"role": "decider"}"#, r#"role: "decider" is unknown: expected "decide" or "watch" or "guard""#),
        (r#"{"role": null}"#, r#"role: null is unknown: expected "decide" or "watch" or "guard""#),
        (r#"{"retry": null, "role": "watch"}"#, r#"retry: not with role "watch": the policy belongs to role "decide""#),
        (
            r#"{"role": "guard", "anything": 1}"#,
            r#"anything: not with role "guard": the policy belongs to role "decide""#,
        ),
        (r#"{"role": "guard", "role": "guard"}"#, "role: given twice"),
        (r#"{"role": "watch", "role": "decide"}"#, "role: given twice"),
        (r#"{"role": "decide", "role": "watch"}"#, "role: given twice"),
    ]);
}

const UNKNOWN: &str = "rty: unknown field; expected one of circuitBreaker, clusters, incidents, mode, outlierDetection, retry, role, \
                       steering";

#[test]
fn what_is_not_json() {
    refuses(&[
        ("{", "configuration: not JSON: EOF while parsing an object at line 1 column 1"),
        ("{\n  \"role\" \"watch\"}", "configuration: not JSON: expected `:` at line 2 column 10"),
        ("{} {}", "configuration: not JSON: trailing characters at line 1 column 4"),
        ("{\"role\": \"watch\",}", "configuration: not JSON: trailing comma at line 1 column 18"),
        ("{\"retry\": 1e999}", "configuration: not JSON: number out of range at line 1 column 15"),
        (
            "{\"retry\": 1e99}",
            "retry: a number of more than nine digits is not an object: expected one in braces; \"off\", false or null switch it off",
        ),
        ("null", "configuration: null is not an object: expected one in braces"),
        ("[]", "configuration: a list is not an object: expected one in braces"),
        ("\"decide\"", "configuration: \"decide\" is not an object: expected one in braces"),
        (r#""role: decide""#, r#"configuration: "role: decide" is not an object: expected one in braces"#),
        (r#""""#, r#"configuration: "" is not an object: expected one in braces"#),
        (r#""{ \"role\" }""#, "configuration: a string that is not JSON: expected `:` at line 1 column 10"),
        (r#""{ \"rty\": 1 }""#, UNKNOWN),
        (r#""{ \"mode\": \"shadow\", \"mode\": \"enforce\" }""#, "mode: given twice"),
    ]);
    let nested = "[".repeat(100_000);
    assert_eq!(refusal(&nested), "configuration: not JSON: recursion limit exceeded at line 1 column 128");
    let error = parse(b"{\"role\": \"\xff\"}").unwrap_err().to_string();
    assert_eq!(error, "configuration: not JSON: invalid unicode code point at line 1 column 11");
}

#[test]
fn too_much() {
    let large = format!("{{}}{}", " ".repeat(MAX_BYTES - 2));
    assert_eq!(policy(&large), Policy::default());
    let expected = "configuration: 1048577 bytes are too many: expected at most 1048576";
    assert_eq!(refusal(&format!("{large} ")), expected);

    let entries = |n| (0..n).map(|i| format!(r#"{{"match": "c{i}"}}"#)).collect::<Vec<_>>().join(",");
    policy(&format!(r#"{{"clusters": [{}]}}"#, entries(MAX_CLUSTERS)));
    let expected = "clusters: 1001 items are too many: expected at most 1000";
    assert_eq!(refusal(&format!(r#"{{"clusters": [{}]}}"#, entries(MAX_CLUSTERS + 1))), expected);

    let methods = vec![r#""GET""#; 33].join(",");
    let expected = "retry.idempotentMethods: 33 items are too many: expected at most 32";
    assert_eq!(refusal(&format!(r#"{{"retry": {{"idempotentMethods": [{methods}]}}}}"#)), expected);
}

#[test]
fn unknown_fields() {
    let of_retry = "expected one of alreadyRetried, budget, grpcStatusCodes, idempotencyKeyHeaders, idempotentMethods, \
                    maxRetries, minRetryRate, notProcessedHeaders, perTryTimeout, statusCodes";
    let top = "unknown field; expected one of circuitBreaker, clusters, incidents, mode, outlierDetection, retry, role, steering";
    let table = [
        (
            r#"{"retry": {"maxRetrys": 1}}"#,
            format!("retry.maxRetrys: unknown field; {of_retry}; did you mean maxRetries?"),
        ),
        (
            r#"{"retry": {"max_retries": 1}}"#,
            format!("retry.max_retries: unknown field; {of_retry}; did you mean maxRetries?"),
        ),
        (r#"{"retry": {"hedging": 1}}"#, format!("retry.hedging: unknown field; {of_retry}")),
        (r#"{"rety": {}}"#, format!("rety: {top}; did you mean retry?")),
        (r#"{"Mode": {}}"#, format!("Mode: {top}; did you mean mode?")),
        (r#"{"": 1}"#, format!("\"\": {top}")),
        (r#"{"a.b\n\"c": 1}"#, format!(r#""a.b\u{{a}}\"c": {top}"#)),
        (
            r#"{"retry": {"budget": {"minRetryRate": null}}}"#,
            "retry.budget.minRetryRate: unknown field; expected one of interval, percent".to_owned(),
        ),
        (
            r#"{"retry": {"perTryTimeout": {"adaptiv": {}}}}"#,
            "retry.perTryTimeout.adaptiv: unknown field; expected one of adaptive; did you mean adaptive?".to_owned(),
        ),
        (
            r#"{"retry": {"perTryTimeout": {"adaptive": {"p": 99}}}}"#,
            "retry.perTryTimeout.adaptive.p: unknown field; expected one of factor, max, min, quantile".to_owned(),
        ),
        (
            r#"{"clusters": [{"match": "a", "mode": "shadow"}]}"#,
            "clusters[0].mode: unknown field; expected one of circuitBreaker, match, outlierDetection, retry, route, steering"
                .to_owned(),
        ),
    ];
    for (json, expected) in &table {
        assert_eq!(refusal(json), *expected);
    }
    let long = format!(r#"{{"{}": 1}}"#, "x".repeat(100_000));
    assert_eq!(refusal(&long), format!("\"{}\"...: {top}", "x".repeat(80)));
}

#[test]
fn fields_given_twice() {
    refuses(&[
        (r#"{"mode": "shadow", "mode": "enforce"}"#, "mode: given twice"),
        (r#"{"retry": {"budget": {"percent": 1, "percent": 1}}}"#, "retry.budget.percent: given twice"),
        (r#"{"clusters": [{"match": "a", "match": "b"}]}"#, "clusters[0].match: given twice"),
    ]);
}

#[test]
fn wrong_types() {
    refuses(&[
        (r#"{"mode": 1}"#, r#"mode: 1 is unknown: expected "enforce" or "shadow""#),
        (r#"{"mode": "Shadow"}"#, r#"mode: "Shadow" is unknown: expected "enforce" or "shadow""#),
        (
            r#"{"retry": true}"#,
            "retry: true is not an object: expected one in braces; \"off\", false or null switch it off",
        ),
        (r#"{"clusters": null}"#, "clusters: null is not a list: expected one in brackets"),
        (r#"{"clusters": {}}"#, "clusters: an object is not a list: expected one in brackets"),
        (r#"{"clusters": ["a"]}"#, r#"clusters[0]: "a" is not an object: expected one in braces"#),
    ]);
    refuses_retry(&[
        (
            r#"{"maxRetries": "2"}"#,
            r#"retry.maxRetries: "2" is not a whole number: expected a whole number from 0 to 10"#,
        ),
        (r#"{"maxRetries": 2.5}"#, "retry.maxRetries: 2.5 is not a whole number: expected a whole number from 0 to 10"),
        (
            r#"{"maxRetries": null}"#,
            "retry.maxRetries: null is not a whole number: expected a whole number from 0 to 10",
        ),
        (
            r#"{"budget": 20}"#,
            "retry.budget: 20 is not an object: expected one in braces; \"off\", false or null switch it off",
        ),
        (
            r#"{"budget": {"percent": "20"}}"#,
            r#"retry.budget.percent: "20" is not a number: expected a number from 0 to 100"#,
        ),
        (r#"{"statusCodes": 503}"#, "retry.statusCodes: 503 is not a list: expected one in brackets"),
        (
            r#"{"idempotentMethods": "GET"}"#,
            r#"retry.idempotentMethods: "GET" is not a list: expected one in brackets"#,
        ),
        (r#"{"idempotentMethods": [1]}"#, "retry.idempotentMethods[0]: 1 is not a string: expected one in quotes"),
        (
            r#"{"alreadyRetried": null}"#,
            r#"retry.alreadyRetried: null is unknown: expected "unprocessed" or "any" or "none""#,
        ),
    ]);
}

#[test]
fn what_is_neither_on_nor_off() {
    let sections = ["retry", "outlierDetection", "circuitBreaker", "steering", "incidents"];
    let settings = [
        ("retry", "budget"),
        ("retry", "minRetryRate"),
        ("outlierDetection", "refused"),
        ("outlierDetection", "error"),
    ];
    let places = sections.iter().map(|name| ((*name).to_owned(), format!(r#"{{"{name}": VALUE}}"#))).chain(
        settings
            .iter()
            .map(|(section, name)| (format!("{section}.{name}"), format!(r#"{{"{section}": {{"{name}": VALUE}}}}"#))),
    );
    for (path, json) in places {
        for value in ["true", r#""on""#, r#""OFF""#, r#""""#, "0", "[]"] {
            let shown = if value == "[]" { "a list" } else { value };
            let expected = format!(
                "{path}: {shown} is not an object: expected one in braces; \"off\", false or null switch it off"
            );
            assert_eq!(refusal(&json.replace("VALUE", value)), expected);
        }
    }
    // Nothing else can be switched off, or on.
    refuses(&[
        (r#"{"mode": "off"}"#, r#"mode: "off" is unknown: expected "enforce" or "shadow""#),
        (r#"{"clusters": false}"#, "clusters: false is not a list: expected one in brackets"),
        (
            r#"{"retry": {"perTryTimeout": true}}"#,
            r#"retry.perTryTimeout: true is not a duration: expected one like "250ms" or "1m30s"; "off", false or null switch it off"#,
        ),
        (
            r#"{"retry": {"budget": {"interval": "off"}}}"#,
            r#"retry.budget.interval: "off" is not a duration: expected one like "250ms" or "1m30s""#,
        ),
    ]);
}

#[test]
fn values_out_of_range() {
    refuses_retry(&[
        (r#"{"maxRetries": 11}"#, "retry.maxRetries: 11 is out of range: expected a whole number from 0 to 10"),
        (r#"{"maxRetries": -1}"#, "retry.maxRetries: -1 is out of range: expected a whole number from 0 to 10"),
        (
            r#"{"maxRetries": 4294967297}"#,
            "retry.maxRetries: 4294967297 is out of range: expected a whole number from 0 to 10",
        ),
        (
            r#"{"budget": {"percent": 140}}"#,
            "retry.budget.percent: 140 is out of range: expected a number from 0 to 100",
        ),
        (
            r#"{"budget": {"percent": -0.5}}"#,
            "retry.budget.percent: -0.5 is out of range: expected a number from 0 to 100",
        ),
        (
            r#"{"budget": {"percent": 1e300}}"#,
            "retry.budget.percent: a number of more than nine digits is out of range: expected a number from 0 to 100",
        ),
        (
            r#"{"budget": {"percent": 0.125}}"#,
            "retry.budget.percent: 0.125 has more than 2 decimals: expected a number from 0 to 100",
        ),
        (
            r#"{"budget": {"interval": "999ms"}}"#,
            r#"retry.budget.interval: "999ms" is out of range: expected a duration from 1s to 1h"#,
        ),
        (
            r#"{"budget": {"interval": "1h1ms"}}"#,
            r#"retry.budget.interval: "1h1ms" is out of range: expected a duration from 1s to 1h"#,
        ),
        (
            r#"{"minRetryRate": {"count": 1000001, "interval": "1s"}}"#,
            "retry.minRetryRate.count: 1000001 is out of range: expected a whole number from 0 to 1000000",
        ),
        (
            r#"{"minRetryRate": {"count": 1, "interval": "0s"}}"#,
            r#"retry.minRetryRate.interval: "0s" is out of range: expected a duration from 1s to 1h"#,
        ),
        (
            r#"{"statusCodes": [503, 200]}"#,
            "retry.statusCodes[1]: 200 is out of range: expected a whole number from 400 to 599",
        ),
        (
            r#"{"perTryTimeout": "0s"}"#,
            r#"retry.perTryTimeout: "0s" is out of range: expected a duration from 1ms to 1h; "off", false or null switch it off"#,
        ),
        (
            r#"{"perTryTimeout": {"adaptive": {"quantile": 99}}}"#,
            "retry.perTryTimeout.adaptive.quantile: 99 is out of range: expected a number from 0.5 to 0.999",
        ),
        (
            r#"{"perTryTimeout": {"adaptive": {"quantile": 0.9991}}}"#,
            "retry.perTryTimeout.adaptive.quantile: 0.9991 is out of range: expected a number from 0.5 to 0.999",
        ),
        (
            r#"{"perTryTimeout": {"adaptive": {"quantile": 0.95001}}}"#,
            "retry.perTryTimeout.adaptive.quantile: 0.95001 has more than 4 decimals: expected a number from 0.5 to 0.999",
        ),
        (
            r#"{"perTryTimeout": {"adaptive": {"factor": 0.9}}}"#,
            "retry.perTryTimeout.adaptive.factor: 0.9 is out of range: expected a number from 1 to 100",
        ),
    ]);
}

#[test]
fn settings_that_contradict_each_other() {
    refuses_retry(&[
        (r#"{"minRetryRate": {"count": 5}}"#, "retry.minRetryRate.interval: missing"),
        (r#"{"minRetryRate": {"interval": "5s"}}"#, "retry.minRetryRate.count: missing"),
        (
            r#"{"minRetryRate": {"count": 5, "interval": "1m"}}"#,
            "retry: minRetryRate.interval (1m) is longer than budget.interval (10s): not every interval can reach the floor",
        ),
        (
            r#"{"perTryTimeout": {"adaptive": {"min": "20s"}}}"#,
            "retry.perTryTimeout.adaptive: min (20s) is longer than max (10s)",
        ),
        (r#"{"perTryTimeout": {}}"#, "retry.perTryTimeout.adaptive: missing"),
    ]);
    let inherited = r#"{"retry": {"minRetryRate": {"count": 5, "interval": "5s"}},
                        "clusters": [{"match": "c", "retry": {"budget": {"interval": "1500ms"}}}]}"#;
    let expected = "clusters[0].retry: minRetryRate.interval (5s) is longer than budget.interval (1s500ms): \
                    not every interval can reach the floor";
    assert_eq!(refusal(inherited), expected);
    // Without a floor there is nothing to reach; and no retries are a way to switch off in an incident.
    budget(r#"{"minRetryRate": {"count": 0, "interval": "1h"}}"#);
    budget(r#"{"maxRetries": 0, "minRetryRate": {"count": 5, "interval": "1s"}}"#);
}

#[test]
fn pushbacks_are_never_retried() {
    refuses_retry(&[
        (r#"{"statusCodes": [429]}"#, "retry.statusCodes[0]: 429 is a pushback, which is never retried: remove it"),
        (
            r#"{"grpcStatusCodes": ["internal", "resource-exhausted"]}"#,
            r#"retry.grpcStatusCodes[1]: "resource-exhausted" is a pushback, which is never retried: remove it"#,
        ),
        (
            r#"{"grpcStatusCodes": ["UNAVAILABLE"]}"#,
            r#"retry.grpcStatusCodes[0]: "UNAVAILABLE" is unknown: expected "cancelled" or "deadline-exceeded" or "internal" or "unavailable""#,
        ),
    ]);
}

#[test]
fn names_of_methods_and_headers() {
    let tokens = "expected 1 to 128 letters, digits or !#$%&'*+-.^_`|~";
    let header = "retry.idempotencyKeyHeaders[0]";
    let table = [
        (
            r#"{"idempotentMethods": ["GET "]}"#,
            format!(r#"retry.idempotentMethods[0]: "GET " is not a method: {tokens}"#),
        ),
        (r#"{"idempotentMethods": [""]}"#, format!(r#"retry.idempotentMethods[0]: "" is not a method: {tokens}"#)),
        (
            r#"{"idempotencyKeyHeaders": ["x:y"]}"#,
            format!(r#"{header}: "x:y" is not the name of a header field: {tokens}"#),
        ),
        (
            r#"{"idempotencyKeyHeaders": ["é\r\nx"]}"#,
            format!(r#"{header}: "\u{{e9}}\u{{d}}\u{{a}}x" is not the name of a header field: {tokens}"#),
        ),
        (
            r#"{"notProcessedHeaders": ["x-shed", "x shed"]}"#,
            format!(r#"retry.notProcessedHeaders[1]: "x shed" is not the name of a header field: {tokens}"#),
        ),
        (
            r#"{"idempotencyKeyHeaders": [":path"]}"#,
            format!(r#"{header}: ":path" is a pseudo-header: expected the name of a header field"#),
        ),
    ];
    for (retry, expected) in &table {
        assert_eq!(refusal(&format!(r#"{{"retry": {retry}}}"#)), *expected);
    }
    assert_eq!(retry(r#"{"idempotencyKeyHeaders": ["!#$%&'*+-.^_`|~09"]}"#).idempotency_key_headers.len(), 1);
    let long = "x".repeat(128);
    assert_eq!(retry(&format!(r#"{{"idempotentMethods": ["{long}"]}}"#)).idempotent_methods, [long.as_str()]);
    let cut = "x".repeat(80);
    let expected = format!(r#"retry.idempotentMethods[0]: "{cut}"... is not a method: {tokens}"#);
    assert_eq!(refusal(&format!(r#"{{"retry": {{"idempotentMethods": ["{long}x"]}}}}"#)), expected);
}

#[test]
fn entries_of_clusters() {
    refuses(&[
        (r#"{"clusters": [{"retry": null}]}"#, "clusters[0].match: missing"),
        (r#"{"clusters": [{"match": 1}]}"#, "clusters[0].match: 1 is not a string: expected one in quotes"),
        (
            r#"{"clusters": [{"match": ""}]}"#,
            r#"clusters[0].match: "" matches nothing: expected a name, with * for any part of it"#,
        ),
        (
            r#"{"clusters": [{"match": "a*"}, {"match": "b"}, {"match": "a*", "retry": null}]}"#,
            r#"clusters[2].match: "a*" stands in an earlier entry, and the first match wins: remove one of them"#,
        ),
        (
            r#"{"clusters": [{"match": "a"}, {"match": "b"}, {"match": "c", "retry": {"perTryTimeout": "250"}}]}"#,
            r#"clusters[2].retry.perTryTimeout: "250" is not a duration: expected one like "250ms" or "1m30s"; "off", false or null switch it off"#,
        ),
    ]);
}

#[test]
fn entries_for_routes() {
    let cluster = "not by route: it is the cluster's";
    let with = |more: &str| format!(r#"{{"clusters": [{{"match": "a", "route": "r", {more}}}]}}"#);
    for (more, place) in [
        (r#""circuitBreaker": {}"#, "circuitBreaker"),
        (r#""circuitBreaker": "off""#, "circuitBreaker"),
        (r#""outlierDetection": {"error": "off"}"#, "outlierDetection"),
        (r#""steering": "off""#, "steering"),
        (r#""retry": {"maxRetries": 1, "budget": {"percent": 1}}"#, "retry.budget"),
        (r#""retry": {"budget": "off"}"#, "retry.budget"),
        (r#""retry": {"minRetryRate": {"count": 1, "interval": "1s"}}"#, "retry.minRetryRate"),
    ] {
        assert_eq!(refusal(&with(more)), format!("clusters[0].{place}: {cluster}"), "{more}");
    }
    refuses(&[
        (r#"{"clusters": [{"route": "r"}]}"#, "clusters[0].match: missing"),
        (
            r#"{"clusters": [{"match": "a", "route": 1}]}"#,
            "clusters[0].route: 1 is not a string: expected one in quotes",
        ),
        (
            r#"{"clusters": [{"match": "a", "route": ""}]}"#,
            r#"clusters[0].route: "" matches nothing: expected a name, with * for any part of it"#,
        ),
        (
            r#"{"clusters": [{"match": "a", "route": "r"}, {"match": "b", "route": "r"}, {"match": "a", "route": "r"}]}"#,
            r#"clusters[2].match: "a" stands in an earlier entry, and the first match wins: remove one of them"#,
        ),
        // The first is for all routes.
        (
            r#"{"clusters": [{"match": "a"}, {"match": "a", "route": "r"}]}"#,
            r#"clusters[1].match: "a" stands in an earlier entry, and the first match wins: remove one of them"#,
        ),
    ]);
    policy(
        r#"{"clusters": [{"match": "a", "route": "r", "retry": "off"}, {"match": "a", "route": "s"}, {"match": "a"}]}"#,
    );
}

#[test]
fn numbers_are_shown_short() {
    let shown = [
        ("0.333", "0.333 has more than 2 decimals"),
        ("-1.5", "-1.5 is out of range"),
        ("1e-300", "0.000000000... has more than 2 decimals"),
        ("0.12345678912", "0.123456789... has more than 2 decimals"),
        ("99.9999999999", "99.999999999... has more than 2 decimals"),
        ("1e300", "a number of more than nine digits is out of range"),
        ("18446744073709551615", "a number of more than nine digits is out of range"),
        ("123456789012", "123456789012 is out of range"),
    ];
    for (given, problem) in shown {
        let expected = format!("retry.budget.percent: {problem}: expected a number from 0 to 100");
        assert_eq!(refusal(&format!(r#"{{"retry": {{"budget": {{"percent": {given}}}}}}}"#)), expected);
    }
}

/// JSON's own rules, of which a text may break any.
#[test]
fn json_in_detail() {
    refuses(&[
        (r#"{"mode": "sha\dow"}"#, "configuration: not JSON: invalid escape at line 1 column 15"),
        (r#"{"mode": "shadow"#, "configuration: not JSON: EOF while parsing a string at line 1 column 16"),
        (
            "{\"mode\": \"sha\tdow\"}",
            r"configuration: not JSON: control character (\u0000-\u001F) found while parsing a string at line 1 column 14",
        ),
        (r#"{"mode": nul}"#, "configuration: not JSON: expected ident at line 1 column 13"),
        (r#"{"mode": }"#, "configuration: not JSON: expected value at line 1 column 10"),
        (r#"{"retry": {"maxRetries": 01}}"#, "configuration: not JSON: invalid number at line 1 column 27"),
        (r#"{"retry": {"maxRetries": 1.}}"#, "configuration: not JSON: invalid number at line 1 column 28"),
        (r#"{"retry": {"maxRetries": -}}"#, "configuration: not JSON: invalid number at line 1 column 27"),
    ]);
    let retries = |number: &str| policy(&format!(r#"{{"retry": {{"maxRetries": {number}}}}}"#));
    for number in ["3", "3.0", "30e-1", "0.3E+1", "0.03e2", "3000000000000000000e-18"] {
        assert_eq!(retries(number), retries("3"), "{number}");
    }
    let escaped = policy(r#"{"mode": "shado\u0077", "clusters": [{"match": "\ud83d\ude00\n\/"}]}"#);
    assert_eq!(escaped, policy("{\"mode\": \"shadow\", \"clusters\": [{\"match\": \"😀\\n/\"}]}"));
    let percent = |number: &str| refusal(&format!(r#"{{"retry": {{"budget": {{"percent": {number}}}}}}}"#));
    let zeros = "0".repeat(400);
    for number in ["1e300", "1e-300", "-0.01", &format!("1{}", &zeros[..300]), &format!("0.{}1", &zeros[..300])] {
        assert!(percent(number).starts_with("retry.budget.percent: "), "{number}: {}", percent(number));
    }
    // Beyond what a double holds, the place is told, but not the path.
    for number in ["1e400", &format!("-1{zeros}")] {
        let error = percent(number);
        assert!(
            error.starts_with("configuration: not JSON: number out of range at line 1 column "),
            "{number}: {error}"
        );
    }
}
