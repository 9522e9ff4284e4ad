//! What happened, as a picture: requests and failures over time, what would have been out, and incidents.

use std::time::Duration;

use weir::signal::Signal;

use super::Lines;
use super::report::{clock, ordered};
use super::svg::{self, Frame, Svg};
use super::tally::{Step, Tally, Timeline, Told};
use super::totals::Totals;

/// Clusters and lanes of hosts that are drawn.
const MOST_CLUSTERS: usize = 6;
const MOST_LANES: usize = 16;

const FRAME: Frame = Frame { width: 960.0, left: 170.0, span: 770.0, length: Duration::ZERO };
const HIGH: f64 = 70.0;
const LANE: f64 = 18.0;
/// The room that the name of an incident takes.
const NAME: f64 = 80.0;

/// The colours of failures; each is told in the legend.
const COLOURS: [(Signal, &str); 6] = [
    (Signal::Refused, "#3a6ea5"),
    (Signal::Unreachable, "#7aa6d6"),
    (Signal::Reset, "#d9480f"),
    (Signal::Truncated, "#f2a074"),
    (Signal::Timeout, "#8a5fb0"),
    (Signal::Error, "#e8b33c"),
];

/// The whole picture.
pub fn draw(lines: &Lines, totals: &Totals) -> String {
    let (first, last) = (lines.first.unwrap_or(0), lines.last);
    let frame = Frame { length: Duration::from_nanos(last.saturating_sub(first).max(1_000_000)), ..FRAME };
    let mut svg = Svg::default();
    let mut y = 30.0;
    svg.text("heading", (16.0, y), &format!("Weir replay: {} to {}", clock(first, true), clock(last, true)));
    y += 22.0;
    let mut x = 16.0;
    for (signal, colour) in COLOURS {
        rect(&mut svg, (x, y - 9.0), (10.0, 10.0), colour);
        svg.text("key", (x + 14.0, y), signal.name());
        x += 30.0 + 7.0 * signal.name().len() as f64;
    }
    svg.rect("out", (x, y - 9.0), (10.0, 10.0));
    svg.text("key", (x + 14.0, y), "host is out");
    y += 20.0;
    let clusters = ordered(totals);
    for (name, _, tally) in clusters.iter().take(MOST_CLUSTERS) {
        y = cluster(&mut svg, &frame, first, y, name, tally);
    }
    if clusters.len() > MOST_CLUSTERS {
        svg.text("muted", (16.0, y + 10.0), &format!("and {} more clusters", clusters.len() - MOST_CLUSTERS));
        y += 24.0;
    }
    let description =
        "For each cluster: requests and failed attempts over time, hosts that would have been out, incidents.";
    svg.finish(&frame, y + 10.0, "replay", "Weir replay", description, true)
}

/// Draws one cluster below `top`, and returns where the next one begins.
fn cluster(svg: &mut Svg, frame: &Frame, first: u64, top: f64, name: &str, tally: &Tally) -> f64 {
    let mut y = top + 14.0;
    svg.text("heading", (16.0, y), name);
    y += 10.0;
    attempts(svg, frame, first, y, &tally.timeline);
    y += HIGH + 12.0;
    failures(svg, frame, first, y, &tally.timeline);
    let lanes_from = y + HIGH + 10.0;
    y = lanes(svg, frame, first, lanes_from, tally);
    incidents(svg, frame, first, (lanes_from - 4.0, y), &tally.told);
    axis(svg, frame, y + 14.0);
    y + 40.0
}

/// Draws attempts as columns, and requests as a line over them.
fn attempts(svg: &mut Svg, frame: &Frame, first: u64, y: f64, timeline: &Timeline) {
    let most = timeline.steps.iter().map(|step| step.requests.max(step.attempts)).max().unwrap_or(0).max(1);
    label(svg, y, "attempts/s", most, timeline);
    svg.text("muted", (16.0, y + 46.0), "line: requests/s");
    let high = |count: u64| HIGH * count as f64 / most as f64;
    let mut line = String::new();
    for (number, step) in timeline.steps.iter().enumerate() {
        let (left, width) = column(frame, first, timeline, number);
        svg.rect("up", (left, y + HIGH - high(step.attempts)), (width, high(step.attempts)));
        let (from, to, at) = (svg::short(left), svg::short(left + width), svg::short(y + HIGH - high(step.requests)));
        line += &format!("{}{from} {at}L{to} {at}", if number == 0 { "M" } else { "L" });
    }
    svg.path("curve weir", &line);
    svg.line("grid", (frame.left, y + HIGH), (frame.left + frame.span, y + HIGH));
}

/// Draws failed attempts as columns, in which each signal has its colour.
fn failures(svg: &mut Svg, frame: &Frame, first: u64, y: f64, timeline: &Timeline) {
    let counts = |step: &Step| COLOURS.map(|(signal, _)| step.signals.get(signal.index()).copied().unwrap_or(0));
    let most = timeline.steps.iter().map(|step| counts(step).iter().sum()).max().unwrap_or(0).max(1);
    label(svg, y, "failed attempts/s", most, timeline);
    for (number, step) in timeline.steps.iter().enumerate() {
        let (left, width) = column(frame, first, timeline, number);
        let mut bottom = y + HIGH;
        for (count, (_, colour)) in counts(step).into_iter().zip(COLOURS) {
            let high = HIGH * count as f64 / most as f64;
            bottom -= high;
            if count > 0 {
                rect(svg, (left, bottom), (width, high), colour);
            }
        }
    }
    svg.line("grid", (frame.left, y + HIGH), (frame.left + frame.span, y + HIGH));
}

/// Draws a line from `top` to `bottom` where an incident began or hosts restarted, with its name below.
fn incidents(svg: &mut Svg, frame: &Frame, first: u64, (top, bottom): (f64, f64), told: &[Told]) {
    let told = told.iter().filter(|told| told.state == "open" || told.pattern == "restart").take(60);
    // Where two names have no room beside each other, that of the restart is left out.
    let (restarts, open): (Vec<_>, Vec<_>) = told.partition(|told| told.pattern == "restart");
    let mut named: Vec<f64> = Vec::new();
    for told in open.iter().chain(&restarts) {
        let at = frame.x(Duration::from_nanos(told.at.saturating_sub(first)));
        svg.line("bound", (at, top), (at, bottom));
        let at = at.clamp(frame.left + 30.0, frame.left + frame.span - 30.0);
        if named.iter().all(|other| (other - at).abs() >= NAME) {
            svg.text("tick middle", (at, bottom + 10.0), told.pattern);
            named.push(at);
        }
    }
}

/// What would have been out, host by host.
fn lanes(svg: &mut Svg, frame: &Frame, first: u64, top: f64, tally: &Tally) -> f64 {
    let mut y = top;
    let end = frame.length.as_nanos() as u64;
    let lane = |host: &str| tally.ejected.iter().any(|ejected| &*ejected.host == host);
    for host in tally.hosts.keys().filter(|host| lane(host)).take(MOST_LANES) {
        svg.text("muted", (16.0, y + 12.0), host);
        svg.line("track", (frame.left, y + 8.0), (frame.left + frame.span, y + 8.0));
        for ejected in tally.ejected.iter().filter(|ejected| ejected.host == *host) {
            let left = frame.x(Duration::from_nanos(ejected.at.saturating_sub(first)));
            let back = ejected.back.map_or(end, |back| back.saturating_sub(first));
            let right = frame.x(Duration::from_nanos(back));
            svg.rect("out", (left, y + 3.0), ((right - left).max(1.0), 10.0));
        }
        y += LANE;
    }
    y
}

/// Names a chart, and tells how many per second its full height stands for.
fn label(svg: &mut Svg, y: f64, name: &str, most: u64, timeline: &Timeline) {
    svg.text("label", (16.0, y + 14.0), name);
    let per_second = most as f64 * 1e9 / timeline.length as f64;
    svg.text("muted", (16.0, y + 30.0), &format!("up to {per_second:.0}"));
}

/// Returns where the column of a step begins, and how wide it is.
fn column(frame: &Frame, first: u64, timeline: &Timeline, step: usize) -> (f64, f64) {
    let (left, right) = (x(frame, first, timeline, step), x(frame, first, timeline, step + 1));
    (left, (right - left).max(0.7))
}

fn x(frame: &Frame, first: u64, timeline: &Timeline, step: usize) -> f64 {
    let start = timeline.start.unwrap_or(first).saturating_sub(first);
    frame.x(Duration::from_nanos(start.saturating_add(timeline.length.saturating_mul(step as u64))))
}

/// Some times below a cluster.
fn axis(svg: &mut Svg, frame: &Frame, y: f64) {
    let seconds = frame.length.as_secs_f64();
    for tick in 0..=6 {
        let share = f64::from(tick) / 6.0;
        let at = frame.left + frame.span * share;
        let class = match tick {
            0 => "tick",
            6 => "tick end",
            _ => "tick middle",
        };
        let time = seconds * share;
        let text = match time {
            time if seconds >= 7_200.0 => format!("{:.1} h", time / 3_600.0),
            time if seconds >= 120.0 => format!("{:.1} min", time / 60.0),
            time => format!("{time:.1} s"),
        };
        svg.text(class, (at, y + 8.0), &text);
    }
}

fn rect(svg: &mut Svg, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
    use std::fmt::Write as _;
    let [x, y, width, height] = [x, y, width, height].map(svg::short);
    let _ = write!(svg, r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{colour}"/>"#);
}
