//! How often a request crosses between Envoy and a module, either way: from Envoy's own trace.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use super::cost::Bench;
use super::load::Shape;
use super::support::wait;
use super::variants::Filter;

const REQUESTS: u32 = 200;

/// Counts by name.
type Calls = BTreeMap<String, u32>;

pub fn run() -> Result<String> {
    let bench = Bench::start(&Filter::ALL, |launch| {
        launch.log_level("warn").argument("--component-log-level").argument("wasm:trace")
    })?;
    let mut text = String::from(
        "Crossings per request (into the module, and out of it)\n\n| | GET | POST with large bodies | the calls of a GET |\n|---|---|---|---|\n",
    );
    for variant in bench.variants.iter().filter(|variant| variant.filter.is_weir() || variant.filter == Filter::Empty) {
        let mut cells = Vec::new();
        let mut detail = String::new();
        for large in [false, true] {
            let shape = Shape { http2: false, large };
            // The first requests meet unknown hosts and undefined metrics.
            bench.warm_up_variant(variant, Shape { http2: false, large: false }, 500)?;
            wait_until_quiet(&bench)?;
            let before = bench.envoy.log().len();
            bench.send(variant, shape, REQUESTS, None)?;
            wait_until_quiet(&bench)?;
            let log = bench.envoy.log();
            let (inward, outward) = count(log.get(before..).unwrap_or_default());
            let sum = |calls: &Calls| f64::from(calls.values().sum::<u32>()) / f64::from(REQUESTS);
            cells.push(format!("{:.1} + {:.1}", sum(&inward), sum(&outward)));
            if large && variant.filter.is_weir() {
                let body = inward.keys().find(|name| name.contains("body"));
                ensure!(body.is_none(), "{}: a streamed body crosses into the module: {body:?}", variant.name());
            }
            if !large {
                let list = |calls: &Calls| {
                    let mut calls: Vec<_> = calls.iter().collect();
                    calls.sort_by_key(|(_, count)| u32::MAX - **count);
                    let call = |(name, count): (&String, &u32)| {
                        format!("{} {:.1}", name.trim_start_matches("proxy_"), f64::from(*count) / f64::from(REQUESTS))
                    };
                    calls
                        .into_iter()
                        .filter(|(_, count)| **count * 20 >= REQUESTS)
                        .map(call)
                        .collect::<Vec<_>>()
                        .join(", ")
                };
                detail = format!("{}; {}", list(&inward), list(&outward));
            }
        }
        let title = variant.filter.title();
        let title = if variant.out { format!("{title}; one of four hosts out") } else { title.to_owned() };
        text.push_str(&format!("| {title} | {} | {detail} |\n", cells.join(" | ")));
    }
    Ok(text)
}

/// Waits until nothing new has come for a while: Envoy may be behind with its log.
fn wait_until_quiet(bench: &Bench) -> Result<()> {
    let (mut last, mut same) = (0, 0);
    wait::until(wait::LIMIT, || {
        let (inward, outward) = count(&bench.envoy.log());
        let now = inward.values().chain(outward.values()).sum();
        same = if std::mem::replace(&mut last, now) == now { same + 1 } else { 0 };
        if same == 10 { Ok(()) } else { Err("requests are still ending".to_owned()) }
    })
    .map_err(anyhow::Error::msg)
}

/// Calls into modules and out of them, without those of timers. Envoy's threads write their lines as they come, so a
/// timer's are told by the thread.
fn count(log: &str) -> (Calls, Calls) {
    let (mut inward, mut outward) = (Calls::new(), Calls::new());
    let mut ticking = BTreeMap::new();
    for line in log.lines() {
        let thread = line.split("][").nth(1).unwrap_or_default();
        if let Some((_, call)) = line.split_once("[host->vm] ") {
            let name = call.split(['(', ' ']).next().unwrap_or_default();
            if name == "proxy_on_tick" {
                ticking.insert(thread, true);
            } else if !ticking.get(thread).copied().unwrap_or_default() {
                *inward.entry(name.to_owned()).or_default() += 1;
            }
        } else if line.contains("[host<-vm] proxy_on_tick") {
            ticking.insert(thread, false);
        } else if let Some((_, call)) = line.split_once("[vm->host] ")
            && !call.contains("return")
            && !ticking.get(thread).copied().unwrap_or_default()
        {
            let name = call.split(['(', ' ']).next().unwrap_or_default();
            *outward.entry(name.trim_start_matches("env.").to_owned()).or_default() += 1;
        }
    }
    (inward, outward)
}
