//! As much SVG as the pictures of the command line, the demo and the benchmarks need. Colours and fonts are in
//! `svg/picture.css`, by class.

use std::fmt::{self, Write};
use std::time::Duration;

/// Colours, for light and dark.
pub const PALETTE: &str = include_str!("svg/palette.css");
/// How what is drawn looks.
pub const STYLE: &str = include_str!("svg/picture.css");

/// A picture under construction.
#[derive(Default)]
pub struct Svg(String);

impl Svg {
    pub fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let _ = write!(
            self.0,
            r#"<rect class="{class}" x="{}" y="{}" width="{}" height="{}"/>"#,
            short(x),
            short(y),
            short(width.max(0.0)),
            short(height.max(0.0))
        );
    }

    pub fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        self.path(class, &format!("M{} {}L{} {}", short(x1), short(y1), short(x2), short(y2)));
    }

    pub fn path(&mut self, class: &str, data: &str) {
        if !data.is_empty() {
            let _ = write!(self.0, r#"<path class="{class}" d="{data}"/>"#);
        }
    }

    /// `class` may hold `end` or `middle`, by which the text is anchored.
    pub fn text(&mut self, class: &str, (x, y): (f64, f64), text: &str) {
        let _ = write!(self.0, r#"<text class="{class}" x="{}" y="{}">{}</text>"#, short(x), short(y), escape(text));
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The whole picture. `id` is unique in the page. One that stands `alone` brings its colours along.
    pub fn finish(self, frame: &Frame, height: f64, id: &str, title: &str, description: &str, alone: bool) -> String {
        let (width, height) = (short(frame.width), short(height));
        let mut text = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" class="picture" role="img" aria-labelledby="{id}-title {id}-desc" viewBox="0 0 {width} {height}" data-left="{}" data-span="{}""#,
            short(frame.left),
            short(frame.span)
        );
        if alone {
            let _ = write!(text, r#" width="{width}" height="{height}""#);
        }
        let (title, description) = (escape(title), escape(description));
        let _ = write!(text, r#"><title id="{id}-title">{title}</title><desc id="{id}-desc">{description}</desc>"#);
        if alone {
            let _ = write!(
                text,
                r#"<style>{PALETTE}{STYLE}</style><rect class="ground" width="100%" height="100%" rx="8"/>"#
            );
        }
        let _ = write!(
            text,
            r#"<defs><pattern id="{id}-hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="hatch" width="2" height="5"/></pattern></defs>"#
        );
        text + &self.0 + "</svg>\n"
    }
}

/// For what there is no function of its own.
impl Write for Svg {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write_str(text)
    }
}

/// Width of a picture, and where time is in it.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    pub width: f64,
    /// Where time begins, and how wide it is.
    pub left: f64,
    pub span: f64,
    pub length: Duration,
}

impl Frame {
    pub fn x(&self, at: Duration) -> f64 {
        self.left + self.span * (at.as_secs_f64() / self.length.as_secs_f64()).min(1.0)
    }

    /// Seconds below `bottom`, and lines up to `top`.
    pub fn time_axis(&self, svg: &mut Svg, (top, bottom): (f64, f64)) {
        let seconds = self.length.as_secs();
        let wanted = if self.span < 450.0 { 4 } else { 8 };
        let step = [1, 2, 5, 10, 15, 30, 60, 120].into_iter().find(|step| seconds / step <= wanted).unwrap_or(300);
        for second in (0..=seconds).step_by(step as usize) {
            let at = self.x(Duration::from_secs(second));
            svg.line("grid", (at, top), (at, bottom));
            let class = match second {
                0 => "tick",
                _ if at > self.width - 8.0 => "tick end",
                _ => "tick middle",
            };
            svg.text(class, (at, bottom + 14.0), &if second == 0 { "0 s".to_owned() } else { second.to_string() });
        }
    }
}

/// A number with one decimal at most.
pub fn short(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// For the text and the attributes of XML and HTML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            character if character.is_control() => escaped.push(' '),
            character => escaped.push(character),
        }
    }
    escaped
}
