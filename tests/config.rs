//! The configuration: what is accepted and what it means, what is refused and with which words.

use std::time::Duration;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::config::{
    AlreadyRetried, BudgetPolicy, Config, GrpcCode, MAX_BYTES, MAX_CLUSTERS, MinRetryRate, Mode, PerTryTimeout, Policy,
    RetryPolicy, Role, duration, parse,
};
use weir::percent::Percent;

#[cfg(not(target_arch = "wasm32"))]
#[path = "config/properties.rs"]
mod properties;

fn percent(basis_points: u32) -> Percent {
    Percent::from_basis_points(basis_points).unwrap()
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn policy(json: &str) -> Policy {
    match parse(json.as_bytes()) {
        Ok(Config { role: Role::Decide, policy: Some(policy) }) => policy,
        other => panic!("{json}: {other:?}"),
    }
}

/// The retry policy for cluster "c" that `{"retry": retry}` means.
fn retry(retry: &str) -> RetryPolicy {
    policy(&format!(r#"{{"retry": {retry}}}"#)).for_cluster("c").retry.clone().unwrap()
}

fn budget(retry_json: &str) -> BudgetPolicy {
    retry(retry_json).budget.unwrap()
}

fn refusal(json: &str) -> String {
    match parse(json.as_bytes()) {
        Err(error) => error.to_string(),
        Ok(config) => panic!("{json} was accepted: {config:?}"),
    }
}

#[track_caller]
fn refuses(table: &[(&str, &str)]) {
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

const ALL_DEFAULTS: &str = r#"{
  "role": "decide",
  "mode": "enforce",
  "retry": {
    "maxRetries": 2,
    "budget": { "percent": 20, "interval": "10s" },
    "minRetryRate": { "count": 10, "interval": "1s" },
    "idempotentMethods": ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"],
    "idempotencyKeyHeaders": ["idempotency-key"],
    "statusCodes": [502, 503, 504],
    "grpcStatusCodes": [],
    "perTryTimeout": null,
    "alreadyRetried": "unprocessed"
  },
  "clusters": []
}"#;

#[test]
fn the_defaults_are_the_documented_ones() {
    let everything = policy(ALL_DEFAULTS);
    for short in ["", " \n\t\r", "{}", r#"{"role": "decide"}"#, r#"{"retry": {}}"#, r#"{"retry": {"budget": {}}}"#] {
        assert_eq!(policy(short), everything, "for {short:?}");
    }
    assert_eq!(everything, Policy::default());
    assert_eq!(everything.mode, Mode::Enforce);
    let expected = RetryPolicy {
        max_retries: 2,
        budget: Some(BudgetPolicy {
            percent: percent(2_000),
            interval: millis(10_000),
            min_retry_rate: MinRetryRate { count: 10, interval: millis(1_000) },
        }),
        idempotent_methods: ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"].map(String::from).to_vec(),
        idempotency_key_headers: vec!["idempotency-key".to_owned()],
        status_codes: vec![502, 503, 504],
        grpc_status_codes: vec![],
        per_try_timeout: None,
        already_retried: AlreadyRetried::Unprocessed,
    };
    assert_eq!(everything.for_cluster("anything").retry, Some(expected));
}

#[test]
fn roles() {
    assert_eq!(parse(br#"{"role": "watch"}"#), Ok(Config { role: Role::Watch, policy: None }));
    assert_eq!(parse(br#"{"role": "guard"}"#), Ok(Config { role: Role::Guard, policy: None }));
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

#[test]
fn modes_and_sections_that_are_off() {
    assert_eq!(policy(r#"{"mode": "shadow"}"#).mode, Mode::Shadow);
    assert_eq!(policy(r#"{"retry": null}"#).for_cluster("c").retry, None);
    assert_eq!(retry(r#"{"budget": null}"#).budget, None);
    assert_eq!(retry(r#"{"budget": null, "minRetryRate": {"count": 5, "interval": "1h"}}"#).budget, None);
    assert_eq!(budget(r#"{"minRetryRate": null}"#).min_retry_rate.count, 0);
    assert_eq!(retry(r#"{"perTryTimeout": null}"#).per_try_timeout, None);
}

#[test]
fn numbers_may_arrive_as_doubles() {
    assert_eq!(retry(r#"{"maxRetries": 3.0}"#).max_retries, 3);
    assert_eq!(retry(r#"{"maxRetries": 1e1}"#).max_retries, 10);
    assert_eq!(retry(r#"{"maxRetries": -0.0}"#).max_retries, 0);
    assert_eq!(retry(r#"{"statusCodes": [503.0, 5.02e2]}"#).status_codes, [502, 503]);
    assert_eq!(budget(r#"{"minRetryRate": {"count": 1e6, "interval": "1s"}}"#).min_retry_rate.count, 1_000_000);
}

#[test]
fn percentages_are_exact() {
    let table = [("0", 0), ("0.3", 30), ("0.01", 1), ("20.0", 2_000), ("60", 6_000), ("99.99", 9_999), ("1e2", 10_000)];
    for (json, basis_points) in table {
        assert_eq!(budget(&format!(r#"{{"budget": {{"percent": {json}}}}}"#)).percent, percent(basis_points), "{json}");
    }
    for basis_points in 0..=10_000 {
        let json = format!(r#"{{"budget": {{"percent": {}.{:02}}}}}"#, basis_points / 100, basis_points % 100);
        assert_eq!(budget(&json).percent, percent(basis_points), "{json}");
    }
}

#[test]
fn every_field_of_retry() {
    let given = retry(
        r#"{"maxRetries": 0, "budget": {"percent": 12.5, "interval": "1m"}, "minRetryRate": {"count": 3, "interval": "1m"},
            "idempotentMethods": ["GET", "PROPFIND", "GET", "get"], "idempotencyKeyHeaders": ["X-Key", "x-key", "Other"],
            "statusCodes": [599, 400, 503, 400], "grpcStatusCodes": ["unavailable", "cancelled", "unavailable"],
            "perTryTimeout": "1m30s", "alreadyRetried": "any"}"#,
    );
    let expected = RetryPolicy {
        max_retries: 0,
        budget: Some(BudgetPolicy {
            percent: percent(1_250),
            interval: millis(60_000),
            min_retry_rate: MinRetryRate { count: 3, interval: millis(60_000) },
        }),
        idempotent_methods: ["GET", "PROPFIND", "get"].map(String::from).to_vec(),
        idempotency_key_headers: ["x-key", "other"].map(String::from).to_vec(),
        status_codes: vec![400, 503, 599],
        grpc_status_codes: vec![GrpcCode::Cancelled, GrpcCode::Unavailable],
        per_try_timeout: Some(PerTryTimeout::Fixed(millis(90_000))),
        already_retried: AlreadyRetried::Any,
    };
    assert_eq!(given, expected);
    assert_eq!(retry(r#"{"alreadyRetried": "none"}"#).already_retried, AlreadyRetried::None);
    assert!(retry(r#"{"idempotentMethods": []}"#).idempotent_methods.is_empty());
    let all = r#"{"grpcStatusCodes": ["unavailable", "internal", "deadline-exceeded", "cancelled"]}"#;
    let names: Vec<_> = retry(all).grpc_status_codes.iter().map(|code| code.name()).collect();
    assert_eq!(names, ["cancelled", "deadline-exceeded", "internal", "unavailable"]);
}

#[test]
fn adaptive_timeouts() {
    let table = [
        ("{}", (9_900, 300, 50, 10_000)),
        (r#"{"quantile": 0.5, "factor": 1, "min": "1ms", "max": "1h"}"#, (5_000, 100, 1, 3_600_000)),
        (r#"{"quantile": 0.999, "factor": 1.25, "min": "2s", "max": "2s"}"#, (9_990, 125, 2_000, 2_000)),
        (r#"{"quantile": 0.9925, "factor": 100.0}"#, (9_925, 10_000, 50, 10_000)),
    ];
    for (json, (quantile, factor_percent, min, max)) in table {
        let expected =
            PerTryTimeout::Adaptive { quantile: percent(quantile), factor_percent, min: millis(min), max: millis(max) };
        let given = retry(&format!(r#"{{"perTryTimeout": {{"adaptive": {json}}}}}"#));
        assert_eq!(given.per_try_timeout, Some(expected), "{json}");
    }
}

#[test]
fn overrides_are_laid_over_the_top_level() {
    let policy = policy(
        r#"{
        "clusters": [
            {"match": "outbound|*||orders.*", "retry": {"maxRetries": 1, "budget": {"percent": 5}}},
            {"match": "outbound|*", "retry": null},
            {"match": "same"},
            {"match": "timeouts", "retry": {"perTryTimeout": {"adaptive": {"factor": 2}}}},
            {"match": "unlimited", "retry": {"budget": null}},
            {"match": "list", "retry": {"statusCodes": [500]}}
        ],
        "retry": {
            "maxRetries": 4, "budget": {"interval": "30s"}, "minRetryRate": {"count": 7, "interval": "2s"},
            "perTryTimeout": {"adaptive": {"quantile": 0.9}}
        }}"#,
    );
    let of = |cluster| policy.for_cluster(cluster).retry.clone();
    let base = of("elsewhere").unwrap();
    let base_budget = base.budget.unwrap();
    assert_eq!((base.max_retries, base_budget.interval), (4, millis(30_000)));
    assert_eq!(base_budget.min_retry_rate, MinRetryRate { count: 7, interval: millis(2_000) });

    let budget = Some(BudgetPolicy { percent: percent(500), ..base_budget });
    let orders = RetryPolicy { max_retries: 1, budget, ..base.clone() };
    assert_eq!(of("outbound|80||orders.shop.svc.cluster.local"), Some(orders));
    assert_eq!(of("outbound|80||payments.shop.svc.cluster.local"), None, "the first match wins, then the next");
    assert_eq!(of("same").as_ref(), Some(&base));
    let adaptive =
        PerTryTimeout::Adaptive { quantile: percent(9_000), factor_percent: 200, min: millis(50), max: millis(10_000) };
    assert_eq!(of("timeouts"), Some(RetryPolicy { per_try_timeout: Some(adaptive), ..base.clone() }));
    assert_eq!(of("unlimited"), Some(RetryPolicy { budget: None, ..base.clone() }));
    assert_eq!(of("list"), Some(RetryPolicy { status_codes: vec![500], ..base }));
}

#[test]
fn an_override_switches_on_what_the_top_level_switched_off() {
    let off = policy(r#"{"retry": null, "clusters": [{"match": "on", "retry": {"maxRetries": 1}}]}"#);
    assert_eq!(off.for_cluster("c").retry, None);
    assert_eq!(off.for_cluster("on").retry, Some(RetryPolicy { max_retries: 1, ..RetryPolicy::default() }));

    let unlimited = policy(
        r#"{"retry": {"budget": null, "minRetryRate": {"count": 3, "interval": "5s"}},
            "clusters": [{"match": "limited", "retry": {"budget": {"percent": 1}}}]}"#,
    );
    assert_eq!(unlimited.for_cluster("c").retry.as_ref().unwrap().budget, None);
    let floor = MinRetryRate { count: 3, interval: millis(5_000) };
    let expected = BudgetPolicy { percent: percent(100), interval: millis(10_000), min_retry_rate: floor };
    assert_eq!(unlimited.for_cluster("limited").retry.as_ref().unwrap().budget, Some(expected));
}

#[test]
fn patterns() {
    let table = [
        ("orders", "orders", true),
        ("orders", "orders2", false),
        ("*", "", true),
        ("*", "anything", true),
        ("a*", "ba", false),
        ("*a", "ba", true),
        ("a*a", "a", false),
        ("a*a", "aa", true),
        ("*||orders.*", "outbound|80||orders.shop", true),
        ("*||orders.*", "outbound|80||reorders.shop", false),
        ("**", "x", true),
        ("a*b*c", "a-b-b-c-b-c", true),
        ("a*b*c", "acb", false),
        ("a*bc*bc", "abc", false),
        ("é*", "éa", true),
    ];
    for (pattern, cluster, matches) in table {
        let policy = policy(&format!(r#"{{"clusters": [{{"match": "{pattern}", "retry": null}}]}}"#));
        assert_eq!(policy.for_cluster(cluster).retry.is_none(), matches, "{pattern} on {cluster}");
    }
    // Would take ages with a matcher that backtracks.
    let policy = policy(&format!(r#"{{"clusters": [{{"match": "{}b", "retry": null}}]}}"#, "a*".repeat(50_000)));
    assert!(policy.for_cluster(&"a".repeat(100_000)).retry.is_some());
}

#[test]
fn what_is_not_json() {
    refuses(&[
        ("{", "configuration: not JSON: EOF while parsing an object at line 1 column 1"),
        ("{\n  \"role\" \"watch\"}", "configuration: not JSON: expected `:` at line 2 column 10"),
        ("{} {}", "configuration: not JSON: trailing characters at line 1 column 4"),
        ("{\"role\": \"watch\",}", "configuration: not JSON: trailing comma at line 1 column 18"),
        ("{\"retry\": 1e999}", "configuration: not JSON: number out of range at line 1 column 15"),
        ("null", "configuration: null is not an object: expected one in braces"),
        ("[]", "configuration: a list is not an object: expected one in braces"),
        ("\"decide\"", "configuration: \"decide\" is not an object: expected one in braces"),
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
                    maxRetries, minRetryRate, perTryTimeout, statusCodes";
    let top = "unknown field; expected one of clusters, mode, retry, role";
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
            "clusters[0].mode: unknown field; expected one of match, retry".to_owned(),
        ),
    ];
    for (json, expected) in &table {
        assert_eq!(refusal(json), *expected);
    }
    let long = format!(r#"{{"{}": 1}}"#, "x".repeat(100_000));
    assert_eq!(refusal(&long), format!("\"{}\"...: {top}", "x".repeat(80)));
}

#[test]
fn sections_of_later_versions() {
    refuses(&[
        (r#"{"outlierDetection": {}}"#, "outlierDetection: not in this version of Weir; remove it"),
        (r#"{"circuitBreaker": null}"#, "circuitBreaker: not in this version of Weir; remove it"),
        (r#"{"steering": {"header": "x"}}"#, "steering: not in this version of Weir; remove it"),
        (
            r#"{"clusters": [{"match": "a"}, {"match": "b", "outlierDetection": {}}]}"#,
            "clusters[1].outlierDetection: not in this version of Weir; remove it",
        ),
    ]);
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
        (r#"{"retry": true}"#, "retry: true is not an object: expected one in braces"),
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
        (r#"{"budget": 20}"#, "retry.budget: 20 is not an object: expected one in braces"),
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
            "retry.budget.percent: 1e300 is out of range: expected a number from 0 to 100",
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
            r#"retry.perTryTimeout: "0s" is out of range: expected a duration from 1ms to 1h"#,
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
            "retry: the floor cannot be reached: minRetryRate.interval (1m) is longer than budget.interval (10s)",
        ),
        (
            r#"{"perTryTimeout": {"adaptive": {"min": "20s"}}}"#,
            "retry.perTryTimeout.adaptive: min (20s) is longer than max (10s)",
        ),
        (r#"{"perTryTimeout": {}}"#, "retry.perTryTimeout.adaptive: missing"),
    ]);
    let inherited = r#"{"retry": {"minRetryRate": {"count": 5, "interval": "5s"}},
                        "clusters": [{"match": "c", "retry": {"budget": {"interval": "1500ms"}}}]}"#;
    let expected = "clusters[0].retry: the floor cannot be reached: minRetryRate.interval (5s) is longer than \
                    budget.interval (1s500ms)";
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
            r#"clusters[0].match: "" matches nothing: expected the name of a cluster, with * for any part of it"#,
        ),
        (
            r#"{"clusters": [{"match": "a*"}, {"match": "b"}, {"match": "a*", "retry": null}]}"#,
            r#"clusters[2].match: "a*" stands in an earlier entry, and the first match wins: remove one of them"#,
        ),
        (
            r#"{"clusters": [{"match": "a"}, {"match": "b"}, {"match": "c", "retry": {"perTryTimeout": "250"}}]}"#,
            r#"clusters[2].retry.perTryTimeout: "250" is not a duration: expected one like "250ms" or "1m30s""#,
        ),
    ]);
}

#[test]
fn durations() {
    let good = [
        ("0s", 0),
        ("250ms", 250),
        ("1m30s", 90_000),
        ("1h1m1s1ms", 3_661_001),
        ("30s1m", 90_000),
        ("1s1s", 2_000),
        ("00001ms", 1),
        ("99999h99999h99999h99999h", 4 * 99_999 * 3_600_000),
    ];
    for (text, expected) in good {
        assert_eq!(duration::parse(text), Some(millis(expected)), "{text}");
    }
    let bad = [
        "",
        "1",
        "s",
        "1.5s",
        "-1s",
        "+1s",
        " 1s",
        "1s ",
        "1 s",
        "1S",
        "1us",
        "1d",
        "100000ms",
        "000001s",
        "1s1s1s1s1s",
        "1sm",
        "ms1",
        "1h30",
        "١s",
        "1µs",
        "é",
    ];
    for text in bad {
        assert_eq!(duration::parse(text), None, "{text}");
        let error = refusal(&format!(r#"{{"retry": {{"perTryTimeout": "{text}"}}}}"#));
        assert!(error.ends_with(r#" is not a duration: expected one like "250ms" or "1m30s""#), "{error}");
    }
    for (millis, text) in [(0, "0s"), (1, "1ms"), (1_000, "1s"), (90_000, "1m30s"), (3_600_001, "1h1ms")] {
        assert_eq!(duration::text(Duration::from_millis(millis)), text);
    }
}
