//! A picture of the incident over time: what the replicas did, what the clients of each policy saw, and, if that is known,
//! what Weir made of it.

use std::fmt::Write;
use std::time::Duration;

use super::load::Outcome;
use super::schedule::Timeline;
use super::svg::{Frame, Svg, escape, short};

/// So many columns at least show what clients saw.
const COLUMNS: u32 = 80;

pub struct Picture<'a> {
    /// Says in words what can be seen.
    pub description: String,
    pub length: Duration,
    pub replicas: &'a [Timeline],
    /// Weir's view of each replica; empty if unknown.
    pub views: &'a [Vec<Mark>],
    pub bands: Vec<Band>,
}

/// What the clients of one policy saw.
pub struct Band {
    pub name: String,
    /// Of its colour, as in the palette.
    pub class: &'static str,
    pub columns: Vec<Column>,
    /// In a few words.
    pub summary: String,
}

/// The requests that were due within some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Column {
    pub answered: u32,
    pub failed: u32,
}

/// What Weir did with a replica, in times since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Out { from: Duration, until: Duration },
    FailedProbe { at: Duration },
    Back { at: Duration },
}

/// What one column stands for: a quarter of a second, in a long run more.
pub fn column_length(length: Duration) -> Duration {
    Duration::from_millis(250).max(length / (3 * COLUMNS))
}

pub fn columns(outcomes: &[Outcome], length: Duration) -> Vec<Column> {
    let each = column_length(length);
    let count = length.as_nanos().div_ceil(each.as_nanos());
    let mut columns = vec![Column::default(); count as usize];
    for outcome in outcomes {
        if let Some(column) = columns.get_mut((outcome.due.as_nanos() / each.as_nanos()) as usize) {
            match outcome.result {
                Ok(()) => column.answered += 1,
                Err(_) => column.failed += 1,
            }
        }
    }
    columns
}

/// `1743` as `1,743`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What differs between a wide picture and a narrow one.
struct Layout {
    frame: Frame,
    /// Names stand above their rows, not beside them.
    narrow: bool,
    /// Where headings begin.
    pad: f64,
    band: f64,
    /// Between rows.
    gap: f64,
}

const LANE: f64 = 15.0;
const VIEW: f64 = 8.0;

impl Layout {
    fn new(picture: &Picture<'_>, width: u32, alone: bool) -> Self {
        let width = f64::from(width);
        let narrow = width < 600.0;
        let pad = if alone { 18.0 } else { 1.0 };
        // Names stand in the margin; letters are some seven units wide.
        let longest = picture.bands.iter().map(|band| band.name.len()).max().unwrap_or(0);
        let (left, right) = if narrow { (pad, pad) } else { ((pad + 14.0 + 6.8 * longest as f64).max(110.0), 112.0) };
        let frame = Frame { width, left, span: width - left - right, length: picture.length };
        Self { frame, narrow, pad, band: if narrow { 40.0 } else { 46.0 }, gap: if narrow { 5.0 } else { 8.0 } }
    }

    /// Returns where what it is about begins.
    fn heading(&self, svg: &mut Svg, y: f64, text: &str, more: &str) -> f64 {
        let (x, line, text) = (short(self.pad), short(y + 12.0), escape(text));
        let more = format!(r#"<tspan class="muted" dx="8">{}</tspan>"#, escape(more));
        let _ = write!(svg, r#"<text class="heading" x="{x}" y="{line}">{text}{more}</text>"#);
        y + 22.0
    }

    /// A row's name and what to say of it, beside or above; returns where the row itself begins.
    fn name(&self, svg: &mut Svg, y: f64, height: f64, name: &str, summary: &str) -> f64 {
        let Frame { left, span, .. } = self.frame;
        if self.narrow {
            svg.text("name", (left, y + 10.0), name);
            svg.text("summary end", (left + span, y + 10.0), summary);
            return y + 15.0;
        }
        svg.text("name end", (left - 12.0, y + height / 2.0 + 4.0), name);
        svg.text("summary", (left + span + 10.0, y + height / 2.0 + 4.0), summary);
        y
    }
}

/// The picture as an `svg` element. `id` is unique in the page. One that stands alone has a margin and a legend.
pub fn draw(picture: &Picture<'_>, id: &str, width: u32, alone: bool) -> String {
    let layout = Layout::new(picture, width, alone);
    let (mut rows, mut y) = (Svg::default(), 4.0);
    if alone {
        y = 30.0;
        y = legend(&mut rows, &layout, y, id, !picture.views.is_empty()) + 20.0;
    }
    let top = y + 22.0;
    let below = if picture.views.is_empty() { "" } else { "and, below each, what Weir does" };
    y = layout.heading(&mut rows, y, "Replicas", below);
    for (number, timeline) in picture.replicas.iter().enumerate() {
        y = layout.name(&mut rows, y, LANE, &format!("replica {}", number + 1), "");
        lane(&mut rows, &layout.frame, y, timeline, id);
        y += LANE;
        if let Some(marks) = picture.views.get(number) {
            view(&mut rows, &layout.frame, y + 2.0, marks);
            y += 2.0 + VIEW;
        }
        y += layout.gap;
    }
    let each = column_length(picture.length);
    let of = if each.subsec_millis() == 250 { "a quarter of a second".to_owned() } else { format!("{each:.1?}") };
    let column = if layout.narrow { format!("a column is {of}") } else { format!("a column is all requests of {of}") };
    y = layout.heading(&mut rows, y + 10.0, "Clients", &column);
    for band in &picture.bands {
        y = layout.name(&mut rows, y, layout.band, &band.name, &band.summary);
        draw_band(&mut rows, &layout.frame, (y, layout.band), band, each);
        y += layout.band + layout.gap;
    }
    let mut svg = Svg::default();
    layout.frame.time_axis(&mut svg, (top, y));
    let _ = svg.write_str(rows.as_str());
    let height = y + if alone { 30.0 } else { 20.0 };
    svg.finish(&layout.frame, height, id, "The incident over time", &picture.description, alone)
}

/// What a replica did.
fn lane(svg: &mut Svg, frame: &Frame, y: f64, timeline: &Timeline, id: &str) {
    svg.rect("up", (frame.left, y), (frame.span, LANE));
    for crash in timeline.crashes.iter().filter(|crash| crash.resets_from < frame.length) {
        let (from, refuses, back) = (frame.x(crash.resets_from), frame.x(crash.refuses_from), frame.x(crash.back_at));
        svg.rect("down", (refuses, y), (back - refuses, LANE));
        resetting(svg, (from, y), (refuses - from, LANE), id);
    }
}

fn resetting(svg: &mut Svg, at: (f64, f64), (width, height): (f64, f64), id: &str) {
    svg.rect("resetting", at, (width, height));
    let (x, y, width, height) = (short(at.0), short(at.1), short(width), short(height));
    let _ = write!(svg, r#"<rect fill="url(#{id}-hatch)" x="{x}" y="{y}" width="{width}" height="{height}"/>"#);
}

/// What Weir did with a replica.
fn view(svg: &mut Svg, frame: &Frame, y: f64, marks: &[Mark]) {
    let middle = y + VIEW / 2.0;
    svg.line("track", (frame.left, middle), (frame.left + frame.span, middle));
    for mark in marks {
        if let Mark::Out { from, until } = mark {
            svg.rect("out", (frame.x(*from), y), ((frame.x(*until) - frame.x(*from)).max(1.5), VIEW));
        }
    }
    for mark in marks {
        match mark {
            Mark::Out { .. } => {}
            Mark::FailedProbe { at } => svg.line("probe", (frame.x(*at), y), (frame.x(*at), y + VIEW)),
            Mark::Back { at } => back(svg, frame.x(*at), middle),
        }
    }
}

/// The host is in again: an arrow.
fn back(svg: &mut Svg, at: f64, middle: f64) {
    let size = VIEW / 2.0 + 1.0;
    let data = format!(
        "M{} {}L{} {}L{} {}Z",
        short(at),
        short(middle - size),
        short(at + size * 1.6),
        short(middle),
        short(at),
        short(middle + size)
    );
    svg.path("back", &data);
}

/// Each column is as high as the band; what failed is cut off from above, and is seen even if it is little.
fn draw_band(svg: &mut Svg, frame: &Frame, (y, height): (f64, f64), band: &Band, each: Duration) {
    const SEEN: f64 = 4.0;
    // The line between the two.
    let mut border = String::new();
    for (number, column) in band.columns.iter().enumerate() {
        let all = f64::from(column.answered + column.failed).max(1.0);
        let mut cut = height * f64::from(column.failed) / all;
        if column.failed > 0 {
            cut = cut.max(SEEN);
        }
        let number = number as u32;
        let (from, until) = (frame.x(each * number), frame.x(each * (number + 1)));
        let _ = write!(border, "L{} {}H{}", short(from), short(y + cut), short(until));
    }
    let (left, right) = (short(frame.left), short(frame.left + frame.span));
    for (class, edge) in [(format!("answered {}", band.class), y + height), ("failed".to_owned(), y)] {
        let edge = short(edge);
        svg.path(&class, &format!("M{left} {edge}{border}L{right} {edge}Z"));
    }
}

/// What the colours mean, in as many lines as it takes; returns where the last one is.
fn legend(svg: &mut Svg, layout: &Layout, mut y: f64, id: &str, with_views: bool) -> f64 {
    let mut x = layout.pad;
    let mut entry = |class: &str, text: &str| {
        let width = 36.0 + 6.2 * text.len() as f64;
        if x + width > layout.frame.width {
            (x, y) = (layout.pad, y + 18.0);
        }
        match class {
            "resetting" => resetting(svg, (x, y - 9.0), (16.0, 10.0), id),
            "probe" => {
                svg.rect("out", (x, y - 8.0), (16.0, VIEW));
                svg.line("probe", (x + 8.0, y - 8.0), (x + 8.0, y));
            }
            "back" => back(svg, x + 4.0, y - 4.0),
            _ => svg.rect(class, (x, y - 9.0), (16.0, 10.0)),
        }
        svg.text("key", (x + 21.0, y), text);
        x += width;
    };
    entry("up", "up");
    entry("resetting", "resets what it holds");
    entry("down", "refuses connections");
    entry("failed", "failed requests");
    if with_views {
        entry("out", "ejected by Weir");
        entry("probe", "probe failed");
        entry("back", "back");
    }
    y
}
