//! What came of it, as text and as JSON.

use std::fmt::Write as _;
use std::rc::Rc;

use jiff::Timestamp;
use serde_json::{Value, json};
use weir::signal::Signal;

use super::Lines;
use super::tally::{Signals, Tally};
use super::totals::Totals;
use crate::check::words::{count, paragraph, table};

/// Lines of each list that the text shows; the JSON has more.
const MOST_SHOWN: usize = 20;

/// For people: in one sentence first, then what was read, then cluster by cluster; several policies side by side.
pub fn text(lines: &Lines, all: &[Totals], policies: &[String]) -> String {
    let mut out = String::new();
    if lines.requests > 0 {
        for (position, totals) in all.iter().enumerate() {
            let with = policies.get(position).filter(|_| all.len() > 1);
            sentence(&mut out, totals, with.map(String::as_str));
        }
        out.push('\n');
    }
    let used = lines.requests + lines.attempts;
    let _ = writeln!(
        out,
        "{}, {} of them of use: {}, {}{}",
        count(lines.all, "line"),
        used,
        count(lines.requests, "request"),
        count(lines.attempts, "attempt"),
        if lines.proxies > 1 { format!(", of {} proxies", lines.proxies) } else { String::new() }
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
    if let [totals] = all {
        for (name, watched, tally) in ordered(totals) {
            let _ = writeln!(out, "\nCluster {name}");
            cluster(&mut out, watched, tally);
        }
    } else {
        compare(&mut out, all, policies);
    }
    out
}

/// What Weir would have changed.
fn sentence(out: &mut String, totals: &Totals, policy: Option<&str>) {
    let sum = |count: fn(&Tally) -> u64| totals.sum(count);
    let (requests, failures, saved) =
        (sum(|tally| tally.requests), sum(|tally| tally.failures), sum(|tally| tally.hopeful));
    let (happened, granted) = (sum(|tally| tally.granted + tally.denied + tally.stopped), sum(|tally| tally.granted));
    let subject = policy.map_or("Weir".to_owned(), |policy| format!("With {policy}, Weir"));
    let failed = match (failures, saved) {
        (0, _) => format!("{subject} would have had no failure to prevent in {}", count(requests, "request")),
        (_, 0) => format!(
            "{subject} would have prevented none of the {failures} failures that clients saw in {requests} requests"
        ),
        _ => format!(
            "{subject} would have prevented about {saved} of the {failures} failures that clients saw in {requests} requests"
        ),
    };
    let retries = match happened {
        0 => String::new(),
        _ => format!(
            ", made {granted} of the {} that happened",
            if happened == 1 { "1 retry".to_owned() } else { format!("{happened} retries") }
        ),
    };
    let ejected = match sum(|tally| tally.ejections) {
        0 => ", and left out no host".to_owned(),
        1 => ", and left out a host once".to_owned(),
        times => format!(", and left out hosts {times} times"),
    };
    let mut text = String::new();
    paragraph(&mut text, 0, &format!("{failed}{retries}{ejected}."));
    // It stands for itself, and is not indented.
    text.lines().for_each(|line| _ = writeln!(out, "{}", line.trim_start()));
}

/// Takes a number out of a tally.
type Count = fn(&Tally) -> u64;

/// Several policies, side by side.
fn compare(out: &mut String, all: &[Totals], policies: &[String]) {
    let mut rows = vec![[vec![String::new()], policies.to_vec()].concat()];
    let counts: [(&str, Count); 12] = [
        ("failures that clients saw", |tally| tally.failures),
        ("  prevented: another host answered just then", |tally| tally.hopeful),
        ("  retried, with no telling how that would have ended", |tally| tally.retriable.saturating_sub(tally.hopeful)),
        ("  not retried, for want of budget", |tally| tally.unpaid),
        ("retries that happened", |tally| tally.granted + tally.denied + tally.stopped),
        ("  made", |tally| tally.granted),
        ("  denied, for want of budget", |tally| tally.denied),
        ("  stopped as unsafe or too many", |tally| tally.stopped),
        ("hosts left out, times", |tally| tally.ejections),
        ("  attempts that went to them", |tally| tally.hosts.values().map(|host| host.while_out).sum()),
        ("circuits opened, times", |tally| tally.opened),
        ("  requests answered at once", |tally| tally.shed),
    ];
    for (name, count) in counts {
        let cells = all.iter().map(|totals| totals.sum(count).to_string());
        rows.push([name.to_owned()].into_iter().chain(cells).collect());
    }
    out.push('\n');
    table(out, &rows);
    paragraph(
        out,
        0,
        "Estimates: how a retry would have ended, no log tells. With one policy, each cluster is told by itself.",
    );
}

/// The clusters, those that failed most first.
pub fn ordered(totals: &Totals) -> Vec<(&str, bool, &Tally)> {
    let mut all: Vec<_> = totals.tallies().filter(|(_, _, tally)| tally.requests + tally.attempts > 0).collect();
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
                let prolonged = match ejected.prolonged {
                    0 => String::new(),
                    1 => "prolonged once".to_owned(),
                    times => format!("prolonged {times} times"),
                };
                let host = ejected.host.to_string();
                vec![clock(ejected.at, false), host, ejected.why.to_owned(), back, prolonged, by(&ejected.proxy)]
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
                    by(&opening.proxy),
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
            let at = clock(told.at, false);
            let text = match &told.proxy {
                Some(proxy) => format!("{at} proxy={proxy} {}", told.line),
                None => format!("{at} {}", told.line),
            };
            paragraph(out, 4, &text);
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
    let text = if happened == 0 && !watched && tally.uncounted == tally.requests {
        "Retries that happened: the log does not tell, for want of upstream_request_attempt_count.".to_owned()
    } else {
        format!(
            "Retries that happened: {happened}. Weir would have paid for {} of them, denied {} (budget), and stopped {} as \
             unsafe, too many, or of requests that it would not have sent.{unclear}",
            tally.granted, tally.denied, tally.stopped
        )
    };
    paragraph(out, 0, &text);
    if tally.failures == 0 {
        paragraph(out, 0, "Failures that a client saw: none.");
        return;
    }
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

/// Who saw it, where several proxies are told apart.
fn by(proxy: &Option<Rc<str>>) -> String {
    proxy.as_ref().map(|proxy| format!("in {proxy}")).unwrap_or_default()
}

fn more(out: &mut String, all: usize, what: &str) {
    if all > MOST_SHOWN {
        let _ = writeln!(out, "  … and {} more {what}: --json has them", all - MOST_SHOWN);
    }
}

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

/// `21:44:23.120`, with the date where that is wanted; UTC.
pub fn clock(nanos: u64, dated: bool) -> String {
    let at = Timestamp::from_nanosecond(nanos.into()).unwrap_or_default();
    at.strftime(if dated { "%F %T%.3f" } else { "%T%.3f" }).to_string()
}

fn seconds(nanos: u64) -> String {
    format!("{:.1} s", nanos as f64 / 1e9)
}
