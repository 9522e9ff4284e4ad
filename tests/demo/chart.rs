//! Curves over time.

use std::fmt::Write;
use std::time::Duration;

use super::crash_loops::svg::{Frame, Svg, short};

pub struct Chart<'a> {
    pub title: &'a str,
    pub description: String,
    pub length: Duration,
    /// Follows the numbers of the axis.
    pub unit: &'a str,
    pub curves: Vec<Curve>,
    /// Drawn across, with what it is.
    pub bound: Option<(f64, &'a str)>,
}

pub struct Curve {
    pub name: &'static str,
    /// Of the picture's style.
    pub class: &'static str,
    pub points: Vec<(Duration, f64)>,
}

const HEIGHT: f64 = 150.0;
const TOP: f64 = 8.0;
/// How high a line of text is.
const LINE: f64 = 14.0;

pub fn draw(chart: &Chart<'_>, id: &str, width: u32) -> String {
    let width = f64::from(width);
    let frame = Frame { width, left: 42.0, span: width - 50.0, length: chart.length };
    let points = chart.curves.iter().flat_map(|curve| &curve.points).map(|(_, y)| *y);
    // With room for the names above.
    let highest = points.chain(chart.bound.map(|(bound, _)| bound)).fold(0.0, f64::max) * 1.15;
    let step = step(highest);
    let most = step * (highest / step).ceil().max(1.0);
    let y = |value: f64| TOP + HEIGHT * (1.0 - value / most);
    let mut svg = Svg::default();
    frame.time_axis(&mut svg, (TOP, TOP + HEIGHT));
    let mut value = 0.0;
    while value <= most + step / 2.0 {
        svg.line("grid", (frame.left, y(value)), (frame.left + frame.span, y(value)));
        svg.text("tick end", (frame.left - 6.0, y(value) + 4.0), &format!("{}{}", short(value), chart.unit));
        value += step;
    }
    if let Some((bound, name)) = chart.bound {
        svg.line("bound", (frame.left, y(bound)), (frame.left + frame.span, y(bound)));
        // Where time begins, there are no curves yet that reach so far.
        svg.text("label", (frame.left + 4.0, y(bound) - 6.0), name);
    }
    for curve in &chart.curves {
        let mut data = String::new();
        for (at, value) in curve.points.iter().filter(|(at, _)| *at <= chart.length) {
            let command = if data.is_empty() { 'M' } else { 'L' };
            let _ = write!(data, "{command}{} {}", short(frame.x(*at)), short(y(*value)));
        }
        svg.path(&format!("curve {}", curve.class), &data);
    }
    let mut named: Vec<(f64, f64)> = Vec::new();
    for curve in &chart.curves {
        // Where it is highest.
        let highest = curve.points.iter().max_by(|one, other| one.1.total_cmp(&other.1));
        if let Some((at, value)) = highest {
            let x = frame.x(*at).clamp(frame.left + 40.0, frame.left + frame.span - 40.0);
            // Beside the names of curves that are highest at the same place.
            let free = |at: &f64| !named.iter().any(|(other, y)| (other - x).abs() < 90.0 && (y - at).abs() < LINE);
            let above = y(*value) - 7.0;
            let lines = [0.0, -1.0, 1.0, 2.0, 3.0].into_iter().map(|lines| above + lines * LINE);
            let at = lines.filter(|at| *at >= LINE).find(free).unwrap_or(above);
            named.push((x, at));
            svg.text("label middle", (x, at), curve.name);
        }
    }
    svg.finish(&frame, TOP + HEIGHT + 20.0, id, chart.title, &chart.description, false)
}

/// A round number, of which about three reach that high.
fn step(highest: f64) -> f64 {
    let wanted = (highest / 3.5).max(0.1);
    let power = 10f64.powf(wanted.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= wanted).unwrap_or(wanted)
}
