//! What the terminal shows while a run lasts: one line that is refreshed, or, in a file or a pipe, a line now and then.

use std::convert::Infallible;
use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bootstrap::Variant;
use super::crash_loops::load::Progress;
use super::crash_loops::replicas::Ledger;
use super::crash_loops::schedule::{Phase, Timeline};

const REFRESH: Duration = Duration::from_millis(100);
const REPORT: Duration = Duration::from_secs(5);

/// Shows the run until dropped.
pub async fn show(
    variant: Variant,
    length: Duration,
    start: Instant,
    timelines: &[Timeline],
    progress: &Progress,
    ledger: &Ledger,
) -> Infallible {
    let terminal = std::io::stdout().is_terminal();
    loop {
        sleep(if terminal { REFRESH } else { REPORT }).await;
        let now = start.elapsed();
        let line = line(variant, now.min(length), timelines, progress, ledger, terminal);
        if terminal {
            print!("\r\x1b[2K{line}");
            let _ = std::io::stdout().flush();
        } else {
            println!("{line}");
        }
    }
}

/// The last state of the line, which stays.
pub fn end(variant: Variant, length: Duration, timelines: &[Timeline], progress: &Progress, ledger: &Ledger) {
    let terminal = std::io::stdout().is_terminal();
    let line = line(variant, length, timelines, progress, ledger, terminal);
    println!("{}{line}", if terminal { "\r\x1b[2K" } else { "" });
}

fn line(
    variant: Variant,
    now: Duration,
    timelines: &[Timeline],
    progress: &Progress,
    ledger: &Ledger,
    color: bool,
) -> String {
    let lanes: Vec<String> = timelines.iter().map(|timeline| lane(timeline.phase(now), color)).collect();
    let ended = progress.ended.load(Ordering::Relaxed);
    let answered = progress.answered.load(Ordering::Relaxed);
    // Fits into 80 columns: a longer line would not be overwritten by the next.
    format!(
        "  {:<13} {:5.1} s  {}  {:>5} failed, {:>3} POSTs done twice",
        variant.name(),
        now.as_secs_f64(),
        lanes.join(" "),
        ended - answered.min(ended),
        ledger.repeated_posts(),
    )
}

fn lane(phase: Phase, color: bool) -> String {
    let (word, code) = match phase {
        Phase::Up => ("up    ", 32),
        Phase::Resetting => ("RESETS", 31),
        Phase::Refusing => ("down  ", 33),
    };
    if color { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
}
