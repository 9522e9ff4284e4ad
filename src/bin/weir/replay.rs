//! `weir replay ACCESS_LOG...`: the engine over the past, and what it would have done.
//!
//! ```text
//!   files ──► input ──► line ──► order ──► world, host ──► tally ──► report, plot
//!             lines     parsed   by time   the engine      counts
//! ```
//!
//! Nothing grows with the length of the log: lines wait in a window of seconds, requests are forgotten when they are over,
//! timelines have a fixed number of steps.

mod host;
mod input;
mod line;
mod order;
mod plot;
mod remembered;
mod report;
#[allow(dead_code, reason = "the simulation uses more of it")]
mod retry_on;
#[allow(dead_code, reason = "the demo and the benchmarks use more of it")]
mod svg;
mod tally;
mod world;

use std::io;
use std::process::ExitCode;
use std::rc::Rc;

use indicatif::ProgressBar;
use weir::config::{Mode, Policy};

use crate::check::find;
use input::{Input, Next};
use line::{Record, Useless};
use order::Order;
use world::World;

/// Tells what Weir would have done about the traffic in Envoy's JSON access logs, and which incidents it sees in it.
///
/// Logs of requests and of attempts (the router's upstream_log), as envoy/access-log.yaml has Envoy write them; Istio's default
/// JSON format is read as well. Several files are read side by side, in the order of time. Exit status: 0, also where lines
/// are of no use; 1 if none is; 2 if a file cannot be read or the command line is wrong.
#[derive(clap::Args)]
pub struct Arguments {
    /// Log files, one JSON object on each line, plain or gzip; - is standard input
    #[arg(value_name = "ACCESS_LOG", required = true)]
    files: Vec<String>,
    /// The policy, or a configuration that has it inside, as for check; without it, the defaults
    #[arg(short, long, value_name = "FILE")]
    policy: Option<String>,
    /// The report as JSON
    #[arg(long)]
    json: bool,
    /// Draw what happened, as SVG
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<String>,
    /// How many seconds lines may be out of order
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    window: u64,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Lines {
    /// All, but for empty ones.
    pub all: u64,
    pub requests: u64,
    pub attempts: u64,
    /// Of no use: how many of each kind, and the first, by file and line.
    pub useless: Vec<(Useless, u64, String)>,
    /// When the earliest request or attempt began, and the last ended, in nanoseconds.
    pub first: Option<u64>,
    pub last: u64,
    /// Events that came too late to be put in order.
    pub late: u64,
}

impl Lines {
    fn useless(&mut self, why: Useless, input: &str, line: u64) {
        match self.useless.iter_mut().find(|(known, ..)| *known == why) {
            Some((_, count, _)) => *count += 1,
            None => self.useless.push((why, 1, format!("{input}:{line}"))),
        }
    }
}

/// Does it.
pub fn run(arguments: &Arguments) -> ExitCode {
    match replay(arguments) {
        Ok(lines) if lines.requests + lines.attempts > 0 || lines.all == 0 => ExitCode::SUCCESS,
        Ok(_) => {
            eprintln!("weir: no line is of use");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("weir: {error}");
            ExitCode::from(2)
        }
    }
}

fn replay(arguments: &Arguments) -> Result<Lines, String> {
    let mut policy = match &arguments.policy {
        Some(file) => read_policy(file)?,
        None => Policy::default(),
    };
    // What it would do, not what it would have seen itself do.
    policy.mode = Mode::Enforce;
    // Requests went where they went.
    policy.steering = None;
    let progress = input::progress(!arguments.quiet);
    let mut files = Vec::new();
    for file in &arguments.files {
        files.push(Ahead::open(file, &progress).map_err(|error| format!("{file}: {error}"))?);
    }
    let mut world = World::new(policy);
    let lines = read(&mut files, &mut world, arguments.window);
    progress.finish_and_clear();
    let lines = lines?;
    let text = if arguments.json { report::json(&lines, &world) } else { report::text(&lines, &world) };
    crate::print(&text);
    if let Some(file) = &arguments.plot {
        std::fs::write(file, plot::draw(&lines, &world)).map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(lines)
}

fn read_policy(file: &str) -> Result<Policy, String> {
    let bytes = find::read(file).map_err(|error| format!("{file}: {error}"))?;
    let document = find::find(&bytes).map_err(|error| format!("{file}: {error}"))?;
    for found in &document.found {
        if let find::Source::Text(text) = &found.source {
            let config = weir::config::parse(text).map_err(|error| format!("{file}: {error}"))?;
            if let Some(policy) = config.policy {
                return Ok(policy);
            }
        }
    }
    Err(format!("{file}: there is no policy in it: that belongs to role decide"))
}

/// A file, and what it has next.
struct Ahead {
    input: Input,
    next: Option<(Rc<Record>, String)>,
}

impl Ahead {
    fn open(file: &str, progress: &ProgressBar) -> io::Result<Self> {
        Ok(Self { input: Input::open(file, progress)?, next: None })
    }
}

fn read(files: &mut [Ahead], world: &mut World, window: u64) -> Result<Lines, String> {
    let mut lines = Lines::default();
    let mut order = Order::new(window.saturating_mul(1_000_000_000));
    for file in files.iter_mut() {
        look_ahead(file, &mut lines)?;
    }
    loop {
        // Lines are written when something ends.
        let earliest = files.iter_mut().filter(|file| file.next.is_some());
        let earliest = earliest.min_by_key(|file| file.next.as_ref().map_or(0, |(record, _)| record.end));
        let Some(file) = earliest else { break };
        let Some((record, name)) = file.next.take() else { break };
        match world.cluster(&name) {
            Ok(cluster) => {
                *if record.is_attempt { &mut lines.attempts } else { &mut lines.requests } += 1;
                lines.first = Some(lines.first.map_or(record.start, |first| first.min(record.start)));
                lines.last = lines.last.max(record.end);
                world.foresee(cluster, &record);
                order.push(cluster, &record);
            }
            Err(why) => lines.useless(why, &file.input.name, file.input.lines),
        }
        drop(record);
        look_ahead(file, &mut lines)?;
        while let Some(event) = order.pop(false) {
            world.happens(&event);
        }
    }
    while let Some(event) = order.pop(true) {
        world.happens(&event);
    }
    world.finish();
    lines.late = world.late;
    Ok(lines)
}

/// Reads on to the next line that is of use.
fn look_ahead(file: &mut Ahead, lines: &mut Lines) -> Result<(), String> {
    loop {
        let why = match file.input.next() {
            Err(error) => return Err(format!("{}:{}: {error}", file.input.name, file.input.lines)),
            Ok(Next::End) => return Ok(()),
            Ok(Next::TooLong) => Useless::TooLong,
            Ok(Next::Line(text)) => match line::read(text) {
                Ok((record, cluster)) => {
                    lines.all += 1;
                    file.next = Some((Rc::new(record), cluster.into_owned()));
                    return Ok(());
                }
                Err(why) => why,
            },
        };
        lines.all += 1;
        lines.useless(why, &file.input.name, file.input.lines);
    }
}
