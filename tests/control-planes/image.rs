//! What containers of these tests run is this very program: a replica that can be told to be down, and a client.

use std::net::ToSocketAddrs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::pod::Pod;
use crate::support::client::{Request, exchange};
use crate::support::client_h2;

/// Its name in a container.
pub const PROGRAM: &str = "weir-test";
/// While this file is there, a replica is to refuse connections.
const DOWN: &str = "/tmp/down";
/// And while this one is, it does.
const IS_DOWN: &str = "/tmp/is-down";
/// Once this file is there, a client has sent enough.
pub const ENOUGH: &str = "/tmp/enough";

/// The command that has a replica refuse connections, or listen again. It ends when the replica does.
pub fn set_down(down: bool) -> String {
    let (change, is_so) = if down { ("touch", "[ -e") } else { ("rm", "[ ! -e") };
    format!("sh -euc '{change} {DOWN}; until {is_so} {IS_DOWN} ]; do sleep 0.01; done'")
}

/// Does what the command line says, where this is a container.
pub fn main() -> Option<Result<()>> {
    let mut arguments = std::env::args();
    if !Path::new(&arguments.next()?).ends_with(PROGRAM) {
        return None;
    }
    let words: Vec<String> = arguments.collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Some(match words.as_slice() {
        ["serve", ports @ ..] => serve(ports),
        ["send", kind, count, to] => send(kind, count, to),
        ["load", to @ ..] => load(to),
        _ => Err(anyhow::anyhow!("{words:?} is no command")),
    })
}

/// A replica, for HTTP/1.1, HTTP/2 and gRPC on each port.
fn serve(ports: &[&str]) -> Result<()> {
    let at = |port: &&str| Pod::at(format!("0.0.0.0:{port}").parse()?);
    let servers = ports.iter().map(at).collect::<Result<Vec<Pod>>>()?;
    let mut down = false;
    loop {
        std::thread::sleep(Duration::from_millis(5));
        if Path::new(DOWN).exists() == down {
            continue;
        }
        down = !down;
        for server in &servers {
            if down { server.stop() } else { server.start()? }
        }
        if down { std::fs::write(IS_DOWN, "")? } else { std::fs::remove_file(IS_DOWN)? }
    }
}

/// Prints how many of these requests failed.
fn send(kind: &str, count: &str, to: &str) -> Result<()> {
    let mut failed = 0;
    for _ in 0..count.parse()? {
        failed += usize::from(!once(kind, to)?);
    }
    println!("{failed}");
    Ok(())
}

/// Sends requests of each kind, `KIND=HOST:PORT`, in turn until it is enough. Prints how many there were, and how many failed.
fn load(to: &[&str]) -> Result<()> {
    let (mut sent, mut failed) = (0, 0);
    while sent < 100 || !Path::new(ENOUGH).exists() {
        for (kind, to) in to.iter().filter_map(|kind| kind.split_once('=')) {
            sent += 1;
            // A connection that breaks is a failure as well.
            failed += u32::from(!once(kind, to).unwrap_or(false));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("{sent} {failed}");
    Ok(())
}

/// Whether a request is answered well. It goes to `HOST:PORT`, or `HOST:PORT@ADDRESS:PORT`.
fn once(kind: &str, to: &str) -> Result<bool> {
    let (to, at) = to.split_once('@').unwrap_or((to, to));
    let address = at.to_socket_addrs()?.next().context("no address")?;
    Ok(match kind {
        "GET" => exchange(address, &Request::get("/").header("host", to))?.status == 200,
        "POST" => exchange(address, &Request::post("/").header("host", to))?.status == 200,
        "gRPC" => {
            let response = client_h2::exchange(address, &Request::grpc("/orders.Orders/Get").header("host", to))?;
            response.status == 200 && response.header("grpc-status") == Some("0")
        }
        _ => bail!("{kind} is no kind of request"),
    })
}
