//! The section `circuitBreaker`: what it means, and what is refused.

use std::time::Duration;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::circuit::BreakerPolicy;

use super::refused::{refusal, refuses};
use super::{millis, percent, policy};

/// The policy for cluster "c" that `{"circuitBreaker": section}` means.
fn breaker(section: &str) -> BreakerPolicy {
    policy(&format!(r#"{{"circuitBreaker": {section}}}"#)).for_cluster("c").circuit_breaker.unwrap()
}

#[test]
fn defaults() {
    let expected =
        BreakerPolicy { percent: percent(9_000), min_requests: 50, interval: millis(10_000), open_time: millis(1_000) };
    assert_eq!(breaker("{}"), expected);
    assert_eq!(BreakerPolicy::default(), expected);
}

#[test]
fn every_field() {
    let given = breaker(r#"{"percent": 99.99, "minRequests": 1000000, "interval": "1h", "openTime": "100ms"}"#);
    let expected = BreakerPolicy {
        percent: percent(9_999),
        min_requests: 1_000_000,
        interval: Duration::from_secs(3_600),
        open_time: millis(100),
    };
    assert_eq!(given, expected);
    let given = breaker(r#"{"percent": 1, "minRequests": 1, "interval": "1s", "openTime": "1h"}"#);
    let expected = BreakerPolicy {
        percent: percent(100),
        min_requests: 1,
        interval: millis(1_000),
        open_time: Duration::from_secs(3_600),
    };
    assert_eq!(given, expected);
}

#[test]
fn overrides_are_laid_over_the_top_level() {
    let policy = policy(
        r#"{
        "circuitBreaker": {"percent": 50, "openTime": "5s"},
        "clusters": [
            {"match": "field", "circuitBreaker": {"minRequests": 7}},
            {"match": "off", "circuitBreaker": null},
            {"match": "retry", "retry": null}
        ]}"#,
    );
    let of = |cluster| policy.for_cluster(cluster).circuit_breaker;
    let base = BreakerPolicy { percent: percent(5_000), open_time: millis(5_000), ..BreakerPolicy::default() };
    assert_eq!(of("elsewhere"), Some(base));
    assert_eq!(of("field"), Some(BreakerPolicy { min_requests: 7, ..base }));
    assert_eq!(of("off"), None);
    assert_eq!(of("retry"), Some(base));
}

#[test]
fn an_override_switches_on_what_the_top_level_switched_off() {
    let off =
        policy(r#"{"circuitBreaker": null, "clusters": [{"match": "on", "circuitBreaker": {"interval": "2s"}}]}"#);
    assert_eq!(off.for_cluster("c").circuit_breaker, None);
    assert!(off.for_cluster("c").retry.is_some() && off.for_cluster("c").outlier_detection.is_some());
    let expected = BreakerPolicy { interval: millis(2_000), ..BreakerPolicy::default() };
    assert_eq!(off.for_cluster("on").circuit_breaker, Some(expected));
}

#[test]
fn what_is_refused() {
    let table = [
        ("true", ": true is not an object: expected one in braces; \"off\", false or null switch it off"),
        (
            r#"{"minRequest": 5}"#,
            ".minRequest: unknown field; expected one of interval, minRequests, openTime, percent; did you mean minRequests?",
        ),
        (r#"{"percent": 0.99}"#, ".percent: 0.99 is out of range: expected a number from 1 to 100"),
        (r#"{"percent": 100.01}"#, ".percent: 100.01 is out of range: expected a number from 1 to 100"),
        (r#"{"percent": 90.001}"#, ".percent: 90.001 has more than 2 decimals: expected a number from 1 to 100"),
        (r#"{"percent": "90"}"#, r#".percent: "90" is not a number: expected a number from 1 to 100"#),
        (r#"{"minRequests": 0}"#, ".minRequests: 0 is out of range: expected a whole number from 1 to 1000000"),
        (
            r#"{"minRequests": 1000001}"#,
            ".minRequests: 1000001 is out of range: expected a whole number from 1 to 1000000",
        ),
        (
            r#"{"minRequests": null}"#,
            ".minRequests: null is not a whole number: expected a whole number from 1 to 1000000",
        ),
        (r#"{"interval": "999ms"}"#, r#".interval: "999ms" is out of range: expected a duration from 1s to 1h"#),
        (r#"{"interval": "1h1ms"}"#, r#".interval: "1h1ms" is out of range: expected a duration from 1s to 1h"#),
        (r#"{"openTime": "99ms"}"#, r#".openTime: "99ms" is out of range: expected a duration from 100ms to 1h"#),
        (r#"{"openTime": "2h"}"#, r#".openTime: "2h" is out of range: expected a duration from 100ms to 1h"#),
        (r#"{"openTime": 1}"#, r#".openTime: 1 is not a duration: expected one like "250ms" or "1m30s""#),
        (r#"{"percent": 90, "percent": 90}"#, ".percent: given twice"),
    ];
    for (section, expected) in table {
        let json = format!(r#"{{"circuitBreaker": {section}}}"#);
        assert_eq!(refusal(&json), format!("circuitBreaker{expected}"), "for {section}");
        let json = format!(r#"{{"clusters": [{{"match": "c", "circuitBreaker": {section}}}]}}"#);
        assert_eq!(refusal(&json), format!("clusters[0].circuitBreaker{expected}"), "for {section}");
    }
    refuses(&[(
        r#"{"role": "guard", "circuitBreaker": {}}"#,
        r#"circuitBreaker: not with role "guard": the policy belongs to role "decide""#,
    )]);
}
