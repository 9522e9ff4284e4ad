//! `weir explain LINE`: what one line of an access log means to Weir, and which setting decides about it.
//!
//! The module's own code classifies it and finds the reason; this puts both into words.

mod settings;
mod verdict;
mod words;

use std::io::{self, BufRead as _};
use std::process::ExitCode;

use serde_json::{Value, json};
use weir::config::{Policy, RetryPolicy};
use weir::retry::{Class, Request};
use weir::signal::{Attempt, Signal, Verdict};

use crate::check::words::paragraph;
use crate::replay::line;
use crate::replay::read_policy;
use crate::replay::record::Record;
use settings::place;
use verdict::{Judged, judge};
use words::{class_text, described, meaning, undecided};

/// Explains a line of an access log.
///
/// It tells how the attempt or request ended in Weir's eyes, why it is retried or not, and which setting decides.
///
/// Reads what weir replay reads: Envoy's and Istio's default text formats, JSON, lines with the prefix of kubectl logs. Exit
/// status: 0; 1 if a line cannot be read; 2 if a file cannot be read or the command line is wrong.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  kubectl logs deploy/storefront -c istio-proxy | grep -m1 ' UF' | \\
    weir explain -
  weir explain --policy policy.yaml '{\"start_time\": …}'")]
pub struct Arguments {
    /// A line; - is standard input, and each line of it
    #[arg(value_name = "LINE", required = true)]
    lines: Vec<String>,
    /// The policy, or a configuration that has it inside, as for check; without it, the defaults
    #[arg(short, long, value_name = "FILE")]
    policy: Option<String>,
    /// As JSON, an object for each line
    #[arg(long)]
    json: bool,
}

/// Explains each line on its own. Returns the exit status of `weir explain`.
pub fn run(arguments: &Arguments) -> ExitCode {
    let policy = match arguments.policy.as_deref().map(read_policy).transpose() {
        Ok(policy) => policy.unwrap_or_default(),
        Err(error) => {
            eprintln!("weir: {error}");
            return ExitCode::from(2);
        }
    };
    let (mut first, mut failed) = (true, false);
    let mut one = |text: &[u8]| {
        let separator = if first || arguments.json { "" } else { "\n" };
        first = false;
        match line::read(text) {
            Ok(line::Line { record, cluster, .. }) => {
                let explained = explain(&policy, &record, &cluster);
                let text = if arguments.json { format!("{}\n", explained.json()) } else { explained.text() };
                crate::print(&[separator, &text].concat());
            }
            Err(why) => {
                failed = true;
                eprintln!("weir: {}: {}", why.text(), String::from_utf8_lossy(text));
            }
        }
    };
    for text in &arguments.lines {
        if text != "-" {
            one(text.trim().as_bytes());
            continue;
        }
        for text in io::stdin().lock().split(b'\n') {
            match text {
                Ok(text) if text.trim_ascii().is_empty() => {}
                Ok(text) => one(text.trim_ascii()),
                Err(error) => {
                    eprintln!("weir: standard input: {error}");
                    return ExitCode::from(2);
                }
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What there is to say about a line.
struct Explained {
    what: String,
    signal: Option<Signal>,
    /// What the signal rests on.
    because: &'static str,
    class: Option<Class>,
    verdict: String,
    why: String,
    settings: Vec<String>,
}

impl Explained {
    fn text(&self) -> String {
        let mut out = format!("{}\n", self.what);
        let mut row = |name: &str, text: &str| {
            let mut lines = String::new();
            paragraph(&mut lines, 10, &format!("{name:<9} {text}"));
            // The paragraph breaks between words, also those that keep the columns apart.
            out.push_str(&lines);
        };
        row("signal", &format!("{}: {}", self.signal.map_or("none", Signal::name), self.because));
        if let Some(class) = self.class {
            row("request", class_text(class));
        }
        row("verdict", &format!("{}: {}", self.verdict, self.why));
        for setting in &self.settings {
            row("setting", setting);
        }
        out
    }

    fn json(&self) -> Value {
        json!({"line": self.what, "signal": self.signal.map(Signal::name), "because": self.because,
            "class": self.class.map(Class::name), "verdict": self.verdict, "why": self.why, "settings": self.settings})
    }
}

/// Puts into words how a line's request or attempt ended, whether it is retried, and what decides that.
fn explain(policy: &Policy, record: &Record, cluster: &str) -> Explained {
    let (position, own) = &policy.for_request(cluster, &record.route);
    let (signal, because) = ended(record);
    let class = own.retry.as_ref().map_or(Class::Off, |retry| Class::of(&request(retry, record)));
    let Judged { verdict, why, settings } = judge(own, record, signal);
    let place = place(policy, cluster, *position);
    let settings = settings
        .into_iter()
        .map(|text| if text.starts_with("Envoy") { text } else { format!("{text}{}", place(&text)) });
    Explained {
        what: described(record, cluster),
        signal,
        because,
        class: signal.filter(|signal| signal.is_failure()).map(|_| class),
        verdict,
        why,
        settings: settings.collect(),
    }
}

/// Returns how an attempt, or the last one of a request, ended, and what that rests on.
fn ended(record: &Record) -> (Option<Signal>, &'static str) {
    if !record.is_attempt {
        let signal = record.last_attempt();
        return (signal, signal.map_or("there was no attempt: Envoy answered by itself", meaning));
    }
    let attempt = Attempt { flags: record.flags, answer: record.answer(), failure_reason: record.failure.as_bytes() };
    match attempt.classify() {
        Verdict::Certain(signal) => (Some(signal), meaning(signal)),
        Verdict::Open(open) => (Some(open.provisional(false)), undecided(open)),
    }
}

/// Returns the request as its first attempt, by which the engine decides whether it may be repeated.
fn request(policy: &RetryPolicy, record: &Record) -> Request {
    let repeatable = record.key || policy.is_idempotent(record.method.as_bytes());
    Request { repeatable, grpc: record.grpc, attempt: 1 }
}
