//! `weir replay` on logs that were written by hand: what is in them must come out, whatever is in them besides.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::weir;

/// Some day in 2026, in milliseconds.
const START: u64 = 1_770_000_000_000;

fn replay(log: &[u8], arguments: &[&str]) -> Value {
    let run = weir(&[&["replay", "--json", "-"], arguments].concat(), log);
    assert_eq!(run.status, 0, "{}", run.err);
    serde_json::from_str(&run.out).expect("JSON")
}

/// A line of a request, as Istio writes it.
fn request(at: u64, lasted: u64, host: u32, method: &str, code: u16, flags: &str, details: &str) -> String {
    let seconds = (START + at) / 1_000;
    let time = format!(
        "2026-02-02T{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3_600 % 24,
        seconds / 60 % 60,
        seconds % 60,
        at % 1_000
    );
    let line = json!({"start_time": time, "duration": lasted, "method": method, "upstream_cluster": "outbound|80||orders",
        "upstream_host": format!("10.0.0.{host}:80"), "response_code": code, "response_flags": flags,
        "response_code_details": details, "path": "/", "bytes_sent": 3, "authority": null, "request_id": format!("{at}-{host}")});
    format!("{line}\n")
}

const VIA: &str = "via_upstream";
const REFUSED: &str =
    "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}";
const RESET: &str = "upstream_reset_before_response_started{connection_termination}";

/// Twenty seconds of four hosts in turn, of which one refuses connections from the second second to the tenth.
fn crash() -> String {
    let mut log = String::new();
    for tick in 0..2_000 {
        let (at, host) = (tick * 10, (tick % 4) as u32);
        let down = host == 3 && (2_000..10_000).contains(&at);
        let method = if tick / 4 % 2 == 0 { "GET" } else { "POST" };
        log += &match at {
            2_000..2_100 if down => request(at, 3, host, method, 503, "UC", RESET),
            _ if down => request(at, 1, host, method, 503, "UF", REFUSED),
            _ => request(at, 5, host, method, 200, "-", VIA),
        };
    }
    log
}

#[test]
fn an_incident_in_istios_format_is_told() {
    let report = replay(crash().as_bytes(), &[]);
    let cluster = &report["clusters"][0];
    assert_eq!(report["lines"]["requests"], 2_000);
    assert_eq!(cluster["cluster"], "outbound|80||orders");
    assert_eq!(cluster["attemptsSeen"], "last");
    let dead = &cluster["hosts"]["10.0.0.3:80"]["signals"];
    // 200 of its requests, two of which came in the first tenth of a second: a GET and a POST.
    assert_eq!(
        (&dead["reset"], &dead["refused"], &dead["answered"]),
        (&json!(2), &json!(198), &json!(300)),
        "{dead:#}"
    );
    assert_eq!(cluster["failures"]["seenByClients"], 200);
    // The POST that was reset stays what it was.
    let failures = &cluster["failures"];
    let safe = failures["retriable"].as_u64().unwrap_or(0) + failures["deniedByBudget"].as_u64().unwrap_or(0);
    let resets = crash().lines().filter(|line| line.contains("POST") && line.contains("UC")).count() as u64;
    assert_eq!(safe, 200 - resets, "{failures:#}");
    assert_eq!(failures["retriableAndSomeHostAnswered"], failures["retriable"], "the other hosts answer");
    let ejections = cluster["ejections"].as_array().expect("a list");
    assert!(
        !ejections.is_empty() && ejections.iter().all(|ejection| ejection["host"] == "10.0.0.3:80"),
        "{ejections:#?}"
    );
    assert!(ejections.iter().all(|ejection| ejection["back"].is_number()), "it is back at the end: {ejections:#?}");
    let incidents = cluster["incidents"].as_array().expect("a list");
    assert!(incidents.iter().any(|told| told["host"] == "10.0.0.3:80"), "{cluster:#}");
}

#[test]
fn an_outage_opens_the_circuit() {
    let mut log = String::new();
    for tick in 0..3_000_u64 {
        let (at, host) = (tick * 5, (tick % 4) as u32);
        log += &match at {
            3_000..10_000 => request(at, 1, host, "GET", 503, "UF", REFUSED),
            _ => request(at, 2, host, "GET", 200, "-", VIA),
        };
    }
    let report = replay(log.as_bytes(), &[]);
    let cluster = &report["clusters"][0];
    assert_eq!(cluster["circuit"]["opened"], 1, "{cluster:#}");
    assert!(cluster["circuit"]["openings"][0]["closed"].is_number(), "{cluster:#}");
    let shed = cluster["circuit"]["shed"].as_u64().unwrap_or(0);
    assert!((800..1_400).contains(&shed), "of 1,400 requests in the outage, {shed} are shed");
    let patterns: Vec<&Value> =
        cluster["incidents"].as_array().into_iter().flatten().map(|told| &told["pattern"]).collect();
    assert!(patterns.contains(&&json!("everyone")), "{patterns:?}");
    // With another policy, nothing of it.
    let policy = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(policy.path(), r#"{"circuitBreaker": null, "outlierDetection": null, "incidents": null}"#)
        .expect("a policy");
    let report = replay(log.as_bytes(), &["--policy", &policy.path().display().to_string()]);
    let cluster = &report["clusters"][0];
    assert_eq!(
        (&cluster["circuit"]["opened"], &cluster["ejectionCount"], &cluster["incidentCount"]),
        (&json!(0), &json!(0), &json!(0))
    );
}

/// A line of an attempt, as envoy/access-log.yaml has it, of the request with that id.
fn attempt(id: &str, at: u64, host: u32, method: &str, code: u16, flags: &str) -> String {
    let refused = if flags == "UF" { "delayed_connect_error:_Connection_refused" } else { "-" };
    let line = json!({"log": "attempt", "start_time": (START + at) as f64 / 1_000.0, "duration": 1, "method": method,
        "upstream_cluster": "outbound|80||orders", "upstream_host": format!("10.0.0.{host}:80"), "response_code": code,
        "response_flags": flags, "upstream_transport_failure_reason": refused, "request_id": id});
    format!("{line}\n")
}

/// What Envoy retried is decided on by what came before it, and what it did not retry by how it ended.
#[test]
fn retries_are_decided_on_as_in_the_module() {
    let mut log = String::new();
    for at in 0..100 {
        log += &attempt(&format!("{at}-1"), at, 1, "GET", 200, "-");
        log += &request(at, 1, 1, "GET", 200, "-", VIA);
    }
    let retried = |at: u64, method: &str, code: u16, flags: &str| {
        let id = format!("{at}-2");
        let mut end: Value = serde_json::from_str(&request(at, 5, 2, method, 200, "-", VIA)).expect("JSON");
        end["upstream_request_attempt_count"] = json!(2);
        let attempts = attempt(&id, at, 3, method, code, flags) + &attempt(&id, at + 3, 2, method, 200, "-");
        format!("{attempts}{end}\n")
    };
    for (at, method, code, flags) in [
        (200, "POST", 0, "UC"),
        (210, "POST", 503, "-"),
        (220, "GET", 0, "UC"),
        (230, "GET", 503, "-"),
        (240, "POST", 0, "UF"),
    ] {
        log += &retried(at, method, code, flags);
    }
    // Not retried: what may be, what may not, and what had no time left.
    for (at, method, flags, details) in
        [(300, "GET", "UC", RESET), (310, "POST", "UC", RESET), (320, "GET", "UT", "response_timeout")]
    {
        log += &attempt(&format!("{at}-1"), at, 1, method, 0, if flags == "UT" { "-" } else { flags });
        log += &request(at, 1, 1, method, if flags == "UT" { 504 } else { 503 }, flags, details);
    }
    let report = replay(log.as_bytes(), &[]);
    let cluster = &report["clusters"][0];
    assert_eq!(cluster["attemptsSeen"], "all");
    assert_eq!(cluster["retries"], json!({"granted": 3, "denied": 0, "stopped": 2, "unclear": 0}), "{cluster:#}");
    let failures = &cluster["failures"];
    assert_eq!((&failures["seenByClients"], &failures["retriable"]), (&json!(3), &json!(1)), "{cluster:#}");
    assert_eq!(failures["retriableAndSomeHostAnswered"], 1);
    // The end of a request explains its last attempt, and no other.
    let signals = &cluster["signals"];
    let of = |name: &str| signals[name].as_u64();
    assert_eq!((of("timeout"), of("reset"), of("answered"), of("cancelled")), (Some(1), Some(4), Some(105), Some(0)));
    // Where the budget pays for nothing, no retry that can be denied is made.
    let policy = tempfile::NamedTempFile::new().expect("a file");
    let nothing = r#"{"retry": {"budget": {"percent": 0}, "minRetryRate": null}}"#;
    std::fs::write(policy.path(), nothing).expect("a policy");
    let report = replay(log.as_bytes(), &["--policy", &policy.path().display().to_string()]);
    let cluster = &report["clusters"][0];
    // What was not processed is sent again all the same.
    assert_eq!(cluster["retries"], json!({"granted": 1, "denied": 2, "stopped": 2, "unclear": 0}), "{cluster:#}");
    assert_eq!((&cluster["failures"]["retriable"], &cluster["failures"]["deniedByBudget"]), (&json!(0), &json!(1)));
}

/// A log of attempts alone has no requests, and its circuit opens and closes all the same.
#[test]
fn attempts_alone_are_enough_for_the_circuit() {
    let ids = (0..4_000_u64).map(|tick| (tick, tick * 2));
    let line = |(tick, at): (u64, u64)| match at {
        3_000..6_000 => attempt(&tick.to_string(), at, (tick % 4) as u32, "GET", 0, "UF"),
        _ => attempt(&tick.to_string(), at, (tick % 4) as u32, "GET", 200, "-"),
    };
    let report = replay(ids.map(line).collect::<String>().as_bytes(), &[]);
    let cluster = &report["clusters"][0];
    assert_eq!((&cluster["circuit"]["opened"], &cluster["circuit"]["shed"]), (&json!(1), &json!(0)), "{cluster:#}");
    let opening = &cluster["circuit"]["openings"][0];
    let open = |end: &str| opening[end].as_f64().expect("a time") - START as f64 / 1_000.0;
    assert!((6.0..6.2).contains(&open("closed")), "{opening:#}");
    assert_eq!((&cluster["attempts"], &cluster["signals"]["refused"]), (&json!(4_000), &json!(1_500)));
}

/// As in gRFC A6: what is not a number of milliseconds to wait says not to retry.
#[test]
fn a_retry_pushback_of_grpc_is_one() {
    let line = |field: &str, pushback: Value| {
        let line = json!({"start_time": "2026-02-02T00:00:00.000Z", "duration": 1, "method": "POST",
            "upstream_cluster": "a", "upstream_host": "10.0.0.1:80", "response_code": 200, "response_flags": "-",
            "response_code_details": VIA, "content_type": "application/grpc", "grpc_trailer": "14", field: pushback});
        let report = replay(format!("{line}\n").as_bytes(), &[]);
        report["clusters"][0]["signals"].clone()
    };
    for field in ["grpc_pushback", "grpc_pushback_trailer"] {
        for pushback in [json!("-1"), json!("soon"), json!(-1)] {
            assert_eq!(line(field, pushback.clone())["pushback"], 1, "{field} {pushback}");
        }
        for pushback in [json!("0"), json!("250"), json!("-"), json!(null), json!(250)] {
            assert_eq!(line(field, pushback.clone())["error"], 1, "{field} {pushback}");
        }
    }
    for field in ["overloaded", "grpc_pushback"] {
        let line = json!({"start_time": 1770000000, "duration": 1, "method": "POST", "upstream_cluster": "a",
            "upstream_host": "10.0.0.1:80", "response_code": 200, "response_code_details": VIA, field: "never"});
        let report = replay(format!("{line}\n").as_bytes(), &[]);
        assert_eq!(report["clusters"][0]["signals"]["answered"], 1, "{field}");
    }
}

#[test]
fn lines_in_another_order_come_to_the_same() {
    let log = crash();
    let mut lines: Vec<&str> = log.lines().collect();
    // By up to a second.
    lines.chunks_mut(100).for_each(<[&str]>::reverse);
    let shuffled = lines.join("\n");
    let (straight, shuffled) = (replay(log.as_bytes(), &[]), replay(shuffled.as_bytes(), &[]));
    assert_eq!(straight["clusters"], shuffled["clusters"]);
    assert_eq!(shuffled["lines"]["late"], 0);
    // Out of reach, it is told.
    let late = replay((log.lines().rev().collect::<Vec<_>>().join("\n")).as_bytes(), &["--window", "1"]);
    assert!(late["lines"]["late"].as_u64() > Some(0), "{:#}", late["lines"]);
    assert_eq!(late["clusters"][0]["requests"], 2_000, "and it counts all the same");
}

#[test]
fn lines_that_are_of_no_use_are_told_with_the_first_of_each_kind() {
    let good = request(0, 1, 1, "GET", 200, "-", VIA);
    let mut log = good.clone().into_bytes();
    log.extend_from_slice(b"{\"start_time\": 1\n\n[]\nnull\n\xff\xfe\n");
    log.extend_from_slice(b"{\"duration\": 1, \"upstream_cluster\": \"a\"}\n");
    log.extend_from_slice(
        b"{\"start_time\": \"2026-13-02T00:00:00Z\", \"duration\": 1, \"upstream_cluster\": \"a\"}\n",
    );
    log.extend_from_slice(b"{\"start_time\": 1770000000.5, \"upstream_cluster\": \"a\"}\n");
    log.extend_from_slice(b"{\"start_time\": 1770000000.5, \"duration\": \"-\", \"upstream_cluster\": \"a\"}\n");
    log.extend_from_slice(b"{\"start_time\": 1770000000.5, \"duration\": 1, \"upstream_cluster\": \"-\"}\n");
    log.extend_from_slice(&[b'x'; 3 << 20]);
    log.extend_from_slice(b"\n");
    log.extend_from_slice(good.trim_end().as_bytes());
    let report = replay(&log, &[]);
    assert_eq!(report["lines"]["requests"], 2, "{report:#}");
    let useless = report["lines"]["notUsed"].as_array().expect("a list");
    let found: Vec<(&str, u64, &str)> = useless
        .iter()
        .map(|kind| {
            (
                kind["why"].as_str().unwrap_or(""),
                kind["lines"].as_u64().unwrap_or(0),
                kind["first"].as_str().unwrap_or(""),
            )
        })
        .collect();
    let wanted = [
        ("not of an access log: neither JSON nor Envoy's or Istio's default format", 4, "standard input:2"),
        ("no start_time that can be read", 2, "standard input:7"),
        ("no duration", 2, "standard input:9"),
        ("no upstream_cluster: Envoy answered by itself", 1, "standard input:11"),
        ("longer than 1 MiB", 1, "standard input:12"),
    ];
    assert_eq!(found, wanted);
}

/// Where no line says how many attempts there were, none is claimed.
#[test]
fn retries_are_not_counted_where_the_log_does_not_tell() {
    let istio = "[2026-11-27T14:00:00.000Z] \"GET / HTTP/1.1\" 503 UF,URX upstream_reset_before_response_started - \"-\" 0 91 14 - \
        \"-\" \"curl\" \"-\" \"orders.shop:8080\" \"10.0.3.8:8080\" outbound|8080||orders.shop.svc.cluster.local - - - - default\n";
    let run = weir(&["replay", "-"], istio.as_bytes());
    assert_eq!(run.status, 0, "{}", run.err);
    assert!(run.flowing().contains("Retries that happened: the log does not tell"), "{}", run.out);
    assert_eq!(replay(istio.as_bytes(), &[])["clusters"][0]["requestsOfUnknownAttempts"], 1);
    let counted = request(0, 1, 1, "GET", 200, "-", VIA).replacen('{', r#"{"upstream_request_attempt_count": 1, "#, 1);
    let run = weir(&["replay", "-"], counted.as_bytes());
    assert!(run.flowing().contains("Retries that happened: 0."), "{}", run.out);
    assert!(run.flowing().contains("1 line, 1 of them of use: 1 request, 0 attempts"), "{}", run.out);
    assert!(run.flowing().contains("Failures that a client saw: none. Ejections"), "{}", run.out);
}

#[test]
fn nonsense_is_no_reason_to_panic() {
    assert_eq!(weir(&["replay", "-"], b"").status, 0, "an empty log is one");
    assert_eq!(weir(&["replay", "-"], b"\n\n").status, 0);
    assert_eq!(weir(&["replay", "-"], b"hello\n").status, 1, "nothing is of use");
    let empty = weir(&["replay", "-"], b"");
    assert!(empty.status == 0 && empty.err.contains("Does this proxy write an access log?"), "{}", empty.err);
    assert_eq!(weir(&["replay", "no/such/file"], b"").status, 2);
    assert_eq!(weir(&["replay"], b"").status, 2);
    assert_eq!(weir(&["replay", "-"], &[0x1f, 0x8b, 8, 0, 0]).status, 2, "a broken archive is no log");
    // Numbers and times at their ends, a clock that jumps by centuries, and back.
    let mut log = String::new();
    for start in [
        "0",
        "9999999999",
        "1e300",
        "-5",
        "1770000000",
        "\"2200-12-31T23:59:60.999999999Z\"",
        "\"1970-01-01T00:00:00+14:00\"",
        "\"1970-01-01T00:00:00-14:00\"",
        "\"\u{e4}\u{f6}\u{fc}0-01-01T00:00:00Z\"",
        "\"99999999999999999999.1\"",
        "1769999999.999",
        "\"2026-02-02T00:00:00.Z\"",
    ] {
        for duration in ["0", "1e18", "1e308", "18446744073709551615", "-1", "\"NaN\"", "\"7\""] {
            for code in ["0", "503", "70000", "-1", "\"x\""] {
                let _ = writeln!(
                    log,
                    r#"{{"start_time": {start}, "duration": {duration}, "response_code": {code}, {}}}"#,
                    r#""upstream_cluster": "a", "upstream_host": "h\u0000", "response_flags": "UF,,ZZ,UC", "stream_id": 5,
                    "upstream_request_attempt_count": 4294967295, "log": {"a": [1]}"#
                        .replace('\n', " ")
                );
            }
        }
    }
    let run = weir(&["replay", "-", "--json", "--plot", "/dev/null"], log.as_bytes());
    assert_eq!(run.status, 0, "{}", run.err);
    assert!(!run.err.contains("panicked"), "{}", run.err);
}

/// Two of six hosts are away from the second second on, the one a moment longer than the other.
#[test]
fn names_of_incidents_do_not_cover_each_other_in_the_picture() {
    let mut log = String::new();
    for tick in 0..2_000_u64 {
        let (at, host) = (tick * 10, (tick % 6) as u32);
        let down = host < 2 && (2_000..5_000 + 200 * u64::from(host)).contains(&at);
        log += &if down {
            request(at, 1, host, "GET", 503, "UF", REFUSED)
        } else {
            request(at, 5, host, "GET", 200, "-", VIA)
        };
    }
    let folder = tempfile::tempdir().expect("a directory");
    let file = folder.path().join("replay.svg");
    let run = weir(&["replay", "-", "--plot", file.to_str().expect("UTF-8")], log.as_bytes());
    assert!(run.out.matches("pattern=restart").count() == 2, "{}", run.out);
    let svg = std::fs::read_to_string(file).expect("the picture");
    assert_eq!(svg.matches(">restart</text>").count(), 1, "{svg}");
    assert_eq!(svg.matches(r#"class="bound""#).count(), 2, "{svg}");
}

/// The lines of [`crash`] in Istio's default text format, or in Envoy's.
fn in_text(istio: bool) -> String {
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let word = |name: &str| line[name].as_str().map_or(line[name].to_string(), str::to_owned);
        let reason = if word("response_flags") == "UF" { "delayed connect error: Connection refused" } else { "-" };
        let ends = format!(
            "0 91 {} 2 \"-\" \"a \"quoted\" agent\" \"{}\" \"orders:80\" \"{}\"",
            word("duration"),
            word("request_id"),
            word("upstream_host")
        );
        let begins = format!(
            "[{}] \"{} /a\"b HTTP/1.1\" {} {}",
            word("start_time"),
            word("method"),
            word("response_code"),
            word("response_flags")
        );
        if istio {
            format!(
                "{begins} {} - \"{reason}\" {ends} outbound|80||orders 10.1.1.1:4444 10.2.2.2:80 10.1.1.1:555 - default\n",
                word("response_code_details")
            )
        } else {
            format!("{begins} {ends}\n")
        }
    };
    crash().lines().map(line).collect()
}

#[test]
fn the_default_text_formats_say_the_same_as_json() {
    let json = replay(crash().as_bytes(), &[]);
    let istio = replay(in_text(true).as_bytes(), &[]);
    assert_eq!(istio["clusters"], json["clusters"]);
    // Envoy's own has neither cluster nor details nor a reason: a host that refuses cannot be told from one that is not there.
    let envoy = replay(in_text(false).as_bytes(), &[]);
    let cluster = &envoy["clusters"][0];
    assert_eq!((&cluster["cluster"], &cluster["requests"]), (&json!("orders:80"), &json!(2_000)), "{cluster:#}");
    assert_eq!(cluster["failures"]["seenByClients"], 200);
    assert_eq!(cluster["hosts"]["10.0.0.3:80"]["signals"]["unreachable"], 198, "{cluster:#}");
    assert!(cluster["ejectionCount"].as_u64() > Some(0), "{cluster:#}");
}

/// As `kubectl logs --prefix` has lines of these pods.
fn of_pods(log: &str, pods: &[&str]) -> String {
    log.lines().flat_map(|line| pods.iter().map(move |pod| format!("[pod/{pod}/istio-proxy] {line}\n"))).collect()
}

#[test]
fn each_proxy_has_a_budget_of_its_own() {
    // Enough retries for one: 20 percent of the requests, where a quarter fails.
    let policy = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(policy.path(), r#"{"retry": {"minRetryRate": {"count": 8, "interval": "1s"}, "budget": {"percent": 0}}, "circuitBreaker": "off"}"#)
        .expect("a policy");
    let policy = policy.path().display().to_string();
    let log = in_text(true);
    let count = |report: &Value, name: &str| report["clusters"][0]["failures"][name].as_u64().expect("a count");
    let one = replay(log.as_bytes(), &["--policy", &policy]);
    let three = of_pods(&log, &["a-1", "b-2", "c-3"]);
    let apart = replay(three.as_bytes(), &["--policy", &policy]);
    assert_eq!((&apart["lines"]["proxies"], &apart["lines"]["requests"]), (&json!(3), &json!(6_000)));
    assert!(count(&one, "deniedByBudget") > 0, "{one:#}");
    for name in ["seenByClients", "retriable", "retriableAndSomeHostAnswered", "deniedByBudget"] {
        assert_eq!(count(&apart, name), 3 * count(&one, name), "{name}");
    }
    assert_eq!(apart["clusters"][0]["hosts"]["10.0.0.3:80"]["signals"]["refused"], 3 * 198);
    assert_eq!(
        apart["clusters"][0]["incidentCount"],
        json!(3 * one["clusters"][0]["incidentCount"].as_u64().expect("a count"))
    );
    // Each says what it saw.
    let cluster = &apart["clusters"][0];
    for (list, count) in [("incidents", "incidentCount"), ("ejections", "ejectionCount")] {
        let told = cluster[list].as_array().expect("a list");
        for pod in ["a-1", "b-2", "c-3"] {
            let own = told.iter().filter(|one| one["proxy"] == pod).count();
            assert!(own > 0 && json!(3 * own) == cluster[count], "{list} of {pod}: {own} of {}", cluster[count]);
        }
        assert!(one["clusters"][0][list].as_array().expect("a list").iter().all(|own| own["proxy"].is_null()));
    }
    let run = weir(&["replay", "--policy", &policy, "-"], three.as_bytes());
    for pod in ["a-1", "b-2", "c-3"] {
        assert!(run.out.lines().any(|line| line.contains(&format!(" proxy={pod} state="))), "{}", run.out);
        assert!(
            run.out.lines().any(|line| line.contains("10.0.0.3:80") && line.ends_with(&format!("in {pod}"))),
            "{}",
            run.out
        );
    }
    // Without their names they are one proxy, with one budget.
    let together: String =
        three.lines().map(|line| format!("{}\n", line.split_once("] ").expect("a prefix").1)).collect();
    let together = replay(together.as_bytes(), &["--policy", &policy]);
    assert_eq!(together["lines"]["proxies"], 1);
    assert!(count(&together, "deniedByBudget") > 3 * count(&one, "deniedByBudget"), "{together:#}");
    // What a runtime or kubectl --timestamps puts before a line is no part of it, and other lines do no harm.
    let stamped: String = log.lines().map(|line| format!("2026-02-02T00:00:00.123456789Z stdout F {line}\n")).collect();
    let stamped = format!("{stamped}2026-02-02T00:00:00.123456Z\tinfo\txdsproxy\tconnected\n");
    let report = replay(stamped.as_bytes(), &["--policy", &policy]);
    assert_eq!(report["clusters"], one["clusters"]);
    // Files of proxies.
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &log).expect("a log");
    let file = file.path().display().to_string();
    let run = weir(&["replay", "--json", "--per-file", "--policy", &policy, &file, "-"], log.as_bytes());
    let report: Value = serde_json::from_str(&run.out).expect("JSON");
    assert_eq!(count(&report, "deniedByBudget"), 2 * count(&one, "deniedByBudget"));
    let told = report["clusters"][0]["incidents"].as_array().expect("a list");
    for name in [file.as_str(), "standard input"] {
        assert!(told.iter().any(|incident| incident["proxy"] == name), "{told:?}");
    }
}

#[test]
fn what_came_to_the_pod_itself_is_left_out() {
    let inbound = in_text(true).replace("outbound|80||orders", "inbound|80||");
    let run = weir(&["replay", "-"], inbound.as_bytes());
    assert!(run.status == 1 && run.out.contains("to the pod itself"), "{}", run.out);
}

#[test]
fn what_weir_would_have_changed_is_said_first() {
    let run = weir(&["replay", "-"], in_text(true).as_bytes());
    let report = replay(in_text(true).as_bytes(), &[]);
    let failures = &report["clusters"][0]["failures"];
    assert_eq!(report["clusters"][0]["ejectionCount"], 1);
    let said = format!(
        "Weir would have prevented about {} of the 200 failures that clients saw in 2000 requests, and left out a host once.",
        failures["retriableAndSomeHostAnswered"]
    );
    assert!(run.flowing().starts_with(&said), "{said}\n{}", run.out);
    let well: String =
        in_text(true).lines().filter(|line| line.contains(" 200 - ")).map(|line| format!("{line}\n")).collect();
    let run = weir(&["replay", "-"], well.as_bytes());
    assert!(
        run.flowing().starts_with("Weir would have had no failure to prevent in 1800 requests, and left out no host."),
        "{}",
        run.out
    );
}

#[test]
fn two_policies_are_compared() {
    let policy = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(
        policy.path(),
        r#"{"retry": {"maxRetries": 0}, "outlierDetection": "off", "circuitBreaker": "off"}"#,
    )
    .expect("a policy");
    let policy = policy.path().display().to_string();
    let arguments = ["--policy", "defaults", "--policy", &policy];
    let report = replay(in_text(true).as_bytes(), &arguments);
    let alone = replay(in_text(true).as_bytes(), &[]);
    let both = report["policies"].as_array().expect("a list");
    assert_eq!(both[0]["policy"], "defaults");
    assert_eq!(both[0]["clusters"], alone["clusters"], "beside another it does the same");
    let off = &both[1]["clusters"][0];
    assert_eq!((&off["failures"]["retriable"], &off["ejectionCount"]), (&json!(0), &json!(0)), "{off:#}");

    let run = weir(&[&["replay", "-"][..], &arguments].concat(), in_text(true).as_bytes());
    assert!(run.out.starts_with("With defaults, Weir would have prevented about "), "{}", run.out);
    assert!(
        run.flowing().contains(&format!("With {policy}, Weir would have prevented none of the 200 failures")),
        "{}",
        run.out
    );
    let failures = &alone["clusters"][0]["failures"];
    assert!(run.has_row("failures that clients saw 200 200"), "{}", run.out);
    let saved = &failures["retriableAndSomeHostAnswered"];
    assert!(run.has_row(&format!("prevented: another host answered just then {saved} 0")), "{}", run.out);
    assert!(run.has_row(&format!("hosts left out, times {} 0", alone["clusters"][0]["ejectionCount"])), "{}", run.out);
    assert_eq!(weir(&["replay", "-", "-p", "no/such/policy"], b"").status, 2);
}
