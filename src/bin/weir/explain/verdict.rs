//! Whether what a line tells of is retried, why, and which settings decide that.

use weir::config::{ClusterPolicy, RetryPolicy};
use weir::engine::decision::Verdict as Told;
use weir::retry::Plan;
use weir::retry::reason::{Failed, Reason};
use weir::signal::{Flags, Signal};

use super::request;
use super::settings::{budget, circuit, decides, max_retries, method, of_reason};
use crate::check::words::count;
use crate::replay::record::Record;

/// What becomes of a request or an attempt.
pub(super) struct Judged {
    pub verdict: String,
    pub why: String,
    /// The settings that decide it.
    pub settings: Vec<String>,
}

/// Judges a line: by what Weir itself said in it, or else by what Weir would have done.
pub(super) fn judge(own: &ClusterPolicy, record: &Record, signal: Option<Signal>) -> Judged {
    let plan = own.retry.as_ref().map(|retry| Plan::of(retry, &request(retry, record)));
    if let Some(told) = logged(record) {
        in_log(told, own)
    } else if let (Some(signal), Some(retry), Some(plan)) = (signal, &own.retry, plan)
        && is_retried(retry, plan, record, signal)
    {
        let settings = vec![max_retries(retry), decides(signal, plan, own), budget(retry)];
        Judged { verdict: "retry".to_owned(), why: retries_left(retry, record), settings }
    } else if record.used_up {
        used_up(own)
    } else if let Some(reason) = reason(own, record, plan, signal) {
        let (why, settings) = of_reason(reason, own);
        Judged { verdict: reason.verdict().to_owned(), why, settings }
    } else {
        let why = nothing_to_retry(signal, retries(record));
        Judged { verdict: "-".to_owned(), why, settings: Vec::new() }
    }
}

/// Returns how often the request was retried, as far as the line says.
fn retries(record: &Record) -> u32 {
    record.attempts.saturating_sub(1)
}

/// Returns what Weir itself said of it, if the log has that.
fn logged(record: &Record) -> Option<Told> {
    let name = &*record.verdict;
    let fixed = [Told::CircuitOpen, Told::UnsafeRetry, Told::BudgetExhausted, Told::Pushback];
    let reasons = Reason::ALL.into_iter().map(Told::NotRetried);
    fixed.into_iter().chain(reasons).find(|told| told.name() == name)
}

/// Explains the verdict that is in the log.
fn in_log(told: Told, own: &ClusterPolicy) -> Judged {
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
    Judged { verdict: format!("{} (in the log)", told.name()), why, settings }
}

/// Returns whether Weir has Envoy retry it, if the budget pays.
fn is_retried(retry: &RetryPolicy, plan: Plan, record: &Record, signal: Signal) -> bool {
    // What broke off after its headers has reached the client; what was answered may have a status that is retried.
    let may_be = signal.is_failure() && signal != Signal::Truncated || signal == Signal::Answered;
    let in_time = signal != Signal::Timeout || record.is_attempt || record.request_end().attempt_timeout();
    let often_enough = record.used_up || retries(record) >= retry.max_retries;
    let limited = record.flags.any(Flags::OVERFLOW);
    may_be && in_time && !often_enough && !limited && plan.permits(retry, signal, &record.answer())
}

/// Says how often what is retried may be retried, and how often it was.
fn retries_left(retry: &RetryPolicy, record: &Record) -> String {
    let so_far = match retries(record) {
        0 => String::new(),
        retries => {
            format!(", of which {} happened", count(retries.into(), "retry").replace("retrys", "retries"))
        }
    };
    format!("Weir retries it up to {} times{so_far}, on another host, if the budget pays", retry.max_retries)
}

/// Explains that no retry was left, which Envoy's flags say.
fn used_up(own: &ClusterPolicy) -> Judged {
    let retries = own.retry.as_ref().map_or("retry: off".to_owned(), max_retries);
    Judged {
        verdict: Reason::UsedUp.verdict().to_owned(),
        why: "Envoy had retried it as often as the route's own policy or Weir let it (URX)".to_owned(),
        settings: vec![retries, "Envoy: num_retries of the route's retry_policy".to_owned()],
    }
}

/// Returns the reason why it is not retried, or `None` if it was no failure.
fn reason(own: &ClusterPolicy, record: &Record, plan: Option<Plan>, signal: Option<Signal>) -> Option<Reason> {
    let (end, retries) = (record.request_end(), retries(record));
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

/// Says why there was nothing to retry.
fn nothing_to_retry(signal: Option<Signal>, retries: u32) -> String {
    match (signal, retries) {
        (Some(Signal::Cancelled), _) => "the client no longer wanted it".to_owned(),
        (Some(Signal::Closed), _) => "a stream that was answered came to its end".to_owned(),
        (_, 1) => "it was answered, after one retry".to_owned(),
        (_, 2..) => format!("it was answered, after {retries} retries"),
        (Some(Signal::Answered), 0) => "it was answered: there is nothing to retry".to_owned(),
        _ => "Weir has nothing to do with it".to_owned(),
    }
}
