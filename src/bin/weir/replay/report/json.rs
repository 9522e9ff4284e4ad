//! For programs.

use serde_json::{Value, json};
use weir::signal::Signal;

use super::ordered;
use crate::replay::Lines;
use crate::replay::tally::Signals;
use crate::replay::totals::Totals;

/// For programs: counts, and lists of at most a thousand; times are seconds since the Unix epoch.
pub fn json(lines: &Lines, all: &[Totals], policies: &[String]) -> String {
    let at = |nanos: u64| json!(nanos as f64 / 1e9);
    let signals = |signals: &Signals| -> Value {
        Signal::ALL
            .iter()
            .zip(signals)
            .map(|(signal, count)| (signal.name().to_owned(), json!(count)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    };
    let useless: Vec<Value> = lines
        .useless
        .iter()
        .map(|(why, count, first)| json!({"why": why.text(), "lines": count, "first": first}))
        .collect();
    let clusters = |totals: &Totals| -> Vec<Value> {
        ordered(totals)
            .iter()
            .map(|(name, watched, tally)| {
                let hosts: serde_json::Map<String, Value> = tally
                    .hosts
                    .iter()
                    .map(|(name, host)| {
                        (name.to_string(), json!({"signals": signals(&host.signals), "whileOut": host.while_out}))
                    })
                    .collect();
                json!({
                    "cluster": name,
                    "attemptsSeen": if *watched { "all" } else { "last" },
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
                    "ejections": tally.ejected.iter().map(|ejected| json!({
                        "host": ejected.host,
                        "why": ejected.why,
                        "at": at(ejected.at),
                        "back": ejected.back.map(at),
                        "prolonged": ejected.prolonged,
                        "proxy": ejected.proxy.as_deref(),
                    })).collect::<Vec<_>>(),
                    "circuit": {
                        "opened": tally.opened,
                        "shed": tally.shed,
                        "openings": tally.openings.iter().map(|opening| json!({
                            "at": at(opening.at),
                            "closed": opening.closed.map(at),
                            "broke": opening.broke,
                            "attempts": opening.attempts,
                            "proxy": opening.proxy.as_deref(),
                        })).collect::<Vec<_>>(),
                    },
                    "incidentCount": tally.incidents,
                    "incidents": tally.told.iter().map(|told| json!({
                        "at": at(told.at),
                        "state": told.state,
                        "pattern": told.pattern,
                        "host": told.host,
                        "line": told.line,
                        "proxy": told.proxy.as_deref(),
                    })).collect::<Vec<_>>(),
                })
            })
            .collect()
    };
    let mut report = json!({
        "lines": {"all": lines.all, "proxies": lines.proxies, "requests": lines.requests, "attempts": lines.attempts, "late": lines.late, "notUsed": useless},
        "from": lines.first.map(at),
        "to": lines.first.map(|_| at(lines.last)),
    });
    if let [totals] = all {
        report["clusters"] = clusters(totals).into();
    } else {
        let each = policies.iter().zip(all);
        report["policies"] = each.map(|(name, totals)| json!({"policy": name, "clusters": clusters(totals)})).collect();
    }
    format!("{report:#}\n")
}
