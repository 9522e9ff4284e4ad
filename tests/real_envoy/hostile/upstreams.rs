//! Upstreams that answer garbage, drop by drop, or break off now and then.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{Site, generous};
use crate::alone::Test;
use crate::support::client::{Request, exchange};
use crate::support::upstream::{Step, answer, http1};

pub const TESTS: &[Test] = &[
    ("hostile::upstream_of_garbage", garbage),
    ("hostile::upstream_drop_by_drop", drops),
    ("hostile::upstream_resets_each_tenth", tenth),
];

/// What is no HTTP, or hardly.
const GARBAGE: [&[u8]; 9] = [
    b"\0\0\0\0\0\0\0\0",
    b"HTTP/1.1 999999 x\r\n\r\n",
    b"HTTP/9.9 200 OK\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\n\xff\xfe: \x01\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: you\r\n\r\n",
];

/// Attempts whose answer is none end as such, requests that may be repeated are, and all is counted.
fn garbage() -> Result<()> {
    let upstream = http1(|request| match GARBAGE.get(request.number % (GARBAGE.len() + 1)) {
        Some(garbage) => vec![Step::Send(garbage.to_vec()), Step::Close],
        None => answer(200, &[], ""),
    });
    let site = Site::start(&upstream, &generous(), &Value::Null, &Value::Null)?;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for number in 0..50 {
                    let request = if number % 2 == 0 { Request::get("/") } else { Request::post("/") };
                    // Whatever the client gets of it.
                    drop(exchange(site.address, &request));
                }
            });
        }
    });
    let tally = site.settled()?;
    ensure!(tally.requests == 200, "{tally:?}");
    ensure!(tally.attempts.iter().any(|signal| signal == "reset"), "{tally:?}");
    Ok(())
}

/// One byte at a time, for longer than the route waits.
fn drops() -> Result<()> {
    let upstream = http1(|_| {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes";
        let drop = |byte: &u8| [Step::Send(vec![*byte]), Step::Wait(Duration::from_secs(1))];
        answer.iter().flat_map(drop).collect()
    });
    let route = json!({"route": {"timeout": "3s"}});
    let site = Site::start(&upstream, &generous(), &Value::Null, &route)?;
    std::thread::scope(|scope| -> Result<()> {
        let requests: Vec<_> = (0..20).map(|_| scope.spawn(|| exchange(site.address, &Request::get("/")))).collect();
        for request in requests {
            let response = request.join().map_err(|_| anyhow::anyhow!("a panic"))??;
            ensure!(response.status == 504, "{response:?}");
        }
        Ok(())
    })?;
    let tally = site.settled()?;
    let timeouts = tally.attempts.iter().filter(|signal| *signal == "timeout").count();
    ensure!(tally.requests == 20 && timeouts == 20, "{tally:?}");
    Ok(())
}

/// Each tenth request is reset: GETs are repeated, POSTs are not, and the sums hold to the last one.
fn tenth() -> Result<()> {
    let upstream = http1(|request| if request.number % 10 == 9 { vec![Step::Rst] } else { answer(200, &[], "") });
    let site = Site::start(&upstream, &generous(), &Value::Null, &Value::Null)?;
    const EACH: usize = 250;
    let failed = std::thread::scope(|scope| {
        let loads: Vec<_> = (0..4)
            .map(|thread| {
                let site = &site;
                scope.spawn(move || {
                    let request = if thread % 2 == 0 { Request::get("/") } else { Request::post("/") };
                    let failed = (0..EACH)
                        .filter(|_| exchange(site.address, &request).map_or(true, |answer| answer.status != 200))
                        .count();
                    (request.method, failed)
                })
            })
            .collect();
        loads.into_iter().filter_map(|load| load.join().ok()).collect::<Vec<_>>()
    });
    for (method, failed) in &failed {
        // Of three attempts in a row, few are all a tenth one: of 250 GETs a quarter of one, on average.
        ensure!(if *method == "GET" { *failed <= 4 } else { *failed > 5 }, "{failed:?}: {method}");
    }
    let tally = site.settled()?;
    let resets = tally.attempts.iter().filter(|signal| *signal == "reset").count();
    ensure!(tally.requests == 4 * EACH && resets == upstream.count() / 10, "{resets} resets; {tally:?}");
    Ok(())
}
