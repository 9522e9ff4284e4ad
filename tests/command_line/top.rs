//! `weir top`: the metrics of Envoys, one look after the other.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::time::Instant;

use super::{asked, weir};

/// Answers one request after the other with these texts.
fn envoy(answers: &'static [&'static str]) -> (SocketAddr, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let server = std::thread::spawn(move || {
        let mut lines = Vec::new();
        for answer in answers {
            let (mut stream, line) = asked(&listener);
            lines.push(line);
            write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())
                .expect("an answer");
        }
        lines
    });
    (address, server)
}

const BEFORE: &str = r#"# TYPE weir_requests_total counter
weir_requests_total{weir_retry="idempotent",weir_cluster="orders"} 1000
weir_attempts_total{weir_signal="answered",weir_cluster="orders"} 900
weir_attempts_total{weir_signal="refused",weir_cluster="orders"} 100
weir_retries_total{weir_verdict="granted",weir_cluster="orders"} 50
weir_retry_budget_left{weir_cluster="orders"} 12
weir_ejections_total{weir_reason="reset",weir_cluster="orders"} 7
weir_ejections_total{weir_reason="refused",weir_cluster="orders"} 1
weir_hosts_out{weir_cluster="orders"} 0
envoy_server_uptime 12
"#;

const AFTER: &str = r#"weir_requests_total{weir_retry="idempotent",weir_cluster="orders"} 1100
weir_attempts_total{weir_signal="answered",weir_cluster="orders"} 980
weir_attempts_total{weir_signal="refused",weir_cluster="orders"} 140
weir_retries_total{weir_verdict="granted",weir_cluster="orders"} 70
weir_retries_total{weir_verdict="denied",weir_cluster="orders"} 10
weir_not_retried_total{weir_reason="budget",weir_cluster="orders"} 10
weir_retry_budget_left{weir_cluster="orders"} 3
weir_ejections_total{weir_reason="reset",weir_cluster="orders"} 7
weir_ejections_total{weir_reason="refused",weir_cluster="orders"} 2
weir_hosts_out{weir_cluster="orders"} 1
weir_hosts_known{weir_cluster="orders"} 4
weir_circuit_open{weir_cluster="orders"} 0
weir_incidents_open{weir_pattern="crash_loop",weir_cluster="orders"} 1
weir_host_incident{weir_pattern="crash_loop",weir_host="10.0.3.8:8080",weir_cluster="orders"} 1
weir_host_incident{weir_pattern="restart",weir_host="10.0.3.9:8080",weir_cluster="orders"} 0
weir_host_out{weir_host="10.0.3.8:8080",weir_cluster="orders"} 1
weir_host_out{weir_host="10.0.3.9:8080",weir_cluster="orders"} 0
weir_shadow_hosts_out{weir_cluster="a \"b\""} 2
weir_shadow_host_out{weir_host="10.0.3.7:8080",weir_cluster="a \"b\""} 1
weir_shadow_circuit_open{weir_cluster="a \"b\""} 1
"#;

#[test]
fn what_happens_now_is_shown_cluster_by_cluster() {
    let (address, server) = envoy(&[BEFORE, AFTER]);
    let began = Instant::now();
    let run = weir(&["top", "--once", "--interval", "1", &format!("http://{address}/")], b"");
    let took = began.elapsed().as_secs_f64();
    assert_eq!(run.status, 0, "{}", run.err);
    let lines = server.join().expect("the server ends");
    assert_eq!(lines, ["GET /stats/prometheus HTTP/1.1"; 2]);
    assert!(run.out.starts_with("Envoys that answer: 1 of 1\n"), "{}", run.out);
    let row = run.out.lines().find(|line| line.trim_start().starts_with("orders ")).expect("a row").to_owned();
    let cells: Vec<&str> = row.split("   ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    // At least a second apart, and at most as long as it ran; rates are rounded.
    let about = |cell: &str, wanted: f64| {
        let rate: f64 = cell.split(' ').next().and_then(|rate| rate.parse().ok()).expect("a number");
        assert!(rate >= wanted / took - 0.6 && rate <= wanted * 1.05, "{cell}, not {wanted}: {}", run.out);
    };
    about(cells[1], 100.0);
    about(cells[2], 120.0);
    about(cells[3], 40.0);
    assert!(cells[3].ends_with("refused"), "{row}");
    about(cells[4], 20.0);
    about(cells[5], 10.0);
    assert_eq!(cells[6..], ["3", "1 of 4 (refused 1)", "closed", "crash_loop"], "{row}");
    assert!(run.has_row("orders 10.0.3.8:8080 crash_loop, out"), "{}", run.out);
    assert!(run.has_row("a \"b\" 10.0.3.7:8080 would be out"), "{}", run.out);
    assert!(!run.out.contains("10.0.3.9"), "{}", run.out);
    assert!(run.out.contains("budget\n"), "{}", run.out);
    let shadow = run.out.lines().find(|line| line.contains("a \"b\" (shadow)")).expect("the other cluster");
    assert!(shadow.contains(" 2 ") && shadow.contains("open"), "{shadow}");
    assert!(!run.out.contains('\u{1b}'), "no colours where nobody looks");
}

/// Istio's names are long, and not what people call a service.
#[test]
fn names_of_istio_are_short_and_what_is_in_trouble_comes_first() {
    const LOOK: &str = "weir_requests_total{weir_retry=\"unsafe\",weir_cluster=\"a\"} 1\n\
        weir_hosts_out{weir_cluster=\"outbound|8080|v1|orders.shop.svc.cluster.local\"} 1\n\
        weir_circuit_open{weir_cluster=\"outbound|80||carts.shop.svc.cluster.local\"} 1\n";
    let (address, server) = envoy(&[LOOK, LOOK]);
    let run = weir(&["top", "-i", "0.1", &address.to_string()], b"");
    drop(server.join());
    let first = run.out.lines().skip(3).map(|line| line.split_whitespace().next().unwrap_or_default());
    assert_eq!(first.collect::<Vec<_>>(), ["carts.shop:80", "orders.shop:8080/v1", "a"], "{}", run.out);
    assert!(run.has_row("a 0 0 0 0 0 - 0 closed -"), "{}", run.out);
}

#[test]
fn several_envoys_are_added_up_and_one_may_be_down() {
    let (one, first) = envoy(&[BEFORE, AFTER]);
    let (other, second) = envoy(&[BEFORE, AFTER]);
    let down = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let urls = [one, other, down].map(|address| address.to_string());
    let began = Instant::now();
    let run = weir(&["top", "--once", "-i", "1", &urls[0], &urls[1], &urls[2]], b"");
    let took = began.elapsed().as_secs_f64();
    drop((first.join(), second.join()));
    assert_eq!(run.status, 0, "{}", run.err);
    assert!(run.out.contains("Envoys that answer: 2 of 3\n") && run.out.contains(&urls[2]), "{}", run.out);
    let row = run.out.lines().find(|line| line.trim_start().starts_with("orders ")).expect("a row").to_owned();
    let rate: f64 = row.split_whitespace().nth(1).and_then(|rate| rate.parse().ok()).expect("a rate");
    assert!(rate >= 200.0 / took - 0.6, "{row}");
    let run = weir(&["top", "--once", &urls[2]], b"");
    assert!(run.status == 1 && run.err.contains(&urls[2]), "{}", run.err);
    assert_eq!(weir(&["top"], b"").status, 2);
    assert_eq!(weir(&["top", "-i", "0", "http://127.0.0.1:1"], b"").status, 2);
}

#[test]
fn what_is_missing_is_said() {
    let (address, server) = envoy(&["envoy_a 1\n", "envoy_a 1\n"]);
    let run = weir(&["top", "-i", "0.1", &address.to_string()], b"");
    drop(server.join());
    assert!(run.status == 0 && run.out.contains("no metrics of Weir"), "{}{}", run.out, run.err);
    const BARE: &str = "wasmcustom_weir_requests_total_retry_unsafe_cluster_orders 1\n";
    let (address, server) = envoy(&[BARE, BARE]);
    let run = weir(&["top", "-i", "0.1", &address.to_string()], b"");
    drop(server.join());
    assert!(run.status == 0 && run.out.contains("stats_tags"), "{}{}", run.out, run.err);
}
