//! The sections `outlierDetection`, `steering` and `incidents`: what they mean, and what is refused.

use std::time::Duration;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;
use weir::config::{IncidentPolicy, SteeringPolicy, Via};
use weir::outlier::detector::{Detector, OutlierPolicy};

use super::refused::{refusal, refuses};
use super::{millis, percent, policy};

fn detector(count: u32, basis_points: u32) -> Detector {
    Detector { count, percent: percent(basis_points) }
}

/// The policy for cluster "c" that `{"outlierDetection": section}` means.
fn outliers(section: &str) -> OutlierPolicy {
    policy(&format!(r#"{{"outlierDetection": {section}}}"#)).for_cluster("c").outlier_detection.unwrap()
}

fn steering(section: &str) -> Option<SteeringPolicy> {
    policy(&format!(r#"{{"steering": {section}}}"#)).steering
}

/// No number of failures in an interval reaches it.
fn is_off(detector: Detector) -> bool {
    detector.count > 10_000_000
}

/// Weir overwrites it and takes it away: nothing that anybody else goes by.
#[test]
fn headers_that_mean_something_are_refused() {
    let names = [
        "host",
        "authorization",
        ":path",
        "cookie",
        "x-envoy-retry-on",
        "X-Envoy-Foo",
        "x-forwarded-for",
        "x-request-id",
    ];
    for name in names {
        let error = refusal(&format!(r#"{{"steering": {{"header": "{name}"}}}}"#));
        assert!(error.starts_with("steering.header: "), "{error}");
    }
}

#[test]
fn defaults() {
    let expected = OutlierPolicy {
        interval: millis(10_000),
        refused: detector(1, 0),
        reset: detector(2, 1_000),
        timeout: detector(5, 3_000),
        error: detector(5, 5_000),
        base_ejection_time: millis(250),
        max_ejection_time: millis(30_000),
        max_ejection_percent: percent(10_000),
        probe_successes: 2,
    };
    assert_eq!(outliers("{}"), expected);
    assert_eq!(OutlierPolicy::default(), expected);
    let expected =
        SteeringPolicy { via: Via::OverrideHost, header: "x-weir-hosts".to_owned(), explore_percent: percent(500) };
    assert_eq!(steering("{}"), Some(expected));
}

#[test]
fn every_field() {
    let given = outliers(
        r#"{"interval": "1h", "refused": {"count": 64, "percent": 100}, "reset": {"count": 1}, "timeout": {"percent": 0.25},
            "error": null, "baseEjectionTime": "10ms", "maxEjectionTime": "24h", "maxEjectionPercent": 33.33,
            "probeSuccesses": 100}"#,
    );
    assert!(is_off(given.error), "{given:?}");
    let expected = OutlierPolicy {
        interval: Duration::from_secs(3_600),
        refused: detector(64, 10_000),
        reset: detector(1, 1_000),
        timeout: detector(5, 25),
        error: given.error,
        base_ejection_time: millis(10),
        max_ejection_time: Duration::from_secs(24 * 3_600),
        max_ejection_percent: percent(3_333),
        probe_successes: 100,
    };
    assert_eq!(given, expected);
    let same = outliers(r#"{"baseEjectionTime": "1h", "maxEjectionTime": "1h"}"#);
    assert_eq!(same.base_ejection_time, same.max_ejection_time);
    let given = steering(r#"{"header": "X-Hosts", "explorePercent": 0}"#);
    let expected =
        SteeringPolicy { header: "x-hosts".to_owned(), explore_percent: percent(0), ..steering("{}").unwrap() };
    assert_eq!(given, Some(expected));
    let session = steering(r#"{"via": "stateful_session"}"#).unwrap();
    assert_eq!((session.via, &*session.header), (Via::StatefulSession, "x-envoy-retry-grpc-on"));
    assert_eq!(session.own_header(), "", "it is Envoy's");
    assert_eq!(steering(r#"{"explorePercent": 100}"#).unwrap().explore_percent, percent(10_000));
}

#[test]
fn sections_that_are_off() {
    let off = policy(r#"{"outlierDetection": null, "steering": null}"#);
    assert_eq!(off.for_cluster("c").outlier_detection, None);
    assert!(off.for_cluster("c").retry.is_some());
    assert_eq!(off.steering, None);
    let all = outliers(r#"{"refused": null, "reset": null, "timeout": null, "error": null}"#);
    assert!([all.refused, all.reset, all.timeout, all.error].into_iter().all(is_off), "{all:?}");
}

#[test]
fn overrides_are_laid_over_the_top_level() {
    let policy = policy(
        r#"{
        "outlierDetection": {"interval": "30s", "reset": {"count": 7, "percent": 20}, "timeout": null,
                             "maxEjectionTime": "1m"},
        "clusters": [
            {"match": "field", "outlierDetection": {"reset": {"percent": 40}, "baseEjectionTime": "1m"}},
            {"match": "off", "outlierDetection": null},
            {"match": "detector", "outlierDetection": {"reset": null, "timeout": {"count": 2}}},
            {"match": "retry", "retry": null}
        ]}"#,
    );
    let of = |cluster| policy.for_cluster(cluster).outlier_detection;
    let base = of("elsewhere").unwrap();
    let expected = OutlierPolicy {
        interval: millis(30_000),
        reset: detector(7, 2_000),
        timeout: base.timeout,
        max_ejection_time: millis(60_000),
        ..OutlierPolicy::default()
    };
    assert_eq!(base, expected);
    assert!(is_off(base.timeout));
    let field = OutlierPolicy { reset: detector(7, 4_000), base_ejection_time: millis(60_000), ..base };
    assert_eq!(of("field"), Some(field));
    assert_eq!(of("off"), None);
    // What was off starts from its default.
    let given = of("detector").unwrap();
    assert_eq!(given, OutlierPolicy { reset: given.reset, timeout: detector(2, 3_000), ..base });
    assert!(is_off(given.reset));
    assert_eq!(of("retry"), Some(base));
}

#[test]
fn an_override_switches_on_what_the_top_level_switched_off() {
    let off = policy(
        r#"{"outlierDetection": null,
            "clusters": [{"match": "on", "outlierDetection": {"probeSuccesses": 9}}]}"#,
    );
    assert_eq!(off.for_cluster("c").outlier_detection, None);
    let expected = OutlierPolicy { probe_successes: 9, ..OutlierPolicy::default() };
    assert_eq!(off.for_cluster("on").outlier_detection, Some(expected));
}

#[test]
fn what_is_refused() {
    let table = [
        ("true", ": true is not an object: expected one in braces; \"off\", false or null switch it off"),
        (
            r#"{"resets": {}}"#,
            ".resets: unknown field; expected one of baseEjectionTime, error, interval, maxEjectionPercent, maxEjectionTime, \
             probeSuccesses, refused, reset, timeout; did you mean reset?",
        ),
        (r#"{"reset": 3}"#, ".reset: 3 is not an object: expected one in braces; \"off\", false or null switch it off"),
        (r#"{"reset": {"min": 3}}"#, ".reset.min: unknown field; expected one of count, percent"),
        (r#"{"reset": {"count": 0}}"#, ".reset.count: 0 is out of range: expected a whole number from 1 to 64"),
        (r#"{"error": {"count": 65}}"#, ".error.count: 65 is out of range: expected a whole number from 1 to 64"),
        (
            r#"{"error": {"count": null}}"#,
            ".error.count: null is not a whole number: expected a whole number from 1 to 64",
        ),
        (r#"{"timeout": {"percent": 101}}"#, ".timeout.percent: 101 is out of range: expected a number from 0 to 100"),
        (
            r#"{"refused": {"percent": 0.001}}"#,
            ".refused.percent: 0.001 has more than 2 decimals: expected a number from 0 to 100",
        ),
        (r#"{"interval": "999ms"}"#, r#".interval: "999ms" is out of range: expected a duration from 1s to 1h"#),
        (r#"{"interval": "2h"}"#, r#".interval: "2h" is out of range: expected a duration from 1s to 1h"#),
        (
            r#"{"baseEjectionTime": "9ms"}"#,
            r#".baseEjectionTime: "9ms" is out of range: expected a duration from 10ms to 1h"#,
        ),
        (
            r#"{"baseEjectionTime": "1h1ms", "maxEjectionTime": "24h"}"#,
            r#".baseEjectionTime: "1h1ms" is out of range: expected a duration from 10ms to 1h"#,
        ),
        (
            r#"{"maxEjectionTime": "25h"}"#,
            r#".maxEjectionTime: "25h" is out of range: expected a duration from 10ms to 24h"#,
        ),
        (r#"{"baseEjectionTime": "1m"}"#, ": baseEjectionTime (1m) is longer than maxEjectionTime (30s)"),
        (r#"{"maxEjectionPercent": -1}"#, ".maxEjectionPercent: -1 is out of range: expected a number from 0 to 100"),
        (r#"{"probeSuccesses": 0}"#, ".probeSuccesses: 0 is out of range: expected a whole number from 1 to 100"),
        (r#"{"probeSuccesses": 101}"#, ".probeSuccesses: 101 is out of range: expected a whole number from 1 to 100"),
        (r#"{"reset": {}, "reset": {}}"#, ".reset: given twice"),
    ];
    for (section, expected) in table {
        let json = format!(r#"{{"outlierDetection": {section}}}"#);
        assert_eq!(refusal(&json), format!("outlierDetection{expected}"), "for {section}");
        let json = format!(r#"{{"clusters": [{{"match": "c", "outlierDetection": {section}}}]}}"#);
        assert_eq!(refusal(&json), format!("clusters[0].outlierDetection{expected}"), "for {section}");
    }
    let inherited = r#"{"outlierDetection": {"baseEjectionTime": "5s"},
                        "clusters": [{"match": "c", "outlierDetection": {"maxEjectionTime": "1s"}}]}"#;
    let expected = "clusters[0].outlierDetection: baseEjectionTime (5s) is longer than maxEjectionTime (1s)";
    assert_eq!(refusal(inherited), expected);
}

#[test]
fn incidents_scale_with_an_interval_or_are_off() {
    let incidents = |section: &str| policy(&format!(r#"{{"incidents": {section}}}"#)).incidents;
    assert_eq!(policy("{}").incidents, incidents("{}"));
    assert_eq!(incidents("{}"), Some(IncidentPolicy { interval: 10_000 }));
    assert_eq!(incidents(r#"{"interval": "1m30s"}"#), Some(IncidentPolicy { interval: 90_000 }));
    assert_eq!(incidents("null"), None);
    for (json, error) in [
        (
            r#"{"incidents": {"interval": "999ms"}}"#,
            r#"incidents.interval: "999ms" is out of range: expected a duration from 1s to 1h"#,
        ),
        (r#"{"incidents": {"window": "1s"}}"#, "incidents.window: unknown field; expected one of interval"),
        (
            r#"{"clusters": [{"match": "c", "incidents": null}]}"#,
            "clusters[0].incidents: not for single clusters: it stands at the top level, for all of them",
        ),
    ] {
        assert_eq!(refusal(json), error);
    }
}

#[test]
fn steering_that_is_refused() {
    refuses(&[
        (
            r#"{"steering": "x-weir-hosts"}"#,
            r#"steering: "x-weir-hosts" is not an object: expected one in braces; "off", false or null switch it off"#,
        ),
        (
            r#"{"steering": {"headers": "x"}}"#,
            "steering.headers: unknown field; expected one of explorePercent, header, via; did you mean header?",
        ),
        (
            r#"{"steering": {"via": "stateful_session", "header": "x-hosts"}}"#,
            r#"steering.header: not with via "stateful_session", which has a header of its own"#,
        ),
        (
            r#"{"steering": {"via": "session"}}"#,
            r#"steering.via: "session" is unknown: expected "override_host" or "stateful_session""#,
        ),
        (r#"{"steering": {"header": null}}"#, "steering.header: null is not a string: expected one in quotes"),
        (
            r#"{"steering": {"header": ":authority"}}"#,
            r#"steering.header: ":authority" is a pseudo-header: expected the name of a header field"#,
        ),
        (
            r#"{"steering": {"header": ""}}"#,
            r#"steering.header: "" is not the name of a header field: expected 1 to 128 letters, digits or !#$%&'*+-.^_`|~"#,
        ),
        (
            r#"{"steering": {"explorePercent": 100.01}}"#,
            "steering.explorePercent: 100.01 is out of range: expected a number from 0 to 100",
        ),
        (
            r#"{"clusters": [{"match": "c", "steering": {"explorePercent": 1}}]}"#,
            r#"clusters[0].steering: only "off" for single clusters: its fields stand at the top level, for all"#,
        ),
        (
            r#"{"role": "guard", "steering": {}}"#,
            r#"steering: not with role "guard": the policy belongs to role "decide""#,
        ),
    ]);
}
