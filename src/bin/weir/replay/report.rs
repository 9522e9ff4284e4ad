//! What came of it, as text and as JSON.

mod cluster;
mod json;

use std::fmt::Write as _;

use jiff::Timestamp;
use weir::signal::Signal;

use super::Lines;
use super::tally::{Signals, Tally};
use super::totals::Totals;
use crate::check::words::{count, paragraph, table};

pub use json::json;

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
            cluster::tell(&mut out, watched, tally);
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

/// `21:44:23.120`, with the date where that is wanted; UTC.
pub fn clock(nanos: u64, dated: bool) -> String {
    let at = Timestamp::from_nanosecond(nanos.into()).unwrap_or_default();
    at.strftime(if dated { "%F %T%.3f" } else { "%T%.3f" }).to_string()
}
