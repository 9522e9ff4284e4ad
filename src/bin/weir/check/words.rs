//! Settings in words.

use std::time::Duration;

use weir::base::percent::Percent;
use weir::base::time::millis;

/// `20 %`.
pub fn percent(percent: Percent) -> String {
    let points = percent.basis_points();
    let text = format!("{}.{:02}", points / 100, points % 100);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// `250 ms`, `10 s`, `5 min`.
pub fn time(time: Duration) -> String {
    match millis(time) {
        ms if ms >= 60_000 && ms % 60_000 == 0 => format!("{} min", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        ms => format!("{ms} ms"),
    }
}

/// `a`, `a or b`, `a, b or c`.
pub fn either(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// `1 request`, `2 requests`.
pub fn count(number: u64, thing: &str) -> String {
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}s") }
}

/// With two decimals at most: `2`, `1.2`, `1.05`.
pub fn decimal(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Lines of at most 100 columns, indented by two; further ones by as much as `hang`.
pub fn paragraph(out: &mut String, hang: usize, text: &str) {
    let mut column = 2;
    out.push_str("  ");
    for (position, word) in text.split(' ').enumerate() {
        if position > 0 {
            if column + 1 + word.chars().count() > 100 {
                out.push('\n');
                out.push_str(&" ".repeat(2 + hang));
                column = 2 + hang;
            } else {
                out.push(' ');
                column += 1;
            }
        }
        out.push_str(word);
        column += word.chars().count();
    }
    out.push('\n');
}

/// Rows with aligned columns, indented by two.
pub fn table(out: &mut String, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let line: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        out.push_str("  ");
        out.push_str(line.join("   ").trim_end());
        out.push('\n');
    }
}
