//! One cluster, for people: its hosts, its retries, and what came of them.

use std::fmt::Write as _;
use std::rc::Rc;

use weir::signal::Signal;

use super::{clock, failed};
use crate::check::words::{paragraph, table};
use crate::replay::tally::Tally;

/// Lines of each list that the text shows; the JSON has more.
const MOST_SHOWN: usize = 20;

/// Tells of it; `watched` if the log has its attempts.
pub(super) fn tell(out: &mut String, watched: bool, tally: &Tally) {
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
    hosts(out, tally);
    if tally.requests == 0 {
        paragraph(out, 0, "There are no lines of requests, so nothing can be said about retries.");
    } else {
        retries(out, watched, tally);
    }
    ejections(out, tally);
    if tally.opened > 0 {
        openings(out, tally);
    }
    incidents(out, tally);
}

fn hosts(out: &mut String, tally: &Tally) {
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

fn ejections(out: &mut String, tally: &Tally) {
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
}

fn openings(out: &mut String, tally: &Tally) {
    paragraph(
        out,
        0,
        &format!("Circuit: opened {} times, and would have answered {} requests at once.", tally.opened, tally.shed),
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

fn incidents(out: &mut String, tally: &Tally) {
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

/// Who saw it, where several proxies are told apart.
fn by(proxy: &Option<Rc<str>>) -> String {
    proxy.as_ref().map(|proxy| format!("in {proxy}")).unwrap_or_default()
}

fn more(out: &mut String, all: usize, what: &str) {
    if all > MOST_SHOWN {
        let _ = writeln!(out, "  … and {} more {what}: --json has them", all - MOST_SHOWN);
    }
}

fn seconds(nanos: u64) -> String {
    format!("{:.1} s", nanos as f64 / 1e9)
}

fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}
