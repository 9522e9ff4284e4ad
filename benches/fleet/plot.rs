//! A picture of one size over time: what reached the hosts, and what was answered.

use std::time::Duration;

use super::fleet::{END, HANG, INCIDENT, Outcome, Policy, REFUSAL};
use super::svg::{Frame, Svg};

/// What is drawn, how it is called there, and the class of its curve.
const CURVES: [(Policy, &str, &str); 4] = [
    (Policy::Istio, "Istio's default", "istio"),
    (Policy::Budget, "Envoy retry_budget", "budget"),
    (Policy::Linkerd, "Linkerd", "linkerd"),
    (Policy::Weir, "Weir", "weir"),
];

/// As narrow as a phone, so that it can be read on one.
const FRAME: Frame = Frame { width: 508.0, left: 50.0, span: 450.0, length: END };
const HEIGHT: f64 = 150.0;
/// Attempts per request at the top of the picture.
const MOST: f64 = 4.0;
/// A point stands for so many tenths of a second.
const STEP: usize = 5;

pub fn picture(outcomes: &[(Policy, &Outcome)]) -> String {
    let mut svg = Svg::default();
    for (number, (_, name, class)) in CURVES.iter().enumerate() {
        let (x, y) = (FRAME.left + 200.0 * (number % 2) as f64, 20.0 + 20.0 * (number / 2) as f64);
        svg.line(&format!("curve {class}"), (x, y), (x + 22.0, y));
        svg.text("key", (x + 28.0, y + 4.0), name);
    }
    let (first, second) = (92.0, 92.0 + HEIGHT + 62.0);
    panel(&mut svg, first, "attempts per request", &["0", "1", "2", "3", "4"]);
    panel(&mut svg, second, "requests answered", &["0", "25", "50", "75", "100 %"]);
    for (policy, _, class) in CURVES {
        let Some((_, outcome)) = outcomes.iter().find(|(other, _)| *other == policy) else { continue };
        curve(&mut svg, class, first, outcome, |requests, attempts, _| attempts / requests / MOST);
        curve(&mut svg, class, second, outcome, |requests, _, answered| answered / requests);
    }
    let bottom = second + HEIGHT;
    FRAME.time_axis(&mut svg, (bottom, bottom));
    svg.finish(
        &FRAME,
        bottom + 30.0,
        "fleet",
        "A simulated fleet through an incident and two outages",
        "Attempts per request and the share of requests that were answered, over 80 simulated seconds, for 100 proxies and 100 \
         hosts: a fifth of the hosts crash-loop, then all hosts refuse for ten seconds, then all hang for ten seconds. The tables \
         that the benchmark prints have the numbers.",
        true,
    )
}

fn panel(svg: &mut Svg, top: f64, name: &str, ticks: &[&str]) {
    let spans = [(INCIDENT, "a fifth crash-loop"), (REFUSAL, "all refuse"), (HANG, "all hang")];
    for ((from, to), what) in spans {
        let (from, to) = (FRAME.x(from), FRAME.x(to));
        svg.rect("up", (from, top), (to - from, HEIGHT));
        svg.text("muted middle", ((from + to) / 2.0, top - 5.0), what);
    }
    svg.text("heading", (14.0, top - 22.0), name);
    for (number, tick) in ticks.iter().enumerate() {
        let y = top + HEIGHT * (1.0 - number as f64 / (ticks.len() - 1) as f64);
        svg.line("grid", (FRAME.left, y), (FRAME.left + FRAME.span, y));
        svg.text("tick end", (FRAME.left - 6.0, y + 4.0), tick);
    }
}

/// `value` of requests, attempts and answers says how high it is, of 1.
fn curve(svg: &mut Svg, class: &str, top: f64, outcome: &Outcome, value: impl Fn(f64, f64, f64) -> f64) {
    let points: Vec<(f64, f64)> = outcome
        .tenths
        .chunks(STEP)
        .enumerate()
        .map(|(number, tenths)| {
            let sum = |part: fn(&super::fleet::Tenth) -> u64| tenths.iter().map(part).sum::<u64>() as f64;
            let requests = sum(|tenth| tenth.gets.0 + tenth.posts.0).max(1.0);
            let answered = sum(|tenth| tenth.gets.1 + tenth.posts.1);
            let value = value(requests, sum(|tenth| tenth.attempts), answered).clamp(0.0, 1.0);
            let at = Duration::from_millis((100 * STEP * number + 50 * STEP) as u64);
            (FRAME.x(at), top + HEIGHT * (1.0 - value))
        })
        // What arrives at the very end is not over yet.
        .take(outcome.tenths.len() / STEP - 4)
        .collect();
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
    svg.path(&format!("curve {class}"), &format!("M{}", path.join("L")));
}
