//! `weir explain`: one line of a log, in the words of the safety table.

use serde_json::{Value, json};
use weir::retry::reason::Reason;

use super::weir;

/// A line as envoy/access-log.yaml has it.
fn line(method: &str, code: u16, flags: &str, details: &str, more: &Value) -> String {
    let mut line = json!({"log": "request", "start_time": "1770000000.123456", "duration": 3, "method": method,
        "upstream_cluster": "orders", "upstream_host": "10.0.3.8:8080", "response_code": code, "response_flags": flags,
        "response_code_details": details, "upstream_request_attempt_count": 1});
    more.as_object().into_iter().flatten().for_each(|(name, value)| line[name] = value.clone());
    line.to_string()
}

fn explain(line: &str, arguments: &[&str]) -> Value {
    let run = weir(&[&["explain", "--json", "-"], arguments].concat(), line.as_bytes());
    assert_eq!(run.status, 0, "{}", run.err);
    serde_json::from_str(&run.out).expect("JSON")
}

const VIA: &str = "via_upstream";
const REFUSED: &str =
    "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}";
const RESET: &str = "upstream_reset_before_response_started{connection_termination}";
const CUT: &str = "upstream_reset_after_response_started{connection_termination}";

#[test]
fn each_line_gets_the_verdict_of_the_module_and_the_setting_that_decides() {
    let none = json!({});
    let twice = json!({"upstream_request_attempt_count": 3});
    let cases = [
        ("GET", 200, "-", VIA, &none, "answered", "-", ""),
        ("GET", 503, "UF", REFUSED, &none, "refused", "retry", "retry.maxRetries: 2"),
        ("POST", 503, "UF", REFUSED, &none, "refused", "retry", "what was not processed"),
        ("GET", 503, "UC", RESET, &none, "reset", "retry", "retry.idempotentMethods"),
        ("POST", 503, "UC", RESET, &none, "reset", "method", "idempotencyKeyHeaders: idempotency-key"),
        ("POST", 503, "UC", RESET, &json!({"idempotency_key": "a"}), "reset", "retry", "retry.budget: 20 %"),
        ("GET", 503, "-", VIA, &none, "error", "retry", "retry.statusCodes: 502 503 504"),
        ("GET", 500, "-", VIA, &none, "error", "status", "retry.statusCodes: 502 503 504"),
        ("POST", 503, "-", VIA, &none, "error", "method", "retry.idempotentMethods"),
        ("GET", 503, "-", VIA, &json!({"retry_after": "3"}), "pushback", "pushback", ""),
        ("GET", 200, "UC", CUT, &none, "truncated", "answer_begun", ""),
        ("GET", 504, "UT", "response_timeout", &none, "timeout", "no_time_left", "timeout of the route"),
        ("GET", 503, "UF,URX", REFUSED, &twice, "refused", "retries_used_up", "retry.maxRetries: 2"),
        (
            "GET",
            503,
            "UO",
            "upstream_reset_before_response_started{overflow}",
            &none,
            "local",
            "limit",
            "circuit_breakers",
        ),
    ];
    for (method, code, flags, details, more, signal, verdict, setting) in cases {
        let told = explain(&line(method, code, flags, details, more), &[]);
        let what = format!("{method} {code} {flags} {details}: {told:#}");
        assert_eq!((&told["signal"], &told["verdict"]), (&json!(signal), &json!(verdict)), "{what}");
        assert!(told["settings"].to_string().contains(setting), "{what}");
    }
    let told = explain(&line("GET", 503, "UH", "no_healthy_upstream", &none), &[]);
    assert_eq!((&told["signal"], &told["verdict"]), (&Value::Null, &json!("no_host")), "{told:#}");
}

#[test]
fn an_attempt_is_explained_by_itself() {
    let refused = json!({"log": "attempt", "upstream_transport_failure_reason": "delayed_connect_error:_Connection_refused", "response_code": 0});
    let told = explain(&line("POST", 0, "UF", "", &refused), &[]);
    assert_eq!((&told["signal"], &told["verdict"]), (&json!("refused"), &json!("retry")), "{told:#}");
    let told = explain(&line("POST", 0, "UC", "", &json!({"log": "attempt"})), &[]);
    assert_eq!((&told["signal"], &told["verdict"]), (&json!("reset"), &json!("method")), "{told:#}");
}

#[test]
fn the_policy_decides_and_is_named() {
    let policy = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(
        policy.path(),
        r#"{"clusters": [{"match": "x", "retry": "off"}, {"match": "ord*", "retry": {"maxRetries": 0}},
        {"match": "*", "retry": {"maxRetries": 1}}]}"#,
    )
    .expect("a policy");
    let policy = ["--policy", policy.path().to_str().expect("UTF-8")];
    let told = explain(&line("GET", 503, "UF", REFUSED, &json!({})), &policy);
    assert_eq!(
        (&told["verdict"], &told["settings"]),
        (&json!("off"), &json!(["retry.maxRetries: 0 (by clusters[1])"])),
        "{told:#}"
    );
    let told = explain(&line("GET", 503, "UF", REFUSED, &json!({"upstream_cluster": "x"})), &policy);
    assert_eq!(
        (&told["verdict"], &told["settings"]),
        (&json!("off"), &json!(["retry: off (by clusters[0])"])),
        "{told:#}"
    );
}

#[test]
fn a_route_decides_where_the_policy_says_so() {
    let policy = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(
        policy.path(),
        r#"{"clusters": [{"match": "orders", "route": "check*", "retry": {"idempotentMethods": ["POST"]}},
        {"match": "orders", "retry": {"budget": {"percent": 9}}}]}"#,
    )
    .expect("a policy");
    let policy = ["--policy", policy.path().to_str().expect("UTF-8")];
    let settings = |route: Value| {
        let told = explain(&line("POST", 503, "UC", RESET, &json!({"route_name": route})), &policy);
        (told["verdict"].clone(), told["settings"].clone())
    };
    let (verdict, told) = settings(json!("checkout"));
    assert_eq!(verdict, "retry", "{told:#}");
    let told = told.to_string();
    assert!(
        told.contains("retry.idempotentMethods: POST; idempotencyKeyHeaders: idempotency-key (by clusters[0])"),
        "{told}"
    );
    assert!(told.contains("retry.budget: 9 % of") && told.contains("in 1 s (by clusters[1])"), "{told}");
    for route in [json!("list"), Value::Null, json!("-")] {
        let (verdict, told) = settings(route);
        assert_eq!(verdict, "method", "{told:#}");
        assert!(told.to_string().contains("(by clusters[1])"), "{told:#}");
    }
    // The name of the route is the last word of Istio's format.
    let text = "[2026-02-02T02:00:04.060Z] \"POST /orders/1 HTTP/1.1\" 503 UC upstream_reset_before_response_started{connection_termination} \
        - \"-\" 0 91 3 - \"-\" \"curl/8\" \"id\" \"orders:80\" \"10.0.0.3:80\" orders 10.1.1.1:4 10.2.2.2:80 10.1.1.1:5 - ";
    for (route, verdict) in [("checkout", "retry"), ("default", "method")] {
        let told = explain(&format!("{text}{route}"), &policy);
        assert_eq!(told["verdict"], verdict, "{told:#}");
    }
}

/// What Weir itself said in the log is what counts: it knew more.
#[test]
fn a_verdict_in_the_log_is_explained() {
    let names = Reason::ALL.map(Reason::verdict);
    for name in names.into_iter().chain(["circuit_open", "unsafe_retry"]) {
        let told = explain(&line("GET", 503, "UF", REFUSED, &json!({"weir_verdict": name})), &[]);
        assert_eq!(told["verdict"], format!("{name} (in the log)"), "{told:#}");
        assert!(told["why"].as_str().is_some_and(|why| why.len() > 20), "{told:#}");
    }
    let told = explain(&line("GET", 503, "-", VIA, &json!({"weir_verdict": "retry_budget_exhausted"})), &[]);
    assert!(told["settings"].to_string().contains("minRetryRate: 10 in 1 s"), "{told:#}");
}

#[test]
fn lines_come_as_people_have_them() {
    let text = "[pod/a/istio-proxy] [2026-02-02T02:00:04.060Z] \"GET /orders/1 HTTP/1.1\" 503 UF,URX \
        upstream_reset_before_response_started{remote_connection_failure,delayed_connect_error:_111} - \
        \"delayed connect error: Connection refused\" 0 91 3 - \"-\" \"curl/8\" \"id\" \"orders:80\" \"10.0.0.3:80\" \
        outbound|80||orders 10.1.1.1:4 10.2.2.2:80 10.1.1.1:5 - default";
    let run = weir(&["explain", text], b"");
    assert_eq!(run.status, 0, "{}", run.err);
    assert!(run.out.starts_with("GET to outbound|80||orders at 10.0.0.3:80: 503\n"), "{}", run.out);
    for part in [
        "signal unreachable: there was no connection",
        "verdict retries_used_up: Envoy had retried it",
        "setting retry.maxRetries: 2",
    ] {
        assert!(run.flowing().contains(part), "{part}: {}", run.out);
    }
    let two = format!("{text}\n\nxdsproxy connected\n{text}\n");
    let run = weir(&["explain", "-"], two.as_bytes());
    assert_eq!((run.status, run.out.matches("verdict").count()), (1, 2), "{}", run.out);
    assert!(run.err.contains("xdsproxy connected"), "{}", run.err);
    assert_eq!(weir(&["explain"], b"").status, 2);
}
