//! The demo as a page: what happened when, and the numbers. It needs nothing but itself, and no script but to read a moment of the
//! picture and to switch the colours by hand.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::bootstrap::Variant;
use super::chart::{self, Chart, Curve};
use super::crash_loops::picture::{self, Band, Mark, Picture, thousands};
use super::crash_loops::schedule::Timeline;
use super::crash_loops::svg::{self, escape};
use super::crash_loops::tuned;
use super::crash_loops::weir_log::Incident;
use super::options::Options;
use super::report::{Report, with_rival};
use super::table;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// For phones, tablets and the rest: by class, the width of what is drawn.
const PICTURES: [(&str, u32); 3] = [("small", 340), ("medium", 660), ("large", 1080)];
const CHARTS: [(&str, u32); 2] = [("small", 340), ("half", 516)];

impl Variant {
    /// The class of its colour.
    fn class(self) -> &'static str {
        match self {
            Self::NoRetries => "none",
            Self::RouteRetries => "usual",
            Self::Tuned => "tuned",
            Self::Weir => "weir",
        }
    }

    fn explained(self) -> &'static str {
        match self {
            Self::NoRetries => "Envoy alone",
            Self::RouteRetries => "Envoy with the retry policy of most examples, and num_retries: 2",
            Self::Tuned => "Envoy with a retry policy, a retry budget and outlier detection, tuned for crash loops",
            Self::Weir => "Envoy with Weir at its defaults",
        }
    }
}

/// What made the page, for whoever gets it from somebody else.
pub struct Made {
    pub version: String,
    /// Empty where it is not known.
    pub commit: String,
    pub envoy: String,
    /// A date and a time of day, in UTC.
    pub at: String,
    pub machine: String,
}

impl Made {
    /// Here and now. `build.sh` says which commit it is.
    pub fn now(envoy: String) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: std::env::var("WEIR_COMMIT").unwrap_or_default(),
            envoy,
            at: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            machine: format!("{} on {}, {processors} processors", std::env::consts::OS, std::env::consts::ARCH),
        }
    }

    fn sentence(&self) -> String {
        let commit = if self.commit.is_empty() { String::new() } else { format!(" (commit {})", self.commit) };
        format!(
            "Weir {}{commit}, Envoy {}, {}, {}. Licence: Apache-2.0.",
            self.version, self.envoy, self.machine, self.at
        )
    }
}

pub fn compose(options: &Options, timelines: &[Timeline], made: &Made, reports: &[Report]) -> String {
    let weir = reports.iter().find(|report| report.variant == Variant::Weir);
    let incidents = weir.map(|report| report.story.incidents.as_slice()).unwrap_or_default();
    let picture = Picture {
        description: description(reports, timelines),
        length: options.length(),
        replicas: timelines,
        views: weir.map(|report| report.story.marks.as_slice()).unwrap_or_default(),
        bands: reports.iter().map(band).collect(),
    };
    let parts = [
        ("palette", svg::PALETTE.to_owned()),
        ("style", [svg::STYLE, STYLE].concat()),
        ("title", title(reports)),
        ("result", escape(&result(reports))),
        ("setting", setting(options, &made.envoy)),
        ("readmission", escape(&readmission(picture.views, timelines))),
        ("tuned", escape(tuned::EXPLAINED)),
        ("cards", reports.iter().map(card).collect()),
        (
            "incident",
            in_widths(&PICTURES, |width, class| picture::draw(&picture, &format!("incident-{class}"), width, false)),
        ),
        ("retries", retries(options, reports)),
        ("incidents", told(incidents)),
        ("table", numbers(reports)),
        ("command", escape(&options.command())),
        ("made", escape(&made.sentence())),
        ("data", data(&picture).to_string().replace('<', "\\u003c").replace('&', "\\u0026")),
        ("script", SCRIPT.to_owned()),
    ];
    parts.iter().fold(PAGE.to_owned(), |page, (name, part)| page.replace(&format!("{{{{{name}}}}}"), part))
}

fn title(reports: &[Report]) -> String {
    let failed = |report: &Report| thousands(report.failed());
    with_rival(reports).map_or_else(String::new, |(weir, rival)| {
        let requests = if weir.failed() == 1 { "request" } else { "requests" };
        format!("{} failed {requests} instead of {}", failed(weir), failed(rival))
    })
}

/// What the title says, in a sentence: the best of the others is named, and what it did twice.
fn result(reports: &[Report]) -> String {
    with_rival(reports).map_or_else(String::new, |(weir, rival)| {
        format!(
            "With Weir, {} of {} requests failed, and {} processed twice. The best of the other three is “{}”: {} failed, and {} \
             processed twice.",
            thousands(weir.failed()),
            thousands(weir.sent()),
            posts(weir.post.repeated),
            rival.variant.name(),
            thousands(rival.failed()),
            posts(rival.post.repeated),
        )
    })
}

fn posts(count: u64) -> String {
    match count {
        0 => "no POST was".to_owned(),
        1 => "one POST was".to_owned(),
        many => format!("{} POSTs were", thousands(many)),
    }
}

/// Why what Weir does lasts longer than what the replica did.
fn readmission(views: &[Vec<Mark>], timelines: &[Timeline]) -> String {
    let mut later: Vec<Duration> = Vec::new();
    for (marks, timeline) in views.iter().zip(timelines) {
        for mark in marks {
            let Mark::Back { at } = mark else { continue };
            let back = timeline.crashes.iter().rev().map(|crash| crash.back_at).find(|back| back <= at);
            later.extend(back.map(|back| *at - back));
        }
    }
    later.sort_unstable();
    let here = later.get(later.len() / 2).zip(later.last()).map_or_else(String::new, |(median, most)| {
        let (median, most) = (median.as_secs_f64(), most.as_secs_f64());
        format!(" Here that was {median:.1} s after the replica listened again in the median, and {most:.1} s at most.")
    });
    format!(
        "A blue bar ends later than the outage above it: Weir learns that a replica is back only from its next probe, and two \
         probes must be answered before the replica gets its full share again.{here} Clients do not wait meanwhile: other \
         replicas answer them."
    )
}

fn setting(options: &Options, envoy: &str) -> String {
    escape(&format!(
        "Four replicas crash-loop behind Envoy {envoy}: each resets the requests it holds, refuses connections while it \
         restarts, is fine for some seconds, and does it again. Clients send {} requests a second for {} seconds, 70 percent \
         GET and 30 percent POST. Four runs, with the same crashes and the same requests.",
        options.rate, options.seconds
    ))
}

fn card(report: &Report) -> String {
    let facts = [
        ("GETs answered", table::share(report.get.answered, report.get.sent)),
        ("POSTs answered", table::share(report.post.answered, report.post.sent)),
        ("POSTs processed twice", thousands(report.post.repeated)),
        ("attempts per request", format!("{:.2}", report.attempts() as f64 / report.sent().max(1) as f64)),
    ];
    let facts: String = facts.iter().map(|(what, much)| format!("<div><dt>{what}</dt><dd>{much}</dd></div>")).collect();
    format!(
        r#"<li class="card {}"><h2>{}</h2><p class="kind">{}</p><p class="big"><strong>{}</strong> <span class="of">of {} requests</span> failed</p><dl>{facts}</dl></li>"#,
        report.variant.class(),
        escape(report.variant.name()),
        escape(report.variant.explained()),
        thousands(report.failed()),
        thousands(report.sent()),
    )
}

fn band(report: &Report) -> Band {
    Band {
        name: report.variant.name().to_owned(),
        class: report.variant.class(),
        columns: report.story.columns.clone(),
        summary: format!("{} failed", thousands(report.failed())),
    }
}

fn description(reports: &[Report], timelines: &[Timeline]) -> String {
    let crashes: usize = timelines.iter().map(|timeline| timeline.crashes.len()).sum();
    let seen: Vec<String> = reports
        .iter()
        .map(|report| {
            format!(
                "with {}, {} of {} requests failed",
                report.variant.name(),
                thousands(report.failed()),
                thousands(report.sent())
            )
        })
        .collect();
    format!("{} replicas crash {crashes} times in all. {}.", timelines.len(), seen.join("; "))
}

/// How much was retried, as two charts.
fn retries(options: &Options, reports: &[Report]) -> String {
    let retrying: Vec<&Report> = reports.iter().filter(|report| report.variant != Variant::NoRetries).collect();
    let rate = Chart {
        title: "Retries a second",
        description: peaks(&retrying, |report| report.story.retry_rate(), "retries a second"),
        length: options.length(),
        unit: "",
        curves: curves(&retrying, |report| report.story.retry_rate()),
        bound: None,
    };
    let share = Chart {
        title: "Retries of the last ten seconds, in percent of the requests",
        description: peaks(&retrying, |report| report.story.retry_share(), "percent"),
        length: options.length(),
        unit: " %",
        curves: curves(&retrying, |report| report.story.retry_share()),
        bound: Some((20.0, "Weir’s budget")),
    };
    let figure = |chart: &Chart<'_>, id: &str| {
        let drawn = in_widths(&CHARTS, |width, class| chart::draw(chart, &format!("{id}-{class}"), width));
        format!("<figure><figcaption><b>{}</b></figcaption>{drawn}</figure>", escape(chart.title))
    };
    figure(&rate, "rate") + &figure(&share, "share")
}

fn curves(reports: &[&Report], points: impl Fn(&Report) -> Vec<(Duration, f64)>) -> Vec<Curve> {
    let curve =
        |report: &&Report| Curve { name: report.variant.name(), class: report.variant.class(), points: points(report) };
    reports.iter().map(curve).collect()
}

fn peaks(reports: &[&Report], curve: impl Fn(&Report) -> Vec<(Duration, f64)>, unit: &str) -> String {
    let peak = |report: &&Report| {
        let most = curve(report).into_iter().map(|(_, value)| value).fold(0.0, f64::max);
        format!("{}: at most {most:.0} {unit}", report.variant.name())
    };
    reports.iter().map(peak).collect::<Vec<_>>().join("; ")
}

/// The same for different screens; the style shows one.
fn in_widths(widths: &[(&str, u32)], draw: impl Fn(u32, &str) -> String) -> String {
    widths.iter().map(|(class, width)| format!(r#"<div class="{class}">{}</div>"#, draw(*width, class))).collect()
}

/// What Weir recognised; nothing if it recognised nothing.
fn told(incidents: &[Incident]) -> String {
    let mut items = String::new();
    // What was reported of a host last holds what was told before.
    let last = |(number, it): &(usize, &Incident)| !incidents[number + 1..].iter().any(|later| later.host == it.host);
    for (_, incident) in incidents.iter().enumerate().filter(last) {
        let pattern = incident.pattern.replace('_', " ");
        let title = if incident.host == "*" { pattern } else { format!("{}: {pattern}", incident.host) };
        let _ = write!(
            items,
            r#"<li><p><b>{}</b> <span class="where">at {:.1} s, {}</span></p><p class="evidence">{}</p><p>{}</p></li>"#,
            escape(&title),
            incident.at.as_secs_f64(),
            escape(&incident.state),
            escape(&evidence(&incident.evidence)),
            escape(&incident.look_at),
        );
    }
    if items.is_empty() {
        return items;
    }
    format!(
        r#"<section aria-labelledby="told"><h2 id="told">What Weir says about it, in Envoy’s log</h2><p class="readout">The last line about each replica, and about all of them. A replica has none where Weir saw too little of its crash. One that crashes for the third time is in a crash loop: <code>--seconds 40</code> shows it.</p><ul class="told">{items}</ul></section>"#
    )
}

/// What was counted and measured, to be read: `1 restart · down for 2.6 s (2.1 to 3.1 s) · 3 attempts reset`.
fn evidence(evidence: &[(String, String)]) -> String {
    let value = |name: &str| evidence.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    let bound = |name: &str| {
        let (of, _) = name.rsplit_once('_').filter(|(_, which)| matches!(*which, "min" | "max"))?;
        value(of)
    };
    let seconds = |text: &str| text.strip_suffix('s').and_then(|seconds| seconds.parse::<f64>().ok());
    let mut facts = Vec::new();
    for (name, text) in evidence.iter().filter(|(name, _)| bound(name).is_none()) {
        let Some(length) = seconds(text) else {
            facts.push(counted(name, text));
            continue;
        };
        let words = match name.as_str() {
            "down" => "down for",
            "period" => "a crash every",
            other => &other.replace('_', " "),
        };
        let mut fact = format!("{words} {length:.1} s");
        let bounds = ["min", "max"].map(|which| value(&format!("{name}_{which}")).and_then(seconds));
        if let [Some(least), Some(most)] = bounds {
            let _ = write!(fact, " ({least:.1} to {most:.1} s)");
        }
        facts.push(fact);
    }
    facts.join(" · ")
}

/// `restarts=1` as `1 restart`; of a name that is not known, both as they are.
fn counted(name: &str, count: &str) -> String {
    let (one, many) = match name {
        "restarts" => ("restart", "restarts"),
        "crashes" => ("crash", "crashes"),
        "reset" => ("attempt reset", "attempts reset"),
        "refused" => ("attempt refused", "attempts refused"),
        "timeout" => ("attempt timed out", "attempts timed out"),
        "hosts" => ("host down", "hosts down"),
        "known" => ("host known", "hosts known"),
        other => return format!("{} {count}", other.replace('_', " ")),
    };
    format!("{count} {}", if count == "1" { one } else { many })
}

fn numbers(reports: &[Report]) -> String {
    let heads: String =
        reports.iter().map(|report| format!(r#"<th scope="col">{}</th>"#, escape(report.variant.name()))).collect();
    let mut text = format!("<thead><tr><td></td>{heads}</tr></thead><tbody>");
    for (label, cells) in table::rows(reports) {
        let class = if label.starts_with(' ') { r#" class="part""# } else { "" };
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        let _ = write!(text, r#"<tr{class}><th scope="row">{}</th>{cells}</tr>"#, escape(label.trim()));
    }
    text + "</tbody>"
}

/// What the script shows of a moment.
fn data(picture: &Picture<'_>) -> Value {
    let millis = |at: Duration| at.as_millis() as u64;
    let replicas = picture.replicas.iter().map(|timeline| {
        let crashes = timeline.crashes.iter();
        crashes.map(|crash| [crash.resets_from, crash.refuses_from, crash.back_at].map(millis)).collect::<Vec<_>>()
    });
    let bands = picture.bands.iter().map(|band| {
        let columns: Vec<_> = band.columns.iter().map(|column| [column.answered, column.failed]).collect();
        json!({"name": band.name, "columns": columns})
    });
    json!({
        "length": millis(picture.length),
        "column": millis(picture::column_length(picture.length)),
        "replicas": replicas.collect::<Vec<_>>(),
        "bands": bands.collect::<Vec<_>>(),
    })
}
