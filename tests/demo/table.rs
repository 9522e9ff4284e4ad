//! What the demo prints before and after the runs.

use std::fmt::Write;
use std::time::Duration;

use super::bootstrap::Variant;
use super::crash_loops::load::Failure;
use super::crash_loops::picture::thousands;
use super::crash_loops::schedule::{Phase, Timeline};
use super::options::Options;
use super::report::{self, Report};

/// Width of the picture of the timelines.
const LANE: u32 = 64;

pub fn introduction(options: &Options, timelines: &[Timeline], envoy: &str) -> String {
    let mut text = format!(
        "Four replicas crash-loop behind Envoy {envoy}. Clients send {} requests per\n\
         second, 70 percent GET and 30 percent POST, for {} seconds. Four times the same\n\
         crashes and the same requests (--seed {}):\n\n\
         \x20 no retries     Envoy alone\n\
         \x20 retry_on: 5xx  Envoy with the retry policy of most examples, num_retries: 2\n\
         \x20 tuned by hand  Envoy with its retry budget and its outlier detection as well\n\
         \x20 Weir           Envoy with Weir: envoy/envoy.yaml as it is, on other ports\n\n",
        options.rate, options.seconds, options.seed
    );
    for (timeline, number) in timelines.iter().zip(1..) {
        let _ = writeln!(text, "  replica {number}  {}", lane(timeline, options.length()));
    }
    text + "             = up   x resets the requests it holds   . down, refuses connections\n"
}

fn lane(timeline: &Timeline, length: Duration) -> String {
    let phases = (0..LANE).map(|column| timeline.phase(length * column / LANE));
    phases
        .map(|phase| match phase {
            Phase::Up => '=',
            Phase::Resetting => 'x',
            Phase::Refusing => '.',
        })
        .collect()
}

/// What is compared: a label, and what to say of each run.
pub fn rows(reports: &[Report]) -> Vec<(&'static str, Vec<String>)> {
    let row = |label, cell: &dyn Fn(&Report) -> String| (label, reports.iter().map(cell).collect());
    vec![
        row("GETs answered", &|report| share(report.get.answered, report.get.sent)),
        row("POSTs answered", &|report| share(report.post.answered, report.post.sent)),
        row("POSTs processed twice", &|report| thousands(report.post.repeated)),
        row("GETs processed twice, harmless", &|report| thousands(report.get.repeated)),
        row("attempts per request", &|report| format!("{:.2}", report.attempts() as f64 / report.sent().max(1) as f64)),
        row("  attempts that were refused", &|report| thousands(report.envoy.refused)),
        row("  attempts that were reset", &|report| thousands(report.envoy.resets)),
        row("99 % of answers came within", &|report| milliseconds(report.latency(99))),
        row("the slowest answer took", &|report| milliseconds(report.latency(100))),
    ]
}

/// The runs side by side.
pub fn comparison(reports: &[Report]) -> String {
    let mut text = format!("  {:<32}", "");
    for report in reports {
        let _ = write!(text, "{:>15}", report.variant.name());
    }
    for (label, cells) in rows(reports) {
        let _ = write!(text, "\n  {label:<32}");
        for cell in cells {
            let _ = write!(text, "{cell:>15}");
        }
    }
    text
}

pub fn share(part: u64, whole: u64) -> String {
    // Cut, not rounded: 100.0 % is said only of all.
    format!("{:.1} %", (part * 1000).checked_div(whole).unwrap_or(0) as f64 / 10.0)
}

fn milliseconds(latency: Duration) -> String {
    format!("{} ms", latency.as_millis())
}

/// What Weir saw, what it could not help, and where the numbers are from.
pub fn explanation(reports: &[Report]) -> String {
    let Some(report) = reports.iter().find(|report| report.variant == Variant::Weir) else { return String::new() };
    let mut text = String::new();
    let ends: Vec<String> =
        report.weir.signals.iter().filter(|(_, n)| **n > 0).map(|(signal, n)| format!("{n} {signal}")).collect();
    let _ = writeln!(text, "How attempts ended, by Weir's count: {}.", ends.join(", "));
    let vetoes: Vec<String> =
        report.weir.vetoes.iter().filter(|(_, n)| **n > 0).map(|(reason, n)| format!("{n} {reason}")).collect();
    if !vetoes.is_empty() {
        let _ = writeln!(text, "Retries that Weir stopped, by reason: {}.", vetoes.join(", "));
    }
    let (get, post) = (&report.get, &report.post);
    if get.failed() > 0 {
        let crashes = get.failed_by(Failure::Reset) + get.failed_by(Failure::Refused);
        let _ = writeln!(
            text,
            "GETs that failed with Weir: {}, of which {crashes} met crashed replicas until their\nretries were used up.",
            get.failed()
        );
    }
    if post.failed() > 0 {
        let _ = writeln!(
            text,
            "POSTs that failed with Weir: {}, of which {} by a reset. Nobody but the replica can know\n\
             whether a POST that was reset was processed before ({} of them), so Weir has none\n\
             repeated. A client that wants it repeated sends an idempotency-key.",
            post.failed(),
            post.failed_by(Failure::Reset),
            post.processed_but_failed,
        );
    }
    text + "Answers and times are what the clients saw, \"processed\" is what the replicas\n\
            remember, attempts are what Envoy counts."
}

/// The last word.
pub fn verdict(reports: &[Report], shortcomings: &[String]) -> String {
    if !shortcomings.is_empty() {
        return format!("Weir did not help: {}.", shortcomings.join("; "));
    }
    let Some((weir, rival)) = report::with_rival(reports) else { return "There is nothing to compare.".to_owned() };
    format!(
        "Weir: {} of {} requests failed, and no POST was processed twice. The best of the others, \"{}\": {} failed, {} POSTs \
         processed twice.",
        thousands(weir.failed()),
        thousands(weir.sent()),
        rival.variant.name(),
        thousands(rival.failed()),
        thousands(rival.post.repeated),
    )
}
