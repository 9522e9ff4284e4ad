//! The configuration: what is accepted, and what it means; for outlier detection and steering, `config/outlier.rs`, for
//! the circuit breaker `config/breaker.rs`. `config/refused.rs` has what is not, and `config/structs.rs` the same as protobuf.

use std::time::Duration;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::base::percent::Percent;
use weir::config::{AlreadyRetried, Config, GrpcCode, Mode, PerTryTimeout, Policy, RetryPolicy, Role, duration, parse};
use weir::retry::budget::{BudgetPolicy, MinRetryRate};
use weir::retry::latency::AdaptiveTimeout;

// The crate links only with a host beside it.
#[path = "config/breaker.rs"]
mod breaker;
mod fake_host;
#[path = "config/outlier.rs"]
mod outlier;
#[path = "config/refused.rs"]
mod refused;
#[path = "config/structs.rs"]
mod structs;

#[cfg(not(target_arch = "wasm32"))]
#[path = "config/documented.rs"]
mod documented;
#[cfg(not(target_arch = "wasm32"))]
#[path = "config/properties.rs"]
mod properties;
#[cfg(not(target_arch = "wasm32"))]
#[path = "config/schema.rs"]
mod schema;

fn percent(basis_points: u32) -> Percent {
    Percent::from_basis_points(basis_points).unwrap()
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn policy(json: &str) -> Policy {
    #[cfg(not(target_arch = "wasm32"))]
    schema::agrees(json);
    match parse(json.as_bytes()) {
        Ok(Config { role: Role::Decide, policy: Some(policy), only_failures: false }) => policy,
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

const ALL_DEFAULTS: &str = r#"{
  "role": "decide",
  "mode": "enforce",
  "retry": {
    "maxRetries": 2,
    "budget": { "percent": 20, "interval": "10s" },
    "minRetryRate": { "count": 10, "interval": "1s" },
    "idempotentMethods": ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"],
    "idempotencyKeyHeaders": ["idempotency-key"],
    "statusCodes": [502, 503, 504],
    "grpcStatusCodes": [],
    "perTryTimeout": null,
    "alreadyRetried": "unprocessed"
  },
  "outlierDetection": {
    "interval": "10s",
    "refused": { "count": 1, "percent": 0 },
    "reset": { "count": 2, "percent": 10 },
    "timeout": { "count": 5, "percent": 30 },
    "error": { "count": 5, "percent": 50 },
    "baseEjectionTime": "250ms",
    "maxEjectionTime": "30s",
    "maxEjectionPercent": 100,
    "probeSuccesses": 2
  },
  "circuitBreaker": { "percent": 90, "minRequests": 50, "interval": "10s", "openTime": "1s" },
  "steering": { "header": "x-weir-hosts", "explorePercent": 5 },
  "incidents": { "interval": "10s" },
  "clusters": []
}"#;

#[test]
fn the_defaults_are_the_documented_ones() {
    let everything = policy(ALL_DEFAULTS);
    let empty_sections = r#"{"outlierDetection": {"reset": {}}, "steering": {}, "circuitBreaker": {}}"#;
    let empty_budget = r#"{"retry": {"budget": {}}}"#;
    for short in ["", " \n\t\r", "{}", r#"{"role": "decide"}"#, r#"{"retry": {}}"#, empty_budget, empty_sections] {
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
        idempotent_methods: ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"].map(String::from).to_vec(),
        idempotency_key_headers: vec!["idempotency-key".to_owned()],
        not_processed_headers: vec![],
        status_codes: vec![502, 503, 504],
        grpc_status_codes: vec![],
        per_try_timeout: None,
        already_retried: AlreadyRetried::Unprocessed,
    };
    assert_eq!(everything.for_cluster("anything").retry, Some(expected));
}

#[test]
fn roles() {
    assert_eq!(parse(br#"{"role": "watch"}"#), Ok(Config { role: Role::Watch, policy: None, only_failures: false }));
    let failures = br#"{"role": "watch", "only": "failures"}"#;
    assert_eq!(parse(failures), Ok(Config { role: Role::Watch, policy: None, only_failures: true }));
    assert_eq!(parse(br#"{"role": "guard"}"#), Ok(Config { role: Role::Guard, policy: None, only_failures: false }));
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

/// What `null` switches off, two values do as well that outlive a resource of Kubernetes.
#[test]
fn off_and_false_are_null() {
    const OFF: [&str; 13] = [
        r#"{"retry": null}"#,
        r#"{"outlierDetection": null}"#,
        r#"{"circuitBreaker": null}"#,
        r#"{"steering": null}"#,
        r#"{"incidents": null}"#,
        r#"{"retry": {"budget": null}}"#,
        r#"{"retry": {"minRetryRate": null}}"#,
        r#"{"outlierDetection": {"refused": null, "reset": null, "timeout": null, "error": null}}"#,
        r#"{"retry": {"perTryTimeout": "1s"}, "clusters": [{"match": "a", "retry": {"perTryTimeout": null}}]}"#,
        r#"{"clusters": [{"match": "a", "retry": {"budget": null, "minRetryRate": null}}]}"#,
        r#"{"clusters": [{"match": "a", "retry": null, "outlierDetection": null, "circuitBreaker": null}]}"#,
        r#"{"clusters": [{"match": "a", "outlierDetection": {"refused": null}}]}"#,
        r#"{"retry": null, "clusters": [{"match": "a", "retry": {}}]}"#,
    ];
    for json in OFF {
        let expected = policy(json);
        assert_ne!(expected, Policy::default(), "{json}");
        for spelling in ["false", r#""off""#] {
            assert_eq!(policy(&json.replace("null", spelling)), expected, "{json} with {spelling}");
        }
    }
}

#[test]
fn a_string_that_holds_the_object_is_the_object() {
    let object = r#"{"role": "decide", "steering": "off", "retry": {"maxRetries": 1}}"#;
    for text in [object.to_owned(), format!("\n  {object}\n")] {
        assert_eq!(policy(&serde_json::Value::from(text).to_string()), policy(object));
    }
    let watch = Config { role: Role::Watch, policy: None, only_failures: false };
    assert_eq!(parse(br#""{\"role\": \"watch\"}""#), Ok(watch));
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
            "notProcessedHeaders": ["X-Shed", "x-shed"],
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
        not_processed_headers: vec!["x-shed".to_owned()],
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
        let expected = PerTryTimeout::Adaptive(AdaptiveTimeout {
            quantile: percent(quantile),
            factor_percent,
            min: millis(min),
            max: millis(max),
        });
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
    let adaptive = PerTryTimeout::Adaptive(AdaptiveTimeout {
        quantile: percent(9_000),
        factor_percent: 200,
        min: millis(50),
        max: millis(10_000),
    });
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

/// How requests are retried depends on the first entry for their cluster and route; all else on the first for their cluster.
#[test]
fn an_override_for_a_route_is_for_its_retries() {
    let policy = policy(
        r#"{"retry": {"maxRetries": 4, "statusCodes": [500]},
        "clusters": [
            {"match": "orders*", "route": "checkout-*", "retry": {"maxRetries": 1}},
            {"match": "orders", "retry": {"budget": {"percent": 7}}, "circuitBreaker": "off"},
            {"match": "*ders", "route": "*", "retry": "off"},
            {"match": "quiet", "route": "loud", "retry": {"idempotentMethods": ["POST"]}},
            {"match": "quiet", "retry": "off"}
        ]}"#,
    );
    let of = |cluster, route| {
        let (place, policy) = policy.for_request(cluster, route);
        let retry = policy.retry.map(|retry| (retry.max_retries, retry.status_codes, retry.budget.unwrap().percent));
        (place, retry, policy.circuit_breaker.is_some())
    };
    let (all, seven) = (percent(2_000), percent(700));
    assert_eq!(of("orders", "checkout-1"), (0, Some((1, vec![500], seven)), false), "the budget is the cluster's");
    assert_eq!(
        of("orders", "list"),
        (1, Some((4, vec![500], seven)), false),
        "the third stands behind one for all routes"
    );
    assert_eq!(of("orders", ""), (1, Some((4, vec![500], seven)), false));
    assert_eq!(of("orders-2", "checkout-1"), (0, Some((1, vec![500], all)), true), "hosts go by the top level");
    assert_eq!(of("orders-2", "list"), (5, Some((4, vec![500], all)), true));
    assert_eq!(of("quiet", "loud"), (3, Some((4, vec![500], all)), true), "what is retried is paid for");
    assert_eq!(of("quiet", "other"), (4, None, true));
    assert_eq!(of("other", "checkout-1"), (5, Some((4, vec![500], all)), true));
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
        let error = refused::refusal(&format!(r#"{{"retry": {{"perTryTimeout": "{text}"}}}}"#));
        let expected =
            r#" is not a duration: expected one like "250ms" or "1m30s"; "off", false or null switch it off"#;
        assert!(error.ends_with(expected), "{error}");
    }
    for (millis, text) in [(0, "0s"), (1, "1ms"), (1_000, "1s"), (90_000, "1m30s"), (3_600_001, "1h1ms")] {
        assert_eq!(duration::text(Duration::from_millis(millis)), text);
    }
}
