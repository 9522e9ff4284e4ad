//! What came of it, as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};
use weir::signal::Signal;

use super::Lines;
use super::tally::{Signals, Tally};
use super::world::World;
use crate::check::words::{paragraph, table};

/// Lines of each list that the text shows; the JSON has more.
const MOST_SHOWN: usize = 20;

/// For people.
pub fn text(lines: &Lines, world: &World) -> String {
    let mut out = String::new();
    let used = lines.requests + lines.attempts;
    let _ = writeln!(
        out,
        "{} lines, {} of them of use: {} requests, {} attempts",
        lines.all, used, lines.requests, lines.attempts
    );
    if let Some(first) = lines.first {
        let seconds = lines.last.saturating_sub(first) as f64 / 1e9;
        let _ = writeln!(out, "from {} to {} ({seconds:.1} s)", clock(first, true), clock(lines.last, true));
    }
    for (why, count, first) in &lines.useless {
        let _ = writeln!(out, "  not used: {count}, {}; the first is {first}", why.text());
    }
    if lines.late > 0 {
        let _ = writeln!(
            out,
            "  {} events came too late to be put in order; a longer --window would have helped, if the clock did not step",
            lines.late
        );
    }
    for (name, watched, tally) in ordered(world) {
        let _ = writeln!(out, "\nCluster {name}");
        cluster(&mut out, watched, tally);
    }
    out
}

/// The clusters, those that failed most first.
pub fn ordered(world: &World) -> Vec<(&str, bool, &Tally)> {
    let mut all: Vec<_> = world.tallies().filter(|(_, _, tally)| tally.requests + tally.attempts > 0).collect();
    all.sort_by_key(|(name, _, tally)| (std::cmp::Reverse((failed(&tally.signals), tally.requests)), *name));
    all
}

fn failed(signals: &Signals) -> u64 {
    Signal::ALL.iter().zip(signals).filter(|(signal, _)| signal.is_failure()).map(|(_, count)| count).sum()
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

fn cluster(out: &mut String, watched: bool, tally: &Tally) {
    let seen = if watched { "by the lines of upstream_log" } else { "the last one of each request: no upstream_log" };
    paragraph(
        out,
        0,
        &format!(
            "{} requests, of which clients saw {} fail ({}); {} attempts ({seen}).",
            tally.requests,
            tally.failures,
            share(tally.failures, tally.requests),
            tally.attempts
        ),
    );
    let told: Vec<Signal> =
        Signal::ALL.into_iter().filter(|signal| tally.signals.get(signal.index()) > Some(&0)).collect();
    let head = ["host", "attempts"].map(str::to_owned).into_iter();
    let head = head.chain(told.iter().map(|signal| signal.name().to_owned())).chain(["while out".to_owned()]);
    let mut rows = vec![head.collect::<Vec<_>>()];
    let mut hosts: Vec<_> = tally.hosts.iter().collect();
    hosts.sort_by_key(|(name, host)| (std::cmp::Reverse(failed(&host.signals)), *name));
    for (name, host) in hosts.iter().take(MOST_SHOWN) {
        let counts = told.iter().map(|signal| host.signals.get(signal.index()).copied().unwrap_or(0).to_string());
        let row = [name.to_string(), host.signals.iter().sum::<u64>().to_string()].into_iter();
        rows.push(row.chain(counts).chain([host.while_out.to_string()]).collect());
    }
    table(out, &rows);
    more(out, hosts.len(), "hosts");
    if tally.requests == 0 {
        paragraph(out, 0, "There are no lines of requests, so nothing can be said about retries.");
    } else {
        retries(out, watched, tally);
    }
    let while_out: u64 = tally.hosts.values().map(|host| host.while_out).sum();
    if tally.ejections == 0 {
        paragraph(out, 0, "Ejections: none.");
    } else {
        paragraph(
            out,
            0,
            &format!(
                "Ejections: {}. {while_out} attempts went to hosts that would have been out, probes among them.",
                tally.ejections
            ),
        );
        let rows: Vec<Vec<String>> = tally
            .ejected
            .iter()
            .take(MOST_SHOWN)
            .map(|ejected| {
                let back = match ejected.back {
                    Some(back) => {
                        format!("back at {} after {}", clock(back, false), seconds(back.saturating_sub(ejected.at)))
                    }
                    None => "out at the end".to_owned(),
                };
                let prolonged = if ejected.prolonged > 0 {
                    format!("prolonged {} times", ejected.prolonged)
                } else {
                    String::new()
                };
                vec![clock(ejected.at, false), ejected.host.to_string(), ejected.why.to_owned(), back, prolonged]
            })
            .collect();
        table(out, &rows);
        more(out, tally.ejected.len(), "ejections");
    }
    if tally.opened > 0 {
        paragraph(
            out,
            0,
            &format!(
                "Circuit: opened {} times, and would have answered {} requests at once.",
                tally.opened, tally.shed
            ),
        );
        let rows: Vec<Vec<String>> = tally
            .openings
            .iter()
            .take(MOST_SHOWN)
            .map(|opening| {
                let closed = opening.closed.map_or("open at the end".to_owned(), |closed| {
                    format!("closed after {}", seconds(closed.saturating_sub(opening.at)))
                });
                vec![
                    clock(opening.at, false),
                    format!("{} of {} attempts broke", opening.broke, opening.attempts),
                    closed,
                ]
            })
            .collect();
        table(out, &rows);
        more(out, tally.openings.len(), "openings");
    }
    if tally.incidents == 0 {
        paragraph(out, 0, "Incidents: none.");
    } else {
        paragraph(out, 0, &format!("Incidents: {}.", tally.incidents));
        for told in tally.told.iter().take(MOST_SHOWN) {
            paragraph(out, 4, &format!("{} {}", clock(told.at, false), told.line));
        }
        more(out, tally.told.len(), "lines about incidents");
    }
}

fn retries(out: &mut String, watched: bool, tally: &Tally) {
    let happened = tally.granted + tally.denied + tally.stopped;
    let unclear = if tally.unclear > 0 {
        format!(" Of {} of them the log does not tell what they followed; they are taken as safe.", tally.unclear)
    } else {
        String::new()
    };
    paragraph(
        out,
        0,
        &format!(
            "Retries that happened: {happened}. Weir would have paid for {} of them, denied {} (budget), and stopped {} as \
             unsafe, too many, or of requests that it would not have sent.{unclear}",
            tally.granted, tally.denied, tally.stopped
        ),
    );
    paragraph(
        out,
        0,
        &format!(
            "Failures that a client saw: {}. Weir could have retried {} safely and within the budget ({} more with a larger \
             budget); for {}, another host answered just then. This is an estimate: how a retry would have ended, no log \
             tells.{}",
            tally.failures,
            tally.retriable,
            tally.unpaid,
            tally.hopeful,
            if watched { "" } else { " Attempts that a retry hid are missing." }
        ),
    );
}

fn more(out: &mut String, all: usize, what: &str) {
    if all > MOST_SHOWN {
        let _ = writeln!(out, "  … and {} more {what}: --json has them", all - MOST_SHOWN);
    }
}

/// For programs: counts, and lists of at most a thousand; times are seconds since the Unix epoch.
pub fn json(lines: &Lines, world: &World) -> String {
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
    let clusters: Vec<Value> = ordered(world)
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
                })).collect::<Vec<_>>(),
                "circuit": {
                    "opened": tally.opened,
                    "shed": tally.shed,
                    "openings": tally.openings.iter().map(|opening| json!({
                        "at": at(opening.at),
                        "closed": opening.closed.map(at),
                        "broke": opening.broke,
                        "attempts": opening.attempts,
                    })).collect::<Vec<_>>(),
                },
                "incidentCount": tally.incidents,
                "incidents": tally.told.iter().map(|told| json!({
                    "at": at(told.at),
                    "state": told.state,
                    "pattern": told.pattern,
                    "host": told.host,
                    "line": told.line,
                })).collect::<Vec<_>>(),
            })
        })
        .collect();
    let report = json!({
        "lines": {"all": lines.all, "requests": lines.requests, "attempts": lines.attempts, "late": lines.late, "notUsed": useless},
        "from": lines.first.map(at),
        "to": lines.first.map(|_| at(lines.last)),
        "clusters": clusters,
    });
    format!("{report:#}\n")
}

/// `21:44:23.120`, with the date where that is wanted; UTC.
pub fn clock(nanos: u64, dated: bool) -> String {
    let (millis, seconds) = (nanos / 1_000_000 % 1_000, nanos / 1_000_000_000);
    let time = format!("{:02}:{:02}:{:02}.{millis:03}", seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    if !dated {
        return time;
    }
    // The date of a day number, with years that begin in March.
    let days = seconds / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!("{:04}-{month:02}-{day:02} {time}", era * 400 + year + carry)
}

fn seconds(nanos: u64) -> String {
    format!("{:.1} s", nanos as f64 / 1e9)
}
