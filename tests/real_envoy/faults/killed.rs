//! A worker's VM that dies under load, in each `failure_policy`: which requests fail, and for how long.
//!
//! The module cannot be made to trap, so one is made that can: the shipped code, with an instruction more at the start of
//! `proxy_on_request_headers`, which traps where a request has as many headers as none has by itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use wasmparser::{Parser, Payload};

use crate::alone::Test;
use crate::support::bootstrap::{self, Attach, Listener};
use crate::support::client::{Connection, Request, exchange};
use crate::support::delay::{self, Watch};
use crate::support::envoy::{self, Envoy, Launch};
use crate::support::upstream::{Step, Upstream, answer, http1};
use crate::support::{ports, wait};

pub const TIMED: &[Test] = &[
    ("faults::killed::FAIL_RELOAD", || killed("FAIL_RELOAD")),
    ("faults::killed::FAIL_OPEN", || killed("FAIL_OPEN")),
    ("faults::killed::FAIL_CLOSED", || killed("FAIL_CLOSED")),
];

/// Headers of the request that kills. Others have about ten.
const DEADLY: u8 = 60;
/// Connections that send one request after the other: half of them on each worker.
const CONNECTIONS: usize = 8;
/// Requests whose answer is under way meanwhile: half of them on each worker.
const SLOW: usize = 8;

/// What became of a request, and when it began, since the VM was killed: seconds.
type Seen = (f64, u16);

fn killed(policy: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let module = directory.path().join("deadly.wasm");
    std::fs::write(&module, deadly(&std::fs::read(envoy::module())?)?)?;
    let (site, upstream) = site(&module.display().to_string(), policy)?;
    let over = AtomicBool::new(false);
    let began = Instant::now();
    let (loads, slow, deadly_at, delayed) = std::thread::scope(|scope| -> Result<_> {
        let loads: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(|| load(site.address, &over, began))).collect();
        wait::until(wait::LIMIT, || {
            if upstream.count() > 400 { Ok(()) } else { Err(format!("{} requests", upstream.count())) }
        })
        .map_err(anyhow::Error::msg)?;
        let before = upstream.count();
        let slow: Vec<_> = (0..SLOW).map(|_| scope.spawn(|| exchange(site.address, &Request::get("/slow")))).collect();
        wait::until(wait::LIMIT, || {
            let under_way = upstream.seen().iter().skip(before).filter(|seen| seen.path == "/slow").count();
            if under_way == SLOW { Ok(()) } else { Err(format!("{under_way} are under way")) }
        })
        .map_err(anyhow::Error::msg)?;
        let deadly_at = began.elapsed().as_secs_f64();
        let mut request = Request::get("/deadly");
        for number in 0..DEADLY {
            request = request.header(&format!("x-{number}"), "x");
        }
        let watch = Watch::start();
        let _ = exchange(site.address, &request);
        (0..SLOW).for_each(|_| upstream.open_gate());
        delay::sleep(Duration::from_secs(5));
        let delayed = watch.read().delayed.as_secs_f64();
        over.store(true, Ordering::Relaxed);
        let loads: Vec<Vec<Seen>> = loads.into_iter().map(|load| load.join().unwrap_or_default()).collect();
        let slow: Vec<u16> = slow
            .into_iter()
            .map(|slow| slow.join().ok().and_then(Result::ok).map_or(0, |response| response.status))
            .collect();
        Ok((loads, slow, deadly_at, delayed))
    })?;
    let since = |at: f64| at - deadly_at;
    let failed = |load: &[Seen]| load.iter().filter(|(_, status)| *status != 200).count();
    let harmed: Vec<&Vec<Seen>> = loads.iter().filter(|load| failed(load) > 0).collect();
    let all: Vec<Seen> = loads.iter().flatten().copied().collect();
    let failures: Vec<Seen> = all.iter().filter(|(_, status)| *status != 200).copied().collect();
    let first = failures.iter().map(|(at, _)| since(*at)).fold(f64::INFINITY, f64::min);
    let last = failures.iter().map(|(at, _)| since(*at)).fold(0.0, f64::max);
    let slow_failed = slow.iter().filter(|status| **status != 200).count();
    let story = format!(
        "{policy}: {} of {} requests failed, the first begun {first:.3} s and the last {last:.3} s after the VM was killed, on \
         {} of {CONNECTIONS} connections; of {SLOW} requests whose answer was awaited, {slow_failed}; statuses {:?}",
        failures.len(),
        all.len(),
        harmed.len(),
        failures.iter().map(|(_, status)| *status).collect::<std::collections::BTreeSet<_>>(),
    );
    println!("{story}");
    // One worker of two has suffered: its requests, and nobody else's.
    ensure!(failures.iter().all(|(_, status)| *status == 503), "{story}");
    ensure!(first > -1.0 && slow_failed > 0 && slow_failed < SLOW, "{story}");
    ensure!(harmed.len() < CONNECTIONS, "{story}");
    match policy {
        // Again as before, soon.
        "FAIL_RELOAD" => ensure!(last < 3.0 + delayed, "{story}, delayed by {delayed:.3} s"),
        "FAIL_OPEN" => ensure!(last < 0.5 + delayed, "{story}, delayed by {delayed:.3} s"),
        // For good.
        _ => ensure!(
            last > 4.0 && harmed.iter().all(|load| load.last().is_some_and(|(_, status)| *status == 503)),
            "{story}"
        ),
    }
    let log = site.envoy.log();
    ensure!(
        log.contains("unreachable") || log.contains("Function: proxy_on_request_headers failed"),
        "no trap:\n{}",
        site.envoy.log_end()
    );
    Ok(())
}

struct Site {
    envoy: Envoy,
    address: SocketAddr,
}

fn site(module: &str, policy: &str) -> Result<(Site, Upstream)> {
    let upstream = http1(|request| match request.path.as_str() {
        "/slow" => [vec![Step::Gate], answer(200, &[], "")].concat(),
        _ => answer(200, &[], ""),
    });
    let address = ports::free();
    let mut listener = bootstrap::listener(Listener {
        name: "killed",
        port: address.port(),
        attach: Attach::GUARD,
        policy: &json!({"role": "decide"}),
        routes: vec![bootstrap::route("/", "upstream")],
        logs: None,
        manager: Value::Null,
    });
    listener["connection_balance_config"] = json!({"exact_balance": {}});
    let listener =
        listener.to_string().replace("FAIL_RELOAD", policy).replace(&envoy::module().display().to_string(), module);
    let listener = serde_json::from_str(&listener)?;
    let cluster = bootstrap::cluster("upstream", &[upstream.address]);
    let envoy = Launch::json(bootstrap::bootstrap(&[listener], &[cluster])).concurrency(2).start()?;
    Ok((Site { envoy, address }, upstream))
}

/// One request after the other, on one connection for as long as Envoy keeps it.
fn load(address: SocketAddr, over: &AtomicBool, began: Instant) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut connection = None;
    while !over.load(Ordering::Relaxed) {
        let at = began.elapsed().as_secs_f64();
        let status = match connection.take().map_or_else(|| Connection::open(address), Ok) {
            Ok(mut open) => match open.exchange(&Request::get("/")) {
                Ok(response) => {
                    connection = Some(open);
                    response.status
                }
                Err(_) => 0,
            },
            Err(_) => 0,
        };
        seen.push((at, status));
        std::thread::sleep(Duration::from_millis(5));
    }
    seen
}

/// The module, made to trap in `proxy_on_request_headers` where the number of headers is at least [`DEADLY`].
fn deadly(module: &[u8]) -> Result<Vec<u8>> {
    let (mut imports, mut target, mut bodies, mut section) = (0, None, Vec::new(), None);
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::ImportSection(reader) => imports = reader.into_imports().count() as u32,
            Payload::ExportSection(reader) => {
                for export in reader {
                    let export = export?;
                    if export.name == "proxy_on_request_headers" {
                        target = Some(export.index);
                    }
                }
            }
            Payload::CodeSectionStart { range, .. } => section = Some(range),
            Payload::CodeSectionEntry(body) => {
                let start = body.get_operators_reader()?.original_position();
                bodies.push((body.range(), start));
            }
            _ => {}
        }
    }
    let (target, section) = (target.context("the export")?, section.context("the code")?);
    // local.get 1; i32.const DEADLY; i32.ge_u; if; unreachable; end
    let trap = [0x20, 1, 0x41, DEADLY, 0x4f, 0x04, 0x40, 0x00, 0x0b];
    let mut code = leb(bodies.len());
    for (number, (range, start)) in bodies.iter().enumerate() {
        let mut body = module.get(range.clone()).context("a function")?.to_vec();
        if number as u32 + imports == target {
            let at = start - range.start;
            body.splice(at..at, trap);
        }
        code.extend(leb(body.len()));
        code.extend(body);
    }
    // The section's own header stands before its range: its number, and its size.
    let header = 1 + leb(section.len()).len();
    let before = module.get(..section.start - header).context("what comes before")?;
    let after = module.get(section.end..).context("what comes after")?;
    Ok([before, &[10], &leb(code.len()), &code, after].concat())
}

/// LEB128.
fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 127 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
