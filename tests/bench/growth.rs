//! What a request costs when Weir knows many hosts, or many clusters; what the module weighs; how soon it serves.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::load::{Load, Shape, resident_megabytes};
use super::statistics::{Estimate, median, median_at};
use super::support::bootstrap::{self, Attach, Listener, merge};
use super::support::envoy::{Envoy, Launch, module};
use super::support::{ports, wait};
use super::upstream;
use super::variants::override_host;

const REQUESTS: u32 = 2_000;

/// How many hosts in one cluster, or how many clusters of one host.
#[derive(Clone, Copy)]
enum Size {
    Hosts(usize),
    /// One of them refuses connections. It is not among those of the Envoy without Weir.
    OneOut(usize),
    Clusters(usize),
}

pub fn run(rounds: usize) -> Result<String> {
    let mut text = format!(
        "Growth, HTTP/1.1, GET: CPU time of Envoy in µs per request that Weir (decide, watch, guard) adds, medians of {rounds} rounds; \
         memory of the process with Weir beside one without, in MB, after the same requests\n\n\
         | | added | memory added |\n|---|---|---|\n"
    );
    let sizes = [
        Size::Hosts(1),
        Size::Hosts(100),
        Size::Hosts(10_000),
        Size::Clusters(100),
        Size::Clusters(1_000),
        Size::OneOut(4),
        Size::OneOut(500),
        Size::OneOut(1_000),
    ];
    for size in sizes {
        let name = match size {
            Size::Hosts(hosts) => format!("{hosts} hosts of one cluster"),
            Size::OneOut(hosts) => format!("{hosts} hosts of one cluster, one of them out"),
            Size::Clusters(clusters) => format!("{clusters} clusters of one host"),
        };
        let (added, memory) = measure(size, rounds).with_context(|| name.clone())?;
        text.push_str(&format!("| {name} | {added} | {memory:.1} |\n"));
    }
    let size = std::fs::metadata(module())?.len();
    let (with, without) = (first_answer(Attach::GUARD)?, first_answer(Attach::NOWHERE)?);
    text.push_str(&format!(
        "\nThe module: {size} bytes. From Envoy's start to its first answer: {with:.0} ms, without Weir {without:.0} ms (medians of 5).\n"
    ));
    Ok(text)
}

/// Hosts served by processes of their own: each host has a listener, and a connection from either Envoy, and 20,000 files are a
/// usual limit of a process.
struct Hosts {
    addresses: Vec<SocketAddr>,
    processes: Vec<Child>,
}

const HOSTS_OF_A_PROCESS: usize = 4_000;

impl Hosts {
    fn start(count: usize) -> Result<Self> {
        let mut hosts = Self { addresses: Vec::new(), processes: Vec::new() };
        let numbers: Vec<usize> = (0..count).collect();
        for numbers in numbers.chunks(HOSTS_OF_A_PROCESS) {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg(SERVE).arg(numbers.len().to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut process = command.spawn()?;
            let output = process.stdout.take();
            hosts.processes.push(process);
            let mut port = String::new();
            BufReader::new(output.context("hosts that say nothing")?).read_line(&mut port)?;
            let port = port.trim().parse().context("hosts that do not say their port")?;
            hosts.addresses.extend((0..numbers.len()).map(|number| address(number, port)));
        }
        Ok(hosts)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The argument that makes this program such a process.
pub const SERVE: &str = "--serve";

/// Serves so many hosts until standard input ends, which it does with whoever started this.
pub fn serve(count: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let first = ports::listen();
    let port = first.local_addr()?.port();
    let mut listeners = vec![first];
    for number in 1..count {
        listeners.push(TcpListener::bind(address(number, port))?);
    }
    upstream::serve(&runtime, listeners)?;
    println!("{port}");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Addresses of this machine's loopback network.
fn address(number: usize, port: u16) -> SocketAddr {
    let [_, _, high, low] = (number as u32).to_be_bytes();
    let ip = if number == 0 { Ipv4Addr::LOCALHOST } else { Ipv4Addr::new(127, 10, high, low) };
    (ip, port).into()
}

struct Side {
    envoy: Envoy,
    port: u16,
}

fn measure(size: Size, rounds: usize) -> Result<(Estimate, f64)> {
    let (clusters, hosts) = match size {
        Size::Hosts(hosts) => (1, hosts),
        Size::OneOut(hosts) => (1, hosts - 1),
        Size::Clusters(clusters) => (clusters, 1),
    };
    let served = Hosts::start(hosts)?;
    let without = start(Attach::NOWHERE, clusters, &served.addresses)?;
    let mut hosts_of_weir = served.addresses.clone();
    if let (Size::OneOut(_), Some(first)) = (size, served.addresses.first()) {
        // Nobody listens there.
        hosts_of_weir.push((Ipv4Addr::new(127, 11, 0, 1), first.port()).into());
    }
    let with = start(Attach::GUARD, clusters, &hosts_of_weir)?;
    let uris = with.envoy.directory().join("uris");
    let lines: String = (0..clusters).map(|number| format!("/c{number}/small\n")).collect();
    std::fs::write(&uris, lines)?;
    let send = |side: &Side, requests: u32| {
        let shape = Shape { http2: false, large: false };
        let load = Load { port: side.port, shape, requests, rate: None, uris: Some(&uris), header: None };
        Ok::<_, anyhow::Error>(load.run(side.envoy.pid(), side.envoy.directory())?.cpu)
    };
    // Every host and every cluster is met several times.
    let first = (3 * hosts * clusters).max(4_000) as u32;
    send(&without, first)?;
    // Until the one that refuses is out, a request may meet it with each of its attempts.
    if send(&with, first).is_err() {
        send(&with, first)?;
    }
    let memory = resident_megabytes(with.envoy.pid())? - resident_megabytes(without.envoy.pid())?;
    let mut differences = Vec::new();
    for round in 0..rounds {
        let cost = if round.is_multiple_of(2) {
            let less = send(&without, REQUESTS)?;
            send(&with, REQUESTS)? - less
        } else {
            let more = send(&with, REQUESTS)?;
            more - send(&without, REQUESTS)?
        };
        differences.push(cost);
    }
    Ok((Estimate::of(rounds, |rounds| median_at(&differences, rounds)), memory))
}

fn start(attach: Attach, clusters: usize, hosts: &[SocketAddr]) -> Result<Side> {
    let port = ports::free().port();
    Ok(Side { envoy: Launch::json(configuration(attach, port, clusters, hosts)).start()?, port })
}

/// A cluster for each path, found in a map: Envoy's own search for a route costs the same with any number of them.
fn configuration(attach: Attach, port: u16, clusters: usize, hosts: &[SocketAddr]) -> Value {
    let mut listener = bootstrap::listener(Listener {
        name: "growth",
        port,
        attach,
        policy: &Value::Null,
        routes: Vec::new(),
        logs: None,
        manager: json!({"use_remote_address": true}),
    });
    let routes: serde_json::Map<String, Value> = (0..clusters)
        .map(|number| {
            let mut route = bootstrap::route("/", &name(number));
            route["@type"] = json!("type.googleapis.com/envoy.config.route.v3.Route");
            (format!("/c{number}/small"), json!({"action": {"name": "route", "typed_config": route}}))
        })
        .collect();
    let path = json!({
        "name": "path",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput",
            "header_name": ":path",
        },
    });
    listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"] = json!([{
        "name": "all",
        "domains": ["*"],
        "include_request_attempt_count": true,
        "matcher": {"matcher_tree": {"input": path, "exact_match_map": {"map": routes}}},
    }]);
    let clusters: Vec<Value> = (0..clusters)
        .map(|number| {
            let mut cluster = bootstrap::cluster(&name(number), hosts);
            // Each host keeps a connection.
            cluster["circuit_breakers"] = json!({"thresholds": [{"max_connections": 100_000, "max_retries": 1_000}]});
            if attach.decide {
                merge(&mut cluster, &override_host());
            }
            cluster
        })
        .collect();
    bootstrap::bootstrap(&[listener], &clusters)
}

fn name(number: usize) -> String {
    format!("outbound|80||service-{number}.shop.svc.cluster.local")
}

/// Milliseconds from Envoy's start until it answers a request.
fn first_answer(attach: Attach) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let hosts = upstream::serve(&runtime, vec![ports::listen()])?;
    let mut times = Vec::new();
    for _ in 0..5 {
        let port = ports::free().port();
        let launch = Launch::json(configuration(attach, port, 1, &hosts));
        let began = Instant::now();
        let mut envoy = launch.spawn()?;
        let answered = wait::until(Duration::from_secs(60), || match answers(port) {
            true => Ok(began.elapsed()),
            false => Err(format!("no answer; running: {}", envoy.is_running())),
        });
        times.push(answered.map_err(anyhow::Error::msg)?.as_secs_f64() * 1_000.0);
    }
    Ok(median(times))
}

fn answers(port: u16) -> bool {
    use std::io::Write;
    let Ok(mut stream) = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
    let request = b"GET /c0/small HTTP/1.1\r\nhost: all\r\nconnection: close\r\n\r\n";
    let mut answer = Vec::new();
    stream.write_all(request).is_ok() && stream.read_to_end(&mut answer).is_ok() && answer.starts_with(b"HTTP/1.1 200")
}
