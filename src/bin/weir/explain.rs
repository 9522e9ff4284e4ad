//! `weir explain LINE`: what one line of an access log means to Weir, and which setting decides about it.
//!
//! The module's own code classifies it and finds the reason; this puts both into words.

mod settings;
mod words;

use std::io::{self, BufRead as _};
use std::process::ExitCode;

use serde_json::{Value, json};
use weir::config::{ClusterPolicy, Policy, RetryPolicy};
use weir::engine::decision::Verdict as Told;
use weir::retry::reason::{Failed, Reason};
use weir::retry::{Class, Plan, Request};
use weir::signal::{Attempt, Flags, Signal, Verdict};

use crate::check::words::{count, paragraph};
use crate::replay::line;
use crate::replay::read_policy;
use crate::replay::record::Record;
use settings::{budget, circuit, decides, max_retries, method, of_reason, place};
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

fn explain(policy: &Policy, record: &Record, cluster: &str) -> Explained {
    let (position, own) = &policy.for_request(cluster, &record.route);
    let end = record.request_end();
    let (signal, because) = if record.is_attempt {
        match attempt(record).classify() {
            Verdict::Certain(signal) => (Some(signal), meaning(signal)),
            Verdict::Open(open) => (Some(open.provisional(false)), undecided(open)),
        }
    } else {
        let signal = record.last_attempt();
        (signal, signal.map_or("there was no attempt: Envoy answered by itself", meaning))
    };
    let retry = own.retry.as_ref().map(|retry| (retry, request(retry, record)));
    let plan = retry.map(|(retry, request)| Plan::of(retry, &request));
    let class = retry.map(|(_, request)| Class::of(&request)).or(Some(Class::Off));
    let retries = record.attempts.saturating_sub(1);
    let place = place(policy, cluster, *position);

    let (verdict, why, settings) = if let Some(told) = logged(record) {
        let (why, settings) = match told {
            Told::CircuitOpen => {
                ("the cluster's circuit was open: it was answered at once, and not sent".to_owned(), vec![circuit(own)])
            }
            Told::UnsafeRetry => (
                "a route's own policy wanted to repeat what may have been processed, and guard stopped it".to_owned(),
                vec![method(own), "Envoy: retry_on of the route's retry_policy".to_owned()],
            ),
            Told::BudgetExhausted => of_reason(Reason::Budget, own),
            Told::Pushback => of_reason(Reason::Pushback, own),
            Told::NotRetried(reason) => of_reason(reason, own),
        };
        (format!("{} (in the log)", told.name()), why, settings)
    } else if let (Some(signal), Some(retry), Some(plan)) = (signal, &own.retry, plan)
        && (signal.is_failure() && signal != Signal::Truncated || signal == Signal::Answered)
        && !record.flags.any(Flags::OVERFLOW)
        && plan.permits(retry, signal, &record.answer())
        && retries < retry.max_retries
        && !record.used_up
        && (signal != Signal::Timeout || record.is_attempt || end.attempt_timeout())
    {
        let so_far = if retries > 0 {
            format!(", of which {} happened", count(retries.into(), "retry").replace("retrys", "retries"))
        } else {
            String::new()
        };
        let why =
            format!("Weir retries it up to {} times{so_far}, on another host, if the budget pays", retry.max_retries);
        ("retry".to_owned(), why, vec![max_retries(retry), decides(signal, plan, own), budget(retry)])
    } else if record.used_up {
        let why = "Envoy had retried it as often as the route's own policy or Weir let it (URX)".to_owned();
        let own = own.retry.as_ref().map_or("retry: off".to_owned(), max_retries);
        let verdict = Reason::UsedUp.verdict().to_owned();
        (verdict, why, vec![own, "Envoy: num_retries of the route's retry_policy".to_owned()])
    } else if let Some(reason) = reason(own, record, plan, signal, retries) {
        let (why, settings) = of_reason(reason, own);
        (reason.verdict().to_owned(), why, settings)
    } else {
        let why = match signal {
            Some(Signal::Cancelled) => "the client no longer wanted it".to_owned(),
            Some(Signal::Closed) => "a stream that was answered came to its end".to_owned(),
            _ if retries > 0 => format!("it was answered, after {}", retried(retries)),
            Some(Signal::Answered) => "it was answered: there is nothing to retry".to_owned(),
            _ => "Weir has nothing to do with it".to_owned(),
        };
        ("-".to_owned(), why, Vec::new())
    };
    let settings = settings
        .into_iter()
        .map(|text| if text.starts_with("Envoy") { text } else { format!("{text}{}", place(&text)) });
    Explained {
        what: described(record, cluster),
        signal,
        because,
        class: signal.filter(|signal| signal.is_failure()).and(class),
        verdict,
        why,
        settings: settings.collect(),
    }
}

fn request(policy: &RetryPolicy, record: &Record) -> Request {
    let repeatable = record.key || policy.is_idempotent(record.method.as_bytes());
    Request { repeatable, grpc: record.grpc, attempt: 1 }
}

fn attempt(record: &Record) -> Attempt<'_> {
    Attempt { flags: record.flags, answer: record.answer(), failure_reason: record.failure.as_bytes() }
}

fn retried(retries: u32) -> String {
    if retries == 1 { "one retry".to_owned() } else { format!("{retries} retries") }
}

/// What Weir itself said of it, if the log has that.
fn logged(record: &Record) -> Option<Told> {
    let name = &*record.verdict;
    let fixed = [Told::CircuitOpen, Told::UnsafeRetry, Told::BudgetExhausted, Told::Pushback];
    let reasons = Reason::ALL.into_iter().map(Told::NotRetried);
    fixed.into_iter().chain(reasons).find(|told| told.name() == name)
}

fn reason(
    own: &ClusterPolicy,
    record: &Record,
    plan: Option<Plan>,
    signal: Option<Signal>,
    retries: u32,
) -> Option<Reason> {
    let end = record.request_end();
    let failed =
        Failed { end: &end, plan, already_retried: false, grpc: record.grpc, retries, denied: false, shadow: false };
    let reason = Reason::of(own.retry.as_ref(), &failed);
    if !record.is_attempt && !end.details.is_empty() {
        return reason;
    }
    // Without details, or of one attempt, the end of the request is unknown, and the attempt's own must do.
    let (signal, retry, plan) = (signal?, own.retry.as_ref(), plan);
    let (Some(retry), Some(plan)) = (retry.filter(|retry| retry.max_retries > 0), plan) else {
        return signal.is_failure().then_some(Reason::Off);
    };
    match signal {
        Signal::Pushback => Some(Reason::Pushback),
        Signal::Local => Some(Reason::Limit),
        signal if !signal.is_failure() => None,
        _ if retries >= retry.max_retries => Some(Reason::UsedUp),
        Signal::Truncated => Some(Reason::Begun),
        Signal::Error => Some(Reason::Status),
        Signal::Timeout if plan.permits(retry, signal, &record.answer()) => Some(Reason::NoTime),
        _ => Some(Reason::Method),
    }
}
