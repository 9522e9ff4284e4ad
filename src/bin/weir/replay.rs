//! `weir replay ACCESS_LOG...`: the engine over the past, and what it would have done.
//!
//! ```text
//!   files ──► input ──► line, format ──► order ──► world, host ──► tally ──► totals ──► report, plot
//!             lines     parsed           by time   the engine      counts    of all
//! ```
//!
//! Each proxy has a world of its own, as it would have a Weir of its own; with several policies, one for each. Nothing grows with the length of the log: lines wait in a window of seconds, requests are forgotten when they are over,
//! timelines have a fixed number of steps.

mod fields;
mod format;
mod host;
mod input;
pub mod line;
mod order;
mod plot;
pub mod record;
mod remembered;
mod report;
#[allow(dead_code, reason = "the simulation uses more of it")]
mod retry_on;
#[allow(dead_code, reason = "the demo and the benchmarks use more of it")]
mod svg;
mod tally;
mod totals;
mod world;

use std::collections::HashMap;
use std::io;
use std::process::ExitCode;
use std::rc::Rc;

use indicatif::ProgressBar;
use weir::config::{Mode, Policy};

use crate::check::find;
use input::{Input, Next as Read};
use line::Useless;
use order::Order;
use record::Record;
use totals::Totals;
use world::World;

/// Tells what Weir would have done about past traffic, from access logs.
///
/// It also tells which incidents it sees there.
///
/// Reads Envoy's and Istio's default text formats, JSON (Istio's, Envoy Gateway's, and logs of requests and of attempts as
/// envoy/access-log.yaml has Envoy write them), and what kubectl logs makes of them. Lines with the prefix of kubectl logs --prefix
/// are told apart by pod: each proxy has a budget of its own, and what it saw is told with its pod. Several files are read side by side, in the order of time. With several
/// policies they are compared. Exit status: 0, also where lines are of no use; 1 if none is; 2 if a file cannot be read or the
/// command line is wrong.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kubectl logs deploy/storefront -c istio-proxy --since=24h | weir replay -
  kubectl logs -l app=storefront -c istio-proxy --prefix --since=24h \\
    --tail=-1 --max-log-requests=50 | weir replay -
  weir replay --policy defaults --policy mine.yaml requests.json attempts.json")]
pub struct Arguments {
    /// Log files, plain or gzip; - is standard input
    #[arg(value_name = "ACCESS_LOG", required = true)]
    files: Vec<String>,
    /// The policy, or a configuration that has it inside, as for check; without it, the defaults. Several are compared, and the
    /// word defaults stands for these
    #[arg(short, long, value_name = "FILE")]
    policy: Vec<String>,
    /// Each file is of a proxy of its own; else lines without a pod are of one
    #[arg(long)]
    per_file: bool,
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
    /// How many proxies wrote them.
    pub proxies: usize,
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

/// Replays the access logs and prints the report. Returns the exit status of `weir replay`.
pub fn run(arguments: &Arguments) -> ExitCode {
    match replay(arguments) {
        Ok(lines) if lines.requests + lines.attempts > 0 => ExitCode::SUCCESS,
        Ok(lines) => {
            eprintln!(
                "weir: no line is of use. Does this proxy write an access log? In Istio, meshConfig.accessLogFile or a Telemetry \
                 resource switches it on"
            );
            // An empty log is no mistake: there may have been no request.
            if lines.all == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("weir: {error}");
            ExitCode::from(2)
        }
    }
}

fn replay(arguments: &Arguments) -> Result<Lines, String> {
    let mut policies = Vec::new();
    for file in &arguments.policy {
        policies.push(if file == DEFAULTS { Policy::default() } else { read_policy(file)? });
    }
    if policies.is_empty() {
        policies.push(Policy::default());
    }
    for policy in &mut policies {
        // What it would do, not what it would have seen itself do.
        policy.mode = Mode::Enforce;
        // Requests went where they went.
        policy.steering = None;
    }
    let progress = input::progress(!arguments.quiet);
    let mut files = Vec::new();
    for file in &arguments.files {
        files.push(Ahead::open(file, &progress).map_err(|error| format!("{file}: {error}"))?);
    }
    let mut proxies = Proxies::new(policies, arguments);
    let lines = read(&mut files, &mut proxies);
    progress.finish_and_clear();
    let mut lines = lines?;
    lines.proxies = proxies.all.len();
    let all = proxies.totals();
    let text = if arguments.json {
        report::json(&lines, &all, &arguments.policy)
    } else {
        report::text(&lines, &all, &arguments.policy)
    };
    crate::print(&text);
    if let (Some(file), Some(totals)) = (&arguments.plot, all.first()) {
        std::fs::write(file, plot::draw(&lines, totals)).map_err(|error| format!("{file}: {error}"))?;
    }
    Ok(lines)
}

/// The policy of that name is the default one.
const DEFAULTS: &str = "defaults";
/// Proxies that are told apart.
const MOST_PROXIES: usize = 500;

/// The proxies that wrote the log.
struct Proxies {
    policies: Vec<Policy>,
    window: u64,
    /// The files, where each is of a proxy of its own.
    files: Vec<String>,
    /// By the file, where each is of its own, and the pod.
    by_name: HashMap<(usize, String), usize>,
    all: Vec<Proxy>,
}

/// One of them, with a worker for each policy.
struct Proxy {
    /// Its pod, or its file; `None` of lines that say neither.
    name: Option<Rc<str>>,
    order: Order,
    worlds: Vec<World>,
}

impl Proxies {
    fn new(policies: Vec<Policy>, arguments: &Arguments) -> Self {
        let window = arguments.window.saturating_mul(1_000_000_000);
        let files = if arguments.per_file { arguments.files.clone() } else { Vec::new() };
        Self { policies, window, files, by_name: HashMap::new(), all: Vec::new() }
    }

    /// The proxy that wrote a line.
    fn of(&mut self, file: usize, pod: &str) -> Result<&mut Proxy, Useless> {
        let own = self.files.get(file);
        let name = (own.map_or(0, |_| file), pod.to_owned());
        let number = match self.by_name.get(&name) {
            Some(number) => *number,
            None if self.all.len() >= MOST_PROXIES => return Err(Useless::TooManyProxies),
            None => {
                let worlds = self.policies.iter().cloned().map(World::new).collect();
                let shown = if pod.is_empty() { own.map(|own| input::shown(own)) } else { Some(pod) };
                self.all.push(Proxy { name: shown.map(Rc::from), order: Order::new(self.window), worlds });
                self.by_name.insert(name, self.all.len() - 1);
                self.all.len() - 1
            }
        };
        self.all.get_mut(number).ok_or(Useless::TooManyProxies)
    }

    /// What all of them come to, by policy.
    fn totals(&self) -> Vec<Totals> {
        let several = self.all.len() > 1;
        let of = |policy: usize| {
            self.all
                .iter()
                .filter_map(move |proxy| Some((proxy.name.as_ref().filter(|_| several), proxy.worlds.get(policy)?)))
        };
        (0..self.policies.len()).map(|policy| Totals::of(of(policy))).collect()
    }
}

impl Proxy {
    /// A line was read.
    fn push(&mut self, record: &Rc<Record>, cluster: &str) -> Result<(), Useless> {
        // It has the same number in all of them.
        let mut number = 0;
        for world in &mut self.worlds {
            number = world.cluster(cluster)?;
            world.foresee(number, record);
        }
        self.order.push(number, record);
        Ok(())
    }

    /// What is due happens.
    fn go_on(&mut self, end: bool) {
        while let Some(event) = self.order.pop(end) {
            self.worlds.iter_mut().for_each(|world| world.happens(&event));
        }
    }
}

/// The policy of a file.
pub fn read_policy(file: &str) -> Result<Policy, String> {
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
    next: Option<Next>,
}

/// A line that waits for its turn.
struct Next {
    record: Rc<Record>,
    cluster: String,
    pod: String,
}

impl Ahead {
    fn open(file: &str, progress: &ProgressBar) -> io::Result<Self> {
        Ok(Self { input: Input::open(file, progress)?, next: None })
    }
}

fn read(files: &mut [Ahead], proxies: &mut Proxies) -> Result<Lines, String> {
    let mut lines = Lines::default();
    for file in files.iter_mut() {
        look_ahead(file, &mut lines)?;
    }
    loop {
        // Lines are written when something ends.
        let earliest = files.iter_mut().enumerate().filter(|(_, file)| file.next.is_some());
        let earliest = earliest.min_by_key(|(_, file)| file.next.as_ref().map_or(0, |next| next.record.end));
        let Some((number, file)) = earliest else { break };
        let Some(Next { record, cluster, pod }) = file.next.take() else { break };
        let known = proxies.of(number, &pod).and_then(|proxy| {
            proxy.push(&record, &cluster)?;
            Ok(proxy)
        });
        let (is_attempt, start, end) = (record.is_attempt, record.start, record.end);
        drop(record);
        match known {
            Ok(proxy) => {
                *if is_attempt { &mut lines.attempts } else { &mut lines.requests } += 1;
                lines.first = Some(lines.first.map_or(start, |first| first.min(start)));
                lines.last = lines.last.max(end);
                look_ahead(file, &mut lines)?;
                proxy.go_on(false);
            }
            Err(why) => {
                lines.useless(why, &file.input.name, file.input.lines);
                look_ahead(file, &mut lines)?;
            }
        }
    }
    for proxy in &mut proxies.all {
        proxy.go_on(true);
        proxy.worlds.iter_mut().for_each(World::finish);
        lines.late += proxy.worlds.first().map_or(0, |world| world.late);
    }
    Ok(lines)
}

/// Reads on to the next line that is of use.
fn look_ahead(file: &mut Ahead, lines: &mut Lines) -> Result<(), String> {
    loop {
        let why = match file.input.next() {
            Err(error) => return Err(format!("{}:{}: {error}", file.input.name, file.input.lines)),
            Ok(Read::End) => return Ok(()),
            Ok(Read::TooLong) => Useless::TooLong,
            Ok(Read::Line(text)) => match line::read(text) {
                Ok(line::Line { record, cluster, pod }) => {
                    lines.all += 1;
                    file.next =
                        Some(Next { record: Rc::new(record), cluster: cluster.into_owned(), pod: pod.to_owned() });
                    return Ok(());
                }
                Err(why) => why,
            },
        };
        lines.all += 1;
        lines.useless(why, &file.input.name, file.input.lines);
    }
}
