//! For programs.

use serde_json::{Map, Value, json};
use weir::signal::Signal;

use super::ordered;
use crate::replay::Lines;
use crate::replay::tally::{Ejected, Host, Opening, Signals, Tally, Told};
use crate::replay::totals::Totals;

/// For programs: counts, and lists of at most a thousand; times are seconds since the Unix epoch.
pub fn json(lines: &Lines, all: &[Totals], policies: &[String]) -> String {
    let useless: Vec<Value> = lines
        .useless
        .iter()
        .map(|(why, count, first)| json!({"why": why.text(), "lines": count, "first": first}))
        .collect();
    let mut report = json!({
        "lines": {"all": lines.all, "proxies": lines.proxies, "requests": lines.requests, "attempts": lines.attempts, "late": lines.late, "notUsed": useless},
        "from": lines.first.map(seconds),
        "to": lines.first.map(|_| seconds(lines.last)),
    });
    if let [totals] = all {
        report["clusters"] = clusters(totals);
    } else {
        let each = policies.iter().zip(all);
        report["policies"] = each.map(|(name, totals)| json!({"policy": name, "clusters": clusters(totals)})).collect();
    }
    format!("{report:#}\n")
}

/// Lists the clusters, those that failed most first.
fn clusters(totals: &Totals) -> Value {
    ordered(totals).into_iter().map(|(name, watched, tally)| cluster(name, watched, tally)).collect()
}

/// Writes all that was counted of one cluster.
fn cluster(name: &str, watched: bool, tally: &Tally) -> Value {
    let hosts: Map<String, Value> = tally.hosts.iter().map(|(name, counts)| (name.to_string(), host(counts))).collect();
    json!({
        "cluster": name,
        "attemptsSeen": if watched { "all" } else { "last" },
        "requests": tally.requests,
        "requestsOfUnknownAttempts": tally.uncounted,
        "attempts": tally.attempts,
        "signals": signals(&tally.signals),
        "hosts": hosts,
        "attemptsOnOtherHosts": tally.other_hosts,
        "failures": {
            "seenByClients": tally.failures,
            "retriable": tally.retriable,
            "retriableAndSomeHostAnswered": tally.hopeful,
            "deniedByBudget": tally.unpaid,
        },
        "retries": {
            "granted": tally.granted,
            "denied": tally.denied,
            "stopped": tally.stopped,
            "unclear": tally.unclear,
        },
        "ejectionCount": tally.ejections,
        "ejections": tally.ejected.iter().map(ejection).collect::<Vec<_>>(),
        "circuit": {
            "opened": tally.opened,
            "shed": tally.shed,
            "openings": tally.openings.iter().map(opening).collect::<Vec<_>>(),
        },
        "incidentCount": tally.incidents,
        "incidents": tally.told.iter().map(incident).collect::<Vec<_>>(),
    })
}

/// Writes the attempts that one host got.
fn host(host: &Host) -> Value {
    json!({"signals": signals(&host.signals), "whileOut": host.while_out})
}

/// Writes how often attempts ended with each signal.
fn signals(signals: &Signals) -> Value {
    let counts = Signal::ALL.iter().zip(signals);
    counts.map(|(signal, count)| (signal.name().to_owned(), json!(count))).collect::<Map<_, _>>().into()
}

/// Writes when and why a host was out.
fn ejection(ejected: &Ejected) -> Value {
    json!({
        "host": ejected.host,
        "why": ejected.why,
        "at": seconds(ejected.at),
        "back": ejected.back.map(seconds),
        "prolonged": ejected.prolonged,
        "proxy": ejected.proxy.as_deref(),
    })
}

/// Writes when a circuit was open, and what opened it.
fn opening(opening: &Opening) -> Value {
    json!({
        "at": seconds(opening.at),
        "closed": opening.closed.map(seconds),
        "broke": opening.broke,
        "attempts": opening.attempts,
        "proxy": opening.proxy.as_deref(),
    })
}

/// Writes what was told of an incident.
fn incident(told: &Told) -> Value {
    json!({
        "at": seconds(told.at),
        "state": told.state,
        "pattern": told.pattern,
        "host": told.host,
        "line": told.line,
        "proxy": told.proxy.as_deref(),
    })
}

/// Turns nanoseconds into seconds.
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}
